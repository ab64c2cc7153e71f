"""What the book's search looks through: each section with its text and the names it defines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from directives import UNSEEN
from notebooks import Cell, Notebook, headings

MARKUP = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|[*`]|^[>#\s|-]+", re.M)


def sections_of(
    notebook: Notebook, file: str, title: str, labels: list[tuple[int, str, str]]
) -> list[list[str]]:
    """The sections of a page as [link, title, heading, names, text]; `labels` has their anchors."""
    found = [[file, title, "", [], []]]
    anchors = iter(labels)
    for cell in notebook.cells:
        if cell.kind == "markdown":
            rest = cell.source
            for line, text in headings(cell.source):
                if not re.match(r"#{2,3} ", line):
                    continue
                before, rest = rest.split(line, 1)
                found[-1][4].append(before)
                _, anchor, _ = next(anchors, (0, "", ""))
                found.append([f"{file}#{anchor}", title, plain(text), [], []])
            found[-1][4].append(rest)
        elif cell.kind == "code" and not UNSEEN & cell.directives.keys():
            found[-1][3] += defined(cell)
    return [
        [link, plain(name), heading, " ".join(names), plain(" ".join(texts))]
        for link, name, heading, names, texts in found
    ]


def defined(cell: Cell) -> list[str]:
    """The names that a cell defines, and the APIs that it earns."""
    earned = re.findall(r"[\w.@]+", cell.directives.get("earns", ""))
    return [*(name for name in sorted(cell.names) if not name.startswith("_")), *earned]


def plain(markdown: str) -> str:
    """Markdown as words: links by their text, no marks, one line."""
    return " ".join(MARKUP.sub(r"\1", markdown).split())


def as_script(sections: Iterable[list[str]]) -> str:
    """The index as a script: a page that is opened from a folder may load no other file."""
    rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in sections)
    return f"window.BOOK = [\n{rows}\n];\n"
