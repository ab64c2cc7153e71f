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
    "FORWARD",
    "STEP",
    "loader_length",
    "MetricsCallback",
    "map_tensors",
    "Recorder",
    "Learner",
]

# cell a177f35a 03651e · Imports
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from inspect import signature
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from exp.nb03c import modes_kept
from exp.nb03d import Column, DeferredMeans, pool_sums, random_state, set_random_state
from exp.nb03e import name_metrics


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


# cell 84c74d34 80c6d0 · The plan
def _forget_gradients(learn: Learner) -> None:
    for group in learn.opt.param_groups:
        for p in group["params"]:
            p.grad = None


def _finish_step(learn: Learner) -> None:
    _forget_gradients(learn)
    learn.n_steps += 1


# cell 55024ce0 a7e923 · The plan
FORWARD = ("before_batch", "do_predict", "after_pred", "do_loss")
STEP = ("after_loss", "do_backward", "after_backward", "do_step", "_finish_step", "after_step")


# cell 3d5fc730 8217fd · The plan
def _plan(callbacks: Sequence[Callback]) -> dict[str, tuple[Callable, ...]]:
    """Look up once, for a whole fit, what to call in each part of it."""
    acts = {name: [getattr(c, name) for c in callbacks if hasattr(c, name)] or [default]
            for name, default in ACTIONS.items()}
    acts |= {name: [getattr(c, name) for c in callbacks if hasattr(c, name)] for name in EVENTS}
    acts["_finish_step"] = [_finish_step]
    parts = {name: (name,) for name in EVENTS} | {"forward": FORWARD, "step": STEP}
    return {part: tuple(chain.from_iterable(acts[name] for name in names))
            for part, names in parts.items()}


# cell 78136ba9 623097 · The plan
def _tell(learn: Learner, part: str) -> None:
    """Let everyone act who has something to do in this part of the fit."""
    for act in learn._plan[part]:
        act(learn)


# cell a3672e5f 150413 · The loop
def _run_batch(learn: Learner, batch: Any) -> None:
    """Take one batch through its events, as the table says."""
    *learn.inputs, learn.target = _check_batch(batch)
    learn.n_items = _items(learn.target) or _items(learn.inputs) or 1
    _tell(learn, "forward")
    try:
        _tell(learn, "step" if learn.training else "after_loss")
    except CancelStep:
        if not learn.training:
            raise
    _tell(learn, "after_batch")


# cell d55ebeaa 1d74e2 · The loop
def _check_batch(batch: Any) -> Sequence[Any]:
    """Refuse a batch that cannot be taken apart into inputs and a target."""
    if isinstance(batch, list | tuple) and len(batch) >= 2:
        return batch
    of = f" of {len(batch)}" if isinstance(batch, list | tuple) else ""
    raise TypeError(f"a batch is (inputs …, target), got a {type(batch).__name__}{of}; let the "
                    "data set return such pairs, or the loader's collate_fn make them")


# cell ca55f7ee 6e8235 · The loop
def _items(x: Any) -> int:
    """Count the items of a batch: the length of the first tensor in it that has one, else 0."""
    if isinstance(x, Tensor):
        return x.shape[0] if x.ndim else 0
    parts = x.values() if isinstance(x, Mapping) else x if isinstance(x, list | tuple) else ()
    return next(filter(None, map(_items, parts)), 0)


# cell 07438e86 72527d · The loop
def _run_batches(learn: Learner, loader: Iterable[Any], training: bool) -> None:
    """Take all batches of a loader through their events, cancelled ones included."""
    learn.training, learn.n_batches, learn.batch_index = training, loader_length(loader), -1
    numbered, learn.numbered = learn.numbered, enumerate
    with torch.set_grad_enabled(training):
        for learn.batch_index, batch in numbered(loader):
            try:
                _run_batch(learn, batch)
            except CancelBatch:
                if training:
                    _forget_gradients(learn)
            except (RuntimeError, MemoryError) as error:
                _explain_memory(error, learn)
                raise
    if learn.batch_index < 0:
        raise ValueError(f"the {_phase(learn)} loader gave no batch; is the data set smaller "
                         "than a batch, with drop_last? Is the loader an iterator, used up?")


# cell db57cc6f 34e720 · The loop
def _phase(learn: Learner) -> str:
    return "train" if learn.training else "valid"


# cell fd7a6af8 78dae4 · The loop
def loader_length(loader: Any) -> int | None:
    """Count the batches of a loader; None if it does not know, as over a stream of data."""
    try:
        return len(loader)
    except TypeError:
        return None


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


# cell 9a8c00e6 1fe76f · The loop
def _run_epochs(learn: Learner, train: Any, valid: Any) -> None:
    """Run the epochs that are left, each with its validation; without `train`, only that."""
    while learn.epoch < learn.n_epochs:
        try:
            _run_epoch(learn, train, valid)
        except CancelEpoch:
            if train is not None:
                _forget_gradients(learn)
        learn.epoch += 1


# cell a32b4b19 3d4abc · The loop
def _run_epoch(learn: Learner, train: Any, valid: Any) -> None:
    learn.training = train is not None
    learn.model.train(learn.training)
    _tell(learn, "before_epoch")
    learn.results = {}
    if train is not None:
        _run_batches(learn, train, training=True)
    if valid is not None:
        learn.model.eval()
        _run_batches(learn, valid, training=False)
    _tell(learn, "after_epoch")


# cell 1d68f890 91c33d · The loop
def _run_fit(learn: Learner, callbacks: list[Callback], train: Any, valid: Any) -> None:
    """Run a fit with these callbacks, and put everything back, whatever happens in it."""
    try:
        with _as_found(learn, callbacks, train is not None), ExitStack() as at_the_end:
            try:
                for callback in callbacks:
                    if hasattr(callback, "cleanup_fit"):
                        at_the_end.callback(callback.cleanup_fit, learn)
                    if hasattr(callback, "before_fit"):
                        callback.before_fit(learn)
                _run_epochs(learn, train, valid)
                _tell(learn, "after_fit")
            except CancelFit:
                pass
    except Cancel as cancel:
        raise RuntimeError(f"{type(cancel).__name__} was raised at an event that it cannot cancel; "
                           "the table in 04_callbacks says which event allows which") from cancel


# cell f20d10d9 a9906a · The loop
@contextmanager
def _as_found(learn: Learner, callbacks: list[Callback], trains: bool) -> Iterator[None]:
    """Put callbacks, the mode of every layer and the memory back as they were."""
    kept = learn.callbacks, learn._plan
    learn.callbacks, learn._plan = callbacks, _plan(callbacks)
    try:
        if trains:
            _forget_gradients(learn)
        with modes_kept(learn.model):
            yield
    finally:
        learn.callbacks, learn._plan = kept
        if trains:
            _forget_gradients(learn)
        _forget_batch(learn)


# cell c33146ee a7ed75 · The loop
def _forget_batch(learn: Learner) -> None:
    """Let go of the tensors of the last batch."""
    learn.inputs, learn.target, learn.pred, learn.loss, learn.n_items = [], None, None, None, 0


# cell 2af52697 a261ba · Metrics and a record
class MetricsCallback(Callback):
    """Average loss and metrics over the items of each epoch, into `learn.results` at its end."""

    order = 10

    def __init__(self, metrics: Sequence[Callable] | Mapping[str, Callable] = ()):
        self.metrics, self.results = name_metrics(metrics), {}
        self._means = _both_phases(self.metrics)

    def before_epoch(self, learn: Learner) -> None:
        self._means = _both_phases(self.metrics)

    cleanup_fit = before_epoch  # nothing of it stays in memory

    def after_batch(self, learn: Learner) -> None:
        pred, target = map_tensors(Tensor.detach, learn.pred), learn.target
        means = [learn.loss, *[metric(pred, target) for metric in self.metrics.values()]]
        self._means[_phase(learn)].add(learn.n_items, means)

    def averages(self, phase: str) -> dict[str, float]:
        """Average over the epoch so far, "train" or "valid"; {} before the first batch."""
        return self._means[phase].means()

    def pool(self, change: Callable[[Tensor], Tensor]) -> None:
        """Let `change` make new sums of those of the epoch; processes add theirs up so."""
        for means in self._means.values():
            pool_sums(means, change)

    def after_epoch(self, learn: Learner) -> None:
        for phase, means in self._means.items():
            learn.results |= {f"{phase}_{name}": mean for name, mean in means.means().items()}
        self.results = learn.results

    def state_dict(self) -> dict[str, Any]:
        return {phase: means.state_dict() for phase, means in self._means.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for phase, means in self._means.items():
            means.load_state_dict(state[phase])


# cell 6d7d4fc3 0f88a4 · Metrics and a record
def map_tensors(function: Callable[[Tensor], Any], x: Any) -> Any:
    """Apply a function to a tensor, or to all tensors in lists, tuples and dicts; keep the rest."""
    if isinstance(x, Tensor):
        return function(x)
    if isinstance(x, list | tuple):
        parts = [map_tensors(function, part) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    if isinstance(x, Mapping):
        return {key: map_tensors(function, part) for key, part in x.items()}
    return x


# cell e413d04a 0d37f4 · Metrics and a record
def _both_phases(metrics: Iterable[str]) -> dict[str, DeferredMeans]:
    return {phase: DeferredMeans(["loss", *metrics]) for phase in ("train", "valid")}


# cell 86f17f2b 1b5b09 · Metrics and a record
_RECORDED = "losses", "lrs", "momenta", "epochs", "epoch_ends"


# cell 51d2b080 55cb7e · Metrics and a record
class Recorder(Callback):
    """Write down the loss and rates of each training batch and the results of each epoch.

    `epoch_ends`: the number of batches up to the end of each epoch.
    """

    order = 20
    requires = (MetricsCallback,)

    def __init__(self) -> None:
        self.losses, self.lrs, self.momenta, self.epochs, self.epoch_ends = [], [], [], [], []
        self._unread = Column()

    def after_batch(self, learn: Learner) -> None:
        if learn.training:
            self.lrs.append([group["lr"] for group in learn.opt.param_groups])
            self.momenta.append(_momentum(learn.opt.param_groups[0]))
            self._unread.append(learn.loss)

    def after_epoch(self, learn: Learner) -> None:
        self.read()
        self.epochs.append(dict(learn.results))
        self.epoch_ends.append(len(self.losses))

    def cleanup_fit(self, learn: Learner) -> None:
        self.read()

    def read(self) -> None:
        """Read the losses that still wait as tensors; this waits for a GPU."""
        self.losses += self._unread.read().tolist()
        self._unread = Column()

    def state_dict(self) -> dict[str, Any]:
        self.read()
        return {name: _compact(getattr(self, name)) for name in _RECORDED}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._unread = Column()
        vars(self).update({name: _loosen(state[name]) for name in _RECORDED})


# cell ef4b8805 a2f9cd · Metrics and a record
def _compact(values: list[Any]) -> Any:
    """Make a tensor of a list of numbers, or of rows of one length; it is quicker to write."""
    forms = {(len(v), float) if isinstance(v, list) else (0, type(v)) for v in values}
    if len(forms) == 1 and forms.pop()[1] is float:
        return torch.tensor(values, dtype=torch.float64)
    return list(values)


def _loosen(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, Tensor) else list(values)


# cell 478fd007 ec031c · Metrics and a record
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


# cell 07e6a028 4aedf5 · Looking without touching
def _to_cpu(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {key: _to_cpu(part) for key, part in x.items()}
    if isinstance(x, list | tuple):
        return tuple(map(_to_cpu, x))
    return x.detach().cpu() if isinstance(x, Tensor) else x


# cell d3466532 deda84 · Looking without touching
def _join(parts: list[Any]) -> Any:
    """Join the batches of a prediction or a target: a tensor, or a tuple or dict of them."""
    if not parts:
        raise ValueError("no batch is left to join: a callback has cancelled all of them")
    if isinstance(parts[0], dict):
        return {key: _join([part[key] for part in parts]) for key in parts[0]}
    if isinstance(parts[0], tuple):
        return tuple(map(_join, map(list, zip(*parts, strict=True))))
    if not isinstance(parts[0], Tensor):
        return parts
    return torch.cat(parts) if parts[0].ndim else torch.stack(parts)


# cell 7a0620f3 f5888b · Looking without touching
def _begin(learn: Learner, n_epochs: int) -> None:
    """Say where a training is: before the first event."""
    learn.epoch, learn.n_epochs, learn.results = 0, n_epochs, {}
    learn.batch_index, learn.n_batches, learn.training = 0, None, False
    learn.numbered, learn._plan = enumerate, {}
    _forget_batch(learn)


# cell b2a383e0 bbdf3e · Looking without touching
def _look(learn: Learner, callback: Any, loader: Any) -> Any:
    """Let a callback see all batches of a loader, as one epoch that is not trained on."""
    loader = learn.dls.valid if loader is None else loader
    if loader is None:
        raise ValueError("there is no validation set: pass a loader")
    kept, loaders = dict(vars(learn)), [*learn.loaders, loader]
    state = random_state(loaders)
    try:
        _begin(learn, n_epochs=1)
        helpers = [c for c in learn.callbacks if c.evaluates and type(c) is not type(callback)]
        _run_fit(learn, arrange([*helpers, callback]), None, loader)
    finally:
        set_random_state(state, loaders)
        vars(learn).update(kept)
    return callback


# cell c80b94d4 1b63f6 · The Learner
def _outline(callbacks: Sequence[Callback]) -> str:
    """Write the moments of a fit in their order, each with the callbacks that act there."""
    step = [name for name in STEP if not name.startswith("_")]
    lines = []
    for depth, names in ((0, ["before_fit", "every epoch"]),
                         (1, ["before_epoch", "every training batch"]),
                         (2, [*FORWARD, *step, "after_batch"]),
                         (1, ["every validation batch"]),
                         (2, [*FORWARD, "after_loss", "after_batch"]),
                         (1, ["after_epoch"]), (0, ["after_fit", "cleanup_fit"])):
        for name in names:
            actors = [type(c).__name__ for c in callbacks if hasattr(c, name)]
            by_default = f"({name[3:]})" if name in ACTIONS else ""
            lines.append(f"{4 * depth * ' ' + name:<24}{', '.join(actors) or by_default}".rstrip())
    return "\n".join(lines)


# cell b89bfc0f aa0628 · The Learner
def _find(kind: type[Callback], callbacks: Iterable[Callback]) -> Callback:
    for callback in callbacks:
        if isinstance(callback, kind):
            return callback
    raise LookupError(f"no {kind.__name__} among {[type(c).__name__ for c in callbacks]}")


# cell ecdffc7a 774b31 · The Learner
class _Questions:
    """What a learner can be asked; nothing is changed by that, random numbers included."""

    @property
    def loaders(self) -> list[Any]:
        """The loaders that there are."""
        return [loader for loader in (self.dls.train, self.dls.valid) if loader is not None]

    @property
    def recorder(self) -> Recorder:
        """The callback that writes down losses, rates and results."""
        return self.callback(Recorder)

    def callback(self, kind: type[Callback]) -> Callback:
        """Give the callback of this class. Raises: LookupError if there is none."""
        return _find(kind, self.callbacks)

    def evaluate(self, loader: Any = None) -> dict[str, float]:
        """Average loss and metrics over the items of a loader, by default the validation set."""
        scores = _look(self, MetricsCallback(self.metrics), loader).results
        return {name.removeprefix("valid_"): value for name, value in scores.items()}

    def get_preds(self, loader: Any = None) -> tuple[Any, Any]:
        """Give predictions (N, …) and targets (N, …) of a loader, or the validation set."""
        found = _look(self, _Collect(), loader)
        return _join(found.preds), _join(found.targets)

    def predict(self, *inputs: Any) -> Any:
        """Give the model's output for one batch of inputs, on the CPU."""
        return _look(self, _Collect(), [(*inputs, None)]).preds[0]

    def trace(self, callbacks: Iterable[Callback] = ()) -> None:
        """Print the moments of a fit in their order and who acts at each; nothing else happens."""
        print(_outline(arrange([*self.callbacks, *callbacks])))


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


# cell 882acbfc 8ccd45 · The Learner
def _check_fit(learn: Learner, n_epochs: Any) -> None:
    """Refuse a fit that cannot begin."""
    if learn.dls.train is None:
        raise ValueError("there is no training set: dls.train is None")
    if not isinstance(n_epochs, int) or n_epochs < 1:
        raise ValueError(f"n_epochs must be a whole number of at least 1, got {n_epochs!r}")
    if learn._plan:
        raise RuntimeError("fit was called from inside fit; evaluate and get_preds may be")


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


# cell 5c5a3c8e 747b7a · The Learner
class Learner(_Questions):
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
        self.callbacks = arrange(_with_defaults(callbacks, name_metrics(metrics)))
        self.metrics = self.callback(MetricsCallback).metrics
        self.opt = opt_func(model.parameters(), lr=lr)
        _set_lrs(self.opt.param_groups, None)
        self.n_steps, self.n_fits = 0, 0
        _begin(self, n_epochs=0)

    def fit(self, n_epochs: int, lr: float | Sequence[float] | None = None,
            callbacks: Iterable[Callback] = ()) -> None:
        """Train for some epochs, validating after each; `callbacks` take part in this fit only.

        `lr` is for this fit: one for all parameter groups, one for each, or that at the beginning.
        """
        _check_fit(self, n_epochs)
        everyone = arrange([*self.callbacks, *callbacks])
        _set_lrs(self.opt.param_groups, lr)
        _begin(self, n_epochs)
        _run_fit(self, everyone, self.dls.train, self.dls.valid)
        self.n_fits += 1
