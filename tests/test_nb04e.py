"""Averages, groups, freezing, schedulers, validation: what the notebook does not check."""

import copy
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small_learner import Course, learner, noisy, plain
from torch import nn
from torch.optim import lr_scheduler, swa_utils

import exp
from exp.nb00 import test_eq, test_near
from exp.nb03b import DataLoaders
from exp.nb03f import Callback, CancelFit, CancelStep
from exp.nb04 import Learner
from exp.nb04a import CSVLogger
from exp.nb04b import DeviceCallback, EarlyStopping, GradientAccumulation
from exp.nb04c import export_model, load_weights, read_state, save_weights
from exp.nb04d import Checkpoint, SaveBest, load_learner
from exp.nb04e import (
    SchedulerCallback,
    ValidateEvery,
    WeightAverage,
    by_parts,
    combine_groups,
    freeze,
    no_decay,
    renew_statistics,
    spread_rates,
    unfreeze,
)
from exp.nb05 import fit_one_cycle

momentum = partial(torch.optim.SGD, momentum=0.9)


class Stop(Exception):
    """What kills a training in these tests."""


class Kill(Callback):
    """Raise after so many batches, training and validation together."""

    order, only_watches = 20_000, True

    def __init__(self, after):
        self.left = after

    def after_batch(self, learn):
        self.left -= 1
        if self.left == 0:
            raise Stop


def resumed(make, folder, kill_after, every=1, n_epochs=3):
    """Train, killed after some batches and gone on with a new learner; and the same undisturbed."""
    for callbacks in ([Kill(kill_after)], []) if kill_after else ([],):
        learn = make([Checkpoint(folder / "killed", every=every), *callbacks])
        try:
            learn.fit(n_epochs)
        except Stop:
            continue
    whole = make([])
    whole.fit(n_epochs)
    return learn, whole


# ---------------------------------------------------------------- averaged weights


class Keep(Callback):
    """Copy the weights of the training after each step."""

    def __init__(self):
        self.models = []

    def after_step(self, learn):
        self.models.append(copy.deepcopy(learn.model))


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("double", [False, True])
def test_moving_average_as_pytorch(decay, double):
    keep = Keep()
    learn = learner([keep, WeightAverage(decay)])
    if double:
        learn.model.double()
        learn.dls = DataLoaders([(x.double(), y) for x, y in learn.dls.train],
                                [(x.double(), y) for x, y in learn.dls.valid])  # fmt: skip
    learn.fit(3)
    rule = swa_utils.get_ema_multi_avg_fn(decay)
    theirs = swa_utils.AveragedModel(keep.models[0], multi_avg_fn=rule)
    for model in keep.models:
        theirs.update_parameters(model)
    test_near(learn.model.state_dict(), theirs.module.state_dict(), tol=1e-12 if double else 1e-6)


def no_dropout():
    model = noisy()
    model[2].p = 0.0
    return model


def test_swa_as_pytorch_with_its_statistics():
    """The mean of the weights after epochs 2, 3 and 4, and BatchNorm's statistics taken anew."""
    ends = []

    class Ends(Callback):
        def before_batch(self, learn):
            if not learn.training and learn.batch_index == 0:
                ends.append(copy.deepcopy(learn.model))

    learn = learner([Ends(), WeightAverage(None, start=2)], make_model=no_dropout, batches=8)
    learn.fit(5)
    theirs = swa_utils.AveragedModel(ends[2])
    for model in ends[2:]:
        theirs.update_parameters(model)
    swa_utils.update_bn(learn.dls.train, theirs)
    learn.model[1].num_batches_tracked.copy_(theirs.module[1].num_batches_tracked)
    test_near(learn.model.state_dict(), theirs.module.state_dict(), tol=1e-6)
    assert learn.evaluate()["loss"] == pytest.approx(learn.results["valid_loss"], rel=1e-6)


@pytest.mark.parametrize("decay", [0.9, None])
def test_the_training_knows_nothing_of_its_average(decay):
    """Losses, random numbers and the statistics that the training goes on with are untouched."""
    seen = {True: [], False: []}

    class Statistics(Callback):
        order = 200

        def __init__(self, averages):
            self.averages = averages

        def after_batch(self, learn):
            if learn.training:
                seen[self.averages].append(learn.model[1].running_mean.clone())

    average = learner([WeightAverage(decay), Statistics(True)], make_model=noisy)
    average.fit(3)
    alone = learner([Statistics(False)], make_model=noisy)
    alone.fit(3)
    test_eq(average.recorder.losses, alone.recorder.losses)
    test_eq(seen[True], seen[False])
    assert average.recorder.epochs[-1]["valid_loss"] != alone.recorder.epochs[-1]["valid_loss"]


@pytest.mark.parametrize("decay", [0.9, None])
@pytest.mark.parametrize("ends", ["by itself", "early", "cancelled in training"])
def test_whatever_ends_the_fit_the_average_is_in_the_model(decay, ends):
    class Late(Callback):
        def before_batch(self, learn):
            if ends == "cancelled in training" and learn.epoch == 3 and learn.batch_index == 4:
                raise CancelFit

    early = [EarlyStopping(patience=1), Course([1, 2, 3, 4])] if ends == "early" else []
    average, keep = WeightAverage(decay), Keep()
    learn = learner([average, keep, Late(), *early])
    learn.fit(4)
    assert not all(map(torch.equal, learn.model.parameters(), keep.models[-1].parameters()))
    if decay is not None:
        mean = [p.detach().clone() for p in keep.models[0].parameters()]
        for model in keep.models:
            for mean_p, p in zip(mean, model.parameters(), strict=True):
                mean_p.lerp_(p.detach(), 1 - decay)
        test_near(list(learn.model.parameters()), mean, tol=1e-6)
    assert average.average == average.weights == {}


def test_the_best_weights_are_averages_and_are_put_back_last(tmp_path):
    course = Course([3.0, 1.0, 2.0, 2.0])
    best = SaveBest(tmp_path / "best")
    learn = learner([WeightAverage(0.8), course, best])
    learn.fit(4)
    test_eq(learn.model.state_dict(), read_state(tmp_path / "best")["model"])
    second = learner([WeightAverage(0.8)])
    second.fit(2)
    test_eq(learn.model.state_dict(), second.model.state_dict())  # those of the second epoch


def test_a_fit_begins_a_new_average_from_the_weights_in_the_model():
    keep = Keep()
    learn = learner([WeightAverage(0.5), keep])
    learn.fit(1)
    keep.models.clear()
    learn.fit(1)
    test_near(learn.model.state_dict(), _moving(keep.models, 0.5), tol=1e-6)


def _moving(models, decay):
    mean = {name: t.clone() for name, t in models[0].state_dict().items()}
    for model in models[1:]:
        for name, t in model.state_dict().items():
            mean[name].lerp_(t, 1 - decay)
    return mean


@pytest.mark.parametrize("average", [(0.9,), (None,), (None, 1)])
@pytest.mark.parametrize("kill_after", [1, 4, 10, 11, 12, 13, 17, 24, 36])
def test_average_goes_on_after_a_kill(tmp_path, average, kill_after):
    def make(callbacks):
        return learner([WeightAverage(*average), *callbacks], make_model=noisy, opt_func=momentum)

    learn, whole = resumed(make, tmp_path, kill_after)
    test_eq(learn.model.state_dict(), whole.model.state_dict())
    test_eq(learn.recorder.losses, whole.recorder.losses)
    test_eq(learn.recorder.epochs, whole.recorder.epochs)


@pytest.mark.parametrize("decay", [0.9, None])
def test_an_extended_run_averages_as_a_long_one(tmp_path, decay):
    for n_epochs in (2, 4):
        learn = learner([WeightAverage(decay), Checkpoint(tmp_path, extend=True)],
                        make_model=noisy)  # fmt: skip
        learn.fit(n_epochs)
    whole = learner([WeightAverage(decay)], make_model=noisy)
    whole.fit(4)
    test_eq(learn.model.state_dict(), whole.model.state_dict())


def test_accumulated_steps_count_once():
    keep = Keep()
    learn = learner([WeightAverage(0.8), GradientAccumulation(3), keep])
    learn.fit(1)
    assert learn.callback(WeightAverage).n_averaged == learn.n_steps == len(keep.models)
    test_near(learn.model.state_dict(), _moving(keep.models, 0.8), tol=1e-6)


def test_an_average_of_nothing_is_refused_or_said():
    learn = learner([WeightAverage(None, start=3)])
    with pytest.raises(ValueError, match="begins after epoch 3, and the fit has 3 epochs"):
        learn.fit(3)
    assert learn.n_steps == 0
    with pytest.warns(RuntimeWarning, match="nothing was averaged: the fit ended after 2 epochs"):
        learn.fit(n_steps=2 * len(learn.dls.train))


def test_half_precision_is_averaged_in_single():
    average = WeightAverage(0.999)
    learn = learner([average])
    learn.model.bfloat16()
    learn.dls = DataLoaders([(x.bfloat16(), y) for x, y in learn.dls.train],
                            [(x.bfloat16(), y) for x, y in learn.dls.valid])  # fmt: skip
    seen = []

    class Look(Callback):
        order = 99

        def after_step(self, learn):
            seen.extend({t.dtype for t in average.average.values()})

    learn.fit(1, callbacks=[Look()])
    assert set(seen) == {torch.float32}
    assert {p.dtype for p in learn.model.parameters()} == {torch.bfloat16}


def test_statistics_are_renewed_as_by_pytorch():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4))
    theirs = copy.deepcopy(ours)
    batches = [(torch.randn(n, 3), torch.zeros(n, 4)) for n in (4, 9, 2)]
    swa_utils.update_bn(batches, theirs)
    ours.eval()
    ours[1].train()
    learn = Learner(ours, DataLoaders(batches, None), nn.MSELoss(), progress=False)
    before = torch.get_rng_state()
    renew_statistics(learn)
    assert torch.equal(torch.get_rng_state(), before)
    test_near([b for n, b in ours.named_buffers() if "tracked" not in n],
              [b for n, b in theirs.named_buffers() if "tracked" not in n])  # fmt: skip
    assert [m.training for m in ours] == [False, True, False, False]
    assert ours[1].momentum == 0.1
    learn.model = nn.Linear(1, 1)
    renew_statistics(learn)  # there is nothing to renew


def test_statistics_put_into_evaluation_by_hand_stay():
    learn = learner([WeightAverage(None)], make_model=noisy)
    learn.model[1].eval()
    learn.fit(2)
    test_eq(learn.model[1].running_mean, torch.zeros(8))


@pytest.mark.parametrize("arguments", [(0.0,), (1.0,), (-0.1,), (0.9, -1)])
def test_invalid_averages(arguments):
    with pytest.raises(ValueError, match="between 0 and 1"):
        WeightAverage(*arguments)


# ---------------------------------------------------------------- parameter groups


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm((2, 4)), nn.BatchNorm1d(2))
        self.scale = nn.Parameter(torch.ones(()))
        self.body_two = nn.Linear(4, 3, bias=False)


def names_of(groups, model):
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in groups]


def test_no_decay_spares_biases_norms_and_scalars():
    model = Branches()
    decayed, spared = no_decay(model)
    assert names_of([decayed], model) == [["embedding.weight", "body.0.weight", "body_two.weight"]]
    assert spared["weight_decay"] == 0.0 and "weight_decay" not in decayed
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))
    assert len(no_decay(nn.Linear(2, 2, bias=False))) == 1


def test_parts_go_by_the_longest_name_and_whole_words():
    model = Branches()
    groups = by_parts("body", "body.1", "", lr=[1.0, 2.0, 3.0])(model)
    assert names_of(groups, model) == [
        ["body.0.weight", "body.0.bias", "body.2.weight", "body.2.bias"],
        ["body.1.weight", "body.1.bias"],
        ["scale", "embedding.weight", "body_two.weight"],
    ]
    assert [group["lr"] for group in groups] == [1.0, 2.0, 3.0]


def test_parts_that_are_not_there_or_forgotten():
    with pytest.raises(ValueError, match="did you mean 'embedding'"):
        by_parts("embeding", "")(Branches())
    with pytest.raises(ValueError, match="scale belongs to none"):
        by_parts("embedding", "body", "body_two")(Branches())
    with pytest.raises(ValueError, match="2 for 1 parts"):
        by_parts("body", lr=[1, 2])


def test_combined_groups_hold_every_parameter_once():
    model = Branches()
    parts = by_parts("body", "", lr=[0.1, 0.2])
    groups = combine_groups(parts, no_decay, lambda m: [list(m.parameters())])(model)
    flat = sum(names_of(groups, model), [])
    assert sorted(flat) == sorted(name for name, _ in model.named_parameters())
    assert [(g["lr"], g.get("weight_decay")) for g in groups] == [
        (0.1, None), (0.1, 0.0), (0.2, None), (0.2, 0.0)]  # fmt: skip


def test_groups_train_as_by_hand():
    """Two parts, each with its rate, decay on the weights only: against torch's own loop."""
    groups = combine_groups(by_parts("0", "2", lr=[0.01, 0.1]), no_decay)
    decays = partial(torch.optim.AdamW, weight_decay=0.3)
    learn = learner(lr=None, groups=groups, opt_func=decays, batches=8)
    model = copy.deepcopy(learn.model)
    assert learn.lr == [0.01, 0.01, 0.1, 0.1]
    learn.fit(2)
    opt = torch.optim.AdamW(
        [{"params": [model[i].weight], "lr": lr} for i, lr in ((0, 0.01), (2, 0.1))]
        + [{"params": [model[i].bias], "lr": lr, "weight_decay": 0}
           for i, lr in ((0, 0.01), (2, 0.1))],
        weight_decay=0.3,
    )  # fmt: skip
    for _ in range(2):
        for x, y in learn.dls.train:
            F.cross_entropy(model(x), y).backward()
            opt.step()
            opt.zero_grad()
    test_near(learn.model.state_dict(), model.state_dict(), tol=1e-6)


def test_rates_that_spread():
    test_near(spread_rates(1e-4, 1e-2, 3), [1e-4, 1e-3, 1e-2])
    assert spread_rates(0.5, 3.0, 1) == [0.5]
    with pytest.raises(ValueError, match="n must be"):
        spread_rates(1, 2, 0)


# ---------------------------------------------------------------- freezing


def trained_names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_unfreeze_undoes_freeze_and_nothing_else():
    model = Branches()
    model.body[0].bias.requires_grad_(False)
    before = trained_names(model)
    freeze(model, "body", "embedding")
    assert trained_names(model) == {"scale", "body_two.weight"}
    freeze(model)
    assert trained_names(model) == set()
    unfreeze(model.body[0])  # a part by itself
    assert trained_names(model) == {"body.0.weight"}
    copied = copy.deepcopy(model)  # remembers it, too
    for each in (model, copied):
        unfreeze(each)
        assert trained_names(each) == before
        unfreeze(each)
        assert trained_names(each) == before


def test_shared_parameters_freeze_together():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    freeze(model)
    assert trained_names(model) == set()
    unfreeze(model)
    assert len(trained_names(model)) == 3


def test_frozen_parts_do_not_move_and_lose_nothing():
    adam = partial(torch.optim.AdamW, weight_decay=0.1)
    learn = learner(make_model=noisy, opt_func=adam, lr=0.01)
    learn.fit(1)
    opt = learn.opt
    freeze(learn.model, "0", "1")
    model = copy.deepcopy(learn.model.state_dict())
    state = copy.deepcopy({i: opt.state[p] for i, p in enumerate(learn.model.parameters())})
    learn.fit(2)
    assert learn.opt is opt
    for name, before in model.items():
        same = torch.equal(learn.model.state_dict()[name], before)
        assert same == name.startswith(("0", "1")), name  # running statistics, too
    for i, p in enumerate(learn.model.parameters()):
        if i < 4:
            test_eq(opt.state[p], state[i])
        else:
            assert opt.state[p]["step"] == state[i]["step"] + 20
    unfreeze(learn.model)
    learn.fit(1)
    assert opt.state[learn.model[0].weight]["step"] == state[0]["step"] + 10
    assert not torch.equal(learn.model[1].running_mean, model["1.running_mean"])


def test_unfrozen_in_the_middle_of_a_fit_statistics_move_again():
    class Unfreeze(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                unfreeze(learn.model)

    means = []

    class Look(Callback):
        def after_epoch(self, learn):
            means.append(learn.model[1].running_mean.clone())

    learn = learner([Unfreeze(), Look()], make_model=noisy)
    freeze(learn.model, "1")
    learn.fit(2)
    test_eq(means[0], torch.zeros(8))
    assert means[1].abs().max() > 0 and learn.model[1].training


def test_unfreeze_leaves_layers_in_evaluation_that_were_so_before():
    model = noisy()
    model[1].eval()
    freeze(model)
    unfreeze(model)
    assert [part.training for part in model] == [True, False, True, True]


def test_freezing_forgets_the_gradient():
    model = plain()
    model(torch.ones(1, 6)).sum().backward()
    freeze(model, "0")
    assert model[0].weight.grad is None and model[2].weight.grad is not None
    with pytest.raises(ValueError, match="no parameters in 'body'"):
        freeze(model, "body")
    with pytest.raises(TypeError, match="such as '0', got a Linear"):
        freeze(model, model[0])


# ---------------------------------------------------------------- schedulers


SCHEDULERS = {
    "step": partial(lr_scheduler.StepLR, step_size=3, gamma=0.5),
    "cosine": partial(lr_scheduler.CosineAnnealingLR, T_max=30),
    "one cycle": partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=30),
    "lambda": partial(lr_scheduler.LambdaLR, lr_lambda=lambda t: 1 / (1 + t)),
    "restarts": partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=4, T_mult=2),
    "chained": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.ConstantLR(opt, 0.1, 5), lr_scheduler.ExponentialLR(opt, 0.9)], [5]
    ),
}


def by_hand(make_scheduler, each, n_epochs=3, n_batches=10):
    opt = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1, momentum=0.9)
    scheduler, rates = make_scheduler(opt), []
    for _ in range(n_epochs):
        for _ in range(n_batches):
            rates.append([opt.param_groups[0]["lr"]])
            opt.step()
            if each == "step":
                scheduler.step()
        if each == "epoch":
            scheduler.step()
    return rates


@pytest.mark.parametrize("each", ["step", "epoch"])
@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_rates_of_a_scheduler_as_in_a_plain_loop(make, each):
    learn = learner([SchedulerCallback(make, each)], opt_func=momentum)
    before = [dict(group) for group in learn.opt.param_groups]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):  # the second fit begins anew
            learn.fit(3)
            assert learn.recorder.lrs[-30:] == by_hand(make, each)
            assert [dict(group) for group in learn.opt.param_groups] == before
            assert "step" not in vars(learn.opt)


OPTIMIZERS = {"sgd": momentum, "adam": torch.optim.Adam,
              **{kind.__name__: kind for kind in (exp.SGD, exp.RMSprop, exp.Adam, exp.AdamW,
                                                  exp.LAMB)}}  # fmt: skip


@pytest.mark.parametrize("opt_func", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
def test_any_scheduler_goes_with_any_optimizer(tmp_path, make, opt_func):
    def new(callbacks):
        return learner([SchedulerCallback(make), *callbacks], opt_func=opt_func)

    if opt_func is exp.RMSprop and make is SCHEDULERS["one cycle"]:
        make = partial(make, cycle_momentum=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learn, whole = resumed(new, tmp_path, 12)
    test_eq(learn.model.state_dict(), whole.model.state_dict())
    assert learn.recorder.lrs == whole.recorder.lrs == by_hand(make, "step")


def test_what_makes_no_scheduler_is_refused():
    for made in (lr_scheduler.CosineAnnealingLR, None):
        with pytest.raises(ValueError, match="lambda opt: CosineAnnealingLR"):
            SchedulerCallback(made)
    learn = learner([SchedulerCallback(lambda opt: None)])
    with pytest.raises(TypeError, match="returned None"):
        learn.fit(1)
    assert learn.n_steps == 0


@pytest.mark.parametrize("each", ["step", "epoch"])
@pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("kill_after", [2, 11, 12, 16])
def test_a_scheduler_goes_on_after_a_kill(tmp_path, make, each, kill_after):
    def new(callbacks):
        return learner([SchedulerCallback(make, each), *callbacks], opt_func=momentum)

    learn, whole = resumed(new, tmp_path, kill_after)
    test_eq(learn.model.state_dict(), whole.model.state_dict())
    assert learn.recorder.lrs == whole.recorder.lrs == by_hand(make, each)


def test_only_steps_that_were_taken_count():
    class EverySecond(Callback):
        order = 100

        def after_backward(self, learn):
            if learn.batch_index % 2:
                raise CancelStep

    halves = partial(lr_scheduler.ExponentialLR, gamma=0.5)
    learn = learner([SchedulerCallback(halves), EverySecond()])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        learn.fit(1)
    assert [rate for [rate] in learn.recorder.lrs][:5] == [0.1, 0.05, 0.05, 0.025, 0.025]


PLATEAU = partial(lr_scheduler.ReduceLROnPlateau, factor=0.5, patience=1)


@pytest.mark.parametrize("kill_after", [None, 15, 34, 47])
def test_plateau(tmp_path, kill_after):
    course = [3.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]

    def make(callbacks):
        return learner([SchedulerCallback(PLATEAU, "epoch"), Course(course), *callbacks])

    learn, whole = resumed(make, tmp_path, kill_after, n_epochs=8)
    rates = [rate for [rate] in learn.recorder.lrs[::10]]
    assert rates == [0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.025]
    test_eq(learn.model.state_dict(), whole.model.state_dict())


def test_a_plateau_that_waits_for_the_wrong_thing_is_refused():
    for made, error, said in [
        (SchedulerCallback(PLATEAU, "epoch", "valid_accuracy"), ValueError, 'mode="max"'),
        (SchedulerCallback(PLATEAU, "epoch", "valid_acc"), KeyError, "valid_accuracy"),
        (SchedulerCallback(PLATEAU), ValueError, 'each="epoch"'),
    ]:
        learn = learner([made])
        with pytest.raises(error, match=said):
            learn.fit(1)
        assert learn.n_steps == 0
    best = partial(PLATEAU, mode="max")
    learner([SchedulerCallback(best, "epoch", "valid_accuracy")]).fit(1)
    with pytest.raises(ValueError, match='"step" or "epoch"'):
        SchedulerCallback(PLATEAU, "batch")
    with pytest.raises(ValueError, match="function of the optimizer"):
        SchedulerCallback(None)


# ---------------------------------------------------------------- validation in between


def test_validation_in_between_is_that_of_the_weights_then():
    models = []

    class Copies(Callback):
        order = 94

        def after_batch(self, learn):
            if learn.training and learn.n_steps % 4 == 0:
                models.append(copy.deepcopy(learn.model))

    every = ValidateEvery(4)
    learn = learner([every, Copies()], make_model=noisy)
    learn.fit(2)
    alone = learner(make_model=noisy)
    alone.fit(2)
    test_eq(learn.recorder.losses, alone.recorder.losses)
    test_eq(learn.model.state_dict(), alone.model.state_dict())
    assert [row["step"] for row in every.rows] == [4, 8, 12, 16, 20]
    assert [row["epoch"] for row in every.rows] == [1, 1, 2, 2, 2]
    for row, model in zip(every.rows, models, strict=True):
        learn.model.load_state_dict(model.state_dict())
        assert row["valid_loss"] == pytest.approx(learn.evaluate()["loss"], rel=1e-9)
    assert "valid_accuracy" in repr(every)


def test_validation_in_between_looks_at_the_average():
    every = ValidateEvery(10)
    learn = learner([every, WeightAverage(0.9)])
    learn.fit(2)
    at_ends = [row["valid_loss"] for row in learn.recorder.epochs]
    assert [row["valid_loss"] for row in every.rows] == pytest.approx(at_ends, rel=1e-6)


@pytest.mark.parametrize("kill_after", [3, 9, 14])
def test_validation_in_between_goes_on_after_a_kill(tmp_path, kill_after):
    def make(callbacks):
        return learner([ValidateEvery(3), *callbacks], make_model=noisy)

    learn, whole = resumed(make, tmp_path, kill_after)
    assert learn.callback(ValidateEvery).rows == whole.callback(ValidateEvery).rows
    assert len(learn.callback(ValidateEvery).rows) == 10


def test_validation_in_between_needs_a_validation_set():
    learn = learner([ValidateEvery(2)])
    learn.dls = DataLoaders(learn.dls.train, None)
    with pytest.raises(ValueError, match="no validation set"):
        learn.fit(1)
    with pytest.raises(ValueError, match="n_steps must be"):
        ValidateEvery(0)


def test_a_scheduler_and_a_schedule_of_the_rate_are_refused():
    with pytest.raises(ValueError, match="two schedules for 'lr'"):
        fit_one_cycle(learner([SchedulerCallback(SCHEDULERS["step"])], opt_func=momentum), 2)


def test_validation_in_between_is_a_line(capsys, monkeypatch):
    monkeypatch.setenv("EXP_PROGRESS", "lines")
    learner([ValidateEvery(4)], progress=True).fit(1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(", valid_loss")[0] for line in lines[:2]] == [
        "step 4, epoch 1",
        "step 8, epoch 1",
    ]
    learner([ValidateEvery(4)], progress=False).fit(1)
    assert not capsys.readouterr().out


def test_several_bests_have_a_path_each_and_one_restores(tmp_path):
    def saver(name, monitor, restore):
        return SaveBest(tmp_path / name, monitor, restore=restore)

    learner([saver("a", "valid_loss", True), saver("b", "valid_accuracy", False)]).fit(2)
    assert (tmp_path / "a").is_file() and (tmp_path / "b").is_file()
    for first, second, said in [("a", "a", "a path of its own"), ("a", "b", "restore=False")]:
        with pytest.raises(ValueError, match=said):
            learner([saver(first, "valid_loss", True),
                     saver(second, "valid_accuracy", True)]).fit(1)  # fmt: skip


def test_paths_that_cannot_be_meant_are_refused_before_the_fit(tmp_path):
    (tmp_path / "file").write_text("")
    for made, error, said in [
        (SaveBest("valid_accuracy"), ValueError, "SaveBest.path, 'valid_accuracy'"),
        (SaveBest(tmp_path), IsADirectoryError, "is a folder"),
        (CSVLogger(tmp_path), IsADirectoryError, "is a folder"),
        (CSVLogger(tmp_path / "file" / "log"), NotADirectoryError, "is a file"),
        (Checkpoint(tmp_path / "file"), NotADirectoryError, "is a file"),
    ]:
        learn = learner([made])
        with pytest.raises(error, match=said):
            learn.fit(1)
        assert learn.n_steps == 0


def test_a_learner_is_no_model_and_weights_are_no_training(tmp_path):
    learn = learner()
    for act in (save_weights, export_model):
        with pytest.raises(TypeError, match="pass its .model"):
            act(learn, tmp_path / "x")
    with pytest.raises(TypeError, match="the model comes first"):
        save_weights(tmp_path / "x", learn.model)
    with pytest.raises(ValueError, match="holds no whole training"):
        load_learner(learn, save_weights(learn.model, tmp_path / "w"))
    with pytest.raises(IsADirectoryError, match="is a folder"):
        load_weights(learn.model, tmp_path)


# ---------------------------------------------------------------- on a GPU


@pytest.mark.cuda
class TestCuda:
    @pytest.mark.parametrize("decay", [0.8, None])
    def test_averages_as_on_the_cpu(self, decay):
        ends = []
        for device in ("cpu", "cuda"):
            every = ValidateEvery(4)
            learn = learner([DeviceCallback(device), WeightAverage(decay), every], batches=8,
                            make_model=no_dropout)  # fmt: skip
            learn.fit(2)
            assert {p.device.type for p in learn.model.parameters()} == {device}
            rows = [row["valid_loss"] for row in every.rows]
            ends.append([rows, [t.cpu() for t in learn.model.state_dict().values()]])
        test_near(*ends, tol=1e-4)

    @pytest.mark.parametrize("decay", [0.8, None])
    def test_a_killed_average_goes_on(self, tmp_path, decay):
        def make(callbacks):
            return learner([DeviceCallback("cuda"), WeightAverage(decay), *callbacks],
                           make_model=noisy)  # fmt: skip

        learn, whole = resumed(make, tmp_path, 14)
        test_eq([t.cpu() for t in learn.model.state_dict().values()],
                [t.cpu() for t in whole.model.state_dict().values()])  # fmt: skip

    def test_nothing_waits_during_the_training(self):
        class Strict(Callback):
            order = 9999

            def before_batch(self, learn):
                torch.cuda.set_sync_debug_mode("error" if learn.training else "default")

            def after_batch(self, learn):
                torch.cuda.set_sync_debug_mode("default")

            cleanup_fit = after_batch

        halves = partial(lr_scheduler.ExponentialLR, gamma=0.5)
        callbacks = [DeviceCallback("cuda"), WeightAverage(0.9), SchedulerCallback(halves)]
        learn = learner([*callbacks, GradientAccumulation(2)], opt_func=momentum)
        learn.fit(1)
        resident = [(x.cuda(), y.cuda()) for x, y in learn.dls.train]
        learn.dls = DataLoaders(resident, learn.dls.valid)
        learn.fit(2, callbacks=[Strict()])
