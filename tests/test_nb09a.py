"""09a_recommender: known and unknown, newcomers, files, lists, bad input."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import tensor

from exp.nb00 import test_eq, test_near
from exp.nb09 import Ratings
from exp.nb09a import Recommender, recall_at

ROOT = Path(__file__).parents[1]


def made(n_users=30, n_items=20, n=400, seed=0, strings=False):
    """Return ratings that follow one factor and two biases."""
    generator = torch.Generator().manual_seed(seed)
    p, q = torch.randn(n_users, generator=generator), torch.randn(n_items, generator=generator)
    pairs = torch.randperm(n_users * n_items, generator=generator)[:n]
    users, items = pairs // n_items, pairs % n_items
    stars = (3 + p[users] * q[items]).round().clamp(1, 5)
    names = [f"user {u:02}" for u in users.tolist()] if strings else (7 * users + 3).tolist()
    return Ratings.from_columns(names, (11 * items + 5).tolist(), stars)


settings = dict(n_factors=2, weight_decay=0.3, bias_decay=0.1, n_epochs=15)
ratings = made()
rec = Recommender(**settings).fit(ratings, titles={5: "One", 16: "One"})


def test_it_learns():
    pred = rec.predict(
        [ratings.user_ids[u] for u in ratings.users], [ratings.item_ids[i] for i in ratings.items]
    )
    mse = ((pred - ratings.ratings) ** 2).mean()
    assert mse < 0.5 * ratings.ratings.var()
    test_near(mse, rec.noise, tol=1e-4)


def test_recommendations_leave_out_what_was_rated_and_are_sorted():
    for place, user in enumerate(ratings.user_ids):
        found = rec.recommend(user, 100)
        rated = {ratings.item_ids[i] for i in ratings.items[ratings.users == place]}
        assert not rated & set(found.items)
        assert len(found) == len(ratings.item_ids) - len(rated)
        assert list(found.ratings) == sorted(found.ratings, reverse=True) and not found.note


def test_an_unknown_user_gets_the_biases_and_a_word_about_it():
    found = rec.recommend("nobody", 3)
    assert "never seen" in found.note and "never seen" in repr(found)
    best = rec.folded.item_bias.argsort(descending=True)[:3]
    test_eq(found.items, tuple(rec.item_ids[k] for k in best))


def test_unknown_ids_are_predicted_from_what_is_known_with_a_warning():
    with pytest.warns(UserWarning, match="2 of 3 pairs"):
        pred = rec.predict([3, "nobody", 3], [5, 5, 6])
    f = rec.folded
    low, high = rec.y_range
    item_only, user_only = f.mean + f.item_bias[0], f.mean + f.user_bias[0]
    expected = low + (high - low) * torch.sigmoid(torch.stack([item_only, user_only]))
    test_near(pred[1:], expected)


def test_an_id_without_training_ratings_is_unknown():
    gone = ratings.take(ratings.users != 4)
    found = Recommender(**settings).fit(gone).recommend(ratings.user_ids[4], 3)
    assert "never seen" in found.note


def test_a_newcomer_with_the_ratings_of_a_known_person_gets_their_taste():
    errors = {"newcomer": [], "bias": []}
    f = rec.folded
    for u, user in enumerate(ratings.user_ids):
        mine = ratings.users == u
        known = {
            ratings.item_ids[i]: r
            for i, r in zip(ratings.items[mine], ratings.ratings[mine].tolist(), strict=True)
        }
        expected = rec.predict_all(user)
        errors["newcomer"].append(rec.predict_all(known) - expected)
        errors["bias"].append(rec.predict_all("nobody") - expected)
        assert not set(known) & set(rec.recommend(known, 100).items)
    newcomer, bias = ((torch.cat(x) ** 2).mean() for x in errors.values())
    assert newcomer < 0.35 * bias
    assert f.user_factors.shape[1] == len(rec.new_user(known)[1])


@pytest.mark.parametrize(
    "mine, error, message",
    [
        ({}, ValueError, "at least one rating"),
        ({6: 3}, KeyError, "never seen"),
        ({5: 9}, ValueError, "outside the y_range"),
    ],
)
def test_newcomers_are_checked(mine, error, message):
    with pytest.raises(error, match=message):
        rec.recommend(mine)


def test_ratings_outside_the_range_are_refused():
    with pytest.raises(ValueError, match="outside the y_range"):
        Recommender(y_range=(1.5, 5.5)).fit(ratings)
    with pytest.raises(ValueError, match="low < high"):
        Recommender(y_range=(5, 1)).fit(ratings)


def test_the_range_reaches_beyond_the_ratings():
    test_eq(rec.y_range, (0.5, 5.5))
    one = Ratings.from_columns([1, 2], [1, 1], [3, 3])
    found = Recommender(2, n_epochs=2).fit(one)
    test_eq(found.y_range, (2.5, 3.5))


@pytest.mark.parametrize("audience", [True, False])
def test_one_user_only(audience):
    one = Ratings.from_columns(["me"] * 5, [1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
    found = Recommender(2, n_epochs=3, audience=audience).fit(one)
    assert torch.isfinite(found.predict_all("me")).all()
    assert len(found.recommend("me")) == 0  # everything is rated
    assert torch.isfinite(found.predict_all({1: 5})).all()


def test_users_of_strings_and_a_validation_set():
    named = made(strings=True)
    train, valid = named.split_random(0.2, 1)
    found = Recommender(**settings).fit(train, valid)
    assert found.epochs[-1]["valid_loss"] < valid.ratings.var()
    assert not found.recommend("user 03").note


def test_the_same_seed_gives_the_same_recommender():
    again = Recommender(**settings).fit(ratings)
    test_eq(vars(again.folded), vars(rec.folded))


def test_similar_items_do_not_contain_the_item():
    found = rec.similar(5, 4)
    assert 5 not in found.items and len(found) == 4 and abs(found.ratings[0]) <= 1 + 1e-6
    with pytest.raises(KeyError, match="never seen"):
        rec.similar(6)


def test_a_file_says_the_same_in_a_fresh_process(tmp_path):
    path = rec.save(tmp_path / "films.safetensors")
    code = (
        "import sys; from exp.nb09a import Recommender; r = Recommender.load(sys.argv[1]); "
        "print(*r.recommend(3, 5).items, *r.recommend({5: 4, 16: 1}, 3).items)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    expected = rec.recommend(3, 5).items + rec.recommend({5: 4, 16: 1}, 3).items
    test_eq(tuple(map(int, done.stdout.split())), expected)
    loaded = Recommender.load(path)
    test_eq((loaded.settings, loaded.titles), (rec.settings, rec.titles))
    test_eq(loaded.predict_all(3), rec.predict_all(3))


def test_another_file_is_refused(tmp_path):
    from exp.nb03h import write_state

    with pytest.raises(ValueError, match="recommender"):
        Recommender.load(write_state(tmp_path / "other", {"model": tensor([1.0])}))


def test_it_pickles_and_must_be_fitted_first():
    test_eq(pickle.loads(pickle.dumps(rec)).recommend(3).items, rec.recommend(3).items)
    fresh = Recommender()
    for ask in (
        lambda: fresh.recommend(3),
        lambda: fresh.predict([3], [5]),
        lambda: fresh.similar(5),
        lambda: fresh.save("nowhere"),
    ):
        with pytest.raises(RuntimeError, match="call fit first"):
            ask()


def test_lengths_and_counts_are_checked():
    with pytest.raises(ValueError, match="one item for each user"):
        rec.predict([3, 3], [5])
    for wrong in (lambda: rec.recommend(3, 0), lambda: Recommender(n_factors=0)):
        with pytest.raises(ValueError):
            wrong()


def test_titles_may_repeat_since_ids_are_the_keys():
    found = rec.recommend("nobody", 20)
    assert len(found) == 20 and found.titles.count("One") == 2
    assert "title" in repr(found) and "<table" in found._repr_html_()


def test_recall_by_hand():
    scores = tensor([[5.0, 4, 3, 2], [1, 2, 3, 4], [1, 1, 1, 1]])
    seen = torch.zeros(3, 4, dtype=torch.bool)
    seen[0, 0] = True
    relevant = torch.zeros(3, 4, dtype=torch.bool)
    relevant[0, 1] = relevant[0, 3] = relevant[1, 0] = True  # nothing for the third
    test_near(recall_at(scores, seen, relevant, 1), 0.5)
    test_near(recall_at(scores, seen, relevant, 2), 0.25)
    test_near(recall_at(scores, seen, relevant, 10), 1.0)
    with pytest.raises(ValueError, match="some relevant item"):
        recall_at(scores, seen, seen & False)
