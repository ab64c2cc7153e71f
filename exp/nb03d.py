"""Bookkeeping: means that wait, chance that comes back

In the end you have the two things that a training keeps on the side: means of losses and metrics that are right and cost next to nothing, and the state of all random numbers, so that looking at a model changes nothing.
"""

# cell d1b82cae a6284e · Imports
from __future__ import annotations

# generated from nbs/03d_bookkeeping.ipynb: do not edit
__all__ = [
    "Column",
    "DeferredMeans",
    "pool_sums",
    "random_state",
    "set_random_state",
]

# cell d1b82cae 2ec964 · Imports
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


# cell c3d4c311 bddd58 · What a mean costs
_NOTHING = torch.empty(0, dtype=torch.float64)


# cell 0bf63d87 9ebab2 · What a mean costs
class Column:
    """A column of numbers that come one at a time, and are read when somebody asks."""

    def __init__(self) -> None:
        self._loose: list[Tensor | float] = []  # the last ones
        self._pieces: list[Tensor] = []  # before them, a hundred each, on their device
        self._known = _NOTHING  # and all that has been read

    def append(self, number: Tensor | float) -> None:
        """Take in a number, or a tensor of one; this waits for nothing."""
        if isinstance(number, Tensor) and (number.requires_grad or number.ndim):
            number = _one_number(number) if number.ndim else number.detach()
        self._loose.append(number)
        if len(self._loose) == 100:
            self._join()

    def read(self) -> Tensor:
        """Give all numbers, in float64 on the CPU; this waits for a GPU. Shape: -> (N,)."""
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


# cell 3c6f73fc d15ea5 · What a mean costs
def _one_number(x: Tensor) -> Tensor:
    """Take away the axes of a tensor of one number, and cut it off its history."""
    if x.numel() != 1:
        raise ValueError(f"one number a batch is needed, got a tensor of shape {tuple(x.shape)}; "
                         "take its mean")
    return x.detach().reshape(())


# cell 6a2466a8 dbb891 · What a mean costs
class DeferredMeans:
    """Means over all items, of numbers that each batch gives as its own mean."""

    def __init__(self, names: Iterable[str]):
        self.items, self.columns = Column(), {name: Column() for name in names}

    def add(self, items: int, means: Sequence[Tensor | float]) -> None:
        """Take in the means of one batch, in the order of the names; this waits for nothing."""
        if len(means) != len(self.columns):
            raise ValueError(f"expected a number for each of {list(self.columns)}, got {means}")
        for column, mean in zip(self.columns.values(), means, strict=True):
            column.append(mean)
        self.items.append(items)

    def sums(self) -> Tensor:
        """Add up the items, and each number times the items. Shape: -> (1 + names,)."""
        items = self.items.read()
        weighted = [(items * column.read()).sum() for column in self.columns.values()]
        return torch.stack([items.sum(), *weighted])

    def means(self) -> dict[str, float]:
        """Give each mean by its name, {} before the first batch; this waits for a GPU."""
        items, *sums = self.sums().tolist()
        pairs = zip(self.columns, sums, strict=True)
        return {name: value / items for name, value in pairs} if items else {}

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint must hold."""
        columns = {name: column.read() for name, column in self.columns.items()}
        return {"items": self.items.read(), "columns": columns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises: ValueError if it is of other numbers."""
        if list(state["columns"]) != list(self.columns):
            raise ValueError(f"the state is of {list(state['columns'])}, not {list(self.columns)}")
        self.items.load(state["items"])
        for name, column in self.columns.items():
            column.load(state["columns"][name])


# cell 52998510 431020 · What a mean costs
def pool_sums(means: DeferredMeans, change: Callable[[Tensor], Tensor]) -> None:
    """Let `change` make other sums of these means' sums, such as those over several processes."""
    if len(means.items.read()):
        items, *sums = change(means.sums()).cpu()
        means.items.load(items[None])  # from now on like one batch of all the items
        for column, value in zip(means.columns.values(), sums, strict=True):
            column.load(value[None] / items)


# cell e4102617 5b936e · Chance
def _generators(loaders: Iterable[Any]) -> list[torch.Generator]:
    """Find the generators that loaders, their samplers and their data sets hold, each once."""
    found: dict[int, Any] = {}
    parts = list(loaders)
    while parts:
        part = parts.pop(0)
        if id(part) not in found:
            found[id(part)] = part
            parts += [held for name, held in getattr(part, "__dict__", {}).items()
                      if isinstance(held, torch.Generator)
                      or name in ("sampler", "batch_sampler", "dataset")]
    return [part for part in found.values() if isinstance(part, torch.Generator)]


# cell 7829fe11 4f885c · Chance
def random_state(loaders: Iterable[Any] = ()) -> dict[str, Any]:
    """Copy the state of all random numbers: Python's, NumPy's, torch's, CUDA's, the loaders'."""
    state = {"python": random.getstate(), "torch": torch.get_rng_state(),
             "loaders": [generator.get_state() for generator in _generators(loaders)]}
    if numpy := sys.modules.get("numpy"):
        state["numpy"] = numpy.random.get_state()
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


# cell 44da53b1 0ea950 · Chance
def set_random_state(state: Mapping[str, Any], loaders: Iterable[Any] = ()) -> None:
    """Put all random numbers back to where `random_state` saw them.

    Those of GPUs only where there are as many as then.
    Raises: ValueError if the loaders hold another number of generators.
    """
    generators = _generators(loaders)
    if len(generators) != len(state["loaders"]):
        raise ValueError(f"the loaders hold {len(generators)} generators, the state is of "
                         f"{len(state['loaders'])}; build them as they were built then")
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    for generator, saved in zip(generators, state["loaders"], strict=True):
        generator.set_state(saved)
    if "numpy" in state and (numpy := sys.modules.get("numpy")):
        numpy.random.set_state(state["numpy"])
    if "cuda" in state and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
