"""Names that an exported cell uses but its module lacks, or defines too late."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

from library import STAR, Library, is_dynamic, line_of, stars_of
from names import Event, absolute, star_imports
from notebooks import Cell, Problem
from render import Module, Part

GIVEN = {*dir(builtins), "__name__", "__file__", "__doc__", "__spec__", "__package__", "__path__",
         "__all__", "__class__", "__builtins__", "__loader__", "__annotations__"}  # fmt: skip
IPYTHON = {"display", "get_ipython", "In", "Out", "exit", "quit", "_"}  # only in a notebook


def names_left_behind(library: Library) -> Iterator[Problem]:
    """Every name that an exported cell uses must be in its module, and defined in time."""
    for module in library.modules:
        parts = [part for part in module.parts if part.cell.tree]
        bound = {e.name for part in parts for e in part.cell.events if e.binds} | GIVEN
        used = {e.name for part in parts for e in part.cell.events if e.how == "read"}
        stars: dict[str, set[str] | None] = {}  # what each star import brings, if that can be told
        for part in parts if used - bound else ():
            for node in stars_of(part):
                source = absolute(node, library.full_name(module))
                stars[source] = library.stars.names(source)
        brought = set().union(*filter(None, stars.values()))
        for part in parts:
            missing: dict[str, Event] = {}  # its first use, one that runs at once before others
            for event in sorted(part.cell.events, key=lambda e: e.later):
                if event.how == "read" and event.name not in bound and event.name not in brought:
                    missing.setdefault(event.name, event)
            for name in sorted(missing):
                yield from left_behind(library, module, part, missing[name], stars)
        yield from too_late(library, module, parts)


def left_behind(
    library: Library, module: Module, part: Part, use: Event, stars: dict[str, set[str] | None]
) -> Iterator[Problem]:
    """Report a name that the module lacks.

    If a cell that is not exported defines it, that is refused. If nothing does, it is refused where
    importing the module would fail, or where a house rule says so; elsewhere it is only noted.
    """
    name, mild = use.name, False
    unseen = sorted(source for source, names in stars.items() if names is None)
    home = hidden_home(library, part, name)
    if home:
        what = f"uses `{name}`, which only cell {home.number} ({home.id}) defines"
        remedy = "export that cell too, or pass the value in"
        if unseen:
            what = f"uses `{name}`, which the unexported cell {home.number} ({home.id}) defines"
            remedy += f"; or install {', '.join(unseen)}, if `import *` brings it from there"
    elif any(name in p.names for p in part.notebook.exported):
        what = f"uses `{name}`, which goes to a module other than {module.name}"
        remedy = "import it from there"
    elif unseen or is_dynamic(module) or is_quoted(module, name):
        return
    else:
        what = f"uses `{name}`, which nothing in the notebook defines"
        remedy = "import or define it in an exported cell"
        if name in IPYTHON:
            what = f"uses `{name}`, which exists only in a notebook"
            remedy = "import it in an exported cell, from IPython"
        mild = use.later and bool(stars or name in IPYTHON) and "names" not in library.rules
    yield Problem(part.notebook.path, what, remedy, part.cell, line_of(use.node, part.cell), mild)


def is_quoted(module: Module, name: str) -> bool:
    """Whether some string in the code is this name, so that a call may create it."""
    trees = (part.cell.tree for part in module.parts if name in part.cell.code)
    nodes = (node for tree in trees if tree for node in ast.walk(tree))
    return any(isinstance(node, ast.Constant) and node.value == name for node in nodes)


def hidden_home(library: Library, part: Part, name: str) -> Cell | None:
    """The first cell of a part's notebook that defines a name and is not exported."""
    for cell in part.notebook.cells:
        if cell.kind == "code" and not cell.exported:
            if name in cell.code and name in cell.names:
                return cell
            for node in star_imports(cell.tree) if STAR.search(cell.code) and cell.tree else ():
                if name in (library.stars.names(absolute(node, library.package + ".x")) or ()):
                    return cell
    return None


def too_late(library: Library, module: Module, parts: list[Part]) -> Iterator[Problem]:
    """Report a name that a hidden cell defines before its use, and an exported one only after."""
    arrivals = {event.name for part in parts for event in part.cell.events if event.binds}
    for star in (star for part in parts for star in stars_of(part)):
        arrivals |= brought_by(library, module, star)
    there: set[str] = set(GIVEN)
    needs: dict[str, set[str]] = {}  # what a function or class reads when it is called
    for part in parts:
        stars = stars_of(part)
        later: dict[ast.stmt, set[str]] = {}
        for event in part.cell.events:
            if event.later and event.how == "read":
                later.setdefault(event.statement, set()).add(event.name)
        for event in part.cell.events:
            while stars and stars[0].lineno < event.statement.lineno:
                there |= brought_by(library, module, stars.pop(0))
            if event.later:
                continue
            if event.binds:
                there.add(event.name)
                needs[event.name] = later.get(event.statement, set())
                continue
            for name in sorted(arrivals & closure(event.name, needs) - there):
                home = hidden_home(library, part, name)
                if home is None or home.index > part.cell.index:
                    continue
                what = f"needs `{name}` from the unexported cell {home.number} ({home.id})"
                remedy = "export that cell too; the exported cell that defines it comes too late"
                line = line_of(event.node, part.cell)
                yield Problem(part.notebook.path, what, remedy, part.cell, line)
                there.add(name)
        for star in stars:
            there |= brought_by(library, module, star)


def brought_by(library: Library, module: Module, star: ast.ImportFrom) -> set[str]:
    """What a star import brings, as far as that can be told."""
    return library.stars.names(absolute(star, library.full_name(module))) or set()


def closure(name: str, needs: dict[str, set[str]]) -> set[str]:
    """A name, what it needs when it is called, and so on."""
    found, todo = set(), [name]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += needs.get(name, ())
    return found
