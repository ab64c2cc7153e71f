"""A million rows of a table: preprocessing, one epoch of training, and the memory that they take.

Usage: python benchmarks/tabular.py [--rows 1000000] [--rounds 1] [--json]. One thread. Every way
trains the same network (embeddings of the same sizes, hidden layers of 200 and 100, AdamW, batches
of 1,024) for one epoch, in a process of its own, in turn: by Learner on tensors in memory, by
Learner on the row groups of a Parquet file, by a plain loop, and by fastai, which is installed into
build/peers_tabular on the first call. Seconds are the process's own on the processor, so that
waiting for it does not count; rows per second are the best of the rounds; the peak is the most
memory that the process ever took, its libraries included.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import json
import resource
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "build" / "peers_tabular"
CATEGORIES, NUMBERS, TARGET = ["driver", "zone", "hour", "weather"], ["distance", "degrees"], "y"
SIZES, HIDDEN, BATCH = [50, 50, 12, 3], (200, 100), 1024
WAYS = ["Learner, in memory", "Learner, by row groups", "a plain loop", "fastai"]


def peer() -> Path:
    """The Python that has fastai."""
    python = PEERS / ("Scripts" if os.name == "nt" else "bin") / "python"
    if not (PEERS / ".ready").exists():
        venv.create(PEERS, with_pip=True, clear=True)
        pins = ["-c", str(ROOT / "constraints.txt"), "--only-binary=:all:"]
        command = [python, "-m", "pip", "install", "-q", *pins, "fastai", "pyarrow"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        (PEERS / ".ready").touch()
    return python


def write_table(path: Path, n: int, block: int = 50_000) -> None:
    """Trips by 2,000 drivers in 200 zones, with a twentieth of the temperatures missing."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, writer = np.random.default_rng(0), None
    slow = rng.normal(size=2000) * 2
    for first in range(0, n, block):
        m = min(block, n - first)
        driver, zone, hour, weather = (rng.integers(k, size=m) for k in (2000, 200, 24, 4))
        distance, degrees = rng.random(m) * 10, rng.normal(10, 8, m)
        y = 5 + 2 * distance * (1 + 0.2 * weather) + slow[driver] + rng.normal(size=m) * 3
        degrees[rng.random(m) < 0.05] = np.nan
        table = pa.table(
            {
                "driver": [f"d{i}" for i in driver],
                "zone": zone,
                "hour": hour,
                "weather": [f"w{i}" for i in weather],
                "distance": distance,
                "degrees": degrees,
                "y": y,
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def ours(path: str, way: str):
    """Yield after the preprocessing, and again after the training."""
    sys.path.insert(0, str(ROOT))
    import pandas as pd
    import torch
    import torch.nn.functional as F

    from exp.nb03b import DataLoader, DataLoaders, TensorDataset
    from exp.nb04 import Learner
    from exp.nb09b import TablePreprocessor, TabularModel
    from exp.nb09d import ParquetBlocks, StreamLoader, fit_by_blocks

    torch.set_num_threads(1)
    torch.manual_seed(0)
    prep = TablePreprocessor(CATEGORIES, NUMBERS, TARGET)
    if way == "Learner, by row groups":
        blocks = ParquetBlocks(path)
        yield len(blocks)
        fit_by_blocks(prep, blocks)
        loader = StreamLoader(blocks, prep.transform, BATCH, shuffle=True)
    else:
        frame = pd.read_parquet(path)
        yield len(frame)
        rows = TensorDataset(*prep.fit(frame).transform(frame))
        loader = DataLoader(rows, BATCH, shuffle=True)
    yield
    model = TabularModel(prep.levels, len(prep.number_names), 1, HIDDEN, SIZES)
    if way == "a plain loop":
        opt = torch.optim.AdamW(model.parameters(), 1e-3)
        for chosen in torch.randperm(len(rows)).split(BATCH):
            *inputs, target = (t[chosen] for t in rows.tensors)
            F.mse_loss(model(*inputs), target).backward()
            opt.step()
            opt.zero_grad()
    else:
        learn = Learner(
            model, DataLoaders(loader, None), F.mse_loss, 1e-3, torch.optim.AdamW, progress=False
        )
        learn.fit(1)
    yield


def fastais(path: str, way: str):
    import pandas as pd
    import torch
    from fastai.tabular import all as fastai

    torch.set_num_threads(1)
    frame = pd.read_parquet(path)
    yield len(frame)
    procs = [fastai.Categorify, fastai.FillMissing, fastai.Normalize]
    splits = list(range(len(frame))), list(range(BATCH))  # it wants a batch to validate on
    table = fastai.TabularPandas(frame, procs, CATEGORIES, NUMBERS, TARGET, splits=splits)
    loaders = fastai.DataLoaders(
        fastai.TabDataLoader(table.train, bs=BATCH, shuffle=True),
        fastai.TabDataLoader(table.valid, bs=BATCH),
    )
    yield
    sizes = [(len(table.classes[name]), size) for name, size in zip(CATEGORIES, SIZES)]  # noqa: B905
    sizes += [(len(table.classes[name]), 2) for name in table.cat_names[len(sizes) :]]
    model = fastai.TabularModel(sizes, len(NUMBERS), 1, list(HIDDEN))
    optimizer = fastai.OptimWrapper(opt=torch.optim.AdamW(model.parameters(), 1e-3))
    learn = fastai.Learner(
        loaders, model, fastai.MSELossFlat(), opt_func=lambda *_, **__: optimizer
    )
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3)
    yield


def run(path: str, way: str) -> None:
    """Measure one way in this process, and print it as JSON."""
    steps = (fastais if way == "fastai" else ours)(path, way)
    n, times = next(steps), [time.process_time()]
    for _ in steps:
        times.append(time.process_time())
    prepared, trained = (n / (b - a) for a, b in zip(times, times[1:]))  # noqa: B905
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"prepared": prepared, "trained": trained, "peak": peak}))


def main(rows: int = 1_000_000, rounds: int = 1, json: bool = False) -> None:
    from json import dumps, loads

    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trips.parquet"
        write_table(path, rows)
        for _ in range(rounds):
            for way in WAYS:
                python = peer() if way == "fastai" else sys.executable
                command = [python, __file__, "--run", path, way]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(f"{way} failed:\n{done.stderr}")
                found[way].append(loads(done.stdout.splitlines()[-1]))
    table = [
        {
            "way": way,
            "preprocessing, rows/s": round(max(one["prepared"] for one in turns)),
            "training, rows/s": round(max(one["trained"] for one in turns)),
            "peak MB": round(min(one["peak"] for one in turns)),
        }
        for way, turns in found.items()
    ]
    if json:
        print(dumps({"n": rows, "rounds": rounds, "rows": table}))
        return
    print(f"{rows:,} rows, one thread, the best of {rounds}")
    for row in table:
        print("   ".join(f"{name}: {value:,}" if name != "way" else f"{value:24}"
                         for name, value in row.items()))  # fmt: skip


if __name__ == "__main__":
    if "--run" in sys.argv:
        run(*sys.argv[2:])
    else:
        import fire

        fire.Fire(main)
