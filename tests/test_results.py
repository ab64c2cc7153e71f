"""The table of results in the README."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_notebook

import results as tool
from files import fill
from notebooks import ToolError
from results import read_results, table, write_results

START, END = "<!-- results -->", "<!-- /results -->"
README = f"# Title\r\n\nbefore\n{START}\nold\n{END}\nafter é\n"


def entry(notebook="01_matmul", name="speed", **other):
    return {
        "notebook": notebook, "name": name, "value": 53124.7, "unit": "×", "target": ">= 50000",
        "met": True, "mode": "sample", "device": "cpu", "source": "", "headline": True, **other,
    }  # fmt: skip


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a README: its folder, and a function that records results."""
    (tmp_path / "settings.ini").write_text("[DEFAULT]\n")
    (tmp_path / "build").mkdir()
    (tmp_path / "nbs").mkdir()
    for name in ("01_matmul", "02_x"):
        nbformat.write(new_notebook(), tmp_path / "nbs" / f"{name}.ipynb")
    (tmp_path / "README.md").write_bytes(README.encode())
    monkeypatch.chdir(tmp_path)

    def record(*entries):
        content = {str(place): item for place, item in enumerate(entries)}
        (tmp_path / "build" / "results.json").write_text(json.dumps(content), "utf-8")

    return tmp_path, record


def test_table_between_the_marks(project, capsys):
    root, record = project
    loss = entry(name="loss", value=0.123456, unit="", target=None, met=None)
    full = entry(name="loss", value=0.25, unit="nats", target="< 1", mode="full", source="5 s")
    record(entry(), loss, full, entry(mode="full", device="cuda"), entry(name="x", headline=False))
    write_results()
    assert (root / "README.md").read_bytes().decode() == README.replace("old", (
        "| notebook | figure | sample data | full data | target | source |\n"
        "| --- | --- | ---: | ---: | --- | --- |\n"
        "| [01_matmul](nbs/01_matmul.ipynb) | loss | 0.1235 | 0.25 nats | full: < 1 | full: 5 s |\n"
        "|  | speed | 53,125 × |  | >= 50000 |  |\n"
        "|  | speed (cuda) |  | 53,125 × | >= 50000 |  |"
    ))  # fmt: skip
    assert capsys.readouterr().out == "README.md: 4 headlines, 0 missed their target\n"


def test_a_run_on_the_sample_keeps_the_figures_of_the_full_data(project):
    root, record = project
    stale, gone = entry(name="renamed", mode="full"), entry("03_gone", mode="full")
    record(entry(mode="full", value=1.0), stale, gone, entry("02_x", mode="full", value=3.0))
    write_results()
    record(entry(value=2.0), entry(name="other", headline=False))
    write_results()
    kept = read_results(root / "nbs" / "results.json")
    assert [(e["notebook"], e["name"], e["mode"], e["value"]) for e in kept] == [
        ("01_matmul", "speed", "full", 1.0), ("01_matmul", "speed", "sample", 2.0),
        ("02_x", "speed", "full", 3.0),
    ]  # fmt: skip
    record(entry(value=2.0, headline=False))
    write_results()
    assert [e["notebook"] for e in read_results(root / "nbs" / "results.json")] == ["02_x"]


def test_written_once(project):
    root, record = project
    record(entry())
    write_results()
    before = (root / "README.md").stat().st_mtime_ns, (root / "README.md").read_bytes()
    write_results()
    assert before == ((root / "README.md").stat().st_mtime_ns, (root / "README.md").read_bytes())


def test_reading_order(project):
    root, record = project
    record(*(entry(name) for name in ("10_makemore", "02_x", "00b_samples", "00_exports", "00a_d")))
    found = [item["notebook"] for item in read_results(root / "build" / "results.json")]
    assert found == ["00_exports", "00a_d", "00b_samples", "02_x", "10_makemore"]


def test_what_was_only_tried_out_stays_out(project):
    root, record = project
    record(entry("interactive"), entry())
    assert len(read_results(root / "build" / "results.json")) == 1


def test_missed_targets_say_so(project, capsys):
    root, record = project
    record(entry(met=False))
    write_results()
    assert "53,125 × **missed**" in (root / "README.md").read_text("utf-8")
    assert "1 headlines, 1 missed" in capsys.readouterr().out


def test_cells_stay_cells():
    row = table([entry(name="a | b\nc <d>", source="x|y")]).split("\n")[-1]
    assert r"a \| b c \<d>" in row and r"x\|y" in row


@pytest.mark.parametrize("text", [
    "", START, END, f"{END}\n{START}", f"{START}{END}{START}{END}", f"{START}\n{START}\n{END}",
    f"x {START}\n{END}\n", f"{START}\n{END} x\n",
])  # fmt: skip
def test_marks_must_be_there_once(text):
    with pytest.raises(ToolError, match="needs one line <!-- results -->"):
        fill(text, "table")


def test_a_table_may_hold_anything():
    assert fill(README, r"\1 \g<0>") == README.replace("old", r"\1 \g<0>")
    windows = README.replace("\r", "").replace("\n", "\r\n")
    assert fill(windows, "table") == windows.replace("old\r", "table")
    assert fill(f"{START}\n{END}", "table") == f"{START}\ntable\n{END}"


@pytest.mark.parametrize("content", [
    "", "{", "[]", "3", '{"a": 3}', '{"a": {}}', '{"a": {"notebook": 3}}',
    '{"a": {"notebook": "01_x"}}',
])  # fmt: skip
def test_damaged_results_are_named(project, content):
    root, _ = project
    (root / "build" / "results.json").write_text(content)
    with pytest.raises(ToolError, match="build/results.json is not what record_result writes"):
        write_results()
    assert (root / "README.md").read_bytes() == README.encode()


def test_nothing_recorded_yet(project):
    with pytest.raises(ToolError, match="run the notebooks first"):
        write_results()


def test_failed_write_leaves_the_old_readme(project, monkeypatch):
    root, record = project
    record(entry())

    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_results()
    assert (root / "README.md").read_bytes() == README.encode()


def test_as_a_command(project):
    root, record = project
    record(entry())

    def run(*words):
        command = [sys.executable, str(Path(tool.__file__)), *words]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, encoding="utf-8")
        return done.returncode, done.stdout + done.stderr

    (root / "OTHER.md").write_text(README, "utf-8")
    assert run("--readme", "OTHER.md") == (0, "OTHER.md: 1 headlines, 0 missed their target\n")
    code, text = run("--results", "nowhere.json")
    assert code == 1 and "nowhere.json is not there" in text and "Traceback" not in text
