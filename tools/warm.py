"""Modules imported ahead of time, out of sight until a notebook imports them.

A server that imports torch and matplotlib once saves each notebook seconds. But a module that is
there already must not show: `import PIL; PIL.Image` fails in a fresh process, and would pass in the
fork of one in which matplotlib has imported `PIL.Image`. So `Warm.load` notes which module imports
which, and then hides them all: from sys.modules, and from the packages that hold them. When a
notebook imports one of them, it comes back together with everything that its import brings.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import importlib
import os
import shutil
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import resolve_name
from types import ModuleType

REMOVES = (shutil.rmtree, os.remove, os.unlink, os.rmdir, os.removedirs)


class Warm:
    """Imports modules, hides them, and is the finder (of sys.meta_path) that brings them back."""

    def __init__(self):
        self.needs: dict[str | None, set[str]] = {}  # module -> the modules that it imports
        self.loaded: set[str] = set()  # by the import system, not put into sys.modules by others
        self.at_exit: dict[str | None, list[tuple]] = {}  # module -> its exit handlers
        self.hidden: dict[str, ModuleType] = {}
        self.lock = threading.RLock()
        self.holders: dict[str, tuple[ModuleType, str]] = {}  # hidden -> package, attribute

    def load(self, modules: Iterable[str]) -> None:
        """Import these modules and hide everything that this brought."""
        before = set(sys.modules)
        with self._noting():
            for module in modules:
                with contextlib.suppress(Exception):  # the cell that needs it will fail, too
                    importlib.import_module(module)
        self.needs.pop("__main__", None)
        new = set(sys.modules) - before
        self._hide({name for name in new if "." in name or name in self.loaded})
        for reference in weakref.finalize._registry:
            reference.atexit = False  # what the server made is not a notebook's to remove
        sys.meta_path.insert(0, self)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """While this lasts, note each import, also of a module that is there already."""
        plain, by_name, register = builtins.__import__, importlib.import_module, atexit.register

        def noting(name, globals=None, locals=None, fromlist=(), level=0):
            module = plain(name, globals, locals, fromlist, level)
            needs = self.needs.setdefault(importing(), set())
            if level:
                name = module.__name__ if fromlist else absolute(name, globals, level)
            needs.add(name)
            for item in fromlist or ():
                items = getattr(module, "__all__", ()) if item == "*" else (item,)
                needs.update(full for one in items if (full := f"{name}.{one}") in sys.modules)
            return module

        def noting_by_name(name, package=None):
            module = by_name(name, package)
            self.needs.setdefault(importing(), set()).add(resolve_name(name, package))
            return module

        def noting_exits(function, *args, **options):
            self.at_exit.setdefault(importing(), []).append((function, args, options))
            return function

        builtins.__import__, importlib.import_module = noting, noting_by_name
        atexit.register = noting_exits
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            builtins.__import__, importlib.import_module = plain, by_name
            atexit.register = register
            sys.meta_path.remove(self)

    def _hide(self, names: set[str]) -> None:
        for name in names:
            parent = name.rpartition(".")[0]
            self.needs.setdefault(name, set()).add(parent)  # to import a.b imports a
            if name not in self.loaded:  # a part of its parent, put into sys.modules by that
                self.needs.setdefault(parent, set()).add(name)
        for name in names:
            parent, _, child = name.rpartition(".")
            holder = sys.modules.get(parent)
            if isinstance(holder, ModuleType) and vars(holder).get(child) is sys.modules[name]:
                self.holders[name] = holder, child
        for holder, child in self.holders.values():
            delattr(holder, child)
        self.hidden = {name: sys.modules.pop(name) for name in names}

    def reseed(self) -> None:
        """Let random numbers differ from those of the next fork, as they do between processes."""
        if numbers := self.hidden.get("numpy.random"):
            numbers.seed()
        if torch := self.hidden.get("torch"):
            torch.default_generator.seed()

    def find_spec(self, name: str, path=None, target=None) -> ModuleSpec | None:
        """Asked by the import system: note a module that it loads, or bring back a hidden one."""
        loads = sys._getframe(2).f_code.co_name == "_find_and_load_unlocked"
        hidden = self.hidden.get(name)
        if hidden and not self._shadowed(name, hidden):
            return ModuleSpec(name, self) if loads else getattr(hidden, "__spec__", None)
        if loads and not self.hidden:
            self.loaded.add(name)
            self.needs.setdefault(importing(), set()).add(name)
        return None

    def _shadowed(self, name: str, hidden: ModuleType) -> bool:
        """Whether an import would find another module here: a file of the notebook's, say."""
        if "." in name:
            return False
        found, spec = PathFinder.find_spec(name), getattr(hidden, "__spec__", None)
        if found is None or spec is None or found.origin == spec.origin:
            return False
        for other in [n for n in self.hidden if n == name or n.startswith(f"{name}.")]:
            del self.hidden[other]
        return True

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        with self.lock:
            module = self.hidden.get(spec.name) or sys.modules[spec.name]  # a thread was faster
            spec.loader_state = getattr(module, "__spec__", None)
            self._bring_back(spec.name)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """It has run long ago: only the mark that the import system left is taken back."""
        module.__spec__ = module.__spec__.loader_state

    def _bring_back(self, name: str) -> None:
        todo = [name]
        while todo:
            name = todo.pop()
            if name in self.hidden:
                sys.modules[name] = module = self.hidden.pop(name)
                if name in self.holders:
                    setattr(*self.holders.pop(name), module)
                for function, args, options in self.at_exit.get(name, ()):
                    if function not in REMOVES:
                        atexit.register(function, *args, **options)
                todo += self.needs[name]


def absolute(name: str, globals: dict, level: int) -> str:
    try:
        return resolve_name("." * level + name, globals.get("__package__"))
    except (ImportError, TypeError, ValueError):
        return name


def importing() -> str | None:
    """The module whose code runs at its top level just now: it needs what is imported."""
    frame = sys._getframe(2)
    while frame and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return frame.f_globals.get("__name__") if frame else None
