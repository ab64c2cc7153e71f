"""02_fully_connected: loss, gradients by hand and modules, against PyTorch and over many shapes."""

import copy
import math
import multiprocessing
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp import nb02
from exp.nb00 import test_eq, test_near
from exp.nb02 import (
    Linear,
    Module,
    MSELoss,
    ReLU,
    Trainable,
    linear,
    mse,
    normalize,
    numerical_gradient,
)

quick = settings(max_examples=40, deadline=None)

sizes = st.integers(1, 4)
shapes = st.lists(sizes, max_size=4).map(tuple)
seeds = st.integers(0, 2**31)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# --- data and loss -------------------------------------------------------------------------------


def test_normalize_uses_the_statistics_it_is_given():
    train, other = 3 + 2 * draw(500, 4), draw(7, 4, seed=1)
    mean, std = train.mean(0), train.std(0)
    test_near(normalize(train, mean, std).mean(0), torch.zeros(4), 1e-9)
    test_near(normalize(train, mean, std).std(0), torch.ones(4), 1e-9)
    test_near(normalize(other, mean, std), (other - mean) / std, 1e-12)


@pytest.mark.parametrize("std", [0, -1.0, math.nan, math.inf, torch.tensor([1.0, 0.0])])
def test_normalize_refuses_what_is_no_spread(std):
    with pytest.raises(ValueError, match="positive and finite"):
        normalize(torch.ones(2), 0.0, std)


@quick
@given(shapes, shapes)
def test_mse_takes_equal_shapes_only(first, second):
    pred, target = draw(*first), draw(*second, seed=1)
    if first == second:
        test_near(mse(pred, target), nn.functional.mse_loss(pred, target), 1e-12)
        return
    with pytest.raises(ValueError, match="equal shapes"):
        mse(pred, target)


def test_the_trap_would_hide_a_wrong_loss():
    target = draw(50)
    wrong = (target[:, None] - target).pow(2).mean()  # of a perfect prediction
    test_near(wrong, 2 * target.var(unbiased=False), 1e-9)
    for loss in (mse, MSELoss()):
        with pytest.raises(ValueError, match=r"pred \(50, 1\) and target \(50,\)"):
            loss(target[:, None], target)


# --- numerical gradients -------------------------------------------------------------------------


@quick
@given(shapes, seeds)
def test_numerical_gradient_is_autograds(shape, seed):
    x = draw(*shape, seed=seed)
    before = x.clone()
    leaf = x.clone().requires_grad_()
    (leaf.tanh() * leaf).sum().backward()
    test_near(numerical_gradient(lambda x: (x.tanh() * x).sum(), x), leaf.grad, 1e-8)
    test_eq(x, before)


def test_numerical_gradient_refuses_float32_and_several_numbers():
    with pytest.raises(TypeError, match="float64"):
        numerical_gradient(torch.sum, torch.ones(2))
    with pytest.raises((ValueError, RuntimeError)):
        numerical_gradient(lambda x: x, torch.ones(2, dtype=torch.float64))


# --- modules -------------------------------------------------------------------------------------


class Net(Module):
    def __init__(self, n_in=4, n_hidden=5, n_out=2):
        self.layers = [Linear(n_in, n_hidden, dtype=torch.float64), ReLU()]
        self.head = Linear(n_hidden, n_out, bias=False, dtype=torch.float64)
        self.scale = Trainable(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        self._y = self.head(x)
        return self._y * self.scale.data

    def backward(self, g):
        self.scale.grad = (g * self._y).sum()
        g = self.head.backward(g * self.scale.data)
        for layer in reversed(self.layers):
            g = layer.backward(g)
        return g


class TorchNet(nn.Module):
    def __init__(self, n_in=4, n_hidden=5, n_out=2):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(n_in, n_hidden, dtype=torch.float64), nn.ReLU()])
        self.head = nn.Linear(n_hidden, n_out, bias=False, dtype=torch.float64)
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x) * self.scale


@quick
@given(sizes, sizes, sizes, st.lists(sizes, max_size=3), seeds)
def test_a_network_is_its_twin_in_torch(n_in, n_hidden, n_out, batch, seed):
    ours, theirs = Net(n_in, n_hidden, n_out), TorchNet(n_in, n_hidden, n_out)
    test_eq(
        [name for name, _ in ours.named_parameters()],
        [name for name, _ in theirs.named_parameters()],
    )
    theirs.load_state_dict(ours.state_dict())
    x, g = draw(*batch, n_in, seed=seed), draw(*batch, n_out, seed=seed + 1)
    x_theirs = x.clone().requires_grad_()
    test_near(ours(x), theirs(x_theirs).detach(), 1e-12)
    at_input = ours.backward(g)
    theirs(x_theirs).backward(g)
    test_near(at_input, x_theirs.grad, 1e-11)
    test_near(
        {name: value.grad for name, value in ours.named_parameters()},
        {name: parameter.grad for name, parameter in theirs.named_parameters()},
        1e-11,
    )
    theirs = TorchNet(n_in, n_hidden, n_out)
    ours.load_state_dict(theirs.state_dict())
    test_near(ours(x), theirs(x).detach(), 1e-12)


@quick
@given(shapes, seeds)
def test_the_loss_knows_its_gradient(shape, seed):
    pred, target, loss = draw(*shape, seed=seed), draw(*shape, seed=seed + 1), MSELoss()
    leaf = pred.clone().requires_grad_()
    expected = nn.functional.mse_loss(leaf, target)
    expected.backward()
    test_near(loss(pred, target), expected.detach(), 1e-12)
    test_near(loss.backward(), leaf.grad, 1e-12)


def test_gradients_add_up_until_they_are_cleared():
    layer, x, g = Linear(3, 2, dtype=torch.float64), draw(4, 3), draw(4, 2, seed=1)
    for _ in range(2):
        layer(x)
        layer.backward(g)
    test_near(layer.weight.grad, 2 * g.T @ x, 1e-12)
    test_near(layer.bias.grad, 2 * g.sum(0), 1e-12)


def test_what_can_be_trained():
    for data, got in (([1.0], "list"), (torch.tensor([1]), "int64"), (1.0, "float")):
        with pytest.raises(TypeError, match=f"floating-point numbers have gradients, got.*{got}"):
            Trainable(data)
    assert Trainable(torch.ones(2, 3)).shape == (2, 3) and Trainable(torch.ones(1)).grad is None


def test_loading_parameters_of_torch_does_not_drag_its_graph_along():
    ours, theirs = Net(), TorchNet()
    ours.load_state_dict(dict(theirs.named_parameters()))
    assert not any(value.data.requires_grad for value in ours.parameters())
    theirs.head.weight.data.zero_()
    assert ours.head.weight.data.abs().sum() > 0  # a copy


def test_a_shared_parameter_counts_once_and_is_saved_under_both_names():
    class Tied(Module):
        def __init__(self):
            self.first = Linear(3, 3, bias=False)
            self.second = Linear(3, 3, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(self.first(x))

    tied = Tied()
    test_eq([name for name, _ in tied.named_parameters()], ["first.weight"])
    test_eq(list(tied.state_dict()), ["first.weight", "second.weight"])
    assert len(list(tied.parameters())) == 1
    x = torch.eye(3)
    tied.first.backward(tied.second.backward(torch.ones_like(tied(x))))
    w = tied.first.weight.data.clone().requires_grad_()
    (x @ w.T @ w.T).sum().backward()
    test_near(tied.first.weight.grad, w.grad, 1e-5)
    again = Tied()
    again.load_state_dict(tied.state_dict())
    assert again.second.weight is again.first.weight
    test_eq(again.state_dict(), tied.state_dict())


def test_only_leaves_are_parameters():
    net = Net()
    names = [name for name, _ in net.named_parameters()]
    net.last_output = net(draw(1, 4))  # a result, kept for a look
    net.note, net.sizes = "text", (4, 5)
    net._private = [Trainable(torch.ones(2))]
    test_eq([name for name, _ in net.named_parameters()], names)
    del net.head
    test_eq([name for name, _ in net.named_parameters()], names[:-1])


def test_parts_are_found_in_lists_and_dicts_within_each_other():
    class Blocks(Module):
        def __init__(self):
            self.blocks = [[Linear(2, 3, bias=False), ReLU()], (Linear(3, 1),)]
            self.heads = {"digit": Linear(3, 4, bias=False), "scales": [Trainable(torch.ones(2))]}

    test_eq(
        [name for name, _ in Blocks().named_parameters()],
        [
            "heads.scales.0",
            "blocks.0.0.weight",
            "blocks.1.0.weight",
            "blocks.1.0.bias",
            "heads.digit.weight",
        ],
    )


def test_a_state_that_does_not_fit_is_refused_whole():
    net = Net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = {name: tensor + 1 for name, tensor in before.items()}
    state["haed.weight"] = state.pop("head.weight")
    state["scale"] = torch.ones(3)
    with pytest.raises(ValueError) as error:
        net.load_state_dict(state)
    for part in (
        "missing 'head.weight'",
        "unknown 'haed.weight'",
        "'scale' has shape (3,), not ()",
    ):
        assert part in str(error.value)
    test_eq(net.state_dict(), before)


def test_a_misspelt_attribute_is_an_error_with_a_suggestion():
    net = Net()
    with pytest.raises(AttributeError, match="Net has no attribute 'haed'; did you mean 'head'"):
        net.haed.weight.data.zero_()
    with pytest.raises(AttributeError, match="no attribute 'zzzzzzzz'$"):
        _ = net.zzzzzzzz
    assert not hasattr(net, "weights") and getattr(net, "weights", 3) == 3


def test_zero_grad_forgets():
    net = Net()
    net.backward(torch.ones_like(net(draw(2, 4))))
    assert all(value.grad is not None for value in net.parameters())
    net.zero_grad()
    assert all(value.grad is None for value in net.parameters())


def test_modules_say_what_is_missing():
    with pytest.raises(NotImplementedError, match=r"Module must define forward\(self, …\)"):
        Module()(1)
    for sizes in ((0, 3), (3, 0), (-1, 1)):
        with pytest.raises(ValueError, match="at least 1"):
            Linear(*sizes)
    with pytest.raises(ValueError, match="has 3 numbers in its last axis, this layer takes 4"):
        Net()(draw(2, 3))
    with pytest.raises(ValueError, match="this layer takes 4"):
        linear(draw(2, 3), draw(5, 4))


def test_linear_keeps_the_variance_and_repeats_under_a_seed():
    first, second = (Linear(400, 300, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    test_eq(first.state_dict(), second.state_dict())
    test_eq(first.bias.data, torch.zeros(300))
    assert abs(first.weight.data.var().item() * 400 - 1) < 0.02
    assert "bias" not in Linear(2, 3, bias=False).state_dict()


def test_modules_print_their_size():
    assert repr(Net()).splitlines() == [
        "Net, 36 parameters",
        "    layers.0: Linear, 25 parameters",
        "    layers.1: ReLU, 0 parameters",
        "    head: Linear, 10 parameters",
    ]


def test_copies_and_pickles_are_independent():
    net = Net()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        test_eq(twin.state_dict(), net.state_dict())
        twin.head.weight.data.zero_()
        assert net.head.weight.data.abs().sum() > 0
        twin.backward(torch.ones_like(twin(draw(2, 4))))


def _sum_of(net):
    return sum(value.data.sum().item() for value in net.parameters())


def test_modules_travel_to_spawned_workers():
    net = Net()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_sum_of, (net,)) == pytest.approx(_sum_of(net))


def test_gradient_descent_finds_the_true_line():
    x, weight, bias = draw(200, 3), draw(2, 3, seed=1), draw(2, seed=2)
    target, layer, loss = x @ weight.T + bias, Linear(3, 2, dtype=torch.float64), MSELoss()
    for _ in range(300):
        layer.zero_grad()
        loss(layer(x), target)
        layer.backward(loss.backward())
        for value in layer.parameters():
            value.data -= 0.3 * value.grad
    test_near(layer.weight.data, weight, 1e-6)
    test_near(layer.bias.data, bias, 1e-6)


# --- the module ----------------------------------------------------------------------------------


def test_import_is_quiet_and_light():
    code = (
        "import torch, sys; before = set(sys.modules); import exp.nb02; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new & {'matplotlib', 'pandas', 'sklearn', 'numba', 'IPython'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_public_name_says_what_it_does():
    for name in nb02.__all__:
        thing = getattr(nb02, name)
        assert (thing.__doc__ or "").strip().endswith((".", "…"))
