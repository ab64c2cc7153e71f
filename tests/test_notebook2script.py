"""The exporter: what it writes, what it refuses, and what a crash leaves behind."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_notebooks import cell, save

import files
import modules
import notebook2script as exporter
from modules import place, where
from notebook2script import notebook2script, plan
from notebooks import Cell, NotebookError, ToolError, header_hash, read, short_hash
from order import arranged
from render import gather, render

TOOL = Path(exporter.__file__)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project, as the working directory."""
    (tmp_path / "settings.ini").write_text(
        "[DEFAULT]\nnbs_path = nbs\nlib_path = lib\nhouse_rules = true\n"
    )
    (tmp_path / "nbs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(project, *cells, name="01_topic.ipynb"):
    """Export one notebook and return its module's text."""
    save(project / "nbs" / name, *cells)
    notebook2script()
    number = re.match(r"\d+[a-z]?", name)[0]
    return (project / "lib" / f"nb{number}.py").read_text(encoding="utf-8")


def refused(project, *cells, name="01_topic.ipynb"):
    """The problems of one notebook; nothing may have been written."""
    save(project / "nbs" / name, *cells)
    before = sorted(project.rglob("*"))
    with pytest.raises(NotebookError) as error:
        notebook2script()
    assert sorted(project.rglob("*")) == before
    return str(error.value)


# --- what is written -----------------------------------------------------------------------------


def test_a_module_reads_like_a_hand_written_one(project, capsys):
    module = export(
        project,
        cell("# The title\n\n> What you have at the end.\n\nMore.", "a", "markdown"),
        cell("#export\nimport math\nfrom os import path", "b"),
        cell("# Areas\n", "c", "markdown"),
        cell("#export\ndef area(r: float) -> float:\n    return math.pi * r**2", "d"),
        cell("area(1)", "e"),
    )
    assert capsys.readouterr().out == "converted nbs/01_topic.ipynb -> lib/nb01.py\n"
    first = short_hash("import math\nfrom os import path")
    second = short_hash("def area(r: float) -> float:\n    return math.pi * r**2")
    title = '"""The title\n\nWhat you have at the end.\n"""'
    names = '__all__ = [\n    "area",\n]\n__dir__ = __all__.copy  # what completion offers'
    header = header_hash(f"{title}\n{names}", ["b", "d"])
    assert module == (
        '"""The title\n\nWhat you have at the end.\n"""\n\n'
        f"# generated from nbs/01_topic.ipynb: do not edit · {header}\n"
        f"{names}\n\n"
        f"# cell b {first} · The title\nimport math\nfrom os import path\n\n\n"
        f"# cell d {second} · Areas\n"
        "def area(r: float) -> float:\n    return math.pi * r**2\n"
    )


def test_completion_offers_what_a_module_exports(project):
    export(project, cell("#export\nimport math\nfrom os import path\n_own, area = 1, math.pi", "b"))
    code = "import lib.nb01 as m; print(dir(m), m.math.pi == m.area, m._own)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "['area'] True 1\n"


@pytest.mark.parametrize(
    "line", ["#export", "# export", "#|export", "#| export", "#\xa0export", "  # export  "]
)
def test_spellings_of_the_directive(project, line):
    assert "x = 1" in export(project, f"{line}\nx = 1")


@pytest.mark.parametrize(
    "source",
    [
        "\n\n#export\nx = 1",  # after blank lines
        "#hide\n#export\nx = 1",  # two directives
        "#export\n#slow\n\nx = 1",
        "#| echo: false\n#| export\nx = 1",  # options of Quarto
        "#exports\nx = 1",  # nbdev: exported and shown
        "#| eval: false\n#| export\nx = 1",
        ["#export\n", "x = 1"],  # source as a list of lines
        "\ufeff#export\r\nx = 1\r\n",  # byte-order mark, CRLF
    ],
)
def test_cells_that_are_exported(project, source):
    module = export(project, cell(source))
    assert "x = 1" in module and '"x"' in module


def test_nbdev_notebook_exports_as_it_stands(project):
    save(
        project / "nbs" / "core.ipynb",
        "#| default_exp core.basics",
        "#| hide\nfrom nbdev.showdoc import *",
        "#| export\nfrom fastcore.all import *",
        "#| export\n@patch\ndef shout(self: str): return store_attr\n\n"
        "@patch\ndef shout(self: int): return 1",
        "#| exporti\nhidden = 1",
        "#| exports\nshown = 2",
        "#| eval: false\nimport nbdev; nbdev.nbdev_export()",
    )
    notebook2script()
    module = (project / "lib/core/basics.py").read_text()
    assert '__all__ = [\n    "shown",\n]' in module and "hidden = 1" in module


def test_a_directive_is_not_a_comment_about_it(project):
    module = export(project, "#export\nx = 1", "# skip the header line\ny = 2", "# hide\nz = 3")
    assert "y = 2" not in module and "z = 3" not in module


def test_all_knows_every_way_to_bind_a_name(project):
    module = export(
        project,
        "#export\nfrom contextlib import suppress\nimport os as _os, sys\n"
        "a, (b, *c) = 1, (2, 3)\nd = e = 0\nf: int = 1\ng: int\nlater = [h := 1]\n"
        "if d:\n    i = 1\nelse:\n    i = 2\n"
        "try:\n    import json as j\nexcept ImportError:\n    j = None\nelse:\n    k = 1\n"
        "with suppress(ValueError):\n    l = 1\n"
        "for m in range(3):\n    n = m\n"
        "match d:\n    case [o, *p]: pass\n    case {'q': q, **r}: pass\n"
        "class S:\n    inside = 1\ndef T(argument):\n    local = 2\nasync def U(): pass\n"
        "_private = [v for v in range(3)]\nd += 1\nw = lambda x: (y := x)",
    )
    names = ast.literal_eval(re.search(r"__all__ = (\[.*?\])", module, re.S)[1])
    assert names == [*"abcdef", "h", "later", *"ijklnopqrSTUw"] or sorted(names) == sorted(
        [*"abcdef", "h", "later", *"ijklnopqrSTUw"]
    )


def test_imports_and_future_imports_come_out_on_top(project):
    module = export(
        project,
        "#export\nx = 1",
        "#export\nfrom __future__ import annotations\nimport os  # why\n\ny = os.sep",
        "#export\nz = 3\nimport sys  # stays behind z, which it may depend on",
        "#export\nimport math; w = math.pi",
    )
    lines = [line for line in module.split("\n") if line and not line.startswith(("#", '"', " "))]
    assert lines == [
        "from __future__ import annotations",
        "__all__ = [",
        "]",
        "__dir__ = __all__.copy  # what completion offers",
        "import os  # why",
        "x = 1",
        "y = os.sep",
        "z = 3",
        "import sys  # stays behind z, which it may depend on",
        "import math; w = math.pi",
    ]


def test_strings_survive_to_the_byte(project):
    text = "a  \n\tb\x0c\n   \n#export\n\\ é 😀 \u2028 end  "
    module = export(project, f'#export\ntext = """{text}"""')
    scope = {}
    exec(compile(module.encode(), "m", "exec"), scope)
    assert scope["text"] == text.replace("\\\\", "\\")
    assert f'"""{text}"""' in module


def test_title_may_hold_quotes_and_backslashes(project):
    for title in ['"quoted"', 'a """b""" c"', "back\\slash\\", "\ud83d lone", '\'\'\'""""']:
        module = export(project, cell(f"# {title}", "t", "markdown"), "#export\nx = 1")
        assert ast.get_docstring(ast.parse(module)).replace("?", "") == title.replace("\ud83d ", "")
        importlib.util.decode_source((project / "lib/__init__.py").read_bytes())


def test_same_notebook_same_bytes_and_untouched_mtime(project):
    sources = ["#export\nx = 1", "#export\ny = 2", "#export\nx_again = 1"]
    first = export(project, *(cell(source) for source in sources))  # no ids
    path = project / "lib/nb01.py"
    stamp = path.stat().st_mtime_ns
    notebook2script()
    assert path.stat().st_mtime_ns == stamp
    path.unlink()
    assert export(project, *(cell(source) for source in sources)) == first


def test_inserting_a_cell_changes_no_other_line(project):
    old = export(project, "#export\na = 1", cell("#export\nz = 26", "last")).split("\n")
    new = export(
        project, "#export\na = 1", cell("#export\nm = 13", "mid"), cell("#export\nz = 26", "last")
    )
    rest = new.split("\n")
    moved = [line for line in old if line not in rest]  # in order, with something between
    assert [line.split(" · ")[0] for line in moved] == [
        "# generated from nbs/01_topic.ipynb: do not edit"  # the hash of the header
    ]


def test_empty_notebook_and_names_with_spaces(project):
    save(project / "nbs/01_nothing.ipynb")
    module = export(project, "#export\nx = 1", name="02_two words.ipynb")
    assert not (project / "lib/nb01.py").exists()
    assert "nbs/02_two words.ipynb" in module
    assert '"two_words": "nb02"' in (project / "lib/__init__.py").read_text()


def test_only_the_named_notebook_is_written(project):
    save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    save(project / "nbs/02_b.ipynb", "#export\ny = (")
    notebook2script("nbs/01_a.ipynb")
    assert (project / "lib/nb01.py").exists() and not (project / "lib/nb02.py").exists()
    with pytest.raises(NotebookError, match="02_b"):
        notebook2script("nbs/02_b.ipynb")


def test_prune_with_a_name_keeps_modules_of_unread_notebooks(project):
    save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    save(project / "nbs/02_b.ipynb", "#export\ny = 2")
    notebook2script()
    (project / "nbs/02_b.ipynb").write_text("{")
    notebook2script("nbs/01_a.ipynb", prune=True)
    assert (project / "lib/nb02.py").exists()


def test_prune_knows_what_it_wrote_and_refuses_before_it_writes(project):
    title = "# As in # generated from nbs/01_a.ipynb: do not edit"
    gone, other = project / "nbs/02_b.ipynb", project / "lib/nb03.py"
    for edit in ("", "z = 3\n"):
        save(gone, cell(title, "t", "markdown"), "#export\ny = 2")
        notebook2script()
        gone.unlink()
        module = project / "lib/nb02.py"
        module.write_text(module.read_text() + edit)
        save(project / "nbs/03_c.ipynb", "#export\nx = 1")
        if edit:
            with pytest.raises(ToolError, match="edited by hand"):
                notebook2script(prune=True)
        else:
            notebook2script(prune=True)
        assert module.exists() == bool(edit) == (not other.exists())
        other.unlink(missing_ok=True)
        (project / "nbs/03_c.ipynb").unlink()


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "line", "what"),
    [
        ("%%time\n#export\nx = 1", 2, "no effect there"),
        ("#export\n%%time\nx = 1", 2, "magic `%%time`"),
        ("#export\nx = 1\n%matplotlib inline", 3, "magic"),
        ("#export\nx = %pwd", 2, "magic"),
        ("#export\nx = !ls", 2, "shell command"),
        ("#export\n!ls", 2, "shell command"),
        ("#export\nlen?", 2, "help request"),
        ("#export\n?len", 2, "help request"),
        ("#export\n\nx\xa0= 1", 3, "U+00A0"),
        ("# why\n#export\nx = 1", 2, "no effect there"),
        ("x = 1\n#export", 2, "no effect there"),
        ("#export foo\nx = 1", 1, "takes nothing"),
        ("#export the table\nx = 1", 1, "takes nothing"),
        ("##export\nx = 1", 1, "no effect there"),
        ("#exprot\nx = 1", 1, "near miss"),
        ("#| exprot\nx = 1", 1, "near miss"),
        ("#Export\nx = 1", 1, "near miss"),
        ("#export\n\nawait x()", 3, "await"),
        ("#export\nx = [i async for i in y()]", 2, "async"),
        ("#export\nreturn 1", 2, "'return' outside function"),
        ("#export\nx = 1\nfrom __future__ import annotations", 3, "__future__"),
        ("#export\nfrom __future__ import braces", 2, "not a chance"),
        ("#export\ndef f(:", 2, "syntax error"),
        ("#export\n<<<<<<< local\nx = 1", 2, "merge conflict"),
        ("#export\nx = '\ud800'", None, "surrogate"),
        ("#export\nx = '\x00'", None, "null"),
        ("#export\nx = " + "(" * 500 + ")" * 500, 2, "nested"),
        ("#export\n# cell c0 123456 · x\nx = 1", 2, "one that the exporter writes"),
        ("#export\ndef f():\n    return missing", 3, "nothing in the notebook defines"),
        ("#export\ndisplay(1)", 2, "uses `display`"),
        ("#export\nx = 1\nx = 2", 3, "binds `x` again"),
    ],
)
def test_refused_cells_name_cell_line_and_remedy(project, source, line, what):
    report = refused(project, "y = 0", cell(source, "bad"))
    place = (
        f"nbs/01_topic.ipynb:cell 2 (bad):{line}: " if line else "nbs/01_topic.ipynb:cell 2 (bad): "
    )
    assert report.startswith(place), report
    assert what in report
    assert "; " in report  # what to do


def test_accepted_look_alikes(project):
    export(
        project,
        '#export\nx = 5;\ntext = """\n#export\n%time\n"""',
        'text_of_a_cell = """\n#export\nx = 1\n"""',
        "print(1)  # export follows",
        "x = 1\n# export the table",
        "# export the table as CSV\nx = 1",
        "#export\ny = 7 \\\n  % 3",
        "#export\nimport os\nimport os.path\nfrom json import dumps",
        "#export\nfrom json import dumps, loads\nz = os.sep",
        "#export\nclass A:\n    n = 1\n    def f(self): return __class__, self.n, __name__",
        "#export\ndef g():\n    global h\n    h = 1\ndef k(): return h",
        "#export\nfrom functools import singledispatch\n\n@singledispatch\ndef s(x): pass\n\n"
        "@s.register\ndef _(x: int): pass\n\n@s.register\ndef _(x: str): pass",
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "empty file"),
        ("  \n", "empty file"),
        ('{"cells": [', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{\n<<<<<<< HEAD\n "cells": []\n=======\n}', "merge conflict"),
        ('{"worksheets": [], "nbformat": 3, "metadata": {}}', "nbformat 3"),
        ('{"nbformat": 4}', "no list of cells"),
        ("[]", "not a notebook"),
        ('{"nbformat": 4, "cells": [{"cell_type": "code"}]}', "no source"),
        ('{"nbformat": 4, "cells": [{"cell_type": "code", "source": [1]}]}', "no source"),
        ('{"nbformat": 4, "cells": [{"cell_type": "odd", "source": ""}]}', "no known type"),
    ],
)
def test_files_that_are_no_notebooks(project, text, what):
    (project / "nbs/01_bad.ipynb").write_text(text)
    save(project / "nbs/02_good.ipynb", "#export\nx = 1")
    with pytest.raises(NotebookError, match=what) as error:
        notebook2script()
    assert str(error.value).startswith("nbs/01_bad.ipynb")
    assert not (project / "lib").exists()


def test_not_utf8_and_missing_and_two_equal_ids(project):
    (project / "nbs/01_bad.ipynb").write_bytes(b"\xff\xfe{}")
    with pytest.raises(NotebookError, match="not UTF-8"):
        notebook2script()
    with pytest.raises(NotebookError, match="nbs/09_no.ipynb: cannot be read"):
        notebook2script("nbs/09_no.ipynb")
    with pytest.raises(ToolError, match="--nbs"):
        notebook2script(nbs="elsewhere")
    assert "two cells have the id a" in refused(
        project, cell("x", "a"), cell("y", "a"), name="01_bad.ipynb"
    )


def test_file_with_byte_order_mark(project):
    path = save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    notebook2script()
    assert "x = 1" in (project / "lib/nb01.py").read_text()


def test_all_problems_at_once_and_nothing_written(project):
    save(project / "nbs/01_a.ipynb", "#export\na = 1")
    save(project / "nbs/02_b.ipynb", "#export\nb = (", "#export\n!ls")
    save(project / "nbs/03_c.ipynb", "#exprot\nc = 1")
    with pytest.raises(NotebookError) as error:
        notebook2script()
    assert len(error.value.problems) == 3
    assert not (project / "lib").exists()


def test_one_number_one_home(project):
    save(project / "nbs/01_a.ipynb", "#export\na = 1")
    save(project / "nbs/01_b.ipynb", "#export\nb = 1")
    with pytest.raises(NotebookError, match="has the module nb01, as does nbs/01_a.ipynb"):
        notebook2script()


def test_duplicates_and_replaces(project):
    again = "#export\ndef f(): return 2"
    report = refused(project, "#export\ndef f(): return 1", cell(again, "second"))
    assert "cell 2 (second):2: binds `f` again, after cell 1 (c0)" in report
    assert "#export replaces f" in report
    assert "return 2" in export(
        project, "#export\ndef f(): return 1", again.replace("export", "export replaces f")
    )
    save(project / "nbs/02_next.ipynb", "#export\nif True:\n    f = 3")
    with pytest.raises(NotebookError, match="02_next.ipynb.*exports `f` again.*01_topic"):
        notebook2script()
    save(project / "nbs/02_next.ipynb", "#export replaces f\nf = 3")
    notebook2script()


@pytest.mark.parametrize(
    "second",
    ["if 1:\n    f = 2", "try:\n    f = 2\nfinally: pass", "with open('x') as f: pass",
     "(f, g) = 1, 2", "g = [f := 1]", "from json import dumps as f", "class f: pass"],
)  # fmt: skip
def test_duplicates_through_any_binding(project, second):
    assert "binds `f` again" in refused(project, "#export\ndef f(): pass", f"#export\n{second}")


def test_two_imports_of_different_things_under_one_name(project):
    report = refused(
        project, "#export\nfrom json import loads", "#export\nfrom pickle import loads"
    )
    assert "binds `loads` again" in report


def test_names_that_only_an_unexported_cell_defines(project):
    report = refused(
        project,
        cell("scale = 3", "plain"),
        cell(
            "#export\ndef f(x):\n    def inner():\n        return x * scale\n    return inner", "f"
        ),
    )
    assert "cell 2 (f):4: uses `scale`, which only cell 1 (plain) defines" in report


def test_imports_of_later_notebooks(project):
    save(project / "nbs/01_a.ipynb", "from lib.nb02 import y\n", "#export\nx = 1")
    save(project / "nbs/02_b.ipynb", "#export\nfrom lib.nb01 import x\ny = x")
    with pytest.raises(
        NotebookError, match=r"01_a.ipynb:cell 1 \(c0\):1: imports lib.nb02.*not earlier"
    ):
        notebook2script()
    for line in ("from lib import b", "import lib.nb02", "from lib import nb02 as z"):
        save(project / "nbs/01_a.ipynb", line, "#export\nx = 1")
        with pytest.raises(NotebookError, match="not earlier"):
            notebook2script()
    save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    notebook2script()


def test_imports_of_what_is_not_exported(project):
    save(project / "nbs/01_a.ipynb", "x = 1\n", "#export\nz = 1")
    save(project / "nbs/02_b.ipynb", "from lib.nb01 import x", "from lib.nb07 import y")
    with pytest.raises(NotebookError) as error:
        notebook2script()
    assert "imports `x`, which nbs/01_a.ipynb does not export" in str(error.value)
    assert "imports lib.nb07, which no notebook makes" in str(error.value)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/b", "a..b", "__init__", "a.__init__"])
def test_targets_outside_the_library(project, name):
    report = refused(project, f"#| default_exp {name}", "#export\nx = 1")
    assert "has an invalid name" in report


def test_notebook_without_a_number(project):
    save(project / "nbs/Untitled.ipynb", "print('scratch')")
    save(project / "nbs/.hidden.ipynb", "#export\nx = (")
    assert "has no number" in refused(project, "#export\nx = 1", name="scratch.ipynb")


# --- modules that somebody edited ----------------------------------------------------------------


def test_a_module_edited_by_hand_is_not_overwritten(project):
    module = export(project, "#export\nimport os\nx = 1", "#export\ny = 2")
    path = project / "lib/nb01.py"
    edits = {
        "y = 2": "y = 3",
        "import os": "import os, sys",
        '"""topic"""': '"""topic"""\nimport sys',
        "]\n": "]\nz = 3\n",
        "y = 2\n": "y = 2\n\n\ndef added(): pass\n",
    }
    for old, new in edits.items():
        path.write_text(module.replace(old, new, 1))
        save(project / "nbs/01_topic.ipynb", "#export\nimport os\nx = 1", "#export\ny = 22")
        with pytest.raises(NotebookError, match="edited by hand") as error:
            notebook2script()
        assert "bring the edit into the notebook" in str(error.value)
        assert path.read_text() == module.replace(old, new, 1)
    path.write_text(module.replace("y = 2", "y = 3"))
    save(project / "nbs/01_topic.ipynb", "#export\nimport os\nx = 1", "#export\ny = 3")
    notebook2script()  # the edit is in the notebook now
    path.write_text(module.replace("y = 2", "y = 4"))
    path.unlink()  # the other remedy
    notebook2script()


def test_hand_written_files_are_not_overwritten(project):
    (project / "lib").mkdir()
    (project / "lib/nb01.py").write_text("x = 1\n")
    save(project / "nbs/01_topic.ipynb", "#export\nx = 1")
    with pytest.raises(NotebookError, match="lib/nb01.py exists and is hand-written"):
        notebook2script()
    (project / "lib/nb01.py").unlink()
    (project / "lib/__init__.py").write_text("version = 1\n")
    with pytest.raises(NotebookError, match="__init__.py: was (written|edited) by hand"):
        notebook2script()
    (project / "lib/__init__.py").write_text("")
    notebook2script()
    notebook2script()
    init = project / "lib/__init__.py"
    init.write_text(init.read_text() + "\nmore = 1\n")
    with pytest.raises(NotebookError, match="__init__.py: was (written|edited) by hand"):
        notebook2script()


def test_a_deleted_notebook(project, capsys):
    export(project, "#export\nx = 1")
    save(project / "nbs/02_b.ipynb", "#export\ny = 1")
    notebook2script()
    (project / "nbs/02_b.ipynb").unlink()
    (project / "lib/by_hand.py").write_text("x = 1")
    with pytest.raises(ToolError, match="nb02"):
        notebook2script(check=True)
    notebook2script()
    assert "lib/nb02.py has no notebook any more; --prune removes it" in capsys.readouterr().out
    text = (project / "lib/nb02.py").read_text()
    (project / "lib/nb02.py").write_text(text + "mine = 1\n")
    with pytest.raises(ToolError, match="edited by hand"):
        notebook2script(prune=True)
    (project / "lib/nb02.py").write_text(text)
    notebook2script(prune=True)
    assert sorted(p.name for p in (project / "lib").glob("*.py")) == [
        "__init__.py",
        "by_hand.py",
        "nb01.py",
    ]


# --- crashes -------------------------------------------------------------------------------------


class Crash(BaseException):
    """Stands for the power going off."""


def contents(project):
    return {p.name: p.read_text() for p in (project / "lib").glob("nb*.py")}


def three_to_write_again(project):
    """Export three notebooks and change them; the old modules."""
    for n in (1, 2, 3):
        save(project / f"nbs/0{n}_a{n}.ipynb", f"#export\nv{n} = 'old'")
    notebook2script()
    old = contents(project)
    for n in (1, 2, 3):
        save(project / f"nbs/0{n}_a{n}.ipynb", f"#export\nv{n} = 'new'")
    return old


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Crash()])
def test_a_crash_at_every_step_leaves_whole_files(project, monkeypatch, error):
    old = three_to_write_again(project)
    new = {n.with_suffix(".py").name: t for n, t in plan(nbs="nbs", lib="lib").files.items()}
    calls = ["mkstemp", "fdopen", "fsync", "chmod", "replace"]
    steps = 0
    for name in calls:
        for at in range(1, 5):
            with monkeypatch.context() as patch:
                module = files.tempfile if name == "mkstemp" else os
                real, count = getattr(module, name), [0]

                def step(*args, real=real, count=count, at=at, **kwargs):
                    count[0] += 1
                    if count[0] == at:
                        raise error
                    return real(*args, **kwargs)

                patch.setattr(module, name, step)
                crashed = False
                try:
                    notebook2script()
                except (ToolError, Crash):
                    crashed = True
                    steps += 1
            for file, text in contents(project).items():
                assert text in (old[file], new[file])
            assert not list((project / "lib").glob(".*"))
            if crashed and name != "replace":
                assert contents(project) == old  # nothing is replaced before all are written
            notebook2script()  # heals
            assert contents(project) == {file: new[file] for file in old}
            for file, text in old.items():
                (project / "lib" / file).write_text(text)
    assert steps >= 15


def test_a_killed_writer_leaves_whole_files(project):
    """Kill for real, in the middle of replacing."""
    old = three_to_write_again(project)
    code = (
        f"import sys; sys.path.insert(0, {str(TOOL.parent)!r})\n"
        "import os, signal, notebook2script as e\nreal = os.replace\n"
        "def replace(*a):\n    if 'nb02' in str(a[1]): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(*a)\nos.replace = replace\ne.notebook2script()"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=project).returncode != 0
    after = contents(project)
    assert after["nb02.py"] == old["nb02.py"] and after["nb01.py"] != old["nb01.py"]


def test_read_only_folder(project):
    save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    (project / "lib").mkdir(mode=0o500)
    if os.access(project / "lib", os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(ToolError, match="cannot write"):
        notebook2script()


def test_a_folder_that_refuses_files(project):
    save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    (project / "lib").write_text("a file where the folder should be")
    with pytest.raises(ToolError, match="cannot"):
        notebook2script()


# --- where a line came from ----------------------------------------------------------------------


def test_where(project, capsys):
    export(
        project,
        cell("# T", "t", "markdown"),
        cell("#hide\n\n#export\nimport os\n\n\nx = 1\ny = os", "one"),
        cell("## Deep", "d", "markdown"),
        cell("#export\ndef f():\n    raise ValueError", "two"),
    )
    lines = Path("lib/nb01.py").read_text().split("\n")
    for text, id, line in [
        ("import os", "one", 4),
        ("y = os", "one", 8),
        ("    raise ValueError", "two", 3),
    ]:
        notebook, found, at = where("lib/nb01.py", lines.index(text) + 1)
        assert (found.id, at, notebook.path.name) == (id, line, "01_topic.ipynb")
    notebook2script(where=f"lib/nb01.py:{lines.index('    raise ValueError') + 1}")
    assert capsys.readouterr().out.endswith(
        "nbs/01_topic.ipynb:cell 2 (two):3 Deep\n    raise ValueError\n"
    )
    for bad, what in [
        ("lib/nb01.py", "FILE:LINE"),
        ("lib/nb01.py:1", "no cell"),
        ("settings.ini:1", "not written by the exporter"),
    ]:
        with pytest.raises(ToolError, match=what):
            notebook2script(where=bad)


# --- check and the command line ------------------------------------------------------------------


def run(project, *arguments):
    return subprocess.run(
        [sys.executable, TOOL, *arguments], cwd=project, capture_output=True, text=True
    )


def test_check_writes_nothing_and_shows_the_difference(project):
    export(project, "#export\nx = 1")
    assert run(project, "--check").returncode == 0
    save(project / "nbs/01_topic.ipynb", "#export\nx = 2")
    before = contents(project)
    result = run(project, "--check")
    assert result.returncode == 1 and "-x = 1" in result.stdout and "+x = 2" in result.stdout
    assert "out of step" in result.stderr
    (project / "lib/nb01.py").unlink()
    result = run(project, "--check")
    assert result.returncode == 1 and "+x = 2" in result.stdout
    assert contents(project) == {} != before


def test_the_command(project):
    save(project / "nbs/01_a.ipynb", "#export\nx = (")
    result = run(project)
    assert result.returncode == 1 and "01_a.ipynb:cell 1 (c0):2" in result.stderr
    assert "Traceback" not in result.stderr
    save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    result = run(project, "--chek")  # must not export first and complain later
    assert result.returncode != 0 and "--check" in result.stderr and not (project / "lib").exists()
    result = run(project, "nbs/01_a.ipynb")
    assert (result.returncode, result.stdout) == (0, "converted nbs/01_a.ipynb -> lib/nb01.py\n")
    assert run(project, "--nbs", "nbs", "--lib", "other").returncode == 0
    assert (project / "other/nb01.py").exists()


def test_the_exporter_imports_neither_torch_nor_ipython():
    code = (
        "import sys, notebook2script\n"
        "sys.exit(bool({'torch', 'IPython', 'nbformat'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=TOOL.parent, check=True)


# --- a property over generated notebooks ---------------------------------------------------------

STATEMENTS = st.sampled_from(
    ["import os", "import json, re", "from math import (\n    pi,\n    e,\n)", "# a comment",
     "from __future__ import annotations", '"""A text\n\n   with lines  \n"""', "{v} = 1",
     "def {v}(a):\n    # inside\n\n    return a", "class {v}:\n    '''Doc.'''\n    n = 1",
     "@staticmethod\ndef {v}(): pass", "if 1:\n    {v} = 1\nelse:\n    {v} = 2",
     "{v} = '''\n# cell x\n\n\n'''", "{v} = 1; assert {v}", "", "for _ in []:\n    pass"]
)  # fmt: skip
DIRECTIVES = st.sampled_from(["#export", "#| export", "#hide\n#export", ""])
SOURCES = st.lists(st.tuples(DIRECTIVES, st.lists(STATEMENTS, max_size=5)), max_size=6)


@settings(max_examples=150, deadline=None)
@given(SOURCES, st.booleans())
def test_every_statement_once_in_order_and_mapped_back(tmp_path_factory, sources, with_ids):
    cells, names = [], iter(f"v{i}" for i in range(1000))
    for i, (directive, statements) in enumerate(sources):
        futures = [s for s in statements if "__future__" in s]  # Python wants them first
        statements = futures + [s for s in statements if "__future__" not in s]
        body = "\n".join(s.replace("{v}", next(names)) for s in statements)
        cells.append(cell(f"{directive}\n{body}", f"c{i}" if with_ids else ""))
    path = save(tmp_path_factory.mktemp("nbs") / "01_generated.ipynb", *cells)
    notebook = read(path)
    made = gather([notebook])
    if not made:
        return
    module = render(made[0], path.parent)
    assert module == render(gather([read(path)])[0], path.parent)
    compile(module, "module", "exec")

    blocks = arranged([part.cell for part in made[0].parts])
    kinds = ("future", "imports", "body")
    in_blocks = [
        ast.dump(node)
        for kind in kinds
        for _, block in blocks
        if block.kind == kind
        for node in ast.parse(block.text).body
    ]
    every = [n for c in notebook.exported for n in c.tree.body]
    assert sorted(map(ast.dump, every)) == sorted(in_blocks)
    # the line of __dir__ names __all__, too
    in_module = [n for n in ast.parse(module).body[1:] if "__all__" not in ast.dump(n)]
    assert [ast.dump(n) for n in in_module] == in_blocks
    for of_kind in (lambda n: isinstance(n, ast.Import | ast.ImportFrom),
                    lambda n: not isinstance(n, ast.Import | ast.ImportFrom)):  # fmt: skip
        wanted = [ast.dump(n) for n in every if of_kind(n) and "__future__" not in ast.dump(n)]
        kept = [ast.dump(n) for n in in_module if of_kind(n) and "__future__" not in ast.dump(n)]
        assert wanted == kept

    lines = module.split("\n")
    mapped = {}
    for number, line in enumerate(lines, 1):
        found, at = place(notebook, module, number)
        if found and at and not modules.MARKER.fullmatch(line):
            assert found.source.split("\n")[at - 1] == line
            mapped.setdefault(found.id, set()).add(at)
    for part in notebook.exported:  # and back: every line that is not blank is in the module
        rows = part.source.split("\n")
        wanted = {n for n in range(part.first_line, len(rows) + 1) if rows[n - 1].strip()}
        assert wanted <= mapped.get(part.id, set())


def test_cell_parts():
    made = Cell(1, "a", "code", "#hide\n\n#| export\n\n\nx = 1\n\n")
    assert made.directives == {"hide": "", "export": ""} and made.exported
    assert (made.first_line, made.code) == (6, "x = 1")
    assert not Cell(0, "a", "markdown", "#export\nx").exported


def test_headings_title_and_numbers(project):
    path = save(
        project / "nbs/01_a.ipynb",
        cell("~~~\n# no title\n~~~\n```bash\n# install\n```", "a", "markdown"),
        cell("", "empty"),
        cell(
            "> not this\n\n# The title #\n\n> What\n> you have.\n\nText.\n\n> not this",
            "b",
            "markdown",
        ),
        cell("x", "x"),
        cell("````\n```\n# not\n````\n## Deep", "c", "markdown"),
        cell("#earns @\n#earns torch.einsum\ny", "y"),
    )
    notebook = read(path)
    assert (notebook.title, notebook.summary) == ("The title", "What you have.")
    x, y = notebook.by_id("x"), notebook.by_id("y")
    assert (x.number, x.heading, y.number, y.heading) == (1, "The title", 2, "Deep")
    assert y.directives == {"earns": "@, torch.einsum"}


def test_names_that_come_and_go(project):
    module = export(
        project,
        "#export\ntry:\n    import triton\nexcept ImportError as error:\n    reason = str(error)\n"
        "scratch = 1\nkept = scratch\ndel scratch",
        "#export\nimport atexit\n\n@atexit.register\ndef goodbye(): pass\n\n\n"
        "class A(metaclass=(m := type)): pass\n\ngoodbye(), m",
    )
    names = ast.literal_eval(re.search(r"__all__ = (\[.*?\])", module, re.S)[1])
    assert sorted(names) == ["A", "goodbye", "kept", "m", "reason"]


def test_settings_and_flags_without_a_value(project):
    result = run(project, "--nbs")
    assert result.returncode == 1 and "--nbs needs a value" in result.stderr
    (project / "settings.ini").write_text("nbs_path = nbs\n")
    result = run(project)
    assert result.returncode == 1 and result.stderr.startswith("settings.ini cannot be read")
