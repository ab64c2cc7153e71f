"""03 to 03c: losses, parameters, optimizers, loaders, the loop, against PyTorch and faults."""

import copy
import json
import math
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time
import warnings
from collections import namedtuple
from functools import partial
from itertools import count, permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb03 import (
    SGD,
    Container,
    Optimizer,
    Parameter,
    Sequential,
    cross_entropy,
    log_softmax,
    logsumexp,
    nll_loss,
)
from exp.nb03a import counted, random_kept, worker_batches
from exp.nb03b import (
    BatchSampler,
    DataLoader,
    DataLoaders,
    Dataset,
    FirstBatches,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
    check_whole_number,
    collate,
    generator_state,
    held_generators,
    set_epoch,
    set_generator_state,
    tensor_batches,
)
from exp.nb03c import (
    History,
    RunningMean,
    accuracy,
    binary_accuracy,
    check_argument_order,
    count_kept,
    evaluate,
    fit,
)
from exp.nb03e import MeanMetric, divisor_of

quick = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**31)
CAN_FORK = "fork" in multiprocessing.get_all_start_methods()
forks = pytest.mark.skipif(not CAN_FORK, reason="this system cannot fork")
contexts = [pytest.param("fork", marks=forks), "spawn"]


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def value_and_gradient(function, x):
    x = x.clone().requires_grad_()
    y = function(x)
    y.backward(draw(*y.shape, seed=1))
    return y.detach(), x.grad


# --- losses --------------------------------------------------------------------------------------


@quick
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(-4, 3),
    st.booleans(),
    st.sampled_from([1.0, 30.0, 1e4]),
    seeds,
)
def test_logsumexp_and_log_softmax(shape, dim, keepdim, scale, seed):
    x, dim = scale * draw(*shape, seed=seed), dim % len(shape)
    test_near(
        value_and_gradient(lambda x: logsumexp(x, dim, keepdim), x),
        value_and_gradient(lambda x: torch.logsumexp(x, dim, keepdim), x),
        tol=1e-10,
    )
    test_near(
        value_and_gradient(lambda x: log_softmax(x, dim), x),
        value_and_gradient(lambda x: F.log_softmax(x, dim), x),
        tol=1e-10,
    )


def test_log_softmax_keeps_its_digits_in_float32():
    x = 1e4 + draw(5, 7).float()
    test_near(log_softmax(x), F.log_softmax(x, -1), tol=1e-6)
    test_near(log_softmax(x.double()).float(), log_softmax(x), tol=1e-6)


def test_logsumexp_of_infinities():
    inf = math.inf
    x = torch.tensor([[-inf, -inf], [inf, 0.0], [-inf, 0.0]])
    test_eq(logsumexp(x), torch.logsumexp(x, -1))
    masked = torch.tensor([[-inf, 0.0, 1.0]])
    test_near(log_softmax(masked)[:, 1:], F.log_softmax(masked, -1)[:, 1:])


@quick
@given(
    st.integers(1, 6),
    st.integers(1, 5),
    st.lists(st.integers(1, 3), max_size=2),
    st.sampled_from(["mean", "sum", "none"]),
    st.sampled_from([0.0, 0.1, 1.0]),
    seeds,
)
def test_cross_entropy(batch, classes, extra, reduction, smoothing, seed):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (batch, *extra), generator=generator)
    ignored = torch.rand(target.shape, generator=generator) < 0.3
    ignored.view(-1)[0] = False  # the mean of nothing is nan
    target[ignored] = -100
    z = draw(batch, classes, *extra, seed=seed)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    test_near(
        value_and_gradient(lambda z: cross_entropy(z, target, **options), z),
        value_and_gradient(lambda z: F.cross_entropy(z, target, **options), z),
        tol=1e-10,
    )
    test_near(
        value_and_gradient(lambda z: nll_loss(z, target, reduction), z),
        value_and_gradient(lambda z: F.nll_loss(z, target, reduction=reduction), z),
    )


def test_cross_entropy_ignores():
    z, target = draw(4, 3), torch.tensor([7, 1, 7, 2])
    ours = value_and_gradient(lambda z: cross_entropy(z, target, ignore_index=7), z)
    test_near(ours, value_and_gradient(lambda z: F.cross_entropy(z, target, ignore_index=7), z))
    test_eq(ours[1][0], torch.zeros(3, dtype=torch.float64))
    nothing = torch.full((4,), -100)
    assert cross_entropy(z, nothing).isnan() and F.cross_entropy(z, nothing).isnan()
    test_eq(cross_entropy(z, nothing, "sum").item(), 0.0)
    z[0] = math.inf  # what is not counted does no harm
    assert cross_entropy(z, torch.tensor([-100, 1, 0, 2])).isfinite()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_cross_entropy_takes_any_integers(dtype):
    z, target = draw(4, 3), torch.tensor([0, 2, 1, 2])
    test_eq(cross_entropy(z, target.to(dtype)), cross_entropy(z, target))


@pytest.mark.parametrize(
    "z, target, says",
    [
        (draw(3, 4), torch.tensor([0, 1, 4]), "0..3"),
        (draw(3, 4), torch.tensor([0, 1, -1]), "got -1"),
        (draw(3, 4), torch.tensor([0, 1]), "(3, 4)"),
        (draw(3, 4, 2), torch.tensor([0, 1, 2]), "(3, 4, 2)"),
        (draw(4), torch.tensor(0), "(B, C"),
        (draw(3, 4), torch.zeros(3), "integer"),
    ],
)
def test_cross_entropy_refuses(z, target, says):
    with pytest.raises(ValueError) as caught:
        cross_entropy(z, target)
    assert says in str(caught.value)


# --- parameters ----------------------------------------------------------------------------------


class Dense(Container):
    def __init__(self, n_in, n_out, dtype=torch.float64):
        self.weight = Parameter(draw(n_out, n_in).to(dtype))
        self.bias = Parameter(torch.zeros(n_out, dtype=dtype))

    def forward(self, x):
        return x @ self.weight.T + self.bias


def test_parameter_is_a_leaf_and_its_results_are_not_parameters():
    p = Parameter(torch.ones(3))
    for result in (
        p + 1,
        -p,
        p.sum(),
        p[0],
        p.view(3),
        p.clone(),
        p.detach(),
        p @ p,
        torch.stack([p]),
    ):
        assert type(result) is torch.Tensor
    with torch.no_grad():
        assert p.add_(1) is p  # in place it stays what it is
    assert type(p) is Parameter and p.is_leaf and not Parameter(torch.ones(1), False).requires_grad


def test_parameter_travels():
    model = Sequential(Dense(3, 2), Dense(2, 2))
    model.shared = model[0]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        test_eq(twin.state_dict(), model.state_dict())
        assert [type(p) for p in twin.parameters()] == [Parameter] * 4
        assert twin.shared is twin[0] and twin[0] is not model[0]
        twin[0].bias = Parameter(torch.ones(2))  # what is assigned later is still registered
        test_eq(twin.state_dict()["shared.bias"], torch.ones(2))


def test_torch_trains_our_parameters_and_we_train_torchs():
    x, theirs = draw(8, 3), nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    ours = Sequential(Dense(3, 2), torch.tanh, Dense(2, 1))
    ours.load_state_dict(theirs.state_dict())
    settings = dict(lr=0.1, momentum=0.9, weight_decay=0.01)
    for model, opt in (
        (ours, torch.optim.SGD(ours.parameters(), **settings)),
        (theirs, SGD(theirs.parameters(), **settings)),
    ):
        for _ in range(5):
            opt.zero_grad()
            model(x).square().sum().backward()
            opt.step()
    test_near(ours.state_dict(), dict(theirs.state_dict()), tol=1e-12)


def test_containers_forget_what_is_replaced_or_deleted():
    model = Dense(3, 2)
    model.bias = None
    test_eq(list(model.state_dict()), ["weight"])
    del model.weight
    assert not model.state_dict() and not hasattr(model, "weight")
    model.late = Dense(1, 1)
    test_eq(list(model.state_dict()), ["late.weight", "late.bias"])


def test_containers_refuse_what_they_cannot_see():
    for layer in (nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.Linear(1, 1))):
        with pytest.raises(TypeError, match=type(layer).__name__):
            Sequential(torch.tanh, layer)
    model = Sequential(Dense(2, 2), nn.ReLU())  # nothing to train or save in this one
    with pytest.raises(TypeError, match="'extra'"):
        model.extra = nn.Parameter(torch.ones(1))
    model.cache = model(draw(1, 2))  # computed, and so no leaf
    test_eq(list(model.state_dict()), ["0.weight", "0.bias"])


def test_sequential_indexing():
    model = Sequential(Dense(3, 2), torch.tanh, Dense(2, 1))
    assert model[-1] is model[2] and model[0:1][0] is model[0] and len(model[::2]) == 2
    assert list(model)[1] is torch.tanh
    for place in (3, -4):
        with pytest.raises(IndexError):
            model[place]
    test_eq(Sequential()(5), 5)


def test_load_state_dict_changes_nothing_on_a_mismatch():
    model = Dense(3, 2)
    before = copy.deepcopy(model.state_dict())
    for wrong in (
        {"weight": torch.ones(2, 3)},
        {**before, "more": torch.ones(1)},
        {**before, "bias": torch.ones(3)},
    ):
        with pytest.raises(ValueError, match="bias|more"):
            model.load_state_dict(wrong)
        test_eq(model.state_dict(), before)


# --- optimizers ----------------------------------------------------------------------------------


def steps(kind, groups, settings, n=20, exchange_at=None):
    """Take n steps on a loss that leaves one parameter without gradient now and then."""
    params = [Parameter(draw(3, 2, seed=i)) for i in range(3)]
    params[2].requires_grad_(False)  # frozen: stays as it is

    def optimizer(kind):  # with new groups: torch's adds its settings to the dicts it is given
        parts = [{"params": params[:1], **groups[0]}, {"params": params[1:], **groups[1]}]
        return kind(parts, **settings)

    opt = optimizer(kind)
    for i in range(n):
        opt.zero_grad()
        loss = (params[0] * draw(3, 2, seed=10 + i)).sin().sum()
        if i % 4:
            loss = loss + (params[1] - draw(3, 2, seed=50 + i)).square().sum()
        loss.backward()
        opt.step()
        if i == exchange_at:
            saved = copy.deepcopy(opt.state_dict())
            opt = optimizer(SGD if kind is torch.optim.SGD else torch.optim.SGD)
            opt.load_state_dict(saved)
    return [p.detach() for p in params]


rates = st.floats(0, 0.1)


@settings(max_examples=15, deadline=None)
@given(
    rates,
    st.sampled_from([0.0, 0.5, 0.9]),
    st.sampled_from([0.0, 0.2, 1.0]),
    rates,
    st.booleans(),
    st.sampled_from([{}, {"lr": 0.02}, {"weight_decay": 0.3}, {"momentum": 0.3}]),
)
def test_sgd_equals_torchs_over_twenty_steps(lr, momentum, dampening, decay, nesterov, other):
    if nesterov:
        momentum, dampening = momentum or 0.9, 0.0
    settings = dict(
        lr=lr, momentum=momentum, dampening=dampening, weight_decay=decay, nesterov=nesterov
    )
    theirs = steps(torch.optim.SGD, [{}, other], settings)
    test_near(steps(SGD, [{}, other], settings), theirs, tol=1e-12)
    test_near(steps(SGD, [{}, other], settings, exchange_at=9), theirs, tol=1e-12)
    test_near(steps(torch.optim.SGD, [{}, other], settings, exchange_at=9), theirs, tol=1e-12)


def test_state_is_copied_when_loaded():
    p = Parameter(torch.ones(2))
    one = SGD([p], lr=0.1, momentum=0.9)
    p.grad = torch.ones(2)
    one.step()
    two = SGD([p], lr=0.5, momentum=0.9)
    two.load_state_dict(one.state_dict())
    two.step()
    test_eq(one.state[p]["momentum_buffer"], torch.ones(2))
    test_eq(two.param_groups[0]["lr"], 0.1)
    with pytest.raises(ValueError, match=r"\[1\].*\[2\]"):
        one.load_state_dict(SGD([p, Parameter(torch.ones(1))], lr=1).state_dict())
    test_eq(one.state[p]["momentum_buffer"], torch.ones(2))


def test_state_takes_the_type_of_its_parameter():
    single, double = Parameter(torch.ones(2)), Parameter(torch.ones(2, dtype=torch.float64))
    ours, theirs = SGD([double], lr=0.1, momentum=0.9), torch.optim.SGD([double], momentum=0.9)
    source = SGD([single], lr=0.1, momentum=0.9)
    single.grad = torch.ones(2)
    source.step()
    for opt in (ours, theirs):
        opt.load_state_dict(source.state_dict())
        assert opt.state[double]["momentum_buffer"].dtype == torch.float64


def test_optimizer_can_be_copied_and_pickled_with_its_model():
    p = Parameter(torch.ones(2))
    opt = SGD([p], lr=0.1, momentum=0.9)
    p.grad = torch.ones(2)
    opt.step()
    for q, twin in (copy.deepcopy((p, opt)), pickle.loads(pickle.dumps((p, opt)))):
        assert twin.param_groups[0]["params"][0] is q
        test_eq(twin.state[q]["momentum_buffer"], torch.ones(2))


def test_optimizer_refuses():
    p, q = Parameter(torch.ones(1)), Parameter(torch.ones(1))
    for make, error, says in (
        (lambda: SGD(iter([])), ValueError, "no parameters"),
        (lambda: SGD([p, q, p]), ValueError, "twice"),
        (lambda: SGD([{"params": [p]}, {"params": [p]}]), ValueError, "twice"),
        (lambda: SGD([p * 2]), TypeError, "computed"),
        (lambda: SGD(["p"]), TypeError, "str"),
        (lambda: SGD([{"lr": 1}]), TypeError, "dict with 'params'"),
        (lambda: SGD([{"params": [p]}, q]), TypeError, "dict with 'params'"),
        (lambda: SGD([p], lr=math.nan), ValueError, "lr"),
        (lambda: SGD([p], momentum=-1), ValueError, "momentum"),
        (lambda: SGD([p], weight_decay=-1), ValueError, "weight_decay"),
        (lambda: SGD([p], momentum=0.9, dampening=0.1, nesterov=True), ValueError, "nesterov"),
        (lambda: SGD([{"params": [p], "learning_rate": 1}]), ValueError, "learning_rate"),
        (lambda: Optimizer([p], {}).update(p, p, {}, {}), NotImplementedError, "update"),
    ):
        with pytest.raises(error, match=says):
            make()
    opt = SGD(p)  # a single tensor is a list of one
    with pytest.raises(ValueError, match="twice"):
        opt.add_param_group({"params": [q, p]})
    assert len(opt.param_groups) == 1
    opt.add_param_group({"params": q, "name": "head", "lr": 3.0})
    test_eq((opt.param_groups[1]["name"], opt.param_groups[1]["lr"]), ("head", 3.0))


# --- data sets, samplers, collate ----------------------------------------------------------------

Point = namedtuple("Point", "x y")


class Rich(Dataset):
    """Samples with everything in them, and random numbers drawn on the way."""

    def __init__(self, n=23):
        self.n = n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        array = np.full((2,), i / 3, dtype=np.float32)
        return {
            "number": i,
            "flag": i % 2 == 0,
            "text": f"no. {i}",
            "array": array,
            "scalars": (array[0], np.int64(i), np.bool_(True)),
            "point": Point(i / 7, [i, (i,)]),
            "drawn": torch.rand(2),
            "empty": torch.zeros(0),
        }


def both(seed, dataset, epochs=2, **options):
    """All batches of some epochs, and where the generators are left, from ours and from torch's."""
    results = []
    for kind in (DataLoader, torch.utils.data.DataLoader):
        torch.manual_seed(seed or 5)
        generator = torch.Generator().manual_seed(seed) if seed else None
        loader = kind(dataset, generator=generator, **options)
        batches = [list(loader) for _ in range(epochs)]
        results.append([batches, len(loader), torch.rand(1), torch.rand(1, generator=generator)])
    test_eq(*results)
    return results[0][0]


@quick
@given(st.integers(0, 40), st.integers(1, 45), st.booleans(), st.booleans(), st.integers(0, 9))
def test_loader_equals_torchs(n, batch_size, shuffle, drop_last, seed):
    options = dict(batch_size=batch_size, shuffle=shuffle and n > 0, drop_last=drop_last)
    both(seed, list(range(n)), **options)
    both(seed, Rich(n), epochs=1, **options)
    tensors = (draw(n, 3), torch.arange(n), torch.zeros(n, 0), torch.ones(n, dtype=torch.bool))
    both(seed, TensorDataset(*tensors), **options)
    both(seed, torch.utils.data.TensorDataset(*tensors), **options)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 300), st.integers(1, 70), st.integers(0, 9))
def test_loader_equals_torchs_over_many_blocks(n, batch_size, seed):
    dataset = TensorDataset(draw(n, 2000), torch.arange(n))  # a block holds about 16 rows
    both(seed, dataset, batch_size=batch_size, shuffle=True, drop_last=bool(seed % 2))


def test_types_of_batches():
    (batch,) = both(0, Rich(4), batch_size=4, epochs=1)[0]
    for value, dtype in (
        (batch["number"], torch.int64),
        (batch["flag"], torch.bool),
        (batch["array"], torch.float32),
        (batch["point"].x, torch.float64),
        (batch["scalars"][2], torch.bool),
    ):
        assert value.dtype == dtype
    theirs = next(iter(torch.utils.data.DataLoader(Rich(4), 4)))
    for key in ("number", "flag", "array"):
        assert batch[key].dtype == theirs[key].dtype
    assert type(batch["point"]) is Point and type(batch["text"]) is list


def test_loader_takes_any_order():
    dataset, picture = Rich(9), torch.utils.data.WeightedRandomSampler([1.0] * 9, 20)
    for sampler in (
        [3, 1, 1, 8],
        range(8, -1, -1),
        picture,
        torch.utils.data.SubsetRandomSampler([2, 5]),
    ):
        both(4, dataset, sampler=sampler, batch_size=3)
        both(4, TensorDataset(draw(9, 2)), sampler=sampler, batch_size=3)
        both(4, TensorDataset(draw(9, 2)), sampler=sampler, batch_size=3, drop_last=True)
    both(4, dataset, batch_sampler=[])  # no batches are no batches
    both(4, dataset, batch_sampler=[[0], [1, 2], [8, 8]])
    both(4, TensorDataset(draw(9, 2)), batch_sampler=[[0], [1, 2], [8, 8]])
    words = {"one": 1, "two": 2}  # keys need not be numbers
    test_eq(list(DataLoader(words, sampler=["two", "one"])), [torch.tensor([2]), torch.tensor([1])])


def test_an_endless_order_is_read_only_as_far_as_needed():
    dataset = TensorDataset(torch.arange(7))
    endless = type("Endless", (), {"__iter__": lambda self: (i % 7 for i in count())})()
    batches = iter(DataLoader(dataset, batch_size=4, sampler=endless))
    test_eq(
        [next(batches)[0].tolist() for _ in range(3)], [[0, 1, 2, 3], [4, 5, 6, 0], [1, 2, 3, 4]]
    )


def test_samplers():
    torch.manual_seed(1)
    first, second = list(RandomSampler(range(50))), list(RandomSampler(range(50)))
    assert first != second and sorted(first) == sorted(second) == list(range(50))
    generator = torch.Generator().manual_seed(1)
    state = torch.get_rng_state()
    list(RandomSampler(range(50), generator))
    test_eq(
        torch.get_rng_state(), state
    )  # with a generator of its own it leaves the global one alone
    grows = [1, 2]
    sampler = SequentialSampler(grows)
    grows.append(3)
    test_eq((len(sampler), list(sampler)), (3, [0, 1, 2]))
    with pytest.raises(TypeError):
        Sampler()


@quick
@given(st.lists(st.integers()), st.integers(1, 9), st.booleans())
def test_batch_sampler(order, size, drop_last):
    batches = BatchSampler(order, size, drop_last)
    test_eq(list(batches), list(torch.utils.data.BatchSampler(order, size, drop_last)))
    test_eq(len(batches), len(list(batches)))


def test_collate_equals_torchs_and_refuses():
    Nested = namedtuple("Nested", "a")
    for samples in (
        [1, 2],
        [1.5, 2.5],
        [True, False],
        ["a", "b"],
        [b"a", b"b"],
        [np.float32(1)] * 2,
        [np.arange(3)] * 2,
        [draw(2, 1)] * 3,
        [(1, "a")] * 2,
        [[1, (2.0, {"k": 3})]] * 2,
        [{"a": {"b": [1, 2]}}] * 2,
        [Nested(Nested(1))] * 2,
        [np.array(3)] * 2,
    ):
        ours, theirs = collate(samples), torch.utils.data.default_collate(samples)
        test_eq(ours, theirs)
        assert type(ours) is type(theirs) and getattr(ours, "dtype", 0) == getattr(
            theirs, "dtype", 0
        )
    for samples, error in (
        ([None, None], TypeError),
        ([{"a": 1}, {"a": 1, "b": 2}], ValueError),
        ([(1, 2), (1,)], ValueError),
        ([torch.ones(2), torch.ones(3)], RuntimeError),
        ([np.array(["a"])] * 2, TypeError),
        ([], ValueError),
    ):
        with pytest.raises(error):
            collate(samples)


def test_a_tensor_dataset_takes_arrays():
    base = np.arange(12, dtype=np.float32).reshape(4, 3)
    locked = base.copy()
    locked.flags.writeable = False
    for array in (base, base[:, ::-1], base[::-1], locked, base.astype(">f4"), base.astype("f2")):
        dataset = TensorDataset(array, np.arange(4), torch.arange(4))
        (xb, yb, zb), _ = DataLoader(dataset, 3)
        test_eq(xb.tolist(), array[:3].tolist())
        test_eq((yb, dataset[3][1]), (zb, torch.tensor(3)))
    TensorDataset(base).tensors[0][0, 0] = 7.0
    assert base[0, 0] == 7.0  # the memory is shared where it can be
    test_eq(collate([base[0, ::-1], base[1]]).shape, (2, 3))  # torch's collate refuses this one
    with pytest.raises(TypeError, match="list in place 1.*torch.tensor"):
        TensorDataset(base, [1, 2, 3, 4])
    for wrong in (np.array(["a"]), np.array([None])):
        with pytest.raises(TypeError, match="dtype|type numpy"):
            TensorDataset(wrong)
    with pytest.raises(ValueError, match="one length"):
        TensorDataset(np.float32(1))


@pytest.mark.parametrize(
    "samples, dtype",
    [
        ([1, 2.5, 3], torch.float64),
        ([True, 2, 3], torch.int64),
        ([True, 2, 3.0], torch.float64),
        ([np.float32(1), 2], torch.float32),
        ([np.float32(1), 2.5], torch.float64),
        ([torch.tensor(1.0), np.float32(2), 3], torch.float32),
        ([torch.tensor(1), torch.tensor(2.5)], torch.float32),
        ([np.array(1), 2.5], torch.float64),
    ],
)
def test_the_dtype_of_a_batch_does_not_depend_on_which_sample_comes_first(samples, dtype):
    for order in permutations(samples):
        batch = collate(list(order))
        test_eq((batch.dtype, batch.tolist()), (dtype, [float(number) for number in order]))
        nested = collate([{"a": (number, 1)} for number in order])
        test_eq(nested["a"][0], batch)


class Unreadable(Dataset):
    """Sample 6 has something in it that is not data."""

    def __init__(self, odd, whole=False):
        self.odd, self.whole = odd, whole

    def __len__(self):
        return 8

    def __getitem__(self, i):
        if self.whole:
            return self.odd if i == 6 else torch.zeros(3)
        return torch.zeros(3), {"label": self.odd if i == 6 else 1}


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=forks)])
@pytest.mark.parametrize(
    "odd, says",
    [
        (None, "sample 2 of the batch is None"),
        (object(), "cannot put a object"),
        ("no", "sample 2 of the batch is a str"),
        ({}, "sample 2 of the batch is a dict"),
    ],
)
def test_a_sample_that_fits_no_batch_is_named(odd, says, workers):
    options = {"num_workers": workers, "multiprocessing_context": "fork" if workers else None}
    for whole in (True, False):
        with pytest.raises(TypeError, match=says) as caught:
            list(DataLoader(Unreadable(odd, whole), 4, **options))
        notes = "\n".join(caught.value.__notes__)
        assert notes.count("while collating samples [4, 5, 6, 7]") == 1
        if not whole:
            assert "in part 'label' of" in notes and "in part 1 of" in notes
    with pytest.raises(TypeError, match="sample 0 of the batch is None.*drops such samples"):
        collate([None, torch.zeros(3)])


def test_a_collate_fn_may_drop_samples():
    def readable(samples):
        return collate([sample for sample in samples if sample is not None])

    sizes = [len(xb) for xb in DataLoader(Unreadable(None, True), 4, collate_fn=readable)]
    test_eq(sizes, [4, 3])


def test_an_error_says_which_sample_was_being_read():
    with pytest.raises(KeyError) as caught:
        list(DataLoader(Faulty(KeyError("no label"), at=9), 4))
    assert "while reading sample 9" in caught.value.__notes__


def test_a_batch_is_ones_own():
    x = draw(40, 3)
    saved = x.clone()
    for shuffle in (False, True):
        batches = [xb for (xb,) in DataLoader(TensorDataset(x), 8, shuffle=shuffle)]
        others = [xb.clone() for xb in batches[1:]]
        batches[0].fill_(7)
        test_eq((x, batches[1:]), (saved, others))
    w = torch.ones(3, dtype=torch.float64, requires_grad=True)
    first, second = [xb for (xb,) in DataLoader(TensorDataset(x), 8)][:2]
    loss = (first * w).square().sum()
    second.mul_(2)  # an in-place change of the next batch must not disturb the graph of this one
    loss.backward()
    second.mul_(w)  # and a batch may enter the graph itself
    assert second.requires_grad and not first.requires_grad


def test_fast_path_is_taken_only_where_it_is_right():
    class Doubled(TensorDataset):
        def __getitem__(self, index):
            return tuple(2 * t for t in super().__getitem__(index))

    x = draw(10, 2)
    test_eq(list(DataLoader(Doubled(x), 5)), [[2 * x[:5]], [2 * x[5:]]])
    test_eq(list(DataLoader(TensorDataset(x), 5, collate_fn=len)), [5, 5])

    class Many(Rich):
        def __getitems__(self, indices):
            return [-i for i in indices]

    test_eq(list(DataLoader(Many(4), 2)), [torch.tensor([0, -1]), torch.tensor([-2, -3])])


def test_data_that_wants_gradients_keeps_them():
    for n in (4, 100):
        x = draw(n, 2).requires_grad_()
        for (xb,) in DataLoader(TensorDataset(x), 4):
            xb.sum().backward()
        test_eq(x.grad, torch.ones_like(x))


def test_no_validation_set_is_none_and_an_empty_one_is_refused():
    some, empty = TensorDataset(torch.arange(10)), TensorDataset(torch.arange(0))
    for dls in (DataLoaders.from_datasets(some, None), DataLoaders.from_datasets(some)):
        assert dls.valid is None and dls.first(1).valid is None and len(dls.train) == 1
    assert DataLoaders([1]).valid is None
    for make, says in (
        (lambda: DataLoaders.from_datasets(some, empty), "validation set is empty.*valid=None"),
        (lambda: DataLoaders.from_datasets(empty, some), "training set has 0 samples"),
        (
            lambda: DataLoaders.from_datasets(some, some, batch_size=11, drop_last=True),
            "10 samples, and drop_last",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            make()


def test_loaders_describe_themselves():
    some = TensorDataset(torch.arange(1000), torch.arange(1000))
    dls = DataLoaders.from_datasets(some, some, batch_size=3, num_workers=2)
    for loader, says in (
        (dls, "DataLoaders(train: 1,000 samples in 334 batches of 3; "
              "valid: 1,000 samples in 167 batches of 6)"),
        (dls.train, "DataLoader(1,000 samples in 334 batches of 3, shuffled, num_workers=2)"),
        (DataLoader([1, 2], batch_sampler=[[0, 1]]), "DataLoader(2 samples in 1 batch)"),
        (DataLoaders([1, 2], None), "DataLoaders(train: 2 batches; valid: none)"),
        (DataLoaders(count()), "DataLoaders(train: batches; valid: none)"),
        (FirstBatches([1, 2], 3), "FirstBatches([1, 2], 3)"),
    ):  # fmt: skip
        test_eq(repr(loader), says)
    theirs = torch.utils.data.DataLoader(some, 4)
    assert "1,000 samples in 250 batches of 4" in repr(DataLoaders(theirs, theirs))


@pytest.mark.parametrize("value", [True, False, 0, -1, 2.0, "2", None, math.nan, np.bool_(True)])
def test_what_is_no_whole_number_of_at_least_one_is_refused_everywhere(value):
    for use in (
        lambda: check_whole_number("n", value),
        lambda: BatchSampler([1], value),
        lambda: DataLoader([1], value),
        lambda: DataLoader([1], num_workers=value if value is not False and value != 0 else -1),
        lambda: DataLoader([1], num_workers=False),
        lambda: DataLoader([1], num_workers=1, prefetch_factor=value),
        lambda: FirstBatches([1], value),
        lambda: DataLoaders([1], [1]).first(value),
    ):
        with pytest.raises(ValueError, match="must be a whole number >= "):
            use()


def test_whole_numbers_of_numpy_are_whole_numbers():
    test_eq([len(xb) for xb in DataLoader(list(range(5)), np.int64(2))], [2, 2, 1])
    check_whole_number("n", np.uint8(0), 0)


class Miscounts(list):
    def __init__(self, order, said):
        super().__init__(order)
        self.said = said

    def __len__(self):
        return self.said


@pytest.mark.parametrize("said, came", [(9, "only 3"), (4, "more")])
@pytest.mark.parametrize("dataset", [TensorDataset(torch.arange(6)), list(range(6))])
def test_a_sampler_that_miscounts_is_named(dataset, said, came):
    promised = -(-said // 2)
    single, whole = Miscounts(range(6), said), Miscounts([[0, 1], [2, 3], [4, 5]], promised)
    for order in ({"sampler": single, "batch_size": 2}, {"batch_sampler": whole}):
        with pytest.warns(UserWarning, match=f"{promised} batches, but.* {came}: .*Miscounts"):
            assert len(list(DataLoader(dataset, **order))) == 3


class Halved(BatchSampler):
    def __len__(self):
        return super().__len__() // 2


def test_a_batch_sampler_that_miscounts_is_named():
    for order, named in (
        (BatchSampler(Miscounts(range(6), 9), 2), "Miscounts"),
        (Halved(range(6), 2), "Halved"),
    ):
        with pytest.warns(UserWarning, match=f"correct __len__ of {named}"):
            assert len(list(DataLoader(list(range(6)), batch_sampler=order))) == 3


def test_an_unknown_length_is_not_counted(recwarn):
    assert list(counted("abc", None, "Stream")) == ["a", "b", "c"] and not recwarn.list


def everything_random(*parts):
    """The state of all random numbers, as far as this file uses them."""
    numbers = [generator_state(generator) for generator in held_generators(*parts)]
    return str([torch.get_rng_state().tolist(), random.getstate(), np.random.get_state(), numbers])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=forks)])
def test_the_first_batches_and_one_batch(workers):
    options = {"num_workers": workers}
    dls = DataLoaders.from_datasets(Noisy(20), Noisy(12), batch_size=4, **options)
    torch.manual_seed(3)
    before = everything_random(dls.train)
    one = dls.one_batch()
    test_eq(everything_random(dls.train), before)
    first = list(dls.first(2).train)
    assert len(first) == 2 and len(dls.first(2).train) == 2 and len(dls.first(9).valid) == 2
    test_eq(list(one.train), first[:1])  # the batch that the training would have met first
    test_eq(list(one.train), list(one.valid))
    test_eq(list(one.train), list(one.train))
    assert nobody_left()
    theirs = torch.utils.data.DataLoader(Noisy(20), 4, shuffle=True, **options)
    before = everything_random(theirs)
    assert len(list(DataLoaders(theirs).one_batch().train)) == 1
    test_eq(everything_random(theirs), before)
    with pytest.raises(ValueError, match="no batch"):
        DataLoaders([]).one_batch()


def test_an_endless_loader_has_epochs_of_first_batches():
    endless = type("Endless", (), {"__iter__": lambda self: count()})()
    few = FirstBatches(endless, 3)
    test_eq((len(few), list(few), list(few)), (3, [0, 1, 2], [0, 1, 2]))
    ends = type("Ends", (), {"__iter__": lambda self: iter([7, 8])})()
    with pytest.raises(ValueError, match="3 batches, but the loader has only 2"):
        list(FirstBatches(ends, 3))


class PartOfEpoch(list):
    """A part of a loader that wants to know the epoch."""

    epoch = None

    def set_epoch(self, epoch):
        self.epoch = epoch


def test_every_part_that_asks_is_told_the_epoch():
    dataset, sampler = PartOfEpoch(range(6)), PartOfEpoch(range(6))
    ours = DataLoader(dataset, 2, sampler=sampler)
    theirs = torch.utils.data.DataLoader(dataset, 2, sampler=sampler)
    whole = DataLoader(dataset, batch_sampler=BatchSampler(sampler, 2))
    for epoch, loader in enumerate((ours, theirs, whole, FirstBatches(ours, 1))):
        set_epoch(loader, epoch)
        test_eq((dataset.epoch, sampler.epoch), (epoch, epoch))
    for plain in ([1, 2], iter([]), None, DataLoader([1]), count()):
        set_epoch(plain, 3)  # nothing to tell
    whole = PartOfEpoch([[0, 1], [2]])
    set_epoch(DataLoader([1, 2, 3], batch_sampler=whole), 5)
    test_eq(whole.epoch, 5)


def test_torchs_distributed_sampler_gives_another_order_in_each_epoch():
    dataset = list(range(12))
    orders = []
    for rank in range(2):
        sampler = torch.utils.data.DistributedSampler(dataset, 2, rank, shuffle=True)
        loader = DataLoader(dataset, 6, sampler=sampler)
        for epoch in (0, 1, 0):
            set_epoch(loader, epoch)
            orders.append(next(iter(loader)).tolist())
    assert orders[0] == orders[2] != orders[1]
    for epoch in (0, 1):  # the two processes share each epoch's samples
        test_eq(sorted(orders[epoch] + orders[3 + epoch]), dataset)


def test_dropping_the_last_batch_drops_no_validation_sample():
    dataset = TensorDataset(torch.arange(10))
    pair = DataLoaders.from_datasets(dataset, dataset, batch_size=4, drop_last=True)
    test_eq([[len(xb) for (xb,) in part] for part in (pair.train, pair.valid)], [[4, 4], [8, 2]])


def test_memory_of_the_fast_path_stays_small():
    dataset = TensorDataset(torch.zeros(3000, 4000))  # 48 MB
    sizes = {
        xb.untyped_storage().nbytes()
        for (xb,) in tensor_batches(dataset, BatchSampler(RandomSampler(dataset), 10))
    }
    assert max(sizes) <= 2**18


@pytest.mark.cuda
def test_tensors_on_a_gpu_are_served_there_in_the_same_order():
    x = draw(100, 3)
    dataset = TensorDataset(x.cuda(), torch.arange(100))
    torch.manual_seed(0)
    here = list(DataLoader(TensorDataset(x, torch.arange(100)), 32, shuffle=True))
    torch.manual_seed(0)
    there = list(DataLoader(dataset, 32, shuffle=True))
    assert all(xb.is_cuda and not yb.is_cuda for xb, yb in there)
    test_eq([[xb.cpu(), yb] for xb, yb in there], here)


def test_loader_refuses():
    for make, error, says in (
        (lambda: DataLoader(iter([])), TypeError, "__len__"),
        (lambda: DataLoader({1, 2}), TypeError, "__getitem__"),
        (lambda: DataLoader([1], batch_size=2.0), ValueError, "batch_size"),
        (lambda: DataLoader([1], batch_size=None), ValueError, "batch_size"),
        (lambda: DataLoader([1], shuffle=True, sampler=[0]), ValueError, "shuffle"),
        (lambda: DataLoader([1], batch_sampler=[[0]], batch_size=2), ValueError, "batch_sampler"),
        (lambda: DataLoader([1], batch_sampler=[[0]], drop_last=True), ValueError, "batch_sampler"),
        (lambda: DataLoader([1], num_workers=1.5), ValueError, "num_workers"),
        (lambda: DataLoader([1], num_workers=1, prefetch_factor=0), ValueError, "prefetch_factor"),
        (lambda: DataLoader([1], timeout=-1), ValueError, "timeout"),
        (lambda: DataLoader([1], timeout=5), ValueError, "num_workers is 0"),
        (lambda: DataLoader([1], multiprocessing_context="spawn"), ValueError, "num_workers is 0"),
        (lambda: DataLoader([1], num_workers=1, multiprocessing_context="x"), ValueError, "'x'"),
        (lambda: TensorDataset(), ValueError, "one length"),
        (lambda: TensorDataset(torch.tensor(1)), ValueError, "one length"),
    ):
        with pytest.raises(error, match=says):
            make()


def test_generators_are_found_wherever_they_are_held():
    made = [
        torch.Generator(),
        np.random.default_rng(0),
        np.random.RandomState(0),
        random.Random(0),
        np.random.Generator(np.random.MT19937(0)),
        *(np.random.default_rng(i) for i in range(5)),
    ]

    class Slotted:
        __slots__ = ("rng", "unset")

    def closure(rng):
        return lambda samples: rng

    class Transform:
        def __init__(self, rng):
            self.rng = rng

        def apply(self, x):
            return x

    holder = Transform(made[0])
    holder.itself = holder  # a circle
    holder.parts = [made[1], {"deep": (made[2], [Transform(made[3])])}]
    holder.closed, holder.part = closure(made[4]), partial(closure, rng=made[5])
    holder.method, holder.again = Transform(made[6]).apply, made[1]
    holder.slotted = Slotted()
    holder.slotted.rng = made[7]
    holder.default = eval("lambda x, rng=rng: x", {"rng": made[8]})
    loader = DataLoader([holder], collate_fn=partial(print, made[9]))
    found = held_generators(loader)
    assert len(found) == 10 and all(any(g is one for g in found) for one in made)
    assert held_generators(loader) == found  # in one order
    for generator in found:
        state = generator_state(generator)
        numbers = draw_from(generator)
        assert draw_from(generator) != numbers
        set_generator_state(generator, state)
        test_eq(draw_from(generator), numbers)
    assert held_generators(1, "a", None, torch.ones(2), np.ones(2), np, Transform, print, {}) == []
    assert held_generators([made[0]] + [None] * 1000) == []  # long lists are data


def draw_from(generator):
    """A number from a generator of any kind."""
    if isinstance(generator, torch.Generator):
        return torch.rand(1, generator=generator).item()
    return generator.random() if hasattr(generator, "random") else generator.random_sample()


def test_errors_in_a_sample_reach_the_caller():
    class Stops(Rich):
        def __getitem__(self, i):
            raise StopIteration("a data set must not end the epoch")

    with pytest.raises(KeyError, match="no label"):
        list(DataLoader(Faulty(KeyError("no label"), at=3)))
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(DataLoader(Stops()))


def test_loaders_pickle():
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(torch.arange(20)), 6, shuffle=True, generator=generator)
    twin = pickle.loads(pickle.dumps(loader))
    test_eq(list(twin), list(loader))
    pair = pickle.loads(pickle.dumps(DataLoaders.from_datasets(Rich(9), Rich(5), batch_size=2)))
    test_eq((len(pair.train), len(pair.valid)), (5, 2))


# --- workers -------------------------------------------------------------------------------------


class Faulty(Rich):
    """Raise, or do, something when sample `at` is asked for."""

    def __init__(self, error, at=0):
        super().__init__()
        self.error, self.at = error, at

    def __getitem__(self, i):
        if i == self.at:
            raise self.error
        return i


class Noisy(Dataset):
    """Samples of random numbers from generators of the data set's own."""

    def __init__(self, n=8, seed=0):
        self.n, self.numpy = n, np.random.default_rng(seed)
        self.others = {"torch": torch.Generator().manual_seed(seed), "py": random.Random(seed)}
        self.legacy = [np.random.RandomState(seed)]

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return [draw_from(g) for g in (self.numpy, *self.others.values(), *self.legacy)]


class WhoAmI(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        info = torch.utils.data.get_worker_info()
        return info.id, info.num_workers, info.seed, len(info.dataset), info.dataset is self


class NoPickle(Exception):
    def __init__(self, a, b):  # pickle calls it with one argument and fails
        super().__init__(f"{a} {b}")


class Kills(Rich):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def __getitem__(self, i):
        if i == 4:
            os.kill(os.getpid(), self.how) if isinstance(self.how, signal.Signals) else os._exit(
                self.how
            )
        return i


class Sleeps(Rich):
    def __getitem__(self, i):
        time.sleep(3600 if i > 3 else 0)
        return i


class Wide(Rich):
    """Samples that do not fit into a pipe, asked for by keys that do not either."""

    def __getitem__(self, key):
        return "x" * 300_000 + key[:1]


class Threads(Rich):
    def __getitem__(self, i):
        return (torch.ones(400, 400) @ torch.ones(400, 400)).sum(), torch.get_num_threads()


def nobody_left():
    deadline = time.time() + 5
    while multiprocessing.active_children() and time.time() < deadline:
        time.sleep(0.01)
    return not multiprocessing.active_children()


@forks
def test_workers_equal_torchs():
    options = dict(num_workers=2, multiprocessing_context="fork", batch_size=4)
    both(3, Rich(), shuffle=True, **options)
    both(0, Rich(), shuffle=True, drop_last=True, prefetch_factor=1, **options)
    both(0, Rich(1), epochs=1, **options)
    both(0, TensorDataset(draw(30, 3), torch.arange(30)), shuffle=True, **options)
    both(
        0,
        Rich(),
        epochs=1,
        batch_sampler=[[1, 2], [3], [4, 0]],
        num_workers=2,
        multiprocessing_context="fork",
    )
    assert nobody_left()


def test_workers_under_spawn_equal_torchs():
    batches = []
    for kind, context in (
        (DataLoader, "spawn"),
        (torch.utils.data.DataLoader, "fork" if CAN_FORK else "spawn"),
    ):
        generator = torch.Generator().manual_seed(3)
        batches.append(
            list(
                kind(
                    Rich(),
                    4,
                    shuffle=True,
                    num_workers=2,
                    generator=generator,
                    multiprocessing_context=context,
                )
            )
        )
    test_eq(*batches)
    assert nobody_left()


@pytest.mark.parametrize("context", contexts)
def test_an_exception_in_a_worker_arrives_with_its_traceback(context):
    loader = DataLoader(
        Faulty(KeyError("no label"), at=9),
        batch_size=4,
        num_workers=2,
        multiprocessing_context=context,
    )
    got = []
    with pytest.raises(KeyError) as caught:
        for batch in loader:
            got += batch.tolist()
    note = "\n".join(caught.value.__notes__)
    assert got == list(range(8)) and caught.value.args == ("no label",)
    assert "DataLoader worker 0" in note and "raise self.error" in note and "test_nb03.py" in note
    assert nobody_left()


@pytest.mark.parametrize("context", contexts)
def test_workers_without_a_loader(context):
    order = [[0, 2], [1], [3, 4]] * 3
    batches = worker_batches("abcde", order, list, 7, 2, context)
    test_eq(list(batches), [["abcde"[i] for i in chosen] for chosen in order])
    assert nobody_left()


def test_random_numbers_are_put_back_also_after_an_exception():
    loader = DataLoader(Noisy(), 4, shuffle=True, generator=torch.Generator().manual_seed(1))
    before = everything_random(loader)
    with pytest.raises(KeyError), random_kept([loader]):
        next(iter(loader)), torch.rand(2), random.random(), np.random.rand()
        assert everything_random(loader) != before
        raise KeyError
    test_eq(everything_random(loader), before)


def test_names_stay_where_they_were_found_before():
    import exp
    from exp import nb03a, nb03b, nb03d

    for name in ("worker_batches", "held_generators", "generator_state", "check_whole_number"):
        assert getattr(nb03b, name) is getattr(nb03a, name) is getattr(exp, name)
    for name in ("random_kept", "loader_length"):
        assert getattr(nb03d, name) is getattr(nb03a, name) is getattr(exp, name)


def test_a_data_set_that_cannot_be_sent_is_an_error_at_once():
    loader = DataLoader([lambda: 1], num_workers=1, multiprocessing_context="spawn")
    with pytest.raises((pickle.PicklingError, AttributeError)):
        list(loader)
    assert nobody_left()


@forks
@pytest.mark.parametrize(
    "error, arrives",
    [
        (NoPickle("bad", "file"), "NoPickle: bad file"),
        (OSError(2, "gone"), "gone"),
        (type("Local", (Exception,), {})("made here"), "Local: made here"),
        (StopIteration("early"), "StopIteration|early"),
    ],
)
def test_awkward_exceptions(error, arrives):
    loader = DataLoader(Faulty(error), num_workers=1, multiprocessing_context="fork")
    with pytest.raises((RuntimeError, OSError), match=arrives):
        list(loader)
    assert nobody_left()


@forks
def test_an_exception_that_pickles_in_its_own_way_keeps_type_and_traceback():
    error = json.JSONDecodeError("no value", "{", 1)
    with pytest.raises(json.JSONDecodeError, match="no value") as caught:
        list(DataLoader(Faulty(error), num_workers=1, multiprocessing_context="fork"))
    assert "raise self.error" in caught.value.__notes__[0]


@pytest.mark.parametrize("context", contexts)
def test_generators_of_a_data_set_draw_new_numbers_in_each_worker_and_epoch(context):
    def epochs(n, seed, own):
        torch.manual_seed(seed)
        dataset = Noisy(4, own)
        if context == "spawn":
            del dataset.others["torch"]  # torch cannot send its generators to a spawned process
        loader = DataLoader(dataset, num_workers=2, multiprocessing_context=context)
        return [torch.cat(batch).tolist() for _ in range(n) for batch in loader]

    first = epochs(2, 1, 0)
    for numbers in zip(*first, strict=True):  # of each generator: 4 samples, twice
        assert len(set(numbers)) == 8
    n = 2 if context == "fork" else 1  # each epoch starts two workers, and spawn takes its time
    test_eq(epochs(n, 1, 0), first[: 4 * n])  # the same under the same seeds
    others = epochs(n, 2, 0) + (epochs(2, 1, 1) if context == "fork" else [])
    for generator in range(len(first[0])):
        assert not {row[generator] for row in first} & {row[generator] for row in others}


@forks
def test_workers_know_who_they_are_as_torchs_do():
    options = dict(batch_size=2, num_workers=2, multiprocessing_context="fork")
    both(3, WhoAmI(), **options)
    (ids, total, _, length, same), *_ = DataLoader(WhoAmI(), **options)
    test_eq([ids[0].item(), total[0].item(), length[0].item(), same.all().item()], [0, 2, 6, True])
    assert torch.utils.data.get_worker_info() is None


def note_worker(number):
    """What a worker_init_fn may do: start what cannot be found by following attributes."""
    os.environ["WORKER"] = f"{number} {torch.utils.data.get_worker_info().id}"


def refuse_worker_one(number):
    if number == 1:
        raise OSError("no connection")


class Environment(Rich):
    def __getitem__(self, i):
        return os.environ["WORKER"]


@pytest.mark.parametrize("context", contexts)
def test_worker_init_fn_is_called_with_the_number(context):
    options = dict(num_workers=2, multiprocessing_context=context)
    loader = DataLoader(Environment(4), worker_init_fn=note_worker, **options)
    test_eq(list(loader), [["0 0"], ["1 1"], ["0 0"], ["1 1"]])
    loader = DataLoader(Rich(4), worker_init_fn=refuse_worker_one, **options)
    with pytest.raises(OSError, match="no connection") as caught:
        list(loader)
    assert "DataLoader worker 1" in caught.value.__notes__[-1] and nobody_left()
    with pytest.raises(TypeError, match="worker_init_fn"):
        DataLoader([1], worker_init_fn=3, **options)


@forks
def test_a_context_may_be_named_or_given():
    context = multiprocessing.get_context("fork")
    loader = DataLoader(Rich(3), num_workers=1, multiprocessing_context=context)
    assert len(list(pickle.loads(pickle.dumps(loader)))) == 3 and nobody_left()


@forks
def test_a_finished_batch_that_is_lost_with_its_worker_is_named():
    class Late(Rich):
        def __getitem__(self, i):
            if i == 6:
                sys.exit(0)  # takes the shared memory of batch 1 with it, which nobody has fetched
            return torch.ones(3)

    batches = iter(DataLoader(Late(12), 2, num_workers=2, multiprocessing_context="fork"))
    next(batches)
    time.sleep(1)
    with pytest.raises(RuntimeError, match="worker 1 ended with exit code 0"):
        list(batches)
    assert nobody_left()


@forks
def test_a_worker_killed_in_the_middle_of_a_message_is_named():
    loader = DataLoader(["x" * 2**24] * 8, num_workers=1, multiprocessing_context="fork")
    batches = iter(loader)
    next(batches)
    time.sleep(0.5)  # the next batch has filled the pipe by now, and waits to be read
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="ended with SIGKILL"):
        list(batches)
    assert nobody_left()


def test_an_order_is_read_batch_by_batch():
    class Adaptive:
        """An order that depends on what has been done with the batches so far."""

        seen = 0

        def __iter__(self):
            return (self.seen for _ in range(8))

    sampler = Adaptive()
    for (batch,) in DataLoader(TensorDataset(torch.arange(9)), 2, sampler=sampler):
        test_eq(batch.tolist(), [sampler.seen] * 2)
        sampler.seen += 1


@pytest.mark.skipif(sys.platform != "linux", reason="shares memory in another way")
def test_too_many_open_files_are_explained():
    code = (
        "import resource, torch\n"
        "from exp.nb03b import DataLoader\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "try: list(DataLoader(torch.ones(400, 3), num_workers=1, multiprocessing_context='fork'))\n"
        "except RuntimeError as error: print(error.__notes__)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "set_sharing_strategy" in run.stdout, run.stderr


@forks
def test_what_cannot_be_sent_back_is_an_error():
    loader = DataLoader(Rich(), collate_fn=lambda samples: lambda: 1, num_workers=1)
    with pytest.raises((pickle.PicklingError, AttributeError, RuntimeError), match="pickle"):
        list(loader)
    graph = torch.ones(1, requires_grad=True) * 2
    with pytest.raises(RuntimeError, match="grad"):
        list(DataLoader([graph], num_workers=1))
    assert nobody_left()


@forks
@pytest.mark.parametrize(
    "how, says",
    [
        (signal.SIGKILL, "SIGKILL"),
        (signal.SIGTERM, "SIGTERM"),
        (3, "exit code 3"),
        (0, "exit code 0"),
    ],
)
def test_a_worker_that_dies_is_named(how, says):
    got = []
    with pytest.raises(RuntimeError, match=f"DataLoader worker 0 ended with {says}"):
        for batch in DataLoader(
            Kills(how), batch_size=2, num_workers=2, multiprocessing_context="fork"
        ):
            got += batch.tolist()
    # batches it had finished may be lost with it, but none is skipped
    assert got == [0, 1, 2, 3][: len(got)] and nobody_left()


@forks
def test_sys_exit_in_a_worker_is_not_the_end_of_the_data():
    with pytest.raises(RuntimeError, match="exit code 0"):
        list(DataLoader(Faulty(SystemExit(0)), num_workers=2, multiprocessing_context="fork"))
    assert nobody_left()


def test_a_class_that_spawn_cannot_find_is_explained():
    code = (
        "from exp.nb03b import DataLoader\n"
        "class Mine(list): pass\n"
        "try: list(DataLoader(Mine([1]), num_workers=1, multiprocessing_context='spawn'))\n"
        "except RuntimeError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "exit code 1" in run.stdout and "must be defined in a module" in run.stdout, run.stderr


@forks
def test_timeout_and_no_hang_on_a_stuck_worker():
    got, start = [], time.time()
    with pytest.raises(TimeoutError, match="worker 0 .* 0.3 s"):
        for batch in DataLoader(
            Sleeps(), batch_size=2, num_workers=2, timeout=0.3, multiprocessing_context="fork"
        ):
            got += batch.tolist()
    assert got == [0, 1, 2, 3] and nobody_left() and time.time() - start < 60


@forks
def test_workers_end_when_the_iterator_is_dropped():
    loader = DataLoader(Sleeps(), batch_size=2, num_workers=3, multiprocessing_context="fork")
    for _ in loader:
        break
    assert nobody_left()
    iterator = iter(loader)
    next(iterator)
    del iterator
    assert nobody_left()
    iterator = iter(loader)  # not even started
    del iterator
    assert nobody_left()


@forks
def test_messages_larger_than_a_pipe():
    keys = ["k" * 100_000 + str(i) for i in range(40)]
    loader = DataLoader(
        Wide(),
        sampler=keys,
        batch_size=4,
        num_workers=2,
        prefetch_factor=4,
        multiprocessing_context="fork",
    )
    test_eq([len(batch) for batch in loader], [4] * 10)


@forks
def test_an_endless_order_with_workers():
    endless = type("Endless", (), {"__iter__": lambda self: (i % 23 for i in count())})()
    loader = DataLoader(Rich(), batch_size=3, sampler=endless, num_workers=2)
    batches = iter(loader)
    test_eq([next(batches)["number"].tolist() for _ in range(9)][-1], [1, 2, 3])
    batches.close()
    assert nobody_left()


@forks
def test_forked_workers_compute_after_the_parent_used_its_threads():
    torch.ones(2000, 2000) @ torch.ones(2000, 2000)
    loader = DataLoader(Threads(4), num_workers=2, multiprocessing_context="fork", timeout=60)
    test_eq([[total.item(), threads.item()] for total, threads in loader], [[400.0**3, 1]] * 4)


@forks
def test_a_process_forked_while_loading_does_not_end_the_workers():
    loader = DataLoader(Rich(), batch_size=2, num_workers=1, multiprocessing_context="fork")
    batches = iter(loader)
    next(batches)
    child = multiprocessing.get_context("fork").Process(target=batches.close)
    child.start()
    child.join()
    assert len(list(batches)) == 11 and nobody_left()


@forks
def test_workers_end_with_a_parent_that_is_killed():
    code = (
        "import multiprocessing, os, sys\n"
        "sys.path.insert(0, 'tests')\n"
        "from test_nb03 import DataLoader, Sleeps\n"
        "batches = iter(DataLoader(Sleeps(), num_workers=3, multiprocessing_context='fork'))\n"
        "next(batches)\n"
        "print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    run = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        cwd=root,
        env={**os.environ, "PYTHONPATH": root},
    )
    pids = [int(pid) for pid in run.stdout.split()]
    assert len(pids) == 3 and run.returncode == -signal.SIGKILL
    deadline = time.time() + 10
    while (left := [pid for pid in pids if alive(pid)]) and time.time() < deadline:
        time.sleep(0.05)
    assert not left


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return (
                file.read().rpartition(")")[2].split()[0] != "Z"
            )  # nobody may be there to reap it
    except OSError:
        return False


# --- the loop ------------------------------------------------------------------------------------


class Drops(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.drop = nn.Linear(3, 2), nn.Dropout(0.5)

    def forward(self, x):
        return self.layer(self.drop(x))


@quick
@given(st.integers(1, 60), st.integers(1, 70), seeds)
def test_evaluate_weighs_every_sample_alike(n, size, seed):
    x, y = draw(n, 3, seed=seed).float(), torch.arange(n) % 2
    model = Drops()
    scores = evaluate(model, DataLoader(TensorDataset(x, y), size))
    with torch.no_grad():
        z = model.layer(x)  # no dropout in evaluation
    test_near(
        (scores.loss, scores.metric, scores.n),
        (F.cross_entropy(z, y).item(), accuracy(z, y).item(), n),
        tol=1e-5,
    )


def test_evaluate_leaves_no_trace():
    model = nn.Sequential(Drops(), Drops())
    model[1].drop.eval()
    modes = [part.training for part in model.modules()]
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.raises(RuntimeError):
        evaluate(model, [(torch.ones(4, 9), torch.zeros(4).long())])
    with pytest.raises(ValueError, match="not a single batch"):
        evaluate(model, [])
    test_eq([part.training for part in model.modules()], modes)
    test_eq((dict(model.state_dict()), torch.get_rng_state()), (dict(before), state))
    assert all(p.grad is None for p in model.parameters()) and torch.is_grad_enabled()


def test_fit_equals_the_raw_loop():
    x, y = draw(50, 3).float(), torch.arange(50) % 2
    dls = DataLoaders.from_datasets(TensorDataset(x, y), TensorDataset(x, y), batch_size=8)
    results = []
    for by_fit in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.Linear(4, 2))
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        if by_fit:
            history = fit(3, model, dls, opt)
        else:
            for _ in range(3):
                for xb, yb in dls.train:
                    opt.zero_grad()
                    F.cross_entropy(model(xb), yb).backward()
                    opt.step()
                list(dls.valid)
        results.append(dict(model.state_dict()))
    test_eq(*results)
    assert isinstance(history, History) and "train_loss" in repr(history)
    test_eq(history.column("steps").tolist(), [7.0, 14.0, 21.0])
    model.load_state_dict(results[0])
    test_near(history[-1].valid_loss, evaluate(model, dls.valid).loss)


@quick
@given(st.lists(st.tuples(st.floats(-5, 5), st.integers(1, 9)), min_size=1, max_size=8))
def test_running_mean(parts):
    running = RunningMean()
    for mean, n in parts:
        running.add(torch.tensor(mean, dtype=torch.float64), n)
    samples = [mean for mean, n in parts for _ in range(n)]
    test_near(running.value, sum(samples) / len(samples), tol=1e-9)


def test_a_metric_may_be_a_plain_number_and_shapes_are_checked():
    x, y = draw(10, 3).float(), torch.arange(10) % 2
    loader = DataLoader(TensorDataset(x, y), 4)
    scores = evaluate(nn.Linear(3, 2), loader, metric=lambda pred, target: 0.1)
    test_near(scores.metric, 0.1, tol=1e-12)
    pred = draw(4, 3, 5)
    test_eq(accuracy(pred, pred.argmax(-1)).item(), 1.0)
    for target in (pred.argmax(-1)[..., None], torch.zeros(4, 5).long(), torch.tensor(0)):
        with pytest.raises(ValueError, match="needs a target"):
            accuracy(pred, target)


@pytest.mark.parametrize(
    "pred, target, remedy",
    [
        (draw(4, 1), torch.zeros(4), "binary_accuracy"),
        (draw(4, 1), torch.zeros(4, 1), "binary_accuracy"),
        (draw(4), torch.zeros(4), "binary_accuracy"),
        (draw(4, 3, 1), torch.zeros(4, 3), "binary_accuracy"),
        (torch.tensor(1.0), torch.tensor(1), "binary_accuracy"),
        (draw(4, 3, 5), torch.zeros(4, 5), r"movedim\(1, -1\)"),
        (draw(4, 3, 5, 6), torch.zeros(4, 5, 6), r"movedim\(1, -1\)"),
        (draw(4, 3), torch.zeros(4, 1), r"target.squeeze\(-1\)"),
        (draw(4, 3), torch.eye(3)[[0, 1, 2, 0]], "target.argmax"),
        (draw(4, 3), torch.full((4, 3), 1 / 3), "target.argmax"),
    ],
)
def test_accuracy_refuses_what_has_no_largest_logit_or_no_one_class(pred, target, remedy):
    with pytest.raises(ValueError, match=f"needs a target.*{remedy}"):
        accuracy(pred, target)


def test_binary_accuracy():
    target = torch.tensor([1, 1, 1, 0])
    logits = torch.tensor([5.0, 5.0, -5.0, -5.0])
    for y in (target, target.float(), target.bool()):
        test_eq(binary_accuracy(logits, y).item(), 0.75)
        test_eq(binary_accuracy(logits[:, None], y).item(), 0.75)
        test_eq(binary_accuracy(logits[:, None], y[:, None]).item(), 0.75)
        test_eq(binary_accuracy(logits.sigmoid(), y, threshold=0.5).item(), 0.75)
    several = torch.stack([logits, -logits], 1)  # two questions for each sample
    test_eq(binary_accuracy(several, torch.stack([target, target], 1)).item(), 0.5)
    for pred, y in ((logits, target[:, None]), (logits[None], target), (logits[:3], target)):
        with pytest.raises(ValueError, match="needs a target"):
            binary_accuracy(pred, y)
    assert accuracy.higher_is_better and binary_accuracy.higher_is_better
    assert binary_accuracy.divisor(several, several) == 8


def test_ignored_targets_do_not_count():
    pred, target = draw(4, 7, 3).float(), torch.arange(28).reshape(4, 7) % 3
    right = pred.argmax(-1) == target
    test_eq(accuracy(pred, target).item(), right.double().mean().item())
    for ignored in (-100, -1, 0):
        padded = target.where(torch.arange(7) < 5, ignored)
        kept, f = padded != ignored, partial(accuracy, ignore_index=ignored)
        test_near(f(pred, padded).item(), right[kept].double().mean().item(), tol=1e-12)
        assert divisor_of(f)(pred, padded) == accuracy.divisor(pred, padded, ignored) == kept.sum()
    assert divisor_of(accuracy) is accuracy.divisor
    assert accuracy.divisor(pred, target) == 28 and isinstance(accuracy.divisor(pred, target), int)
    assert accuracy(pred, torch.full((4, 7), -100)).isnan()
    byte = torch.full((4, 7), 156, dtype=torch.uint8)  # -100 as a byte
    assert accuracy.divisor(pred, byte) == 28 and accuracy(pred, byte) == 0
    yes = torch.tensor([1.0, 0, -100, -100])
    test_eq(binary_accuracy(torch.tensor([2.0, 3, -1, 1]), yes).item(), 0.5)
    assert binary_accuracy.divisor(yes, yes) == 2


def test_padded_batches_make_the_same_accuracy_in_every_cut():
    pred, target = draw(12, 5, 3).float(), torch.arange(60).reshape(12, 5) % 3
    target = target.where(torch.arange(5) <= torch.arange(12)[:, None] % 5, -100)
    wanted = (pred.argmax(-1) == target)[target >= 0].double().mean().item()
    for size in (1, 5, 12):
        metric = MeanMetric(accuracy)
        for p, t in zip(pred.split(size), target.split(size), strict=True):
            metric.update(p, t)
        test_near(metric.compute(), wanted, tol=1e-12)


def test_binary_accuracy_warns_of_probabilities():
    y = torch.tensor([0, 1, 1, 0])
    logits = torch.tensor([-1.0, 2, 3, -4])
    with pytest.warns(UserWarning, match=r"use partial\(binary_accuracy, threshold=0.5\)"):
        binary_accuracy(logits.sigmoid(), y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        test_eq(binary_accuracy(logits.sigmoid(), y, threshold=0.5).item(), 1.0)
        binary_accuracy(logits, y)
        binary_accuracy(logits.exp(), y)
        binary_accuracy((logits > 0).float(), y)  # answers, not probabilities
        binary_accuracy(logits > 0, y)
        binary_accuracy(logits[:0], y[:0])


def test_a_metric_takes_the_predictions_first():
    def score(y_true, y_pred, scale=1):
        return 0

    for f in (score, partial(score, scale=2), lambda target, pred: 0):
        with pytest.raises(TypeError, match=r"swap: lambda pred, target: .*\(target, pred\)"):
            check_argument_order(f)
        with pytest.raises(TypeError, match="swap: lambda"):
            evaluate(nn.Linear(2, 2), [], metric=f)
    for f in (accuracy, lambda *both: 0, lambda p, t: 0, nn.MSELoss(), F.mse_loss, max, lambda: 0):
        check_argument_order(f)


def test_fit_needs_a_validation_set():
    model = nn.Linear(3, 2)
    with pytest.raises(ValueError, match="validation set"):
        fit(1, model, DataLoaders([(draw(4, 3), torch.zeros(4))]), SGD(model.parameters()))


def test_modules_import_only_what_they_need():
    code = (
        "import sys, exp.nb03, exp.nb03a, exp.nb03b, exp.nb03c\n"
        "print([name for name in sys.argv[1:] if name in sys.modules])\n"
    )
    heavy = ["matplotlib", "pandas", "sklearn", "numba", "triton", "IPython", "scipy"]
    run = subprocess.run(
        [sys.executable, "-c", code, *heavy],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    test_eq((run.stdout.strip(), run.stderr), ("[]", ""))


def test_kept_targets_are_counted_anew_when_they_change():
    """The last answer is remembered for its tensor alone, and only until that changes."""
    for _ in range(50):  # memory and identities are used again
        target = torch.randint(3, (8,))
        assert count_kept(target, target) == 8
        target[0] = -100
        assert int(count_kept(target, target)) == 7
        del target
