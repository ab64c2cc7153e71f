"""`run_notebook --watch`: after each save, what it affects and nothing else, at once."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_memory import project, replace  # noqa: F401 - a fixture
from test_run_notebook import POSIX, TOOL

pytestmark = POSIX


class Watching:
    """The command at work, and what it says."""

    def __init__(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("EXP_")}
        self.process = subprocess.Popen(
            [sys.executable, TOOL, "--watch", "--jobs", "1"], text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env | {"NO_COLOR": "1"},
        )  # fmt: skip
        self.lines = []
        threading.Thread(target=self.read, daemon=True).start()
        self.seen = 0

    def read(self):
        for line in self.process.stdout:
            self.lines.append(line.rstrip())

    def told(self, what, within=60.0):
        """What is said until a line that contains `what`."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            lines = self.lines[self.seen :]
            at = next((i for i, line in enumerate(lines) if what in line), None)
            if at is not None:
                self.seen += at + 1
                return lines[: at + 1]
            time.sleep(0.02)
        raise AssertionError(f"{what!r} was not said: {self.lines[self.seen :]}")

    def quiet(self, seconds=1.0):
        time.sleep(seconds)
        return self.lines[self.seen :] == []


@pytest.fixture
def watching(project):  # noqa: F811
    follower = Watching()
    follower.told("ran in")
    yield follower
    follower.process.kill()
    follower.process.wait()


def passed(lines):
    return {line.split()[1] for line in lines if line.startswith("passed")}


def test_a_save_runs_what_it_affects_through_errors_renames_and_temporary_files(watching):
    replace("nbs/07_alone.ipynb", "helper.value", "helper.value + 1")
    lines = [line for line in watching.told("2 ran in") if line.startswith("passed")]
    assert [line.split()[1] for line in lines] == ["nbs/07_alone.ipynb", "nbs/08_reader.ipynb"]

    replace("nbs/02_two.ipynb", "one() + 1", "1 + one()")
    lines = watching.told("7 ran in")
    assert "converted nbs/02_two.ipynb -> lib/nb02.py" in lines
    assert "nbs/04_four.ipynb" in passed(lines) and "nbs/01_one.ipynb" not in passed(lines)

    replace("nbs/02_two.ipynb", "1 + one()", "1 + (")
    lines = watching.told("2 ran in")
    complaint = "not exported: nbs/02_two.ipynb:cell 2"  # said later if the save fell into a run
    assert any(complaint in line for line in lines) or watching.told(complaint)
    assert any("SyntaxError" in line for line in lines)
    replace("nbs/02_two.ipynb", "1 + (", "1 + one()")
    watching.told(" 0 failed")
    while not watching.quiet():  # the module that the run exported is a save, too
        watching.seen = len(watching.lines)

    Path("nbs/.~02_two.ipynb").write_text("{")
    Path("nbs/02_two.ipynb.new").write_text("{")
    Path("nbs/.ipynb_checkpoints").mkdir()
    Path("nbs/.ipynb_checkpoints/02_two-checkpoint.ipynb").write_text("{")
    assert watching.quiet()

    Path("nbs/07_alone.ipynb").rename("nbs/10_alone.ipynb")
    assert "nbs/10_alone.ipynb" in passed(watching.told("2 ran in"))
    Path("nbs/10_alone.ipynb").unlink()
    watching.told("1 ran in")

    watching.process.send_signal(signal.SIGINT)
    assert watching.process.wait(30) == 0
    assert "8 passed, 0 failed, 0 skipped" in watching.told("8 passed")[-1]


def test_a_notebook_half_written_is_said_and_survived(watching):
    whole = Path("nbs/09_string.ipynb").read_text()
    Path("nbs/09_string.ipynb").write_text(whole[:40])
    watching.told("is not JSON")  # it may be whole again before it runs, and then need not run
    Path("nbs/09_string.ipynb").write_text(whole)
    while " 0 failed" not in watching.told(" failed")[-1]:
        pass
