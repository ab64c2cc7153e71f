"""The Transformer beside torch.nn.Transformer and a plain GRU: tokens per second and memory.

Usage: python benchmarks/transformer.py [--rounds 5] [--size 128]. One thread; in each round every
model runs once, one after the other; medians. Seconds are the thread's own on the processor, so
that other programs do not count. A token is one of the target. "training" is one pass forwards and
backwards; "writing" is decoding greedily, with the cache where there is one (torch.nn.Transformer
has none, and reads everything again for each token). "memory" is what a training pass keeps for
its way back: the bytes of all tensors saved by autograd, each storage counted once.

All models have the embeddings and the last layer of exp.nb12b.Transformer. The GRU has one layer
for reading and one for writing, with attention between them by one product, of the same size.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fire
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from exp.nb12b import Transformer, smoothed_sequence_loss

V = 2000
LENGTHS, BATCH_SIZES = (8, 16, 32, 64), (1, 4, 16, 64)


class TorchTransformer(nn.Module):
    """torch.nn.Transformer between the tables of ours."""

    def __init__(self, ours: Transformer):
        super().__init__()
        self.ours = ours
        self.layers = nn.Transformer(
            ours.d_model, ours.nhead, len(ours.encoder), len(ours.decoder), ours.dim_feedforward,
            0.0, batch_first=True, norm_first=True,
        )  # fmt: skip

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        ours, T = self.ours, target.shape[1]
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
        embedded = (ours.embed(ours.source_embedding, source),
                    ours.embed(ours.target_embedding, target))  # fmt: skip
        return ours.out(
            self.layers(*embedded, tgt_mask=later, tgt_is_causal=True,
                        src_key_padding_mask=source == 0, memory_key_padding_mask=source == 0)
        )  # fmt: skip

    def write(self, source: Tensor, n: int) -> Tensor:
        target = torch.full((len(source), 1), 2)
        for _ in range(n):
            target = torch.cat([target, self(source, target)[:, -1:].argmax(2)], 1)
        return target


class PlainGRU(nn.Module):
    """Read with a GRU, write with a GRU that looks back by one product."""

    def __init__(self, size: int):
        super().__init__()
        self.source, self.target = nn.Embedding(V, size), nn.Embedding(V, size)
        self.read, self.decoder = (nn.GRU(size, size, batch_first=True) for _ in range(2))
        self.out = nn.Linear(2 * size, V)

    def scores(self, h: Tensor, states: Tensor) -> Tensor:
        shares = (h @ states.transpose(1, 2) / math.sqrt(h.shape[2])).softmax(2)
        return self.out(torch.cat([h, shares @ states], 2))

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        states, last = self.read(self.source(source))
        return self.scores(self.decoder(self.target(target), last)[0], states)

    def write(self, source: Tensor, n: int) -> Tensor:
        states, last = self.read(self.source(source))
        token = torch.full((len(source), 1), 2)
        for _ in range(n):
            h, last = self.decoder(self.target(token), last)
            token = self.scores(h, states).argmax(2)
        return token


def write_cached(model: Transformer, source: Tensor, n: int) -> Tensor:
    memory, token = model.encode(source), torch.full((len(source),), 2)
    state = model.start(memory)
    for _ in range(n):
        logits, state, _ = model.step(token, state, memory)
        token = logits.argmax(1)
    return token


def seconds(function: Callable[[], Any]) -> float:
    start = time.thread_time()
    function()
    return time.thread_time() - start


def saved_bytes(function: Callable[[], Any]) -> int:
    """The bytes that autograd keeps between forwards and backwards."""
    kept: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        function()
    return sum(kept.values())


def models(size: int) -> dict[str, nn.Module]:
    """The three models, the Transformers with two layers on each side and 4 · size inside."""
    torch.manual_seed(42)
    ours = Transformer(V, V, size, 4, 2, 2, 4 * size, dropout=0.0)
    return {"ours": ours, "torch": TorchTransformer(ours), "GRU": PlainGRU(size)}


def measure(size: int, batch_size: int, length: int, rounds: int, write: bool = True) -> dict:
    """Tokens per second in training and in writing, and bytes kept, for each model."""
    source, target = torch.randint(4, V, (2, batch_size, length))
    runs: dict[str, Callable[[], Any]] = {}
    kept = {}
    for name, model in models(size).items():

        def train(model: nn.Module = model) -> None:
            model.zero_grad()
            smoothed_sequence_loss(model(source, target), target, 0.0).backward()

        def decode(model: nn.Module = model) -> None:
            with torch.no_grad():
                if isinstance(model, Transformer):
                    write_cached(model, source, length)
                else:
                    model.write(source, length)

        runs[f"{name} training"] = train
        if write:
            runs[f"{name} writing"] = decode
        kept[name] = saved_bytes(train)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    rates = {name: batch_size * length / statistics.median(t) for name, t in times.items()}
    return {"rates": rates, "bytes": kept}


def table(rounds: int = 3, size: int = 128) -> dict[str, Any]:
    """Everything that the page draws: growth with the length at 16 rows, with the rows at 16."""
    return {
        "size": size,
        "lengths": {str(n): measure(size, 16, n, rounds, write=n <= 32) for n in LENGTHS},
        "batch_sizes": {str(n): measure(size, n, 16, rounds) for n in BATCH_SIZES},
    }


def main(rounds: int = 5, size: int = 128) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    found = table(rounds, size)
    for title, name in (("length", "lengths"), ("rows", "batch_sizes")):
        for kind in ("training", "writing"):
            print(
                f"\n{kind + ', tokens/s':<24}{title:>8}"
                + "".join(
                    f"{key:>10}" for key in ("ours", "torch", "GRU", "ours/torch", "ours/GRU")
                )
            )
            for n, entry in found[name].items():
                rates = [entry["rates"].get(f"{key} {kind}") for key in ("ours", "torch", "GRU")]
                if None not in rates:
                    ratios = rates[0] / rates[1], rates[0] / rates[2]
                    print(
                        f"{'':<24}{n:>8}"
                        + "".join(f"{rate:>10,.0f}" for rate in rates)
                        + "".join(f"{ratio:>10.2f}" for ratio in ratios)
                    )
        print(f"\n{'memory, MB':<24}{title:>8}{'ours':>10}{'torch':>10}{'GRU':>10}")
        for n, entry in found[name].items():
            print(f"{'':<24}{n:>8}" + "".join(f"{b / 1e6:>10.1f}" for b in entry["bytes"].values()))


if __name__ == "__main__":
    fire.Fire(main)
