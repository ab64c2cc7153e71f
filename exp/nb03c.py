"""Training that generalises

By the end you will have a training loop whose numbers can be trusted, three sets of data with a reason for each, and a method: overfit first, then cure the overfitting, in a fixed order.
"""

# cell 6bf3c1aa a6284e · Imports
from __future__ import annotations

# generated from nbs/03c_generalisation.ipynb: do not edit · 9dabb0
__all__ = [
    "accuracy",
    "binary_accuracy",
    "modes_kept",
    "Scores",
    "evaluate",
    "Epoch",
    "History",
    "fit",
]

# cell 6bf3c1aa 3c1f4f · Imports
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

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


# cell 90dd2f85 5595b7 · A mean over batches
def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    """Return the share of targets whose class has the largest logit.

    Shape: pred (…, C) with C of at least 2, target (…) of class numbers -> (), between 0 and 1.
    Raises: ValueError for other shapes, one logit for each target included: see `binary_accuracy`.
    """
    if pred.shape[:-1] != target.shape or pred.ndim == 0 or pred.shape[-1] == 1:
        raise ValueError(f"pred (…, C) needs a target (…), got {tuple(pred.shape)} and "
                         f"{tuple(target.shape)}{_remedy(pred, target)}")
    return (pred.argmax(-1) == target).mean(dtype=torch.float64)


accuracy.higher_is_better = True
accuracy.divisor = lambda pred, target: target.numel()  # what the mean is taken over


# cell 5bc776f2 efee33 · A mean over batches
def binary_accuracy(pred: Tensor, target: Tensor, threshold: float = 0.0) -> Tensor:
    """Return the share of predictions that are above the threshold exactly where the target is 1.

    The default is for logits; for probabilities pass threshold=0.5, with `functools.partial` if
    need be. With several yes-or-no questions for each sample, each counts.
    Shape: pred (…) or (…, 1), target (…) of zeros and ones -> (), between 0 and 1.
    Raises: ValueError for other shapes, which broadcasting would hide.
    """
    if pred.shape not in (target.shape, (*target.shape, 1)):
        raise ValueError(f"pred (…) or (…, 1) needs a target (…), got {tuple(pred.shape)} and "
                         f"{tuple(target.shape)}")
    right = (pred.reshape(target.shape) > threshold) == (target > 0.5)
    return right.mean(dtype=torch.float64)


binary_accuracy.higher_is_better = True
binary_accuracy.divisor = lambda pred, target: target.numel()  # what the mean is taken over


# cell efa92097 23a366 · A mean over batches
def _remedy(pred: Tensor, target: Tensor) -> str:
    """Say what to use for predictions of which `accuracy` cannot take the largest."""
    if pred.shape == (*target.shape, 1) or (pred.shape == target.shape and pred.ndim < 2):
        return ": for one logit per target use binary_accuracy (for probabilities, threshold=0.5)"
    if pred.shape == target.shape:
        return (": if the targets are one-hot or probabilities of the classes, compare with "
                "target.argmax(-1); if each is a yes or no of its own, use binary_accuracy")
    return ""


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


# cell ec8a119f 3925e7 · A mean over batches
@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]],
             loss_func: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
             metric: Callable[[Tensor, Tensor], Tensor] = accuracy) -> Scores:
    """Return the mean loss and metric over all samples, with the model in evaluation mode.

    Afterwards each part of the model is in the mode it was in, also after an exception.
    Raises: ValueError if there is no batch.
    """
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
