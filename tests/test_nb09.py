"""09_collab: ratings in all their shapes, the model's parts, biases, components."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from exp.nb00 import test_eq, test_near, test_near_zero
from exp.nb00a import data_path
from exp.nb00b import movielens_truth
from exp.nb05 import fit_one_cycle
from exp.nb09 import (
    CollabModel,
    FoldedFactors,
    Ratings,
    biases_apart,
    least_squares_biases,
    principal_components,
    ratings_learner,
    read_movielens,
    squeeze,
)

quick = settings(max_examples=30, deadline=None)
few = Ratings.from_columns(
    ["ann", "bob", "ann", "cid"], [10, 10, 30, 20], [5, 1, 4, 3], [4, 3, 2, 1]
)


def drawn(n_users=12, n_items=9, n=60, seed=0):
    """Return some ratings of distinct pairs."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randperm(n_users * n_items, generator=generator)[:n]
    stars = torch.randint(1, 6, (n,), generator=generator)
    return Ratings.from_columns(pairs // n_items, 100 * (pairs % n_items), stars)


def test_strings_and_gaps_between_ids_are_keys_like_any():
    test_eq((few.user_ids, few.item_ids), (("ann", "bob", "cid"), (10, 20, 30)))
    test_eq(few.users, tensor([0, 1, 0, 2]))
    test_eq(few.items, tensor([0, 0, 2, 1]))
    assert repr(few) == "4 ratings of 3 items by 3 users"


@pytest.mark.parametrize("kind", [list, tensor, "array", "frame"])
def test_columns_of_any_kind(kind):
    columns = [[3, 1, 3], [7, 7, 9], [5.0, 1.0, 4.0]]
    if kind == "frame":
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(dict(zip("uir", columns, strict=True)))
        columns = [frame.u, frame.i, frame.r]
    else:
        make = (lambda x: tensor(x).numpy()) if kind == "array" else kind
        columns = [make(column) for column in columns]
    found = Ratings.from_columns(*columns)
    test_eq((found.user_ids, found.item_ids), ((1, 3), (7, 9)))
    test_eq(found.ratings, tensor([5.0, 1.0, 4.0]))


def test_whole_numbers_that_became_floats_are_ids_again():
    test_eq(Ratings.from_columns([1.0, 2.0], [5, 6], [3, 4]).user_ids, (1, 2))


@pytest.mark.parametrize(
    "columns, error, message",
    [
        (([], [], []), ValueError, "at least one rating"),
        (([1], [2, 3], [4]), ValueError, "one length"),
        (([1, 1], [2, 2], [4, 5]), ValueError, "user 1 rated item 2 more than once"),
        (([1, 2], [2, 2], [4, float("nan")]), ValueError, "row 1"),
        (([1, 2], [2, 2], [4, float("inf")]), ValueError, "row 1"),
        (([1, None], [2, 2], [4, 5]), ValueError, "users has no id in row 1"),
        (([1, 2], [2, float("nan")], [4, 5]), ValueError, "items has no id in row 1"),
        (([1, "two"], [2, 2], [4, 5]), TypeError, "all be strings"),
        (([1.5, 2], [2, 2], [4, 5]), TypeError, "float"),
        (([1, 2], [2, 2], ["4", 5]), TypeError, "'4' in row 0"),
    ],
)
def test_bad_columns_are_named(columns, error, message):
    with pytest.raises(error, match=message):
        Ratings.from_columns(*columns)


def test_the_last_of_several_ratings_is_kept_if_asked_for():
    found = Ratings.from_columns([1, 2, 1], [7, 7, 7], [5, 3, 1], duplicates="last")
    test_eq((found.users, found.ratings), (tensor([1, 0]), tensor([3.0, 1.0])))
    with pytest.raises(ValueError, match='"error" or "last"'):
        Ratings.from_columns([1], [7], [5], duplicates="first")


@quick
@given(st.integers(2, 60), st.floats(0.05, 0.95), st.integers(0, 5))
def test_splits_keep_every_rating_once(n, share, seed):
    ratings = Ratings.from_columns(range(n), range(n), [1.0] * n, range(n, 0, -1))
    for split in (lambda: ratings.split_random(share, seed), lambda: ratings.split_by_time(share)):
        try:
            train, valid = split()
        except ValueError as error:
            assert "both parts need a rating" in str(error)
            continue
        test_eq(torch.cat([train.users, valid.users]).sort().values, torch.arange(n))
        test_eq(train.user_ids, ratings.user_ids)
    train, valid = ratings.split_by_time(0.5)
    assert train.times.max() < valid.times.min()


def test_a_split_by_time_needs_times():
    with pytest.raises(ValueError, match="no times"):
        drawn().split_by_time()


def test_movielens_is_read_by_ids_and_titles_may_repeat():
    ratings, titles = read_movielens(data_path("movielens_100k"))
    assert len(ratings) == 20_000 and len(ratings.item_ids) == len(titles)
    assert len(set(titles.values())) < len(titles)
    truth = movielens_truth()
    assert truth.rated[ratings.users, ratings.items].all()


def test_least_squares_biases_are_at_the_minimum():
    ratings = drawn()
    mean, b, c = least_squares_biases(ratings, ridge=2.0, rounds=300)
    b, c = b.requires_grad_(), c.requires_grad_()
    error = ratings.ratings.double() - mean - b[ratings.users] - c[ratings.items]
    ((error**2).sum() + 2 * (b**2).sum() + 2 * (c**2).sum()).backward()
    test_near_zero(torch.cat([b.grad, c.grad]), tol=1e-8)


@quick
@given(st.floats(-1e4, 1e4), st.floats(-10, 10), st.floats(0.1, 10))
def test_squeeze_stays_in_its_range_and_is_a_sigmoid(score, low, width):
    score = tensor(score, dtype=torch.float64).requires_grad_()
    found = squeeze(score, (low, low + width))
    test_near(found.detach(), low + width * torch.sigmoid(score.detach()), tol=1e-9)
    (slope,) = torch.autograd.grad(found, score)
    assert torch.isfinite(slope)
    assert squeeze(score, None) is score


def test_the_audience_leaves_out_whoever_is_asked_about():
    """In training mode a rating's own rater has no influence through the audience."""
    ratings = drawn()
    model = CollabModel(12, 9, 3, audience=(ratings.users, ratings.items)).double()
    torch.nn.init.xavier_normal_(model.rater_factors.weight)
    u, i = ratings.users[:1], ratings.items[:1]
    before = {mode: model.train(mode)(u, i).item() for mode in (True, False)}
    model.rater_factors.weight.data[u] += 1
    assert model.train()(u, i).item() == pytest.approx(before[True], abs=1e-9)
    assert model.eval()(u, i).item() != pytest.approx(before[False], abs=1e-4)


def test_the_model_has_the_gradients_of_its_definition():
    ratings = drawn()
    model = CollabModel(12, 9, 3, audience=(ratings.users, ratings.items)).double().eval()
    torch.nn.init.xavier_normal_(model.rater_factors.weight)
    watched = torch.zeros(9, 12).double()
    watched[ratings.items, ratings.users] = 1
    scale = watched.sum(1, keepdim=True).clamp(min=1) ** -0.5
    q = model.item_factors.weight + scale * (watched @ model.rater_factors.weight)
    score = (model.user_factors.weight[ratings.users] * q[ratings.items]).sum(1)
    score = score + model.user_bias.weight[ratings.users, 0] + model.mean_bias
    plain = 0.5 + 5 * torch.sigmoid(score + model.item_bias.weight[ratings.items, 0])
    pull = torch.arange(60.0).double()
    ours = model(ratings.users, ratings.items)
    test_near(ours, plain, tol=1e-6)
    grads = [torch.autograd.grad((x * pull).sum(), list(model.parameters())) for x in (ours, plain)]
    test_near(list(grads[0]), list(grads[1]), tol=1e-5)


def test_folding_changes_no_prediction_and_centres():
    ratings = drawn()
    model = CollabModel(12, 9, 4, audience=(ratings.users, ratings.items))
    fit_one_cycle(ratings_learner(model, ratings), 5)
    folded = FoldedFactors.of(model, ratings)
    with torch.no_grad():
        expected = model.eval()(ratings.users, ratings.items)
    test_near(squeeze(folded.scores(), model.y_range)[ratings.users, ratings.items], expected)
    for centred in vars(folded).values():
        test_near_zero(centred.mean(0) if centred.ndim else tensor(0.0), tol=1e-5)


def test_what_was_never_rated_folds_to_zero():
    """A trap: an id without ratings has factors, random ones that nothing has touched."""
    train = drawn().take(torch.arange(60)[drawn().users != 3])
    model = CollabModel(12, 9, 4)
    folded = FoldedFactors.of(model, train)
    test_eq(folded.user_factors[3], torch.zeros(4))
    test_eq(folded.user_bias[3], tensor(0.0))


def test_biases_have_a_group_of_their_own():
    groups = biases_apart(CollabModel(3, 4, 2), 0.25)
    test_eq([len(group["params"]) for group in groups], [2, 3])
    test_eq(groups[1]["weight_decay"], 0.25)
    learn = ratings_learner(CollabModel(12, 9, 2), drawn(), weight_decay=1.0)
    test_eq([group["weight_decay"] for group in learn.opt.param_groups], [1.0, 1.0])


def test_models_and_ratings_pickle():
    ratings = drawn()
    model = CollabModel(12, 9, 4, audience=(ratings.users, ratings.items))
    copy = pickle.loads(pickle.dumps(model))
    test_eq(dict(copy.state_dict()), dict(model.state_dict()))
    test_eq(pickle.loads(pickle.dumps(few)).ratings, few.ratings)


def test_counts_of_a_model_are_checked():
    with pytest.raises(ValueError, match="n_factors"):
        CollabModel(3, 4, 0)


@quick
@given(st.integers(2, 20), st.integers(1, 6), st.data())
def test_components_are_orthogonal_and_rebuild_the_table(n, d, data):
    k = data.draw(st.integers(1, min(n, d)))
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(n * d)).double()
    parts = principal_components(x, k)
    test_near(parts.directions @ parts.directions.T, torch.eye(k).double(), tol=1e-9)
    assert (parts.directions.gather(1, parts.directions.abs().argmax(1, keepdim=True)) > 0).all()
    if n > k:
        test_near(parts.transform(x).var(0), parts.variances, tol=1e-9)
    everything = principal_components(x, min(n, d))
    test_near(everything.inverse(everything.transform(x)), x, tol=1e-8)


def test_components_agree_with_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = torch.randn(40, 5, generator=torch.Generator().manual_seed(1)).double()
    theirs = decomposition.PCA(3).fit(x.numpy())
    ours = principal_components(x, 3)
    test_near(ours.directions.abs(), tensor(theirs.components_).abs(), tol=1e-9)
    test_near(ours.share, tensor(theirs.explained_variance_ratio_), tol=1e-9)


@pytest.mark.parametrize("x, k", [(torch.ones(3), 1), (torch.ones(1, 3), 1), (torch.ones(4, 2), 3)])
def test_components_refuse_what_has_none(x, k):
    with pytest.raises(ValueError, match="table of two or more rows"):
        principal_components(x, k)
