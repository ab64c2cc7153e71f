"""Data loaders

In the end you have a `DataLoader` with PyTorch's interface and PyTorch's order under a seed, which reads with several processes and never hangs, and serves data that is already in memory as fast as the memory allows.
"""

# cell 9fa783ae a6284e · Imports
from __future__ import annotations

# generated from nbs/03b_data_loaders.ipynb: do not edit
__all__ = [
    "Dataset",
    "TensorDataset",
    "Sampler",
    "SequentialSampler",
    "RandomSampler",
    "BatchSampler",
    "collate",
    "tensor_batches",
    "fetch_batch",
    "worker_batches",
    "DataLoader",
    "DataLoaders",
]

# cell 9fa783ae 045266 · Imports
import multiprocessing
import os
import pickle
import random
import signal
import sys
import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, islice
from math import prod
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import torch
from torch import Tensor


# cell 320fa11f 4c8dec · A data set
class Dataset(ABC):
    """Answer two questions: how many samples there are, and what sample number `index` is."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: Any) -> Any: ...


# cell 84a39367 e6f55b · A data set
class TensorDataset(Dataset):
    """Hold tensors whose first axis counts the samples; a sample is the tuple of their rows.

    Shape: tensors (N, …); sample i is a tuple of (…).
    Raises: ValueError without tensors, or if their first axes differ.
    """

    def __init__(self, *tensors: Tensor):
        if not tensors or any(t.ndim == 0 or len(t) != len(tensors[0]) for t in tensors):
            raise ValueError("tensors need first axes of one length, got shapes "
                             f"{[tuple(t.shape) for t in tensors]}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)


# cell f79ef08b ac1d05 · An order
class Sampler(ABC):
    """An order of reading: `indices` gives it as one tensor, `blocks` in parts, iterating singly.

    Shape: indices (n,); blocks (size,), the last one shorter.
    """

    @abstractmethod
    def indices(self) -> Tensor: ...

    @abstractmethod
    def __len__(self) -> int: ...

    def blocks(self, size: int) -> Iterator[Tensor]:
        yield from self.indices().split(size)

    def __iter__(self) -> Iterator[int]:
        for block in self.blocks(max(1, len(self))):
            yield from block.tolist()


# cell a6a9c524 678b40 · An order
class SequentialSampler(Sampler):
    """Read in the order in which the samples lie."""

    def __init__(self, data_source: Any):
        self.data_source = data_source

    def __len__(self) -> int:
        return len(self.data_source)

    def indices(self) -> Tensor:
        return torch.arange(len(self))


# cell 3a906a13 46b3aa · An order
class RandomSampler(SequentialSampler):
    """Read every sample once, in an order drawn anew each time.

    Differs: does not draw with replacement.
    """

    def __init__(self, data_source: Any, generator: torch.Generator | None = None):
        super().__init__(data_source)
        self.generator = generator

    def indices(self) -> Tensor:
        generator = self.generator or torch.Generator().manual_seed(_draw_seed(None))
        return torch.randperm(len(self), generator=generator)

    def blocks(self, size: int) -> Iterator[Tensor]:
        yield from super().blocks(size)
        if self.generator is not None:
            self.indices()  # unused, but PyTorch draws it, and the next epoch depends on it


def _draw_seed(generator: torch.Generator | None) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator))


# cell 10897009 69a832 · An order
class BatchSampler:
    """Cut an order into lists of `batch_size`; the last one may be shorter, or is dropped.

    Raises: ValueError unless batch_size is a whole number of at least 1.
    """

    def __init__(self, sampler: Iterable[Any], batch_size: int, drop_last: bool = False):
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number >= 1, got {batch_size!r}")
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __len__(self) -> int:
        full, rest = divmod(len(self.sampler), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[Any]]:
        order = iter(self.sampler)
        while batch := list(islice(order, self.batch_size)):
            if len(batch) < self.batch_size and self.drop_last:
                return
            yield batch


# cell 6cce584d fc2526 · From samples to a batch
def collate(samples: Sequence[Any]) -> Any:
    """Stack samples along a new first axis, part by part for tuples, lists and dicts.

    Shape: B tensors, arrays or numbers (…) -> (B, …); integers become int64, floats float64.
    Raises: TypeError for what cannot be stacked; ValueError if samples differ in their parts, or
        there are none; RuntimeError if they differ in shape.
    Differs: dicts with different keys are an error, where PyTorch goes by the first one's keys;
        any kind of dict becomes a plain one.
    """
    if len(samples) == 0:
        raise ValueError("a batch of no samples; does the batch_sampler give an empty list?")
    first = samples[0]
    if isinstance(first, Tensor):
        return torch.stack(list(samples))
    if isinstance(first, str | bytes):
        return samples
    if hasattr(first, "__array__"):  # numpy's arrays and numbers
        return torch.stack([torch.as_tensor(sample) for sample in samples])
    if isinstance(first, int | float):
        return torch.tensor(samples, dtype=torch.float64 if isinstance(first, float) else None)
    if isinstance(first, Mapping):
        if any(sample.keys() != first.keys() for sample in samples):
            raise ValueError(f"samples have different keys: {[sorted(s) for s in samples]}")
        return {key: collate([sample[key] for sample in samples]) for key in first}
    if isinstance(first, Sequence):
        if any(len(sample) != len(first) for sample in samples):
            raise ValueError(f"samples have different lengths: {[len(s) for s in samples]}; "
                             "pad them to one length, or pass a collate_fn that does")
        parts = [collate(part) for part in zip(*samples, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else parts
    raise TypeError(f"cannot put a {type(first).__name__} into a batch; return tensors, arrays, "
                    "numbers, texts, or tuples, lists and dicts of them, or pass a collate_fn")


# cell 91172554 7f8aed · The fast path
def tensor_batches(dataset: TensorDataset, order: BatchSampler,
                   block_bytes: int = 2**18) -> Iterator[list[Tensor]]:
    """Take the rows of many batches at once, in the sampler's order, and hand out slices.

    Shape: tensors (N, …) -> lists of (B, …), on the device of each tensor.
    """
    row = sum(t.element_size() * prod(t.shape[1:]) for t in dataset.tensors)
    size, sampler = order.batch_size, order.sampler
    many = size * max(1, block_bytes // max(1, row * size))  # whole batches
    for block in sampler.blocks(many) if isinstance(sampler, Sampler) else map(torch.tensor, order):
        if order.drop_last:
            block = block[:len(block) // size * size]
        rows = _rows(dataset, block)
        if len(block) > size:
            yield from map(list, zip(*(t.unsafe_split(size) for t in rows), strict=True))
        elif len(block):
            yield rows


# cell f5eef90f 82a895 · The fast path
def _rows(dataset: TensorDataset, indices: Tensor) -> list[Tensor]:
    return [t.index_select(0, indices.to(t.device)) for t in dataset.tensors]


def _in_tensors(dataset: Any, collate_fn: Callable) -> bool:
    """Tell whether a batch is nothing but rows of tensors, which no gradient is asked of."""
    return (type(dataset) is TensorDataset and collate_fn is collate
            and not any(t.requires_grad for t in dataset.tensors))


# cell 59d1a50f 50cf19 · Workers
def fetch_batch(dataset: Any, indices: Sequence[Any], collate_fn: Callable) -> Any:
    """Make one batch: read the samples and collate them, or take rows where all is in tensors."""
    if _in_tensors(dataset, collate_fn):
        return _rows(dataset, torch.as_tensor(indices))
    read_many = getattr(dataset, "__getitems__", None)  # for data sets that read better in one go
    return collate_fn(read_many(indices) if read_many else [dataset[i] for i in indices])


# cell c39ee391 9da5bf · Workers
def _work(pipe: Connection, dataset: Any, collate_fn: Callable, seed: int) -> None:
    """Answer each list of indices with its batch or with the exception it raised, for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # the processes share the cores; and threads do not survive a fork
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)
    tasks: SimpleQueue = SimpleQueue()
    Thread(target=_take_in, args=(pipe, tasks), daemon=True).start()
    while True:
        indices = tasks.get()
        try:
            pipe.send((fetch_batch(dataset, indices, collate_fn), None, ""))
        except Exception as error:
            pipe.send((None, _portable(error), traceback.format_exc()))


def _take_in(pipe: Connection, tasks: SimpleQueue) -> None:
    """Move tasks from the pipe to the queue; end this process when its parent is gone."""
    try:
        while pipe in wait([pipe, multiprocessing.parent_process().sentinel]):
            tasks.put(pipe.recv())
    finally:
        os._exit(1)


# cell 590f9241 c6677c · Workers
def _portable(error: Exception) -> Exception:
    """Copy an exception by pickling it, or say what it said in a RuntimeError if that fails."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


# cell 08ea5acb 1a5f1f · Workers
class _Worker:
    """A process that makes batches, and the pipe to it."""

    def __init__(self, context: Any, number: int, seed: int, dataset: Any, collate_fn: Callable):
        self.pipe, theirs = context.Pipe()
        arguments = theirs, dataset, collate_fn, seed + number
        self.process = context.Process(target=_work, args=arguments, daemon=True,
                                       name=f"DataLoader worker {number}")
        self.process.start()
        theirs.close()

    def receive(self, timeout: float) -> Any:
        """Wait for the next batch, for the worker's end, or for the timeout."""
        if not wait([self.pipe, self.process.sentinel], timeout or None):
            raise TimeoutError(f"{self.process.name} has not delivered a batch for {timeout} s")
        try:
            if not self.pipe.poll():
                raise EOFError
            batch, error, where = self.pipe.recv()
        except (EOFError, OSError, RuntimeError) as problem:
            self.process.join(1 if isinstance(problem, RuntimeError) else 10)
            if self.process.exitcode is not None:  # it is gone, and its shared memory with it
                raise _end_of(self.process) from None
            problem.add_note("Too many open files? Every tensor of a worker is one. Keep fewer, "
                             "or call torch.multiprocessing.set_sharing_strategy('file_system')")
            raise
        if error is not None:
            error.add_note(f"in {self.process.name}:\n{where}")
            raise error
        return batch


# cell a32c2612 4ca186 · Workers
def _end_of(process: BaseProcess) -> RuntimeError:
    """Say how a worker ended."""
    code = process.exitcode
    how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
    return RuntimeError(
        f"{process.name} ended with {how} before it delivered its batch. SIGKILL: out of memory? "
        "SIGBUS: shared memory is full? Exit code 1 at its start: under spawn, the data set's "
        "class must stand in a module that can be imported, not in a notebook")


# cell e8717aee d84af1 · Workers
def worker_batches(dataset: Any, batch_sampler: Iterable[Sequence[Any]], collate_fn: Callable,
                   seed: int, num_workers: int, context: Any = None, prefetch_factor: int = 2,
                   timeout: float = 0) -> Iterator[Any]:
    """Let workers make batches in turn, some ahead, and yield them in the sampler's order.

    Units: timeout in seconds, 0 for none.
    Raises: what the data set raises, with the worker's traceback as a note; RuntimeError if a
        worker dies; TimeoutError.
    """
    context = context if hasattr(context, "Process") else multiprocessing.get_context(context)
    owner, workers, due = os.getpid(), [], deque()

    def ask(n: int) -> None:
        for worker, indices in islice(turns, n):
            with suppress(ConnectionError):  # if it has died, that is said when its batch is due
                worker.pipe.send(indices)
            due.append(worker)

    try:
        for number in range(num_workers):
            workers.append(_Worker(context, number, seed, dataset, collate_fn))
        turns = zip(cycle(workers), batch_sampler)
        ask(num_workers * prefetch_factor)
        while due:
            batch = due.popleft().receive(timeout)
            ask(1)  # keep the worker busy while the batch is used
            yield batch
    finally:  # reached at the end, by an exception, and when the iterator is dropped
        if os.getpid() == owner:  # not in a process that was forked off meanwhile
            for worker in workers:
                worker.process.kill()
                worker.process.join()
                worker.pipe.close()


# cell 7b7c8092 a1380a · The DataLoader
class DataLoader:
    """Serve a data set in batches: in order or shuffled, with or without worker processes.

    A `TensorDataset` with the default `collate_fn` is served in whole batches.
    Raises: TypeError if the data set has no length or no items; ValueError for arguments that
        make no sense, alone or together.
    Differs: no iterable data sets, no `batch_size=None`, no `pin_memory`, `persistent_workers`
        and `worker_init_fn`. A worker that is alive but silent is only noticed with a `timeout`.
    """

    def __init__(self, dataset: Any, batch_size: int = 1, shuffle: bool = False,
                 sampler: Iterable[Any] | None = None,
                 batch_sampler: Iterable[Sequence[Any]] | None = None, num_workers: int = 0,
                 collate_fn: Callable[[list], Any] = collate, drop_last: bool = False,
                 timeout: float = 0, multiprocessing_context: Any = None,
                 generator: torch.Generator | None = None, prefetch_factor: int = 2):
        _check_order(dataset, batch_size, shuffle, sampler, batch_sampler, drop_last)
        _check_workers(num_workers, multiprocessing_context, prefetch_factor, timeout)
        if sampler is None:
            sampler = RandomSampler(dataset, generator) if shuffle else SequentialSampler(dataset)
        if batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.dataset, self.sampler, self.batch_sampler = dataset, sampler, batch_sampler
        self.batch_size, self.drop_last, self.collate_fn = batch_size, drop_last, collate_fn
        self.generator, self.num_workers = generator, num_workers
        self.worker_options = num_workers, multiprocessing_context, prefetch_factor, timeout

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Any]:
        parts = self.dataset, self.batch_sampler, self.collate_fn
        seed = _draw_seed(self.generator)
        if self.num_workers:
            return worker_batches(*parts, seed, *self.worker_options)
        if type(self.batch_sampler) is BatchSampler and _in_tensors(self.dataset, self.collate_fn):
            return tensor_batches(self.dataset, self.batch_sampler)
        return (fetch_batch(self.dataset, chosen, self.collate_fn) for chosen in self.batch_sampler)


# cell d5be80da 66d960 · The DataLoader
def _check_order(dataset: Any, batch_size: int, shuffle: bool, sampler: Any, batch_sampler: Any,
                 drop_last: bool) -> None:
    """Refuse a data set that cannot be indexed, and two orders at once."""
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise TypeError(f"a data set needs __len__ and __getitem__, {type(dataset).__name__} has "
                        "not both; put what can only be iterated into a list first")
    if sampler is not None and shuffle:
        raise ValueError("a sampler is an order of its own: leave out shuffle, or the sampler")
    alone = (batch_size, shuffle, sampler, drop_last) == (1, False, None, False)
    if batch_sampler is not None and not alone:
        raise ValueError("a batch_sampler makes whole batches: leave out batch_size, shuffle, "
                         "sampler and drop_last")


def _check_workers(num_workers: int, context: Any, prefetch_factor: int, timeout: float) -> None:
    """Refuse settings that no worker can follow, and settings of workers where there are none."""
    for name, value, least in (("num_workers", num_workers, 0),
                               ("prefetch_factor", prefetch_factor, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")
    if not timeout >= 0:
        raise ValueError(f"timeout must be 0 (wait for ever) or more seconds, got {timeout}")
    if not num_workers and (timeout or context is not None):
        raise ValueError("timeout and multiprocessing_context are for workers, but num_workers is "
                         "0: leave them out, or set it")
    if context is not None and not hasattr(context, "Process"):
        multiprocessing.get_context(context)  # raises ValueError for an unknown name


# cell 8a83c066 72392e · The DataLoader
@dataclass(frozen=True)
class DataLoaders:
    """The two loaders of a training: `train` to learn from, `valid` to check on."""

    train: Iterable[Any]
    valid: Iterable[Any]

    @classmethod
    def from_datasets(cls, train: Any, valid: Any, batch_size: int = 64, drop_last: bool = False,
                      **options: Any) -> DataLoaders:
        """Shuffle the training set; read all of the validation set, in batches twice as large."""
        return cls(DataLoader(train, batch_size, shuffle=True, drop_last=drop_last, **options),
                   DataLoader(valid, 2 * batch_size, **options))
