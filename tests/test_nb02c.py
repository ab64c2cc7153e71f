"""02c_initialisation: the weights, against PyTorch's and against what they promise."""

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp import nb02c
from exp.nb00 import test_eq, test_near
from exp.nb02c import fans, glorot_normal, kaiming_normal, kaiming_uniform

quick = settings(max_examples=40, deadline=None)

sizes = st.integers(1, 4)
seeds = st.integers(0, 2**31)


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


def test_import_is_quiet_and_light():
    code = (
        "import torch, sys; before = set(sys.modules); import exp.nb02c; "
        "new = {name.split('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new & {'matplotlib', 'pandas', 'sklearn', 'numba', 'IPython'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_public_name_says_what_it_does():
    for name in nb02c.__all__:
        thing = getattr(nb02c, name)
        assert (thing.__doc__ or "").strip().endswith((".", "…"))
