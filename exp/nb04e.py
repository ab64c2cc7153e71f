"""Recipes: what most training runs need at some point, each in a few lines

By the end you will be able to give parts of a model their own learning rate, freeze and unfreeze them, follow any of PyTorch's schedulers, average weights, and validate as often as you like.
"""

# cell 3579890a a6284e · Recipes: what most training runs need at some point, each in a few lines
from __future__ import annotations

# generated from nbs/04e_recipes.ipynb: do not edit · 5b523a
__all__ = [
    "renew_statistics",
    "WeightAverage",
    "by_parts",
    "spread_rates",
    "no_decay",
    "combine_groups",
    "freeze",
    "unfreeze",
    "SchedulerCallback",
    "ValidateEvery",
]
__dir__ = __all__.copy  # what completion offers

# cell 3579890a 01eb63 · Recipes: what most training runs need at some point, each in a few lines
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03d import check_counts, format_table
from exp.nb03f import Callback, CancelBatch
from exp.nb03l import SameGroups, takes_one
from exp.nb04 import Learner
from exp.nb04b import known_mode


# cell 01f2ab8f 315f63 · An average of weights
def renew_statistics(learn: Learner, layers: Iterable[nn.Module] | None = None) -> None:
    """Compute running statistics of normalisation layers anew, as means over the training batches.

    `layers`: by default all that have running statistics. Random numbers stay as they are.
    Differs: `torch.optim.swa_utils.update_bn` also switches dropout on, and resets layers that
        were put into evaluation mode on purpose.
    """
    if layers := _running(learn.model) if layers is None else list(layers):
        learn._look(_Renew(layers), learn.dls.train, _Renew.events)


class _Renew(Callback):
    """Let some layers see each batch as in training, and end the batch there."""

    order = 10_000
    events = ("before_fit", "before_epoch", "before_batch", "after_pred", "cleanup_fit")

    def __init__(self, layers: list[nn.Module]):
        self.layers, self.momenta = layers, [layer.momentum for layer in layers]

    def before_batch(self, learn: Learner) -> None:
        for layer in self.layers:
            layer.train()
            layer.momentum = 1 / (learn.batch_index + 1)  # this makes a plain mean of a moving one

    def after_pred(self, learn: Learner) -> None:
        raise CancelBatch

    def cleanup_fit(self, learn: Learner) -> None:
        for layer, momentum in zip(self.layers, self.momenta, strict=True):
            layer.momentum = momentum


# cell ad494179 ae218e · An average of weights
def _running(model: nn.Module) -> list[nn.Module]:
    """List the layers that keep running statistics."""
    return [part for part in model.modules() if getattr(part, "running_mean", None) is not None]


# cell e815f8ac 0e0b11 · An average of weights
class WeightAverage(Callback):
    """Average the weights over a training, validate with the average, and end with it.

    `decay`: after each step, average = decay * average + (1 - decay) * weights (EMA). With None it
    is the mean of the weights after each epoch from `start` on, counted from 0 (SWA), and for it
    running statistics are computed anew, in one pass over the training data an epoch.
    Raises: ValueError for a decay outside (0, 1), a negative start, or one after the fit's end.
    Differs: the average of half-precision weights is kept in float32.
    """

    order = 90  # above SaveBest, which must have the last word when the fit ends

    def __init__(self, decay: float | None = 0.999, start: int = 0):
        if not (decay is None or 0 < decay < 1) or start < 0:
            raise ValueError(f"decay must lie between 0 and 1, or be None for SWA; start must be 0 "
                             f"or more; got {decay} and {start}")
        self.decay, self.start = decay, start
        self._reset()

    def _reset(self) -> None:
        self.average: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}  # the training's own, while the average is in place
        self.n_averaged, self._last_epoch, self._layers = 0, -1, []

    def before_fit(self, learn: Learner) -> None:
        if learn.n_epochs is not None and self.start >= learn.n_epochs:
            raise ValueError(f"WeightAverage begins after epoch {self.start}, and the fit has "
                             f"{learn.n_epochs} epochs: choose a smaller start")
        self._reset()

    def before_epoch(self, learn: Learner) -> None:
        self._take_out(learn)
        self._layers = [layer for layer in _running(learn.model) if layer.training]

    def before_batch(self, learn: Learner) -> None:
        if not learn.training:
            self._finish_epoch(learn)
            self._put_in(learn)

    def after_step(self, learn: Learner) -> None:
        if self.decay is not None and learn.epoch >= self.start:
            self._add(learn, 1 - self.decay)

    def after_epoch(self, learn: Learner) -> None:
        self._finish_epoch(learn)  # without a validation set there was no other moment

    def cleanup_fit(self, learn: Learner) -> None:
        if learn.epoch and not self.n_averaged:
            warnings.warn(f"nothing was averaged: the fit ended after {learn.epoch} epochs, and "
                          f"WeightAverage begins after epoch {self.start}", RuntimeWarning,
                          stacklevel=2)
        self._put_in(learn)
        self.average, self.weights = {}, {}

    def _finish_epoch(self, learn: Learner) -> None:
        if self.decay is None and self.start <= learn.epoch != self._last_epoch:
            self._last_epoch = learn.epoch
            self._add(learn, 1 / (self.n_averaged + 1))

    def _add(self, learn: Learner, share: float) -> None:
        with torch.no_grad():
            for name, p in learn.model.named_parameters():
                wide = torch.promote_types(p.dtype, torch.float32)
                if name in self.average:
                    self.average[name].lerp_(p.to(wide), share)
                else:
                    self.average[name] = p.detach().to(wide, copy=True)
        self.n_averaged += 1

    def _put_in(self, learn: Learner) -> None:
        if self.average and not self.weights:
            held = dict(learn.model.named_parameters())
            if self.decay is None:
                held |= _statistics(learn.model)
            self.weights = {name: t.detach().clone() for name, t in held.items()}
            _copy(self.average, held)
            if self.decay is None:
                renew_statistics(learn, self._layers)

    def _take_out(self, learn: Learner) -> None:
        _copy(self.weights, {**dict(learn.model.named_parameters()), **_statistics(learn.model)})
        self.weights = {}

    @contextmanager
    def averaged(self, learn: Learner) -> Iterator[None]:
        """Put the average into the model for this block."""
        was_in = bool(self.weights)
        self._put_in(learn)
        try:
            yield
        finally:
            if not was_in:
                self._take_out(learn)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "weights": self.weights, "n_averaged": self.n_averaged,
                "last_epoch": self._last_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.average = {name: t.clone() for name, t in state["average"].items()}
        self.weights = {name: t.clone() for name, t in state["weights"].items()}
        self.n_averaged, self._last_epoch = state["n_averaged"], state["last_epoch"]


# cell 6ecbd52f fcd06f · An average of weights
def _copy(values: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            into[name].copy_(value)


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    """Name the buffers of the layers that keep running statistics."""
    layers = {id(layer) for layer in _running(model)}
    return {f"{name}.{key}".lstrip("."): buffer for name, part in model.named_modules()
            if id(part) in layers for key, buffer in part.named_buffers(recurse=False)}


# cell af9219cb 83a863 · Parts of a model with settings of their own
_Groups = Callable[[nn.Module], list[dict[str, Any]]]


def by_parts(*names: str, lr: Sequence[float] | None = None) -> _Groups:
    """Make a function that puts the parameters of each named part into a group of its own.

    A part is a module or parameter such as "head" or "body.0"; of nested ones the longest name
    counts; "" means everything else. `lr`: a learning rate for each.
    Raises: ValueError for another number of rates; and from that function, for a part that is not
        there, or parameters that belong to none.
    """
    if lr is not None and len(lr) != len(names):
        raise ValueError(f"one learning rate for each part: got {len(lr)} for {len(names)} parts")

    def groups(model: nn.Module) -> list[dict[str, Any]]:
        found: dict[str, list[Tensor]] = {name: [] for name in names}
        for name in names:
            _check_part(model, name)
        for name, p in model.named_parameters():
            found[_part_of(name, names)].append(p)
        rates = [{}] * len(names) if lr is None else [{"lr": rate} for rate in lr]
        return [{"params": ps, **rate} for ps, rate in zip(found.values(), rates, strict=True)]

    return groups


# cell 250a5fd6 d3b2a1 · Parts of a model with settings of their own
def _is_in(name: str, part: str) -> bool:
    return not part or name == part or name.startswith(f"{part}.")


def _part_of(name: str, parts: Sequence[str]) -> str:
    """Return the part that a parameter belongs to."""
    if not (around := [part for part in parts if _is_in(name, part)]):
        raise ValueError(f'{name} belongs to none of the parts {list(parts)}; add its part, or "" '
                         "for all that is left")
    return max(around, key=len)


def _check_part(model: nn.Module, part: str) -> None:
    """Refuse a part that a model does not have."""
    if not isinstance(part, str):
        own = [name for name, module in model.named_modules() if module is part]
        raise TypeError(f"a part is given by its name, such as {own[0] if own else 'head'!r}, got "
                        f"a {type(part).__name__}")
    names = [name for name, _ in model.named_parameters()]
    if not any(_is_in(name, part) for name in names):
        known = list(dict.fromkeys(name.partition(".")[0] for name in names))
        close = get_close_matches(part, [*known, *names], n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"the model has no parameters in {part!r}; {hint}Its parts are {known}")


# cell 0c677b8c 35e39c · Parts of a model with settings of their own
def spread_rates(lowest: float, highest: float, n: int) -> list[float]:
    """Return `n` learning rates from the lowest to the highest, each the same multiple of the last.

    Source: Howard and Ruder 2018, section 3.2.
    """
    check_counts(n=n)
    return [lowest * (highest / lowest) ** (i / max(n - 1, 1)) for i in range(n)]


# cell 674660ee 7cd6aa · Parts of a model with settings of their own
def no_decay(model: nn.Module) -> list[dict[str, Any]]:
    """Make two groups: the weights, and without weight decay the biases and normalisation layers.

    A parameter with fewer than two axes, or called "bias", counts as a bias.
    """
    spared = {id(p) for part in model.modules() if "norm" in type(part).__name__.lower()
              for p in part.parameters(recurse=False)}
    spared |= {id(p) for name, p in model.named_parameters()
               if p.ndim < 2 or name.rpartition(".")[2] == "bias"}
    groups = [{"params": [p for p in model.parameters() if id(p) not in spared]},
              {"params": [p for p in model.parameters() if id(p) in spared], "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


# cell 337aeff2 600a23 · Parts of a model with settings of their own
def combine_groups(*makers: _Groups) -> _Groups:
    """Make a function that splits the groups of the first maker by those of the second, and so on.

    Where both set something, the later maker wins.
    """
    def groups(model: nn.Module) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = [{"params": list(model.parameters())}]
        for make in makers:
            made = [g if isinstance(g, Mapping) else {"params": list(g)} for g in make(model)]
            parts = [{**part, **group, "params": _common(part["params"], group["params"])}
                     for part in parts for group in made]
        return [part for part in parts if part["params"]]

    return groups


def _common(some: Iterable[Tensor], others: Iterable[Tensor]) -> list[Tensor]:
    there = set(map(id, others))
    return [p for p in some if id(p) in there]


# cell 847f7c95 01ad15 · Freezing
def freeze(model: nn.Module, *parts: str) -> None:
    """Let the parameters of a model, or only of its named parts, stay as they are.

    Raises: ValueError for a part that is not there.
    """
    chosen = [(owner, name, p) for owner, name, p in _parameters(model, parts) if p.requires_grad]
    for owner, name, _ in chosen:  # first all of them: one parameter may have several owners
        vars(owner).setdefault("_frozen", {})[name] = owner.training
    for _, _, p in chosen:
        p.requires_grad_(False)
        p.grad = None


def unfreeze(model: nn.Module, *parts: str) -> None:
    """Undo `freeze` for a model, or only for its named parts; what else is frozen stays frozen.

    Raises: ValueError for a part that is not there.
    """
    for owner, name, p in _parameters(model, parts):
        if name in vars(owner).get("_frozen", {}):
            p.requires_grad_(True)
            if owner._frozen.pop(name) and model.training:
                owner.training = True  # in the middle of a fit, its statistics move again


# cell cea5e940 67365b · Freezing
def _parameters(model: nn.Module, parts: Sequence[str]) -> list[tuple[nn.Module, str, Tensor]]:
    """List the parameters of some parts of a model, each with the module that holds it."""
    for part in parts:
        _check_part(model, part)
    return [(owner, name, p) for prefix, owner in model.named_modules()
            for name, p in owner.named_parameters(recurse=False)
            if any(_is_in(f"{prefix}.{name}".lstrip("."), part) for part in parts or [""])]


# cell ce03b072 176f87 · Any scheduler, and the plateau
class SchedulerCallback(Callback):
    """Set the rates by a scheduler of `torch.optim.lr_scheduler`, or one that works alike.

    `make_scheduler` builds it from the optimizer, anew for each fit. `each`: after which it steps,
    a "step" or an "epoch". `monitor`: the result that a scheduler such as ReduceLROnPlateau
    watches, by default "valid_loss" for that one.
    Raises: ValueError for another `each`; and as the fit begins, KeyError if there will be no such
        result, ValueError if the scheduler waits for it to move in the wrong direction.
    """

    order = 75  # after the results of an epoch, before those who act on the best

    def __init__(self, make_scheduler: Callable[[Any], Any], each: str = "step",
                 monitor: str | None = None):
        if each not in ("step", "epoch") or not takes_one(make_scheduler):
            raise ValueError('make_scheduler must be a function of the optimizer, such as lambda '
                             'opt: CosineAnnealingLR(opt, T_max=…), each "step" or "epoch", got '
                             f"{make_scheduler!r} and {each!r}")
        self.make_scheduler, self.each, self.monitor = make_scheduler, each, monitor
        self.scheduler, self._due, self._watched = None, False, None

    def before_fit(self, learn: Learner) -> None:
        for group in learn.opt.param_groups:
            group.pop("initial_lr", None)  # another scheduler's; the Learner puts it back
        self.scheduler, self._due = self.make_scheduler(SameGroups(learn.opt)), False
        if not hasattr(self.scheduler, "step"):
            raise TypeError(f"make_scheduler returned {self.scheduler!r}; it must return a "
                            "scheduler: lambda opt: CosineAnnealingLR(opt, T_max=…)")
        self._watched = _watched(learn, self.scheduler, self.monitor, self.each)

    def before_batch(self, learn: Learner) -> None:
        if self._due and learn.training:  # not right after the step: the record wants its rate
            self._due = False
            self.scheduler.step()

    def after_step(self, learn: Learner) -> None:
        self._due = self.each == "step"

    def after_epoch(self, learn: Learner) -> None:
        if self.each == "epoch":
            self.scheduler.step(*[learn.results[self._watched]] if self._watched else [])

    def cleanup_fit(self, learn: Learner) -> None:
        self.scheduler = None

    def state_dict(self) -> dict[str, Any]:
        return {"scheduler": self.scheduler and self.scheduler.state_dict(), "due": self._due}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.scheduler and state["scheduler"]:  # during a fit; the next one begins anew
            self.scheduler.load_state_dict(state["scheduler"])
            self._due = state["due"]


# cell 160f0b02 f0c543 · Any scheduler, and the plateau
def _watched(learn: Learner, scheduler: Any, monitor: str | None, each: str) -> str | None:
    """Return the name of the result that a scheduler watches, and refuse one that it cannot."""
    plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    monitor = "valid_loss" if plateau and monitor is None else monitor
    if monitor and each == "step":
        raise ValueError('a scheduler that watches a result steps once an epoch: each="epoch"')
    known = known_mode(learn, monitor) if monitor else None
    if plateau and known not in (None, scheduler.mode):
        raise ValueError(f"the best {monitor} is the {known}, but the scheduler has "
                         f'mode="{scheduler.mode}"; give it mode="{known}"')
    return monitor


# cell ab3c36d2 777d9e · Steps instead of epochs, and validation in between
class ValidateEvery(Callback):
    """Evaluate on the validation set after every n-th step; `rows` keeps what came out.

    Where the progress is lines, each row is one; a `TensorBoardLogger` writes it. Beside a
    `WeightAverage`, the average is evaluated. Monitors such as SaveBest act on whole epochs only.
    """

    order, only_watches = 95, True  # after WeightAverage

    def __init__(self, n_steps: int):
        check_counts(n_steps=n_steps)
        self.n_steps, self.rows, self._due = n_steps, [], False

    def __repr__(self) -> str:
        return format_table(self.rows) or f"ValidateEvery({self.n_steps})"

    def before_fit(self, learn: Learner) -> None:
        if learn.dls.valid is None:
            raise ValueError("there is no validation set to evaluate on: dls.valid is None")
        self._due = False

    def after_step(self, learn: Learner) -> None:
        self._due = learn.n_steps % self.n_steps == 0

    def after_batch(self, learn: Learner) -> None:
        if learn.training and self._due:
            self._due = False
            averages = [c for c in learn.callbacks if isinstance(c, WeightAverage)]
            with averages[0].averaged(learn) if averages else nullcontext():
                results = learn.evaluate()
            self.rows.append({"step": learn.n_steps, "epoch": learn.epoch + 1}
                             | {f"valid_{name}": value for name, value in results.items()})
            for other in learn.callbacks:  # ProgressCallback, TensorBoardLogger
                if hasattr(other, "take_row"):
                    other.take_row(self.rows[-1])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = [dict(row) for row in state["rows"]]
