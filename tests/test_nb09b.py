"""Tables: what was learned in training is applied in prediction, or the column is named."""

import json
import os
import pickle
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from exp.nb04 import Learner
from exp.nb05 import fit_one_cycle
from exp.nb09b import (
    Categorify,
    FillMissing,
    Normalize,
    TablePredictor,
    TablePreprocessor,
    TabularModel,
    embedding_size,
    mape,
    rmspe,
    table_loaders,
)

ROOT = Path(__file__).parents[1]


def people(n=200, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "city": rng.choice(["Bonn", "Kiel", "Ulm"], n),
            "floor": rng.integers(0, 5, n),
            "age": rng.normal(40, 10, n),
            "rent": rng.uniform(300, 900, n),
        }
    )
    frame["price"] = np.exp(5 + 0.3 * (frame.city == "Ulm") + frame.rent / 900)
    return frame


def fitted(frame=None, **options):
    frame = people() if frame is None else frame
    return TablePreprocessor(["city", "floor"], ["age", "rent"], "price", "log", **options).fit(
        frame
    )


def trained(frame=None, **options):
    torch.manual_seed(0)
    frame = people() if frame is None else frame
    steps = fitted(frame)
    model = TabularModel(steps.levels, len(steps.number_names), hidden=(16,), **options)
    dls = table_loaders(steps, frame, frame, batch_size=64)
    learn = Learner(model, dls, F.mse_loss, opt_func=torch.optim.Adam, progress=False)
    fit_one_cycle(learn, 3, 0.02)
    return TablePredictor(model, steps)


# --- from columns to codes and numbers ------------------------------------------------------------


@given(
    st.lists(st.one_of(st.none(), st.text(max_size=3)), min_size=1, max_size=20),
    st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=20),
)
@settings(deadline=None, max_examples=60)
def test_codes_are_the_place_among_sorted_levels(seen, later):
    steps = Categorify(["x"]).fit(pd.DataFrame({"x": pd.Series(seen, dtype=object)}))
    found = steps.transform(pd.DataFrame({"x": pd.Series(later, dtype=object)})).x.tolist()
    levels = sorted({x for x in seen if x is not None})
    gap = int(None in seen)
    expected = [
        gap if x is None else levels.index(x) + 1 + gap if x in levels else 0 for x in later
    ]
    assert found == expected and steps.sizes() == [len(levels) + 1 + gap]
    assert steps.decode("x", found) == [x if x in levels else None for x in later]


@pytest.mark.parametrize(
    "values",
    [
        [3, 1, 2],
        [3.0, 1.0, np.nan],
        [True, False, True],
        pd.Categorical(["b", "a", "b"]),
        pd.Categorical([3, 1, 2]),
        pd.array([3, None, 2], dtype="Int64"),
        [0.5, 1.5, 2.5],
    ],
)
def test_levels_of_any_type_survive_json_and_come_back_as_the_same_codes(values):
    frame = pd.DataFrame({"x": values})
    steps = TablePreprocessor(["x"]).fit(frame)
    again = TablePreprocessor.from_dict(json.loads(json.dumps(steps.to_dict())))
    for one, other in ((steps, again), (steps, pickle.loads(pickle.dumps(steps)))):
        torch.testing.assert_close(one.transform(frame)[0], other.transform(frame)[0])
    assert (steps.transform(frame)[0][:, 0] > 0).sum() == 3


def test_whole_numbers_are_the_same_levels_as_integers_floats_or_truth_values():
    steps = Categorify(["x"]).fit(pd.DataFrame({"x": [0, 1]}))
    for later in ([0.0, 1.0], [False, True], pd.array([0, 1], dtype="Int8")):
        assert steps.transform(pd.DataFrame({"x": later})).x.tolist() == [1, 2]
    assert steps.transform(pd.DataFrame({"x": [1.0, np.nan, 0.5]})).x.tolist() == [2, 0, 0]


@pytest.mark.parametrize("seen, later", [([1, 2], ["1", "2"]), (["1", "2"], [1, 2])])
def test_a_category_of_another_type_is_refused(seen, later):
    steps = TablePreprocessor(["x"]).fit(pd.DataFrame({"x": seen}))
    with pytest.raises(ValueError, match="column 'x' held .* when the levels were learned"):
        steps.transform(pd.DataFrame({"x": later}))


def test_mixed_columns_and_dates_are_refused():
    with pytest.raises(ValueError, match="'x' mixes int and str.*dtype"):
        TablePreprocessor(["x"]).fit(pd.DataFrame({"x": pd.Series([0, "a"], dtype=object)}))
    for names in (("x",), ()), ((), ("x",)):
        with pytest.raises(ValueError, match="'x' holds dates.*add_date_parts"):
            TablePreprocessor(*names).fit(pd.DataFrame({"x": pd.to_datetime(["2015-01-01"])}))


@pytest.mark.parametrize("value", ["12", "1,5"])
def test_strings_as_numbers_are_refused_with_the_remedy(value):
    with pytest.raises(ValueError, match=f"'age' should hold numbers .* '{value}'.*to_numeric"):
        TablePreprocessor([], ["age"]).fit(pd.DataFrame({"age": [value]}))
    with pytest.raises(ValueError, match="'age' should hold numbers"):
        fitted().transform(people().assign(age="12"))


def test_gaps_are_filled_with_the_median_and_flagged():
    frame = people()
    frame.loc[:9, "age"] = np.nan
    steps = fitted(frame)
    assert steps.number_names == ["age", "rent", "age_missing"]
    _, numbers, _ = steps.transform(frame)
    median = frame.age.median()
    filled = frame.age.fillna(median)
    expected = (filled - filled.mean()) / filled.std(ddof=0)
    np.testing.assert_allclose(numbers[:, 0], expected, atol=1e-5)
    assert numbers[:, 2].tolist() == [1.0] * 10 + [0.0] * 190
    assert not torch.isnan(numbers).any()


def test_a_gap_that_training_did_not_have_is_filled_with_a_warning():
    steps, later = fitted(), people().assign(rent=np.nan)
    with pytest.warns(UserWarning, match=r"missing in \['rent'\]"):
        _, numbers, _ = steps.transform(later)
    assert not torch.isnan(numbers).any()


def test_normalised_numbers_have_mean_0_and_deviation_1_by_the_training_rows():
    steps, later = fitted(), people(seed=1)
    _, numbers, _ = steps.transform(people())
    np.testing.assert_allclose(numbers.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(numbers.std(0, correction=0), 1, atol=1e-5)
    assert abs(steps.transform(later)[1].mean(0)).max() > 1e-3  # the statistics are not renewed
    constant = Normalize(["x"]).fit(pd.DataFrame({"x": [5.0, 5.0]}))
    assert constant.transform(pd.DataFrame({"x": [5.0, 6.0]})).x.tolist() == [0.0, 1.0]


def test_infinite_numbers_and_columns_without_any_are_refused():
    with pytest.raises(ValueError, match="'age' holds 200 infinite"):
        fitted(people().assign(age=np.inf))
    with pytest.raises(ValueError, match=r"\['age'\] hold no number at all"):
        fitted(people().assign(age=np.nan))


@pytest.mark.parametrize("name", ["city", "floor", "age", "rent"])
def test_a_column_missing_at_prediction_is_named(name):
    with pytest.raises(ValueError, match=rf"needs the columns \['{name}'\]"):
        trained_once().predict(people().drop(columns=name))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"price": np.nan}, "'price' is missing in 200 rows"),
        ({"price": 0.0}, "200 rows have a 'price' of 0 or less"),
        ({"price": "dear"}, "'price' should hold numbers"),
    ],
)
def test_targets_that_cannot_be_learned(changes, message):
    with pytest.raises(ValueError, match=message):
        fitted(people().assign(**changes))


def test_tables_and_names_that_cannot_work():
    with pytest.raises(ValueError, match="no rows to learn from"):
        fitted(people()[:0])
    with pytest.raises(ValueError, match="more than once"):
        fitted(pd.concat([people(), people()[["age"]]], axis=1))
    with pytest.raises(ValueError, match="used twice"):
        TablePreprocessor(["a"], ["a"])
    with pytest.raises(ValueError, match="used twice"):
        TablePreprocessor(["a"], [], "a")
    with pytest.raises(ValueError, match="nothing to learn from"):
        TablePreprocessor([], [], "a")
    with pytest.raises(ValueError, match="'number', 'log' or 'class'"):
        TablePreprocessor(["a"], target_kind="logarithm")
    with pytest.raises(ValueError, match="call fit first"):
        TablePreprocessor(["city"]).transform(people())
    with pytest.raises(TypeError, match="needs a pandas DataFrame, got a list"):
        TablePreprocessor(["city"]).fit([1, 2])


def test_the_order_of_columns_and_the_index_do_not_matter():
    steps, frame = fitted(), people()
    shuffled = frame[["price", "rent", "floor", "city", "age"]].set_index(
        np.zeros(len(frame), dtype=int)
    )
    for one, other in zip(steps.transform(frame), steps.transform(shuffled), strict=True):
        torch.testing.assert_close(one, other)


def test_an_empty_table_is_predicted_as_an_empty_list():
    assert trained_once().predict(people()[:0]).shape == (0,)


def test_100_000_levels():
    n = 100_000
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"id": rng.permutation(n), "name": [f"n{i}" for i in range(n)]})
    started = time.perf_counter()
    steps = TablePreprocessor(["id", "name"]).fit(frame)
    codes, _, _ = steps.transform(frame)
    assert time.perf_counter() - started < 30
    assert steps.levels == [n + 1, n + 1] and sorted(codes[:, 1].tolist()) == list(range(1, n + 1))
    assert codes[:, 0].tolist() == (frame.id + 1).tolist()
    model = TabularModel(steps.levels, 0, hidden=(8,)).eval()
    assert model.embedding_sizes == [50, 50]
    assert model(codes[:7], torch.zeros(7, 0)).shape == (7,)


# --- the model ------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 9), max_size=3),
    st.integers(0, 3),
    st.integers(1, 3),
    st.lists(st.integers(1, 5), max_size=2),
    st.integers(2, 6),
)
@settings(deadline=None, max_examples=40)
def test_shapes(levels, n_numbers, n_out, hidden, n):
    if not levels and not n_numbers:
        with pytest.raises(ValueError, match="got neither"):
            TabularModel(levels, n_numbers)
        return
    model = TabularModel(levels, n_numbers, n_out, hidden, dropout=0.5, unseen=0.5)
    codes = torch.zeros(n, len(levels), dtype=torch.int64)
    out = model(codes, torch.randn(n, n_numbers))
    assert out.shape == ((n,) if n_out == 1 else (n, n_out))
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert [e.embedding_dim for e in model.embeddings] == [embedding_size(k) for k in levels]


def test_sizes_of_embeddings():
    assert [embedding_size(n) for n in (1, 2, 3, 7, 99, 100, 100_000)] == [1, 1, 2, 4, 50, 50, 50]
    model = TabularModel([5, 9], 0, embedding_sizes=[3, 7])
    assert [tuple(e.weight.shape) for e in model.embeddings] == [(5, 3), (9, 7)]
    with pytest.raises(ValueError, match="2 categories need as many embedding sizes, got 1"):
        TabularModel([5, 9], 0, embedding_sizes=[3])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"levels": [0], "n_numbers": 0}, "1 or more"),
        ({"levels": [2], "n_numbers": 0, "y_range": (3, 1)}, "low, high"),
        ({"levels": [2], "n_numbers": 0, "unseen": 1.5}, "below 1"),
        ({"levels": [2], "n_numbers": 0, "n_out": 0}, "1 or more"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        TabularModel(**options)


def test_wrong_shapes_are_named():
    model = TabularModel([4, 4], 2)
    with pytest.raises(ValueError, match=r"codes \(B, 2\) and numbers \(B, 2\), got \(3, 1\)"):
        model(torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, 2))


def test_predictions_stay_in_the_range_and_reach_nearly_all_of_it():
    model = TabularModel([3], 1, hidden=(), y_range=(-1.0, 2.0)).eval()
    out = model(torch.zeros(201, 1, dtype=torch.int64), torch.linspace(-1e4, 1e4, 201)[:, None])
    assert out.min() >= -1 and out.max() <= 2 and out.max() - out.min() > 2.9


def test_the_row_of_the_unseen_is_trained_only_with_unseen():
    frame = people(600)
    for unseen, moves in ((0.0, False), (0.1, True)):
        torch.manual_seed(0)
        steps = fitted(frame)
        model = TabularModel(steps.levels, 2, hidden=(16,), unseen=unseen)
        before = model.embeddings[0].weight[0].detach().clone()
        learn = Learner(
            model,
            table_loaders(steps, frame, batch_size=64),
            F.mse_loss,
            opt_func=torch.optim.Adam,
            progress=False,
        )
        learn.fit(1, 0.01)
        assert torch.equal(before, model.embeddings[0].weight[0]) != moves
    model.eval()
    codes = steps.transform(frame)[0]
    torch.testing.assert_close(model.embed(codes), model.embed(codes))  # no chance in evaluation


def test_a_learnable_table_is_learned_and_an_unseen_city_is_not_an_error():
    predictor, frame = trained_once(), people()
    assert rmspe(predictor.predict(frame), frame.price.to_numpy()) < 0.3
    unseen = predictor.predict(frame.assign(city="Jena"))
    assert np.isfinite(unseen).all()


# --- the predictor, and its file ------------------------------------------------------------------

_TRAINED = []


def trained_once():
    if not _TRAINED:
        _TRAINED.append(trained(y_range=(4.0, 8.0), unseen=0.02))
    return _TRAINED[0]


def test_predictions_do_not_depend_on_the_batch_and_leave_the_mode():
    predictor, frame = trained_once(), people()
    predictor.model.train()
    whole, parts = predictor.predict(frame), predictor.predict(frame, batch_size=7)
    np.testing.assert_allclose(whole, parts, rtol=1e-5)
    assert predictor.model.training


def test_a_table_to_predict_may_hold_an_empty_target():
    predictor, frame = trained_once(), people()
    expected = predictor.predict(frame.drop(columns="price"))
    np.testing.assert_array_equal(predictor.predict(frame.assign(price=np.nan)), expected)


def test_a_fresh_process_loads_the_file_and_writes_the_submission(tmp_path):
    predictor, frame = trained_once(), people(50, seed=3).drop(columns="price")
    predictor.save(tmp_path / "rents.safetensors")
    frame.to_csv(tmp_path / "rows.csv", index_label="Id")
    code = """
        import sys
        import pandas as pd
        from exp import TablePredictor

        rows = pd.read_csv("rows.csv")
        price = TablePredictor.load("rents.safetensors").predict(rows)
        pd.DataFrame({"Id": rows.Id, "price": price}).to_csv("submission.csv", index=False)
        assert "sklearn" not in sys.modules and "matplotlib" not in sys.modules
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    code = "\n".join(line[8:] for line in code.splitlines())
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    found = pd.read_csv(tmp_path / "submission.csv")
    assert found.Id.tolist() == list(range(50))
    np.testing.assert_allclose(found.price, predictor.predict(frame), rtol=1e-5)
    assert b"pickle" not in (tmp_path / "rents.safetensors").read_bytes()[:10_000]


def test_a_file_of_another_model_is_refused(tmp_path):
    from exp.nb04c import export_model

    export_model(torch.nn.Linear(2, 2), tmp_path / "linear.safetensors")
    with pytest.raises(ValueError, match="without the preprocessing of a table"):
        TablePredictor.load(tmp_path / "linear.safetensors")


def test_classes_come_back_by_name(tmp_path):
    frame = people(400)
    steps = TablePreprocessor(["floor"], ["rent", "price"], "city", "class").fit(frame)
    codes, numbers, target = steps.transform(frame)
    assert target.dtype == torch.int64 and set(target.tolist()) == {0, 1, 2}
    model = TabularModel(steps.levels, 2, n_out=3, hidden=(16,))
    dls = table_loaders(steps, frame, batch_size=64)
    learn = Learner(model, dls, F.cross_entropy, opt_func=torch.optim.Adam, progress=False)
    fit_one_cycle(learn, 6, 0.02)
    predictor = TablePredictor(model, steps)
    predictor.save(tmp_path / "city.safetensors")
    found = TablePredictor.load(tmp_path / "city.safetensors").predict(frame)
    assert set(found) <= {"Bonn", "Kiel", "Ulm"} and (found == frame.city).mean() > 0.5
    with pytest.raises(ValueError, match="classes that were not in the training rows"):
        steps.transform(frame.assign(city="Jena"))


def test_a_training_set_smaller_than_a_batch_is_served_whole():
    loaders = table_loaders(fitted(), people(), batch_size=512)
    assert [len(batch[0]) for batch in loaders.train] == [200] and loaders.valid is None


def test_percentage_errors_leave_out_days_without_sales():
    predicted, actual = np.array([110.0, 50.0, 7.0]), np.array([100.0, 100.0, 0.0])
    assert rmspe(predicted, actual) == pytest.approx(np.sqrt((0.01 + 0.25) / 2))
    assert mape(predicted, actual) == pytest.approx(0.3)


def test_no_warning_in_normal_use():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame = people()
        frame.loc[:3, "age"] = np.nan
        fitted(frame).transform(frame)


def test_importing_is_light():
    code = "import sys, exp.nb09b; print({'pandas', 'sklearn', 'matplotlib'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.decode().strip() == "set()", done.stderr


def test_the_steps_alone_refuse_missing_columns():
    for step in (Categorify, FillMissing, Normalize):
        with pytest.raises(ValueError, match=rf"{step.__name__} needs the columns \['wages'\]"):
            step(["wages"]).fit(people())
