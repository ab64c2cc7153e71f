"""The tabular estimator: what scikit-learn's own checks say, pipelines, searches, bad input."""

import pickle
import warnings

import numpy as np
import pytest
import torch

from exp.nb09e import TabularEstimator

pd = pytest.importorskip("pandas")
pytest.importorskip("sklearn")
pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone, is_classifier, is_regressor  # noqa: E402
from sklearn.model_selection import GridSearchCV, cross_val_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import FunctionTransformer, StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator  # noqa: E402

EXPECTED = {  # checks that do not apply, and why
    "check_regressors_no_decision_function": "LearnerEstimator has predict_proba for both kinds",
    "check_methods_sample_order_invariance": "asks for 9 equal digits, float32 has 7",
    "check_methods_subset_invariance": "asks for 9 equal digits, float32 has 7",
}


def table(n=400, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "shop": rng.choice(list("abc"), n),
            "open": rng.random(n) < 0.5,
            "x": rng.normal(size=n),
            "gap": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
        }
    )
    y = 100 + 10 * frame["x"] + 20 * (frame["shop"] == "a") + rng.normal(size=n)
    return frame, y.to_numpy()


def small(kind="regressor", **options):
    settings = dict(hidden=(32,), n_epochs=15, batch_size=32, lr=2e-2, dropout=0.0)
    return TabularEstimator(kind, **{**settings, **options})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["regressor", "classifier"])
def test_scikit_learns_own_checks(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checks = check_estimator(small(kind, n_epochs=6), on_fail=None, on_skip=None)
    failed = {c["check_name"]: c["exception"] for c in checks if c["status"] == "failed"}
    assert not {name: error for name, error in failed.items() if name not in EXPECTED}
    assert sum(check["status"] == "passed" for check in checks) >= 45


def test_it_predicts_in_the_units_of_the_target():
    frame, y = table()
    model = small().fit(frame[:300], y[:300])
    assert model.predict(frame[300:]).shape == (100,)
    assert model.score(frame[300:], y[300:]) > 0.9
    assert model.preprocessor_.categories == ["shop", "open"]
    assert is_regressor(model) and not is_classifier(model)


@pytest.mark.parametrize("names", [("no", "yes"), (3, 5, 9)])
def test_classes_of_any_kind(names):
    frame, y = table()
    classes = np.array(names)[
        np.digitize(y, np.quantile(y, np.linspace(0, 1, len(names) + 1)[1:-1]))
    ]
    model = small("classifier").fit(frame, classes)
    assert set(model.predict(frame)) == set(names) and model.score(frame, classes) > 0.8
    assert np.allclose(model.predict_proba(frame).sum(1), 1, atol=1e-6)
    assert is_classifier(model)


def test_cross_validation_pipeline_and_search():
    frame, y = table()
    double = FunctionTransformer(lambda f: f.assign(twice=2 * f["x"]))
    scores = cross_val_score(make_pipeline(double, small()), frame, y, cv=3)
    assert scores.min() > 0.8
    search = GridSearchCV(small(n_epochs=3), {"hidden": [(4,), (32,)]}, cv=2).fit(frame, y)
    assert search.best_params_["hidden"] in [(4,), (32,)]
    numbers = frame[["x"]].to_numpy()
    scaled = make_pipeline(StandardScaler(), small()).fit(numbers, y)
    assert scaled.predict(numbers).shape == (400,)


def test_columns_may_be_named_and_come_in_another_order():
    frame, y = table()
    model = small(categories=["shop"], numbers=["x"], n_epochs=2).fit(frame, y)
    assert model.preprocessor_.numbers == ["x"]
    assert len(model.model_.levels) == 1
    with pytest.raises(ValueError, match="gap"):
        model.predict(frame.drop(columns="gap"))
    only = small(n_epochs=2).fit(frame[["shop"]], y)
    assert only.predict(frame[["shop"]]).shape == (400,)


def test_levels_never_seen_and_gaps_are_predicted_for():
    frame, y = table()
    model = small(n_epochs=2).fit(frame, y)
    strange = frame[:3].assign(shop=["z", None, "a"], gap=[np.nan, np.nan, 0.0])
    assert np.isfinite(model.predict(strange)).all()


def test_the_same_seed_gives_the_same_model_and_leaves_other_random_numbers_alone():
    frame, y = table(100)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second = (small(n_epochs=2).fit(frame, y).predict(frame) for _ in range(2))
    assert np.array_equal(first, second) and torch.get_rng_state().equal(before)
    other = small(n_epochs=2, seed=5).fit(frame, y).predict(frame)
    assert not np.array_equal(first, other)


def test_clone_pickle_parameters_and_repr():
    frame, y = table(100)
    model = small(n_epochs=2).fit(frame, y)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict(frame), model.predict(frame))
    fresh = clone(model)
    assert fresh.get_params() == model.get_params() and not hasattr(fresh, "model_")
    assert repr(TabularEstimator(lr=0.1)) == "TabularEstimator(lr=0.1)"
    with pytest.raises(ValueError, match="no parameter 'depth'"):
        model.set_params(depth=3)
    with pytest.raises(Exception, match="not trained yet"):
        fresh.predict(frame)


@pytest.mark.parametrize(
    "change, what",
    [
        (dict(kind="ranker"), 'must be "classifier" or "regressor"'),
        (dict(numbers=["shop"], categories=[]), "should hold numbers and holds text"),
        (dict(numbers=["rain"], categories=[]), "rain"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, what):
    frame, y = table(50)
    with pytest.raises(ValueError, match=what):
        small(**change).fit(frame, y)


def test_targets_that_cannot_work_are_refused():
    frame, y = table(50)
    with pytest.raises(ValueError, match="target y is None"):
        small().fit(frame, None)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        small().fit(frame, y[:40])
    with pytest.raises(ValueError, match="NaN"):
        small().fit(frame, np.where(y > 100, np.nan, y))
    with pytest.raises(ValueError, match="numbers"):
        small().fit(frame, frame["shop"].to_numpy())
