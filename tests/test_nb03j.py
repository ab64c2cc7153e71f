"""Scores against scikit-learn's, over random shapes, ties, cuts and missing classes."""

import warnings
from math import isnan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as theirs
from torch import nn

from exp.nb03b import DataLoaders
from exp.nb03e import EpochMetric, MeanMetric
from exp.nb03j import (
    ConfusionMatrix,
    F1Score,
    R2Score,
    average_precision,
    mean_average_precision,
    roc_auc,
    show_confusion,
)
from exp.nb04 import Callback, Learner, MetricsCallback
from exp.nb04d import Checkpoint


def over(metric, pred, target, cuts):
    """Compute a metric over batches that end at these places; a batch may be empty."""
    metric.reset()
    for p, t in zip(pred.tensor_split(cuts), target.tensor_split(cuts), strict=True):
        metric.update(p, t)
    return metric.compute()


@st.composite
def classified(draw):
    """Scores (N, C) with ties, targets of which some classes may be missing, and cuts."""
    n, n_classes = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    random = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    pred = torch.randn(n, n_classes, generator=random).round(decimals=draw(st.integers(0, 3)))
    target = torch.randint(draw(st.integers(1, n_classes)), (n,), generator=random)
    return pred, target, sorted(draw(st.lists(st.integers(0, n), max_size=6)))


@settings(max_examples=150, deadline=None)
@given(classified())
def test_matrix_and_f1(case):
    pred, target, cuts = case
    C, said = pred.shape[1], pred.argmax(1)
    matrix = theirs.confusion_matrix(target, said, labels=range(C))
    assert over(ConfusionMatrix(C), pred, target, cuts).tolist() == matrix.tolist()
    assert over(ConfusionMatrix(C), said, target, cuts).tolist() == matrix.tolist()
    for average in ("macro", "weighted", "micro"):
        wanted = theirs.f1_score(target, said, average=average, zero_division=0)
        found = over(F1Score(C, average), pred, target, cuts)
        assert found == pytest.approx(wanted, abs=1e-12), average
    if C == 2:
        wanted = theirs.f1_score(target, said, zero_division=0)
        assert over(F1Score(2, "binary"), pred, target, cuts) == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(classified())
def test_auc_and_average_precision(case):
    pred, target, cuts = case
    positive, one_hot = target == target[0], target[:, None] == torch.arange(pred.shape[1])
    score = pred[:, 0]
    for ours, function in (
        (roc_auc, theirs.roc_auc_score),
        (average_precision, theirs.average_precision_score),
    ):
        if ours is roc_auc and positive.all():
            with pytest.warns(UserWarning, match="both classes"):
                assert isnan(ours(score, positive))
            continue
        wanted = pytest.approx(function(positive, score), abs=1e-12)
        for labels in (positive, positive.long(), positive.float()):
            assert ours(score, labels) == ours(score[:, None], labels[:, None]) == wanted
        assert over(EpochMetric(ours), score, positive, cuts) == wanted
        two = torch.stack([torch.zeros_like(score), score], 1)
        assert ours(two, positive) == wanted
    there = one_hot.any(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = theirs.average_precision_score(one_hot[:, there], pred[:, there])
    for labels in (target, one_hot):
        assert mean_average_precision(pred, labels) == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(2, 40),
    shape=st.sampled_from([(), (1,), (3,), (2, 2)]),
    offset=st.sampled_from([0.0, 1e4, -1e6]),
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(0, 40), max_size=6).map(sorted),
    constant=st.booleans(),
)
def test_r2(n, shape, offset, seed, cuts, constant):
    random = torch.Generator().manual_seed(seed)
    target = torch.randn(n, *shape, generator=random, dtype=torch.float64) + offset
    if constant:
        target.flatten(1 if shape else 0)[..., :1] = 3.0
    pred = target + torch.randn(n, *shape, generator=random, dtype=torch.float64)
    wanted = theirs.r2_score(target.reshape(n, -1), pred.reshape(n, -1))
    assert over(R2Score(), pred, target, cuts) == pytest.approx(wanted, rel=1e-8, abs=1e-8)


def test_r2_of_a_constant_target_and_of_too_little():
    same = torch.ones(5)
    assert over(R2Score(), same, same, [2]) == 1 and over(R2Score(), same + 1, same, [2]) == 0
    for n in (0, 1):
        with pytest.warns(UserWarning, match=f"at least two items, got {n}; it is nan"):
            assert isnan(over(R2Score(), same[:n], same[:n], []))
    with pytest.raises(ValueError, match=r"the same shape .*got \(5, 1\) and \(5,\)"):
        R2Score().update(same[:, None], same)


def test_padding_does_not_count_and_sequences_do():
    pred, target = torch.randn(4, 7, 3), torch.randint(3, (4, 7))
    target[:, 5:] = -100
    found = over(ConfusionMatrix(3), pred, target, [1])
    wanted = theirs.confusion_matrix(target[:, :5].flatten(), pred[:, :5].argmax(-1).flatten())
    assert found.tolist() == wanted.tolist() and found.sum() == 20
    other = over(ConfusionMatrix(3, ignore_index=0), pred[:, :5], target[:, :5], [])
    assert other[0].sum() == 0 and other.tolist()[1:] == found.tolist()[1:]


def test_one_logit_for_two_classes():
    pred, target = torch.randn(20), torch.randint(2, (20,))
    wanted = theirs.confusion_matrix(target, pred > 0).tolist()
    for labels in (target, target.float(), target.bool()):
        assert over(ConfusionMatrix(2), pred, labels, [3]).tolist() == wanted
        assert over(ConfusionMatrix(2), pred[:, None], labels[:, None], [3]).tolist() == wanted
        assert over(ConfusionMatrix(2), pred[:, None], labels, [3]).tolist() == wanted
    found = over(F1Score(2, "binary", threshold=0.5), pred.sigmoid(), target, [9])
    assert found == pytest.approx(theirs.f1_score(target, pred > 0))


@pytest.mark.parametrize("wrong", [3, -1, 0.5])
def test_a_target_that_is_not_a_class_is_found(wrong):
    metric = ConfusionMatrix(3)
    metric.update(torch.eye(3), torch.tensor([0, 1, wrong]))
    with pytest.raises(ValueError, match=r"1 targets or predictions were not a class in 0\.\.2"):
        metric.compute()


def test_wrong_shapes_say_what_to_do():
    for pred, target, hint in (
        ((4, 3), (4, 1), r"; drop the last axis of the target with target.squeeze\(-1\)"),
        ((4, 3, 5), (4, 5), r"; bring classes on axis 1 to the end with pred.movedim\(1, -1\)"),
        ((4, 5, 3), (4,), r"\(4,\)$"),
        ((4, 5), (4,), r"\(4,\)$"),
        ((4,), (4,), r"; give classes .* as integers.*argmax\(-1\); one score each is for n_clas"),
        ((4, 1), (4,), r"\(4, 1\) and \(4,\); .*one score each is for n_classes=2"),
    ):
        with pytest.raises(ValueError, match=rf"'f1' needs scores \(…, 3\) .*{hint}"):
            F1Score(3).update(torch.rand(pred), torch.zeros(target, dtype=torch.long))
    for pred, target in (((4, 3), (4,)), ((4,), (5,)), ((4, 1, 1), (4,))):
        with pytest.raises(ValueError, match="one score an item is needed"):
            roc_auc(torch.rand(pred), torch.zeros(target))
    with pytest.raises(ValueError, match=r"0 or 1, got \[0, 2\]"):
        average_precision(torch.rand(4), torch.tensor([0, 2, 2, 0]))
    with pytest.warns(UserWarning, match="needs a positive item, got none of 4; it is nan"):
        assert isnan(average_precision(torch.rand(4), torch.zeros(4)))
    with pytest.warns(UserWarning, match="needs a positive item, got none; it is nan"):
        assert isnan(mean_average_precision(torch.rand(4, 2), torch.zeros(4, 2)))


def test_probabilities_and_a_threshold_of_logits():
    pred, target = torch.tensor([0.0, 0.4, 0.9, 1.0]), torch.tensor([0, 0, 1, 1])
    for metric in (ConfusionMatrix(2), F1Score(2)):
        with pytest.warns(UserWarning, match=rf"{type(metric).__name__}\(…, threshold=0.5\)"):
            over(metric, pred, target, [2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert over(F1Score(2, threshold=0.5), pred, target, [2]) == 1
        over(F1Score(2), torch.tensor([0.1, 0.9, 0.3, -0.1]), target, [3])  # logits after all
        assert over(F1Score(2), pred.round(), target, [3]) == 1  # answers, not probabilities
        over(F1Score(2), torch.stack([1 - pred, pred], 1), target, [3])
    first, second, both = F1Score(2), F1Score(2), F1Score(2)
    first.update(pred, target)
    second.update(pred - 1, target)
    both.merge([first.state_dict(), second.state_dict()])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both.compute()


def test_a_validation_set_of_one_class_does_not_end_a_training():
    x, y = torch.randn(8, 3), torch.tensor([[0.0], [1.0]]).repeat(4, 1)
    metrics = [roc_auc, average_precision]
    dls = DataLoaders([(x, y)], [(x, torch.zeros(8, 1))])
    loss = nn.BCEWithLogitsLoss()
    learn = Learner(nn.Linear(3, 1), dls, loss, 0.1, metrics=metrics, progress=False)
    with pytest.warns(UserWarning, match="it is nan"):
        record = learn.fit(2)
    assert len(record.epochs) == 2 and isnan(record.epochs[-1]["valid_roc_auc"])
    assert isnan(record.epochs[-1]["valid_average_precision"])


def test_which_scores_are_tables():
    class Trace(ConfusionMatrix):
        def compute(self):
            return super().compute().trace()

    assert ConfusionMatrix(2).is_table
    assert not any(metric.is_table for metric in (F1Score(2), Trace(2), R2Score()))


def test_a_model_that_broke_scores_nan():
    pred, target = torch.full((4,), torch.nan), torch.tensor([0, 1, 0, 1])
    assert all(value != value for value in (roc_auc(pred, target), average_precision(pred, target)))


def test_the_picture_of_a_matrix(monkeypatch):
    import matplotlib
    import matplotlib.pyplot as plt

    matplotlib.use("agg")
    show_confusion(torch.tensor([[3, 1], [0, 0]]), ["cat", "dog"])
    axis = plt.gcf().axes[0]
    assert [text.get_text() for text in axis.texts] == ["3", "1"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["cat", "dog"]
    plt.close("all")
    with pytest.raises(ValueError, match="3 classes"):
        show_confusion(torch.eye(2), range(3))


def data(size, n=60):
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(0))
    y = x[:, :3].argmax(1)
    y[::7] = -100  # does not count
    return list(zip(x.split(size), y.split(size), strict=True))


def all_kinds():
    import torchmetrics.classification as theirs

    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 2, 9]))
    return {
        "weighted loss": loss,
        "the same": MeanMetric(loss),
        "f1": F1Score(3),
        "their f1": theirs.MulticlassF1Score(num_classes=3, ignore_index=-100),
        "matrix": ConfusionMatrix(3),
        "found": EpochMetric(lambda pred, target: (target >= 0).sum(), training=True),
        "mAP": EpochMetric(lambda p, t: mean_average_precision(p[t >= 0], t[t >= 0])),
    }


@pytest.mark.parametrize("size", [1, 7, 60])
def test_a_learner_reports_the_same_whatever_the_batch_size(size):
    torch.manual_seed(1)
    model = nn.Linear(5, 3)
    found, wanted = (
        Learner(
            model, DataLoaders(None, data(n)), nn.CrossEntropyLoss(), metrics=all_kinds()
        ).evaluate()
        for n in (size, 60)
    )
    assert list(found) == ["loss", *all_kinds()]
    assert found.pop("matrix").tolist() == wanted.pop("matrix").tolist()
    assert found == pytest.approx(wanted, rel=1e-5)
    assert found["weighted loss"] == pytest.approx(found["the same"], rel=1e-9)
    assert found["f1"] == pytest.approx(found["their f1"], rel=1e-5)


def test_a_learner_keeps_a_copy_for_each_phase_and_the_matrix_can_be_read():
    torch.manual_seed(1)
    dls = DataLoaders(data(8), data(20, n=40))
    metrics = all_kinds()
    learn = Learner(nn.Linear(5, 3), dls, nn.CrossEntropyLoss(), 0.5, metrics=metrics)
    learn.fit(2)
    last = learn.recorder.epochs[-1]
    assert last["train_found"] == 60 - 9 and last["valid_found"] == 40 - 6
    assert "train_mAP" not in last and "valid_mAP" in last
    matrix = learn.callback(MetricsCallback).computed["valid_matrix"]
    assert matrix.sum() == 40 - 6 and metrics["matrix"].compute().sum() == 0


class Stop(Callback):
    """Interrupt a training after some batches, in training or in validation."""

    order, only_watches = 20_000, True

    def __init__(self, batches):
        self.left = batches

    def after_batch(self, learn):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [1, 3, 8, 9, 14, 18])
def test_metrics_of_all_kinds_resume_to_the_same_bits(tmp_path, stop):
    def learner(folder, *callbacks):
        torch.manual_seed(1)
        dls = DataLoaders(data(8), data(20, n=40))  # 8 and 2 batches
        callbacks = [Checkpoint(tmp_path / folder, every=1), *callbacks]
        return Learner(nn.Linear(5, 3), dls, nn.CrossEntropyLoss(), 0.5, metrics=all_kinds(),
                       callbacks=callbacks)  # fmt: skip

    whole = learner("whole")
    whole.fit(2)
    with pytest.raises(KeyboardInterrupt):
        learner("broken", Stop(stop)).fit(2)
    again = learner("broken")
    again.fit(2)

    def without_seconds(epochs):
        return [{k: v for k, v in epoch.items() if "second" not in k} for epoch in epochs]

    assert without_seconds(again.recorder.epochs) == without_seconds(whole.recorder.epochs)
    matrices = [
        learn.callback(MetricsCallback).computed["train_matrix"] for learn in (again, whole)
    ]
    assert matrices[0].tolist() == matrices[1].tolist()
