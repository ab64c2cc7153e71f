"""Modules on disk: their markers, what was edited by hand, and the way from a line to its cell."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from notebooks import Cell, Notebook, find, header_hash, read, short_hash
from project import ToolError, settings, show

MARKER = re.compile(r"# cell ([\w-]+) ([0-9a-f]{6})(?: in (\S.*?\.ipynb))?(?: · .*)?")
GENERATED = re.compile(r"# generated from (.+\.ipynb): do not edit(?: · ([0-9a-f]{6}))?")


@dataclass(frozen=True)
class Section:
    """A run of lines of a module; `id`, `hash` and `origin` are the marker's, empty in the header.

    `first` is the line of the module that the text starts at, from 1.
    """

    id: str
    hash: str
    origin: str
    first: int
    text: str

    @property
    def edited(self) -> bool:
        return bool(self.id) and short_hash(self.text) != self.hash

    def __contains__(self, line: int) -> bool:
        return bool(self.id) and self.first - 1 <= line <= self.first + self.text.count("\n")


def sections(module: str) -> list[Section]:
    """Cut a module at its markers; the header's sections come out too, without an id."""
    lines = module.split("\n")
    starts = [i for i, line in enumerate(lines) if MARKER.fullmatch(line) or GENERATED.match(line)]
    found = [Section("", "", "", 1, "\n".join(lines[: starts[0] if starts else None]))]
    for start, stop in pairwise([*starts, len(lines)]):
        match = MARKER.fullmatch(lines[start])
        text = "\n".join(lines[start + 1 : stop]).rstrip()
        marks = [match[1], match[2], match[3] or ""] if match else ["", "", ""]
        found.append(Section(*marks, start + 2, text))
    return found


def read_module(path: Path) -> str | None:
    """The text of a module, or None if there is none."""
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ToolError(f"{show(path)} cannot be read ({error}); move it away") from None


def is_generated(module: str) -> bool:
    """Whether this exporter wrote a file: it names its notebook, and has the marks."""
    lines = module.split("\n")
    marked = any(MARKER.fullmatch(line) for line in lines)
    match = generated(module)
    return bool(match) and (bool(match[2]) or marked or "__all__ = []" in lines)


def generated(module: str) -> re.Match | None:
    """The line that names the module's notebook: the whole line, for a title may quote it."""
    return next(filter(None, map(GENERATED.fullmatch, module.split("\n"))), None)


def header(module: str) -> str:
    """What is outside the cells: the docstring, `__all__`, and whatever was added there."""
    first, *others = (section.text.rstrip() for section in sections(module) if not section.id)
    return "\n".join([first, *others])


def frame(module: str) -> tuple[str, list[str]]:
    """What is outside the cells, and which cells there are, in order."""
    return header(module), [section.id for section in sections(module) if section.id]


def hand_edits(module: str) -> list[Section]:
    """The sections of a generated module that are not as the exporter wrote them."""
    found = sections(module)
    edited = [section for section in found if section.edited]
    top = [section for section in found if not section.id]
    match = generated(module)
    if match and match[2]:
        text, cells = frame(module)
        if match[2] not in (header_hash(text, cells), short_hash(text)):
            edited.insert(0, top[-1])
    else:  # written before headers had a hash
        edited += [section for section in top if more_than_header(section.text)]
    return edited


def more_than_header(text: str) -> bool:
    """Whether a header holds more than the docstring and `__all__` that the exporter writes."""
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    kinds = (ast.Expr, ast.Assign)
    return len(statements) > 1 or any(not isinstance(node, kinds) for node in statements)


def place(
    notebook: Notebook, module: str, line: int, others: Iterable[Notebook] = ()
) -> tuple[Cell | None, int | None]:
    """Map a line of a module to the cell, and the line in that cell, that it came from.

    The line is None where the cell is no longer what it was when the module was written.
    """
    section = next((section for section in sections(module) if line in section), None)
    if section is None:
        return None, None
    if section.origin:
        named = [n for n in others if n.path.as_posix().endswith(section.origin.lstrip("./"))]
        notebook = next((n for n in named if n.by_id(section.id)), notebook)
    cell = notebook.by_id(section.id)
    if cell is None or cell.tree is None:
        return cell, None
    blocks = [*cell.blocks(), *cell.blocks(imports_stay=True)]
    block = next((b for b in blocks if b.text == section.text), None)
    return cell, block and block.first + max(line - section.first, 0)


def where(path: str | Path, line: int, nbs: str | Path = "") -> tuple[Notebook, Cell, int | None]:
    """Find the notebook, the cell and the line in the cell that a line of a module came from.

    The line is None if the cell has changed since the module was written.

    Raises: ToolError if the file is not generated, its notebook is gone, or no cell owns the line.
    """
    path = Path(path)
    module = read_module(path)
    if module is None:
        raise ToolError(f"there is no file {show(path)}")
    match = generated(module)
    if not match:
        if path.name == "__init__.py":
            raise ToolError(f"{show(path)} comes from no cell: it belongs to the whole package")
        raise ToolError(f"{show(path)} was not written by the exporter; name a module that was")
    if not 1 <= line <= module.count("\n") + 1:
        raise ToolError(f"{show(path)} has {module.count(chr(10))} lines, not {line}")
    nbs = Path(nbs or settings().nbs)
    section = next((section for section in sections(module) if line in section), None)
    source = (section and section.origin) or match[1]
    notebook = read(find_source(source, nbs))
    cell, at = place(notebook, module, line, [notebook])
    if section and cell is None:
        what = f"{show(path)}:{line} came from cell {section.id} of {show(notebook.path)}"
        raise ToolError(f"{what}, which is no longer there; export again")
    if cell is None:
        raise ToolError(f"{show(path)}:{line} belongs to no cell of {show(notebook.path)}")
    return notebook, cell, at


def find_source(name: str, nbs: Path) -> Path:
    """The notebook that a module names, from the folder that `nbs` is in; or one moved since."""
    path = nbs.absolute().parent / name
    if not path.exists():
        path = next((p for p in find(nbs) if p.name == path.name), path)
    return path
