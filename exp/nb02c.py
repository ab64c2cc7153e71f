"""Initialisation: random weights of the right size

By the end you will have predicted what fifty random layers do to an image and measured that they do it, drawn weights that bring the image through, found out why units of a small network die in its first steps, and put to the test a change of ReLU that the lecture only proposes.
"""

# cell ef564caf a6284e · Initialisation: random weights of the right size
from __future__ import annotations

# generated from nbs/02c_initialisation.ipynb: do not edit · 87f176
__all__ = [
    "fans",
    "glorot_normal",
    "kaiming_normal",
    "kaiming_uniform",
]
__dir__ = __all__.copy  # what completion offers

# cell ef564caf 85f677 · Initialisation: random weights of the right size
import math

import torch
from torch import Tensor


# cell f51d9e48 ad5e42 · Glorot: a scale for both directions
def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return fan in and fan out: how many numbers an output sums, how many outputs use an input.

    Shape: (n_out, n_in, …), where further axes are those of a convolution's kernel.
    Raises: ValueError if there are fewer than two axes, or if one is empty.
    """
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"weights need a shape (n_out, n_in, …) without zeros, got {tuple(shape)}")
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


# cell 91a6bc3d a6b6bb · Glorot: a scale for both directions
def glorot_normal(shape: tuple[int, ...], gain: float = 1.0,
                  generator: torch.Generator | None = None,
                  dtype: torch.dtype | None = None) -> Tensor:
    """Draw normal weights of variance 2 gain² / (n_in + n_out).

    Shape: (n_out, n_in, …).
    Source: Glorot and Bengio 2010, equation 12.
    Differs: the paper draws from a uniform distribution of the same variance (equation 16).
    """
    std = gain * math.sqrt(2 / sum(fans(shape)))
    return std * torch.randn(shape, generator=generator, dtype=dtype)


# cell dc4ae48a 57b81f · Kaiming: the factor two
def _kaiming_std(shape: tuple[int, ...], a: float, mode: str) -> float:
    """Compute the standard deviation that preserves the mean square through a leaky ReLU."""
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan_in, fan_out = fans(shape)
    return math.sqrt(2 / ((1 + a**2) * (fan_in if mode == "fan_in" else fan_out)))


# cell a67318b5 e8d032 · Kaiming: the factor two
def kaiming_normal(shape: tuple[int, ...], a: float = 0.0, mode: str = "fan_in",
                   generator: torch.Generator | None = None,
                   dtype: torch.dtype | None = None) -> Tensor:
    """Draw normal weights of variance 2 / ((1 + a²) n), for layers before a leaky ReLU of slope a.

    With mode "fan_in", n is n_in and the signal keeps its size; with "fan_out" the gradient does.
    Shape: (n_out, n_in, …).
    Source: He and others 2015, equations 10, 14 and 15.
    """
    return _kaiming_std(shape, a, mode) * torch.randn(shape, generator=generator, dtype=dtype)


# cell 347969bf 4e101e · The square root of five
def kaiming_uniform(shape: tuple[int, ...], a: float = 0.0, mode: str = "fan_in",
                    generator: torch.Generator | None = None,
                    dtype: torch.dtype | None = None) -> Tensor:
    """Draw uniform weights with the same variance as those of `kaiming_normal`.

    Shape: (n_out, n_in, …).
    Source: He and others 2015, equation 15.
    """
    bound = math.sqrt(3) * _kaiming_std(shape, a, mode)
    return bound * (2 * torch.rand(shape, generator=generator, dtype=dtype) - 1)
