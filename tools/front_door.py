"""The `__init__.py` of a library: every public name, imported on first use."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modules import read_module
from notebooks import Cell, Problem, short_hash
from render import Module, docstring

WIDTH = 100


@dataclass(frozen=True)
class Name:
    """A public name of a module: the cell that defines it, and what it is in a sentence."""

    name: str
    cell: Cell
    sentence: str
    kind: str  # "class", "function" or "value"


def names_of(module: Module) -> list[Name]:
    """The public names of a module, in order, each with its first sentence."""
    found: dict[str, Name] = {}
    public = module.public_names
    for part in module.parts:
        for name, how, node, statement in part.cell.bindings:
            if how == "define" and name in public:
                sentence = first_sentence(node, statement, part.cell)
                described = Name(name, part.cell, sentence, kind(node))
                if described.sentence or name not in found:
                    found[name] = described
    return [found[name] for name in public if name in found]


def kind(node: ast.AST) -> str:
    if isinstance(node, ast.ClassDef):
        return "class"
    return "function" if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else "value"


def first_sentence(node: ast.AST, statement: ast.stmt, cell: Cell) -> str:
    """The first sentence of a docstring; of a value, the beginning of its definition."""
    if kind(node) == "value":
        value = getattr(statement, "value", None)
        code = value and ast.get_source_segment(cell.code, value)
        return "= " + textwrap.shorten(code, 60, placeholder=" …") if code else ""
    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", text)[0]


def topics_of(modules: Iterable[Module]) -> dict[str, str]:
    """Topic -> module, for those topics that are neither a public name nor a module's name."""
    modules = list(modules)
    taken = {name for m in modules for name in (*m.public_names, m.name.split(".")[0])}
    return {
        m.topic: m.name
        for m in modules
        if m.topic.isidentifier() and not m.topic.startswith("_") and m.topic not in taken
    }


def render_init(modules: list[Module], package: str, description: str = "") -> str:
    """Write `__init__.py`: an index as its docstring, and each name as a lazy attribute."""
    topics = topics_of(modules)
    named = [m for m in modules if m.public_names]
    description = description or f"The library {package}: one module for each notebook."
    text = docstring(description, introduction(package, named, topics), index(modules, topics))
    code = INIT
    replacements = {
        "NAMES": "".join(
            f'    "{m.name}": """{wrapped(m.public_names, len(m.name) + 10)}""",\n' for m in named
        ),
        "TOPICS": "".join(f'    "{topic}": "{module}",\n' for topic, module in topics.items()),
        "IMPORTS": "".join(map(explicit_imports, named)) + topic_imports(topics) or "\n    pass",
        "PACKAGE": package,
    }
    for mark, value in replacements.items():
        code = code.replace(f"{{{mark}}}", value)
    first, _, rest = f"{text}\n{code}".partition("\n\nimport")
    return f"{first} · {short_hash(first + rest)}\n\nimport{rest}"


def introduction(package: str, named: list[Module], topics: dict[str, str]) -> str:
    """The ways to import a name, with one of this library's as the example."""
    if not named:
        return ""
    module = next((n for n in named if "Learner" in n.public_names), named[0])
    name = "Learner" if "Learner" in module.public_names else module.public_names[0]
    lines = [f"from {package} import {name}", f"from {package}.{module.name} import {name}"]
    if topics.get(module.topic) == module.name:
        lines.append(f"from {package}.{module.topic} import {name}")
    width = max(map(len, lines))
    reasons = ["  # any name below", "  # or from its module", "  # or from its topic"]
    return "\n".join(
        "    " + line.ljust(width) + why for line, why in zip(lines, reasons, strict=False)
    )


def index(modules: list[Module], topics: dict[str, str]) -> str:
    """Each module, its topic and title, and its names with their first sentences."""
    parts = []
    for module in modules:
        topic = f" ({module.topic})" if topics.get(module.topic) == module.name else ""
        rows = [f"{module.name}{topic}: {module.title}"]
        names = names_of(module)
        width = min(max((len(n.name) for n in names), default=0), 28) + 2
        for name in names:
            hanging = " " * (4 + width)
            start = f"    {name.name:<{width}}"
            text = textwrap.fill(
                start + name.sentence, WIDTH, subsequent_indent=hanging, break_long_words=False,
                break_on_hyphens=False,
            ) if name.sentence else start.rstrip()  # fmt: skip
            rows.append(text)
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def wrapped(words: Iterable[str], indent: int, separator: str = " ") -> str:
    rest = " " * indent
    return textwrap.fill(
        separator.join(words), WIDTH - 5, initial_indent=rest, subsequent_indent=rest,
        break_long_words=False, break_on_hyphens=False,
    ).lstrip()  # fmt: skip


def explicit_imports(module: Module) -> str:
    """The import of a module's names; `as` tells type checkers that they are passed on."""
    names = [f"{name}\xa0as\xa0{name}" for name in module.public_names]
    body = wrapped(names, 8, ", ").replace("\xa0", " ")
    return f"\n    from .{module.name} import (\n        {body},\n    )"


def topic_imports(topics: dict[str, str]) -> str:
    """The topics as names of modules, for editors."""
    lines = [f"from . import {wrapped((m for m in topics.values() if '.' not in m), 8, ', ')}"]
    if "," in lines[0]:
        lines = [f"from . import (\n        {lines[0].removeprefix('from . import ')},\n    )"]
    lines = lines if any("." not in m for m in topics.values()) else []
    for topic, module in topics.items():
        package, _, name = module.rpartition(".")
        if package:
            lines.append(f"from .{package} import {name}")
        lines.append(f"{topic} = {name}")
    return "".join(f"\n    {line}" for line in lines)


INIT = '''
# generated from the notebooks: do not edit

import importlib as _importlib
import importlib.machinery as _machinery
import sys as _sys
from typing import TYPE_CHECKING

_names = {
{NAMES}}
_home = {name: module for module, names in _names.items() for name in names.split()}

_topics = {
{TOPICS}}


if not TYPE_CHECKING:  # to type checkers, a module with a __getattr__ has every name

    def __getattr__(name):
        """Import the module that a name, a topic or a number stands for; return what is meant."""
        if name in _home:
            return getattr(_importlib.import_module(f"{__name__}.{_home[name]}"), name)
        if name == "__all__" and _sys._getframe(1).f_globals.get("__name__") != "pydoc":
            return list(_home)  # a star imports every name; help() is to stay an index
        if name in _topics or name in _names:
            return _importlib.import_module(f"{__name__}.{_topics.get(name, name)}")
        raise AttributeError(_unknown(name), name=name)


def __dir__():
    return sorted([*(n for n in globals() if n.startswith("__")), *_home, *_topics])


def _unknown(name):
    from difflib import get_close_matches

    close = get_close_matches(name, [*_home, *_topics], cutoff=0.7)
    meant = f"; did you mean {' or '.join(close)}?" if close else ";"
    return f"{__name__} has no {name!r}{meant} help({__name__}) lists all names"


class _Topics:
    """Make `import {PACKAGE}.TOPIC` mean the module of that topic, the very same object."""

    package = __name__

    @staticmethod
    def find_spec(fullname, path=None, target=None):
        package, _, name = fullname.rpartition(".")
        if package == __name__ and name in _topics:
            return _machinery.ModuleSpec(fullname, _Topics)
        if package == __name__ and not name.startswith("_") and name not in _home:
            raise ModuleNotFoundError(_unknown(name))  # also for `from {PACKAGE} import name`

    @staticmethod
    def create_module(spec):
        module = _importlib.import_module(f"{__name__}.{_topics[spec.name.rpartition('.')[2]]}")
        spec.loader_state = module.__spec__
        return module

    @staticmethod
    def exec_module(module):
        module.__spec__ = module.__spec__.loader_state  # the module keeps its own name


_sys.meta_path[:] = [f for f in _sys.meta_path if getattr(f, "package", None) != __name__]
_sys.meta_path.append(_Topics)

if TYPE_CHECKING:  # what editors and type checkers read{IMPORTS}
'''


def edited_init(path: Path) -> list[Problem]:
    """Refuse to overwrite an `__init__.py` that was written or edited by hand."""
    first, _, rest = (read_module(path) or "").partition("\n\nimport")
    if not first.strip():
        return []
    body, _, mark = first.rpartition(" · ")
    if mark == short_hash(body + rest):
        return []
    if INIT.split("\n")[1] in first:
        return [Problem(path, "was edited by hand", "undo that, or delete the file; then export")]
    remedy = "move it away, then export; or leave `init` out of house_rules in the settings"
    return [Problem(path, "was written by hand", remedy)]
