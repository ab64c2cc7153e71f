"""What `from … import *` brings, found out by reading: no module of a third party is imported."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

from names import absolute, bound_names, star_imports


class Stars:
    """Answers what a star import of a module brings.

    `made` maps the full names of modules to their `__all__`; `root` is searched before sys.path.
    """

    def __init__(self, made: dict[str, Iterable[str]], root: Path):
        self.known: dict[str, set[str] | None] = {name: set(names) for name, names in made.items()}
        self.root, self.path = root, [str(root), *sys.path]
        self.looked_outside = False  # beyond what was made

    def names(self, module: str) -> set[str] | None:
        """The names that a star import of a module brings; None if that cannot be told."""
        if module not in self.known:
            self.known[module] = None  # for circles
            self.known[module] = self.look_up(module)
        return self.known[module]

    def look_up(self, module: str) -> set[str] | None:
        self.looked_outside = True
        try:
            file = self.file(module)
            if file is not None:
                return self.read(module, file)
        except (ImportError, OSError, ValueError, SyntaxError, RecursionError, MemoryError):
            return None
        if module.split(".")[0] in sys.stdlib_module_names:
            return self.ask(module)
        return None

    def file(self, module: str) -> Path | None:
        """The source of a module, without importing it or the package that it is in."""
        if module in ("os.path", *sys.builtin_module_names):
            return None
        own = self.root.joinpath(*module.split("."))
        for file in (own / "__init__.py", own.with_suffix(".py")):
            if file.is_file():
                return file
        path, spec = self.path, None
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            spec = PathFinder.find_spec(".".join(parts[:end]), path)
            if spec is None:
                return None
            path = spec.submodule_search_locations or []
        origin = spec.origin or ""
        return Path(origin) if origin.endswith(".py") else None

    def ask(self, module: str) -> set[str] | None:
        """Import a module of the standard library that has no source."""
        try:
            found = importlib.import_module(module)
        except Exception:
            return None
        return set(getattr(found, "__all__", [n for n in dir(found) if not n.startswith("_")]))

    def read(self, module: str, file: Path) -> set[str] | None:
        """What a file's `__all__` lists, or else its public names."""
        tree = ast.parse(file.read_bytes())
        package = f"{module}.x" if file.name == "__init__.py" else module
        listed: set[str] | None = None
        names: set[str] = set()
        for statement in tree.body:
            names |= {name for name, *_ in bound_names(statement)}
            targets = getattr(statement, "targets", [getattr(statement, "target", None)])
            if getattr(targets[0], "id", "") == "__all__":
                try:
                    listed = (listed or set()) | set(ast.literal_eval(statement.value))
                except (ValueError, TypeError):
                    return None  # computed
        if listed is not None:
            return listed
        for star in star_imports(tree):
            brought = self.names(absolute(star, package))
            if brought is None:
                return None
            names |= brought
        return {name for name in names if re.match("[^_]", name)}
