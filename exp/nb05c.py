"""Optimizers: a step made of parts

In the end you have RMSprop, Adam, AdamW and LAMB, put together from parts that fit in any order, each equal to PyTorch's or to its paper, and you have seen what every part is for.
"""

# cell 50fee2b7 a6284e · Imports
from __future__ import annotations

# generated from nbs/05c_optimizers.ipynb: do not edit
__all__ = [
    "Part",
    "ComposedOptimizer",
    "l2_weight_decay",
    "momentum",
    "decoupled_weight_decay",
    "moving_average",
    "count_step",
    "divide_by_recent_size",
    "RMSprop",
    "average_square",
    "average_gradient",
    "divide_by_root",
    "Adam",
    "AdamW",
    "scale_to_parameter",
    "LAMB",
]

# cell 50fee2b7 1dbad7 · Imports
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from exp.nb03 import Optimizer


# cell 0dfd58ac a2cca0 · A step, made of parts
Part = Callable[[Tensor, Tensor, dict[str, Any], dict[str, Any]], Tensor]


class ComposedOptimizer(Optimizer):
    """Turn each gradient into a step by a chain of parts, then go `lr` times that step.

    A subclass lists its `parts`: functions (p, step, state, group) -> step. A part gets the
    parameter, the step so far (at first the gradient), what is kept for this parameter and the
    settings of its group. It must not change `step` in place: it may be the gradient itself.
    Raises: ValueError for a setting that makes no sense, or a saved state that asks for more.
    Differs: no `maximize`, no `amsgrad`; one parameter after the other, so no `foreach`, `fused`.
    """

    parts: tuple[Part, ...] = ()

    def check(self, group: dict[str, Any]) -> None:
        for name in ("lr", "eps", "weight_decay", "momentum"):
            if not 0 <= group.get(name, 0) < math.inf:
                raise ValueError(f"{name} must be a finite number, 0 or more, got {group[name]}")
        kept = (*group.get("betas", (0, 0)), group.get("alpha", 0))
        if len(kept) != 3 or not all(0 <= beta < 1 for beta in kept):
            raise ValueError("an average keeps a share in [0, 1), and betas are two such shares; "
                             f"got {group.get('betas', group.get('alpha'))}")

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        step = grad
        for part in self.parts:
            step = part(p, step, state, group)
        p.sub_(step, alpha=group["lr"])

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        asked = {name for group in saved["param_groups"] for name in ("amsgrad", "maximize")
                 if group.get(name)} - self.defaults.keys()
        if asked:
            raise ValueError(f"the saved optimizer has {sorted(asked)} on, which no part of "
                             f"{type(self).__name__} does; go on with PyTorch's, or write a part")
        super().load_state_dict(saved)


# cell bccb50a0 6791c5 · A step, made of parts
def l2_weight_decay(p: Tensor, step: Tensor, state: dict[str, Any],
                    group: dict[str, Any]) -> Tensor:
    """Add the parameter, times `weight_decay`, to the step."""
    return step.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else step


# cell 5941f5aa 7af724 · A step, made of parts
def momentum(p: Tensor, step: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Keep a velocity: slow the old one down by `momentum`, add the step, and go by the result.

    Source: Polyak 1964.
    """
    if not group["momentum"]:
        return step
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(step)
    return state["momentum_buffer"].mul_(group["momentum"]).add_(step)


# cell ef578a43 2e766f · Two kinds of weight decay
def decoupled_weight_decay(p: Tensor, step: Tensor, state: dict[str, Any],
                           group: dict[str, Any]) -> Tensor:
    """Shrink the parameter by the share `lr` times `weight_decay`; leave the step as it is.

    Source: Loshchilov and Hutter 2019, algorithm 2, line 12.
    """
    if group["weight_decay"]:
        p.mul_(1 - group["lr"] * group["weight_decay"])
    return step


# cell 8b41b46b 34ee26 · How large are the gradients? RMSProp
def moving_average(state: dict[str, Any], name: str, value: Tensor, beta: float) -> Tensor:
    """Keep under `name` an average, from 0 on: a share `beta` of the old, the rest of the new."""
    if name not in state:
        state[name] = torch.zeros_like(value)
    return state[name].lerp_(value, 1 - beta)


# cell 7d67423a 35f3a1 · How large are the gradients? RMSProp
def count_step(p: Tensor, step: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Count how often this parameter has been stepped; leave the step as it is."""
    state["step"] = int(state.get("step", 0)) + 1
    return step


# cell 5cca8b72 faefc4 · How large are the gradients? RMSProp
def divide_by_recent_size(p: Tensor, step: Tensor, state: dict[str, Any],
                          group: dict[str, Any]) -> Tensor:
    """Divide by the root of a moving average of the squares, which keeps a share `alpha`.

    Source: Tieleman and Hinton 2012.
    """
    mean_square = moving_average(state, "square_avg", step * step, group["alpha"])
    if group["centered"]:
        mean = moving_average(state, "grad_avg", step, group["alpha"])
        mean_square = (mean_square - mean * mean).clamp_(min=0)  # rounding may go below 0
    return step / (mean_square.sqrt() + group["eps"])


# cell 28f8fc69 141030 · How large are the gradients? RMSProp
class RMSprop(ComposedOptimizer):
    """Divide each gradient by its recent size, so that every parameter moves at a similar speed.

    Source: Tieleman and Hinton 2012.
    Differs: the lecture has neither momentum nor `centered`; both are as in PyTorch. A variance
    that rounding has made negative counts as 0, where PyTorch's root of it is NaN.
    """

    parts = (l2_weight_decay, count_step, divide_by_recent_size, momentum)

    def __init__(self, params: Iterable[Tensor] | Iterable[dict], lr: float = 1e-2,
                 alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
                 momentum: float = 0.0, centered: bool = False):
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum,
                                  "weight_decay": weight_decay, "centered": centered})


# cell cad50bff 1f6de3 · Adam: both averages, and a cure for the start
def average_square(p: Tensor, step: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Average the squares of the step, keeping `betas[1]`; leave the step as it is."""
    moving_average(state, "exp_avg_sq", step * step, group["betas"][1])
    return step


# cell 7215018d f80083 · Adam: both averages, and a cure for the start
def average_gradient(p: Tensor, step: Tensor, state: dict[str, Any],
                     group: dict[str, Any]) -> Tensor:
    """Replace the step by its moving average, which keeps `betas[0]`, without the bias to 0.

    Source: Kingma and Ba 2015, algorithm 1 and section 3.
    """
    beta = group["betas"][0]
    return moving_average(state, "exp_avg", step, beta) / (1 - beta ** state["step"])


# cell 4be7a777 0b92f4 · Adam: both averages, and a cure for the start
def divide_by_root(p: Tensor, step: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Divide by the root of the averaged squares, without their bias to 0, plus `eps`."""
    mean_square = state["exp_avg_sq"] / (1 - group["betas"][1] ** state["step"])
    return step / mean_square.sqrt_().add_(group["eps"])


# cell 2df9c573 ed079c · Adam: both averages, and a cure for the start
class Adam(ComposedOptimizer):
    """Go by the mean of the recent gradients, divided by the root of their mean square.

    Source: Kingma and Ba 2015, algorithm 1.
    Differs: `weight_decay`, which the paper does not have, is added to the gradient, as in PyTorch.
    """

    parts = (l2_weight_decay, count_step, average_square, average_gradient, divide_by_root)

    def __init__(self, params: Iterable[Tensor] | Iterable[dict], lr: float = 1e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps,
                                      "weight_decay": weight_decay})


# cell ebdf9705 fd8580 · AdamW: the other weight decay
class AdamW(Adam):
    """Adam whose weight decay shrinks the parameters directly.

    Source: Loshchilov and Hutter 2019, algorithm 2.
    Differs: the shrinking is `lr` times `weight_decay`, as in PyTorch; the paper multiplies by a
    schedule that is 1 at first, apart from the learning rate.
    """

    parts = (decoupled_weight_decay, *Adam.parts[1:])

    def __init__(self, params: Iterable[Tensor] | Iterable[dict], lr: float = 1e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 1e-2):
        super().__init__(params, lr, betas, eps, weight_decay)


# cell fd19e077 cdf9cb · LAMB: a step in proportion to the weights
def scale_to_parameter(p: Tensor, step: Tensor, state: dict[str, Any],
                       group: dict[str, Any]) -> Tensor:
    """Make the step as long as the parameter; where one of the two is 0, leave it as it is.

    Source: You and others 2020, algorithm 2, the ratio of norms.
    """
    size, length = p.square().sum().sqrt(), step.square().sum().sqrt()
    ratio = torch.where((size > 0) & (length > 0), size / length, torch.ones_like(size))
    return ratio * step


# cell 8d7ba448 df094a · LAMB: a step in proportion to the weights
class LAMB(Adam):
    """Adam whose step, decay included, has the length of the parameter it changes, times `lr`.

    Source: You and others 2020, algorithm 2.
    Differs: the paper's function φ, which bounds the parameter's length, is left out; a parameter
    of zeros moves by Adam's step instead of not at all.
    """

    parts = (*Adam.parts[1:], l2_weight_decay, scale_to_parameter)

    def __init__(self, params: Iterable[Tensor] | Iterable[dict], lr: float = 1e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
                 weight_decay: float = 1e-2):
        super().__init__(params, lr, betas, eps, weight_decay)
