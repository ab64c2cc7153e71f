"""Bookkeeping: random numbers, modes and means

By the end you will be able to look at a model in the middle of its training without changing a single bit of the result, and you will have the running means that the training loop of this book keeps of its losses and metrics.
"""

# cell d1b82cae a6284e · Bookkeeping: random numbers, modes and means
from __future__ import annotations

# generated from nbs/03d_bookkeeping.ipynb: do not edit · d74591
__all__ = [
    "random_state",
    "set_random_state",
    "seed_everything",
    "evaluating",
    "set_training",
    "Column",
    "DeferredMeans",
    "pool_sums",
    "map_tensors",
    "count_items",
    "join_batches",
    "first_batch",
    "check_counts",
    "has_joined",
    "process_rank",
    "gather_objects",
    "is_first_process",
    "format_table",
    "format_line",
    "format_html",
]
__dir__ = __all__.copy  # what completion offers

# cell d1b82cae f15d26 · Bookkeeping: random numbers, modes and means
import copy
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03a import (
    check_whole_number,
    generator_state,
    held_generators,
    loader_length,
    random_kept,
    set_generator_state,
)
from exp.nb03c import modes_kept


# cell 7829fe11 9a789f · Write the state down, and put it back
def random_state(loaders: Iterable[Any] = ()) -> dict[str, Any]:
    """Copy the state of all random numbers: Python's, NumPy's, torch's, CUDA's, the loaders'."""
    state = {"python": random.getstate(), "torch": torch.get_rng_state(),
             "loaders": [generator_state(held) for held in held_generators(*loaders)]}
    if numpy := sys.modules.get("numpy"):
        state["numpy"] = numpy.random.get_state()
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


# cell 44da53b1 136c66 · Write the state down, and put it back
def set_random_state(state: Mapping[str, Any], loaders: Iterable[Any] = ()) -> None:
    """Set all random numbers to a state that `random_state` returned.

    Those of GPUs only if there are as many as there were.
    Raises: ValueError if the loaders hold a different number of generators.
    """
    generators = held_generators(*loaders)
    if len(generators) != len(state["loaders"]):
        raise ValueError(f"the loaders hold {len(generators)} generators, the state has "
                         f"{len(state['loaders'])}; build them as they were built before")
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    for generator, saved in zip(generators, state["loaders"], strict=True):
        set_generator_state(generator, saved)
    if "numpy" in state and (numpy := sys.modules.get("numpy")):
        numpy.random.set_state(state["numpy"])
    if "cuda" in state and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


# cell d04e7d01 4b4920 · One seed for everything
def seed_everything(seed: int) -> None:
    """Seed the random numbers of Python, NumPy and PyTorch, on all its devices.

    Generators that loaders and data sets hold for themselves keep their state.
    Raises: ValueError if the seed is not a whole number in 0..2**32 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be a whole number in 0..2**32 - 1, got {seed!r}")
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy := sys.modules.get("numpy"):  # PyTorch imports it, where it is installed
        numpy.random.seed(seed)


# cell f13ebb7b 85627e · Modes
@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluate a model in this block: in eval mode, without gradients; then as it was before.

    `model` may also be a plain function, which has no modes.
    """
    with torch.no_grad():
        if isinstance(model, nn.Module):
            with modes_kept(model):
                model.eval()
                yield
        else:
            yield


# cell c37317cb e7f4bf · Modes
def set_training(model: nn.Module, keep: Iterable[nn.Module] = ()) -> None:
    """Put a model in training mode, except the parts in `keep` and frozen normalisation layers.

    A layer is a frozen normalisation if it has running statistics and only frozen parameters.
    """
    model.train()
    for part in keep:
        part.training = False
    for part in model.modules():
        if part._buffers.get("running_mean") is not None:
            own = [p for p in part._parameters.values() if p is not None]
            if own and not any(p.requires_grad for p in own):
                part.training = False


# cell c3d4c311 bddd58 · Means of an epoch
_NOTHING = torch.empty(0, dtype=torch.float64)


# cell 0bf63d87 c8f615 · Means of an epoch
class Column:
    """A column of numbers that arrive one at a time and are read only when asked for."""

    def __init__(self) -> None:
        self._loose: list[Tensor | float] = []  # the last ones
        self._pieces: list[Tensor] = []  # before them, a hundred each, on their device
        self._known = _NOTHING  # and all that has been read

    def append(self, number: Tensor | float) -> None:
        """Add a number, or a tensor of one; this waits for nothing."""
        if isinstance(number, Tensor):
            number = _one_number(number) if number.ndim else number
            if number.is_cpu:
                number = number.item()  # there is nothing to wait for
            else:  # a copy: it may be updated in place later
                number = number.detach().clone()
        self._loose.append(number)
        if len(self._loose) == 100:
            self._join()

    def read(self) -> Tensor:
        """Return all numbers, in float64 on the CPU; this waits for a GPU. Shape: -> (N,)."""
        if self._loose:
            self._join()
        if self._pieces:
            self._known = torch.cat([self._known, torch.cat(self._pieces).cpu().double()])
            self._pieces = []
        return self._known

    def _join(self) -> None:
        wide = torch.float64
        if any(isinstance(n, Tensor) for n in self._loose):
            piece = torch.stack([n if isinstance(n, Tensor) else torch.tensor(n, dtype=wide)
                                 for n in self._loose])
        else:
            piece = torch.tensor(self._loose, dtype=wide)
        self._pieces.append(piece)
        self._loose = []

    def load(self, numbers: Tensor) -> None:
        """Hold these numbers, and no others."""
        self._loose, self._pieces, self._known = [], [], numbers.cpu().double()


# cell 3c6f73fc c780ab · Means of an epoch
def _one_number(x: Tensor) -> Tensor:
    """Remove the axes of a tensor that holds one number."""
    if x.numel() != 1:
        raise ValueError(f"one number a batch is needed, got a tensor of shape {tuple(x.shape)}; "
                         "take its mean")
    return x.reshape(())


# cell 6a2466a8 4a8b93 · Means of an epoch
class DeferredMeans:
    """Means over an epoch, of numbers that each batch gives as its own mean.

    Those named in `weighted` come with a weight of their own, the others are weighted by items.
    """

    def __init__(self, names: Iterable[str], weighted: Iterable[str] = ()):
        self.items, self.columns = Column(), {name: Column() for name in names}
        self.weights = {name: Column() for name in weighted}

    def add(self, items: int, means: Sequence[Tensor | float],
            weights: Sequence[Tensor | float] = ()) -> None:
        """Add the means of one batch, in the order of the names; this waits for nothing.

        Raises: ValueError for another number of means or weights.
        """
        if len(means) != len(self.columns) or len(weights) != len(self.weights):
            raise ValueError(f"expected a number for each of {list(self.columns)} and a weight for "
                             f"each of {list(self.weights)}, got {means} and {weights}")
        for column, mean in zip(self.columns.values(), means, strict=True):
            column.append(mean)
        for column, weight in zip(self.weights.values(), weights, strict=True):
            column.append(weight)
        self.items.append(items)

    def sums(self) -> Tensor:
        """Sum weights, and numbers times weights, of each name. Shape: -> (2, names)."""
        weights = [self.weights.get(name, self.items).read() for name in self.columns]
        means = [column.read() for column in self.columns.values()]
        pairs = [torch.where(w == 0, 0, w * m).sum() for w, m in zip(weights, means, strict=True)]
        return torch.stack([torch.stack([w.sum() for w in weights]), torch.stack(pairs)])

    def means(self) -> dict[str, float]:
        """Return each mean by its name, {} before the first batch; this waits for a GPU."""
        if not len(self.items.read()):
            return {}
        weights, weighted = self.sums()
        return dict(zip(self.columns, (weighted / weights).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        kept = {part: {name: column.read() for name, column in getattr(self, part).items()}
                for part in ("columns", "weights")}
        return {"items": self.items.read(), **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned. Raises: ValueError if it has other numbers."""
        if list(state["columns"]) != list(self.columns):
            raise ValueError(f"the state has {list(state['columns'])}, not {list(self.columns)}")
        self.items.load(state["items"])
        for part in ("columns", "weights"):
            own = getattr(self, part)
            for name, numbers in state[part].items():
                own.setdefault(name, Column()).load(numbers)


# cell 52998510 97840e · Means of an epoch
def pool_sums(means: DeferredMeans, change: Callable[[Tensor], Tensor]) -> None:
    """Replace these means' sums by what `change` makes of them, such as sums over all processes."""
    if len(means.items.read()):
        weights, weighted = change(means.sums()).cpu()
        for name, weight, value in zip(means.columns, weights, weighted, strict=True):
            means.columns[name].load(value[None] / weight)  # from now on like one large batch
            means.weights.setdefault(name, Column()).load(weight[None])


# cell eb60ea65 25229f · Batches of any structure
def map_tensors(function: Callable[[Tensor], Any], x: Any) -> Any:
    """Apply a function to a tensor, or to all tensors in lists, tuples, dicts and dataclasses.

    Containers keep their type (a read-only mapping becomes a dict), and everything that is not a
    tensor stays as it is. So do the `batch_sizes` of a PackedSequence, which belong on the CPU.
    """
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, list | tuple):
        names = getattr(x, "_fields", ())
        kept = names.index("batch_sizes") if "batch_sizes" in names else None
        parts = [part if i == kept else map_tensors(function, part) for i, part in enumerate(x)]
        return type(x)(*parts) if names else type(x)(parts)
    if isinstance(x, Mapping):
        changed = {key: map_tensors(function, part) for key, part in x.items()}
        if type(x) is dict or not isinstance(x, MutableMapping):
            return changed
        mapped = copy.copy(x)  # a defaultdict, or a dict with attributes, as some models return
        for key, part in changed.items():  # one by one: those of transformers refuse `update`
            mapped[key] = part
        return mapped
    if is_dataclass(x) and not isinstance(x, type):
        parts = {f.name: getattr(x, f.name) for f in fields(x) if f.init}
        return replace(x, **{name: map_tensors(function, part) for name, part in parts.items()})
    return x


# cell d3f7c738 f1e5e4 · Batches of any structure
def count_items(x: Any) -> int:
    """Count the items of a batch: the length of its first tensor, or of a list of dicts; else 0."""
    if isinstance(x, Tensor):
        return x.shape[0] if x.ndim else 0
    if isinstance(x, Mapping):
        return next(filter(None, map(count_items, x.values())), 0)
    if isinstance(x, list | tuple):
        if x and all(isinstance(part, Mapping) for part in x):
            return len(x)
        return next(filter(None, map(count_items, x)), 0)
    return 0


# cell 2d6989e9 8b82d5 · Batches of any structure
def join_batches(parts: Sequence[Any]) -> Any:
    """Concatenate the batches of a prediction or a target, part by part.

    Shape: tensors (B, …) -> (N, …); tensors without axes are stacked; what holds no tensors stays
    a list of batches.
    Raises: ValueError if there is no batch, or if their shapes do not fit together.
    """
    if not parts:
        raise ValueError("there is no batch to join; did a callback cancel all of them?")
    first = parts[0]
    if first is None:
        return None
    if isinstance(first, Mapping):
        joined = {key: join_batches([part[key] for part in parts]) for key in first}
        return type(first)(joined) if type(first) is not dict else joined
    if isinstance(first, list | tuple):
        columns = [join_batches(column) for column in zip(*parts, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)
    if not isinstance(first, Tensor):
        return list(parts)
    if len({part.shape[1:] for part in parts}) > 1:
        raise ValueError(f"batches of shapes {tuple(first.shape)} and others cannot be joined; pad "
                         "them all to one length, or go through the loader batch by batch")
    return torch.cat(list(parts)) if first.ndim else torch.stack(list(parts))


# cell 6916d4d7 f5dc72 · Batches of any structure
def first_batch(loaders: Sequence[Any]) -> Any:
    """Return a batch of the first of these loaders that has one, without moving random numbers.

    None if there is none. An iterator is left alone: what is taken from it would be missing.
    """
    with random_kept(loaders):
        for loader in loaders:
            if not hasattr(loader, "__next__"):
                return next(iter(loader), None)
    return None


# cell 038c2da3 950c6b · Small questions
def check_counts(**counts: Any) -> None:
    """Refuse anything but whole numbers of at least 1. Raises: ValueError that names it."""
    for name, value in counts.items():
        check_whole_number(name, value)


# cell d97534ee 5e3526 · Small questions
def has_joined() -> bool:
    """Return whether this process has joined others through torch.distributed."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def process_rank() -> tuple[int, int]:
    """Return the rank of this process and how many train together; (0, 1) if it is alone.

    As torch.distributed says if they have joined, else as torchrun says in the environment.
    """
    if has_joined():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def gather_objects(x: Any) -> list[Any]:
    """Return what each of the processes that have joined passes here, by rank; alone, [x]."""
    if not has_joined():
        return [x]
    found = [x] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, x)
    return found


def is_first_process() -> bool:
    """Return whether this process may write: of several that train together, only the first."""
    return process_rank()[0] == 0


# cell e5834bdf f09150 · A table of numbers
def _cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    digits = ".1f" if name == "seconds" else ".4f" if abs(value) < 1e4 else ".3e"
    return format(value, digits)


def _table_cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return heading and cells of a table, as text."""
    single = [{n: v for n, v in row.items() if isinstance(v, int | float | str)} for row in rows]
    names = list(dict.fromkeys(name for row in single for name in row))
    names.sort(key=lambda name: name == "seconds")  # the last column
    return [names] + [[_cell(n, row[n]) if n in row else "" for n in names] for row in single]


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the results of several epochs as a table, "" for none."""
    texts = _table_cells(rows)
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = [[t.rjust(w) for t, w in zip(row, widths, strict=True)] for row in texts]
    return "\n".join(map("  ".join, lines)) if rows else ""


def format_line(row: Mapping[str, Any], n_epochs: int | None = None) -> str:
    """Format the results of one epoch as a line that needs no heading."""
    rest = {name: value for name, value in row.items() if name not in ("epoch", "seconds")}
    parts = [f"{name} {_cell(name, value)}" for name, value in rest.items()
             if isinstance(value, int | float | str)]
    end = f"/{n_epochs}" if n_epochs else ""
    return ", ".join([f"epoch {row['epoch']}{end}", *parts, f"{row['seconds']:.1f} s"])


def format_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the results of several epochs as an HTML table, "" for none."""
    heading, *body = _table_cells(rows)
    if not body:
        return ""
    parts = "".join(f"<th>{name}</th>" for name in heading)
    lines = ["".join(f"<td>{text}</td>" for text in row) for row in body]
    return f"<table><thead><tr>{parts}</tr></thead><tbody>" + "".join(
        f"<tr>{line}</tr>" for line in lines) + "</tbody></table>"
