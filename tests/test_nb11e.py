"""A language model on the long run: regularisation, adapting, units with a meaning."""

import copy

import pytest
import torch
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb03b import DataLoaders
from exp.nb04 import Learner
from exp.nb11 import sequence_loss
from exp.nb11b import RecurrentLM, StatefulTraining, TextBatches, WindowLM, text_bits
from exp.nb11e import (
    ActivationPenalty,
    WeightDropLSTM,
    best_units,
    correlations,
    forecast_bits,
    read_states,
    text_features,
)

CODES = torch.randint(9, (500,), generator=torch.Generator().manual_seed(0))


def language_model(layer=nn.LSTM, layers=2):
    torch.manual_seed(1)
    return RecurrentLM(9, 7, layers, layer)


def learner(model, *callbacks):
    dls = DataLoaders(TextBatches(CODES, 4, 10), None)
    return Learner(model, dls, sequence_loss, 0.1, callbacks=[StatefulTraining(), *callbacks])


def test_weight_drop():
    torch.manual_seed(0)
    layer, x = WeightDropLSTM(4, 5, 2, weight_drop=0.6), torch.randn(6, 2, 4)
    plain = nn.LSTM(4, 5, 2)
    plain.load_state_dict(layer.state_dict())  # the same names
    test_eq(layer.eval()(x)[0], plain(x)[0])
    kept = copy.deepcopy(layer.state_dict())
    layer.train()
    assert not torch.equal(layer(x)[0], layer(x)[0])
    layer(x)[0].sum().backward()
    for name in ("weight_hh_l0", "weight_hh_l1"):
        share = (getattr(layer, name).grad == 0).double().mean()
        assert 0.4 < share < 0.8
    with pytest.raises(RuntimeError):
        layer(torch.randn(6, 2, 3))
    test_eq(dict(layer.state_dict()), dict(kept))
    assert layer._flat_weights[1] is layer.weight_hh_l0  # also after the error
    with pytest.raises(ValueError, match="weight_drop"):
        WeightDropLSTM(4, 5, weight_drop=1.0)


def test_penalties_act_in_training_only():
    learn = learner(language_model(), ActivationPenalty(5.0, 5.0))
    plain = learner(language_model())
    batches = TextBatches(CODES, 4, 10)
    test_eq(learn.evaluate(batches), plain.evaluate(batches))
    learn.fit(1)
    plain.fit(1)
    assert learn.recorder.losses[0] > plain.recorder.losses[0]
    for alpha, beta in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="0 or more"):
            ActivationPenalty(alpha, beta)
    with pytest.raises(TypeError, match="no activations"):
        learner(WindowLM(9, window=4), ActivationPenalty(1.0)).fit(1)
    alone = Learner(
        language_model(),
        DataLoaders(batches, None),
        sequence_loss,
        0.1,
        callbacks=ActivationPenalty(1.0),
    )
    assert alone.callback(StatefulTraining)  # what it requires comes along


@pytest.mark.parametrize("steps", [1, 7, 600])
def test_forecasts_are_those_of_the_whole_text(steps):
    model = language_model()
    bits = forecast_bits(model, CODES[:60], steps)
    test_eq(len(bits), 59)
    test_near(bits.mean().item(), text_bits(model, TextBatches(CODES[:60], 1, 20)), tol=1e-4)


def test_adapting_leaves_the_model_and_the_past_alone():
    model = language_model()
    kept, text = copy.deepcopy(model.state_dict()), CODES[:20].repeat(20)
    plain, adapted = (forecast_bits(model, text, 16, rate) for rate in (0.0, 0.5))
    test_near(plain[:16], adapted[:16], tol=1e-5)
    assert adapted[-100:].mean() < plain[-100:].mean() - 0.1
    pulled = forecast_bits(model, text, 16, 0.5, pull=1.0)  # all the way back after each step
    test_near(pulled, plain, tol=1e-5)
    test_eq(dict(model.state_dict()), dict(kept))


def test_features_of_a_text():
    features = text_features('a (b "cd"\n\n) "x')
    test_eq(features["place in the line"].tolist(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 1, 2, 3, 4])
    test_eq(features["place in the word"].tolist(), [1, 0, 0, 1, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 1])
    test_eq(features["in quotation marks"].tolist(), [0] * 5 + [1] * 3 + [0] * 5 + [1, 1])
    test_eq(features["in brackets"].tolist(), [0, 0] + [1] * 8 + [0] * 5)


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_states_are_those_of_the_layers(layer):
    model, x = language_model(layer), CODES[:30].reshape(10, 3)
    states = read_states(model, x)
    test_eq(tuple(states.shape), (10, 3, 14))
    ends = [end[1] if isinstance(end, tuple) else end for end in model(x).state]
    test_near(states[-1], torch.cat(ends, 2)[0])


def test_the_unit_that_follows_a_feature_is_found():
    states = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    feature = states[:, 3] * -2 + 1
    test_near(correlations(states, feature)[3], -1.0)
    test_near(correlations(states, torch.ones(400)), torch.zeros(5))
    unit, correlation = best_units(states, {"a feature": feature})["a feature"]
    test_eq(unit, 3)
    test_near(correlation, -1.0)
