"""Tables larger than memory: blocks, their order and shares, statistics in one pass, databases."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from two_processes import run_two

from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb04 import Learner
from exp.nb04d import Checkpoint
from exp.nb06c import DistributedCallback
from exp.nb09b import TablePreprocessor, TabularModel
from exp.nb09d import (
    BlockSampler,
    DatabaseBlocks,
    ParquetBlocks,
    RowBlocks,
    RunningMedian,
    RunningMoments,
    StreamLoader,
    TableStatistics,
    fit_by_blocks,
)

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
ROOT = Path(__file__).parents[1]


def table(n=1000, seed=0):
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=n), rng.normal(5, 3, n)
    z[rng.random(n) < 0.1] = np.nan
    kind = rng.choice(["a", "b", "c", None], n)
    return pd.DataFrame({"id": np.arange(n), "kind": kind, "x": x, "z": z, "y": 2 * x + 1})


class Frames(RowBlocks):
    """Blocks of given sizes, cut out of a table in memory."""

    def __init__(self, frame, counts):
        self.counts = torch.tensor(counts)
        self.frames = [frame[end - n : end] for n, end in zip(counts, np.cumsum(counts))]  # noqa: B905

    def read(self, block):
        return self.frames[block]


def ids(frame):
    return [torch.tensor(frame["id"].to_numpy())]


def served(loader):
    return torch.cat([batch[0] for batch in loader])


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=12),
    st.integers(1, 50),
    st.integers(1, 5),
    st.booleans(),
    st.integers(1, 3),
)
@settings(deadline=None, max_examples=80)
def test_every_row_once_on_one_process_and_equal_batches(counts, size, buffer, shuffle, world):
    blocks = Frames(table(sum(counts)), counts)
    loader = StreamLoader(blocks, ids, size, shuffle, buffer)
    if world > len(counts):
        with pytest.raises(ValueError, match=f"{world} processes cannot share"):
            loader.share(0, world)
        return
    rows, lengths = [], set()
    for rank in range(world):
        loader.share(rank, world)
        batches = [batch[0] for batch in loader]
        assert len(batches) == len(loader)
        sizes = [len(batch) for batch in batches]
        assert max(sizes) - min(sizes) <= 1
        lengths.add(len(batches))
        rows += torch.cat(batches).tolist()
    assert sorted(rows) == list(range(sum(counts))) and len(lengths) == 1


def test_the_order_depends_on_seed_and_epoch_alone():
    blocks = Frames(table(), [100] * 10)
    loader = StreamLoader(blocks, ids, 50, shuffle=True, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        loader.sampler.set_epoch(epoch)
        orders.append(served(loader).tolist())
    assert orders[0] == orders[2] != orders[1]
    other = StreamLoader(blocks, ids, 50, shuffle=True, seed=4)
    assert served(other).tolist() != orders[0]
    first = served(StreamLoader(blocks, ids, 50, shuffle=True, buffer_blocks=4, seed=3))[:50]
    assert len({int(i) // 100 for i in first}) >= 3  # of several blocks


def test_without_shuffle_the_batches_are_those_of_a_loader_in_memory(tmp_path):
    frame = table()
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=130)
    prep = TablePreprocessor(["kind"], ["x", "z"], "y").fit(frame)
    streamed = StreamLoader(ParquetBlocks(tmp_path / "t.parquet"), prep.transform, 100)
    whole = DataLoader(TensorDataset(*prep.transform(frame)), 100)
    assert len(streamed) == len(whole)
    for ours, theirs in zip(streamed, whole, strict=True):
        assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))


def test_parquet_folders_columns_pickling_and_errors(tmp_path):
    frame = table(100)
    for i in range(3):
        frame[i::3].to_parquet(tmp_path / f"{i}.parquet", row_group_size=20)
    blocks = ParquetBlocks(tmp_path, ["id", "kind"])
    assert blocks.counts.tolist() == [20, 14, 20, 13, 20, 13] and len(blocks) == 100
    assert "100 rows in 6 blocks" in repr(blocks)
    again = pickle.loads(pickle.dumps(blocks))
    assert again.read(1).equals(blocks.read(1)) and list(again.read(1)) == ["id", "kind"]
    assert sorted(pd.concat(blocks)["id"]) == list(range(100))
    assert len(ParquetBlocks([tmp_path / "0.parquet", tmp_path / "2.parquet"])) == 67
    with pytest.raises(ValueError, match="no column .'rain'."):
        ParquetBlocks(tmp_path, ["rain"])
    with pytest.raises(FileNotFoundError):
        ParquetBlocks(tmp_path / "nothing.parquet")
    frame[:0].to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(ValueError, match="no rows"):
        ParquetBlocks(tmp_path / "empty.parquet")


def test_a_table_that_changed_is_noticed():
    blocks = Frames(table(20), [10, 10])
    blocks.frames[1] = blocks.frames[1][:5]
    blocks.read = lambda block: blocks._checked(blocks.frames[block], block)
    with pytest.raises(RuntimeError, match="had 10 rows and now has 5"):
        list(blocks)


@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=60),
    st.integers(1, 9),
)
@settings(deadline=None)
def test_moments_and_median_of_parts_are_those_of_the_whole(values, size):
    x = torch.tensor(values, dtype=torch.float64)
    moments, median = RunningMoments(), RunningMedian()
    for i, part in enumerate(x.split(size)):
        ours, theirs = (moments, median) if i % 2 else (RunningMoments(), RunningMedian())
        ours.update(part)
        theirs.update(part)
        if not i % 2:
            moments.merge(ours)
            median.merge(theirs)
    there = x[~x.isnan()].numpy()
    assert moments.n == len(there)
    if len(there):
        assert np.isclose(moments.mean, there.mean(), atol=1e-6)
        assert np.isclose(moments.deviation, there.std(), atol=1e-6)
        assert median.median == np.median(there)


def test_the_estimated_median_of_many_values_is_near():
    for x in (torch.arange(50_001).double(), torch.randperm(50_001).double()):
        median = RunningMedian(max_values=1000)
        for part in x.split(777):
            median.update(part)
        assert len(median.values) <= 1000 and abs(median.median - 25_000) < 500


def learned(prep):
    return prep.to_dict()["learned"]


@pytest.mark.parametrize("kind", ["number", "class"])
def test_one_pass_learns_what_fit_learns(kind):
    frame = table(500).assign(few=[1, 2, 5, 2.5, None] * 100)
    plan = ["kind", "few"], ["x", "z"], "kind" if kind == "class" else "y", kind
    if kind == "class":
        frame, plan = frame.dropna(subset="kind"), (["few"], *plan[1:])
    counts = [1, 99, 100, len(frame) - 200]
    ours = learned(fit_by_blocks(TablePreprocessor(*plan), Frames(frame, counts)))
    theirs = learned(TablePreprocessor(*plan).fit(frame))
    for name in ("means", "deviations"):
        for column, value in theirs["normalize"].pop(name).items():
            assert np.isclose(ours["normalize"][name][column], value, rtol=1e-12)
        del ours["normalize"][name]
    assert ours == theirs


def test_statistics_refuse_what_a_fit_refuses():
    plan = TablePreprocessor(["c"], ["x"], "y")
    found = TableStatistics(plan)
    with pytest.raises(ValueError, match="no rows"):
        found.finish()
    found.update(pd.DataFrame({"c": ["a"], "x": [1.0], "y": [0.0]}))
    with pytest.raises(ValueError, match="text in one block and numbers in another"):
        found.update(pd.DataFrame({"c": [3], "x": [1.0], "y": [0.0]}))
    with pytest.raises(ValueError, match="'x'"):
        found.update(pd.DataFrame({"c": ["a"], "y": [0.0]}))
    gaps = TableStatistics(TablePreprocessor([], ["x"], "y"))
    gaps.update(pd.DataFrame({"x": [np.nan], "y": [0.0]}))
    with pytest.raises(ValueError, match="no number at all"):
        gaps.finish()


@pytest.fixture
def database(tmp_path):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    engine = sqlalchemy.create_engine(url)
    frame = table(1000).assign(key=lambda f: f["id"] * 3 + 7)
    frame.to_sql("sales", engine, index=False)
    frame[:0].to_sql("bare", engine, index=False)
    frame.assign(key=frame["key"].where(frame["id"] != 500)).to_sql("gaps", engine, index=False)
    frame.assign(key=frame["id"] // 400).to_sql("twice", engine, index=False)
    engine.dispose()
    return url, frame


def test_a_database_is_read_in_ranges_of_its_key(database):
    url, frame = database
    blocks = DatabaseBlocks(url, "sales", "key", ["id", "kind", "x"], block_rows=300)
    assert blocks.counts.tolist() == [300, 300, 300, 100]
    assert pd.concat(blocks)["id"].tolist() == frame["id"].tolist()
    again = pickle.loads(pickle.dumps(blocks))
    assert again.read(2).equals(blocks.read(2)) and list(again.read(0)) == ["id", "kind", "x"]
    assert DatabaseBlocks(url, "twice", "key", block_rows=300).counts.tolist() == [400, 400, 200]
    rows = served(StreamLoader(blocks, ids, 64, shuffle=True))
    assert sorted(rows.tolist()) == list(range(1000)) != rows.tolist()


@pytest.mark.parametrize(
    "table, key, columns, what",
    [
        ("orders", "key", None, "no table 'orders'"),
        ("sales", "number", None, "no column .'number'."),
        ("sales", "key", ["rain"], "no column .'rain'."),
        ("sales", "kind", None, "must be a whole number"),
        ("gaps", "key", None, "whole number"),
        ("bare", "key", None, "no rows"),
    ],
)
def test_a_database_that_cannot_be_read_is_refused(database, table, key, columns, what):
    with pytest.raises(ValueError, match=what):
        DatabaseBlocks(database[0], table, key, columns, 300)


def learner(blocks, callbacks=()):
    prep = fit_by_blocks(TablePreprocessor(["kind"], ["x", "z"], "y"), blocks)
    torch.manual_seed(0)
    model = TabularModel(prep.levels, len(prep.number_names), hidden=(8,))
    loader = StreamLoader(blocks, prep.transform, 50, shuffle=True, buffer_blocks=3)
    valid = StreamLoader(blocks, prep.transform, 100)
    return Learner(
        model, DataLoaders(loader, valid), F.mse_loss, 0.01, callbacks=callbacks, progress=False
    )


class Killed(Exception):
    pass


def test_a_training_resumes_in_the_middle_of_an_epoch(tmp_path):
    from exp.nb03f import Callback

    class Kill(Callback):
        only_watches = True

        def after_batch(self, learn):
            if learn.training and learn.n_steps == 25:
                raise Killed

    blocks = Frames(table(), [100] * 10)
    straight = learner(blocks)
    straight.fit(2)
    first = learner(blocks, [Checkpoint(tmp_path, every=10), Kill()])
    with pytest.raises(Killed):
        first.fit(2)
    second = learner(blocks, [Checkpoint(tmp_path, every=10)])
    second.fit(2)
    assert second.n_steps == straight.n_steps == 40
    for name, value in straight.model.state_dict().items():
        assert second.model.state_dict()[name].equal(value), name


LIMITED = """
import resource, sys
import torch
from exp.nb09d import ParquetBlocks, StreamLoader

torch.set_num_threads(1)
blocks = ParquetBlocks(sys.argv[1])
loader = StreamLoader(blocks, lambda f: [torch.tensor(f.to_numpy())], 500, True, 4)
next(iter(loader))
with open("/proc/self/status") as status:
    taken = next(int(line.split()[1]) for line in status if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (taken + 48 * 2**20,) * 2)
if sys.argv[2] == "whole":
    import pandas
    print(torch.tensor(pandas.read_parquet(sys.argv[1]).to_numpy()).sum().item())
else:
    print(sum(rows.sum().item() for rows, in loader))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux counts them")
def test_a_file_larger_than_a_memory_limit(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, writer, total = tmp_path / "large.parquet", None, 0.0
    for i in range(60):
        x = np.random.default_rng(i).normal(size=(10, 20_000))
        block = pa.table({f"x{j}": x[j] for j in range(10)})
        writer = writer or pq.ParquetWriter(path, block.schema)
        writer.write_table(block)
        total += x.sum()
    writer.close()
    assert path.stat().st_size > 90 * 2**20
    done = {
        way: subprocess.run(
            [sys.executable, "-c", LIMITED, path, way],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        for way in ("blocks", "whole")
    }
    assert done["whole"].returncode != 0
    assert done["blocks"].returncode == 0, done["blocks"].stderr[-2000:]
    assert np.isclose(float(done["blocks"].stdout), total)


def train_on_shares(out, path):
    """Fit the preprocessing and train in one of two processes, each on its own row groups."""
    from exp.nb06c import process_group

    torch.set_num_threads(1)
    blocks = ParquetBlocks(path)
    with process_group() as (rank, world_size):
        learn = learner(blocks, [DistributedCallback()])
        learn.fit(2)
        prep = fit_by_blocks(TablePreprocessor(["kind"], ["x", "z"], "y"), blocks)
        found = {
            "rows": sum(len(batch[-1]) for batch in learn.dls.train),
            "batches": len(learn.dls.train),
            "loss": learn.recorder.epochs[-1]["valid_loss"],
            "weights": learn.model.state_dict(),
            "learned": learned(prep),
        }
        torch.save(found, f"{out}/rank{rank}.pt")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_with_unequal_shares_train_one_model(tmp_path):
    frame = table(7001)
    for name, rows in (("a", frame[:5000]), ("b", frame[5000:])):
        rows.to_parquet(tmp_path / f"{name}.parquet", row_group_size=5000)
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / f"{name}.parquet").rename(tmp_path / "data" / f"{name}.parquet")
    run_two(__file__, tmp_path, tmp_path / "data")
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert [first["rows"], second["rows"]] == [5000, 2001]
    assert first["batches"] == second["batches"] and first["loss"] == second["loss"]
    for name, value in first["weights"].items():
        assert second["weights"][name].equal(value), name
    theirs = learned(TablePreprocessor(["kind"], ["x", "z"], "y").fit(frame))
    assert first["learned"] == second["learned"]
    assert first["learned"]["categorify"] == theirs["categorify"]
    assert np.isclose(
        first["learned"]["normalize"]["means"]["z"], theirs["normalize"]["means"]["z"]
    )


def test_fewer_blocks_than_processes_is_an_error_that_says_what_to_do():
    with pytest.raises(ValueError, match="row_group_size"):
        BlockSampler(torch.tensor([100]), world_size=2)


if __name__ == "__main__":
    train_on_shares(*sys.argv[1:])
