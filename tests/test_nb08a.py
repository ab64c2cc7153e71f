"""Several labels at once: the loss, the scores with their baseline, the threshold."""

import math
import pickle
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import nn

from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb03e import MeanMetric, divisor_of
from exp.nb03j import mean_average_precision
from exp.nb04 import Learner
from exp.nb08a import (
    accuracy_multi,
    binary_cross_entropy_with_logits,
    choose_threshold,
    multi_label_scores,
    threshold_curve,
)


def with_slopes(loss, x, *args, **options):
    x = x.clone().requires_grad_()
    made = loss(x, *args, **options)
    return [made.detach(), *torch.autograd.grad(made.sum(), [x])]


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    scale=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    weighted=st.booleans(),
    soft=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_the_loss_is_pytorchs_in_values_and_slopes(shape, scale, reduction, weighted, soft, seed):
    torch.manual_seed(seed)
    x = torch.randn(shape, dtype=torch.float64) * scale
    y = torch.rand(shape).double() if soft else torch.randint(2, shape).double()
    options = {
        "reduction": reduction,
        "pos_weight": torch.rand(shape[-1]) * 9 if weighted else None,
    }
    ours = with_slopes(binary_cross_entropy_with_logits, x, y, **options)
    theirs = with_slopes(F.binary_cross_entropy_with_logits, x, y, **options)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("logit", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_the_slope_is_probability_minus_target_also_at_the_ends_and_at_zero(logit, target):
    value, slope = with_slopes(
        binary_cross_entropy_with_logits, torch.tensor([logit]), torch.tensor([target])
    )
    assert value.isfinite()
    assert slope.item() == pytest.approx(1 / (1 + math.exp(-max(logit, -700))) - target, abs=1e-6)


def test_a_layer_of_zeros_learns():
    head = nn.Linear(3, 2)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    binary_cross_entropy_with_logits(head(torch.randn(5, 3)), torch.ones(5, 2)).backward()
    assert (head.bias.grad == -0.25).all()  # (½ - 1) / 2 labels


def test_targets_are_floats_and_the_errors_say_what_to_do():
    x = torch.zeros(4, 3)
    with pytest.raises(TypeError, match=r"target\.float\(\)"):
        binary_cross_entropy_with_logits(x, torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="MultiCategoryBlock"):
        binary_cross_entropy_with_logits(x, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"\(4, 1\)"):
        binary_cross_entropy_with_logits(x, torch.zeros(4, 1))
    with pytest.raises(ValueError, match="'median'"):
        binary_cross_entropy_with_logits(x, x, "median")
    with pytest.raises(ValueError, match=r"\(4,\)"):
        accuracy_multi(x, torch.zeros(4))
    with pytest.raises(ValueError, match="between 0 and 1, got 3"):
        accuracy_multi(x, x, threshold=3)


@given(n=st.integers(1, 6), c=st.integers(1, 5), threshold=st.floats(0.05, 0.95))
@settings(max_examples=40, deadline=None)
def test_accuracy_multi_counts_each_answer(n, c, threshold):
    pred, target = torch.randn(n, c) * 3 - 5, torch.randint(2, (n, c)).float()
    chances = 1 / (1 + (-pred).exp())
    right = sum(
        (p > threshold) == (t == 1)
        for p, t in zip(chances.flatten().tolist(), target.flatten().tolist(), strict=True)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = accuracy_multi(pred, target, threshold)
    assert found.item() == pytest.approx(right / (n * c))


def test_silence_is_right_wherever_the_target_is_0():
    target = (torch.rand(50, 20) < 0.07).float()
    silent = torch.full_like(target, -9.0)
    assert accuracy_multi(silent, target).item() == pytest.approx(1 - target.mean().item())
    scores = multi_label_scores(silent, target)
    assert scores["of_nothing"] == pytest.approx(scores["accuracy_multi"])
    assert scores["mean_ap"] <= target.mean(0).max().item()


def test_the_sigmoid_twice_or_not_at_all_is_noticed():
    logits, target = torch.tensor([[-3.0, 2.0], [1.0, -4.0]]), torch.eye(2)
    with pytest.warns(UserWarning, match="twice"):
        twice = accuracy_multi(logits.sigmoid(), target)
    assert twice.item() == 0.5  # every answer is yes
    with pytest.warns(UserWarning, match="sigmoid=True"):
        accuracy_multi(logits, target, sigmoid=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = accuracy_multi(logits, target)
        assert accuracy_multi(logits.sigmoid(), target, sigmoid=False) == right


def test_a_sigmoid_twice_cannot_learn_a_no():
    chances, target = torch.zeros(8, 3), torch.zeros(8, 3)  # as sure of "no" as can be
    assert binary_cross_entropy_with_logits(chances, target).item() == pytest.approx(math.log(2))


def test_it_is_a_metric_whatever_the_batches_also_through_partial():
    pred, target = torch.randn(10, 4) - 2, torch.randint(2, (10, 4)).float()
    metric = MeanMetric(partial(accuracy_multi, threshold=0.2))
    for part in (slice(0, 7), slice(7, 10)):
        metric.update(pred[part], target[part])
    assert metric.compute() == pytest.approx(accuracy_multi(pred, target, 0.2).item())
    assert metric.name == "accuracy_multi" and MeanMetric(accuracy_multi).higher_is_better
    assert divisor_of(binary_cross_entropy_with_logits)(pred, target) == 40
    assert pickle.loads(pickle.dumps(metric.function)).keywords == {"threshold": 0.2}


def test_a_learner_shows_the_baseline_beside_the_score():
    x, y = torch.randn(24, 5), (torch.rand(24, 3) < 0.3).float()
    y[0] = 1
    sets = DataLoaders(*(DataLoader(TensorDataset(x, y), batch_size=8) for _ in range(2)))
    learn = Learner(nn.Linear(5, 3), sets, binary_cross_entropy_with_logits,
                    lr=0.1, metrics=[multi_label_scores], progress=False)  # fmt: skip
    row = learn.fit(1).epochs[-1]
    assert row["valid_of_nothing"] == pytest.approx(1 - y.mean().item())
    assert {"valid_accuracy_multi", "valid_mean_ap"} <= set(row)


@given(n=st.integers(2, 30), c=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_map_is_scikit_learns(n, c, seed):
    generator = torch.Generator().manual_seed(seed)
    pred = torch.randint(5, (n, c), generator=generator).double()  # with ties
    target = torch.randint(2, (n, c), generator=generator).double()
    target[0] = 1
    theirs = average_precision_score(target.numpy(), pred.numpy())
    assert mean_average_precision(pred, target) == pytest.approx(theirs)


def test_threshold_curve_and_choice():
    chances = torch.tensor([[0.2], [0.4], [0.6], [0.9]])
    target = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    tried, scores = threshold_curve(chances, target, [0.1, 0.5, 0.7], sigmoid=False)
    assert tried.tolist() == [0.1, 0.5, 0.7] and scores.tolist() == [0.5, 1.0, 0.75]
    assert choose_threshold(chances, target, sigmoid=False) == 0.5  # the middle of 0.40 … 0.59
    assert choose_threshold((chances / (1 - chances)).log(), target) == 0.5
    assert len(threshold_curve(chances, target, sigmoid=False)[0]) == 99
