"""`from exp import Learner`: every public name, imported lazily, visible to people and editors."""

import ast
import importlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jedi
import pytest

import exp
import front_door
from notebook2script import notebook2script
from notebooks import find, read
from render import gather

ROOT = Path(__file__).parents[1]
IMPORTS = "from exp import Learner, DataLoaders, accuracy, fit_one_cycle, lr_find, Checkpoint"


@pytest.fixture(scope="module")
def modules():
    return gather(map(read, find(ROOT / "nbs")))


@pytest.fixture(scope="module")
def homes(modules):
    """Name -> the module that has it."""
    return {name: module.name for module in modules for name in module.public_names}


def python(code, folder=ROOT):
    """Run code in a fresh process; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def editor(code):
    return jedi.Script(code, path=ROOT / "scratch.py", project=jedi.Project(ROOT))


# --- names ---------------------------------------------------------------------------------------


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, exp; dir(exp); exp.__doc__; print(*sys.modules)"
    loaded = python(code).split()
    assert not {"torch", "numpy", "matplotlib", "inspect"} & set(loaded)
    assert not any(name.startswith("exp.") for name in loaded)


def test_every_name_of_every_module_is_there(homes):
    assert len(homes) > 250
    for name, module in homes.items():
        found = getattr(exp, name)
        assert found is getattr(importlib.import_module(f"exp.{module}"), name)
        assert name in dir(exp)


def test_one_import_line(homes):
    code = IMPORTS + "; import pickle; print(Learner.__module__, callable(lr_find))\n"
    code += "assert pickle.loads(pickle.dumps(Checkpoint)) is Checkpoint"
    assert python(code) == f"{homes['Learner']} True\n".replace("nb", "exp.nb")


def test_names_win_over_topics():
    from exp import datasets, lr_find, matmul

    assert all(map(callable, (datasets, lr_find, matmul)))
    for topic in ("lr_find", "matmul"):  # in both forms or in none
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"exp.{topic}")
    assert callable(exp.lr_find)


def test_a_topic_is_the_module_in_every_form(modules, homes):
    code = (
        "import exp.callbacks, sys\nfrom exp.callbacks import Learner\nfrom exp import callbacks\n"
        "import exp.MODULE as module, pickle, importlib\n"
        "assert callbacks is module is exp.callbacks is sys.modules['exp.callbacks']\n"
        "assert module.__name__ == module.__spec__.name == 'exp.MODULE'\n"
        "assert pickle.loads(pickle.dumps(Learner)) is Learner is exp.Learner is module.Learner\n"
        "assert importlib.reload(exp.callbacks) is module\n"
    ).replace("MODULE", homes["Learner"])
    python(code)
    for topic, module in front_door.topics_of(modules).items():
        found = importlib.import_module(f"exp.{topic}")
        assert found is getattr(exp, topic) is sys.modules[f"exp.{module}"]


def test_a_name_pickles_between_processes():
    code = "import pickle, sys, exp; sys.stdout.write(pickle.dumps(exp.SaveBest).hex())"
    assert pickle.loads(bytes.fromhex(python(code))) is exp.SaveBest


@pytest.mark.parametrize("code", ["exp.Lerner", "from exp import Lerner", "import exp.Lerner"])
def test_a_misspelt_name_is_answered_with_those_like_it(code):
    with pytest.raises((AttributeError, ImportError), match="'Lerner'; did you mean Learner?"):
        exec(code, {"exp": exp})
    assert not hasattr(exp, "Lerner")
    assert importlib.util.find_spec("exp.nb00") and importlib.util.find_spec("exp._private") is None


# --- help and editors ----------------------------------------------------------------------------


def test_help_is_an_index(modules):
    shown = python("import exp; help(exp)")
    top = shown[: shown.index("PACKAGE CONTENTS")]
    places = [top.index(f"\n    {module.name}") for module in modules]
    assert places == sorted(places)
    for module in modules:
        for name in front_door.names_of(module):
            assert f"\n        {name.name}" in top and name.sentence.split(" ")[0] in top
    assert "Methods defined here" not in shown  # an index, not the manual


def test_every_public_function_and_class_has_a_sentence(modules):
    for module in modules:
        for name in front_door.names_of(module):
            assert name.sentence, f"{module.name}.{name.name} has no docstring"


def test_an_editor_completes_names_and_jumps_to_their_definition(homes):
    code = f"{IMPORTS}\nimport exp\nexp.Lea\nLearner"
    assert "Learner" in [c.name for c in editor(code).complete(3, 7)]
    assert "Learner" in [c.name for c in editor("from exp import Lea").complete(1, 19)]
    (found,) = editor(code).goto(4, 3, follow_imports=True)
    assert found.module_path == ROOT / "exp" / f"{homes['Learner']}.py"
    assert found.module_path.read_text("utf-8").split("\n")[found.line - 1].startswith("class Lea")
    code = "from exp import callbacks\ncallbacks.Lea"
    assert [c.name for c in editor(code).complete(2, 13)] == ["Learner"]
    for private in ("importlib", "sys", "TYPE_CHECKING"):
        assert private not in dir(exp)


def test_type_checkers_see_every_name(homes):
    tree = ast.parse((ROOT / "exp/__init__.py").read_text("utf-8"))
    hidden, block = (node for node in tree.body if isinstance(node, ast.If))
    assert hidden.body[0].name == "__getattr__"  # else no checker would find a misspelt name
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom) and node.module]
    assert {a.name: node.module for node in imports for a in node.names} == homes
    assert all(a.name == a.asname for node in imports for a in node.names)  # passed on, in PEP 484
    assert (ROOT / "exp/py.typed").exists()


# --- other libraries -----------------------------------------------------------------------------


def library(folder, **notebooks):
    """Export notebooks of one cell each, and return the folder."""
    for name, source in notebooks.items():
        cells = [{"cell_type": "markdown", "id": "t", "metadata": {}, "source": f"# On {name}"}]
        cells += [{"cell_type": "code", "id": "c", "metadata": {}, "source": f"#export\n{source}",
                   "outputs": [], "execution_count": None}]  # fmt: skip
        path = folder / "nbs" / f"{name.lstrip('_')}.ipynb"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))
    (folder / "settings.ini").write_text("[DEFAULT]\nlib_path = lib\nhouse_rules = true\n")
    notebook2script()
    return folder


def test_the_index_of_another_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = library(
        tmp_path,
        _01_first="def one(): 'Return 1. Always.'\nTABLE = {'a': 1}\nbare: int\ndef quiet(): pass",
        _02_second="from lib.nb01 import one\nclass Two:\n    '''Twice\n    `one`.'''",
        _03_one="three = 3",
        _04_empty="_private = 1",
    )
    doc = ast.get_docstring(ast.parse((folder / "lib/__init__.py").read_text()))
    assert doc.startswith("The library lib: one module for each notebook.")
    assert "nb01 (first): On _01_first\n    one    Return 1.\n    TABLE  = {'a': 1}\n" in doc
    assert "    quiet" in doc and "nb02 (second): On _02_second\n    Two  Twice `one`." in doc
    assert "nb03: On _03_one" in doc  # its topic is a name
    python(
        "from lib import one, Two, three, TABLE, first; import lib.second\n"
        "assert one is first.one and callable(one) and lib.second.Two is Two and lib.nb02\n"
        "try: lib.secnd\nexcept AttributeError as e: assert 'did you mean second?' in str(e)\n",
        folder,
    )


def test_a_star_imports_every_name():
    code = "from exp import *; import exp; assert set(exp.__all__) <= set(globals())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
