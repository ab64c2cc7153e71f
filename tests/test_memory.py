"""What passed is remembered, and whatever can be affected by a change runs again."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_run_notebook import run, write

import memory
import run_notebook as run_notebook_module
from memory import Surroundings
from notebook2script import notebook2script
from notebooks import settings
from plan import chosen, planned
from reports import Results
from run_notebook import run_notebook
from timings import Timings

# each with its exported function, and a cell of its own that shows what it and others return
PAGES = {
    "01_one": ["#export\ndef one():\n    return 1", "print(one())"],
    "02_two": ["#export\nfrom lib.nb01 import one", "#export\ndef two():\n    return one() + 1",
               "print(two())"],
    "03_three": ["#export\nfrom lib import two\n\n\ndef three():\n    return two() + 1",
                 "print(three(), open('data.txt').read())"],
    "04_four": ["#export\ndef four():\n    from lib import (\n        one,\n"
                "        three as third,\n    )\n    return third() + one()", "print(four())"],
    "05_all": ["import lib\nimport lib.nb02 as second", "print(lib.four(), second.two())"],
    "06_late": ["import importlib\nname = 'nb' + '01'",
                "print(importlib.import_module(f'lib.{name}').one())"],
    "07_alone": ["import helper", "print(helper.value)"],
    "08_reader": ["text = open('01_one.ipynb').read()", "print(len(text))"],
    "09_string": ["import subprocess, sys",
                  "code = 'from lib.nb02 import two; print(two())'\n"
                  "done = subprocess.run([sys.executable, '-S', '-c', code], capture_output=True,"
                  " cwd='..')\nprint(done.stdout)"],
}  # fmt: skip
BRUTE = """
import contextlib, io, json, os, sys
from pathlib import Path
sys.path.insert(0, ".")
os.chdir("nbs")
sys.path.insert(0, "..")
said = {}
for path in sorted(Path().glob("*.ipynb")):
    out, space = io.StringIO(), {"__name__": "__main__"}
    try:
        with contextlib.redirect_stdout(out):
            for cell in json.loads(path.read_text())["cells"]:
                if cell["cell_type"] == "code":
                    exec("".join(cell["source"]), space)
    except Exception as error:
        print(repr(error), file=out)
    said[path.name] = out.getvalue()
print(json.dumps(said))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("settings.ini").write_text(
        "[DEFAULT]\nlib_name = lib\nhouse_rules = true\ntimeout = 100\ncell_timeout = 50\n"
    )
    for name, cells in PAGES.items():
        write(Path("nbs"), name, f"md:# {name}\n\n> The page {name}.", "md:## A part", *cells)
    Path("nbs/data.txt").write_text("data")
    Path("helper.py").write_text("value = 1\n")
    notebook2script()
    return tmp_path


def keys():
    home = settings()
    paths, _ = chosen((), home.nbs)
    results = Results([planned(path, package="lib") for path in paths])
    found = memory.Memory(home, Timings(home).file, "cpu").keys(results)
    return {Path(name).name: key for name, key in found.items()}


def changed(before, after):
    return {name for name in after if after[name] != before.get(name)}


def brute_force():
    """What every notebook says, each run from nothing."""
    command = [sys.executable, "-B", "-S", "-c", BRUTE]  # no page imports a package
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def edit(rng):
    """Change one thing of the project; returns what was done."""
    path = rng.choice(sorted(Path("nbs").glob("*.ipynb")))
    kind = rng.choice("code code code prose heading output data helper hand rename".split())
    raw = json.loads(path.read_text())
    if kind == "code":
        cell = rng.choice([cell for cell in raw["cells"] if cell["cell_type"] == "code"])
        text = "".join(cell["source"])
        numbers = list(re.finditer(r"(?<=return )\d+|(?<=\+ )\d+", text))
        if numbers and rng.random() < 0.8:
            at = rng.choice(numbers)
            text = text[: at.start()] + str(rng.randrange(100)) + text[at.end() :]
        else:
            text += f"\nextra = {rng.randrange(100)}"
        cell["source"] = text
    elif kind == "prose":
        words = {"cell_type": "markdown", "metadata": {}, "source": "Words about lib.nb01."}
        raw["cells"].insert(1, words | {"id": f"n{rng.random()}"[2:]})
    elif kind == "heading":
        raw["cells"][1]["source"] = f"## Another part {rng.randrange(100)}"
    elif kind == "output":
        raw["cells"][-1]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "seen"}]
    elif kind == "data":
        Path("nbs/data.txt").write_text(str(rng.random()))
    elif kind == "helper":
        Path("helper.py").write_text(f"value = {rng.random()}\n")
    elif kind == "hand":
        module = rng.choice(sorted(Path("lib").glob("nb*.py")))
        module.write_text(module.read_text() + f"\n\nby_hand = {rng.random()}\n")
        return kind
    elif kind == "rename":
        raw["metadata"]["title"] = "renamed"
    path.write_text(json.dumps(raw))
    if rng.random() < 0.8:
        try:
            notebook2script()
        except Exception:
            return f"{kind}, refused"
    return kind


@pytest.mark.parametrize("seed", range(8))
def test_never_less_than_what_a_change_affects(project, seed):
    """200 random edits in a row: all whose output changes were to run again."""
    rng = random.Random(seed)
    before, said = keys(), brute_force()
    spared = 0
    for _ in range(25):
        what = edit(rng)
        after, says = keys(), brute_force()
        affected = {name for name in says if says[name] != said.get(name)}
        assert affected <= changed(before, after), what
        spared += len(after) - len(changed(before, after))
        before, said = after, says
    assert spared > 60  # and many were not


def replace(path, old, new):
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new))


def test_no_more_than_what_a_change_can_affect(project):
    before = keys()
    replace("nbs/02_two.ipynb", "## A part", "## Another part")
    notebook2script()
    assert changed(before, keys()) == {"08_reader.ipynb"}  # which reads notebooks
    replace("nbs/02_two.ipynb", "print(two())", "print(two(), two())")
    assert changed(before, keys()) - {"08_reader.ipynb"} == {"02_two.ipynb"}
    before = keys()
    replace("nbs/02_two.ipynb", "one() + 1", "1 + one()")
    notebook2script()
    importers = {"02_two", "03_three", "04_four", "05_all", "06_late", "09_string"}
    assert changed(before, keys()) == {f"{name}.ipynb" for name in [*importers, "08_reader"]}


def test_a_change_of_tools_packages_or_environment_runs_everything(project, monkeypatch):
    before = keys()
    monkeypatch.setenv("EXP_CACHE", "elsewhere")
    assert changed(before, keys()) == set(before)
    monkeypatch.delenv("EXP_CACHE")
    assert keys() == before
    packages = project / "packages"
    (packages / "some-1.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(packages)
    before = keys()
    (packages / "some-1.0.dist-info").rename(packages / "some-1.1.dist-info")
    assert changed(before, keys()) == set(before)
    monkeypatch.setattr(memory, "TOOLS", project / "tools")
    (project / "tools").mkdir()
    (project / "tools/run.py").write_text("")
    assert changed(before, keys()) == set(before)


def test_unseen_ways_to_name_a_module_count_as_all(project):
    around = Surroundings(settings(), [Path("nbs/01_one.ipynb")])
    for text in ["import lib", "import os, lib", "import lib as library", "f'lib.{name}'",
                 "from lib import *", "from lib import unknown", "__import__('lib')"]:  # fmt: skip
        assert "*" in around.named(text), text
    for text, names in {
        "from lib.nb02 import two": {"nb02"}, "from lib import two, one as first": {"nb01", "nb02"},
        "from lib import nb03": {"nb03"}, "from lib.one import one": {"nb01"},
        "from .nb01 import one": {"nb01"}, "from . import nb01": {"nb01"},
        "x.lib.y": set(), "collib.nb01": set(), "import libs": set(),
    }.items():  # fmt: skip
        assert around.named(text) == names, text


# --- the command ----------------------------------------------------------------------------------


def test_what_passed_does_not_run_again(project):
    first = run(project)
    assert first.returncode == 0 and "9 passed, 0 failed, 0 skipped" in first.stdout
    second = run(project)
    assert second.returncode == 0 and "9 passed, 0 failed, 0 skipped" in second.stdout
    assert "9 unchanged since they passed; --all runs them, too" in second.stdout
    assert "unchanged" not in run(project, "--all").stdout
    assert "unchanged" not in run(project, "01_one").stdout  # named: wanted
    assert "unchanged" not in run(project, "--exported").stdout  # another way to run them
    replace("nbs/07_alone.ipynb", "helper.value", "helper.value, 1 / 0")
    for _ in range(2):  # a failure is not remembered
        third = run(project)
        assert third.returncode == 1 and "8 passed, 1 failed" in third.stdout
    replace("nbs/07_alone.ipynb", "helper.value, 1 / 0", "helper.value")
    assert "9 unchanged" not in run(project).stdout


def test_what_passed_on_one_data_says_nothing_of_another(project, monkeypatch):
    modes = []
    monkeypatch.setattr(run_notebook_module, "follow", lambda *given: modes.append(given[-1].mode))
    for data in ("sample", "full"):
        run_notebook(watch=True, data=data)
    assert modes[0] != modes[1]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"nbs/01_one.ipynb": 3}', "\0"])
def test_a_damaged_or_foreign_memory_is_ignored(project, content):
    Path("build").mkdir()
    Path("build/timings-passed.json").write_text(content)
    results = run_notebook()
    assert results.ok and not any(result.remembered for result in results)
    assert all(result.remembered for result in run_notebook())
