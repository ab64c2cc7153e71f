"""02b_autograd: numbers that remember and the tape, against PyTorch and over many shapes."""

import copy
import math
import pickle
import random
import subprocess
import sys

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from exp import nb02b
from exp.nb00 import test_eq, test_near
from exp.nb02 import Linear, Module, linear, mse
from exp.nb02b import (
    EXP,
    MULTIPLY,
    SUM,
    Node,
    Rule,
    Scalar,
    Value,
    as_scalar,
    order_of_making,
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


# --- numbers that remember -----------------------------------------------------------------------


@quick
@given(st.lists(st.floats(-2, 2), min_size=3, max_size=3), seeds)
def test_scalars_have_the_gradients_of_torch(numbers, seed):
    def function(*leaves):
        rng, values = random.Random(seed), list(leaves)
        for _ in range(12):
            a, b = rng.choice(values), rng.choice(values)
            kinds = (a + b, a * b * 0.5, a - b, (a * b).tanh(), 2 * a, 1 - b, 1 + a)
            values.append(rng.choice(kinds).tanh())
        return sum(values[3:], values[0])

    ours = [Scalar(number) for number in numbers]
    theirs = [torch.tensor(n, dtype=torch.float64, requires_grad=True) for n in numbers]
    y, expected = function(*ours), function(*theirs)
    y.backward()
    expected.backward()
    test_near(y.data, expected.item(), 1e-9)
    test_near(
        [s.grad for s in ours], [0.0 if t.grad is None else t.grad.item() for t in theirs], 1e-9
    )


def test_a_scalar_used_again_and_asked_again():
    a, b = Scalar(3), Scalar(4)
    middle = a * b
    y = a * a + middle
    y.backward()
    assert (y.data, a.grad, b.grad, middle.grad) == (21, 10, 3, 1)
    y.backward()  # leaves add up, as in torch; what lies between starts afresh
    assert (a.grad, b.grad, middle.grad) == (20, 6, 1)
    assert repr(Scalar(2)) == "Scalar(2, gradient 0)"


def test_order_of_making_is_sources_first():
    a = Scalar(1.0)
    for _ in range(60):  # 2 to the 60 paths
        a = a + a
    order = order_of_making(a)
    place = {scalar: i for i, scalar in enumerate(order)}
    assert len(place) == 61 and order[-1] is a
    assert all(place[source] < place[s] for s in order for source, _ in s.sources)
    assert as_scalar(a) is a and as_scalar(2).data == 2.0


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


# --- modules on the tape -------------------------------------------------------------------------


@quick
@given(shapes, seeds)
def test_mse_of_values(shape, seed):
    agree(mse, draw(*shape, seed=seed), draw(*shape, seed=seed + 1))
    with pytest.raises(ValueError, match="equal shapes"):
        mse(Value(draw(2, 3)), draw(3))


class TapeLinear(Module):
    def __init__(self, n_in, n_out, bias=True):
        start = Linear(n_in, n_out, bias, dtype=torch.float64)
        self.weight = Value(start.weight.data)
        self.bias = Value(start.bias.data) if bias else None

    def forward(self, x):
        return linear(x, self.weight, self.bias)


class Net(Module):
    def __init__(self, n_in=4, n_hidden=5, n_out=2):
        self.layers = [TapeLinear(n_in, n_hidden), TapeLinear(n_hidden, n_hidden)]
        self.head = TapeLinear(n_hidden, n_out, bias=False)
        self.scale = Value(torch.ones((), dtype=torch.float64))

    def forward(self, x):
        x = self.layers[0](x).relu()
        x = (self.layers[1](x) + self.layers[1](-x)).relu()  # used twice
        return self.head(x) * self.scale


class TorchNet(nn.Module):
    def __init__(self, n_in=4, n_hidden=5, n_out=2):
        super().__init__()
        options = {"dtype": torch.float64}
        self.layers = nn.ModuleList(
            [nn.Linear(n_in, n_hidden, **options), nn.Linear(n_hidden, n_hidden, **options)]
        )
        self.head = nn.Linear(n_hidden, n_out, bias=False, **options)
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    forward = Net.forward


@quick
@given(sizes, sizes, sizes, st.lists(sizes, max_size=3), seeds)
def test_a_network_on_the_tape_is_its_twin_in_torch(n_in, n_hidden, n_out, batch, seed):
    ours, theirs = Net(n_in, n_hidden, n_out), TorchNet(n_in, n_hidden, n_out)
    names = [name for name, _ in theirs.named_parameters()]
    test_eq([name for name, _ in ours.named_parameters()], names)
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


def test_results_on_the_tape_are_no_parameters():
    net = Net()
    names = [name for name, _ in net.named_parameters()]
    net.last_output = net(draw(1, 4))  # a result, kept for a look
    test_eq([name for name, _ in net.named_parameters()], names)


def test_modules_on_the_tape_are_copied_and_pickled():
    net = Net()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        test_eq(twin.state_dict(), net.state_dict())
        twin.head.weight.data.zero_()
        assert net.head.weight.data.abs().sum() > 0
        twin(draw(2, 4)).sum().backward()


# --- the module ----------------------------------------------------------------------------------


def test_import_is_quiet_and_light():
    code = (
        "import torch, sys; before = set(sys.modules); import exp.nb02b; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new & {'matplotlib', 'pandas', 'sklearn', 'numba', 'IPython'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_public_name_says_what_it_does():
    for name in nb02b.__all__:
        thing = getattr(nb02b, name)
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
