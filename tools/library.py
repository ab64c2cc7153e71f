"""What the exporter refuses across notebooks: duplicate modules and names, and imports."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from directives import EXPORTS, parse_directive
from names import absolute, decorator_name, star_imports
from notebooks import Cell, Notebook, Problem
from project import show
from render import Module, Part, listed
from stars import Stars

NUMBERED_MODULE = re.compile(r"nb\d+[a-z]?")
STAR = re.compile(r"import\s*\*")


@dataclass(frozen=True)
class Library:
    """What is checked together: notebooks, their modules, where those go, the house rules."""

    notebooks: list[Notebook]
    modules: list[Module]
    lib: Path
    rules: frozenset[str] = frozenset()

    @property
    def package(self) -> str:
        return self.lib.name

    @cached_property
    def by_name(self) -> dict[str, Module]:
        return {module.name: module for module in self.modules}

    @cached_property
    def stars(self) -> Stars:
        made = {f"{self.package}.{m.name}": m.public_names for m in self.modules}
        return Stars(made, self.lib.absolute().parent)

    def full_name(self, module: Module) -> str:
        return f"{self.package}.{module.name}"


def line_of(node: ast.AST, cell: Cell) -> int:
    return getattr(node, "lineno", 1) + cell.first_line - 1


def stars_of(part: Part) -> list[ast.ImportFrom]:
    return list(star_imports(part.cell.tree)) if STAR.search(part.cell.code) else []


def is_dynamic(module: Module) -> bool:
    """Whether code may give the module names that cannot be read off it."""
    makers = {"globals", "exec", "setattr", "__getattr__"}
    return any(event.name in makers for part in module.parts for event in part.cell.events)


# --- homes ----------------------------------------------------------------------------------------


def one_module(library: Library) -> Iterator[Problem]:
    """A module has one notebook, is not also a folder, and has a topic of its own."""
    groups = [("module", [n for n in library.notebooks if any(not c.target for c in n.exported)])]
    if "init" in library.rules:
        numbered = [n for n in groups[0][1] if NUMBERED_MODULE.fullmatch(n.module or "")]
        groups.append(("topic", numbered))
    for attribute, group in groups:
        homes: dict[str, Notebook] = {}
        for notebook in group:
            name = getattr(notebook, attribute)
            if name and homes.setdefault(name, notebook) is not notebook:
                what = f"has the {attribute} {name}, as does {show(homes[name].path)}"
                yield Problem(notebook.path, what, "rename one of them")
    packages = {name.rsplit(".", n)[0]: module for name, module in library.by_name.items()
                for n in range(1, name.count(".") + 1)}  # fmt: skip
    for name in packages.keys() & library.by_name.keys():
        notebook = library.by_name[name].notebook
        what = f"makes the module {name}, but {packages[name].name} needs a folder of that name"
        yield Problem(notebook.path, what, f"choose another name, such as {name}.core")


def unknown_module(library: Library) -> Iterator[Problem]:
    """`#export NAME` may be a comment, unless a notebook makes that module."""
    made = {notebook.module for notebook in library.notebooks}
    for notebook in library.notebooks:
        for cell in notebook.exported:
            lines = cell.source.split("\n")[: cell.first_line - 1]
            for number, line in enumerate(lines, 1):
                name, argument = parse_directive(line) or ("", "")
                if name in EXPORTS and cell.target == argument != "" and "|" not in line:
                    if argument not in made:
                        what = f"`{line.strip()}`: export takes nothing, `replaces NAME`, or a "
                        what += "module that a notebook makes"
                        remedy = f"write `#| export {argument}` if that is where the cell goes"
                        yield Problem(notebook.path, what, remedy, cell, number)


def two_homes(library: Library) -> Iterator[Problem]:
    """A public name is bound once in a module, and exported by one module only."""
    exports: dict[str, tuple[Notebook, Cell]] = {}
    for module in library.modules:
        if "names" in library.rules:
            yield from bound_again(module)
        public = set(module.public_names)
        for part in module.parts if library.rules & {"names", "init"} else ():
            replaced = replaced_by(part.cell)
            for name, how, node, _ in part.cell.bindings:
                if how != "define" or name not in public or name in replaced:
                    continue
                home, first = exports.setdefault(name, (module, part))
                if home is not module:
                    cell = f"cell {first.cell.number} ({first.cell.id})"
                    what = f"exports `{name}` again, after {cell} of {show(first.notebook.path)}"
                    remedy = f"choose another name, or say `#export replaces {name}`"
                    line = line_of(node, part.cell)
                    yield Problem(part.notebook.path, what, remedy, part.cell, line)


def bound_again(module: Module) -> Iterator[Problem]:
    bound: dict[str, tuple[Part, ast.stmt, str]] = {}
    for part in module.parts:
        replaced = replaced_by(part.cell)
        for name, how, node, statement in part.cell.bindings:
            if name.startswith("_") or how == "loop" or name in replaced:
                continue
            origin = imported(node, name) if how == "import" else how
            first, other, same = bound.setdefault(name, (part, statement, origin))
            if other is statement or (origin == same and how != "define") or adds(node, other):
                continue
            what = f"binds `{name}` again, after cell {first.cell.number} ({first.cell.id})"
            remedy = f"choose another name, or say `#export replaces {name}`"
            line = line_of(node, part.cell)
            yield Problem(part.notebook.path, what, remedy, part.cell, line)


def replaced_by(cell: Cell) -> list[str]:
    argument = cell.directives.get("export", "")
    return re.findall(r"\w+", argument)[1:] if argument.startswith("replaces") else []


def adds(node: ast.AST, other: ast.stmt) -> bool:
    """Whether a def is one more case of the same function: `@dispatch`, `@f.register`, a setter."""
    ways = {"dispatch", "typedispatch", "register", "setter", "getter", "deleter", "overload"}
    both = (getattr(n, "decorator_list", []) for n in (node, other))
    return any(decorator_name(d) in ways for decorators in both for d in decorators)


def imported(node: ast.Import | ast.ImportFrom, name: str) -> str:
    """What an import binds a name to, as a text: importing the same thing twice is fine."""
    source = "." * getattr(node, "level", 0) + (getattr(node, "module", None) or "")
    for alias in node.names:
        if alias.asname == name or alias.name == name:
            return f"{source}:{alias.name}"
    return f"{source}:{name}"  # import os.path binds os


def later_import(library: Library) -> Iterator[Problem]:
    """A notebook builds on earlier ones only, and on what they export.

    Unless the order is a house rule, only what would break the import of a module is refused.
    """
    strict = "order" in library.rules
    topics = {m.topic: m for m in library.modules if strict}
    homes = {name: m for m in library.modules for name in m.public_names if strict}
    named = {**topics, **library.by_name}
    for notebook in library.notebooks:
        for cell in notebook.cells:
            if cell.kind != "code" or not (strict or cell.exported):
                continue
            within = cell.target or notebook.module or "x"
            for line, module, name in imports_of(cell, library.package, strict, within):
                what = ""
                target = named.get(module)
                if name is None and module in homes:
                    target = homes[module]  # from exp import accuracy
                if target is None:
                    if strict and NUMBERED_MODULE.fullmatch(module):
                        what = f"imports {library.package}.{module}, which no notebook makes"
                elif strict and target.notebook.order >= notebook.order:
                    path = show(target.notebook.path)
                    what = f"imports {library.package}.{module}, but {path} is not earlier"
                elif name and name != "*" and not has_name(library, target, name):
                    what = f"imports `{name}`, which {show(target.notebook.path)} does not export"
                if what:
                    remedy = "correct the import, or move the code"
                    yield Problem(notebook.path, what, remedy, cell, line)


def imports_of(
    cell: Cell, package: str, everywhere: bool = True, within: str = "x"
) -> Iterator[tuple[int, str, str | None]]:
    """Each import from the package in a cell: (line, module, name or None).

    `from exp.nb01 import f` is `(1, "nb01", "f")`, `import exp.nb01` is `(1, "nb01", None)`. With
    `everywhere` those inside functions, too. `within` is the module that the cell is in.
    """
    if not re.search(rf"\b{re.escape(package)}\b|\bfrom\s+\.", cell.code):  # parsing is slow
        return
    tree = cell.tree or ast.Module([], [])
    for node in ast.walk(tree) if everywhere else tree.body:
        line = getattr(node, "lineno", 1) + cell.first_line - 1
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith(package + "."):
                    yield line, alias.name.removeprefix(package + "."), None
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node, f"{package}.{within}")
            for alias in node.names:
                if module == package:
                    yield line, alias.name, None
                elif module.startswith(package + "."):
                    yield line, module.removeprefix(package + "."), alias.name


def has_name(library: Library, module: Module, name: str) -> bool:
    if name in module.names or name.startswith("__") or f"{module.name}.{name}" in library.by_name:
        return True
    if is_dynamic(module):
        return True
    for part in module.parts:
        for node in stars_of(part) if part.cell.tree else ():
            names = library.stars.names(absolute(node, library.full_name(module)))
            if names is None or name in names:
                return True
        if any(e.name == name and e.binds for e in part.cell.events):
            return True
    return False


def listed_without_being_there(library: Library) -> Iterator[Problem]:
    """nbdev's `_all_` puts names into `__all__`; one that the module lacks breaks star imports."""
    for module in library.modules:
        for part in module.parts:
            for statement in part.cell.tree.body if part.cell.tree else ():
                for name in listed(statement):
                    if not has_name(library, module, name):
                        what = f"`_all_` lists `{name}`, which the module does not define"
                        line = line_of(statement, part.cell)
                        remedy = "define it, or `import *` from there fails"
                        yield Problem(part.notebook.path, what, remedy, part.cell, line, mild=True)


TOGETHER = (one_module, unknown_module, two_homes, later_import, listed_without_being_there)
