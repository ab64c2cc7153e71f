"""Renew what the README shows of the notebooks: their tables, and pictures from their outputs.

    python tools/contents.py [--readme README.md]

The tables, of titles and first sentences, one for each part of the path and of the workshop, go
between `<!-- notebooks -->` and `<!-- /notebooks -->`. A picture that the README names
`…/images/NOTEBOOK-CELL.svg` (or `.png`) is written anew from what that cell of that notebook has
drawn, in the form in which it is stored. The last cell of each notebook leads to the ones before
and after it, on the path or in the workshop; the second cell of a page of the path says what it
imports from the workshop, and where that is made.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable
from pathlib import Path

from clean_notebook import as_text
from files import markdown, write_all, write_between
from library import imports_of
from notebooks import Notebook, ToolError, cli, find, read, settings, show
from parts import NEIGHBOURS, WORKSHOP, Part, duration, minutes, misplaced, read_parts

PROMISE = "By the end you will "


def table(notebooks: Iterable[Notebook], root: Path) -> str:
    """The notebooks as a Markdown table with links that hold in the root.

    What all of them promise in the same words stands in the head, once.
    """
    notebooks = list(notebooks)
    shared = PROMISE if all(n.summary.startswith(PROMISE) for n in notebooks) else ""
    rows = [("notebook", f"{shared.lower()}…" if shared else "what you have at the end")]
    for notebook in notebooks:
        link = os.path.relpath(notebook.path, root).replace(os.sep, "/")
        summary = notebook.summary.removeprefix(shared)
        rows.append((f"[{notebook.path.stem}]({link}): {notebook.title}", summary))
    return markdown(rows)


def overview(notebooks: dict[str, Notebook], root: Path, folder: Path) -> str:
    """The path in its parts and the workshop, or one table where a project says of neither.

    Raises: ToolError if a notebook stands in no part, or in two.
    """
    parts = read_parts(folder)
    if not parts:
        return table(notebooks.values(), root)
    if wrong := misplaced(parts, notebooks):
        raise ToolError(f"{show(folder / 'contents.toml')}: {'; '.join(wrong)}")

    def part_table(part: Part) -> str:
        return table((notebooks[name] for name in part.pages), root)

    path = [part for part in parts if not part.workshop]
    texts = []
    for i, part in enumerate(path, 1):
        reading = duration(sum(minutes(notebooks[name]) for name in part.pages))
        needs = f"You need: {part.needs} " if part.needs else ""
        have = f"You will have: {part.have}. " if part.have else ""
        facts = f"{needs}{have}Reading time: about {reading}."
        texts.append(f"### {i}. {part.title}\n\n{part.sentence} {facts}\n\n{part_table(part)}")
    workshop = [part for part in parts if part.workshop]
    if workshop:
        texts.append("### The workshop\n\nRead these when you want to know how the tools are made; "
                     "the path uses them in one line.")  # fmt: skip
        texts += [f"**{part.title}.** {part.sentence}\n\n{part_table(part)}" for part in workshop]
    return "\n\n".join(texts)


def figure(notebook: Notebook, cell_id: str) -> tuple[bytes, str]:
    """The first picture among the stored outputs of a cell, and how the name of its file ends.

    Raises: ToolError if there is no such cell, or it shows no picture.
    """
    cell = notebook.by_id(cell_id)
    outputs = notebook.raw["cells"][cell.index].get("outputs", []) if cell else []
    for output in outputs:
        data = output.get("data", {})
        if picture := data.get("image/svg+xml"):
            return "".join(picture).encode(), "svg"
        if picture := data.get("image/png"):
            return base64.b64decode("".join(picture)), "png"
    raise ToolError(f"{show(notebook.path)} shows no picture in a cell {cell_id}: "
                    "name another in the README")  # fmt: skip


def prose(id: str, text: str) -> list[dict]:
    """The cell with this id and text; none if there is nothing to say."""
    cell = {"cell_type": "markdown", "id": id, "metadata": {}, "source": text.splitlines(True)}
    return [cell] if text else []


def borrowed(notebook: Notebook, homes: dict[str | None, str], package: str) -> str:
    """What a notebook imports from the modules of these pages, in a sentence with links."""
    names: dict[str, set[str]] = {}
    for cell in notebook.cells:
        for _, module, name in imports_of(cell, package):
            if name and module in homes:
                names.setdefault(homes[module], set()).add(name)
    pages = [f"[{page}]({page}.ipynb) (`{'`, `'.join(sorted(names[page]))}`)"
             for page in sorted(names)]  # fmt: skip
    return f"**From the workshop**: {', '.join(pages)}." if pages else ""


def links(notebooks: dict[str, Notebook], parts: list[Part]) -> dict[Path, str]:
    """The notebooks that do not lead to the pages around them and to the workshop, mended."""
    changed, package = {}, settings().lib.name
    homes = {notebooks[name].module: name for part in parts if part.workshop for name in part.pages}
    for workshop in (False, True):
        row = [name for part in parts if part.workshop == workshop for name in part.pages]
        for before, name, after in zip([None, *row], row, [*row[1:], None], strict=False):
            around = {"Previous": before, "Next": after}
            words = [f"{word}: [{notebooks[other].title}]({other}.ipynb)"
                     for word, other in around.items() if other]  # fmt: skip
            uses = "" if workshop else borrowed(notebooks[name], homes, package)
            raw = notebooks[name].raw
            own = [c for c in raw["cells"] if c.get("id") not in (NEIGHBOURS, WORKSHOP)]
            cells = [*own[:1], *prose(WORKSHOP, uses), *own[1:],
                     *prose(NEIGHBOURS, " · ".join(words))]  # fmt: skip
            if cells != raw["cells"]:
                changed[notebooks[name].path.resolve()] = as_text({**raw, "cells": cells})
    return changed


def write_contents(readme: str = "") -> None:
    """Renew tables and pictures of README.md, and the links at the end of each notebook."""
    config = settings()
    target = Path(readme) if readme else config.root / "README.md"
    notebooks = {path.stem: read(path) for path in find(config.nbs)}
    root = target.resolve().parent
    write_between(target, overview(notebooks, root, config.nbs), "notebooks")
    pictures = re.findall(r"\]\((.*images/(.+)-(\w+)\.(svg|png))\)", target.read_text("utf-8"))
    for link, name, cell_id, ending in pictures:
        if name not in notebooks:
            raise ToolError(f"{show(target)} shows {link}, but there is no notebook {name}")
        picture, stored = figure(notebooks[name], cell_id)
        if stored != ending:
            (root / link).unlink(missing_ok=True)
            renamed = link.removesuffix(ending) + stored
            target.write_text(target.read_text("utf-8").replace(link, renamed), "utf-8")
            link = renamed
        (root / link).parent.mkdir(parents=True, exist_ok=True)
        (root / link).write_bytes(picture)
    write_all(links(notebooks, read_parts(config.nbs)))
    print(f"{show(target)}: {len(notebooks)} notebooks, {len(pictures)} pictures")


if __name__ == "__main__":
    cli(write_contents)
