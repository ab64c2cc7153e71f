"""06c_scale: half precision, layouts and shares of the data; processes: test_distributed.py."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb03b import DataLoader, DataLoaders, RandomSampler, SequentialSampler, TensorDataset
from exp.nb03c import accuracy
from exp.nb03f import Callback
from exp.nb04 import Learner
from exp.nb04b import DeviceCallback, GradientAccumulation, GradientClip, StopOnNaN
from exp.nb04d import Checkpoint
from exp.nb05b import lr_find
from exp.nb06c import (
    ChannelsLast,
    DistributedCallback,
    MixedPrecision,
    ShareSampler,
    _all_sum,
    _to_float32,
    process_device,
    process_group,
    process_rank,
    shared_loaders,
)

quick = settings(max_examples=60, deadline=None)


def data(n=40):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2, 6, 6, generator=generator)
    return TensorDataset(x, (x.mean((1, 2, 3)) > 0).long())


def learner(*callbacks, loaders=None):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)
    )
    loaders = loaders or DataLoaders(DataLoader(data(), 8), DataLoader(data(), 16))
    return Learner(
        model,
        loaders,
        F.cross_entropy,
        0.1,
        partial(torch.optim.SGD, momentum=0.9),
        [accuracy],
        callbacks,
    )


@quick
@given(
    world=st.integers(1, 4), local=st.integers(1, 5), n=st.integers(1, 40), shuffle=st.booleans()
)
def test_shares_make_up_every_global_batch(world, local, n, shuffle):
    size, items = world * local, range(n)

    def order():
        generator = torch.Generator().manual_seed(5)
        return RandomSampler(items, generator) if shuffle else SequentialSampler(items)

    if 0 < n % size < world:
        with pytest.raises(ValueError, match="last batch"):
            ShareSampler(order(), size, 0, world)
        return
    samplers = [ShareSampler(order(), size, rank, world) for rank in range(world)]
    plain = order()
    for _ in range(2):  # two epochs: a shuffled order goes on as it does alone
        whole = list(plain.blocks(size))
        shares = [s.indices() for s in samplers]
        assert [len(share) for share in shares] == [len(s) for s in samplers]
        for number, batch in enumerate(whole):
            parts = [share.split(local)[number] for share in shares]
            assert sorted(torch.cat(parts).tolist()) == sorted(batch.tolist())
        assert {len(share.split(local)) for share in shares} == {len(whole)}


def test_alone_shared_loaders_are_ordinary_ones_and_callbacks_do_nothing():
    assert process_rank() == (0, 1)
    with process_group() as place:
        assert place == (0, 1)
    generator = torch.Generator().manual_seed(3)
    plain = DataLoaders(
        DataLoader(data(), 8, shuffle=True, generator=generator), DataLoader(data(), 16)
    )
    shared = shared_loaders(data(), data(), 8, seed=3)
    states = []
    for loaders, callbacks in ((plain, ()), (shared, [DistributedCallback()])):
        learn = learner(*callbacks, loaders=loaders)
        learn.fit(2)
        states.append({**learn.model.state_dict(), **learn.recorder.epochs[-1]})
    test_eq(*states)


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.cuda,
    ),
]
HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(
    "callbacks",
    [[], [ChannelsLast()], [GradientClip(0.1)], [GradientAccumulation(2), GradientClip(0.1)]],
)
def test_half_precision_goes_the_same_way(callbacks, dtype, device):
    whole, half = (
        learner(DeviceCallback(device), *callbacks, *more)
        for more in ((), (MixedPrecision(dtype),))
    )
    for learn in (whole, half):
        learn.fit(2)
    test_near(whole.recorder.losses, half.recorder.losses, tol=0.05)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")
    assert half.get_preds()[0].dtype == torch.float32


class Steps(Callback):
    """Note the batches after which there was a step; make the gradients of some overflow."""

    order = GradientAccumulation.order + 1

    def __init__(self, overflow=()):
        self.overflow, self.seen, self.weights = overflow, [], []

    def after_backward(self, learn):
        self.weights.append(learn.step_weight)
        if learn.batch_index in self.overflow:
            next(learn.model.parameters()).grad.fill_(float("inf"))

    def after_step(self, learn):
        self.seen.append(learn.batch_index)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("every, steps", [(1, [1, 3, 4]), (2, [3, 4])])
def test_a_skipped_step_is_neither_counted_nor_announced(every, steps, device):
    watch = Steps(overflow=(0, 2) if every == 1 else (1,))
    many = [GradientAccumulation(every)] if every > 1 else []
    learn = learner(DeviceCallback(device), MixedPrecision(torch.float16), watch, *many)
    learn.fit(1)
    assert watch.seen == steps and learn.n_steps == len(steps)
    assert watch.weights == ([8] * 5 if every == 1 else [16, 16, 8])  # a skipped one leaves none
    assert learn.callback(MixedPrecision).state_dict()["scale"] == 2.0**16 / 4 ** (every == 1) / (
        2 ** (every == 2)
    )
    assert all(p.isfinite().all() for p in learn.model.parameters())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("event", ["after_pred", "after_backward", "after_step", "after_batch"])
def test_an_evaluation_inside_a_step_changes_nothing(dtype, event):
    class Look(Callback):
        order = 70

    def look(self, learn):
        if learn.training:
            learn.evaluate()

    setattr(Look, event, look)
    plain, looking = learner(MixedPrecision(dtype)), learner(MixedPrecision(dtype), Look())
    for learn in (plain, looking):
        learn.fit(2)
    test_eq(plain.model.state_dict(), looking.model.state_dict())


class Die(Callback):
    order, only_watches = 20_000, True

    def after_batch(self, learn):
        if learn.training and learn.epoch == 1 and learn.batch_index == 2:
            raise KeyboardInterrupt


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("every", [None, 2])
def test_half_precision_resumes_to_the_last_bit(tmp_path, dtype, every):
    def train(name, *more):
        mixed = MixedPrecision(dtype)
        learn = learner(
            Checkpoint(tmp_path / name, every=every),
            StopOnNaN(),
            mixed,
            *more,
            Steps(overflow=(1,) if dtype == torch.float16 else ()),
        )
        learn.fit(3)
        return learn

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("killed", Die())
    resumed = train("killed")
    test_eq(whole.model.state_dict(), resumed.model.state_dict())
    assert (
        whole.callback(MixedPrecision).state_dict() == resumed.callback(MixedPrecision).state_dict()
    )
    assert whole.n_steps == resumed.n_steps


def layouts(model):
    return [
        (p.is_contiguous(), p.is_contiguous(memory_format=torch.channels_last), p.stride())
        for p in model.parameters()
        if p.ndim == 4
    ]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_channels_last_leaves_the_model_as_it_was(layout):
    seen = []

    class Look(Callback):
        def after_step(self, learn):
            seen.append(learn.model[0].weight.is_contiguous(memory_format=torch.channels_last))
            if learn.batch_index == 0:
                learn.evaluate()

    learn = learner(ChannelsLast(), Look())
    learn.model.to(memory_format=layout)
    before = layouts(learn.model)
    learn.fit(1)
    assert seen == [True] * 5 and layouts(learn.model) == before
    with pytest.raises(ZeroDivisionError):
        learn.fit(1, callbacks=[Fail()])
    assert layouts(learn.model) == before


class Fail(Callback):
    def after_pred(self, learn):
        raise ZeroDivisionError


def test_refusals():
    with pytest.raises(ValueError, match="bfloat16"):
        MixedPrecision(torch.float64)


class ModelOutput(OrderedDict):
    """A dict with attributes that refuses `update`, as the models of transformers return it."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def update(self, *args, **options):
        if self:
            raise TypeError("a ModelOutput cannot be updated")
        super().update(*args, **options)


@dataclass
class Output:
    logits: torch.Tensor
    name: str = "kept"


@pytest.mark.parametrize("kind", [ModelOutput, Output])
@pytest.mark.parametrize("dtype", HALVES)
def test_outputs_with_attributes_reach_loss_and_metrics(kind, dtype):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(72, 2)

        def forward(self, x):
            return kind(logits=self.head(x.flatten(1)))

    def loss_func(pred, target):
        assert isinstance(pred, kind) and pred.logits.dtype == torch.float32
        return F.cross_entropy(pred.logits, target)

    dls = DataLoaders(DataLoader(data(), 8), DataLoader(data(), 16))
    learn = Learner(
        Model(),
        dls,
        loss_func,
        0.1,
        metrics={"acc": lambda p, t: accuracy(p.logits, t)},
        callbacks=MixedPrecision(dtype),
    )
    assert "valid_acc" in learn.fit(1).epochs[-1]


def test_sums_travel_on_the_device_of_the_process(monkeypatch):
    seen = []
    monkeypatch.setattr("exp.nb06c.process_rank", lambda: (0, 2))
    monkeypatch.setattr("exp.nb06c.process_device", lambda: torch.device("meta"))
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: seen.append(x.device.type))
    _all_sum(torch.ones(2))
    assert seen == ["meta"]


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr("exp.nb06c.default_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for local, expected in ((0, "cuda:0"), (1, "cuda:1")):
        monkeypatch.setenv("LOCAL_RANK", str(local))
        assert str(process_device()) == expected
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(RuntimeError, match="process 2 .* there are 2"):
        process_device()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
def test_the_state_of_half_precision_goes_into_a_checkpoint(dtype, device):
    mixed = MixedPrecision(dtype)
    learner(DeviceCallback(device), mixed).fit(1)
    other = MixedPrecision(dtype)
    other.load_state_dict(mixed.state_dict())
    assert other.state_dict() == mixed.state_dict()
    assert (len(other.state_dict()) > 0) == (dtype == torch.float16)


def test_half_precision_goes_on_after_an_exception_in_the_middle_of_a_step():
    class Stop(Callback):
        order = 56  # gradients are scaled back, and the step has not been made

        def after_backward(self, learn):
            raise KeyboardInterrupt

    learn = learner(MixedPrecision(torch.float16))
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1, callbacks=[Stop()])
    learn.fit(1)
    assert len(learn.recorder.epochs) == 1


def test_the_finder_takes_half_precision_along():
    learn = learner(MixedPrecision(torch.float16))
    learn.fit(1)
    before = learn.callback(MixedPrecision).state_dict()
    lr_find(learn, num_steps=30)
    assert learn.callback(MixedPrecision).state_dict() == before


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_takes_batches_by_name(dtype):
    class Named(nn.Linear):
        def forward(self, pixels, scale):
            return super().forward(pixels) * scale

    seen = []
    batch = {"pixels": torch.ones(4, 2), "scale": torch.ones(()), "labels": torch.arange(4) % 3}
    learn = Learner(Named(2, 3), DataLoaders([batch], [batch]), F.cross_entropy, 0.1,
                    target="labels", callbacks=MixedPrecision(dtype), progress=False)  # fmt: skip
    learn.model.register_forward_hook(lambda *parts: seen.append(parts[2].dtype))
    learn.fit(1)
    assert learn.get_preds()[0].dtype == torch.float32 and set(seen) == {dtype}


def test_predictions_of_any_structure_come_back_in_32_bits():
    Pair = namedtuple("Pair", "a b")
    half = torch.ones(2, dtype=torch.bfloat16)
    found = _to_float32({"x": [half, (half, 1)], "y": Pair(half, half.double()), "z": half.long()})
    assert found["x"][0].dtype == found["x"][1][0].dtype == torch.float32
    assert isinstance(found["y"], Pair) and isinstance(found["x"][1], tuple)
    assert (found["y"].b.dtype, found["z"].dtype) == (torch.float64, torch.int64)
