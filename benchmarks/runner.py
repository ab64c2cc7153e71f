"""The runner beside its peers on 14 small notebooks: cold, two jobs, interleaved, medians.

Usage: python benchmarks/runner.py [--rounds 5]. Half of the notebooks train with torch for a
moment. The peers get an environment of their own, build/peers, with the same torch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import fire
import nbformat
from _side_by_side import ROOT, peers, side_by_side
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PLAIN = [
    "import matplotlib.pyplot as plt\nimport torch",
    "x = torch.linspace(0, 1, 50)\nassert x.sum().item() > 0",
    "plt.plot(x, x**2);",
    "print('sum', x.sum())",
]
TRAINS = [
    "import torch\nfrom torch import nn",
    "model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 1))\n"
    "opt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
    "x, y = torch.randn(64, 10), torch.randn(64, 1)",
    "for _ in range(20):\n    loss = nn.functional.mse_loss(model(x), y)\n"
    "    loss.backward(); opt.step(); opt.zero_grad()",
    "assert loss < 10",
]


def make_notebooks(folder: Path) -> None:
    """Write the notebooks, and the settings that each runner looks for."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (folder / "nbs").mkdir()
    (folder / "lib").mkdir()
    for number in range(14):
        cells = [new_markdown_cell(f"# Notebook {number}")]
        cells += [new_code_cell(source) for source in (TRAINS if number % 2 else PLAIN)]
        path = folder / "nbs" / f"{number:02}_small.ipynb"
        nbformat.write(new_notebook(cells=cells, metadata=kernel), path)
    paths = "nbs_path = nbs\nlib_path = lib\n"
    more = "repo = small\nlib_name = small\nversion = 0.0.1\ndoc_path = _docs\ntst_flags =\n"
    (folder / "settings.ini").write_text(f"[DEFAULT]\n{paths}{more}")
    project = '[project]\nname = "small"\nversion = "0.0.1"\n'
    nbdev = '[tool.nbdev]\nnbs_path = "nbs"\nlib_path = "lib"\n'
    (folder / "pyproject.toml").write_text(project + nbdev)


def main(rounds: int = 5) -> None:
    """Run each runner in turn, `rounds` times, and print one table."""
    commands = {
        "run_notebook --jobs 2": [sys.executable, ROOT / "tools/run_notebook.py", "--jobs", "2"],
        "pytest --nbmake -n 2": [peers() / "pytest", "--nbmake", "-n", "2", "-q", "nbs"],
        "nbdev-test --n-workers 2": [peers() / "nbdev-test", "--n-workers", "2"],
    }
    side_by_side("14 notebooks, cold, seconds", commands, make_notebooks, rounds)


if __name__ == "__main__":
    fire.Fire(main)
