"""02_fully_connected: weights, loss, tape and modules, against PyTorch and over many shapes."""

import copy
import math
import multiprocessing
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from exp import nb02
from exp.nb00 import test_eq, test_near
from exp.nb02 import (
    EXP,
    MULTIPLY,
    SUM,
    Linear,
    Module,
    MSELoss,
    Node,
    ReLU,
    Rule,
    Value,
    fans,
    glorot_normal,
    kaiming_normal,
    kaiming_uniform,
    linear,
    mse,
    normalize,
    numerical_gradient,
    sum_to_shape,
    topological_order,
)

quick = settings(max_examples=40, deadline=None)

sizes = st.integers(1, 4)
shapes = st.lists(sizes, max_size=4).map(tuple)
seeds = st.integers(0, 2**31)


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def agree(function, *inputs, tol=1e-10):
    """Fail unless our tape and PyTorch's give the same value and the same gradients."""
    ours = [Value(x.clone()) for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    y, expected = function(*ours), function(*theirs)
    test_near(y.data, expected.detach(), tol)
    g = draw(*expected.shape, seed=1)
    y.backward(g)
    expected.backward(g)
    for value, tensor in zip(ours, theirs, strict=True):
        test_near(value.grad, tensor.grad, tol)


@st.composite
def broadcastable(draw_from):
    """Two shapes that broadcast against each other, either of them the larger one."""
    full = draw_from(shapes)
    parts = []
    for _ in range(2):
        kept = full[draw_from(st.integers(0, len(full))) :]
        parts.append(tuple(draw_from(st.sampled_from([1, n])) for n in kept))
    return parts


# --- data, weights, loss -------------------------------------------------------------------------


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
@given(sizes, sizes, st.lists(sizes, max_size=2))
def test_fans_are_those_of_torch(n_out, n_in, kernel):
    shape = (n_out, n_in, *kernel)
    test_eq(fans(shape), nn.init._calculate_fan_in_and_fan_out(torch.empty(shape)))


@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (3, 0)])
def test_fans_refuse_other_shapes(shape):
    with pytest.raises(ValueError, match="n_out, n_in"):
        fans(shape)


@quick
@given(
    st.tuples(sizes, sizes, sizes), st.floats(0, 3), st.sampled_from(["fan_in", "fan_out"]), seeds
)
def test_weights_are_drawn_as_torch_draws_them(shape, a, mode, seed):
    def rng():
        return torch.Generator().manual_seed(seed)

    empty = torch.empty(shape, dtype=torch.float64)
    for ours, theirs, options in (
        (glorot_normal, nn.init.xavier_normal_, {"gain": 1 + a}),
        (kaiming_normal, nn.init.kaiming_normal_, {"a": a, "mode": mode}),
        (kaiming_uniform, nn.init.kaiming_uniform_, {"a": a, "mode": mode}),
    ):
        drawn = ours(shape, generator=rng(), dtype=torch.float64, **options)
        test_near(drawn, theirs(empty, generator=rng(), **options), 1e-12)


@pytest.mark.parametrize(
    "weights, expected",
    [
        (glorot_normal((300, 500)), 2 / 800),
        (kaiming_normal((300, 500)), 2 / 500),
        (kaiming_normal((300, 500), mode="fan_out"), 2 / 300),
        (kaiming_uniform((300, 500)), 2 / 500),
        (kaiming_uniform((300, 500), a=math.sqrt(5)), 1 / (3 * 500)),
    ],
)
def test_variance_of_the_weights(weights, expected):
    assert weights.dtype == torch.float32
    assert abs(weights.var().item() / expected - 1) < 0.03
    assert abs(weights.mean().item()) < 0.01


def test_kaiming_keeps_the_signal_and_glorot_halves_it():
    rng = torch.Generator().manual_seed(0)

    def size_after(weights, layers=20):
        x = torch.randn(64, 512, generator=rng)
        for _ in range(layers):
            x = (x @ weights((512, 512), generator=rng).T).clamp(min=0)
        return x.pow(2).mean().item()

    assert 0.3 < size_after(kaiming_normal) < 3
    assert 0.3 < size_after(glorot_normal) * 2**20 < 3


def test_mode_is_checked():
    for weights in (kaiming_normal, kaiming_uniform):
        with pytest.raises(ValueError, match="'fan_in' or 'fan_out', got 'fan'"):
            weights((3, 4), mode="fan")


@quick
@given(shapes, shapes)
def test_mse_takes_equal_shapes_only(first, second):
    pred, target = draw(*first), draw(*second, seed=1)
    if first == second:
        agree(mse, pred, target)
        test_near(mse(pred, target), nn.functional.mse_loss(pred, target), 1e-12)
        return
    for wrapped in (pred, Value(pred)):
        with pytest.raises(ValueError, match="equal shapes"):
            mse(wrapped, target)


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


# --- the tape: every operation -------------------------------------------------------------------


@quick
@given(broadcastable(), seeds, st.sampled_from("+-*/"))
def test_arithmetic_with_broadcasting(pair, seed, sign):
    a, b = draw(*pair[0], seed=seed), draw(*pair[1], seed=seed + 1).abs() + 0.5
    functions = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }
    agree(functions[sign], a, b)
    agree(functions[sign], b, b.clone())
    agree(lambda b: functions[sign](a, b), b)  # a tensor on the left, which knows no Value
    agree(lambda a: functions[sign](a, b), a)
    agree(lambda b: functions[sign](3, b), b)
    agree(lambda a: functions[sign](a, 3), a)


@quick
@given(shapes, seeds)
def test_functions_of_one_value(shape, seed):
    x = draw(*shape, seed=seed)
    for function in (
        lambda a: a.exp(),
        lambda a: a.tanh(),
        lambda a: a.relu(),
        lambda a: -a,
        lambda a: (a * a + 1).log(),
        lambda a: a**2,
        lambda a: a**3.0,
    ):
        agree(function, x)
    agree(lambda a: a**0.5 + a**-1.5, x.abs() + 0.5)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 0.5, -1])
def test_powers_at_zero_are_those_of_torch(exponent):
    ours, theirs = Value(torch.zeros(1)), torch.zeros(1, requires_grad=True)
    (ours**exponent).sum().backward()
    (theirs**exponent).sum().backward()
    assert torch.equal(ours.grad, theirs.grad)  # infinities included


def test_relu_at_zero_and_at_infinity_is_that_of_torch():
    ends = torch.tensor([0.0, -0.0, math.inf, -math.inf], dtype=torch.float64)
    ours, theirs = Value(ends), ends.clone().requires_grad_()
    ours.relu().sum().backward()
    theirs.relu().sum().backward()
    test_eq(ours.grad, theirs.grad)
    test_eq(ours.relu().data, ends.relu())


@quick
@given(st.lists(sizes, max_size=2), sizes, sizes, sizes, seeds, st.integers(0, 2), st.data())
def test_matmul(batch, n, k, m, seed, cut, data):
    left = (*[data.draw(st.sampled_from([1, size])) for size in batch], n, k)
    right = (*batch[cut:], k, m)
    agree(lambda a, b: a @ b, draw(*left, seed=seed), draw(*right, seed=seed + 1))
    agree(lambda a, b: a @ b, draw(k, seed=seed), draw(*right, seed=seed + 1))
    agree(lambda a, b: a @ b, draw(*left, seed=seed), draw(k, seed=seed + 1))
    agree(lambda a, b: a @ b, draw(k, seed=seed), draw(k, seed=seed + 1))
    agree(lambda b: draw(*left, seed=seed) @ b, draw(*right, seed=seed + 1))


@quick
@given(shapes, seeds, st.booleans(), st.data())
def test_sum_and_mean(shape, seed, keepdim, data):
    x = draw(*shape, seed=seed)
    dims = st.integers(-len(shape), len(shape) - 1) if shape else st.sampled_from([0, -1])
    dim = data.draw(st.none() | dims)
    agree(lambda a: a.sum(dim, keepdim=keepdim) * 2, x)
    agree(lambda a: a.mean(dim, keepdim=keepdim) * 2, x)
    if len(shape) > 2:
        agree(lambda a: a.mean((0, -1), keepdim=keepdim) * 2, x)


@quick
@given(st.lists(sizes, min_size=2, max_size=4), seeds, st.data())
def test_shapes(shape, seed, data):
    x = draw(*shape, seed=seed)
    places = st.integers(-len(shape), len(shape) - 1)
    i, j = data.draw(places), data.draw(places)
    agree(lambda a: a.transpose(i, j).exp(), x)
    agree(lambda a: a.reshape(-1, shape[0]).exp(), x)
    agree(lambda a: a.reshape(1, -1).T.exp(), x)


@pytest.mark.parametrize(
    "index",
    [
        0,
        -1,
        ...,
        None,
        slice(1, 3),
        (slice(None), 1),
        (..., None, 0),
        [0, 0, 2],
        torch.tensor([2, 0, 2, 2]),
        (torch.tensor([0, 0, 1]), torch.tensor([1, 1, 2])),
        torch.arange(12).reshape(3, 4) % 3 == 0,
        (slice(None, None, 2), [1, 1]),
    ],
    ids=str,
)
def test_index(index):
    agree(lambda a: a[index] * 2, draw(3, 4))


@quick
@given(broadcastable())
def test_sum_to_shape_undoes_broadcasting(pair):
    small, other = map(torch.Size, pair)
    full = torch.broadcast_shapes(small, other)
    g = draw(*full)
    leaf = torch.zeros(small, dtype=g.dtype, requires_grad=True)
    leaf.expand(full).backward(g)
    test_near(sum_to_shape(g, small), leaf.grad, 1e-12)


# --- the tape: what is composed ------------------------------------------------------------------


@quick
@given(seeds)
def test_random_compositions(seed):
    def function(*leaves):
        rng, values = torch.Generator().manual_seed(seed), list(leaves)
        for _ in range(25):
            i, j, kind = (
                torch.randint(n, (), generator=rng).item() for n in (len(values), len(values), 8)
            )
            a, b = values[i], values[j]
            values.append(
                [
                    a + b,
                    a - b,
                    (a * b).tanh(),
                    a / (1 + b * b),
                    a.relu() * b,
                    (a.tanh() - 1).exp(),
                    a.mean(0, keepdim=True),
                    b[:1] * a,
                ][kind]
            )
        return sum(value.sum() for value in values) / 10

    agree(function, draw(2, 3, seed=seed), draw(1, 3, seed=seed + 1), draw(2, 1, seed=seed + 2))


def test_diamonds():
    agree(lambda a: a * a + a, draw(3))
    agree(lambda a: (a.exp() * a.tanh()) / (a.exp() + 1), draw(3))

    def chain_of_diamonds(a):  # 2 to the 60 paths, but 60 nodes
        for _ in range(60):
            a = (a + a) / 2
        return a

    agree(chain_of_diamonds, draw(3))


@pytest.mark.parametrize("length", [5_000, 50_000])
def test_long_chains_need_no_recursion(length):
    leaf = Value(torch.ones(2))
    y = leaf
    for _ in range(length):
        y = y + 1.0
    assert len(topological_order(y)) == length + 1
    y.sum().backward()
    test_eq(leaf.grad, torch.ones(2))
    del y  # nor does forgetting them


def test_a_value_used_ten_thousand_times():
    leaf = Value(draw())
    sum(leaf * i for i in range(10_000)).backward()
    test_eq(leaf.grad, float(sum(range(10_000))))


def test_order_puts_every_node_behind_what_it_depends_on():
    a, b = Value(draw(2)), Value(draw(2))
    y = ((a * b).exp() + a * (a * b)).sum()
    order = topological_order(y)
    place = {node: i for i, node in enumerate(order)}
    assert len(place) == len(order) and order[-1] is y
    for node in order:
        assert all(place[i] < place[node] for i in node.inputs if isinstance(i, Node))


def test_gradients_add_up_over_calls_and_only_at_leaves():
    a, b = Value(draw(3)), Value(draw(3, seed=1))
    middle = a * b
    loss = middle.sum()
    loss.backward()
    loss.backward()
    test_near(a.grad, 2 * b.data, 1e-12)
    assert middle.grad is None and Value(draw(2)).grad is None


def test_gradients_do_not_share_memory():
    a, b, c = (Value(torch.ones(3)) for _ in range(3))
    (a + b).sum().backward()
    a.grad.mul_(7)  # as clipping would
    test_eq(b.grad, torch.ones(3))
    g = torch.ones(3)
    c.backward(g)
    c.grad.mul_(7)
    test_eq(g, torch.ones(3))


def test_a_leaf_is_its_own_gradient():
    leaf = Value(torch.tensor(3.0))
    leaf.backward()
    test_eq(leaf.grad, torch.tensor(1.0))


def test_gradients_have_the_type_of_what_they_belong_to():
    narrow = Value(torch.ones(3, dtype=torch.float32))
    wide = Value(torch.ones(3, dtype=torch.float64))
    (narrow * wide).sum().backward()
    assert narrow.grad.dtype == torch.float32 and wide.grad.dtype == torch.float64


@pytest.mark.parametrize("which", ["leaf", "constant", "output"])
def test_a_change_in_place_is_noticed(which):
    leaf, constant = Value(draw(3)), draw(3, seed=1)
    output = (leaf * constant).exp()
    loss = output.sum()
    {"leaf": leaf.data, "constant": constant, "output": output.data}[which].add_(1)
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_a_step_before_backward_is_noticed_and_one_after_is_fine():
    w = Value(draw(3))
    loss = (w * w).sum()
    loss.backward()
    w.data -= 0.1 * w.grad
    with pytest.raises(RuntimeError, match="'multiply'"):
        loss.backward()
    (w * w).sum().backward()


def test_numpy_does_not_take_values_apart():
    value = Value(draw(3))
    with pytest.raises(TypeError):  # not an array of three objects
        value.data.numpy() * value


def test_mistakes_on_the_tape():
    value = Value(draw(2, 3))
    for data, got in (([1.0], "list"), (torch.tensor([1]), "int64"), (1.0, "float")):
        with pytest.raises(TypeError, match=f"floating-point numbers have gradients, got.*{got}"):
            Value(data)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) needs a gradient"):
        value.backward()
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        value.backward(torch.ones(3))
    with pytest.raises(TypeError, match="exponent must be a number"):
        value**value
    with pytest.raises(TypeError):
        value + "one"
    with pytest.raises(RuntimeError):
        value @ value


def test_a_rule_with_a_formula_missing_is_an_error():
    broken = Rule("broken", lambda a, b: a * b, (lambda g, y, a, b: g * b,))
    with pytest.raises(ValueError):
        Node.apply(broken, Value(draw(2)), Value(draw(2))).backward(draw(2))


def test_rules_can_be_used_without_operators():
    node = Node(draw(3))
    twice = Node.apply(MULTIPLY, Node.apply(EXP, node), 2.0)
    Node.apply(SUM, twice, dim=None, keepdim=False).backward()
    test_near(node.grad, 2 * node.data.exp(), 1e-12)


def test_values_print_themselves():
    assert repr(Value(torch.ones(2, 3))) == "Value(shape (2, 3), leaf)"
    assert repr(Value(torch.tensor(1.5)) * 2) == "Value(3, from multiply)"


# --- modules -------------------------------------------------------------------------------------


class Net(Module):
    def __init__(self, n_in=4, n_hidden=5, n_out=2):
        self.layers = [Linear(n_in, n_hidden, dtype=torch.float64), ReLU()]
        self.head = Linear(n_hidden, n_out, bias=False, dtype=torch.float64)
        self.scale = Value(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(x) * self.scale


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
    test_near(ours(x).data, theirs(x).detach(), 1e-12)
    ours(x).backward(g)
    theirs(x).backward(g)
    test_near(
        {name: value.grad for name, value in ours.named_parameters()},
        {name: parameter.grad for name, parameter in theirs.named_parameters()},
        1e-11,
    )
    theirs = TorchNet(n_in, n_hidden, n_out)
    ours.load_state_dict(theirs.state_dict())
    test_near(ours(x).data, theirs(x).detach(), 1e-12)


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
    tied(x).sum().backward()
    w = tied.first.weight.data.clone().requires_grad_()
    (x @ w.T @ w.T).sum().backward()
    test_near(tied.first.weight.grad, w.grad)
    again = Tied()
    again.load_state_dict(tied.state_dict())
    assert again.second.weight is again.first.weight
    test_eq(again.state_dict(), tied.state_dict())


def test_only_leaves_are_parameters():
    net = Net()
    names = [name for name, _ in net.named_parameters()]
    net.last_output = net(draw(1, 4))  # a result, kept for a look
    net.note, net.sizes = "text", (4, 5)
    test_eq([name for name, _ in net.named_parameters()], names)
    del net.head
    test_eq([name for name, _ in net.named_parameters()], names[:-1])


def test_parts_are_found_in_lists_and_dicts_within_each_other():
    class Blocks(Module):
        def __init__(self):
            self.blocks = [[Linear(2, 3, bias=False), ReLU()], (Linear(3, 1),)]
            self.heads = {"digit": Linear(3, 4, bias=False), "scales": [Value(torch.ones(2))]}

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
    net(draw(2, 4)).sum().backward()
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


def test_linear_starts_with_kaiming_and_repeats_under_a_seed():
    first, second = (Linear(400, 300, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    test_eq(first.state_dict(), second.state_dict())
    test_eq(first.bias.data, torch.zeros(300))
    assert abs(first.weight.data.var().item() * 400 / 2 - 1) < 0.02
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
        twin(draw(2, 4)).sum().backward()


def _sum_of(net):
    return sum(value.data.sum().item() for value in net.parameters())


def test_modules_travel_to_spawned_workers():
    net = Net()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_sum_of, (net,)) == pytest.approx(_sum_of(net))


def test_gradient_descent_finds_the_true_line():
    x, weight, bias = draw(200, 3), draw(2, 3, seed=1), draw(2, seed=2)
    target, layer = x @ weight.T + bias, Linear(3, 2, dtype=torch.float64)
    for _ in range(300):
        layer.zero_grad()
        mse(layer(x), target).backward()
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
        assert isinstance(thing, Rule) or (thing.__doc__ or "").strip().endswith((".", "…"))


@pytest.mark.cuda
def test_the_tape_works_on_a_gpu():
    x, w = draw(4, 3).cuda(), draw(3, 2, seed=1).cuda()
    ours, theirs, scale = Value(w), w.clone().requires_grad_(), Value(torch.tensor(2.0))
    ((x @ ours).tanh()[[0, 0, 2]] * scale).mean().backward()
    ((x @ theirs).tanh()[[0, 0, 2]] * 2.0).mean().backward()
    test_near(ours.grad, theirs.grad, 1e-12)
    assert scale.grad.device.type == "cpu"


def test_broadcastable_makes_both_kinds_of_pairs():
    seen = set()

    @quick
    @given(broadcastable())
    def collect(pair):
        assume(pair[0] != pair[1])
        seen.add(len(pair[0]) > len(pair[1]))

    collect()
    assert seen == {True, False}
