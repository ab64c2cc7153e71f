"""Cut the head, put a new one, inherit it, fit it on features; fine-tune at rates by depth."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from exp.nb03b import DataLoaders, TensorDataset
from exp.nb03d import seed_everything
from exp.nb03f import Callback
from exp.nb04 import Learner
from exp.nb04c import export_model, load_exported
from exp.nb06b import BasicBlock, ResNet
from exp.nb07c import EfficientNetLite
from exp.nb08 import (
    VisionModel,
    count_features,
    cut_head,
    depth_groups,
    fine_tune,
    fit_head,
    fixed_statistics,
    inherit_head,
    pooled_features,
    vision_model,
)


def small_network(n_out=10):
    return EfficientNetLite(n_out, ((1, 3, 1, 1, 4), (1, 3, 2, 2, 6)), stem=4, features=12)


def small_data(n=24, classes=3):
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(n, 3, 16, 16), torch.arange(n) % classes)
    return DataLoaders.from_datasets(data, data, batch_size=8)


def small_learner(**options):
    seed_everything(0)
    return Learner(
        vision_model(small_network(), 3),
        small_data(),
        F.cross_entropy,
        1e-3,
        torch.optim.AdamW,
        progress=False,
        **options,
    )


@settings(max_examples=15, deadline=None)
@given(
    size=st.integers(9, 40), n_out=st.integers(1, 5), concat=st.booleans(), batch=st.integers(1, 3)
)
def test_any_size_any_number_of_outputs(size, n_out, concat, batch):
    model = vision_model(small_network(), n_out, concat_pool=concat).eval()
    assert model(torch.randn(batch, 3, size, size + 3)).shape == (batch, n_out)
    assert model.head.in_features == 12 * (1 + concat)


def test_heads_are_cut_where_they_begin():
    network = small_network()
    assert cut_head(network) is network.body
    resnet = ResNet(BasicBlock, [1, 1], 10, width=8).eval()
    x = torch.randn(2, 3, 32, 32)
    pooled = cut_head(resnet)(x).mean((2, 3))
    torch.testing.assert_close(resnet.fc(pooled), resnet(x))
    plain = nn.Sequential(nn.Conv2d(3, 5, 3))
    assert cut_head(plain) is plain
    with pytest.raises(TypeError, match="where does Linear end"):
        cut_head(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="pool included"):
        vision_model(nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 2)


def test_counting_features_changes_nothing():
    network = small_network()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    drawn = torch.get_rng_state()
    assert count_features(network.body) == 12
    assert network.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(t, before[name]) for name, t in network.state_dict().items())


def test_a_body_left_in_evaluation_mode_trains_again():
    model = vision_model(small_network().eval(), 3)
    assert all(part.training for part in model.modules())


def test_groups_follow_the_depth():
    learn = small_learner(groups=depth_groups)
    names = {id(p): name for name, p in learn.model.named_parameters()}
    first = [names[id(group["params"][0])].rpartition(".")[0] for group in learn.opt.param_groups]
    assert [name.split(".")[:2] for name in first[:-1]] == [["body", str(i)] for i in range(4)]
    assert first[-1] == "head"
    grouped = [p for group in learn.opt.param_groups for p in group["params"]]
    assert len(grouped) == len(list(learn.model.parameters()))


class Watch(Callback):
    """Note the rates and what is frozen, at each training batch."""

    order = 99

    def __init__(self):
        self.peaks, self.trains = [], set()

    def after_step(self, learn):
        rates = [group["lr"] for group in learn.opt.param_groups]
        self.peaks = [max(a, b) for a, b in zip(self.peaks or rates, rates, strict=True)]
        self.trains.add(next(learn.model.body.parameters()).requires_grad)


def test_fine_tune_freezes_then_spreads_the_rates():
    watch = Watch()
    learn = small_learner(groups=depth_groups)
    body = [p.clone() for p in learn.model.body.parameters()]
    fine_tune(learn, 2, lr=1e-2, spread=100, callbacks=[watch])
    assert watch.trains == {True}
    assert watch.peaks[-1] == pytest.approx(5e-3, rel=0.05)
    assert watch.peaks[0] == pytest.approx(5e-5, rel=0.05)
    ratios = [b / a for a, b in zip(watch.peaks, watch.peaks[1:], strict=False)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    moved = [
        not torch.equal(a, b) for a, b in zip(body, learn.model.body.parameters(), strict=True)
    ]
    assert all(moved)
    assert all(p.requires_grad for p in learn.model.parameters())
    assert learn.n_fits == 2


def test_fine_tune_with_one_group_and_without_a_frozen_epoch():
    learn = small_learner()
    fine_tune(learn, 1, lr=1e-3, freeze_epochs=0)
    assert learn.n_fits == 1
    with pytest.raises(ValueError, match="n_epochs"):
        fine_tune(learn, 0)


def test_the_body_is_unfrozen_after_an_interruption():
    class Stop(Callback):
        def before_batch(self, learn):
            raise KeyboardInterrupt

    learn = small_learner(callbacks=[Stop()])
    with pytest.raises(KeyboardInterrupt):
        fine_tune(learn, 1)
    assert all(p.requires_grad for p in learn.model.parameters())


@pytest.mark.parametrize("fixed", [True, False])
def test_statistics_of_the_body_are_fixed_if_asked(fixed):
    learn = small_learner(groups=depth_groups)
    before = learn.model.body[0][1].running_mean.clone()
    fine_tune(learn, 1, freeze_epochs=0, fixed_norms=fixed)
    assert torch.equal(learn.model.body[0][1].running_mean, before) == fixed
    assert learn.model.body[0][1].training


def test_modes_come_back_after_an_error():
    body = small_network().body
    body[0][1].eval()
    modes = [part.training for part in body.modules()]
    with pytest.raises(RuntimeError), fixed_statistics(body):
        raise RuntimeError
    assert [part.training for part in body.modules()] == modes


def test_features_are_those_of_evaluation_mode():
    learn = small_learner()
    x, y = pooled_features(learn.model, learn.dls.valid, passes=2)
    assert x.shape == (48, 12)
    assert torch.equal(y, (torch.arange(24) % 3).repeat(2))
    learn.model.eval()
    torch.testing.assert_close(learn.model.head(x[:24]), learn.get_preds(learn.dls.valid)[0])
    assert not x.requires_grad


def test_a_head_on_features_learns_and_nothing_else_moves():
    learn = small_learner()
    body = {name: t.clone() for name, t in learn.model.body.state_dict().items()}
    x, y = pooled_features(learn.model, learn.dls.train)
    before = F.cross_entropy(learn.model.head(x), y).item()
    fit_head(learn.model.head, x, y, F.cross_entropy, 30, lr=0.05)
    assert F.cross_entropy(learn.model.head(x), y).item() < before
    assert all(torch.equal(t, body[name]) for name, t in learn.model.body.state_dict().items())


def test_strong_decay_pulls_to_the_beginning_and_not_to_zero():
    torch.manual_seed(0)
    head = nn.Linear(6, 2)
    begun = head.weight.detach().clone()
    fit_head(head, torch.randn(40, 6), torch.arange(40) % 2, F.cross_entropy, 20, weight_decay=1e3)
    torch.testing.assert_close(head.weight.detach(), begun, atol=1e-2, rtol=0)


def test_an_inherited_head_begins_with_what_the_old_one_knew():
    old, new = nn.Linear(4, 4, bias=False), nn.Linear(4, 2)
    old.bias = nn.Parameter(torch.tensor([0.0, 0.5, 1.0, 1.5]))
    old.weight.data.copy_(20 * torch.eye(4))
    x = torch.eye(4)
    inherit_head(new, old, x, torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(new.weight, 10 * torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]))
    torch.testing.assert_close(new.bias, torch.tensor([0.25, 1.25]))
    assert new(x).argmax(1).tolist() == [0, 0, 1, 1]


def test_what_cannot_be_inherited_is_refused():
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match="takes 8 features"):
        inherit_head(nn.Linear(4, 2), nn.Linear(8, 5), x, torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match=r"no picture of the classes \[2\]"):
        inherit_head(nn.Linear(4, 3), nn.Linear(4, 5), x, torch.tensor([0, 1, 1]))


def test_it_pickles_and_exports(tmp_path):
    model = vision_model(small_network(), 3, concat_pool=True, dropout=0.3).eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), model(x))
    path = export_model(model, tmp_path / "model.safetensors")
    rebuilt = load_exported(path)[0]
    assert isinstance(rebuilt, VisionModel)
    assert torch.equal(rebuilt(x), model(x))


@pytest.mark.parametrize("name", ["oxford_pets_splits"])
def test_the_splits_are_five_and_fixed(name):
    from exp.nb00i import recorded_experiment

    figures = recorded_experiment(name)["figures"]
    breeds = [picture.rpartition("_")[0] for picture in figures["pictures"]]
    assert (len(breeds), len(set(breeds)), len(figures["held_out"])) == (512, 37, 5)
    for held in figures["held_out"]:
        assert len(set(held)) == len(held) == 113
        assert {breeds[i] for i in held} == set(breeds)  # of each breed some are judged


def test_groups_of_the_last_blocks_alone():
    body = small_network().body[1:]  # a slice keeps its numbers
    names = [name for name, _ in body.named_children()]
    assert names[0] == "1"
    tail = nn.Module()
    tail.body, tail.head = body, nn.Linear(12, 3)
    assert len(depth_groups(tail)) == len(names) + 1
