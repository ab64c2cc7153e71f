"""Automatic differentiation: numbers that remember where they came from

By the end you will have written a number that knows its own gradient, drawn how gradients flow through a calculation, trained a neuron with it, and then built the same for tensors: a tape that differentiates whatever you write, and agrees with PyTorch's autograd to the last digits of float64.
"""

# cell 9b759c02 a6284e · Automatic differentiation: numbers that remember where they came from
from __future__ import annotations

# generated from nbs/02b_autograd.ipynb: do not edit · 272460
__all__ = [
    "as_scalar",
    "ScalarOperators",
    "Scalar",
    "order_of_making",
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
]
__dir__ = __all__.copy  # what completion offers

# cell 9b759c02 659db9 · Automatic differentiation: numbers that remember where they came from
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from exp.nb02 import Trainable


# cell 1f7d32d8 d74c3f · A number that remembers
def as_scalar(value: Any) -> Scalar:
    """Return a Scalar as it is, and a plain number as a new one."""
    return value if isinstance(value, Scalar) else Scalar(value)


class ScalarOperators:
    """The rest of arithmetic, written with + and ×, and how a number prints itself."""

    def __sub__(self, other: Any) -> Scalar: return self + as_scalar(other) * -1
    def __rsub__(self, other: Any) -> Scalar: return other + self * -1
    def __radd__(self, other: Any) -> Scalar: return self + other
    def __rmul__(self, other: Any) -> Scalar: return self * other
    def __repr__(self) -> str: return f"Scalar({self.data:g}, gradient {self.grad:g})"


# cell 7888b228 2472f2 · A number that remembers
class Scalar(ScalarOperators):
    """A number that remembers which numbers it was made from, and its slope along each."""

    def __init__(self, data: float, sources: tuple[tuple[Scalar, float], ...] = (), made: str = ""):
        self.data, self.sources, self.made, self.grad = float(data), sources, made, 0.0

    def __add__(self, other: Any) -> Scalar:
        other = as_scalar(other)
        return Scalar(self.data + other.data, ((self, 1.0), (other, 1.0)), "+")

    def __mul__(self, other: Any) -> Scalar:
        other = as_scalar(other)
        return Scalar(self.data * other.data, ((self, other.data), (other, self.data)), "×")

    def tanh(self) -> Scalar:
        """Squeeze the number into −1 to 1."""
        y = math.tanh(self.data)
        return Scalar(y, ((self, 1 - y * y),), "tanh")

    def backward(self) -> None:
        """Add to `grad` of each number how fast this one moves with it."""
        order = order_of_making(self)
        for scalar in order:
            if scalar.sources:  # only the leaves keep what earlier calls have found
                scalar.grad = 0.0
        self.grad += 1.0
        for scalar in reversed(order):
            for source, slope in scalar.sources:
                source.grad += slope * scalar.grad


# cell 22e1a359 b312a2 · A number that remembers
def order_of_making(last: Scalar) -> list[Scalar]:
    """List a number and all that it was made from, each after everything it was made from."""
    order, seen = [], set()

    def visit(scalar: Scalar) -> None:
        if scalar not in seen:
            seen.add(scalar)
            for source, _ in scalar.sources:
                visit(source)
            order.append(scalar)

    visit(last)
    return order


# cell f007565c 3cadfe · From numbers to tensors: a table of rules
class Rule(NamedTuple):
    """An operation that can be differentiated: its value, and one gradient formula per input.

    Each formula takes (g, y, *inputs, **options): the gradient at the output, and the output.
    """

    name: str
    forward: Callable[..., Tensor]
    gradients: tuple[Callable[..., Tensor], ...]


# cell a742baf2 32cb3f · From numbers to tensors: a table of rules
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


# cell aa30a3ce 7cd435 · From numbers to tensors: a table of rules
def _as_matrices(g: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Add a row axis to a vector on the left, a column axis to one on the right, and both to g."""
    if b.ndim == 1:
        b, g = b[:, None], g[..., None]
    if a.ndim == 1:
        a, g = a[None, :], g[..., None, :]
    return g, a, b


# cell d7b35140 0bc506 · From numbers to tensors: a table of rules
def _left_gradient(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    g, a_matrix, b = _as_matrices(g, a, b)
    gradient = g @ b.mT
    return gradient.squeeze(-2) if a.ndim == 1 else gradient


def _right_gradient(g: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    g, a, b_matrix = _as_matrices(g, a, b)
    gradient = a.mT @ g
    return gradient.squeeze(-1) if b.ndim == 1 else gradient


# cell a991ae19 92a1a7 · From numbers to tensors: a table of rules
MATMUL = Rule("matmul", lambda a, b: a @ b, (_left_gradient, _right_gradient))


# cell b6a95f8c 31de37 · From numbers to tensors: a table of rules
def _sum_gradient(g: Tensor, y: Tensor, a: Tensor, dim: int | tuple[int, ...] | None,
                  keepdim: bool) -> Tensor:
    """Pass the gradient of each sum on to every number that was added."""
    dims = dim if isinstance(dim, tuple) else (dim,)
    summed = range(a.ndim) if dim is None else {d % max(a.ndim, 1) for d in dims}
    return g.reshape([1 if i in summed else n for i, n in enumerate(a.shape)]).expand(a.shape)


# cell 63563685 f24abf · From numbers to tensors: a table of rules
def _index_gradient(g: Tensor, y: Tensor, a: Tensor, index: Any) -> Tensor:
    """Add each gradient at the place where its number was taken from."""
    places = torch.arange(a.numel(), device=a.device).reshape(a.shape)[index].reshape(-1)
    return g.new_zeros(a.numel()).index_add(0, places, g.reshape(-1)).reshape(a.shape)


# cell dfa0dc41 ae59a9 · From numbers to tensors: a table of rules
SUM = Rule("sum", lambda a, dim, keepdim: a.sum(dim, keepdim=keepdim), (_sum_gradient,))
RESHAPE = Rule("reshape", lambda a, shape: a.reshape(shape),
               (lambda g, y, a, shape: g.reshape(a.shape),))
TRANSPOSE = Rule("transpose", lambda a, dim0, dim1: a.transpose(dim0, dim1),
                 (lambda g, y, a, dim0, dim1: g.transpose(dim0, dim1),))
INDEX = Rule("index", lambda a, index: a[index], (_index_gradient,))


# cell 991aaacf 87538a · From numbers to tensors: a table of rules
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


# cell e6530f98 e39d17 · The tape
class Node(Trainable):
    """A tensor that remembers the rule and the inputs it was computed from.

    A leaf, which no rule computed, accumulates in `grad` the gradient of every `backward`.
    Raises: TypeError unless the data is a tensor of floating-point numbers.
    Differs: its gradients are plain tensors; PyTorch can differentiate them again.
    """

    def __init__(self, data: Tensor):
        super().__init__(data)
        self.rule, self.inputs, self.options = None, (), {}
        self.saved, self.versions = (), ()

    @property
    def is_leaf(self) -> bool: return self.rule is None

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
            if node.is_leaf:
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


# cell a37b8268 450bea · Values: the same with operators
class Value(Operators, Node):
    """A tensor whose arithmetic is recorded, so that `backward` can differentiate all of it."""

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
