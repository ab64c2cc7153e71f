"""Annealing: a learning rate for every moment

By the end you will know why a learning rate should fall while a network trains, have schedules for any setting of the optimizer, equal to PyTorch's at every step, and have seen in thousands of small training runs what they are worth.
"""

# cell 2d81e2ab a6284e · Annealing: a learning rate for every moment
from __future__ import annotations

# generated from nbs/05_anneal.ipynb: do not edit · db3906
__all__ = [
    "Schedule",
    "ConstantSchedule",
    "LinearSchedule",
    "CosineSchedule",
    "ExponentialSchedule",
    "PolynomialSchedule",
    "CombinedSchedule",
    "restarts_schedule",
    "one_cycle",
    "set_hyperparameter",
    "get_hyperparameter",
    "ScheduleCallback",
    "fit_one_cycle",
]
__dir__ = __all__.copy  # what completion offers

# cell 2d81e2ab c3d7fc · Annealing: a learning rate for every moment
import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from exp.nb03d import check_counts, loader_length
from exp.nb03f import Callback, callback_list
from exp.nb03g import Recorder
from exp.nb03i import check_fit
from exp.nb04 import Learner
from exp.nb04e import SchedulerCallback


# cell a181ce09 dc3d99 · A schedule is a function of the position
_ROUNDING = 1e-9  # a position this close to a boundary is on it


class Schedule:
    """A value for each position in training: 0 is the first step, 1 the last.

    Subclasses implement `at`; calling a schedule checks the position first.
    Raises: ValueError for a position outside 0..1.
    """

    def __call__(self, position: float) -> float:
        if not -_ROUNDING <= position <= 1 + _ROUNDING:
            raise ValueError(f"position must lie in 0..1, from the first step to the last; "
                             f"got {position}")
        return self.at(min(max(float(position), 0.0), 1.0))

    def at(self, position: float) -> float:
        """Return the value at `position`, which has been checked to lie in 0..1."""
        raise NotImplementedError(f"{type(self).__name__} must define at(self, position)")


# cell dd96907b 1e5265 · A schedule is a function of the position
@dataclass(frozen=True)
class ConstantSchedule(Schedule):
    """Stay at `value` throughout."""

    value: float

    def at(self, position: float) -> float:
        return self.value


@dataclass(frozen=True)
class LinearSchedule(Schedule):
    """Move from `start` to `end` in a straight line."""

    start: float
    end: float

    def at(self, position: float) -> float:
        return self.start + position * (self.end - self.start)


# cell 3827f61d 48cd63 · A schedule is a function of the position
@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """Move from `start` to `end` along half a cosine wave: slowly, fast, slowly.

    Source: Loshchilov and Hutter 2017, equation 5.
    """

    start: float
    end: float

    def at(self, position: float) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * position)) / 2


# cell 89808807 693b77 · A schedule is a function of the position
@dataclass(frozen=True)
class ExponentialSchedule(Schedule):
    """Move from `start` to `end` by the same factor in every step.

    Raises: ValueError unless both ends are positive.
    """

    start: float
    end: float

    def __post_init__(self):
        if not (self.start > 0 and self.end > 0):
            raise ValueError("start and end of an ExponentialSchedule must be positive, got "
                             f"{self.start} and {self.end}; a LinearSchedule can reach 0")

    def at(self, position: float) -> float:
        return self.start * (self.end / self.start) ** position


# cell bbf203a4 d9e260 · A schedule is a function of the position
@dataclass(frozen=True)
class PolynomialSchedule(Schedule):
    """Move from `start` to `end` as a power of the fraction that remains.

    Raises: ValueError unless the power is positive.
    """

    start: float
    end: float
    power: float = 2.0

    def __post_init__(self):
        if not self.power > 0:
            raise ValueError(f"power must be positive, got {self.power}")

    def at(self, position: float) -> float:
        return self.end + (self.start - self.end) * (1 - position) ** self.power


# cell 072c2d9b 5642e5 · One schedule after another
@dataclass(frozen=True)
class CombinedSchedule(Schedule):
    """Run schedules one after another, each for its fraction of the training.

    At a boundary the next schedule begins; position 1 is the end of the last one.
    Raises: ValueError unless there is one fraction for each schedule, all are 0 or more, and they
        sum to 1.
    """

    pcts: Sequence[float]
    schedules: Sequence[Schedule]

    def __post_init__(self):
        for name in ("pcts", "schedules"):  # tuples, so that it can be hashed and compared
            object.__setattr__(self, name, tuple(getattr(self, name)))
        pcts = self.pcts
        if len(pcts) != len(self.schedules) or not pcts:
            raise ValueError(f"each schedule needs one fraction: got {len(pcts)} fractions for "
                             f"{len(self.schedules)} schedules")
        if not all(pct >= 0 for pct in pcts) or abs(math.fsum(pcts) - 1) > 1e-6:
            raise ValueError(f"fractions must be 0 or more and sum to 1, got {list(pcts)}, "
                             f"which sum to {math.fsum(pcts):g}")

    def at(self, position: float) -> float:
        total = math.fsum(self.pcts)
        ends = [math.fsum(self.pcts[:i]) / total for i in range(1, len(self.pcts) + 1)]
        last = max(i for i, pct in enumerate(self.pcts) if pct > _ROUNDING)
        phase = min(bisect_right(ends, position + _ROUNDING), last)
        begin = ends[phase - 1] if phase else 0.0
        inside = (position - begin) / (ends[phase] - begin)
        return self.schedules[phase](min(max(inside, 0.0), 1.0))


# cell c5af332f 60e4cd · One schedule after another
def restarts_schedule(start: float, end: float, cycles: int,
                      multiplier: float = 1.0) -> CombinedSchedule:
    """Anneal along a cosine again and again, each time `multiplier` times as long as before.

    Raises: ValueError unless there is at least one cycle and the multiplier is positive.
    Source: Loshchilov and Hutter 2017, equation 5 and section 3.
    """
    check_counts(cycles=cycles)
    if not multiplier > 0:
        raise ValueError(f"multiplier must be positive, got {multiplier}")
    lengths = [float(multiplier) ** i for i in range(cycles)]
    shares = [length / math.fsum(lengths) for length in lengths]
    return CombinedSchedule(shares, [CosineSchedule(start, end)] * cycles)


# cell dfb76d8e 8279ec · One cycle, for two settings at once
def one_cycle(max_lr: float, total_steps: int, pct_start: float = 0.3, div_factor: float = 25.0,
              final_div_factor: float = 1e4, base_momentum: float = 0.85,
              max_momentum: float = 0.95) -> dict[str, CombinedSchedule]:
    """Return schedules for "lr", up and then down, and for "momentum", down and then up.

    The rate rises from max_lr / div_factor to max_lr and falls to its start / final_div_factor.
    Raises: ValueError if there are too few steps to rise and fall (fewer than 4 at the default
        pct_start), if a rate or divisor is not positive, or if a momentum is outside [0, 1).
    Source: Smith and Topin 2018; names and defaults as in torch.optim.lr_scheduler.OneCycleLR.
    Differs: always cosines, always two phases, always the momentum too.
    """
    for name, value in (("max_lr", max_lr), ("div_factor", div_factor),
                        ("final_div_factor", final_div_factor)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}")
    if not (0 <= base_momentum < 1 and 0 <= max_momentum < 1):
        raise ValueError("base_momentum and max_momentum must lie in [0, 1), got "
                         f"{base_momentum} and {max_momentum}")
    top = pct_start * total_steps - 1  # the step at the peak, as PyTorch counts
    if not 0 < top < total_steps - 1:
        raise ValueError("one cycle needs steps to rise and to fall: total_steps * pct_start is "
                         f"{total_steps} * {pct_start}, and must lie between 1 and total_steps; "
                         "train for longer or change pct_start")
    low, share = max_lr / div_factor, top / (total_steps - 1)

    def up_and_down(start: float, middle: float, end: float) -> CombinedSchedule:
        return CombinedSchedule([share, 1 - share],
                                [CosineSchedule(start, middle), CosineSchedule(middle, end)])

    return {"lr": up_and_down(low, max_lr, low / final_div_factor),
            "momentum": up_and_down(max_momentum, base_momentum, max_momentum)}


# cell 44e0b841 6655d3 · One cycle, for two settings at once
def set_hyperparameter(group: dict[str, Any], name: str, value: Any) -> None:
    """Change a setting of one parameter group; "momentum" also means Adam's first beta.

    Raises: ValueError if the group has no such setting.
    """
    if name == "momentum" and "betas" in group:
        group["betas"] = (value, *group["betas"][1:])
    elif name in group and name != "params":
        group[name] = value
    else:
        known = sorted(group.keys() - {"params"}) + ["momentum"] * ("betas" in group)
        raise ValueError(f"the optimizer has no setting {name!r}; it has {', '.join(known)}")


# cell 4a8d4099 a1a872 · One cycle, for two settings at once
def get_hyperparameter(group: dict[str, Any], name: str) -> Any:
    """Return a setting of one parameter group, by the names that `set_hyperparameter` takes.

    Raises: ValueError if the group has no such setting.
    """
    set_hyperparameter(dict(group), name, None)  # on a copy, to refuse unknown names
    return group["betas"][0] if name == "momentum" and "betas" in group else group[name]


# cell f696b240 9c35f2 · A callback that follows a schedule
def _one_for_each(given: Any, groups: list[Any]) -> list[Any]:
    """Return one item for each parameter group, from a list of them or one item for all."""
    items = list(given) if isinstance(given, list | tuple) else [given] * len(groups)
    if len(items) != len(groups):
        raise ValueError(f"give one for all parameter groups or one for each: got {len(items)} for "
                         f"{len(groups)} parameter groups")
    return items


# cell eff9816b 12e366 · A callback that follows a schedule
def _check_schedule(name: str, learn: Learner) -> None:
    """Refuse a setting that cannot be scheduled, and two schedules for one setting."""
    names = [c.name for c in learn.callbacks if isinstance(c, ScheduleCallback)]
    rivals = [c for c in learn.callbacks if isinstance(c, SchedulerCallback) and name == "lr"]
    if names.count(name) + len(rivals) > 1:
        raise ValueError(f"there are two schedules for {name!r}; put them into one "
                         "CombinedSchedule, or leave one out")
    for group in learn.opt.param_groups:
        value = get_hyperparameter(group, name)
        if isinstance(value, bool) or not hasattr(value, "__float__"):
            raise ValueError(f"{name!r} is {value!r}, but only numbers can be scheduled; Adam's "
                             'first beta goes by the name "momentum"')
    if learn.n_epochs is not None:
        _training_batches(learn)


def _training_batches(learn: Learner) -> int:
    """Return the number of training batches in an epoch."""
    n_batches = loader_length(learn.dls.train)
    if n_batches is None:
        raise ValueError("the training loader has no length, so the end of the training is "
                         "unknown; give it a __len__, or fit with n_steps")
    return n_batches


def _check_length(learn: Learner) -> None:
    """Refuse a batch that the training loader should not have."""
    if learn.n_epochs is not None and learn.batch_index >= learn.n_batches:
        raise ValueError(f"the training loader, a {type(learn.dls.train).__name__}, has length "
                         f"{learn.n_batches} but returned batch {learn.batch_index + 1}, and the "
                         "schedule has no value for it; correct its __len__, or fit with n_steps")


# cell 7b5666fc 241c7e · A callback that follows a schedule
class ScheduleCallback(Callback):
    """Set one setting of the optimizer before each training batch, as a schedule says.

    `schedule` is one for all parameter groups, or a list with one for each. "momentum" also means
    Adam's first beta. After the fit the setting is what it was before.
    Raises: TypeError if a schedule is not callable; ValueError, when the fit begins, for an unknown
        setting or one that is not a number, a wrong number of schedules, or two for one setting;
        later, if the loader returns more batches than its length.
    """

    order, repeatable = Callback.order - 10, True  # before callbacks that use the setting
    follows_length = True  # a longer fit is another one from its first step

    def __init__(self, name: str, schedule: Schedule | Sequence[Schedule]):
        if not all(map(callable, schedule if isinstance(schedule, list | tuple) else [schedule])):
            raise TypeError(f"a schedule is a function of the position, got {schedule!r}")
        self.name, self.schedule = name, schedule

    def before_fit(self, learn: Learner) -> None:
        _check_schedule(self.name, learn)
        self._schedules = _one_for_each(self.schedule, learn.opt.param_groups)

    def before_batch(self, learn: Learner) -> None:
        if learn.training:
            _check_length(learn)
            groups = learn.opt.param_groups
            if len(groups) != len(self._schedules):  # a callback has added some
                self._schedules = _one_for_each(self.schedule, groups)
            for group, schedule in zip(groups, self._schedules, strict=True):
                set_hyperparameter(group, self.name, schedule(learn.position))


# cell 4bae1d3c b24dc3 · A callback that follows a schedule
def fit_one_cycle(learn: Learner, n_epochs: int | None = None,
                  max_lr: float | Sequence[float] | None = None,
                  callbacks: Iterable[Callback] | Callback = (), *, n_steps: int | None = None,
                  **options: Any) -> Recorder:
    """Train with one cycle of the learning rate and the momentum, and return the record.

    `max_lr` is one rate for all parameter groups or a list with one for each, by default those of
    the Learner. `n_steps` may be given in place of `n_epochs`; `options` are passed to `one_cycle`.
    Raises: ValueError as `one_cycle`, and as `ScheduleCallback`.
    Source: Smith and Topin 2018.
    """
    check_fit(learn, n_epochs, n_steps)
    total_steps = n_steps if n_epochs is None else n_epochs * _training_batches(learn)
    peaks = _one_for_each(learn.lr if max_lr is None else max_lr, learn.opt.param_groups)
    cycles = [one_cycle(peak, total_steps, **options) for peak in peaks]
    schedules = [ScheduleCallback(name, [cycle[name] for cycle in cycles])
                 for name in ("lr", "momentum")]
    return learn.fit(n_epochs, peaks, [*schedules, *callback_list(callbacks)], n_steps=n_steps)
