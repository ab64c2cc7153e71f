"""The Learner: a training loop that reads from top to bottom

By the end you will have a `Learner` that trains any model: predict, loss, backward, step, with an event between them; that reports without being asked, tells the truth in its metrics, and leaves everything as it was when something goes wrong.
"""

# cell a177f35a a6284e · Imports
from __future__ import annotations

# generated from nbs/04_callbacks.ipynb: do not edit · 03196f
__all__ = [
    "Learner",
]

# cell a177f35a b6294f · Imports
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03b import set_epoch
from exp.nb03c import modes_kept
from exp.nb03d import count_items, join_batches, loader_length, map_tensors, random_kept
from exp.nb03e import divisor_of
from exp.nb03f import (
    ACTIONS,
    EVENTS,
    Callback,
    Cancel,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelPhase,
    CancelStep,
    MetricsCallback,
    Recorder,
    arrange,
    callback_list,
)
from exp.nb03g import ModelSummary, ProgressCallback, summarize
from exp.nb03i import (
    check_fit,
    check_loss,
    check_parts,
    explain_error,
    make_optimizer,
    match_batch,
    restore_settings,
    set_rates,
)


# cell 4658c33d 78f952 · The Learner
def _with_defaults(callbacks: Any, metrics: Any) -> list[Callback]:
    """Add the callbacks that every training has, unless they are there."""
    callbacks = callback_list(callbacks)
    if any(isinstance(c, MetricsCallback) for c in callbacks):
        if metrics:
            raise ValueError("metrics were given to the Learner and to a MetricsCallback; "
                             "choose one")
    else:
        callbacks.insert(0, MetricsCallback(metrics))
    if not any(isinstance(c, Recorder) for c in callbacks):
        callbacks.append(Recorder())
    return callbacks


# cell 5c5a3c8e 14a625 · The Learner
class Learner:
    """A model, its data, a loss and an optimizer, and the callbacks that take part in training.

    `dls` has the loaders `train` and `valid` (None for none). A batch is (inputs …, target); one
    that is a dict is passed by name, `model(**batch)`: without the key `target`, if that is given,
    which is then the target; else the whole batch is.
    `lr` None is the optimizer's own default. `groups` maps the model to parameter groups, as
    torch.optim takes them. `metrics` are functions (pred, target) -> mean over the batch, or
    objects with reset, update, compute, in a list, or in a dict by name.
    MetricsCallback and Recorder take part without being named; so does ProgressCallback, unless
    `progress` is False.
    Raises: TypeError or ValueError for parts that cannot work together: here or in the first batch.
    """

    def __init__(self, model: nn.Module, dls: Any, loss_func: Callable[[Any, Any], Tensor],
                 lr: float | Sequence[float] | None = None,
                 opt_func: Callable[..., Any] = torch.optim.SGD,
                 metrics: Sequence[Any] | Mapping[str, Any] = (),
                 callbacks: Iterable[Callback] | Callback = (), *,
                 groups: Callable[[nn.Module], list[Any]] | None = None,
                 target: str | None = None, progress: bool = True):
        check_parts(model, dls, loss_func, opt_func, lr)
        self.model, self.dls, self.loss_func = model, dls, loss_func
        self.callbacks = arrange(_with_defaults(callbacks, metrics))
        self.metrics = self.callback(MetricsCallback).metrics
        self.opt = make_optimizer(self, opt_func, lr, groups)
        self.target_key, self.progress = target, progress
        self.n_steps, self.n_fits, self._epochs_before = 0, 0, 0
        self._divisor, self._plan = None, {}
        self._begin()

    # ------------------------------------------------------------ the loop, from the outside in

    def fit(self, n_epochs: int | None = None, lr: float | Sequence[float] | None = None,
            callbacks: Iterable[Callback] | Callback = (), *,
            n_steps: int | None = None) -> Recorder:
        """Train for some epochs, or steps of the optimizer, and validate after each epoch.

        `lr` and `callbacks` are for this fit only; `lr` is one rate, or one for each parameter
        group, None the rates that the optimizer has now. Returns the record, whose repr is the
        table of epochs.
        """
        check_fit(self, n_epochs, n_steps)
        everyone = arrange([*self.callbacks, *callback_list(callbacks)])
        if self.progress and not any(isinstance(c, ProgressCallback) for c in everyone):
            everyone = arrange([*everyone, ProgressCallback()])
        settings = [dict(group) for group in self.opt.param_groups]
        try:
            if lr is not None:
                set_rates(self.opt.param_groups, lr)
            self._begin(n_epochs, n_steps)
            self._fit_with(everyone, self.dls.train, self.dls.valid)
        finally:
            restore_settings(self.opt.param_groups, settings)
        self.n_fits += 1
        self._epochs_before += self.epoch
        return self.recorder

    def _fit_with(self, callbacks: list[Callback], train: Any, valid: Any) -> None:
        """Run a fit with these callbacks, and put everything back, whatever happens in it."""
        try:
            with self._as_found(callbacks, train is not None) as newcomers, ExitStack() as at_end:
                try:
                    for callback in newcomers:
                        if hasattr(callback, "cleanup_fit"):
                            at_end.callback(callback.cleanup_fit, self)
                        if hasattr(callback, "before_fit"):
                            callback.before_fit(self)
                    self._run_epochs(train, valid)
                    self._tell("after_fit")
                except CancelFit:
                    pass
        except Cancel as cancel:
            raise RuntimeError(f"{type(cancel).__name__} was raised at an event that it cannot "
                               "cancel; the table in 04_callbacks says which event allows "
                               "which") from cancel

    def _run_epochs(self, train: Any, valid: Any) -> None:
        """Run the epochs that are left; without `train`, only the validation of one."""
        while self.epoch < self._last_epoch and self.n_steps < self._last_step:
            n_before = self.n_steps
            try:
                self._run_epoch(train, valid)
            except CancelEpoch:
                if train is not None:
                    self._forget_gradients()
            if self.n_epochs is None and self.n_steps == n_before:
                raise RuntimeError("n_steps was given, and a whole epoch passed without a step")
            self.epoch += 1
        if train is not None and self.step_batches:
            warnings.warn(f"the gradients of the last {self.step_batches} batches were not used: "
                          "they do not fill an accumulation window, and the loader did not say "
                          "which batch is its last", RuntimeWarning, stacklevel=2)

    def _run_epoch(self, train: Any, valid: Any) -> None:
        """Train on every batch, validate on every batch, and collect the results."""
        self.training = train is not None
        self._set_mode()
        self._tell("before_epoch")
        self.results = {}
        if train is not None:
            self._run_batches(train, training=True)
        if valid is not None:
            self._run_batches(valid, training=False)
        self._tell("after_epoch")

    def _run_batches(self, loader: Iterable[Any], training: bool) -> None:
        """Take every batch of a loader through its events."""
        self.training, self.n_batches, self.batch_index = training, loader_length(loader), -1
        numbered, self.numbered = self.numbered, enumerate
        if training:
            set_epoch(loader, self._epochs_before + self.epoch)
        else:
            self._set_mode()
        with torch.set_grad_enabled(training):
            for self.batch_index, batch in numbered(loader):
                n_summed, n_steps = self.step_batches, self.n_steps
                try:
                    self._run_batch(batch)
                except CancelBatch:
                    if training and (self.step_batches, self.n_steps) != (n_summed, n_steps):
                        self._forget_gradients()  # its own gradient is in the sum
                except CancelPhase:
                    if training and (self.step_batches, self.n_steps) != (n_summed, n_steps):
                        self._forget_gradients()
                    return
                except Cancel:
                    raise
                except Exception as error:
                    explain_error(error, self)
                    raise
                if training and self.n_steps >= self._last_step:
                    return
        self._check_length()

    def _run_batch(self, batch: Any) -> None:
        """Take one batch through its events: predict, loss, and in training a step."""
        self._take(batch)
        self._tell("before_batch")
        self._act("do_predict")
        self._tell("after_pred")
        self._act("do_loss")
        self._weigh_loss()
        try:
            self._tell("after_loss")
            if self.training:
                self._run_step()
        except CancelStep:
            if not self.training:
                raise
        self._tell("after_batch")

    def _run_step(self) -> None:
        """Compute the gradients, step, and clear them."""
        if len(self.opt.param_groups) != self._n_groups:
            self._clear_new_groups()
        self._act("do_backward")
        self.step_weight = self.step_weight + self.loss_weight if self.step_batches else (
            self.loss_weight)
        self.step_batches += 1
        self._tell("after_backward")
        self._act("do_step")
        self._forget_gradients()
        self.n_steps += 1
        self._tell("after_step")

    # ------------------------------------------------------------ the work between the events

    def do_predict(self) -> None:
        """Compute `pred`."""
        inputs = self.inputs
        self.pred = self.model(**inputs) if isinstance(inputs, Mapping) else self.model(*inputs)

    def do_loss(self) -> None:
        """Compute `loss`, one number."""
        self.loss = self.loss_func(self.pred, self.target)

    def do_backward(self) -> None:
        """Add this batch's gradients to those of the parameters."""
        self.loss.backward()

    def do_step(self) -> None:
        """Let the optimizer step."""
        self.opt.step()

    def _tell(self, event: str) -> None:
        """Let every callback act that has something to do at this event."""
        for act in self._plan[event]:
            act(self)

    def _act(self, action: str) -> None:
        """Do one of the four pieces of work, or let the callback do it that wants to."""
        self._plan[action](self)

    # ------------------------------------------------------------ its bookkeeping

    def _begin(self, n_epochs: int | None = 0, n_steps: int | None = None) -> None:
        """Set where a training is: before the first event."""
        self.epoch, self.n_epochs, self.results = 0, n_epochs, {}
        self._last_epoch = inf if n_epochs is None else n_epochs
        self._first_step = self.n_steps
        self._last_step = inf if n_steps is None else self.n_steps + n_steps
        self.batch_index, self.n_batches, self.training = 0, None, False
        self.numbered, self._checked, self._events = enumerate, set(), EVENTS
        self.step_batches, self.step_weight, self._n_groups = 0, 0, len(self.opt.param_groups)
        self._forget_batch()

    def _take(self, batch: Any) -> None:
        """Split a batch into inputs and target, and count its items."""
        if isinstance(batch, Mapping):
            self.inputs, self.target = batch, batch
            if self.target_key is not None:
                if self.target_key not in batch:
                    raise KeyError(f"a batch has no {self.target_key!r}, only {list(batch)}")
                self.inputs = {k: part for k, part in batch.items() if k != self.target_key}
                self.target = batch[self.target_key]
        elif isinstance(batch, list | tuple) and len(batch) >= 2:
            *self.inputs, self.target = batch
        else:
            of = f" of {len(batch)}" if isinstance(batch, list | tuple) else ""
            raise TypeError(f"a batch is (inputs …, target) or a dict, got a "
                            f"{type(batch).__name__}{of}; let the data set return such pairs, or "
                            "the loader's collate_fn make them")
        self.pred = self.loss = None
        self.n_items = count_items(self.target) or count_items(self.inputs) or 1

    def _weigh_loss(self) -> None:
        """Find what the loss was divided by, and check it in the first batch of each phase."""
        if self.training not in self._checked:
            check_loss(self)
            self._checked.add(self.training)
        divisor = self._divisor
        self.loss_weight = self.n_items if divisor is None else divisor(self.pred, self.target)

    def _set_mode(self) -> None:
        """Set training or evaluation mode; parts frozen by hand or by parameters do not train."""
        self.model.train(self.training)
        if self.training:
            for part in self.model.modules():
                if part in self._set_by_hand or _is_frozen_norm(part):
                    part.training = False

    def _check_length(self) -> None:
        """Warn if a loader has a length and does not keep to it; refuse one without a batch."""
        found, said = self.batch_index + 1, self.n_batches
        phase = "training" if self.training else "validation"
        if found == 0:
            raise ValueError(f"the {phase} loader gave no batch; is the data set smaller than a "
                             "batch, with drop_last? Is the loader an iterator, used up?")
        if said is not None and found != said and self.epoch == 0:
            warnings.warn(f"the {phase} loader says it has {said} batches and gave {found}; "
                          "schedules and accumulated gradients go by what it says",
                          RuntimeWarning, stacklevel=2)

    def _forget_gradients(self) -> None:
        """Clear the gradients that the optimizer steps with."""
        for group in self.opt.param_groups:
            for p in group["params"]:
                p.grad = None
        self.step_batches = self.step_weight = 0

    def _clear_new_groups(self) -> None:
        """Clear what parameters have gathered before a callback added them to the optimizer."""
        for group in self.opt.param_groups[self._n_groups:]:
            for p in group["params"]:
                p.grad = None
        self._n_groups = len(self.opt.param_groups)

    def _forget_batch(self) -> None:
        """Let go of the tensors of the last batch."""
        self.inputs, self.target, self.pred, self.loss = [], None, None, None
        self.n_items = self.loss_weight = 0

    @contextmanager
    def _as_found(self, callbacks: list[Callback], trains: bool) -> Iterator[list[Callback]]:
        """Put callbacks, modes, gradients and memory back as they were.

        Gives the callbacks that are not at work already: a look inside a fit shares those that are.
        """
        kept = self.callbacks, self._plan
        at_work = set(map(id, self.callbacks)) if self._plan else set()
        self.callbacks, self._plan = callbacks, self._look_up(callbacks)
        self._divisor = divisor_of(self.loss_func)
        self._set_by_hand = {part for part in self.model.modules()
                             if self.model.training and not part.training}
        try:
            if trains:
                self._forget_gradients()
            with modes_kept(self.model):
                yield [callback for callback in callbacks if id(callback) not in at_work]
        finally:
            self.callbacks, self._plan = kept
            self._divisor = self._divisor if self._plan else None
            if trains:
                self._forget_gradients()
            self._forget_batch()

    def _look_up(self, callbacks: Sequence[Callback]) -> dict[str, Any]:
        """Look up, once for a whole fit, what to call at each event and for each action."""
        plan: dict[str, Any] = {
            event: [getattr(c, event) for c in callbacks if hasattr(c, event)]
            if event in self._events else [] for event in EVENTS}
        for action in ACTIONS:
            takers = [getattr(c, action) for c in callbacks if hasattr(c, action)]
            plan[action] = takers[0] if takers else getattr(type(self), action)
        return plan

    # ------------------------------------------------------------ questions; they change nothing

    def __repr__(self) -> str:
        n = sum(p.numel() for p in self.model.parameters() if not nn.parameter.is_lazy(p))
        name = getattr(self.loss_func, "__name__", type(self.loss_func).__name__)
        metrics = f", metrics {', '.join(self.metrics)}" if self.metrics else ""
        return (f"Learner({type(self.model).__name__}, {n:,} parameters, {name}, "
                f"{type(self.opt).__name__} lr {self.lr}{metrics}; {self.n_steps} steps done)")

    @property
    def lr(self) -> float | list[float]:
        """The rate of the optimizer, or a list if its parameter groups have different ones."""
        rates = [group["lr"] for group in self.opt.param_groups]
        return rates[0] if len(set(rates)) == 1 else rates

    @lr.setter
    def lr(self, rates: float | Sequence[float]) -> None:
        set_rates(self.opt.param_groups, rates)

    @property
    def position(self) -> float:
        """Where the present training batch is in the fit: 0 the first, 1 the last."""
        if self.n_epochs is None:
            done, total = self.n_steps - self._first_step, self._last_step - self._first_step
        else:
            if self.n_batches is None:
                raise ValueError("the training loader has no length, so its place in the training "
                                 "is unknown; give it a __len__, or fit with n_steps")
            done, total = self.epoch * self.n_batches + self.batch_index, (
                self.n_epochs * self.n_batches)
        return done / max(total - 1, 1)

    @property
    def loaders(self) -> list[Any]:
        """The loaders that there are."""
        return [loader for loader in (self.dls.train, self.dls.valid) if loader is not None]

    @property
    def recorder(self) -> Recorder:
        """The callback that records losses, rates and results."""
        return self.callback(Recorder)

    def callback(self, kind: type[Callback]) -> Callback:
        """Return the callback of this class. Raises: LookupError if there is none."""
        for callback in self.callbacks:
            if isinstance(callback, kind):
                return callback
        raise LookupError(f"no {kind.__name__} among {[type(c).__name__ for c in self.callbacks]}")

    def result_names(self) -> list[str]:
        """List the names of the results of an epoch that are known before a fit."""
        phases = ["train"] + ["valid"] * (self.dls.valid is not None)
        metrics = self.callback(MetricsCallback)
        written = [name for callback in self.callbacks for name in callback.writes]
        return [name for phase in phases for name in metrics.names(phase)] + written

    def evaluate(self, loader: Any = None) -> dict[str, Any]:
        """Compute loss and metrics over a loader, by default the validation set."""
        scores = self._look(MetricsCallback(self.metrics), loader).computed
        return {name.removeprefix("valid_"): value for name, value in scores.items()}

    def get_preds(self, loader: Any = None) -> tuple[Any, Any]:
        """Return predictions (N, …) and targets (N, …) of a loader, by default the validation set.

        They are on the CPU. Only events up to after_pred are announced.
        """
        found = self._look(_Collect(), loader, _Collect.events)
        return join_batches(found.preds), join_batches(found.targets)

    def predict(self, *inputs: Any) -> Any:
        """Return the model's output, on the CPU, for a batch of inputs or for one item.

        Tensors, NumPy arrays or numbers. What is one item and what a batch is known from a batch of
        the loaders: one item has one axis less, and gets one prediction. Without loaders, inputs
        are a batch.
        """
        model_inputs = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Mapping) else inputs
        batch, alone = match_batch(model_inputs, self._one_batch())
        batch = {**batch, self.target_key: None} if isinstance(batch, dict) else [*batch, None]
        found = self._look(_Collect(), [batch], _Collect.events).preds[0]
        return map_tensors(lambda t: t[0], found) if alone else found

    def summary(self) -> ModelSummary:
        """Return a table of the model's layers: output shapes, parameters, what is trained."""
        batch = self._one_batch()
        kept = dict(vars(self))
        try:
            if batch is not None:
                self._take(batch)
                plan = self._look_up([c for c in self.callbacks if c.evaluates])
                for act in plan["before_batch"]:
                    act(self)
            return summarize(self.model, None if batch is None else self.inputs)
        finally:
            vars(self).update(kept)

    def trace(self, callbacks: Iterable[Callback] | Callback = ()) -> None:
        """Print the moments of a fit in their order and who acts at each; nothing else happens."""
        print(_outline(arrange([*self.callbacks, *callback_list(callbacks)])))

    def _one_batch(self) -> Any:
        """Return a batch of the loaders, without moving their random numbers; None without one."""
        with random_kept(self.loaders):
            for loader in self.loaders[::-1]:
                if not hasattr(loader, "__next__"):  # an iterator would be used up
                    return next(iter(loader), None)
        return None

    def _look(self, callback: Any, loader: Any, events: Sequence[str] = EVENTS) -> Any:
        """Let a callback see every batch of a loader, as one epoch that is not trained on."""
        loader = self.dls.valid if loader is None else loader
        if loader is None:
            raise ValueError("there is no validation set: pass a loader")
        helpers = [c for c in self.callbacks if c.evaluates and type(c) is not type(callback)]
        kept = dict(vars(self))
        with random_kept([*self.loaders, loader]):
            try:
                self._begin(n_epochs=1)
                self._events = events
                self._fit_with(arrange([*helpers, callback]), None, loader)
            finally:
                vars(self).update(kept)
        return callback


# cell ac63f17d b6564a · The Learner
def _is_frozen_norm(part: nn.Module) -> bool:
    """Return whether a part keeps running statistics and has only frozen parameters."""
    own = list(part._parameters.values())
    return "running_mean" in part._buffers and any(p is not None for p in own) and not any(
        p is not None and p.requires_grad for p in own)


# cell 77c0a632 d6004c · The Learner
class _Collect(Callback):
    """Keep predictions and targets, and go on to the next batch."""

    order = 10_000
    events = ("before_fit", "before_epoch", "before_batch", "after_pred", "cleanup_fit")

    def __init__(self) -> None:
        self.preds, self.targets = [], []

    def after_pred(self, learn: Learner) -> None:
        self.preds.append(map_tensors(lambda t: t.detach().cpu(), learn.pred))
        self.targets.append(map_tensors(lambda t: t.detach().cpu(), learn.target))
        raise CancelBatch


# cell c80b94d4 b93875 · The Learner
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


def _outline(callbacks: Sequence[Callback]) -> str:
    """Write the moments of a fit in their order, each with the callbacks that act there."""
    lines = []
    for line in _OUTLINE.strip().splitlines():
        name = line.strip()
        actors = [type(c).__name__ for c in callbacks if hasattr(c, name)]
        by_default = f"({name[3:]})" if name in ACTIONS else ""
        lines.append(f"{line:<24}{', '.join(actors) or by_default}".rstrip())
    return "\n".join(lines)
