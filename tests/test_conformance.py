"""Both engines over all of situations.py: the same verdict, or the difference that is written down.

The quick half, on the engine "fork", always runs; `pytest -m slow` adds the kernels and what waits.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
from situations import CASES, HELPERS, Case

import run_notebook as runner

TOOL = Path(runner.__file__)
POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def write(folder: Path, name: str, case: Case) -> None:
    cells = []
    for number, cell in enumerate(case.cells):
        source, metadata = (cell, {}) if isinstance(cell, str) else cell
        kind = next((k for k in ("md", "raw") if source.startswith(f"{k}:")), "code")
        source = source.removeprefix(f"{kind}:")
        made = {"id": f"id{number}", "metadata": metadata, "source": source}
        made["cell_type"] = "markdown" if kind == "md" else kind
        cells.append(made | ({"outputs": [], "execution_count": None} if kind == "code" else {}))
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python", "language": "python"}}
    metadata = case.metadata or (kernel if name != "marks_no_metadata" else {})
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    (folder / f"{name}.ipynb").write_text(json.dumps(notebook), "utf-8")


class Run:
    """All of these cases in one call of the runner, in a project of their own."""

    def __init__(self, root: Path, engine: str, cases: dict[str, Case]):
        (root / "nbs").mkdir()
        (root / "settings.ini").write_text("[DEFAULT]\nnbs_path = nbs\nlib_path = lib\n")
        for name, text in HELPERS.items():
            (root / "nbs" / name).write_text(text)
        for name, case in cases.items():
            write(root / "nbs", name, case)
        env = {k: v for k, v in os.environ.items() if not k.startswith("EXP_")}
        env |= {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        self.text, self.cases = "", {}
        for waits, limit in ((False, 60), (True, 5)):  # seconds
            names = [f"{name}.ipynb" for name, case in cases.items() if case.waits == waits]
            if names:
                command = [sys.executable, TOOL, "--engine", engine, "--jobs", "2", *names]
                command += ["--cell_timeout", str(limit), "--junit", "junit.xml"]
                done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True)
                assert "Traceback (most recent call last)" not in done.stderr, done.stderr
                self.text += done.stdout
                for suite in ElementTree.parse(root / "junit.xml").iter("testsuite"):
                    self.cases[Path(suite.get("name")).stem] = list(suite.iter("testcase"))
        self.rows = dict(re.findall(r"^nbs/(\w+)\.ipynb  .*?(\w+)$", self.text, re.M))
        self.notes = dict(re.findall(r"^skipped  nbs/(\w+)\.ipynb .*? s: (.*)$", self.text, re.M))
        self.nbs = root / "nbs"

    def section(self, name: str) -> str:
        """What the report says of one notebook."""
        parts = self.text.split("─" * 80)
        found = (part for part in parts[1:] if part.startswith(f"\nnbs/{name}.ipynb"))
        return "".join(found).split("\nnotebook  ")[0]

    def check(self, name: str, verdict: str, says: str, at: int | None) -> None:
        report = self.section(name)
        assert self.rows[name] == verdict, report or self.text[-300:]
        assert re.search(says, report + self.notes.get(name, ""), re.S), report
        if at is not None:
            failed = [c.get("name") for c in self.cases[name] if c.find("failure") is not None]
            assert failed[0].startswith(f"cell {at} " if at else "as a whole"), report


def run(request, tmp_path_factory) -> Run:
    """Run the cases of those tests that were selected, and of this one's kind."""
    kind = request.node.originalname
    chosen = [item for item in request.session.items if getattr(item, "originalname", "") == kind]
    names = [item.callspec.params["name"] for item in chosen]
    engine = "kernel" if "kernel" in kind else "fork"
    return Run(tmp_path_factory.mktemp(engine), engine, {name: CASES[name] for name in names})


@pytest.fixture(scope="module")
def runs():
    """The runs so far, by the name of their test."""
    return {}


@pytest.fixture
def check(runs, request, tmp_path_factory):
    """Check a case in the run of its kind, which the first test of a kind starts."""

    def check(name, *expected):
        kind = request.node.originalname
        if kind not in runs:
            runs[kind] = run(request, tmp_path_factory)
        runs[kind].check(name, *expected)

    return check


def names(slow: bool) -> list[str]:
    return [name for name, case in CASES.items() if case.slow == slow]


@POSIX
@pytest.mark.parametrize("name", names(slow=False))
def test_fork(check, name):
    case = CASES[name]
    check(name, case.verdict, case.says, case.at)


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("name", names(slow=True))
def test_fork_that_waits(check, name):
    case = CASES[name]
    check(name, case.verdict, case.says, case.at)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_kernel(check, name):
    case = CASES[name]
    if case.kernel:
        assert case.why, "a difference between the engines needs a reason"
        check(name, *case.kernel, None)
    else:
        check(name, case.verdict, case.says, case.at)


def left_behind(folder: Path, within: float = 3.0) -> list:
    """The processes that still work in a folder."""
    until, found = time.monotonic() + within, [None]
    while found and time.monotonic() < until:
        processes = [p.info for p in psutil.process_iter(["cwd", "cmdline"])]
        found = [p["cmdline"] for p in processes if (p["cwd"] or "").startswith(str(folder))]
        time.sleep(0.1)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the report says what is not seen elsewhere")
def test_no_process_is_left(runs):
    for finished in runs.values():
        assert not left_behind(finished.nbs)


def test_there_are_enough_situations():
    assert len(CASES) >= 150 and sum(bool(case.kernel) for case in CASES.values()) <= 5
