"""Training that generalises

By the end you will have a training loop whose numbers can be trusted, three sets of data with a reason for each, a rule for when a difference between two training runs counts, and a method: overfit first, then cure the overfitting, in a fixed order.
"""

# cell 6bf3c1aa a6284e · Training that generalises
from __future__ import annotations

# generated from nbs/03c_generalisation.ipynb: do not edit · 8f51f8
__all__ = [
    "count_kept",
    "accuracy",
    "warn_of_probabilities",
    "binary_accuracy",
    "check_argument_order",
    "modes_kept",
    "Scores",
    "evaluate",
    "Epoch",
    "History",
    "fit",
]
__dir__ = __all__.copy  # what completion offers

# cell 6bf3c1aa f84903 · Training that generalises
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exp.nb03b import DataLoaders


# cell 29d6f117 21fe6e · A mean over batches
class RunningMean:
    """A mean over batches in which each sample counts once, whatever the size of its batch.

    Raises: ValueError from `value` before anything was added.
    """

    def __init__(self):
        self.total, self.n = torch.zeros((), dtype=torch.float64), 0

    def add(self, mean: Tensor | float, n: int) -> None:
        """Add the mean of one batch of `n` samples."""
        mean = mean.detach() if isinstance(mean, Tensor) else mean
        self.total = torch.add(self.total, mean, alpha=n)  # in double precision, as the total is
        self.n += n

    @property
    def value(self) -> float:
        """The mean over all samples so far."""
        if self.n == 0:
            raise ValueError("no mean without data: there was not a single batch; is the data set "
                             "empty, or smaller than a batch with drop_last?")
        return float(self.total) / self.n


# cell 90dd2f85 3e1062 · A mean over batches
def count_kept(pred: Tensor, target: Tensor, ignore_index: int = -100) -> Tensor | int:
    """Count the targets that are not `ignore_index`; this waits for no GPU."""
    if ignore_index < 0 and not target.dtype.is_signed:
        return target.numel()
    if ignore_index < 0 and target.is_cpu and target.numel():
        if _lowest(target) > ignore_index:  # nothing is ignored: the usual case, found fast
            return target.numel()
    return (target != ignore_index).count_nonzero()


_last: list[Any] = [lambda: None, 0, 0]  # a target, its version, and its lowest label


def _lowest(target: Tensor) -> int:
    """Return the lowest label; loss and metrics of a batch ask for it one after the other."""
    if _last[0]() is not target or _last[1] != target._version:
        _last[:] = ref(target), target._version, target.min().item()
    return _last[2]


def _share(right: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Return the share of right answers among those whose target is not ignored."""
    n = count_kept(right, target, ignore_index)
    if isinstance(n, int):
        return right.mean(dtype=torch.float64)
    return (right & (target != ignore_index)).sum(dtype=torch.float64) / n


# cell 5f9eb3cd e6edea · A mean over batches
def accuracy(pred: Tensor, target: Tensor, ignore_index: int = -100) -> Tensor:
    """Return the share of targets whose class has the largest logit.

    Targets of `ignore_index`, such as padding, do not count; nan if no target counts.
    Shape: pred (…, C) with C of at least 2, target (…) of class numbers -> (), between 0 and 1.
    Raises: ValueError for other shapes, one logit for each target included: see `binary_accuracy`.
    """
    if pred.shape[:-1] != target.shape or pred.ndim == 0 or pred.shape[-1] == 1:
        raise ValueError(f"pred (…, C) needs a target (…), got {tuple(pred.shape)} and "
                         f"{tuple(target.shape)}{_remedy(pred, target)}")
    return _share(pred.argmax(-1) == target, target, ignore_index)


accuracy.higher_is_better = True
accuracy.divisor = count_kept  # what the mean is taken over


# cell 5bc776f2 fb2631 · A mean over batches
def warn_of_probabilities(name: str, remedy: str) -> None:
    """Warn that a threshold of 0 is for logits, and the predictions look like probabilities."""
    warnings.warn(f"{name}: all predictions lie between 0 and 1, as probabilities do, and the "
                  "threshold is 0, which is for logits; if the model ends in a sigmoid, use "
                  f"{remedy}", stacklevel=3)


_seen: set[str] = set()  # the types of device that were asked once


def _look_like_probabilities(pred: Tensor) -> bool:
    """Return whether all predictions lie in [0, 1], not all at its ends; of a GPU, ask once."""
    if not pred.is_floating_point() or not pred.numel() or pred.device.type in _seen:
        return False
    if not pred.is_cpu:
        _seen.add(pred.device.type)
    if pred.min().item() < 0:  # the usual case, found fast
        return False
    return bool(pred.max() <= 1) and bool(((pred > 0) & (pred < 1)).any())


# cell efa92097 3be374 · A mean over batches
def binary_accuracy(pred: Tensor, target: Tensor, threshold: float = 0.0,
                    ignore_index: int = -100) -> Tensor:
    """Return the share of predictions that are above the threshold exactly where the target is 1.

    The default is for logits; for probabilities pass threshold=0.5, with `functools.partial` if
    need be; if a batch looks like these and the threshold is 0, there is a warning. With several
    yes-or-no questions for each sample, each counts, unless its target is `ignore_index`.
    Shape: pred (…) or (…, 1), target (…) of zeros and ones -> (), between 0 and 1.
    Raises: ValueError for other shapes, which broadcasting would hide.
    """
    if pred.shape not in (target.shape, (*target.shape, 1)):
        raise ValueError(f"pred (…) or (…, 1) needs a target (…), got {tuple(pred.shape)} and "
                         f"{tuple(target.shape)}")
    if threshold == 0 and _look_like_probabilities(pred):
        warn_of_probabilities("binary_accuracy", "partial(binary_accuracy, threshold=0.5)")
    right = (pred.reshape(target.shape) > threshold) == (target > 0.5)
    return _share(right, target, ignore_index)


binary_accuracy.higher_is_better = True
binary_accuracy.divisor = count_kept  # what the mean is taken over


# cell 7c6620cb 05061b · A mean over batches
def _remedy(pred: Tensor, target: Tensor) -> str:
    """Say what to use for predictions of which `accuracy` cannot take the largest."""
    if pred.shape == (*target.shape, 1) or (pred.shape == target.shape and pred.ndim < 2):
        return ": for one logit per target use binary_accuracy (for probabilities, threshold=0.5)"
    if pred.shape == target.shape:
        return (": if the targets are one-hot or probabilities of the classes, compare with "
                "target.argmax(-1); if each is a yes or no of its own, use binary_accuracy")
    if pred.ndim > 2 and pred.shape[:1] + pred.shape[2:] == target.shape:
        return ": bring classes on axis 1 to the end with pred.movedim(1, -1)"
    if pred.shape[:-1] == target.shape[:-1] and target.shape[-1:] == (1,):
        return ": drop the last axis of the target with target.squeeze(-1)"
    return ""


# cell f257addd 5fe467 · A mean over batches
_TARGETS = {"y_true", "target", "targets", "label", "labels", "ground_truth"}


def check_argument_order(metric: Callable[..., Any]) -> None:
    """Refuse a function whose first parameter is named as targets are: it must be (pred, target).

    Raises: TypeError, with the remedy.
    """
    try:
        first = next(iter(signature(metric).parameters), "")
    except (TypeError, ValueError):  # some functions in C do not show their parameters
        return
    if first in _TARGETS:
        name = getattr(metric, "__name__", "f")
        raise TypeError("a metric is called with (pred, target), and the first parameter of "
                        f"{name} is {first!r}; swap: lambda pred, target: {name}(target, pred)")


# cell 56b05bf8 3e9d39 · A mean over batches
@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Restore the mode of each part of a model after the block, also after an exception."""
    modes = [(part, part.training) for part in model.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


# cell 196418d9 8e810e · A mean over batches
@dataclass(frozen=True)
class Scores:
    """Mean loss and metric over `n` samples."""

    loss: float
    metric: float
    n: int

    def __repr__(self) -> str:
        return f"loss {self.loss:.4f}, metric {self.metric:.4f} over {self.n} samples"


# cell ec8a119f 6b5afa · A mean over batches
@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]],
             loss_func: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
             metric: Callable[[Tensor, Tensor], Tensor] = accuracy) -> Scores:
    """Return the mean loss and metric over all samples, with the model in evaluation mode.

    Afterwards each part of the model is in the mode it was in, also after an exception.
    Raises: ValueError if there is no batch; TypeError for a metric (target, pred).
    """
    check_argument_order(metric)
    losses, metrics = RunningMean(), RunningMean()
    with modes_kept(model):
        model.eval()
        for xb, yb in batches:
            pred = model(xb)
            losses.add(loss_func(pred, yb), len(xb))
            metrics.add(metric(pred, yb), len(xb))
    return Scores(losses.value, metrics.value, losses.n)


# cell 2a5301c1 f02cd2 · The training loop
@dataclass(frozen=True)
class Epoch:
    """The results of one epoch of `fit`; losses in nats for cross-entropy, time in seconds."""

    steps: int
    train_loss: float
    valid_loss: float
    metric: float
    seconds: float


# cell bdc60cec 9f6ce5 · The training loop
class History(list[Epoch]):
    """The epochs of a training; printed, they are a table."""

    def __repr__(self) -> str:
        rows = [f"{i:>5} {e.steps:>7} {e.train_loss:>10.4f} {e.valid_loss:>10.4f} {e.metric:>8.4f} "
                f"{e.seconds:>8.2f}" for i, e in enumerate(self)]
        return "\n".join(["epoch   steps train_loss valid_loss   metric  seconds", *rows])

    def column(self, name: str) -> Tensor:
        """Return one column, such as "valid_loss". Shape: -> (epochs,)."""
        return torch.tensor([getattr(epoch, name) for epoch in self], dtype=torch.float64)


# cell 006964c5 1dca32 · The training loop
def fit(epochs: int, model: nn.Module, dls: DataLoaders, opt: torch.optim.Optimizer,
        loss_func: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        metric: Callable[[Tensor, Tensor], Tensor] = accuracy) -> History:
    """For each epoch: step on every training batch, then evaluate on the validation batches.

    Raises: ValueError if there is no validation set, or no batch in one of the loaders.
    """
    if dls.valid is None:
        raise ValueError("this fit evaluates after each epoch, so it needs a validation set")
    history, steps = History(), 0
    for _ in range(epochs):
        start, losses = time.perf_counter(), RunningMean()
        model.train()
        for xb, yb in dls.train:
            loss = loss_func(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.add(loss, len(xb))
            steps += 1
        scores = evaluate(model, dls.valid, loss_func, metric)
        history.append(Epoch(steps, losses.value, scores.loss, scores.metric,
                             time.perf_counter() - start))
    return history
