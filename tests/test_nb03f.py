"""Events, callbacks and their metrics: what the notebook does not check."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from small_learner import learner
from torch import nn

from exp import (
    Callback,
    ConfusionMatrix,
    DataLoaders,
    EpochMetric,
    Learner,
    MetricsCallback,
    Recorder,
    accuracy,
    arrange,
    callback_list,
    outline,
    roc_auc,
)

FOREIGN = {
    "on_epoch_begin": "before_epoch",
    "on_epoch_end": "after_epoch",
    "on_train_begin": "before_fit",
    "on_train_start": "before_fit",
    "on_train_end": "after_fit",
    "on_fit_start": "before_fit",
    "on_fit_end": "after_fit",
    "on_train_batch_begin": "before_batch",
    "on_train_batch_start": "before_batch",
    "on_train_batch_end": "after_batch",
    "on_train_epoch_end": "after_epoch",
    "on_test_batch_end": "after_batch",
    "on_validation_batch_start": "before_batch",
    "on_validation_epoch_end": "after_epoch",
    "on_validation_end": "after_epoch",
    "on_before_backward": "after_loss",
    "on_after_backward": "after_backward",
    "on_before_optimizer_step": "after_backward",
    "on_step_end": "after_step",
    "on_step_begin": "before_batch",
    "on_exception": "cleanup_fit",
    "begin_fit": "before_fit",
    "begin_batch": "before_batch",
    "before_step": "after_backward",
    "after_validate": "after_epoch",
    "after_cancel_fit": "cleanup_fit",
    "setup": "before_fit",
    "teardown": "cleanup_fit",
    "set_model": "before_fit",
    "on_save_checkpoint": "state_dict",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_names_of_other_libraries_are_answered_with_the_right_event(name):
    with pytest.raises(TypeError, match=f"did you mean '{FOREIGN[name]}'"):
        type("Mine", (Callback,), {name: lambda self, *args: None})


def test_help_lists_events_and_what_a_callback_finds():
    text = Callback.__doc__
    for word in (
        "before_fit",
        "cleanup_fit",
        "after_backward",
        "loss_weight",
        "n_steps",
        "results",
    ):
        assert word in text


def test_one_callback_needs_no_list():
    one = Recorder()
    assert callback_list(one) == [one]
    assert one in arrange(one)
    learn = learner(one)
    assert learn.recorder is one
    with pytest.raises(TypeError, match="write it with"):
        learner(Recorder)
    with pytest.raises(TypeError, match="got 3"):
        learner([3])
    with pytest.raises(TypeError, match="got 3"):
        learner(3)


def test_what_is_required_is_added_with_what_that_requires():
    class A(Callback):
        order = 7

    class B(Callback):
        requires = (A,)

    class C(Callback):
        requires = (B,)

    assert [type(c) for c in arrange(C())] == [B, C, A] or {type(c) for c in arrange(C())} == {
        A,
        B,
        C,
    }
    mine = A()
    assert [c for c in arrange([C(), mine]) if type(c) is A] == [mine]


def test_a_callback_that_predicts_or_computes_the_loss_evaluates_too():
    class Hundred(Callback):
        def do_loss(self, learn):
            learn.loss = 100 * learn.loss_func(learn.pred, learn.target)

    class OnlyInTraining(Hundred):
        evaluates = False

        def do_loss(self, learn):
            super().do_loss(learn)

    learn = learner([Hundred()], lr=1e-9)
    record = learn.fit(1)
    assert learn.evaluate()["loss"] == pytest.approx(record.epochs[-1]["valid_loss"])
    learn = learner([OnlyInTraining()], lr=1e-9)
    assert learn.fit(1).epochs[-1]["valid_loss"] == pytest.approx(100 * learn.evaluate()["loss"])


def test_predictions_announce_no_results():
    class Scores(Callback):
        order, evaluates, writes = 15, True, ("valid_share",)

        def before_epoch(self, learn):
            self.preds = []

        def after_batch(self, learn):
            self.preds.append(learn.pred.detach())

        def after_epoch(self, learn):
            learn.results["valid_share"] = float(torch.cat(self.preds).mean())

    learn = learner([Scores()])
    assert "valid_share" in learn.fit(1).epochs[-1]
    assert "share" in learn.evaluate()
    assert "valid_share" in learn.result_names()
    assert learn.predict(torch.randn(3, 6)).shape == (3, 3)
    assert learn.get_preds()[0].shape == (10, 3)


def batches_of(x, y, size):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 9),
    size=st.integers(1, 40),
    kind=st.sampled_from(["weights", "ignore", "both", "padding", "positional"]),
)
def test_the_mean_loss_does_not_depend_on_the_batch_size(seed, size, kind):
    torch.manual_seed(seed)
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    if kind in ("ignore", "both"):
        y = torch.where(torch.rand(40) < 0.5, -100, y)
        y[0] = 1
    weight = torch.tensor([0.2, 1.0, 9.0]) if kind in ("weights", "both") else None
    ignore = 2 if kind == "padding" else -100
    if kind == "padding":
        y[0] = 0
    model = nn.Linear(6, 3)
    loss = nn.CrossEntropyLoss(weight=weight, ignore_index=ignore)
    learn = Learner(model, DataLoaders(None, batches_of(x, y, size)), loss)
    expected = loss(model(x), y).item()
    assert learn.evaluate()["loss"] == pytest.approx(expected, rel=1e-4)


def test_objects_and_functions_of_a_whole_epoch_are_metrics():
    torch.manual_seed(3)
    x = torch.randn(60, 6)
    y = (x[:, 0] + 0.5 * torch.randn(60) > 0).long()

    def auc(pred, target):
        return roc_auc(pred[:, 1] - pred[:, 0], target)

    metrics = {"accuracy": accuracy, "auc": EpochMetric(auc), "table": ConfusionMatrix(2)}
    dls = DataLoaders(batches_of(x, y, 8), batches_of(x, y, 7))
    learn = Learner(nn.Linear(6, 2), dls, F.cross_entropy, 0.1, metrics=metrics, progress=False)
    record = learn.fit(2)
    pred = learn.model(x)
    assert record.epochs[-1]["valid_auc"] == pytest.approx(float(auc(pred, y)), abs=1e-6)
    scores = learn.evaluate()
    assert scores["auc"] == pytest.approx(float(auc(pred, y)), abs=1e-6)
    assert scores["table"].sum() == 60 and "valid_table" not in record.epochs[-1]
    assert "valid_auc" in repr(record) and "table" not in repr(record)
    assert {"valid_auc", "train_accuracy"} <= set(learn.result_names())


def test_torchmetrics_work_as_they_are():
    torchmetrics = pytest.importorskip("torchmetrics")
    x = torch.randn(50, 6)
    y = x[:, :3].argmax(1)
    options = {"task": "multiclass", "num_classes": 3}
    metrics = torchmetrics.MetricCollection(
        {
            "f1": torchmetrics.F1Score(average="macro", **options),
            "acc": torchmetrics.Accuracy(**options),
        }
    )
    dls = DataLoaders(batches_of(x, y, 8), batches_of(x, y, 9))
    learn = Learner(nn.Linear(6, 3), dls, F.cross_entropy, 0.1, metrics=metrics, progress=False)
    last = learn.fit(2).epochs[-1]
    whole = torchmetrics.F1Score(average="macro", **options)(learn.model(x), y)
    assert last["valid_f1"] == pytest.approx(whole.item(), abs=1e-6)
    assert {"train_f1", "valid_acc"} <= set(last)
    assert set(learn.evaluate()) == {"loss", "f1", "acc"}


def test_a_metric_that_updates_its_tensor_in_place_is_read_at_once():
    class Running:
        def __init__(self):
            self.value = torch.zeros(())

        def __call__(self, pred, target):
            self.value.lerp_(accuracy(pred, target).float(), 0.5)
            return self.value

    class Copied(Running):
        def __call__(self, pred, target):
            return super().__call__(pred, target).clone()

    last = learner(metrics={"one": Running(), "two": Copied()}).fit(1).epochs[-1]
    assert last["train_one"] == last["train_two"]


def test_a_wrong_metric_is_named_in_the_first_batch():
    learn = learner(metrics={"forgot": lambda pred, target: None})
    with pytest.raises(TypeError, match="'forgot'"):
        learn.fit(1)
    assert learn.n_steps == 1


def test_the_outline_names_who_acts():
    text = outline([MetricsCallback(), Recorder()])
    assert text.count("after_batch") == 2 and "MetricsCallback, Recorder" in text


@pytest.mark.parametrize("kind", ["function", "update", "compute"])
def test_an_error_in_a_metric_says_in_which(kind):
    def broken(pred, target):
        raise RuntimeError("broken")

    class Update(EpochMetric):
        def update(self, pred, target):
            raise RuntimeError("broken")

    metric = {"function": broken, "update": Update(accuracy), "compute": EpochMetric(broken)}[kind]
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    learn = Learner(nn.Linear(4, 3), DataLoaders([(x, y)], [(x, y)]), F.cross_entropy, 0.1,
                    metrics={"fine": accuracy, "mine": metric}, progress=False)  # fmt: skip
    with pytest.raises(RuntimeError, match="broken") as caught:
        learn.fit(1)
    phase = "train" if kind == "function" else "valid"
    assert f"(in metric 'mine', phase '{phase}')" in caught.value.__notes__
