"""Scores: what accuracy hides

By the end you will have the scores by which models are compared: confusion matrix, precision, recall and F1, the two curves of a detector with the areas under them, and R². Each takes batches as they come, and equals scikit-learn's.
"""

# cell 6187265c a6284e · Scores: what accuracy hides
from __future__ import annotations

# generated from nbs/03j_scores.ipynb: do not edit · 90cf09
__all__ = [
    "show_confusion",
    "ConfusionMatrix",
    "F1Score",
    "roc_auc",
    "average_precision",
    "mean_average_precision",
    "R2Score",
]
__dir__ = __all__.copy  # what completion offers

# cell 6187265c 0d2909 · Scores: what accuracy hides
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from exp.nb03c import warn_of_probabilities
from exp.nb03e import Metric


# cell bc863635 594153 · Which digit is taken for which?
def show_confusion(matrix: Tensor, classes: Sequence[Any] | None = None) -> None:
    """Draw a confusion matrix: the counts, and each row's shares as colours.

    Shape: matrix (C, C), rows: targets, columns: predictions.
    Raises: ValueError for another shape, or another number of classes.
    """
    import matplotlib.pyplot as plt

    C = len(matrix)
    classes = list(range(C)) if classes is None else list(classes)
    if matrix.shape != (C, C) or len(classes) != C:
        raise ValueError(f"a matrix (C, C) and C classes are needed, got {tuple(matrix.shape)} and "
                         f"{len(classes)} classes")
    shares = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    size = 1.2 + 0.36 * C
    _, axis = plt.subplots(figsize=(size, size), layout="constrained")
    axis.imshow(shares.cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
    for t, p in matrix.nonzero().tolist() if C <= 30 else ():
        axis.text(p, t, int(matrix[t, p]), ha="center", va="center", fontsize=8,
                  color="white" if shares[t, p] > 0.5 else "black")
    axis.set_xticks(range(C), classes, rotation=90 if max(map(len, map(str, classes))) > 2 else 0)
    axis.set_yticks(range(C), classes)
    axis.set(title="Confusion matrix", xlabel="predicted", ylabel="target")
    plt.show()


# cell 10061872 dd6378 · From batches
class ConfusionMatrix(Metric):
    """Count how often items of each class were predicted as each class.

    `pred` holds scores (…, C), or classes (…) as integers, or, for two classes, one score each, (…)
    or (…, 1): class 1 lies above `threshold`, 0.5 for probabilities; if they look like these and it
    is 0, `compute` warns. Targets of `ignore_index` do not count.
    Shape: pred (…, C), (…) or (…, 1), target (…); `compute` -> (C, C), rows: targets, columns:
        predictions.
    Raises: ValueError for shapes that do not fit, and from `compute` for classes outside 0..C-1.
    """

    name = "confusion_matrix"

    def __init__(self, n_classes: int, ignore_index: int = -100, threshold: float = 0.0):
        if type(n_classes) is not int or n_classes < 2:
            raise ValueError(f"n_classes must be an integer of at least 2, got {n_classes!r}")
        self.n_classes, self.ignore_index, self.threshold = n_classes, ignore_index, threshold
        self.reset()

    def reset(self) -> None:
        self.counts = torch.zeros((self.n_classes + 2) * self.n_classes, dtype=torch.int64)
        self.places = torch.zeros(2, dtype=torch.int64)  # single scores outside [0, 1], and within

    @property
    def is_table(self) -> bool:
        """Whether it computes no single number, as a subclass may."""
        return type(self).compute is ConfusionMatrix.compute

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Count a batch; this waits for nothing."""
        C, classes, given = self.n_classes, self._classes(pred, target).flatten(), target.flatten()
        target = given.long()
        row = target.clamp(-1, C).remainder(C + 1)  # row C is for what is not a class
        if given.is_floating_point():
            row = torch.where(target == given, row, C)
        if not pred.is_floating_point():  # classes that were chosen elsewhere
            row = torch.where((classes >= 0) & (classes < C), row, C)
            classes = classes.clamp(0, C - 1)
        place = torch.where(target == self.ignore_index, C + 1, row) * C + classes
        self.counts = self.counts.to(place.device, non_blocking=True) + _count(place, (C + 2) * C)

    def _classes(self, pred: Tensor, target: Tensor) -> Tensor:
        """Bring predictions to classes, in the shape of the targets."""
        if pred.shape == (*target.shape, self.n_classes):
            return pred.argmax(-1)
        if pred.shape in (target.shape, (*target.shape, 1)):
            one = pred.reshape(target.shape)
            if not pred.is_floating_point():
                return one.long()
            if self.n_classes == 2:
                self._place(one)
                return (one > self.threshold).long()
        raise ValueError(
            f"metric {self.name!r} needs scores (…, {self.n_classes}) and targets (…), got "
            f"{tuple(pred.shape)} and {tuple(target.shape)}{self._remedy(pred, target)}")

    def _remedy(self, pred: Tensor, target: Tensor) -> str:
        """Say what may be meant by shapes that do not fit."""
        C, scores, given = self.n_classes, tuple(pred.shape), tuple(target.shape)
        if scores[:1] + scores[2:] == given and scores[1:2] == (C,):
            return "; bring classes on axis 1 to the end with pred.movedim(1, -1)"
        if given[-1:] == (1,) and scores in ((*given[:-1], C), given[:-1]):
            return "; drop the last axis of the target with target.squeeze(-1)"
        if scores in (given, (*given, 1)):
            return ("; give classes that were chosen already as integers, bring one-hot targets to "
                    "classes with target.argmax(-1); one score each is for n_classes=2")
        return ""

    def _place(self, scores: Tensor) -> None:
        """Count how many single scores lie outside [0, 1], and how many within."""
        counts = ((scores < 0) | (scores > 1), (scores > 0) & (scores < 1))
        found = torch.stack([count.count_nonzero() for count in counts])
        self.places = self.places.to(found.device, non_blocking=True) + found

    def compute(self) -> Tensor:
        """Return the counts. Shape: -> (C, C)."""
        *classes, invalid, _ = self.counts.view(-1, self.n_classes)
        if invalid.any():
            raise ValueError(f"metric {self.name!r}: {invalid.sum()} targets or predictions were "
                             f"not a class in 0..{self.n_classes - 1}")
        outside, within = self.places.tolist()
        if within and not outside and self.threshold == 0:
            kind = type(self).__name__
            warn_of_probabilities(f"metric {self.name!r}", f"{kind}(…, threshold=0.5)")
        return torch.stack(classes)

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.counts = torch.stack([state["counts"] for state in states]).sum(0)
        self.places = torch.stack([state["places"] for state in states]).sum(0)


def _count(place: Tensor, n: int) -> Tensor:
    """Count how often each number in 0..n-1 occurs. `bincount` would make Python wait for a GPU."""
    if place.is_cpu:
        return place.bincount(minlength=n)
    return place.new_zeros(n).index_add(0, place, torch.ones_like(place))


# cell 4d79207d ce3953 · Found, missed, and false alarms
class F1Score(ConfusionMatrix):
    """The harmonic mean of precision and recall, from the counts over all items.

    `average`: "macro", the mean over the classes that occur, as targets or predictions; "weighted",
    by how often each is the target; "micro", of all counts together; "binary", class 1 of two.
    Differs: scikit-learn's default is "binary".
    """

    name = "f1"
    higher_is_better = True

    def __init__(self, n_classes: int, average: str = "macro", ignore_index: int = -100,
                 threshold: float = 0.0):
        if average not in (known := ("macro", "weighted", "micro", "binary")):
            raise ValueError(f"average must be one of {known}, got {average!r}")
        if average == "binary" and n_classes != 2:
            raise ValueError(f'average="binary" is for 2 classes, got n_classes={n_classes}')
        self.average = average
        super().__init__(n_classes, ignore_index, threshold)

    def per_class(self) -> Tensor:
        """Return the F1 of each class, nan for one that did not occur. Shape: -> (C,)."""
        matrix = super().compute().double()
        return 2 * matrix.diagonal() / (matrix.sum(0) + matrix.sum(1))

    def compute(self) -> float:
        """Return the average."""
        matrix, scores = super().compute().double(), self.per_class()
        if self.average == "micro":
            return (matrix.trace() / matrix.sum()).item()
        if self.average == "macro":
            return scores.nanmean().item()
        weights = matrix.sum(1) if self.average == "weighted" else torch.arange(2)
        return ((weights * scores.nan_to_num(0.0)).sum() / weights.sum()).item()


# cell 11a95ecb d7d37d · A score and a threshold
def _scores_of_two(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Bring predictions to one score an item, and targets to whether it is positive. -> (N,)"""
    if pred.ndim == 2 and pred.shape[1] == 2 and target.ndim == 1:
        pred = pred[:, 1] - pred[:, 0]  # grows with the softmax's probability of class 1
    pred, target = (x[:, 0] if x.ndim == 2 and x.shape[1] == 1 else x for x in (pred, target))
    if pred.ndim != 1 or pred.shape != target.shape:
        raise ValueError("one score an item is needed, (N,), (N, 1) or two logits (N, 2), and a "
                         f"target of 0 or 1, got {tuple(pred.shape)} and {tuple(target.shape)}; of "
                         "more classes take one: pred[:, c], target == c")
    positive = target == 1
    if not (positive | (target == 0)).all():
        raise ValueError(f"targets must be 0 or 1, got {target.unique()[:10].tolist()}")
    return pred, positive


def _undefined(why: str) -> float:
    """Return nan with a warning: an error would end a training, and lose the other results."""
    warnings.warn(f"{why}; it is nan", stacklevel=3)
    return float("nan")


# cell f5dbf068 a5b5ee · A score and a threshold
def roc_auc(pred: Tensor, target: Tensor) -> float:
    """Compute how often a positive item scores above a negative one; a tie counts one half.

    Shape: pred (N,), (N, 1) or logits (N, 2), target (N,) of 0 and 1. nan if a score is nan, and
    with a warning if there are items of one class only.
    Source: Fawcett 2006, section 7.
    """
    scores, positive = _scores_of_two(pred, target)
    N, P = len(scores), positive.sum().item()
    if P in (0, N):
        return _undefined(f"roc_auc needs items of both classes, got {P} positive ones of {N}")
    if scores.isnan().any():
        return float("nan")
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0) - (counts.double() - 1) / 2  # equal scores share the mean rank
    return (ranks[place][positive].sum().item() - P * (P + 1) / 2) / (P * (N - P))


# cell 8dc281c2 39188a · A score and a threshold
def average_precision(pred: Tensor, target: Tensor) -> float:
    """Average the precision over the positive items: at each, among all that score as high.

    Shape: as for `roc_auc`. nan if a score is nan, and with a warning if no item is positive.
    """
    scores, positive = _scores_of_two(pred, target)
    if not positive.any():
        return _undefined(f"average_precision needs a positive item, got none of {len(positive)}")
    if scores.isnan().any():
        return float("nan")
    scores, order = scores.sort(descending=True)
    last = scores.diff(append=scores.new_full((1,), -torch.inf)) != 0  # the last of equal scores
    found = positive[order].cumsum(0).double()[last]
    precision = found / torch.arange(1, len(scores) + 1, device=scores.device)[last]
    return ((precision * found.diff(prepend=found.new_zeros(1))).sum() / found[-1]).item()


# cell 7c977d2c f848c6 · A score and a threshold
def mean_average_precision(pred: Tensor, target: Tensor) -> float:
    """Average `average_precision` over the classes that have a positive item.

    Shape: pred (N, C), target (N, C) of 0 and 1, or (N,) of classes.
    nan, with a warning, if no class has a positive item.
    Raises: ValueError for shapes that do not fit.
    Differs: scikit-learn counts a class without a positive item as 0.
    """
    if target.ndim == 1 and pred.ndim == 2:
        target = target[:, None] == torch.arange(pred.shape[1], device=target.device)
    if pred.ndim != 2 or pred.shape != target.shape:
        raise ValueError("pred (N, C) and target (N, C) or (N,) are needed, got "
                         f"{tuple(pred.shape)} and {tuple(target.shape)}")
    scores = [average_precision(pred[:, c], target[:, c]) for c in range(pred.shape[1])
              if (target[:, c] == 1).any()]
    if not scores:
        return _undefined("mean_average_precision needs a positive item, got none")
    return sum(scores) / len(scores)


# cell 46ccf25e 1325be · A score and a threshold
for _score in (roc_auc, average_precision, mean_average_precision):
    _score.higher_is_better, _score.of_epoch = True, True  # given to a Learner: an EpochMetric


# cell b97528df 296522 · How much is explained
class R2Score(Metric):
    """The share of the targets' variance that predictions explain; of several columns the mean.

    Shape: pred (N, …), target the same.
    Raises: ValueError for shapes that differ, which broadcasting would hide.
    Source: Chan, Golub and LeVeque 1979, equation 2.1, for the variance.
    """

    name = "r2"
    higher_is_better = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.n, self.mean, self.squares, self.residual = 0, None, None, None

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Take in a batch; this waits for nothing."""
        if pred.shape != target.shape or not pred.ndim:
            raise ValueError("metric 'r2' needs pred and target of the same shape (N, …), got "
                             f"{tuple(pred.shape)} and {tuple(target.shape)}")
        if len(pred):
            pred, target = (x.detach().double().reshape(len(x), -1) for x in (pred, target))
            mean, residual = target.mean(0), (target - pred).square().sum(0)
            self._join(len(pred), mean, (target - mean).square().sum(0), residual)

    def _join(self, n: int, mean: Tensor, squares: Tensor, residual: Tensor) -> None:
        """Join the sums over other items to those so far."""
        if self.n:
            apart, total = mean - self.mean, self.n + n
            squares = self.squares + squares + apart.square() * (self.n * n / total)
            mean, residual = self.mean + apart * (n / total), self.residual + residual
        self.n, self.mean, self.squares, self.residual = self.n + n, mean, squares, residual

    def compute(self) -> float:
        """Return R²; for a column of equal targets 1 if all are met, else 0.

        nan, with a warning, for fewer than two items, which have no variance.
        """
        if self.n < 2:
            return _undefined(f"metric 'r2' needs at least two items, got {self.n}")
        missed, share = (self.residual > 0).double(), self.residual / self.squares
        return 1 - torch.where(self.squares == 0, missed, share).mean().item()

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.reset()
        for state in states:
            if state["n"]:
                self._join(*(state[key] for key in ("n", "mean", "squares", "residual")))
