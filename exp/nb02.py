"""Fully connected networks: from one neuron to a network trained by hand

By the end you will have trained a neuron to tell a 3 from an 8 and a network to read all ten digits, with nothing but multiplication, addition and gradients that you derived yourself, and you will know what `nn.Linear` and `nn.Module` do, because you will have written both.
"""

# cell 2d3a9379 a6284e · Fully connected networks: from one neuron to a network trained by hand
from __future__ import annotations

# generated from nbs/02_fully_connected.ipynb: do not edit · 058c54
__all__ = [
    "linear",
    "mse",
    "numerical_gradient",
    "normalize",
    "Trainable",
    "HasParameters",
    "Module",
    "Linear",
    "ReLU",
    "MSELoss",
]
__dir__ = __all__.copy  # what completion offers

# cell 2d3a9379 488fc5 · Fully connected networks: from one neuron to a network trained by hand
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor


# cell cf5d71a6 775d0f · A layer: many neurons at once
def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """Multiply by the transposed weights and add the bias.

    Shape: x (…, n_in), weight (n_out, n_in), bias (n_out,) -> (…, n_out).
    Raises: ValueError if x and weight differ in n_in.
    """
    if x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x has {x.shape[-1]} numbers in its last axis, this layer takes "
                         f"{weight.shape[1]}"
                         f" (x {tuple(x.shape)}, weight {tuple(weight.shape)})")
    y = x @ weight.T  # (…, n_out)
    return y if bias is None else y + bias


# cell afeb0d2b 0e9c78 · A loss for ten outputs, and a trap
def mse(pred: Any, target: Any) -> Any:
    """Average the squared differences of predictions and targets over all elements.

    Shape: pred (…) and target (…), the same -> ().
    Raises: ValueError if the shapes differ, even where broadcasting would make them fit.
    Differs: torch's mse_loss warns in that case and broadcasts.
    """
    if pred.shape != target.shape:
        raise ValueError(f"mse needs equal shapes, got pred {tuple(pred.shape)} and target "
                         f"{tuple(target.shape)}; reshape one, for example target[:, None]")
    return ((pred - target) ** 2).mean()


# cell 3b1100b3 b5a795 · How to check a gradient
def numerical_gradient(function: Callable[[Tensor], Any], x: Tensor, step: float = 6e-6) -> Tensor:
    """Move each element of x a step up and down; divide the change of the function by the distance.

    Shape: x (…) -> gradient (…); function(x) is a single number.
    Raises: TypeError unless x is float64; in float32 the difference is lost in rounding.
    """
    if x.dtype != torch.float64:
        raise TypeError(f"numerical_gradient needs float64, got {x.dtype}; pass x.double()")
    gradient = torch.empty(x.numel(), dtype=x.dtype)
    for i in range(x.numel()):
        shift = torch.zeros(x.numel(), dtype=x.dtype)
        shift[i] = step
        shift = shift.reshape(x.shape)
        gradient[i] = (float(function(x + shift)) - float(function(x - shift))) / (2 * step)
    return gradient.reshape(x.shape)


# cell 8d4b1ebb 888838 · Normalise, with the statistics of the training set
def normalize(x: Tensor, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """Subtract a mean and divide by a standard deviation, both measured on the training set.

    Shape: x (…); mean and std are numbers, or tensors that broadcast against x.
    Raises: ValueError if a standard deviation is not a positive, finite number.
    """
    spread = torch.as_tensor(std)
    if not ((spread > 0) & spread.isfinite()).all():
        raise ValueError(f"std must be positive and finite, got {std}; leave out constant columns")
    return (x - mean) / std


# cell cf8efc2d acfe46 · Module
class Trainable:
    """A tensor that training changes, `data`, with a place for its gradient, `grad`.

    Raises: TypeError unless the data is a tensor of floating-point numbers.
    """

    is_leaf = True  # holds its own numbers; a subclass may hold what was computed from others

    def __init__(self, data: Tensor):
        if not (isinstance(data, Tensor) and data.is_floating_point()):
            got = data.dtype if isinstance(data, Tensor) else type(data).__name__
            raise TypeError(f"only tensors of floating-point numbers have gradients, got {got}")
        self.data, self.grad = data, None

    @property
    def shape(self) -> torch.Size: return self.data.shape


# cell 2122ce13 fc1602 · Module
def _members(pairs: Iterable[tuple[Any, Any]], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and their values, including those inside lists, tuples and dicts."""
    for name, item in pairs:
        if isinstance(item, (list, tuple, dict)) and not f"{name}".startswith("_"):
            inside = item.items() if isinstance(item, dict) else enumerate(item)
            yield from _members(inside, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


# cell acfa9fea e4b0fb · Module
class HasParameters:
    """An object that finds its parameters in its attributes and in its parts.

    Attributes whose names begin with an underscore are private: nothing is looked for there.
    """

    def __getattr__(self, name: str) -> Any:  # Python asks here only if there is no such attribute
        close = get_close_matches(name, dir(self), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")

    def named_children(self) -> Iterator[tuple[str, HasParameters]]:
        """Yield the parts with their names."""
        return ((name, part) for name, part in _members(vars(self).items())
                if isinstance(part, HasParameters))

    def named_parameters(self, prefix: str = "", remove_duplicate: bool = True
                         ) -> Iterator[tuple[str, Trainable]]:
        """Yield all parameters with their names, an object's own before those of its parts.

        A parameter that has several names comes once, under the first.
        """
        found = [(prefix + name, value) for name, value in _members(vars(self).items())
                 if isinstance(value, Trainable) and value.is_leaf]
        for name, part in self.named_children():
            found += part.named_parameters(f"{prefix}{name}.", remove_duplicate=False)
        first = {value: name for name, value in reversed(found)}
        return ((n, v) for n, v in found if not remove_duplicate or first[v] == n)

    def parameters(self) -> Iterator[Trainable]:
        """Yield all parameters, each once."""
        return (value for _, value in self.named_parameters())

    def zero_grad(self) -> None:
        """Clear all gradients, which would otherwise add up from one backward to the next."""
        for value in self.parameters():
            value.grad = None


# cell 9ff1c07d 8fbe42 · Module
class Module(HasParameters):
    """A model or a part of one: parameters, parts, and a `forward` that a call runs.

    Differs: torch's Module needs `Parameter` and `ModuleList`, and overlooks a plain list.
    """

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.forward(*inputs, **options)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Compute the output; each subclass defines how."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(self, …)")

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of all parameters by name: the model's own, not copies."""
        return {name: value.data for name, value in self.named_parameters(remove_duplicate=False)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy tensors into the parameters of the same names.

        Raises: ValueError if a name is missing or unknown or a shape differs; then nothing changes.
        """
        own = self.state_dict()
        problems = [f"missing {name!r}" for name in own.keys() - state.keys()]
        problems += [f"unknown {name!r}" for name in state.keys() - own.keys()]
        problems += [f"{name!r} has shape {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
                     for name in own.keys() & state.keys() if state[name].shape != own[name].shape]
        if problems:
            raise ValueError(f"not a state of {type(self).__name__}: {'; '.join(sorted(problems))}")
        for name, tensor in own.items():
            tensor.copy_(state[name].detach())

    def __repr__(self) -> str:
        count = sum(value.data.numel() for value in self.parameters())
        lines = [f"{type(self).__name__}, {count:,} parameters"]
        for name, part in self.named_children():
            lines += f"{name}: {part!r}".replace("\n", "\n    ").split("\n")
        return "\n    ".join(lines)


# cell 289f9220 6fe6af · Module
def _add_gradient(parameter: Trainable, gradient: Tensor) -> None:
    """Add to a parameter's gradient, which is None after `zero_grad`."""
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


# cell 0f6da7f8 7510e3 · Module
class Linear(Module):
    """Multiply by the transposed weights and add the bias.

    Shape: x (…, in_features) -> (…, out_features).
    Raises: ValueError unless both sizes are at least 1.
    Differs: starts with normal weights of variance 1/in_features and bias 0, where torch draws both
    from ±1/√in_features; `backward` is ours.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True,
                 generator: torch.Generator | None = None, dtype: torch.dtype | None = None):
        if in_features < 1 or out_features < 1:
            raise ValueError(f"sizes must be at least 1, got {in_features} and {out_features}")
        weight = torch.randn(out_features, in_features, generator=generator, dtype=dtype)
        self.weight = Trainable(weight / math.sqrt(in_features))
        self.bias = Trainable(torch.zeros(out_features, dtype=dtype)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        return linear(x, self.weight.data, self.bias.data if self.bias else None)

    def backward(self, g: Tensor) -> Tensor:
        """Add to the gradients of weight and bias; return the gradient at the input."""
        rows, x = g.reshape(-1, g.shape[-1]), self._x.reshape(-1, self._x.shape[-1])
        _add_gradient(self.weight, rows.T @ x)
        if self.bias:
            _add_gradient(self.bias, rows.sum(0))
        return g @ self.weight.data


# cell cc8dcd7e 2057f2 · Module
class ReLU(Module):
    """Replace negative numbers by 0."""

    def forward(self, x: Tensor) -> Tensor:
        self._x = x
        return x.clamp(min=0)

    def backward(self, g: Tensor) -> Tensor:
        """Return the gradient at the input: it passes where the input was positive."""
        return g * (self._x > 0)


class MSELoss(Module):
    """Average the squared differences over all elements; shapes must be equal, see `mse`."""

    def forward(self, pred: Tensor, target: Tensor) -> Tensor:
        self._difference = pred - target if pred.shape == target.shape else None
        return mse(pred, target)

    def backward(self) -> Tensor:
        """Return the gradient at the predictions."""
        return 2 * self._difference / self._difference.numel()
