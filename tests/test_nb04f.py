"""Loggers, closures, scikit-learn: what the notebook does not check."""

import copy
import importlib.util
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_learner import learner, noisy
from torch import nn

from exp.nb00 import test_near
from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb03f import Callback
from exp.nb04 import Learner
from exp.nb04b import GradientAccumulation, GradientClip
from exp.nb04d import Checkpoint
from exp.nb04f import ClosureStep, LearnerEstimator, TensorBoardLogger

has_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="no tensorboard"
)


# ---------------------------------------------------------------- TensorBoard


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)]
            for name in events.Tags()["scalars"]}  # fmt: skip


@has_tensorboard
def test_steps_and_epochs_are_written(tmp_path):
    learn = learner([TensorBoardLogger(tmp_path, every=4)])
    learn.fit(2)
    found = read(tmp_path)
    losses = learn.recorder.losses
    test_near(found["batch/train_loss"], [(n, losses[n - 1]) for n in range(4, 21, 4)], tol=1e-6)
    test_near(found["lr/0"], [(n, 0.1) for n in range(4, 21, 4)], tol=1e-6)
    assert [step for step, _ in found["epoch/epoch"]] == [10, 20]
    for name in ("valid_loss", "train_accuracy"):
        expected = [row[name] for row in learn.recorder.epochs]
        test_near([value for _, value in found[f"epoch/{name}"]], expected, tol=1e-6)


@has_tensorboard
@pytest.mark.parametrize("every", [1, 4])
def test_what_a_killed_training_wrote_too_much_is_taken_back(tmp_path, every):
    """Checkpoints every 6 batches, killed at the 16th: its steps 13 to 16 are written again."""

    class Kill(Callback):
        order, only_watches = 20_000, True

        def after_batch(self, learn):
            if learn.n_steps == 16:
                raise KeyboardInterrupt

    def make(folder, *callbacks):
        return learner([TensorBoardLogger(tmp_path / folder, every),
                        Checkpoint(tmp_path / f"{folder}_states", every=6), *callbacks],
                       make_model=noisy)  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        make("killed", Kill()).fit(2)
    make("killed").fit(2)
    make("whole").fit(2)
    assert read(tmp_path / "killed") == read(tmp_path / "whole")


@has_tensorboard
def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    learner([TensorBoardLogger(tmp_path / "log")], progress=False).fit(1)
    assert not (tmp_path / "log").exists()


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("exp.nb04f.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        TensorBoardLogger("folder")
    with pytest.raises(ValueError, match="every must be"):
        TensorBoardLogger("folder", every=0)


# ---------------------------------------------------------------- closures


def test_lbfgs_steps_as_in_a_plain_loop():
    lbfgs = partial(torch.optim.LBFGS, max_iter=5, line_search_fn="strong_wolfe")
    learn = learner([ClosureStep()], opt_func=lbfgs, lr=0.5, batches=20)
    model = copy.deepcopy(learn.model)
    learn.fit(3)
    opt = lbfgs(model.parameters(), lr=0.5)
    for _ in range(3):
        for x, y in learn.dls.train:

            def closure():
                opt.zero_grad()
                loss = F.cross_entropy(model(x), y)  # noqa: B023
                loss.backward()
                return loss

            opt.step(closure)
    test_near(learn.model.state_dict(), model.state_dict(), tol=1e-5)
    assert learn.n_steps == 6


def test_without_a_closure_the_callback_is_named():
    with pytest.raises(TypeError) as caught:
        learner(opt_func=torch.optim.LBFGS).fit(1)
    assert "ClosureStep()" in "".join(caught.value.__notes__)


def test_lbfgs_goes_on_after_a_kill(tmp_path):
    lbfgs = partial(torch.optim.LBFGS, max_iter=3)

    class Kill(Callback):
        order, only_watches = 20_000, True

        def after_batch(self, learn):
            if learn.n_steps == 5:
                raise KeyboardInterrupt

    def make(folder, *callbacks):
        return learner([ClosureStep(), Checkpoint(tmp_path / folder, every=1), *callbacks],
                       opt_func=lbfgs, lr=0.5, make_model=noisy)  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        make("killed", Kill()).fit(2)
    killed = make("killed")
    killed.fit(2)
    whole = make("whole")
    whole.fit(2)
    assert all(map(torch.equal, killed.model.parameters(), whole.model.parameters()))


@pytest.mark.parametrize("other", [GradientClip(1.0), GradientAccumulation(2)])
def test_callbacks_that_would_miss_the_repeats_are_refused(other):
    learn = learner([ClosureStep(), other])
    with pytest.raises(ValueError, match=f"{type(other).__name__} does not go with ClosureStep"):
        learn.fit(1)
    assert learn.n_steps == 0


def test_any_other_optimizer_may_have_a_closure():
    plain = learner()
    plain.fit(2)
    closed = learner([ClosureStep()])
    closed.fit(2)
    assert all(map(torch.equal, plain.model.parameters(), closed.model.parameters()))


# ---------------------------------------------------------------- scikit-learn


def classify(x, y, hidden=8, lr=0.1, n_out=3):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(x.shape[1], hidden), nn.Tanh(), nn.Linear(hidden, n_out))
    loss = F.cross_entropy
    if n_out == 1:
        loss = lambda p, t: F.binary_cross_entropy_with_logits(p[:, 0], t.float())  # noqa: E731
    dls = DataLoaders(DataLoader(TensorDataset(x, y), 16, shuffle=True), None)
    return Learner(model, dls, loss, lr, progress=False)


def regress(x, y, lr=0.05):
    torch.manual_seed(0)
    dls = DataLoaders(DataLoader(TensorDataset(x, y[:, None]), 16, shuffle=True), None)
    return Learner(nn.Linear(x.shape[1], 1), dls, nn.MSELoss(), lr, progress=False)


@pytest.fixture
def flowers():
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), np.array(["setosa", "versicolor", "virginica"])[y]


def test_cross_validation_search_and_clone(flowers):
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = flowers
    estimator = LearnerEstimator(classify, n_epochs=20, hidden=6)
    assert is_classifier(estimator)
    copy = clone(estimator)
    assert copy is not estimator and copy.get_params() == estimator.get_params()
    scores = cross_val_score(estimator, x, y, cv=5)
    assert scores.min() > 0.8
    search = GridSearchCV(estimator, {"lr": [1e-5, 0.1], "n_epochs": [10]}, cv=3).fit(x, y)
    assert search.best_params_["lr"] == 0.1 and search.best_score_ > 0.8
    assert set(search.predict(x)) <= set(y)
    pipeline = make_pipeline(StandardScaler(), estimator)
    probabilities = cross_val_predict(pipeline, x, y, cv=3, method="predict_proba")
    test_near(probabilities.sum(1), np.ones(len(x)), tol=1e-5)
    assert cross_val_score(estimator, x, y, cv=3, scoring="neg_log_loss").max() < 0
    assert estimator.fit(x, y).score(x, y) == (estimator.predict(x) == y).mean()


def test_the_same_data_gives_the_same_scores(flowers):
    from sklearn.model_selection import cross_val_score

    first, second = (cross_val_score(LearnerEstimator(classify, n_epochs=3), *flowers, cv=3)
                     for _ in range(2))  # fmt: skip
    assert (first == second).all()


def test_two_classes_from_one_logit(flowers):
    x, y = flowers[0][:100], flowers[1][:100]
    estimator = LearnerEstimator(classify, n_epochs=20, n_out=1).fit(x, y)
    assert estimator.score(x, y) > 0.95
    assert estimator.predict_proba(x).shape == (100, 2)


def test_outputs_without_an_axis_of_classes(flowers):
    from sklearn.model_selection import cross_val_score

    def flat(x, y, kind):
        model = nn.Sequential(nn.Linear(x.shape[1], 1), nn.Flatten(0))
        dls = DataLoaders(DataLoader(TensorDataset(x, y.float()), 16), None)
        loss = nn.BCEWithLogitsLoss() if kind == "classifier" else nn.MSELoss()
        return Learner(model, dls, loss, 0.05, progress=False)

    x, y = flowers[0][:100], flowers[1][:100]
    for kind, target in (("classifier", y), ("regressor", x[:, 3])):
        estimator = LearnerEstimator(partial(flat, kind=kind), n_epochs=20, kind=kind)
        assert cross_val_score(estimator, x, target, cv=3).min() > 0.5
        assert estimator.fit(x, target).predict(x[:1]).shape == (1,)


def test_regression_with_tables(flowers):
    import pandas as pd
    from sklearn.base import is_regressor
    from sklearn.model_selection import cross_val_score

    x = flowers[0]
    estimator = LearnerEstimator(regress, n_epochs=40, kind="regressor")
    assert is_regressor(estimator)
    table = pd.DataFrame(x[:, :3], columns=list("abc"))
    scores = cross_val_score(estimator, table, pd.Series(x[:, 3]), cv=3)
    assert np.isfinite(scores).all()
    fitted = estimator.fit(table, pd.Series(x[:, 3]))
    assert fitted.predict(table).shape == (150,) and fitted.score(table, x[:, 3]) > 0.8


def test_what_an_estimator_refuses(flowers):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(ValueError, match="make_learner takes no 'depth'"):
        LearnerEstimator(classify, depth=3)
    with pytest.raises(ValueError, match='"classifier" or "regressor"'):
        LearnerEstimator(classify, kind="ranker")
    with pytest.raises(NotFittedError):
        LearnerEstimator(classify).predict(flowers[0])
    for made in (learner(), 3):
        with pytest.raises(TypeError, match="must be a function"):
            LearnerEstimator(made)
    assert "make_learner='classify'" in repr(LearnerEstimator(classify))


def test_scikit_learn_is_imported_late():
    import subprocess
    import sys

    code = "import sys, exp.nb04f; print({'sklearn', 'tensorboard'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
