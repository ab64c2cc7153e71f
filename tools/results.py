"""Write the table of results in the README from what the notebooks recorded.

    python tools/results.py [--results build/results.json] [--readme README.md]

`exp.nb00i.record_result` collects the figures; this replaces what stands between `<!-- results -->`
and `<!-- /results -->` by a table of them. Figures recorded outside of a notebook's run stay out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from files import markdown, write_between
from notebooks import NUMBERED, ToolError, cli, settings, show

COLUMNS = ("notebook", "figure", "sample data", "full data", "device", "source")


def read_results(path: Path) -> list[dict]:
    """The recorded figures in reading order: by notebook, then as they were named.

    Raises: ToolError if there is no such file, or it is not what record_result writes.
    """
    try:
        entries = list(json.loads(path.read_text("utf-8")).values())
        entries = [entry for entry in entries if NUMBERED.fullmatch(entry["notebook"])]
        return sorted(entries, key=_order)
    except FileNotFoundError:
        raise ToolError(f"{show(path)} is not there: run the notebooks first, "
                        "`python tools/run_notebook.py`") from None  # fmt: skip
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ToolError(f"{show(path)} is not what record_result writes ({error!r}): "
                        "delete it and run the notebooks again") from None  # fmt: skip


def _order(entry: dict) -> tuple:
    number, letter, _ = NUMBERED.fullmatch(entry["notebook"]).groups()
    return int(number), letter, entry["name"], entry["device"], entry["mode"]


def table(entries: Iterable[dict]) -> str:
    """The figures as a Markdown table, both modes side by side, each with its target.

    A target that was missed says so.
    """
    rows = [COLUMNS]
    for _, group in groupby(entries, lambda entry: _order(entry)[:-1]):
        modes = {entry["mode"]: entry for entry in group}
        one = next(iter(modes.values()))
        values = (_value(modes[mode]) if mode in modes else "" for mode in ("sample", "full"))
        rows.append((one["notebook"], one["name"], *values, one["device"], _source(modes)))
    return markdown(rows, right=("sample data", "full data"))


def _source(modes: dict[str, dict]) -> str:
    """Where a figure comes from, each mode by its name if that is not the same for both."""
    sources = {mode: entry["source"] for mode, entry in modes.items()}
    if len(set(sources.values())) == 1:
        return next(iter(sources.values()))
    return "; ".join(f"{mode}: {text}" for mode, text in sorted(sources.items())[::-1] if text)


def _value(entry: dict) -> str:
    """A figure with its unit, and its target in brackets."""
    value = entry["value"]
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    missed = ", **missed**" if entry["met"] is False else ""
    target = f" ({entry['target']}{missed})" if entry["target"] else ""
    return f"{text} {entry['unit']}".strip() + target


def write_results(results: str = "", readme: str = "") -> None:
    """Write the table of build/results.json into README.md, unless it stands there already."""
    root = settings().root
    source = Path(results) if results else root / "build" / "results.json"
    target = Path(readme) if readme else root / "README.md"
    entries = read_results(source)
    write_between(target, table(entries), "results")
    missed = sum(entry["met"] is False for entry in entries)
    print(f"{show(target)}: {len(entries)} results, {missed} missed their target")


if __name__ == "__main__":
    cli(write_results)
