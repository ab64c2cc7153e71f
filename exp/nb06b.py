"""Normalisation and residual networks

By the end you will have built batch normalisation and its relatives, equal to PyTorch's in training and in evaluation, and residual networks of any depth that can load published weights; you will have measured what norms cure and what shortcuts cure, and have a table of what each layer of a network costs.
"""

# cell 7a477932 a6284e · Normalisation and residual networks
from __future__ import annotations

# generated from nbs/06b_resnet.ipynb: do not edit · 563d94
__all__ = [
    "normalize_over",
    "BatchNorm",
    "LayerNorm",
    "GroupNorm",
    "conv",
    "BasicBlock",
    "Bottleneck",
    "ResNet",
    "resnet18",
    "resnet34",
    "resnet50",
    "LayerSummary",
    "Summary",
    "layer_flops",
    "summary",
]
__dir__ = __all__.copy  # what completion offers

# cell 7a477932 6ec4fc · Normalisation and residual networks
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03d import evaluating, format_html, format_table, random_kept
from exp.nb06a import ForwardHooks


# cell f320bfab 333c42 · The same, ready for use
def normalize_over(x: Tensor, dims: tuple[int, ...], eps: float = 1e-5) -> Tensor:
    """Subtract the mean over some axes and divide by the root of variance plus `eps`.

    Shape: the same in and out.
    """
    variance, mean = torch.var_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) / (variance + eps).sqrt()


def _along_channels(parameter: Tensor, x: Tensor) -> Tensor:
    """Reshape one number per channel to broadcast along axis 1 of x: (C,) -> (C, 1, …)."""
    return parameter.reshape(-1, *[1] * (x.ndim - 2))


def _check_channel_axis(x: Tensor, channels: int) -> None:
    """Refuse an x that does not have this many channels on axis 1."""
    if x.ndim < 2 or x.shape[1] != channels:
        raise ValueError(f"x must be (B, {channels}, …), got {tuple(x.shape)}")


# cell 85a47149 ee8ad1 · The same, ready for use
class BatchNorm(nn.Module):
    """Normalise each channel over batch and positions; in evaluation, by the running statistics.

    The batch is normalised by the biased variance; the unbiased one is stored.
    Shape: x (B, num_features, …) -> the same.
    Raises: ValueError for a wrong number of channels, or in training for one number per channel.
    Source: Ioffe and Szegedy 2015, algorithms 1 and 2.
    Differs: any number of axes; no `affine`, `track_running_stats`, `momentum=None`.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        _check_channel_axis(x, self.num_features)
        wide = x.to(torch.promote_types(x.dtype, self.weight.dtype))  # 16 bits would be coarse
        if self.training:
            x_hat = normalize_over(wide, dims := (0, *range(2, x.ndim)), self.eps)
            self._remember(wide.detach(), dims)
        else:
            mean, var = (_along_channels(s, x) for s in (self.running_mean, self.running_var))
            x_hat = (wide - mean) / (var + self.eps).sqrt()
        y = x_hat * _along_channels(self.weight, x) + _along_channels(self.bias, x)
        return y.to(x.dtype)

    def _remember(self, x: Tensor, dims: tuple[int, ...]) -> None:
        if x.numel() <= self.num_features:
            raise ValueError("in training, each channel needs more than one number, got shape "
                             f"{tuple(x.shape)}; use larger batches, drop_last, or eval mode")
        variance, mean = torch.var_mean(x, dims, correction=1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked += 1


# cell 832828bf 65a32f · Who shares a mean
class LayerNorm(nn.Module):
    """Normalise each item over its last axes, those of `normalized_shape`.

    Shape: x (…, *normalized_shape) -> the same.
    Raises: ValueError if the last axes of x differ from it.
    Source: Ba and others 2016, equation 4.
    Differs: always with weight and bias (no `elementwise_affine`).
    """

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5):
        super().__init__()
        whole = isinstance(normalized_shape, int)
        self.normalized_shape = (normalized_shape,) if whole else tuple(normalized_shape)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(self.normalized_shape))
        self.bias = nn.Parameter(torch.zeros(self.normalized_shape))

    def forward(self, x: Tensor) -> Tensor:
        n = len(self.normalized_shape)
        if tuple(x.shape[-n:]) != self.normalized_shape:
            raise ValueError(f"x must end in {self.normalized_shape}, got {tuple(x.shape)}")
        return normalize_over(x, tuple(range(-n, 0)), self.eps) * self.weight + self.bias


# cell f27b0f46 b472e1 · Who shares a mean
class GroupNorm(nn.Module):
    """Normalise each item over a group of channels and all positions.

    Shape: x (B, num_channels, …) -> the same.
    Raises: ValueError if num_groups does not divide num_channels, or x has other channels.
    Source: Wu and He 2018, equations 1 to 6; one channel per group: Ulyanov and others 2016.
    Differs: always with weight and bias (no `affine`); a group of a single number returns the
        bias, where PyTorch refuses a batch of one such group.
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5):
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise ValueError("num_groups must divide num_channels, got "
                             f"{num_groups} and {num_channels}")
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor) -> Tensor:
        _check_channel_axis(x, self.num_channels)
        groups = x.reshape(x.shape[0], self.num_groups, -1)  # (B, groups, channels · positions)
        x_hat = normalize_over(groups, (2,), self.eps).reshape(x.shape)
        return x_hat * _along_channels(self.weight, x) + _along_channels(self.bias, x)


# cell 006e749f 0851a3 · A block, and a bias that is not there
def conv(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1,
         groups: int = 1, norm: Callable[[int], nn.Module] | None = nn.BatchNorm2d,
         activation: Callable[[], nn.Module] | None = nn.ReLU) -> nn.Sequential:
    """Return a convolution, a norm and an activation; with a bias only if there is no norm.

    The padding keeps the size, apart from the stride.
    Shape: x (B, in_channels, H, W) -> (B, out_channels, ⌈H / stride⌉, ⌈W / stride⌉).
    Raises: ValueError if kernel_size is even, which cannot keep the size.
    """
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd to keep the size, got {kernel_size}")
    layers = [nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2,
                        groups=groups, bias=norm is None)]
    layers += [norm(out_channels)] if norm else []
    layers += [activation()] if activation else []
    return nn.Sequential(*layers)


# cell 045505fe 4ec49d · Two kinds of block
def _conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, for a norm follows, that keeps the size up to stride."""
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)


class BasicBlock(nn.Module):
    """Add two 3 × 3 convolutions to a shortcut past them.

    Shape: x (B, in_channels, H, W) -> (B, width, ⌈H / stride⌉, ⌈W / stride⌉).
    Source: He and others 2015, figure 5 left.
    """

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int = 1,
                 downsample: nn.Module | None = None):
        super().__init__()
        self.conv1, self.bn1 = _conv(in_channels, width, 3, stride), nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


# cell 0c4d84a1 a6bb72 · Two kinds of block
class Bottleneck(nn.Module):
    """Squeeze the channels, convolve, expand to four times the width, and add the shortcut.

    Shape: x (B, in_channels, H, W) -> (B, 4 · width, ⌈H / stride⌉, ⌈W / stride⌉).
    Source: He and others 2015, figure 5 right.
    Differs: the stride is in the 3 × 3 convolution, as in torchvision, not in the first one.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1,
                 downsample: nn.Module | None = None):
        super().__init__()
        self.conv1, self.bn1 = _conv(in_channels, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.relu, self.downsample = nn.ReLU(), downsample

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(y)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


# cell 477cea31 c731db · Two kinds of block
def _stage(block: type[BasicBlock] | type[Bottleneck], in_channels: int, width: int, count: int,
           stride: int) -> nn.Sequential:
    """Return blocks in a row, of which the first changes size and channels."""
    out = width * block.expansion
    changes = stride != 1 or in_channels != out
    downsample = nn.Sequential(_conv(in_channels, out, 1, stride),
                               nn.BatchNorm2d(out)) if changes else None
    first = block(in_channels, width, stride, downsample)
    return nn.Sequential(first, *(block(out, width) for _ in range(count - 1)))


# cell 0d5c1c65 1ede0c · Two kinds of block
class ResNet(nn.Module):
    """A residual network: a stem, stages of blocks, an average over positions, a linear layer.

    `layers` is the number of blocks in each stage; each stage is twice as wide as the one before.
    With four stages and the default stem the state has torchvision's keys and shapes.
    Shape: x (B, in_channels, H, W), any H and W -> (B, num_classes).
    Raises: ValueError if a stage has no block.
    Source: He and others 2015, table 1; convolutions are initialised by Kaiming, fan-out.
    """

    def __init__(self, block: type[BasicBlock] | type[Bottleneck], layers: Iterable[int],
                 num_classes: int = 1000, in_channels: int = 3, width: int = 64,
                 small_images: bool = False):
        super().__init__()
        layers = list(layers)
        if not layers or min(layers) < 1:
            raise ValueError(f"every stage needs at least one block, got {layers}")
        self.conv1 = _conv(in_channels, width, 3 if small_images else 7, stride=2)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        self.maxpool = nn.Sequential() if small_images else nn.MaxPool2d(3, stride=2, padding=1)
        channels = width
        for i, count in enumerate(layers):
            stage = _stage(block, channels, width * 2**i, count, stride=1 if i == 0 else 2)
            setattr(self, f"layer{i + 1}", stage)
            channels = width * 2**i * block.expansion
        self.block, self.layers, self.num_classes = block, layers, num_classes
        self.in_channels, self.width, self.small_images = in_channels, width, small_images
        self.n_stages, self.avgpool = len(layers), nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for i in range(self.n_stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(self.avgpool(x).flatten(1))  # (B, channels) -> (B, num_classes)


# cell 1874fb31 332b0e · Two kinds of block
def resnet18(num_classes: int = 1000) -> ResNet:
    """Return the 18-layer network of He and others 2015, table 1."""
    return ResNet(BasicBlock, [2, 2, 2, 2], num_classes)


def resnet34(num_classes: int = 1000) -> ResNet:
    """Return the 34-layer network of He and others 2015, table 1."""
    return ResNet(BasicBlock, [3, 4, 6, 3], num_classes)


def resnet50(num_classes: int = 1000) -> ResNet:
    """Return the 50-layer network of He and others 2015, table 1."""
    return ResNet(Bottleneck, [3, 4, 6, 3], num_classes)


# cell d6a13d9f 944483 · What a network costs
@dataclass(frozen=True)
class LayerSummary:
    """One layer: its name and class, the shape of its output, its parameters, its FLOP."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    flops: int


# cell b511b88b 2ff301 · What a network costs
@dataclass(frozen=True)
class Summary:
    """A model's layers in the order in which they ran; its repr is a table."""

    layers: tuple[LayerSummary, ...]
    parameters: int

    @property
    def flops(self) -> int:
        """The FLOP of convolutions and linear layers in one forward pass of the batch."""
        return sum(layer.flops for layer in self.layers)

    def rows(self) -> list[dict[str, str]]:
        """Return the table: each layer, then the total."""
        rows = [{"layer": row.name, "kind": row.kind, "output": " × ".join(map(str, row.shape)),
                 "parameters": f"{row.parameters:,}",
                 "MFLOP": f"{row.flops / 1e6:,.2f}" if row.flops else ""} for row in self.layers]
        total = {"layer": "total", "parameters": f"{self.parameters:,}"}
        return [*rows, total | {"MFLOP": f"{self.flops / 1e6:,.2f}"}]

    def __repr__(self) -> str:
        return format_table(self.rows())

    def _repr_html_(self) -> str:
        return format_html(self.rows())


# cell a6b2d609 e69244 · What a network costs
def layer_flops(module: nn.Module, output: Tensor) -> int:
    """Return the FLOP of a convolution (2 K per output) or linear layer (2 n_in); 0 for others."""
    if isinstance(module, nn.Conv2d):
        return 2 * output.numel() * math.prod(module.weight.shape[1:])
    return 2 * output.numel() * module.in_features if isinstance(module, nn.Linear) else 0


# cell 4420c976 9978e3 · What a network costs
def summary(model: nn.Module, *inputs: Any) -> Summary:
    """Send inputs through a model, and return each layer's output shape, parameters and FLOP.

    Weights, buffers, modes, gradients and random numbers stay as they are.
    """
    layers: list[LayerSummary] = []

    def note(name: str, module: nn.Module, output: Any) -> None:
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        own = sum(p.numel() for p in module.parameters())
        flops = layer_flops(module, output) if shape else 0
        layers.append(LayerSummary(name, type(module).__name__, shape, own, flops))

    leaves = {name: m for name, m in model.named_modules() if not list(m.children())}
    with random_kept(), evaluating(model), ForwardHooks(leaves, note):
        model(*inputs)
    return Summary(tuple(layers), sum(p.numel() for p in model.parameters()))
