"""Fingerprints: equal for equal things, different for different ones, and no trace is left."""

import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from exp.nb00 import test_eq
from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb03d import random_state
from exp.nb03k import (
    compare_runs,
    differences,
    digest,
    fingerprint,
    fingerprint_data,
    fingerprint_model,
)
from exp.nb05 import CosineSchedule, ScheduleCallback

X = torch.arange(60.0).reshape(20, 3)
Y = torch.arange(20) % 3


# ---------------------------------------------------------------- hashes


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "bfloat16", "float64", "complex64"])
def test_every_number_counts(dtype):
    x = torch.arange(24).reshape(4, 6).to(getattr(torch, dtype))
    x[3, 5] = 0
    changed = x.clone()
    changed[3, 5] = 1
    assert digest(changed) != digest(x) == digest(x.clone())
    assert digest(x.T) == digest(x.T.contiguous()) != digest(x)
    assert digest(x[:0]) != digest(x) != digest(x.reshape(6, 4))
    assert digest(x[0, 0]) == digest(x[0, 0].clone())


def test_a_large_tensor_is_hashed_in_part():
    x = torch.zeros(2**25, dtype=torch.float32)  # 128 MiB: every second number
    before = digest(x)
    x[2] = 1
    assert digest(x) != before
    assert digest(torch.eye(3).to_sparse()) == digest(torch.eye(3))
    assert digest(nn.LazyLinear(3).weight) == "unknown"


# ---------------------------------------------------------------- values and functions


class Kind:
    def __init__(self, a, b=2):
        self.a, self.b, self.c = a, b, object()


def named(pred, target):
    return (pred - target).abs().mean()


EQUAL = {
    "numbers": lambda: [1, 0.5, True, None, "text", float("nan"), 2j],
    "tensor": lambda: torch.arange(3),
    "array": lambda: np.arange(3),
    "function": lambda: named,
    "torch function": lambda: F.cross_entropy,
    "builtin": lambda: len,
    "method": lambda: "x".join,
    "partial": lambda: partial(F.cross_entropy, label_smoothing=0.1),
    "lambda": lambda: lambda p, t: (p - t).mean(),
    "object": lambda: Kind([1, 2]),
    "set": lambda: {"a", "b", 3},
    "dtype": lambda: torch.float16,
    "schedule": lambda: ScheduleCallback("lr", CosineSchedule(0.1, 0.01)),
    "long": lambda: list(range(50)),
    "deep": lambda: [[[[[[[[[[1]]]]]]]]]],
    "generator": lambda: torch.Generator().manual_seed(3),
}
OTHER = {
    "numbers": lambda: [1, 0.5, True, None, "text", float("nan"), 3j],
    "tensor": lambda: torch.arange(3).float(),
    "array": lambda: np.arange(1, 4),
    "function": lambda: test_every_number_counts,
    "torch function": lambda: F.nll_loss,
    "partial": lambda: partial(F.cross_entropy, label_smoothing=0.2),
    "lambda": lambda: lambda p, t: (t - p).mean(),
    "object": lambda: Kind([1, 3]),
    "set": lambda: {"a", "b", 4},
    "dtype": lambda: torch.bfloat16,
    "schedule": lambda: ScheduleCallback("lr", CosineSchedule(0.1, 0.02)),
    "long": lambda: [*range(49), 0],
    "generator": lambda: torch.Generator().manual_seed(4),
}


@pytest.mark.parametrize("name", EQUAL)
def test_equal_and_other_values(name):
    first, second = fingerprint(EQUAL[name]()), fingerprint(EQUAL[name]())
    assert json.dumps(first) == json.dumps(second) and differences(first, second) == []
    if name in OTHER:
        assert differences(first, fingerprint(OTHER[name]()))


def test_what_a_function_holds_is_a_part_of_it():
    def scaled(factor, *, power=1):
        def loss(pred, target, shift=0.0, *, more=factor):
            return factor * (pred - target).abs().pow(power).mean() + shift

        return loss

    test_eq(fingerprint(scaled(1.0)), fingerprint(scaled(1.0)))
    assert (
        len(
            {
                json.dumps(fingerprint(scaled(*a, **k)))
                for a, k in (((1.0,), {}), ((2.0,), {}), ((1.0,), {"power": 2}))
            }
        )
        == 3
    )
    tensors = [partial(F.cross_entropy, weight=torch.tensor([1.0, w])) for w in (1.0, 2.0)]
    assert differences(*map(fingerprint, tensors)) != []


def test_paths_and_devices_do_not_count():
    assert fingerprint(Path("a")) == fingerprint(Path("b"))
    assert fingerprint(torch.device("cpu")) == fingerprint(torch.device("cuda"))


def test_objects_that_hold_each_other():
    first = Kind(None)
    first.a = first
    assert json.dumps(fingerprint(first))


# ---------------------------------------------------------------- models and data


def make_model(p=0.1, width=4, frozen=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, width), nn.Dropout(p), nn.Linear(width, 3))
    model[0].bias.requires_grad_(not frozen)
    return model


def test_models():
    seen = fingerprint_model(make_model())
    test_eq(fingerprint_model(make_model()), seen)
    assert differences(seen, fingerprint_model(make_model(p=0.2))) == [
        "layers.1: 'Dropout(p=0.1, inplace=False)' then, 'Dropout(p=0.2, inplace=False)' now"
    ]
    assert differences(seen, fingerprint_model(make_model(frozen=True))) == [
        "frozen: ['0.bias'] now, absent then"
    ]
    model = make_model()
    with torch.no_grad():
        model[2].weight[0, 0] += 1e-6
    assert [line.split(":")[0] for line in differences(seen, fingerprint_model(model))] == [
        "weights"
    ]
    smooth = [fingerprint(nn.CrossEntropyLoss(label_smoothing=s)) for s in (0.0, 0.1)]
    assert "label_smoothing=0.1" in differences(*smooth)[0]


class Files:
    """Samples that are read one by one."""

    def __init__(self, n=20, noise=0.0, own=None):
        self.n, self.noise, self.own, self.reads = n, noise, own, 0

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.reads += 1
        if not 0 <= i < self.n:
            raise IndexError(i)
        extra = self.own.random() if self.own else random.random() + np.random.rand()
        return X[i] + self.noise * (torch.randn(3) + extra), int(Y[i])


LOADERS = {
    "tensors": lambda: DataLoader(TensorDataset(X, Y), 4, shuffle=True),
    "torch": lambda: torch.utils.data.DataLoader(TensorDataset(X, Y), 4, shuffle=True),
    "subset": lambda: DataLoader(torch.utils.data.Subset(TensorDataset(X, Y), range(9)), 4),
    "list": lambda: [(X[:5], Y[:5]), (X[5:], Y[5:])],
    "files": lambda: DataLoader(Files(), 4),
    "augmented": lambda: DataLoader(Files(noise=0.1), 4),
    "own generator": lambda: DataLoader(Files(noise=0.1, own=np.random.default_rng(0)), 4),
    "stream": lambda: torch.utils.data.DataLoader(Stream(), 4),
    "generator": lambda: iter([(X, Y)]),
    "none": lambda: None,
}


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


@pytest.mark.parametrize("name", LOADERS)
def test_looking_at_data_changes_nothing(name):
    loader = LOADERS[name]()
    state = random_state([loader])
    seen = fingerprint_data(loader)
    test_eq(random_state([loader]), state)
    torch.rand(3), random.random(), np.random.rand()  # another moment
    assert json.dumps(fingerprint_data(LOADERS[name]())) == json.dumps(seen)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda: DataLoader(TensorDataset(X, Y.flip(0)), 4, shuffle=True), "data.tensors.1"),
        (lambda: DataLoader(TensorDataset(X[:19], Y[:19]), 4, shuffle=True), "data.length"),
        (lambda: DataLoader(TensorDataset(X, Y), 5, shuffle=True), "batch_size"),
        (lambda: DataLoader(TensorDataset(X, Y), 4), "order"),
        (
            lambda: DataLoader(
                TensorDataset(X, Y), 4, shuffle=True, generator=torch.Generator().manual_seed(1)
            ),
            "generators",
        ),
        (lambda: None, "it"),
    ],
)
def test_other_data_is_named(change, place):
    found = differences(fingerprint_data(LOADERS["tensors"]()), fingerprint_data(change()))
    assert any(line.startswith(place) for line in found), found


def test_other_samples_are_named():
    seen = fingerprint_data(DataLoader(Files(), 4))
    for other in (Files(19), Files(noise=1.0)):
        assert differences(seen, fingerprint_data(DataLoader(other, 4)))
    split = [
        fingerprint_data(DataLoader(torch.utils.data.Subset(Files(), rows), 4))
        for rows in (range(9), range(1, 10))
    ]
    assert "samples" in str(differences(*split))


def test_samples_that_cannot_be_read_are_left_to_the_training():
    class Broken(Files):
        def __getitem__(self, i):
            raise OSError("no such file")

    assert "samples" not in fingerprint_data(DataLoader(Broken(), 4))["data"]


# ---------------------------------------------------------------- runs


def test_a_callback_of_ones_own_may_come_and_go_with_a_warning(recwarn):
    run = {"n_epochs": 3, "callbacks": {"exp.nb04b:GradientClip": {"max_norm": 1.0}}}
    more = {**run, "callbacks": {**run["callbacks"], "mine:Mixup": {"alpha": 0.4}}}
    compare_runs(run, run, "here")
    assert not recwarn.list
    with pytest.warns(RuntimeWarning, match="mine:Mixup is new"):
        compare_runs(run, more, "here")
    with pytest.warns(RuntimeWarning, match="mine:Mixup took part until now and is missing"):
        compare_runs(more, run, "here")
    other = {**more, "callbacks": {**more["callbacks"], "mine:Mixup": {"alpha": 0.2}}}
    with pytest.raises(ValueError, match="mine:Mixup.alpha: 0.4 then, 0.2 now"):
        compare_runs(more, other, "here")
    with pytest.raises(ValueError, match="GradientClip: .* then, absent now"):
        compare_runs(run, {**run, "callbacks": {}}, "here")


def test_many_differences_are_cut():
    first, second = ({"callbacks": {}, **{str(i): i + k for i in range(20)}} for k in (0, 1))
    with pytest.raises(ValueError) as caught:
        compare_runs(first, second, "here")
    assert str(caught.value).count(" then, ") == 8


def test_loaders_of_a_learner_are_described():
    dls = DataLoaders.from_datasets(TensorDataset(X, Y), TensorDataset(X, Y), batch_size=4)
    assert fingerprint_data(dls.train)["order"] == "exp.nb03b:RandomSampler"
