"""How the book is read: the path in its parts, and the workshop beside it.

A project says so in `contents.toml` beside its notebooks: a table `[[part]]` for each part of the
path, in reading order, and a table `[[workshop]]` for each group of pages that are read when one
wants to know. Both have a `title`, a `sentence` and the names of their `pages`; a part may say what
it `needs` and what a reader will `have` at its end. A project without the file has one path.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from directives import UNSEEN
from notebooks import Notebook, ToolError, show

WORDS, LINES = 200, 20  # of prose and of code that a reader takes in within a minute
NEIGHBOURS = "neighbours"  # the id of the cell that leads to the pages before and after
WORKSHOP = "workshop"  # and of the one that says what is used from the workshop
KEYS = {"title", "sentence", "needs", "have", "pages"}


@dataclass(frozen=True)
class Part:
    """Some pages that belong together, on the path or in the workshop."""

    title: str
    sentence: str
    pages: tuple[str, ...]
    needs: str = ""
    have: str = ""
    workshop: bool = False


def read_parts(folder: Path) -> list[Part]:
    """The parts of the path and then those of the workshop; none if the folder does not say.

    Raises: ToolError if the file cannot be read, or a part lacks what it must have.
    """
    file = folder / "contents.toml"
    try:
        said = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise ToolError(f"{show(file)} cannot be read: {error}") from None
    parts = []
    for kind in ("part", "workshop"):
        for table in said.get(kind, ()):
            if not {"title", "sentence", "pages"} <= table.keys() <= KEYS:
                raise ToolError(f"{show(file)}: a [[{kind}]] has title, sentence, pages and maybe "
                                f"needs and have; got {', '.join(table)}")  # fmt: skip
            pages = tuple(table.pop("pages"))
            parts.append(Part(**table, pages=pages, workshop=kind == "workshop"))
    return parts


def misplaced(parts: Iterable[Part], names: Iterable[str]) -> list[str]:
    """What is wrong with the parts: a notebook that is in none or in two, a page without one."""
    placed = [page for part in parts for page in part.pages]
    names = list(names)
    lost = [f"no part has {name}" for name in names if name not in placed]
    gone = [f"there is no notebook {page}" for page in placed if page not in names]
    twice = {page for page in placed if placed.count(page) > 1}
    return lost + gone + [f"{page} stands in two places" for page in sorted(twice)]


def minutes(notebook: Notebook) -> float:
    """About how long it takes to read a notebook, without running or changing anything."""
    prose = (c for c in notebook.cells if c.kind == "markdown" and c.id != NEIGHBOURS)
    words = sum(len(cell.source.split()) for cell in prose)
    lines = sum(unfolded(cell) for cell in notebook.cells)
    return words / WORDS + lines / LINES


def unfolded(cell) -> int:
    """How many lines of code of a cell stand open on a page of the book."""
    if cell.kind != "code" or (UNSEEN | {"fold"}) & cell.directives.keys():
        return 0
    if "### BEGIN SOLUTION" in cell.source:
        return 0
    return sum(1 for line in cell.code.splitlines() if line.strip())


def stretches(notebook: Notebook, limit: int = 30, alone: int = 40) -> list[tuple[int, int]]:
    """Where more than `limit` lines of code stand open without prose: (first cell, lines).

    One cell by itself, a class that carries the idea, may have `alone` lines.
    """
    found, open_cells = [], []
    for cell in [*notebook.cells, None]:
        if cell is None or (cell.kind == "markdown" and cell.source.strip()):
            lines = sum(map(unfolded, open_cells))
            if lines > (limit if len(open_cells) > 1 else alone):
                found.append((open_cells[0].number, lines))
            open_cells = []
        elif unfolded(cell):
            open_cells.append(cell)
    return found


def duration(total: float) -> str:
    """Minutes as a reader says them: to five, and hours from 90 on."""
    rounded = max(5, 5 * round(total / 5))
    return f"{rounded} min" if rounded < 90 else f"{re.sub(r'[.]0$', '', f'{total / 60:.1f}')} h"
