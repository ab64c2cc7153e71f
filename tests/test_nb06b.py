"""06b_resnet: norms against PyTorch's over many shapes, ResNet's keys, a summary without traces."""

import copy
import pickle
import random
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb06b import (
    BasicBlock,
    BatchNorm,
    Bottleneck,
    GroupNorm,
    LayerNorm,
    ResNet,
    conv,
    resnet18,
    resnet34,
    resnet50,
    summary,
)

quick = settings(max_examples=30, deadline=None)
sizes = st.integers(1, 4)


def pass_through(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [x, *module.parameters()], g)]


@quick
@given(
    B=st.integers(2, 5),
    C=sizes,
    places=st.lists(sizes, max_size=2).map(tuple),
    eps=st.sampled_from([1e-5, 1e-2]),
    momentum=st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    modes=st.lists(st.booleans(), min_size=1, max_size=4),
)
def test_batch_norm(B, C, places, eps, momentum, modes):
    kind = nn.BatchNorm2d if len(places) == 2 else nn.BatchNorm1d
    ours = BatchNorm(C, eps, momentum).double()
    theirs = kind(C, eps, momentum).double()
    theirs.weight.data.uniform_()
    theirs.bias.data.uniform_()
    ours.load_state_dict(theirs.state_dict())
    for training in modes:
        x = 3 + 2 * torch.randn(B, C, *places, dtype=torch.float64)
        test_near(*(pass_through(m.train(training), x) for m in (ours, theirs)), tol=1e-8)
        test_near(dict(ours.state_dict()), dict(theirs.state_dict()), tol=1e-12)


def test_batch_norm_stores_the_unbiased_and_uses_the_biased_variance():
    norm, x = BatchNorm(1, momentum=1.0), torch.tensor([[0.0], [2.0]])
    test_near(norm(x).flatten(), torch.tensor([-1.0, 1.0]), tol=1e-4)  # variance 1
    test_near(norm.running_var, torch.tensor([2.0]))


def test_a_frozen_norm_does_not_move_and_one_number_is_refused():
    model = nn.Sequential(BatchNorm(3), nn.Linear(3, 3))
    model.train()
    model[0].eval()
    before = copy.deepcopy(model[0].state_dict())
    model(torch.randn(8, 3))
    test_eq(dict(model[0].state_dict()), dict(before))
    fresh = BatchNorm(3)
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(ValueError, match="more than one number"):
        fresh(torch.randn(1, 3))
    test_eq(dict(fresh.state_dict()), dict(before))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_batch_norm_of_sixteen_bits(dtype):
    x = (3 + 2 * torch.randn(8, 4, 5, 5)).to(dtype)
    ours, theirs = BatchNorm(4), nn.BatchNorm2d(4)
    for training in (True, False):
        ys = [m.train(training)(x) for m in (ours, theirs)]
        assert ys[0].dtype == ys[1].dtype == dtype
        test_near(*ys, tol=0.02)
    assert ours.running_mean.dtype == torch.float32
    test_near(dict(ours.state_dict()), dict(theirs.state_dict()), tol=1e-3)


def test_norms_on_another_device():
    """On `meta`, which refuses what is on another device, as a GPU does."""
    x = torch.empty(2, 4, 3, 3, device="meta")
    with torch.device("meta"):
        norms = [BatchNorm(4), GroupNorm(2, 4), LayerNorm((3, 3)), BatchNorm(4).eval()]
    assert {norm(x).device.type for norm in norms} == {"meta"}


@quick
@given(B=sizes, groups=sizes, per_group=sizes, H=sizes, W=st.integers(2, 5))
def test_layer_instance_and_group_norm(B, groups, per_group, H, W):
    C = groups * per_group
    x = 3 + 2 * torch.randn(B, C, H, W, dtype=torch.float64)
    for ours, theirs in (
        (GroupNorm(groups, C), nn.GroupNorm(groups, C)),
        (GroupNorm(C, C), nn.InstanceNorm2d(C, affine=True)),
        (LayerNorm((H, W)), nn.LayerNorm((H, W))),
        (LayerNorm(W), nn.LayerNorm(W)),
    ):
        theirs.weight.data.uniform_()
        ours.double().load_state_dict(theirs.double().state_dict())
        test_near(pass_through(ours, x), pass_through(theirs, x), tol=1e-8)


@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d, lambda n: GroupNorm(2, n)])
def test_conv_has_a_bias_only_without_a_norm(norm):
    block = conv(3, 4, 5, stride=2, norm=norm)
    assert (block[0].bias is None) == (norm is not None)
    assert block(torch.randn(2, 3, 9, 8)).shape == (2, 4, 5, 4)
    assert len(conv(3, 4, norm=norm, activation=None)) == 1 + (norm is not None)


# --- ResNet --------------------------------------------------------------------------------------

NORM = ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]


def torchvision_keys(counts, convolutions, basic):
    """The keys of torchvision's resnets, written down from their documentation."""
    keys = ["conv1.weight", *(f"bn1.{name}" for name in NORM)]
    for stage, count in enumerate(counts, 1):
        for block in range(count):
            at = f"layer{stage}.{block}"
            for n in range(1, convolutions + 1):
                keys += [f"{at}.conv{n}.weight", *(f"{at}.bn{n}.{name}" for name in NORM)]
            if block == 0 and not (stage == 1 and basic):
                keys += [
                    f"{at}.downsample.0.weight",
                    *(f"{at}.downsample.1.{name}" for name in NORM),
                ]
    return [*keys, "fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    ("build", "counts", "convolutions", "parameters"),
    [
        (resnet18, (2, 2, 2, 2), 2, 11_689_512),
        (resnet34, (3, 4, 6, 3), 2, 21_797_672),
        (resnet50, (3, 4, 6, 3), 3, 25_557_032),
    ],
)
def test_resnet_has_torchvisions_keys_and_shapes(build, counts, convolutions, parameters):
    with torch.device("meta"):
        net = build()
    state = net.state_dict()
    assert list(state) == torchvision_keys(counts, convolutions, convolutions == 2)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert state["conv1.weight"].shape == (64, 3, 7, 7)
    out = 512 if convolutions == 2 else 2048
    assert state["fc.weight"].shape == (1000, out)
    for stage, width in enumerate((64, 128, 256, 512), 1):
        expansion = out // 512
        before = 64 if stage == 1 else width // 2 * expansion
        first = state[f"layer{stage}.0.conv1.weight"]
        assert first.shape == ((width, before, 3, 3) if expansion == 1 else (width, before, 1, 1))
        if f"layer{stage}.0.downsample.0.weight" in state:
            assert state[f"layer{stage}.0.downsample.0.weight"].shape == (
                width * expansion,
                before,
                1,
                1,
            )


@pytest.mark.parametrize(
    ("build", "mac"),
    [(resnet18, 1_814_073_344), (resnet34, 3_663_761_408), (resnet50, 4_089_184_256)],
)
def test_flops_of_resnets_as_published(build, mac):
    with torch.device("meta"):
        assert summary(build(), torch.empty(1, 3, 224, 224)).flops == 2 * mac


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
@pytest.mark.parametrize("small_images", [True, False])
def test_resnet_takes_any_size_and_pickles(block, small_images):
    net = ResNet(block, [1, 2], 5, 2, width=4, small_images=small_images).eval()
    for size in ((8, 8), (33, 17)):
        x = torch.randn(2, 2, *size)
        test_eq(pickle.loads(pickle.dumps(net))(x), net(x))
        assert net(x).shape == (2, 5)


# --- summary -------------------------------------------------------------------------------------


class Draws(nn.Module):
    """Draws random numbers of both kinds in evaluation, too."""

    def forward(self, x):
        return x + torch.rand(1) + random.random()


def test_summary_leaves_no_trace_and_counts():
    model = nn.Sequential(
        conv(1, 4, 3, stride=2), Draws(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 16, 3)
    )
    model[0][1].eval()
    model[4].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    modes = [m.training for m in model.modules()]
    drawn, state = torch.get_rng_state(), random.getstate()
    table = summary(model, torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    test_eq(dict(model.state_dict()), dict(before))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), drawn)
    assert random.getstate() == state
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())
    assert table.flops == 2 * (2 * 4 * 16) * 9 + 2 * 2 * 3 * 64
    assert table.parameters == 4 * 9 + 8 + 64 * 3 + 3
    assert re.search(r"total\s+239\s", repr(table))


def test_summary_after_an_exception():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Linear(5, 2))
    with pytest.raises(RuntimeError):
        summary(model, torch.randn(2, 1, 8, 8))
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
