"""Files that are whole and cannot bite: states, weights, exported models."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_learner import noisy
from torch import nn

from exp.nb00 import test_eq
from exp.nb04c import (
    export_model,
    load_exported,
    load_weights,
    pack,
    read_state,
    save_weights,
    unpack,
    write_state,
)

torch.set_num_threads(1)

# ---------------------------------------------------------------- states and files

leaves = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
          | st.lists(st.integers(0, 3), max_size=3).map(torch.rand))  # fmt: skip
keys = st.text(max_size=3) | st.integers(-5, 5) | st.sampled_from(["$tensor", "$tuple", "a.b", "a"])
states = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple)
    | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


def identical(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(identical, a, b))
    if isinstance(a, float):
        return a.hex() == b.hex()
    return a == b


@settings(max_examples=200, deadline=None)
@given(states)
def test_any_state_survives(state):
    assert identical(unpack(*pack(state)), state)


@settings(max_examples=15, deadline=None)
@given(state=states)
def test_any_state_survives_a_file(tmp_path_factory, state):
    path = write_state(tmp_path_factory.mktemp("x") / "state", state)
    assert identical(read_state(path), state)


@pytest.mark.parametrize("dtype", "bool uint8 int64 uint32 bfloat16 float64".split())
def test_types_of_tensors(tmp_path, dtype):
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    for state in (tensor, tensor[:0], tensor.T, tensor[:, ::2], tensor[0].expand(4, 3)):
        assert identical(read_state(write_state(tmp_path / "x", state)), state.contiguous())


def test_numpy_arrays_come_back_as_arrays():
    numpy = pytest.importorskip("numpy")
    back = unpack(*pack({"a": numpy.arange(3, dtype="uint32")}))["a"]
    assert isinstance(back, numpy.ndarray) and back.dtype == numpy.uint32
    assert back.tolist() == [0, 1, 2]
    kinds = ["int8", "float32", "int64", "float64"]  # empty ones have no address to be told by
    back = unpack(*pack([numpy.empty(0, kind) for kind in kinds]))
    assert [array.dtype.name for array in back] == kinds


@pytest.mark.parametrize(
    ("thing", "place"),
    [
        ({"opt": {"betas": [lambda: 0]}}, "opt.betas.0"),
        ({"opt": {3: object()}}, "opt.3"),
        ({"kinds": {1, 2}}, "kinds"),
        ({"raw": b"x"}, "raw"),
        ({"path": os}, "path"),
        ({"z": 1j}, "z"),
        ({"sparse": torch.eye(3).to_sparse()}, "sparse"),
    ],
)
def test_what_no_file_can_hold_is_named(tmp_path, thing, place):
    with pytest.raises(TypeError, match=f"cannot save {place}: a"):
        write_state(tmp_path / "x", thing)
    assert list(tmp_path.iterdir()) == []


def test_tied_tensors_are_written_once(tmp_path):
    x = torch.randn(3)
    state = read_state(write_state(tmp_path / "x", {"a": x, "b": x, "c": x.clone()}))
    assert len(pack({"a": x, "b": x, "c": x.clone()})[0]) == 2
    assert all(torch.equal(part, x) for part in state.values())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write_state(tmp_path / "x", {"version": 1})

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_state(path, {"version": 2})
    assert read_state(path) == {"version": 1} and [f.name for f in tmp_path.iterdir()] == ["x"]


def test_other_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "text").write_text("hello")
    save_file({"x": torch.ones(1)}, tmp_path / "foreign")
    (tmp_path / "empty").touch()
    for name, message in (("text", "incomplete"), ("foreign", "says format None"),
                          ("empty", "incomplete"), ("none", "no file")):  # fmt: skip
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read_state(tmp_path / name)


# ---------------------------------------------------------------- weights and export


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
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_what_is_exported_on_a_gpu_loads_without_one(tmp_path):
    arguments, extra = {"in_features": 6, "out_features": 2}, {"mean": torch.ones(1).cuda()}
    path = export_model(nn.Linear(6, 2).cuda(), tmp_path / "e", nn.Linear, arguments, extra)
    model, extra = load_exported(path)
    assert model.weight.device.type == extra["mean"].device.type == "cpu"


def test_a_file_cannot_call_what_it_likes(tmp_path):
    foreign = ["os:system", "expression:x", "torch:load", "experiments.exp:x", ":x"]
    through_imports = ["exp.nb04c:os.system", "torch.nn:functional.torch.hub.load"]
    for factory in [*foreign, *through_imports, "torch.nn:nothing", "exp.nb04c:"]:
        state = {"factory": factory, "arguments": {}, "model": {}, "extra": None}
        write_state(tmp_path / "bad", state)
        with pytest.raises(ValueError, match="none of the packages"):
            load_exported(tmp_path / "bad")
