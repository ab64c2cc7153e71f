"""What the tools share: notebooks and their cells, directives, headings and order."""

from __future__ import annotations

import ast
import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from directives import EXPORTS, MODULE_NAME, nbdev_directives, parse_directive
from names import Event, bound_names, events, is_future  # noqa: F401 - passed on
from project import Settings, ToolError, cli, settings, show  # noqa: F401 - passed on

NUMBERED = re.compile(r"(\d+)([a-z]?)_(.+)")
MAGIC = re.compile(r"^([ \t]*)((?:[\w., ]+=)?) *(?:[%!].*|.*\?[ \t]*$)", re.MULTILINE)
OTHER_MAGIC = re.compile(r"%%(?!time|capture|prun)")  # what follows is no Python
CONFLICT = re.compile(r"^(<{7}|\|{7}|={7}|>{7})( .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it is, what it is, and what to do about it."""

    path: Path
    what: str
    remedy: str
    cell: Cell | None = None
    line: int | None = None
    mild: bool = False  # worth a word, but no reason to stop

    def __str__(self) -> str:
        place = show(self.path)
        if self.cell:
            place += f":cell {self.cell.number} ({self.cell.id})"
        if self.line:
            place += f":{self.line}"
        return f"{place}: {self.what}; {self.remedy}"


class NotebookError(ToolError):
    """One or more problems that keep a notebook from being used."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Block:
    """A run of whole lines of a cell that stays together in a module."""

    kind: str  # "future", "imports" or "body"
    first: int  # the line of the cell it starts at, from 1
    text: str


@dataclass(frozen=True)
class Cell:
    """A cell; code cells are numbered as `In [number]` on a clean run, the others are 0."""

    number: int
    id: str
    kind: str  # "code", "markdown" or "raw"
    source: str
    heading: str = ""
    index: int = 0  # the place in the notebook's list of cells, from 0
    metadata: dict = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def _split(self) -> tuple[dict[str, str], int]:
        """The directives at the top, and how many lines they and the blank lines around take.

        nbdev keeps directives in a cell's metadata as well; those of comments win.
        """
        found: dict[str, str] = {}
        lines = self.source.split("\n")
        for skipped, line in enumerate(lines):
            if line.strip():
                directive = parse_directive(line)
                if directive is None:
                    return {**nbdev_directives(self.metadata), **found}, skipped
                name, argument = directive
                found[name] = ", ".join(filter(None, [found.get(name), argument]))
        return {**nbdev_directives(self.metadata), **found}, len(lines)

    @property
    def directives(self) -> dict[str, str]:
        """Name -> argument of each directive, in order; `#export` is `{"export": ""}`."""
        return self._split[0] if self.kind == "code" else {}

    @property
    def exported(self) -> bool:
        return not EXPORTS.isdisjoint(self.directives)

    @property
    def target(self) -> str:
        """The module that `#| export NAME` sends the cell to, instead of the notebook's own."""
        arguments = (self.directives.get(name, "") for name in sorted(EXPORTS))
        return next((a for a in arguments if MODULE_NAME.fullmatch(a)), "")

    @property
    def first_line(self) -> int:
        """The line of the source, from 1, at which the code below the directives starts."""
        return self._split[1] + 1

    @cached_property
    def code(self) -> str:
        """The source below the directives; blank space at the end is dropped."""
        return "\n".join(self.source.split("\n")[self._split[1] :]).rstrip()

    @cached_property
    def tree(self) -> ast.Module | None:
        """The parsed code, or None where it is not plain Python (a magic, a syntax error)."""
        try:
            return ast.parse(self.code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None

    @cached_property
    def bindings(self) -> tuple[tuple[str, str, ast.AST, ast.stmt], ...]:
        """Each name that the code binds, as `bound_names` gives it, and the statement it is in."""
        return tuple(
            (event.name, event.how, event.node, event.statement)
            for event in self.events
            if event.how in ("import", "define", "loop") and not event.later
        )

    @cached_property
    def names(self) -> set[str]:
        return {name for name, *_ in self.bindings}

    @cached_property
    def events(self) -> list[Event]:
        """Each time that the code, without its magics, reads or binds a name of its module."""
        tree = self.tree
        if tree is None and not self.exported and not OTHER_MAGIC.match(self.code):
            try:
                tree = ast.parse(MAGIC.sub(r"\1\2pass", self.code).replace("=pass", "=0"))
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                pass
        return events(tree) if tree else []

    def blocks(self, imports_stay: bool = False) -> list[Block]:
        """Cut the code into `from __future__` imports, the other imports at its top, and the rest.

        An import that stands behind other code of its cell stays there: it may depend on it. With
        `imports_stay` the imports at the top belong to the rest.
        """
        assert self.tree is not None, "blocks() needs code that compiles"
        groups = lines_of(self.tree.body)
        if groups and _is_docstring(groups[0][0]) and len(groups[0]) == 1:
            groups = groups[1:]
        kinds, cuts = [], [0]  # each block ends behind this line
        rules = [("future", is_future), ("imports", _is_import)]
        for kind, belongs in rules[:1] if imports_stay else rules:
            last = None
            while groups and all(map(belongs, groups[0])):
                last = groups.pop(0)[-1].end_lineno
            if last:
                kinds.append(kind)
                cuts.append(last)
        lines = self.code.split("\n")
        kinds.append("body")
        cuts.append(len(lines))
        found = []
        for kind, start, stop in zip(kinds, cuts, cuts[1:], strict=False):
            while start < stop and not lines[start].strip():
                start += 1
            if text := "\n".join(lines[start:stop]).rstrip():
                found.append(Block(kind, self.first_line + start, text))
        return found


@dataclass(frozen=True)
class Notebook:
    """A notebook as the tools see it: where it is, its cells, and `raw`, the JSON as read."""

    path: Path
    cells: tuple[Cell, ...]
    raw: dict = field(repr=False, compare=False)

    @property
    def order(self) -> tuple:
        """The key to sort by: number, letter, name; notebooks without a number come last."""
        match = NUMBERED.fullmatch(self.path.stem)
        return (0, int(match[1]), match[2], match[3]) if match else (1, 0, "", self.path.stem)

    @property
    def topic(self) -> str:
        """The name behind the number, as an identifier: `04_callbacks` -> `callbacks`."""
        match = NUMBERED.fullmatch(self.path.stem)
        return re.sub(r"\W+", "_", match[3] if match else self.path.stem)

    @cached_property
    def default_exp(self) -> str:
        """The module that nbdev's `#| default_exp NAME` names, or nothing."""
        names = (cell.directives.get("default_exp") for cell in self.cells)
        in_metadata = nbdev_directives(self.raw.get("metadata")).get("default_exp", "")
        return next(filter(None, names), in_metadata)

    @cached_property
    def module(self) -> str | None:
        """The module it exports to: `nb04` for `04_callbacks`, or what `#| default_exp` says."""
        match = NUMBERED.fullmatch(self.path.stem)
        return self.default_exp or (f"nb{match[1]}{match[2]}" if match else None)

    @property
    def language(self) -> str:
        """The language that the notebook says it is in, in small letters; by default python."""
        metadata = self.raw.get("metadata")
        for part, key in (("language_info", "name"), ("kernelspec", "language")):
            about = metadata.get(part) if isinstance(metadata, dict) else None
            name = about.get(key) if isinstance(about, dict) else None
            if isinstance(name, str) and name:
                return name.lower()
        return "python"

    @cached_property
    def exported(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.exported and cell.code)

    @cached_property
    def title(self) -> str:
        """The text of the first H1, or the topic."""
        return self._opening[0] or self.topic

    @cached_property
    def summary(self) -> str:
        """The `>` sentence below the title, or nothing."""
        return self._opening[1]

    @cached_property
    def _opening(self) -> tuple[str, str]:
        for cell in self.cells:
            for line, text in headings(cell.source) if cell.kind == "markdown" else ():
                if line.startswith("# "):
                    below = cell.source.split(line + "\n", 1)[-1].lstrip("\n").split("\n")
                    quoted = itertools.takewhile(lambda row: row.startswith(">"), below)
                    return text, " ".join(row.lstrip("> ").strip() for row in quoted)
        return "", ""

    def by_id(self, id: str) -> Cell | None:
        return next((cell for cell in self.cells if cell.id == id), None)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def lines_of(statements: list[ast.stmt]) -> list[list[ast.stmt]]:
    """Put statements that share a line (`import a; b = 1`) together."""
    groups: list[list[ast.stmt]] = []
    for node in statements:
        start = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        if groups and start <= groups[-1][-1].end_lineno:
            groups[-1].append(node)
        else:
            groups.append([node])
    return groups


def read(path: str | Path) -> Notebook:
    """Read and validate one notebook file.

    Raises: NotebookError, which names the file and the remedy, if it is missing, empty, not JSON,
    in the middle of a merge, older than nbformat 4, or has cells without the parts of a cell.
    """
    path = Path(path)
    refuse = functools.partial(_refusal, path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse(f"is not UTF-8 ({error})", "save it as UTF-8") from None
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise refuse(f"is a link to {os.readlink(path)}, which does not exist",
                         "remove the link, or bring its target back") from None  # fmt: skip
        raise refuse(f"cannot be read: {error.strerror}", "check the path") from None
    except ValueError as error:  # a null character in the name
        raise refuse(f"cannot be read: {error}", "check the path") from None
    return _parse(path, text)


def _refusal(path: Path, what: str, remedy: str, line: int | None = None) -> NotebookError:
    return NotebookError([Problem(path, what, remedy, line=line)])


@functools.lru_cache(1000)
def _parse(path: Path, text: str) -> Notebook:
    """The notebook that a file's text is; once for each text, however often it is read."""
    refuse = functools.partial(_refusal, path)
    if not text.strip():
        raise refuse("is an empty file", "delete it, or restore it with git")
    if "<<<<<<<" in text and (match := CONFLICT.search(text)):
        line = text.count("\n", 0, match.start()) + 1
        raise refuse(
            "has a merge conflict", "resolve it, for example with `nbdime mergetool`", line
        )
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise refuse(f"is not JSON ({error})", "restore it with git", line) from None
    if not isinstance(raw, dict) or not isinstance(raw.get("nbformat"), int):
        raise refuse("is JSON but not a notebook", "open and save it in Jupyter")
    if raw["nbformat"] < 4:
        remedy = "convert it: `jupyter nbconvert --to notebook --nbformat 4 --inplace FILE`"
        raise refuse(f"is in the old format nbformat {raw['nbformat']}, 4 is needed", remedy)
    if not isinstance(raw.get("cells"), list):
        raise refuse("has no list of cells", "open and save it in Jupyter")

    cells: list[Cell] = []
    number, heading, ids = 0, "", set()
    for index, cell in enumerate(raw["cells"]):
        source = cell.get("source") if isinstance(cell, dict) else None
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = "".join(source)
        if not isinstance(source, str) or cell.get("cell_type") not in ("code", "markdown", "raw"):
            raise refuse(f"cell {index + 1} of {len(raw['cells'])} has no source or no known type",
                         "open and save it in Jupyter")  # fmt: skip
        source = source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        kind = cell["cell_type"]
        if kind == "markdown":
            heading = [heading, *(text for _, text in headings(source))][-1]
        counted = kind == "code" and bool(source.strip())  # Jupyter does not run empty cells
        number += counted
        id = cell.get("id", "")
        if not (isinstance(id, str) and re.fullmatch(r"[\w-]+", id, re.ASCII)):
            id = stand_in = "h" + short_hash(source, 8)  # before nbformat 4.5 cells had no ids
            copies = 1
            while id in ids:
                copies += 1
                id = f"{stand_in}-{copies}"
        if id in ids:
            raise refuse(f"two cells have the id {id}", "open and save it in Jupyter")
        ids.add(id)
        metadata = cell.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        cells.append(Cell(number if counted else 0, id, kind, source, heading, index, metadata))
    return Notebook(path, tuple(cells), raw)


def headings(markdown: str) -> Iterator[tuple[str, str]]:
    """Each heading of a markdown text, as (its line, its text); what is fenced is code."""
    fence = ""
    for line in markdown.split("\n"):
        mark = re.match(r"\s{0,3}(`{3,}|~{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        elif not fence and (match := re.match(r"#{1,6} +(.+?)( +#+)? *$", line)):
            yield line, re.sub(r"[^\S ]|[\0-\x1f\x7f\ud800-\udfff]", " ", match[1]).strip()


def find(folder: str | Path, recursive: bool = True) -> list[Path]:
    """The notebooks of a folder and the folders in it, in reading order.

    Names that begin with a dot or an underscore are left out, of folders too; and names without a
    number, if the project's setting `numbered` says so.
    """
    found, numbered = [], settings(folder).numbered
    for place, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if recursive and not f.startswith((".", "_"))]
        names = (f for f in files if f.endswith(".ipynb") and not f.startswith((".", "_")))
        found += [Path(place, f) for f in names if NUMBERED.fullmatch(f[:-6]) or not numbered]
    return sorted(sorted(found), key=lambda path: Notebook(path, (), {}).order)


def header_hash(header: str, cells: Iterable[str]) -> str:
    """The hash of what is outside the cells, and of which cells there are, in order."""
    return short_hash("\n".join([header, *cells]))


def short_hash(text: str, length: int = 6) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]
