"""Gates: what a network keeps

By the end you will have a task that asks for a memory of a hundred steps, the reason why recurrent networks fail at it as PyTorch starts them, two layers with gates, `GRU` and `LSTM`, that equal PyTorch's in output, state and every gradient, and the biases with which they solve the task, tried with five seeds each.
"""

# cell 00f7d853 a6284e · Gates: what a network keeps
from __future__ import annotations

# generated from nbs/11a_gates.ipynb: do not edit · 048649
__all__ = [
    "GRU",
    "LSTM",
    "gate_bias_init",
]
__dir__ = __all__.copy  # what completion offers

# cell 00f7d853 5ce585 · Gates: what a network keeps
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exp.nb11 import Recurrent


# cell 1ed65e7d 87f80b · Gates: the GRU
class GRU(Recurrent):
    """h' = (1 - z) n + z h, where the update gate z keeps and the reset gate r forgets.

    Source: Cho and others 2014, equations 5 to 8; torch.nn.GRU.
    Differs: in the paper r acts on h before the product with W_hn, here after it.
    """

    blocks = 3

    def step(self, from_input: Tensor, state: tuple[Tensor, ...], weight: Tensor,
             bias: Tensor | None) -> tuple[Tensor, ...]:
        """Compute a proposal for the new state, and mix it with the old one."""
        h = state[0]
        x_r, x_z, x_n = from_input.chunk(3, 1)  # (B, H) each
        h_r, h_z, h_n = F.linear(h, weight, bias).chunk(3, 1)
        z = (x_z + h_z).sigmoid()
        n = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
        return ((1 - z) * n + z * h,)


# cell a5e4d5ae baedca · Gates and a second state: the LSTM
class LSTM(Recurrent):
    """c' = f c + i g and h' = o tanh(c'): gates keep the cell, add to it and show it.

    Its state is the pair (h, c).
    Source: Hochreiter and Schmidhuber 1997, Gers and others 2000; torch.nn.LSTM.
    """

    blocks = 4
    n_states = 2

    def step(self, from_input: Tensor, state: tuple[Tensor, ...], weight: Tensor,
             bias: Tensor | None) -> tuple[Tensor, ...]:
        """Forget part of the cell, add to it, show part of it."""
        h, c = state
        i, f, g, o = (from_input + F.linear(h, weight, bias)).chunk(4, 1)  # (B, H) each
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


# cell f83110f0 ee1f6c · Do the gates remember?
_GATES = {3: "rzn", 4: "ifgo"}  # the order of the blocks in a GRU, in an LSTM


@torch.no_grad()
def gate_bias_init(layer: nn.Module, **biases: float) -> None:
    """Set the biases of gates at the start: `z=5` of a GRU, `f=5, i=-5` of an LSTM.

    Each gate has two biases that are added; the second becomes 0. The rest stays as it is.
    Raises: TypeError for layers without gates or biases, ValueError for a gate that is not there.
    Source: Gers and others 2000; Jozefowicz and others 2015.
    """
    H = getattr(layer, "hidden_size", 1)
    both = [(name, w) for name, w in layer.named_parameters() if name.startswith("bias_")]
    gates = _GATES.get(both[0][1].numel() // H if both else 0, "")
    if not gates:
        raise TypeError(f"a GRU or an LSTM with biases is needed, got {layer}")
    if not set(biases) <= set(gates):
        raise ValueError(f"this layer has the blocks {', '.join(gates)}, got {', '.join(biases)}")
    for name, w in both:
        for gate, value in biases.items():
            start = gates.index(gate) * H
            w[start:start + H] = value if name.startswith("bias_ih") else 0.0
