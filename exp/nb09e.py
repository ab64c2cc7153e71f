"""A tabular model as an estimator of scikit-learn

By the end you will have a network for tables that scikit-learn's tools accept as one of their own, in cross-validation, pipelines and searches; it goes from a DataFrame to predictions in one line. And you will see how it compares with gradient boosting.
"""

# cell a84131cd a6284e · A tabular model as an estimator of scikit-learn
from __future__ import annotations

# generated from nbs/09e_estimator.ipynb: do not edit · 1103d9
__all__ = [
    "TabularEstimator",
]
__dir__ = __all__.copy  # what completion offers

# cell a84131cd 2cd64a · A tabular model as an estimator of scikit-learn
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW

from exp.nb03a import random_kept
from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb03d import seed_everything
from exp.nb04 import Learner
from exp.nb04f import LearnerEstimator
from exp.nb05 import fit_one_cycle
from exp.nb09b import TablePredictor, TablePreprocessor, TabularModel, _Column, _Frame


# cell 60593d02 c1218d · What an estimator is
class TabularEstimator(LearnerEstimator):
    """A `TabularModel` as an estimator of scikit-learn: a DataFrame in, predictions out.

    `categories` and `numbers` name the columns that are used; with None, columns of text, truth
    values and pandas' categories are categories, and all other columns are numbers. Arrays have the
    columns x0, x1 … A number as target is scaled for the training, and back for the prediction.
    Raises: ValueError for a kind that is neither "regressor" nor "classifier", and as
        `TablePreprocessor`.
    Differs: missing values are welcome. The training rows are not kept.
    """

    def __init__(self, kind: str = "regressor", categories: Sequence[str] | None = None,
                 numbers: Sequence[str] | None = None, hidden: Sequence[int] = (200, 100),
                 dropout: float = 0.1, lr: float = 5e-3, weight_decay: float = 0.01,
                 n_epochs: int = 10, batch_size: int = 256, seed: int = 0):
        self.kind, self.categories, self.numbers, self.hidden = kind, categories, numbers, hidden
        self.dropout, self.lr, self.weight_decay = dropout, lr, weight_decay
        self.n_epochs, self.batch_size, self.seed = n_epochs, batch_size, seed

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return all parameters by name."""
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def set_params(self, **parameters: Any) -> TabularEstimator:
        """Set some parameters. Raises: ValueError for an unknown one."""
        for name, value in parameters.items():
            if name not in self.get_params():
                raise ValueError(f"TabularEstimator has no parameter {name!r}; it has "
                                 f"{list(self.get_params())}")
            setattr(self, name, value)
        return self

    def fit(self, x: Any, y: Any) -> TabularEstimator:
        """Fit preprocessing and model; they are kept in `preprocessor_` and `model_`."""
        if self.kind not in ("classifier", "regressor"):
            raise ValueError(f'kind must be "classifier" or "regressor", got {self.kind!r}')
        frame, target, n_out = self._training_data(x, y)
        numbers = self.numbers if self.numbers is not None else [
            name for name in frame if _is_number(frame[name])
            and name not in (self.categories or ())]
        categories = self.categories if self.categories is not None else [
            name for name in frame if name not in numbers]
        self.preprocessor_ = TablePreprocessor(categories, numbers).fit(frame)
        rows = TensorDataset(*self.preprocessor_.transform(frame)[:2], target)
        size = min(self.batch_size, max(2, len(rows) // 10))  # ten steps an epoch, or more
        loader = DataLoader(rows, size, shuffle=True, drop_last=True)
        with random_kept():
            seed_everything(self.seed)
            self.model_ = TabularModel(
                self.preprocessor_.levels, len(self.preprocessor_.number_names), n_out,
                self.hidden, dropout=self.dropout)
            learn = Learner(self.model_, DataLoaders(loader, None),
                            F.cross_entropy if self.kind == "classifier" else F.mse_loss, self.lr,
                            partial(AdamW, weight_decay=self.weight_decay), progress=False)
            if len(loader) * self.n_epochs < 4:  # too few to rise and to fall
                learn.fit(self.n_epochs)
            else:
                fit_one_cycle(learn, self.n_epochs, self.lr)
        self.history_ = learn.recorder.epochs
        return self

    def _training_data(self, x: Any, y: Any) -> tuple[_Frame, Tensor, int]:
        """Return rows and target, checked, and how many outputs the model needs."""
        from sklearn.preprocessing import LabelEncoder
        from sklearn.utils.multiclass import check_classification_targets
        from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d

        if y is None:
            raise ValueError("TabularEstimator requires y to be passed, but the target y is None")
        frame = self._frame(x, fits=True)
        y = column_or_1d(check_array(y, dtype=None, ensure_2d=False), warn=True)
        check_consistent_length(frame, y)
        if len(frame) < 2:
            raise ValueError(f"two rows or more are needed to train, got n_samples={len(frame)}")
        if self.kind == "classifier":
            check_classification_targets(y)
            self.encoder_ = LabelEncoder().fit(y)
            self.classes_ = self.encoder_.classes_
            return frame, torch.from_numpy(self.encoder_.transform(y)), max(2, len(self.classes_))
        if y.dtype.kind not in "biuf":
            raise ValueError(f"Unknown label type: a regressor needs numbers, got {y[:3]}")
        target = torch.tensor(y, dtype=torch.float64)
        self.scale_ = target.mean().item(), target.std(correction=0).item() or 1.0
        return frame, ((target - self.scale_[0]) / self.scale_[1]).float(), 1

    def _frame(self, x: Any, fits: bool = False) -> _Frame:
        """Return x as a DataFrame whose columns are those of the training."""
        import pandas as pd
        from sklearn.utils.validation import check_array, validate_data

        is_frame = hasattr(x, "columns")
        x = x if is_frame else check_array(x, dtype=None, ensure_all_finite="allow-nan")
        validate_data(self, x, reset=fits, skip_check_array=True)
        if is_frame:
            return x.rename(columns=str)
        return pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])])

    def _predict(self, x: Any) -> Tensor:
        if not self.__sklearn_is_fitted__():
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this TabularEstimator is not trained yet; call fit")
        outputs = TablePredictor(self.model_, self.preprocessor_).outputs(self._frame(x))
        if self.kind == "classifier":
            return outputs[:, :len(self.classes_)]
        return outputs.double() * self.scale_[1] + self.scale_[0]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "model_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags

        return replace(super().__sklearn_tags__(), non_deterministic=False,
                       input_tags=InputTags(allow_nan=True, string=True, categorical=True))

    def __repr__(self) -> str:
        shown = {name: parameter.default for name, parameter
                 in signature(type(self)).parameters.items()}
        changed = {name: value for name, value in self.get_params().items()
                   if value is not shown[name] and value != shown[name]}
        return f"TabularEstimator({', '.join(f'{k}={v!r}' for k, v in changed.items())})"


def _is_number(column: _Column) -> bool:
    """Return whether a column holds numbers: no truth values, text, or categories."""
    return column.dtype.kind in "iuf"
