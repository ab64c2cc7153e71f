"""Batches and data loaders

By the end you will know why the order of the data can decide whether a model learns anything, and have a `DataLoader` with PyTorch's interface, and PyTorch's order under a seed, that serves data in memory several times as fast.
"""

# cell 9fa783ae a6284e · Batches and data loaders
from __future__ import annotations

# generated from nbs/03b_data_loaders.ipynb: do not edit · d71be8
__all__ = [
    "Dataset",
    "TensorDataset",
    "Sampler",
    "SequentialSampler",
    "RandomSampler",
    "BatchSampler",
    "collate",
    "tensor_batches",
    "fetch_batch",
    "DataLoader",
    "FirstBatches",
    "DataLoaders",
    "set_epoch",
]
__dir__ = __all__.copy  # what completion offers

# cell 9fa783ae 3dbd91 · Batches and data loaders
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Any

import torch
from torch import Tensor

from exp.nb03a import (  # noqa: F401  the generators' functions are also looked for here
    check_whole_number,
    check_worker_options,
    common_kind,
    counted,
    draw_seed,
    generator_state,
    held_generators,
    loader_length,
    random_kept,
    read_batch,
    set_generator_state,
    worker_batches,
)


# cell 320fa11f 4ba325 · A data set
class Dataset(ABC):
    """A data set answers two questions: how many samples it has, and what sample `index` is."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: Any) -> Any: ...


# cell 84a39367 1017e1 · A data set
class TensorDataset(Dataset):
    """A data set of tensors whose first axis counts the samples; a sample is a tuple of rows.

    Arrays of NumPy become tensors, which share their memory where that is possible.
    Shape: tensors (N, …); sample i is a tuple of (…).
    Raises: ValueError without tensors, or if their first axes differ in length; TypeError for
        anything that is neither a tensor nor an array of numbers.
    """

    def __init__(self, *tensors: Any):
        for place, t in enumerate(tensors):
            if not (isinstance(t, Tensor) or hasattr(t, "__array__")):
                raise TypeError(f"a TensorDataset holds tensors or arrays, got a "
                                f"{type(t).__name__} in place {place}: turn it into one first, "
                                "with torch.tensor")
        tensors = tuple(_as_tensor(t) for t in tensors)
        if not tensors or any(t.ndim == 0 or len(t) != len(tensors[0]) for t in tensors):
            raise ValueError("tensors need first axes of one length, got shapes "
                             f"{[tuple(t.shape) for t in tensors]}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)


# cell 9eae8808 0ff9a6 · A data set
def _as_tensor(number: Any) -> Tensor:
    """Turn an array or a number into a tensor; a float of Python's becomes a float64."""
    if isinstance(number, Tensor):
        return number
    if not hasattr(number, "__array__"):
        return torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else None)
    array = number.__array__()
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(step < 0 for step in array.strides):
        array = array.copy()
    return torch.as_tensor(array)


# cell f79ef08b 70cf1e · An order
class Sampler(ABC):
    """An order of reading: `indices` returns it as one tensor, `blocks` yields it in pieces.

    Shape: indices (n,); blocks (size,), the last one shorter.
    """

    @abstractmethod
    def indices(self) -> Tensor: ...

    @abstractmethod
    def __len__(self) -> int: ...

    def blocks(self, size: int) -> Iterator[Tensor]:
        yield from self.indices().split(size)

    def __iter__(self) -> Iterator[int]:
        for block in self.blocks(max(1, len(self))):
            yield from block.tolist()


# cell a6a9c524 230f03 · An order
class SequentialSampler(Sampler):
    """Read the samples in the order in which they are stored."""

    def __init__(self, data_source: Any):
        self.data_source = data_source

    def __len__(self) -> int:
        return len(self.data_source)

    def indices(self) -> Tensor:
        return torch.arange(len(self))


# cell 3a906a13 1e07e3 · An order
class RandomSampler(SequentialSampler):
    """Read every sample once, in a new random order each time.

    Differs: cannot draw with replacement.
    """

    def __init__(self, data_source: Any, generator: torch.Generator | None = None):
        super().__init__(data_source)
        self.generator = generator

    def indices(self) -> Tensor:
        generator = self.generator or torch.Generator().manual_seed(draw_seed(None))
        return torch.randperm(len(self), generator=generator)

    def blocks(self, size: int) -> Iterator[Tensor]:
        yield from super().blocks(size)
        if self.generator is not None:
            self.indices()  # unused, but PyTorch draws it, and the next epoch depends on it


# cell bec40226 885bf3 · An order
class BatchSampler:
    """Cut an order into lists of `batch_size`; a shorter last one is kept, unless `drop_last`.

    Raises: ValueError unless batch_size is a whole number of at least 1.
    """

    def __init__(self, sampler: Iterable[Any], batch_size: int, drop_last: bool = False):
        check_whole_number("batch_size", batch_size)
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[Any]]:
        order = iter(self.sampler)
        while batch := list(islice(order, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch


# cell 6cce584d 6863b7 · From samples to a batch
def collate(samples: Sequence[Any]) -> Any:
    """Stack samples along a new first axis; tuples, lists and dicts part by part.

    Shape: B tensors, arrays or numbers (…) -> (B, …); whole numbers become int64, and float64 if
        there is a float among them.
    Raises: TypeError for samples that cannot be stacked; ValueError if samples differ in their
        parts, or there are none; RuntimeError if they differ in shape.
    Differs: the dtype does not depend on which sample comes first. Dicts with different keys are
        an error, where PyTorch goes by the first one's keys; any kind of dict becomes a plain one.
    """
    if len(samples) == 0:
        raise ValueError("a batch of no samples; does the batch_sampler yield an empty list?")
    first, kind = samples[0], common_kind(samples)
    if kind == "tensor":
        return torch.stack(list(samples))
    if kind == "text":
        return samples
    if kind == "number":
        some_float = any(isinstance(sample, float) for sample in samples)
        return torch.tensor(samples, dtype=torch.float64 if some_float else None)
    if kind == "array":
        return torch.stack([_as_tensor(sample) for sample in samples])
    if kind == "dict":
        if any(sample.keys() != first.keys() for sample in samples):
            raise ValueError(f"samples have different keys: {[sorted(s) for s in samples]}")
        return {key: _collate_part(key, [sample[key] for sample in samples]) for key in first}
    if any(len(sample) != len(first) for sample in samples):
        raise ValueError(f"samples have different lengths: {[len(s) for s in samples]}; "
                         "pad them to one length, or pass a collate_fn that does")
    parts = [_collate_part(i, part) for i, part in enumerate(zip(*samples, strict=True))]
    return type(first)(*parts) if hasattr(first, "_fields") else parts


def _collate_part(name: Any, samples: Sequence[Any]) -> Any:
    """Collate one part of each sample; an error says which part it was."""
    try:
        return collate(samples)
    except Exception as error:
        error.add_note(f"in part {name!r} of each sample")
        raise


# cell 91172554 7f8aed · The fast path
def tensor_batches(dataset: TensorDataset, order: BatchSampler,
                   block_bytes: int = 2**18) -> Iterator[list[Tensor]]:
    """Take the rows of many batches at once, in the sampler's order, and hand out slices.

    Shape: tensors (N, …) -> lists of (B, …), on the device of each tensor.
    """
    row = sum(t.element_size() * prod(t.shape[1:]) for t in dataset.tensors)
    size, sampler = order.batch_size, order.sampler
    many = size * max(1, block_bytes // max(1, row * size))  # whole batches
    for block in sampler.blocks(many) if isinstance(sampler, Sampler) else map(torch.tensor, order):
        if order.drop_last:
            block = block[:len(block) // size * size]
        rows = _rows(dataset, block)
        if len(block) > size:
            yield from map(list, zip(*(t.unsafe_split(size) for t in rows), strict=True))
        elif len(block):
            yield rows


# cell f5eef90f 84f269 · The fast path
def _rows(dataset: TensorDataset, indices: Tensor) -> list[Tensor]:
    return [t.index_select(0, indices.to(t.device)) for t in dataset.tensors]


def _in_tensors(dataset: Any, collate_fn: Callable) -> bool:
    """Return whether a batch is nothing but rows of tensors that require no gradient."""
    return (type(dataset) is TensorDataset and collate_fn is collate
            and not any(t.requires_grad for t in dataset.tensors))


# cell 59d1a50f c0a275 · The fast path
def fetch_batch(dataset: Any, indices: Sequence[Any], collate_fn: Callable) -> Any:
    """Make one batch: take rows if the data is in tensors, else read the samples and collate."""
    if _in_tensors(dataset, collate_fn):
        return _rows(dataset, torch.as_tensor(indices))
    return read_batch(dataset, indices, collate_fn)


# cell 7b7c8092 fa32e5 · The DataLoader
class DataLoader:
    """Serve a data set in batches: in order or shuffled, with or without worker processes.

    A `TensorDataset` with the default `collate_fn` is served in whole batches. `drop_last` leaves
    out a last batch that is shorter than the others. Each epoch, workers start their random numbers
    from a new seed, the generators that the data set holds included, and call
    `worker_init_fn(number)`.
    Raises: TypeError if the data set has no length or no items; ValueError for arguments that
        make no sense, alone or together.
    Differs: no iterable data sets, no `batch_size=None`, `pin_memory` or `persistent_workers`. A
        worker that is alive but silent is only noticed with a `timeout`.
    """

    def __init__(self, dataset: Any, batch_size: int = 1, shuffle: bool = False,
                 sampler: Iterable[Any] | None = None,
                 batch_sampler: Iterable[Sequence[Any]] | None = None, num_workers: int = 0,
                 collate_fn: Callable[[list], Any] = collate, drop_last: bool = False,
                 timeout: float = 0, multiprocessing_context: Any = None,
                 generator: torch.Generator | None = None, prefetch_factor: int = 2,
                 worker_init_fn: Callable[[int], Any] | None = None):
        _check_order(dataset, batch_size, shuffle, sampler, batch_sampler, drop_last)
        check_worker_options(num_workers, multiprocessing_context, prefetch_factor, timeout,
                             worker_init_fn)
        if sampler is None:
            sampler = RandomSampler(dataset, generator) if shuffle else SequentialSampler(dataset)
        if batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.dataset, self.sampler, self.batch_sampler = dataset, sampler, batch_sampler
        self.batch_size = getattr(batch_sampler, "batch_size", None)  # None: batches of any size
        self.drop_last, self.collate_fn = drop_last, collate_fn
        self.generator, self.num_workers = generator, num_workers
        self.worker_options = (num_workers, multiprocessing_context, prefetch_factor, timeout,
                               worker_init_fn)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __repr__(self) -> str:
        shuffled = ", shuffled" if isinstance(self.sampler, RandomSampler) else ""
        workers = f", num_workers={self.num_workers}" if self.num_workers else ""
        return f"DataLoader({_sizes(self)}{shuffled}{workers})"

    def __iter__(self) -> Iterator[Any]:
        dataset, order, collate_fn = self.dataset, self.batch_sampler, self.collate_fn
        seed = draw_seed(self.generator)
        if self.num_workers:
            batches = worker_batches(dataset, order, collate_fn, seed, *self.worker_options,
                                     fetch=fetch_batch)
        elif type(order) is BatchSampler and _in_tensors(dataset, collate_fn):
            batches = tensor_batches(dataset, order)
        else:
            batches = (fetch_batch(dataset, chosen, collate_fn) for chosen in order)
        order = order.sampler if type(order) is BatchSampler else order
        if type(order) in (SequentialSampler, RandomSampler):  # they count correctly
            return batches
        return counted(batches, loader_length(self), type(order).__name__)


# cell d5be80da 308a03 · The DataLoader
def _check_order(dataset: Any, batch_size: int, shuffle: bool, sampler: Any, batch_sampler: Any,
                 drop_last: bool) -> None:
    """Refuse a data set that cannot be indexed, and two orders at once."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(f"a data set needs __len__ and __getitem__, {type(dataset).__name__} has "
                        "not both; put what can only be iterated into a list first")
    if sampler is not None and shuffle:
        raise ValueError("a sampler is an order of its own: leave out shuffle, or the sampler")
    alone = (batch_size, shuffle, sampler, drop_last) == (1, False, None, False)
    if batch_sampler is not None and not alone:
        raise ValueError("a batch_sampler makes whole batches: leave out batch_size, shuffle, "
                         "sampler and drop_last")


# cell 6cca5357 730c81 · The DataLoader
def _sizes(loader: Any) -> str:
    """Describe a loader in words: samples, batches, batch size, as far as they are known."""
    if loader is None:
        return "none"
    samples, batches = loader_length(getattr(loader, "dataset", None)), loader_length(loader)
    size = getattr(loader, "batch_size", None)
    words = [f"{samples:,} samples in" if samples is not None else "",
             f"{batches:,}" if batches is not None else "", "batch" if batches == 1 else "batches",
             f"of {size}" if size is not None else ""]
    return " ".join(word for word in words if word)


# cell 8a83c066 6e14d6 · Two loaders for a training
class FirstBatches:
    """A loader of the first `n` batches of another one; also an epoch of an endless one.

    Its length is `n`, or that of the other loader if it is shorter.
    Raises: ValueError unless n is a whole number of at least 1, and at the end if a loader without
        a length yields fewer than `n` batches.
    """

    def __init__(self, loader: Iterable[Any], n: int):
        check_whole_number("n", n)
        self.loader, self.n = loader, n

    def __len__(self) -> int:
        length = loader_length(self.loader)
        return self.n if length is None else min(self.n, length)

    def __iter__(self) -> Iterator[Any]:
        count = 0
        for batch in islice(self.loader, self.n):
            count += 1
            yield batch
        if count < len(self) and loader_length(self.loader) is None:
            raise ValueError(f"FirstBatches was to yield {self.n} batches, but the loader has only "
                             f"{count}: ask for fewer")

    def __repr__(self) -> str:
        return f"FirstBatches({self.loader!r}, {self.n})"


# cell 6299c282 9be1cb · Two loaders for a training
@dataclass(frozen=True)
class DataLoaders:
    """The two loaders of a training: `train` to learn from, `valid` to check on, or None."""

    train: Iterable[Any]
    valid: Iterable[Any] | None = None

    @classmethod
    def from_datasets(cls, train: Any, valid: Any = None, batch_size: int = 64,
                      drop_last: bool = False, **options: Any) -> DataLoaders:
        """Shuffle the training set; read all of the validation set, in batches twice as large.

        Without a validation set, `valid` is None. The options are those of `DataLoader`.
        Raises: ValueError if a set is empty, or if `drop_last` leaves no batch to train on.
        """
        loader = DataLoader(train, batch_size, shuffle=True, drop_last=drop_last, **options)
        if len(loader) == 0:
            raise ValueError(f"no batch to train on: the training set has {len(train)} samples" + (
                f", and drop_last leaves out a batch of fewer than {batch_size}" if len(train)
                else ""))
        if valid is None:
            return cls(loader, None)
        valid_loader = DataLoader(valid, 2 * batch_size, **options)
        if len(valid) == 0:
            raise ValueError("the validation set is empty; to train without one, pass valid=None")
        return cls(loader, valid_loader)

    def first(self, n: int) -> DataLoaders:
        """Return loaders of the first `n` batches of each, to try a training out."""
        return DataLoaders(*(None if loader is None else FirstBatches(loader, n)
                             for loader in (self.train, self.valid)))

    def one_batch(self) -> DataLoaders:
        """Return the first training batch, fixed, as both loaders, to overfit on purpose.

        Afterwards all random generators are in the state they were in before.
        Raises: ValueError if the training loader yields no batch.
        """
        with random_kept([self.train]):
            batches = list(FirstBatches(self.train, 1))
        if not batches:
            raise ValueError("the training loader yields no batch: is its data set empty, or "
                             "smaller than a batch with drop_last?")
        return DataLoaders(batches, batches)

    def __repr__(self) -> str:
        return f"DataLoaders(train: {_sizes(self.train)}; valid: {_sizes(self.valid)})"


# cell 10f0477b 4f8377 · Two loaders for a training
def set_epoch(loader: Any, epoch: int) -> None:
    """Call `set_epoch(epoch)` on every part of a loader that has this method; epochs count from 0.

    The parts are the loader itself, its sampler, batch sampler and data set, and their parts.
    """
    parts = {id(loader): loader}
    for _ in range(4):  # from FirstBatches to DataLoader, BatchSampler, Sampler, Dataset
        found = [getattr(part, name, None) for part in parts.values()
                 for name in ("loader", "batch_sampler", "sampler", "dataset")]
        parts |= {id(part): part for part in found}
    for part in parts.values():
        if callable(tell := getattr(part, "set_epoch", None)):
            tell(epoch)
