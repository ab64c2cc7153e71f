"""Fully connected networks: gradients by hand, then by a tape

By the end you will have a neural network whose gradients all come from your own code, first by hand, then from a tape that differentiates whatever you write, and all of it agrees with PyTorch to the last digits of float64.
"""

# cell 2d3a9379 a6284e · Imports
from __future__ import annotations

# generated from nbs/02_fully_connected.ipynb: do not edit · 50f1db
__all__ = [
    "normalize",
    "linear",
    "fans",
    "glorot_normal",
    "kaiming_normal",
    "kaiming_uniform",
    "mse",
    "numerical_gradient",
    "Rule",
    "ADD",
    "MULTIPLY",
    "DIVIDE",
    "POWER",
    "EXP",
    "LOG",
    "TANH",
    "RELU",
    "MATMUL",
    "SUM",
    "RESHAPE",
    "TRANSPOSE",
    "INDEX",
    "sum_to_shape",
    "topological_order",
    "input_gradients",
    "Node",
    "Operators",
    "Value",
    "HasParameters",
    "Module",
    "Linear",
    "ReLU",
    "MSELoss",
]

# cell 2d3a9379 578587 · Imports
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch
from torch import Tensor


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


# cell cf5d71a6 775d0f · A linear layer
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


# cell afeb0d2b 0e9c78 · A loss, and a trap
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


# cell f007565c 3cadfe · Rules: a table of derivatives
class Rule(NamedTuple):
    """An operation that can be differentiated: its value, and one gradient formula per input.

    Each formula takes (g, y, *inputs, **options): the gradient at the output, and the output.
    """

    name: str
    forward: Callable[..., Tensor]
    gradients: tuple[Callable[..., Tensor], ...]


# cell a742baf2 32cb3f · Rules: a table of derivatives
ADD = Rule("add", lambda a, b: a + b, (lambda g, y, a, b: g, lambda g, y, a, b: g))
MULTIPLY = Rule("multiply", lambda a, b: a * b,
                (lambda g, y, a, b: g * b, lambda g, y, a, b: g * a))
DIVIDE = Rule("divide", lambda a, b: a / b,
              (lambda g, y, a, b: g / b, lambda g, y, a, b: -g * y / b))
POWER = Rule("power", lambda a, exponent: a**exponent,
             (lambda g, y, a, exponent: g * exponent * a ** (exponent - 1) if exponent else 0 * g,))
EXP = Rule("exp", lambda a: a.exp(), (lambda g, y, a: g * y,))
LOG = Rule("log", lambda a: a.log(), (lambda g, y, a: g / a,))
TANH = Rule("tanh", lambda a: a.tanh(), (lambda g, y, a: g * (1 - y**2),))
RELU = Rule("relu", lambda a: a.clamp(min=0), (lambda g, y, a: g * (a > 0),))


# cell aa30a3ce 7cd435 · Rules: a table of derivatives
def _as_matrices(g: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Add a row axis to a vector on the left, a column axis to one on the right, and both to g."""
    if b.ndim == 1:
        b, g = b[:, None], g[..., None]
    if a.ndim == 1:
        a, g = a[None, :], g[..., None, :]
    return g, a, b


# cell d7b35140 0bc506 · Rules: a table of derivatives
def _left_gradient(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    g, a_matrix, b = _as_matrices(g, a, b)
    gradient = g @ b.mT
    return gradient.squeeze(-2) if a.ndim == 1 else gradient


def _right_gradient(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    g, a, b_matrix = _as_matrices(g, a, b)
    gradient = a.mT @ g
    return gradient.squeeze(-1) if b.ndim == 1 else gradient


# cell a991ae19 92a1a7 · Rules: a table of derivatives
MATMUL = Rule("matmul", lambda a, b: a @ b, (_left_gradient, _right_gradient))


# cell b6a95f8c 31de37 · Rules: a table of derivatives
def _sum_gradient(g: Tensor, y: Tensor, a: Tensor, dim: int | tuple[int, ...] | None,
                  keepdim: bool) -> Tensor:
    """Pass the gradient of each sum on to every number that was added."""
    dims = dim if isinstance(dim, tuple) else (dim,)
    summed = range(a.ndim) if dim is None else {d % max(a.ndim, 1) for d in dims}
    return g.reshape([1 if i in summed else n for i, n in enumerate(a.shape)]).expand(a.shape)


# cell 63563685 f24abf · Rules: a table of derivatives
def _index_gradient(g: Tensor, y: Tensor, a: Tensor, index: Any) -> Tensor:
    """Add each gradient at the place where its number was taken from."""
    places = torch.arange(a.numel(), device=a.device).reshape(a.shape)[index].reshape(-1)
    return g.new_zeros(a.numel()).index_add(0, places, g.reshape(-1)).reshape(a.shape)


# cell dfa0dc41 ae59a9 · Rules: a table of derivatives
SUM = Rule("sum", lambda a, dim, keepdim: a.sum(dim, keepdim=keepdim), (_sum_gradient,))
RESHAPE = Rule("reshape", lambda a, shape: a.reshape(shape),
               (lambda g, y, a, shape: g.reshape(a.shape),))
TRANSPOSE = Rule("transpose", lambda a, dim0, dim1: a.transpose(dim0, dim1),
                 (lambda g, y, a, dim0, dim1: g.transpose(dim0, dim1),))
INDEX = Rule("index", lambda a, index: a[index], (_index_gradient,))


# cell 991aaacf 87538a · Rules: a table of derivatives
def sum_to_shape(g: Tensor, shape: torch.Size) -> Tensor:
    """Undo broadcasting: sum a gradient over the axes along which `shape` was stretched.

    Shape: g (…), to which `shape` broadcasts -> `shape`.
    """
    if g.shape == shape:
        return g
    added = g.ndim - len(shape)
    stretched = [i for i, n in enumerate(shape, start=added) if n == 1]
    return g.sum([*range(added), *stretched], keepdim=True).reshape(shape)


# cell 5c53b60b 84ec68 · The tape
def topological_order(last: Node) -> list[Node]:
    """List a node and all nodes it was computed from, each after everything it depends on.

    The inputs of a node are visited before the node itself; a stack holds what is still to do.
    """
    order: list[Node] = []
    seen: set[Node] = set()
    stack = [(last, False)]
    while stack:
        node, inputs_done = stack.pop()
        if inputs_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((parent, False) for parent in node.inputs if isinstance(parent, Node))
    return order


# cell fa837d54 003ea7 · The tape
def _versions(tensors: tuple[Any, ...]) -> tuple[int, ...]:
    """Return how often each tensor has been changed in place."""
    return tuple(t._version for t in tensors if isinstance(t, Tensor))


# cell d75d2f70 00d376 · The tape
def input_gradients(node: Node, g: Tensor) -> Iterator[tuple[Node, Tensor]]:
    """Pair each input that is a node with its gradient, given the gradient at the output.

    Raises: RuntimeError if a tensor that the rule used has been changed in place since then.
    """
    if _versions(node.saved) != node.versions:
        raise RuntimeError(f"a tensor that {node.rule.name!r} used has been changed in place; "
                           "compute the loss again before you call backward")
    for parent, value, formula in zip(node.inputs, node.saved[1:], node.rule.gradients,
                                      strict=True):
        if isinstance(parent, Node):
            gradient = formula(g, *node.saved, **node.options)
            yield parent, sum_to_shape(gradient, value.shape).to(value)


# cell eeae87ef 9d60e3 · The tape
def _first_gradient(y: Tensor, gradient: Tensor | None) -> Tensor:
    """Return the gradient that a backward pass starts with, checked; for one number it is 1."""
    if gradient is None and y.numel() == 1:
        return torch.ones_like(y)
    if gradient is None or gradient.shape != y.shape:
        got = None if gradient is None else tuple(gradient.shape)
        raise ValueError(f"backward from shape {tuple(y.shape)} needs a gradient of that shape, "
                         f"got {got}; or first reduce it, with mean or sum")
    return gradient


# cell e6530f98 aca7ec · The tape
class Node:
    """A tensor that remembers the rule and the inputs it was computed from.

    A leaf, which no rule computed, accumulates in `grad` the gradient of every `backward`.
    Raises: TypeError unless the data is a tensor of floating-point numbers.
    Differs: its gradients are plain tensors; PyTorch can differentiate them again.
    """

    def __init__(self, data: Tensor):
        if not (isinstance(data, Tensor) and data.is_floating_point()):
            got = data.dtype if isinstance(data, Tensor) else type(data).__name__
            raise TypeError(f"only tensors of floating-point numbers have gradients, got {got}")
        self.data, self.grad = data, None
        self.rule, self.inputs, self.options = None, (), {}
        self.saved, self.versions = (), ()

    @classmethod
    def apply(cls, rule: Rule, *inputs: Any, **options: Any) -> Node:
        """Compute a rule's output and record where it came from."""
        values = [i.data if isinstance(i, Node) else i for i in inputs]
        node = cls(rule.forward(*values, **options))
        node.rule, node.inputs, node.options = rule, inputs, options
        node.saved = (node.data, *values)
        node.versions = _versions(node.saved)
        return node

    def backward(self, gradient: Tensor | None = None) -> None:
        """Add the gradient of this node to the `grad` of every leaf it was computed from.

        Raises: ValueError if it holds more than one number and no gradient of its shape is given.
        """
        received = {self: _first_gradient(self.data, gradient)}
        for node in reversed(topological_order(self)):
            g = received.pop(node)
            if node.rule is None:
                node.grad = g.clone() if node.grad is None else node.grad + g
                continue
            for parent, part in input_gradients(node, g):
                received[parent] = received[parent] + part if parent in received else part


# cell 6f8bcc05 8b5603 · Values: the same with operators
class Operators:
    """The operators with which nodes are written in formulas; each applies a rule."""

    __array_ufunc__ = None  # or numpy would make array + value an array of objects

    def __add__(self, other): return self.apply(ADD, self, other)
    def __radd__(self, other): return self.apply(ADD, other, self)
    def __mul__(self, other): return self.apply(MULTIPLY, self, other)
    def __rmul__(self, other): return self.apply(MULTIPLY, other, self)
    def __truediv__(self, other): return self.apply(DIVIDE, self, other)
    def __rtruediv__(self, other): return self.apply(DIVIDE, other, self)
    def __matmul__(self, other): return self.apply(MATMUL, self, other)
    def __rmatmul__(self, other): return self.apply(MATMUL, other, self)
    def __neg__(self): return self * -1
    def __sub__(self, other): return self + -other
    def __rsub__(self, other): return other + -self
    def __getitem__(self, index): return self.apply(INDEX, self, index=index)

    def __pow__(self, exponent):
        if not isinstance(exponent, (int, float)):
            raise TypeError(f"the exponent must be a number, got {type(exponent).__name__}; "
                            "for a ** b with a > 0 write (b * a.log()).exp()")
        return self.apply(POWER, self, exponent=exponent)


# cell a37b8268 99b289 · Values: the same with operators
class Value(Operators, Node):
    """A tensor whose arithmetic is recorded, so that `backward` can differentiate all of it."""

    @property
    def shape(self) -> torch.Size: return self.data.shape

    @property
    def T(self) -> Value: return self.transpose(-2, -1)

    def exp(self) -> Value: return self.apply(EXP, self)
    def log(self) -> Value: return self.apply(LOG, self)
    def tanh(self) -> Value: return self.apply(TANH, self)
    def relu(self) -> Value: return self.apply(RELU, self)
    def reshape(self, *shape: int) -> Value: return self.apply(RESHAPE, self, shape=shape)

    def transpose(self, dim0: int, dim1: int) -> Value:
        return self.apply(TRANSPOSE, self, dim0=dim0, dim1=dim1)

    def sum(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Value:
        return self.apply(SUM, self, dim=dim, keepdim=keepdim)

    def mean(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Value:
        total = self.sum(dim, keepdim)
        return total * (total.data.numel() / self.data.numel())

    def __repr__(self) -> str:
        made = f"from {self.rule.name}" if self.rule else "leaf"
        what = f"{self.data.item():.6g}" if self.data.ndim == 0 else f"shape {tuple(self.shape)}"
        return f"Value({what}, {made})"


# cell 2122ce13 02a17b · Module
def _members(pairs: Iterable[tuple[Any, Any]], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield names and their values, including those inside lists, tuples and dicts."""
    for name, item in pairs:
        if isinstance(item, (list, tuple, dict)):
            inside = item.items() if isinstance(item, dict) else enumerate(item)
            yield from _members(inside, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


# cell acfa9fea 849994 · Module
class HasParameters:
    """An object that finds its parameters, leaf Values, in its attributes and in its parts."""

    def __getattr__(self, name: str) -> Any:  # Python asks here only if there is no such attribute
        close = get_close_matches(name, dir(self), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{hint}")

    def named_children(self) -> Iterator[tuple[str, HasParameters]]:
        """Yield the parts with their names."""
        return ((name, part) for name, part in _members(vars(self).items())
                if isinstance(part, HasParameters))

    def named_parameters(self, prefix: str = "", remove_duplicate: bool = True
                         ) -> Iterator[tuple[str, Value]]:
        """Yield all parameters with their names, an object's own before those of its parts.

        A parameter that has several names comes once, under the first.
        """
        found = [(prefix + name, value) for name, value in _members(vars(self).items())
                 if isinstance(value, Value) and value.rule is None]
        for name, part in self.named_children():
            found += part.named_parameters(f"{prefix}{name}.", remove_duplicate=False)
        first = {value: name for name, value in reversed(found)}
        return ((n, v) for n, v in found if not remove_duplicate or first[v] == n)

    def parameters(self) -> Iterator[Value]:
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


# cell 0f6da7f8 0bae62 · Module
class Linear(Module):
    """Multiply by the transposed weights and add the bias.

    Shape: x (…, in_features) -> (…, out_features).
    Raises: ValueError unless both sizes are at least 1.
    Differs: starts with `kaiming_normal` weights and bias 0, where torch draws both from
    ±1/√in_features.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True,
                 generator: torch.Generator | None = None, dtype: torch.dtype | None = None):
        if in_features < 1 or out_features < 1:
            raise ValueError(f"sizes must be at least 1, got {in_features} and {out_features}")
        shape = (out_features, in_features)
        self.weight = Value(kaiming_normal(shape, generator=generator, dtype=dtype))
        self.bias = Value(torch.zeros(out_features, dtype=dtype)) if bias else None

    def forward(self, x: Tensor | Value) -> Value:
        return linear(x, self.weight, self.bias)


# cell cc8dcd7e 2aae37 · Module
class ReLU(Module):
    """Replace negative numbers by 0."""

    def forward(self, x: Tensor | Value) -> Tensor | Value:
        return x.relu()


class MSELoss(Module):
    """Average the squared differences over all elements; shapes must be equal, see `mse`."""

    def forward(self, pred: Tensor | Value, target: Tensor) -> Value:
        return mse(pred, target)
