"""Write the table of notebooks into the README, from their titles and first sentences.

    python tools/contents.py [--readme README.md]

replaces what stands between `<!-- notebooks -->` and `<!-- /notebooks -->`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from notebooks import Notebook, cli, find, read, settings, show
from results import write_between


def table(notebooks: Iterable[Notebook], root: Path) -> str:
    """The notebooks as a Markdown table with links that hold in the root."""
    rows = ["| notebook | what you have at the end |", "| --- | --- |"]
    for notebook in notebooks:
        link = os.path.relpath(notebook.path, root).replace(os.sep, "/")
        cells = f"[{notebook.path.stem}]({link}): {notebook.title}", notebook.summary
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def write_contents(readme: str = "") -> None:
    """Write the table of notebooks into README.md; a README that is right stays as it is."""
    config = settings()
    target = Path(readme) if readme else config.root / "README.md"
    notebooks = [read(path) for path in find(config.nbs)]
    write_between(target, table(notebooks, target.resolve().parent), "notebooks")
    print(f"{show(target)}: {len(notebooks)} notebooks")


if __name__ == "__main__":
    cli(write_contents)
