"""What passed is remembered: a notebook runs again only if something changed that can affect it.

What can affect a notebook is its own code, the modules of the library that it imports and those
that they import, other files that lie about, the settings, the tools, Python and the packages
beside it, and how it is run. All that is hashed into one key. A module counts with its code: the
headings in its markers, which come from the prose, do not. Who imports what is read from the text,
strings included, and what cannot be told from it counts as everything.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from files import write_all
from notebooks import Settings
from outcomes import Outcome
from reports import Results

TOOLS = Path(__file__).parent
MARKER = re.compile(r"^(# cell \S+ \S+) · .*$", re.MULTILINE)  # what follows is a heading
TEMPORARY = re.compile(r"^[.~]|(~|\.new|\.tmp|\.swp|\.lock)$")  # of editors, and our own
LEFT_OUT = {"node_modules", "site-packages", "__pycache__", "build", "dist"}


def digest(*parts: object) -> str:
    return hashlib.blake2b("\0".join(map(str, parts)).encode("utf-8", "surrogatepass"),
                           digest_size=16).hexdigest()  # fmt: skip


class Surroundings:
    """The library and the files around the notebooks, as they were when this was made."""

    def __init__(self, home: Settings, notebooks: Iterable[Path]):
        self.home, self.package = home, home.lib.name
        self.notebooks = {path.parent for path in notebooks}
        self.texts: dict[str, str] = {}
        for path in sorted(home.lib.rglob("*.py")):
            name = ".".join(path.relative_to(home.lib).with_suffix("").parts)
            text = path.read_text("utf-8", "replace")
            self.texts[name.removesuffix(".__init__")] = MARKER.sub(r"\1", text)
        self.index = self.texts.pop("__init__", "")
        self.closures: dict[str, frozenset[str]] = {}

    @cached_property
    def homes(self) -> dict[str, str] | None:
        """Which module each name of a generated `__init__` is from; None if it is hand-written."""
        if "_home = {name: module for" not in self.index:
            return None
        found: dict[str, str] = {}
        for statement in ast.parse(self.index).body:
            if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Dict):
                table = {k.value: v.value for k, v in zip(statement.value.keys,
                         statement.value.values, strict=True)}  # fmt: skip
                if statement.targets[0].id == "_names":
                    found |= {name: key for key, text in table.items() for name in text.split()}
                else:
                    found |= table
        return found

    def named(self, text: str) -> set[str]:
        """The modules of the library that a text names; "*" stands for all."""
        words: set[str] = set()
        package = re.escape(self.package)
        for match in re.finditer(rf"(?<![.\w]){package}\.(\w*)", text):
            words.add(match[1])
        listed = r"import\s*(\([^)]*\)|[^\n#;]*)"
        for match in re.finditer(rf"from\s+(?:{package}|\.+)\s+{listed}", text):
            names = match[1].replace("\\", "").strip("()").split(",")
            words |= {name.split()[0] for name in names if name.strip()}
        words |= set(re.findall(r"from\s+\.+(\w+)", text))
        plain = rf"import\s[^\n;]*(?<![.\w]){package}\b(?!\.)"
        if re.search(rf"{plain}|import\w*\(\s*['\"]{package}['\"]", text):
            words.add("*")
        return {word for name in words for word in self.module_of(name)}

    def module_of(self, word: str) -> set[str]:
        if word in self.texts:
            inner = {name for name in self.texts if name.startswith(f"{word}.")}
            return {word} | inner
        if self.homes is not None and word in self.homes:
            return {self.homes[word]}
        return {"*"}

    def reached(self, names: set[str]) -> frozenset[str]:
        """The modules named and all that they import in turn."""
        found: set[str] = set()
        waiting = set(names)
        while waiting:
            name = waiting.pop()
            if name == "*":
                return frozenset(self.texts) | {"*"}
            found.add(name)
            if name not in self.closures:
                self.closures[name] = frozenset(self.named(self.texts[name]))
            waiting |= self.closures[name] - found
        return frozenset(found)

    def of(self, text: str) -> str:
        """A hash of what of the library a text can reach."""
        modules = self.reached(self.named(text))
        whole = self.homes is None or "*" in modules  # then __init__ itself matters
        parts = [f"{name}\0{self.texts[name]}" for name in sorted(modules - {"*"})]
        return digest(*parts, self.index if whole else "")

    @cached_property
    def pages(self) -> str:
        """A hash of all notebooks, for one that reads others."""
        paths = sorted(path for folder in self.notebooks for path in walk(folder)
                       if path.suffix == ".ipynb")  # fmt: skip
        return digest(*(hashlib.blake2b(path.read_bytes()).hexdigest() for path in paths))

    @cached_property
    def rest(self) -> str:
        """A hash of everything else: tools, settings, stray files, packages, environment."""
        home = self.home
        files = {*TOOLS.rglob("*.py"), *(path for path in walk(home.root) if path.suffix == ".py")}
        files -= set((home.root / "tests").rglob("*.py"))
        for folder in self.notebooks:
            files |= {path for path in walk(folder) if path.suffix != ".ipynb"}
        files |= {home.root / "settings.ini", home.root / "pyproject.toml"}
        files -= set(home.lib.rglob("*.py"))
        contents = []
        for path in sorted(files):
            with contextlib.suppress(OSError):
                contents.append(f"{path}\0{hashlib.blake2b(path.read_bytes()).hexdigest()}")
        packages = sorted(name for place in sys.path if os.path.isdir(place)
                          for name in os.listdir(place) if name.endswith("-info"))  # fmt: skip
        ours = ("EXP_", "PYTHON")
        given = sorted(f"{k}={v}" for k, v in os.environ.items() if k.startswith(ours))
        return digest(sys.version, home, *contents, *packages, *given)


def walk(folder: Path) -> Iterable[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [
            name for name in folders
            if name not in LEFT_OUT and not name.startswith(".")
            and not os.path.exists(os.path.join(place, name, "pyvenv.cfg"))
        ]  # fmt: skip
        yield from (Path(place, name) for name in names if not TEMPORARY.search(name))


class Memory:
    """The keys with which notebooks passed, kept beside their timings."""

    def __init__(self, home: Settings, timings: Path, *mode: object):
        self.file = timings.with_name(f"{timings.stem}-passed.json")
        self.home, self.mode, self.all = home, digest(*mode), {}
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.file.read_text("utf-8"))
            self.all = found if isinstance(found, dict) else {}

    def keys(self, results: Results) -> dict[str, str]:
        """For each notebook the key that says whether it must run."""
        around = Surroundings(self.home, [result.notebook.path for result in results])
        keys = {}
        for result in results:
            cells = [cell for cell in result.notebook.cells
                     if cell.kind == "code" and "exercise" not in cell.directives]  # fmt: skip
            steps = [f"{s.number}\0{s.source}\0{s.skip}\0{s.raises}" for s in result.task.steps]
            text = "\n".join([cell.source for cell in cells] + steps)
            limits = (result.task.timeout, result.task.cell_timeout)
            others = around.pages if ".ipynb" in text else ""
            keys[result.name] = digest(
                self.mode, limits, text, around.of(text), around.rest, others
            )
        return keys

    def recall(self, results: Results, keys: dict[str, str]) -> None:
        """Mark what need not run as passed."""
        for result in results:
            name = result.name
            seconds = self.seconds(name, keys[name])
            if seconds is not None and result.status == "not run":
                result.remembered = True
                result.outcomes[0] = Outcome(result.task.path, 0, "passed", seconds)

    def seconds(self, name: str, key: str) -> float | None:
        """How long the run took that passed with this key, if one did."""
        kept = self.all.get(name)
        found = kept.get(key) if isinstance(kept, dict) else None
        return float(found) if isinstance(found, int | float) else None

    def keep(self, results: Results, keys: dict[str, str]) -> None:
        """Remember what passed, unless something changed while it ran; forget what failed."""
        now = self.keys(results)
        for result in results:
            name = result.name
            if result.status == "failed":
                self.all.pop(name, None)
            elif result.status == "passed" and now[name] == keys[name]:
                kept = self.all.get(name)
                kept = kept if isinstance(kept, dict) else {}
                kept.pop(keys[name], None)
                latest = [*kept.items()][-7:]  # as many ways to run it as there may be
                self.all[name] = dict([*latest, (keys[name], round(result.seconds, 2))])
        with contextlib.suppress(OSError):  # a read-only checkout
            write_all({self.file: json.dumps(self.all, indent=1)})
