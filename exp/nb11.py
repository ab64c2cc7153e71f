"""Recurrent networks: from three letters to a loop

By the end you will have a network that reads any number of letters with the same three matrices, a layer `RNN` that equals PyTorch's in output, state and every gradient, and a measured answer to a well-known piece of advice: does it help to start the recurrent matrix as the identity?
"""

# cell 5e5ee635 a6284e · Recurrent networks: from three letters to a loop
from __future__ import annotations

# generated from nbs/11_rnn.ipynb: do not edit · f2459f
__all__ = [
    "load_nietzsche",
    "sequence_loss",
    "Recurrent",
    "RNN",
    "outputs_and_gradients",
    "largest_difference",
    "gradient_lengths",
    "identity_init",
]
__dir__ = __all__.copy  # what completion offers

# cell 5e5ee635 ddf990 · Recurrent networks: from three letters to a loop
import copy
import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exp.nb00a import data_path
from exp.nb03c import count_kept
from exp.nb03e import divides_by


# cell f45c3a4e 82f43d · Three characters, and the fourth
def load_nietzsche() -> str:
    """Return the data set `nietzsche` as one text."""
    return (data_path("nietzsche") / "nietzsche.txt").read_text(encoding="utf-8")


# cell d227aae4 82d9df · All time steps at once
@divides_by(count_kept)
def sequence_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy over all time steps of all sequences.

    Shape: logits (B, T, V), target (B, T) -> (); or both with T first.
    Raises: ValueError if the first two axes differ.
    """
    if logits.ndim != 3 or logits.shape[:2] != target.shape:
        raise ValueError(f"logits (B, T, V) need a target (B, T), got {tuple(logits.shape)} and "
                         f"{tuple(target.shape)}")
    return F.cross_entropy(logits.flatten(0, 1), target.flatten())  # (B·T, V), (B·T,)


# cell ea7db64c 105fc2 · A layer
def _check_sizes(dropout: float, **sizes: int) -> None:
    """Raise ValueError for sizes below 1, and for dropout with a single layer."""
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {size!r}")
    if not 0 <= dropout < 1 or (dropout and sizes["num_layers"] == 1):
        raise ValueError("dropout acts between layers and must satisfy 0 <= dropout < 1, and be 0 "
                         f"for a single layer, got {dropout} with num_layers="
                         f"{sizes['num_layers']}")


# cell 4a257ed6 bb643f · A layer
def _suffixes(layer: Recurrent, number: int) -> list[str]:
    """Return the suffixes of the names of one layer's weights, one for each direction."""
    return [f"_l{number}", f"_l{number}_reverse"][:layer.directions]


def _add_weights(layer: Recurrent) -> None:
    """Give each layer and direction its weights, drawn uniformly from ± 1/√H."""
    H, GH = layer.hidden_size, layer.blocks * layer.hidden_size
    for number in range(layer.num_layers):
        in_features = layer.directions * H if number else layer.input_size
        shapes = {"weight_ih": (GH, in_features), "weight_hh": (GH, H),
                  "bias_ih": (GH,), "bias_hh": (GH,)}
        for suffix in _suffixes(layer, number):
            for name in list(shapes)[:4 if layer.bias else 2]:
                w = torch.empty(shapes[name]).uniform_(-1 / math.sqrt(H), 1 / math.sqrt(H))
                setattr(layer, name + suffix, nn.Parameter(w))


# cell 478223fb b02ab7 · A layer
def _time_first(layer: Recurrent, x: Tensor) -> Tensor:
    """Check the inputs, and bring them to (T, B, I)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a tensor, got {type(x).__name__}; pad sequences to one length")
    if x.ndim != 3 or x.shape[2] != layer.input_size or 0 in x.shape:
        raise ValueError(f"x must be {'(B, T, I)' if layer.batch_first else '(T, B, I)'} with "
                         f"I = {layer.input_size} and no empty axis, got {tuple(x.shape)}")
    return x.transpose(0, 1) if layer.batch_first else x


def _first_state(layer: Recurrent, x: Tensor, state: Tensor | tuple[Tensor, ...] | None
                 ) -> tuple[Tensor, ...]:
    """Return zeros, or the state that the caller passed, checked."""
    shape = (layer.num_layers * layer.directions, x.shape[1], layer.hidden_size)
    if state is None:
        return tuple(x.new_zeros(shape) for _ in range(layer.n_states))
    state = (state,) if isinstance(state, Tensor) else tuple(state)
    if [s.shape for s in state] != [shape] * layer.n_states:
        raise ValueError(f"the state must be {layer.n_states} × {shape} (layers · directions, B, "
                         f"H), got {[tuple(s.shape) for s in state]}")
    return state


# cell bec46d39 c60225 · A layer
def _read(layer: Recurrent, x: Tensor, state: tuple[Tensor, ...], suffix: str
          ) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Read the sequence with one set of weights, from the end if it is the reverse one.

    Shape: x (T, B, I) -> (T, B, H), and the last state.
    """
    weight, bias = getattr(layer, "weight_hh" + suffix), getattr(layer, "bias_hh" + suffix, None)
    from_input = F.linear(x, getattr(layer, "weight_ih" + suffix),
                          getattr(layer, "bias_ih" + suffix, None))  # (T, B, G·H)
    backwards, outputs = suffix.endswith("reverse"), []
    steps = from_input.unbind(0)
    for now in reversed(steps) if backwards else steps:
        state = layer.step(now, state, weight, bias)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs), state


# cell 9ae2ec11 501bc1 · A layer
class Recurrent(nn.Module):
    """Layers that read a sequence step by step; a subclass defines `step`.

    Shape: x (T, B, input_size) -> (T, B, D·hidden_size), or with B first if `batch_first`;
        each state (num_layers·D, B, hidden_size), with D = 2 if `bidirectional`, else 1.
    Raises: ValueError for sizes below 1, and for dropout with a single layer.
    Differs: torch.nn.RNNBase also takes sequences without a batch axis, and packed ones.
    """

    blocks: ClassVar[int] = 1  # G of the notation
    n_states: ClassVar[int] = 1

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
                 batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False):
        super().__init__()
        _check_sizes(dropout, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional, self.directions = bidirectional, 1 + bidirectional
        _add_weights(self)

    def step(self, from_input: Tensor, state: tuple[Tensor, ...], weight: Tensor,
             bias: Tensor | None) -> tuple[Tensor, ...]:
        """Return the next state; `from_input` (B, G·H) is what the input contributes."""
        raise NotImplementedError(f"{type(self).__name__} must define step")

    def forward(self, x: Tensor, state: Tensor | tuple[Tensor, ...] | None = None
                ) -> tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        """Return the output of each step, and the state after the last, to continue from."""
        x = _time_first(self, x)
        first, ends = _first_state(self, x, state), []
        for layer in range(self.num_layers):
            x = F.dropout(x, self.dropout, self.training) if layer and self.dropout else x
            read = [_read(self, x, tuple(s[number] for s in first), suffix) for number, suffix
                    in enumerate(_suffixes(self, layer), layer * self.directions)]
            x = torch.cat([output for output, _ in read], 2)  # (T, B, D·H)
            ends += [end for _, end in read]
        last = tuple(torch.stack(part) for part in zip(*ends, strict=True))  # (L·D, B, H) each
        return x.transpose(0, 1) if self.batch_first else x, last if self.n_states > 1 else last[0]


# cell 7c4b55b6 82440f · A layer
class RNN(Recurrent):
    """h' = f(x W_x + h W_h), where f is tanh or relu.

    Raises: ValueError for an unsupported nonlinearity.
    Source: Elman 1990; torch.nn.RNN, with its order of arguments.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int = 1,
                 nonlinearity: str = "tanh", **options: Any):
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(input_size, hidden_size, num_layers, **options)
        self.nonlinearity = nonlinearity

    def step(self, from_input: Tensor, state: tuple[Tensor, ...], weight: Tensor,
             bias: Tensor | None) -> tuple[Tensor, ...]:
        """Combine input and state, and apply the nonlinearity."""
        h = from_input + F.linear(state[0], weight, bias)
        return (h.tanh() if self.nonlinearity == "tanh" else h.relu(),)


# cell a6bce517 13dcb1 · Earned
def outputs_and_gradients(layer: nn.Module, x: Tensor, state: tuple[Tensor, ...]) -> list[Tensor]:
    """Return output and last state of a recurrent layer, and all gradients of a loss of them."""
    x, *state = (part.detach().clone().requires_grad_() for part in (x, *state))
    torch.manual_seed(3)  # for dropout
    output, last = layer(x, tuple(state) if len(state) > 1 else state[0])
    last = last if isinstance(last, tuple) else (last,)
    loss = sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).reshape(part.shape)
                ).sum() for part in (output, *last))  # each number counts differently
    return [output, *last, *torch.autograd.grad(loss, [x, *state, *layer.parameters()])]


def largest_difference(ours: Recurrent, theirs: nn.Module, T: int = 5, B: int = 3) -> float:
    """Load the weights of one layer into the other, run both in float64, gradients included."""
    ours, theirs = ours.double(), theirs.double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn((B, T) if ours.batch_first else (T, B), dtype=torch.float64)[:, :, None]
    x = x * torch.randn(ours.input_size, dtype=torch.float64)
    state = tuple(torch.randn(ours.num_layers * ours.directions, B, ours.hidden_size,
                              dtype=torch.float64) for _ in range(ours.n_states))
    pairs = zip(*(outputs_and_gradients(layer, x, state) for layer in (ours, theirs)), strict=True)
    return max((a - b).abs().max().item() for a, b in pairs)


# cell 9a880e09 bec142 · The same matrix, again and again
def gradient_lengths(layer: nn.Module, x: Tensor, state: Any = None, seed: int = 0) -> Tensor:
    """Send a random gradient back from the last state; return its length at each step, the last 1.

    The layer is a recurrent one, with time first; of an LSTM's two states the cell is followed.
    Shape: x (T, B, I) -> (T,), in float64, since in float32 small squares become 0.
    """
    layer, states = copy.deepcopy(layer).double(), []
    for x_t in x.detach().double():
        state = layer(x_t[None], state)[1]
        states.append(state[1] if isinstance(state, tuple) else state)
    towards = torch.randn(states[-1].shape, generator=torch.Generator().manual_seed(seed))
    gradients = torch.autograd.grad((states[-1] * towards).sum(), states)
    lengths = torch.stack([g.square().sum().sqrt() for g in gradients])
    return lengths / lengths[-1]


# cell 9610c6ad e53cee · The identity
@torch.no_grad()
def identity_init(layer: nn.Module, input_std: float | None = None) -> None:
    """Initialise every layer of an RNN to keep its state: W_h = I, biases 0.

    With `input_std`, the input weights are drawn again, with this standard deviation.
    Raises: TypeError for layers with gates, and for anything that is not an RNN.
    Source: Le, Jaitly and Hinton 2015.
    """
    weights = dict(layer.named_parameters())
    shapes = {tuple(w.shape) for name, w in weights.items() if name.startswith("weight_hh")}
    if not shapes or any(rows != columns for rows, columns in shapes):
        raise TypeError(f"{type(layer).__name__} is not a plain RNN, which has square weights "
                        f"weight_hh; got {sorted(shapes)}. In a layer with gates, set the bias of "
                        "its gates instead: gate_bias_init in exp.nb11a")
    for name, w in weights.items():
        if name.startswith("weight_hh"):
            w.copy_(torch.eye(len(w)))
        elif name.startswith("bias"):
            w.zero_()
        elif input_std is not None:
            w.normal_(0, input_std)
