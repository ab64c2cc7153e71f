"""Data loaders

By the end you will have a `DataLoader` with PyTorch's interface, and PyTorch's order under a seed, that reads with several processes without ever hanging, and serves data that is already in memory as fast as the memory allows.
"""

# cell 9fa783ae a6284e · Imports
from __future__ import annotations

# generated from nbs/03b_data_loaders.ipynb: do not edit · 429f8f
__all__ = [
    "Dataset",
    "TensorDataset",
    "Sampler",
    "SequentialSampler",
    "RandomSampler",
    "check_whole_number",
    "BatchSampler",
    "collate",
    "tensor_batches",
    "fetch_batch",
    "held_generators",
    "generator_state",
    "set_generator_state",
    "worker_batches",
    "DataLoader",
    "FirstBatches",
    "DataLoaders",
    "set_epoch",
]

# cell 9fa783ae f44a6e · Imports
import multiprocessing
import os
import pickle
import random
import signal
import sys
import traceback
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from math import prod
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from numbers import Integral
from queue import SimpleQueue
from threading import Thread
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor


# cell 320fa11f 4ba325 · A data set
class Dataset(ABC):
    """A data set answers two questions: how many samples it has, and what sample `index` is."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: Any) -> Any: ...


# cell 84a39367 1017e1 · A data set
class TensorDataset(Dataset):
    """A data set of tensors whose first axis counts the samples; a sample is a tuple of rows.

    Arrays of NumPy become tensors, which share their memory where that is possible.
    Shape: tensors (N, …); sample i is a tuple of (…).
    Raises: ValueError without tensors, or if their first axes differ in length; TypeError for
        anything that is neither a tensor nor an array of numbers.
    """

    def __init__(self, *tensors: Any):
        for place, t in enumerate(tensors):
            if not (isinstance(t, Tensor) or hasattr(t, "__array__")):
                raise TypeError(f"a TensorDataset holds tensors or arrays, got a "
                                f"{type(t).__name__} in place {place}: turn it into one first, "
                                "with torch.tensor")
        tensors = tuple(_as_tensor(t) for t in tensors)
        if not tensors or any(t.ndim == 0 or len(t) != len(tensors[0]) for t in tensors):
            raise ValueError("tensors need first axes of one length, got shapes "
                             f"{[tuple(t.shape) for t in tensors]}")
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: Any) -> tuple[Tensor, ...]:
        return tuple(t[index] for t in self.tensors)


# cell 9eae8808 0ff9a6 · A data set
def _as_tensor(number: Any) -> Tensor:
    """Turn an array or a number into a tensor; a float of Python's becomes a float64."""
    if isinstance(number, Tensor):
        return number
    if not hasattr(number, "__array__"):
        return torch.tensor(number, dtype=torch.float64 if isinstance(number, float) else None)
    array = number.__array__()
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.writeable or any(step < 0 for step in array.strides):
        array = array.copy()
    return torch.as_tensor(array)


# cell f79ef08b 70cf1e · An order
class Sampler(ABC):
    """An order of reading: `indices` returns it as one tensor, `blocks` yields it in pieces.

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


# cell a6a9c524 230f03 · An order
class SequentialSampler(Sampler):
    """Read the samples in the order in which they are stored."""

    def __init__(self, data_source: Any):
        self.data_source = data_source

    def __len__(self) -> int:
        return len(self.data_source)

    def indices(self) -> Tensor:
        return torch.arange(len(self))


# cell 3a906a13 9f6987 · An order
class RandomSampler(SequentialSampler):
    """Read every sample once, in a new random order each time.

    Differs: cannot draw with replacement.
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


# cell 10897009 e41e40 · An order
def check_whole_number(name: str, value: Any, least: int = 1) -> None:
    """Raise a ValueError that names the value unless it is a whole number of at least `least`.

    True and False are not accepted, although Python counts them as whole numbers.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")


# cell bec40226 ef149f · An order
class BatchSampler:
    """Cut an order into lists of `batch_size`; a shorter last one is kept, unless `drop_last`.

    Raises: ValueError unless batch_size is a whole number of at least 1.
    """

    def __init__(self, sampler: Iterable[Any], batch_size: int, drop_last: bool = False):
        check_whole_number("batch_size", batch_size)
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


# cell 6cce584d 9e2197 · From samples to a batch
def collate(samples: Sequence[Any]) -> Any:
    """Stack samples along a new first axis; tuples, lists and dicts part by part.

    Shape: B tensors, arrays or numbers (…) -> (B, …); whole numbers become int64, and float64 if
        there is a float among them.
    Raises: TypeError for samples that cannot be stacked; ValueError if samples differ in their
        parts, or there are none; RuntimeError if they differ in shape.
    Differs: the dtype does not depend on which sample comes first. Dicts with different keys are
        an error, where PyTorch goes by the first one's keys; any kind of dict becomes a plain one.
    """
    if len(samples) == 0:
        raise ValueError("a batch of no samples; does the batch_sampler yield an empty list?")
    first, kind = samples[0], _common_kind(samples)
    if kind == "tensor":
        return torch.stack(list(samples))
    if kind == "text":
        return samples
    if kind == "number":
        some_float = any(isinstance(sample, float) for sample in samples)
        return torch.tensor(samples, dtype=torch.float64 if some_float else None)
    if kind == "array":
        return torch.stack([_as_tensor(sample) for sample in samples])
    if kind == "dict":
        if any(sample.keys() != first.keys() for sample in samples):
            raise ValueError(f"samples have different keys: {[sorted(s) for s in samples]}")
        return {key: _collate_part(key, [sample[key] for sample in samples]) for key in first}
    if any(len(sample) != len(first) for sample in samples):
        raise ValueError(f"samples have different lengths: {[len(s) for s in samples]}; "
                         "pad them to one length, or pass a collate_fn that does")
    parts = [_collate_part(i, part) for i, part in enumerate(zip(*samples, strict=True))]
    return type(first)(*parts) if hasattr(first, "_fields") else parts


# cell 8a0eb1a0 d211ae · From samples to a batch
def _kind(sample: Any) -> str:
    if isinstance(sample, Tensor):
        return "tensor"
    if isinstance(sample, str | bytes):
        return "text"
    if hasattr(sample, "__array__"):  # NumPy's arrays and numbers
        return "array"
    if isinstance(sample, int | float):
        return "number"
    if isinstance(sample, Mapping):
        return "dict"
    return "list" if isinstance(sample, Sequence) else "unknown"


def _common_kind(samples: Sequence[Any]) -> str:
    """Return the kind of all samples; tensors, arrays and numbers together count as arrays."""
    kinds = {_kind(sample) for sample in {type(s): s for s in samples}.values()}
    if kinds <= {"tensor", "array", "number"} and len(kinds) > 1:
        return "array"
    if len(kinds) == 1 and "unknown" not in kinds:
        return kinds.pop()
    raise _not_a_batch(samples)


# cell 81a21364 04c2bc · From samples to a batch
def _not_a_batch(samples: Sequence[Any]) -> TypeError:
    """Say which sample cannot be in a batch with the others, and what to do."""
    kinds = [_kind(sample) for sample in samples]
    place = kinds.index("unknown") if "unknown" in kinds else next(
        i for i, kind in enumerate(kinds) if kind != kinds[0])
    odd = samples[place]
    if odd is None:
        return TypeError(f"sample {place} of the batch is None: leave out of the data set what "
                         "cannot be read, or pass a collate_fn that drops such samples")
    if kinds[place] == "unknown":
        return TypeError(f"cannot put a {type(odd).__name__} into a batch (sample {place}): return "
                         "tensors, arrays, numbers, texts, or tuples, lists and dicts of them, or "
                         "pass a collate_fn")
    return TypeError(f"sample {place} of the batch is a {type(odd).__name__}, but sample 0 is a "
                     f"{type(samples[0]).__name__}: return the same kind for every index")


def _collate_part(name: Any, samples: Sequence[Any]) -> Any:
    """Collate one part of each sample; an error says which part it was."""
    try:
        return collate(samples)
    except Exception as error:
        error.add_note(f"in part {name!r} of each sample")
        raise


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


# cell f5eef90f 84f269 · The fast path
def _rows(dataset: TensorDataset, indices: Tensor) -> list[Tensor]:
    return [t.index_select(0, indices.to(t.device)) for t in dataset.tensors]


def _in_tensors(dataset: Any, collate_fn: Callable) -> bool:
    """Return whether a batch is nothing but rows of tensors that require no gradient."""
    return (type(dataset) is TensorDataset and collate_fn is collate
            and not any(t.requires_grad for t in dataset.tensors))


# cell 59d1a50f 3ae2c4 · Workers
def fetch_batch(dataset: Any, indices: Sequence[Any], collate_fn: Callable) -> Any:
    """Make one batch: read the samples and collate them, or take rows if the data is in tensors."""
    if _in_tensors(dataset, collate_fn):
        return _rows(dataset, torch.as_tensor(indices))
    read_many = getattr(dataset, "__getitems__", None)  # for data sets that read better in one go
    samples = read_many(indices) if read_many else _read(dataset, indices)
    try:
        return collate_fn(samples)
    except Exception as error:
        error.add_note(f"while collating samples {list(indices)!r:.200}")
        raise


def _read(dataset: Any, indices: Sequence[Any]) -> list[Any]:
    samples = []
    for index in indices:
        try:
            samples.append(dataset[index])
        except Exception as error:
            error.add_note(f"while reading sample {index!r:.80}")
            raise
    return samples


# cell c39ee391 5c167e · Workers
def _work(pipe: Connection, dataset: Any, collate_fn: Callable, start: Callable) -> None:
    """Answer each list of indices, in an endless loop, with its batch or with an exception."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # the processes share the cores; and threads do not survive a fork
    tasks: SimpleQueue = SimpleQueue()
    Thread(target=_take_in, args=(pipe, tasks), daemon=True).start()
    started = False
    while True:
        indices = tasks.get()
        try:
            if not started:
                started = True
                start(dataset, collate_fn)
            pipe.send((fetch_batch(dataset, indices, collate_fn), None, ""))
        except Exception as error:
            where = traceback.format_exc()
            error.__notes__ = []  # they are in `where`
            pipe.send((None, _portable(error), where))


def _take_in(pipe: Connection, tasks: SimpleQueue) -> None:
    """Move tasks from the pipe to the queue; end this process when its parent is gone."""
    try:
        while pipe in wait([pipe, multiprocessing.parent_process().sentinel]):
            tasks.put(pipe.recv())
    finally:
        os._exit(1)


# cell 590f9241 8b5142 · Workers
def _portable(error: Exception) -> Exception:
    """Copy an exception by pickling it; if that fails, return a RuntimeError with its text."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


# cell 62afad07 964d36 · Workers
def held_generators(*parts: Any) -> list[Any]:
    """Find the random generators that objects hold, such as loaders, samplers and data sets.

    They are looked for in attributes, closures, and lists, tuples and dicts of up to 1,000 entries,
    at any depth; each is returned once: torch's, NumPy's, and Python's `random.Random`.
    """
    found, seen, todo = [], {}, deque(parts)
    while todo:
        part = todo.popleft()
        if id(part) not in seen:
            seen[id(part)] = part
            if _is_generator(part):
                found.append(part)
            else:
                todo.extend(_inside(part))
    return found


def _is_generator(part: Any) -> bool:
    numpy = sys.modules.get("numpy.random")
    kinds = (numpy.Generator, numpy.RandomState) if numpy else ()
    return isinstance(part, (torch.Generator, random.Random, *kinds))


def _inside(part: Any) -> list[Any]:
    """List the objects one step further on."""
    if isinstance(part, dict):
        return list(part.values()) if len(part) <= 1000 else []
    if isinstance(part, list | tuple | deque):
        return list(part) if len(part) <= 1000 else []
    if isinstance(part, partial):
        return [part.func, part.args, part.keywords]
    if isinstance(part, FunctionType):
        held = [*(part.__defaults__ or ())]
        for cell in part.__closure__ or ():
            with suppress(ValueError):  # a cell may still be empty
                held.append(cell.cell_contents)
        return held
    if isinstance(part, type | ModuleType | Tensor):
        return []
    if callable(part) and hasattr(part, "__self__"):  # a method
        return [part.__self__, getattr(part, "__func__", None)]
    slots = getattr(type(part), "__slots__", ())
    slots = [slots] if isinstance(slots, str) else slots
    return [*getattr(part, "__dict__", {}).values(),
            *(getattr(part, name) for name in slots if hasattr(part, name))]


# cell c13a601e 7b62db · Workers
def generator_state(generator: Any) -> Any:
    """Copy the state of a random generator of torch's, NumPy's or Python's."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if hasattr(generator, "bit_generator"):
        return generator.bit_generator.state
    return generator.get_state()


def set_generator_state(generator: Any, state: Any) -> None:
    """Put a random generator back into the state that `generator_state` returned."""
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif hasattr(generator, "bit_generator"):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def _reseed(generator: Any, seed: int) -> None:
    """Start a generator from its own next number and the seed."""
    if isinstance(generator, torch.Generator):
        if generator.device.type == "cpu":  # a forked process cannot use a GPU
            own = _draw_seed(generator)
            generator.manual_seed(random.Random(f"{own} {seed}").getrandbits(63))
    elif isinstance(generator, random.Random):
        generator.seed(f"{generator.getrandbits(32)} {seed}")
    elif hasattr(generator, "bit_generator"):
        bits = generator.bit_generator
        bits.state = type(bits)([bits.random_raw(), seed]).state
    else:
        generator.seed([generator.randint(2**31), seed % 2**32])


# cell b6d54ae3 ccfb01 · Workers
def _start_worker(dataset: Any, collate_fn: Callable, number: int, num_workers: int, seed: int,
                  init: Callable[[int], Any] | None) -> None:
    """Seed all random numbers of a worker, tell torch's `get_worker_info` which one it is."""
    random.seed(seed)
    torch.manual_seed(seed)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(seed % 2**32)
    for generator in held_generators(dataset, collate_fn):
        _reseed(generator, seed)
    if torchs := sys.modules.get("torch.utils.data._utils.worker"):
        torchs._worker_info = torchs.WorkerInfo(
            id=number, num_workers=num_workers, seed=seed, dataset=dataset)
    if init is not None:
        init(number)


# cell 08ea5acb 1ea2f5 · Workers
class _Worker:
    """A process that makes batches, and the pipe to it."""

    def __init__(self, context: Any, number: int, dataset: Any, collate_fn: Callable,
                 start: Callable):
        self.pipe, theirs = context.Pipe()
        arguments = theirs, dataset, collate_fn, start
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


# cell a32c2612 57f3a6 · Workers
def _end_of(process: BaseProcess) -> RuntimeError:
    """Return an error that says how a worker ended."""
    code = process.exitcode
    how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
    return RuntimeError(
        f"{process.name} ended with {how} before it delivered its batch. SIGKILL: out of memory? "
        "SIGBUS: is shared memory full? Exit code 1 at its start: under spawn, the data set's "
        "class must be defined in a module that can be imported, not in a notebook, and a script "
        'must keep its own code under if __name__ == "__main__"')


# cell e8717aee 866bdb · Workers
def worker_batches(dataset: Any, batch_sampler: Iterable[Sequence[Any]], collate_fn: Callable,
                   seed: int, num_workers: int, context: Any = None, prefetch_factor: int = 2,
                   timeout: float = 0,
                   worker_init_fn: Callable[[int], Any] | None = None) -> Iterator[Any]:
    """Let workers make batches in turn, some ahead, and yield them in the sampler's order.

    Units: timeout in seconds, 0 for none.
    Raises: the data set's exceptions, with the worker's traceback as a note; RuntimeError if a
        worker dies; TimeoutError if it delivers nothing in time.
    """
    context = context if hasattr(context, "Process") else multiprocessing.get_context(context)
    owner, workers, due = os.getpid(), [], deque()

    def ask(n: int) -> None:
        for worker, indices in islice(turns, n):
            with suppress(ConnectionError):  # a dead worker is reported when its batch is due
                worker.pipe.send(indices)
            due.append(worker)

    try:
        for number in range(num_workers):
            start = partial(_start_worker, number=number, num_workers=num_workers,
                            seed=seed + number, init=worker_init_fn)
            workers.append(_Worker(context, number, dataset, collate_fn, start))
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


# cell 7b7c8092 5756fa · The DataLoader
class DataLoader:
    """Serve a data set in batches: in order or shuffled, with or without worker processes.

    A `TensorDataset` with the default `collate_fn` is served in whole batches. `drop_last` leaves
    out a last batch that is shorter than the others. Each epoch, workers start their random numbers
    from a new seed, the generators that the data set holds included, and call
    `worker_init_fn(number)`.
    Raises: TypeError if the data set has no length or no items; ValueError for arguments that
        make no sense, alone or together.
    Differs: no iterable data sets, no `batch_size=None`, `pin_memory` or `persistent_workers`. A
        worker that is alive but silent is only noticed with a `timeout`.
    """

    def __init__(self, dataset: Any, batch_size: int = 1, shuffle: bool = False,
                 sampler: Iterable[Any] | None = None,
                 batch_sampler: Iterable[Sequence[Any]] | None = None, num_workers: int = 0,
                 collate_fn: Callable[[list], Any] = collate, drop_last: bool = False,
                 timeout: float = 0, multiprocessing_context: Any = None,
                 generator: torch.Generator | None = None, prefetch_factor: int = 2,
                 worker_init_fn: Callable[[int], Any] | None = None):
        _check_order(dataset, batch_size, shuffle, sampler, batch_sampler, drop_last)
        _check_workers(num_workers, multiprocessing_context, prefetch_factor, timeout,
                       worker_init_fn)
        if sampler is None:
            sampler = RandomSampler(dataset, generator) if shuffle else SequentialSampler(dataset)
        if batch_sampler is None:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        self.dataset, self.sampler, self.batch_sampler = dataset, sampler, batch_sampler
        self.batch_size = getattr(batch_sampler, "batch_size", None)  # None: batches of any size
        self.drop_last, self.collate_fn = drop_last, collate_fn
        self.generator, self.num_workers = generator, num_workers
        self.worker_options = (num_workers, multiprocessing_context, prefetch_factor, timeout,
                               worker_init_fn)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __repr__(self) -> str:
        shuffled = ", shuffled" if isinstance(self.sampler, RandomSampler) else ""
        workers = f", num_workers={self.num_workers}" if self.num_workers else ""
        return f"DataLoader({_sizes(self)}{shuffled}{workers})"

    def __iter__(self) -> Iterator[Any]:
        parts = self.dataset, self.batch_sampler, self.collate_fn
        seed = _draw_seed(self.generator)
        if self.num_workers:
            batches = worker_batches(*parts, seed, *self.worker_options)
        elif type(self.batch_sampler) is BatchSampler and _in_tensors(*parts[::2]):
            batches = tensor_batches(*parts[:2])
        else:
            batches = (fetch_batch(self.dataset, chosen, self.collate_fn)
                       for chosen in self.batch_sampler)
        ours = (SequentialSampler, RandomSampler, BatchSampler)  # they count correctly
        trusted = type(self.sampler) in ours and type(self.batch_sampler) in ours
        return batches if trusted else _counted(batches, self)


# cell d5be80da 963efe · The DataLoader
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


def _check_workers(num_workers: int, context: Any, prefetch_factor: int, timeout: float,
                   worker_init_fn: Any) -> None:
    """Refuse settings that no worker can follow, and settings of workers where there are none."""
    check_whole_number("num_workers", num_workers, 0)
    check_whole_number("prefetch_factor", prefetch_factor)
    if not timeout >= 0:
        raise ValueError(f"timeout must be 0 (no limit) or a number of seconds, got {timeout}")
    if not num_workers and (timeout or context is not None):
        raise ValueError("timeout and multiprocessing_context are for workers, but num_workers is "
                         "0: leave them out, or set it")
    if worker_init_fn is not None and not callable(worker_init_fn):
        raise TypeError("worker_init_fn must be a function of the worker's number, got "
                        f"{worker_init_fn!r:.80}")
    if context is not None and not hasattr(context, "Process"):
        multiprocessing.get_context(context)  # raises ValueError for an unknown name


# cell 6cca5357 7a667b · The DataLoader
def _length(loader: Any) -> int | None:
    try:
        return len(loader)
    except TypeError:
        return None


def _counted(batches: Iterator[Any], loader: DataLoader) -> Iterator[Any]:
    """Pass the batches on; warn if there are more or fewer than the loader's length."""
    expected, n = _length(loader), 0
    for n, batch in enumerate(batches, 1):
        if expected is not None and n == expected + 1:
            _warn_length(loader, expected, "more")
        yield batch
    if expected is not None and n < expected:
        _warn_length(loader, expected, f"only {n}")


def _warn_length(loader: DataLoader, expected: int, came: str) -> None:
    sampler = loader.sampler if isinstance(loader.batch_sampler, BatchSampler) else (
        loader.batch_sampler)
    warnings.warn(f"the loader's length is {expected} batches, but it yields {came}: correct "
                  f"__len__ of {type(sampler).__name__}; schedules and gradient accumulation "
                  "rely on it", stacklevel=3)


def _sizes(loader: Any) -> str:
    """Describe a loader in words: samples, batches, batch size, as far as they are known."""
    if loader is None:
        return "none"
    samples, batches = _length(getattr(loader, "dataset", None)), _length(loader)
    size = getattr(loader, "batch_size", None)
    words = [f"{samples:,} samples in" if samples is not None else "",
             f"{batches:,}" if batches is not None else "", "batch" if batches == 1 else "batches",
             f"of {size}" if size is not None else ""]
    return " ".join(word for word in words if word)


# cell 8a83c066 7f7898 · The DataLoader
class FirstBatches:
    """A loader of the first `n` batches of another one; also an epoch of an endless one.

    Its length is `n`, or that of the other loader if it is shorter.
    Raises: ValueError unless n is a whole number of at least 1, and at the end if a loader without
        a length yields fewer than `n` batches.
    """

    def __init__(self, loader: Iterable[Any], n: int):
        check_whole_number("n", n)
        self.loader, self.n = loader, n

    def __len__(self) -> int:
        length = _length(self.loader)
        return self.n if length is None else min(self.n, length)

    def __iter__(self) -> Iterator[Any]:
        count = 0
        for batch in islice(self.loader, self.n):
            count += 1
            yield batch
        if count < len(self) and _length(self.loader) is None:
            raise ValueError(f"FirstBatches was to yield {self.n} batches, but the loader has only "
                             f"{count}: ask for fewer")

    def __repr__(self) -> str:
        return f"FirstBatches({self.loader!r}, {self.n})"


# cell 6299c282 f9f41d · The DataLoader
@dataclass(frozen=True)
class DataLoaders:
    """The two loaders of a training: `train` to learn from, `valid` to check on, or None."""

    train: Iterable[Any]
    valid: Iterable[Any] | None = None

    @classmethod
    def from_datasets(cls, train: Any, valid: Any = None, batch_size: int = 64,
                      drop_last: bool = False, **options: Any) -> DataLoaders:
        """Shuffle the training set; read all of the validation set, in batches twice as large.

        Without a validation set, `valid` is None. The options are those of `DataLoader`.
        Raises: ValueError if a set is empty, or if `drop_last` leaves no batch to train on.
        """
        loader = DataLoader(train, batch_size, shuffle=True, drop_last=drop_last, **options)
        if len(loader) == 0:
            raise ValueError(f"no batch to train on: the training set has {len(train)} samples" + (
                f", and drop_last leaves out a batch of fewer than {batch_size}" if len(train)
                else ""))
        if valid is None:
            return cls(loader, None)
        valid_loader = DataLoader(valid, 2 * batch_size, **options)
        if len(valid) == 0:
            raise ValueError("the validation set is empty; to train without one, pass valid=None")
        return cls(loader, valid_loader)

    def first(self, n: int) -> DataLoaders:
        """Return loaders of the first `n` batches of each, to try a training out."""
        return DataLoaders(*(None if loader is None else FirstBatches(loader, n)
                             for loader in (self.train, self.valid)))

    def one_batch(self) -> DataLoaders:
        """Return the first training batch, fixed, as both loaders, to overfit on purpose.

        Afterwards all random generators are in the state they were in before.
        Raises: ValueError if the training loader yields no batch.
        """
        with _random_numbers_kept(self.train):
            batches = list(FirstBatches(self.train, 1))
        if not batches:
            raise ValueError("the training loader yields no batch: is its data set empty, or "
                             "smaller than a batch with drop_last?")
        return DataLoaders(batches, batches)

    def __repr__(self) -> str:
        return f"DataLoaders(train: {_sizes(self.train)}; valid: {_sizes(self.valid)})"


# cell 8732d3ef e199a1 · The DataLoader
@contextmanager
def _random_numbers_kept(loader: Any) -> Iterator[None]:
    """Restore the state of all random generators after the block."""
    held = [random.getstate.__self__, *held_generators(loader)]
    if numpy := sys.modules.get("numpy.random"):
        held.append(numpy.get_state.__self__)
    states = [generator_state(generator) for generator in held]
    of_torch = torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        for generator, state in zip(held, states, strict=True):
            set_generator_state(generator, state)
        torch.set_rng_state(of_torch)
        if on_gpus is not None:
            torch.cuda.set_rng_state_all(on_gpus)


# cell 10f0477b 036608 · The DataLoader
def set_epoch(loader: Any, epoch: int) -> None:
    """Call `set_epoch(epoch)` on every part of a loader that has this method; epochs count from 0.

    The parts are the loader itself, its sampler, batch sampler and data set, and their parts.
    """
    told: list[Any] = []
    parts = [loader]
    for _ in range(5):  # FirstBatches, DataLoader, BatchSampler, Sampler, Dataset
        parts = [part for part in parts
                 if part is not None and not any(part is other for other in told)]
        for part in parts:
            if callable(tell := getattr(part, "set_epoch", None)):
                tell(epoch)
        told += parts
        parts = [getattr(part, name, None) for part in parts
                 for name in ("loader", "batch_sampler", "sampler", "dataset")]
