"""Interpretation: one pass, the worst items, what the network looked at, labels that are wrong."""

import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb04 import Learner
from exp.nb06b import BasicBlock, ResNet
from exp.nb07b import (
    Interpretation,
    class_activation_map,
    item_losses,
)


class Fixed(nn.Module):
    """Its outputs are its inputs."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x * self.scale


def learner(scores, targets, loss=F.cross_entropy, batch_size=4, vocab=None):
    loader = DataLoader(TensorDataset(scores, targets), batch_size)
    learn = Learner(Fixed(), DataLoaders(loader, loader), loss, progress=False)
    return learn


@given(st.integers(1, 30), st.integers(2, 5), st.integers(1, 9), st.integers(1, 12))
@settings(deadline=None, max_examples=30)
def test_one_pass_finds_what_sorting_all_finds(n, n_classes, batch_size, k):
    generator = torch.Generator().manual_seed(n * 100 + k)
    scores = torch.randn(n, n_classes, generator=generator)
    targets = torch.randint(0, n_classes, (n,), generator=generator)
    found = Interpretation(learner(scores, targets, batch_size=batch_size), k=k)
    losses = F.cross_entropy(scores, targets, reduction="none")
    order = losses.argsort(descending=True)[:k]
    assert [one.index for one in found.worst] == order.tolist()
    assert [one.loss for one in found.worst] == pytest.approx(losses[order].tolist())
    assert found.loss == pytest.approx(losses.mean().item(), rel=1e-5) and found.n_items == n
    wanted = torch.zeros(n_classes, n_classes, dtype=torch.int64)
    for t, p in zip(targets, scores.argmax(1), strict=True):
        wanted[t, p] += 1
    assert torch.equal(found.confusion, wanted)
    shares = scores.softmax(1)
    own = shares[torch.arange(n), targets]
    doubt = shares.scatter(1, targets[:, None], -1).amax(1) - own
    assert [one.index for one in found.suspects] == doubt.argsort(descending=True)[:k].tolist()


def test_the_worst_come_with_their_own_inputs():
    scores = torch.eye(4)[[0, 1, 2, 3]] * 5
    found = Interpretation(learner(scores, torch.tensor([0, 1, 2, 0])), k=1)
    (worst,) = found.worst
    assert torch.equal(worst.inputs[0], scores[3]) and int(worst.target) == 0
    assert worst.inputs[0].untyped_storage().nbytes() == 4 * 4  # a copy, not the batch


def test_most_confused_and_names():
    scores = torch.eye(3)[[0, 1, 1, 1, 2]]
    found = Interpretation(learner(scores, torch.tensor([0, 0, 0, 1, 1])), vocab=["a", "b", "c"])
    assert found.most_confused() == [("a", "b", 2, 2 / 3), ("b", "c", 1, 1 / 2)]
    assert found.most_confused(min_count=2) == [("a", "b", 2, 2 / 3)]
    assert "5 items, 2 right" in repr(found) and "loss 1.6\nsays" in found.title(found.worst[0])


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        lambda pred, target: F.cross_entropy(pred, target),
        lambda pred, target: F.nll_loss(F.log_softmax(pred, 1), target),
    ],
)
def test_the_loss_of_each_item(loss):
    scores, targets = torch.randn(7, 3), torch.randint(0, 3, (7,))
    wanted = torch.stack([loss(scores[i : i + 1], targets[i : i + 1]) for i in range(7)])
    assert torch.allclose(item_losses(loss, scores, targets), wanted, atol=1e-6)
    if isinstance(loss, nn.Module):
        assert loss.reduction == "mean"


def test_the_loss_of_items_with_several_targets():
    pred, target = torch.randn(5, 4, 2), torch.randn(5, 4, 2)
    wanted = ((pred - target) ** 2).mean((1, 2))
    assert torch.allclose(item_losses(F.mse_loss, pred, target), wanted)
    bits = (target > 0).float()
    loss = F.binary_cross_entropy_with_logits
    wanted = loss(pred, bits, reduction="none").mean((1, 2))
    assert torch.allclose(item_losses(loss, pred, bits), wanted)


def test_losses_whose_items_cannot_be_told_apart():
    def strange(pred, target, reduction="mean"):
        return pred.sum() / len(pred)

    learn = learner(torch.randn(6, 3), torch.zeros(6, dtype=torch.int64), strange)
    with pytest.raises(ValueError, match="per_item"):
        Interpretation(learn)
    found = Interpretation(learn, per_item=lambda pred, target: pred.sum(1))
    assert len(found.worst) == 6
    with pytest.raises(ValueError, match="a loss for each of the 4 items"):
        Interpretation(learn, per_item=strange)


def test_targets_that_are_no_classes():
    x = torch.randn(6, 2)
    found = Interpretation(learner(x, x + torch.arange(6)[:, None], F.mse_loss), k=2)
    assert [one.index for one in found.worst] == [5, 4]
    for ask in (lambda: found.confusion, found.most_confused, found.plot_confusion,
                found.probable_mislabels):  # fmt: skip
        with pytest.raises(ValueError):
            ask()
    assert "says" in found.title(found.worst[0]) and "6 items;" in repr(found)


def test_what_is_refused():
    scores, targets = torch.randn(6, 3), torch.zeros(6, dtype=torch.int64)
    learn = learner(scores, targets)
    with pytest.raises(ValueError, match="the loader shuffles"):
        Interpretation(learn, DataLoader(TensorDataset(scores, targets), 2, shuffle=True))
    with pytest.raises(ValueError, match="k must be"):
        Interpretation(learn, k=0)
    broken = scores.clone()
    broken[3] = float("nan")
    with pytest.raises(ValueError, match="the loss of item 3 is nan"):
        Interpretation(learner(broken, targets))
    with pytest.raises(ValueError, match="validation set"):
        Interpretation(Learner(Fixed(), DataLoaders([(scores, targets)]), F.cross_entropy))
    found = Interpretation(learn)
    with pytest.raises(ValueError, match="only pictures can be drawn"):
        found.show()


def test_nothing_changes(tmp_path):
    torch.manual_seed(0)
    model = ResNet(BasicBlock, [1, 1], 3, in_channels=1, width=4, small_images=True)
    data = TensorDataset(torch.randn(12, 1, 16, 16), torch.randint(0, 3, (12,)))
    loader = DataLoader(data, 4)
    learn = Learner(model, DataLoaders(loader, loader), F.cross_entropy, progress=False)
    learn.fit(1)
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    found = Interpretation(learn, k=3)
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("agg")
    found.show(maps=True)
    found.plot_confusion()
    assert len(pyplot.gcf().axes) and not any(m._forward_hooks for m in model.modules())
    pyplot.close("all")
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


# what the network looked at


@pytest.mark.parametrize("frozen", [False, True])
def test_the_map_adds_up_to_the_score(frozen):
    torch.manual_seed(1)
    model = ResNet(BasicBlock, [1, 1], 5, width=4, small_images=True).eval()
    model.requires_grad_(not frozen)
    x, classes = torch.randn(3, 3, 24, 16), torch.tensor([4, 0, 2])
    maps = class_activation_map(model, x, classes)
    scores = model(x)[torch.arange(3), classes] - model.fc.bias[classes]
    assert torch.allclose(maps.mean((1, 2)), scores, atol=1e-4)
    assert torch.equal(maps, class_activation_map(model, x, classes, "layer2"))
    assert not model.training and all(p.grad is None for p in model.parameters())


def test_the_map_finds_a_planted_dot():
    """A network that counts bright pixels looks at the bright one."""
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    model[0].weight.data = torch.tensor([1.0, -1.0])[:, None, None, None]
    model[3].weight.data = torch.eye(2)
    x = torch.zeros(1, 1, 7, 9)
    x[0, 0, 5, 2] = 9
    maps = class_activation_map(model, x, torch.tensor([0]))
    assert divmod(int(maps[0].argmax()), 9) == (5, 2)


def test_maps_that_cannot_be():
    x, classes = torch.randn(1, 3, 8, 8), torch.tensor([0])
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(ValueError, match="convolutional"):
        class_activation_map(flat, x, classes)
    with pytest.raises(ValueError, match="no layer 'body'"):
        class_activation_map(flat, x, classes, "body")
    with pytest.raises(ValueError, match="scores of classes"):
        class_activation_map(nn.Conv2d(3, 2, 1), x, classes)


# wrong labels


def test_a_wrong_label_is_the_first_suspect():
    targets = torch.arange(20) % 4
    scores = torch.eye(4)[targets] * 3
    targets[7] = (targets[7] + 1) % 4
    found = Interpretation(learner(scores, targets), k=5)
    assert [one.index for one in found.probable_mislabels()] == [7]
    assert found.suspects[0].doubt > 0.8 and found.source(found.suspects[0]) == "item 7"


# memory


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_validation_set_larger_than_memory():
    """290 MB of pictures under a limit of 100 MB beyond what the process has before."""
    program = textwrap.dedent("""
        import resource, torch
        import torch.nn.functional as F
        from torch import nn
        from exp import DataLoader, DataLoaders, Interpretation, Learner
        class Pictures:
            def __len__(self): return 6000
            def __getitem__(self, i): return torch.full((3, 64, 64), i / 6000), i % 10
        torch.set_num_threads(1)
        loader = DataLoader(Pictures(), 64)
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 10))
        learn = Learner(model, DataLoaders(loader, loader), F.cross_entropy, progress=False)
        learn.evaluate([next(iter(loader))])
        now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + 100 * 2**20,) * 2)
        found = Interpretation(learn, loader, k=20)
        print(found.n_items, len(found.worst), len(found.suspects))
        try:
            kept = [batch for batch in loader]
            print("fits")
        except (MemoryError, RuntimeError):
            print("does not fit")
    """)
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert told.stdout.split("\n")[:2] == ["6000 20 20", "does not fit"], told.stderr
