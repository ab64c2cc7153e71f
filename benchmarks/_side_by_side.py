"""Whole commands beside their peers: cold, interleaved, medians; peers in build/peers."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "build" / "peers"
PACKAGES = ["nbmake", "nbdev", "pytest", "pytest-xdist", "matplotlib", "ipykernel", "torch"]


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


def side_by_side(
    title: str, commands: dict[str, list], prepare: Callable[[Path], None], rounds: int
) -> None:
    """Run each command in turn in a folder made for it, `rounds` times, and print one table.

    The first command is ours: the ratios are to its median.
    """
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    path = os.pathsep.join([str(peers()), os.environ["PATH"]])
    for _ in range(rounds):
        for name, command in commands.items():
            with tempfile.TemporaryDirectory() as folder:
                prepare(Path(folder))
                env = os.environ | {"PATH": path}
                start = time.perf_counter()
                done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
                seconds[name].append(time.perf_counter() - start)
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stdout}\n{done.stderr}")
    ours = statistics.median(next(iter(seconds.values())))
    print(f"{title:28}  median  fastest  slowest  ratio")
    for name, times in seconds.items():
        middle = statistics.median(times)
        row = f"{middle:7.2f}  {min(times):7.2f}  {max(times):7.2f}  {middle / ours:4.1f}x"
        print(f"{name:28} {row}")
