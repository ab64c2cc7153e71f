"""A training step through Learner over the same step in a loop by hand, and the cost of importing.

Usage: python benchmarks/learner.py [--rounds 7] [--steps 150]. One thread. In each round every way
has ten turns of an epoch of so many steps, among the others, and the fastest counts, since what
disturbs only slows down; the median over the rounds of the ratios to the loop by hand with the same
batches. Seconds are the thread's own on the processor, so that waiting for it does not count.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import io
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import fire
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from exp.nb03b import DataLoader, DataLoaders, TensorDataset  # noqa: E402
from exp.nb03c import accuracy  # noqa: E402
from exp.nb04 import Learner  # noqa: E402
from exp.nb04a import ProgressCallback  # noqa: E402


def makemore() -> tuple[nn.Module, torch.Tensor, torch.Tensor, int]:
    """Three characters of 10 dimensions, 200 hidden units, 27 classes."""
    layers = nn.Embedding(27, 10), nn.Flatten(), nn.Linear(30, 200), nn.Tanh(), nn.Linear(200, 27)
    x, y = torch.randint(27, (100_000, 3)), torch.randint(27, (100_000,))
    return nn.Sequential(*layers), x, y, 32


def digits() -> tuple[nn.Module, torch.Tensor, torch.Tensor, int]:
    model = nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 10))
    return model, torch.randn(20_000, 784), torch.randint(10, (20_000,)), 64


def by_hand(model: nn.Module, batches, score: bool = False) -> Callable[[], None]:
    opt = torch.optim.SGD(model.parameters(), lr=0.01)

    def run() -> None:
        accuracies = []
        for xb, yb in batches():
            pred = model(xb)
            loss = F.cross_entropy(pred, yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
            if score:
                accuracies.append(accuracy(pred.detach(), yb))

    return run


def through_learner(model: nn.Module, loader, **options) -> Callable[[], None]:
    learn = Learner(model, DataLoaders(loader, None), F.cross_entropy, 0.01, **options)

    def run() -> None:
        with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            learn.fit(1)

    return run


def ways(make: Callable, steps: int) -> dict[str, Callable[[], None]]:
    """Every way to train `steps` steps, each with a model of its own."""
    models = [make() for _ in range(6)]
    _, x, y, size = models[0]
    x, y = x[: steps * size], y[: steps * size]
    loader = DataLoader(TensorDataset(x, y), size, shuffle=True)

    def permuted():
        for chosen in torch.randperm(len(x)).split(size):
            yield x[chosen], y[chosen]

    scored = {"metrics": [accuracy]}
    shown = {**scored, "callbacks": [ProgressCallback(style="terminal")]}
    return {
        "by hand": by_hand(models[0][0], lambda: loader),
        "by hand, x[perm]": by_hand(models[1][0], permuted),
        "by hand, accuracy": by_hand(models[2][0], lambda: loader, score=True),
        "Learner": through_learner(models[3][0], loader),
        "with accuracy": through_learner(models[4][0], loader, **scored),
        "and progress": through_learner(models[5][0], loader, **shown),
    }


def measure(runs: dict[str, Callable[[], None]], rounds: int) -> list[dict[str, float]]:
    """Processor seconds of each way's fastest turn, round by round; the first only warms up."""
    found = []
    for _ in range(rounds + 1):
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(10):
            for name in runs if turn % 2 else reversed(runs):
                start = time.thread_time()
                runs[name]()
                seconds[name].append(time.thread_time() - start)
        found.append({name: min(turns) for name, turns in seconds.items()})
    return found[1:]


def import_seconds(rounds: int) -> float:
    """What `import exp.nb04` adds to `import torch`, in a fresh process each."""
    code = ("import time, torch; start = time.process_time(); import exp.nb04; "
            "print(time.process_time() - start)")  # fmt: skip
    command = [sys.executable, "-c", code]
    found = [subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
             for _ in range(rounds)]  # fmt: skip
    return statistics.median(map(float, found))


def main(rounds: int = 7, steps: int = 150) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(42)
    print(f"µs a step, median of {rounds}, one thread, torch {torch.__version__}; target ≤ 1.2 ×")
    models = {"makemore: 30-200-27, batch 32": makemore, "digits: 784-50-10, batch 64": digits}
    for title, make in models.items():
        found = measure(ways(make, steps), rounds)
        print(title)
        for name in found[0]:
            seconds = statistics.median(round_[name] for round_ in found)
            ratios = sorted(round_[name] / round_["by hand"] for round_ in found)
            spread = f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
            middle = statistics.median(ratios)
            print(f"    {name:<18} {1e6 * seconds / steps:>8.1f}  {middle:>5.2f} × {spread}")
    print(f"import exp.nb04 after torch: {import_seconds(3):.3f} s of processor time; target ≤ 0.1")


if __name__ == "__main__":
    fire.Fire(main)
