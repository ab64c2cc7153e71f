"""06c_scale: half precision, layouts and shares of the data; processes: test_distributed.py."""

from collections import namedtuple
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
from exp.nb04 import Callback, Learner
from exp.nb04b import DeviceCallback, GradientAccumulation, GradientClip
from exp.nb05b import lr_find
from exp.nb06c import (
    AverageGradients,
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
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
                          nn.Linear(64, 2))
    loaders = loaders or DataLoaders(DataLoader(data(), 8), DataLoader(data(), 16))
    return Learner(model, loaders, F.cross_entropy, 0.1, partial(torch.optim.SGD, momentum=0.9),
                   [accuracy], callbacks)


@quick
@given(world=st.integers(1, 4), local=st.integers(1, 5), n=st.integers(1, 40),
       shuffle=st.booleans())
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
    plain = DataLoaders(DataLoader(data(), 8, shuffle=True, generator=generator),
                        DataLoader(data(), 16))
    shared = shared_loaders(data(), data(), 8, seed=3)
    states = []
    for loaders, callbacks in ((plain, ()), (shared, (DistributedCallback(), AverageGradients()))):
        learn = learner(*callbacks, loaders=loaders)
        learn.fit(2)
        states.append({**learn.model.state_dict(), **learn.recorder.epochs[-1]})
    test_eq(*states)


DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU")])]
HALVES = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("callbacks", [
    [], [ChannelsLast()], [GradientClip(0.1)], [GradientAccumulation(2), GradientClip(0.1)]])
def test_half_precision_goes_the_same_way(callbacks, dtype, device):
    whole, half = (learner(DeviceCallback(device), *callbacks, *more)
                   for more in ((), (MixedPrecision(dtype),)))
    for learn in (whole, half):
        learn.fit(2)
    test_near(whole.recorder.losses, half.recorder.losses, tol=0.05)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")
    assert half.get_preds()[0].dtype == torch.float32


def test_channels_last_leaves_the_model_as_it_was():
    learn = learner(ChannelsLast())
    learn.fit(1)
    assert all(p.is_contiguous() for p in learn.model.parameters())


def test_refusals():
    with pytest.raises(ValueError, match="bfloat16"):
        MixedPrecision(torch.float64)
    with pytest.raises(ValueError, match="requires AverageGradients"):
        learner(DistributedCallback())


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


def test_predictions_of_any_structure_come_back_in_32_bits():
    Pair = namedtuple("Pair", "a b")
    half = torch.ones(2, dtype=torch.bfloat16)
    found = _to_float32({"x": [half, (half, 1)], "y": Pair(half, half.double()), "z": half.long()})
    assert found["x"][0].dtype == found["x"][1][0].dtype == torch.float32
    assert isinstance(found["y"], Pair) and isinstance(found["x"][1], tuple)
    assert (found["y"].b.dtype, found["z"].dtype) == (torch.float64, torch.int64)


def test_averages_count_only_parameters_that_are_trained():
    """Gradients of the others are never forgotten, so they cannot say where a step begins."""
    counted = []

    class Count(Callback):
        def after_backward(self, learn):
            counted.append(average._items)

    average, training = AverageGradients(), learner()
    training.opt = torch.optim.SGD(training.model[-1].parameters(), lr=0.1)
    training.fit(1, callbacks=[average, DistributedCallback(), Count()])
    assert counted == [8] * 5
