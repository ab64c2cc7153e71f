"""The Learner: a training loop that reads from top to bottom

By the end you will have a `Learner` that trains any model, and a way to change what happens at any point of a training without touching its loop. Its metrics are exact, and when something goes wrong it leaves everything as it was.
"""

# cell a177f35a a6284e · The Learner: a training loop that reads from top to bottom
from __future__ import annotations

# generated from nbs/04_callbacks.ipynb: do not edit · 119f4a
__all__ = [
    "Learner",
]
__dir__ = __all__.copy  # what completion offers

# cell a177f35a f3aade · The Learner: a training loop that reads from top to bottom
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03b import set_epoch
from exp.nb03c import modes_kept
from exp.nb03d import (
    count_items,
    first_batch,
    join_batches,
    loader_length,
    map_tensors,
    random_kept,
    set_training,
)
from exp.nb03e import divisor_of, name_metrics  # noqa: F401  also looked for here
from exp.nb03f import (
    EVENTS,
    Callback,
    Cancel,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelPhase,
    CancelStep,
    CollectCallback,
    MetricsCallback,
    PostponeStep,
    Results,
    arrange,
    callback_list,
    look_up,
    outline,
)
from exp.nb03g import ModelSummary, ProgressCallback, Recorder, summarize
from exp.nb03i import (
    check_fit,
    check_length,
    check_loader,
    check_loss,
    check_parts,
    clear_gradients,
    default_callbacks,
    explain_error,
    make_optimizer,
    match_batch,
    restore_settings,
    set_rates,
    split_batch,
)


# cell 5c5a3c8e 296477 · The Learner of this library
class Learner:
    """A model, its data, a loss and an optimizer, and the callbacks that take part in training.

    `dls` has the loaders `train` and `valid` (None for none). A batch is (inputs …, target); one
    that is a dict is passed by name, `model(**batch)`: without the key `target`, if that is given,
    which is then the target; else the whole batch is.
    `lr` None is the optimizer's own default. `groups` maps the model to parameter groups, as
    torch.optim takes them. `metrics` are functions (pred, target) -> mean over the batch, or
    objects with reset, update, compute, in a list, or in a dict by name; one that divides by
    something else than the items of a batch, as the loss may, says so with `divides_by`.
    MetricsCallback, Recorder and, unless `progress` is False, ProgressCallback take part unasked.
    Raises: TypeError or ValueError for parts that cannot work together: here or in the first batch.
    """

    def __init__(self, model: nn.Module, dls: Any, loss_func: Callable[[Any, Any], Tensor],
                 lr: float | Sequence[float] | None = None,
                 opt_func: Callable[..., Any] = torch.optim.SGD,
                 metrics: Sequence[Any] | Mapping[str, Any] = (),
                 callbacks: Iterable[Callback] | Callback = (), *,
                 groups: Callable[[nn.Module], list[Any]] | None = None,
                 target: str | None = None, progress: bool = True):
        check_parts(model, dls, loss_func, opt_func, lr, progress)
        self.model, self.dls, self.loss_func = model, dls, loss_func
        self.callbacks = arrange(default_callbacks(callbacks, metrics))
        self.metrics = self.callback(MetricsCallback).metrics
        self.opt = make_optimizer(self, opt_func, lr, groups)
        self.target_key, self.progress = target, progress
        self.n_steps, self.n_fits, self._epochs_before = 0, 0, 0
        self._divisor, self._plan, self._example = None, {}, (None, None)
        self._begin()

    # the loop, from the outside in

    def fit(self, n_epochs: int | None = None, lr: float | Sequence[float] | None = None,
            callbacks: Iterable[Callback] | Callback = (), *,
            n_steps: int | None = None) -> Recorder:
        """Train for some epochs, or steps of the optimizer, and validate after each epoch.

        `lr` and `callbacks` are for this fit only; `lr` is one rate, or one for each parameter
        group, None the rates that the optimizer has now. Returns the record, whose repr is the
        table of epochs.
        """
        everyone = [*self.callbacks, *callback_list(callbacks)]
        if self.progress and not any(isinstance(c, ProgressCallback) for c in everyone):
            everyone.append(ProgressCallback())
        everyone = arrange(everyone)
        check_fit(self, n_epochs, n_steps, everyone)
        settings = [dict(group) for group in self.opt.param_groups]
        try:
            if lr is not None:
                set_rates(self.opt.param_groups, lr)
            self._begin(n_epochs, n_steps)
            self._fit_with(everyone, self.dls.train, self.dls.valid)
        finally:
            restore_settings(self.opt.param_groups, settings)
        self.n_fits, self._epochs_before = self.n_fits + 1, self._epochs_before + self.epoch
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
                               "cancel; see the table in 04g_every_case") from cancel

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
                raise RuntimeError("n_steps was given, but a whole epoch passed without a step")
            self.epoch += 1

    def _run_epoch(self, train: Any, valid: Any) -> None:
        """Train on every batch, validate on every batch, and collect the results."""
        self.training = train is not None
        if self.training:
            set_training(self.model, keep=self._set_by_hand)
        self._tell("before_epoch")
        self.results = Results()
        if self.training:
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
            self.model.eval()
        self.exhausted = False
        with torch.set_grad_enabled(training):
            try:
                for self.batch_index, batch in numbered(loader):
                    self._run_or_cancel(batch)
                    if training and self.n_steps >= self._last_step:
                        break
                else:
                    check_length("training" if training else "validation", self.n_batches,
                                 self.batch_index + 1)
            except CancelPhase:
                pass
            self.exhausted = True
            if training and self.postponed:
                with suppress(CancelStep):
                    self._take_step()  # with what is left in the gradients

    def _run_or_cancel(self, batch: Any) -> None:
        """Run a batch. If it is cancelled, see to its gradients; if it fails, say where."""
        before = self.step_batches, self.n_steps
        try:
            self._run_batch(batch)
        except (CancelBatch, CancelPhase) as cancel:
            if self.training and (self.step_batches, self.n_steps) != before:
                self._forget_gradients()  # its own are in the sum
            if isinstance(cancel, CancelPhase):
                raise
        except Cancel:
            raise
        except Exception as error:
            explain_error(error, self)
            raise

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
        except CancelStep as cancel:
            if not self.training:
                raise
            self.postponed = isinstance(cancel, PostponeStep)
        self._tell("after_batch")

    def _run_step(self) -> None:
        """Add this batch's gradients to those of the step, and take the step."""
        if len(self.opt.param_groups) != self._n_groups:  # a callback has added one
            clear_gradients(self.opt.param_groups[self._n_groups:])  # what gathered there is stale
            self._n_groups = len(self.opt.param_groups)
        self._act("do_backward")
        weight = self.loss_weight
        self.step_weight = self.step_weight + weight if self.step_batches else weight
        self.step_batches += 1
        self._take_step()

    def _take_step(self) -> None:
        """Step with the gradients, and clear them."""
        self._tell("after_backward")
        self._act("do_step")
        self._forget_gradients()
        self.n_steps += 1
        self._tell("after_step")

    # the work between the events

    def do_predict(self) -> None:
        """Compute `pred`."""
        by_name = isinstance(self.inputs, Mapping)
        self.pred = self.model(**self.inputs) if by_name else self.model(*self.inputs)

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
        """Announce an event: let every callback act that has a method for it."""
        for act in self._plan[event]:
            act(self)

    def _act(self, action: str) -> None:
        """Do one of the four pieces of work, or let a callback do it instead."""
        self._plan[action](self)

    # its bookkeeping

    def _begin(self, n_epochs: int | None = 0, n_steps: int | None = None) -> None:
        """Set where a training is: before the first event."""
        self.epoch, self.n_epochs, self.results = 0, n_epochs, {}
        self._last_epoch = inf if n_epochs is None else n_epochs
        self._first_step = self.n_steps
        self._last_step = inf if n_steps is None else self.n_steps + n_steps
        self.batch_index, self.n_batches, self.training, self.exhausted = 0, None, False, False
        self.numbered, self._checked, self._events = enumerate, set(), EVENTS
        self.step_batches, self.step_weight, self.postponed = 0, 0, False
        self._n_groups = len(self.opt.param_groups)
        self._forget_batch()

    def _take(self, batch: Any) -> None:
        """Split a batch into inputs and target, and count its items."""
        self.pred = self.loss = None
        self.inputs, self.target = split_batch(batch, self.target_key, self._events == EVENTS)
        self.n_items = count_items(self.target) or count_items(self.inputs) or 1

    def _weigh_loss(self) -> None:
        """Find what the loss was divided by, and check it in the first batch of each phase."""
        if self.training not in self._checked:
            check_loss(self)
            self._checked.add(self.training)
        count = self._divisor
        self.loss_weight = count(self.pred, self.target) if count else self.n_items

    def _forget_gradients(self) -> None:
        """Clear the gradients that the optimizer steps with."""
        clear_gradients(self.opt.param_groups)
        self.step_batches, self.step_weight, self.postponed = 0, 0, False

    def _forget_batch(self) -> None:
        """Let go of the tensors of the last batch."""
        self.inputs, self.target, self.pred, self.loss = [], None, None, None
        self.n_items = self.loss_weight = 0

    @contextmanager
    def _as_found(self, callbacks: list[Callback], trains: bool) -> Iterator[list[Callback]]:
        """Put everything back as it was; yields the callbacks that are not at work already."""
        kept = self.callbacks, self._plan
        at_work = set(map(id, self.callbacks)) if self._plan else set()
        self.callbacks, self._plan = callbacks, look_up(callbacks, type(self), self._events)
        self._divisor = divisor_of(self.loss_func)
        self._set_by_hand = [part for part in self.model.modules()
                             if self.model.training and not part.training]
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

    # questions; they change nothing

    def __repr__(self) -> str:
        n = summarize(self.model).n_parameters
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
        elif self.n_batches is None:
            raise ValueError("the place in the training is unknown, since the training loader has "
                             "no length; give it a __len__, or fit with n_steps")
        else:
            done = self.epoch * self.n_batches + self.batch_index
            total = self.n_epochs * self.n_batches
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
        phases = ["train", "valid"] if self.dls.valid is not None else ["train"]
        known = [name for p in phases for name in self.callback(MetricsCallback).names(p)]
        return known + [name for callback in self.callbacks for name in callback.writes]

    def evaluate(self, loader: Any = None) -> dict[str, Any]:
        """Compute loss and metrics over a loader, by default the validation set."""
        found = self._look(MetricsCallback(self.metrics), loader)
        return {name.removeprefix("valid_"): value for name, value
                in {**found.computed, **found.results}.items() if not isinstance(value, Mapping)}

    def get_preds(self, loader: Any = None) -> tuple[Any, Any]:
        """Return predictions and targets (N, …) on the CPU, by default of the validation set."""
        found = self._look(CollectCallback(), loader, CollectCallback.events)
        return join_batches(found.preds), join_batches(found.targets)

    def predict(self, *inputs: Any, **named: Any) -> Any:
        """Return the model's output, on the CPU, for a batch of inputs or for one item.

        Takes tensors, arrays or lists. One item has one axis fewer than a batch of the loaders.
        """
        if self._example[0] is not self.dls:  # its shapes and dtypes are enough
            batch = first_batch(self.loaders[::-1])
            self._example = self.dls, map_tensors(lambda t: t.new_empty((0, *t.shape[1:])), batch)
        named = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Mapping) else named
        batch, alone = match_batch(named or inputs, self._example[1])
        batches = [batch if named else [*batch, None]]
        found = self._look(CollectCallback(), batches, CollectCallback.events).preds[0]
        return map_tensors(lambda t: t[0] if t.ndim else t, found) if alone else found

    def summary(self) -> ModelSummary:
        """Return a table of the model's layers: output shapes, parameters, what is trained."""
        batch = first_batch(self.loaders[::-1])
        kept = dict(vars(self))
        try:
            if batch is not None:
                self._take(batch)
                plan = look_up([c for c in self.callbacks if c.evaluates], type(self))
                for act in plan["before_batch"]:
                    act(self)
            return summarize(self.model, None if batch is None else self.inputs, self.opt)
        finally:
            vars(self).update(kept)

    def trace(self, callbacks: Iterable[Callback] | Callback = ()) -> None:
        """Print the moments of a fit in their order and who acts at each; nothing else happens."""
        print(outline([*self.callbacks, *callback_list(callbacks)]))

    def _look(self, callback: Any, loader: Any, events: Sequence[str] = EVENTS) -> Any:
        """Let a callback see every batch of a loader, as one epoch that is not trained on."""
        loader = self.dls.valid if loader is None else loader
        check_loader(loader)
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
