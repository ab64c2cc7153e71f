"""Serving batches that are in memory: our DataLoader, PyTorch's, and plain x[perm].

Usage: python benchmarks/loader.py [--rounds 7]. One thread; in each round every loader serves an
epoch, shuffled, one after the other; medians. Nothing is done with the batches. Seconds are the
thread's own on the processor, so that other programs do not count.

A second table gives the gigabytes of rows per second, beside ours in order and beside plain copies
of the rows as they lie: where the copy is not twenty times faster than PyTorch's loader either, it
is the memory that sets the limit, and no loader that copies rows can go beyond it.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import sys
import time
from functools import partial
from pathlib import Path

import fire
import torch
from torch.utils.data import DataLoader as TorchLoader
from torch.utils.data import TensorDataset as TorchDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from exp.nb03b import DataLoader, TensorDataset

SHAPES = {  # name: samples, numbers in a row, of which type, batch size
    "names: 3 integers": (100_000, 3, torch.int64, 32),
    "table: 10 floats": (100_000, 10, torch.float32, 64),
    "digits: 784 bytes": (20_000, 784, torch.uint8, 64),
    "digits: 784 floats": (20_000, 784, torch.float32, 64),
}


def by_permutation(x: torch.Tensor, y: torch.Tensor, size: int):
    """Index both tensors with each batch's part of a permutation."""
    perm = torch.randperm(len(x))
    for start in range(0, len(x), size):
        chosen = perm[start : start + size]
        yield x[chosen], y[chosen]


def by_copying(x: torch.Tensor, size: int):
    """Copy the rows as they lie, without labels: the most that the memory can do."""
    for part in x.split(size):
        yield part.clone()


def seconds(batches) -> float:
    start = time.thread_time()
    for _ in batches:
        pass
    return time.thread_time() - start


def measure(x: torch.Tensor, size: int, rounds: int) -> dict[str, float]:
    """Items per second in each way, the median over the rounds."""
    y = torch.randint(10, (len(x),))
    ours, theirs = TensorDataset(x, y), TorchDataset(x, y)
    ways = {
        "ours": DataLoader(ours, size, shuffle=True).__iter__,
        "torch": TorchLoader(theirs, size, shuffle=True).__iter__,
        "x[perm]": partial(by_permutation, x, y, size),
        "in order": DataLoader(ours, size).__iter__,
        "copy": partial(by_copying, x, size),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, batches in ways.items():
            times[name].append(seconds(batches()))
    return {name: len(x) / statistics.median(found[1:]) for name, found in times.items()}  # warm


def main(rounds: int = 7) -> None:
    torch.set_num_threads(1)
    print(f"items/s, median of {rounds}, one thread, torch {torch.__version__}")
    print(
        f"{'':<20} {'batch':>5} {'ours':>12} {'DataLoader':>12} {'x[perm]':>12} "
        f"{'/ DataLoader':>13} {'/ x[perm]':>10}"
    )
    speeds = {}
    for name, (n, width, dtype, size) in SHAPES.items():
        x = torch.randint(27, (n, width)).to(dtype)
        speeds[name] = speed = measure(x, size, rounds)
        print(
            f"{name:<20} {size:>5} {speed['ours']:>12,.0f} {speed['torch']:>12,.0f} "
            f"{speed['x[perm]']:>12,.0f} {speed['ours'] / speed['torch']:>12.1f}× "
            f"{speed['ours'] / speed['x[perm]']:>9.2f}×"
        )
    print("\ngigabytes/s", f"{'ours':>14} {'ours in order':>14} {'straight copy':>14}", end=" ")
    print(f"{'20 × DataLoader':>16}")
    for name, (_, width, dtype, _) in SHAPES.items():
        speed, row = speeds[name], width * dtype.itemsize / 1e9
        print(
            f"{name:<20} {row * speed['ours']:>5.2f} {row * speed['in order']:>14.2f} "
            f"{row * speed['copy']:>14.2f} {20 * row * speed['torch']:>16.2f}"
        )


if __name__ == "__main__":
    fire.Fire(main)
