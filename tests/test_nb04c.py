"""Weights, in whole or in part, from files of any kind; exported models."""

import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from small_learner import noisy
from torch import nn

from exp.nb00 import test_eq
from exp.nb03h import write_state
from exp.nb04c import (
    export_model,
    load_exported,
    load_weights,
    read_weights,
    save_weights,
    unwrapped,
)
from exp.nb06b import BasicBlock, Bottleneck, ResNet, resnet18

# ---------------------------------------------------------------- weights


def test_weights_of_another_model_are_refused_with_their_keys(tmp_path):
    path = save_weights(noisy(), tmp_path / "w")
    other = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))
    before = {name: t.clone() for name, t in other.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_weights(other, path)
    message = str(caught.value)
    for part in ("unknown '3.weight'", "unknown '1.running_mean'", "'1.weight' is (8,)", "(3, 8)"):
        assert part in message, part
    test_eq(other.state_dict(), before)


WRAPPERS = {
    "plain": lambda model: model,
    "compiled": partial(torch.compile, backend="eager"),
    "parallel": nn.DataParallel,
    "both": lambda model: torch.compile(nn.DataParallel(model), backend="eager"),
    "a part": lambda model: nn.Sequential(torch.compile(model[0], backend="eager"), *model[1:]),
}


@pytest.mark.parametrize("writer", WRAPPERS)
@pytest.mark.parametrize("reader", WRAPPERS)
def test_wrappers_do_not_matter(tmp_path, writer, reader):
    model = WRAPPERS[writer](noisy())
    save_weights(model, tmp_path / "ours")
    torch.save(model.state_dict(), tmp_path / "theirs.pt")
    for name in ("ours", "theirs.pt"):
        other = WRAPPERS[reader](noisy())
        report = load_weights(other, tmp_path / name)
        values = list(unwrapped(other).state_dict().values())
        test_eq(values, list(unwrapped(model).state_dict().values()))
        assert len(report.loaded) == len(values)
        assert not (report.missing or report.unused or report.misfits)


def test_a_layer_that_is_called_module_keeps_its_name(tmp_path):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.weight = nn.Linear(2, 2), nn.Parameter(torch.randn(3))

    model, other = Pair(), Pair()
    assert set(model.state_dict()) == {"weight", "module.weight", "module.bias"}
    load_weights(other, save_weights(model, tmp_path / "w"))
    test_eq(other.state_dict(), model.state_dict())


def test_files_of_others(tmp_path):
    from safetensors.torch import save_file

    model = noisy()
    state = model.state_dict()
    save_file(state, tmp_path / "plain.safetensors")
    torch.save(state, tmp_path / "zip.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "lightning.ckpt")
    torch.save({"model_state_dict": state, "loss": 0.5}, tmp_path / "tutorial.pt")
    torch.save({"model": state, "optimizer": {}}, tmp_path / "torchvision.pth")
    for path in sorted(tmp_path.iterdir()):
        other = noisy()
        load_weights(other, path)
        test_eq(other.state_dict(), state)


def test_files_that_could_run_code_or_hold_no_weights(tmp_path):
    torch.save(noisy(), tmp_path / "module.pt")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"w": print}))
    torch.save(noisy().state_dict(), tmp_path / "torn.pt")
    (tmp_path / "torn.pt").write_bytes((tmp_path / "torn.pt").read_bytes()[:-100])
    (tmp_path / "text").write_text("some words that are not weights")
    (tmp_path / "empty").touch()
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(ValueError, match=str(path)) as caught:
            load_weights(noisy(), path)
        assert "state_dict" in str(caught.value), path
    with pytest.raises(FileNotFoundError, match="no file"):
        read_weights(tmp_path / "nothing")


def test_a_part_of_the_weights(tmp_path):
    path = save_weights(noisy(), tmp_path / "w")
    source = read_weights(path)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4), nn.Linear(4, 2)
    )
    before = {name: t.clone() for name, t in model.state_dict().items()}
    report = load_weights(model, path, partial=True)
    assert report.missing == ["4.weight", "4.bias"] and report.unused == []
    assert report.misfits == {
        "3.weight": ("(3, 8) torch.float32", "(4, 8) torch.float32"),
        "3.bias": ("(3,) torch.float32", "(4,) torch.float32"),
    }
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, (source if name in report.loaded else before)[name])
    text = repr(report)
    for part in (
        "loaded 7 of 11 tensors from",
        "missing in the file: 4.weight, 4.bias",
        "of another shape or type: 3.weight is (3, 8)",
    ):
        assert part in text, part
    report = load_weights(nn.Sequential(nn.Linear(6, 8)), path, partial=True)
    assert report.loaded == ["0.weight", "0.bias"] and "3.bias" in report.unused
    with pytest.raises(ValueError, match="another model.*unknown '0.bias'"):
        load_weights(nn.Linear(3, 3), path, partial=True)
    with pytest.raises(ValueError, match="partial=True"):
        load_weights(model, path)


def test_a_lazy_model_takes_weights(tmp_path):
    make = lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(3))  # noqa: E731
    model, other = make(), make()
    model(torch.randn(4, 6))
    load_weights(other, save_weights(model, tmp_path / "w"))
    test_eq(other.state_dict(), model.state_dict())
    test_eq(other.eval()(torch.ones(2, 6)), model.eval()(torch.ones(2, 6)))
    with pytest.raises(TypeError, match="run one batch through the model first"):
        save_weights(make(), tmp_path / "w")


# ---------------------------------------------------------------- exported models


def make_model(width, layers=1) -> nn.Module:
    return nn.Sequential(*[nn.Linear(width, width) for _ in range(layers)])


def test_export_by_function_and_by_path(tmp_path):
    model = make_model(3, layers=2)
    for factory in (make_model, f"{__name__}:make_model"):
        arguments = {"width": 3, "layers": 2}
        path = export_model(model, tmp_path / "m", factory, arguments, {"k": [1, "a"]})
        twin, extra = load_exported(path, trusted=[__name__])
        test_eq(twin.state_dict(), model.state_dict())
        assert extra == {"k": [1, "a"]} and not twin.training
        with pytest.raises(ValueError, match="none of the packages"):
            load_exported(path)


def test_exports_that_would_not_load_are_refused(tmp_path):
    model = make_model(3)

    def local(width) -> nn.Module:
        return make_model(width)

    for factory, arguments, error, message in (
        (lambda width: make_model(width), {"width": 3}, ValueError, "cannot import"),
        (local, {"width": 3}, ValueError, "cannot import"),
        (make_model, {"width": 4}, ValueError, r"'0.bias' is \(3,\)"),
        (make_model, {"width": 3, "layers": 2}, ValueError, "missing '1.weight'"),
        ("json:loads", {"s": "1"}, ValueError, "must be a subclass of torch.nn.Module"),
    ):
        with pytest.raises(error, match=message):
            export_model(model, tmp_path / "m", factory, arguments)
    assert not (tmp_path / "m").exists()


@pytest.mark.cuda
def test_what_is_exported_on_a_gpu_loads_without_one(tmp_path):
    arguments, extra = {"in_features": 6, "out_features": 2}, {"mean": torch.ones(1).cuda()}
    path = export_model(nn.Linear(6, 2).cuda(), tmp_path / "e", nn.Linear, arguments, extra)
    model, extra = load_exported(path)
    assert model.weight.device.type == extra["mean"].device.type == "cpu"


DESCRIBED = {
    "mlp": lambda: nn.Sequential(
        nn.Linear(6, 8),
        nn.LeakyReLU(0.3),
        nn.Dropout(0.4),
        nn.Linear(8, 3, bias=False),
        nn.LogSoftmax(1),
    ),
    "names": lambda: nn.Sequential(nn.ModuleDict({"a": nn.Linear(6, 3)})["a"], nn.Identity()),
    "cnn": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, (1, 3), padding="same", padding_mode="circular"),
        nn.BatchNorm2d(4, eps=0.1, affine=False),
        nn.GELU("tanh"),
        nn.MaxPool2d(2, 1),
        nn.ConvTranspose2d(4, 2, 2, bias=False),
        nn.GroupNorm(1, 2),
        nn.PReLU(2),
        nn.AdaptiveAvgPool2d((1, None)),
        nn.Flatten(),
    ),
    "norms": lambda: nn.Sequential(
        nn.Linear(6, 6),
        nn.LayerNorm(6, bias=False),
        nn.Unflatten(1, (3, 2)),
        nn.InstanceNorm1d(3, affine=True),
        nn.Upsample(scale_factor=2.0),
        nn.Softplus(2.0),
    ),
    "half": lambda: nn.Sequential(nn.Linear(6, 3), nn.ReLU()).double(),
    "compiled": lambda: torch.compile(nn.Sequential(nn.Linear(6, 3)), backend="eager"),
}


@pytest.mark.parametrize("name", DESCRIBED)
def test_models_of_torchs_layers_need_no_factory(tmp_path, name):
    model = DESCRIBED[name]().eval()
    x = torch.randn(4, 6, dtype=torch.float64 if name == "half" else torch.float32)
    before = torch.get_rng_state()
    export_model(model, tmp_path / "m", nn.Sequential if name == "cnn" else None, extra={"k": 1})
    assert torch.equal(torch.get_rng_state(), before)
    twin, extra = load_exported(tmp_path / "m")
    test_eq(twin(x), model(x))
    assert extra == {"k": 1} and repr(twin) == repr(unwrapped(model))


@pytest.mark.parametrize("layer", [
    nn.LSTM(3, 4, num_layers=2, bidirectional=True, dropout=0.1, proj_size=2),
    nn.GRU(3, 4, bias=False, batch_first=True), nn.RNN(3, 4, nonlinearity="relu"),
    nn.MultiheadAttention(4, 2, bias=False, add_bias_kv=True, kdim=3), nn.Bilinear(2, 3, 4),
    nn.Embedding(5, 3, padding_idx=1), nn.EmbeddingBag(5, 3, mode="sum"),
    nn.Conv3d(2, 4, 2, groups=2, dilation=2), nn.ModuleList([nn.Linear(2, 2), nn.Hardtanh(-2, 2)]),
    nn.ModuleDict({"one": nn.Sequential(nn.Tanh())}),
], ids=lambda layer: type(layer).__name__)  # fmt: skip
def test_other_layers(tmp_path, layer):
    export_model(layer, tmp_path / "m")
    twin, _ = load_exported(tmp_path / "m")
    test_eq(twin.state_dict(), layer.state_dict())
    assert repr(twin) == repr(layer)


@pytest.mark.parametrize("how", ["described", "class", "function"])
def test_resnets(tmp_path, how):
    arguments = dict(
        block=Bottleneck if how == "class" else BasicBlock,
        layers=[1, 1],
        num_classes=10,
        in_channels=1,
        width=8,
        small_images=True,
    )
    model = ResNet(**arguments)
    if how == "described":
        model.fc = nn.Sequential(nn.Dropout(0.1), nn.Linear(16, 3))  # a head of one's own
        export_model(model, tmp_path / "m")
    elif how == "class":
        export_model(model, tmp_path / "m", ResNet, arguments)
    else:
        model = resnet18(5)
        export_model(model, tmp_path / "m", resnet18, {"num_classes": 5})
    twin, _ = load_exported(tmp_path / "m")
    x = torch.randn(2, model.conv1.in_channels, 32, 32)
    test_eq(twin(x), model.eval()(x))
    assert repr(twin) == repr(model)


class Scaled(nn.Module):
    """Keeps no argument, so that it cannot be described."""

    def __init__(self, factor):
        super().__init__()
        self.scale = factor

    def forward(self, x):
        return self.scale * x


class Kept(nn.Module):
    def __init__(self, width, activation=F.relu):
        super().__init__()
        self.width, self.activation = width, activation
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        return self.activation(self.layer(x))


def test_classes_of_ones_own(tmp_path):
    path = tmp_path / "m"
    with pytest.raises(ValueError, match="Kept: cannot save activation: a function"):
        export_model(nn.Sequential(Kept(3), nn.ReLU()), path)
    message = "Scaled: it does not keep its argument 'factor'.*pass a factory"
    with pytest.raises(ValueError, match=message):
        export_model(nn.Sequential(Scaled(2.0)), path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: setattr(m[1], "forward", torch.tanh), "1.forward is"),
        (lambda m: setattr(m[0], "in_features", 5), "0 has"),
        (lambda m: m[0].register_forward_hook(lambda *_: None), "0 has hooks"),
        (lambda m: m[0].register_buffer("extra", torch.zeros(2)), "0 has"),
        (lambda m: setattr(m[2], "note", object()), "2.note is"),
        (lambda m: torch.nn.utils.parametrizations.weight_norm(m[0]), "ParametrizationList"),
    ],
)
def test_models_that_were_changed_by_hand_are_refused(tmp_path, change, message):
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    change(model)
    with pytest.raises(ValueError, match=message):
        export_model(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_file_cannot_call_what_it_likes(tmp_path):
    foreign = ["os:system", "expression:x", "torch:load", "experiments.exp:x", ":x"]
    through_imports = ["exp.nb04c:os.system", "torch.nn:functional.torch.hub.load"]
    for factory in [*foreign, *through_imports, "torch.nn:nothing", "exp.nb04c:"]:
        layer = {"class": factory, "arguments": {}, "layers": {}}
        parent = {"class": "torch.nn:Sequential", "arguments": {}, "layers": {"0": layer}}
        options = {"block": {"$class": factory}, "layers": [1]}
        for about in ({"factory": factory, "arguments": {}}, {"description": layer},
                      {"description": parent}, {"factory": "exp.nb06b:ResNet",
                                                "arguments": options}):  # fmt: skip
            write_state(tmp_path / "bad", {**about, "model": {}, "extra": None})
            with pytest.raises(ValueError, match="none of the packages"):
                load_exported(tmp_path / "bad")
