"""What is edited in a module goes back into its cell, and no edit of either side is ever lost."""

import json
import random
import re

import pytest
from made_notebooks import cell, save

from notebook2script import notebook2script
from notebooks import NotebookError, read
from project import ToolError

FIRST = [
    cell("# Sums\n\n> Adds up.", "t0", "markdown"),
    cell("#export\nfrom __future__ import annotations\n\nimport math\nimport os", "a1"),
    cell("#export\nimport re\n\n\ndef add(a, b):\n    # together\n    return a + b", "a2"),
    cell("add(1, 2)", "a3", outputs=[{"output_type": "stream", "name": "stdout", "text": ["3\n"]}]),
    cell(
        '#export\nclass Sum:\n    """A sum."""\n\n    def __init__(self):\n        self.n = 0', "a4"
    ),
    cell("#export\nLIMIT = 3\n_HIDDEN = 4", "a5"),
]
SECOND = [
    cell("# More", "t1", "markdown"),
    cell("#| export\nfrom lib.nb01 import add\n\n\ndef more(a):\n    return add(a, a)", "b1"),
]


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "settings.ini").write_text("[DEFAULT]\nlib_path = lib\nhouse_rules = true\n")
    save(tmp_path / "nbs" / "01_sums.ipynb", *FIRST)
    save(tmp_path / "nbs" / "02_more.ipynb", *SECOND)
    notebook2script()
    return tmp_path


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def source(project, id, name="01_sums"):
    return read(project / "nbs" / f"{name}.ipynb").by_id(id).source


def everything(project):
    return {path: path.read_bytes() for path in project.rglob("*.*") if "cache" not in str(path)}


def test_an_edit_goes_back_and_nothing_else_moves(project, capsys):
    notebook = project / "nbs" / "01_sums.ipynb"
    before = json.loads(notebook.read_text())
    replace(project / "lib" / "nb01.py", "return a + b", "return b + a")
    replace(project / "lib" / "nb02.py", "def more(a):", "def more(a: int):")
    with pytest.raises(NotebookError, match="--sync"):
        notebook2script()
    notebook2script(sync=True)
    assert "brought back lib/nb01.py" in (said := capsys.readouterr().out)
    assert "nbs/01_sums.ipynb:cell 2 (a2)" in said
    after = json.loads(notebook.read_text())
    before["cells"][2]["source"] = before["cells"][2]["source"].replace("a + b", "b + a")
    assert after == before and "def more(a: int):" in source(project, "b1", "02_more")
    notebook2script(check=True)
    notebook2script(sync=True)
    assert "no module was edited" in capsys.readouterr().out


def test_the_blocks_of_a_cell_go_back_each_to_its_place(project):
    module = project / "lib" / "nb01.py"
    replace(module, "import re\n", "import re\nimport sys\n")
    replace(module, "    # together\n", "")
    notebook2script(sync=True)
    wanted = "#export\nimport re\nimport sys\n\n\ndef add(a, b):\n    return a + b"
    assert source(project, "a2") == wanted


def test_an_import_that_an_edit_adds_below_may_move_up(project):
    replace(project / "lib" / "nb01.py", "LIMIT = 3", "import json\n\nLIMIT = 3")
    notebook2script(sync=True)
    assert source(project, "a5") == "#export\nimport json\n\nLIMIT = 3\n_HIDDEN = 4"
    notebook2script(check=True)


def test_both_sides_may_change_in_different_places(project):
    replace(project / "lib" / "nb01.py", "LIMIT = 3", "LIMIT = 5")
    replace(project / "nbs" / "01_sums.ipynb", "import re", "import sys")  # another block of a2
    replace(project / "lib" / "nb01.py", "# together", "# the sum")
    notebook2script(sync=True)
    assert source(project, "a5").endswith("LIMIT = 5\n_HIDDEN = 4")
    assert "import sys" in source(project, "a2") and "# the sum" in source(project, "a2")


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([("lib", "# together", "# A"), ("nbs", "# together", "# B")], r"-    # B\n\+    # A"),
        ([("lib", "Adds up.", "Adds.")], "outside every cell"),
        ([("lib", '    "add",\n', "")], "outside every cell"),
        ([("lib", "# cell a4", "# a4")], "marker of cell a4 is gone"),
        ([("lib", "LIMIT = 3", "LIMIT = = 3")], "LIMIT = = 3|invalid syntax"),
        ([("lib", "LIMIT = 3", "LIMIT = unknown_name"),
          ("nbs", "add(1, 2)", "unknown_name = 1")], "unknown_name"),
        ([("lib", "def add", "def plus")], "does not export"),  # 02 imports add
        ([("lib", "LIMIT = 3", "LIMIT = 4"), ("nbs", "#export\\nLIMIT", "LIMIT")],
         "no longer exported"),
    ],
)  # fmt: skip
def test_what_cannot_go_back_is_refused_and_nothing_is_written(project, edits, said):
    files = {"lib": project / "lib" / "nb01.py", "nbs": project / "nbs" / "01_sums.ipynb"}
    for side, old, new in edits:
        replace(files[side], old, new)
    before = everything(project)
    with pytest.raises(ToolError) as refused:
        notebook2script(sync=True)
    assert re.search(said, str(refused.value)), refused.value
    assert everything(project) == before


def test_a_cell_removed_from_the_module_is_noticed(project):
    module = project / "lib" / "nb01.py"
    text = module.read_text()
    module.write_text(text[: text.index("# cell a5")])
    for options in ({}, {"sync": True}):
        with pytest.raises(NotebookError, match="by hand|removed"):
            notebook2script(**options)


def test_the_layout_of_the_file_stays(project):
    path = project / "nbs" / "01_sums.ipynb"
    for layout in ({"indent": 1}, {"indent": 2, "sort_keys": True}, {"ensure_ascii": False}):
        text = json.dumps(json.loads(path.read_text()), **layout) + "\n"
        path.write_text(text)
        notebook2script()
        number = random.Random(text).randrange(10**6)
        module = project / "lib" / "nb01.py"
        module.write_text(re.sub(r"LIMIT = \d+", f"LIMIT = {number}", module.read_text()))
        notebook2script(sync=True)
        assert path.read_text() == re.sub(r"LIMIT = \d+", f"LIMIT = {number}", text)


def test_random_edits_of_both_sides_are_never_lost(project):
    """Every edit leaves a mark; afterwards all marks are on both sides, or nothing changed."""
    draw = random.Random(42)
    folders = project / "nbs", project / "lib"
    start = everything(project)
    refused = 0
    for turn in range(250):
        for path, content in start.items():
            path.write_bytes(content)
        marks = []
        for kind in draw.choices(["lib", "nbs"], k=draw.randint(1, 4)):
            marks.append(f"# mark {turn} {len(marks)}")
            if kind == "lib":
                path = draw.choice(sorted(folders[1].glob("nb*.py")))
                lines = path.read_text().split("\n")
                lines.insert(draw.randrange(len(lines) + 1), marks[-1])
                path.write_text("\n".join(lines))
                continue
            path = draw.choice(sorted(folders[0].glob("*.ipynb")))
            raw = json.loads(path.read_text())
            chosen = draw.choice([c for c in raw["cells"] if "export" in c["source"]])
            lines = chosen["source"].split("\n")
            lines.insert(draw.randrange(1, len(lines) + 1), marks[-1])
            chosen["source"] = "\n".join(lines)
            if draw.random() < 0.3:
                draw.shuffle(raw["cells"])
            path.write_text(json.dumps(raw))
        before = everything(project)
        try:
            notebook2script(sync=True)
            notebook2script()
        except ToolError:
            refused += 1
            assert everything(project) == before
            continue
        for folder in folders:
            text = "".join(path.read_text() for path in folder.iterdir() if path.is_file())
            assert all(text.count(mark) == 1 for mark in marks), (turn, marks)
        notebook2script(check=True)
    assert 25 < refused < 225
