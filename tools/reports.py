"""What people and other tools read of a run: the terminal's text, JUnit, the book, the notebook."""

from __future__ import annotations

import collections
import contextlib
import copy
import linecache
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from engines import Failure, Outcome, Step, Task
from notebooks import Cell, Notebook, ToolError, read, show


@dataclass
class Result:
    """A notebook and the outcomes of its cells so far; number 0 is the notebook as a whole."""

    notebook: Notebook
    task: Task
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """Passed only if each cell that was to run ran to its end."""
        if 0 not in self.outcomes:
            return "not run"
        if self.task.steps and all(step.skip for step in self.task.steps):
            return "skipped"
        numbers = {0, *(step.number for step in self.task.steps if not step.skip)}
        passed = {n for n, outcome in self.outcomes.items() if outcome.status == "passed"}
        return "passed" if numbers <= passed else "failed"

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
        return show(self.notebook.path), cells, f"{self.seconds:.1f}", slow, self.status


@dataclass
class Results:
    """What became of each notebook; prints itself, in colours on a terminal."""

    results: list[Result]
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    @property
    def ok(self) -> bool:
        return all(result.status in ("passed", "skipped") for result in self)

    def add(self, outcome: Outcome) -> Result:
        result = next(r for r in self if r.task.path == outcome.path)
        result.outcomes[outcome.number] = outcome
        return result

    def sort(self) -> None:
        """Put the notebooks into reading order."""
        self.results.sort(key=lambda result: result.notebook.order)

    def paint(self, text: str, status: str) -> str:
        code = {"passed": 32, "failed": 31, "skipped": 33, "not run": 33}.get(status)
        return f"\033[{code}m{text}\033[0m" if self.colour and code else text

    def progress(self, result: Result) -> str:
        path, cells, seconds, _, status = result.row()
        return self.paint(f"{status:7}  {path}  {cells} cells, {seconds} s", status)

    def __str__(self) -> str:
        failures = [
            explain(result, outcome, failure)
            for result in self
            for outcome in sorted(result.outcomes.values(), key=lambda o: o.number or 1e9)
            for failure in outcome.failures
        ]
        head = ("notebook", "cells", "seconds", "slowest cell", "status")
        rows = [result.row() for result in self]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [head, *rows]]
        lines = [self.paint(line, row[-1]) for line, row in zip(lines, [head, *rows], strict=True)]
        count = collections.Counter(result.status for result in self)
        last = ", ".join(f"{count[status]} {status}" for status in ("passed", "failed", "skipped"))
        last += f", {count['not run']} not run" * bool(count["not run"])
        status = "passed" if self.ok else "failed"
        return "\n".join([*failures, "", *lines, "", self.paint(last, status)])

    __repr__ = __str__


def explain(result: Result, outcome: Outcome, failure: Failure) -> str:
    """A failure for people: where, the lines of the cell with the failing one marked, what."""
    cell = result.cell(outcome.number)
    where = [cell.heading, f"cell {cell.number} ({cell.id})"] if cell else ["as a whole"]
    place = " · ".join(filter(None, [show(result.notebook.path), *where]))
    lines = ["", "─" * 80, place]
    if cell:
        at = [line for file, line, _ in failure.frames if file == cell.number][-1:]
        lines += marked(source(result, cell.number), at[0] if at else 0)
    if len(failure.frames) > 1 or any(file != outcome.number for file, *_ in failure.frames):
        lines += ["", *(trace(result, *frame) for frame in failure.frames)]
    printed = "".join(o["text"] for o in outcome.outputs if o["output_type"] == "stream")
    if printed.strip():
        lines += ["", "printed last:", *(f"    {line}" for line in printed.splitlines()[-5:])]
    return "\n".join([*lines, "", failure.what])


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
        from notebook2script import where

        notebook, cell, at = where(file, line, result.notebook.path.parent)
        origin = f" = {show(notebook.path)}, cell {cell.number} ({cell.id}), line {at}"
    return f"    {show(Path(file))}:{line}{origin}{within}: {linecache.getline(file, line).strip()}"


def write_junit(results: Results, file: str | Path) -> None:
    """Write JUnit XML: a suite for each notebook, a case for each cell."""

    def clean(text: str) -> str:
        return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)

    root = ElementTree.Element("testsuites")
    for result in results:
        path = show(result.notebook.path)
        suite = ElementTree.SubElement(root, "testsuite", name=path, time=f"{result.seconds:.3f}")
        for step in [*result.task.steps, Step(0, "")]:
            cell, outcome = result.cell(step.number), result.outcomes.get(step.number)
            if step.number == 0 and (outcome is None or outcome.status != "failed"):
                continue
            name = f"cell {cell.number} ({cell.id}) {cell.heading}" if cell else "as a whole"
            seconds = f"{outcome.seconds if outcome else 0:.3f}"
            case = ElementTree.SubElement(suite, "testcase", classname=path, name=clean(name),
                                          time=seconds)  # fmt: skip
            if outcome is None or outcome.status == "skipped":
                ElementTree.SubElement(case, "skipped", message=clean(step.skip or "not run"))
            for failure in outcome.failures if outcome else ():
                text = explain(result, outcome, failure) + "\n" + failure.details
                what = failure.what.split("\n")[0]
                ElementTree.SubElement(case, "failure", message=clean(what)).text = clean(text)
        for count, tag in (("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped")):
            suite.set(count, str(sum(1 for _ in suite.iter(tag))))
    write(file, ElementTree.tostring(root, encoding="unicode"))


def executed(result: Result, counts: bool = False):
    """The notebook with the outputs of this run; cells that were skipped keep what they had."""
    import nbformat

    node = nbformat.from_dict(copy.deepcopy(result.notebook.raw))
    node = nbformat.v4.rwbase.rejoin_lines(node)
    for cell, made in zip(result.notebook.cells, node.cells, strict=True):
        if cell.kind != "code":
            continue
        outcome = result.outcomes.get(cell.number)
        made.execution_count = cell.number if counts else None
        if outcome is None or outcome.status != "skipped":
            made.outputs = [nbformat.from_dict(o) for o in (outcome.outputs if outcome else ())]
        for output in made.outputs:
            if output.output_type == "execute_result":
                output.execution_count = made.execution_count
        for volatile in ("execution", "ExecuteTime", "collapsed", "scrolled"):
            made.metadata.pop(volatile, None)
    for volatile in ("widgets", "vscode"):
        node.metadata.pop(volatile, None)
    node.metadata.get("language_info", {}).pop("version", None)
    return node


def save_outputs(results: Results) -> None:
    """Write the notebooks that passed back with their outputs; others stay as they were."""
    import nbformat

    for result in results:
        if result.status == "passed":
            if read(result.notebook.path).raw != result.notebook.raw:
                raise ToolError(f"{show(result.notebook.path)} changed while it ran: not saved")
            text = nbformat.v4.writes(executed(result)) + "\n"
            if text != result.notebook.path.read_text("utf-8"):
                write(result.notebook.path, text)


def write_html(results: Results, folder: str | Path) -> None:
    """Write the book of these notebooks."""
    from book import write_book

    pages = [
        (result.notebook.path, executed(result, counts=True),
         {"status": result.status, "seconds": result.seconds})
        for result in results if result.notebook.raw
    ]  # fmt: skip
    for problem in write_book(pages, folder):
        print(problem, file=sys.stderr)


def write(file: str | Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    file = Path(file).resolve()
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_text(text, "utf-8", newline="\n")
        if file.exists():
            shutil.copymode(file, temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
