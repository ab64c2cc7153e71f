"""Bring what was edited in a module back into the cells that it was made from.

An edit below a marker belongs to that marker's cell. The hash in the marker says what the block was
when it was written, so both sides can be told apart: the module's text has another hash if it was
edited there, and the cell has no block of that hash if it was edited in the notebook. Only a block
that changed on one side moves; nothing else of the notebook is touched.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modules import Section, hand_edits, header, is_generated, read_module, sections
from notebooks import Block, Cell, Notebook, NotebookError, Problem, short_hash
from project import show
from render import Module, gather, render


@dataclass(frozen=True)
class Edit:
    """A section of a module that goes back into the lines of a block of a cell."""

    target: Path
    section: Section
    notebook: Notebook
    cell: Cell
    block: Block


def find_edits(
    known: list[Notebook], targets: dict[str, Path], nbs: Path
) -> tuple[list[Edit], list[Problem]]:
    """What was edited in the modules, and what of it cannot go back, with the reason."""
    edits, problems = [], []
    for module in gather(known):
        target = targets[module.name]
        old = read_module(target)
        if old is None or not is_generated(old):
            continue
        there = {section.id for section in sections(old)}
        lost = {part.cell.id: part for part in module.parts if part.cell.id not in there}
        for section in hand_edits(old):
            if not section.id:
                problems += outside(module, target, old, render(module, nbs), section)
                continue
            part = next((p for p in module.parts if p.cell.id == section.id), None)
            swallowed = [part for part in lost.values() if holds(section, part.cell)]
            found = settle(target, section, part and part.notebook, part and part.cell)
            if swallowed:
                cell = swallowed[0].cell
                what = f"{show(target)}:{section.first}: the marker of cell {cell.id} is gone"
                remedy = f"put `# cell {cell.id} …` back above its code"
                problems.append(Problem(swallowed[0].notebook.path, what, remedy, cell))
            elif isinstance(found, Problem):
                problems.append(found)
            elif found:
                edits.append(found)
    return edits, problems


def settle(
    target: Path, section: Section, notebook: Notebook | None, cell: Cell | None
) -> Edit | Problem | None:
    """Where an edited section goes, or why it cannot; None if the cell says the same already."""
    place = f"{show(target)}:{section.first}"
    if cell is None:
        what = f"{place} was edited, but its cell {section.id} is no longer exported"
        return Problem(target, what, "move the code below another marker, or into a cell")
    if cell.tree is None:
        what = f"{place} was edited, and so was its cell, which does not compile"
        return Problem(notebook.path, what, "mend the cell first", cell)
    blocks = [*cell.blocks(), *cell.blocks(imports_stay=True)]
    if any(block.text == section.text for block in blocks):
        return None
    block = next((block for block in blocks if short_hash(block.text) == section.hash), None)
    if block:
        return Edit(target, section, notebook, cell, block)
    lines = difflib.unified_diff(
        cell.code.split("\n"), section.text.split("\n"), "the cell", place, lineterm=""
    )
    what = f"{place} was edited, and so was its cell:\n" + "\n".join(lines) + "\n"
    return Problem(notebook.path, what, "make both say the same, then sync again", cell)


def holds(section: Section, cell: Cell) -> bool:
    """Whether a section has swallowed the code of another cell, whose marker is gone."""
    return bool(cell.code.strip()) and cell.code.strip() in section.text


def outside(module: Module, target: Path, old: str, new: str, section: Section) -> list[Problem]:
    """What was edited outside every marker, and where it could go."""
    if header(old) == header(new):
        have = {section.id for section in sections(old)}
        gone = [part.cell for part in module.parts if part.cell.id not in have]
        what = f"{show(target)}: markers were removed, added or moved"
        remedy = "a cell is removed or moved in the notebook; export restores the module"
        return [Problem(module.notebook.path, what, remedy, gone[0] if gone else None)]
    what = f"{show(target)}:{section.first} was edited outside every cell"
    remedy = ("code goes below a marker `# cell …`, a title and a first sentence into the "
              "notebook's first cell; `__all__` follows from the exported names")  # fmt: skip
    return [Problem(module.notebook.path, what, remedy)]


def brought_back(edits: Iterable[Edit]) -> dict[Path, str]:
    """The texts of the notebooks with the edits in them.

    Raises: NotebookError if two sections would change the same lines.
    """
    texts, by_notebook = {}, {}
    for edit in edits:
        by_notebook.setdefault(edit.notebook.path, []).append(edit)
    for path, mine in by_notebook.items():
        text = path.read_bytes().decode("utf-8-sig")
        raw = json.loads(text)
        layout = layout_of(raw, text)
        for cell, pieces in by_cell(mine):
            lines = cell.source.split("\n")
            for edit in sorted(pieces, key=lambda edit: -edit.block.first):
                start = edit.block.first - 1
                stop = start + edit.block.text.count("\n") + 1
                lines[start:stop] = edit.section.text.split("\n") if edit.section.text else []
            source = "\n".join(lines)
            whole = isinstance(raw["cells"][cell.index]["source"], str)
            raw["cells"][cell.index]["source"] = source if whole else source.splitlines(True)
        texts[path] = layout(raw)
    return texts


def by_cell(edits: list[Edit]) -> Iterator[tuple[Cell, list[Edit]]]:
    """The edits of each cell. Raises: NotebookError if two of them meet in the same lines."""
    cells: dict[str, list[Edit]] = {}
    for edit in edits:
        cells.setdefault(edit.cell.id, []).append(edit)
    for pieces in cells.values():
        taken = sorted((e.block.first, e.block.first + e.block.text.count("\n")) for e in pieces)
        if any(stop >= start for (_, stop), (start, _) in zip(taken, taken[1:], strict=False)):
            what = "stands in several places of the library, which were edited in different ways"
            raise NotebookError([Problem(pieces[0].notebook.path, what, "edit one of them",
                                         pieces[0].cell)])  # fmt: skip
        yield pieces[0].cell, pieces


def layout_of(raw: dict, text: str):
    """How a notebook's JSON is laid out, as a function that lays out others like it."""
    mark = "\ufeff" if text.startswith("\ufeff") else ""
    end = text[len(text.rstrip("\n")) :]
    ways = [
        {"indent": indent, "sort_keys": sort, "ensure_ascii": ascii}
        for indent in (1, 2, 4, None) for sort in (True, False) for ascii in (False, True)
    ]  # fmt: skip
    way = next((way for way in ways if json.dumps(raw, **way) == text.strip("\ufeff\n")),
               {"indent": 1, "sort_keys": False, "ensure_ascii": False})  # fmt: skip
    return lambda new: mark + json.dumps(new, **way) + end
