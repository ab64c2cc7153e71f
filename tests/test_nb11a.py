"""Layers with gates: where the biases of their gates start."""

import copy

import pytest
import torch
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb11a import GRU, LSTM, gate_bias_init


@pytest.mark.parametrize("kind", [nn.GRU, GRU])
def test_update_gate_of_every_layer_and_direction(kind):
    layer = kind(3, 4, num_layers=2, bidirectional=True)
    before = copy.deepcopy(layer.state_dict())
    gate_bias_init(layer, z=5.0)
    after = layer.state_dict()
    for end in ("_l0", "_l0_reverse", "_l1", "_l1_reverse"):
        both = after["bias_ih" + end] + after["bias_hh" + end]
        test_eq(both[4:8], torch.full((4,), 5.0))
        test_eq(both[:4], before["bias_ih" + end][:4] + before["bias_hh" + end][:4])
        test_eq(after["weight_hh" + end], before["weight_hh" + end])


@pytest.mark.parametrize("kind", [nn.LSTM, LSTM])
def test_two_gates_of_an_lstm(kind):
    layer = kind(3, 4)
    gate_bias_init(layer, f=5.0, i=-3.0)
    both = (layer.bias_ih_l0 + layer.bias_hh_l0).detach()
    test_eq(both[:8], torch.tensor([-3.0, 5.0]).repeat_interleave(4))


def test_nothing_named_nothing_changed():
    layer = nn.GRU(3, 4)
    before = copy.deepcopy(layer.state_dict())
    gate_bias_init(layer)
    test_eq(dict(layer.state_dict()), dict(before))


@pytest.mark.parametrize("layer", [nn.RNN(3, 4), nn.Linear(3, 4), nn.GRU(3, 4, bias=False)])
def test_refuses_layers_without_gates(layer):
    with pytest.raises(TypeError, match="a GRU or an LSTM with biases"):
        gate_bias_init(layer, z=5.0)


def test_refuses_gates_that_are_not_there_and_changes_nothing():
    layer = nn.LSTM(3, 4)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match="i, f, g, o, got z"):
        gate_bias_init(layer, z=5.0)
    test_eq(dict(layer.state_dict()), dict(before))


def test_an_open_update_gate_keeps():
    torch.manual_seed(0)
    layer = nn.GRU(3, 4)
    gate_bias_init(layer, z=100.0)
    h = torch.randn(1, 2, 4)
    test_near(layer(torch.randn(500, 2, 3), h)[1], h)
