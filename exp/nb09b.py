"""Tables: from a CSV file to a forecast

By the end you will have a model that reads a table of categories, numbers and dates, forecasts one of its columns, and travels with its preprocessing in one file; and you will know where gradient boosting does better.
"""

# cell 6471a4e6 a6284e · Tables: from a CSV file to a forecast
from __future__ import annotations

# generated from nbs/09b_tabular.ipynb: do not edit · f70d28
__all__ = [
    "rmspe",
    "mape",
    "Categorify",
    "FillMissing",
    "Normalize",
    "TablePreprocessor",
    "table_loaders",
    "embedding_size",
    "TabularModel",
    "TablePredictor",
]
__dir__ = __all__.copy  # what completion offers

# cell 6471a4e6 b280cc · Tables: from a CSV file to a forecast
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from exp.nb03b import DataLoaders, TensorDataset
from exp.nb03d import evaluating
from exp.nb04c import export_model, load_exported
from exp.nb08c import check_columns, column_kind, column_numbers


# cell 6471a4e6 b7209b · Tables: from a CSV file to a forecast
_Frame = _Column = Any  # a DataFrame and a Series of pandas, which is imported where it is needed


# cell 1288368a 42188e · A forecast in a minute
def rmspe(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Return the root of the mean squared percentage error; days without sales do not count."""
    sold = actual > 0
    return float(np.sqrt(((predicted[sold] / actual[sold] - 1) ** 2).mean()))


def mape(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Return the mean absolute percentage error; days without sales do not count."""
    sold = actual > 0
    return float(np.abs(predicted[sold] / actual[sold] - 1).mean())


# cell f82f4c71 826b68 · What goes wrong between training and prediction
class Categorify:
    """Number the levels of each column: 0 for one never seen, 1 for a gap if there were any.

    `fit` learns the levels from training rows; `transform` returns a table of int64 codes.
    Raises: ValueError for a missing column, a mixed one, dates, or another type than was fitted.
    """

    def __init__(self, columns: Sequence[str]):
        self.columns = list(columns)
        self.levels: dict[str, list[Any]] = {}  # without the rows for unseen and missing
        self.has_missing: dict[str, bool] = {}

    def fit(self, frame: _Frame) -> Categorify:
        """Collect the sorted levels of each column."""
        check_columns(frame, self.columns, "Categorify")
        for name in self.columns:
            column, kind = frame[name], column_kind(frame[name])
            self.has_missing[name] = bool(column.isna().any())
            present = column.dropna()
            values = present.astype(str if kind == "text" else "float64").unique().tolist()
            if kind == "numbers" and all(float(value).is_integer() for value in values):
                values = present.astype("int64").unique().tolist()
            self.levels[name] = sorted(values)
        return self

    def sizes(self) -> list[int]:
        """Return how many codes each column has: its levels, one for unseen, one for missing."""
        return [1 + self.has_missing[name] + len(self.levels[name]) for name in self.columns]

    def transform(self, frame: _Frame) -> _Frame:
        """Return the codes as int64, in a table with these columns only."""
        from pandas import DataFrame

        check_columns(frame, self.columns, "Categorify")
        return DataFrame({name: self._codes(frame[name]) for name in self.columns},
                         index=frame.index)

    def _codes(self, column: _Column) -> np.ndarray:
        from pandas import Index

        levels, kind = self.levels[column.name], column_kind(column)
        fitted = "text" if levels and isinstance(levels[0], str) else "numbers"
        if kind and levels and kind != fitted:
            raise ValueError(f"column {column.name!r} held {fitted} when the levels were learned, "
                             f"such as {levels[0]!r}, and now holds {kind}, such as "
                             f"{column.dropna().iloc[0]!r}: read it with the same type")
        absent = column.isna().to_numpy()
        codes = np.zeros(len(column), np.int64)
        if kind and levels:
            present = column[~absent].astype(str if kind == "text" else "float64")
            index = Index(levels, dtype=object if kind == "text" else "float64")
            found = index.get_indexer(present.astype(object) if kind == "text" else present)
            codes[~absent] = np.where(found < 0, 0, found + 1 + self.has_missing[column.name])
        codes[absent] = int(self.has_missing[column.name])
        return codes

    def decode(self, name: str, codes: Iterable[int]) -> list[Any]:
        """Return the levels that codes of a column stand for; None for unseen or missing."""
        rows = [None] * (1 + self.has_missing[name]) + self.levels[name]
        return [rows[int(code)] for code in codes]


# cell 3313af0e 0a3f06 · What goes wrong between training and prediction
class FillMissing:
    """Fill missing numbers with the median of the training rows, and flag them.

    A flag is a column `NAME_missing` of 0 and 1, for each column with gaps in the training rows.
    A gap in another column is filled too, with a warning: no flag was learned for it.
    """

    def __init__(self, columns: Sequence[str]):
        self.columns = list(columns)
        self.medians: dict[str, float] = {}
        self.flagged: list[str] = []

    def fit(self, frame: _Frame) -> FillMissing:
        """Learn the medians, and which columns have gaps."""
        check_columns(frame, self.columns, "FillMissing")
        values = {name: column_numbers(frame, name) for name in self.columns}
        if empty := [name for name, x in values.items() if np.isnan(x).all()]:
            raise ValueError(f"the columns {empty} hold no number at all: leave them out")
        self.medians = {name: float(np.nanmedian(x)) for name, x in values.items()}
        self.flagged = [name for name, x in values.items() if np.isnan(x).any()]
        return self

    def transform(self, frame: _Frame) -> _Frame:
        """Return the filled columns as float64, then the flags."""
        from pandas import DataFrame

        check_columns(frame, self.columns, "FillMissing")
        values = {name: column_numbers(frame, name) for name in self.columns}
        gaps = {name: np.isnan(x) for name, x in values.items()}
        new = [name for name in self.columns if gaps[name].any() and name not in self.flagged]
        if new:
            warnings.warn(f"numbers are missing in {new}, which had no gaps when this was fitted: "
                          "filled with the median, not flagged", stacklevel=2)
        filled = {name: np.where(gaps[name], self.medians[name], x) for name, x in values.items()}
        flags = {f"{name}_missing": gaps[name].astype("float64") for name in self.flagged}
        return DataFrame({**filled, **flags}, index=frame.index)


class Normalize:
    """Subtract the mean of the training rows from each column, and divide by their deviation."""

    def __init__(self, columns: Sequence[str]):
        self.columns = list(columns)
        self.means: dict[str, float] = {}
        self.deviations: dict[str, float] = {}

    def fit(self, frame: _Frame) -> Normalize:
        """Learn mean and standard deviation; a constant column keeps its scale."""
        check_columns(frame, self.columns, "Normalize")
        for name in self.columns:
            values = column_numbers(frame, name)
            self.means[name] = float(np.nanmean(values))
            self.deviations[name] = float(np.nanstd(values)) or 1.0
        return self

    def transform(self, frame: _Frame) -> _Frame:
        """Return a table in which these columns are normalised, and all others as they were."""
        check_columns(frame, self.columns, "Normalize")
        return frame.assign(**{name: (column_numbers(frame, name) - self.means[name])
                               / self.deviations[name] for name in self.columns})


# cell 043c4e5f 9812b6 · What goes wrong between training and prediction
class TablePreprocessor:
    """Turn rows of a table into tensors, the same way in training and in prediction.

    `fit` learns levels, medians, means from training rows only. The target is a "number", its
    natural "log", or a "class"; a table without the target column has none.
    Shape: (N rows) -> codes (N, C) int64, numbers (N, M) float32, target (N,) or None.
    Raises: ValueError for columns that are missing, mixed, of another type, used twice; for an
        empty table in `fit`; for a missing target, or one that has no logarithm.
    """

    def __init__(self, categories: Sequence[str] = (), numbers: Sequence[str] = (),
                 target: str | None = None, target_kind: str = "number"):
        self.categories, self.numbers = list(categories), list(numbers)
        self.target, self.target_kind = target, target_kind
        names = [*self.categories, *self.numbers, *([] if target is None else [target])]
        if target_kind not in ("number", "log", "class"):
            raise ValueError(f"target_kind must be 'number', 'log' or 'class', got {target_kind!r}")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"columns {twice} are used twice: each is a category, a number, or "
                             "the target")
        if len(names) == (target is not None):
            raise ValueError("there is nothing to learn from: name categories or numbers")
        self.categorify = Categorify(self.categories)
        self.fill, self.normalize = FillMissing(self.numbers), Normalize(self.numbers)
        self.classes = Categorify([target] if target is not None and target_kind == "class" else [])

    def fit(self, frame: _Frame) -> TablePreprocessor:
        """Learn from training rows."""
        check_columns(frame, [self.target] if self.target else [], "TablePreprocessor")
        if len(frame) == 0:
            raise ValueError("the table has no rows to learn from")
        self.categorify.fit(frame)
        self.normalize.fit(self.fill.fit(frame).transform(frame))
        self.classes.fit(frame)
        self._target(frame)  # refuses what cannot be predicted
        return self

    @property
    def levels(self) -> list[int]:
        """How many codes each category has: what `TabularModel` needs to know."""
        return self.categorify.sizes()

    @property
    def number_names(self) -> list[str]:
        """The columns of the tensor of numbers: the numbers, then their flags."""
        return [*self.numbers, *(f"{name}_missing" for name in self.fill.flagged)]

    def inputs(self, frame: _Frame) -> tuple[Tensor, Tensor]:
        """Return codes and numbers of a table's rows, whatever its target column holds."""
        check_columns(frame, [*self.categories, *self.numbers], "the fitted TablePreprocessor")
        self._check_fitted()
        codes = self.categorify.transform(frame).to_numpy("int64")
        numbers = self.normalize.transform(self.fill.transform(frame)).to_numpy("float32")
        return torch.from_numpy(codes.copy()), torch.from_numpy(numbers.copy())

    def transform(self, frame: _Frame) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return codes, numbers and target of a table's rows."""
        has_target = self.target is not None and self.target in frame.columns
        return *self.inputs(frame), torch.from_numpy(self._target(frame)) if has_target else None

    def _check_fitted(self) -> None:
        if len(self.categorify.levels) < len(self.categories) or (
                len(self.normalize.means) < len(self.numbers)):
            raise ValueError("the TablePreprocessor has learned nothing yet: call fit first")

    def _target(self, frame: _Frame) -> np.ndarray:
        if self.target is None:
            return np.zeros(len(frame), "float32")
        if absent := int(frame[self.target].isna().sum()):
            raise ValueError(f"the target {self.target!r} is missing in {absent} rows: drop them "
                             f"with dropna(subset=[{self.target!r}])")
        if self.target_kind == "class":
            codes = self.classes.transform(frame)[self.target].to_numpy() - 1
            if (codes < 0).any():
                raise ValueError(f"the target {self.target!r} has classes that were not in the "
                                 f"training rows; known are {self.classes.levels[self.target]}")
            return codes
        values = column_numbers(frame, self.target)
        if self.target_kind == "log" and (values <= 0).any():
            raise ValueError(f"{int((values <= 0).sum())} rows have a {self.target!r} of 0 or "
                             "less, which has no logarithm: drop them, or predict the number")
        return (np.log(values) if self.target_kind == "log" else values).astype("float32")

    def decode(self, pred: Tensor) -> np.ndarray:
        """Turn what a model predicts into the target's own units, or into its classes."""
        if self.target_kind == "class":
            levels = np.array(self.classes.levels[self.target])
            return levels[pred.argmax(1).numpy()]
        values = pred.double().numpy()
        return np.exp(values) if self.target_kind == "log" else values

    def to_dict(self) -> dict[str, Any]:
        """Return all that was learned, as plain values that JSON can hold."""
        parts = {"categorify": self.categorify, "fill": self.fill, "normalize": self.normalize,
                 "classes": self.classes}
        return {"categories": self.categories, "numbers": self.numbers, "target": self.target,
                "target_kind": self.target_kind,
                "learned": {name: dict(vars(part)) for name, part in parts.items()}}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> TablePreprocessor:
        """Build a fitted preprocessor from what `to_dict` returned."""
        made = cls(state["categories"], state["numbers"], state["target"], state["target_kind"])
        for name, values in state["learned"].items():
            vars(getattr(made, name)).update(values)
        return made


# cell 60f66ec8 ed8c2a · What goes wrong between training and prediction
def table_loaders(preprocessor: TablePreprocessor, train: _Frame, valid: _Frame | None = None,
                  batch_size: int = 512, **options: Any) -> DataLoaders:
    """Serve the rows of tables as batches (codes, numbers, target), from tensors in memory.

    A last batch that is not full is left out in training, if there is a full one.
    """
    sets = [None if part is None else TensorDataset(*preprocessor.transform(part))
            for part in (train, valid)]
    return DataLoaders.from_datasets(*sets, batch_size=batch_size,
                                     drop_last=len(train) >= batch_size, **options)


# cell 04c34d80 a9c00c · The model
def embedding_size(n_levels: int) -> int:
    """Return how many numbers stand for one level: half as many as levels, at most 50."""
    return min(50, (n_levels + 1) // 2)


class TabularModel(nn.Module):
    """Predict from categories and numbers: embeddings, then hidden layers with batch norm.

    `hidden` are the sizes of the hidden layers, () for none. `unseen` is the share of codes that
    training replaces by 0, the code of a level never seen, so that its row learns an average.
    `y_range` (low, high) squeezes the output between two numbers.
    Shape: codes (B, C) int64, numbers (B, M) -> (B,) for one output, else (B, n_out).
    Raises: ValueError for sizes that do not fit.
    """

    def __init__(self, levels: Sequence[int], n_numbers: int, n_out: int = 1,
                 hidden: Sequence[int] = (200, 100), embedding_sizes: Sequence[int] | None = None,
                 dropout: float = 0.0, embedding_dropout: float = 0.0,
                 y_range: tuple[float, float] | None = None, unseen: float = 0.0):
        super().__init__()
        self.levels, self.n_numbers, self.n_out = list(levels), n_numbers, n_out
        self.hidden, self.dropout, self.embedding_dropout = list(hidden), dropout, embedding_dropout
        self.embedding_sizes = [*map(embedding_size, levels)] if embedding_sizes is None else [
            *embedding_sizes]
        self.y_range, self.unseen = y_range, unseen
        self._check()
        self.embeddings = nn.ModuleList(map(nn.Embedding, self.levels, self.embedding_sizes))
        for table in self.embeddings:
            table.weight.data *= 0.1
        self.embeddings_drop = nn.Dropout(embedding_dropout)
        self.norm = nn.BatchNorm1d(n_numbers) if n_numbers else None
        sizes = [sum(self.embedding_sizes) + n_numbers, *hidden]
        layers: list[nn.Module] = []
        for n_in, n_to in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(n_in, n_to, bias=False), nn.BatchNorm1d(n_to), nn.ReLU(),
                       nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], n_out))

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        if codes.shape[1:] != (len(self.levels),) or numbers.shape[1:] != (self.n_numbers,):
            raise ValueError(f"expected codes (B, {len(self.levels)}) and numbers "
                             f"(B, {self.n_numbers}), got {tuple(codes.shape)} and "
                             f"{tuple(numbers.shape)}")
        parts = [self.embed(codes)] if self.levels else []
        parts += [self.norm(numbers)] if self.norm is not None else []
        out = self.layers(torch.cat(parts, 1))  # (B, n_out)
        if self.y_range is not None:
            low, high = self.y_range
            out = low + (high - low) * (1 + (out / 2).tanh()) / 2
        return out[:, 0] if self.n_out == 1 else out

    def embed(self, codes: Tensor) -> Tensor:
        """Look up the rows of all embeddings, side by side. Shape: (B, C) -> (B, sum of sizes)."""
        if self.training and self.unseen > 0:
            codes = codes * (torch.rand(codes.shape, device=codes.device) >= self.unseen)
        rows = [table(codes[:, i]) for i, table in enumerate(self.embeddings)]
        return self.embeddings_drop(torch.cat(rows, 1))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that build this model anew."""
        names = ("levels", "n_numbers", "n_out", "hidden", "embedding_sizes", "dropout",
                 "embedding_dropout", "y_range", "unseen")
        return {name: getattr(self, name) for name in names}

    def _check(self) -> None:
        if len(self.embedding_sizes) != len(self.levels):
            raise ValueError(f"{len(self.levels)} categories need as many embedding sizes, got "
                             f"{len(self.embedding_sizes)}")
        if not self.levels and not self.n_numbers:
            raise ValueError("a model needs categories or numbers, got neither")
        if min([*self.levels, *self.embedding_sizes, *self.hidden, self.n_out]) < 1:
            raise ValueError("levels, sizes and n_out must be 1 or more")
        if self.y_range is not None and not self.y_range[0] < self.y_range[1]:
            raise ValueError(f"y_range must be (low, high), got {self.y_range}")
        if not 0 <= self.unseen < 1:
            raise ValueError(f"unseen must lie in 0..1, below 1, got {self.unseen}")


# cell 97b72072 cddf1e · Predict, save, load
class TablePredictor:
    """A trained model and its preprocessing: from a table to predictions, in the target's units."""

    def __init__(self, model: nn.Module, preprocessor: TablePreprocessor):
        self.model, self.preprocessor = model, preprocessor

    def outputs(self, frame: _Frame, batch_size: int = 16_384) -> Tensor:
        """Return what the model itself computes for each row, on the CPU."""
        codes, numbers = self.preprocessor.inputs(frame)
        device = next(self.model.parameters()).device
        with evaluating(self.model), torch.no_grad():
            outputs = [self.model(c.to(device), x.to(device)).cpu()
                       for c, x in zip(codes.split(batch_size), numbers.split(batch_size),
                                       strict=True)]
        return torch.cat(outputs)

    def predict(self, frame: _Frame, batch_size: int = 16_384) -> np.ndarray:
        """Predict the target of each row."""
        return self.preprocessor.decode(self.outputs(frame, batch_size))

    def save(self, path: str | Path) -> Path:
        """Write model and preprocessing into one safetensors file, without pickle."""
        ours = isinstance(self.model, TabularModel)
        how = ("exp.nb09b:TabularModel", self.model.arguments()) if ours else (None, None)
        return export_model(self.model, path, *how, extra=self.preprocessor.to_dict())

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu",
             trusted: Sequence[str] = ("exp", "torch.nn")) -> TablePredictor:
        """Read what `save` wrote, in any process.

        Raises: ValueError for a file that holds a model without the preprocessing of a table.
        """
        model, extra = load_exported(path, device, trusted)
        if not isinstance(extra, Mapping) or "target_kind" not in extra:
            raise ValueError(f"{path} holds a model without the preprocessing of a table")
        return cls(model, TablePreprocessor.from_dict(extra))
