"""Files that are complete and safe to open."""

import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb03h import pack, read_state, unpack, write_state

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
        ({"lazy": nn.LazyLinear(3).weight}, "lazy: its shape is unknown"),
    ],
)
def test_what_no_file_can_hold_is_named(tmp_path, thing, place):
    with pytest.raises(TypeError, match=f"cannot save {place}"):
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
    for name, message in (("text", "incomplete"), ("foreign", "has the format None"),
                          ("empty", "incomplete"), ("none", "no file")):  # fmt: skip
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            read_state(tmp_path / name)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_tensors(tmp_path, dtype):
    x = torch.randn(2, 3, dtype=dtype)
    for tensor in (x, x[:0], x.T, x.conj(), x[0, 0], nn.Parameter(x)):
        back = read_state(write_state(tmp_path / "x", {"x": tensor}))["x"]
        assert back.dtype == dtype and torch.equal(back, tensor.detach().resolve_conj())


@pytest.mark.parametrize("values", [torch.randn(3), torch.randn(3, 2), torch.randn(3).cfloat()])
def test_sparse_tensors(tmp_path, values):
    indices = torch.tensor([[0, 2, 0], [1, 0, 1]])
    x = torch.sparse_coo_tensor(indices, values, (3, 2, *values.shape[1:]))
    for tensor in (x, x.coalesce(), x.coalesce().requires_grad_()):
        back = read_state(write_state(tmp_path / "x", {"x": tensor}))["x"]
        assert back.is_sparse and back.is_coalesced() == tensor.is_coalesced()
        assert torch.equal(back.to_dense(), tensor.detach().to_dense())


def test_numbers_of_numpy_become_pythons():
    numpy = pytest.importorskip("numpy")
    back = unpack(*pack({"a": numpy.float32(0.5), "b": numpy.int64(3), "c": numpy.bool_(True)}))
    assert back == {"a": 0.5, "b": 3, "c": True} and type(back["b"]) is int
