"""What a Learner answers and leaves as it was: steps, groups, rates, dicts, modes, windows."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp import (
    EVENTS,
    Callback,
    CancelBatch,
    CancelPhase,
    DataLoader,
    DataLoaders,
    GradientAccumulation,
    Learner,
    TensorDataset,
    accuracy,
)

torch.manual_seed(0)
X = torch.randn(40, 3)
Y = X.argmax(1)


def batches(size, x=X, y=Y):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


def new(model=None, train=None, valid=None, loss=F.cross_entropy, **options):
    torch.manual_seed(1)
    model = model if model is not None else nn.Linear(3, 3)
    dls = DataLoaders(batches(8) if train is None else train, valid)
    return Learner(model, dls, loss, progress=False, **{"lr": 0.1, **options})


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def on(event, action, order=0):
    return type("On", (Callback,), {event: lambda self, learn: action(learn), "order": order})()


# ---------------------------------------------------------------- a fit that answers


def test_a_fit_returns_its_record_and_the_learner_says_what_it_is():
    learn = new(valid=batches(10), metrics=[accuracy])
    record = learn.fit(2)
    assert record is learn.recorder and len(record.epochs) == 2
    lines = repr(record).splitlines()
    assert lines[0].split() == [
        "epoch", "train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "seconds",
    ]  # fmt: skip
    assert len(lines) == 3 and "<table>" in record._repr_html_()
    assert "Linear, 12 parameters, cross_entropy, SGD lr 0.1" in repr(learn)
    assert "\n" not in repr(learn) and "\n" not in repr(learn.dls)
    assert repr(learn.summary()).splitlines()[-1] == "12 parameters, 12 trained"


def test_the_rate_is_the_optimizers_own_unless_given():
    assert new(lr=None, opt_func=torch.optim.AdamW).lr == 1e-3
    assert new(lr=None, opt_func=lambda p, lr=0.25: torch.optim.SGD(p, lr)).lr == 0.25
    assert new(lr=None, opt_func=lambda p, lr: torch.optim.SGD(p, lr)).lr == 0.01


def test_steps_in_place_of_epochs():
    by_steps, by_epochs = new(), new()
    by_steps.fit(n_steps=10), by_epochs.fit(2)
    assert torch.equal(flat(by_steps.model), flat(by_epochs.model))
    learn = new(valid=batches(10))
    record = learn.fit(n_steps=7)
    assert (learn.n_steps, record.epoch_ends) == (7, [5, 7]) and "valid_loss" in record.epochs[-1]
    learn.fit(n_steps=1)
    assert learn.n_steps == 8
    positions = []
    learn.fit(
        n_steps=4, callbacks=on("before_batch", lambda learn: positions.append(learn.position))
    )
    assert positions[:4] == [0, 1 / 3, 2 / 3, 1]
    accumulated = new(callbacks=GradientAccumulation(2))
    accumulated.fit(n_steps=4)  # 5 batches an epoch are 3 steps
    assert (accumulated.n_steps, len(accumulated.recorder.losses)) == (4, 7)

    def skip(learn):
        raise CancelBatch

    with pytest.raises(RuntimeError, match="without a step"):
        new().fit(n_steps=3, callbacks=on("before_batch", skip))


# ---------------------------------------------------------------- rates and groups


def by_layer(model):
    return [
        list(model[0].parameters()),
        {"params": list(model[1].parameters()), "weight_decay": 0.5},
    ]


def test_groups_have_rates_of_their_own():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    learn = new(model, groups=by_layer, lr=[0.0, 0.1])
    assert learn.lr == [0.0, 0.1] and learn.opt.param_groups[1]["weight_decay"] == 0.5
    before = copy.deepcopy(model.state_dict())
    learn.fit(1)
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[1].weight, before["1.weight"])
    learn.fit(1, lr=[0.1, 0.0])
    assert learn.recorder.lrs[-1] == [0.1, 0.0] and learn.lr == [0.0, 0.1]
    learn.lr = 0.2
    assert learn.fit(1).lrs[-1] == [0.2, 0.2]
    with pytest.raises(ValueError, match="each of the 2"):
        learn.fit(1, lr=[0.1, 0.2, 0.3])
    assert learn.lr == 0.2


def test_a_rate_set_by_hand_counts_and_a_schedulers_does_not_stay():
    learn = new(lr=0.05, opt_func=lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9))
    learn.opt.param_groups[0]["lr"] = 0.001
    assert learn.fit(1).lrs[-1] == [0.001]

    class Schedule(Callback):
        def before_fit(self, learn):
            self.schedule = torch.optim.lr_scheduler.OneCycleLR(learn.opt, 0.1, 5)

        def after_step(self, learn):
            self.schedule.step() if learn.n_steps % 5 else None

    kept = {k: v for k, v in learn.opt.param_groups[0].items() if k != "params"}
    learn.fit(1, callbacks=Schedule())
    assert {k: v for k, v in learn.opt.param_groups[0].items() if k != "params"} == kept
    assert learn.fit(1).lrs[-1] == [0.001]


def test_settings_come_back_after_an_exception_too():
    learn = new()

    def fail(learn):
        learn.opt.param_groups[0]["lr"] = 7.0
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        learn.fit(1, lr=0.3, callbacks=on("after_loss", fail))
    assert learn.lr == 0.1


def test_parameters_of_the_loss_are_trained():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, pred, target):
            return F.cross_entropy(self.scale * pred, target)

    for options in ({}, {"groups": lambda model: [model.parameters()]}):
        loss = Scaled()
        new(loss=loss, **options).fit(1)
        assert loss.scale != 1


def test_what_gathers_before_a_group_is_added_is_stale():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    learn = new(model, groups=lambda m: [m[1].parameters()])
    sizes = []

    def add(learn):
        if learn.epoch == 1 and learn.batch_index == 0:
            learn.opt.add_param_group({"params": list(model[0].parameters()), "lr": 0.1})

    def look(learn):
        if learn.epoch == 1 and learn.batch_index == 0:
            found = model[0].weight.grad.clone()
            model.zero_grad()
            F.cross_entropy(model(learn.inputs[0]), learn.target).backward()
            sizes.append((found - model[0].weight.grad).abs().max().item())

    learn.fit(
        2,
        callbacks=[
            on("before_batch", add),
            type("Look", (Callback,), {"after_backward": lambda self, learn: look(learn)})(),
        ],
    )
    assert sizes == [pytest.approx(0, abs=1e-6)]


# ---------------------------------------------------------------- batches


def test_batches_that_are_dicts():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x, label=None):
            logits = self.layer(x)
            return {"logits": logits} if label is None else {
                "logits": logits, "loss": F.cross_entropy(logits, label)}  # fmt: skip

    dicts = [{"x": x, "label": y} for x, y in batches(8)]
    whole = new(Named(), dicts, dicts, loss=lambda out, batch: out["loss"])
    whole.fit(2)
    options = {"target": "label", "metrics": {"a": lambda out, y: accuracy(out["logits"], y)}}
    loss = lambda out, y: F.cross_entropy(out["logits"], y)  # noqa: E731
    named = new(Named(), dicts, dicts, loss=loss, **options)
    assert named.fit(2).epochs[-1]["valid_a"] > 0
    assert torch.equal(flat(whole.model), flat(named.model))
    assert named.predict({"x": X[:4]})["logits"].shape == (4, 3)
    assert named.predict({"x": X[0].numpy()})["logits"].shape == (3,)
    assert named.get_preds()[0]["logits"].shape == (40, 3)
    with pytest.raises(KeyError, match="no 'y', only"):
        new(Named(), dicts, target="y").fit(1)


def test_targets_that_are_lists_of_dicts_count_items():
    seen = []
    boxes = [{"boxes": torch.zeros(n, 4)} for n in (5, 1, 2)]
    learn = new(train=[(X[:3], boxes)], loss=lambda pred, target: pred.mean())
    learn.fit(1, callbacks=on("after_batch", lambda learn: seen.append(learn.n_items)))
    assert seen == [3]


def test_a_loader_is_told_the_epoch_and_fits_go_on_counting():
    told = []

    class Sampler(torch.utils.data.RandomSampler):
        def set_epoch(self, epoch):
            told.append(epoch)

    data = TensorDataset(X, Y)
    learn = new(train=DataLoader(data, 8, sampler=Sampler(data)))
    learn.fit(2), learn.fit(1), learn.evaluate(learn.dls.train)
    assert told == [0, 1, 2]


# ---------------------------------------------------------------- cancelling and windows


def test_cancelling_a_phase_goes_on_with_the_next():
    class Few(Callback):
        def before_batch(self, learn):
            if learn.batch_index == (2 if learn.training else 1):
                raise CancelPhase

    learn = new(valid=batches(10), callbacks=Few(), metrics=[accuracy])
    record = learn.fit(2)
    assert learn.n_steps == 4 and record.epoch_ends == [2, 4]
    first = F.cross_entropy(learn.model(X[:10]), Y[:10]).item()
    assert record.epochs[-1]["valid_loss"] == pytest.approx(first, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(1, 9),
    window=st.integers(1, 9),
    kind=st.sampled_from(["list", "stream", "liar"]),
    weighted=st.booleans(),
)
def test_the_last_window_of_an_epoch_is_always_stepped(size, window, kind, weighted):
    """However a loader counts itself, a window holds `window` batches, and the last the rest."""

    class Stream:
        def __iter__(self):
            yield from batches(size)

    class Liar(Stream):
        def __len__(self):
            return 99

    loss = nn.CrossEntropyLoss(weight=torch.tensor([0.1, 1.0, 5.0]) if weighted else None)
    loader = {"list": batches(size), "stream": Stream(), "liar": Liar()}[kind]
    learn = new(train=loader, loss=loss, callbacks=GradientAccumulation(window))
    whole = new(train=batches(size * window), loss=loss)
    with pytest.warns(RuntimeWarning, match="announced 99 batches") if kind == "liar" else (
            torch.enable_grad()):  # fmt: skip
        learn.fit(1)
    whole.fit(1)
    assert learn.n_steps == whole.n_steps
    assert torch.allclose(flat(learn.model), flat(whole.model), atol=1e-5)


def test_a_batch_cancelled_before_its_gradient_keeps_the_window():
    class Skip(Callback):
        order = -50

        def before_batch(self, learn):
            if learn.batch_index == 3:
                raise CancelBatch

    learn = new(train=batches(5), callbacks=[GradientAccumulation(4), Skip()])
    learn.fit(1)
    without = [b for i, b in enumerate(batches(5)) if i != 3]
    other = new(train=without, callbacks=GradientAccumulation(4))
    other.fit(1)
    assert learn.n_steps == other.n_steps == 2
    assert torch.allclose(flat(learn.model), flat(other.model), atol=1e-6)


# ---------------------------------------------------------------- looking without touching


def test_a_look_inside_a_fit_does_not_set_up_what_is_at_work():
    told = []

    class Shared(Callback):
        evaluates = True

        def before_fit(self, learn):
            told.append("before")

        def cleanup_fit(self, learn):
            told.append("cleanup")

    learn = new(valid=batches(10), callbacks=Shared())
    learn.fit(1, callbacks=on("after_step", lambda learn: learn.evaluate()))
    assert told == ["before", "cleanup"]
    learn.evaluate()
    assert told == ["before", "cleanup"] * 2


@pytest.mark.parametrize("event", EVENTS[2:8])
def test_a_look_at_any_moment_changes_nothing(event):
    def model():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))

    def look(learn):
        learn.evaluate(), learn.predict(X[:5]), learn.get_preds(), learn.summary(), repr(learn)

    with_looks, without = (
        new(model(), valid=batches(10), callbacks=GradientAccumulation(2)) for _ in range(2)
    )
    torch.manual_seed(5)
    without.fit(2)
    torch.manual_seed(5)
    with_looks.fit(2, callbacks=on(event, look, order=99))
    assert torch.equal(flat(with_looks.model), flat(without.model))
    assert with_looks.recorder.epochs == without.recorder.epochs


@pytest.mark.parametrize("frozen", ["by hand", "by its parameters"])
def test_frozen_normalisation_keeps_its_statistics(frozen):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    if frozen == "by hand":
        model[1].eval()
    else:
        model[1].requires_grad_(False)
    learn = new(model, valid=batches(10))
    learn.fit(2)
    assert torch.equal(model[1].running_mean, torch.zeros(4))
    assert not torch.equal(model[2].running_mean, torch.zeros(4))
    assert model[1].training == (frozen != "by hand") and model[2].training
    model.eval()  # as a whole: a look by hand, not a wish to freeze everything
    learn.fit(1)
    assert model[2].num_batches_tracked == 15 and not model[2].training
