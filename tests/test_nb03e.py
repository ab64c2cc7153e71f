"""Metrics: what they divide by, the protocol, states, names; and TorchMetrics as it stands."""

import copy
import importlib
from functools import cache, partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb02 import mse
from exp.nb03 import cross_entropy
from exp.nb03c import accuracy
from exp.nb03e import (
    EpochMetric,
    MeanMetric,
    Metric,
    check_number,
    divides_by,
    divisor_of,
    figure_names,
    is_metric,
    metric_state,
    name_metrics,
    restore_metric_state,
)
from exp.nb03j import ConfusionMatrix, F1Score, R2Score, mean_average_precision, roc_auc
from exp.nb04c import pack, unpack

on_cuda = pytest.mark.cuda


def over(metric, pred, target, cuts):
    """Compute a metric over batches that end at these places."""
    metric.reset()
    for p, t in zip(pred.tensor_split(cuts), target.tensor_split(cuts), strict=True):
        if len(p):
            metric.update(p, t)
    return metric.compute()


def draw(seed):
    return torch.Generator().manual_seed(seed)


cuts = st.lists(st.integers(1, 39), max_size=8).map(sorted)


# ------------------------------------------------------------------ what a mean was divided by


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_classes=st.integers(2, 5),
    more=st.lists(st.integers(1, 4), max_size=2),
    weighted=st.booleans(),
    ignore=st.sampled_from([-100, -1, 0, 1]),
    smoothing=st.sampled_from([0.0, 0.2]),
    as_partial=st.booleans(),
    cuts=cuts,
)
def test_cross_entropy_is_the_same_however_the_items_are_cut(
    seed, n_classes, more, weighted, ignore, smoothing, as_partial, cuts
):
    pred = torch.randn(40, n_classes, *more, generator=draw(seed), dtype=torch.float64)
    target = torch.randint(n_classes, (40, *more), generator=draw(seed))
    target[torch.rand(target.shape, generator=draw(seed + 1)) < 0.5] = ignore
    target[0] = n_classes - 1 if ignore != n_classes - 1 else 0  # something counts
    weight = torch.rand(n_classes, generator=draw(seed), dtype=torch.float64) + 0.1
    options = {"ignore_index": ignore, "label_smoothing": smoothing}
    options |= {"weight": weight} if weighted else {}
    loss = partial(F.cross_entropy, **options) if as_partial else nn.CrossEntropyLoss(**options)
    found = over(MeanMetric(loss), pred, target, cuts)
    assert found == pytest.approx(loss(pred, target).item(), rel=1e-9)


@pytest.mark.parametrize(
    "loss, make",
    [
        (nn.NLLLoss(torch.tensor([1.0, 5, 2])), lambda p: (p.log_softmax(1), p.argmax(1))),
        (F.nll_loss, lambda p: (p.log_softmax(1), p.argmax(1))),
        (cross_entropy, lambda p: (p, p.argmax(1).where(p[:, 0] > 0, -100))),
        (nn.CrossEntropyLoss(torch.tensor([1.0, 5, 2])), lambda p: (p, (2 * p).softmax(1))),
        (nn.MSELoss(), lambda p: (p, p**2)),
        (F.smooth_l1_loss, lambda p: (p, p**2)),
        (nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), lambda p: (p, (p > 1).float())),
        (partial(F.binary_cross_entropy_with_logits), lambda p: (p, (p > 1).float())),
        (mse, lambda p: (p, p**2)),
        (accuracy, lambda p: (p, p.argmax(1).where(p[:, 0] > 0, 1))),
    ],
)
def test_other_means_too(loss, make):
    pred, target = make(torch.randn(40, 3, generator=draw(0)))
    for cut in ([], [1], [7, 8, 30], list(range(1, 40))):
        found = over(MeanMetric(loss), pred, target, cut)
        assert found == pytest.approx(loss(pred, target).item(), rel=1e-5)


def test_elements_count_where_rows_have_different_lengths():
    long, short = torch.randn(2, 9), torch.randn(2, 3)
    metric = MeanMetric(nn.L1Loss())
    metric.update(long, long + 1)
    metric.update(short, short + 3)
    assert metric.compute() == pytest.approx((18 * 1 + 6 * 3) / 24)


def test_what_is_not_known_counts_items():
    class Own(nn.CrossEntropyLoss):
        def forward(self, pred, target):
            return super().forward(pred, target).sqrt()

    class Named(nn.CrossEntropyLoss):
        """A subclass that divides as its parent does."""

    assert divisor_of(Own()) is None and divisor_of(Named()) is not None
    assert divisor_of(nn.CrossEntropyLoss(reduction="sum")) is None
    assert divisor_of(nn.MSELoss(reduction="none")) is None
    assert divisor_of(nn.KLDivLoss(reduction="batchmean")) is None
    assert divisor_of(partial(F.cross_entropy, reduction="sum")) is None
    assert divisor_of(lambda pred, target: 0) is None
    assert divisor_of(nn.CTCLoss()) is None and divisor_of(nn.Linear(1, 1)) is None


def test_a_divisor_can_be_said():
    @divides_by(lambda pred, target: target.sum())
    def loss(pred, target, power=1):
        return (pred**power * target).sum() / target.sum()

    class Loss(nn.Module):
        def divisor(self, pred, target):
            return 3

    assert divisor_of(partial(loss, power=2)) is loss.divisor
    assert divisor_of(Loss())(None, None) == 3
    with pytest.raises(TypeError, match="divides_by needs a function"):
        divides_by(lambda: 0)(loss) and divides_by("target")


def test_the_weight_is_the_one_that_the_loss_has_when_it_is_asked():
    loss = nn.CrossEntropyLoss(torch.ones(3))
    count, target = divisor_of(loss), torch.tensor([0, 1, 1, -100])
    assert count(torch.randn(4, 3), target) == 3
    loss.weight = torch.tensor([1.0, 10, 1])
    assert count(torch.randn(4, 3), target) == 21


def test_a_batch_that_counts_for_nothing_spoils_nothing():
    metric = MeanMetric(F.cross_entropy)
    pred, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    metric.update(pred, target)
    metric.update(pred, torch.full((4,), -100))  # the loss is nan
    assert metric.compute() == pytest.approx(F.cross_entropy(pred, target).item())
    metric.reset()
    metric.update(pred, torch.full((4,), -100))
    with pytest.raises(ValueError, match="'cross_entropy' is the mean of nothing"):
        metric.compute()


# ------------------------------------------------------------------ what a function may return


@pytest.mark.parametrize("value", [0.25, np.float32(0.25), np.array(0.25), np.array([0.25])])
def test_numbers_of_all_kinds_are_welcome(value):
    for number in (value, torch.as_tensor(value)):
        assert float(check_number("f", number)) == 0.25
        assert not getattr(check_number("f", number), "shape", ())


@pytest.mark.parametrize(
    "value, says",
    [
        (None, "'top' returned None; .* is its `return` missing"),
        (torch.ones(3), r"'top' returned a tensor of shape \(3,\)"),
        (torch.ones((), dtype=torch.complex64), "'top' returned a tensor .*complex64"),
        (np.ones(3), "'top' returned array"),
        ("0.5", "'top' returned '0.5'"),
        ([0.5], "'top' returned"),
    ],
)
def test_what_is_not_one_number_is_refused_with_the_name_in_the_first_batch(value, says):
    metric = MeanMetric(lambda pred, target: value, name="top")
    with pytest.raises((TypeError, ValueError), match=says):
        metric.update(torch.ones(2, 3), torch.ones(2))


def test_no_history_is_kept():
    pred = torch.randn(4, 3, requires_grad=True)
    assert not check_number("loss", pred.mean()).requires_grad
    metric = EpochMetric(lambda pred, target: 0.0)
    metric.update(pred, torch.zeros(4))
    assert not metric.state_dict()["pred"].requires_grad


def test_an_epoch_metric_keeps_copies():
    metric, pred = EpochMetric(lambda pred, target: pred.sum().item()), torch.ones(4)
    metric.update(pred, pred)
    pred.zero_()
    assert metric.compute() == 4


def test_an_epoch_metric_says_what_is_wrong():
    for wrong in (EpochMetric, MeanMetric):
        with pytest.raises(TypeError, match=f"{wrong.__name__} needs a function"):
            wrong(F1Score)
    metric = EpochMetric(lambda pred, target: None, name="auc")
    with pytest.raises(ValueError, match="'auc' was asked before any batch"):
        metric.compute()
    with pytest.raises(TypeError, match="'auc' needs tensors"):
        metric.update([torch.ones(2)], torch.ones(2))
    metric.update(torch.ones(2, 5), torch.ones(2))
    with pytest.raises(ValueError, match=r"different shapes: pred was \(2, 5\), now \(2, 6\)"):
        metric.update(torch.ones(2, 6), torch.ones(2))
    with pytest.raises(TypeError, match="'auc' returned None"):
        metric.compute()
    assert EpochMetric(roc_auc).phases == ("valid",)
    assert EpochMetric(roc_auc, training=True).phases == Metric.phases == ("train", "valid")
    assert EpochMetric(roc_auc).higher_is_better and MeanMetric(mse).higher_is_better is None


# ------------------------------------------------------------------ state, copies, processes


class Plain:
    """A metric written without the library, with a state of every kind."""

    def __init__(self):
        self.function = torch.sum  # how it was made, not what it counted
        self.limit = None
        self.reset()

    def reset(self):
        self.total, self.batches, self.seen = torch.zeros(()), 0, {"rows": [], "last": ("", 0.0)}
        self.by_hand = np.zeros(2)

    def update(self, pred, target):
        self.total += self.function(pred)  # in place
        self.batches += 1
        self.seen["rows"].append(len(pred))
        self.seen["last"] = ("target", target.sum().item())
        self.by_hand += 1

    def compute(self):
        return self.total.item() + self.batches + sum(self.seen["rows"]) + self.by_hand.sum()


@cache
def others():
    """torchmetrics, whose import takes as long as that of torch."""
    return importlib.import_module("torchmetrics")


def collection():
    args = {"num_classes": 4}
    return others().MetricCollection(
        [
            others().classification.MulticlassAccuracy(**args),
            others().classification.MulticlassF1Score(**args),
            others().classification.MulticlassAUROC(**args),  # keeps all predictions
        ]
    )


MAKERS = {
    "MeanMetric": lambda: MeanMetric(nn.CrossEntropyLoss()),
    "EpochMetric": lambda: EpochMetric(mean_average_precision),
    "ConfusionMatrix": lambda: ConfusionMatrix(4),
    "F1Score": lambda: F1Score(4),
    "R2Score": R2Score,
    "plain": Plain,
    "torchmetrics": lambda: others().classification.MulticlassF1Score(num_classes=4),
    "torchmetrics, thresholds": lambda: others().classification.MulticlassAUROC(
        num_classes=4, thresholds=20
    ),
    "torchmetrics, mean": lambda: others().MeanSquaredError(),
    "torchmetrics, minimum": lambda: others().wrappers.MinMaxMetric(
        others().classification.MulticlassAccuracy(num_classes=4)
    ),
    "collection": collection,
}


def batches(name, n=9):
    for i in range(n):
        pred = torch.randn(5, 4, generator=draw(i))
        numbers = name in ("R2Score", "torchmetrics, mean")
        yield pred, pred * 2 + 1 if numbers else torch.randint(4, (5,), generator=draw(i + 99))


def plain(value):
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value.tolist() if isinstance(value, torch.Tensor) else value


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("at", [0, 1, 4, 9])
def test_a_state_goes_through_a_file_and_on_as_if_nothing_had_happened(name, at):
    one, given = MAKERS[name](), list(batches(name))
    one.reset()
    for pred, target in given[:at]:
        one.update(pred, target)
    if at % 2:
        one.compute()  # a figure that was looked at in between
    state = metric_state(one)
    kept = copy.deepcopy(state)
    other = MAKERS[name]()
    restore_metric_state(other, unpack(*pack(state)))
    again = copy.deepcopy(one)
    for pred, target in given[at:]:
        for metric in (one, other, again):
            metric.update(pred, target)
    assert plain(one.compute()) == plain(other.compute()) == plain(again.compute())
    assert str(state) == str(kept)  # later batches have not changed it


@pytest.mark.parametrize("name", MAKERS)
def test_copies_share_nothing(name):
    given = list(batches(name))
    train, valid = (copy.deepcopy(MAKERS[name]()) for _ in range(2))
    original = MAKERS[name]()
    copied = copy.deepcopy(original)
    for metric in (train, valid, original, copied):
        metric.reset()
    for pred, target in given:
        original.update(pred, target)
    for pred, target in given[:3]:
        copied.update(pred, target)
    for pred, target in given[:3]:
        train.update(pred, target)
    assert plain(train.compute()) == plain(copied.compute()) != plain(original.compute())


@pytest.mark.parametrize("name", ["MeanMetric", "EpochMetric", "ConfusionMatrix", "R2Score"])
@pytest.mark.parametrize("shares", [(9,), (4, 5), (0, 9), (1, 3, 5)])
def test_processes_come_together_to_the_whole(name, shares):
    given, states = iter(list(batches(name))), []
    for n in shares:
        part = MAKERS[name]()
        for _ in range(n):
            part.update(*next(given))
        states.append(unpack(*pack(metric_state(part))))
    merged, whole = MAKERS[name](), MAKERS[name]()
    merged.merge(states)
    for batch in batches(name):
        whole.update(*batch)
    result, wanted = (torch.as_tensor(metric.compute()) for metric in (merged, whole))
    torch.testing.assert_close(result, wanted, rtol=1e-12, atol=1e-12)


class Both(Metric):
    """A metric that holds others, in several ways."""

    def __init__(self):
        self.one, self.more, self.named = (
            Plain(),
            [F1Score(4), Plain()],
            {"acc": MAKERS["torchmetrics"]()},
        )
        self.all = [self.one, *self.more, *self.named.values()]

    def reset(self):
        for metric in self.all:
            metric.reset()

    def update(self, pred, target):
        for metric in self.all:
            metric.update(pred, target)

    def compute(self):
        return [float(metric.compute()) for metric in self.all]


def test_metrics_inside_metrics_are_saved_too():
    class Foreign(Both):
        state_dict = load_state_dict = None

    del Foreign.state_dict, Foreign.load_state_dict
    given = list(batches("F1Score"))
    for kind in (Both, Foreign):
        one, other = kind(), kind()
        for metric in (one, other):
            metric.reset()
        for batch in given[:5]:
            one.update(*batch)
        restore_metric_state(other, unpack(*pack(metric_state(one))))
        for batch in given[5:]:
            one.update(*batch)
            other.update(*batch)
        assert one.compute() == other.compute()


def test_a_state_that_cannot_be_saved_or_belongs_elsewhere_is_refused():
    metric = Plain()
    metric.seen = {1}
    with pytest.raises(TypeError, match="cannot save Plain.seen, a set"):
        metric_state(metric)
    metric.seen = {"of": [{2}]}
    with pytest.raises(TypeError, match=r"cannot save Plain.seen\['of'\]\[0\], a set"):
        metric_state(metric)
    with pytest.raises(ValueError, match="state is that of a MetricCollection that holds"):
        restore_metric_state(collection(), metric_state(Plain()))


def test_a_metric_that_lacks_a_method_says_which():
    class Half(Metric):
        pass

    for method, arguments in {"reset": 0, "update": 2, "compute": 0, "merge": 1}.items():
        with pytest.raises(NotImplementedError, match=rf"Half must define {method}\(self"):
            getattr(Half(), method)(*[None] * arguments)


def test_torchmetrics_follow_the_protocol():
    given = list(batches("collection"))
    pred, target = (torch.cat(parts) for parts in zip(*given, strict=True))
    assert is_metric(collection()) and is_metric(others().MeanSquaredError())
    pred = pred.softmax(1)  # which TorchMetrics would do to logits, and then rank them
    metric = collection()
    for batch in zip(pred.split(5), target.split(5), strict=True):
        metric.update(*batch)
    found = metric.compute()
    f1 = over(F1Score(4), pred, target, [])
    assert list(found) == ["MulticlassAccuracy", "MulticlassF1Score", "MulticlassAUROC"]
    assert found["MulticlassF1Score"].item() == pytest.approx(f1, rel=1e-6)
    auc = sum(roc_auc(pred[:, c], target == c) for c in range(4)) / 4
    assert found["MulticlassAUROC"].item() == pytest.approx(auc, rel=1e-6)


# ------------------------------------------------------------------ names


def test_names():
    given = [accuracy, MeanMetric(mse), roc_auc, F1Score(3), Plain(), collection()]
    names = ["accuracy", "mse", "roc_auc", "f1", "Plain", "MetricCollection"]
    assert list(name_metrics(given)) == names
    for name in ("top-5", "f1/macro", "balanced accuracy", "Genauigkeit (gewöhnliche)", "F₁"):
        assert name_metrics({name: accuracy}) == {name: accuracy}
    assert list(name_metrics(collection())) == ["MetricCollection"]
    assert name_metrics([]) == name_metrics({}) == {}


@pytest.mark.parametrize(
    "metrics, says",
    [
        (accuracy, r"come in a list, even one: metrics=\[accuracy\]"),
        ("accuracy", r"come in a list"),
        (F1Score(3), r"come in a list, even one: metrics=\[f1\]"),
        (F1Score, "come in a list"),
        ([F1Score], r"'F1Score' is a class; make an object of it: F1Score\(\)"),
        ([accuracy, "f1"], "got 'f1'"),
        ([("f1", accuracy)], r"got \('f1'"),
        ([lambda pred, target: 0], "cannot be named '<lambda>'"),
        ({"": accuracy}, "cannot be named ''"),
        ({" f1": accuracy}, "cannot be named ' f1'"),
        ({"a\nb": accuracy}, r"cannot be named 'a\\nb'"),
        ({3: accuracy}, "name of a metric must be a string, got 3"),
        ({"loss": accuracy}, "different names, and not 'loss'"),
        ([accuracy, accuracy], "different names"),
    ],
)
def test_wrong_metrics_are_refused_for_what_is_wrong(metrics, says):
    with pytest.raises((TypeError, ValueError), match=says):
        name_metrics(metrics)


def test_the_names_within_a_collection_must_be_different_too():
    single = others().classification.MulticlassF1Score(num_classes=3)
    for metrics in ([collection(), single], {"MulticlassF1Score": accuracy, "more": collection()}):
        with pytest.raises((TypeError, ValueError), match="different names"):
            name_metrics(metrics)


def test_an_object_that_is_nearly_a_metric_is_told_what_it_lacks():
    class Nearly:
        def update(self, pred, target): ...

        def compute(self): ...

    with pytest.raises(TypeError, match="which has no reset"):
        name_metrics([Nearly()])


def test_a_function_of_an_epoch_is_not_averaged_over_batches():
    named = name_metrics({"AUC": roc_auc, "AP": partial(mean_average_precision)})
    assert {name: (type(m), m.name) for name, m in named.items()} == {
        "AUC": (EpochMetric, "AUC"),
        "AP": (EpochMetric, "AP"),
    }
    assert name_metrics(named) == named
    with pytest.raises(TypeError, match="roc_auc is not a mean over batches; use EpochMetric"):
        MeanMetric(partial(roc_auc))


# ------------------------------------------------------------------ on a GPU


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_cuda)])
@pytest.mark.parametrize("name", ["MeanMetric", "EpochMetric", "ConfusionMatrix", "F1Score"])
def test_updates_do_not_wait(name, device):
    metric = MAKERS[name]()
    given = [(pred.to(device), target.to(device)) for pred, target in batches(name, 150)]
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in given:
            metric.update(*batch)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    on_cpu = MAKERS[name]()
    for batch in batches(name, 150):
        on_cpu.update(*batch)
    result, wanted = (torch.as_tensor(m.compute(), dtype=torch.float64) for m in (metric, on_cpu))
    torch.testing.assert_close(result.cpu(), wanted, rtol=1e-6, atol=0)
    restored = MAKERS[name]()
    restore_metric_state(restored, metric_state(metric))
    restored.update(*given[0])


def test_a_function_of_target_and_prediction_is_refused():
    from sklearn.metrics import r2_score

    class Swapped(Metric):
        def update(self, target, pred): ...

    with pytest.raises(TypeError, match=r"lambda pred, target: r2_score\(target, pred\)"):
        EpochMetric(r2_score)
    for make in (MeanMetric, lambda f: name_metrics([f]), lambda f: name_metrics({"r2": f})):
        with pytest.raises(TypeError, match="first parameter of r2_score is 'y_true'"):
            make(r2_score)
    with pytest.raises(TypeError, match="first parameter of update is 'target'"):
        name_metrics([Swapped()])
    EpochMetric(lambda pred, target: r2_score(target, pred))


def test_a_table_has_no_figure_but_a_name():
    assert figure_names({"table": ConfusionMatrix(2), "f1": F1Score(2)}) == ["f1"]
    with pytest.raises(ValueError, match="different names"):
        name_metrics({"loss": ConfusionMatrix(2)})
