"""Convolutions: a small window that sees

By the end you will have built a convolution from strides and one matrix product, equal to PyTorch's in values and gradients, used it in a network that makes fewer mistakes on handwritten digits than one that treats their pixels as unrelated, and looked at what its first layer has learned to see.
"""

# cell 26e0fc49 a6284e · Convolutions: a small window that sees
from __future__ import annotations

# generated from nbs/06_cuda_cnn_hooks_init.ipynb: do not edit · f06e40
__all__ = [
    "show_batch",
    "conv_output_size",
    "windows",
    "conv2d",
    "Conv2d",
    "max_pool2d",
    "avg_pool2d",
    "pooling_matrix",
    "adaptive_avg_pool2d",
    "kaiming_start",
    "digit_cnn",
]
__dir__ = __all__.copy  # what completion offers

# cell 26e0fc49 9d2a46 · Convolutions: a small window that sees
import math
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb01 import show_images
from exp.nb02c import kaiming_uniform
from exp.nb03d import random_kept


# cell db592f00 cccc89 · The data
def show_batch(dls: Any, n: int = 16, title: str = "A training batch") -> None:
    """Draw the first images of a training batch with their targets; no random number moves.

    Shape: a batch is (images (B, 1, H, W) or (B, H, W), targets (B,)).
    """
    with random_kept([dls.train]):
        images, targets = next(iter(dls.train))
    images = images[:n].squeeze(1) if images.ndim == 4 else images[:n]
    show_images(images, targets[:n].tolist(), suptitle=title)


# cell 32c3e258 de4d3f · Sizes
def conv_output_size(size: int, kernel_size: int, stride: int = 1, padding: int = 0,
                     dilation: int = 1) -> int:
    """Return the number of positions of a window along one axis.

    Units: pixels.
    Raises: ValueError if the window does not fit even once, or for an invalid setting.
    Source: Dumoulin and Visin 2016, relationships 6 and 12.
    """
    if min(kernel_size, stride, dilation) < 1 or padding < 0:
        raise ValueError("kernel_size, stride and dilation must be at least 1 and padding at least "
                         f"0, got {kernel_size}, {stride}, {dilation} and {padding}")
    span = dilation * (kernel_size - 1) + 1
    if size + 2 * padding < span:
        raise ValueError(f"a window of {span} pixels does not fit into {size} + 2 * {padding}; "
                         "use larger images, more padding or a smaller kernel")
    return (size + 2 * padding - span) // stride + 1


# cell faa9ae2a 031420 · All windows at once, without a copy
def _pair(value: int | tuple[int, int], name: str, least: int) -> tuple[int, int]:
    """Return a pair from one whole number for both axes, or from two, for rows and columns."""
    both = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2 or any(type(n) is not int or n < least for n in both):
        raise ValueError(f"{name} must be a whole number >= {least}, or two of them, got {value!r}")
    return both


# cell 11621079 e5190d · All windows at once, without a copy
def windows(x: Tensor, kernel_size: int | tuple[int, int], stride: int | tuple[int, int] = 1,
            padding: int | tuple[int, int] = 0, dilation: int | tuple[int, int] = 1,
            fill: float = 0.0) -> Tensor:
    """Return a view of every window of the padded images; the border holds `fill`.

    Shape: x (B, C, H, W) -> (B, C, H', W', kh, kw).
    Raises: ValueError if x does not have four axes, a setting is invalid, or no window fits.
    """
    if x.ndim != 4:
        raise ValueError(f"images must have axes (B, C, H, W), got shape {tuple(x.shape)}")
    given = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    k, s, p, d = (_pair(value, name, name != "padding") for name, value in given.items())
    B, C, H, W = x.shape
    h, w = (conv_output_size(n, *along) for n, *along in zip((H, W), k, s, p, d, strict=True))
    if any(p):
        padded = x.new_full((B, C, H + 2 * p[0], W + 2 * p[1]), fill)
        padded[:, :, p[0]:p[0] + H, p[1]:p[1] + W] = x
        x = padded
    image, channel, row, column = x.stride()
    return x.as_strided((B, C, h, w, *k), (image, channel, row * s[0], column * s[1],
                                           row * d[0], column * d[1]))


# cell f564fea9 892239 · One matrix product
def _check_channels(x: Tensor, weight: Tensor, groups: int) -> None:
    """Refuse images, kernels and groups that do not match."""
    if x.ndim != 4 or weight.ndim != 4 or groups < 1:
        raise ValueError("a convolution takes x (B, C, H, W), weight (C_out, C / groups, kh, kw), "
                         f"groups >= 1; got {tuple(x.shape)}, {tuple(weight.shape)}, {groups}")
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise ValueError(f"x has {x.shape[1]} channels, but weight {tuple(weight.shape)} in "
                         f"{groups} groups takes {weight.shape[1] * groups}; groups must also "
                         f"divide its {weight.shape[0]} kernels")


# cell 45569c49 bd132a · One matrix product
def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None,
           stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] = 0,
           dilation: int | tuple[int, int] = 1, groups: int = 1) -> Tensor:
    """Convolve images: make each window a row, each kernel a column, and multiply the matrices.

    Shape: x (B, C, H, W), weight (C_out, C / groups, kh, kw), bias (C_out,)
    -> (B, C_out, H', W').
    Raises: ValueError if channels, groups or sizes do not match.
    Source: Chellapilla and others 2006, section 2.
    Differs: no padding "same" or "valid", and no single images.
    """
    _check_channels(x, weight, groups)
    C_out, C_group, *kernel_size = weight.shape
    view = windows(x, tuple(kernel_size), stride, padding, dilation)  # (B, C, H', W', kh, kw)
    B, _, h, w = view.shape[:4]
    K = C_group * math.prod(kernel_size)
    rows = view.unflatten(1, (groups, C_group)).permute(0, 1, 3, 4, 2, 5, 6)
    rows = rows.reshape(B, groups, h * w, K)
    columns = weight.reshape(groups, C_out // groups, K).mT  # (G, K, C_out / G)
    y = (rows @ columns).mT.reshape(B, C_out, h, w)
    return y if bias is None else y + bias[:, None, None]


# cell f9262095 9c4861 · A layer
class Conv2d(nn.Module):
    """Apply `out_channels` learned kernels to every window of the images.

    Shape: x (B, in_channels, H, W) -> (B, out_channels, H', W').
    Raises: ValueError if groups do not divide both channels, or for an invalid setting.
    Differs: no padding "same" or "valid" and no padding_mode, only zeros; no `device`, use `.to`;
        otherwise as torch's, initial weights included.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
                 stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] = 0,
                 dilation: int | tuple[int, int] = 1, groups: int = 1, bias: bool = True,
                 dtype: torch.dtype | None = None):
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError("groups must divide in_channels and out_channels, got "
                             f"{groups} for {in_channels} and {out_channels}")
        shape = (out_channels, in_channels // groups, *_pair(kernel_size, "kernel_size", 1))
        self.weight = nn.Parameter(kaiming_uniform(shape, a=math.sqrt(5), dtype=dtype))
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        start = bound * (2 * torch.rand(out_channels, dtype=dtype) - 1) if bias else None
        self.bias = nn.Parameter(start) if bias else None
        self.stride, self.padding = _pair(stride, "stride", 1), _pair(padding, "padding", 0)
        self.dilation, self.groups = _pair(dilation, "dilation", 1), groups

    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation,
                      self.groups)


# cell 0770f12d f00d08 · Pooling: forget exactly where
def _pool_windows(x: Tensor, kernel_size: int | tuple[int, int],
                  stride: int | tuple[int, int] | None, padding: int | tuple[int, int],
                  fill: float) -> Tensor:
    """Return a view of the windows of a pooling; without `stride`, they do not overlap."""
    k, p = _pair(kernel_size, "kernel_size", 1), _pair(padding, "padding", 0)
    if p[0] > k[0] // 2 or p[1] > k[1] // 2:
        raise ValueError(f"padding must be at most half a window, got {p} for windows of {k}")
    return windows(x, k, k if stride is None else stride, p, fill=fill)


# cell 0b6de410 54ba6e · Pooling: forget exactly where
def max_pool2d(x: Tensor, kernel_size: int | tuple[int, int],
               stride: int | tuple[int, int] | None = None,
               padding: int | tuple[int, int] = 0) -> Tensor:
    """Return the largest number of each window; without `stride`, windows do not overlap.

    Shape: x (B, C, H, W) -> (B, C, H', W').
    Raises: ValueError for padding of more than half a window, or as `windows`.
    Differs: no dilation, no ceil_mode, no indices.
    """
    return _pool_windows(x, kernel_size, stride, padding, -math.inf).flatten(-2).max(-1).values


# cell 61bdccb1 e4543e · Pooling: forget exactly where
def avg_pool2d(x: Tensor, kernel_size: int | tuple[int, int],
               stride: int | tuple[int, int] | None = None,
               padding: int | tuple[int, int] = 0) -> Tensor:
    """Average each window, including the zeros of the border.

    Shape: x (B, C, H, W) -> (B, C, H', W').
    Raises: ValueError for padding of more than half a window, or as `windows`.
    Differs: no ceil_mode; the border always counts.
    """
    return _pool_windows(x, kernel_size, stride, padding, 0.0).mean((-2, -1))


# cell 7e632081 ea19db · Pooling: forget exactly where
def pooling_matrix(n: int, m: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return the matrix that averages n pixels into m cells, which may overlap.

    Shape: -> (m, n), each row sums to 1.
    """
    pixel, cell = torch.arange(n), torch.arange(m)[:, None]
    inside = (pixel >= cell * n // m) & (pixel < -(-(cell + 1) * n // m))
    return inside.to(dtype or torch.get_default_dtype()) / inside.sum(1, keepdim=True)


# cell 4c881547 a62558 · Pooling: forget exactly where
def adaptive_avg_pool2d(x: Tensor, output_size: int | tuple[int, int]) -> Tensor:
    """Average images of any size into a fixed number of cells.

    Shape: x (B, C, H, W) -> (B, C, *output_size).
    """
    rows, columns = (pooling_matrix(n, m, x.dtype).to(x.device) for n, m in
                     zip(x.shape[-2:], _pair(output_size, "output_size", 1), strict=True))
    return rows @ x @ columns.mT


# cell ef4e5ad8 9e3908 · A network for digits
def kaiming_start(model: nn.Module) -> nn.Module:
    """Initialise all convolutions with Kaiming's weights and zero biases; return the model."""
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
            part.bias.data.zero_()
    return model


# cell 39215e8a be9c41 · A network for digits
def digit_cnn(channels: tuple[int, int, int] = (16, 32, 64)) -> nn.Sequential:
    """Return three times convolution, pooling, ReLU, then a linear layer.

    Shape: images (B, 1, 28, 28) -> logits (B, 10).
    """
    layers = []
    for n_in, n_out, size in zip((1, *channels), channels, (5, 3, 3), strict=False):
        layers += [nn.Conv2d(n_in, n_out, size, padding=size // 2), nn.MaxPool2d(2), nn.ReLU()]
    return kaiming_start(nn.Sequential(*layers, nn.Flatten(), nn.Linear(9 * channels[-1], 10)))
