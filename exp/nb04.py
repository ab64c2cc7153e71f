"""Callbacks: a training loop that others can extend

In the end you have a `Learner` that trains any model, announces every moment of the training to its callbacks in a written order, tells the truth in its metrics, and leaves everything as it was when something goes wrong.
"""

# cell a177f35a a6284e · Imports
from __future__ import annotations

# generated from nbs/04_callbacks.ipynb: do not edit
__all__ = [
    "EVENTS",
    "Cancel",
    "CancelStep",
    "CancelBatch",
    "CancelEpoch",
    "CancelFit",
    "ACTIONS",
    "Callback",
    "arrange",
    "random_state",
    "set_random_state",
    "Resumed",
    "WeightedSums",
    "name_metrics",
    "MetricsCallback",
    "Recorder",
    "OUTLINE",
    "Learner",
]

# cell a177f35a 0bd427 · Imports
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from inspect import signature
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


# cell 2b14d271 c53b56 · The events
EVENTS = ("before_fit", "before_epoch", "before_batch", "after_pred", "after_loss",
          "after_backward", "after_step", "after_batch", "after_epoch", "after_fit", "cleanup_fit")


class Cancel(Exception):
    """Skip what is left of a part of the training, its `after_…` included; callbacks raise it."""


class CancelStep(Cancel):
    """Skip what is left of the step: backward, the optimizer, forgetting the gradients."""


class CancelBatch(Cancel):
    """Skip what is left of the batch: it counts in no metric."""


class CancelEpoch(Cancel):
    """Skip what is left of the epoch: its validation, its results."""


class CancelFit(Cancel):
    """End the training; only `cleanup_fit` still happens."""


# cell 4f98264d 3bc5e1 · A callback
def _predict(learn: Learner) -> None:
    learn.pred = learn.model(*learn.inputs)


def _loss(learn: Learner) -> None:
    learn.loss = learn.loss_func(learn.pred, learn.target)


def _backward(learn: Learner) -> None:
    learn.loss.backward()


def _step(learn: Learner) -> None:
    learn.opt.step()


ACTIONS = {"do_predict": _predict, "do_loss": _loss, "do_backward": _backward, "do_step": _step}


# cell 3225f81b b61c70 · A callback
def _check_method(owner: type, name: str, method: Any) -> None:
    """Refuse a public method that looks like an event and is none, or that takes no learner."""
    moments = (*EVENTS, *ACTIONS)
    if name in moments:
        try:
            signature(method).bind(None, None)
        except TypeError:
            raise TypeError(f"{owner.__name__}.{name} must take the learner: "
                            f"def {name}(self, learn)") from None
    elif callable(method) and not name.startswith("_"):
        close = get_close_matches(name, moments, n=1, cutoff=0.8)
        beginnings = ("before_", "after_", "begin_", "on_", "cleanup_", "do_")
        if close or f"{name}_".startswith(beginnings):
            nearest = (close or get_close_matches(name, moments, n=1, cutoff=0))[0]
            raise TypeError(f"{owner.__name__}.{name} is no event; did you mean {nearest!r}? The "
                            f"events are {', '.join(EVENTS)}; a helper's name starts with _")


# cell 981c9d14 d4c7fe · A callback
class Callback:
    """Something that acts at certain moments of a training: one method for each event, by its name.

    Each takes the Learner. `do_predict`, `do_loss`, `do_backward`, `do_step` act *instead* of it.
    `order`: who acts first, the lowest. `requires`: classes that must be there too. `repeatable`:
    there may be several of this class. `evaluates`: acts in `evaluate` and `get_preds` as well.
    Raises: TypeError, when a class is defined, for a method that resembles an event and is none.
    """

    order: ClassVar[int] = 0
    requires: ClassVar[tuple[type[Callback], ...]] = ()
    repeatable: ClassVar[bool] = False
    evaluates: ClassVar[bool] = False

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        for name, member in vars(cls).items():
            _check_method(cls, name, member)

    def state_dict(self) -> dict[str, Any]:
        """Give what a checkpoint must hold to go on from here: tensors, numbers, texts."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, got {sorted(state)}")


# cell 2b0d1dc5 87a5c3 · A callback
def arrange(callbacks: Iterable[Callback]) -> list[Callback]:
    """Sort callbacks by their order; those of the same order stay as they were given.

    Raises: TypeError for what is no callback; ValueError if one comes twice, if one that another
        requires is missing, or if two want to do the same action.
    """
    callbacks = list(callbacks)
    for callback in callbacks:
        if not isinstance(callback, Callback):
            hint = "; write it with ()" if isinstance(callback, type) else ""
            raise TypeError(f"a callback is an instance of a subclass of Callback, got {callback!r}"
                            f"{hint}")
    for kind, count in Counter(map(type, callbacks)).items():
        if count > 1 and (not kind.repeatable or len(set(map(id, callbacks))) < len(callbacks)):
            raise ValueError(f"{kind.__name__} comes {count} times and would act {count} times; "
                             "leave one, or set `repeatable = True` in the class")
    for callback in callbacks:
        for needed in callback.requires:
            if not any(isinstance(other, needed) for other in callbacks):
                raise ValueError(f"{type(callback).__name__} requires {needed.__name__}; add it")
    for action in ACTIONS:
        takers = [type(callback).__name__ for callback in callbacks if hasattr(callback, action)]
        if len(takers) > 1:
            raise ValueError(f"only one callback can {action}, got {', '.join(takers)}")
    return sorted(callbacks, key=lambda callback: callback.order)


# cell 84c74d34 596eaf · A callback
class _Plan:
    """What to call at each event, looked up once for a whole fit."""

    def __init__(self, callbacks: Sequence[Callback]):
        for name in EVENTS:
            setattr(self, name, tuple(getattr(c, name) for c in callbacks if hasattr(c, name)))
        for name, default in ACTIONS.items():
            takers = [getattr(c, name) for c in callbacks if hasattr(c, name)]
            setattr(self, name, takers[0] if takers else default)


# cell a3672e5f 8d3120 · The loop
def _items(x: Any) -> int:
    """Count the items of a batch: the length of the first tensor in it."""
    if isinstance(x, Tensor):
        return x.shape[0] if x.ndim else 0
    parts = x.values() if isinstance(x, Mapping) else x if isinstance(x, list | tuple) else ()
    return next(filter(None, map(_items, parts)), 0)


# cell d55ebeaa 1d74e2 · The loop
def _check_batch(batch: Any) -> Sequence[Any]:
    """Refuse a batch that cannot be taken apart into inputs and a target."""
    if isinstance(batch, list | tuple) and len(batch) >= 2:
        return batch
    of = f" of {len(batch)}" if isinstance(batch, list | tuple) else ""
    raise TypeError(f"a batch is (inputs …, target), got a {type(batch).__name__}{of}; let the "
                    "data set return such pairs, or the loader's collate_fn make them")


# cell ca55f7ee dcbd6f · The loop
class _StepLoop:
    """One batch through its events, as the table says; the lower half of the training loop."""

    def _run_batch(self, plan: _Plan, batch: Sequence[Any]) -> None:
        *self.inputs, self.target = _check_batch(batch)
        self.n_items = _items(self.target) or _items(self.inputs)
        for call in plan.before_batch:
            call(self)
        plan.do_predict(self)
        for call in plan.after_pred:
            call(self)
        plan.do_loss(self)
        try:
            for call in plan.after_loss:
                call(self)
            if self.training:
                self._run_step(plan)
        except CancelStep:
            if not self.training:
                raise
        for call in plan.after_batch:
            call(self)

    def _run_step(self, plan: _Plan) -> None:
        plan.do_backward(self)
        for call in plan.after_backward:
            call(self)
        plan.do_step(self)
        self.opt.zero_grad()
        self.n_steps += 1
        for call in plan.after_step:
            call(self)


# cell 1b7be7c8 a04f55 · The loop
def _explain_memory(error: RuntimeError | MemoryError, learn: Learner) -> None:
    """If memory ran out, say with which batch, and what helps."""
    text = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
        n, shapes = learn.n_items, [tuple(x.shape) for x in learn.inputs if isinstance(x, Tensor)]
        raise torch.OutOfMemoryError(
            f"out of memory with batch_size {n}, inputs {shapes}: try batch_size={max(1, n // 2)} "
            f"with GradientAccumulation(2), which takes the same steps, MixedPrecision, or a "
            "smaller model") from error


# cell 9a8c00e6 490491 · The loop
def _generators(loaders: Iterable[Any]) -> list[torch.Generator]:
    """Find the generators that loaders, their samplers and their data sets hold, each once."""
    found: dict[int, torch.Generator] = {}
    for loader in loaders:
        batch_sampler = getattr(loader, "batch_sampler", None)
        for part in (loader, getattr(loader, "sampler", None), batch_sampler,
                     getattr(batch_sampler, "sampler", None), getattr(loader, "dataset", None)):
            values = getattr(part, "__dict__", {}).values()
            found.update((id(v), v) for v in values if isinstance(v, torch.Generator))
    return list(found.values())


# cell a32b4b19 4f885c · The loop
def random_state(loaders: Iterable[Any] = ()) -> dict[str, Any]:
    """Copy the state of all random numbers: Python's, NumPy's, torch's, CUDA's, the loaders'."""
    state = {"python": random.getstate(), "torch": torch.get_rng_state(),
             "loaders": [generator.get_state() for generator in _generators(loaders)]}
    if numpy := sys.modules.get("numpy"):
        state["numpy"] = numpy.random.get_state()
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


# cell 1d68f890 93e5cd · The loop
def set_random_state(state: Mapping[str, Any], loaders: Iterable[Any] = ()) -> None:
    """Put all random numbers back to where `random_state` saw them.

    Raises: ValueError if the loaders hold another number of generators.
    """
    generators = _generators(loaders)
    if len(generators) != len(state["loaders"]):
        raise ValueError(f"the loaders hold {len(generators)} generators, the state is of "
                         f"{len(state['loaders'])}; build them as they were built then")
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    for generator, saved in zip(generators, state["loaders"], strict=True):
        generator.set_state(saved)
    if "numpy" in state and (numpy := sys.modules.get("numpy")):
        numpy.random.set_state(state["numpy"])
    if "cuda" in state and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


# cell ec19d63f 6a618d · The loop
@dataclass(frozen=True)
class Resumed:
    """Where a fit goes on inside an epoch: `n_batches` of it are done; `random_state` is the one in
    which its order was drawn; `restore` puts back weights, states and random numbers."""

    n_batches: int
    random_state: Mapping[str, Any]
    restore: Callable[[], None]


# cell 9a30f513 a392f5 · The loop
class _BatchLoop(_StepLoop):
    """All batches of a loader, cancelled ones included."""

    def _run_batches(self, plan: _Plan, loader: Iterable[Any], training: bool) -> None:
        self.training = training
        self.n_batches = len(loader) if hasattr(loader, "__len__") else None
        self.batch_index = -1
        with torch.set_grad_enabled(training):
            for number, batch in self._numbered(loader):
                self.batch_index = number
                try:
                    self._run_batch(plan, batch)
                except CancelBatch:
                    self._drop_gradients()
                except (RuntimeError, MemoryError) as error:
                    _explain_memory(error, self)
                    raise
        if self.batch_index < 0:
            raise ValueError(f"the {_phase(self)} loader gave no batch; is the data set smaller "
                             "than a batch, with drop_last? Is the loader an iterator, used up?")

    def _drop_gradients(self) -> None:
        """Forget what a cancelled batch may have added, or the next step would use it."""
        if self.training:
            self.opt.zero_grad()

    def _numbered(self, loader: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        """Number the batches; if the fit resumes inside an epoch, pass over those that are done."""
        resumed, self._resumed = self._resumed, None
        if resumed:
            set_random_state(resumed.random_state, self.loaders)  # the same order as then
        batches = enumerate(loader)
        if resumed:
            for number, _ in islice(batches, resumed.n_batches):
                self.batch_index = number
            resumed.restore()
        return batches


# cell 3559f9f2 9d9699 · The loop
class _EpochLoop(_BatchLoop):
    """All epochs of a fit; the upper half of the training loop."""

    def _run_epochs(self, plan: _Plan, train: Any, valid: Any) -> None:
        while self.epoch < self.n_epochs:
            try:
                self._run_epoch(plan, train, valid)
            except CancelEpoch:
                self._drop_gradients()
            self.epoch += 1

    def _run_epoch(self, plan: _Plan, train: Any, valid: Any) -> None:
        self.training = train is not None
        self.model.train(self.training)
        for call in plan.before_epoch:
            call(self)
        self.results = {}
        if train is not None:
            self._run_batches(plan, train, training=True)
        if valid is not None:
            self.model.eval()
            self._run_batches(plan, valid, training=False)
        for call in plan.after_epoch:
            call(self)


# cell 71a65b83 20747c · The loop
class _GuardedLoop(_EpochLoop):
    """A training loop that puts everything back as it was, whatever happens in it."""

    def _run(self, callbacks: list[Callback], train: Any, valid: Any) -> None:
        plan, entered = _Plan(callbacks), []
        with self._as_found(callbacks), _cancel_in_place():
            try:
                for callback in callbacks:
                    entered.append(callback)
                    if hasattr(callback, "before_fit"):
                        callback.before_fit(self)
                self._run_epochs(plan, train, valid)
                for call in plan.after_fit:
                    call(self)
            except CancelFit:
                pass
            finally:
                self._clean_up(entered)

    def _clean_up(self, entered: list[Callback]) -> None:
        """Give every callback that began a chance to end, the last one first, errors or not."""
        errors = []
        for callback in reversed(entered):
            try:
                if hasattr(callback, "cleanup_fit"):
                    callback.cleanup_fit(self)
            except BaseException as error:
                errors.append(error)
        for other in errors[1:]:
            errors[0].add_note(f"another error in cleanup_fit: {type(other).__name__}: {other}")
        if errors:
            raise errors[0]

    @contextmanager
    def _as_found(self, callbacks: list[Callback]) -> Iterator[None]:
        """Put the list of callbacks, the training mode and the memory back as they were."""
        kept, modes = self.callbacks, [(part, part.training) for part in self.model.modules()]
        self.callbacks = callbacks
        try:
            yield
        finally:
            self.callbacks, self._resumed = kept, None
            for part, mode in modes:
                part.training = mode
            self.inputs, self.target, self.pred, self.loss = [], None, None, None


# cell 706f1a19 c8067c · The loop
@contextmanager
def _cancel_in_place() -> Iterator[None]:
    """A cancellation that nothing has caught was raised where there is nothing to cancel."""
    try:
        yield
    except Cancel as cancel:
        raise RuntimeError(f"{type(cancel).__name__} was raised at an event that it cannot cancel; "
                           "the table in 04_callbacks says which event allows which") from cancel


# cell de424223 f7afab · Metrics
class WeightedSums:
    """Add up the means of batches, each weighted by its items.

    What comes in waits as it is, to be added up a hundred batches at a time. In float64 where the
    device has it: in less, many small parts get lost.
    """

    def __init__(self) -> None:
        self.items: list[int] = []  # of the batches that wait
        self.waiting: list[Any] = []  # their means, batch after batch
        self.sums: Tensor | None = None  # of all the others: items, and each weighted mean

    def add(self, items: int, means: Sequence[Any]) -> None:
        """Take in one batch; this waits for nothing."""
        self.items.append(items)
        self.waiting += means
        if len(self.items) == 100:
            self.sums = self._total()
            self.items, self.waiting = [], []

    def means(self) -> list[float]:
        """Average over all items so far, [] if there are none; this waits for a GPU."""
        total = self._total()
        if total is None:
            return []
        items, *sums = total.tolist()
        return [value / items for value in sums]

    def _columns(self) -> list[Tensor]:
        width = len(self.waiting) // max(1, len(self.items))
        columns = [self.waiting[i::width] for i in range(width)]
        tensors = ([m if isinstance(m, Tensor) else torch.tensor(m) for m in c] for c in columns)
        return [torch.stack(column).detach() for column in tensors]

    def _total(self) -> Tensor | None:
        if not self.items:
            return self.sums
        columns = self._columns()
        device = columns[0].device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        items = torch.tensor(self.items, dtype=dtype).to(device, non_blocking=True)
        total = torch.stack([items.sum(), *[(items * c.to(device, dtype)).sum() for c in columns]])
        return total if self.sums is None else self.sums + total

    def replace(self, change: Callable[[Tensor], Tensor]) -> None:
        """Let `change` make new sums of the old, such as the sums over several processes."""
        total = self._total()
        if total is not None:
            self.sums, self.items, self.waiting = change(total), [], []

    def state_dict(self) -> dict[str, Any]:
        """Give the sums and what waits, which stays apart: the rounding must not change."""
        return {"sums": self.sums, "items": list(self.items), "means": self._columns()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.sums, self.items = state["sums"], list(state["items"])
        rows = zip(*(column.unbind() for column in state["means"]), strict=True)
        self.waiting = [mean for row in rows for mean in row]


# cell e6beb185 551008 · Metrics
def name_metrics(metrics: Sequence[Callable] | Mapping[str, Callable]) -> dict[str, Callable]:
    """Give each metric the name of its function, unless they come in a dict with names already.

    Raises: TypeError for what cannot be called or has no name; ValueError if two share a name.
    """
    if isinstance(metrics, Mapping):
        named = list(metrics.items())
    else:
        named = [(_name(metric), metric) for metric in metrics]
    for name, metric in named:
        if not callable(metric) or not name.isidentifier():
            raise TypeError(f"a metric is a function (pred, target) with a name, got {metric!r}; "
                            'give functions without one in a dict: metrics={"name": function}')
    if len(dict(named)) < len(named) or "loss" in dict(named):
        raise ValueError(f"metrics need different names, and not 'loss', got "
                         f"{[name for name, _ in named]}; name them in a dict")
    return dict(named)


# cell 55817562 b5966e · Metrics
def _name(metric: Any) -> str:
    while isinstance(metric, partial):
        metric = metric.func
    return getattr(metric, "__name__", type(metric).__name__)


# cell 2af52697 37e311 · Metrics
class MetricsCallback(Callback):
    """Average loss and metrics over the items of each epoch, into `learn.results`.

    Nothing waits for a GPU before the end of an epoch.
    """

    order = 10

    def __init__(self, metrics: Sequence[Callable] | Mapping[str, Callable] = ()):
        self.metrics, self.results = name_metrics(metrics), {}
        self._sums = {"train": WeightedSums(), "valid": WeightedSums()}

    def before_epoch(self, learn: Learner) -> None:
        self._functions = list(self.metrics.values())
        self._sums = {"train": WeightedSums(), "valid": WeightedSums()}

    def after_batch(self, learn: Learner) -> None:
        means = [learn.loss.detach()]
        if self._functions:
            pred, target = _detached(learn.pred), learn.target
            means += [metric(pred, target) for metric in self._functions]
        self._sums["train" if learn.training else "valid"].add(learn.n_items, means)

    def averages(self, phase: str) -> dict[str, float]:
        """Average over the epoch so far, "train" or "valid"; {} before the first batch."""
        means = self._sums[phase].means()
        return dict(zip(["loss", *self.metrics], means, strict=True)) if means else {}

    def pool(self, change: Callable[[Tensor], Tensor]) -> None:
        """Let `change` make new sums of those of the epoch; processes add theirs up so."""
        for sums in self._sums.values():
            sums.replace(change)

    def after_epoch(self, learn: Learner) -> None:
        for phase in ("train", "valid"):
            for name, value in self.averages(phase).items():
                learn.results[f"{phase}_{name}"] = value
        self.results = learn.results

    def cleanup_fit(self, learn: Learner) -> None:
        self._sums = {"train": WeightedSums(), "valid": WeightedSums()}

    def state_dict(self) -> dict[str, Any]:
        return {phase: sums.state_dict() for phase, sums in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for phase, sums in self._sums.items():
            sums.load_state_dict(state[phase])


# cell 54d5d2b6 016077 · Metrics
def _detached(pred: Any) -> Any:
    """Cut a prediction off its history, so that metrics add nothing to it."""
    if isinstance(pred, Tensor):
        return pred.detach()
    return type(pred)(map(_detached, pred)) if type(pred) in (list, tuple) else pred


# cell db57cc6f 34e720 · Metrics
def _phase(learn: Learner) -> str:
    return "train" if learn.training else "valid"


# cell d0da73f0 fb2d7d · Metrics
class Recorder(Callback):
    """Write down the loss and rates of each training batch and the results of each epoch.

    `losses`, `lrs` (a rate for each parameter group) and `momenta` have an entry a batch, `epochs`
    a dict of results an epoch, `epoch_ends` the number of batches up to its end.
    """

    order = 20
    requires = (MetricsCallback,)

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.lrs: list[list[float]] = []
        self.momenta: list[float] = []
        self.epochs: list[dict[str, float]] = []
        self.epoch_ends: list[int] = []
        self._waiting: list[Tensor] = []  # losses that nobody has read yet: the last ones,
        self._joined: list[Tensor] = []  # and before them, by the hundred

    def after_batch(self, learn: Learner) -> None:
        if learn.training:
            groups = learn.opt.param_groups
            self.lrs.append([group["lr"] for group in groups])
            self.momenta.append(_momentum(groups[0]))
            self._waiting.append(learn.loss.detach())
            if len(self._waiting) == 100:
                self._joined.append(torch.stack(self._waiting))
                self._waiting = []

    def after_epoch(self, learn: Learner) -> None:
        self.read()
        self.epochs.append(dict(learn.results))
        self.epoch_ends.append(len(self.losses))

    def cleanup_fit(self, learn: Learner) -> None:
        self.read()

    def read(self) -> None:
        """Read the losses that still wait as tensors; the only thing here that waits for a GPU."""
        if self._joined or self._waiting:
            waiting = [torch.stack(self._waiting)] if self._waiting else []
            self.losses += torch.cat([*self._joined, *waiting]).tolist()
            self._joined, self._waiting = [], []

    def state_dict(self) -> dict[str, Any]:
        self.read()
        return {"losses": torch.tensor(self.losses, dtype=torch.float64),
                "lrs": torch.tensor(self.lrs, dtype=torch.float64),
                "momenta": torch.tensor(self.momenta, dtype=torch.float64),
                "epochs": [dict(results) for results in self.epochs],
                "epoch_ends": list(self.epoch_ends)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.losses, self._joined, self._waiting = state["losses"].tolist(), [], []
        self.lrs, self.momenta = state["lrs"].tolist(), state["momenta"].tolist()
        self.epochs = [dict(results) for results in state["epochs"]]
        self.epoch_ends = list(state["epoch_ends"])


# cell 478fd007 ec031c · Metrics
def _momentum(group: Mapping[str, Any]) -> float:
    return group["betas"][0] if "betas" in group else group.get("momentum", 0.0)


# cell 77c0a632 572828 · Looking without touching
class _Collect(Callback):
    """Keep predictions and targets, and go on to the next batch."""

    order = 1000

    def __init__(self) -> None:
        self.preds, self.targets = [], []

    def after_pred(self, learn: Learner) -> None:
        self.preds.append(_to_cpu(learn.pred))
        self.targets.append(_to_cpu(learn.target))
        raise CancelBatch


# cell 07e6a028 4d75ed · Looking without touching
def _to_cpu(x: Any) -> Any:
    if isinstance(x, list | tuple):
        return tuple(map(_to_cpu, x))
    return x.detach().cpu() if isinstance(x, Tensor) else x


# cell d3466532 858cfe · Looking without touching
def _join(parts: list[Any]) -> Any:
    """Join the batches of a prediction or a target: a tensor, or a tuple of them."""
    if isinstance(parts[0], tuple):
        return tuple(map(_join, map(list, zip(*parts, strict=True))))
    return torch.cat(parts) if isinstance(parts[0], Tensor) else parts


# cell cdd79516 c125da · Looking without touching
def _first_moment(n_epochs: int) -> dict[str, Any]:
    """What says where a training is, as it is before the first event."""
    return {"epoch": 0, "n_epochs": n_epochs, "batch_index": 0, "n_batches": None,
            "training": False, "results": {}, "n_items": 0, "_resumed": None,
            "inputs": [], "target": None, "pred": None, "loss": None}


# cell 7a0620f3 08bd24 · Looking without touching
class _Evaluator(_GuardedLoop):
    """Looks at data without learning from it; nothing is changed by that, random numbers included.

    It is a fit of one epoch without training batches, for the callbacks that say `evaluates`.
    """

    def evaluate(self, loader: Any = None) -> dict[str, float]:
        """Average loss and metrics over the items of a loader, by default the validation set."""
        scores = self._look(MetricsCallback(self.metrics), loader)
        return {name.removeprefix("valid_"): value for name, value in scores.results.items()}

    def get_preds(self, loader: Any = None) -> tuple[Any, Any]:
        """Give predictions and targets for a loader, by default the validation set, on the CPU.

        Shape: (N, …) each; tuples of tensors where the model or the data gives tuples.
        """
        found = self._look(_Collect(), loader)
        return _join(found.preds), _join(found.targets)

    def predict(self, *inputs: Any) -> Any:
        """Give the model's output for one batch of inputs, on the CPU."""
        return self._look(_Collect(), [(*inputs, None)]).preds[0]

    def _look(self, callback: Any, loader: Any) -> Any:
        loader = self.dls.valid if loader is None else loader
        if loader is None:
            raise ValueError("there is no validation set: pass a loader")
        kept = {name: getattr(self, name) for name in _first_moment(0)}
        loaders = [*self.loaders, loader]
        state = random_state(loaders)
        try:
            vars(self).update(_first_moment(n_epochs=1))
            helpers = [c for c in self.callbacks if c.evaluates and type(c) is not type(callback)]
            self._run(arrange([*helpers, callback]), None, loader)
        finally:
            set_random_state(state, loaders)
            vars(self).update(kept)
        return callback


# cell c80b94d4 31d5f6 · The Learner
OUTLINE = """\
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
cleanup_fit"""


# cell ecdffc7a ae0342 · The Learner
class _Answers(_Evaluator):
    """What a learner can be asked, and told by a callback that resumes."""

    @property
    def loaders(self) -> list[Any]:
        """The loaders that there are."""
        return [loader for loader in (self.dls.train, self.dls.valid) if loader is not None]

    @property
    def recorder(self) -> Recorder:
        """The callback that writes down losses, rates and results."""
        return self.callback(Recorder)

    def callback(self, kind: type[Callback]) -> Callback:
        """Give the callback of this class.

        Raises: LookupError if there is none.
        """
        for callback in self.callbacks:
            if isinstance(callback, kind):
                return callback
        raise LookupError(f"no {kind.__name__} among {[type(c).__name__ for c in self.callbacks]}")

    def trace(self, callbacks: Iterable[Callback] = ()) -> None:
        """Print the events of a fit in their order and who acts at each; nothing else happens."""
        everyone = arrange([*self.callbacks, *callbacks])
        for line in OUTLINE.splitlines():
            name = line.strip()
            actors = [type(c).__name__ for c in everyone if hasattr(c, name)]
            text = ", ".join(actors) or (f"({name[3:]})" if name in ACTIONS else "")
            print(f"{line:<24}{text}".rstrip())

    def resume_at(self, epoch: int, resumed: Resumed | None = None) -> None:
        """Let this fit go on at an epoch, or inside it; to be called in `before_fit`."""
        self.epoch, self._resumed = epoch, resumed


# cell a031746d 154f7e · The Learner
def _check_parts(model: Any, dls: Any, loss_func: Any, lr: Any, opt_func: Any) -> None:
    """Refuse what a Learner cannot be made of."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not (hasattr(dls, "train") and hasattr(dls, "valid")):
        raise TypeError(f"dls needs loaders `train` and `valid` (None for none), got a "
                        f"{type(dls).__name__}; put two loaders into a DataLoaders of 03b")
    for name, part in (("loss_func", loss_func), ("opt_func", opt_func)):
        if not callable(part):
            raise TypeError(f"{name} must be callable, got {part!r}")
    if not isinstance(lr, float | int) or not lr > 0:
        raise ValueError(f"lr must be a number above 0, got {lr!r}")


# cell 4658c33d df70c2 · The Learner
def _with_defaults(callbacks: Iterable[Callback],
                   metrics: Mapping[str, Callable]) -> list[Callback]:
    """Add the callbacks that every training has, unless they are there."""
    callbacks = list(callbacks)
    given = [c for c in callbacks if isinstance(c, MetricsCallback)]
    if given and metrics:
        raise ValueError("metrics were given to the Learner and to a MetricsCallback; choose one")
    if not any(isinstance(c, Recorder) for c in callbacks):
        callbacks.insert(0, Recorder())
    return callbacks if given else [MetricsCallback(metrics), *callbacks]


# cell ac63f17d 9fd769 · The Learner
def _set_lrs(groups: list[dict[str, Any]], lr: float | Sequence[float] | None) -> None:
    """Give each parameter group its learning rate; None is the one that it was made with."""
    first = [group.setdefault("initial_lr", group["lr"]) for group in groups]  # torch's own name
    lrs = first if lr is None else lr if isinstance(lr, Sequence) else [lr] * len(groups)
    if len(lrs) != len(groups) or not all(rate >= 0 for rate in lrs):
        raise ValueError(f"lr must be 0 or more, one or one for each of the {len(groups)} "
                         f"parameter groups, got {lr!r}")
    for group, rate in zip(groups, lrs, strict=True):
        group["lr"] = rate


# cell 5c5a3c8e 7a943c · The Learner
class Learner(_Answers):
    """A model, its data, a loss and an optimizer, and the callbacks that take part in the training.

    `dls` has the loaders `train` and `valid` (None for none); a batch is (inputs …, target).
    `metrics` are functions (pred, target) -> mean over the batch, or a dict of them by name.
    `MetricsCallback` and `Recorder` take part unasked.
    Raises: TypeError or ValueError for parts that cannot work: at once, not in the first batch.
    """

    def __init__(self, model: nn.Module, dls: Any, loss_func: Callable[[Any, Any], Tensor],
                 lr: float = 1e-2, opt_func: Callable[..., Any] = torch.optim.SGD,
                 metrics: Sequence[Callable] | Mapping[str, Callable] = (),
                 callbacks: Iterable[Callback] = ()):
        _check_parts(model, dls, loss_func, lr, opt_func)
        self.model, self.dls, self.loss_func, self.lr = model, dls, loss_func, lr
        self.metrics = name_metrics(metrics)
        self.callbacks = arrange(_with_defaults(callbacks, self.metrics))
        self.opt = opt_func(model.parameters(), lr=lr)
        _set_lrs(self.opt.param_groups, None)
        self.n_steps, self.n_fits, self._running = 0, 0, False
        vars(self).update(_first_moment(n_epochs=0))

    def fit(self, n_epochs: int, lr: float | Sequence[float] | None = None,
            callbacks: Iterable[Callback] = ()) -> None:
        """Train for some epochs, validating after each; `callbacks` take part in this fit only.

        `lr` is for this fit: one for all parameter groups, one for each, or that at the beginning.
        """
        if self.dls.train is None:
            raise ValueError("there is no training set: dls.train is None")
        if not isinstance(n_epochs, int) or n_epochs < 1:
            raise ValueError(f"n_epochs must be a whole number of at least 1, got {n_epochs!r}")
        if self._running:
            raise RuntimeError("fit was called from inside fit; evaluate and get_preds may be")
        everyone = arrange([*self.callbacks, *callbacks])
        _set_lrs(self.opt.param_groups, lr)
        vars(self).update(_first_moment(n_epochs))
        self.opt.zero_grad()
        self._running = True
        try:
            self._run(everyone, self.dls.train, self.dls.valid)
            self.n_fits += 1
        finally:
            self._running = False
            self.opt.zero_grad()
