"""Training that generalises

In the end you have a training loop whose numbers can be believed, three sets of data and a reason for each, and a method: overfit first, then cure it, in this order.
"""

# cell 6bf3c1aa a6284e · Imports
from __future__ import annotations

# generated from nbs/03c_generalisation.ipynb: do not edit
__all__ = [
    "RunningMean",
    "accuracy",
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


# cell 29d6f117 ad6dfb · A mean over batches
class RunningMean:
    """A mean over batches in which each sample counts once, however large its batch.

    Raises: ValueError from `value` before anything was added.
    """

    def __init__(self):
        self.total, self.n = torch.zeros((), dtype=torch.float64), 0

    def add(self, mean: Tensor | float, n: int) -> None:
        """Take in the mean of one batch of `n` samples."""
        mean = mean.detach() if isinstance(mean, Tensor) else mean
        self.total = torch.add(self.total, mean, alpha=n)  # in double precision, as the total is
        self.n += n

    @property
    def value(self) -> float:
        """The mean over all samples so far."""
        if self.n == 0:
            raise ValueError("the mean of nothing: not a single batch came; is the data set empty, "
                             "or smaller than a batch with drop_last?")
        return float(self.total) / self.n


# cell 90dd2f85 fc689d · A mean over batches
def accuracy(pred: Tensor, target: Tensor) -> Tensor:
    """Count how often the largest logit is that of the right class.

    Shape: pred (…, C), target (…) -> (), a share between 0 and 1.
    Raises: ValueError if the shapes do not fit, which broadcasting would hide.
    """
    if pred.shape[:-1] != target.shape:
        raise ValueError(f"pred (…, C) needs a target (…), got {tuple(pred.shape)} and "
                         f"{tuple(target.shape)}")
    return (pred.argmax(-1) == target).mean(dtype=torch.float64)


# cell 56b05bf8 9798f6 · A mean over batches
@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """Put each part of a model back into the mode it was in before the block, whatever ends it."""
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


# cell ec8a119f 80276b · A mean over batches
@torch.no_grad()
def evaluate(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]],
             loss_function: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
             metric: Callable[[Tensor, Tensor], Tensor] = accuracy) -> Scores:
    """Average loss and metric over all samples of the batches, with the model in eval mode.

    Each part of the model is put back into the mode it was in, also after an exception.
    Raises: ValueError if there is no batch.
    """
    losses, metrics = RunningMean(), RunningMean()
    with modes_kept(model):
        model.eval()
        for xb, yb in batches:
            pred = model(xb)
            losses.add(loss_function(pred, yb), len(xb))
            metrics.add(metric(pred, yb), len(xb))
    return Scores(losses.value, metrics.value, losses.n)


# cell 2a5301c1 daae02 · The training loop
@dataclass(frozen=True)
class Epoch:
    """What one epoch of `fit` came to; losses in nats for cross-entropy, time in seconds."""

    steps: int
    train_loss: float
    valid_loss: float
    metric: float
    seconds: float


# cell bdc60cec a49b1d · The training loop
class History(list[Epoch]):
    """The epochs of a training, as a table."""

    def __repr__(self) -> str:
        rows = [f"{i:>5} {e.steps:>7} {e.train_loss:>10.4f} {e.valid_loss:>10.4f} {e.metric:>8.4f} "
                f"{e.seconds:>8.2f}" for i, e in enumerate(self)]
        return "\n".join(["epoch   steps train_loss valid_loss   metric  seconds", *rows])

    def column(self, name: str) -> Tensor:
        """Give one column, such as "valid_loss", as a tensor (epochs,)."""
        return torch.tensor([getattr(epoch, name) for epoch in self], dtype=torch.float64)


# cell 006964c5 c7538b · The training loop
def fit(epochs: int, model: nn.Module, loaders: DataLoaders, opt: torch.optim.Optimizer,
        loss_function: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        metric: Callable[[Tensor, Tensor], Tensor] = accuracy) -> History:
    """For each epoch: step on every training batch, then evaluate on the validation batches.

    Raises: ValueError if one of the loaders gives no batch.
    """
    history, steps = History(), 0
    for _ in range(epochs):
        start, losses = time.perf_counter(), RunningMean()
        model.train()
        for xb, yb in loaders.train:
            loss = loss_function(model(xb), yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.add(loss, len(xb))
            steps += 1
        scores = evaluate(model, loaders.valid, loss_function, metric)
        history.append(Epoch(steps, losses.value, scores.loss, scores.metric,
                             time.perf_counter() - start))
    return history
