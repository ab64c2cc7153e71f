"""The data block: from files to batches

By the end you will have a `DataBlock` that turns a folder, a table or a list into batches of pictures, labels, points, numbers or words, shows you every step on the way, and reads every tensor back into something you can look at.
"""

# cell 4ab15155 a6284e · The data block: from files to batches
from __future__ import annotations

# generated from nbs/07_data_block.ipynb: do not edit · 3d92ab
__all__ = [
    "BlockPipeline",
    "BlockDataset",
    "BlockLoader",
    "BlockLoaders",
    "DataBlock",
]
__dir__ = __all__.copy  # what completion offers

# cell 4ab15155 1cba05 · The data block: from files to batches
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exp.nb03b import DataLoader, DataLoaders, Dataset
from exp.nb03d import first_batch, map_tensors, random_kept
from exp.nb06d import image_files
from exp.nb06e import (  # noqa: F401  all of these are also looked for here
    Block,
    CategoryBlock,
    MultiCategoryBlock,
    NumberBlock,
    RowBlock,
    TokenBlock,
    Transform,
    find_vocab,
    part_from_state,
    part_state,
)
from exp.nb06f import (  # noqa: F401
    ImageBlock,
    NormalizeImages,
    PointBlock,
    Resize,
    points_in_pixels,
    show_samples,
)
from exp.nb06g import (  # noqa: F401
    BlockDatasets,
    ColumnReader,
    ColumnSplitter,
    FunctionSplitter,
    GrandparentSplitter,
    RandomSplitter,
    check_split,
    describe_value,
    drop_unreadable,
    item_at,
    parent_name,
    run_step,
)


# cell d73ad617 565237 · The pipeline: from values to tensors and back
class BlockPipeline:
    """The blocks and transforms of a `DataBlock`: from values to a batch, and back.

    It holds what was learned from the training set, and nothing of the data itself.
    """

    def __init__(self, blocks: Sequence[Block], n_inputs: int = 1,
                 item_transforms: Sequence[Any] = (), batch_transforms: Sequence[Any] = ()):
        self.blocks, self.n_inputs = list(blocks), n_inputs
        self.item_transforms = self._in_order("item_transforms", item_transforms)
        self.batch_transforms = self._in_order("batch_transforms", batch_transforms)

    def _in_order(self, name: str, given: Sequence[Any]) -> list[Any]:
        """Sort transforms by `order`, the blocks' own first, each kind of these once."""
        own = {type(t): t for block in self.blocks for t in getattr(block, name)}
        of_others = [t for t in given if type(t) not in own]
        return sorted([*own.values(), *of_others], key=lambda t: getattr(t, "order", 50))

    def __repr__(self) -> str:
        return " → ".join(map(repr, [*self.blocks, *self.item_transforms, *self.batch_transforms]))

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(block.kind for block in self.blocks)

    def encode(self, values: Sequence[Any], train: bool = False, watch: Any = None) -> tuple:
        """Turn the values of one sample into tensors, and apply the item transforms."""
        parts = tuple(run_step(f"{type(block).__name__}.encode", block.encode, value, watch,
                               lambda b=block: f"hand it what it reads: {_first_line(b)}")
                      for block, value in zip(self.blocks, values, strict=False))
        return self._transformed(self.item_transforms, parts, train, watch)

    def _transformed(self, transforms: Sequence[Any], parts: tuple, train: bool,
                     watch: Any = None) -> tuple:
        kinds = self.kinds[:len(parts)]
        for transform in transforms:
            parts = run_step(lambda t=transform: repr(t),
                             lambda x, t=transform: t(x, kinds, train), parts, watch)
        return parts

    def collate(self, samples: Sequence[tuple]) -> tuple:
        """Put samples into a batch, part by part, each as its block does it."""
        return tuple(run_step(f"{type(block).__name__}.collate", block.collate, list(column))
                     for block, column in zip(self.blocks, zip(*samples, strict=True),
                                              strict=False))

    def finish(self, batch: tuple, train: bool = False, device: Any = None,
               watch: Any = None) -> tuple:
        """Move a batch to the device, and apply the batch transforms there."""
        if device is not None:
            batch = map_tensors(lambda t: t.to(device, non_blocking=True), tuple(batch))
        return self._transformed(self.batch_transforms, tuple(batch), train, watch)

    def decode(self, batch: Sequence[Any]) -> list[tuple]:
        """Turn a batch back into samples of values."""
        parts, kinds = tuple(batch), self.kinds[:len(batch)]
        for transform in reversed(self.batch_transforms):
            if hasattr(transform, "decode"):
                parts = transform.decode(parts, kinds)
        return [tuple(block.decode(part) for block, part in zip(self.blocks, row, strict=False))
                for row in zip(*parts, strict=True)]

    def decode_predictions(self, outputs: Tensor) -> list[Any]:
        """Turn a model's outputs (N, …) into values of the target."""
        block = self.blocks[-1]
        return [block.decode(block.choose(output)) for output in outputs]

    def loader(self, values: Sequence[Any], batch_size: int = 64, device: Any = None,
               **options: Any) -> BlockLoader:
        """Serve values of the inputs, such as files, as batches to predict for."""
        getters = [_Whole(place, self.n_inputs) for place in range(self.n_inputs)]
        dataset = BlockDataset(values, range(len(values)), getters, self)
        return BlockLoader(dataset, self, False, device, batch_size=batch_size, **options)

    def state_dict(self) -> dict[str, Any]:
        """Return what predicting in another process needs, as valid JSON."""
        return {"n_inputs": self.n_inputs} | {name: [part_state(p) for p in getattr(self, name)]
                for name in ("blocks", "item_transforms", "batch_transforms")}

    @classmethod
    def from_state(cls, state: Mapping[str, Any],
                   trusted: Sequence[str] = ("exp",)) -> BlockPipeline:
        """Rebuild the pipeline that `state_dict` described."""
        parts = {name: [part_from_state(part, trusted) for part in state[name]]
                 for name in ("blocks", "item_transforms", "batch_transforms")}
        return cls(**parts, n_inputs=state["n_inputs"])


def _first_line(block: Block) -> str:
    return (type(block).__doc__ or type(block).__name__).strip().splitlines()[0]


# cell aa878372 2bc1f5 · The data set: items, functions, a pipeline
class _Whole:
    """Take the item itself; of a tuple with as many parts as a sample, the part in this place."""

    def __init__(self, place: int, n_parts: int):
        self.place, self.n_parts = place, n_parts

    def __call__(self, item: Any) -> Any:
        is_sample = type(item) is tuple and len(item) == self.n_parts
        return item[self.place] if is_sample else item


class BlockDataset(Dataset):
    """Samples made on demand: an item of the source, its values, their tensors, transformed."""

    def __init__(self, items: Any, indices: Sequence[int], getters: Sequence[Callable],
                 pipeline: BlockPipeline, train: bool = False, base_path: Any = None):
        self.items, self.indices, self.getters = items, indices, getters
        self.pipeline, self.train = pipeline, train
        self.base_path = None if base_path is None else Path(base_path)

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, index: int) -> Any:
        """Return an item as the source has it."""
        return item_at(self.items, self.indices[index])

    def value(self, place: int, item: Any, watch: Any = None) -> Any:
        """Return one value of an item, as its block reads it."""
        getter, block = self.getters[place], self.pipeline.blocks[place]
        n_inputs = self.pipeline.n_inputs
        name = "get_x" if place < n_inputs else "get_y"
        name += f"[{place % n_inputs}]" if n_inputs > 1 and place < n_inputs else ""
        watch = None if isinstance(getter, _Whole) else watch
        value = run_step(name, getter, item, watch, lambda: (
            f"it is called with an item of the source, here {describe_value(item)}, and returns "
            f"what a {type(block).__name__} reads"))
        if self.base_path is not None and block.kind == "image" and isinstance(value, str | Path):
            return self.base_path / value
        return value

    def sample(self, index: int, watch: Any = None) -> tuple:
        """Make one sample; `watch(step, given, made)` is told of every step."""
        with self._named(index) as item:
            values = [self.value(place, item, watch) for place in range(len(self.getters))]
            return self.pipeline.encode(values, self.train, watch)

    @contextmanager
    def _named(self, index: int) -> Iterator[Any]:
        """Hand out an item; an error in this block says which item it was."""
        item = self.item(index)
        try:
            yield item
        except Exception as error:
            part = "training" if self.train else "validation or test"
            error.add_note(f"item {self.indices[index]} of the source, in the {part} set: "
                           f"{describe_value(item)}")
            raise

    def __getitem__(self, index: int) -> tuple:
        return self.sample(index)

    def values(self, place: int) -> Iterator[Any]:
        """Go through one value of all items, without encoding it."""
        yield from self.each(place, lambda value: value)

    def each(self, place: int, use: Callable[[Any], Any]) -> Iterator[Any]:
        """Use one value of every item; an error says which item it was."""
        for i in range(len(self)):
            with self._named(i) as item:
                yield use(self.value(place, item))


# cell 0f8afa91 9ef393 · Loaders
class BlockLoader(DataLoader):
    """A loader that finishes each batch on a device: moves it there, and transforms it."""

    def __init__(self, dataset: Any, pipeline: BlockPipeline, train: bool = False,
                 device: Any = None, **options: Any):
        super().__init__(dataset, collate_fn=pipeline.collate, **options)
        self.pipeline, self.train, self.device = pipeline, train, device

    def __iter__(self) -> Iterator[tuple]:
        for batch in super().__iter__():
            yield self.pipeline.finish(batch, self.train, self.device)


# cell 8944f36f 157b11 · Loaders
@dataclass(frozen=True, repr=False)
class BlockLoaders(DataLoaders):
    """The loaders of a training, which can show and decode what is in their batches."""

    pipeline: BlockPipeline | None = None

    @property
    def blocks(self) -> list[Block]:
        return self.pipeline.blocks

    @property
    def vocab(self) -> Any:
        """The labels, in the order of their numbers."""
        return find_vocab(self.blocks)

    def decode(self, batch: Sequence[Any]) -> list[tuple]:
        """Turn a batch back into samples of values."""
        return self.pipeline.decode(batch)

    def test_loader(self, items: Any, labelled: bool = False,
                    batch_size: int | None = None) -> BlockLoader:
        """Serve other items, of the source's kind, in order; without targets unless `labelled`."""
        known = self.train.dataset
        getters = known.getters if labelled else known.getters[:self.pipeline.n_inputs]
        dataset = BlockDataset(items, range(len(items)), getters, self.pipeline,
                               base_path=known.base_path)
        return BlockLoader(dataset, self.pipeline, False, self.train.device,
                           batch_size=batch_size or self.train.batch_size)

    def show_batch(self, n: int = 9, valid: bool = False) -> None:
        """Show the first samples of a batch; the random state stays as it was."""
        batch = first_batch([self.valid if valid else self.train])
        show_samples(self.decode([part[:n] for part in batch]), self.blocks,
                     title=f"From a batch to {'validate' if valid else 'train'} on")


# cell 7340dd5c 613fd7 · DataBlock
_A_FIFTH = RandomSplitter(0.2, seed=42)


class DataBlock:
    """How a kind of source becomes batches: its blocks, its functions, its split, its transforms.

    `get_items(source)` lists the items; without it the source itself is taken, or the pictures in
    it if it is a folder. `get_x` and `get_y` turn an item into the values of the blocks, lists of
    functions for several inputs or targets; without both, an item is every value, or a tuple of
    them. `splitter(items)` returns the indices for training and for validation; None trains on
    all. With `skip_unreadable`, every picture is opened once, and those that fail are left out
    with a warning.
    """

    def __init__(self, blocks: Sequence[Block | type[Block]] = (Block, Block),
                 get_items: Callable[[Any], Any] | None = None, get_x: Any = None,
                 get_y: Any = None,
                 splitter: Callable[[Any], Any] | None = _A_FIFTH,
                 item_transforms: Sequence[Any] = (), batch_transforms: Sequence[Any] = (),
                 skip_unreadable: bool = False):
        blocks = [blocks] if isinstance(blocks, Block | type) else list(blocks)
        self.blocks = [block() if isinstance(block, type) else block for block in blocks]
        if not blocks or not all(hasattr(block, "encode") for block in self.blocks):
            raise TypeError(f"blocks must be a sequence of blocks, got {blocks!r:.100}")
        self.get_items, self.splitter = get_items, splitter
        self.getters, self.n_inputs = self._getters(get_x, get_y)
        self.item_transforms, self.batch_transforms = (
            [t] if callable(t) else list(t) for t in (item_transforms, batch_transforms))
        for transform in [*self.item_transforms, *self.batch_transforms]:
            if not callable(transform) or isinstance(transform, type):
                raise TypeError(f"a transform is an object with __call__, got {transform!r:.80}")
        self.skip_unreadable = skip_unreadable

    def _getters(self, get_x: Any, get_y: Any) -> tuple[list[Callable], int]:
        """Return a getter for each block, and how many of the blocks are inputs."""
        n = len(self.blocks)
        xs, ys = (list(g) if isinstance(g, list | tuple) else [g] for g in (get_x, get_y))
        if not isinstance(get_x, list | tuple):
            xs = xs * max(1, n - len(ys)) if get_x is None else xs
        ys = [] if get_y is None and len(xs) == n else ys
        if len(xs) + len(ys) != n:
            raise ValueError(f"{n} blocks need {n} values, got {len(xs)} from get_x and {len(ys)} "
                             "from get_y: pass a list of functions for several")
        for getter in (*xs, *ys):
            if getter is not None and not callable(getter):
                raise TypeError(f"get_x and get_y must be functions of an item, got {getter!r:.80}"
                                "; for a column: ColumnReader(name)")
        parts = n if get_x is None and get_y is None else 0
        return [_Whole(i, parts) if g is None else g for i, g in enumerate([*xs, *ys])], len(xs)

    def items(self, source: Any) -> Any:
        """Return the items of a source, which have a length and can be indexed."""
        if self.get_items is not None:
            items = run_step("get_items", self.get_items, source)
        elif isinstance(source, str | Path):
            items = image_files(source)
        else:
            items = source
        if isinstance(items, Mapping) or not (hasattr(items, "__len__")
                                              and hasattr(items, "__getitem__")):
            raise TypeError(f"items need a length and an index, a {type(items).__name__} has not "
                            "both: put them into a list")
        if len(items) == 0:
            raise ValueError("the source has no items" + (
                ": get_items returned an empty list" if self.get_items else ""))
        return items

    def datasets(self, source: Any, base_path: Any = None) -> BlockDatasets:
        """Split the items and set the blocks up on those of the training set.

        Relative names of pictures are looked up in `base_path`.
        Raises: ValueError for a label of the validation set that the training set does not have.
        """
        items = self.items(source)
        pipeline = BlockPipeline(copy.deepcopy(self.blocks), self.n_inputs,
                                 *copy.deepcopy((self.item_transforms, self.batch_transforms)))
        split = (range(len(items)), ()) if self.splitter is None else check_split(
            run_step("splitter", self.splitter, items), len(items))
        train, valid = (BlockDataset(items, indices, self.getters, pipeline, is_train, base_path)
                        for indices, is_train in zip(split, (True, False), strict=True))
        if self.skip_unreadable:
            drop_unreadable(train, valid)
        for place, block in enumerate(pipeline.blocks):
            if type(block).setup is not Block.setup:
                _set_up(block, place, train, valid)
        return BlockDatasets(train, valid if len(valid) else None, pipeline)

    def loaders(self, source: Any, batch_size: int = 64, num_workers: int = 0,
                device: Any = None, base_path: Any = None, drop_last: bool = False,
                **options: Any) -> BlockLoaders:
        """Make the loaders of a training: shuffled batches, and ordered ones twice as large.

        Batches are moved to `device` and transformed there. The options are those of `DataLoader`.
        """
        sets = self.datasets(source, base_path)
        train = BlockLoader(sets.train, sets.pipeline, True, device, batch_size=batch_size,
                            shuffle=True, num_workers=num_workers, drop_last=drop_last, **options)
        if len(train) == 0:
            raise ValueError(f"no batch to train on: {len(sets.train)} items, and drop_last leaves "
                             f"out a batch of fewer than {batch_size}")
        _set_up_transforms(sets.train)
        valid = sets.valid and BlockLoader(
            sets.valid, sets.pipeline, False, device, batch_size=2 * batch_size,
            num_workers=num_workers, **options)
        return BlockLoaders(train, valid, sets.pipeline)

    def summary(self, source: Any, base_path: Any = None, batch_size: int = 4) -> None:
        """Walk one item and a small batch through every step, and print what each makes of it.

        A step that fails is printed with the item, the types and a remedy; then its error is
        raised.
        """
        try:
            self._walk(source, base_path, batch_size)
        except Exception as error:
            print(f"FAILED: {type(error).__name__}: {error}")
            print(*(f"  {note}" for note in getattr(error, "__notes__", [])), sep="\n")
            raise

    def _walk(self, source: Any, base_path: Any, batch_size: int) -> None:
        def watch(step: str, given: Any, made: Any) -> None:
            print(f"  {step}\n      {describe_value(given)}\n    → {describe_value(made)}")

        print(f"source: {describe_value(source)}")
        sets = self.datasets(source, base_path)
        pipeline, n_valid = sets.pipeline, 0 if sets.valid is None else len(sets.valid)
        print(f"split: {len(sets.train)} items to train on, {n_valid} to validate on")
        print("blocks:", *(f"{block!r:.80}" for block in pipeline.blocks), sep="\n  ")
        print(f"one item: {describe_value(sets.train.item(0))}")
        with random_kept():
            sample = sets.train.sample(0, watch)
            print(f"one sample: {describe_value(sample)}")
            n = min(batch_size, len(sets.train))
            batch = pipeline.collate([sample, *(sets.train[i] for i in range(1, n))])
            print(f"a batch of {n}: {describe_value(batch)}")
            _set_up_transforms(sets.train, n)
            batch = pipeline.finish(batch, True, watch=watch)
        print(f"finished batch: {describe_value(batch)}")


def _set_up(block: Block, place: int, train: BlockDataset, valid: BlockDataset) -> None:
    """Show a block the values of the training set; then see that it knows all labels."""
    try:
        block.setup(list(train.values(place)))
    except Exception:
        list(train.each(place, lambda value: copy.deepcopy(block).setup([value])))  # names it
        raise
    if isinstance(block, CategoryBlock):
        list(valid.each(place, block.encode))


def _set_up_transforms(dataset: BlockDataset, n: int = 512, batch_size: int = 64) -> None:
    """Show some training samples, in batches, to each transform that learns from them."""
    pipeline = dataset.pipeline
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()[:n]
    for place, transform in enumerate(pipeline.batch_transforms):
        if hasattr(transform, "setup"):
            before = pipeline.batch_transforms[:place]
            batches = (pipeline.collate([dataset[i] for i in order[start:start + batch_size]])
                       for start in range(0, len(order), batch_size))
            with random_kept([dataset]):
                transform.setup((pipeline._transformed(before, batch, False) for batch in batches),
                                pipeline.kinds)
