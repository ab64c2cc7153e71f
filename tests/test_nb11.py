"""Recurrent layers: PyTorch's values and gradients over random shapes, and what must be refused."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb11 import (
    RNN,
    Recurrent,
    gradient_lengths,
    identity_init,
    outputs_and_gradients,
    sequence_loss,
)
from exp.nb11a import GRU, LSTM

PAIRS = [(RNN, nn.RNN), (GRU, nn.GRU), (LSTM, nn.LSTM)]


@settings(max_examples=40, deadline=None)
@given(
    pair=st.sampled_from(PAIRS),
    T=st.integers(1, 7),
    B=st.integers(1, 4),
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    num_layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    dropout=st.sampled_from([0.0, 0.3, 0.99]),
    seed=st.integers(0, 1000),
)
def test_equals_torch(
    pair, T, B, sizes, num_layers, bidirectional, batch_first, bias, dropout, seed
):
    options = {
        "num_layers": num_layers,
        "bidirectional": bidirectional,
        "bias": bias,
        "batch_first": batch_first,
        "dropout": dropout if num_layers > 1 else 0.0,
    }
    torch.manual_seed(seed)
    ours, theirs = (kind(*sizes, **options).double() for kind in pair)
    ours.load_state_dict(theirs.state_dict())  # and the other way round:
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn((B, T) if batch_first else (T, B), dtype=torch.float64)[..., None]
    x = x * torch.randn(sizes[0], dtype=torch.float64)
    states = [
        torch.randn(num_layers * (1 + bidirectional), B, sizes[1], dtype=torch.float64)
        for _ in range(ours.n_states)
    ]
    found = outputs_and_gradients(ours, x, states)
    test_near(found, outputs_and_gradients(theirs, x, states), tol=1e-11)


def test_relu_and_no_state():
    ours, theirs = (kind(3, 4, 2, nonlinearity="relu").double() for kind in PAIRS[0])
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    test_near(list(ours(x)), list(theirs(x)), tol=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_same_seed_same_weights(ours, theirs):
    made = []
    for kind in (ours, theirs):
        torch.manual_seed(3)
        made.append(dict(kind(3, 4, 3, bidirectional=True).state_dict()))
    test_eq(*made)


@pytest.mark.parametrize("kind", [RNN, GRU, LSTM])
def test_in_chunks_as_at_once(kind):
    layer, x = kind(3, 4, 2), torch.randn(10, 2, 3)
    whole, last = layer(x)
    parts, state = [], None
    for chunk in x.split([1, 4, 2, 3]):
        output, state = layer(chunk, state)
        parts.append(output)
    test_near(torch.cat(parts), whole)
    test_near(
        state if isinstance(state, tuple) else (state,),
        last if isinstance(last, tuple) else (last,),
    )


def test_dropout_acts_between_layers_in_training_only():
    torch.manual_seed(0)
    layer, x = LSTM(3, 40, 2, dropout=0.99), torch.randn(5, 30, 3)
    first = layer.eval()(x)[1][0]
    test_eq(layer(x)[1][0], first)
    h = layer.train()(x)[1][0]
    test_eq(h[0], first[0])  # nothing drops out below the first layer
    assert not torch.equal(h[1], first[1])


def test_float32_deepcopy_and_dtype():
    layer = GRU(3, 4)
    x = torch.randn(5, 2, 3)
    test_eq(copy.deepcopy(layer)(x)[0], layer(x)[0])
    assert layer.double()(x.double())[0].dtype == torch.float64


@pytest.mark.parametrize(
    "options",
    [
        {"input_size": 0},
        {"hidden_size": -1},
        {"num_layers": 0},
        {"dropout": 0.5},
        {"dropout": 1.0, "num_layers": 2},
        {"hidden_size": 2.0},
    ],
)
def test_refuses_sizes(options):
    with pytest.raises(ValueError, match="got"):
        GRU(**{"input_size": 3, "hidden_size": 4, **options})


def test_refuses_inputs_and_states():
    layer = LSTM(3, 4, batch_first=True)
    h = torch.zeros(1, 2, 4)
    for x in (torch.zeros(2, 3), torch.zeros(2, 5, 4), torch.zeros(2, 0, 3)):
        with pytest.raises(ValueError, match=r"\(B, T, I\)"):
            layer(x)
    for state in (h, (h,), (h, h, h), (h, torch.zeros(1, 3, 4))):
        with pytest.raises(ValueError, match="the state must be"):
            layer(torch.zeros(2, 5, 3), state)
    with pytest.raises(TypeError, match="got PackedSequence"):
        layer(nn.utils.rnn.pack_sequence([torch.zeros(5, 3), torch.zeros(4, 3)]))
    with pytest.raises(NotImplementedError, match="Recurrent"):
        Recurrent(3, 4)(torch.zeros(5, 2, 3))
    with pytest.raises(ValueError, match="'tanh' or 'relu'"):
        RNN(3, 4, nonlinearity="sigmoid")


def test_identity_keeps_the_state_in_silence():
    layer = nn.RNN(3, 4, num_layers=2, bidirectional=True, nonlinearity="relu")
    identity_init(layer)
    for layer_number, end in itertools.product((0, 1), ("", "_reverse")):
        test_eq(getattr(layer, f"weight_hh_l{layer_number}{end}"), torch.eye(4))
    one = nn.RNN(3, 4, nonlinearity="relu")
    identity_init(one, input_std=0.1)
    h = torch.rand(1, 2, 4)
    test_eq(one(torch.zeros(100, 2, 3), h)[1], h)
    assert 0.01 < one.weight_ih_l0.std() < 0.3


@pytest.mark.parametrize("layer", [nn.LSTM(3, 4), nn.GRU(3, 4), GRU(3, 1), nn.Linear(3, 4)])
def test_identity_refuses_and_leaves_the_weights_alone(layer):
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(TypeError, match="not a plain RNN"):
        identity_init(layer, input_std=0.1)
    test_eq(dict(layer.state_dict()), dict(before))


def test_arguments_are_torchs():
    ours, theirs = (kind(3, 4, 2, "relu", bias=False, batch_first=True) for kind in PAIRS[0])
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 3)
    test_near(list(ours(x)), list(theirs(x)))
    with pytest.raises(ValueError, match="'tanh' or 'relu'"):
        RNN(3, 4, 1, True)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_any_memory_layout_and_sizes_of_one(ours, theirs):
    ours, theirs = (kind(1, 1, 2, bidirectional=True).double() for kind in (ours, theirs))
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 1, 6, dtype=torch.float64).permute(2, 0, 1)[::2]  # (3, 1, 1), strided
    state = [torch.randn(1, 1, 4, dtype=torch.float64).permute(2, 0, 1)] * ours.n_states
    test_near(
        outputs_and_gradients(ours, x, state), outputs_and_gradients(theirs, x, state), tol=1e-12
    )


def test_a_state_may_come_as_a_list():
    layer, x = LSTM(3, 4), torch.randn(5, 2, 3)
    h, c = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    test_eq(layer(x, [h, c])[0], layer(x, (h, c))[0])


def test_sequence_loss_is_the_mean_over_steps():
    logits, target = torch.randn(3, 5, 7), torch.randint(7, (3, 5))
    steps = [nn.functional.cross_entropy(logits[:, t], target[:, t]) for t in range(5)]
    test_near(sequence_loss(logits, target), sum(steps) / 5)
    for wrong in (target.T, target.flatten(), target[:, :4]):
        with pytest.raises(ValueError, match="need a target"):
            sequence_loss(logits, wrong)


def test_gradient_lengths_leave_the_layer_alone_and_follow_the_cell():
    x = torch.randn(6, 2, 3)
    for layer in (nn.RNN(3, 4), nn.GRU(3, 4), LSTM(3, 4)):
        before = copy.deepcopy(layer.state_dict())
        lengths = gradient_lengths(layer, x)
        assert lengths.shape == (6,) and lengths[-1] == 1 and lengths.dtype == torch.float64
        test_eq(dict(layer.state_dict()), dict(before))
    keeper = nn.RNN(3, 4, nonlinearity="relu")
    identity_init(keeper)
    held = torch.rand(1, 2, 4, dtype=torch.float64) + 0.1
    test_near(gradient_lengths(keeper, torch.zeros(6, 2, 3), held), torch.ones(6))
