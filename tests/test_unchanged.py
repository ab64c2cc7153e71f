"""An export that has nothing to do says so at once, and is never misled."""

import contextlib
import io
import json
import random
import shutil
from pathlib import Path

import pytest
from made_notebooks import cell, save

import notebook2script as exporter
import unchanged
from project import ToolError


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Three notebooks, exported twice: the second time there was nothing to do."""
    monkeypatch.chdir(tmp_path)
    Path("settings.ini").write_text("[DEFAULT]\nhouse_rules = true\n")
    for number in (1, 2, 3):
        save(
            Path(f"nbs/0{number}_page_{number}.ipynb"),
            cell(f"#export\ndef f{number}():\n    return {number}"),
        )
    for _ in range(2):
        exporter.notebook2script()
    return tmp_path


def outcome(**options):
    """What an export prints, whether it fails, and the modules that it leaves."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            exporter.notebook2script(**options)
        failed = ""
    except ToolError as error:
        failed = str(error)
    modules = {path.name: path.read_text("utf-8") for path in Path("exp").glob("*.py")}
    return told.getvalue(), failed, modules


def must_not_plan(*_, **__):
    raise AssertionError("the notebooks were read again")


def test_nothing_changed_nothing_is_read(project, monkeypatch):
    monkeypatch.setattr(exporter, "plan", must_not_plan)
    assert outcome()[:2] == outcome(check=True)[:2] == outcome(prune=True)[:2] == ("", "")
    with pytest.raises(AssertionError):
        exporter.notebook2script("nbs/01_page_1.ipynb")  # named: looked at in any case


def edit(rng):
    """Change one thing, as people and their tools do; some changes change nothing."""
    notebooks, modules = sorted(Path("nbs").glob("*.ipynb")), sorted(Path("exp").glob("nb*.py"))
    notebook, module = rng.choice(notebooks), rng.choice(modules)
    kind = rng.choice("source prose rename new gone hand lost extra rules touch output".split())
    if kind in ("source", "prose", "output"):
        raw = json.loads(notebook.read_text("utf-8"))
        code = raw["cells"][-1]
        if kind == "output":
            code["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "seen"}]
        elif kind == "source":
            code["source"] += f"\n\nx = {rng.random()}"
        else:
            raw["metadata"]["title"] = str(rng.random())
        notebook.write_text(json.dumps(raw), "utf-8")
    elif kind == "rename":
        number = rng.randrange(10, 99)
        notebook.rename(notebook.with_name(f"{number}_other_{number}.ipynb"))
    elif kind == "new":
        number = rng.randrange(10, 99)
        save(Path(f"nbs/{number}_new_{number}.ipynb"), cell(f"#export\ng{number} = {number}"))
    elif kind == "gone" and len(notebooks) > 1:
        notebook.unlink()
    elif kind == "hand":
        module.write_text(module.read_text("utf-8").replace("return", "return 10 +"), "utf-8")
    elif kind == "lost":
        module.unlink()
    elif kind == "extra":
        Path("exp/helper.py").write_text("made_by_hand = True\n")
    elif kind == "rules":
        Path("settings.ini").write_text(f"[DEFAULT]\nhouse_rules = {rng.choice(['true', 'no'])}\n")
    elif kind == "touch":
        notebook.touch()


@pytest.mark.parametrize("seed", range(60))
def test_a_remembered_run_never_hides_a_change(project, tmp_path_factory, monkeypatch, seed):
    rng = random.Random(seed)
    for _ in range(rng.randrange(1, 4)):
        edit(rng)
    copy = tmp_path_factory.mktemp("copy") / "project"
    shutil.copytree(project, copy)
    told = outcome(check=bool(seed % 2))
    monkeypatch.chdir(copy)
    unchanged.memory(Path("exp")).unlink()
    assert told == outcome(check=bool(seed % 2))


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"0" * 32, None])
def test_a_damaged_memory_is_ignored(project, content):
    file = unchanged.memory(project / "exp")
    file.unlink()
    if content is None:
        file.mkdir()  # and where nothing can be kept, an export works all the same
    else:
        file.write_bytes(content)
    save(Path("nbs/02_page_2.ipynb"), cell("#export\nedited = True"))
    assert "converted nbs/02_page_2.ipynb" in outcome()[0]


def test_what_depends_on_other_libraries_is_not_remembered(project):
    Path("settings.ini").unlink()
    unchanged.memory(Path("exp")).unlink()
    save(Path("nbs/04_page.ipynb"), cell("#export\nfrom os.path import *\n\nhere = join('a', 'b')"))
    for _ in range(3):
        outcome()
    assert not unchanged.memory(Path("exp")).exists()
