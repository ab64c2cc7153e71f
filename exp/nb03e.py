"""Metrics: figures that do not depend on the batches

By the end you will have metrics that come out the same for every batch size: means that divide by what their function divided by, scores that are not means at all, and one protocol for all of them.
"""

# cell b6f66f3b a6284e · Metrics: figures that do not depend on the batches
from __future__ import annotations

# generated from nbs/03e_metrics.ipynb: do not edit · 19f9bc
__all__ = [
    "divides_by",
    "divisor_of",
    "is_metric",
    "Metric",
    "metric_state",
    "restore_metric_state",
    "check_number",
    "MeanMetric",
    "EpochMetric",
    "figure_names",
    "name_metrics",
    "figures",
]
__dir__ = __all__.copy  # what completion offers

# cell b6f66f3b 261689 · Metrics: figures that do not depend on the batches
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from inspect import signature
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03c import check_argument_order, count_kept
from exp.nb03d import Column, count_items, map_tensors


# cell ed7c62d5 44c71e · Padding
def divides_by(count: Callable[[Any, Any], Tensor | float]) -> Callable[[Callable], Callable]:
    """Decorate a mean (pred, target) -> number: `count(pred, target)` is what it divides by."""
    if not callable(count):
        raise TypeError(f"divides_by needs a function (pred, target) -> number, got {count!r}")

    def mark(function: Callable) -> Callable:
        function.divisor = count
        return function

    return mark


# cell a03b096c 74c330 · Padding
class _TargetsCounted:
    """Count as cross-entropy does: the targets that are not ignored, each by its class's weight."""

    def __init__(self, loss: Any):
        self.loss = loss  # with the attributes `weight` and `ignore_index`

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor | int:
        if target.is_floating_point():  # probabilities, (B, C, …) as the predictions
            return pred.numel() // pred.shape[min(1, pred.ndim - 1)]
        if self.loss.weight is None:
            return count_kept(pred, target, self.loss.ignore_index)
        counted = target != self.loss.ignore_index
        return (self.loss.weight[target * counted] * counted).sum()


# cell 105206d9 a891fa · Padding
def _elements(pred: Any, target: Any) -> int:
    return pred.numel()


_WHERE = "torch.nn.functional", "torch.nn.modules.loss", "exp.nb03"
_CROSS_ENTROPIES = {"cross_entropy", "nll_loss", "CrossEntropyLoss", "NLLLoss"}
_OVER_ELEMENTS = {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
                  "binary_cross_entropy_with_logits", "poisson_nll_loss", "kl_div", "MSELoss",
                  "L1Loss", "SmoothL1Loss", "HuberLoss", "BCELoss", "BCEWithLogitsLoss",
                  "PoissonNLLLoss", "KLDivLoss"}


def divisor_of(function: Any) -> Callable[[Any, Any], Tensor | float] | None:
    """Find how to count what a mean loss or metric divides by; None: the items of the batch.

    An attribute `divisor` says it (see `divides_by`). The losses of torch are known, with class
    weights, `ignore_index` and targets of any shape, also inside a `functools.partial`.
    """
    options: dict[str, Any] = {}
    while isinstance(function, partial):
        function, options = function.func, {**function.keywords, **options}
    if callable(divisor := getattr(function, "divisor", None)):
        told = {k: v for k, v in options.items() if k in signature(divisor).parameters}
        return partial(divisor, **told) if told else divisor
    kind, loss = function, SimpleNamespace(**{"weight": None, "ignore_index": -100} | options)
    if isinstance(function, nn.Module):  # one with a `forward` of its own divides as it likes
        kind = next(kind for kind in type(function).__mro__ if "forward" in vars(kind))
        loss = function
    if getattr(loss, "reduction", "mean") != "mean":
        return None
    name = getattr(kind, "__name__", "") if getattr(kind, "__module__", "") in _WHERE else ""
    if name in _CROSS_ENTROPIES:
        return _TargetsCounted(loss)
    return _elements if name in _OVER_ELEMENTS else None


# cell 3131e10d 08e86a · The protocol
def is_metric(x: Any) -> bool:
    """Return whether an object has the methods of a metric: `reset`, `update`, `compute`."""
    return not isinstance(x, type) and not _missing(x)


def _missing(x: Any) -> list[str]:
    return [m for m in ("reset", "update", "compute") if not callable(getattr(x, m, None))]


# cell 010ab6df 1f236d · The protocol
_SKIP = object()


def _copy_plain(x: Any, place: str) -> Any:
    """Copy tensors, numbers, strings, None and what holds only these; `_SKIP` for the rest."""
    if x is None or type(x) in (bool, int, float, str):
        return x
    if isinstance(x, Tensor):
        return _SKIP if isinstance(x, nn.Parameter) else x.detach().clone()
    if type(x).__module__ == "numpy" and hasattr(x, "item"):
        return x.copy() if x.ndim else x.item()
    if type(x) in (list, tuple, dict):
        pairs = x.items() if type(x) is dict else enumerate(x)
        parts = {key: _copy_plain(part, f"{place}[{key!r}]") for key, part in pairs}
        if any(part is _SKIP for part in parts.values()):
            return _SKIP
        return parts if type(x) is dict else type(x)(parts.values())
    if isinstance(x, set | Mapping) or type(x).__module__ == "collections":
        raise TypeError(f"cannot save {place}, a {type(x).__name__}: keep the state of a metric in "
                        "tensors, numbers, strings, lists, tuples and dicts, or define "
                        "state_dict and load_state_dict")
    return _SKIP


_OF_MODULES = vars(nn.Module()).keys() - {"training", "_buffers"}


def _held(x: Any) -> dict[str, Any]:
    """Find the metrics that a metric holds, also in lists and dicts, each by its place."""
    if isinstance(x, nn.Module):
        found = {f".{name}": part for name, part in x.named_modules() if name and is_metric(part)}
        return {place: part for place, part in found.items()
                if not any(place.startswith(f"{outer}.") for outer in found)}
    several = {name: held if isinstance(held, dict) else dict(enumerate(held))
               if isinstance(held, list | tuple) else {"": held} for name, held in vars(x).items()}
    return {f".{name}[{key}]": part for name, parts in several.items()
            for key, part in parts.items() if is_metric(part)}


def _state(x: Any) -> dict[str, Any]:
    """Copy the attributes of a metric that can change, and the states of the metrics it holds."""
    hidden = _OF_MODULES if isinstance(x, nn.Module) else ()
    found = {name: _copy_plain(value, f"{type(x).__name__}.{name}")
             for name, value in vars(x).items() if name not in hidden}
    found = {name: value for name, value in found.items() if value is not _SKIP}
    return found | {place: metric_state(part) for place, part in _held(x).items()}


def _set_state(x: Any, state: Mapping[str, Any]) -> None:
    """Set attributes to copies of these values; tensors go to the device of the old ones."""
    held = _held(x)
    if (saved := [name for name in state if name.startswith(".")]) != list(held):
        raise ValueError(f"the state is that of a {type(x).__name__} that holds metrics {saved}, "
                         f"not {list(held)}; make it as it was made then")
    for name, value in state.items():
        if name in held:
            restore_metric_state(held[name], value)
        else:
            old = vars(x).get(name)
            device = getattr(old if isinstance(old, Tensor) else x, "device", None)
            setattr(x, name, map_tensors(lambda t, to=device: t.to(to), deepcopy(value)))


# cell 8b669ed2 196f8f · The protocol
class Metric:
    """A figure over many batches: `reset()`, then `update(pred, target)` each, then `compute()`.

    A subclass defines these three, and `merge` to be used on several processes. Its state is what
    its attributes hold: tensors, numbers, strings, None, and lists, tuples and dicts of these.
    `name`: what results call it. `phases`: in which of "train" and "valid" it takes part.
    `higher_is_better`: None if that cannot be said. `is_table`: it computes no single number.
    """

    name: str = ""
    phases: tuple[str, ...] = ("train", "valid")
    higher_is_better: bool | None = None
    is_table: bool = False

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
        raise NotImplementedError(f"{type(self).__name__} must define merge(self, states)")

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state, for a checkpoint."""
        return _state(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        _set_state(self, state)


# cell ed620441 81cbfc · The protocol
def _has_own_state(metric: Any) -> bool:
    return not isinstance(metric, nn.Module) and hasattr(metric, "load_state_dict")


def metric_state(metric: Any) -> dict[str, Any]:
    """Copy the state of any object that follows the protocol, such as one of TorchMetrics.

    By its own `state_dict`, or, without one, by its attributes, as in a `Metric`. (The
    `state_dict` of a module is another thing: TorchMetrics leaves the counts out of it.)
    Raises: TypeError for an attribute that may change and cannot be saved, such as a set.
    """
    return metric.state_dict() if _has_own_state(metric) else _state(metric)


def restore_metric_state(metric: Any, state: Mapping[str, Any]) -> None:
    """Restore what `metric_state` returned, in an object that was made in the same way.

    Raises: ValueError for the state of an object that holds other metrics.
    """
    metric.load_state_dict(state) if _has_own_state(metric) else _set_state(metric, state)


# cell 89a73b5d 038015 · Means by the protocol
def check_number(name: str, value: Any) -> Tensor | float:
    """Return a metric's value for a batch as a number or a tensor without axes; this never waits.

    Raises: TypeError or ValueError, with the metric's name, for anything else.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1 or value.is_complex():
            raise ValueError(f"metric {name!r} returned a tensor of shape {tuple(value.shape)} and "
                             f"{value.dtype}; one real number is needed: take its mean")
        return value.detach().reshape(()) if value.ndim else value.detach()
    if isinstance(value, int | float):
        return value
    if type(value).__module__ == "numpy" and getattr(value, "size", 0) == 1:
        return float(value.item())
    hint = "; is its `return` missing?" if value is None else ""
    raise TypeError(f"metric {name!r} returned {value!r:.80}; it must return a number or a tensor "
                    f"of one number{hint}")


def _inside(metric: Any) -> Any:
    while isinstance(metric, partial):
        metric = metric.func
    return metric


def _name(metric: Any) -> str:
    metric = _inside(metric)
    if isinstance(metric, Metric) and metric.name:
        return metric.name
    return getattr(metric, "__name__", type(metric).__name__)


def _of_epoch(metric: Any) -> bool:
    return getattr(_inside(metric), "of_epoch", False) is True


def _items(pred: Any, target: Any) -> int:
    return count_items(target) or count_items(pred) or 1


class _OfFunction(Metric):
    """A metric made of a function (pred, target), whose name it takes."""

    def __init__(self, function: Callable[[Any, Any], Any], name: str | None = None):
        if not callable(function) or isinstance(function, type):
            raise TypeError(f"{type(self).__name__} needs a function (pred, target), got "
                            f"{function!r}")
        check_argument_order(function)
        self.function, self.name = function, name or _name(function)
        self.higher_is_better = getattr(function, "higher_is_better", None)
        self.reset()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.merge([state])


class MeanMetric(_OfFunction):
    """The mean over all batches of a function (pred, target) -> mean, by equation (1)."""

    def __init__(self, function: Callable[[Any, Any], Any], name: str | None = None):
        super().__init__(function, name)
        if _of_epoch(function):
            raise TypeError(f"{_name(function)} is not a mean over batches; use EpochMetric")
        self.divisor = divisor_of(function) or _items

    def reset(self) -> None:
        self._means, self._divisors = Column(), Column()

    def update(self, pred: Any, target: Any) -> None:
        """Take in a batch; this waits for nothing."""
        self._means.append(check_number(self.name, self.function(pred, target)))
        self._divisors.append(self.divisor(pred, target))

    def compute(self) -> float:
        """Return the mean. Raises: ValueError if nothing was counted."""
        divisors = self._divisors.read()
        if not divisors.sum():
            raise ValueError(f"metric {self.name!r} is the mean of nothing: no batch was added, or "
                             "no target in them counts")
        sums = torch.where(divisors == 0, 0, divisors * self._means.read())  # 0 / 0 is nan
        return (sums.sum() / divisors.sum()).item()

    def state_dict(self) -> dict[str, Any]:
        return {"means": self._means.read(), "divisors": self._divisors.read()}

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        for name, column in (("means", self._means), ("divisors", self._divisors)):
            column.load(torch.cat([state[name] for state in states]))


# cell 4c6a92c6 7c41c8 · All predictions of an epoch
class EpochMetric(_OfFunction):
    """A function of all predictions and targets of an epoch: (pred, target) -> figure.

    They are kept on the CPU until `compute`: in validation only, unless `training=True`.
    """

    def __init__(self, function: Callable[[Tensor, Tensor], Any], training: bool = False,
                 name: str | None = None):
        super().__init__(function, name)
        self.phases = ("train", "valid") if training else ("valid",)

    def reset(self) -> None:
        self._kept: dict[str, list[Tensor]] = {"pred": [], "target": []}

    def update(self, pred: Tensor, target: Tensor) -> None:
        """Keep a batch; this waits for nothing.

        Raises: TypeError for what is not a tensor; ValueError if the shapes of items change.
        """
        for (what, kept), x in zip(self._kept.items(), (pred, target), strict=True):
            if not isinstance(x, Tensor) or not x.ndim:
                raise TypeError(f"metric {self.name!r} needs tensors (B, …), got {what} {x!r:.60}")
            if kept and kept[0].shape[1:] != x.shape[1:]:
                raise ValueError(f"metric {self.name!r} cannot join batches of different shapes: "
                                 f"{what} was {tuple(kept[0].shape)}, now {tuple(x.shape)}")
            kept.append(_to_memory(x.detach()))

    def compute(self) -> Any:
        """Return the figure. Raises: ValueError if there was no batch."""
        if not self._kept["pred"]:
            raise ValueError(f"metric {self.name!r} was asked before any batch was added")
        value = self.function(*self.state_dict().values())
        return check_number(self.name, value) if value is None else value

    def state_dict(self) -> dict[str, Any]:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # the copies that `update` began have arrived
        self._kept = {what: [torch.cat(kept)] if kept else [] for what, kept in self._kept.items()}
        return {what: kept[0] if kept else None for what, kept in self._kept.items()}

    def merge(self, states: Sequence[Mapping[str, Any]]) -> None:
        self._kept = {what: [state[what].cpu() for state in states if state[what] is not None]
                      for what in self._kept}


def _to_memory(x: Tensor) -> Tensor:
    """Copy a tensor to the CPU without waiting for a GPU."""
    return x.clone() if x.device.type == "cpu" else x.to("cpu", non_blocking=True)


# cell cfa4dc2c 7c8958 · Names
def figure_names(named: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> list[str]:
    """List the numbers that named metrics compute: one each, none for a table, or one a key."""
    pairs = named.items() if isinstance(named, Mapping) else named
    return [figure for name, metric in pairs if not getattr(metric, "is_table", False)
            for figure in (metric.keys() if _has_keys(metric) else [name])]


def _has_keys(metric: Any) -> bool:
    return is_metric(metric) and hasattr(metric, "keys")


def name_metrics(metrics: Iterable[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Give each metric its name: in a dict its key, otherwise that of its function or class.

    A function with an attribute `of_epoch` that is true becomes an `EpochMetric`. A collection of
    metrics that has keys, such as TorchMetrics' MetricCollection, may stand alone.
    Raises: TypeError for what is not a metric; ValueError for a name that is missing or taken.
    """
    if _has_keys(metrics):
        metrics = [metrics]
    if isinstance(metrics, str) or callable(metrics) or is_metric(metrics):
        one = metrics if isinstance(metrics, str) else _name(metrics)
        raise TypeError(f"metrics come in a list, even one: metrics=[{one}]")
    pairs = metrics.items() if isinstance(metrics, Mapping) else ((_name(m), m) for m in metrics)
    named = [(name, _check_metric(name, metric)) for name, metric in pairs]
    names = figure_names(named) + [n for n, m in named if getattr(m, "is_table", False)]
    if len({*names, "loss"}) <= len(names) or len(dict(named)) < len(named):
        raise ValueError(f"metrics need different names, and not 'loss', got {names}; name them "
                         'in a dict: metrics={"name": metric}')
    return dict(named)


def _check_metric(name: Any, metric: Any) -> Any:
    """Refuse what cannot be a metric or its name; return the metric, one of an epoch as such."""
    if isinstance(metric, type):
        raise TypeError(f"metric {name!r} is a class; make an object of it: {metric.__name__}()")
    if not callable(metric) and not is_metric(metric):
        missing = _missing(metric)
        hint = f", which has no {' and no '.join(missing)}" if len(missing) < 3 else ""
        raise TypeError("a metric is a function (pred, target), or an object with reset, update "
                        f"and compute, got {metric!r}{hint}")
    if not isinstance(name, str):
        raise TypeError(f"the name of a metric must be a string, got {name!r}")
    if name == "<lambda>" or not name.isprintable() or not name or name != name.strip():
        raise ValueError(f"a metric cannot be named {name!r}; name it in a dict: "
                         'metrics={"name": metric}')
    check_argument_order(metric.update if is_metric(metric) else metric)
    return EpochMetric(metric, name=name) if _of_epoch(metric) else metric


# cell f46ef8d0 f03592 · Names
def figures(name: str, value: Any) -> dict[str, float]:
    """Turn what a metric computed into named numbers: one, one for each key, or none for a table.

    Raises: TypeError for anything else, with the metric's name.
    """
    if isinstance(value, Mapping):
        parts = [figures(key, part) for key, part in value.items()]
        return {key: number for part in parts for key, number in part.items()}
    if isinstance(value, Tensor) or type(value).__module__ == "numpy":
        value = torch.as_tensor(value)
        if value.numel() != 1:
            return {}
    return {name: float(check_number(name, value))}
