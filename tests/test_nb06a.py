"""06a_inside_training: hooks that come off, statistics of outputs, gradients and updates, LSUV."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from exp.nb00 import test_eq, test_near
from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb04 import Callback, CancelFit, Learner
from exp.nb04b import GradientAccumulation
from exp.nb06a import (
    ActivationStats,
    ActivationStatsCallback,
    ForwardHooks,
    UpdateStatsCallback,
    describe_outputs,
    lsuv,
    modules_of_kind,
)


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 36, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def hooks_left(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_hooks_come_off_after_an_exception_and_do_not_change_the_output():
    model, x = small().eval(), torch.randn(2, 1, 8, 8)
    expected, seen = model(x), []
    with ForwardHooks(
        modules_of_kind(model, nn.Module), lambda name, module, output: seen.append(name) or 7
    ):
        test_eq(model(x), expected)
    assert (len(seen), hooks_left(model)) == (9, 0)
    with pytest.raises(KeyError), ForwardHooks(modules_of_kind(model, nn.ReLU), lambda *a: 1 / 0):
        raise KeyError
    assert hooks_left(model) == 0


def test_hooks_that_cannot_all_be_set_leave_none():
    model = small()
    modules = {**modules_of_kind(model, nn.ReLU), "no module": object()}
    with pytest.raises(AttributeError), ForwardHooks(modules, print):
        pass
    assert hooks_left(model) == 0


def test_statistics_leave_no_trace():
    model, x = small(), torch.randn(6, 1, 8, 8)
    twin = copy.deepcopy(model)
    torch.manual_seed(1)
    plain = twin(x)
    torch.manual_seed(1)
    with ActivationStats(model) as stats:
        test_eq(model(x), plain)
        state = torch.get_rng_state()
    test_eq(dict(model.state_dict()), dict(twin.state_dict()))
    test_eq(torch.get_rng_state(), (torch.manual_seed(1), twin(x), torch.get_rng_state())[-1])
    test_eq(state, torch.get_rng_state())
    assert hooks_left(model) == 0
    assert [stats.numbers(name).shape for name in stats.names] == [(1, 3), (1, 3)]
    assert not stats.numbers("2").requires_grad


def test_dead_units_are_counted():
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU())
    with torch.no_grad():
        model[0].bias[:2] = -1e3
        model[0].bias[2:] = 1e3
    with ActivationStats(model) as stats:
        model(torch.randn(10, 3))
        model.eval()(torch.randn(10, 3))
    test_near(stats.numbers("1")[:, 2], torch.tensor([0.4]))
    assert stats.histogram("1").sum() == 50


class Stop(Callback):
    def __init__(self, error):
        self.error = error

    def after_loss(self, learn):
        raise self.error


def loaders(generator=None):
    x = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    items = TensorDataset(x, torch.arange(12) % 3)
    return DataLoaders(
        DataLoader(items, 6, shuffle=True, generator=generator), DataLoader(items, 6)
    )


def test_the_callback_counts_training_batches_and_comes_off():
    watch = ActivationStatsCallback()
    learn = Learner(small(), loaders(), F.cross_entropy)
    learn.fit(2, callbacks=[watch])
    assert [watch.stats.numbers(name).shape for name in watch.stats.names] == [(4, 3)] * 2
    assert hooks_left(learn.model) == 0
    with pytest.raises(ZeroDivisionError):
        learn.fit(1, callbacks=[watch, Stop(ZeroDivisionError())])
    assert hooks_left(learn.model) == 0
    learn.fit(1, callbacks=[watch, Stop(CancelFit())])
    assert hooks_left(learn.model) == 0


def test_lsuv_scales_weights_and_nothing_else():
    model, x = small(), torch.randn(64, 1, 8, 8)
    model[1].eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    rng = torch.get_rng_state()
    found = lsuv(model, x)
    assert list(found) == ["0", "5", "7"]
    test_eq(torch.get_rng_state(), rng)
    assert [m.training for m in model.modules()] == modes
    for name, tensor in model.state_dict().items():
        changed = name in ("0.weight", "5.weight", "7.weight")
        assert torch.equal(tensor, before[name]) != changed, name
    spreads = []
    with ForwardHooks(
        {name: model.get_submodule(name) for name in found},
        lambda name, module, y: spreads.append(y.var().item()),
    ):
        model.eval()(x)
    test_near(spreads, [1.0] * 3, tol=0.011)


def test_lsuv_that_fails_leaves_no_hooks_the_mode_and_the_weights():
    model = small()
    with torch.no_grad():
        model[5].weight.zero_()
        model[5].bias.zero_()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="'5'"):
        lsuv(model, torch.randn(8, 1, 8, 8))
    assert hooks_left(model) == 0
    assert model.training
    test_eq(dict(model.state_dict()), dict(before))


def test_lsuv_moves_no_random_numbers_of_a_model_that_draws():
    class Noise(nn.Module):
        def forward(self, x):
            return x + 0.1 * torch.randn_like(x)

    model = nn.Sequential(Noise(), nn.Linear(4, 4))
    x, before = torch.randn(50, 4), torch.get_rng_state()
    lsuv(model, x, tol=0.1)
    test_eq(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv1d])
def test_lsuv_under_weight_norm(kind):
    layers = [kind(6, 6, *(1,) * (kind is nn.Conv1d)) for _ in range(2)]
    model = nn.Sequential(layers[0], nn.Tanh(), layers[1])
    for layer in layers:
        nn.utils.parametrizations.weight_norm(layer)
    x, params = torch.randn(200, 6, 6), dict(model.named_parameters())
    lsuv(model, x, kinds=kind)
    assert model(x).var().item() == pytest.approx(1, abs=0.011)
    assert model[0](x).var().item() == pytest.approx(1, abs=0.011)
    assert all(params[name] is p for name, p in model.named_parameters())


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    "wrap, message",
    [
        (nn.utils.weight_norm, "computed from others"),
        (nn.utils.parametrizations.spectral_norm, "as by spectral_norm"),
    ],
)
def test_lsuv_refuses_a_weight_that_it_cannot_scale(wrap, message):
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), wrap(nn.Linear(4, 4)))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        lsuv(model, torch.randn(50, 4))
    test_eq(dict(model.state_dict()), dict(before))


def test_units_of_nan_are_dead():
    x = torch.tensor([[1.0, float("nan"), 0.0, -1.0], [0.0, 5.0, 0.0, -2.0]])
    assert describe_outputs(x)[2] == 0.75


@pytest.mark.parametrize("opt_func", [torch.optim.SGD, torch.optim.AdamW])
def test_updates_are_those_of_the_optimizer(opt_func):
    torch.manual_seed(0)
    watch, learn = (
        UpdateStatsCallback(),
        Learner(small(), loaders(), F.cross_entropy, 0.01, opt_func),
    )
    before = copy.deepcopy(learn.model.state_dict())
    learn.fit(1, callbacks=[watch])
    assert watch.names == ["0.weight", "5.weight", "7.weight"]
    assert [watch.numbers(name).shape for name in watch.names] == [(2, 3)] * 3
    one = UpdateStatsCallback()
    learn.fit(None, callbacks=[one], n_steps=1)
    after = dict(learn.model.state_dict())
    for name in watch.names:
        assert not torch.equal(after[name], before[name])
        assert (one.numbers(name) > 0).all() and one.numbers(name).shape == (1, 3)
        assert one.histogram(name).sum() == after[name].numel()


def test_updates_of_several_batches_are_one_and_the_frozen_are_not_watched():
    watch, model = UpdateStatsCallback(), small()
    model[5].weight.requires_grad_(False)
    learn = Learner(model, loaders(), F.cross_entropy, 0.01)
    learn.fit(1, callbacks=[watch, GradientAccumulation(2)])
    assert watch.names == ["0.weight", "7.weight"]
    assert watch.numbers("7.weight").shape == (1, 3)
    for p in model.parameters():
        p.requires_grad_(p.ndim == 1)
    with pytest.raises(ValueError, match="frozen"):
        Learner(model, loaders(), F.cross_entropy, 0.01).fit(1, callbacks=[UpdateStatsCallback()])


def test_watching_updates_changes_no_training():
    ends = []
    for callbacks in ([], [UpdateStatsCallback()]):
        torch.manual_seed(3)
        learn = Learner(small(), loaders(), F.cross_entropy, 0.1)
        learn.fit(2, callbacks=callbacks)
        ends.append(dict(learn.model.state_dict()))
    test_eq(*ends)
