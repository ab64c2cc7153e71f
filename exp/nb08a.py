"""Several labels at once

By the end you will have a network that names everything it sees in a picture, which may be nothing; the loss that trains it, equal to PyTorch's in values and gradients; scores beside the baseline that they must beat; and a threshold chosen for a reason.
"""

# cell 2b3092c6 a6284e · Several labels at once
from __future__ import annotations

# generated from nbs/08a_targets.ipynb: do not edit · 319da0
__all__ = [
    "binary_cross_entropy_with_logits",
    "accuracy_multi",
    "multi_label_scores",
    "threshold_curve",
    "choose_threshold",
]
__dir__ = __all__.copy  # what completion offers

# cell 2b3092c6 954a9a · Several labels at once
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from exp.nb03e import divides_by
from exp.nb03j import mean_average_precision


# cell 414f1b22 893d72 · Yes or no, for each label
def _elements(pred: Tensor, target: Tensor) -> int:
    return pred.numel()


def _check_answers(pred: Tensor, target: Tensor, what: str) -> None:
    """Refuse targets that are not as many floats as predictions."""
    if pred.shape != target.shape:
        raise ValueError(f"{what} needs a target for each prediction, got {tuple(pred.shape)} and "
                         f"{tuple(target.shape)}" + (
                             "; class numbers (B,) are for cross_entropy, or make them rows of 0 "
                             "and 1: MultiCategoryBlock" if pred.ndim == target.ndim + 1 else ""))
    if not target.is_floating_point():
        raise TypeError(f"{what} needs targets as floats, since they are probabilities, got "
                        f"{target.dtype}: target.float()")


@divides_by(_elements)
def binary_cross_entropy_with_logits(logits: Tensor, target: Tensor, reduction: str = "mean",
                                     pos_weight: Tensor | None = None) -> Tensor:
    """Take the negative logarithm of the probability of each right answer, yes or no.

    `pos_weight` multiplies the losses of "yes", for labels that are rare.
    Shape: logits (…), target the same -> (), or (…) for reduction "none"; pos_weight broadcasts.
    Units: nats.
    Raises: ValueError for shapes that differ; TypeError for integer targets.
    Differs: PyTorch's also takes `weight`; its error for integers speaks of a result type.
    """
    _check_answers(logits, target, "binary_cross_entropy_with_logits")
    zero = logits.new_zeros(())
    yes, no = torch.logaddexp(zero, -logits), torch.logaddexp(zero, logits)
    losses = target * (yes if pos_weight is None else yes * pos_weight) + (1 - target) * no
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    return losses if reduction == "none" else getattr(losses, reduction)()


# cell d482b68b 5b3476 · A share of right answers, and what it hides
@divides_by(_elements)
def accuracy_multi(pred: Tensor, target: Tensor, threshold: float = 0.5,
                   sigmoid: bool = True) -> Tensor:
    """Return the share of right answers, yes or no, over all labels of all items.

    A prediction is a yes above `threshold`, a probability. `sigmoid`: pred holds logits; without
    it, probabilities. If they look like the other of the two, there is a warning.
    Shape: pred (…, C), target the same, of 0 and 1 -> ().
    Raises: ValueError for shapes that differ, or a threshold outside 0..1.
    """
    _check_answers(pred, target.float(), "accuracy_multi")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a probability, between 0 and 1, got {threshold}")
    _check_range(pred, sigmoid)
    chances = pred.sigmoid() if sigmoid else pred
    return ((chances > threshold) == (target > 0.5)).double().mean()


accuracy_multi.higher_is_better = True


def _check_range(pred: Tensor, sigmoid: bool) -> None:
    """Warn if a batch of predictions looks as if the sigmoid were applied twice, or not at all."""
    if not pred.is_cpu or pred.numel() < 2:  # a look at a GPU's numbers would wait for it
        return
    low, high = (x.item() for x in pred.aminmax())
    if sigmoid and low >= 0 and high <= 1 and low < high:
        warnings.warn("accuracy_multi: all predictions lie between 0 and 1. If the model ends in a "
                      "sigmoid, it is applied twice: pass sigmoid=False, with functools.partial",
                      stacklevel=4)
    if not sigmoid and (low < 0 or high > 1):
        warnings.warn(f"accuracy_multi: with sigmoid=False predictions are probabilities, and they "
                      f"lie in {low:.3g}..{high:.3g}; for logits, leave sigmoid=True", stacklevel=4)


# cell c7f85444 e9d0db · A share of right answers, and what it hides
def multi_label_scores(pred: Tensor, target: Tensor, threshold: float = 0.5,
                       sigmoid: bool = True) -> dict[str, float]:
    """Compute `accuracy_multi`, what always answering "nothing" would reach, and the mAP.

    A metric of a whole epoch: metrics=[multi_label_scores]. Shape: pred (N, C), target the same.
    """
    return {"accuracy_multi": accuracy_multi(pred, target, threshold, sigmoid).item(),
            "of_nothing": (target <= 0.5).double().mean().item(),
            "mean_ap": mean_average_precision(pred, target)}


multi_label_scores.of_epoch = True


# cell b9824155 80b9fe · Where to draw the line
def threshold_curve(pred: Tensor, target: Tensor, thresholds: Sequence[float] | None = None,
                    metric: Callable[..., Tensor] = accuracy_multi,
                    sigmoid: bool = True) -> tuple[Tensor, Tensor]:
    """Evaluate a metric at many thresholds, by default 0.01, 0.02 … 0.99.

    `metric(pred, target, threshold=…, sigmoid=False)` is given probabilities.
    Shape: pred (N, C), target the same -> thresholds (K,), scores (K,).
    """
    chances = pred.sigmoid() if sigmoid else pred
    given = [k / 100 for k in range(1, 100)] if thresholds is None else list(thresholds)
    scores = [float(metric(chances, target, threshold=t, sigmoid=False)) for t in given]
    return torch.tensor(given, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64)


def choose_threshold(pred: Tensor, target: Tensor, thresholds: Sequence[float] | None = None,
                     metric: Callable[..., Tensor] = accuracy_multi, sigmoid: bool = True) -> float:
    """Return the threshold at which a metric is highest; of several, the middle one."""
    tried, scores = threshold_curve(pred, target, thresholds, metric, sigmoid)
    best = tried[scores == scores.max()]
    return best[len(best) // 2].item()
