"""Recurrent layers, forwards and backwards: tokens per second of ours beside PyTorch's.

Usage: python benchmarks/rnn.py [--rounds 7] [--batch_size 32] [--steps 32]. One thread; in each
round every layer runs once, one after the other; medians. Seconds are the thread's own on the
processor, so that other programs do not count. A token is one step of one sequence.

Why the ratio is what it is: the products with the hidden state call the same routine in both. What
ours adds is, for each step, a dozen small operations that Python starts one by one; their weight
falls as the hidden size grows, as the last column shows. PyTorch's RNN and GRU on a CPU start the
same operations from C++, so little is between them and ours once the products dominate. Its LSTM is
another matter: a whole layer is one call of oneDNN, forwards and backwards, with the gates fused
and better products. "plain" is PyTorch without oneDNN: the share of the ratio that is Python's.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import fire
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import exp
from exp.nb11 import Recurrent

SIZES = 64, 256, 512


def seconds(function: Callable[[], None]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def train_step(layer: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """One pass forwards and backwards, the gradients of the weights included."""

    def run() -> None:
        layer.zero_grad()
        layer(x)[0].sum().backward()

    return run


def without_onednn(run: Callable[[], None]) -> Callable[[], None]:
    def plain() -> None:
        with torch.backends.mkldnn.flags(enabled=False):
            run()

    return plain


def products(layer: Recurrent, x: torch.Tensor) -> Callable[[], None]:
    """Only the matrix products of a forward pass: all inputs at once, the state step by step."""
    h = torch.zeros(x.shape[1], layer.hidden_size)

    @torch.no_grad()
    def run() -> None:
        nn.functional.linear(x, layer.weight_ih_l0, layer.bias_ih_l0)
        for _ in range(len(x)):
            nn.functional.linear(h, layer.weight_hh_l0, layer.bias_hh_l0)

    return run


def measure(name: str, size: int, batch_size: int, steps: int, rounds: int) -> dict[str, float]:
    """Median seconds of a step of ours and of PyTorch's, of our forward pass and its products."""
    x = torch.randn(steps, batch_size, size)
    ours, theirs = getattr(exp, name)(size, size), getattr(nn, name)(size, size)
    theirs.load_state_dict(ours.state_dict())
    runs = {
        "ours": train_step(ours, x),
        "torch": train_step(theirs, x),
        "plain": without_onednn(train_step(theirs, x)),
        "forward": lambda: ours(x),
        "products": products(ours, x),
    }
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(rounds + 1):
        for key, run in runs.items():
            times[key].append(seconds(run))
    kept = {key: values[1:] for key, values in times.items()}  # the first round warms up
    return {key: statistics.median(values) for key, values in kept.items()}


def main(rounds: int = 7, batch_size: int = 32, steps: int = 32) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="TF32 acceleration")  # about Intel GPUs
    torch.manual_seed(42)
    titles = "ours/s", "torch/s", "plain/s", "torch/ours", "plain/ours", "products"
    print(f"{'layer':<6}{'hidden':>7}" + "".join(f"{title:>12}" for title in titles))
    for name in ("RNN", "GRU", "LSTM"):
        for size in SIZES:
            found = measure(name, size, batch_size, steps, rounds)
            rates = [batch_size * steps / found[key] for key in ("ours", "torch", "plain")]
            ratios = [rate / rates[0] for rate in rates[1:]]
            print(
                f"{name:<6}{size:>7}"
                + "".join(f"{rate:>12,.0f}" for rate in rates)
                + "".join(f"{ratio:>12.2f}" for ratio in ratios)
                + f"{found['products'] / found['forward']:>12.0%}"
            )
    print("\nproducts: their share of our forward pass; plain: PyTorch without oneDNN")


if __name__ == "__main__":
    fire.Fire(main)
