"""Dates: what a calendar tells a model

By the end you will have turned dates, which a model cannot use, into columns that it can: the parts of a date, the days since and until an event, and averages of the past that take nothing from the future.
"""

# cell 5cc6e9eb a6284e · Dates: what a calendar tells a model
from __future__ import annotations

# generated from nbs/08c_dates.ipynb: do not edit · 6a2e0b
__all__ = [
    "check_columns",
    "column_kind",
    "column_numbers",
    "add_date_parts",
    "add_elapsed",
    "add_past_mean",
    "ROSSMANN_CATEGORIES",
    "ROSSMANN_NUMBERS",
    "ROSSMANN_PAST",
    "read_rossmann",
    "rossmann_table",
]
__dir__ = __all__.copy  # what completion offers

# cell 5cc6e9eb 43c8dc · Dates: what a calendar tells a model
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np


# cell 5cc6e9eb b7209b · Dates: what a calendar tells a model
_Frame = _Column = Any  # a DataFrame and a Series of pandas, which is imported where it is needed


# cell 020efda3 32f6a9 · Columns that are what they seem
def check_columns(frame: _Frame, names: Iterable[str], use: str) -> None:
    """Refuse a table that lacks a column or has one twice, and anything that is not a table.

    Raises: TypeError or ValueError that names the columns.
    """
    if not hasattr(frame, "columns"):
        raise TypeError(f"{use} needs a pandas DataFrame, got a {type(frame).__name__}")
    names, found = list(names), list(frame.columns)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{use} needs the columns {missing}, which are not among the table's "
                         f"{found}")
    if twice := sorted({name for name in names if found.count(name) > 1}):
        raise ValueError(f"the table has the columns {twice} more than once: rename one of each")


_KINDS = {"integer": "numbers", "integer-na": "numbers", "floating": "numbers",
          "mixed-integer-float": "numbers", "decimal": "numbers", "boolean": "numbers",
          "string": "text", "empty": ""}


def column_kind(column: _Column) -> str:
    """Return "numbers" (truth values too), "text", or "" for a column without any value.

    Raises: ValueError for dates, and for a column that mixes numbers and text.
    """
    from pandas.api.types import infer_dtype

    values = column.cat.categories if hasattr(column, "cat") else column
    kind = infer_dtype(values, skipna=True)
    if kind in ("datetime64", "datetime", "date"):
        raise ValueError(f"column {column.name!r} holds dates: take them apart first, with "
                         "add_date_parts")
    if kind not in _KINDS:
        kinds = sorted({type(value).__name__ for value in column.dropna()})
        raise ValueError(f"column {column.name!r} mixes {' and '.join(kinds)}: read it as one "
                         f"type, for example with read_csv(…, dtype={{{column.name!r}: str}})")
    return _KINDS[kind]


# cell 481cb0b2 1e9e99 · Columns that are what they seem
def column_numbers(frame: _Frame, name: str) -> np.ndarray:
    """Return a column as float64, NaN where a number is missing.

    Raises: ValueError for text, dates, and infinite numbers.
    """
    column = frame[name]
    if column_kind(column) == "text":
        raise ValueError(f"column {name!r} should hold numbers and holds text, such as "
                         f"{column.dropna().iloc[0]!r}: convert it with pandas.to_numeric, or make "
                         "it a category")
    values = column.to_numpy(dtype="float64", na_value=np.nan)
    if np.isinf(values).any():
        raise ValueError(f"column {name!r} holds {np.isinf(values).sum()} infinite numbers: "
                         "replace them, or make them missing")
    return values


# cell 161dfdc4 c5482e · The parts of a date
def _as_dates(frame: _Frame, column: str, date_format: str | None) -> _Column:
    """Return a column as dates.

    Raises: ValueError for values that are not dates in this format; it names the first.
    """
    import pandas as pd

    check_columns(frame, [column], "a date")
    values = frame[column]
    if pd.api.types.is_numeric_dtype(values):
        raise ValueError(f"column {column!r} holds numbers, such as {values.iloc[0]!r}: convert "
                         "them to dates first, with pandas.to_datetime and its unit")
    dates = pd.to_datetime(values, format=date_format or "ISO8601", errors="coerce")
    wrong = dates.isna()
    if wrong.any():
        expected = date_format or "year-month-day"
        raise ValueError(f"column {column!r} holds {int(wrong.sum())} values that are not dates "
                         f"written {expected}, such as {values[wrong].iloc[0]!r}: pass date_format")
    return dates


# cell c16c552b f9e983 · The parts of a date
def add_date_parts(frame: _Frame, column: str, prefix: str = "",
                   date_format: str | None = None) -> _Frame:
    """Take a date apart: year, month, week, day, weekday (from 0), day of the year, and more.

    Adds Year, Month, Week, Day, Weekday, DayOfYear, MonthStart, MonthEnd and Days (since 1970),
    and turns the column itself into dates. `date_format` as strftime writes it, by default ISO.
    Raises: ValueError for dates in another format, and for columns that are there already.
    """
    dates = _as_dates(frame, column, date_format)
    parts = {"Year": dates.dt.year, "Month": dates.dt.month, "Week": dates.dt.isocalendar().week,
             "Day": dates.dt.day, "Weekday": dates.dt.day_of_week,
             "DayOfYear": dates.dt.day_of_year, "MonthStart": dates.dt.is_month_start,
             "MonthEnd": dates.dt.is_month_end,
             "Days": (dates - np.datetime64("1970-01-01")).dt.days}
    parts = {prefix + name: values.astype("int64") for name, values in parts.items()}
    if taken := [name for name in parts if name in frame.columns]:
        raise ValueError(f"the table already has the columns {taken}: pass a prefix")
    return frame.assign(**{column: dates}, **parts)


# cell f33dfb0a c78f52 · Days since and days until
def _groups_and_days(frame: _Frame, by: str | Sequence[str], date: str,
                     date_format: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Number each row's group and count its day. Shape: (N,) int64 both."""
    names = [by] if isinstance(by, str) else list(by)
    check_columns(frame, names, "a group")
    groups = frame.groupby(names, sort=False, dropna=False).ngroup().to_numpy()
    days = (_as_dates(frame, date, date_format) - np.datetime64("1970-01-01")).dt.days.to_numpy()
    return groups, days


def _day_keys(groups: np.ndarray, days: np.ndarray, margin: int) -> tuple[np.ndarray, int]:
    """Write group and day as one number: group · span + day, the spans `margin` days apart."""
    first, last = (int(days.min()), int(days.max())) if len(days) else (0, 0)
    span = last - first + 1 + margin
    return groups * span + days - first, span


# cell f9a357be e4c490 · Days since and days until
def add_elapsed(frame: _Frame, event: str, by: str | Sequence[str], date: str,
                date_format: str | None = None) -> _Frame:
    """Count the days since the last event of a row's group and until its next one.

    `event` is a column of truth values, or of 0 and 1. Adds EVENT_since and EVENT_until: 0 on the
    day of an event, missing if there is none before or after. Rows may be in any order; the
    events of *all* rows count, so pass training and test rows together.
    """
    check_columns(frame, [event], "add_elapsed")
    if not frame[event].isin([0, 1]).all():
        raise ValueError(f"column {event!r} must hold truth values, or 0 and 1, got "
                         f"{frame[event][~frame[event].isin([0, 1])].unique().tolist()[:5]}")
    groups, days = _groups_and_days(frame, by, date, date_format)
    keys, span = _day_keys(groups, days, 1)
    at = np.unique(keys[frame[event].to_numpy().astype(bool)])  # the events, in order
    before, after = np.searchsorted(at, keys, "right") - 1, np.searchsorted(at, keys, "left")
    gaps = []
    for place in (before, after):
        valid = (place >= 0) & (place < len(at))
        valid[valid] = at[place[valid]] // span == groups[valid]
        gaps.append(np.full(len(keys), np.nan))
        gaps[-1][valid] = np.abs(at[place[valid]] - keys[valid])
    return frame.assign(**{f"{event}_since": gaps[0], f"{event}_until": gaps[1]})


# cell 910643ef 285a30 · The past, and nothing of the future
def add_past_mean(frame: _Frame, value: str, by: str | Sequence[str], date: str, name: str,
                  gap: int, window: int, date_format: str | None = None) -> _Frame:
    """Average a value over a past window of a row's group: the days day-gap-window+1 .. day-gap.

    Missing values do not count; without any in the window, the mean is missing. With a `gap` as
    long as the forecast reaches, it uses only what is known when the forecast is made.
    """
    check_columns(frame, [value], "add_past_mean")
    if gap < 1 or window < 1:
        raise ValueError(f"gap and window must be 1 day or more, got {gap} and {window}")
    groups, days = _groups_and_days(frame, by, date, date_format)
    values = column_numbers(frame, value)
    keys, span = _day_keys(groups, days, gap + window)
    known = ~np.isnan(values)
    order = np.argsort(keys[known], kind="stable")
    at, total = keys[known][order], np.concatenate([[0.0], np.cumsum(values[known][order])])
    first = np.maximum(keys - gap - window, groups * span - 1)  # not into the group before
    begin, end = np.searchsorted(at, first, "right"), np.searchsorted(at, keys - gap, "right")
    n = np.maximum(end - begin, 0)
    sums = total[np.maximum(end, begin)] - total[begin]
    mean = np.where(n > 0, sums / np.maximum(n, 1), np.nan)
    return frame.assign(**{name: mean})


# cell 4bdb1d8a 6c0cb3 · One table from four files
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec".split()
ROSSMANN_CATEGORIES = (
    "Store Weekday Year Month Week Day Promo StateHoliday SchoolHoliday StoreType Assortment "
    "PromoInterval State RivalMonths Promo2Weeks Promo2Month").split()
ROSSMANN_NUMBERS = (
    "LogDistance Days DayOfYear Closed_since Closed_until Promo_since Promo_until Holiday_since "
    "Holiday_until SchoolHoliday_since SchoolHoliday_until ClosedShare").split()
ROSSMANN_PAST = "Past63 Past182 Past364 Past800 Recent LastYear SameSeason".split()


def read_rossmann(folder: Path) -> _Frame:
    """Join the four files: training rows, then test rows, whose Sales and Customers are missing.

    Test rows that do not say whether the shop is open (eleven in the real table) count as open.
    """
    import pandas as pd

    text = {"StateHoliday": str}
    days = [pd.read_csv(folder / f"{part}.csv", dtype=text) for part in ("train", "test")]
    stores = pd.read_csv(folder / "store.csv").merge(pd.read_csv(folder / "store_states.csv"),
                                                     on="Store")
    table = pd.concat(days, ignore_index=True).merge(stores, on="Store", how="left")
    return table.assign(Open=table.Open.fillna(1).astype("int64"))


# cell 2e9ba977 b89f0c · One table from four files
def rossmann_table(folder: Path, gap: int = 48) -> _Frame:
    """Return all days with the columns `ROSSMANN_CATEGORIES`, `ROSSMANN_NUMBERS`, `ROSSMANN_PAST`.

    Averages of log sales end `gap` days before a row. Elapsed days are cut at 30 or 60.
    """
    table = add_date_parts(read_rossmann(folder), "Date")
    table["Closed"], table["Holiday"] = table.Open == 0, table.StateHoliday != "0"
    for event, limit in (("Closed", 30), ("Promo", 30), ("Holiday", 60), ("SchoolHoliday", 60)):
        table = add_elapsed(table, event, "Store", "Date")
        for name in (f"{event}_since", f"{event}_until"):
            table[name] = table[name].clip(upper=limit).fillna(limit)
    rival = (table.Year - table.CompetitionOpenSinceYear) * 12
    rival += table.Month - table.CompetitionOpenSinceMonth
    table["RivalMonths"] = rival.clip(-1, 24).fillna(-1).astype("int64")
    table["LogDistance"] = np.log(table.CompetitionDistance)
    weeks = (table.Year - table.Promo2SinceYear) * 52 + table.Week - table.Promo2SinceWeek
    table["Promo2Weeks"] = weeks.clip(-1, 25).fillna(-1).astype("int64")
    table["PromoInterval"] = table.PromoInterval.fillna("none")
    months = zip(table.Month, table.PromoInterval, strict=True)
    in_interval = np.array([_MONTHS[month - 1] in interval for month, interval in months])
    table["Promo2Month"] = in_interval & (table.Promo2Weeks >= 0)
    table["LogSales"] = np.log(table.Sales.where(table.Sales > 0))
    same = ["Store", "Weekday", "Promo"]
    for days in (63, 182, 364, 800):
        table = add_past_mean(table, "LogSales", same, "Date", f"Past{days}", gap, days)
    table = add_past_mean(table, "LogSales", same[::2], "Date", "Recent", gap, 28)
    table = add_past_mean(table, "LogSales", same[::2], "Date", "LastYear", 361, 14)
    table = add_past_mean(table, "LogSales", same[:2], "Date", "SameSeason", 330, 70)
    table["Shut"] = table.Closed.astype("float64")
    return add_past_mean(table, "Shut", "Store", "Date", "ClosedShare", 1, 14).drop(columns="Shut")
