"""Sample tables: the format of the real files, and the law behind the numbers."""

import csv
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from exp.nb00a import data_path
from exp.nb00d import GERMAN_STATES, adult_truth, rossmann_truth, state_positions


@pytest.fixture(scope="module")
def rossmann(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("EXP_DATA", "sample")
        yield data_path("rossmann")


@pytest.fixture(scope="module")
def adult(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EXP_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("EXP_DATA", "sample")
        yield data_path("adult")


HEADERS = {
    "train.csv": '"Store","DayOfWeek","Date","Sales","Customers","Open","Promo","StateHoliday",'
    '"SchoolHoliday"\n',
    "test.csv": '"Id","Store","DayOfWeek","Date","Open","Promo","StateHoliday","SchoolHoliday"\n',
    "store.csv": '"Store","StoreType","Assortment","CompetitionDistance",'
    '"CompetitionOpenSinceMonth","CompetitionOpenSinceYear","Promo2","Promo2SinceWeek",'
    '"Promo2SinceYear","PromoInterval"\n',
    "store_states.csv": "Store,State\r\n",
}


@pytest.mark.parametrize("file", HEADERS)
def test_headers_and_line_ends_are_those_of_the_real_files(rossmann, file):
    text = (rossmann / file).read_bytes().decode("ascii")
    assert text.startswith(HEADERS[file])
    assert text.count("\r\n") == (text.count("\n") if file == "store_states.csv" else 0)


def test_the_quirks_of_the_real_files_are_there(rossmann):
    lines = (rossmann / "train.csv").read_text().splitlines()
    dates = [line.split(",")[2] for line in lines[1:]]
    assert dates == sorted(dates, reverse=True) and (dates[0], dates[-1]) == (
        "2015-07-31",
        "2013-01-01",
    )
    assert lines[1].startswith("1,5,2015-07-31,") and lines[1].count('"') == 4
    train = pd.read_csv(rossmann / "train.csv", low_memory=True)
    assert set(map(str, train.StateHoliday.unique())) == {"0", "a", "b", "c"}
    rows = train.groupby("Store").size()
    assert set(rows) == {942, 758} and (rows == 758).sum() == 16  # as 180 of the real stores
    test = pd.read_csv(rossmann / "test.csv")
    assert test.Open.isna().sum() == 11 and set(test[test.Open.isna()].Store) == {22}
    assert test.Id.tolist() == list(range(1, len(test) + 1)) and test.Store.nunique() == 72
    store = pd.read_csv(rossmann / "store.csv")
    assert store.CompetitionDistance.isna().sum() == 3
    assert (store.Promo2SinceYear.isna() == (store.Promo2 == 0)).all()
    assert (store.PromoInterval.isna() == (store.Promo2 == 0)).all()
    with open(rossmann / "store_states.csv", newline="") as file:
        states = list(csv.DictReader(file))
    assert {row["State"] for row in states} == set(GERMAN_STATES)


def test_sales_follow_the_law(rossmann):
    truth = rossmann_truth()
    ratio = truth.sales[truth.is_open] / truth.expected[truth.is_open]
    assert abs(ratio.mean() - 1) < 0.001 and abs(ratio.std() - truth.noise) < 0.001
    assert 0.08 < truth.noise_floor < 0.085
    assert (truth.sales[~truth.is_open] == 0).all()
    train = pd.read_csv(rossmann / "train.csv", dtype={"StateHoliday": str}, parse_dates=["Date"])
    days = (train.Date - pd.Timestamp(truth.first_day)).dt.days
    assert (train.Sales == truth.sales[train.Store - 1, days]).all()
    assert (train.DayOfWeek == train.Date.dt.day_of_week + 1).all()
    assert ((train.Sales > 0) == (train.Open == 1)).all()


def test_the_truth_is_the_sum_of_its_parts():
    """Divide the effects out of what is expected: what remains is the store."""
    truth = rossmann_truth()
    dates = pd.date_range(truth.first_day, periods=truth.sales.shape[1])
    quiet = np.array(
        (dates.day_of_week == 5) & (dates.month == 5) & (dates.day.isin(range(10, 16)))
    )
    state = [list(GERMAN_STATES).index(code) for code in truth.state]
    for i in (0, 40, 95):
        law = (
            5500
            * truth.store[i]
            * truth.weekday[5]
            * truth.month[4]
            * truth.state_weekday[state[i], 5]
            * truth.state_month[state[i], 4]
        )
        left = truth.expected[i, quiet] / law
        allowed = {round(a * b, 4) for a in (1, truth.promo2) for b in (1, truth.competitor)}
        assert {round(float(x), 4) for x in left} <= allowed


def test_states_lie_where_their_capitals_lie():
    places = dict(zip(GERMAN_STATES, state_positions(), strict=True))
    assert places["SH"][1] == max(p[1] for p in places.values())  # Kiel is in the north
    assert places["NW"][0] == min(p[0] for p in places.values())  # Düsseldorf in the west
    gap = np.linalg.norm(places["HH"] - places["BY"])
    assert abs(gap - 6.1) < 0.1  # Hamburg to Munich: about 610 km


def test_adult_has_the_format_and_follows_its_law(adult):
    data, test = ((adult / f"adult.{part}").read_text() for part in ("data", "test"))
    assert test.startswith("|1x3 Cross validator\n") and data.endswith("50K\n\n")
    rows = [line.split(", ") for line in (data + test).splitlines() if line.count(",") == 14]
    truth = adult_truth()
    assert len(rows) == len(truth.rich) == 9000 and {len(row) for row in rows} == {15}
    assert [row[-1].rstrip(".") == ">50K" for row in rows] == truth.rich.tolist()
    assert 0.02 < sum(row[1] == "?" for row in rows) / 9000 < 0.08
    assert abs(truth.chance.mean() - truth.rich.mean()) < 0.02 and truth.best_accuracy > 0.75


def test_the_truths_pickle():
    assert pickle.loads(pickle.dumps(rossmann_truth())).noise == 0.08
    assert pickle.loads(pickle.dumps(adult_truth())).base == adult_truth().base


def test_importing_is_light():
    code = "import sys, exp.nb00d; print({'torch', 'pandas', 'matplotlib'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.stdout.decode().strip() == "set()", done.stderr
