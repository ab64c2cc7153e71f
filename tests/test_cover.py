"""Coverage by cell, and reports of shards that are put together."""

import json
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junitparser import JUnitXml
from made_notebooks import save

from cover import ranges
from notebook2script import notebook2script
from notebooks import ToolError
from run_notebook import run_notebook

SIGN = """#export
import math

def sign(x):
    if x < 0:
        return -1
    if math.isnan(x):
        raise ValueError("x is no number")

    return 1"""
WORKER = """#export
def doubled(x):
    y = 2 * x
    return y"""
USE = "from lib.nb1 import sign\nassert sign(-1.0) == -1"
POOL = """import multiprocessing
with multiprocessing.get_context("fork").Pool(1) as pool:
    assert pool.map(doubled, [3]) == [6]
    pool.close()
    pool.join()"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nnbs_path = nbs\nlib_path = lib\n")
    save(tmp_path / "nbs" / "1_sign.ipynb", SIGN, "assert sign(2.0) == 1")
    save(tmp_path / "nbs" / "2_use.ipynb", USE, WORKER, POOL)
    monkeypatch.chdir(tmp_path)
    notebook2script()
    return tmp_path


@pytest.mark.parametrize("engine", ["fork", "kernel"])
def test_lines_that_nothing_runs_are_named_by_notebook_cell_and_line(project, engine):
    results = run_notebook(coverage="build/cov", engine=engine, jobs=1)
    assert results.ok, str(results)
    cell, count = results.notes
    assert cell == "nbs/1_sign.ipynb · cell 1 (c0): nothing runs line 8"
    assert count.startswith("9 of 10 lines of exported cells ran (90.0%); see build/cov/html")
    told = json.loads((project / "build/cov/coverage.json").read_text())["files"]
    assert sum(len(what["missing_lines"]) for what in told.values()) == 1
    assert "x is no number" in next((project / "build/cov/html").glob("*nb1*.html")).read_text()
    with sqlite3.connect(project / "build/cov/data") as data:  # as `coverage report` reads it
        assert data.execute("select count(*) from file").fetchone()[0] >= 2


def test_each_run_starts_anew_and_tells_of_the_notebooks_it_ran(project):
    save(project / "nbs" / "3_plain.ipynb", "1")
    assert "nothing to cover" in run_notebook("nbs/3_plain.ipynb", coverage="cov").notes[0]
    notes = run_notebook("nbs/1_sign.ipynb", coverage="cov").notes
    assert notes[0].endswith("nothing runs line 6, 8") and notes[1].startswith("5 of 7 lines")
    save(project / "nbs" / "1_sign.ipynb", SIGN, "import os\nos._exit(1)")
    notes = run_notebook("nbs/1_sign.ipynb", coverage="cov").notes
    assert "no data: no notebook came to its end" in notes[-1]


def test_coverage_is_of_modules_and_so_of_no_run_that_is_saved_or_watched(project):
    for option in ("save", "watch"):
        with pytest.raises(ToolError, match="leave out .*--coverage"):
            run_notebook(coverage="cov", **{option: True})


@given(st.sets(st.integers(1, 30)))
def test_ranges_name_each_line_once(lines):
    told = ranges(lines)
    parts = [part.split("-") for part in told.split(", ") if part]
    spelled = [line for a, *b in parts for line in range(int(a), int((b or [a])[0]) + 1)]
    assert spelled == sorted(lines)
    assert len(parts) == sum(line - 1 not in lines for line in lines)


def test_reports_of_shards_put_together_are_the_report_of_all(tmp_path, monkeypatch):
    """With `junitparser merge`, so that a matrix of machines ends in one report."""
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        save(
            tmp_path / "nbs" / f"{name}.ipynb", "1", "assert False, 'no <&> \\x00'" * (name == "b")
        )
    run_notebook(junit="all.xml", jobs=1)
    parts = []
    for shard in ("1/2", "2/2"):
        run_notebook(junit=f"part{shard[0]}.xml", shard=shard, jobs=1)
        parts.append(JUnitXml.fromfile(f"part{shard[0]}.xml"))
    merged, whole = parts[0] + parts[1], JUnitXml.fromfile("all.xml")

    def cases(report):
        return sorted((suite.name, case.name, [type(r).__name__ for r in case.result])
                      for suite in report for case in suite)  # fmt: skip

    assert cases(merged) == cases(whole) and len(cases(whole)) == 4
    merged.update_statistics()
    assert (merged.tests, merged.failures, merged.skipped) == (4, 1, 0)
