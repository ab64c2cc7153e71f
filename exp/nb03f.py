"""Events: a loop that others can extend

By the end you will have a written order of everything that happens in a training, and callbacks that take part in it: each a class of a few lines that knows nothing of the others, checked when it is defined.
"""

# cell 8f8aec18 a6284e · Imports
from __future__ import annotations

# generated from nbs/03f_events.ipynb: do not edit · 285006
__all__ = [
    "EVENTS",
    "Cancel",
    "CancelStep",
    "CancelBatch",
    "CancelPhase",
    "CancelEpoch",
    "CancelFit",
    "ACTIONS",
    "Callback",
    "callback_list",
    "arrange",
    "MetricsCallback",
    "format_table",
    "format_line",
    "format_html",
    "Recorder",
]

# cell 8f8aec18 8c0429 · Imports
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from difflib import get_close_matches
from inspect import signature
from typing import Any, ClassVar

import torch
from torch import Tensor

from exp.nb03d import Column, DeferredMeans, map_tensors, pool_sums
from exp.nb03e import (
    check_number,
    divisor_of,
    figure_names,
    figures,
    is_metric,
    metric_state,
    name_metrics,
    restore_metric_state,
)


# cell 2b14d271 965a05 · The events
EVENTS = ("before_fit", "before_epoch", "before_batch", "after_pred", "after_loss",
          "after_backward", "after_step", "after_batch", "after_epoch", "after_fit", "cleanup_fit")


class Cancel(Exception):
    """Skip the rest of a part of the training, its `after_…` included; raised by callbacks."""


class CancelStep(Cancel):
    """Skip the rest of the step: backward, the optimizer, clearing the gradients."""


class CancelBatch(Cancel):
    """Skip the rest of the batch: it counts in no metric.

    Before its backward pass, the gradients of earlier batches in an accumulation window stay;
    after it, they are dropped with its own, which they are summed with.
    """


class CancelPhase(Cancel):
    """Skip the rest of the batch and the remaining batches of this phase, training or validation.

    What follows goes on as usual: after the training batches the validation, then the results.
    """


class CancelEpoch(Cancel):
    """Skip the rest of the epoch: its validation, its results."""


class CancelFit(Cancel):
    """End the training; only `cleanup_fit` still happens."""


# cell 45787301 121325 · A callback
ACTIONS = ("do_predict", "do_loss", "do_backward", "do_step")


def _event_for(name: str) -> str:
    """Find the event that a name from another library most likely means."""
    words = set(name.split("_"))
    early = bool(words & {"before", "begin", "start"})
    if "exception" in words or "teardown" in words:
        return "cleanup_fit"
    if "backward" in words:
        return "after_loss" if early else "after_backward"
    if "optimizer" in words or "grad" in words:
        return "after_backward" if early else "after_step"
    if "step" in words and not early:
        return "after_step"
    inner = words & {"validation", "valid", "validate", "test", "evaluate", "predict"}
    part = "batch" if words & {"batch", "step"} else "epoch" if "epoch" in words or inner else "fit"
    return f"before_{part}" if early else f"after_{part}"


# cell 3225f81b e7fa98 · A callback
def _check_method(owner: type, name: str, method: Any) -> None:
    """Refuse a public method that resembles an event and is none, or that takes no learner."""
    moments = (*EVENTS, *ACTIONS)
    if name in moments:
        try:
            signature(method).bind(None, None)
        except TypeError:
            raise TypeError(f"{owner.__name__}.{name} must take the learner: "
                            f"def {name}(self, learn)") from None
    elif callable(method) and not name.startswith("_"):
        close = get_close_matches(name, moments, n=1, cutoff=0.8)
        foreign = name.startswith(("on_", "begin_"))
        if close or f"{name}_".startswith(("before_", "after_", "cleanup_", "do_")) or foreign:
            nearest = _event_for(name) if foreign else (
                close or get_close_matches(name, moments, n=1, cutoff=0))[0]
            raise TypeError(f"{owner.__name__}.{name} is not an event; did you mean {nearest!r}? "
                            f"The events are {', '.join(EVENTS)}; the name of a helper method "
                            "starts with _")


# cell 981c9d14 c6fcc2 · A callback
class Callback:
    """Acts at certain moments of a training: one method for each event, by the event's name.

    Events, in order: before_fit; in each epoch before_epoch; for each training batch before_batch,
    after_pred, after_loss, after_backward, after_step, after_batch; for each validation batch
    before_batch, after_pred, after_loss, after_batch; after_epoch; after_fit; and, however the fit
    ends, cleanup_fit. Each method takes the Learner. `do_predict`, `do_loss`, `do_backward` and
    `do_step` replace the Learner's own; each raises or skips by CancelStep, CancelBatch,
    CancelPhase, CancelEpoch, CancelFit.

    On the Learner it finds model, dls, loss_func, opt, metrics, callbacks; epoch, n_epochs,
    batch_index, n_batches (None if unknown), n_steps, position (0 at the first training batch of
    the fit, 1 at the last), training; inputs, target, n_items, pred, loss, loss_weight (what the
    loss was divided by), step_batches and step_weight (what the gradients hold); and results, a
    dict of this epoch's numbers, to read and to add to.

    `order`: the lowest acts first (MetricsCallback 10, Recorder 20, ProgressCallback 30).
    `requires`: classes that must take part too; added if they need no arguments.
    `repeatable`: there may be several of this class.
    `evaluates`: acts in `evaluate` and `get_preds` too; so does one with do_predict or do_loss,
    unless it says otherwise. `writes`: names that it adds to `learn.results`.
    Raises: TypeError, when a class is defined, for a method that resembles an event and is none.
    """

    order: ClassVar[int] = 0
    requires: ClassVar[tuple[type[Callback], ...]] = ()
    repeatable: ClassVar[bool] = False
    evaluates: ClassVar[bool] = False
    writes: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        for name, member in vars(cls).items():
            _check_method(cls, name, member)
        if "evaluates" not in vars(cls) and {"do_predict", "do_loss"} & vars(cls).keys():
            cls.evaluates = True  # else validation and `evaluate` would see two different models

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to go on from here: tensors, numbers, strings."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, got {sorted(state)}")


# cell e658ebba 1a6f85 · A callback
def callback_list(callbacks: Iterable[Callback] | Callback) -> list[Callback]:
    """Return callbacks as a list; one alone becomes a list of one.

    Raises: TypeError for anything but callbacks.
    """
    if isinstance(callbacks, Callback):
        return [callbacks]
    if isinstance(callbacks, type) or not isinstance(callbacks, Iterable):
        callbacks = [callbacks]  # refused below
    callbacks = list(callbacks)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            hint = "; write it with ()" if isinstance(callback, type) else ""
            raise TypeError("a callback is an instance of a subclass of Callback, got "
                            f"{callback!r}{hint}")
    return callbacks


# cell 2b0d1dc5 ca364d · A callback
def arrange(callbacks: Iterable[Callback] | Callback) -> list[Callback]:
    """Sort callbacks by their order, and add those that others require.

    Those of the same order stay in the order given.
    Raises: TypeError if an item is not a callback; ValueError if one appears twice, if one that
        another requires needs arguments and is missing, or if two do the same action.
    """
    callbacks = callback_list(callbacks)
    for callback in callbacks:  # grows while we look
        callbacks += [_required(needed, callback) for needed in callback.requires
                      if not any(isinstance(other, needed) for other in callbacks)]
    for kind, count in Counter(map(type, callbacks)).items():
        if count > 1 and (not kind.repeatable or len(set(map(id, callbacks))) < len(callbacks)):
            raise ValueError(f"{kind.__name__} appears {count} times and would act {count} times; "
                             "remove one, or set `repeatable = True` in the class")
    for action in ACTIONS:
        takers = [type(callback).__name__ for callback in callbacks if hasattr(callback, action)]
        if len(takers) > 1:
            raise ValueError(f"only one callback can {action}, got {', '.join(takers)}")
    return sorted(callbacks, key=lambda callback: callback.order)


def _required(needed: type[Callback], by: Callback) -> Callback:
    try:
        signature(needed).bind()
    except TypeError:
        raise ValueError(f"{type(by).__name__} requires {needed.__name__}, which needs arguments; "
                         "add it") from None
    return needed()


# cell 4fa0ce7f f73716 · Metrics
class _Phase:
    """The account of one phase of an epoch: means, and objects that are no means."""

    def __init__(self, metrics: Mapping[str, Any], phase: str):
        self.functions = {n: metric for n, metric in metrics.items() if not is_metric(metric)}
        weighted = [n for n, metric in self.functions.items() if divisor_of(metric) is not None]
        self.divisors = None  # found with the first batch: functions of functions do not pickle
        self.means = DeferredMeans(["loss", *self.functions], ["loss", *weighted])
        self.objects = {n: deepcopy(metric) for n, metric in metrics.items()
                        if is_metric(metric) and phase in getattr(metric, "phases", (phase,))}
        for metric in self.objects.values():
            metric.reset()

    def add(self, learn: Any) -> None:
        pred, target = learn.pred, learn.target
        pred = pred.detach() if isinstance(pred, Tensor) else map_tensors(Tensor.detach, pred)
        means: list[Any] = [learn.loss]
        for name, function in self.functions.items():
            value = function(pred, target)
            is_plain = isinstance(value, Tensor) and not value.ndim and not value.is_complex()
            means.append(value if is_plain else check_number(name, value))
        if self.divisors is None:
            found = map(divisor_of, self.functions.values())
            self.divisors = [divisor for divisor in found if divisor is not None]
        weights = [learn.loss_weight, *[divisor(pred, target) for divisor in self.divisors]]
        self.means.add(learn.n_items, means, weights)
        for metric in self.objects.values():
            if isinstance(pred, Tensor) and hasattr(metric, "to"):
                metric.to(pred.device)
            metric.update(pred, target)

    def computed(self) -> dict[str, Any]:
        """Return what each metric came to; {} if there was no batch."""
        found: dict[str, Any] = dict(self.means.means())
        return found and found | {name: m.compute() for name, m in self.objects.items()}


# cell 2af52697 974261 · Metrics
class MetricsCallback(Callback):
    """Compute loss and metrics of each epoch, and write them into `learn.results` at its end.

    Means are weighted by what each was divided by: `learn.loss_weight` for the loss, a metric's
    own `divisor` if it has one, the items of the batch otherwise. Only numbers become results;
    `computed` has everything of the last epoch, a confusion matrix included.
    """

    order = 10

    def __init__(self, metrics: Sequence[Any] | Mapping[str, Any] = ()):
        self.metrics, self.computed = name_metrics(metrics), {}
        self._begin()

    def _begin(self) -> None:
        self._phases = {phase: _Phase(self.metrics, phase) for phase in ("train", "valid")}

    def before_epoch(self, learn: Any) -> None:
        self._begin()

    cleanup_fit = before_epoch  # nothing of it stays in memory

    def after_batch(self, learn: Any) -> None:
        self._phases["train" if learn.training else "valid"].add(learn)

    def names(self, phase: str) -> list[str]:
        """List the names of the results of a phase, "train" or "valid", that are known before."""
        of = self._phases[phase]
        return [f"{phase}_{n}" for n in ("loss", *of.functions, *figure_names(of.objects))]

    def averages(self, phase: str) -> dict[str, float]:
        """Return the means over the epoch so far, "train" or "valid"; {} before the first batch."""
        return self._phases[phase].means.means()

    def pool(self, change: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums of the epoch by what `change` makes of them: sums over all processes."""
        for phase in self._phases.values():
            pool_sums(phase.means, change)

    def merge(self, gather: Callable[[Any], list[Any]]) -> None:
        """Merge the metrics that are no means; `gather` returns the states of all processes."""
        for phase in self._phases.values():
            for metric in phase.objects.values():
                if hasattr(metric, "merge"):  # torchmetrics has its own way
                    metric.merge(gather(metric_state(metric)))

    def after_epoch(self, learn: Any) -> None:
        self.computed = {}
        for phase, account in self._phases.items():
            for name, value in account.computed().items():
                self.computed[f"{phase}_{name}"] = value
                numbers = figures(name, value).items()
                learn.results |= {f"{phase}_{key}": number for key, number in numbers}

    def state_dict(self) -> dict[str, Any]:
        return {name: {"means": phase.means.state_dict(),
                       "objects": {key: metric_state(m) for key, m in phase.objects.items()}}
                for name, phase in self._phases.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, phase in self._phases.items():
            phase.means.load_state_dict(state[name]["means"])
            for key, metric in phase.objects.items():
                restore_metric_state(metric, state[name]["objects"][key])


# cell e5834bdf f09150 · A record
def _cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    digits = ".1f" if name == "seconds" else ".4f" if abs(value) < 1e4 else ".3e"
    return format(value, digits)


def _table_cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return heading and cells of a table, as text."""
    single = [{n: v for n, v in row.items() if isinstance(v, int | float | str)} for row in rows]
    names = list(dict.fromkeys(name for row in single for name in row))
    names.sort(key=lambda name: name == "seconds")  # the last column
    return [names] + [[_cell(n, row[n]) if n in row else "" for n in names] for row in single]


def format_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the results of several epochs as a table, "" for none."""
    texts = _table_cells(rows)
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = [[t.rjust(w) for t, w in zip(row, widths, strict=True)] for row in texts]
    return "\n".join(map("  ".join, lines)) if rows else ""


def format_line(row: Mapping[str, Any], n_epochs: int | None = None) -> str:
    """Format the results of one epoch as a line that needs no heading."""
    rest = {name: value for name, value in row.items() if name not in ("epoch", "seconds")}
    parts = [f"{name} {_cell(name, value)}" for name, value in rest.items()
             if isinstance(value, int | float | str)]
    end = f"/{n_epochs}" if n_epochs else ""
    return ", ".join([f"epoch {row['epoch']}{end}", *parts, f"{row['seconds']:.1f} s"])


def format_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the results of several epochs as an HTML table, "" for none."""
    heading, *body = _table_cells(rows)
    if not body:
        return ""
    parts = "".join(f"<th>{name}</th>" for name in heading)
    lines = ["".join(f"<td>{text}</td>" for text in row) for row in body]
    return f"<table><thead><tr>{parts}</tr></thead><tbody>" + "".join(
        f"<tr>{line}</tr>" for line in lines) + "</tbody></table>"


# cell 51d2b080 1c9b0a · A record
class Recorder(Callback):
    """Record the loss and rates of each training batch and the results of each epoch.

    `losses`, `lrs` (of each parameter group), `momenta`: an entry a training batch. `epochs` (dicts
    of results), `seconds`, `epoch_ends` (the number of batches so far): an entry an epoch.
    """

    order = 20
    requires = (MetricsCallback,)

    def __init__(self) -> None:
        self.losses, self.lrs, self.momenta = [], [], []
        self.epochs, self.seconds, self.epoch_ends = [], [], []
        self._unread = Column()

    def __repr__(self) -> str:
        return format_table(self.rows()) or "Recorder: no epoch is complete yet"

    def _repr_html_(self) -> str:
        return format_html(self.rows()) or repr(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return the table: for each epoch its number, its results and its seconds."""
        pairs = zip(self.epochs, self.seconds, strict=True)
        return [{"epoch": i, **results, "seconds": s} for i, (results, s) in enumerate(pairs, 1)]

    def before_epoch(self, learn: Any) -> None:
        self._start = time.perf_counter()

    def after_batch(self, learn: Any) -> None:
        if learn.training:
            self.lrs.append([group["lr"] for group in learn.opt.param_groups])
            self.momenta.append(_momentum(learn.opt.param_groups[0]))
            self._unread.append(learn.loss)

    def after_epoch(self, learn: Any) -> None:
        self.read()
        self.epochs.append(dict(learn.results))
        self.seconds.append(time.perf_counter() - self._start)
        self.epoch_ends.append(len(self.losses))

    def cleanup_fit(self, learn: Any) -> None:
        self.read()

    def read(self) -> None:
        """Read the losses that still wait as tensors; this waits for a GPU."""
        self.losses += self._unread.read().tolist()
        self._unread = Column()

    def state_dict(self) -> dict[str, Any]:
        self.read()
        kept = {name: getattr(self, name) for name in ("epochs", "seconds", "epoch_ends")}
        series = {name: _series(getattr(self, name)) for name in ("losses", "lrs", "momenta")}
        return {**kept, **series}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._unread = Column()
        lists = {k: v.tolist() if isinstance(v, Tensor) else list(v) for k, v in state.items()}
        vars(self).update(lists)


def _series(values: list[Any]) -> Tensor | list[Any]:
    """Make a long list a tensor, which is quicker to write; not if its rows differ in length."""
    try:
        return torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError):
        return list(values)


def _momentum(group: Mapping[str, Any]) -> float:
    return group["betas"][0] if "betas" in group else group.get("momentum", 0.0)
