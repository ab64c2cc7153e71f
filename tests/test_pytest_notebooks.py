"""The plugin for pytest: notebooks among the tests, with the runner's own verdict."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from made_notebooks import cell, save

TOOLS = Path(__file__).parents[1] / "tools"
GOOD = [cell("# Good", "g0", "markdown"), "#export\ndef f():\n    return 1", "#slow\n1 / 0",
        "print('shown')\nassert f() == 1"]  # fmt: skip
BAD = [cell("# Bad\n\n## Division", "b0", "markdown"), "x = 0", "y = 1\n1 / x", "z = 2"]


@pytest.fixture
def project(tmp_path):
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_path = lib\ntimeout = 60\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    (tmp_path / "tests").mkdir()
    # a module with the name of one of the tools
    (tmp_path / "tests" / "names.py").write_text("MINE = True\n")
    test = "import names\n\n\ndef test_plain():\n    assert names.MINE\n"
    (tmp_path / "tests" / "test_plain.py").write_text(test)
    save(tmp_path / "nbs" / "01_good.ipynb", *GOOD)
    save(tmp_path / "nbs" / "02_bad.ipynb", *BAD)
    return tmp_path


def run(root, *arguments):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("EXP_", "PYTEST_"))}
    env |= {"PYTHONPATH": str(TOOLS), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:ground_up",
        "-p",
        "pytest_notebooks",
        "-rA",
    ]
    done = subprocess.run([*command, *arguments], cwd=root, env=env, capture_output=True,
                          text=True, timeout=100)  # fmt: skip
    return done.stdout + done.stderr


def test_a_notebook_is_a_test(project):
    said = run(project, "--notebooks", "nbs")
    assert "1 failed, 1 passed" in said and "PASSED nbs/01_good.ipynb::notebook" in said
    assert "nbs/02_bad.ipynb · Division · cell 2 (c2)" in said  # the runner's own words
    assert "ZeroDivisionError" in said and re.search(r"2.*1 / x", said)
    assert "1 failed" in run(project, "--notebooks", "nbs", "--lf")
    assert "1 passed, 1 deselected" in run(project, "--notebooks", "nbs", "-k", "good")


def test_with_other_tests_and_on_several_processes(project):
    said = run(project, "tests", "--notebooks", "nbs", "-n", "2")
    assert "1 failed, 2 passed" in said and "PASSED tests/test_plain.py::test_plain" in said
    assert "1 passed" in run(project)  # without the option there are no notebooks


def test_cells_are_tests(project):
    said = run(project, "--notebooks", "nbs", "--notebook-cells")
    assert "1 failed, 3 passed, 2 skipped" in said
    assert "FAILED nbs/02_bad.ipynb::cell 2 (c2) Division" in said
    assert "an earlier cell failed" in said and "slow" in said


def test_a_wrong_path_is_an_error(project):
    assert "--notebooks nowhere: there is no such file" in run(project, "--notebooks", "nowhere")
