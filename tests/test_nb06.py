"""06_cuda_cnn_hooks_init: convolution and pooling over many shapes; a glance at a batch."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb06 import (
    Conv2d,
    adaptive_avg_pool2d,
    avg_pool2d,
    conv2d,
    conv_output_size,
    max_pool2d,
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


def loaders(generator=None):
    x = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    items = TensorDataset(x, torch.arange(12) % 3)
    return DataLoaders(
        DataLoader(items, 6, shuffle=True, generator=generator), DataLoader(items, 6)
    )


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
