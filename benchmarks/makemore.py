"""Training a context-3 network on names until its dev loss is 2.17: ours beside the plain loop.

Usage: EXP_DATA=full python benchmarks/makemore.py [--seconds 300]. One thread, one run, one split.

The plain loop is written from the lecture's description: embeddings of 10 numbers, 200 tanh units,
200,000 steps of 32 examples drawn with replacement, rate 0.1 and for the second half 0.01, weights
of the lecture's sizes at the start. Ours gathers equal contexts and takes exact steps with AdamW
and one cycle through the `Learner`. Only training counts, not the evaluations on the way; gathering
the contexts counts. `--seconds` ends a loop that takes longer; on the sample data the target is
1.90, since the names there are other ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import fire
import torch
import torch.nn.functional as F

from exp.nb00a import data_mode, data_path
from exp.nb04 import Callback, CancelFit, Learner
from exp.nb05 import fit_one_cycle
from exp.nb10 import (
    CharacterVocab,
    ContextMLP,
    count_loss,
    count_targets,
    counted_loaders,
    make_contexts,
    read_names,
    split_lines,
)

K = 3
STEPS, RATES, BATCH = 200_000, (0.1, 0.01), 32


class Clock:
    """Counts the seconds of training; the evaluations in between stop it."""

    def __init__(self):
        self.total, self.start = 0.0, time.perf_counter()

    def pause(self) -> float:
        self.total += time.perf_counter() - self.start
        return self.total

    def go_on(self) -> None:
        self.start = time.perf_counter()


Reading = tuple[int, float, float]  # steps, seconds of training, dev loss


def plain_loop(train, dev, n: int, seconds: float) -> Iterator[Reading]:
    """The lecture's loop, with a look at the dev loss every 2,500 steps."""
    (x, y), generator = train, torch.Generator().manual_seed(2147483647)
    draw = partial(torch.randn, generator=generator)
    C, W1, b1 = draw(n, 10), draw(K * 10, 200) * (5 / 3) / (K * 10) ** 0.5, draw(200) * 0.01
    W2, b2 = draw(200, n) * 0.01, torch.zeros(n)
    parameters = [p.requires_grad_() for p in (C, W1, b1, W2, b2)]

    def logits(x):
        return torch.tanh(C[x].view(len(x), -1) @ W1 + b1) @ W2 + b2

    clock = Clock()
    for step in range(1, STEPS + 1):
        rows = torch.randint(0, len(x), (BATCH,), generator=generator)
        loss = F.cross_entropy(logits(x[rows]), y[rows])
        for p in parameters:
            p.grad = None
        loss.backward()
        rate = RATES[step > STEPS // 2]
        for p in parameters:
            p.data += -rate * p.grad
        if step % 2500 == 0:
            spent = clock.pause()
            with torch.no_grad():
                yield step, spent, F.cross_entropy(logits(dev[0]), dev[1]).item()
            if spent > seconds:
                return
            clock.go_on()


class DevLoss(Callback):
    """Look at the dev loss every `every` steps, off the clock."""

    def __init__(self, dev, clock: Clock, every: int, seconds: float):
        self.dev, self.clock, self.every, self.seconds = dev, clock, every, seconds
        self.readings: list[Reading] = []

    def after_step(self, learn: Learner) -> None:
        if learn.n_steps % self.every == 0:
            spent = self.clock.pause()
            with torch.no_grad():
                loss = count_loss(learn.model(self.dev[0]), self.dev[1]).item()
            self.readings.append((learn.n_steps, spent, loss))
            if spent > self.seconds:
                raise CancelFit
            self.clock.go_on()


def ours(
    train, dev, n: int, seconds: float, steps: int, hidden_size: int, lr: float, weight_decay: float
) -> list[Reading]:
    """Exact steps over the distinct contexts, with one cycle."""
    torch.manual_seed(42)
    counted_dev = count_targets(*dev, n)
    clock = Clock()
    loaders = counted_loaders(train, dev, n, steps)
    opt_func = partial(torch.optim.AdamW, weight_decay=weight_decay)
    learn = Learner(ContextMLP(n, K, 24, hidden_size), loaders, count_loss, lr, opt_func)
    callback = DevLoss(counted_dev, clock, max(1, steps // 40), seconds)
    fit_one_cycle(learn, 1, callbacks=[callback], pct_start=0.1)
    return callback.readings


def row(name: str, readings: list[Reading], target: float) -> str:
    """Say when the target was met, and where the run ended."""
    met = next(((step, spent) for step, spent, loss in readings if loss <= target), None)
    when = f"{met[1]:10.2f} s {met[0]:9,}" if met else f"{'not met':>12} {'':>9}"
    step, spent, loss = readings[-1]
    return f"{name:<34}{when} {loss:9.4f} {spent:9.1f} s {step:9,} {1e3 * spent / step:9.2f} ms"


def main(seconds: float = 300.0) -> None:
    torch.set_num_threads(1)
    full = data_mode() == "full"
    target = 2.17 if full else 1.90
    names = read_names(data_path("names"))
    vocab, split = CharacterVocab(names), split_lines(names)
    n = len(vocab)
    train, dev = (make_contexts(part, vocab, K) for part in (split.train, split.dev))
    print(f"{data_mode()} data, {len(train[1]):,} examples, one thread, torch {torch.__version__}")
    print(
        f"{'':<34}{f'dev {target}':>12} {'steps':>9} {'at end':>9} {'time':>11} {'steps':>9} "
        f"{'per step':>12}"
    )
    quick = ours(train, dev, n, seconds, 150, 200, 0.02, 0.01)
    print(row("ours, short: 200 units, 150 steps", quick, target), flush=True)
    long = ours(train, dev, n, seconds, 800, 300, 0.01, 0.3)
    print(row("ours, long: 300 units, 800 steps", long, target), flush=True)
    plain = list(plain_loop(train, dev, n, seconds))
    print(row("plain loop: 200 units, batches", plain, target))
    times = [next((spent for _, spent, loss in r if loss <= target), None) for r in (quick, plain)]
    if None not in times:
        print(f"to {target}: the plain loop takes {times[1] / times[0]:.0f} times as long")


if __name__ == "__main__":
    fire.Fire(main)
