"""The runner beside its peers on 14 small notebooks: cold, two jobs, interleaved, medians.

Usage: python benchmarks/runner.py [--rounds 5]. Half of the notebooks train with torch for a
moment. The peers get an environment of their own, build/peers, with the same torch.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import fire
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "build" / "peers"
PACKAGES = ["nbmake", "nbdev", "pytest", "pytest-xdist", "matplotlib", "ipykernel", "torch"]

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


def peers() -> Path:
    """The folder of the peers' programs, installed on the first call."""
    programs = PEERS / ("Scripts" if os.name == "nt" else "bin")
    if not (PEERS / ".ready").exists():
        venv.create(PEERS, with_pip=True, clear=True)
        pins = ["-c", str(ROOT / "constraints.txt")]
        pip = [programs / "python", "-m", "pip", "install", "-q", *pins, *PACKAGES]
        subprocess.run(pip, check=True)
        (PEERS / ".ready").touch()
    return programs


def main(rounds: int = 5) -> None:
    """Run each runner in turn, `rounds` times, and print one table."""
    programs = peers()
    tool = ROOT / "tools" / "run_notebook.py"
    commands = {
        "run_notebook --jobs 2": [sys.executable, tool, "--jobs", "2"],
        "pytest --nbmake -n 2": [programs / "pytest", "--nbmake", "-n", "2", "-q", "nbs"],
        "nbdev-test --n-workers 2": [programs / "nbdev-test", "--n-workers", "2"],
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    for _ in range(rounds):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory() as folder:
                make_notebooks(Path(folder))
                start = time.perf_counter()
                done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path},
                                      capture_output=True, text=True)  # fmt: skip
                seconds[name].append(time.perf_counter() - start)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stdout}\n{done.stderr}")
    ours = statistics.median(seconds["run_notebook --jobs 2"])
    print(f"{'14 notebooks, cold, seconds':28} median  fastest  slowest  ratio")
    for name, times in seconds.items():
        middle = statistics.median(times)
        row = f"{middle:6.1f}  {min(times):7.1f}  {max(times):7.1f}  {middle / ours:4.1f}x"
        print(f"{name:28} {row}")


if __name__ == "__main__":
    fire.Fire(main)
