"""The report of a run for people: a line for each notebook, the failures, the table."""

from __future__ import annotations

import collections
import contextlib
import linecache
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from notebooks import Cell, Notebook, show
from outcomes import Failure, Outcome, Task

WIDTH = 500  # characters of a line that was printed last


@dataclass
class Result:
    """A notebook and the outcomes of its cells so far; number 0 is the notebook as a whole."""

    notebook: Notebook
    task: Task
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    note: str = ""  # why none of its cells is run
    remembered: bool = False  # it passed before, and nothing changed that can affect it

    @property
    def status(self) -> str:
        """Passed only if each cell that was to run ran to its end."""
        if self.remembered:
            return "passed"
        if 0 not in self.outcomes:
            return "not run"
        if self.task.steps and all(step.skip for step in self.task.steps):
            return "skipped"
        numbers = {0, *(step.number for step in self.task.steps if not step.skip)}
        passed = {n for n, outcome in self.outcomes.items() if outcome.status == "passed"}
        return "passed" if numbers <= passed else "failed"

    @property
    def name(self) -> str:
        return show(self.notebook.path)

    @property
    def seconds(self) -> float:
        return self.outcomes[0].seconds if 0 in self.outcomes else 0.0

    def cell(self, number: int) -> Cell | None:
        cells = (cell for cell in self.notebook.cells if cell.number == number != 0)
        return next(cells, None)

    def row(self) -> tuple[str, ...]:
        """The notebook's line of the table."""
        ran = [o for o in self.outcomes.values() if o.number and o.status != "skipped"]
        skipped = sum(o.status == "skipped" for o in self.outcomes.values())
        slowest = max(ran, key=lambda o: o.seconds, default=None)
        cells = f"{len(ran)}" + f" + {skipped} skipped" * bool(skipped)
        slow = f"cell {slowest.number}: {slowest.seconds:.1f} s" if slowest else ""
        if self.remembered:
            return self.name, "", f"{self.seconds:.1f}", "unchanged", self.status
        return self.name, cells, f"{self.seconds:.1f}", slow, self.status


@dataclass
class Results:
    """What became of each notebook; prints itself, in colours on a terminal."""

    results: list[Result]
    problems: list[str] = field(default_factory=list)  # what could not be written, for example
    notes: list[str] = field(default_factory=list)  # what the reader should know besides
    colour = sys.stdout is not None and sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    @property
    def ok(self) -> bool:
        """Whether something ran, and nothing failed."""
        if self.problems or not self.ran:
            return False
        return all(result.status in ("passed", "skipped") for result in self)

    @property
    def ran(self) -> bool:
        """Whether a cell ran, or a notebook failed before one could."""
        outcomes = (outcome for result in self for outcome in result.outcomes.values())
        if any(result.remembered for result in self):
            return True
        return any(o.status == "failed" or (o.number and o.status == "passed") for o in outcomes)

    def add(self, outcome: Outcome) -> Result:
        result = next(r for r in self if r.task.path == outcome.path)
        result.outcomes[outcome.number] = outcome
        return result

    def sort(self) -> None:
        """Put the notebooks into reading order, folder by folder."""
        self.results.sort(key=lambda r: (r.notebook.path.parent.parts, r.notebook.order))

    def paint(self, text: str, status: str) -> str:
        code = {"passed": 32, "failed": 31, "skipped": 33, "not run": 33}.get(status)
        return f"\033[{code}m{text}\033[0m" if self.colour and code else text

    def progress(self, result: Result) -> str:
        path, cells, seconds, _, status = result.row()
        note = f": {result.note}" if result.note else ""
        return self.paint(f"{status:7}  {path}  {cells} cells, {seconds} s{note}", status)

    def __str__(self) -> str:
        head = ("notebook", "cells", "seconds", "slowest cell", "status")
        rows = [result.row() for result in self]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [head, *rows]]
        lines = [self.paint(line, row[-1]) for line, row in zip(lines, [head, *rows], strict=True)]
        count = collections.Counter(result.status for result in self)
        last = ", ".join(f"{count[status]} {status}" for status in ("passed", "failed", "skipped"))
        last += f", {count['not run']} not run" * bool(count["not run"])
        status = "passed" if self.ok else "failed"
        problems = list(self.problems)
        if not self.ran:
            problems.append("nothing ran: no cell was executed, so this is not a success")
        more = [*self.notes, *(self.paint(problem, "failed") for problem in problems)]
        gap = [""] * bool(more)
        return "\n".join([*failures(self), "", *lines, *gap, *more, "", self.paint(last, status)])

    __repr__ = __str__


def failures(results: Iterable[Result]) -> list[str]:
    """Every failure of some notebooks for people, the cells in order and what is of all last."""
    return [
        explain(result, outcome, failure)
        for result in results
        for outcome in sorted(result.outcomes.values(), key=lambda o: o.number or 1e9)
        for failure in outcome.failures
    ]


def explain(result: Result, outcome: Outcome, failure: Failure) -> str:
    """A failure for people: where, the lines of the cell with the failing one marked, what."""
    cell = result.cell(outcome.number)
    where = [cell.heading, f"cell {cell.number} ({cell.id})"] if cell else ["as a whole"]
    place = " · ".join(filter(None, [show(result.notebook.path), *where]))
    lines = ["", "─" * 80, place]
    if cell:
        lines += marked(source(result, cell.number), failing_line(failure, cell.number))
    if len(failure.frames) > 1 or any(file != outcome.number for file, *_ in failure.frames):
        lines += ["", *(trace(result, *frame) for frame in failure.frames)]
    printed = "".join(o["text"] for o in outcome.outputs if o["output_type"] == "stream")
    if printed.strip():
        rows = [row if len(row) <= WIDTH else f"… {row[-WIDTH:]}" for row in printed.splitlines()]
        lines += ["", "printed last:", *(f"    {row}" for row in rows[-5:])]
    return "\n".join([*lines, "", failure.what])


def failing_line(failure: Failure, number: int) -> int:
    """The line of a cell at which it failed; 0 where that is not known."""
    return next((line for file, line, _ in reversed(failure.frames) if file == number), 0)


def source(result: Result, number: int) -> list[str]:
    return next((s.source for s in result.task.steps if s.number == number), "").split("\n")


def marked(lines: list[str], at: int, around: int = 7) -> list[str]:
    """The lines of a cell, those near line `at` if it is long, with that line marked."""
    first = max(1, at - around) if len(lines) > 2 * around else 1
    chosen = list(enumerate(lines, 1))[first - 1 : first + 2 * around]
    return [f"{'-->' if number == at else '   '} {number:3}  {line}" for number, line in chosen]


def trace(result: Result, file: int | str, line: int, name: str) -> str:
    """One frame; a line of a generated module is traced to the cell that it came from."""
    if file == "…":
        return "    …"
    within = f" in {name}" if name and name != "<module>" else ""
    if isinstance(file, int):
        text = dict(enumerate(source(result, file), 1)).get(line, "")
        return f"    cell {file}, line {line}{within}: {text.strip()}"
    origin = ""
    with contextlib.suppress(Exception):  # then it is no generated module
        from modules import where

        notebook, cell, at = where(file, line, result.notebook.path.parent)
        origin = f" = {show(notebook.path)}, cell {cell.number} ({cell.id}), line {at}"
    return f"    {show(Path(file))}:{line}{origin}{within}: {linecache.getline(file, line).strip()}"
