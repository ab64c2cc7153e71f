"""exp.nb01: idx files whole and broken, the split of MNIST, the product and its checks."""

import gzip
import importlib.util
import math
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import notebooks
from exp import nb01
from exp.nb01 import (
    IDX_DTYPES,
    frobenius_norm,
    load_mnist,
    load_mnist_test,
    matmul,
    matmul_shape,
    read_idx,
    show_images,
)

ROOT = Path(__file__).resolve().parents[1]
FORMATS = {
    torch.uint8: "B",
    torch.int8: "b",
    torch.int16: "h",
    torch.int32: "i",
    torch.float32: "f",
    torch.float64: "d",
}
in_one_folder = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def idx_bytes(values: torch.Tensor) -> bytes:
    """Write a tensor in the idx format, by struct alone."""
    code = next(code for code, dtype in IDX_DTYPES.items() if dtype == values.dtype)
    header = struct.pack(f">HBB{values.ndim}I", 0, code, values.ndim, *values.shape)
    letter = FORMATS[values.dtype]
    return header + struct.pack(f">{values.numel()}{letter}", *values.flatten().tolist())


@st.composite
def tensors(draw):
    """A tensor of any type that idx knows, with any shape, empty ones included."""
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = draw(st.sampled_from(list(FORMATS)))
    if dtype.is_floating_point:
        numbers = st.floats(allow_nan=False, width=torch.finfo(dtype).bits)
    else:
        numbers = st.integers(torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    count = math.prod(shape)
    values = draw(st.lists(numbers, min_size=count, max_size=count))
    return torch.tensor(values, dtype=dtype).reshape(shape)


# --- read_idx ------------------------------------------------------------------------------------


@in_one_folder
@given(values=tensors(), packed=st.booleans())
def test_read_idx_gives_back_what_was_written(tmp_path, values, packed):
    path = tmp_path / ("x.gz" if packed else "x.idx")
    path.write_bytes(gzip.compress(idx_bytes(values)) if packed else idx_bytes(values))
    found = read_idx(path)
    assert (found.dtype, found.shape) == (values.dtype, values.shape)
    assert torch.equal(found, values)
    assert torch.equal(read_idx(str(path)), values)


@in_one_folder
@given(values=tensors(), cut=st.integers(1, 10_000), more=st.binary(max_size=3))
def test_read_idx_refuses_every_other_length(tmp_path, values, cut, more):
    path, whole = tmp_path / "x.idx", idx_bytes(values)
    path.write_bytes(whole[: len(whole) - 1 - cut % len(whole)])
    with pytest.raises(ValueError, match="asks for|not an idx file"):
        read_idx(path)
    path.write_bytes(whole + more)
    if more:
        with pytest.raises(ValueError, match="asks for"):
            read_idx(path)


@in_one_folder
@given(data=st.binary(max_size=40))
def test_read_idx_of_any_bytes_is_a_tensor_or_a_clear_error(tmp_path, data):
    path = tmp_path / "x.idx"
    path.write_bytes(data)
    try:
        values = read_idx(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert idx_bytes(values)[: 4 + 4 * values.ndim] == data[: 4 + 4 * values.ndim]


@pytest.mark.parametrize("magic", [b"\0\0\x07\1", b"\0\0\x0a\1", b"\1\0\x08\1", b"\0\1\x08\1"])
def test_read_idx_names_the_wrong_magic_number(tmp_path, magic):
    path = tmp_path / "x.idx"
    path.write_bytes(magic + struct.pack(">I", 1) + b"\0")
    with pytest.raises(ValueError, match=magic.hex(" ")):
        read_idx(path)


@pytest.mark.parametrize("keep", [0, 5, 20, -9, -1])
def test_read_idx_refuses_a_gz_that_broke_off(tmp_path, keep):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx_bytes(torch.arange(50, dtype=torch.int32)))[:keep])
    with pytest.raises(ValueError, match="damaged|not an idx file"):
        read_idx(path)


def test_read_idx_refuses_a_gz_that_is_none_or_was_changed(tmp_path):
    path, whole = tmp_path / "x.gz", idx_bytes(torch.arange(50, dtype=torch.int32))
    changed = bytearray(gzip.compress(whole))
    changed[-6] ^= 1  # in the checksum
    for content in (whole, changed):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="damaged"):
            read_idx(path)


def test_read_idx_of_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.gz"):
        read_idx(tmp_path / "nothing.gz")


# --- load_mnist ----------------------------------------------------------------------------------


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A function that writes the four files, with images whose pixels say which one they are."""

    def write(train: int, test: int = 3, labels: int | None = None, side: int = 2):
        for part, count, first in (("train", train, 0), ("t10k", test, 100)):
            images = (torch.arange(count) + first).remainder(256).to(torch.uint8)
            images = images[:, None, None].expand(count, side, side)
            marks = torch.arange(count if labels is None else labels).remainder(10).to(torch.uint8)
            for kind, values in (("images-idx3", images), ("labels-idx1", marks)):
                (tmp_path / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(values)))
        monkeypatch.setattr(nb01, "data_path", {"mnist": tmp_path}.__getitem__)

    return write


@pytest.mark.parametrize("count, n", [(60_000, 50_000), (1_545, 1_287), (6, 5), (1, 0), (0, 0)])
def test_the_first_five_sixths_train_and_the_rest_validates(small_mnist, count, n):
    small_mnist(count, side=1)
    x_train, y_train, x_valid, y_valid = load_mnist()
    assert [len(x_train), len(y_train), len(x_valid), len(y_valid)] == [n, n, count - n, count - n]
    x, y = torch.cat([x_train, x_valid]), torch.cat([y_train, y_valid])
    assert torch.equal(x[:, 0] * 255, torch.arange(count).remainder(256).float())
    assert torch.equal(y, torch.arange(count).remainder(10))


def test_images_are_rows_from_0_to_1_and_labels_are_int64(small_mnist):
    small_mnist(256)
    x_train, y_train, x_valid, y_valid = load_mnist()
    assert x_train.shape == (213, 4) and x_train.dtype == x_valid.dtype == torch.float32
    assert y_train.dtype == y_valid.dtype == torch.int64
    assert x_train.min() == 0 and x_valid.max() == 1


def test_the_test_files_are_kept_apart(small_mnist):
    small_mnist(12, test=5)
    x, y = load_mnist_test()
    assert (x[:, 0] * 255).tolist() == [100, 101, 102, 103, 104] and y.tolist() == [0, 1, 2, 3, 4]
    assert 100 / 255 not in torch.cat(load_mnist()[::2])


def test_images_and_labels_must_be_as_many(small_mnist):
    small_mnist(12, labels=11)
    with pytest.raises(ValueError, match="12 images, but .* has 11 labels"):
        load_mnist()


def test_the_data_that_this_mode_has():
    x_train, y_train, x_valid, y_valid = load_mnist()
    assert len(x_train) == (len(x_train) + len(x_valid)) * 5 // 6
    assert x_train.shape[1] == 784 and (x_train.min(), x_train.max()) == (0, 1)
    assert y_train.unique().tolist() == y_valid.unique().tolist() == list(range(10))
    x_test, y_test = load_mnist_test()
    assert len(x_test) == len(y_test) > 0
    seen = {row.numpy().tobytes() for row in x_train}
    assert sum(row.numpy().tobytes() in seen for row in x_valid) <= len(x_valid) // 1000


# --- matmul --------------------------------------------------------------------------------------

sizes = st.integers(0, 6)


def by_definition(a, b):
    """The three loops, on lists."""
    rows, columns = a.tolist(), b.T.tolist()
    return torch.tensor(
        [[sum(map(lambda x, y: x * y, row, column)) for column in columns] for row in rows]
    ).reshape(len(a), b.shape[1])


@settings(deadline=None)
@given(M=sizes, K=sizes, N=sizes, seed=st.integers(0, 999), turned=st.booleans())
def test_matmul_is_the_definition(M, K, N, seed, turned):
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        torch.randint(-9, 10, shape, generator=generator).double() for shape in ((M, K), (K, N))
    )
    if turned:  # rows that do not lie one after the other
        a, b = a.T.contiguous().T, b.T.contiguous().T
    assert torch.equal(matmul(a, b), by_definition(a, b).double())
    assert matmul_shape(a, b) == (M, K, N)


@settings(deadline=None)
@given(left=st.lists(sizes, max_size=3), right=st.lists(sizes, max_size=3))
def test_matmul_refuses_what_does_not_fit_and_names_it(left, right):
    a, b = torch.zeros(left), torch.zeros(right)
    if len(left) == len(right) == 2 and left[1] == right[0]:
        assert matmul(a, b).shape == (left[0], right[1])
        return
    with pytest.raises(ValueError) as caught:
        matmul(a, b)
    assert str(tuple(left)) in str(caught.value) and str(tuple(right)) in str(caught.value)


def test_matmul_passes_gradients():
    a, b, G = (torch.randn(shape, dtype=torch.float64) for shape in ((3, 4), (4, 5), (3, 5)))
    inputs = [x.clone().requires_grad_() for x in (a, b)]
    found = torch.autograd.grad(matmul(*inputs), inputs, G)
    for gradient, expected in zip(found, (G @ b.T, a.T @ G), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(matmul, inputs)


# --- frobenius_norm ------------------------------------------------------------------------------


@settings(deadline=None)
@given(shape=st.lists(sizes, max_size=3), scale=st.floats(-1e3, 1e3), seed=st.integers(0, 999))
def test_frobenius_norm_is_a_norm(shape, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(frobenius_norm(a), torch.linalg.norm(a))
    torch.testing.assert_close(frobenius_norm(scale * a), abs(scale) * frobenius_norm(a))
    assert frobenius_norm(a + b) <= frobenius_norm(a) + frobenius_norm(b) + 1e-12
    assert frobenius_norm(a).shape == ()


def test_frobenius_norm_gradient_and_extremes():
    assert torch.autograd.gradcheck(
        frobenius_norm, torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    )
    assert frobenius_norm(torch.tensor([1.0, math.nan])).isnan()
    assert frobenius_norm(torch.tensor([1.0, -math.inf])) == math.inf
    for dtype in (torch.uint8, torch.int64, torch.bool):
        with pytest.raises(TypeError, match="float"):
            frobenius_norm(torch.ones(2, dtype=dtype))


# --- show_images ---------------------------------------------------------------------------------


@pytest.fixture
def plots(monkeypatch):
    """matplotlib without a display."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: None)
    yield plt
    plt.close("all")


@pytest.mark.parametrize("shape", [(5, 3, 2), (5, 9), (1, 1)])
def test_show_images_draws_each_below_its_title(plots, shape):
    show_images(torch.rand(shape), range(shape[0]), columns=3, suptitle="all", vmin=0)
    figure = plots.gcf()
    drawn = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in drawn] == [str(i) for i in range(shape[0])]
    assert figure.get_suptitle() == "all" and not any(axis.axison for axis in figure.axes)


@pytest.mark.parametrize(
    "shape, titles",
    [
        ((0, 4), None),
        ((2, 5), None),
        ((2, 2), None),
        ((4,), None),
        ((2, 4), ["a"]),
        ((1, 2, 3, 4), None),
    ],
)
def test_show_images_refuses_what_is_no_image(plots, shape, titles):
    with pytest.raises(ValueError, match="got images"):
        show_images(torch.rand(shape), titles)
    assert not plots.get_fignums()


# --- the module ----------------------------------------------------------------------------------


def test_importing_it_is_light_and_silent():
    code = (
        "import sys, exp.nb01; heavy = {'matplotlib', 'numba', 'triton', 'pandas', 'sklearn'}; "
        "sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr.strip()) == ("", "")


def test_everything_pickles():
    for name in nb01.__all__:
        thing = getattr(nb01, name)
        assert pickle.loads(pickle.dumps(thing)) == thing


@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="triton is not installed")
def test_the_triton_kernel_without_a_gpu(tmp_path):
    """Triton can interpret a kernel on the CPU: the cells of the notebook, as they stand."""
    cells = notebooks.read(ROOT / "nbs/01b_fast_matmul.ipynb").cells
    sources = []
    wanted = {"SHAPES", "matmul_lists", "check_matmul"}
    for cell in cells:
        names = {
            name
            for node in (cell.tree.body if cell.kind == "code" and cell.tree else ())
            for name, _, _ in notebooks.bound_names(node)
        }
        if names & wanted:
            sources.append(cell.code)
    sources += [cell.code for cell in cells if "cuda" in cell.directives][:2]
    before = [
        "from functools import partial",
        "import torch",
        "from torch import tensor",
        "from exp.nb00 import *",
        "from exp.nb01 import *",
        "torch.Tensor.cuda = lambda x: x",
    ]
    path = tmp_path / "kernel.py"
    path.write_text("\n".join([*before, *sources, "print('same')"]))
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "same", done.stderr
