"""Matrix multiplication: from pixels to one operator

By the end you will have recognised handwritten digits by one matrix product, and built that product step by step, from three loops in Python to an operator that is some 50,000 times faster.
"""

# generated from nbs/01_matmul.ipynb: do not edit · b420c8
__all__ = [
    "IDX_DTYPES",
    "read_idx",
    "load_mnist",
    "load_mnist_test",
    "show_images",
    "matmul_shape",
    "frobenius_norm",
    "matmul",
]
__dir__ = __all__.copy  # what completion offers

# cell d22ad209 a69f38 · Matrix multiplication: from pixels to one operator
import gzip
import math
import struct
import sys
import zlib
from pathlib import Path

import torch
from torch import Tensor

from exp.nb00a import data_path


# cell 088dc6ed 24abbd · A picture is a table of numbers
IDX_DTYPES = {0x08: torch.uint8, 0x09: torch.int8, 0x0B: torch.int16, 0x0C: torch.int32,
              0x0D: torch.float32, 0x0E: torch.float64}


def _read_bytes(path: Path) -> bytes:
    """Read a whole file, unpacked if its name ends in .gz."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it and fetch it again") from error


def read_idx(path: str | Path) -> Tensor:
    """Read a file in the idx format: a magic number, the length of each dimension, the values.

    Raises: ValueError if it does not begin as an idx file does, or is longer or shorter than
    its dimensions say.
    Source: the MNIST database, "the idx file format".
    """
    data = _read_bytes(Path(path))
    zeros, code, ndim = struct.unpack(">HBB", data[:4].ljust(4, b"\xff"))
    if zeros != 0 or code not in IDX_DTYPES:
        codes = ", ".join(f"{code:02x}" for code in IDX_DTYPES)
        raise ValueError(f"{path} is not an idx file: it begins with "
                         f"{data[:4].hex(' ') or 'nothing'}, which must be 00 00, one of {codes}, "
                         "and the number of dimensions")
    dtype, start = IDX_DTYPES[code], 4 + 4 * ndim
    shape = struct.unpack(f">{ndim}I", data[4:start].ljust(4 * ndim, b"\0"))
    length = start + math.prod(shape) * dtype.itemsize
    if len(data) != length:
        raise ValueError(f"{path} holds {len(data):,} bytes, but its header of {start} bytes asks "
                         f"for {length:,} (shape {shape}): delete it and fetch it again")
    values = torch.frombuffer(bytearray(data), dtype=torch.uint8)[start:]
    values = values.reshape(-1, dtype.itemsize)  # one number a row, its largest byte first
    values = values.flip(1) if sys.byteorder == "little" else values.clone()
    return values.view(dtype).reshape(shape)


# cell 5c10238a 47145f · A picture is a table of numbers
def _read_digits(name: str, part: str) -> tuple[Tensor, Tensor]:
    """Read one pair of idx files: images as rows of numbers from 0 to 1, and their labels."""
    images, labels = (data_path(name) / f"{part}-{kind}-ubyte.gz"
                      for kind in ("images-idx3", "labels-idx1"))
    x, y = read_idx(images), read_idx(labels)
    if len(x) != len(y):
        raise ValueError(f"{images} has {len(x)} images, but {labels} has {len(y)} labels: "
                         "they do not belong together, delete both and fetch them again")
    return x.flatten(1).float() / 255, y.long()


def load_mnist(name: str = "mnist") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read the training files: the first five sixths to train on, the rest to validate on.

    `name` is any data set in MNIST's format, such as "fashion_mnist".
    Shape: images (n, 784), labels (n,), then both for validation; 60,000 give 50,000 and 10,000.
    Units: a pixel is 0 (background) to 1 (ink); labels are whole numbers from 0, int64.
    """
    x, y = _read_digits(name, "train")
    n = len(x) * 5 // 6
    return x[:n], y[:n], x[n:], y[n:]


def load_mnist_test(name: str = "mnist") -> tuple[Tensor, Tensor]:
    """Read the test files, which are kept for the final evaluation: images and labels."""
    return _read_digits(name, "t10k")


# cell b85f3f6f 7c8eb9 · A picture is a table of numbers
def show_images(images: Tensor, titles=None, columns: int = 8, suptitle: str = "",
                **options) -> None:
    """Draw grey images in a grid, each below its title; `options` go to matplotlib's `imshow`.

    Shape: images (n, height, width), or (n, p) for square images of p pixels.
    Raises: ValueError if the rows are not square images, or their number is not that of the titles.
    """
    import matplotlib.pyplot as plt

    if images.ndim == 2 and math.isqrt(images.shape[1]) ** 2 == images.shape[1]:
        images = images.unflatten(1, (math.isqrt(images.shape[1]),) * 2)  # (n, height, width)
    titles = [""] * len(images) if titles is None else list(titles)
    if images.ndim != 3 or len(titles) != len(images) or not titles:
        raise ValueError(f"got images {tuple(images.shape)} and {len(titles)} titles, need "
                         "(n, height, width) or (n, side * side), n > 0, and n titles")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    height = images.shape[1] / images.shape[2] + 0.25  # in widths of an image
    figure, axes = plt.subplots(rows, columns, squeeze=False, layout="constrained",
                                figsize=(columns, rows * height + 0.35 * bool(suptitle)))
    for axis in axes.flat:
        axis.axis("off")
    pictures = images.detach().cpu().float().numpy()
    for axis, image, title in zip(axes.flat, pictures, titles, strict=False):
        axis.imshow(image, **{"cmap": "gray_r", **options})
        axis.set_title(str(title), fontsize=9)
    figure.suptitle(suptitle)
    plt.show()


# cell 70555684 c8232a · Three loops
def matmul_shape(a: Tensor, b: Tensor) -> tuple[int, int, int]:
    """Return M, K and N of a product of two matrices, (M, K) times (K, N).

    Raises: ValueError if one of them is not a matrix, or their shapes do not fit.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
        raise ValueError(f"cannot multiply {tuple(a.shape)} by {tuple(b.shape)}: need (M, K) "
                         "by (K, N), as many columns on the left as rows on the right")
    return a.shape[0], a.shape[1], b.shape[1]


# cell 3a49a56c 5e4ad7 · The size of a matrix
def frobenius_norm(a: Tensor) -> Tensor:
    """Take the square root of the sum of the squares of all elements.

    Shape: a of any shape -> ().
    Raises: TypeError if the elements are integers, whose squares may overflow.
    Differs: like torch.linalg.norm, it is inf where a square is too large for the type.
    """
    if not a.is_floating_point():
        raise TypeError(f"got elements of {a.dtype}: call it with a.float(), since the squares of "
                        "whole numbers overflow")
    return (a * a).sum().sqrt()


# cell 26721811 e80216 · `@`, earned
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply two matrices: entry (i, j) is the sum over k of a[i, k] * b[k, j].

    Shape: a (M, K), b (K, N) -> (M, N).
    Raises: ValueError if one of them is not a matrix, or their shapes do not fit.
    Differs: `@` and torch.matmul take vectors and batches as well.
    """
    matmul_shape(a, b)
    return a @ b
