"""Events: a loop that others can extend

By the end you will have a fixed order for everything that happens in a training, and callbacks that hook into it: small classes that know nothing of each other, each checked when it is defined.
"""

# cell 8f8aec18 a6284e · Events: a loop that others can extend
from __future__ import annotations

# generated from nbs/03f_events.ipynb: do not edit · 715394
__all__ = [
    "EVENTS",
    "Cancel",
    "CancelStep",
    "PostponeStep",
    "CancelBatch",
    "CancelPhase",
    "CancelEpoch",
    "CancelFit",
    "ACTIONS",
    "Callback",
    "callback_list",
    "arrange",
    "outline",
    "look_up",
    "Results",
    "MetricsCallback",
    "CollectCallback",
]
__dir__ = __all__.copy  # what completion offers

# cell 8f8aec18 1a5f02 · Events: a loop that others can extend
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from difflib import get_close_matches
from inspect import signature
from typing import Any, ClassVar

from torch import Tensor

from exp.nb03d import DeferredMeans, map_tensors, pool_sums
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


# cell 2b14d271 a2fcda · The events
EVENTS = ("before_fit", "before_epoch", "before_batch", "after_pred", "after_loss",
          "after_backward", "after_step", "after_batch", "after_epoch", "after_fit", "cleanup_fit")


class Cancel(Exception):
    """Skip the rest of a part of the training, its `after_…` included; raised by callbacks."""


class CancelStep(Cancel):
    """Skip the rest of the step: backward, the optimizer, clearing the gradients."""


class PostponeStep(CancelStep):
    """Skip the rest of the step until a later batch; after the last batch, take it in any case."""


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


# cell 45787301 658cd9 · A callback
ACTIONS = ("do_predict", "do_loss", "do_backward", "do_step")
_ELSEWHERE = {
    "before_train": "before_epoch", "before_validate": "before_epoch", "after_train": "after_epoch",
    "after_validate": "after_epoch", "before_loss": "after_pred", "before_backward": "after_loss",
    "before_step": "after_backward", "after_cancel_fit": "cleanup_fit", "after_cancel_epoch":
    "before_epoch", "after_cancel_batch": "before_batch", "after_create": "before_fit",
    "setup": "before_fit", "teardown": "cleanup_fit", "set_model": "before_fit",
    "set_params": "before_fit", "on_save_checkpoint": "state_dict",
    "on_load_checkpoint": "load_state_dict"}


def _event_for(name: str) -> str:
    """Find the event that a name from another library most likely means."""
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
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


# cell 3225f81b 1d965d · A callback
def _check_method(owner: type, name: str, method: Any) -> None:
    """Refuse a public method that resembles an event but is not one, or takes no learner."""
    moments = (*EVENTS, *ACTIONS)
    if name in moments:
        try:
            signature(method).bind(None, None)
        except TypeError:
            raise TypeError(f"{owner.__name__}.{name} must take the learner: "
                            f"def {name}(self, learn)") from None
    elif callable(method) and not name.startswith("_"):
        close = get_close_matches(name, moments, n=1, cutoff=0.8)
        foreign = name.startswith(("on_", "begin_")) or name in _ELSEWHERE
        if close or f"{name}_".startswith(("before_", "after_", "cleanup_", "do_")) or foreign:
            nearest = _event_for(name) if foreign else (
                close or get_close_matches(name, moments, n=1, cutoff=0))[0]
            raise TypeError(f"{owner.__name__}.{name} is not an event; did you mean {nearest!r}? "
                            f"The events are {', '.join(EVENTS)}; start the name of a helper "
                            "method with _")


# cell 981c9d14 e1aa5d · A callback
class Callback:
    """Acts at certain moments of a training: one method for each event, by the event's name.

    Events, in order: before_fit; in each epoch before_epoch; for each training batch before_batch,
    after_pred, after_loss, after_backward, after_step, after_batch; for each validation batch
    before_batch, after_pred, after_loss, after_batch; after_epoch; after_fit; and, however the fit
    ends, cleanup_fit. Each method takes the Learner. `do_predict`, `do_loss`, `do_backward` and
    `do_step` replace the Learner's own. Any of these methods may skip what follows by raising
    CancelStep, CancelBatch, CancelPhase, CancelEpoch or CancelFit.

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
    `only_watches`: does not change the training, so a resumed fit may be with or without it.
    Raises: TypeError, when a class is defined, for a method that resembles an event but is not one.
    """

    order: ClassVar[int] = 0
    requires: ClassVar[tuple[type[Callback], ...]] = ()
    repeatable: ClassVar[bool] = False
    evaluates: ClassVar[bool] = False
    writes: ClassVar[tuple[str, ...]] = ()
    only_watches: ClassVar[bool] = False

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


# cell 2b0d1dc5 c73d70 · A callback
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
                             "remove one (a class of your own may set `repeatable = True`)")
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


# cell 85889f38 b305bb · A callback
_OUTLINE = """
before_fit
every epoch
    before_epoch
    every training batch
        before_batch
        do_predict
        after_pred
        do_loss
        after_loss
        do_backward
        after_backward
        do_step
        after_step
        after_batch
    every validation batch
        before_batch
        do_predict
        after_pred
        do_loss
        after_loss
        after_batch
    after_epoch
after_fit
cleanup_fit
"""


def outline(callbacks: Iterable[Callback] | Callback = ()) -> str:
    """Return the moments of a fit in their order, each with the callbacks that act there."""
    lines, callbacks = [], arrange(callbacks)
    for line in _OUTLINE.strip().splitlines():
        name = line.strip()
        actors = [type(c).__name__ for c in callbacks if hasattr(c, name)]
        by_default = f"({name[3:]})" if name in ACTIONS else ""
        lines.append(f"{line:<24}{', '.join(actors) or by_default}".rstrip())
    return "\n".join(lines)


# cell 70b9f5f6 a05470 · A callback
def look_up(callbacks: Sequence[Callback], default: type,
            events: Sequence[str] = EVENTS) -> dict[str, Any]:
    """Look up what to call: at each event a list of methods, for each action one function.

    An action that no callback does is a method of `default`. Events not in `events` call nothing.
    """
    plan: dict[str, Any] = {event: [] for event in EVENTS}
    plan |= {event: [getattr(c, event) for c in callbacks if hasattr(c, event)] for event in events}
    for action in ACTIONS:
        takers = [getattr(c, action) for c in callbacks if hasattr(c, action)]
        plan[action] = takers[0] if takers else getattr(default, action)
    return plan


# cell 4fa0ce7f 1e5329 · Metrics
@contextmanager
def _naming(name: str, phase: str) -> Iterator[None]:
    """Add the name of the metric and the phase to an error from inside."""
    try:
        yield
    except Exception as error:
        error.add_note(f"(in metric {name!r}, phase {phase!r})")
        raise


class _Phase:
    """The account of one phase of an epoch: means, and objects that are not means."""

    def __init__(self, metrics: Mapping[str, Any], phase: str):
        self.phase = phase
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
            with _naming(name, self.phase):
                value = function(pred, target)
            is_plain = isinstance(value, Tensor) and not value.ndim and not value.is_complex()
            means.append(value if is_plain else check_number(name, value))
        if self.divisors is None:
            found = map(divisor_of, self.functions.values())
            self.divisors = [divisor for divisor in found if divisor is not None]
        weights = [learn.loss_weight, *[divisor(pred, target) for divisor in self.divisors]]
        self.means.add(learn.n_items, means, weights)
        for name, metric in self.objects.items():
            if isinstance(pred, Tensor) and hasattr(metric, "to"):
                metric.to(pred.device)
            with _naming(name, self.phase):
                metric.update(pred, target)

    def computed(self) -> dict[str, Any]:
        """Return what each metric came to; {} if there was no batch."""
        found: dict[str, Any] = dict(self.means.means())
        for name, metric in self.objects.items() if found else ():
            with _naming(name, self.phase):
                found[name] = metric.compute()
        return found


# cell 2af52697 ee27de · Metrics
class Results(dict):
    """The results of an epoch; one that is not there yet says when it will be."""

    def __missing__(self, name: str) -> Any:
        raise KeyError(f"no result {name!r}; there are {list(self)}. MetricsCallback computes its "
                       f"results in after_epoch, with order {MetricsCallback.order}: a callback "
                       "that reads them needs a larger order")


class MetricsCallback(Callback):
    """Compute loss and metrics of each epoch, and write them into `learn.results` at its end.

    Means are weighted by what each was divided by: `learn.loss_weight` for the loss, a metric's
    own `divisor` if it has one, the items of the batch otherwise. Only numbers become results;
    `computed` has everything of the last epoch, a confusion matrix included.
    """

    order = 10
    only_watches = True

    def __init__(self, metrics: Sequence[Any] | Mapping[str, Any] = ()):
        self.metrics, self.computed, self.results = name_metrics(metrics), {}, {}
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
        """Merge the metrics that are not means; `gather` returns the states of all processes."""
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
        self.results = learn.results

    def state_dict(self) -> dict[str, Any]:
        return {name: {"means": phase.means.state_dict(),
                       "objects": {key: metric_state(m) for key, m in phase.objects.items()}}
                for name, phase in self._phases.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, phase in self._phases.items():
            phase.means.load_state_dict(state[name]["means"])
            for key, metric in phase.objects.items():
                restore_metric_state(metric, state[name]["objects"][key])


# cell 65500588 ca6f34 · Metrics
class CollectCallback(Callback):
    """Keep the predictions and targets of all batches on the CPU; no loss is computed.

    `events`: those that need announcing for that.
    """

    order = 10_000
    events = ("before_fit", "before_epoch", "before_batch", "after_pred", "cleanup_fit")

    def __init__(self) -> None:
        self.preds, self.targets = [], []

    def after_pred(self, learn: Any) -> None:
        self.preds.append(map_tensors(lambda t: t.detach().cpu(), learn.pred))
        self.targets.append(map_tensors(lambda t: t.detach().cpu(), learn.target))
        raise CancelBatch
