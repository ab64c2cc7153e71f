"""Items and splits: what there is, and what is kept for validation

By the end you will have functions that list the pictures of a folder, read the columns of a table, and split either into a training and a validation set.
"""

# cell 74fd9063 a6284e · Items and splits: what there is, and what is kept for validation
from __future__ import annotations

# generated from nbs/06g_splits.ipynb: do not edit · 518a02
__all__ = [
    "parent_name",
    "ColumnReader",
    "RandomSplitter",
    "FunctionSplitter",
    "ColumnSplitter",
    "GrandparentSplitter",
    "item_at",
    "check_split",
    "describe_value",
    "run_step",
    "BlockDatasets",
    "drop_unreadable",
]
__dir__ = __all__.copy  # what completion offers

# cell 74fd9063 b090ab · Items and splits: what there is, and what is kept for validation
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exp.nb06d import UnreadableImage
from exp.nb06e import find_vocab


# cell fe75f105 8e81b3 · Where a value stands
def parent_name(path: str | Path) -> str:
    """Return the name of the folder that a file lies in: often its label."""
    return Path(path).parent.name


class ColumnReader:
    """Read a column of a table row; optionally put a folder before it, or split it into a list."""

    def __init__(self, column: str, folder: str | Path = "", separator: str | None = None):
        if folder and separator:
            raise ValueError("folder is for a file's name and separator for several labels: "
                             "choose one")
        self.column, self.folder, self.separator = column, str(folder), separator

    def __call__(self, row: Any) -> Any:
        try:
            value = row[self.column]
        except (KeyError, IndexError, TypeError) as error:
            known = [*row.keys()] if hasattr(row, "keys") else type(row).__name__
            raise KeyError(f"no column {self.column!r} in {known}") from error
        if self.separator is not None:
            if not isinstance(value, str):
                return []  # an empty field
            return [part for part in value.split(self.separator) if part]
        return os.path.join(self.folder, value) if self.folder else value

    def __repr__(self) -> str:
        return f"ColumnReader({self.column!r})"


# cell 50fb76f5 a80a17 · Splitters
class RandomSplitter:
    """Choose a share of the items at random for validation; the same ones for the same seed."""

    def __init__(self, valid_share: float = 0.2, seed: int = 42):
        if not 0 < valid_share < 1:
            raise ValueError(f"valid_share must lie between 0 and 1, got {valid_share}")
        self.valid_share, self.seed = valid_share, seed

    def __call__(self, items: Any) -> tuple[list[int], list[int]]:
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(items), generator=generator).tolist()
        n_valid = round(len(items) * self.valid_share)
        return sorted(order[n_valid:]), sorted(order[:n_valid])


class FunctionSplitter:
    """Validate on the items for which a function returns true."""

    def __init__(self, function: Callable[[Any], Any]):
        self.function = function

    def __call__(self, items: Any) -> tuple[list[int], list[int]]:
        chosen = [bool(self.function(item_at(items, i))) for i in range(len(items))]
        return ([i for i, is_valid in enumerate(chosen) if not is_valid],
                [i for i, is_valid in enumerate(chosen) if is_valid])


_WORDS = {"true": True, "1": True, "1.0": True, "valid": True, "false": False, "0": False,
          "0.0": False, "train": False}


class ColumnSplitter(FunctionSplitter):
    """Validate on the rows of a table in which a column is true; texts count by their meaning."""

    def __init__(self, column: str = "is_valid"):
        self.column = column

    def function(self, row: Any) -> bool:
        value = ColumnReader(self.column)(row)
        found = _WORDS.get(str(value).strip().lower())
        if found is None:
            raise ValueError(f"column {self.column!r} must be true or false, got {value!r}")
        return found


class GrandparentSplitter:
    """Split files by the name of the folder two levels up, `train/ants/1.jpg`; leave out others."""

    def __init__(self, train: str = "train", valid: str = "valid"):
        self.train, self.valid = train, valid

    def __call__(self, items: Any) -> tuple[list[int], list[int]]:
        names = [Path(item_at(items, i)).parent.parent.name for i in range(len(items))]
        if missing := [name for name in (self.train, self.valid) if name not in names]:
            raise ValueError(f"no file lies two levels below a folder {missing[0]!r}; the folders "
                             f"there are {sorted(set(names))[:8]}: GrandparentSplitter(train=…, "
                             "valid=…)")
        return tuple([i for i, name in enumerate(names) if name == wanted]
                     for wanted in (self.train, self.valid))


def item_at(items: Any, index: int) -> Any:
    """Return one item of a list or data set, or one row of a DataFrame."""
    return items.iloc[index] if hasattr(items, "iloc") else items[index]


def check_split(split: Any, n: int) -> tuple[list[int], list[int]]:
    """Refuse a split with an item on both sides, outside of the source, or nothing to train on."""
    train, valid = (list(map(int, part)) for part in split)
    if twice := set(train) & set(valid):
        raise ValueError(f"the splitter puts {len(twice)} items on both sides, item {min(twice)} "
                         "for one: what was trained on cannot validate")
    if outside := [i for i in (*train, *valid) if not 0 <= i < n]:
        raise ValueError(f"the splitter returned index {outside[0]}, for {n} items")
    if not train:
        raise ValueError(f"the splitter leaves nothing to train on of {n} items")
    if not valid:
        raise ValueError(f"the splitter puts none of {n} items into the validation set; to train "
                         "without one, say so: DataBlock(…, splitter=None)")
    return train, valid


# cell 0df042c3 c38871 · Steps that can be watched
def describe_value(x: Any) -> str:
    """Describe a value in a few words: the type, and the shape or the value itself."""
    if isinstance(x, Tensor):
        return f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}"
    if isinstance(x, tuple | list) and any(isinstance(part, Tensor) for part in x):
        return "(" + ", ".join(map(describe_value, x)) + ")"
    if hasattr(x, "iloc"):
        fields = ", ".join(map(str, getattr(x, "index", [])[:6]))
        return f"{type(x).__name__} of {fields}"
    text = str(x) if isinstance(x, Path) else repr(x)
    text = text if len(text) <= 60 else f"{text[:20]}…{text[-38:]}"
    return f"{type(x).__name__} {text}"


def run_step(name: str | Callable[[], str], function: Callable[[Any], Any], given: Any,
             watch: Callable[[str, Any, Any], None] | None = None,
             remedy: str | Callable[[], str] = "") -> Any:
    """Call a function and tell `watch`; an error says which step it was, on what, and a remedy.

    `name` and `remedy`: texts, or functions that write them, called only if they are to be read.
    Raises: what the function raises; TypeError if it returns None.
    """
    try:
        made = function(given)
        if made is None:
            raise TypeError(f"{_text(name)} returned None: is its `return` missing? An item that "
                            "has no value must be left out of the source")
    except Exception as error:
        error.add_note(f"in step {_text(name)}, which was given {describe_value(given)}")
        if remedy:
            error.add_note(f"remedy: {_text(remedy)}")
        raise
    if watch is not None:
        watch(_text(name), given, made)
    return made


def _text(words: str | Callable[[], str]) -> str:
    return words() if callable(words) else words


# cell 1c3e0d05 1445fc · Two data sets, and what is left out
@dataclass(frozen=True)
class BlockDatasets:
    """Two data sets (`valid` may be None) and the pipeline that was set up on the first."""

    train: Any
    valid: Any
    pipeline: Any

    @property
    def vocab(self) -> Any:
        """The labels, in the order of their numbers."""
        return find_vocab(self.pipeline.blocks)


# cell b72bb32c ddbbe7 · Two data sets, and what is left out
def drop_unreadable(*datasets: Any) -> None:
    """Leave out the items whose pictures cannot be read, and warn of them by name."""
    lost = []
    for dataset in datasets:
        places = [i for i, kind in enumerate(dataset.pipeline.kinds) if kind == "image"]
        kept = []
        for i, index in enumerate(dataset.indices):
            try:
                for place in places:
                    value = dataset.value(place, dataset.item(i))
                    dataset.pipeline.blocks[place].encode(value)
                kept.append(index)
            except (UnreadableImage, OSError):
                lost.append(describe_value(dataset.item(i)))
        dataset.indices = kept
    if lost:
        warnings.warn(f"{len(lost)} items are left out because their pictures cannot be read: "
                      f"{', '.join(lost[:5])}{', …' if lost[5:] else ''}", stacklevel=4)
