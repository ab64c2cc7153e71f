"""exp.nb05, nb05b, nb05c: schedules, the finder that leaves no trace, optimizers from parts."""

import copy
import gc
import math
import pickle
import random
import subprocess
import sys
import weakref
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from exp import nb03, nb05, nb05b, nb05c
from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb04 import Callback, CancelFit, Learner
from exp.nb04d import Checkpoint
from exp.nb05 import (
    CombinedSchedule,
    ConstantSchedule,
    CosineSchedule,
    ExponentialSchedule,
    LinearSchedule,
    PolynomialSchedule,
    Schedule,
    ScheduleCallback,
    fit_one_cycle,
    get_hyperparameter,
    one_cycle,
    restarts_schedule,
    set_hyperparameter,
)
from exp.nb05b import RateSweep, as_found, bowl_limit, lr_find, module_as_found, smooth
from exp.nb05c import LAMB, Adam, AdamW, ComposedOptimizer, RMSprop

ROOT = Path(__file__).resolve().parents[1]
positions = st.floats(0, 1)
values = st.floats(1e-6, 1e3)
quick = settings(deadline=None, max_examples=50)
KINDS = [LinearSchedule, CosineSchedule, ExponentialSchedule, PolynomialSchedule]


# --- schedules -----------------------------------------------------------------------------------


@quick
@given(st.sampled_from(KINDS), values, values, positions, positions)
def test_a_schedule_goes_from_start_to_end_and_never_back(kind, start, end, x, y):
    schedule = kind(start, end)
    assert schedule(0) == pytest.approx(start) and schedule(1) == pytest.approx(end)
    x, y = sorted((x, y))
    rising = (schedule(y) - schedule(x)) * (1 if end > start else -1)
    assert rising >= -1e-9 * max(start, end)


@pytest.mark.parametrize("position", [-0.01, 1.01, math.nan, math.inf, -math.inf])
def test_a_position_outside_is_an_error(position):
    with pytest.raises(ValueError, match=r"0\.\.1"):
        LinearSchedule(0.0, 1.0)(position)


def test_a_position_outside_by_rounding_is_inside():
    assert LinearSchedule(0.0, 1.0)(1 + 1e-12) == 1.0
    assert LinearSchedule(0.0, 1.0)(-1e-12) == 0.0


def test_wrong_arguments_of_schedules():
    with pytest.raises(ValueError, match="LinearSchedule can reach 0"):
        ExponentialSchedule(0.0, 1.0)
    with pytest.raises(ValueError, match="power must be positive"):
        PolynomialSchedule(1.0, 0.0, power=0)
    with pytest.raises(NotImplementedError, match="must define at"):
        Schedule()(0.5)


shares = st.lists(st.integers(0, 1000), min_size=1, max_size=60).filter(any)


@quick
@given(shares, positions)
def test_any_shares_that_sum_to_one_reach_the_last_phase(weights, x):
    pcts = [weight / sum(weights) for weight in weights]
    steps = [LinearSchedule(i, i + 1) for i in range(len(pcts))]
    schedule = CombinedSchedule(pcts, steps)
    last = max(i for i, pct in enumerate(pcts) if pct > 0)
    assert schedule(1) == last + 1  # exactly
    assert schedule(0) == next(i for i, pct in enumerate(pcts) if pct)
    assert 0 <= schedule(x) <= len(pcts)


@pytest.mark.parametrize(
    "pcts",
    [
        [0.7, 0.2, 0.1],
        [0.1] * 10,
        [1 / 3] * 3,
        [1 / 49] * 49,
        [0.333333, 0.333333, 0.333334],
        [0.3333333] * 3,
    ],
)
def test_shares_within_rounding(pcts):
    schedule = CombinedSchedule(pcts, [ConstantSchedule(i) for i in range(len(pcts))])
    assert schedule(1) == len(pcts) - 1
    for i in range(len(pcts)):
        assert schedule((i + 0.5) / len(pcts)) in range(len(pcts))


@pytest.mark.parametrize("tiny", [0.0, 1e-300, 1e-17, 1e-10])
def test_a_share_of_next_to_nothing_is_passed_over(tiny):
    steps = [LinearSchedule(0, 1), LinearSchedule(1, 2), LinearSchedule(2, 3)]
    assert CombinedSchedule([1.0, tiny, 0.0], steps)(1) == 1
    assert CombinedSchedule([0.0, tiny, 1.0], steps)(0) == pytest.approx(2)


@pytest.mark.parametrize("pcts", [[0.5], [0.5, 0.4], [0.5, 0.51], [1.2, -0.2], [math.nan, 1.0]])
def test_other_shares_are_refused(pcts):
    with pytest.raises(ValueError, match="fraction"):
        CombinedSchedule(pcts, [ConstantSchedule(1.0), ConstantSchedule(2.0)])
    with pytest.raises(ValueError, match="fraction"):
        CombinedSchedule([], [])


def test_on_a_boundary_the_next_phase_begins_despite_rounding():
    stairs = CombinedSchedule([0.1] * 10, [ConstantSchedule(i) for i in range(10)])
    assert [stairs(i / 10) for i in range(10)] == list(range(10))
    assert [stairs(sum([0.1] * i)) for i in range(10)] == list(range(10))


def test_schedules_pickle_compare_and_show_themselves():
    schedule = one_cycle(0.1, 100)["lr"]
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert "CosineSchedule(start=0.1" in repr(schedule)
    assert isinstance(restarts_schedule(1.0, 0.0, 2), CombinedSchedule)


@quick
@given(
    st.integers(3, 400), st.floats(0.05, 0.9), st.floats(1, 50), st.floats(1, 1e5), st.booleans()
)
def test_one_cycle_is_torchs_in_every_step(total, pct_start, div, final_div, adam):
    assume(1.01 < pct_start * total < total - 0.01)
    options = {"pct_start": pct_start, "div_factor": div, "final_div_factor": final_div}
    p = nn.Parameter(torch.ones(1))
    opt = torch.optim.Adam([p]) if adam else torch.optim.SGD([p], lr=1, momentum=0.5)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(opt, 0.3, total, **options)
    ours = one_cycle(0.3, total, **options)
    for t in range(total):
        group = opt.param_groups[0]
        theirs = (group["lr"], get_hyperparameter(group, "momentum"))
        mine = [ours[name](t / (total - 1)) for name in ("lr", "momentum")]
        assert mine == pytest.approx(theirs, abs=1e-12)
        opt.step()
        if t < total - 1:
            scheduler.step()


@pytest.mark.parametrize(
    "options",
    [
        {"max_lr": 0.0},
        {"max_lr": math.nan},
        {"div_factor": 0},
        {"final_div_factor": -1},
        {"base_momentum": 1.0},
        {"max_momentum": -0.1},
    ],
)
def test_one_cycle_of_settings_that_make_no_sense(options):
    with pytest.raises(ValueError, match=next(iter(options)).split("_")[-1]):
        one_cycle(**{"max_lr": 0.1, "total_steps": 100, **options})


@pytest.mark.parametrize("total", [1, 2, 3])
def test_one_cycle_without_a_step_to_go_up(total):
    with pytest.raises(ValueError, match="train for longer"):
        one_cycle(0.1, total)


def test_settings_by_name():
    group = {"params": [], "lr": 0.1, "betas": (0.9, 0.99)}
    set_hyperparameter(group, "momentum", 0.8)
    assert group["betas"] == (0.8, 0.99) and get_hyperparameter(group, "momentum") == 0.8
    for name in ("params", "learning_rate"):
        with pytest.raises(ValueError, match="it has betas, lr, momentum"):
            set_hyperparameter(group, name, 1)
        with pytest.raises(ValueError, match="no setting"):
            get_hyperparameter(group, name)


# --- the callback --------------------------------------------------------------------------------


class Net(nn.Module):
    """Batch norm, dropout and a tied weight: all that a sweep could disturb."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.norm, self.drop, self.head = nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 2)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.seen = self.seen + len(x)
        return self.head(self.drop(self.norm(self.second(self.first(x).relu()))))


def make(opt_func=None, callbacks=(), n=48, batch_size=8, loader=None, **options):
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(n, 4), torch.randint(0, 2, (n,)))
    draw = torch.Generator().manual_seed(1)
    loader = loader or DataLoader(data, batch_size, shuffle=True, generator=draw)
    opt_func = opt_func or partial(torch.optim.SGD, momentum=0.9)
    return Learner(
        Net(),
        DataLoaders(loader, DataLoader(data, 16)),
        nn.CrossEntropyLoss(),
        0.05,
        opt_func,
        callbacks=callbacks,
        **options,
    )


class Note(Callback):
    def __init__(self, *names):
        self.names, self.seen, self.positions = names, [], []

    def before_batch(self, learn):
        if learn.training:
            self.positions.append(learn.position)

    def after_batch(self, learn):
        if learn.training:
            group = learn.opt.param_groups[0]
            self.seen.append([get_hyperparameter(group, name) for name in self.names])


@pytest.mark.parametrize("n_epochs", [1, 2, 5])
def test_the_last_step_has_the_last_value(n_epochs):
    learn, note = make(), Note("lr")
    learn.fit(n_epochs, callbacks=[ScheduleCallback("lr", LinearSchedule(1e-3, 1e-5)), note])
    assert note.positions[0] == 0 and note.positions[-1] == 1 and len(note.seen) == 6 * n_epochs
    assert note.seen[0] == [1e-3] and note.seen[-1][0] == pytest.approx(1e-5, rel=1e-12)


def test_a_fit_of_one_batch():
    learn, note = make(batch_size=48), Note("lr")
    learn.fit(1, callbacks=[ScheduleCallback("lr", LinearSchedule(1e-3, 1e-5)), note])
    assert note.seen == [[1e-3]]


@pytest.mark.parametrize("error", [CancelFit(), ZeroDivisionError(), KeyboardInterrupt()])
def test_settings_come_back_whatever_happens(error):
    class Stop(Callback):
        def after_batch(self, learn):
            if learn.batch_index == 3:
                raise error

    learn = make(torch.optim.AdamW)
    before = copy.deepcopy(learn.opt.state_dict()["param_groups"])
    try:
        fit_one_cycle(learn, 2, callbacks=[Stop()])
    except (ZeroDivisionError, KeyboardInterrupt):
        pass
    assert learn.opt.state_dict()["param_groups"] == before
    assert [type(c).__name__ for c in learn.callbacks].count("ScheduleCallback") == 0


def test_one_cycle_drives_any_optimizer():
    for opt_func in (Adam, AdamW, LAMB, partial(RMSprop, momentum=0.5), nb03.SGD, torch.optim.Adam):
        learn, note = make(opt_func), Note("lr", "momentum")
        fit_one_cycle(learn, 2, max_lr=0.01)
        fit_one_cycle(learn, 2, max_lr=0.01, callbacks=[note])
        cycle = one_cycle(0.01, 12)
        wanted = [[cycle[k](t / 11) for k in ("lr", "momentum")] for t in range(12)]
        torch.testing.assert_close(torch.tensor(note.seen), torch.tensor(wanted))


def test_schedules_for_groups():
    learn = make()
    params = list(learn.model.parameters())
    learn.opt = torch.optim.SGD([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
    fit_one_cycle(learn, 1, max_lr=[0.01, 0.1])
    rates = torch.tensor(learn.recorder.lrs)
    torch.testing.assert_close(rates[:, 1], 10 * rates[:, 0])
    with pytest.raises(ValueError, match="3 for 2 parameter groups"):
        fit_one_cycle(learn, 1, max_lr=[0.01, 0.1, 1.0])


def test_what_the_callback_refuses():
    one = LinearSchedule(0.1, 0.0)
    with pytest.raises(ValueError, match="no setting 'speed'"):
        make().fit(1, callbacks=[ScheduleCallback("speed", one)])
    with pytest.raises(ValueError, match="two schedules for 'lr'"):
        make().fit(1, callbacks=[ScheduleCallback("lr", one), ScheduleCallback("lr", one)])
    for opt_func, name in ((torch.optim.Adam, "betas"), (torch.optim.SGD, "nesterov")):
        with pytest.raises(ValueError, match="only numbers"):
            make(opt_func).fit(1, callbacks=[ScheduleCallback(name, one)])
    for schedule in (0.1, [one, 0.1]):
        with pytest.raises(TypeError, match=r"function of the position, got .*0\.1"):
            ScheduleCallback("lr", schedule)
    learn = make()
    learn.dls = SimpleNamespace(train=iter([]), valid=None)
    with pytest.raises(ValueError, match="no length"):
        learn.fit(1, callbacks=[ScheduleCallback("lr", one)])
    with pytest.raises(ValueError, match="no length"):
        fit_one_cycle(learn, 1)


def test_one_cycle_of_steps_ends_exactly_with_the_last_step():
    learn, note = make(), Note("lr", "momentum")
    record = fit_one_cycle(learn, n_steps=8, max_lr=0.01, callbacks=note)
    assert record is learn.recorder and len(note.seen) == 8
    cycle = one_cycle(0.01, 8)
    assert note.positions == pytest.approx([t / 7 for t in range(8)])
    assert note.seen[-1] == pytest.approx([cycle["lr"](1), cycle["momentum"](1)])
    learn.dls = SimpleNamespace(train=Stream(list(learn.dls.train)), valid=None)
    assert len(fit_one_cycle(learn, n_steps=8).losses) == 16
    for wrong in ({}, {"n_epochs": 1, "n_steps": 8}):
        with pytest.raises(ValueError, match="n_epochs or n_steps"):
            fit_one_cycle(learn, **wrong)


class Stream:
    """A loader whose length is unknown, or wrong."""

    def __init__(self, batches, length=None):
        self.batches, self.length = batches, length

    def __len__(self):
        if self.length is None:
            raise TypeError("a stream has no length")
        return self.length

    def __iter__(self):
        return iter(self.batches)


def test_a_loader_that_is_longer_than_it_says():
    learn = make()
    learn.dls = SimpleNamespace(train=Stream(list(learn.dls.train), 3), valid=None)
    with pytest.raises(ValueError, match="a Stream, has length 3 but returned batch 4"):
        learn.fit(2, callbacks=ScheduleCallback("lr", LinearSchedule(0.1, 0.0)))


class Unfreeze(Callback):
    """Give the optimizer another group in the second epoch."""

    def __init__(self, params):
        self.params = params

    def before_epoch(self, learn):
        if learn.epoch == 1:
            learn.opt.add_param_group({"params": self.params})


def test_a_group_that_is_added_follows_the_schedule():
    one = LinearSchedule(0.1, 0.0)
    for schedule, fits in ((one, True), ([one], False)):
        learn = make(groups=lambda model: [list(model.parameters())[:2]])
        rest = Unfreeze(list(learn.model.parameters())[2:])
        call = partial(learn.fit, 2, callbacks=[ScheduleCallback("lr", schedule), rest])
        if fits:
            assert call().lrs[-1] == pytest.approx([0.0, 0.0])
        else:
            with pytest.raises(ValueError, match="got 1 for 2 parameter groups"):
                call()


@pytest.mark.parametrize("stop", [1, 4, 6, 7, 11])
def test_one_cycle_resumes_to_the_last_bit(tmp_path, stop):
    class Kill(Callback):
        count = 0

        def before_batch(self, learn):
            self.count += learn.training
            if self.count > stop:
                raise KeyboardInterrupt

    whole = make()  # which seeds the random numbers, so each is trained at once
    fit_one_cycle(whole, 2, callbacks=[Checkpoint(tmp_path / "whole", every=1)])
    with pytest.raises(KeyboardInterrupt):
        fit_one_cycle(make(), 2, callbacks=[Checkpoint(tmp_path / "broken", every=1), Kill()])
    resumed = make()
    fit_one_cycle(resumed, 2, callbacks=[Checkpoint(tmp_path / "broken", every=1)])
    assert bits(resumed.model.state_dict()) == bits(whole.model.state_dict())
    assert (resumed.recorder.lrs, resumed.recorder.momenta) == (
        whole.recorder.lrs,
        whole.recorder.momenta,
    )
    groups = [learn.opt.state_dict()["param_groups"] for learn in (whole, resumed, make())]
    assert groups[0] == groups[1] == groups[2]
    groups = [learn.opt.state_dict()["param_groups"] for learn in (whole, resumed)]
    assert groups[0] == groups[1]


# --- the finder ----------------------------------------------------------------------------------


def bits(value):
    """Everything in nested containers, tensors as bytes, so that equal means equal to the bit."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.detach().numpy().tobytes()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    return [bits(item) for item in value] if isinstance(value, list | tuple) else value


def everything(learn):
    recorder, model = learn.recorder, learn.model
    return bits(
        {
            "params": [(id(p), p, p.requires_grad) for p in model.parameters()],
            "grads": [p.grad for p in model.parameters()],
            "buffers": [(name, id(b), b) for name, b in model.named_buffers()],
            "modes": [part.training for part in model.modules()],
            "state": [
                (
                    id(p),
                    {k: (id(v) if isinstance(v, torch.Tensor) else 0, v) for k, v in kept.items()},
                )
                for p, kept in learn.opt.state.items()
            ],
            "groups": [
                (id(g), {k: v for k, v in g.items() if k != "params"})
                for g in learn.opt.param_groups
            ],
            "python": random.getstate(),
            "torch": torch.get_rng_state(),
            "numpy": np.random.get_state(),
            "loader": learn.dls.train.generator.get_state(),
            "history": (recorder.losses, recorder.lrs, recorder.momenta, recorder.epochs),
            "learner": [(name, id(value)) for name, value in vars(learn).items()],
            "callbacks": [id(c) for c in learn.callbacks],
        }
    )


class Disturb(Callback):
    """Draw all kinds of random numbers, and raise an error in one of the batches."""

    def __init__(self, event=None, error=None):
        self.count, self.event, self.error = 0, event, error

    def _act(self, event):
        random.random(), np.random.rand(), torch.rand(1)
        if event == self.event and self.count == 5:
            raise self.error

    def before_batch(self, learn):
        self.count += 1
        self._act("before_batch")

    def after_backward(self, learn):
        self._act("after_backward")

    def after_step(self, learn):
        self._act("after_step")

    def cleanup_fit(self, learn):
        if self.event == "cleanup_fit":
            raise self.error


OPTIMIZERS = [
    partial(torch.optim.SGD, momentum=0.9),
    torch.optim.AdamW,
    AdamW,
    LAMB,
    partial(nb03.SGD, momentum=0.9),
    partial(torch.optim.Adam, fused=True),
]


@pytest.mark.parametrize("opt_func", OPTIMIZERS)
@pytest.mark.parametrize("trained", [False, True])
def test_the_finder_leaves_no_trace(opt_func, trained):
    learn = make(opt_func)
    if trained:
        learn.fit(1)
    learn.model.norm.eval()
    list(learn.model.parameters())[0].grad = torch.ones(4, 4)
    before = everything(learn)
    lr_find(learn, 1e-5, 100, num_steps=40, callbacks=[Disturb()])
    assert everything(learn) == before


@pytest.mark.parametrize("event", ["before_batch", "after_backward", "after_step", "cleanup_fit"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken"), SystemExit()])
def test_no_trace_after_an_exception_either(event, error):
    learn = make()
    learn.fit(1)
    before = everything(learn)
    with pytest.raises(type(error)):
        lr_find(learn, callbacks=[Disturb(event, error)])
    assert everything(learn) == before


def test_training_goes_on_as_if_nobody_had_looked():
    one, other = make(), make()
    state = torch.get_rng_state()
    one.fit(2)
    torch.set_rng_state(state)
    lr_find(other)
    other.fit(2)
    assert bits(one.model.state_dict()) == bits(other.model.state_dict())
    assert one.recorder.losses == other.recorder.losses


def test_the_learners_own_callbacks_stay_out():
    class Never(Callback):
        def before_fit(self, learn):
            raise AssertionError("takes part")

        def before_batch(self, learn):
            raise AssertionError("takes part")

    learn = make(callbacks=[Never()])
    assert isinstance(lr_find(learn, 1e-5, 100, 40), RateSweep)


def test_a_helper_that_evaluates_takes_part():
    class Halve(Callback):
        evaluates = True
        count = 0

        def before_batch(self, learn):
            self.count += 1

    helper = Halve()
    sweep = lr_find(make(callbacks=[helper]), 1e-5, 1e-3, 20)
    assert helper.count == 21 and len(sweep.lrs) == 20 and not sweep.exploded


def test_nothing_keeps_the_model_alive():
    learn = make()
    model = weakref.ref(learn.model)
    sweep = lr_find(learn)
    del learn
    gc.collect()
    assert model() is None and len(sweep.lrs) == len(sweep.losses)


def test_the_finder_keeps_the_ratio_of_the_groups():
    rates, groups = [], lambda model: [list(model.parameters())[:2], list(model.parameters())[2:]]

    class Note(Callback):
        def after_backward(self, learn):
            rates.append([group["lr"] for group in learn.opt.param_groups])

    learn = make(groups=groups)
    learn.lr = [0.001, 0.01]
    sweep = lr_find(learn, 1e-4, 1.0, num_steps=20, callbacks=Note())
    assert learn.lr == [0.001, 0.01]
    n = len(sweep.lrs)
    assert [high for _, high in rates[:n]] == pytest.approx(list(sweep.lrs))
    assert [low for low, _ in rates[:n]] == pytest.approx([lr / 10 for lr in sweep.lrs])
    learn.lr = 0.0
    assert lr_find(learn, num_steps=20).lrs[0] == 1e-6


class Hundredfold(Callback):
    def do_loss(self, learn):
        learn.loss = 100 * learn.loss_func(learn.pred, learn.target)


def test_the_finder_sweeps_the_loss_that_is_trained():
    plain, changed = make(), make(callbacks=[Hundredfold()])
    losses = [lr_find(learn, 1e-8, 1e-6, num_steps=10).losses for learn in (plain, changed)]
    assert list(losses[1]) == pytest.approx([100 * loss for loss in losses[0]], rel=0.01)


def test_a_loader_shorter_than_the_sweep_and_no_validation():
    learn = make(n=16, batch_size=8)
    calls = []
    learn.dls = DataLoaders(learn.dls.train, None)
    sweep = lr_find(learn, 1e-5, 1e-4, 30, callbacks=[Note("lr")])
    assert len(sweep.lrs) == 30 and not calls


def test_rates_are_paired_with_the_loss_they_led_to():
    """On L = w²/2 a step multiplies the loss by (1 - lr)², known for each rate."""

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([3.0]))

        def forward(self, x):
            return (0.5 * self.w**2).expand(len(x))

    loader = DataLoader(TensorDataset(torch.zeros(4), torch.zeros(4)), 4)
    learn = Learner(Square(), DataLoaders(loader, None), lambda pred, y: pred.mean(), 0.1)
    sweep = lr_find(learn, 1e-2, 1.0, 20)
    expected = torch.tensor([4.5])
    for lr, loss in zip(sweep.lrs, sweep.losses, strict=True):
        expected = expected * (1 - lr) ** 2
        assert loss == pytest.approx(expected.item(), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("range_", [(0, 1), (1, 0.1), (1e-3, math.inf), (-1, 1), (math.nan, 1)])
def test_ranges_that_are_none(range_):
    with pytest.raises(ValueError, match="start_lr < end_lr"):
        lr_find(make(), *range_)
    with pytest.raises(ValueError, match="10 or more steps"):
        lr_find(make(), num_steps=3)


def test_a_loss_that_is_not_a_number_from_the_start():
    learn = make()
    learn.loss_func = lambda pred, y: pred.sum() * math.nan
    before = everything(learn)
    with pytest.raises(ValueError, match="look for what is wrong with the loss"):
        lr_find(learn)
    assert everything(learn) == before


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_suggestions_lie_where_they_should(scale):
    lrs = [10 ** (-5 + i / 20) for i in range(120)]
    losses = [scale * (2.3 - 2 / (1 + (1e-2 / lr) ** 2) + (lr / 0.5) ** 4) for lr in lrs]
    sweep = RateSweep(tuple(lrs), tuple(losses), True)
    assert 5e-3 < sweep.steepest < 2e-2 and 0.03 < sweep.minimum < 0.3
    assert sweep.minimum_tenth == sweep.minimum / 10 < sweep.minimum < sweep.lrs[-1]
    assert "steepest" in repr(sweep)


@quick
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_smoothing_stays_between_the_extremes_and_does_not_lag(values):
    found = smooth(values)
    assert len(found) == len(values)
    room = 1e-4 * (1 + max(map(abs, values)))
    assert min(values) - room <= min(found) and max(found) <= max(values) + room
    backwards = smooth(values[::-1])[::-1]
    assert found == pytest.approx(backwards, rel=1e-3, abs=room)


@pytest.mark.parametrize("batch_size", [16, 256])  # with noise, and without
@pytest.mark.parametrize("largest", [1.0, 10.0, 100.0])
def test_the_limit_of_a_bowl(largest, batch_size):
    class Bowl(nn.Module):
        def __init__(self):
            super().__init__()
            self.curvatures = torch.logspace(-2, 0, 10) * largest
            self.w = nn.Parameter(torch.full((10,), 3.0))

        def forward(self, x):
            return 0.5 * (self.curvatures * (self.w - x) ** 2).sum(-1)

    draw = torch.Generator().manual_seed(0)
    points = TensorDataset(torch.randn(256, 10, generator=draw), torch.zeros(256))
    loader = DataLoader(points, batch_size, shuffle=True, generator=draw)
    learn = Learner(Bowl(), DataLoaders(loader, None), lambda pred, y: pred.mean(), 0.1)
    limit = 2 / largest
    sweep = lr_find(learn, limit / 200, limit * 50, 400, explode=1000)
    assert bowl_limit(sweep) == pytest.approx(limit, rel=0.05)


@pytest.mark.parametrize(
    ("losses", "exploded"), [((1.0, 2.0, 3.0), False), ((1.0, 1.0, 3.0), True)]
)
def test_no_limit_without_an_explosion(losses, exploded):
    with pytest.raises(ValueError, match="raise end_lr"):
        bowl_limit(RateSweep((0.1, 0.2, 0.3), losses, exploded))


def test_the_finder_is_for_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RuntimeError, match="without torchrun"):
        lr_find(make())


def test_a_loss_with_weights_of_its_own_is_put_back():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.weights = nn.Parameter(torch.ones(())), torch.ones(2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, pred, y):
            self.calls += 1
            return self.scale * nn.functional.cross_entropy(pred, y)

    learn = make()
    learn.loss_func = Loss()
    learn.opt.add_param_group({"params": [learn.loss_func.scale]})
    before = everything(learn), bits(learn.loss_func.state_dict())
    lr_find(learn)
    assert (everything(learn), bits(learn.loss_func.state_dict())) == before


def test_a_module_comes_back_as_found():
    model = Net()
    before = bits(model.state_dict())
    with pytest.raises(KeyError), module_as_found(model):
        for p in model.parameters():
            p.data.zero_()
            p.requires_grad_(False)
        model.eval()(torch.ones(2, 4))
        model.seen = None
        model.to(torch.float64)
        raise KeyError
    assert bits(model.state_dict()) == before and model.training
    assert all(p.requires_grad for p in model.parameters()) and model.seen.dtype == torch.float32


def test_as_found_passes_the_value_through_and_the_exception():
    learn = make()
    before = everything(learn)
    with as_found(learn) as nothing:
        learn.fit(1)
        learn.extra = 1
    assert nothing is None and everything(learn) == before
    with pytest.raises(KeyError), as_found(learn):
        learn.fit(1)
        raise KeyError
    assert everything(learn) == before


# --- optimizers ----------------------------------------------------------------------------------


def steps(kind, options, gradients, exchange=None):
    """Step a parameter by given gradients, exchanging the optimizer half-way."""
    p = nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3))
    q = nn.Parameter(torch.ones(2, dtype=torch.float64))

    def build(kind, lr):
        return kind([{"params": [p]}, {"params": [q], "lr": 0.5 * lr}], lr=lr, **options)

    opt = build(kind, 0.03)
    for number, g in enumerate(gradients):
        p.grad = g.clone()
        q.grad = g[0, :2].clone() if number % 3 else None
        opt.step()
        if exchange and number == len(gradients) // 2:
            saved, opt = copy.deepcopy(opt.state_dict()), build(exchange, 9.0)
            opt.load_state_dict(saved)
    return torch.cat([p.detach().flatten(), q.detach()])


betas = st.tuples(st.floats(0, 0.99), st.floats(0, 0.9999))
adams = st.fixed_dictionaries(
    {
        "betas": betas,
        "eps": st.sampled_from([1e-8, 1e-3]),
        "weight_decay": st.sampled_from([0.0, 0.1, 2.0]),
    }
)
rms = st.fixed_dictionaries(
    {
        "alpha": st.floats(0.2, 0.99),
        "momentum": st.sampled_from([0.0, 0.9]),
        "centered": st.booleans(),
        "eps": st.sampled_from([1e-4, 1e-2]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
    }
)
cases = st.one_of(
    st.tuples(st.just((Adam, torch.optim.Adam)), adams),
    st.tuples(st.just((AdamW, torch.optim.AdamW)), adams),
    st.tuples(st.just((RMSprop, torch.optim.RMSprop)), rms),
)


@settings(deadline=None, max_examples=30)
@given(cases, st.integers(0, 1000), st.sampled_from([1e-3, 1.0, 1e3]))
def test_twenty_steps_are_torchs(case, seed, size):
    (ours, theirs), options = case
    draw = torch.Generator().manual_seed(seed)
    gradients = size * torch.randn(20, 2, 3, generator=draw, dtype=torch.float64)
    expected = steps(theirs, options, gradients)
    for kind, exchange in ((ours, None), (ours, theirs), (theirs, ours), (ours, ours)):
        torch.testing.assert_close(
            steps(kind, options, gradients, exchange), expected, rtol=1e-9, atol=1e-10
        )


@pytest.mark.parametrize("name", ["amsgrad", "maximize"])
def test_a_saved_state_that_asks_for_more_is_refused(name):
    p = nn.Parameter(torch.ones(2))
    saved = torch.optim.Adam([p], lr=0.5, **{name: True}).state_dict()
    opt = Adam([p])
    with pytest.raises(ValueError, match=name):
        opt.load_state_dict(saved)
    assert opt.param_groups[0]["lr"] == 1e-3


def test_a_variance_below_zero_by_rounding_is_zero():
    p = nn.Parameter(torch.zeros(1000))
    p.grad = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    RMSprop([p], alpha=0.0, centered=True).step()
    assert p.isfinite().all()


@pytest.mark.parametrize("kind", [Adam, AdamW, LAMB, partial(RMSprop, momentum=0.9, centered=True)])
def test_steps_on_another_device(kind):
    """On `meta`, which refuses what is on another device, as a GPU does."""
    p = nn.Parameter(torch.empty(3, device="meta"))
    opt = kind([p], lr=0.1, weight_decay=0.1)
    for _ in range(2):
        p.grad = torch.empty(3, device="meta")
        opt.step()
    tensors = [kept for kept in opt.state[p].values() if isinstance(kept, torch.Tensor)]
    assert tensors and {kept.device.type for kept in tensors} == {"meta"}


def test_the_gradient_is_left_alone():
    for kind in (Adam, AdamW, LAMB, partial(RMSprop, momentum=0.9)):
        p = nn.Parameter(torch.ones(3))
        opt = kind([p], lr=0.1, weight_decay=0.1)
        for _ in range(3):
            p.grad = grad = torch.tensor([1.0, -2.0, 3.0])
            opt.step()
            assert grad.tolist() == [1.0, -2.0, 3.0]


def test_lamb_scales_with_the_parameter():
    """Twice the parameter, twice the step; ten times the gradient, the same step."""

    def move(start, size):
        p = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        p.grad = size * torch.tensor([1.0, 2.0], dtype=torch.float64)
        LAMB([p], lr=0.1, weight_decay=0.0, eps=1e-12).step()
        return p.detach() - torch.tensor(start, dtype=torch.float64)

    torch.testing.assert_close(move([6.0, 8.0], 1.0), 2 * move([3.0, 4.0], 1.0))
    torch.testing.assert_close(move([3.0, 4.0], 10.0), move([3.0, 4.0], 1.0))
    assert move([3.0, 4.0], 1.0).norm().item() == pytest.approx(0.5)
    assert move([0.0, 0.0], 1.0).isfinite().all() and move([3.0, 4.0], 0.0).norm() == 0


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1},
        {"lr": math.nan},
        {"eps": -1e-8},
        {"betas": (0.9, 1.0)},
        {"betas": (-0.1, 0.9)},
        {"betas": (0.9,)},
        {"weight_decay": -1},
        {"lr": math.inf},
    ],
)
def test_settings_that_make_no_sense(options):
    with pytest.raises(ValueError, match="must be a finite number|must lie in"):
        Adam([nn.Parameter(torch.ones(1))], **options)
    with pytest.raises(ValueError, match="must lie in"):
        RMSprop([nn.Parameter(torch.ones(1))], alpha=1.0)


def test_an_optimizer_of_ones_own_parts():
    def double(p, step, state, group):
        return 2 * step

    class Twice(ComposedOptimizer):
        parts = (double, double)

    p = nn.Parameter(torch.zeros(2))
    opt = Twice([p], {"lr": 0.5})
    p.grad = torch.tensor([1.0, -1.0])
    opt.step()
    assert p.tolist() == [-2.0, 2.0]


def test_optimizers_pickle():
    opt = Adam([nn.Parameter(torch.ones(2))])
    opt.param_groups[0]["params"][0].grad = torch.ones(2)
    opt.step()
    again = pickle.loads(pickle.dumps(opt))
    assert bits(again.state_dict()) == bits(opt.state_dict())


# --- the modules ---------------------------------------------------------------------------------


def test_importing_is_quiet_and_light():
    code = (
        "import sys, exp.nb05, exp.nb05b, exp.nb05c; "
        "print([m for m in ('matplotlib', 'pandas', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("module", [nb05, nb05b, nb05c])
def test_every_public_name_is_described(module):
    for name in module.__all__:
        thing = getattr(module, name)
        if callable(thing) and getattr(thing, "__module__", "") == module.__name__:
            assert thing.__doc__ and thing.__doc__.strip().split("\n")[0].endswith((".", ":"))
