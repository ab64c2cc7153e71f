"""Devices, gradients, stopping: what the notebook does not check."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_learner import Course, learner, plain
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb03b import DataLoaders
from exp.nb03c import accuracy
from exp.nb03f import Callback, CancelBatch
from exp.nb04 import Learner
from exp.nb04b import (
    DeviceCallback,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    Monitor,
    StopOnNaN,
    clip_gradients,
    default_device,
    known_mode,
    to_device,
)

on_cuda = pytest.mark.cuda


# ---------------------------------------------------------------- devices


def test_default_device(monkeypatch):
    monkeypatch.setenv("EXP_DEVICE", "cpu")
    assert default_device().type == "cpu"
    monkeypatch.delenv("EXP_DEVICE")
    assert default_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setenv("EXP_DEVICE", "mps")
    with pytest.raises(ValueError, match="cpu or cuda"):
        default_device()
    monkeypatch.setenv("EXP_DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="finds no GPU"):
        default_device()


def test_to_device_keeps_the_form():
    from collections import namedtuple

    Pair = namedtuple("Pair", "a b")
    x = {"t": torch.ones(1), "l": [torch.ones(2), "a"], "n": Pair(torch.ones(1), None), "i": (3,)}
    test_eq(to_device(x, "cpu"), x)
    assert type(to_device(x, "cpu")["n"]) is Pair


def test_a_packed_sequence_moves_but_not_its_batch_sizes():
    packed = nn.utils.rnn.pack_padded_sequence(torch.zeros(4, 2, 3), [4, 2])
    moved = to_device(packed, "meta")
    assert type(moved) is type(packed)
    assert moved.data.device.type == "meta" and moved.batch_sizes.device.type == "cpu"


class TestCuda:
    pytestmark = on_cuda

    def test_trains_where_it_is_told(self):
        learn = learner([DeviceCallback("cuda")], opt_func=partial(torch.optim.SGD, momentum=0.9))
        learn.fit(2)
        assert next(learn.model.parameters()).device.type == "cuda"
        assert {s["momentum_buffer"].device.type for s in learn.opt.state.values()} == {"cuda"}
        preds, targets = learn.get_preds()
        assert preds.device.type == targets.device.type == "cpu"
        assert learn.predict(torch.zeros(2, 6)).shape == (2, 3)
        learn.callback(DeviceCallback).device = torch.device("cpu")
        learn.fit(1)
        assert {s["momentum_buffer"].device.type for s in learn.opt.state.values()} == {"cpu"}

    def test_same_losses_as_on_the_cpu(self):
        on_cpu, on_gpu = learner([DeviceCallback("cpu")], batches=7), None
        on_cpu.fit(3)
        on_gpu = learner([DeviceCallback("cuda"), GradientClip(100.0)], batches=7)
        on_gpu.fit(3)
        assert on_gpu.recorder.losses == pytest.approx(on_cpu.recorder.losses, rel=1e-3)
        assert on_gpu.results == pytest.approx(on_cpu.results, rel=1e-3)

    def test_accumulated_class_weights_as_on_the_cpu(self):
        ends = []
        for device in ("cpu", "cuda"):
            loss_func = nn.CrossEntropyLoss(torch.tensor([0.1, 1.0, 3.0]), ignore_index=1)
            torch.manual_seed(0)
            batches = [(torch.randn(4, 6), torch.randint(3, (4,))) for _ in range(7)]
            callbacks = [DeviceCallback(device), GradientAccumulation(3), GradientClip(0.5)]
            learn = Learner(plain(), DataLoaders(batches, None), loss_func, 0.1,
                            callbacks=callbacks)  # fmt: skip
            learn.fit(2)
            ends.append([p.cpu() for p in learn.model.parameters()])
        test_near(*ends, tol=1e-5)

    def test_nothing_waits_for_the_gpu_during_an_epoch(self):
        learn = learner([DeviceCallback("cuda")], batches=7)
        learn.fit(1)
        resident = [(x.cuda(), y.cuda()) for x, y in learn.dls.train]
        learn.dls = DataLoaders(resident, None)

        class Strict(Callback):
            order = 9999

            def before_batch(self, learn):
                torch.cuda.set_sync_debug_mode("error")

            def after_batch(self, learn):
                torch.cuda.set_sync_debug_mode("default")

            def cleanup_fit(self, learn):
                torch.cuda.set_sync_debug_mode("default")

        learn.fit(2, callbacks=[Strict()])

    def test_out_of_memory_is_explained(self):
        class Greedy(nn.Module):
            def __init__(self):
                super().__init__()
                self.p = nn.Parameter(torch.ones(1))

            def forward(self, x):
                return self.p * torch.empty(1 << 42, device=x.device)

        dls, callbacks = learner().dls, [DeviceCallback("cuda")]
        learn = Learner(Greedy(), dls, F.cross_entropy, 0.1, callbacks=callbacks)
        with pytest.raises(torch.OutOfMemoryError, match="batch_size 4"):
            learn.fit(1)


# ---------------------------------------------------------------- gradients


@settings(max_examples=40, deadline=None)
@given(shapes=st.lists(st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=4),
       scale=st.floats(1e-3, 1e3), max_norm=st.floats(1e-2, 1e2))  # fmt: skip
def test_clip_as_torch(shapes, scale, max_norm):
    def gradients():
        draw = torch.Generator().manual_seed(3)
        ps = [nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in shapes]
        for p in ps:
            p.grad = scale * torch.randn(p.shape, generator=draw, dtype=torch.float64)
        return ps

    ours, theirs = gradients(), gradients()
    test_near(clip_gradients(ours, max_norm), nn.utils.clip_grad_norm_(theirs, max_norm), tol=1e-12)
    test_near([p.grad for p in ours], [p.grad for p in theirs], tol=1e-12)


def words(sparse, *callbacks):
    """Train word vectors, some words of a batch more than once."""
    torch.manual_seed(0)
    batches = [(torch.randint(6, (5,)), torch.randint(3, (5,))) for _ in range(8)]
    model = nn.Embedding(6, 3, sparse=sparse)
    learn = Learner(model, DataLoaders(batches, None), F.cross_entropy, 0.5, callbacks=callbacks)
    learn.fit(2)
    return learn


@pytest.mark.parametrize("kinds", [(GradientClip,), (GradientAccumulation,),
                                   (GradientClip, GradientAccumulation)])  # fmt: skip
def test_sparse_gradients_as_dense_ones(kinds):
    arguments = {GradientClip: 0.05, GradientAccumulation: 3}
    dense, sparse = (words(is_sparse, *[kind(arguments[kind]) for kind in kinds])
                     for is_sparse in (False, True))  # fmt: skip
    test_near(sparse.model.weight, dense.model.weight, tol=1e-6)
    assert sparse.n_steps == dense.n_steps
    without = words(True)
    assert not torch.allclose(sparse.model.weight, without.model.weight, atol=1e-3)


@pytest.mark.parametrize(("size", "n"), [(4, 2), (4, 3), (3, 4), (7, 2), (1, 5)])
def test_accumulated_batches_are_one_large_batch(size, n):
    large, small = learner(batches=size * n), learner([GradientAccumulation(n)], batches=size)
    large.fit(3)
    small.fit(3)
    assert small.n_steps == large.n_steps
    test_near(small.model.state_dict(), large.model.state_dict(), tol=1e-5)
    assert small.results["train_loss"] == pytest.approx(large.results["train_loss"], rel=1e-4)


def small_and_large(trained, sizes, n):
    """Train on batches of these sizes, n to a step, and on n at once; check that both end alike."""
    joined = [sum(sizes[i : i + n]) for i in range(0, len(sizes), n)]
    large, small = trained(joined), trained(sizes, GradientAccumulation(n))
    assert small.n_steps == large.n_steps == 2 * len(joined)
    test_near(small.model.state_dict(), large.model.state_dict(), tol=1e-12)
    return small, large


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=9), n=st.integers(1, 4))
def test_accumulated_batches_of_any_sizes_are_one_large_batch(sizes, n):
    """Uneven batches, an uneven tail: in float64 the same steps as on the joined batches."""

    def trained(sizes, *callbacks):
        torch.manual_seed(2)
        x, y = torch.randn(54, 6).double(), torch.randint(3, (54,))
        learn = learner(callbacks, metrics=[accuracy])
        learn.model.double()
        parts = torch.arange(sum(sizes)).split(sizes)
        learn.dls = DataLoaders([(x[rows], y[rows]) for rows in parts], None)
        learn.fit(2)
        return learn

    small_and_large(trained, sizes, n)


WEIGHT = torch.tensor([0.1, 1.0, 3.0], dtype=torch.float64)
LOSSES = {
    "class weights": partial(F.cross_entropy, weight=WEIGHT),
    "ignored targets": partial(F.cross_entropy, ignore_index=1),
    "both, as a module": nn.CrossEntropyLoss(WEIGHT, ignore_index=2),
}


@pytest.mark.parametrize("loss_func", LOSSES.values(), ids=LOSSES)
@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(3, 7), min_size=1, max_size=7), n=st.integers(1, 4))
def test_accumulation_weighs_as_the_loss_does(loss_func, sizes, n):
    """A loss that does not divide by the items: steps and the epoch's figure stay the same."""

    def trained(sizes, *callbacks):
        torch.manual_seed(2)
        x, y = torch.randn(54, 6).double(), torch.arange(54) % 3
        parts = torch.arange(sum(sizes)).split(sizes)
        dls = DataLoaders([(x[rows], y[rows]) for rows in parts], None)
        learn = Learner(nn.Linear(6, 3).double(), dls, loss_func, 0.1, callbacks=callbacks)
        learn.fit(2)
        return learn

    small, large = small_and_large(trained, sizes, n)
    if n >= len(sizes):  # one batch an epoch: both see the loss of the same weights
        assert small.results["train_loss"] == pytest.approx(large.results["train_loss"], rel=1e-9)


def test_the_losses_of_the_batches_are_left_as_they_are():
    plain, small = learner(batches=4, lr=0.0), learner([GradientAccumulation(3)], batches=4, lr=0.0)
    plain.fit(1)
    small.fit(1)
    assert small.recorder.losses == plain.recorder.losses


def test_accumulation_clips_the_whole_gradient_once():
    large = learner([GradientClip(0.1)], batches=8)
    small = learner([GradientClip(0.1), GradientAccumulation(2)], batches=4)
    large.fit(2)
    small.fit(2)
    test_near(small.model.state_dict(), large.model.state_dict(), tol=1e-5)


def two_parts(params, lr):
    """An optimizer for the first layer only."""
    return torch.optim.SGD(list(params)[:2], lr)


def test_a_norm_that_is_no_number_is_refused():
    with pytest.raises(TypeError, match="must be a number"):
        GradientClip("norm")


def test_gradients_that_nobody_steps_with_are_left_out():
    """The optimizer has the first layer; the gradients of the last one grow, and must not count."""
    large = learner([GradientClip(0.1)], batches=8, opt_func=two_parts)
    large.fit(2)
    assert large.model[2].weight.grad.norm() > 1  # nobody forgets it
    small = learner([GradientClip(0.1), GradientAccumulation(2)], batches=4, opt_func=two_parts)
    small.fit(2)
    assert small.n_steps == large.n_steps == 10
    trained = lambda learn: list(learn.model.parameters())[:2]  # noqa: E731
    test_near(trained(small), trained(large), tol=1e-5)


def test_accumulation_starts_anew_after_a_cancelled_batch():
    """Batch 1 of 4 is cancelled after backward: batch 0 is forgotten, 2 and 3 make a step."""

    class Second(Callback):
        order = 49

        def after_backward(self, learn):
            if learn.batch_index == 1:
                raise CancelBatch

    learn = learner([GradientAccumulation(2), Second()], n=16, batches=4)
    plain = learner([GradientAccumulation(2)], n=16, batches=4)
    plain.dls = DataLoaders(plain.dls.train[2:], None)
    learn.fit(1)
    plain.fit(1)
    assert learn.n_steps == plain.n_steps == 1
    assert all(map(torch.equal, learn.model.parameters(), plain.model.parameters()))


def test_a_batch_cancelled_early_keeps_the_window():
    """8 batches by 4, the fourth cancelled before it has a gradient: 7 batches make 2 steps."""

    class Skip(Callback):
        order = -50

        def before_batch(self, learn):
            if learn.training and learn.batch_index == 3:
                raise CancelBatch

    learn = learner([GradientAccumulation(4), Skip()], batches=5)
    assert len(learn.dls.train) == 8
    learn.fit(1)
    left = [learn.dls.train[i] for i in (0, 1, 2, 4, 5, 6, 7)]
    without = learner([GradientAccumulation(4)], batches=5)
    without.dls = DataLoaders(left, None)
    without.fit(1)
    assert learn.n_steps == without.n_steps == 2
    test_eq(learn.model.state_dict(), without.model.state_dict())


def test_torchmetrics_say_what_is_best():
    torchmetrics = pytest.importorskip("torchmetrics")
    kinds = {
        "acc": torchmetrics.classification.MulticlassAccuracy(num_classes=3),
        "hamming": torchmetrics.classification.MulticlassHammingDistance(num_classes=3),
    }
    learn = learner(metrics=torchmetrics.MetricCollection(kinds))
    found = [known_mode(learn, f"valid_{name}") for name in kinds]
    assert found == ["max", "min"]
    learner([EarlyStopping("valid_acc")], metrics=torchmetrics.MetricCollection(kinds)).fit(2)


class Says:
    """A loader that says another length than it has; None for a stream."""

    def __init__(self, batches, length):
        self.batches, self.length = batches, length

    def __len__(self):
        if self.length is None:
            raise TypeError
        return self.length

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.filterwarnings("ignore:the training loader says")
@pytest.mark.parametrize("length", [7, 6, 4, None])
@pytest.mark.parametrize("clips", [False, True])
def test_the_last_window_steps_whatever_the_length_says(length, clips):
    """5 batches by 4: a step of four and one of the last, in each epoch."""
    extra = [GradientClip(0.1)] if clips else []
    right = learner([GradientAccumulation(4), *extra], batches=8)
    assert len(right.dls.train) == 5
    wrong = learner([GradientAccumulation(4), *extra], batches=8)
    wrong.dls = DataLoaders(Says(right.dls.train, length), right.dls.valid)
    right.fit(2)
    wrong.fit(2)
    assert right.n_steps == wrong.n_steps == 4
    test_eq(wrong.model.state_dict(), right.model.state_dict())
    assert wrong.results == right.results


# ---------------------------------------------------------------- stopping


def test_stop_on_nan_comes_before_the_step():
    learn = learner([StopOnNaN()], batches=4)
    x, y = learn.dls.train[5]
    x[0, 0] = float("nan")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        learn.fit(2)
    assert "epoch 1, batch 6" in str(caught[0].message)
    assert learn.n_steps == 5 and all(p.isfinite().all() for p in learn.model.parameters())


@pytest.mark.parametrize(
    ("values", "patience", "min_delta", "epochs"),
    [
        ([3, 2, 1, 1, 1, 0, 0, 0, 0], 2, 0.0, 5),
        ([3, 2, 1, 1, 0, 1, 1, 1, 1], 3, 0.0, 8),
        ([3, 2.95, 2.9, 2.85, 2.8, 2], 2, 0.5, 3),
        ([1, float("nan"), float("nan"), 0, 0], 2, 0.0, 3),
        ([float("nan"), 2, 1, 1, 1], 2, 0.0, 5),
    ],
)
def test_early_stopping(values, patience, min_delta, epochs):
    learn = learner([Course(values), EarlyStopping(patience=patience, min_delta=min_delta)])
    learn.fit(len(values))
    assert len(learn.recorder.epochs) == epochs
    learn.fit(1)  # a new fit begins to count anew
    assert len(learn.recorder.epochs) == epochs + 1


@pytest.mark.parametrize("broken", ["inputs", "target"])
def test_broken_data_is_named_as_the_cause(broken):
    x, y = torch.randn(8, 1), torch.randn(8, 1)
    (x if broken == "inputs" else y)[3] = float("nan")
    dls = DataLoaders([(x, y)], None)
    learn = Learner(nn.Linear(1, 1), dls, nn.MSELoss(), 0.1, callbacks=StopOnNaN(), progress=False)
    with pytest.warns(RuntimeWarning, match=f"the {broken} of this batch held NaN or infinity"):
        learn.fit(1)
    x.nan_to_num_(), y.nan_to_num_()
    learn.lr = 1e30
    with pytest.warns(RuntimeWarning, match="try a tenth"):
        learn.fit(9)


def test_several_may_stop_a_fit():
    class Sink(Callback):
        def after_epoch(self, learn):
            learn.results |= {"a": 9 - learn.epoch, "b": min(learn.epoch, 1)}

        writes = ("a", "b")

    stops = [EarlyStopping("a", 2, "min"), EarlyStopping("b", 2, "max")]
    for callbacks in (stops, stops[::-1]):
        learn = learner([Sink(), *callbacks])
        learn.fit(9)
        assert len(learn.recorder.epochs) == 4


def test_early_stopping_on_a_metric():
    stopping = EarlyStopping("valid_loss", patience=1, mode="max")
    learn = learner([Course([1, 2, 3, 2, 5]), stopping])
    learn.fit(5)
    assert len(learn.recorder.epochs) == 4 and stopping.best == 3 and stopping.best_epoch == 3


@pytest.mark.parametrize("kind", [Monitor, EarlyStopping])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("val_loss", "did you mean 'valid_loss'"),
        ("valid_acuracy", "did you mean 'valid_accuracy'"),
        ("nonsense", "There will be"),
        ("loss", "There will be"),
    ],
)
def test_a_misspelt_monitor_costs_no_step(kind, name, said):
    learn = learner([kind(name, mode="min")])
    with pytest.raises(KeyError, match=said):
        learn.fit(2)
    assert learn.n_steps == 0


def test_a_result_that_another_callback_writes_can_be_watched():
    class Sum(Callback):
        order, writes = 50, ("sum",)

        def after_epoch(self, learn):
            learn.results["sum"] = learn.epoch

    stopping = EarlyStopping("sum", patience=2, mode="min")
    learn = learner([Sum(), stopping])
    learn.fit(9)
    assert len(learn.recorder.epochs) == 3
    with pytest.raises(ValueError, match='mode="max"'):
        learner([Sum(), EarlyStopping("sum")]).fit(1)


def test_without_a_validation_set_its_loss_cannot_be_watched():
    learn = learner([EarlyStopping()])
    learn.dls = DataLoaders(learn.dls.train, None)
    with pytest.raises(KeyError, match="train_loss"):
        learn.fit(1)


def test_a_metric_says_what_is_best():
    def error(pred, target):
        return 1 - accuracy(pred, target)

    def silent(pred, target):
        return accuracy(pred, target)

    error.higher_is_better = False
    metrics = {"accuracy": accuracy, "part": partial(accuracy), "error": error, "silent": silent}
    learn = learner(metrics=metrics)
    found = {name: known_mode(learn, f"valid_{name}") for name in [*metrics, "loss"]}
    assert found == {"accuracy": "max", "part": "max", "error": "min", "silent": None,
                     "loss": "min"}  # fmt: skip
    learn = learner([EarlyStopping("valid_accuracy", patience=1)])
    learn.fit(30)
    course = [row["valid_accuracy"] for row in learn.recorder.epochs]
    assert len(course) < 30 and course[-1] <= max(course[:-1])


def test_losses_as_metrics_are_best_when_lowest():
    from exp.nb02 import mse
    from exp.nb03 import cross_entropy
    from exp.nb03e import EpochMetric

    smooth = partial(F.cross_entropy, label_smoothing=0.1)
    several = [mse, cross_entropy, F.mse_loss, F.cross_entropy, F.kl_div, nn.MSELoss(), smooth,
               nn.CrossEntropyLoss(), EpochMetric(F.mse_loss), nn.BCEWithLogitsLoss()]  # fmt: skip
    learn = learner(metrics={f"m{i}": metric for i, metric in enumerate(several)})
    assert {known_mode(learn, f"valid_m{i}") for i in range(len(several))} == {"min"}
    learn = learner(metrics={"c": F.cosine_similarity, "e": EpochMetric(accuracy)})
    assert [known_mode(learn, f"valid_{name}") for name in "ce"] == [None, "max"]


def test_a_table_cannot_be_monitored():
    from exp.nb03j import ConfusionMatrix

    for mode in (None, "max"):
        learn = learner([EarlyStopping("valid_table", mode=mode)],
                        metrics={"table": ConfusionMatrix(3)})  # fmt: skip
        with pytest.raises(KeyError, match="that metric computes a table, not a number"):
            learn.fit(2)
        assert learn.n_steps == 0
