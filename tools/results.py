"""Write the headlines of the notebooks into the README.

    python tools/results.py [--results build/results.json] [--readme README.md]

`exp.nb00i.record_result` collects the figures of a run. Those marked as headlines are kept in
`results.json` beside the notebooks, so that the figures of a run on the full data outlive later
runs on the sample; of them is made what stands between `<!-- results -->` and `<!-- /results -->`.
Figures recorded outside of a notebook's run stay out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from files import markdown, write_all, write_between
from notebooks import NUMBERED, ToolError, cli, find, settings, show

COLUMNS = ("notebook", "figure", "sample data", "full data", "target", "source")


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


def headlines(old: Iterable[dict], new: Iterable[dict], names: Iterable[str]) -> list[dict]:
    """The headlines to keep, of the notebooks `names`: the new ones, and what they do not replace.

    An old one stays as long as a figure of its name is a headline of its notebook.
    """
    new, names = list(new), set(names)
    ran = {entry["notebook"] for entry in new}
    kept = {_key(entry): entry for entry in new if entry.get("headline")}
    alive = {(entry["notebook"], entry["name"]) for entry in kept.values()}
    for entry in old:
        if entry["notebook"] not in ran or (entry["notebook"], entry["name"]) in alive:
            kept.setdefault(_key(entry), entry)
    return sorted((entry for entry in kept.values() if entry["notebook"] in names), key=_order)


def _key(entry: dict) -> str:
    return " | ".join(entry[part] for part in ("notebook", "name", "mode", "device"))


def table(entries: Iterable[dict], folder: str = "nbs") -> str:
    """The figures as a Markdown table, both modes side by side, each with its target.

    A target that was missed says so.
    """
    rows, before = [COLUMNS], ""
    for _, group in groupby(entries, lambda entry: _order(entry)[:-1]):
        modes = {entry["mode"]: entry for entry in group}
        one = next(iter(modes.values()))
        name = one["notebook"]
        link = "" if name == before else f"[{name}]({folder}/{name}.ipynb)"
        figure = one["name"] + ("" if one["device"] == "cpu" else f" ({one['device']})")
        values = (_value(modes[mode]) if mode in modes else "" for mode in ("sample", "full"))
        rows.append((link, figure, *values, _both(modes, "target"), _both(modes, "source")))
        before = name
    return markdown(rows, right=("sample data", "full data"))


def _both(modes: dict[str, dict], key: str) -> str:
    """What the entries say under a key, each mode by its name if it is not the same for both."""
    said = {mode: entry[key] or "" for mode, entry in modes.items()}
    if len(set(said.values())) == 1:
        return next(iter(said.values()))
    return "; ".join(f"{mode}: {text}" for mode, text in sorted(said.items())[::-1] if text)


def _value(entry: dict) -> str:
    """A figure with its unit."""
    value = entry["value"]
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{text} {entry['unit']}".strip() + (" **missed**" if entry["met"] is False else "")


def write_results(results: str = "", readme: str = "") -> None:
    """Keep the headlines of build/results.json, and write them into README.md."""
    config = settings()
    source = Path(results) if results else config.root / "build" / "results.json"
    target = Path(readme) if readme else config.root / "README.md"
    store = config.nbs / "results.json"
    entries = headlines(read_results(store) if store.exists() else [], read_results(source),
                        (path.stem for path in find(config.nbs)))  # fmt: skip
    folder = os.path.relpath(config.nbs, target.resolve().parent).replace(os.sep, "/")
    write_between(target, table(entries, folder), "results")
    kept = {_key(entry): entry for entry in entries}
    write_all({store: json.dumps(kept, indent=1, ensure_ascii=False) + "\n"})
    missed = sum(entry["met"] is False for entry in entries)
    print(f"{show(target)}: {len(entries)} headlines, {missed} missed their target")


if __name__ == "__main__":
    cli(write_results)
