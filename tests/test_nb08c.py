"""Columns from dates: checked against slow loops, on tables of any shape; bad input is named."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exp.nb00a import data_path
from exp.nb08c import (
    ROSSMANN_CATEGORIES,
    ROSSMANN_NUMBERS,
    ROSSMANN_PAST,
    add_date_parts,
    add_elapsed,
    add_past_mean,
    check_columns,
    column_kind,
    column_numbers,
    rossmann_table,
)

FIRST = np.datetime64("2014-12-20")
rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 40), st.booleans(), st.floats(-5, 5)), max_size=30
)


def table_of(rows):
    shop, day, event, value = zip(*rows, strict=True) if rows else ((), (), (), ())
    dates = FIRST + np.array(day, dtype="timedelta64[D]")
    return pd.DataFrame(
        {
            "shop": np.array(shop, dtype=int),
            "date": pd.to_datetime(dates),
            "event": np.array(event, dtype=bool),
            "value": np.array(value, dtype=float),
        }
    )


def gaps_of(table):
    """Days since and until the nearest event, by looking at every pair of rows."""
    since, until = [], []
    for row in table.itertuples():
        events = table.date[(table["shop"] == row.shop) & table.event]
        ago = [(row.date - date).days for date in events]
        since.append(min((days for days in ago if days >= 0), default=np.nan))
        until.append(min((-days for days in ago if days <= 0), default=np.nan))
    return since, until


@given(rows)
@settings(deadline=None, max_examples=30)
def test_elapsed_days_are_those_of_the_loop_in_any_order_with_holes_and_duplicates(rows):
    table = table_of(rows)
    found = add_elapsed(table, "event", "shop", "date")
    since, until = gaps_of(table)
    np.testing.assert_array_equal(found.event_since.to_numpy(float), np.array(since, float))
    np.testing.assert_array_equal(found.event_until.to_numpy(float), np.array(until, float))
    assert found.index.equals(table.index) and "event_since" not in table


@given(rows, st.integers(1, 20), st.integers(1, 30))
@settings(deadline=None, max_examples=30)
def test_past_means_are_those_of_the_loop(rows, gap, window):
    table = table_of(rows)
    table.loc[table.value > 4, "value"] = np.nan  # a missing value does not count
    found = add_past_mean(table, "value", "shop", "date", "past", gap, window).past
    expected = []
    for row in table.itertuples():
        ago = (row.date - table.date).dt.days
        past = table.value[(table["shop"] == row.shop) & (ago >= gap) & (ago < gap + window)]
        expected.append(past.mean())
    np.testing.assert_allclose(found.to_numpy(float), np.array(expected, float), atol=1e-9)


@given(rows.map(lambda some: some[:8]), st.integers(1, 20))
@settings(deadline=None, max_examples=15)
def test_nothing_of_the_last_days_changes_a_past_mean(rows, gap):
    """Whatever is sold in the `gap` days before a row and later, its column stays the same."""
    table = table_of(rows)
    for row in table.itertuples():
        changed = table.assign(value=table.value.where((row.date - table.date).dt.days >= gap, 1e6))
        pair = [
            add_past_mean(t, "value", "shop", "date", "past", gap, 30).past.iloc[row.Index]
            for t in (table, changed)
        ]
        np.testing.assert_allclose(*pair, atol=1e-6)


def test_groups_may_be_several_columns_and_of_text():
    table = table_of([(0, 1, True, 1.0), (1, 2, False, 2.0), (0, 3, False, 3.0)])
    table["region"] = ["a", "a", None]
    found = add_elapsed(table, "event", ["shop", "region"], "date")
    assert found.event_since.isna().tolist() == [False, True, True]


@pytest.mark.parametrize(
    "date, expected",
    [("2016-02-29", (2016, 2, 9, 29, 0, 60, 1)), ("2015-12-31", (2015, 12, 53, 31, 3, 365, 1))],
)
def test_date_parts(date, expected):
    found = add_date_parts(pd.DataFrame({"when": [date]}), "when").iloc[0]
    names = ["Year", "Month", "Week", "Day", "Weekday", "DayOfYear", "MonthEnd"]
    assert tuple(found[names]) == expected


@pytest.mark.parametrize("wrong", ["31.07.2015", "07/31/2015", "yesterday", None, ""])
def test_a_date_in_another_format_is_refused_and_shown(wrong):
    frame = pd.DataFrame({"when": ["2015-07-30", wrong]})
    with pytest.raises(ValueError, match=r"'when' holds 1 values .* pass date_format"):
        add_date_parts(frame, "when")


def test_dates_come_as_dates_as_text_or_in_a_named_format():
    expected = add_date_parts(pd.DataFrame({"d": pd.to_datetime(["2015-08-01"])}), "d")
    for value, date_format in (("2015-08-01", None), ("01.08.2015", "%d.%m.%Y")):
        found = add_date_parts(pd.DataFrame({"d": [value]}), "d", date_format=date_format)
        assert found.drop(columns="d").equals(expected.drop(columns="d"))
        assert found.d.iloc[0] == expected.d.iloc[0]


def test_numbers_are_no_dates_and_columns_are_not_overwritten():
    with pytest.raises(ValueError, match="holds numbers, such as"):
        add_date_parts(pd.DataFrame({"when": [20150801]}), "when")
    frame = pd.DataFrame({"when": ["2015-08-01"], "Year": [1]})
    with pytest.raises(ValueError, match=r"already has the columns \['Year'\]"):
        add_date_parts(frame, "when")
    assert add_date_parts(frame, "when", prefix="when_").when_Year.tolist() == [2015]


def test_an_empty_table_stays_empty():
    table = table_of([])
    table["date"] = pd.to_datetime([])
    assert len(add_date_parts(table, "date")) == 0
    assert len(add_elapsed(table, "event", "shop", "date")) == 0
    assert len(add_past_mean(table, "value", "shop", "date", "past", 1, 1)) == 0


def test_missing_and_doubled_columns_and_no_table():
    table = table_of([(0, 1, True, 1.0)])
    for call in (
        lambda: add_elapsed(table, "evnet", "shop", "date"),
        lambda: add_elapsed(table, "event", "stop", "date"),
        lambda: add_past_mean(table, "val", "shop", "date", "past", 1, 1),
        lambda: add_date_parts(table, "day"),
    ):
        with pytest.raises(ValueError, match="which are not among the table's"):
            call()
    with pytest.raises(ValueError, match="more than once"):
        check_columns(pd.concat([table, table], axis=1), ["event"], "this")
    with pytest.raises(TypeError, match="needs a pandas DataFrame, got a dict"):
        check_columns({"event": [1]}, ["event"], "this")


@pytest.mark.parametrize("event", [[0, 2], ["yes", "no"], [1, None]])
def test_an_event_must_be_true_or_false(event):
    table = pd.DataFrame({"shop": [1, 1], "date": ["2015-01-01", "2015-01-02"], "event": event})
    with pytest.raises(ValueError, match="truth values"):
        add_elapsed(table, "event", "shop", "date")


@pytest.mark.parametrize(
    "values, kind",
    [
        ([1, 2], "numbers"),
        ([1.5, None], "numbers"),
        ([True, False], "numbers"),
        (["a", None], "text"),
        ([None, None], ""),
        (pd.array([1, None], dtype="Int64"), "numbers"),
        (pd.Categorical(["b", "a"]), "text"),
        (pd.Categorical([3, 4]), "numbers"),
    ],
)
def test_the_kind_of_a_column(values, kind):
    assert column_kind(pd.Series(values, name="x")) == kind


def test_columns_that_are_not_what_they_seem():
    with pytest.raises(ValueError, match="mixes int and str"):
        column_kind(pd.Series([0, "a"], name="x", dtype=object))
    with pytest.raises(ValueError, match="holds dates"):
        column_kind(pd.Series(pd.to_datetime(["2015-01-01"]), name="x"))
    with pytest.raises(ValueError, match="holds text, such as '1'"):
        column_numbers(pd.DataFrame({"x": ["1", "2"]}), "x")
    with pytest.raises(ValueError, match="holds 1 infinite"):
        column_numbers(pd.DataFrame({"x": [1.0, np.inf]}), "x")


def test_the_table_of_rossmann_knows_the_calendar_and_not_the_sales_to_come(tmp_path, monkeypatch):
    monkeypatch.setenv("EXP_DATA", "sample")
    folder = data_path("rossmann")
    table = rossmann_table(folder)
    columns = [*ROSSMANN_CATEGORIES, *ROSSMANN_NUMBERS, *ROSSMANN_PAST]
    assert set(columns) <= set(table.columns) and table[ROSSMANN_CATEGORIES].notna().all().all()
    last = table.Date[table.Id.isna()].max()
    test_rows = table[table.Id.notna()]
    assert test_rows.Sales.isna().all() and test_rows.Open.isin([0, 1]).all()
    assert test_rows.Past182[test_rows.Weekday < 6].notna().mean() > 0.99
    for name in ("train.csv", "test.csv", "store.csv", "store_states.csv"):
        text = (folder / name).read_bytes()
        if name == "train.csv":  # forget the last 48 days of sales: no average may change
            lines = text.decode().splitlines(keepends=True)
            day = str((last - pd.Timedelta(days=46)).date())
            lines = [
                ",".join([*p[:3], "0", "0", *p[5:]]) if (p := x.split(","))[2] >= day else x
                for x in lines[:1] + lines[1:]
                if x
            ]
            lines[0] = text.decode().splitlines(keepends=True)[0]
            text = "".join(lines).encode()
        (tmp_path / name).write_bytes(text)
    blind = rossmann_table(tmp_path)
    until = table.Date <= last + pd.Timedelta(days=1)
    assert blind.LogSales[until].isna().sum() > table.LogSales[until].isna().sum()
    for name in ROSSMANN_PAST:
        np.testing.assert_allclose(blind[name][until], table[name][until], atol=1e-8)
