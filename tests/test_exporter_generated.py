"""The exporter on thousands of generated notebooks: never a wrong module, never a traceback."""

import json
import os
import random
import shutil
import string
import sys
import types
from pathlib import Path

import pytest

from notebook2script import notebook2script, plan
from notebooks import ToolError

# --- modules mean what their cells mean ----------------------------------------------------------

NAMES = ["a", "b", "c", "f", "g", "sqrt", "pi", "K"]
STATEMENTS = """
{x} = {n}
{x} = {y} + {n} if isinstance({y}, int) else {n}
{x} += {n}
{x}: int = {n}
import os
import os, sys
import os; import sys
import json as {x}
from math import sqrt
from math import pi as {x}
from math import *
from os.path import *
from operator import add as {x}
from reads_environment import FLAG as {x}
import reads_environment
import vendored
from vendored import *
import os
os.environ["FLAG"] = "flag {n}"
import sys
sys.path.insert(0, "vendor")
def {f}({y}={n}): return {x}
def {f}(z={x}): return z
@callable
def {f}(): return {n}
class {f}: n = {x}
class {f}:
    n = {n}
    def method(self): return {y}
{f} = lambda: {y}
{x} = {f}() if callable({f}) else {f}
{x} = [{y} for {y} in range({n})]
{x} = [({f} := i) for i in range(3)][-1]
for {x} in range({n}): {y} = {x}
if {x}: {y} = {n}
try: {x} = {y}
except NameError: {x} = {n}
try:
    import no_such_module as {x}
except ImportError:
    {x} = None
def {f}():
    global {x}
    {x} = {n}
def {f}():
    global {x}
    {x} += {n}
{f}()
del {x}
{x} = {y} = ({n}, {n})
({x}, *{y}) = range({n}, {n} + 3)
\"\"\"a text\"\"\"
from __future__ import annotations
def {f}(z: int = 1) -> int: return {y} + z
{x} = __name__
with open(os.devnull) as file: {x} = file.closed
_all_ = ["{x}"]
"""


def statements():
    """The statements above; one that begins with a bracket, a colon or a space goes on."""
    found = []
    for line in STATEMENTS.strip().split("\n"):
        goes_on = line.startswith((" ", "except ", "os.", "sys.path")) or (
            found and found[-1] == "@callable"
        )
        if goes_on:
            found[-1] += "\n" + line
        else:
            found.append(line)
    return found


POOL = statements()


def generated(draw: random.Random) -> list[tuple[bool, str]]:
    """The cells of a notebook: whether each is exported, and its code."""
    cells = []
    names = draw.sample(NAMES, 5)  # few names, so that they meet
    if draw.random() < 0.8:
        some = draw.sample(names, draw.choice([3, 5]))
        known = [f"{name} = {draw.randint(1, 9)}" for name in some]
        cells.append((draw.random() < 0.9, "\n".join(known)))
    for _ in range(draw.randint(2, 7)):
        lines = []
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            x, y, f = (draw.choice(names) for _ in range(3))
            line = draw.choice(POOL)
            n = draw.randint(1, 5)
            for mark, value in {"{x}": x, "{y}": y, "{f}": f, "{n}": str(n)}.items():
                line = line.replace(mark, value)
            lines.append(line)
        lines.sort(key=lambda line: "__future__" not in line)
        cells.append((draw.random() < 0.75, "\n".join(lines)))
    return cells


def write(path: Path, cells: list[tuple[bool, str]]) -> None:
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "outputs": [], "execution_count": None,
         "source": "#| export\n" * exported + code}
        for i, (exported, code) in enumerate(cells)
    ]  # fmt: skip
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))


def run(codes: list[str]) -> dict | type[Exception]:
    """The names after running pieces of code one after the other, or what one failed with."""
    scope = {"__name__": "module"}
    environment, path = dict(os.environ), sys.path.copy()
    try:
        for code in codes:
            exec(compile(code, "<code>", "exec", dont_inherit=True), scope)
    except Exception as error:
        return type(error)
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        for name in ("reads_environment", "vendored"):
            sys.modules.pop(name, None)
    hidden = {"__builtins__", "__doc__", "__all__", "__dir__", "annotations", "__annotations__"}
    return {name: plain(value) for name, value in scope.items() if name not in hidden}


def plain(value: object) -> object:
    """What two runs can be compared by."""
    if isinstance(value, types.FunctionType):
        code, defaults = value.__code__, value.__defaults__ or ()
        return value.__name__, code.co_code, code.co_names, [plain(d) for d in defaults]
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, type) and value.__module__ == "module":
        return value.__name__, plain(value.__dict__.get("n"))
    text = repr(value)
    return text if " at 0x" not in text else type(value).__name__


def check(folder: Path, cells: list[tuple[bool, str]]) -> str:
    """Export one notebook and compare; how that went."""
    write(folder / "nbs" / "01_generated.ipynb", cells)
    try:
        made = plan(nbs=folder / "nbs", lib=folder / "lib").files
    except ToolError:
        return "refused"
    texts = [text for path, text in made.items() if path.name == "nb01.py"]
    if not texts:
        return "nothing"
    module = run(texts)
    alone = run([code for exported, code in cells if exported])
    whole = run([code for _, code in cells])
    if isinstance(module, dict) or isinstance(alone, dict):
        assert module == alone, f"{cells}\n\n{texts[0]}"
    if isinstance(whole, dict):
        assert module is not NameError, f"only the notebook runs: {cells}\n\n{texts[0]}"
    return "compared" if isinstance(module, dict) else "fails alike"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("nbs", "vendor", "lib"):
        (tmp_path / name).mkdir()
    (tmp_path / "vendor" / "vendored.py").write_text("pi = 'vendored'\nK = 'vendored'\n")
    (tmp_path / "reads_environment.py").write_text("import os\nFLAG = os.environ.get('FLAG')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "number", [300, pytest.param(3000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_module_has_the_values_that_its_cells_have_in_order(folder, number):
    draw = random.Random(number)
    went = []
    while went.count("compared") < number:
        went.append(check(folder, generated(draw)))
    assert len(went) < 5 * number


# --- whatever a file holds, the answer is a module or a sentence ---------------------------------

SOURCES = [
    "#export\nimport os\nfrom math import *\n\ndef f(x, *, y=os.sep): return [i for i in x if i]",
    "#| export\n@patch\ndef f(self: A): yield sqrt(2)\nclass A(B, metaclass=C):\n    x: int = 1",
    "#| exporti\nfrom exp.nb01 import *\ntry:\n    import a.b as c\nexcept* E as e:\n    pass",
    "#| default_exp core.basics",
    "#| export other.place\nasync def g():\n    async with f() as (a, b):\n        await a",
    "#export replaces f\nmatch x:\n    case {'a': [1, *rest], **more}: y = lambda a=(z := 1): z",
    "%%time\n!ls\nx = !ls\n%matplotlib inline\nx?",
    "# Title with \"\"\" and \\ in it\n\n> A sentence.\n\n```\n# no title\n```",
    "#export\nglobal a\na += 1\n_all_ = ['a', a]\ndel a\nx = f\"{a!r:>{b}}\"\n__all__ = []",
    "#earns torch.nn.Linear\ntest(1)\n#export\ny = 2",
]  # fmt: skip
PIECES = [
    "\0", "\ud800", "\u2028", "\x0c", "\x1c", "\r", "\ufeff", "\u200b", "\t", "  ", "\n",
    "\n\n", "#", "#export\n", "#| export\n", "# %% export", "#|", "\\\n", "\"\"\"", "'", "(",
    ")", "[", "{", ":", ";", "@", "*", "=", ":=", "lambda: ", "await ", "yield ", "return 1\n",
    "import ", "from . import *\n", "from .. import a\n", "from exp import *\n", "class ",
    "def ", "if 1:\n", "global f\n", "nonlocal f\n", "nb01", "# cell c1 abcdef\n",
    "# generated from nbs/01_a.ipynb: do not edit\n", "-" * 500, "(" * 300, "1 + " * 1500 + "1",
    "[" * 90 + "]" * 90, "é", "变量 = 1\n", "\U0001f600", "𝐱 = 1\n", "0777", "1_000j",
]  # fmt: skip
ODD = [None, True, 0, -1, 1.5, "", "x", [], [1], {}, {"a": 1}, ["a", "b\n"], "code", [None]]


def spoilt(draw: random.Random) -> bytes:
    """A notebook with a few things wrong with its code, its structure or its bytes."""
    cells = []
    for index in range(draw.randint(1, 4)):
        source = draw.choice(SOURCES)
        for _ in range(draw.choice([0, 1, 1, 2, 4])):
            at = draw.randint(0, len(source))
            cut = at + draw.choice([0, 0, 0, 1, 5, 50])
            piece = draw.choice([*PIECES, draw.choice(string.printable)])
            source = source[:at] + piece + source[cut:]
        kind = "markdown" if source.startswith("# T") else draw.choice(["code"] * 8 + ["raw"])
        cells.append({"cell_type": kind, "id": f"c{index}", "metadata": {}, "source": source})
    metadata = draw.choice([{}, {}, {"kernelspec": {"language": "R"}}, {"nbdev": {"x": 1}}])
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    for _ in range(draw.choice([0, 0, 0, 1, 2])):
        place = draw.choice([notebook, *(cell for cell in cells if cell)])
        if isinstance(place, dict) and place:
            key = draw.choice(list(place))
            place[key] = draw.choice(ODD)
            if draw.random() < 0.2:
                del place[key]
        else:
            cells[0] = draw.choice(ODD)
    content = json.dumps(notebook).encode()
    if draw.random() < 0.1:
        at = draw.randint(0, len(content))
        rest = content[at + draw.randint(0, 9) :]
        content = content[:at] + draw.randbytes(draw.randint(0, 4)) + rest
    return content


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "number", [1000, pytest.param(10_000, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_a_spoilt_notebook_is_exported_or_refused_with_a_sentence(folder, number, capsys):
    draw = random.Random(number)
    files = [folder / "nbs" / name for name in ("01_a.ipynb", "02_b.ipynb", "sub/03_c.ipynb")]
    files[2].parent.mkdir()
    exported = 0
    for turn in range(number):
        content = spoilt(draw)
        for path in files if draw.random() < 0.8 else ():
            path.unlink(missing_ok=True)
        draw.choice(files).write_bytes(content)
        rules = f"house_rules = {draw.choice(['true', 'false', 'init'])}"
        (folder / "settings.ini").write_text(f"[DEFAULT]\nlib_path = exp\n{rules}\n")
        before = contents(folder / "exp")
        try:
            notebook2script(prune=turn % 3 == 0)
            exported += 1
        except ToolError as error:
            assert str(error).strip()
            assert contents(folder / "exp") == before
        except Exception as error:
            raise AssertionError(f"{content!r}") from error
        if turn % 20 == 0:
            for path in (folder / "exp").rglob("*.py"):
                compile(path.read_bytes(), str(path), "exec")
            shutil.rmtree(folder / "exp", ignore_errors=True)
        capsys.readouterr()
    assert exported > number // 50
