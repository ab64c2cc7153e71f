"""Working with other tools: loggers, dicts, closures, scikit-learn

By the end you will be able to follow a training in TensorBoard or any other tracker, train models that take their inputs by name, use optimizers that evaluate the loss several times a step, and hand a training to scikit-learn.
"""

# cell 764afe02 a6284e · Working with other tools: loggers, dicts, closures, scikit-learn
from __future__ import annotations

# generated from nbs/04f_other_tools.ipynb: do not edit · bb62eb
__all__ = [
    "TensorBoardLogger",
    "ClosureStep",
    "LearnerEstimator",
]
__dir__ = __all__.copy  # what completion offers

# cell 764afe02 d26b41 · Working with other tools: loggers, dicts, closures, scikit-learn
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exp.nb03b import DataLoader, TensorDataset
from exp.nb03d import check_counts, is_first_process
from exp.nb03f import Callback
from exp.nb04 import Learner
from exp.nb04b import StopOnNaN


# cell c52d1b6e 4ab01b · Loggers
class TensorBoardLogger(Callback):
    """Write losses and rates by step, and the results of each epoch, into a folder for TensorBoard.

    `every`: the number of steps from one reading of the training loss to the next.
    Raises: ModuleNotFoundError if the package `tensorboard` is not installed.
    """

    order, only_watches = 40, True  # after the results of an epoch are there

    def __init__(self, folder: str | Path, every: int = 10):
        check_counts(every=every)
        if find_spec("tensorboard") is None:
            raise ModuleNotFoundError("TensorBoardLogger needs the package tensorboard: "
                                      "pip install tensorboard")
        self.folder, self.every, self._writer, self._due = Path(folder), every, None, False

    def after_step(self, learn: Learner) -> None:
        self._due = learn.n_steps % self.every == 0

    def after_batch(self, learn: Learner) -> None:
        if learn.training and self._due:
            self._due = False
            rates = {f"lr/{i}": group["lr"] for i, group in enumerate(learn.opt.param_groups)}
            self._write(learn.n_steps, {"batch/train_loss": learn.loss.item(), **rates})

    def after_epoch(self, learn: Learner) -> None:
        results = {f"epoch/{name}": value for name, value in learn.results.items()
                   if isinstance(value, int | float)}
        self._write(learn.n_steps, {**results, "epoch/epoch": learn.epoch + 1})

    def take_row(self, row: Mapping[str, Any]) -> None:
        """Write what `ValidateEvery` has found, at once."""
        numbers = {f"step/{name}": value for name, value in row.items()
                   if name.startswith("valid_") and isinstance(value, int | float)}
        self._write(row["step"], numbers)

    def cleanup_fit(self, learn: Learner) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._due = None, False

    def _write(self, step: int, values: Mapping[str, float]) -> None:
        if is_first_process():
            if self._writer is None:  # not before the fit: only now is it known where it goes on
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self.folder), purge_step=step)
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)


# cell 5a1fa38c 3c8dfd · Optimizers that ask more than once
class ClosureStep(Callback):
    """Step with an optimizer that needs a closure, such as `torch.optim.LBFGS`.

    Dropout draws anew at each evaluation, and running statistics see the batch each time.
    Raises: ValueError, as the fit begins, beside callbacks that change loss, gradient or prediction
        between the forward pass and the step: they would see the first evaluation only.
    """

    def before_fit(self, learn: Learner) -> None:
        for other in learn.callbacks:
            acts = any(hasattr(other, name) for name in (
                "do_predict", "after_pred", "do_loss", "after_loss", "do_backward",
                "after_backward"))
            if acts and not (other.only_watches or isinstance(other, StopOnNaN)):
                raise ValueError(f"{type(other).__name__} does not go with ClosureStep, which "
                                 "evaluates loss and gradient several times a step; leave one out")

    def do_step(self, learn: Learner) -> None:
        fresh = True

        def closure() -> Tensor:
            nonlocal fresh
            if fresh:  # the Learner has just computed both
                fresh = False
                return learn.loss
            learn.opt.zero_grad()
            learn.do_predict()
            learn.do_loss()
            learn.do_backward()
            return learn.loss

        first = learn.pred, learn.loss
        learn.opt.step(closure)
        learn.pred, learn.loss = first  # what the batch counts with, as with any optimizer


# cell 9202ee49 063a15 · scikit-learn
class LearnerEstimator:
    """A training with scikit-learn's interface: for `cross_val_score`, `GridSearchCV`, pipelines.

    `make_learner(x, y, **parameters)` builds a Learner for tensors x (N, …) and y (N,); classes
    come as numbers from 0. `n_epochs` and all `parameters` can be set and searched. A classifier's
    model returns logits (N, C), or (N,) or (N, 1) for two classes; a regressor's (N,) or (N, 1).
    Raises: TypeError for a make_learner that is no function; ValueError for a kind that is neither,
        or a parameter that make_learner does not take.
    """

    def __init__(self, make_learner: Callable[..., Learner], n_epochs: int = 10,
                 kind: str = "classifier", **parameters: Any):
        if kind not in ("classifier", "regressor"):
            raise ValueError(f'kind must be "classifier" or "regressor", got {kind!r}')
        if isinstance(make_learner, Learner) or not callable(make_learner):
            raise TypeError("make_learner must be a function (x, y, **parameters) -> Learner, got "
                            f"a {type(make_learner).__name__}: each fit needs a new Learner")
        self.make_learner, self.n_epochs, self.kind = make_learner, n_epochs, kind
        self.parameters: dict[str, Any] = {}
        self.set_params(**parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return all parameters by name."""
        return {"make_learner": self.make_learner, "n_epochs": self.n_epochs, "kind": self.kind,
                **self.parameters}

    def set_params(self, **parameters: Any) -> LearnerEstimator:
        """Set some parameters. Raises: ValueError for an unknown one."""
        _, _, *takes = signature(self.make_learner).parameters.values()
        known = [p.name for p in takes if p.kind is not p.VAR_KEYWORD]
        for name, value in parameters.items():
            if name in ("make_learner", "n_epochs", "kind"):
                setattr(self, name, value)
            elif name in known or len(known) < len(takes):
                self.parameters[name] = value
            else:
                raise ValueError(f"make_learner takes no {name!r}; it takes {known}")
        return self

    def fit(self, x: Any, y: Any) -> LearnerEstimator:
        """Build a Learner for this data and train it; it is kept in `learner_`."""
        from sklearn.preprocessing import LabelEncoder

        if self.kind == "classifier":
            self.encoder_ = LabelEncoder().fit(y)
            self.classes_, y = self.encoder_.classes_, self.encoder_.transform(y)
        self.learner_ = self.make_learner(_tensor(x), _tensor(y), **self.parameters)
        self.learner_.fit(self.n_epochs)
        return self

    def predict_proba(self, x: Any) -> Any:
        """Return the probability of each class. Shape: x (N, …) -> (N, C)."""
        logits = self._predict(x)
        if logits.ndim == 1:
            logits = torch.stack([torch.zeros_like(logits), logits], 1)  # softmax: a sigmoid
        return logits.softmax(1).numpy()

    def predict(self, x: Any) -> Any:
        """Return a class or a number for each row. Shape: x (N, …) -> (N,)."""
        if self.kind == "regressor":
            return self._predict(x).numpy()
        chosen = self.predict_proba(x).argmax(1)  # first, since it refuses one not trained yet
        return self.classes_[chosen]

    def score(self, x: Any, y: Any) -> float:
        """Return the accuracy of a classifier, R² of a regressor."""
        from sklearn.metrics import accuracy_score, r2_score

        return (accuracy_score if self.kind == "classifier" else r2_score)(y, self.predict(x))

    def _predict(self, x: Any) -> Tensor:
        if not self.__sklearn_is_fitted__():
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this LearnerEstimator is not trained yet; call fit")
        x = _tensor(x)
        rows = TensorDataset(x, torch.zeros(len(x)))
        preds, _ = self.learner_.get_preds(DataLoader(rows, batch_size=256))
        return preds.flatten() if preds.numel() == len(preds) else preds

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "learner_")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, RegressorTags, Tags, TargetTags

        is_classifier = self.kind == "classifier"
        return Tags(estimator_type=self.kind, target_tags=TargetTags(required=True),
                    classifier_tags=ClassifierTags() if is_classifier else None,
                    regressor_tags=None if is_classifier else RegressorTags())

    def __repr__(self) -> str:
        shown = {name: getattr(v, "__name__", v) for name, v in self.get_params().items()}
        return f"LearnerEstimator({', '.join(f'{name}={v!r}' for name, v in shown.items())})"


# cell 4091841b 2bd25d · scikit-learn
def _tensor(x: Any) -> Tensor:
    """Make a tensor of an array, a table or a list; double precision becomes single."""
    x = x if isinstance(x, Tensor) else torch.tensor(getattr(x, "to_numpy", lambda: x)())
    return x.float() if x.dtype == torch.float64 else x
