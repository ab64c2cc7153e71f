"""Serving batches that are in memory: our DataLoader, PyTorch's, and plain x[perm].

Usage: python benchmarks/loader.py [--rounds 7]. One thread; in each round every loader serves an
epoch, shuffled, one after the other; medians. Nothing is done with the batches. Seconds are the
thread's own on the processor, so that other programs do not count.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import sys
import time
from pathlib import Path

import fire
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import TensorDataset as TorchDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from exp.nb03b import DataLoader, TensorDataset

SHAPES = {  # name: samples, numbers in a row, batch size
    "names: 3 integers": (100_000, 3, 32),
    "table: 10 floats": (100_000, 10, 64),
    "digits: 784 floats": (20_000, 784, 64),
}


def by_permutation(x: torch.Tensor, y: torch.Tensor, size: int):
    """Index both tensors with each batch's part of a permutation."""
    perm = torch.randperm(len(x))
    for start in range(0, len(x), size):
        chosen = perm[start : start + size]
        yield x[chosen], y[chosen]


def seconds(batches) -> float:
    start = time.thread_time()
    for _ in batches:
        pass
    return time.thread_time() - start


def measure(n: int, width: int, size: int, rounds: int) -> dict[str, float]:
    """Items per second of each loader, the median over the rounds."""
    x = torch.randint(27, (n, width)) if width < 10 else torch.randn(n, width)
    y = torch.randint(10, (n,))
    loaders = {
        "ours": DataLoader(TensorDataset(x, y), size, shuffle=True),
        "torch": TorchLoader(TorchDataset(x, y), size, shuffle=True),
    }
    times: dict[str, list[float]] = {"ours": [], "torch": [], "x[perm]": []}
    for _ in range(rounds + 1):
        for name, loader in loaders.items():
            times[name].append(seconds(loader))
        times["x[perm]"].append(seconds(by_permutation(x, y, size)))
    return {name: n / statistics.median(found[1:]) for name, found in times.items()}  # warm


def main(rounds: int = 7) -> None:
    torch.set_num_threads(1)
    print(f"items/s, median of {rounds}, one thread, torch {torch.__version__}")
    print(
        f"{'':<20} {'batch':>5} {'ours':>12} {'DataLoader':>12} {'x[perm]':>12} "
        f"{'/ DataLoader':>13} {'/ x[perm]':>10}"
    )
    for name, (n, width, size) in SHAPES.items():
        speed = measure(n, width, size, rounds)
        print(
            f"{name:<20} {size:>5} {speed['ours']:>12,.0f} {speed['torch']:>12,.0f} "
            f"{speed['x[perm]']:>12,.0f} {speed['ours'] / speed['torch']:>12.1f}× "
            f"{speed['ours'] / speed['x[perm]']:>9.2f}×"
        )


if __name__ == "__main__":
    fire.Fire(main)
