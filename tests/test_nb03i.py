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
