"""From notebooks to modules: which cells go into which, and the text that is written."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from directives import importable
from names import extends
from notebooks import Block, Cell, Notebook, header_hash, short_hash
from order import arranged


@dataclass(frozen=True)
class Part:
    """A cell on its way into a module, and the notebook that it is from."""

    notebook: Notebook
    cell: Cell


@dataclass(frozen=True)
class Module:
    """A module of the library: the notebook that it belongs to, and the cells that make it."""

    name: str
    notebook: Notebook
    parts: tuple[Part, ...]

    @cached_property
    def names(self) -> set[str]:
        """Every name that the module's own code binds."""
        return set().union(*(part.cell.names for part in self.parts))

    @cached_property
    def public_names(self) -> list[str]:
        """What `__all__` lists: each public name that an exported cell defines, in order, once."""
        names: dict[str, None] = {}
        for part in self.parts:
            if "exporti" not in part.cell.directives:
                names |= dict.fromkeys(defined(part))
        for part in self.parts:
            statements = part.cell.tree.body if part.cell.tree else ()
            for statement in statements:
                names |= dict.fromkeys(listed(statement))
                for target in statement.targets if isinstance(statement, ast.Delete) else ():
                    names.pop(getattr(target, "id", None), None)
        return list(names)

    @property
    def topic(self) -> str:
        return self.notebook.topic

    @property
    def title(self) -> str:
        return self.notebook.title


def defined(part: Part) -> Iterator[str]:
    """The public names that a cell defines. A notebook of nbdev's, which says `default_exp`, lists
    in `__all__` what nbdev lists: what stands at the left edge, but no def that is a patch."""
    if not part.notebook.default_exp:
        found = [name for name, how, *_ in part.cell.bindings if how == "define"]
    else:
        found = [n for s in (part.cell.tree.body if part.cell.tree else ()) for n in left_edge(s)]
    return (name for name in found if not name.startswith("_"))


def left_edge(statement: ast.stmt) -> list[str]:
    """The names that nbdev takes from a statement."""
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = getattr(statement, "targets", None) or [statement.target]
        flat = [t for target in targets for t in getattr(target, "elts", [target])]
        return [target.id for target in flat if isinstance(target, ast.Name)]
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return []
    decorators = [getattr(d, "func", d) for d in statement.decorator_list]
    plain = [d for d in decorators if isinstance(d, ast.Name)]  # nbdev looks at no `fc.patch`
    return [] if any(map(extends, plain)) else [statement.name]


def listed(statement: ast.stmt) -> list[str]:
    """The names in nbdev's `_all_ = ["name", name]`, which go into `__all__` as they are."""
    targets = getattr(statement, "targets", ()) if isinstance(statement, ast.Assign) else ()
    if not any(getattr(target, "id", "") == "_all_" for target in targets):
        return []
    elements = getattr(statement.value, "elts", ())
    names = [getattr(e, "value", None) or getattr(e, "id", None) for e in elements]
    return [name for name in names if isinstance(name, str)]


def gather(notebooks: Iterable[Notebook]) -> list[Module]:
    """The modules that notebooks make, in order; what others add comes after a module's own."""
    notebooks = list(notebooks)
    own: dict[str, Notebook] = {}
    parts: dict[str, list[Part]] = {}
    for notebook in notebooks:
        if notebook.module and any(not cell.target for cell in notebook.exported):
            own.setdefault(notebook.module, notebook)
    added: list[tuple[str, Part]] = []
    for notebook in notebooks:
        for cell in notebook.exported:
            name, part = cell.target or notebook.module, Part(notebook, cell)
            if name is None or not importable(name):
                continue  # refused elsewhere
            if own.get(name) is notebook:
                parts.setdefault(name, []).append(part)
            else:
                added.append((name, part))
    for name, part in added:
        parts.setdefault(name, []).append(part)
    return [
        Module(name, own.get(name) or found[0].notebook, tuple(found))
        for name, found in parts.items()
    ]


# --- the text ------------------------------------------------------------------------------------


def render(module: Module, nbs: Path) -> str:
    """Write a module: docstring, `__all__`, `__dir__`, imports, then the cells in order.

    A marker comment `# cell ID HASH · heading` stands above each block of a cell, and the header
    carries a hash of its own: so what was edited by hand shows.
    """
    text: dict[str, list[str]] = {"future": [], "imports": [], "body": []}
    for number, block in arranged([part.cell for part in module.parts]):
        part = module.parts[number]
        text[block.kind].append(f"{marker(part, block, module, nbs)}\n{block.text}")
    names = "".join(f'    "{name}",\n' for name in module.public_names)
    title = docstring(module.title, module.notebook.summary)
    listing = "__all__ = []"
    if names:
        listing = f"__all__ = [\n{names}]\n__dir__ = __all__.copy  # what completion offers"
    source = f"# generated from {relative(module.notebook, nbs)}: do not edit"
    marks = [block.split("\n", 1)[0].split()[2] for kind in text for block in text[kind]]
    header = [
        title,
        *text["future"],
        f"{source} · {header_hash(title + chr(10) + listing, marks)}\n{listing}",
        *text["imports"],
    ]
    return "\n\n\n".join(["\n\n".join(header), *text["body"]]) + "\n"


def relative(notebook: Notebook, nbs: Path) -> str:
    """The path of a notebook as its module names it: from the folder that `nbs` is in."""
    path = os.path.relpath(notebook.path.absolute(), nbs.absolute().parent)
    return path.replace(os.sep, "/").encode("utf-8", "replace").decode()


def marker(part: Part, block: Block, module: Module, nbs: Path) -> str:
    origin = "" if part.notebook is module.notebook else f" in {relative(part.notebook, nbs)}"
    heading = f" · {part.cell.heading}" if part.cell.heading else ""
    return f"# cell {part.cell.id} {short_hash(block.text)}{origin}{heading}"


def docstring(title: str, *paragraphs: str) -> str:
    """Quote text as a docstring, whatever it holds."""
    text = "\n\n".join(part for part in (title, *paragraphs) if part)
    text = text.encode("utf-8", "replace").decode().replace("\\", "\\\\").replace("\0", "\\0")
    if '"""' in text or text.endswith('"'):
        text = text.replace('"', '\\"')
    return f'"""{text}\n"""' if "\n" in text else f'"""{text}"""'
