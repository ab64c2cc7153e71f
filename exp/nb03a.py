"""Workers: batches made by other processes

By the end you will have worker processes that read ahead of a training, always in the same order and each with random numbers of its own. If one of them fails or dies, the training stops with an error that says why, and never hangs.
"""

# cell 0271e179 a6284e · Workers: batches made by other processes
from __future__ import annotations

# generated from nbs/03a_workers.ipynb: do not edit · b48642
__all__ = [
    "read_batch",
    "common_kind",
    "held_generators",
    "generator_state",
    "set_generator_state",
    "draw_seed",
    "random_kept",
    "worker_batches",
    "check_whole_number",
    "check_worker_options",
    "loader_length",
    "counted",
]
__dir__ = __all__.copy  # what completion offers

# cell 0271e179 f4f28a · Workers: batches made by other processes
import multiprocessing
import os
import pickle
import random
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import cycle, islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from numbers import Integral
from queue import SimpleQueue
from threading import Thread
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor


# cell 829685b3 76258e · One batch
def read_batch(dataset: Any, indices: Sequence[Any], collate_fn: Callable) -> Any:
    """Make one batch: read the samples and collate them; an error says where it happened."""
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


# cell 8a0eb1a0 4c9a06 · One batch
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


def common_kind(samples: Sequence[Any]) -> str:
    """Return the kind of all samples; tensors, arrays and numbers together count as arrays.

    One of "tensor", "array", "number", "text", "dict" and "list" (any sequence).
    Raises: TypeError if they cannot be in a batch together; it says which sample, and what to do.
    """
    kinds = {_kind(sample) for sample in {type(s): s for s in samples}.values()}
    if kinds <= {"tensor", "array", "number"} and len(kinds) > 1:
        return "array"
    if len(kinds) == 1 and "unknown" not in kinds:
        return kinds.pop()
    raise _not_a_batch(samples)


# cell 81a21364 d97968 · One batch
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


# cell c39ee391 d0eb08 · In the worker
def _work(pipe: Connection, dataset: Any, collate_fn: Callable, start: Callable,
          fetch: Callable) -> None:
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
            pipe.send((fetch(dataset, indices, collate_fn), None, ""))
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


# cell 590f9241 8b5142 · In the worker
def _portable(error: Exception) -> Exception:
    """Copy an exception by pickling it; if that fails, return a RuntimeError with its text."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


# cell 62afad07 964d36 · Random numbers
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


# cell c13a601e a5b436 · Random numbers
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


def draw_seed(generator: torch.Generator | None) -> int:
    """Draw a seed from a generator, or from PyTorch's global one."""
    return int(torch.empty((), dtype=torch.int64).random_(generator=generator))


def _reseed(generator: Any, seed: int) -> None:
    """Start a generator from its own next number and the seed."""
    if isinstance(generator, torch.Generator):
        if generator.device.type == "cpu":  # a forked process cannot use a GPU
            own = draw_seed(generator)
            generator.manual_seed(random.Random(f"{own} {seed}").getrandbits(63))
    elif isinstance(generator, random.Random):
        generator.seed(f"{generator.getrandbits(32)} {seed}")
    elif hasattr(generator, "bit_generator"):
        bits = generator.bit_generator
        bits.state = type(bits)([bits.random_raw(), seed]).state
    else:
        generator.seed([generator.randint(2**31), seed % 2**32])


# cell b6d54ae3 ccfb01 · Random numbers
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


# cell 8732d3ef 77ae8e · Random numbers
@contextmanager
def random_kept(loaders: Iterable[Any] = ()) -> Iterator[None]:
    """Put all random numbers, those of the loaders included, back when the block ends."""
    held = [random.getstate.__self__, *held_generators(*loaders)]
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


# cell 08ea5acb 47d96e · In the main process
class _Worker:
    """A process that makes batches, and the pipe to it."""

    def __init__(self, context: Any, number: int, dataset: Any, collate_fn: Callable,
                 start: Callable, fetch: Callable):
        self.pipe, theirs = context.Pipe()
        arguments = theirs, dataset, collate_fn, start, fetch
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


# cell a32c2612 57f3a6 · In the main process
def _end_of(process: BaseProcess) -> RuntimeError:
    """Return an error that says how a worker ended."""
    code = process.exitcode
    how = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
    return RuntimeError(
        f"{process.name} ended with {how} before it delivered its batch. SIGKILL: out of memory? "
        "SIGBUS: is shared memory full? Exit code 1 at its start: under spawn, the data set's "
        "class must be defined in a module that can be imported, not in a notebook, and a script "
        'must keep its own code under if __name__ == "__main__"')


# cell e8717aee 01d7dd · In the main process
def worker_batches(dataset: Any, batch_sampler: Iterable[Sequence[Any]], collate_fn: Callable,
                   seed: int, num_workers: int, context: Any = None, prefetch_factor: int = 2,
                   timeout: float = 0, worker_init_fn: Callable[[int], Any] | None = None,
                   fetch: Callable = read_batch) -> Iterator[Any]:
    """Let workers make batches in turn, some ahead, and yield them in the sampler's order.

    `fetch(dataset, indices, collate_fn)` makes a batch, in the worker.
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
            workers.append(_Worker(context, number, dataset, collate_fn, start, fetch))
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


# cell 10897009 e41e40 · When it goes wrong
def check_whole_number(name: str, value: Any, least: int = 1) -> None:
    """Raise a ValueError that names the value unless it is a whole number of at least `least`.

    True and False are not accepted, although Python counts them as whole numbers.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}")


# cell cd5dc6f5 162459 · When it goes wrong
def check_worker_options(num_workers: int, context: Any, prefetch_factor: int, timeout: float,
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


# cell 03b8648a ad014e · When it goes wrong
def loader_length(loader: Any) -> int | None:
    """Return the number of batches of a loader, None if it has no length, as a stream of data."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


def counted(batches: Iterable[Any], expected: int | None, sampler: str) -> Iterator[Any]:
    """Pass the batches on; warn, with the sampler's name, if there are not as many as expected."""
    n = 0
    for n, batch in enumerate(batches, 1):
        if expected is not None and n == expected + 1:
            _warn_length(sampler, expected, "more")
        yield batch
    if expected is not None and n < expected:
        _warn_length(sampler, expected, f"only {n}")


def _warn_length(sampler: str, expected: int, came: str) -> None:
    warnings.warn(f"the loader's length is {expected} batches, but it yields {came}: correct "
                  f"__len__ of {sampler}; schedules and gradient accumulation rely on it",
                  stacklevel=3)
