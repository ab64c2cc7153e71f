"""Failures as annotations: on GitHub they show beside the line of the notebook's file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

from outcomes import Failure, Outcome
from project import show
from reports import Result, Results, failing_line


def annotations(results: Results) -> Iterator[str]:
    """A workflow command for each failure, where a workflow of GitHub's reads what is printed."""
    if os.environ.get("GITHUB_ACTIONS") != "true":
        return
    for result in results:
        for outcome in result.outcomes.values():
            for failure in outcome.failures:
                yield annotation(result, outcome, failure)
    for problem in results.problems:
        yield f"::error title=notebooks::{escaped(problem)}"


def annotation(result: Result, outcome: Outcome, failure: Failure) -> str:
    cell = result.cell(outcome.number)
    line = line_in_file(result, outcome.number, failing_line(failure, outcome.number) or 1)
    place = f"cell {cell.number} ({cell.id}) {cell.heading}".strip() if cell else "as a whole"
    file = escaped(show(result.notebook.path), ":,")
    return f"::error file={file},line={line},title={escaped(place, ':,')}::{escaped(failure.what)}"


def line_in_file(result: Result, number: int, line: int) -> int:
    """The line of the notebook's file that holds this line of a cell; 1 where it cannot be told."""
    cell = result.cell(number)
    if cell is None:
        return 1
    try:
        rows = result.notebook.path.read_text("utf-8").split("\n")
    except (OSError, UnicodeError):
        return 1
    wanted = [json.dumps(text, ensure_ascii=False)[1:-1] for text in cell.source.split("\n")]
    tidy = [row.strip().removesuffix(",").removesuffix('"').removesuffix("\\n") for row in rows]
    tidy = [row.removeprefix('"source": [').strip().removeprefix('"') for row in tidy]
    for start in range(len(rows) - len(wanted) + 1):
        if tidy[start : start + len(wanted)] == wanted:
            return start + line
    return 1


def escaped(text: str, more: str = "") -> str:
    """A text as a workflow command takes it: on one line, with its own marks encoded."""
    for mark in "%\r\n" + more:
        text = text.replace(mark, f"%{ord(mark):02X}")
    return text
