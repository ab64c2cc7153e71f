"""The exporter beside nbdev's on 14 small notebooks: whole processes, interleaved, medians.

Usage: python benchmarks/exporter.py [--rounds 10]. The last row is this project's own notebooks.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import fire
import nbformat
from _side_by_side import ROOT, peers, side_by_side
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from runner import make_notebooks

CLASS = """#| export
class Layer{number}:
    def __init__(self, size):
        self.size = size

    def __call__(self, x):
        return [self.size * math.tanh(value) for value in x]
"""


def exporting_notebooks(folder: Path) -> None:
    """Write 14 notebooks of 20 cells, every other one exported, that both tools understand."""
    make_notebooks(folder)
    for number, path in enumerate(sorted((folder / "nbs").glob("*.ipynb"))):
        cells = [new_code_cell(f"#| default_exp m{number:02}"), new_markdown_cell("# A module")]
        cells += [new_code_cell("#| export\nimport math")]
        for layer in range(100 * number, 100 * number + 8):
            cells += [new_code_cell(CLASS.format(number=layer)), new_code_cell("assert math.pi")]
        nbformat.write(new_notebook(cells=cells), path)


def own_notebooks(folder: Path) -> None:
    """Copy this project's notebooks."""
    shutil.copytree(ROOT / "nbs", folder / "nbs")


def main(rounds: int = 10) -> None:
    """Export everything from nothing, `rounds` times each, and print one table."""
    ours = [sys.executable, ROOT / "tools" / "notebook2script.py", "--nbs", "nbs", "--lib", "lib"]
    commands = {"notebook2script": ours, "nbdev-export": [peers() / "nbdev-export"]}
    side_by_side("14 notebooks, seconds", commands, exporting_notebooks, rounds)
    side_by_side(
        "nbs/ of this project", {"notebook2script": [*ours[:-1], "exp"]}, own_notebooks, rounds
    )


if __name__ == "__main__":
    fire.Fire(main)
