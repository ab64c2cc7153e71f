"""Tables larger than memory

By the end you will have a loader for training on a table that does not fit in memory, from Parquet files or from a database, in one process or several, with preprocessing that is fitted in one pass.
"""

# cell 9fe22add a6284e · Tables larger than memory
from __future__ import annotations

# generated from nbs/09d_large_tables.ipynb: do not edit · c675f1
__all__ = [
    "RowBlocks",
    "ParquetBlocks",
    "BlockSampler",
    "StreamLoader",
    "RunningMoments",
    "RunningMedian",
    "TableStatistics",
    "fit_by_blocks",
    "DatabaseBlocks",
]
__dir__ = __all__.copy  # what completion offers

# cell 9fe22add 1b25c0 · Tables larger than memory
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from exp.nb03d import check_counts, gather_objects, process_rank
from exp.nb08c import check_columns, column_numbers
from exp.nb09b import Categorify, TablePreprocessor, _Frame


# cell 2cb373c9 57fd4c · Blocks of rows
class RowBlocks(ABC):
    """A table in blocks: `counts` says how many rows each has, `read(block)` returns its frame.

    A block is the unit of reading and of shuffling, and must fit in memory several times over.
    """

    counts: Tensor

    @abstractmethod
    def read(self, block: int) -> _Frame: ...

    def __len__(self) -> int:
        return int(self.counts.sum())

    def __iter__(self) -> Iterator[_Frame]:
        return map(self.read, range(len(self.counts)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} rows in {len(self.counts):,} blocks)"

    def _checked(self, frame: _Frame, block: int) -> _Frame:
        if len(frame) != self.counts[block]:
            raise RuntimeError(f"block {block} of {self!r} had {int(self.counts[block])} rows and "
                               f"now has {len(frame)}: the table has changed; read it anew")
        return frame


# cell e28466ac 568b04 · Blocks of rows
class ParquetBlocks(RowBlocks):
    """The row groups of a Parquet file, or of all Parquet files in a folder or a list.

    Only the `columns` are read, by default all. Any row group can be read alone.
    Raises: FileNotFoundError for a path that does not exist; ValueError for columns that the files
        do not have, and for files without rows.
    """

    def __init__(self, path: Any, columns: Sequence[str] | None = None):
        import pyarrow.dataset

        self.path = [str(p) for p in path] if isinstance(path, list | tuple) else str(path)
        dataset = pyarrow.dataset.dataset(self.path, format="parquet")
        self.columns = _known_columns(columns, dataset.schema.names, self.path)
        groups = [group for fragment in dataset.get_fragments()
                  for group in fragment.split_by_row_group() if group.row_groups[0].num_rows]
        if not groups:
            raise ValueError(f"there are no rows in {self.path}")
        self._groups, self._schema = groups, dataset.schema
        self.counts = torch.tensor([group.row_groups[0].num_rows for group in groups])

    def read(self, block: int) -> _Frame:
        table = self._groups[block].to_table(schema=self._schema, columns=self.columns,
                                             use_threads=False)
        return self._checked(table.to_pandas(), block)


def _known_columns(columns: Sequence[str] | None, names: Sequence[str], place: Any) -> list[str]:
    missing = [name for name in columns or () if name not in names]
    if missing:
        raise ValueError(f"{place} has no column {missing}; it has {list(names)}")
    return list(names if columns is None else columns)


# cell 8967f316 1cfb74 · An order of blocks
class BlockSampler:
    """Deal the blocks of a table out to processes, and order this one's anew each epoch.

    The largest block goes first, always to the process with the fewest rows so far. The order
    depends on seed, epoch and rank alone, so that a resumed epoch is the same.
    Raises: ValueError if there are fewer blocks than processes.
    """

    def __init__(self, counts: Tensor, shuffle: bool = False, seed: int = 0, rank: int = 0,
                 world_size: int = 1):
        if len(counts) < world_size:
            raise ValueError(f"{world_size} processes cannot share {len(counts)} block(s): write "
                             "the table in smaller ones, for example "
                             "frame.to_parquet(path, row_group_size=50_000)")
        self.counts, self.shuffle, self.seed, self.epoch = counts, shuffle, seed, 0
        self.rank, self.world_size = rank, world_size
        self.shares: list[list[int]] = [[] for _ in range(world_size)]
        self.rows = [0] * world_size
        for block in counts.argsort(descending=True, stable=True).tolist():
            least = self.rows.index(min(self.rows))
            self.shares[least].append(block)
            self.rows[least] += int(counts[block])

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.shares[self.rank])

    def generator(self) -> torch.Generator:
        """Return a generator for the order of this epoch on this process."""
        words = f"{self.seed} {self.epoch} {self.rank}"
        return torch.Generator().manual_seed(random.Random(words).getrandbits(63))

    def __iter__(self) -> Iterator[int]:
        share = sorted(self.shares[self.rank])
        if self.shuffle:
            order = torch.randperm(len(share), generator=self.generator()).tolist()
            share = [share[i] for i in order]
        return iter(share)


# cell 4af65541 d424dc · Batches from blocks
class StreamLoader:
    """Serve a table in batches, block by block, so that memory does not grow with the table.

    `transform` turns a frame into tensors, as `TablePreprocessor.transform` does. With `shuffle`
    the blocks come in random order, and the rows of `buffer_blocks` at a time are mixed. Of several
    processes each serves its own blocks; `batch_size` counts the rows of all of them. Every row is
    served once an epoch, in batches that differ by at most one row, and every process has as many.
    Raises: ValueError as `BlockSampler`.
    Differs: `DataLoader` mixes all rows, and has a shorter last batch. Without `set_epoch`, which a
        Learner calls, each epoch has the same order.
    """

    def __init__(self, dataset: RowBlocks, transform: Callable[[_Frame], Sequence[Tensor]],
                 batch_size: int = 64, shuffle: bool = False, buffer_blocks: int = 8,
                 seed: int = 0):
        check_counts(batch_size=batch_size, buffer_blocks=buffer_blocks)
        self.dataset, self.transform, self.batch_size = dataset, transform, batch_size
        self.shuffle, self.buffer_blocks, self.seed = shuffle, buffer_blocks, seed
        self.share(*process_rank())

    def share(self, rank: int, world_size: int) -> None:
        """Serve the blocks of one of several processes, by default those of this one."""
        self.sampler = BlockSampler(self.dataset.counts, self.shuffle, self.seed, rank, world_size)
        wanted, fewest = -(-len(self.dataset) // self.batch_size), min(self.sampler.rows)
        # two rows at least, or batch norm has no spread to divide by
        self.n_batches = max(1, min(wanted, fewest // 2))

    def __len__(self) -> int:
        return self.n_batches

    def __repr__(self) -> str:
        return f"StreamLoader({self.dataset!r}, {self.n_batches:,} batches)"

    def _sizes(self) -> Iterator[int]:
        rows, n = self.sampler.rows[self.sampler.rank], self.n_batches
        return (rows * (i + 1) // n - rows * i // n for i in range(n))

    def __iter__(self) -> Iterator[list[Tensor]]:
        generator = self.sampler.generator()
        blocks, sizes = list(self.sampler), self._sizes()
        held, size, place = None, next(sizes), 0
        while place < len(blocks):
            n_read = self.buffer_blocks if held is None else max(1, self.buffer_blocks // 2)
            read = [self.transform(self.dataset.read(block))
                    for block in blocks[place:place + n_read]]
            place += n_read
            held = [torch.cat(part) for part in zip(*([held] if held else []), *read, strict=True)]
            del read
            n, start = len(held[0]), 0
            order = torch.randperm(n, generator=generator) if self.shuffle else torch.arange(n)
            ready = n if place >= len(blocks) or not self.shuffle else n - n // 2
            while size is not None and start + size <= ready:
                yield [part[order[start:start + size]] for part in held]
                start, size = start + size, next(sizes, None)
            held = [part[order[start:]] for part in held]


# cell 46c9a033 1ee590 · Fitted in one pass
class RunningMoments:
    """Count, mean and sum of squared deviations of numbers that come block by block.

    `update` takes a block in, `merge` what another one has found; missing numbers do not count.
    Source: Chan, Golub and LeVeque 1983, equations 2.1.
    """

    def __init__(self, n: int = 0, mean: float = 0.0, squares: float = 0.0):
        self.n, self.mean, self.squares = n, mean, squares

    def update(self, values: Tensor) -> None:
        values = values[~values.isnan()].double()
        if len(values):
            mean = values.mean().item()
            self.merge(RunningMoments(len(values), mean, ((values - mean) ** 2).sum().item()))

    def merge(self, other: RunningMoments) -> None:
        n, apart = self.n + other.n, other.mean - self.mean
        if other.n:
            self.mean += apart * other.n / n
            self.squares += other.squares + apart ** 2 * self.n * other.n / n
        self.n = n

    @property
    def deviation(self) -> float:
        """The standard deviation of all numbers so far."""
        return (self.squares / self.n) ** 0.5


# cell 6a8b47f1 289bb9 · Fitted in one pass
class RunningMedian:
    """The median of numbers that come block by block: each distinct value and how often it came.

    Exact up to `max_values` distinct values. Beyond, the numbers are cut into half as many
    equal shares, each represented by its middle one, and the median is an estimate.
    """

    def __init__(self, max_values: int = 2**20):
        self.max_values = max_values
        self.values, self.counts = torch.zeros(0).double(), torch.zeros(0, dtype=torch.int64)

    def update(self, values: Tensor) -> None:
        values = values[~values.isnan()].double()
        self._add(values, torch.ones(len(values), dtype=torch.int64))

    def merge(self, other: RunningMedian) -> None:
        self._add(other.values, other.counts)

    def _add(self, values: Tensor, counts: Tensor) -> None:
        values, counts = torch.cat([self.values, values]), torch.cat([self.counts, counts])
        self.values, place = values.unique(return_inverse=True)
        self.counts = torch.zeros(len(self.values), dtype=torch.int64).index_add(0, place, counts)
        if len(self.values) > self.max_values:
            edges = torch.arange(self.max_values // 2 + 1) * self.counts.sum()
            edges = edges // (self.max_values // 2)  # ranks that cut the numbers into equal shares
            middle = (edges[1:] + edges[:-1]) // 2
            self.values = self.values[torch.searchsorted(self.counts.cumsum(0), middle, right=True)]
            self.counts = edges.diff()

    @property
    def median(self) -> float:
        """The middle number, or the mean of the two in the middle."""
        upto = self.counts.cumsum(0)
        n = int(upto[-1])
        middle = torch.tensor([(n - 1) // 2, n // 2])
        return self.values[torch.searchsorted(upto, middle, right=True)].mean().item()


# cell 75de470e a809b1 · Fitted in one pass
class TableStatistics:
    """What a `TablePreprocessor` learns from its training rows, collected block by block.

    `update` takes a block in, `merge` what another process has collected, and `finish` fills in a
    preprocessor: the same as fitting it on all rows at once.
    Raises: ValueError as `TablePreprocessor.fit`, and for a column that holds text in one block and
        numbers in another.
    """

    def __init__(self, preprocessor: TablePreprocessor):
        self.plan, self.n_rows = preprocessor, 0
        self.levels: dict[str, set] = {}
        self.has_missing: dict[str, bool] = {}
        self.n_missing = dict.fromkeys(preprocessor.numbers, 0)
        self.moments = {name: RunningMoments() for name in preprocessor.numbers}
        self.medians = {name: RunningMedian() for name in preprocessor.numbers}

    def update(self, frame: _Frame) -> None:
        check_columns(frame, self.plan.numbers, "TableStatistics")
        for part in (self.plan.categorify, self.plan.classes):
            found = Categorify(part.columns).fit(frame)
            for name in part.columns:
                self._add_levels(name, found.levels[name], found.has_missing[name])
        for name in self.plan.numbers:
            values = torch.tensor(column_numbers(frame, name))
            self.n_missing[name] += int(values.isnan().sum())
            self.moments[name].update(values)
            self.medians[name].update(values)
        self.n_rows += len(frame)

    def merge(self, other: TableStatistics) -> None:
        for name, levels in other.levels.items():
            self._add_levels(name, levels, other.has_missing[name])
        for name in self.plan.numbers:
            self.n_missing[name] += other.n_missing[name]
            self.moments[name].merge(other.moments[name])
            self.medians[name].merge(other.medians[name])
        self.n_rows += other.n_rows

    def _add_levels(self, name: str, levels: Any, has_missing: bool) -> None:
        known = self.levels.setdefault(name, set())
        if len({isinstance(level, str) for level in (*islice(known, 1), *islice(levels, 1))}) > 1:
            raise ValueError(f"column {name!r} holds text in one block and numbers in another: "
                             "store it as one type")
        known.update(levels)
        self.has_missing[name] = self.has_missing.get(name, False) or has_missing

    def finish(self) -> TablePreprocessor:
        """Return the preprocessor, fitted."""
        if not self.n_rows:
            raise ValueError("the table has no rows to learn from")
        if empty := [name for name, found in self.moments.items() if not found.n]:
            raise ValueError(f"the columns {empty} hold no number at all: leave them out")
        plan = self.plan
        for part in (plan.categorify, plan.classes):
            part.levels = {name: sorted(self.levels[name]) for name in part.columns}
            part.has_missing = {name: self.has_missing[name] for name in part.columns}
        plan.fill.medians = {name: found.median for name, found in self.medians.items()}
        plan.fill.flagged = [name for name, n in self.n_missing.items() if n]
        for name, found in self.moments.items():
            filled = RunningMoments(found.n, found.mean, found.squares)
            filled.merge(RunningMoments(self.n_missing[name], plan.fill.medians[name]))
            plan.normalize.means[name] = filled.mean
            plan.normalize.deviations[name] = filled.deviation or 1.0
        return plan


def fit_by_blocks(preprocessor: TablePreprocessor, blocks: RowBlocks) -> TablePreprocessor:
    """Fit a preprocessor in one pass over the blocks of a table, and return it.

    Processes that have joined each read their own blocks, and all learn the same.
    Raises: ValueError as `TableStatistics`.
    """
    own = TableStatistics(preprocessor)
    for block in BlockSampler(blocks.counts, False, 0, *process_rank()):
        own.update(blocks.read(block))
    whole = TableStatistics(preprocessor)
    for found in gather_objects(own):
        whole.merge(found)
    return whole.finish()


# cell 427f5427 715ccf · From a database
class DatabaseBlocks(RowBlocks):
    """A table of a database, in ranges of a whole-number `key`, each of about `block_rows` rows.

    `url`: as SQLAlchemy takes it, such as "sqlite:///shop.db" or "postgresql://me@host/shop". The
    keys are read once, to count; an index on the key lets the database find each range at once.
    Raises: ValueError for a table or column that does not exist, keys that are missing or no whole
        numbers, and a table without rows.
    """

    def __init__(self, url: str, table: str, key: str, columns: Sequence[str] | None = None,
                 block_rows: int = 50_000):
        import sqlalchemy

        check_counts(block_rows=block_rows)
        self._url, self.table, self.key, self.block_rows = url, table, key, block_rows
        self._engine = None
        found = sqlalchemy.inspect(self._connect())
        if not (found.has_table(table) or table in found.get_view_names()):
            raise ValueError(f"the database has no table {table!r}; it has "
                             f"{found.get_table_names() + found.get_view_names()}")
        names = [column["name"] for column in found.get_columns(table)]
        _known_columns([key], names, table)
        self.columns = _known_columns(columns, names, table)
        self._count()

    def _connect(self) -> Any:
        import sqlalchemy

        if self._engine is None:
            self._engine = sqlalchemy.create_engine(self._url)
        return self._engine

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_engine": None}  # a process opens connections of its own

    def _count(self) -> None:
        """Find the key at which each range begins, and count; the database does the work."""
        import sqlalchemy as sql

        key, table = sql.column(self.key), sql.table(self.table)
        number = sql.func.row_number().over(order_by=key).label("number")
        numbered = sql.select(key, number).select_from(table).subquery()
        first = (numbered.c.number - 1) % self.block_rows == 0
        whole = sql.select(sql.func.count(), sql.func.max(key)).select_from(table)
        with self._connect().connect() as connection:
            starts = connection.scalars(sql.select(numbered.c[self.key]).where(first)).all()
            n_rows, last = connection.execute(whole).one()
            if not n_rows:
                raise ValueError(f"there are no rows in table {self.table!r}")
            wrong = [value for value in (*starts, last) if not isinstance(value, int)]
            if wrong:
                raise ValueError(f"the key {self.key!r} must be a whole number in every row, got "
                                 f"{wrong[0]!r}; choose another column")
            self.starts = torch.tensor([*sorted(set(starts)), last + 1])
            counts = [connection.scalar(sql.select(sql.func.count()).select_from(table)
                                        .where(*self._range(block)))
                      for block in range(len(self.starts) - 1)]
        if sum(counts) != n_rows:
            raise ValueError(f"{n_rows - sum(counts)} rows have a key {self.key!r} that is no "
                             "whole number, or none; choose another column")
        self.counts = torch.tensor(counts)

    def _range(self, block: int) -> list[Any]:
        import sqlalchemy as sql

        start, end = self.starts[block:block + 2].tolist()
        return [sql.column(self.key) >= start, sql.column(self.key) < end]

    def read(self, block: int) -> _Frame:
        import pandas
        import sqlalchemy as sql

        query = (sql.select(*map(sql.column, self.columns)).select_from(sql.table(self.table))
                 .where(*self._range(block)).order_by(sql.column(self.key)))
        with self._connect().connect() as connection:
            return self._checked(pandas.read_sql_query(query, connection), block)
