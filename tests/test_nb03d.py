"""Columns, means and random states: what the notebook does not check."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exp.nb00 import test_eq
from exp.nb03b import DataLoader, TensorDataset
from exp.nb03d import Column, DeferredMeans, pool_sums, random_state, set_random_state


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.lists(
        st.floats(-65504, 65504, width=16) | st.floats(-1e300, 1e300) | st.integers(-9, 9),
        max_size=320,
    ),
    reads=st.sets(st.integers(0, 320), max_size=4),
)
def test_a_column_holds_what_came_in_to_the_bit(numbers, reads):
    column = Column()
    for i, number in enumerate(numbers):
        if i in reads:
            assert column.read().tolist() == numbers[:i]
        kind = (torch.float64, torch.float16, None)[i % 3]
        exact = kind is None or torch.tensor(number, dtype=kind).item() == number
        column.append(torch.tensor(number, dtype=kind) if kind and exact else number)
    assert column.read().tolist() == numbers
    assert column.read().dtype == torch.float64


def test_a_column_takes_one_number_at_a_time_and_keeps_no_history():
    column = Column()
    weight = torch.ones(2, requires_grad=True)
    column.append(weight.sum())
    column.append(weight.sum().reshape(1, 1))
    assert column._loose == [2, 2] and all(type(n) is float for n in column._loose)
    assert column.read().tolist() == [2, 2]
    for wrong in (torch.ones(2), torch.empty(0)):
        with pytest.raises(ValueError, match="one number a batch"):
            column.append(wrong)


def test_nan_and_infinity_stay_what_they_are():
    means = DeferredMeans(["a", "b"])
    for a, b in ((1.0, 1.0), (float("nan"), float("inf"))):
        means.add(2, [torch.tensor(a), b])
    found = means.means()
    assert found["a"] != found["a"] and found["b"] == float("inf")


@settings(max_examples=40, deadline=None)
@given(
    items=st.lists(st.integers(1, 100), min_size=2, max_size=250),
    seed=st.integers(0, 9),
    cut=st.data(),
)
def test_means_survive_a_checkpoint_and_can_be_shared(items, seed, cut):
    draw = torch.Generator().manual_seed(seed)
    losses = torch.rand(len(items), generator=draw)
    at = cut.draw(st.integers(1, len(items) - 1))

    def add(means, begin, end):
        for n, loss in zip(items[begin:end], losses[begin:end], strict=True):
            means.add(n, [loss, 1])
        return means

    once, first = (add(DeferredMeans(["loss", "one"]), 0, end) for end in (len(items), at))
    again = DeferredMeans(["loss", "one"])
    again.load_state_dict(first.state_dict())
    assert add(again, at, len(items)).means() == once.means()
    rest = add(DeferredMeans(["loss", "one"]), at, len(items))
    pool_sums(first, lambda sums: sums + rest.sums())
    assert first.means() == pytest.approx(once.means(), rel=1e-14)
    assert once.means()["one"] == 1


def test_random_state_covers_every_source():
    numpy = pytest.importorskip("numpy")
    generator = torch.Generator().manual_seed(1)
    loaders = [DataLoader(list(range(9)), 2, shuffle=True, generator=generator)]

    def drawn():
        return (random.random(), float(numpy.random.rand()), torch.rand(1).item(), list(loaders[0]))

    state = random_state(loaders)
    first = drawn()
    set_random_state(state, loaders)
    assert str(first) == str(drawn())
    with pytest.raises(ValueError, match="hold 0 generators"):
        set_random_state(state, [])


def test_generators_are_found_deep_inside_and_once():
    generator, inner = (torch.Generator().manual_seed(i) for i in range(2))
    data = TensorDataset(torch.arange(12.0))
    sampler = torch.utils.data.RandomSampler(data, generator=inner)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.Subset(data, range(12)),
        batch_sampler=torch.utils.data.BatchSampler(sampler, 3, False),
        generator=generator,
    )
    state = random_state([loader, loader])
    assert len(state["loaders"]) == 2
    first = list(loader)
    set_random_state(state, [loader, loader])
    test_eq(list(loader), first)


class TestCuda:
    pytestmark = pytest.mark.cuda

    def test_adding_waits_for_nothing(self):
        means, loss = DeferredMeans(["loss"]), torch.ones((), device="cuda")
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(250):
                means.add(3, [loss])
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert means.means() == {"loss": 1.0}

    def test_random_numbers_of_the_gpu(self):
        torch.rand(1, device="cuda")
        state = random_state()
        first = torch.rand(3, device="cuda")
        set_random_state(state)
        assert torch.equal(torch.rand(3, device="cuda"), first)
