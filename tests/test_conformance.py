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
        made = {"id": f"id{number}", "metadata": metadata, "source": source.removeprefix(f"{kind}:"),
                "cell_type": {"md": "markdown"}.get(kind, kind)}  # fmt: skip
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
        for slow, limit in ((False, 30), (True, 5)):  # seconds; the slow ones wait for the end of it
            names = [f"{name}.ipynb" for name, case in cases.items() if case.slow == slow]
            if names:
                command = [sys.executable, TOOL, "--engine", engine, "--jobs", "2", "--cell_timeout",
                           str(limit), "--junit", "junit.xml", *names]  # fmt: skip
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
            failed = [case.get("name") for case in self.cases[name] if case.find("failure") is not None]
            assert failed[0].startswith(f"cell {at} " if at else "as a whole"), report


def run(tmp_path_factory, engine: str, slow: bool) -> Run:
    cases = {name: case for name, case in CASES.items() if engine == "kernel" or case.slow == slow}
    return Run(tmp_path_factory.mktemp(engine), engine, cases)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return run(tmp_path_factory, "fork", slow=False)


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    return run(tmp_path_factory, "fork", slow=True)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    return run(tmp_path_factory, "kernel", slow=False)


def names(slow: bool) -> list[str]:
    return [name for name, case in CASES.items() if case.slow == slow]


@POSIX
@pytest.mark.parametrize("name", names(slow=False))
def test_fork(quick, name):
    case = CASES[name]
    quick.check(name, case.verdict, case.says, case.at)


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize("name", names(slow=True))
def test_fork_that_waits(waiting, name):
    case = CASES[name]
    waiting.check(name, case.verdict, case.says, case.at)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_kernel(kernels, name):
    case = CASES[name]
    if case.kernel:
        assert case.why, "a difference between the engines needs a reason"
        kernels.check(name, *case.kernel, None)
    else:
        kernels.check(name, case.verdict, case.says, case.at)


def left_behind(folder: Path, within: float = 3.0) -> list:
    """The processes that still work in a folder."""
    until, found = time.monotonic() + within, [None]
    while found and time.monotonic() < until:
        processes = psutil.process_iter(["cwd", "cmdline"])
        found = [p.info["cmdline"] for p in processes if (p.info["cwd"] or "").startswith(str(folder))]
        time.sleep(0.1)
    return found


@POSIX
def test_a_fork_leaves_no_process(quick):
    assert not left_behind(quick.nbs)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the report says what is not seen elsewhere")
def test_a_kernel_leaves_no_process(kernels):
    assert not left_behind(kernels.nbs)


def test_there_are_enough_situations():
    assert len(CASES) >= 150 and sum(bool(case.kernel) for case in CASES.values()) <= 5
