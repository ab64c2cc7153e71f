"""Optimizers: a step made of parts

By the end you will have built RMSprop, Adam, AdamW and LAMB from parts that combine freely, each equal to PyTorch's version or to its paper, and have seen what every part is for and a problem that Adam solves and SGD does not.
"""

# cell 50fee2b7 a6284e · Optimizers: a step made of parts
from __future__ import annotations

# generated from nbs/05c_optimizers.ipynb: do not edit · d680b6
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
__dir__ = __all__.copy  # what completion offers

# cell 50fee2b7 1dbad7 · Optimizers: a step made of parts
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from exp.nb03 import Optimizer


# cell 0dfd58ac ee7ca9 · A step, made of parts
Part = Callable[[Tensor, Tensor, dict[str, Any], dict[str, Any]], Tensor]


class ComposedOptimizer(Optimizer):
    """Turn each gradient into a step by a chain of parts, then move by `lr` times that step.

    Subclasses list their `parts`: functions (p, step, state, group) -> step. A part receives the
    parameter, the step so far (at first the gradient), the state kept for this parameter and the
    settings of its group. It must not change `step` in place: it may be the gradient itself.
    Raises: ValueError for an invalid setting, or a saved state with an unsupported option.
    Differs: no `maximize`, no `amsgrad`; one parameter at a time, so no `foreach`, no `fused`.
    """

    parts: tuple[Part, ...] = ()

    def check(self, group: dict[str, Any]) -> None:
        for name in ("lr", "eps", "weight_decay", "momentum"):
            if not 0 <= group.get(name, 0) < math.inf:
                raise ValueError(f"{name} must be a finite number, 0 or more, got {group[name]}")
        kept = (*group.get("betas", (0, 0)), group.get("alpha", 0))
        if len(kept) != 3 or not all(0 <= beta < 1 for beta in kept):
            raise ValueError("alpha and both betas must lie in [0, 1), got "
                             f"{group.get('betas', group.get('alpha'))}")

    def update(self, p: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        step = grad
        for part in self.parts:
            step = part(p, step, state, group)
        p.sub_(step, alpha=group["lr"])

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        asked = {name for group in saved["param_groups"] for name in ("amsgrad", "maximize")
                 if group.get(name)} - self.defaults.keys()
        if asked:
            raise ValueError(f"the saved optimizer uses {sorted(asked)}, which "
                             f"{type(self).__name__} does not support; continue with PyTorch's, "
                             "or write a part for it")
        super().load_state_dict(saved)


# cell bccb50a0 5fdd4d · A step, made of parts
def l2_weight_decay(p: Tensor, step: Tensor, state: dict[str, Any],
                    group: dict[str, Any]) -> Tensor:
    """Add `weight_decay` times the parameter to the step."""
    return step.add(p, alpha=group["weight_decay"]) if group["weight_decay"] else step


# cell 5941f5aa a23df6 · A step, made of parts
def momentum(p: Tensor, step: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Replace the step by a velocity: `momentum` times the previous velocity, plus the step.

    Source: Polyak 1964.
    """
    if not group["momentum"]:
        return step
    if "momentum_buffer" not in state:
        state["momentum_buffer"] = torch.zeros_like(step)
    return state["momentum_buffer"].mul_(group["momentum"]).add_(step)


# cell ef578a43 da6921 · Two kinds of weight decay
def decoupled_weight_decay(p: Tensor, step: Tensor, state: dict[str, Any],
                           group: dict[str, Any]) -> Tensor:
    """Shrink the parameter by the fraction `lr` times `weight_decay`; leave the step unchanged.

    Source: Loshchilov and Hutter 2019, algorithm 2, line 12.
    """
    if group["weight_decay"]:
        p.mul_(1 - group["lr"] * group["weight_decay"])
    return step


# cell 8b41b46b f00d7d · How large are the gradients? RMSProp
def moving_average(state: dict[str, Any], name: str, value: Tensor, beta: float) -> Tensor:
    """Update the average `state[name]`, at first 0: keep `beta` of it, add the rest of `value`."""
    if name not in state:
        state[name] = torch.zeros_like(value)
    return state[name].lerp_(value, 1 - beta)


# cell 7d67423a 1d3dd5 · How large are the gradients? RMSProp
def count_step(p: Tensor, step: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Count the steps of this parameter; leave the step unchanged."""
    state["step"] = int(state.get("step", 0)) + 1
    return step


# cell 5cca8b72 b455a0 · How large are the gradients? RMSProp
def divide_by_recent_size(p: Tensor, step: Tensor, state: dict[str, Any],
                          group: dict[str, Any]) -> Tensor:
    """Divide by the root of a moving average of the squares, which keeps a fraction `alpha`.

    Source: Tieleman and Hinton 2012.
    """
    mean_square = moving_average(state, "square_avg", step * step, group["alpha"])
    if group["centered"]:
        mean = moving_average(state, "grad_avg", step, group["alpha"])
        mean_square = (mean_square - mean * mean).clamp_(min=0)  # rounding can make it negative
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


# cell cad50bff a4213a · Adam: both averages, and a correction of the start
def average_square(p: Tensor, step: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Average the squares of the step, keeping `betas[1]`; leave the step unchanged."""
    moving_average(state, "exp_avg_sq", step * step, group["betas"][1])
    return step


# cell 7215018d b3652f · Adam: both averages, and a correction of the start
def average_gradient(p: Tensor, step: Tensor, state: dict[str, Any],
                     group: dict[str, Any]) -> Tensor:
    """Replace the step by its bias-corrected moving average, which keeps `betas[0]`.

    Source: Kingma and Ba 2015, algorithm 1 and section 3.
    """
    beta = group["betas"][0]
    return moving_average(state, "exp_avg", step, beta) / (1 - beta ** state["step"])


# cell 4be7a777 97e61e · Adam: both averages, and a correction of the start
def divide_by_root(p: Tensor, step: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """Divide by the root of the bias-corrected average of squares, plus `eps`."""
    mean_square = state["exp_avg_sq"] / (1 - group["betas"][1] ** state["step"])
    return step / mean_square.sqrt_().add_(group["eps"])


# cell 2df9c573 b19250 · Adam: both averages, and a correction of the start
class Adam(ComposedOptimizer):
    """Step by the mean of the recent gradients, divided by the root of their mean square.

    Source: Kingma and Ba 2015, algorithm 1.
    Differs: `weight_decay`, which the paper does not have, is added to the gradient, as in PyTorch.
    """

    parts = (l2_weight_decay, count_step, average_square, average_gradient, divide_by_root)

    def __init__(self, params: Iterable[Tensor] | Iterable[dict], lr: float = 1e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps,
                                      "weight_decay": weight_decay})


# cell ebdf9705 7f2907 · AdamW: the other weight decay
class AdamW(Adam):
    """Adam with weight decay that shrinks the parameters directly.

    Source: Loshchilov and Hutter 2019, algorithm 2.
    Differs: the decay is `lr` times `weight_decay`, as in PyTorch; the paper multiplies it by a
    schedule that starts at 1, independent of the learning rate.
    """

    parts = (decoupled_weight_decay, *Adam.parts[1:])

    def __init__(self, params: Iterable[Tensor] | Iterable[dict], lr: float = 1e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 1e-2):
        super().__init__(params, lr, betas, eps, weight_decay)


# cell fd19e077 3c46ed · LAMB: a step in proportion to the weights
def scale_to_parameter(p: Tensor, step: Tensor, state: dict[str, Any],
                       group: dict[str, Any]) -> Tensor:
    """Scale the step to the length of the parameter; leave it unchanged if either length is 0.

    Source: You and others 2020, algorithm 2, the ratio of norms.
    """
    size, length = p.square().sum().sqrt(), step.square().sum().sqrt()
    ratio = torch.where((size > 0) & (length > 0), size / length, torch.ones_like(size))
    return ratio * step


# cell 8d7ba448 27231f · LAMB: a step in proportion to the weights
class LAMB(Adam):
    """Adam whose step, decay included, is as long as the parameter that it changes, times `lr`.

    Source: You and others 2020, algorithm 2.
    Differs: the paper's function φ, which bounds the parameter's length, is omitted; a parameter
    of zeros moves by Adam's step instead of staying at 0.
    """

    parts = (*Adam.parts[1:], l2_weight_decay, scale_to_parameter)

    def __init__(self, params: Iterable[Tensor] | Iterable[dict], lr: float = 1e-3,
                 betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
                 weight_decay: float = 1e-2):
        super().__init__(params, lr, betas, eps, weight_decay)
