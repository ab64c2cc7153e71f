"""Inside a notebook's process, of either engine: note every failure, also those only printed.

What a notebook patches (`json.dumps`, `os.getpid`, `time.sleep` …) must not change what is seen of
it: this module and `host` take what they need when they are imported.
"""

from __future__ import annotations

import ast
import asyncio
import atexit
import contextlib
import faulthandler
import functools
import gc
import hashlib
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
import weakref
from dataclasses import asdict
from json import JSONEncoder
from os import getpid
from pathlib import Path

from outcomes import Failure, in_cells

MESSAGE_LIMIT = 10_000  # characters of an exception's message
OURS = (__file__, str(Path(__file__).with_name("host.py")))
AROUND = ("IPython", "ipykernel", "tornado", "zmq", "anyio")  # packages that a kernel consists of


def is_around(coroutine) -> bool:
    """Whether a coroutine is no business of the notebook's: the kernel's, or the runner's own."""
    code = getattr(coroutine, "cr_code", None)
    if code is None:
        return True
    files = (getattr(sys.modules.get(name), "__file__", None) for name in AROUND)
    folders = (os.path.join(os.path.dirname(file), "") for file in files if file)
    return code.co_filename.startswith((*OURS, *folders))


def refuse_input(*_, **__):
    raise RuntimeError("input() waits for a person, and a notebook that runs as a test has none")


def refuse_breakpoint(*_, **__):
    raise RuntimeError("breakpoint() waits for a person, and a test has none; remove it")


class Watch:
    """Note every failure in a notebook's process, those included that Python or IPython only print.

    `!command` and `x = !command` raise if the command fails, as `%%bash` always did.
    """

    def __init__(self, shell):
        if "system_raise_on_error" not in shell.trait_names():
            raise RuntimeError("the notebook runner needs IPython 9.14 or newer")
        self.shell, self.seen = shell, None  # seen: the exception noted last
        self.failures: list[tuple[Failure, bool]] = []  # and whether the cell itself raised it
        self.tasks, self.threads = weakref.WeakSet(), set(threading.enumerate())
        self.number, self.raises = 0, False  # of the cell that runs
        self.reloads = {}  # modules that %autoreload failed to reload
        shell.system_raise_on_error = True
        shell.compile.get_code_name = self._file_name
        shell.ask_exit = lambda: self.note("the cell called exit()")
        shell.showtraceback = self._noting(shell.showtraceback)
        shell.showsyntaxerror = self._noting(shell.showsyntaxerror)
        shell.transform_ast = self._transforming(shell.transform_ast)
        shell._format_exception_for_storage = lambda error, *_, **__: {}  # slow, and unused
        manager = shell.magics_manager
        if hasattr(manager, "load_lazy"):
            manager.load_lazy = self._loading(manager.load_lazy)
        self._hear_magics()
        logging.root.addFilter(self._log)
        if os.environ.get("PYTHONBREAKPOINT") != "0":
            sys.breakpointhook = refuse_breakpoint
        sys.excepthook = lambda kind, error, trace: self.note("at exit: ", error)
        sys.unraisablehook = self._unraisable(sys.unraisablehook)
        threading.excepthook = self._thread(threading.excepthook)
        warnings._warn_unawaited_coroutine = self._unawaited(warnings._warn_unawaited_coroutine)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch over the tasks of the loop that the cells run in."""

        def task(loop, coroutine, **options):
            made = asyncio.Task(coroutine, loop=loop, **options)
            if not is_around(coroutine):
                self.tasks.add(made)
            return made

        loop.set_task_factory(task)
        loop.set_exception_handler(self._loop)

    def note(self, what: str = "", error: BaseException | None = None, raised=False) -> None:
        if error is None or error is not self.seen:
            failure = failure_of(error, what) if error else Failure(what)
            self.failures.append((failure, raised))
        self.seen = error

    def begin(self, number: int, raises: bool = False) -> None:
        """The next cell to run has this number, and raises an exception if the notebook says so."""
        self.shell.execution_count = self.number = number
        self.raises = raises

    def take(self) -> list[dict]:
        """The failures since the last call, as plain values; not the exception that is expected."""
        self._reloaded()
        result = self.shell.last_execution_result
        if result and not result.success and not self.failures:
            self.note("", result.error_before_exec or result.error_in_exec, raised=True)
        self.shell.last_execution_result = None
        noted = self.failures
        taken = [asdict(failure) for failure, raised in noted if not (self.raises and raised)]
        self.failures, self.seen = [], None
        return taken

    async def settle(self, patience: float = 1.0) -> None:
        """Give the tasks that the cells left running a moment to end, and note how they did."""
        await asyncio.sleep(0)
        if running := [task for task in self.tasks if not task.done()]:
            await asyncio.wait(running, timeout=patience)
        for task in list(self.tasks):
            if not task.done():
                name = getattr(task.get_coro(), "__qualname__", task.get_name())
                self.note(f"the task {name} is still running at the end; await it or cancel it")
                task.cancel()
            elif not task.cancelled() and getattr(task, "_log_traceback", False):
                self.note("in a task that was never awaited: ", task.exception())

    def _file_name(self, raw: str, transformed: str, number: int) -> str:
        """What a traceback calls the code of a cell, and code that a cell hands to the shell."""
        digest = hashlib.sha1(transformed.encode("utf-8", "replace")).hexdigest()[:12]
        return f"<ipython-{f'input-{number}' if number == self.number else 'nested'}-{digest}>"

    def _noting(self, show):
        @functools.wraps(show)
        def noting(*args, **options):
            given = args[0] if args and isinstance(args[0], tuple) else options.get("exc_tuple")
            kind, error, _ = given or sys.exc_info()
            exits = isinstance(error, SystemExit) and not self.raises
            self.note("sys.exit does not end a notebook: " * exits, error, raised=True)
            text = safe_str(error) if error is not None else ""
            if len(text) > MESSAGE_LIMIT or isinstance(error, RecursionError):
                # IPython would colour all of it: a minute for 50 MB, a second for 3,000 frames
                trace = traceback.format_tb(error.__traceback__, -5)
                lines = [*trace, f"{kind.__name__}: {shorten(text)}"]
                return self.shell._showtraceback(kind, shorten(text), lines)
            return show(*args, **options)

        return noting

    def _transforming(self, transform):
        """IPython drops an AST transformer that raises, and only warns."""

        def transforming(node):
            last = node.body[-1] if node.body else None
            if isinstance(last, ast.Expr) and "run_notebook_watch" in ast.dump(last):
                return node  # a cell of the runner's, which no transformer should see
            before = list(self.shell.ast_transformers)
            node = transform(node)
            for lost in before:
                if lost not in self.shell.ast_transformers:
                    self.note(f"the AST transformer {safe_str(lost)} raised an exception")
            return node

        return transforming

    def _loading(self, load):
        """IPython imports a magic when it is first used."""

        def loading(*args, **options):
            load(*args, **options)
            self._hear_magics()

        return loading

    def _hear_magics(self) -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith("IPython.core.magics.") and "print" not in vars(module):
                module.print = self._printing(module.__file__)

    def _printing(self, file: str):
        """Some magics only print what went wrong: `%cd nowhere`, or `%%ruby` without a Ruby."""

        def printing(*args, **options):
            print(*args, **options)
            error = sys.exc_info()[1]
            trace = error.__traceback__ if error else None
            if trace and trace.tb_frame.f_code.co_filename == file:  # the magic has caught it
                self.note("a magic failed: ", error, raised=True)

        return printing

    def _reloaded(self) -> None:
        """%autoreload prints that a module could not be reloaded, and goes on with the old one."""
        magics = self.shell.magics_manager.registry.get("AutoreloadMagics")
        failed = getattr(getattr(magics, "_reloader", None), "failed", {})
        for module, changed in dict(failed).items():
            if self.reloads.get(module) != changed:
                self.reloads[module] = changed
                self.note(f"%autoreload could not reload {module}")

    def _log(self, record: logging.LogRecord) -> bool:
        """Some magics report a mistake with `logging.error` and go on."""
        if record.levelno >= logging.ERROR and "/IPython/core/" in Path(record.pathname).as_posix():
            self.note(f"a magic failed: {record.getMessage()}", raised=True)
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
            place = f"Python could not raise this in {safe_str(args.object)}"
            if "atexit" in (args.err_msg or ""):
                place = "in an exit handler"
            self.note(f"{place}: ", args.exc_value)
            hook(args)

        return unraisable

    def _unawaited(self, warn):
        """Python only warns of a coroutine that was never awaited, and a filter may hide that."""

        def unawaited(coroutine):
            if not is_around(coroutine):
                self.note(f"the coroutine {coroutine.__qualname__} was never awaited")
            with contextlib.suppress(Warning):
                warn(coroutine)

        return unawaited

    def _loop(self, loop, context):
        self.note(f"{context['message']}: ", context.get("exception"))
        loop.default_exception_handler(context)


def safe_str(value) -> str:
    try:
        return str(value)
    except BaseException as error:
        return f"<{type(value).__name__} whose str() raises {type(error).__name__}>"


def shorten(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """The start and the end of a long text."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]} … cut here: {len(text):,} characters in all … {text[-half:]}"


def failure_of(error: BaseException, prefix: str = "") -> Failure:
    """Describe an exception; what lies above the first cell in its traceback is the runner's."""
    frames = [
        (frame.f_code.co_filename, line or 0, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno or 1, ""))
    try:
        what = "".join(traceback.format_exception_only(type(error), error)).strip()
    except Exception:  # an exception made to be difficult
        what = f"{type(error).__name__}: {safe_str(error)}"
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None:
        what += f"\ncaused by {type(cause).__name__}: {shorten(safe_str(cause), 1000)}"
    if isinstance(error, BaseExceptionGroup):
        parts = (f"\n- {type(e).__name__}: {shorten(safe_str(e), 1000)}" for e in error.exceptions)
        what += "".join(parts)
    return Failure(prefix + shorten(what), in_cells(frames))


encode = JSONEncoder(ensure_ascii=False, default=safe_str, skipkeys=True).encode


def note_lines() -> None:
    """Let coverage.py note the lines that this process runs, and those that it starts."""
    if settings := os.environ.pop("NOTEBOOK_COVERAGE", None):
        import coverage

        os.environ["COVERAGE_PROCESS_START"] = settings  # not earlier: the server is not measured
        coverage.process_startup()


# --- the end of a notebook's process --------------------------------------------------------------


def end_children(owner: int) -> None:
    """End the processes of multiprocessing that the notebook left running.

    At its exit Python ends daemons, among them the workers of a Pool, and waits for the others: for
    ever, if they never end. Executors, managers and loky end their processes themselves.
    """
    util = sys.modules.get("multiprocessing.util")
    if util is None or getpid() != owner:
        return
    from multiprocessing import active_children, context

    util._run_finalizers(0)
    kinds = ("Process", "ForkProcess", "SpawnProcess", "ForkServerProcess")
    its_own = tuple(getattr(context, kind) for kind in kinds if hasattr(context, kind))
    for child in active_children():
        if not child.daemon and isinstance(child, its_own):
            child.kill()


def end_threads(initial: set[threading.Thread]) -> None:
    """Do in a kernel what Python does at its exit: tell executors, then wait for the threads."""
    for callback in reversed(threading._threading_atexits):
        callback()
    for thread in set(threading.enumerate()) - initial - {threading.current_thread()}:
        if not thread.daemon:
            thread.join()


# --- in a Jupyter kernel --------------------------------------------------------------------------

watch: Watch | None = None  # the one of this kernel


def watch_kernel(stacks: str) -> None:
    """Called in a kernel before the first cell: watch over it as over a forked shell."""
    global watch
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    watch = Watch(shell)
    watch.attach(asyncio.get_event_loop())
    shell.kernel.raw_input = shell.kernel.getpass = refuse_input
    watch.exits = []
    atexit.register, atexit.unregister = register, unregister(atexit.unregister)
    if hasattr(faulthandler, "register"):
        watch.stacks = open(stacks, "w")
        faulthandler.enable(watch.stacks)
        faulthandler.register(signal.SIGUSR1, watch.stacks)
    note_lines()


def register(function, *args, **options):
    """Stands in for atexit.register: the handlers run while the runner still listens."""
    watch.exits.append((function, args, options))
    return function


def unregister(plain):
    def unregister(function):
        watch.exits = [handler for handler in watch.exits if handler[0] != function]
        plain(function)

    return unregister


def answer(next_number: int, raises: bool = False) -> None:
    """Called in a kernel between cells: tell the failures, and set the number of the next cell."""
    watch.shell.display_pub.publish({"text/plain": encode(watch.take())})
    watch.begin(next_number, raises)


async def finish() -> None:
    """Called in a kernel after the last cell: what Python does when a process ends."""
    await watch.settle()
    end_threads(watch.threads)
    end_children(getpid())
    while watch.exits:
        function, args, options = watch.exits.pop()
        try:
            function(*args, **options)
        except BaseException as error:
            watch.note("in an exit handler: ", error)
    with contextlib.suppress(Exception):
        watch.shell.reset(new_session=False)  # objects end now, and their destructors may fail
    if util := sys.modules.get("multiprocessing.util"):
        util._exit_function()
    gc.collect()
