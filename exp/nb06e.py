"""Blocks: from a value to a tensor and back

By the end you will have blocks for pictures, labels, points, numbers, words and table rows: each turns a value of its kind into a tensor that a model can learn from, and a tensor back into something that you can look at.
"""

# cell c64b0def a6284e · Blocks: from a value to a tensor and back
from __future__ import annotations

# generated from nbs/06e_blocks.ipynb: do not edit · d81dfe
__all__ = [
    "Block",
    "Transform",
    "change_parts",
    "CategoryBlock",
    "plain_label",
    "MultiCategoryBlock",
    "NumberBlock",
    "RowBlock",
    "TokenBlock",
    "part_state",
    "part_from_state",
    "find_vocab",
]
__dir__ = __all__.copy  # what completion offers

# cell c64b0def e885ba · Blocks: from a value to a tensor and back
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


# cell ead46f58 9c9c60 · A block
class Block:
    """One part of a sample: how its value becomes a tensor, and how the tensor is read back.

    A new kind of part is a subclass with a `kind`, by which transforms know it, and `encode`; this
    class itself passes values on as they are. `setup` sees the values of the training set only.
    Attributes whose names do not begin with `_` must be valid JSON: they are what `part_state`
    saves.
    """

    kind = "value"
    loss_func: Callable[[Tensor, Tensor], Tensor] | None = None  # for a model that predicts it
    n_out: int | None = None  # how many numbers such a model returns for an item
    item_transforms: tuple[Any, ...] = ()
    batch_transforms: tuple[Any, ...] = ()

    def setup(self, values: Sequence[Any]) -> None:
        """Learn from the values of the training set what `encode` needs."""

    def encode(self, value: Any) -> Any:
        """Turn a value into a tensor."""
        return value

    def decode(self, encoded: Any) -> Any:
        """Turn a tensor back into a value."""
        return encoded

    def choose(self, output: Tensor) -> Tensor:
        """Turn a model's output for one item into what `encode` returns."""
        return output

    def label(self, value: Any) -> str:
        """Return a value as text."""
        return str(value)

    def show(self, axis: Any, value: Any) -> None:
        """Draw a value; by default, write it into the title."""
        axis.set_title(f"{axis.get_title()}\n{self.label(value)}".strip(), fontsize=9)

    def collate(self, encoded: Sequence[Any]) -> Any:
        """Stack the parts of several samples. Shape: B tensors (…) -> (B, …)."""
        from exp.nb03b import collate

        shapes = {tuple(t.shape): i for i, t in enumerate(encoded) if isinstance(t, Tensor)}
        if len(shapes) > 1:
            (a, i), (b, j), *_ = shapes.items()
            raise ValueError(f"parts of kind {self.kind!r} differ in shape, {a} in sample {i} of "
                             f"the batch and {b} in sample {j}: {self.unequal}")
        return collate(encoded)

    unequal = "let encode return one shape for all"  # the remedy

    def __repr__(self) -> str:
        about = ", ".join(f"{name}={value!r}" for name, value in vars(self).items()
                          if value is not None and not name.startswith("_"))
        short = re.sub(r"(\d\.\d{3})\d+", r"\1", about)  # three decimals are enough to read
        return f"{type(self).__name__}({short:.100})"


# cell 7c2b4ee9 be97a3 · A block
class Transform:
    """A change of the parts of a sample, or of a batch: crop pictures and move points with them.

    A subclass overrides `__call__`, touches only the kinds that it knows, and may undo itself in
    `decode`. Transforms are applied in the order of `order`, low to high. One with a method
    `setup(batches, kinds)` is shown some training batches before the first epoch.
    """

    order = 50

    def __call__(self, parts: tuple, kinds: tuple[str, ...], train: bool) -> tuple:
        raise NotImplementedError(f"{type(self).__name__} needs a method __call__(parts, kinds, "
                                  "train)")

    def decode(self, parts: tuple, kinds: tuple[str, ...]) -> tuple:
        """Undo it as far as needed to look at the parts."""
        return parts

    __repr__ = Block.__repr__


def change_parts(change: Callable[[Any], Any], parts: tuple, kinds: tuple[str, ...],
                 *only: str) -> tuple:
    """Apply a function to the parts of some kinds; the others stay as they are."""
    return tuple(change(part) if kind in only else part
                 for part, kind in zip(parts, kinds, strict=True))


# cell 5ba6a513 0e0131 · Labels
class CategoryBlock(Block):
    """One label of several: its place in the `vocab`, by default the training labels in order.

    With `unknown`, a name, labels that are not in the vocab count as that class.
    Shape: () int64.
    Raises: ValueError for a label that is not in the vocab, or is missing.
    """

    kind = "category"
    loss_func = staticmethod(F.cross_entropy)
    _places: dict[Any, int] | None = None
    _given = True  # a vocab that was saved is kept

    def __init__(self, vocab: Sequence[Any] | None = None, unknown: str | None = None):
        self.vocab = None if vocab is None else [plain_label(label) for label in vocab]
        self.unknown, self._given = unknown, vocab is not None
        if vocab is not None and len(set(self.vocab)) < len(self.vocab):
            raise ValueError(f"the vocab has a label twice: {self.vocab!r:.200}")

    @property
    def n_out(self) -> int | None:
        return None if self.vocab is None else len(self.vocab)

    def setup(self, values: Sequence[Any]) -> None:
        if not self._given:
            found = {label for value in values for label in self._labels(value)}
            names = [] if self.unknown is None else [self.unknown]
            self.vocab, self._places = names + _in_order(found - {*names}), None

    def _labels(self, value: Any) -> list[Any]:
        return [plain_label(value)]

    def _place(self, value: Any) -> int:
        label = plain_label(value)
        if self.vocab is None:
            raise ValueError(f"{type(self).__name__} has no vocab yet: it is learned from the "
                             "training set; or give one, CategoryBlock(vocab=[…])")
        if self._places is None:
            self._places = {name: i for i, name in enumerate(self.vocab)}
        place = self._places.get(label, self._places.get(self.unknown))
        if place is None:
            raise ValueError(
                f"the label {label!r} is not among the {len(self.vocab)} of the training set, "
                f"{self.vocab!r:.120}: put items with it into the training set, pass all labels, "
                f"{type(self).__name__}(vocab=[…]), or collect such labels in a class of their "
                f"own, {type(self).__name__}(unknown='other')")
        return place

    def encode(self, value: Any) -> Tensor:
        return torch.tensor(self._place(value))

    def choose(self, output: Tensor) -> Tensor:
        return output.argmax(-1)

    def decode(self, encoded: Tensor) -> Any:
        return self.vocab[int(encoded)]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self.vocab or [])} labels)"


def plain_label(value: Any) -> Any:
    """Return a label as text, bool or whole number. Raises: ValueError if it is missing."""
    value = value.item() if hasattr(value, "item") and not getattr(value, "ndim", 0) else value
    if value is None or isinstance(value, float) and math.isnan(value):
        raise ValueError(f"the label is missing: {value!r}")
    if isinstance(value, float) and value.is_integer():
        return int(value)  # as a column of a table has them if others are missing
    if not isinstance(value, str | int):
        raise TypeError(f"a label is a text or a whole number, got a {type(value).__name__}, "
                        f"{value!r:.80}; several labels are for MultiCategoryBlock")
    return value


def _in_order(labels: set[Any]) -> list[Any]:
    return sorted(labels, key=lambda label: (isinstance(label, str), label))


# cell 33100644 766260 · Labels
class MultiCategoryBlock(CategoryBlock):
    """Any number of labels of several, a list for each item: 1 in the place of each, 0 elsewhere.

    The numbers are floats because the loss for them compares probabilities with them. The block
    has no `loss_func`: pass a Learner `binary_cross_entropy_with_logits` (cross-entropy would take
    the numbers for shares of one label).
    Shape: (labels of the vocab) float32.
    """

    kind = "categories"
    loss_func = None  # 08a makes it: binary_cross_entropy_with_logits

    def _labels(self, value: Any) -> list[Any]:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TypeError(f"several labels come as a list, got {value!r:.80}; split a text, for "
                            "example ColumnReader('labels', separator=' ')")
        return [plain_label(label) for label in value]

    def encode(self, value: Any) -> Tensor:
        places = [self._place(label) for label in self._labels(value)]
        encoded = torch.zeros(len(self.vocab or []))
        encoded[places] = 1.0
        return encoded

    def choose(self, output: Tensor) -> Tensor:
        return (output > 0).float()  # logits: a probability above one half

    def decode(self, encoded: Tensor) -> list[Any]:
        return [self.vocab[place] for place in (encoded > 0.5).nonzero()[:, 0].tolist()]

    def label(self, value: Sequence[Any]) -> str:
        return "; ".join(map(str, value)) or "(none)"


# cell 0f948976 7da277 · Numbers, rows and words
class NumberBlock(Block):
    """A number. Shape: () float32. Raises: ValueError if it is missing or not finite."""

    kind = "number"
    loss_func = staticmethod(F.mse_loss)
    n_out = 1

    def encode(self, value: Any) -> Tensor:
        number = torch.tensor(float(value))
        if not number.isfinite():
            raise ValueError(f"the number is missing or not finite: {value!r}")
        return number

    def decode(self, encoded: Tensor) -> float:
        return float(encoded)

    def choose(self, output: Tensor) -> Tensor:
        return output.reshape(())

    def label(self, value: float) -> str:
        return f"{value:.4g}"


class RowBlock(Block):
    """Columns of a table row as numbers, each with mean 0 and spread 1 over the training set.

    Shape: (columns) float32.
    """

    kind = "numbers"

    def __init__(self, columns: Sequence[str]):
        self.columns, self.means, self.spreads = list(columns), None, None

    def _numbers(self, row: Any) -> list[float]:
        numbers = [float(row[column]) for column in self.columns]
        if bad := [name for name, x in zip(self.columns, numbers, strict=True)
                   if not math.isfinite(x)]:
            raise ValueError(f"missing or not finite in a row: {bad}; fill it first")
        return numbers

    def setup(self, values: Sequence[Any]) -> None:
        table = torch.tensor([self._numbers(row) for row in values], dtype=torch.float64)
        self.means = table.mean(0).tolist()
        self.spreads = table.std(0, correction=0).clamp(min=1e-12).tolist()

    def encode(self, value: Any) -> Tensor:
        x = torch.tensor(self._numbers(value), dtype=torch.float64)
        return ((x - torch.tensor(self.means)) / torch.tensor(self.spreads)).float()

    def decode(self, encoded: Tensor) -> dict[str, float]:
        numbers = encoded.cpu().double() * torch.tensor(self.spreads) + torch.tensor(self.means)
        return dict(zip(self.columns, numbers.tolist(), strict=True))

    def label(self, value: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {round(number, 4):.4g}" for name, number in value.items())


# cell f32040e6 31925e · Numbers, rows and words
class TokenBlock(Block):
    """A text as the numbers of its words, in small letters; batches are padded on the right.

    Number 0 is padding, 1 stands for words that occur fewer than `min_count` times in training.
    `tokenize` may be another function from text to words.
    Shape: (words) int64 as an item; (B, longest) in a batch.
    """

    kind = "tokens"
    _places: dict[str, int] | None = None

    def __init__(self, min_count: int = 1, tokenize: Callable[[str], list[str]] | None = None):
        self.min_count, self.tokenize, self.vocab = min_count, tokenize, None

    def _words(self, text: Any) -> list[str]:
        if not isinstance(text, str):
            raise TypeError(f"a text is needed, got a {type(text).__name__}: {text!r:.80}")
        return self.tokenize(text) if self.tokenize else re.findall(r"\w+|[^\w\s]", text.lower())

    def setup(self, values: Sequence[Any]) -> None:
        counts = Counter(word for text in values for word in self._words(text))
        kept = sorted(word for word, count in counts.items() if count >= self.min_count)
        self.vocab, self._places = ["<pad>", "<unknown>", *kept], None

    def encode(self, value: Any) -> Tensor:
        if self._places is None:
            self._places = {word: i for i, word in enumerate(self.vocab)}
        return torch.tensor([self._places.get(word, 1) for word in self._words(value)],
                            dtype=torch.int64)

    def collate(self, encoded: Sequence[Tensor]) -> Tensor:
        longest = max(max(map(len, encoded)), 1)
        padded = torch.zeros(len(encoded), longest, dtype=torch.int64)
        for row, tokens in zip(padded, encoded, strict=True):
            row[:len(tokens)] = tokens
        return padded

    def decode(self, encoded: Tensor) -> str:
        return " ".join(self.vocab[i] for i in encoded.tolist() if i)


# cell f67cadcb 8855f5 · Saved without pickle
def part_state(part: Block | Transform) -> dict[str, Any]:
    """Describe a block or a transform by its class and its attributes, all valid JSON.

    Raises: ValueError that names an attribute that is not, or a class that others cannot import.
    """
    kind = type(part)
    if "<" in kind.__qualname__ or kind.__module__ == "__main__":
        raise ValueError(f"another process cannot import {kind.__qualname__}: define it in a "
                         "module or an exported cell")
    state = {"class": f"{kind.__module__}:{kind.__qualname__}"}
    for name, value in vars(part).items():
        if not name.startswith("_"):
            try:
                state[name] = json.loads(json.dumps(value))
            except TypeError as error:
                raise ValueError(f"{kind.__name__}.{name} is a {type(value).__name__}, which "
                                 "cannot be saved without pickle: keep numbers, texts, lists and "
                                 "dicts in it, and put a function into a subclass") from error
    return state


def part_from_state(state: Mapping[str, Any], trusted: Sequence[str] = ("exp",)) -> Any:
    """Rebuild what `part_state` described; only classes of trusted packages are used."""
    module, _, name = state["class"].partition(":")
    if module.partition(".")[0] not in trusted:
        raise ValueError(f"{state['class']} is not of the packages {list(trusted)}; if you trust "
                         "the file, add its package to `trusted`")
    kind = getattr(import_module(module), name)
    if not (isinstance(kind, type) and issubclass(kind, Block | Transform)):
        raise ValueError(f"{state['class']} is neither a Block nor a Transform")
    part = kind.__new__(kind)
    vars(part).update({key: value for key, value in state.items() if key != "class"})
    return part


# cell 2d49ba51 f10c68 · Saved without pickle
def find_vocab(blocks: Sequence[Block]) -> Any:
    """Return the vocab of the last block that has one. Raises: AttributeError if none has."""
    for block in reversed(blocks):
        if getattr(block, "vocab", None) is not None:
            return block.vocab
    raise AttributeError(f"no block has a vocab: {list(blocks)}")
