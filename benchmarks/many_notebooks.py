"""How the tools grow with the number of notebooks: seconds and memory, as a table and a plot.

Usage: python benchmarks/many_notebooks.py [--counts 25,100,250,500] [--rounds 3] [--to FILE.svg]
Each notebook has 30 cells, of which 8 are exported, and imports from up to three earlier ones. Its
cells do next to nothing, so that the time of a run is the runner's own.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import fire
import matplotlib
import psutil
from _side_by_side import ROOT

FUNCTION = '''#export
def step_{n}_{i}(x: float) -> float:
    """Take step {i} of {n}."""
    return x + {i}'''


def make_project(folder: Path, count: int) -> None:
    """Write a project of `count` notebooks."""
    (folder / "nbs").mkdir()
    (folder / "settings.ini").write_text("[DEFAULT]\nnbs_path = nbs\nlib_path = lib\n")
    for n in range(count):
        earlier = sorted({n // 2, n // 3, n // 5} & set(range(n)))
        imports = [f"from lib.nb{m:03} import step_{m}_0" for m in earlier]
        sources = ["\n".join(["#export", *imports]) if imports else "total = 0"]
        for i in range(8):
            sources += [FUNCTION.format(n=n, i=i), f"assert step_{n}_{i}(1) == {1 + i}", f"x = {i}"]
        sources += [f"print(step_{n}_{i}(0))" for i in range(5)]
        text = {"cell_type": "markdown", "metadata": {}, "source": f"# Page {n}", "id": "title"}
        empty = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
        code = [{**empty, "source": source, "id": f"c{i}"} for i, source in enumerate(sources)]
        notebook = {"cells": [text, *code], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        (folder / "nbs" / f"{n:03}_page.ipynb").write_text(json.dumps(notebook, indent=1))


def measured(folder: Path, *command: str) -> tuple[float, float]:
    """Seconds of a whole command, and the most MiB that it held with all that it started."""
    start, most, over = time.perf_counter(), 0, threading.Event()
    program = [sys.executable, str(ROOT / "tools" / command[0])]
    process = subprocess.Popen(
        [*program, *command[1:]], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )

    def look() -> None:
        nonlocal most
        while not over.wait(0.03):
            held = 0
            try:
                family = [psutil.Process(process.pid)]
                for member in [*family, *family[0].children(recursive=True)]:
                    held += member.memory_full_info().pss  # a forked page counts once
            except (psutil.Error, AttributeError):
                continue
            most = max(most, held)

    watcher = threading.Thread(target=look)
    watcher.start()
    told, _ = process.communicate()
    seconds = time.perf_counter() - start
    over.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{told.decode()[-2000:]}")
    return seconds, most / 2**20


def main(counts: str = "25,100,250,500", rounds: int = 3, to: str = "") -> None:
    """Measure each command on projects of these sizes, print medians as a table, and draw them."""
    sizes = [int(n) for n in (counts if isinstance(counts, tuple) else str(counts).split(","))]
    commands = {
        "export, from nothing": ["notebook2script.py"],
        "export, nothing changed": ["notebook2script.py"],
        "run, two at a time": ["run_notebook.py", "--jobs", "2", "--all"],
        "run, nothing changed": ["run_notebook.py"],
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    print(f"{'seconds (MiB)':26}" + "".join(f"{n:>16,}" for n in sizes))
    for size in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_project(folder, size)
            for name, command in commands.items():
                if name == "export, nothing changed":
                    measured(folder, *command)  # the first look says that nothing is to do
                tries = []
                for _ in range(rounds):
                    if name == "export, from nothing":
                        shutil.rmtree(folder / "lib", ignore_errors=True)
                    tries.append(measured(folder, *command))
                found[name].append(tuple(map(statistics.median, zip(*tries, strict=True))))
    for name, figures in found.items():
        print(f"{name:26}" + "".join(f"{s:9.2f} ({m:4.0f})" for s, m in figures))
    if to:
        draw(sizes, found, Path(to))


def draw(sizes: list[int], found: dict[str, list[tuple[float, float]]], file: Path) -> None:
    """Draw seconds and memory over the number of notebooks."""
    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "figure", "svg.fonttype": "none"}
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for name, figures in found.items():
        for axis, values in zip(axes, zip(*figures, strict=True), strict=True):
            axis.plot(sizes, values, "o-", label=name, markersize=4)
    axes[0].set(title="Seconds of the whole command", xlabel="notebooks", yscale="log")
    axes[1].set(title="Memory of all its processes, MiB", xlabel="notebooks", ylim=(0, None))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(file, metadata={"Date": None})
    print(f"wrote {os.path.relpath(file)}")


if __name__ == "__main__":
    fire.Fire(main)
