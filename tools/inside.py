"""Inside a notebook's process: watch for every failure, and be a Jupyter kernel without a kernel.

`Watch` serves both engines. `host` is the forked process of the engine "fork": an IPython shell
whose rich output goes to the keeper (see engines.py for who is who).
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import builtins
import contextlib
import faulthandler
import gc
import getpass
import hashlib
import io
import json
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
import weakref
from dataclasses import asdict
from pathlib import Path

from engines import Failure, Step, Task, in_cells

MESSAGE_LIMIT = 10_000  # characters of an exception's message
# whose tasks are no business of the notebook's
NOT_CELLS = re.compile(r"[/\\](IPython|ipykernel|tornado|zmq|anyio|inside\.py)\b")


# --- nothing that fails may pass -----------------------------------------------------------------


class Watch:
    """Note every failure in a notebook's process, those included that Python or IPython only print.

    `!command` and `x = !command` raise if the command fails, as `%%bash` always did.
    """

    def __init__(self, shell):
        if "system_raise_on_error" not in shell.trait_names():
            raise RuntimeError("the notebook runner needs IPython 9.14 or newer")
        self.shell, self.failures, self.seen = shell, [], None  # seen: the exception noted last
        self.tasks, self.threads = weakref.WeakSet(), set(threading.enumerate())
        shell.system_raise_on_error = True
        shell.compile.get_code_name = self._file_name
        self.number = 0  # of the cell that runs
        shell.ask_exit = lambda: self.note("the cell called exit()")
        shell.showtraceback = self._noting(shell.showtraceback)
        shell.showsyntaxerror = self._noting(shell.showsyntaxerror)
        logging.root.addFilter(self._log)
        sys.unraisablehook = self._unraisable(sys.unraisablehook)
        threading.excepthook = self._thread(threading.excepthook)
        for message in ("coroutine .* was never awaited", "AST transformer .* threw an error"):
            warnings.filterwarnings("error", message)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch over the tasks of the loop that the cells run in."""

        def task(loop, coroutine, **options):
            made = asyncio.Task(coroutine, loop=loop, **options)
            code = getattr(coroutine, "cr_code", None)
            if code and not NOT_CELLS.search(code.co_filename):
                self.tasks.add(made)
            return made

        loop.set_task_factory(task)
        loop.set_exception_handler(self._loop)

    def note(self, what: str = "", error: BaseException | None = None) -> None:
        if error is None or error is not self.seen:
            self.failures.append(failure_of(error, what) if error else Failure(what))
        self.seen = error

    def begin(self, number: int) -> None:
        """The next cell to run has this number."""
        self.shell.execution_count = self.number = number

    def take(self) -> list[dict]:
        """The failures since the last call, as plain values."""
        result = self.shell.last_execution_result
        if result and not result.success and not self.failures:
            self.note("", result.error_before_exec or result.error_in_exec)
        self.shell.last_execution_result = None
        taken, self.failures, self.seen = self.failures, [], None
        return [asdict(failure) for failure in taken]

    async def settle(self, patience: float = 1.0, threads: bool = False) -> None:
        """Give what the cells left running a moment to end, and note how it did."""
        await asyncio.sleep(0)
        until = time.monotonic() + patience
        if running := [task for task in self.tasks if not task.done()]:
            await asyncio.wait(running, timeout=patience)
        for task in list(self.tasks):
            if not task.done():
                name = getattr(task.get_coro(), "__qualname__", task.get_name())
                self.note(f"the task {name} still runs at the end; await it or cancel it")
                task.cancel()
            elif not task.cancelled() and getattr(task, "_log_traceback", False):
                self.note("in a task that nobody awaited: ", task.exception())
        for thread in set(threading.enumerate()) - self.threads if threads else ():
            if not thread.daemon:
                thread.join(max(0.0, until - time.monotonic()))

    def _file_name(self, raw: str, transformed: str, number: int) -> str:
        """What a traceback calls the code of a cell, and code that a cell hands to the shell."""
        digest = hashlib.sha1(transformed.encode("utf-8", "replace")).hexdigest()[:12]
        return f"<ipython-{f'input-{number}' if number == self.number else 'nested'}-{digest}>"

    def _noting(self, show):
        def noting(*args, **options):
            given = args[0] if args and isinstance(args[0], tuple) else options.get("exc_tuple")
            error = (given or sys.exc_info())[1]
            self.note("sys.exit ends no notebook: " * isinstance(error, SystemExit), error)
            return show(*args, **options)

        return noting

    def _log(self, record: logging.LogRecord) -> bool:
        """Some magics report a mistake with `logging.error` and go on."""
        if record.levelno >= logging.ERROR and "/IPython/core/" in Path(record.pathname).as_posix():
            self.note(f"a magic failed: {record.getMessage()}")
        return True

    def _thread(self, hook):
        def thread(args):
            name = args.thread.name if args.thread else "?"
            if args.exc_type is not SystemExit:
                self.note(f"in the thread {name}: ", args.exc_value)
            hook(args)

        return thread

    def _unraisable(self, hook):
        def unraisable(args):
            self.note(f"Python could not raise it in {safe_str(args.object)}: ", args.exc_value)
            hook(args)

        return unraisable

    def _loop(self, loop, context):
        self.note(f"{context['message']}: ", context.get("exception"))
        loop.default_exception_handler(context)


def safe_str(value) -> str:
    try:
        return str(value)
    except BaseException as error:
        return f"<{type(value).__name__} whose str() raises {type(error).__name__}>"


def failure_of(error: BaseException, prefix: str = "") -> Failure:
    """Describe an exception; what lies above the first cell in its traceback is the runner's."""
    frames = [
        (frame.f_code.co_filename, line or 0, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno or 1, ""))
    what = "".join(traceback.format_exception_only(type(error), error)).strip()
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        what += f"\ncaused by {type(cause).__name__}: {safe_str(cause)}"
    if isinstance(error, BaseExceptionGroup):
        what += "".join(f"\n- {type(e).__name__}: {safe_str(e)}" for e in error.exceptions)
    return Failure(prefix + what[:MESSAGE_LIMIT], in_cells(frames))


# --- an IPython shell without a kernel around it --------------------------------------------------


class Channel:
    """The notebook's line to its keeper; each message is answered, so that order is never lost."""

    def __init__(self, line: socket.socket):
        self.file, self.owner, self.lock = line.makefile("rwb"), os.getpid(), threading.RLock()
        raw = open(1, "wb", closefd=False)
        self.out = Printed(raw, "utf-8", "replace", line_buffering=True)
        self.err = Warned()
        self.out.channel = self.err.channel = self

    def tell(self, do: str, **message) -> None:
        """Say something that happened after all that was printed so far."""
        if os.getpid() != self.owner:
            return  # a forked worker's figures have no place in the notebook
        with self.lock:
            self.out.flush()
            self.err.flush()
            self.send(do=do, **message)

    def send(self, **message) -> None:
        text = json.dumps(message, ensure_ascii=False, default=safe_str, skipkeys=True)
        self.file.write(text.encode("utf-8", "replace") + b"\n")
        self.file.flush()
        self.file.read(1)


class Printed(io.TextIOWrapper):
    """sys.stdout: file descriptor 1, which C code and child processes write to as well."""

    def write(self, text: str) -> int:
        if self.channel.err.pending:
            self.channel.err.flush()
        return super().write(text)


class Warned(io.TextIOBase):
    """sys.stderr: goes through the channel, so that its place among the other output is certain."""

    encoding, errors, name = "utf-8", "replace", "<stderr>"
    pending = ""

    def write(self, text: str) -> int:
        if os.getpid() != self.channel.owner:
            return os.write(2, text.encode("utf-8", "replace"))
        with self.channel.lock:
            if not self.pending:
                self.channel.out.flush()
            self.pending += text
            if len(self.pending) > 1 << 16:
                self.flush()
        return len(text)

    def flush(self) -> None:
        if self.pending and os.getpid() == self.channel.owner:
            with self.channel.lock:
                text, self.pending = self.pending, ""
                self.channel.send(do="stderr", text=text)

    def fileno(self) -> int:
        return 2

    def writable(self) -> bool:
        return True


def make_shell(channel: Channel):
    """An IPython shell that hands what Jupyter would display to the channel."""
    from IPython.core import page
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets import Type
    from traitlets.config import Config

    def show(kind, data, metadata, do="show", **extra):
        data = {
            mime: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for mime, value in data.items()
        }
        output = {"output_type": kind, "data": data, "metadata": metadata or {}}
        channel.tell(do, output=output, **extra)

    class Publisher(DisplayPublisher):
        def publish(self, data, metadata=None, *, transient=None, update=False, **_):
            id = (transient or {}).get("display_id")
            show("display_data", data, metadata, "update" if update else "show", id=id)

        def clear_output(self, wait=False):
            channel.tell("clear", wait=wait)

    class Hook(DisplayHook):
        def write_output_prompt(self):
            pass

        def write_format_data(self, data, metadata=None):
            show("execute_result", data, metadata)

    class ZMQInteractiveShell(InteractiveShell):  # by this name libraries know Jupyter
        display_pub_class = Type(Publisher)
        displayhook_class = Type(Hook)
        system = InteractiveShell.system_raw  # the command writes to our descriptors 1 and 2

        def _showtraceback(self, etype, evalue, stb):
            output = {"ename": etype.__name__, "evalue": safe_str(evalue), "traceback": stb}
            channel.tell("show", output={"output_type": "error", **output})

        def enable_gui(self, gui=None):
            pass

    config = Config()
    config.HistoryManager.enabled = False  # it would start a thread and write a database
    config.IPKernelApp = Config()  # by this tqdm knows Jupyter
    shell = ZMQInteractiveShell.instance(config=config)
    shell.set_hook("show_in_pager", page.as_hook(lambda *_, **__: None), 99)
    return shell


def refuse_input(*_, **__):
    raise RuntimeError("input() waits for a person, and a notebook that runs as a test has none")


async def run_cell(shell, step: Step) -> None:
    """Run one cell inside the event loop, as a Jupyter kernel does."""
    broken = None
    try:
        code = shell.transform_cell(step.source)
    except Exception:
        code, broken = step.source, sys.exc_info()
    result = await shell.run_cell_async(
        step.source, store_history=True, transformed_cell=code, preprocessing_exc_tuple=broken
    )
    shell.events.trigger("post_execute")
    shell.events.trigger("post_run_cell", result)
    await asyncio.sleep(0)  # let tasks start that the cell made


def host(task: Task, line: socket.socket) -> None:
    """Be the process of a notebook: run its cells in order up to the first failure."""
    folder = str(Path(task.path).parent)
    os.environ["EXP_NOTEBOOK"] = Path(task.path).stem
    os.chdir(folder)
    sys.path = [folder, *(path for path in sys.path if path != str(Path(__file__).parent))]
    sys.argv = [""]
    channel = Channel(line)
    sys.stdout = sys.__stdout__ = channel.out
    sys.stderr = sys.__stderr__ = channel.err
    sys.stdin = sys.__stdin__ = open(os.devnull)
    builtins.input = getpass.getpass = refuse_input
    more_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    gc.enable()

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    shell = make_shell(channel)
    watch = Watch(shell)
    watch.attach(loop)

    for step in task.steps:
        if step.skip:
            continue
        channel.tell("start", number=step.number)
        watch.begin(step.number)
        try:
            loop.run_until_complete(run_cell(shell, step))
        except BaseException as error:  # also SystemExit, from a task
            watch.note("", error)
        if os.getpid() != channel.owner:
            os._exit(0)  # the cell forked, and this is the copy
        failures = watch.take()
        channel.tell("end", failures=failures)
        if failures:
            break
    else:
        channel.tell("start", number=0)
        loop.run_until_complete(watch.settle())
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
    threading._shutdown()  # what Python does at its own end: threads first, then atexit
    atexit._run_exitfuncs()
    gc.collect()
    channel.tell("done", failures=watch.take())


def more_threads(n: int) -> None:
    """Give numpy's BLAS its share of the cores: the server had to keep it to one thread."""
    os.environ["OPENBLAS_NUM_THREADS"] = str(n)
    if n > 1 and "numpy" in sys.modules:
        with contextlib.suppress(ImportError):
            from threadpoolctl import threadpool_limits

            threadpool_limits(n)


# --- in a Jupyter kernel --------------------------------------------------------------------------

watch: Watch | None = None  # the one of this kernel


def watch_kernel(stacks: str) -> None:
    """Called in a kernel before the first cell: watch over it as over a forked shell."""
    global watch
    from IPython.core.getipython import get_ipython

    watch = Watch(get_ipython())
    watch.attach(asyncio.get_event_loop())
    if hasattr(faulthandler, "register"):
        watch.stacks = open(stacks, "w")
        faulthandler.register(signal.SIGUSR1, watch.stacks)


def answer(next_number: int) -> None:
    """Called in a kernel between cells: tell the failures, and set the number of the next cell."""
    failures = json.dumps(watch.take())
    watch.shell.display_pub.publish({"text/plain": failures})
    watch.begin(next_number)
