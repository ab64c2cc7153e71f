"""The learning-rate finder

By the end you will be able to tell when a learning rate is too large, exactly for a bowl and within seconds for any model, with a tool that leaves no trace in the weights, the optimizer or the random numbers, and you will have tried on three tasks how good its suggestions are.
"""

# cell c23cc91d a6284e · The learning-rate finder
from __future__ import annotations

# generated from nbs/05b_lr_find.ipynb: do not edit · c835a3
__all__ = [
    "smooth",
    "RateSweep",
    "plot_sweep",
    "module_as_found",
    "as_found",
    "lr_find",
    "bowl_limit",
]
__dir__ = __all__.copy  # what completion offers

# cell c23cc91d eafd4f · The learning-rate finder
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import nn

from exp.nb03c import modes_kept
from exp.nb03d import process_rank, random_kept
from exp.nb03f import Callback, CancelFit, MetricsCallback, callback_list
from exp.nb03g import Recorder
from exp.nb04 import Learner
from exp.nb05 import ExponentialSchedule


# cell d9deedc9 68a6ee · The learning-rate finder
def smooth(values: Sequence[float]) -> list[float]:
    """Average each value with its neighbours, nearer ones counting more, without a lag.

    Shape: (n,) -> (n,).
    """
    places = torch.arange(len(values))
    distance = (places - places[:, None]) / (len(values) / 40)  # in fortieths of the length
    weights = (-0.5 * distance**2).exp()  # (n, n)
    return ((weights * torch.tensor(values)).sum(1) / weights.sum(1)).tolist()


# cell ab75afa9 3ed33c · The learning-rate finder
@dataclass(frozen=True, repr=False)
class RateSweep:
    """The loss that each learning rate led to.

    `losses[i]` was measured on the batch after the step with `lrs[i]`. `exploded` is true if the
    sweep ended because the loss exploded, false if it reached its last rate.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    exploded: bool

    @property
    def minimum(self) -> float:
        """The rate at which the smoothed loss is lowest."""
        smoothed = smooth(self.losses)
        return self.lrs[smoothed.index(min(smoothed))]

    @property
    def minimum_tenth(self) -> float:
        """A tenth of the rate at which the smoothed loss is lowest."""
        return self.minimum / 10

    @property
    def steepest(self) -> float:
        """The rate below the minimum at which the smoothed loss falls fastest."""
        falls = torch.tensor(smooth(self.losses)).diff()[:max(1, self.lrs.index(self.minimum))]
        return self.lrs[falls.argmin().item()]

    def __repr__(self) -> str:
        end = "where the loss exploded" if self.exploded else "without an explosion"
        return (f"learning rates: steepest {self.steepest:.2g}, minimum/10 "
                f"{self.minimum_tenth:.2g} ({len(self.lrs)} from {self.lrs[0]:.2g} to "
                f"{self.lrs[-1]:.2g}, {end})")


# cell 1bb44c3f 4eb418 · The learning-rate finder
def plot_sweep(sweep: RateSweep) -> None:
    """Plot the loss against the rate, with both suggestions marked."""
    import matplotlib.pyplot as plt

    smoothed = smooth(sweep.losses)
    figure, axis = plt.subplots(figsize=(6, 3))
    axis.semilogx(sweep.lrs, sweep.losses, ".", color="lightgray", label="each batch")
    axis.semilogx(sweep.lrs, smoothed, label="smoothed")
    for name, color, style in (("steepest", "tab:green", "--"), ("minimum_tenth", "tab:red", ":")):
        rate = getattr(sweep, name)
        axis.axvline(rate, color=color, ls=style, label=f"{name} {rate:.2g}")
    low, first = min(sweep.losses), sweep.losses[0]
    axis.set(title="Learning-rate finder", xlabel="lr", ylabel="loss after a step with it",
             ylim=(min(0, low), first + 0.5 * abs(first)))
    axis.legend(fontsize=8)
    plt.show()


# cell 8e8c5741 f1cfbc · The learning-rate finder
class _Sweep(Callback):
    """Raise the rate by a factor before each batch, until the loss explodes or the rates end."""

    order = Callback.order - 10  # before callbacks that use the rate

    def __init__(self, lrs: Sequence[float], explode: float):
        self.lrs, self.explode = lrs, explode
        self.losses: list[float] = []
        self.n_taken, self.average, self.best, self.exploded = 0, 0.0, math.inf, False

    def before_fit(self, learn: Learner) -> None:
        rates = [group["lr"] for group in learn.opt.param_groups]
        self.shares = [rate / max(rates) if max(rates) > 0 else 1.0 for rate in rates]

    def before_batch(self, learn: Learner) -> None:
        for group, share in zip(learn.opt.param_groups, self.shares, strict=True):
            group["lr"] = share * self.lrs[min(self.n_taken, len(self.lrs) - 1)]

    def after_loss(self, learn: Learner) -> None:
        loss = learn.loss.item()
        self.average = 0.7 * self.average + 0.3 * loss  # so that one odd batch does not decide
        usual = self.average / (1 - 0.7 ** (self.n_taken + 1))
        self.exploded = not usual - self.best <= self.explode * abs(self.best)
        if self.n_taken and math.isfinite(loss):
            self.losses.append(loss)
        if self.exploded or not math.isfinite(loss) or self.n_taken == len(self.lrs):
            self.exploded = self.exploded or not math.isfinite(loss)
            raise CancelFit
        self.best = min(self.best, usual)
        self.n_taken += 1


# cell 028c8e80 14900b · The learning-rate finder
@contextmanager
def module_as_found(module: nn.Module) -> Iterator[None]:
    """Put a module's parameters, gradients, buffers and modes back, however the block ends."""
    params = [(p, p.data, p.data.clone(), p.grad, p.requires_grad) for p in module.parameters()]
    buffers = [(part, name, buffer, buffer.clone()) for part in module.modules()
               for name, buffer in part.named_buffers(recurse=False)]
    try:
        with modes_kept(module):
            yield
    finally:
        for p, data, copy, grad, learns in params:
            p.data, p.grad = data.copy_(copy), grad  # on the device it was on
            p.requires_grad_(learns)
        for part, name, buffer, copy in buffers:
            setattr(part, name, buffer.copy_(copy))


# cell 31cdb9da e494a2 · The learning-rate finder
@contextmanager
def as_found(learn: Learner) -> Iterator[None]:
    """Put a Learner back as it was: model, optimizer, callbacks, random numbers, attributes.

    This happens however the block ends, by an exception or Ctrl-C included.
    """
    opt, attributes = learn.opt, dict(vars(learn))
    state, groups = dict(opt.state), [(group, dict(group)) for group in opt.param_groups]
    callbacks = [(callback, deepcopy(callback.state_dict())) for callback in learn.callbacks]
    opt.state.update({p: deepcopy(kept) for p, kept in state.items()})
    with random_kept(learn.loaders), ExitStack() as modules:
        for part in (learn.model, learn.loss_func):
            if isinstance(part, nn.Module):
                modules.enter_context(module_as_found(part))
        try:
            yield
        finally:
            vars(learn).clear()
            vars(learn).update(attributes)
            opt.state.clear()
            opt.state.update(state)
            opt.param_groups[:] = [group for group, _ in groups]
            for group, kept in groups:
                group.clear()
                group.update(kept)
            for callback, kept in callbacks:
                callback.load_state_dict(kept)


# cell 8b623577 761cda · The learning-rate finder
def lr_find(learn: Learner, start_lr: float = 1e-6, end_lr: float = 10.0, num_steps: int = 100,
            explode: float = 3.0, callbacks: Iterable[Callback] | Callback = ()) -> RateSweep:
    """Try rates from `start_lr` to `end_lr`, each a factor above the last, until the loss explodes.

    It has exploded when it has risen by `explode` times its lowest value. Afterwards everything is
    as it was before. The rates are those of the parameter group with the highest rate; the others
    keep their ratio to it. Of the Learner's callbacks only those take part that `evaluate` needs
    too, such as one that computes the loss; pass others, such as gradient clipping, in `callbacks`.
    Raises: ValueError for an invalid range, or if the loss explodes at once; RuntimeError in one of
        several processes, since each would stop at a loss of its own.
    Source: Smith 2017, section 3.3.
    Differs: Smith raises the rate by a constant amount and looks at the accuracy.
    """
    if not 0 < start_lr < end_lr < math.inf or num_steps < 10 or not explode > 0:
        raise ValueError("lr_find needs 0 < start_lr < end_lr, 10 or more steps, explode > 0; got "
                         f"{start_lr} to {end_lr} in {num_steps} steps, explode {explode}")
    if process_rank()[1] > 1:
        raise RuntimeError("lr_find stops at a loss of this process, the others would wait for it; "
                           "run it without torchrun")
    lrs = [ExponentialSchedule(start_lr, end_lr)(i / (num_steps - 1)) for i in range(num_steps)]
    sweep = _Sweep(lrs, explode)
    with as_found(learn):
        helpers = [c for c in learn.callbacks if c.evaluates]
        learn.callbacks, learn.progress = [MetricsCallback(), Recorder(), *helpers], False
        learn.dls = SimpleNamespace(train=learn.dls.train, valid=None)
        learn.fit(num_steps + 1, callbacks=[sweep, *callback_list(callbacks)])
    n = len(sweep.losses)
    if n < 4:
        raise ValueError(f"the loss exploded after {n} steps from start_lr {start_lr:g} on: lower "
                         "start_lr, or look for what is wrong with the loss")
    return RateSweep(tuple(lrs[:n]), tuple(sweep.losses), sweep.exploded)


# cell 26d520fe 718311 · Does it find the limit?
def bowl_limit(sweep: RateSweep) -> float:
    """Return the largest stable rate of a bowl, 2 / λ_max, from how fast its loss explodes.

    The further the sweep lets the loss explode, the more accurate the result.
    Raises: ValueError if the loss did not explode.
    Source: Polyak 1987, chapter 1, inverted: a step multiplies the loss by (ηλ - 1)².
    """
    level = min(smooth(sweep.losses))
    before, last = (loss - level for loss in sweep.losses[-2:])
    if not sweep.exploded or not min(before, last) > 0:
        raise ValueError("the limit is read off an explosion, but the last two losses are only "
                         f"{before:g} and {last:g} above the lowest: raise end_lr or explode")
    return 2 * sweep.lrs[-1] / (1 + math.sqrt(last / before))
