"""06_cuda_cnn_hooks_init: convolution and pooling over many shapes, hooks, statistics, LSUV."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb04 import Callback, CancelFit, Learner
from exp.nb06 import (
    ActivationStats,
    ActivationStatsCallback,
    Conv2d,
    ForwardHooks,
    adaptive_avg_pool2d,
    avg_pool2d,
    conv2d,
    conv_output_size,
    describe_outputs,
    lsuv,
    max_pool2d,
    modules_of_kind,
    show_batch,
    windows,
)

quick = settings(max_examples=40, deadline=None)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def agree(ours, theirs, *inputs, tol=1e-10):
    """Fail unless two functions give the same value and the same gradients."""
    results = []
    for function in (ours, theirs):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = function(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y, leaves, draw(*y.shape, seed=1))])
    test_near(*results, tol)


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


sizes = dict(
    B=st.integers(1, 3),
    H=st.integers(1, 9),
    W=st.integers(1, 9),
    k=pairs(1, 4),
    s=pairs(1, 3),
    p=pairs(0, 3),
    d=pairs(1, 3),
)


def fits(H, W, k, p, d):
    return all(n + 2 * p[i] >= d[i] * (k[i] - 1) + 1 for i, n in enumerate((H, W)))


@quick
@given(G=st.integers(1, 3), C=st.integers(1, 3), O=st.integers(1, 3), bias=st.booleans(), **sizes)
def test_conv2d_and_its_gradients(B, G, C, O, H, W, k, s, p, d, bias):  # noqa: E741
    assume(fits(H, W, k, p, d))
    inputs = [draw(B, G * C, H, W), draw(G * O, C, *k, seed=2)] + bias * [draw(G * O, seed=3)]
    options = dict(stride=s, padding=p, dilation=d, groups=G)
    agree(lambda *x: conv2d(*x, **options), lambda *x: F.conv2d(*x, **options), *inputs)


def test_conv2d_of_what_does_not_lie_in_order():
    x = draw(2, 8, 9, 4).transpose(1, 3)[:, :, 1:]  # (2, 4, 8, 8), strided, with an offset
    weight = draw(3, 4, 3, 3, seed=1)
    agree(conv2d, F.conv2d, x, weight)
    test_near(conv2d(x[:1].expand(3, -1, -1, -1), weight), F.conv2d(x[[0, 0, 0]], weight))


def test_an_empty_batch_is_a_batch():
    x, weight = draw(0, 2, 5, 5), draw(3, 2, 3, 3)
    agree(conv2d, F.conv2d, x, weight)
    assert max_pool2d(x, 2).shape == avg_pool2d(x, 2).shape == (0, 2, 2, 2)
    assert adaptive_avg_pool2d(x, 3).shape == (0, 2, 3, 3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_shapes_and_dtypes_on_another_device(dtype):
    """On `meta`, which refuses what is on another device, as a GPU does."""
    with torch.device("meta"):
        layer = Conv2d(4, 6, 3, 2, 1, groups=2, dtype=dtype)
    x = torch.empty(2, 4, 9, 8, device="meta", dtype=dtype)
    for y in (layer(x), max_pool2d(x, 3, 2, 1), avg_pool2d(x, 3, 2, 1), adaptive_avg_pool2d(x, 3)):
        assert (y.device.type, y.dtype) == ("meta", dtype)
    assert describe_outputs(x).device.type == "meta"


@quick
@given(C=st.integers(1, 3), **sizes)
def test_unfold(B, C, H, W, k, s, p, d):
    assume(fits(H, W, k, p, d))
    x = draw(B, C, H, W)
    view = windows(x, k, s, p, d)
    test_eq(view.shape[2:4], tuple(map(conv_output_size, (H, W), k, s, p, d)))
    ours = view.permute(0, 1, 4, 5, 2, 3).flatten(4).flatten(1, 3)
    test_eq(ours, F.unfold(x, k, d, p, s))


@quick
@given(C=st.integers(1, 3), **sizes)
def test_pooling(B, C, H, W, k, s, p, d):
    p = tuple(min(a, b // 2) for a, b in zip(p, k, strict=True))  # torch allows no more
    assume(fits(H, W, k, p, (1, 1)))
    x = draw(B, C, H, W)
    agree(lambda x: max_pool2d(x, k, s, p), lambda x: F.max_pool2d(x, k, s, p), x)
    agree(lambda x: avg_pool2d(x, k, s, p), lambda x: F.avg_pool2d(x, k, s, p), x)
    ties = x.round()
    test_eq(max_pool2d(ties, k, s, p), F.max_pool2d(ties, k, s, p))


@quick
@given(B=st.integers(1, 2), H=st.integers(1, 9), W=st.integers(1, 9), size=pairs(1, 10))
def test_adaptive_pooling(B, H, W, size):
    agree(
        lambda x: adaptive_avg_pool2d(x, size),
        lambda x: F.adaptive_avg_pool2d(x, size),
        draw(B, 2, H, W),
    )


@pytest.mark.parametrize(
    "settings", [(3, 8, 3), (4, 6, (3, 5), 2, 1, 2, 2), (2, 4, 1, 1, 0, 1, 1, False)]
)
def test_layer_starts_as_torchs_and_pickles(settings):
    torch.manual_seed(3)
    ours = Conv2d(*settings)
    torch.manual_seed(3)
    theirs = nn.Conv2d(*settings)
    test_near(dict(ours.state_dict()), dict(theirs.state_dict()), tol=1e-6)
    x = draw(2, settings[0], 12, 12).float()
    test_near(pickle.loads(pickle.dumps(ours))(x), theirs(x))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: conv2d(draw(1, 3, 8, 8), draw(2, 1, 3, 3)), "3 channels"),
        (lambda: conv2d(draw(1, 2, 8, 8), draw(3, 1, 3, 3), groups=2), "divide"),
        (lambda: conv2d(draw(2, 8, 8), draw(2, 2, 3, 3)), r"\(B, C, H, W\)|needs x"),
        (lambda: windows(draw(1, 1, 8, 8), 9), "does not fit"),
        (lambda: windows(draw(1, 1, 8, 8), 3, padding=-1), "padding"),
        (lambda: windows(draw(1, 1, 8, 8), (3, 3, 3)), "kernel_size"),
        (lambda: windows(draw(1, 1, 8, 8), True), "kernel_size must be a whole number"),
        (lambda: Conv2d(3, 8, 3, groups=2), "divide"),
        (lambda: conv_output_size(8, 3, stride=0), "at least 1"),
        (lambda: max_pool2d(draw(1, 1, 8, 8), 2, stride=0), "stride"),
        (lambda: max_pool2d(draw(1, 1, 8, 8), 2, padding=2), "half a window"),
        (lambda: avg_pool2d(draw(1, 1, 8, 8), (3, 2), padding=(2, 0)), "half a window"),
    ],
)
def test_clear_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- hooks and statistics ------------------------------------------------------------------------


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 36, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def hooks_left(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_hooks_come_off_after_an_exception_and_do_not_change_the_output():
    model, x = small().eval(), torch.randn(2, 1, 8, 8)
    expected, seen = model(x), []
    with ForwardHooks(
        modules_of_kind(model, nn.Module), lambda name, module, output: seen.append(name) or 7
    ):
        test_eq(model(x), expected)
    assert (len(seen), hooks_left(model)) == (9, 0)
    with pytest.raises(KeyError), ForwardHooks(modules_of_kind(model, nn.ReLU), lambda *a: 1 / 0):
        raise KeyError
    assert hooks_left(model) == 0


def test_hooks_that_cannot_all_be_set_leave_none():
    model = small()
    modules = {**modules_of_kind(model, nn.ReLU), "no module": object()}
    with pytest.raises(AttributeError), ForwardHooks(modules, print):
        pass
    assert hooks_left(model) == 0


def test_statistics_leave_no_trace():
    model, x = small(), torch.randn(6, 1, 8, 8)
    twin = copy.deepcopy(model)
    torch.manual_seed(1)
    plain = twin(x)
    torch.manual_seed(1)
    with ActivationStats(model) as stats:
        test_eq(model(x), plain)
        state = torch.get_rng_state()
    test_eq(dict(model.state_dict()), dict(twin.state_dict()))
    test_eq(torch.get_rng_state(), (torch.manual_seed(1), twin(x), torch.get_rng_state())[-1])
    test_eq(state, torch.get_rng_state())
    assert hooks_left(model) == 0
    assert [stats.numbers(name).shape for name in stats.names] == [(1, 3), (1, 3)]
    assert not stats.numbers("2").requires_grad


def test_dead_units_are_counted():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
    with torch.no_grad():
        model[0].bias[:2] = -1e3
        model[0].bias[2:] = 1e3
    with ActivationStats(model) as stats:
        model(torch.randn(10, 3))
        model.eval()(torch.randn(10, 3))
    test_near(stats.numbers("1")[:, 2], torch.tensor([0.4]))
    assert stats.histogram("1").sum() == 50


class Stop(Callback):
    def __init__(self, error):
        self.error = error

    def after_loss(self, learn):
        raise self.error


def loaders(generator=None):
    x = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    items = TensorDataset(x, torch.arange(12) % 3)
    return DataLoaders(
        DataLoader(items, 6, shuffle=True, generator=generator), DataLoader(items, 6)
    )


def test_the_callback_counts_training_batches_and_comes_off():
    watch = ActivationStatsCallback()
    learn = Learner(small(), loaders(), F.cross_entropy)
    learn.fit(2, callbacks=[watch])
    assert [watch.stats.numbers(name).shape for name in watch.stats.names] == [(4, 3)] * 2
    assert hooks_left(learn.model) == 0
    with pytest.raises(ZeroDivisionError):
        learn.fit(1, callbacks=[watch, Stop(ZeroDivisionError())])
    assert hooks_left(learn.model) == 0
    learn.fit(1, callbacks=[watch, Stop(CancelFit())])
    assert hooks_left(learn.model) == 0


@pytest.mark.parametrize("own", [True, False])
def test_show_batch_moves_no_random_numbers(own, monkeypatch):
    pyplot = pytest.importorskip("matplotlib.pyplot")
    monkeypatch.setattr(pyplot, "show", lambda: None)
    generator = torch.Generator().manual_seed(4) if own else None
    both = loaders(generator)
    before = torch.get_rng_state(), own and generator.get_state()
    show_batch(both, 4)
    pyplot.close("all")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert not own or torch.equal(generator.get_state(), before[1])


def test_lsuv_scales_weights_and_nothing_else():
    model, x = small(), torch.randn(64, 1, 8, 8)
    model[1].eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    rng = torch.get_rng_state()
    found = lsuv(model, x)
    assert list(found) == ["0", "5", "7"]
    test_eq(torch.get_rng_state(), rng)
    assert [m.training for m in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        changed = name in ("0.weight", "5.weight", "7.weight")
        assert torch.equal(tensor, before[name]) != changed, name
    spreads = []
    with ForwardHooks(
        {name: model.get_submodule(name) for name in found},
        lambda name, module, y: spreads.append(y.var().item()),
    ):
        model.eval()(x)
    test_near(spreads, [1.0] * 3, tol=0.011)


def test_lsuv_that_fails_leaves_no_hooks_the_mode_and_the_weights():
    model = small()
    with torch.no_grad():
        model[5].weight.zero_()
        model[5].bias.zero_()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="'5'"):
        lsuv(model, torch.randn(8, 1, 8, 8))
    assert hooks_left(model) == 0
    assert model.training
    test_eq(dict(model.state_dict()), dict(before))


def test_lsuv_moves_no_random_numbers_of_a_model_that_draws():
    class Noise(nn.Module):
        def forward(self, x):
            return x + 0.1 * torch.randn_like(x)

    model = nn.Sequential(Noise(), nn.Linear(4, 4))
    x, before = torch.randn(50, 4), torch.get_rng_state()
    lsuv(model, x, tol=0.1)
    test_eq(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv1d])
def test_lsuv_under_weight_norm(kind):
    layers = [kind(6, 6, *(1,) * (kind is nn.Conv1d)) for _ in range(2)]
    model = nn.Sequential(layers[0], nn.Tanh(), layers[1])
    for layer in layers:
        nn.utils.parametrizations.weight_norm(layer)
    x, params = torch.randn(200, 6, 6), dict(model.named_parameters())
    lsuv(model, x, kinds=kind)
    assert model(x).var().item() == pytest.approx(1, abs=0.011)
    assert model[0](x).var().item() == pytest.approx(1, abs=0.011)
    assert all(params[name] is p for name, p in model.named_parameters())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "wrap, message",
    [
        (nn.utils.weight_norm, "computed from others"),
        (nn.utils.parametrizations.spectral_norm, "as by spectral_norm"),
    ],
)
def test_lsuv_refuses_a_weight_that_it_cannot_scale(wrap, message):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), wrap(nn.Linear(4, 4)))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        lsuv(model, torch.randn(50, 4))
    test_eq(dict(model.state_dict()), dict(before))


def test_units_of_nan_are_dead():
    x = torch.tensor([[1.0, float("nan"), 0.0, -1.0], [0.0, 5.0, 0.0, -2.0]])
    assert describe_outputs(x)[2] == 0.75
