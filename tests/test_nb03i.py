"""Guards: each usual mistake is refused, or explained, in or before the first batch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_learner import learner
from torch import nn

from exp import DataLoaders, Learner

X = torch.randn(16, 4)
CLASSES, NUMBERS = torch.randint(3, (16,)), torch.randn(16)
CE = F.cross_entropy


def fit(model, loss, *batch, **options):
    learn = Learner(model, DataLoaders([batch], None), loss, progress=False, **options)
    learn.fit(1)
    return learn


def explained(error):
    return "\n".join([str(error.value), *getattr(error.value, "__notes__", [])])


@pytest.mark.parametrize(
    ("model", "loss", "batch", "kind", "words"),
    [
        (nn.Linear(4, 3), F.cross_entropy, (X, CLASSES.int()), Exception, "target.long()"),
        (nn.Linear(4, 3), F.cross_entropy, (X, CLASSES + 2), IndexError, "labels are in"),
        (nn.Linear(4, 3), F.cross_entropy, (X, CLASSES - 1), IndexError, "3 outputs"),
        (nn.Linear(4, 3), F.cross_entropy, (X.double(), CLASSES), RuntimeError, "x.float()"),
        (nn.Linear(4, 3), F.cross_entropy, (X, X, CLASSES), TypeError, "forward(input"),
        (nn.Linear(4, 1), nn.MSELoss(), (X, NUMBERS), ValueError, "target[:, None]"),
        (nn.Linear(4, 1), F.l1_loss, (X, NUMBERS), ValueError, "broadcast"),
        (nn.Linear(4, 3), lambda p, t: 0.5, (X, CLASSES), TypeError, "return a float"),
        (
            nn.Linear(4, 3),
            lambda p, t: F.cross_entropy(p, t, reduction="none"),
            (X, CLASSES),
            ValueError,
            "take its mean",
        ),
        (nn.Linear(4, 3), lambda p, t: p.detach().mean(), (X, CLASSES), ValueError, "no gradient"),
        (nn.Linear(5, 3), F.cross_entropy, (X, CLASSES), RuntimeError, "inputs [float32 (16, 4)]"),
        (nn.Linear(4, 3).to("meta"), F.cross_entropy, (X, CLASSES), Exception, "DeviceCallback"),
    ],
)  # fmt: skip
def test_the_first_batch_says_what_to_do(model, loss, batch, kind, words):
    with pytest.raises(kind) as error:
        fit(model, loss, *batch)
    assert words in explained(error)


def test_what_is_known_before_is_refused_before():
    dls = DataLoaders([(X, CLASSES)], None)
    with pytest.raises(TypeError, match=r"CrossEntropyLoss\(\)"):
        Learner(nn.Linear(4, 3), dls, nn.CrossEntropyLoss)
    with pytest.raises(ValueError, match="reduction='mean'"):
        Learner(nn.Linear(4, 3), dls, nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(TypeError, match="write it with"):
        Learner(nn.Linear, dls, F.cross_entropy)
    with pytest.raises(TypeError, match="metrics=\\[accuracy\\]"):
        from exp import accuracy

        Learner(nn.Linear(4, 3), dls, F.cross_entropy, metrics=accuracy)
    for wrong in (True, "0.1", float("nan"), -1, []):
        with pytest.raises(ValueError, match="lr must be"):
            Learner(nn.Linear(4, 3), dls, F.cross_entropy, lr=wrong)
    old = nn.Linear(4, 3)
    other = Learner(
        nn.Linear(4, 3),
        dls,
        F.cross_entropy,
        opt_func=lambda p, lr: torch.optim.SGD(old.parameters(), lr),
    )
    with pytest.raises(ValueError, match="no parameter of this model"):
        other.fit(1)
    frozen = Learner(nn.Linear(4, 3).requires_grad_(False), dls, F.cross_entropy)
    with pytest.raises(ValueError, match="frozen"):
        frozen.fit(1)
    learn = learner()
    for wrong in (
        {},
        {"n_epochs": True},
        {"n_epochs": 0},
        {"n_steps": 0},
        {"n_epochs": 1, "n_steps": 1},
    ):
        with pytest.raises(ValueError, match="n_epochs|n_steps"):
            learn.fit(**wrong)
    empty = Learner(nn.Linear(4, 3), DataLoaders([(X, CLASSES)], []), F.cross_entropy)
    with pytest.raises(ValueError, match="dls.valid has no batches"):
        empty.fit(1)
    assert empty.n_steps == 0


def test_a_model_that_squeezes_itself_is_left_alone():
    """Equal shapes, and losses that are not element-wise, are nobody else's business."""
    fit(nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), nn.MSELoss(), X, NUMBERS)
    fit(nn.Linear(4, 1), lambda p, t: F.mse_loss(p[:, 0], t), X, NUMBERS)


def test_predict_takes_items_and_batches_tensors_and_arrays():
    learn = learner()
    x = torch.randn(5, 6)
    batch = learn.predict(x)
    assert batch.shape == (5, 3)
    for one in (x[0], x[0].numpy(), x[0].double().numpy(), np.float64(x[0].numpy())):
        assert torch.allclose(learn.predict(one), batch[0], atol=1e-6)
    assert torch.allclose(learn.predict(x.numpy()), batch)
    with pytest.raises(ValueError, match="one item like"):
        learn.predict(torch.randn(1, 5, 6))
    with pytest.raises(ValueError, match="one item like"):
        learn.predict(np.float32(1.0))
    blind = Learner(nn.Linear(6, 3), DataLoaders(None, None), F.cross_entropy)
    assert blind.predict(x).shape == (5, 3)


def test_an_iterator_is_not_used_up_by_a_question():
    batches = iter([(X, CLASSES)] * 2)
    learn = Learner(nn.Linear(4, 3), DataLoaders(batches, None), F.cross_entropy, progress=False)
    learn.summary(), learn.predict(X)
    assert len(learn.fit(1).losses) == 2


# ---------------------------------------------------------------- silent mistakes are told


def test_parameters_that_no_group_holds_are_named():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    learn = Learner(model, DataLoaders([(X, CLASSES)], None), F.cross_entropy, progress=False)
    model[1] = nn.Linear(4, 3)  # replaced after the optimizer was made
    with pytest.warns(UserWarning, match="1.weight, 1.bias"):
        learn.fit(1)
    assert learn.summary().n_trained == 20  # what the optimizer holds, and no more
    model[1].requires_grad_(False)
    learn.fit(1)  # frozen on purpose: no warning


def test_shapes_that_broadcast_are_told_in_a_loss_of_ones_own():
    with pytest.warns(UserWarning, match="compare each item with every other"):
        fit(nn.Linear(4, 1), lambda p, t: (p - t).square().mean(), X, NUMBERS)


def test_what_is_no_loader_is_refused():
    from exp import TensorDataset

    data, model = TensorDataset(X, CLASSES), nn.Linear(4, 3)
    for wrong in (DataLoaders(data, None), DataLoaders([(X, CLASSES)], data)):
        with pytest.raises(TypeError, match="is a data set"):
            Learner(model, wrong, F.cross_entropy)
    learn = Learner(model, DataLoaders([(X, CLASSES)], None), F.cross_entropy, progress=False)
    with pytest.raises(TypeError, match="is a data set"):
        learn.evaluate(data)
    with pytest.raises(TypeError, match="call it"):
        Learner(model, DataLoaders(lambda: iter([]), None), F.cross_entropy)
    stream = Learner(model, DataLoaders(iter([(X, CLASSES)]), None), F.cross_entropy)
    with pytest.raises(ValueError, match="used up after one epoch"):
        stream.fit(2)
    with pytest.raises(TypeError, match="the order is Learner"):
        Learner(DataLoaders([(X, CLASSES)], None), model, F.cross_entropy)


@pytest.mark.parametrize(
    "wrong",
    [
        {"loss_func": nn.CrossEntropyLoss(reduction="sum")},
        {"opt_func": "adam"},
        {"opt_func": torch.optim.SGD([nn.Parameter(X)], 0.1)},
        {"progress": "no"},
        {"lr": slice(1e-5, 1e-3)},
    ],
)
def test_wrong_settings_are_refused(wrong):
    options = {"loss_func": F.cross_entropy, **wrong}
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        Learner(nn.Linear(4, 3), DataLoaders([(X, CLASSES)], None), **options)


def test_rates_of_numpy_and_torch_are_numbers():
    dls = DataLoaders([(X, CLASSES)], None)
    for lr in (np.float32(0.5), torch.tensor(0.5)):
        assert Learner(nn.Linear(4, 3), dls, F.cross_entropy, lr=lr).lr == 0.5


def test_a_target_key_is_for_dicts():
    with pytest.raises(TypeError, match="for batches that are dicts"):
        fit(nn.Linear(4, 3), F.cross_entropy, X, CLASSES, target="label")


@pytest.mark.parametrize(
    ("model", "loss", "batch", "words"),
    [
        (nn.Linear(4, 7), CE, (torch.randn(5, 6, 4), torch.ones(5, 6).long()), "sequence_loss"),
        (nn.Linear(4, 1), nn.BCEWithLogitsLoss(), (X, NUMBERS), "target[:, None]"),
        (nn.Linear(4, 3), CE, (X, CLASSES[:, None]), "target[:, 0]"),
        (nn.Linear(4, 3).half(), CE, (X, CLASSES), "MixedPrecision"),
        (nn.Embedding(3, 3), CE, (CLASSES + 1, CLASSES), "num_embeddings of at least 4"),
        (nn.Sequential(nn.BatchNorm1d(4)), CE, (X[:1], CLASSES[:1]), "drop_last"),
        (nn.LSTM(4, 3), CE, (X, CLASSES), "pred[0]"),
        (nn.Conv2d(1, 3, 3), CE, (torch.randn(5, 8, 8), CLASSES[:5]), "adds a channel"),
        (nn.Linear(4, 3), nn.CrossEntropyLoss(X[0, :3].double()), (X, CLASSES), "weight.float()"),
    ],
)  # fmt: skip
def test_more_usual_mistakes_get_their_hint(model, loss, batch, words):
    with pytest.raises(Exception) as error:  # noqa: B017  whatever torch raises
        fit(model, loss, *batch)
    assert words in explained(error)


def test_predictions_need_no_target():
    learn = learner()
    x = torch.randn(10, 6)
    whole = learn.predict(x)
    for loader in ([(x[:4],), (x[4:],)], [x[:4], x[4:]]):
        preds, targets = learn.get_preds(loader)
        assert torch.equal(preds, whole) and targets is None
    with pytest.raises(TypeError, match="in prediction batch 0") as error:
        learn.get_preds([(x, x, x)])
    assert "epoch" not in explained(error)


def test_results_that_are_not_there_yet_say_when_they_will_be():
    from exp import Callback

    class TooEarly(Callback):
        def after_epoch(self, learn):
            learn.results["valid_loss"]

    with pytest.raises(KeyError, match="needs a larger order"):
        learner([TooEarly()]).fit(1)


def test_a_dict_without_a_target_can_be_predicted():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x, label=None):
            return self.layer(x).squeeze(0)

    dicts = [{"x": X, "label": CLASSES}]
    learn = Learner(
        Named(),
        DataLoaders(dicts, None),
        lambda out, b: F.cross_entropy(out, b["label"]),
        progress=False,
    )
    learn.fit(1)
    expected = learn.model(X).detach()
    assert torch.equal(learn.predict({"x": X}), expected)
    assert torch.equal(learn.predict(x=X), expected)
    assert learn.predict(x=X[0].tolist()).ndim < 2
