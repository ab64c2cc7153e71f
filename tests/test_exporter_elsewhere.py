"""The exporter on other people's projects: their settings, their habits, their libraries."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from made_notebooks import cell, save

import files
from modules import where
from notebook2script import notebook2script
from notebooks import NotebookError, ToolError, read
from project import settings

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "notebook2script.py"


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with no settings at all, as the working directory."""
    (tmp_path / "nbs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tool(folder, *arguments, **environment):
    return subprocess.run(
        [sys.executable, TOOL, *map(str, arguments)], cwd=folder, capture_output=True,
        env=os.environ | environment, encoding="utf-8",
    )  # fmt: skip


def text(path):
    return Path(path).read_text("utf-8")


def names(path):
    """What `__all__` of a module lists."""
    return ast.literal_eval(re.search(r"__all__ = (\[.*?\])", text(path), re.S)[1])


def refusal(*cells, name="01_a.ipynb"):
    save(Path("nbs") / name, *cells)
    with pytest.raises(NotebookError) as error:
        notebook2script()
    assert not list(Path().glob("exp/*.py"))
    return str(error.value)


def value(folder, code):
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- which project -------------------------------------------------------------------------------


def test_the_tool_works_in_the_folder_it_is_called_in_never_in_its_own(project):
    copy = project / "copy"
    shutil.copytree(ROOT / "tools", copy / "tools")
    save(copy / "nbs" / "01_theirs.ipynb", "#export\ntheirs = 1")
    (copy / "settings.ini").write_text("[DEFAULT]\n")
    mine = project / "mine"
    save(mine / "nbs" / "01_mine.ipynb", "#export\nmine = 1")
    command = [sys.executable, copy / "tools" / "notebook2script.py"]
    for more in ([], ["--prune"], ["--nbs", "nbs"], ["--nbs", "nbs", "--lib", "exp", "--prune"]):
        subprocess.run([*command, *more], cwd=mine, check=True)
        assert (mine / "exp/nb01.py").exists() and not (copy / "exp").exists()


@pytest.mark.parametrize(
    ("file", "content", "lib", "nbs"),
    [
        ("settings.ini", "[DEFAULT]\nlib_name = my-lib\n", "my_lib", "nbs"),
        ("settings.ini", "[DEFAULT]\nlib_name = a\nlib_path = %(lib_name)s/b\n", "a/b", "nbs"),
        ("settings.ini", "[DEFAULT]\nlib_name = a\nnote = 100% sure\nurl = %(gone)s", "a", "nbs"),
        ("pyproject.toml", '[tool.ground-up]\nnbs_path = "books"\n', "exp", "books"),
        ("pyproject.toml", '[project]\nname = "my-lib"\n[tool.nbdev]\n', "my_lib", "nbs"),
        ("pyproject.toml", '[tool.nbdev]\nlib_path = "c"\nrecursive = false\n', "c", "nbs"),
        ("pyproject.toml", '[project]\nname = "my-lib"\n', "my_lib", "nbs"),
    ],
)
def test_settings_in_their_places(project, file, content, lib, nbs):
    (project / file).write_text(content)
    found = settings()
    assert (found.root, found.lib, found.nbs) == (project, project / lib, project / nbs)
    inside = project / "deep" / "down"
    inside.mkdir(parents=True)
    if "tool" in content or file == "settings.ini":
        assert settings(inside).root == project
    (project / "deep" / ".git").mkdir()  # another project begins here
    assert settings(inside).root == inside


def test_the_table_of_the_tools_wins_and_rules_are_named(project):
    (project / "settings.ini").write_text("[DEFAULT]\nlib_path = a\nhouse_rules = order, init\n")
    (project / "pyproject.toml").write_text('[tool.ground-up]\nlib_path = "b"\n')
    assert settings().lib == project / "b" and settings().house_rules == {"order", "init"}
    (project / "pyproject.toml").write_text("[tool.ground-up]\nhouse_rules = true\n")
    assert settings().house_rules == {"order", "names", "init"}
    (project / "pyproject.toml").write_text('[tool.ground-up]\nhouse_rules = "ordre"\n')
    with pytest.raises(ToolError, match="no rule ordre"):
        _ = settings().house_rules
    (project / "pyproject.toml").write_text("[tool")
    with pytest.raises(ToolError, match="pyproject.toml cannot be read"):
        settings()


def test_nothing_to_do_is_said_and_nothing_found_is_an_error(project, capsys):
    with pytest.raises(ToolError, match="there is no notebook in nbs"):
        notebook2script()
    save(project / "nbs/01_a.ipynb", "x = 1")
    notebook2script()
    assert "nothing to export: no cell in nbs is marked #export" in capsys.readouterr().out
    for name in ("nbs/02_gone.ipynb", "gone"):
        with pytest.raises(ToolError, match="cannot be read"):
            notebook2script(name)
    (project / "empty").mkdir()
    with pytest.raises(ToolError, match="there is no notebook in empty"):
        notebook2script("empty")
    (project / "nbs").rename(project / "books")
    with pytest.raises(ToolError, match="no folder nbs; say where .* --nbs"):
        notebook2script()


def test_nested_folders(project, capsys):
    save(project / "nbs/api/01_core.ipynb", "#export\ncore = 1")
    save(project / "nbs/tutorials/deep/02_more.ipynb", "#export\nmore = 2")
    for left_out in ("_drafts/03_x.ipynb", ".ipynb_checkpoints/04_x.ipynb", "api/_05_x.ipynb"):
        save(project / "nbs" / left_out, "#export\nx = (")
    notebook2script()
    assert "# generated from nbs/api/01_core.ipynb" in text("exp/nb01.py")
    line = text("exp/nb02.py").split("\n").index("more = 2") + 1
    assert where("exp/nb02.py", line)[1].id == "c0"
    notebook2script("nbs/api")
    (project / "pyproject.toml").write_text("[tool.nbdev]\nrecursive = false\n")
    save(project / "nbs/06_top.ipynb", "#export\ntop = 1")
    notebook2script()
    assert "exp/nb01.py has no notebook any more" in capsys.readouterr().out


def test_packages_get_an_init_and_the_authors_own_stays(project):
    (project / "exp").mkdir()
    (project / "exp/__init__.py").write_text('__version__ = "0.1"\n')
    save(project / "nbs/callback.ipynb", "#| default_exp callback.core", "#| export\nx = 1")
    notebook2script()
    assert text("exp/__init__.py") == '__version__ = "0.1"\n'
    assert text("exp/callback/__init__.py") == ""
    notebook2script(check=True)
    (project / "exp/callback/__init__.py").unlink()
    with pytest.raises(ToolError, match="out of step"):
        notebook2script(check=True)


def test_the_index_of_another_library_speaks_of_it(project):
    (project / "pyproject.toml").write_text(
        '[project]\nname = "bridges"\ndescription = "Bridges, computed."\n'
        '[tool.ground-up]\nhouse_rules = "init"\n'
    )
    save(project / "nbs/01_load.ipynb", "#export\ndef load(): 'Return the load.'")
    save(project / "nbs/truss.ipynb", "#| default_exp parts.truss", "#| export\nclass Truss: pass")
    notebook2script()
    index = text("bridges/__init__.py")
    assert index.startswith('"""Bridges, computed.\n') and "Return the load." in index
    code = "import bridges; from bridges import Truss, load, truss; import bridges.truss as t\n"
    code += "print(Truss.__module__, t is truss, bridges.load() is None)"
    assert value(project, code) == "bridges.parts.truss True True"


# --- the order of statements ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "expression", "expected"),
    [
        (["import os\nos.environ['FLAG'] = 'set'", "import reads"], "m.reads.FLAG", "set"),
        (["import sys\nsys.path.insert(0, 'vendor')", "import vendored"], "m.vendored.x", "7"),
        (["def sqrt(x): return 'mine'", "from math import *", "a = sqrt(4)"], "m.a", "2.0"),
        (["a = len('ab')", "from operator import neg as len", "b = len(2)"], "m.a, m.b", "2 -2"),
        (["pi = 3", "from math import pi", "def f(): return pi"], "round(m.f(), 2)", "3.14"),
        (["class A: from math import pi", "from math import tau as pi"], "A", "A"),
        (["def f(x=1): return x", "import json; import re", "y = json.dumps(f())"], "m.y", "1"),
    ],
)
def test_imports_do_not_pass_what_runs(project, cells, expression, expected):
    (project / "reads.py").write_text("import os\nFLAG = os.environ.get('FLAG')")
    (project / "vendor").mkdir()
    (project / "vendor/vendored.py").write_text("x = 7")
    save(project / "nbs/01_a.ipynb", *(f"#export\n{code}" for code in cells))
    notebook2script()
    code = f"import exp.nb01 as m; A = m.__dict__.get('A', m).__name__; print({expression})"
    assert value(project, code) == expected


def test_imports_pass_definitions_that_have_nothing_to_do_with_them(project):
    save(
        project / "nbs/01_a.ipynb",
        "#export\nimport os\n\nLIMIT = 3\n\ndef f(x: int = 1, *more, y=None): return os.sep",
        "#export\nclass A(Exception):\n    '''A.'''\n    n: int = 0\n\n    @property\n"
        "    def g(self): return LIMIT",
        "#export\nimport json\nfrom math import pi\nprint(pi)",
        "#export\nimport re",
    )
    notebook2script()
    lines = text("exp/nb01.py").split("\n")
    assert lines.index("import json") < lines.index("LIMIT = 3") < lines.index("import re")


# --- names that do not come along ----------------------------------------------------------------


@pytest.mark.parametrize(
    "cells",
    [
        ["N = 1", "#export\nN += 1"],
        ["N = 1", "#export\ndef f():\n    global N\n    N += 1"],
        ["N = 1", "#export\nM = N", "#export\nN = 2"],
        ["N = 1", "#export\ndef f(): return N", "#export\nM = f()", "#export\nN = 2"],
        ["N = 1", "#export\nclass A:\n    n = N", "#export\nN = 2"],
        ["N = 1", "#export\ndef f(x=N): return x", "#export\ndef g():\n    global N\n    N = 2"],
        ["from math import *\nN = pi", "#export\nM = pi"],
        ["N = 1", "#export\nfor i in range(3): N -= i"],
        ["N = 1", "#export\nx = [N for _ in range(2)]"],
        ["%matplotlib inline\nN = 1\n!ls", "#export\nfrom math import *\ndef f(): return N"],
        ["%%time\nif True:\n    %time N = 1\nN = 2", "#export\nfrom math import *\nM = N"],
        ["N = !ls\nlen?", "#export\nfrom math import *\ndef f(): return N"],
    ],
)
def test_a_name_of_a_hidden_cell_is_refused_however_it_is_used(project, cells):
    assert "N" in refusal(*cells) or "pi" in refusal(*cells)


@pytest.mark.parametrize(
    "cells",
    [
        ["from os.path import join", "#export\nfrom os.path import *\ndef f(): return join('a')"],
        ["N = 1", "#export\nN = 2\nM = N"],
        ["N = 1", "#export\ndef f(): return N", "#export\nN = 2\nM = f()"],
        ["N = 1", "#export\ndef f(N): return [N for N in range(N)]"],
        ["N = 1", "#export\nclass A:\n    N = 2\n    M = N"],
        ["N = 1", "#export\ndef f():\n    global N\n    N = 1\n    return N"],
        ["N = 1", "#export\nwith open(__file__) as N: M = N"],
        ["e = 1", "#export\ntry: pass\nexcept Exception as e: print(e)"],
        ["N = 1", "#export\nlambda N, *a, **k: (N, a, k)"],
    ],
)
def test_a_name_of_ones_own_is_not_taken_for_a_hidden_one(project, cells):
    save(project / "nbs/01_a.ipynb", *cells)
    notebook2script()


def test_stars_are_looked_up_in_the_folder_in_files_and_in_the_standard_library(project):
    (project / "exp").mkdir()
    (project / "exp/by_hand.py").write_text("from exp.base import *\nimport json\n_p = 1")
    save(project / "nbs/base.ipynb", "#| default_exp base", "#| export\nbase = 1\n_b = 2")
    hidden = "base = json = pi = sep = 0"
    star = "#| export\nfrom exp.by_hand import *\nfrom math import *\nfrom os.path import *\n"
    save(project / "nbs/next.ipynb", "#| default_exp next", hidden,
         star + "def f(): return base, json, pi, sep")  # fmt: skip
    notebook2script()
    save(project / "nbs/next.ipynb", "#| default_exp next", "_b = 1", star + "def f(): return _b")
    with pytest.raises(NotebookError, match="uses `_b`, which only cell"):
        notebook2script()
    star = "#| export\nfrom not_installed import *\n"
    save(project / "nbs/next.ipynb", "#| default_exp next", "x = 1", star + "def f(): return x, y")
    with pytest.raises(NotebookError, match="`x`.*or install not_installed") as error:
        notebook2script()
    assert "`y`" not in str(error.value)


def test_what_may_be_wrong_is_noted_what_must_fail_is_refused(project, capsys):
    star = "#export\nfrom math import *\n"
    save(project / "nbs/01_a.ipynb", star + "def f(): return jsno, display(1), get_ipython()")
    notebook2script()
    noted = capsys.readouterr().err
    assert noted.count("note: nbs/01_a.ipynb:cell 1 (c0):3: uses") == 3 and "from IPython" in noted
    shutil.rmtree("exp")
    assert "`jsno`, which nothing" in refusal(star + "x = jsno")
    assert "`display`, which exists only in a notebook" in refusal("#export\ndisplay(1)")
    save(project / "nbs/01_a.ipynb", "#export\nmake('A')", "#export\ndef make(x): globals()[x] = 1",
         "#export\ndef f(): return A")  # fmt: skip
    notebook2script()


def test_imports_of_a_later_module_are_the_authors_business(project):
    save(project / "nbs/01_a.ipynb", "#| default_exp a",
         "#| export\ndef f():\n    from exp.b import y\n    return y",
         "#| hide\nfrom exp.b import y\nfrom exp.a import f")  # fmt: skip
    save(project / "nbs/02_b.ipynb", "#| default_exp b", "#| export\nfrom exp.a import f\ny = 1")
    notebook2script()
    save(project / "nbs/02_b.ipynb", "#| default_exp b", "#| export\nfrom exp.a import g\ny = 1")
    with pytest.raises(NotebookError, match="imports `g`, which nbs/01_a.ipynb does not export"):
        notebook2script()
    made = "#| export\ndef __getattr__(name): return name"
    save(project / "nbs/01_a.ipynb", "#| default_exp a", made)
    notebook2script()


# --- nbdev ---------------------------------------------------------------------------------------


def test_names_in_all_with_underscores(project, capsys):
    save(project / "nbs/a.ipynb", "#| default_exp a", "#| export\nfrom os.path import join, sep",
         "#| export\n_all_ = ['join', sep, '_p']\n_p = 1\nmine = 2")  # fmt: skip
    star = "#| export\nfrom exp.a import *\nx = join(_p)"
    save(project / "nbs/b.ipynb", "#| default_exp b", star)
    notebook2script()
    assert sorted(names("exp/a.py")) == ["_p", "join", "mine", "sep"]
    assert value(project, "from exp.a import *; print(join('a', 'b'), _p)") == f"a{os.sep}b 1"
    Path("nbs/b.ipynb").unlink()
    save(project / "nbs/a.ipynb", "#| default_exp a", "#| export\n_all_ = ['gone']")
    notebook2script()
    assert "note: nbs/a.ipynb:cell 2 (c1):2: `_all_` lists `gone`" in capsys.readouterr().err


def test_all_of_an_nbdev_notebook_is_nbdevs(project):
    source = (
        "#| export\nfrom x import A, patch, fc\na, (b, c) = d = 1, (2, 3)\ne: int = 1\n_f = 1\n"
        "if a:\n    g = 1\n@patch\ndef h(self: A): pass\n@patch(as_prop=True)\n"
        "def i(self: A): pass\n"
        "@fc.patch\ndef j(self: A): pass\nclass K: pass\nasync def l(): pass\nfor m in []: pass"
    )
    save(project / "nbs/a.ipynb", "#| default_exp a", source)
    save(project / "nbs/01_b.ipynb", source)
    notebook2script()
    assert sorted(names("exp/a.py")) == ["K", "a", "d", "e", "j", "l"]
    assert sorted(names("exp/nb01.py")) == ["K", "a", "b", "c", "d", "e", "g", "l"]


@pytest.mark.parametrize(
    ("metadata", "exported"),
    [
        ({"nbdev": {"export": "true"}}, True),
        ({"nbdev": {"export": True}}, True),
        ({"nbdev": {"exporti": "true", "hide": "true"}}, True),
        ({"nbdev": {"export": False}}, False),
        ({"nbdev": {"hide": "true"}}, False),
        ({"nbdev": "export"}, False),
        ({}, False),
    ],
)
def test_directives_in_metadata(project, metadata, exported):
    save(project / "nbs/a.ipynb", "#| default_exp a", "#| export\nA = 1",
         cell("B = 2", "meta", **metadata))  # fmt: skip
    notebook2script()
    assert ("B = 2" in text("exp/a.py")) == exported


def test_default_exp_in_the_metadata_of_the_notebook(project):
    save(project / "nbs/x.ipynb", "#| export\nA = 1", metadata={"nbdev": {"default_exp": "here"}})
    notebook2script()
    assert "A = 1" in text("exp/here.py")


@pytest.mark.parametrize(
    "top",
    ["#| notest\n#| export", "#| hide\n#| notest\n\n#| export", "#| code-fold: true\n#| export",
     "#|export\n#| echo: false", "#| export\n#| exec_doc"],
)  # fmt: skip
def test_flags_around_export(project, top):
    save(project / "nbs/a.ipynb", "#| default_exp a", f"{top}\nx = 1")
    notebook2script()
    assert "\nx = 1\n" in text("exp/a.py")


def test_cells_for_another_module(project):
    save(project / "nbs/01_a.ipynb", "#| default_exp a", "#| export\na = 1",
         cell("## Tools", "h", "markdown"), cell("#| export utils\nb = 2", "b"))  # fmt: skip
    save(project / "nbs/02_utils.ipynb", "#| default_exp utils", cell("#| export\nc = 3", "b"))
    to_others = ["#export a\nd = 4", "#| exporti new\n_e = 5"]
    save(project / "nbs/03_c.ipynb", "#| default_exp c", *to_others)
    notebook2script()
    assert names("exp/utils.py") == ["c", "b"] and names("exp/a.py") == ["a", "d"]
    assert names("exp/new.py") == [] and not Path("exp/c.py").exists()
    lines = text("exp/utils.py").split("\n")
    assert any(re.fullmatch(r"# cell b \w{6} in nbs/01_a.ipynb · Tools", line) for line in lines)
    for code, notebook in (("b = 2", "01_a.ipynb"), ("c = 3", "02_utils.ipynb")):
        found, its_cell, at = where("exp/utils.py", lines.index(code) + 1)
        assert (found.path.name, its_cell.id, at) == (notebook, "b", 2)
    notebook2script("nbs/01_a.ipynb", check=True)
    Path("exp/utils.py").write_text(text("exp/utils.py").replace("b = 2", "b = 22"))
    save(project / "nbs/02_utils.ipynb", "#| default_exp utils", cell("#| export\nc = 33", "b"))
    with pytest.raises(NotebookError, match="edited by hand"):
        notebook2script()


def test_a_comment_may_speak_of_exports(project):
    shutil.rmtree(project / "exp", ignore_errors=True)
    assert "a module that a notebook makes" in refusal("#export everything\nx = 1")
    save(project / "nbs/01_a.ipynb", "# export the table as CSV\nx = 1",
         "# #export\n# x = 1", "# exports\n",
         cell("# export\n\nA title.", "m", "markdown"), "#export\ny = 1")  # fmt: skip
    notebook2script()
    assert "x = 1" not in text("exp/nb01.py")


def test_one_name_bound_more_than_once(project):
    save(project / "nbs/a.ipynb", "#| default_exp a",
         "#| export\nfrom plum import dispatch\ndef f(x): return x\nf = f(f)",
         "#| export\n@dispatch\ndef g(x: int): return 1",
         "#| export\n@dispatch\ndef g(x: str): return 2",
         "#| export\n@Transform\ndef encodes(x): return x\n@Transform\ndef encodes(y): return y",
         "#| export\nfrom z import Transform")  # fmt: skip
    save(project / "nbs/b.ipynb", "#| default_exp b", "#| export\ndef f(x): return x")
    notebook2script()
    assert text("exp/a.py").count("def g(") == 2


def test_with_house_rules_cases_of_one_function_are_still_one(project):
    (project / "settings.ini").write_text("[DEFAULT]\nhouse_rules = names\n")
    save(project / "nbs/01_a.ipynb",
         "#export\nfrom plum import dispatch\n@dispatch\ndef g(x: int): return 1",
         "#export\n@dispatch\ndef g(x: str): return 2",
         "#export\nclass A:\n    @property\n    def h(self): pass\n    @h.setter\n"
         "    def h(self, x): pass")  # fmt: skip
    notebook2script()
    save(project / "nbs/02_b.ipynb", "#export\ndef g(): pass")
    with pytest.raises(NotebookError, match="exports `g` again"):
        notebook2script()


# --- nothing by hand is lost ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""T', '"""A better T'),
        ("__all__", "# pylint: disable=all\n__all__"),
        ('    "f",\n', '    "f",\n    "g",\n'),
        ("]\n", "]\n# TODO: an important remark\n"),
        ("\n# generated", "\nimport sys\n\n# generated"),
        ("def f", "def  f"),
        ("\n\n\n# cell", "\n# why\n\n# cell"),
        ("return 1\n", "return 1\n\n# the end\n"),
    ],
)
def test_no_edit_of_a_module_is_overwritten_or_removed(project, old, new):
    title = cell("# T\n\n> s", "t", "markdown")
    save(project / "nbs/01_a.ipynb", title, "#export\ndef f(): return 1")
    save(project / "nbs/02_b.ipynb", "#export\nx = 1")
    notebook2script()
    edited = text("exp/nb01.py").replace(old, new, 1)
    Path("exp/nb01.py").write_text(edited)
    with pytest.raises(NotebookError, match="edited by hand"):
        notebook2script()
    with pytest.raises(ToolError):
        notebook2script(check=True)
    Path("nbs/01_a.ipynb").unlink()
    with pytest.raises(ToolError, match="edited by hand"):
        notebook2script(prune=True)
    assert text("exp/nb01.py") == edited


def test_modules_with_other_line_ends_are_the_same_modules(project):
    save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    notebook2script()
    Path("exp/nb01.py").write_bytes(Path("exp/nb01.py").read_bytes().replace(b"\n", b"\r\n"))
    notebook2script(check=True)
    save(project / "nbs/01_a.ipynb", "#export\nx = 2")
    notebook2script()


def test_modules_from_before_headers_had_a_hash_are_renewed(project):
    save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    notebook2script()
    new = text("exp/nb01.py")
    old = re.sub(r"(do not edit) · \w{6}", r"\1", new)
    Path("exp/nb01.py").write_text(old)
    notebook2script()
    assert text("exp/nb01.py") == new
    Path("exp/nb01.py").write_text(old.replace("]\n", "]\nimport os\n"))
    with pytest.raises(NotebookError, match="edited by hand"):
        notebook2script()


def test_prune_leaves_what_others_generated(project):
    save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    save(project / "nbs/02_b.ipynb", "#export\ny = 1")
    notebook2script()
    Path("nbs/02_b.ipynb").unlink()
    others = {
        "schema.py": "# generated from schema.json: do not edit\nX = 1\n",
        "quoted.py": '"""\n# generated from nbs/02_b.ipynb: do not edit\n"""\n',
        "sub/by_hand.py": "x = 1\n",
    }
    for name, content in others.items():
        (project / "exp" / name).parent.mkdir(exist_ok=True)
        (project / "exp" / name).write_text(content)
    notebook2script(prune=True)
    assert not Path("exp/nb02.py").exists()
    assert {name: text(f"exp/{name}") for name in others} == others


@pytest.mark.parametrize(
    "comment",
    ["#\u200bexport", "#\u0435xport", "#!export", "# %% export", "##export", "#export\u200b",
     "#ex\u00adport", "# \u0435\u0445\u0440ort", "＃export", "#|\u00a0\u0435xport", "#%export"],
)  # fmt: skip
def test_disguised_directives(project, comment):
    report = refusal("#export\nA = 1", cell(f"{comment}\nB = 2", "bad"))
    assert "nbs/01_a.ipynb:cell 2 (bad):1: " in report


@pytest.mark.parametrize("kind", ["markdown", "raw"])
def test_a_directive_in_a_cell_that_is_no_code(project, kind):
    assert f"a cell of {kind} begins with `#export`" in refusal(
        "#export\nA = 1", cell("#export\nB = 2", "bad", kind)
    )


def test_notebooks_of_other_languages(project):
    for about in ({"language_info": {"name": "R"}}, {"kernelspec": {"language": "julia"}}):
        save(project / "nbs/01_a.ipynb", "#export\nx = 1", metadata=about)
        with pytest.raises(NotebookError, match="is a notebook for (r|julia)"):
            notebook2script()
    for about in ({"language_info": {"name": "python"}}, {"language_info": None}, None):
        save(project / "nbs/01_a.ipynb", "#export\nx = 1", metadata=about)
        notebook2script()


def test_links(project):
    save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    (project / "nbs/02_gone.ipynb").symlink_to("nowhere")
    with pytest.raises(NotebookError, match="02_gone.ipynb: is a link to nowhere, which does not"):
        notebook2script()
    (project / "nbs/02_gone.ipynb").unlink()
    (project / "nbs/02_twice.ipynb").symlink_to("01_a.ipynb")
    notebook2script()
    assert "x = 1" in text("exp/nb01.py") and "x = 1" in text("exp/nb02.py")


def test_a_module_cannot_be_a_folder(project):
    save(project / "nbs/a.ipynb", "#| default_exp sub", "#| export\nx = 1")
    save(project / "nbs/b.ipynb", "#| default_exp sub.x", "#| export\ny = 1")
    with pytest.raises(NotebookError, match="makes the module sub, but sub.x needs a folder"):
        notebook2script()
    save(project / "nbs/a.ipynb", "#| default_exp class", "#| export\nx = 1")
    with pytest.raises(NotebookError, match="has an invalid name"):
        notebook2script()


def test_deep_expressions(project):
    depth = 1200
    for code in (
        "A = " + "1 + " * depth + "1",
        "A = B" + ".c" * 300 + "\nB = 1",
        "A = [" + ", ".join(["x for x in [1]"] * 1) + "]",
        "A = " + "not " * 150 + "1",
    ):
        save(project / "nbs/01_a.ipynb", f"#export\nB = 0\n{code}")
        try:
            notebook2script()
        except NotebookError as error:
            assert "nbs/01_a.ipynb:cell 1 (c0)" in str(error)
    save(project / "nbs/01_a.ipynb", "#export\nA = " + "1 + " * depth + "1")
    notebook2script()
    assert value(project, "from exp.nb01 import A; print(A)") == str(depth + 1)


@pytest.mark.parametrize(
    "title", ['What `"""` does in """code"""', '"', '""', 'ends in \\"', "\\", "'''", 'a"']
)
def test_titles(project, title):
    save(project / "nbs/01_a.ipynb", cell(f"# {title}", "t", "markdown"), "#export\nA = 1")
    notebook2script()
    doc = ast.get_docstring(ast.parse(text("exp/nb01.py")), clean=False)
    assert doc.strip() == title.strip()
    save(project / "nbs/01_a.ipynb", cell("# \0\x1b[1m", "t", "markdown"), "#export\nA = 1")
    notebook2script()


# --- where ---------------------------------------------------------------------------------------


def test_where_in_a_module_that_is_behind_its_notebook(project, capsys):
    save(project / "nbs/01_a.ipynb", "#export\ndef f():\n    return 1\n\n\ndef g():\n    return 2")
    notebook2script()
    line = text("exp/nb01.py").split("\n").index("def g():") + 1
    new = "#export\n# new\nK = 1\ndef f():\n    return 1\n\n\ndef g(): pass"
    save(project / "nbs/01_a.ipynb", new)
    notebook2script(where=f"exp/nb01.py:{line}")
    shown = capsys.readouterr().out
    assert "cell 1 (c0):?" in shown and "has changed since the module was written" in shown
    assert where("exp/nb01.py", line)[2] is None
    save(project / "nbs/01_a.ipynb", cell("#export\nx = 1", "other"))
    with pytest.raises(ToolError, match="cell c0 .*no longer there"):
        where("exp/nb01.py", line)


def test_where_asked_of_other_files(project):
    save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    notebook2script()
    for target, what in [
        ("exp/__init__.py:3", "whole package"),
        ("exp/gone.py:1", "there is no file exp/gone.py"),
        ("exp/nb01.py:1000", "has 11 lines, not 1000"),
        ("exp/nb01.py:x", "FILE:LINE"),
        ("exp/nb01.py:²", "FILE:LINE"),
    ]:
        with pytest.raises(ToolError, match=what):
            notebook2script(where=target)


# --- the command line ----------------------------------------------------------------------------


def test_a_terminal_that_cannot_show_a_name(project):
    save(project / "nbs/01_漢.ipynb", '#export\nA = "→"')
    done = tool(project, PYTHONIOENCODING="cp1252", PYTHONUTF8="0")
    assert done.returncode == 0 and "converted nbs/01_\\u6f22.ipynb" in done.stdout
    save(project / "nbs/01_漢.ipynb", '#export\nA = "→"\n漢 = (')
    done = tool(project, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 1 and "\\u6f22" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (["--lib", "2024"], 1, "the library folder 2024 cannot be imported"),
        (["--lib", "my-lib"], 1, "the library folder my-lib cannot be imported"),
        (["-c"], 1, "out of step"),
        (["--check", "nbs/01_a.ipynb"], 1, "out of step"),
        (["--check=maybe"], 1, "--check takes no value, got 'maybe'"),
        (["--nocheck"], 0, "converted"),
        (["--check=False"], 0, "converted"),
        (["--nbs"], 1, "--nbs needs a value"),
        (["--nbs="], 0, "converted"),
        (["--no-such"], 1, "unknown flag --no-such; the flags are --check, --prune"),
        (["2024"], 1, "2024: cannot be read"),
        (["a,b"], 1, "a,b: cannot be read"),
        (["-x"], 1, "unknown flag -x"),
        (["--nbs", "x" * 5000], 1, "File name too long"),
        (["--help"], 0, "--prune"),
        (["-h"], 0, "--prune"),
    ],
)
def test_what_is_typed_is_taken_as_it_is_meant(project, arguments, code, what):
    save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    done = tool(project, *arguments, PAGER="cat")
    assert done.returncode == code, done.stderr
    assert what in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_temporary_files_of_a_writer_killed_long_ago_are_removed(project):
    save(project / "nbs/01_a.ipynb", "#export\nx = 1")
    notebook2script()
    for name, age in ((".nb01.py.old.new", 2 * files.STALE), (".nb01.py.young.new", 1)):
        path = project / "exp" / name
        path.write_text("half")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    save(project / "nbs/01_a.ipynb", "#export\nx = 2")
    notebook2script()
    assert [p.name for p in Path("exp").glob(".*")] == [".nb01.py.young.new"]


# --- from nothing --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with what `pip install` puts into site-packages, and the commands' names."""
    copy, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for name in ("exp", "tools"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q", "."]
    command += ["--no-deps", "--no-build-isolation", "-w", "."]
    subprocess.run(command, cwd=copy, check=True)
    with zipfile.ZipFile(next(copy.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    entries = re.findall(r"(\w+) = (\w+):(\w+)", next(site.glob("*/entry_points.txt")).read_text())
    assert {name for name, *_ in entries} == {"notebook2script", "run_notebook"}
    return site


def command(site, name, folder, *arguments):
    """Run an installed command as pip's script does."""
    code = f"import sys; from ground_up_tools import {name}; sys.exit({name}())"
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True,
        env=environment,
    )  # fmt: skip


THREE = {
    "01_load": ["#export\ndef load(span):\n    return 4.0 * span", "assert load(2) == 8"],
    "02_truss": ["#export\nfrom bridges.nb01 import load\n\n\nclass Truss:\n"
                 "    def __init__(self, span):\n        self.force = load(span) / 2",
                 "assert Truss(3).force == 6"],
    "03_report": ["from bridges.nb02 import Truss\n\nprint(f'force {Truss(5).force:.1f} kN')"],
}  # fmt: skip


def test_three_notebooks_become_a_library_and_its_tests(project, installed):
    for name, sources in THREE.items():
        save(project / "nbs" / f"{name}.ipynb", *sources)
    (project / "pyproject.toml").write_text('[project]\nname = "bridges"\nversion = "0.1"\n')
    done = command(installed, "notebook2script", project)
    assert done.returncode == 0, done.stderr
    assert "converted nbs/02_truss.ipynb -> bridges/nb02.py" in done.stdout
    done = command(installed, "run_notebook", project, "--jobs", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed, 0 failed, 0 skipped" in done.stdout
    assert value(project, "from bridges.nb02 import Truss; print(Truss(1).force)") == "2.0"

    save(project / "nbs/02_truss.ipynb", *THREE["02_truss"][:1], "assert Truss(3).force == 7")
    assert command(installed, "notebook2script", project, "--check").returncode == 0
    done = command(installed, "run_notebook", project, "--jobs", "1")
    assert done.returncode == 1 and "assert Truss(3).force == 7" in done.stdout
    save(project / "nbs/01_load.ipynb", "#export\ndef load(span): return 5.0 * span")
    assert command(installed, "notebook2script", project, "--check").returncode == 1
    assert {p.name for p in project.iterdir()} <= {"nbs", "bridges", "build", "pyproject.toml"}


def test_the_commands_of_the_readme_work_on_a_project_from_nothing(project, installed):
    readme = text(ROOT / "README.md")
    block = re.search(r"<!-- elsewhere -->\n(.*?)<!-- /elsewhere -->", readme, re.S)
    if not block:
        pytest.skip("the README says nothing of other projects")
    lines = re.search(r"```bash\n(.*?)```", block[1], re.S)[1].splitlines()
    lines = [line.split("#")[0].split() for line in lines]
    assert 3 <= len(lines) <= 10 and lines[0] == ["pip", "install", "'ground-up[tools]'"]
    for name, sources in THREE.items():
        save(project / "nbs" / f"{name}.ipynb", *sources)
        assert f"nbs/{name}.ipynb" in block[1]
    (project / "pyproject.toml").write_text('[project]\nname = "bridges"\nversion = "0.1"\n')
    for name, *arguments in lines[1:]:
        if name == "pytest":
            plugin = ["-p", "no:ground_up", "-p", "ground_up_tools.pytest_notebooks"]
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *plugin, *arguments], cwd=project,
                env=os.environ | {"PYTHONPATH": str(installed)}, capture_output=True, text=True,
            )  # fmt: skip
            assert "3 passed" in done.stdout, done.stdout + done.stderr
            continue
        done = command(installed, name, project, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_reading_back_what_a_cell_is(project):
    cells = [cell("#| export: utils\nx", "a"), cell("#|hide\ny", "b")]
    path = save(project / "nbs/01_a.ipynb", *cells)
    a, b = read(path).cells
    assert a.exported and a.target == "utils" and not b.exported
