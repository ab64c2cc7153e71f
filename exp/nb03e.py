"""Metrics: figures that do not depend on the batches

By the end you will have the figures by which models are judged, each computed over a whole epoch: means that divide by what their function divided by, and scores that are no means at all, in bounded memory wherever that is possible.
"""

# cell b6f66f3b a6284e · Imports
from __future__ import annotations

# generated from nbs/03e_metrics.ipynb: do not edit · 1a150a
__all__ = [
    "divides_by",
    "divisor_of",
    "is_metric",
    "Metric",
    "metric_state",
    "restore_metric_state",
    "check_number",
    "MeanMetric",
    "ConfusionMatrix",
    "F1Score",
    "R2Score",
    "EpochMetric",
    "roc_auc",
    "average_precision",
    "mean_average_precision",
    "name_metrics",
    "figure_names",
    "figures",
]

# cell b6f66f3b 890d30 · Imports
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exp.nb03 import cross_entropy, nll_loss
from exp.nb03c import accuracy
from exp.nb03d import Column


# cell ed7c62d5 44c71e · What a number is divided by
def divides_by(count: Callable[[Any, Any], Tensor | float]) -> Callable[[Callable], Callable]:
    """Decorate a mean (pred, target) -> number: `count(pred, target)` is what it divides by."""
    if not callable(count):
        raise TypeError(f"divides_by needs a function (pred, target) -> number, got {count!r}")

    def mark(function: Callable) -> Callable:
        function.divisor = count
        return function

    return mark


# cell 8bc69807 b0fa54 · What a number is divided by
def _elements(pred: Any, target: Any) -> int:
    return pred.numel()


def _labels(pred: Any, target: Any) -> int:
    return target.numel()


# cell a03b096c 83ac38 · What a number is divided by
def _targets_counted(find_weight: Callable[[], Tensor | None],
                     ignore_index: int) -> Callable[[Tensor, Tensor], Tensor | int]:
    """Count as cross-entropy does: the targets that are not ignored, each by its class's weight."""

    def count(pred: Tensor, target: Tensor) -> Tensor | int:
        if target.is_floating_point():  # probabilities, (B, C, …) as the predictions
            return pred.numel() // pred.shape[min(1, pred.ndim - 1)]
        counted, weight = target != ignore_index, find_weight()
        return counted.count_nonzero() if weight is None else (weight[target * counted] * counted).sum()

    return count


# cell 105206d9 37f11b · What a number is divided by
_CROSS_ENTROPIES = {F.cross_entropy, F.nll_loss, cross_entropy, nll_loss}
_OVER_ELEMENTS = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
                  "binary_cross_entropy_with_logits", "poisson_nll_loss", "kl_div"}
_LAYERS_OVER_ELEMENTS = {"MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCELoss",
                         "BCEWithLogitsLoss", "PoissonNLLLoss", "KLDivLoss"}


# cell 31db1662 2bf210 · What a number is divided by
def divisor_of(function: Any) -> Callable[[Any, Any], Tensor | float] | None:
    """Find how to count what a mean loss or metric divides by; None if by the items of the batch.

    An attribute `divisor` says it (see `divides_by`). The losses of torch are known, with class
    weights, `ignore_index` and targets of any shape, also inside a `functools.partial`.
    """
    options: dict[str, Any] = {}
    while isinstance(function, partial):
        function, options = function.func, {**function.keywords, **options}
    if callable(found := getattr(function, "divisor", None)):
        return found
    if isinstance(function, nn.Module):
        return _divisor_of_layer(function)
    if options.get("reduction", "mean") != "mean":
        return None
    if function is accuracy:
        return _labels
    try:
        known = function in _CROSS_ENTROPIES
    except TypeError:  # not hashable
        return None
    if known:
        return _targets_counted(lambda: options.get("weight"), options.get("ignore_index", -100))
    of_torch = getattr(function, "__module__", "") == "torch.nn.functional"
    return _elements if of_torch and function.__name__ in _OVER_ELEMENTS else None


# cell fb857113 86ae2c · What a number is divided by
def _divisor_of_layer(layer: nn.Module) -> Callable[[Any, Any], Tensor | float] | None:
    forward = type(layer).forward  # a subclass with a `forward` of its own divides as it likes
    if getattr(layer, "reduction", None) != "mean" or forward.__module__ != "torch.nn.modules.loss":
        return None
    if forward is nn.CrossEntropyLoss.forward or forward.__qualname__ == "NLLLoss.forward":
        return _targets_counted(lambda: layer.weight, layer.ignore_index)
    name = forward.__qualname__.removesuffix(".forward")
    return _elements if name in _LAYERS_OVER_ELEMENTS else None


# cell 202dfa19 a23522 · The protocol
def is_metric(x: Any) -> bool:
    """Say whether an object has the methods `reset`, `update` and `compute` of a metric."""
    return not isinstance(x, type) and not _missing(x)


def _missing(x: Any) -> list[str]:
    methods = ("reset", "update", "compute")
    return [name for name in methods if not callable(getattr(x, name, None))]


# cell 205950c4 a1d67a · The protocol
class Metric:
    """A figure over many batches: `reset()`, then `update(pred, target)` each, then `compute()`.

    A subclass defines these three, and `merge` to work on several processes. What it keeps in
    attributes (tensors, numbers, strings, None; lists, tuples and dicts of them) is its state.
    `name`: what it is called in results. `phases`: in which it takes part.
    `higher_is_better`: None if that cannot be said.
    """

    name: str = ""
    phases: tuple[str, ...] = ("train", "valid")
    higher_is_better: bool | None = None

    def reset(self) -> None:
        """Forget all batches."""
        raise NotImplementedError(f"{type(self).__name__} must define reset(self)")

    def update(self, pred: Any, target: Any) -> None:
        """Take in the predictions and targets of a batch."""
        raise NotImplementedError(f"{type(self).__name__} must define update(self, pred, target)")

    def compute(self) -> Any:
        """Return the figure over all batches since `reset`."""
        raise NotImplementedError(f"{type(self).__name__} must define compute(self)")

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Become the union of these states: those of the same metric in several processes."""
        raise NotImplementedError(f"{type(self).__name__} must define merge(self, states) to be "
                                  "used on several processes")

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state, for a checkpoint."""
        return _attributes(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        _set_attributes(self, state)


# cell a12ae77e f42daf · The protocol
_SKIP = object()
_OF_MODULES = set(vars(nn.Module())) - {"training", "_buffers"}


def _plain(x: Any, place: str) -> Any:
    """Copy tensors, numbers, strings, None and what holds only these; `_SKIP` for the rest."""
    if x is None or type(x) in (bool, int, float, str, complex):
        return x
    if isinstance(x, Tensor):
        return _SKIP if isinstance(x, nn.Parameter) else x.detach().clone()
    if type(x).__module__ == "numpy" and hasattr(x, "item"):
        return x.copy() if x.ndim else x.item()
    if type(x) in (list, tuple):
        parts = [_plain(part, f"{place}[{i}]") for i, part in enumerate(x)]
        return _SKIP if any(part is _SKIP for part in parts) else type(x)(parts)
    if type(x) is dict:
        parts = {key: _plain(part, f"{place}[{key!r}]") for key, part in x.items()}
        return _SKIP if any(part is _SKIP for part in parts.values()) else parts
    if isinstance(x, set | Mapping | bytearray) or type(x).__module__ == "collections":
        raise TypeError(f"cannot save {place}, a {type(x).__name__}: keep the state of a metric in "
                        "tensors, numbers, strings, lists, tuples and dicts, or define "
                        "state_dict and load_state_dict")
    return _SKIP  # a function, a device: what the object was made with


# cell 3d380b76 fedb84 · The protocol
def _attributes(x: Any) -> dict[str, Any]:
    """Copy the attributes of an object that can change from batch to batch."""
    hidden = _OF_MODULES if isinstance(x, nn.Module) else ()
    found = {name: _plain(value, f"{type(x).__name__}.{name}")
             for name, value in vars(x).items() if name not in hidden}
    return {name: value for name, value in found.items() if value is not _SKIP}


def _set_attributes(x: Any, state: Mapping[str, Any]) -> None:
    """Set attributes to copies of these values; tensors go where the old ones are."""
    own = getattr(x, "device", None)
    for name, value in state.items():
        old = vars(x).get(name)
        device = old.device if isinstance(old, Tensor) else own
        setattr(x, name, _to_device(deepcopy(value), device))


def _to_device(x: Any, device: Any) -> Any:
    if isinstance(x, Tensor):
        return x.to(device) if isinstance(device, torch.device) else x
    if isinstance(x, list | tuple):
        return type(x)(_to_device(part, device) for part in x)
    return {key: _to_device(part, device) for key, part in x.items()} if type(x) is dict else x


# cell 6b634424 f31547 · The protocol
def _parts(metric: Any) -> dict[str, Any]:
    """Find the metrics that a metric holds, itself included, each by its place."""
    if isinstance(metric, nn.Module):
        return {place: part for place, part in metric.named_modules() if is_metric(part)}
    held = {name: part for name, part in vars(metric).items() if is_metric(part)}
    return {"": metric, **held}


def _has_own_state(metric: Any) -> bool:
    return not isinstance(metric, nn.Module) and hasattr(metric, "load_state_dict")


def metric_state(metric: Any) -> dict[str, Any]:
    """Copy the state of any object that follows the protocol, such as one of TorchMetrics.

    By its `state_dict`, or, without one, by its attributes that are tensors, numbers, strings,
    None, or lists, tuples and dicts of these. (A module's `state_dict` is another thing.)
    Raises: TypeError for an attribute of another kind that may change, such as a set.
    """
    if _has_own_state(metric):
        return metric.state_dict()
    return {place: metric_state(part) if part is not metric and _has_own_state(part)
            else _attributes(part) for place, part in _parts(metric).items()}


def restore_metric_state(metric: Any, state: Mapping[str, Any]) -> None:
    """Restore what `metric_state` returned, in an object that was made in the same way.

    Raises: ValueError if it is the state of an object with other parts.
    """
    if _has_own_state(metric):
        return metric.load_state_dict(state)
    parts = _parts(metric)
    if list(parts) != list(state):
        raise ValueError(f"the state is that of a metric with parts {list(state)}, not "
                         f"{list(parts)}; make the metric as it was made then")
    for place, part in parts.items():
        own = part is not metric and _has_own_state(part)
        part.load_state_dict(state[place]) if own else _set_attributes(part, state[place])


# cell c6f346f1 daf473 · The protocol
def check_number(name: str, value: Any) -> Tensor | float:
    """Return a metric's value for a batch as a number or a tensor of no axes; this never waits.

    Raises: TypeError or ValueError, with the metric's name, for anything else.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            raise ValueError(f"metric {name!r} returned a tensor of shape {tuple(value.shape)} and "
                             f"{value.dtype}; one real number a batch is needed: take its mean")
        return value.detach().reshape(()) if value.ndim else value.detach()
    if isinstance(value, int | float):
        return value
    if type(value).__module__ == "numpy" and getattr(value, "size", 0) == 1:
        return float(value.item())
    hint = "; does the function lack its return?" if value is None else ""
    raise TypeError(f"metric {name!r} returned {value!r:.80}; a number or a tensor of one number "
                    f"is needed{hint}")


# cell fe2aa219 5a4b01 · The protocol
class MeanMetric(Metric):
    """The mean of a function (pred, target) -> mean of the batch, weighed by what it divided by.

    Source: equation (1) of the lesson.
    """

    def __init__(self, function: Callable[[Any, Any], Any], name: str | None = None):
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"MeanMetric needs a function (pred, target), got {function!r}")
        self.function, self.name = function, name or _name(function)
        self.higher_is_better = getattr(function, "higher_is_better", None)
        self.divisor = divisor_of(function) or _items
        self.reset()

    def reset(self) -> None:
        self._values, self._divisors = Column(), Column()

    def update(self, pred: Any, target: Any) -> None:
        """Take in the mean of a batch; this waits for nothing."""
        self._values.append(check_number(self.name, self.function(pred, target)))
        self._divisors.append(self.divisor(pred, target))

    def compute(self) -> float:
        """Return the mean. Raises: ValueError before anything was counted."""
        divisors = self._divisors.read()
        if not divisors.sum():
            raise ValueError(f"metric {self.name!r} is the mean of nothing: no batch came, or "
                             "nothing in them counted")
        weighted = torch.where(divisors == 0, 0, divisors * self._values.read())  # 0 × nan is 0
        return (weighted.sum() / divisors.sum()).item()

    def state_dict(self) -> dict[str, Any]:
        return {"values": self._values.read(), "divisors": self._divisors.read()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._values.load(state["values"])
        self._divisors.load(state["divisors"])

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.load_state_dict({key: torch.cat([state[key] for state in states])
                              for key in ("values", "divisors")})


# cell 3131e10d 0a3bc0 · The protocol
def _items(pred: Any, target: Any) -> int:
    """Count the items of a batch."""
    return len(target) if isinstance(target, Tensor) and target.ndim else 1


# cell 010ab6df 4d5f5d · Streaming
class ConfusionMatrix(Metric):
    """Count how often items of each class were predicted as each class.

    `pred` holds scores (…, C), or classes (…); for two classes also one score each, (…), which
    means class 1 above `threshold`. Targets of `ignore_index` do not count.
    Shape: pred (…, C) or (…), target (…); `compute` -> (C, C), rows: targets, columns: predictions.
    Raises: ValueError for shapes that do not fit, and from `compute` for a class outside 0..C-1.
    """

    name = "confusion_matrix"

    def __init__(self, n_classes: int, ignore_index: int = -100, threshold: float = 0.0):
        if type(n_classes) is not int or n_classes < 2:
            raise ValueError(f"n_classes must be an integer of at least 2, got {n_classes!r}")
        self.n_classes, self.ignore_index, self.threshold = n_classes, ignore_index, threshold
        self.reset()

    def reset(self) -> None:
        self.counts = torch.zeros(self.n_classes**2 + 2, dtype=torch.int64)  # ignored, and invalid

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Count a batch; this waits for nothing."""
        C, pred, given = self.n_classes, self._classes(pred, target).flatten(), target.flatten()
        target = given.long()
        valid = (target >= 0) & (target < C) & (pred >= 0) & (pred < C) & (target == given)
        place = torch.where(valid, target * C + pred, C * C + 1)
        place = torch.where(target == self.ignore_index, C * C, place)
        self.counts = self.counts.to(place.device).index_add(0, place, torch.ones_like(place))

    def _classes(self, pred: Tensor, target: Tensor) -> Tensor:
        """Bring predictions to classes, in the shape of the targets."""
        if pred.shape == target.shape and not pred.is_floating_point():
            return pred.long()
        if pred.shape == target.shape and self.n_classes == 2:
            return (pred > self.threshold).long()
        if pred.shape != (*target.shape, self.n_classes):
            raise ValueError(
                f"metric {self.name!r} needs scores (…, {self.n_classes}) and targets (…), got "
                f"{tuple(pred.shape)} and {tuple(target.shape)}; classes on another axis go last "
                "with pred.movedim(1, -1), classes already chosen are integers")
        return pred.argmax(-1)

    def compute(self) -> Tensor:
        """Return the matrix of counts."""
        if self.counts[-1]:
            raise ValueError(f"metric {self.name!r}: {self.counts[-1]} predictions or targets were "
                             f"no class in 0..{self.n_classes - 1}")
        return self.counts[:-2].view(self.n_classes, self.n_classes)

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.counts = torch.stack([state["counts"] for state in states]).sum(0)


# cell 777d8321 6e64a6 · Streaming
class F1Score(ConfusionMatrix):
    """The harmonic mean of precision and recall, from counts over all items.

    `average`: "macro", the mean over the classes that occur; "weighted", by how often each occurs
    as a target; "micro", from the counts of all classes together; "binary", class 1 of two.
    Differs: scikit-learn's default is "binary".
    """

    name = "f1"
    higher_is_better = True

    def __init__(self, n_classes: int, average: str = "macro", ignore_index: int = -100,
                 threshold: float = 0.0):
        if average not in (averages := ("macro", "weighted", "micro", "binary")):
            raise ValueError(f"average must be one of {averages}, got {average!r}")
        if average == "binary" and n_classes != 2:
            raise ValueError(f'average="binary" is for 2 classes, got n_classes={n_classes}')
        self.average = average
        super().__init__(n_classes, ignore_index, threshold)

    def per_class(self) -> Tensor:
        """Return the F1 of each class, nan for one that never occurred. Shape: -> (C,)."""
        matrix = super().compute().double()
        return 2 * matrix.diagonal() / (matrix.sum(0) + matrix.sum(1))

    def compute(self) -> float:
        scores, matrix = self.per_class(), super().compute().double()
        if self.average == "binary":
            return scores[1].nan_to_num(0.0).item()
        if self.average == "micro":
            return (matrix.trace() / matrix.sum()).item()
        if self.average == "macro":
            return scores.nanmean().item()
        targets = matrix.sum(1)
        return ((scores.nan_to_num(0.0) * targets).sum() / targets.sum()).item()


# cell 8b669ed2 db2aed · Streaming
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
            raise ValueError(f"metric 'r2' needs pred and target of one shape (N, …), got "
                             f"{tuple(pred.shape)} and {tuple(target.shape)}")
        pred, target = pred.double().flatten(1 if pred.ndim > 1 else 0), target.double()
        target = target.reshape(pred.shape)
        if len(pred):
            mean, residual = target.mean(0), (target - pred).square().sum(0)
            self._add(len(pred), mean, (target - mean).square().sum(0), residual)

    def _add(self, n: int, mean: Tensor, squares: Tensor, residual: Tensor) -> None:
        """Join the sums of other items to those so far."""
        if self.n:
            apart, total = mean - self.mean, self.n + n
            squares = self.squares + squares + apart.square() * (self.n * n / total)
            mean, residual = self.mean + apart * (n / total), self.residual + residual
        self.n, self.mean, self.squares, self.residual = self.n + n, mean, squares, residual

    def compute(self) -> float:
        if self.n < 2:
            raise ValueError(f"R² needs at least two items, got {self.n}")
        wrong, constant = (self.residual > 0).double(), self.squares == 0
        unexplained = torch.where(constant, wrong, self.residual / self.squares)
        return (1 - unexplained).mean().item()

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self.reset()
        for state in states:
            if state["n"]:
                self._add(*(state[key] for key in ("n", "mean", "squares", "residual")))


# cell ed620441 f8c73d · All predictions
class EpochMetric(Metric):
    """A function of all predictions and targets of an epoch: (pred, target) -> figure.

    They are kept on the CPU until `compute`. That is as large as the epoch, so it happens in
    validation only, unless `training=True`.
    Raises: TypeError if pred or target is no tensor; ValueError if the shapes of batches differ.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Any], training: bool = False,
                 name: str | None = None):
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"EpochMetric needs a function (pred, target), got {function!r}")
        self.function, self.name = function, name or _name(function)
        self.phases = ("train", "valid") if training else ("valid",)
        self.higher_is_better = getattr(function, "higher_is_better", None)
        self.reset()

    def reset(self) -> None:
        self._preds: list[Tensor] = []
        self._targets: list[Tensor] = []

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Keep a batch; this waits for nothing."""
        for kept, x, what in ((self._preds, pred, "pred"), (self._targets, target, "target")):
            if not isinstance(x, Tensor):
                raise TypeError(f"metric {self.name!r} needs tensors, got {what} of type "
                                f"{type(x).__name__}")
            if kept and kept[0].shape[1:] != x.shape[1:]:
                raise ValueError(f"metric {self.name!r} joins the batches of an epoch: {what} was "
                                 f"{tuple(kept[0].shape)} and is now {tuple(x.shape)}")
            kept.append(_to_memory(x.detach()))

    def compute(self) -> Any:
        if not self._preds:
            raise ValueError(f"metric {self.name!r} has seen no batch")
        state = self.state_dict()
        value = self.function(state["preds"], state["targets"])
        if value is None:
            check_number(self.name, value)
        return value

    def state_dict(self) -> dict[str, Any]:
        if not self._preds:
            return {"preds": None, "targets": None}
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # copies that were begun by `update` have arrived
        self._preds, self._targets = [torch.cat(self._preds)], [torch.cat(self._targets)]
        return {"preds": self._preds[0], "targets": self._targets[0]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.merge([state])

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        full = [state for state in states if state["preds"] is not None]
        self._preds = [state["preds"].cpu() for state in full]
        self._targets = [state["targets"].cpu() for state in full]


# cell 9adfeb82 2a87b4 · All predictions
def _to_memory(x: Tensor) -> Tensor:
    """Copy a tensor to the CPU's memory without waiting for a GPU."""
    x = x if x.ndim else x[None]
    return x.clone() if x.device.type == "cpu" else x.to("cpu", non_blocking=True)


# cell e841ff96 e5a1c3 · All predictions
def _scores_of_two(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Bring predictions to one score an item, and targets to whether it is positive. -> (N,)"""
    if pred.ndim == 2 and pred.shape[1] == 2 and target.ndim == 1:
        pred = pred[:, 1] - pred[:, 0]  # grows with the softmax's probability of class 1
    pred, target = (x.squeeze(1) if x.ndim == 2 and x.shape[1] == 1 else x for x in (pred, target))
    if pred.ndim != 1 or pred.shape != target.shape:
        raise ValueError(f"one score an item is needed, (N,), (N, 1) or (N, 2), and a target of 0 "
                         f"or 1; got {tuple(pred.shape)} and {tuple(target.shape)}. Of more "
                         "classes take one: pred[:, c], target == c")
    positive = target == 1
    if not (positive | (target == 0)).all():
        raise ValueError(f"targets must be 0 or 1, got {target.unique()[:10].tolist()}")
    return pred, positive


# cell 89a73b5d 495ad5 · All predictions
def roc_auc(pred: Tensor, target: Tensor) -> float:
    """Compute how often a positive item scores above a negative one; a tie counts one half.

    Shape: pred (N,) or (N, 1), or (N, 2) logits, target (N,) of 0 and 1. nan if a score is nan.
    Raises: ValueError if one of the classes is missing.
    Source: Fawcett 2006, section 7.
    """
    scores, positive = _scores_of_two(pred, target)
    n_positive = positive.sum().item()
    pairs = n_positive * (len(positive) - n_positive)
    if not pairs:
        raise ValueError(f"roc_auc needs items of both classes, got {n_positive} positive ones of "
                         f"{len(positive)}")
    if scores.isnan().any():
        return float("nan")
    _, place, counts = scores.unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0) - (counts - 1) / 2  # equal scores share the mean of their ranks
    total = ranks.double()[place][positive].sum().item()
    return (total - n_positive * (n_positive + 1) / 2) / pairs


# cell 9cebd890 bf2677 · All predictions
def average_precision(pred: Tensor, target: Tensor) -> float:
    """Average the precision over the positive items: at each, among all that score as high.

    Shape: as for `roc_auc`. nan if a score is nan. Raises: ValueError if no item is positive.
    """
    scores, positive = _scores_of_two(pred, target)
    if not positive.any():
        raise ValueError(f"average_precision needs positive items, got none of {len(positive)}")
    if scores.isnan().any():
        return float("nan")
    scores, order = scores.sort(descending=True)
    found = positive[order].cumsum(0).double()
    last = torch.cat([scores[1:] != scores[:-1], scores.new_ones(1, dtype=torch.bool)])
    n = torch.arange(1, len(scores) + 1, device=scores.device)
    found, n = found[last], n[last]  # equal scores are found together
    return ((found / n) * found.diff(prepend=found.new_zeros(1))).sum().item() / found[-1].item()


# cell 91bab500 c212eb · All predictions
def mean_average_precision(pred: Tensor, target: Tensor) -> float:
    """Average `average_precision` over the classes that have a positive item.

    Shape: pred (N, C), target (N, C) of 0 and 1, or (N,) of classes.
    Raises: ValueError if shapes do not fit, or no class has a positive item.
    """
    if target.ndim == 1 and pred.ndim == 2:
        target = target[:, None] == torch.arange(pred.shape[1], device=target.device)
    if pred.ndim != 2 or pred.shape != target.shape:
        raise ValueError(f"pred (N, C) and target (N, C) or (N,) are needed, got "
                         f"{tuple(pred.shape)} and {tuple(target.shape)}")
    scores = [average_precision(pred[:, c], target[:, c]) for c in range(pred.shape[1])
              if (target[:, c] == 1).any()]
    if not scores:
        raise ValueError("mean_average_precision needs a class with a positive item")
    return sum(scores) / len(scores)


roc_auc.higher_is_better = True
average_precision.higher_is_better = True
mean_average_precision.higher_is_better = True


# cell 634a99c3 013fa5 · Names
def _name(metric: Any) -> str:
    while isinstance(metric, partial):
        metric = metric.func
    if isinstance(metric, Metric) and metric.name:
        return metric.name
    return getattr(metric, "__name__", type(metric).__name__)


def _is_collection(metric: Any) -> bool:
    """Say whether a metric computes several figures, one for each of its keys."""
    return is_metric(metric) and callable(getattr(metric, "keys", None))


# cell ef38eb98 ea3324 · Names
def name_metrics(metrics: Iterable[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Give each metric its name: of its function or class, or, in a dict, the one it has there.

    A name is any text that can be printed. A MetricCollection of TorchMetrics may stand alone.
    Raises: TypeError for what is no metric; ValueError for a name that is missing or taken.
    """
    if _is_collection(metrics):
        metrics = [metrics]
    if isinstance(metrics, str) or callable(metrics) or is_metric(metrics):
        of = metrics if isinstance(metrics, str) else _name(metrics)
        raise TypeError(f"metrics come in a list, even one: metrics=[{of}]")
    pairs = metrics.items() if isinstance(metrics, Mapping) else ((_name(m), m) for m in metrics)
    named = list(pairs)
    for name, metric in named:
        _check_metric(name, metric)
    names = figure_names(named)
    taken = sorted({name for name in names if names.count(name) > 1 or name == "loss"})
    if taken or len(dict(named)) < len(named):
        raise ValueError(f"metrics need different names, and not 'loss', got {names}; name them "
                         'in a dict: metrics={"name": metric}')
    return dict(named)


# cell 62f10665 bfa15e · Names
def _check_metric(name: Any, metric: Any) -> None:
    """Refuse what cannot be a metric, or cannot be its name."""
    if isinstance(metric, type):
        raise TypeError(f"metric {name!r} is a class; make an object of it: {metric.__name__}(…)")
    if not callable(metric) and not is_metric(metric):
        lacking = _missing(metric)
        hint = f", and it lacks {', '.join(lacking)}" if len(lacking) < 3 else ""
        raise TypeError("a metric is a function (pred, target) or an object with reset, update "
                        f"and compute, got {metric!r}{hint}")
    if not isinstance(name, str):
        raise TypeError(f"the name of a metric is a string, got {name!r}")
    if name == "<lambda>" or not name.strip() or name != name.strip() or not name.isprintable():
        raise ValueError(f"a metric cannot be named {name!r}; name it in a dict: "
                         'metrics={"name": metric}')


def figure_names(named: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> list[str]:
    """List the names of the figures that named metrics compute, as far as they can be known."""
    pairs = named.items() if isinstance(named, Mapping) else named
    parts = [list(metric.keys()) if _is_collection(metric) else [name] for name, metric in pairs]
    return [name for part in parts for name in part]


def figures(name: str, value: Any) -> dict[str, float]:
    """Turn what a metric computed into named numbers: one, or one for each key of a dict.

    A table, such as a confusion matrix, is not a number and gives none.
    Raises: TypeError for what is neither.
    """
    if isinstance(value, Mapping):
        parts = [figures(key, part) for key, part in value.items()]
        return {key: number for part in parts for key, number in part.items()}
    if isinstance(value, Tensor) and value.numel() != 1:
        return {}
    if type(value).__module__ == "numpy" and value.size != 1:
        return {}
    return {name: float(check_number(name, value))}
