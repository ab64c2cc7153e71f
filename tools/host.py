"""A notebook's own process in the engine "fork": an IPython shell that behaves as a Jupyter kernel.

Its rich output goes to the keeper (keeper.py) as messages, a line of JSON for each.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import builtins
import contextlib
import contextvars
import gc
import getpass
import io
import os
import socket
import sys
import threading
from os import _exit, getpid
from pathlib import Path

from outcomes import Step, Task
from watch import Watch, encode, end_children, note_lines, refuse_input, safe_str, shorten

write_raw = os.write


class Channel:
    """The notebook's line to its keeper; each message is answered, so that order is never lost."""

    def __init__(self, line: socket.socket):
        self.file, self.owner, self.lock = line.makefile("rwb"), getpid(), threading.RLock()
        self.out, self.err = Printed(self), Warned(self)

    def tell(self, do: str, **message) -> None:
        """Say something that happened after all that was printed so far."""
        if getpid() != self.owner:
            return  # a forked worker's figures have no place in the notebook
        with self.lock:
            for stream in (self.out, self.err):
                if not stream.closed:
                    stream.flush()
            self.send(do=do, **message)

    def send(self, **message) -> None:
        self.file.write(encode(message).encode("utf-8", "replace") + b"\n")
        self.file.flush()
        self.file.read(1)


class Stream(io.TextIOBase):
    """What sys.stdout and sys.stderr have in common; no more than they have in a kernel."""

    encoding, errors = "UTF-8", None

    def __init__(self, channel: Channel):
        self.channel = channel

    def write(self, text: str) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text)}")
        self._write(text)
        return len(text)

    def writable(self) -> bool:
        return True


class Printed(Stream):
    """sys.stdout: file descriptor 1, which C code and child processes write to as well."""

    name = "stdout"

    def __init__(self, channel: Channel):
        super().__init__(channel)
        raw = open(1, "wb", closefd=False)
        self.file = io.TextIOWrapper(raw, "utf-8", "replace", line_buffering=True)

    def _write(self, text: str) -> None:
        if self.channel.err.pending:
            self.channel.err.flush()
        self.file.write(text)

    def flush(self) -> None:
        self.file.flush()

    def fileno(self) -> int:
        return 1


class Warned(Stream):
    """sys.stderr: goes through the channel, so that its place among the other output is certain."""

    name, pending = "stderr", ""

    def _write(self, text: str) -> None:
        if getpid() != self.channel.owner:
            write_raw(2, text.encode("utf-8", "replace"))
            return
        with self.channel.lock:
            if not self.pending and not self.channel.out.closed:
                self.channel.out.flush()
            self.pending += text
            if len(self.pending) > 1 << 16:
                self.flush()

    def flush(self) -> None:
        if self.pending and getpid() == self.channel.owner:
            with self.channel.lock:
                text, self.pending = self.pending, ""
                self.channel.send(do="stderr", text=text)

    def fileno(self) -> int:
        return 2


class Kernel:
    """What notebooks ask of `get_ipython().kernel`: that it is there, and whose it is."""

    implementation, banner, session, shell_stream = "ipython", "", None, None

    def __init__(self, shell):
        self.shell = shell

    @property
    def comm_manager(self):
        from comm import get_comm_manager

        return get_comm_manager()

    def do_shutdown(self, restart: bool) -> dict:
        self.shell.ask_exit()
        return {"status": "ok", "restart": restart}


def make_shell(channel: Channel):
    """An IPython shell that hands what Jupyter would display to the channel."""
    from IPython.core import page
    from IPython.core.displayhook import DisplayHook
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets import Type
    from traitlets.config import Config, PyFileConfigLoader

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

        def system(self, cmd):
            if cmd.rstrip().endswith("&"):  # this is what every kernel says to it
                raise OSError("Background processes not supported.")
            return self.system_raw(cmd)  # the command writes to our descriptors 1 and 2

        def _showtraceback(self, etype, evalue, stb):
            what = shorten(safe_str(evalue))
            output = {"ename": etype.__name__, "evalue": what, "traceback": stb}
            channel.tell("show", output={"output_type": "error", **output})

        def enable_gui(self, gui=None):
            pass

    profile = os.path.join(os.environ.get("IPYTHONDIR", ""), "profile_default")
    config = Config()
    if os.path.exists(os.path.join(profile, "ipython_config.py")):  # how to store pictures
        config = PyFileConfigLoader("ipython_config.py", profile).load_config()
    config.HistoryManager.enabled = False  # it would start a thread and write a database
    config.IPKernelApp = Config()  # by this tqdm knows Jupyter
    shell = ZMQInteractiveShell.instance(config=config)
    shell.set_hook("show_in_pager", page.as_hook(lambda *_, **__: None), 99)
    shell.kernel = Kernel(shell)
    shell.parent_header, shell.get_parent = {}, dict
    with contextlib.suppress(Exception):  # %autosave and others that only a kernel has
        from ipykernel.zmqshell import KernelMagics

        KernelMagics.connect_info = lambda self, arg_s="": print("{}  # no connection: a test")
        shell.register_magics(KernelMagics)
    return shell


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
    channel = Channel(line)
    settle_in(task, channel)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    shell = make_shell(channel)
    sys.modules["__mp_main__"] = sys.modules["__main__"]
    watch = Watch(shell)
    watch.attach(loop)
    note_lines()
    context = contextvars.copy_context()  # of all cells: np.seterr and decimal keep state there

    def run(coroutine) -> None:
        try:
            loop.run_until_complete(loop.create_task(coroutine, context=context))
        except BaseException as error:  # also SystemExit, from a task
            watch.note("", error)

    for step in task.steps:
        if step.skip:
            continue
        channel.tell("start", number=step.number)
        watch.begin(step.number, step.raises)
        run(run_cell(shell, step))
        if getpid() != channel.owner:
            _exit(0)  # the cell forked, and this is the copy
        failures = watch.take()
        channel.tell("end", failures=failures)
        if failures:
            break
    else:
        watch.begin(watch.number)
        channel.tell("start", number=0)
        run(watch.settle())
    try:
        os.getcwd()
    except OSError:  # IPython's exit handler asks for it
        os.chdir("/")
    threading._shutdown()  # what Python does at its own end: threads first, then atexit
    atexit._run_exitfuncs()
    gc.collect()
    channel.tell("done", failures=watch.take())


def settle_in(task: Task, channel: Channel) -> None:
    """Make this process what a new kernel's is: its folder, path, streams and random numbers."""
    folder = Path(task.path).parent
    os.environ |= {"EXP_NOTEBOOK": Path(task.path).stem, "PAGER": "cat", "GIT_PAGER": "cat"}
    os.chdir(folder)
    ours = Path(__file__).parent
    for name, module in list(sys.modules.items()):  # a notebook's own module may have such a name
        if name != "__main__" and Path(getattr(module, "__file__", None) or "/").parent == ours:
            del sys.modules[name]
    sys.path = [path for path in sys.path if path != str(ours)]
    packages = (i for i, path in enumerate(sys.path) if path.endswith("-packages"))
    sys.path.insert(next(packages, 0), "")  # the working folder, where IPython puts it
    connection = os.path.join(os.environ.get("IPYTHONDIR", ""), "kernel.json")
    sys.argv = ["ipykernel_launcher.py", "-f", connection]  # argparse chokes on it, as in Jupyter
    sys.stdout = sys.__stdout__ = channel.out
    sys.stderr = sys.__stderr__ = channel.err
    sys.stdin = sys.__stdin__ = open(os.devnull)
    builtins.input = getpass.getpass = refuse_input
    with contextlib.suppress(ImportError):
        import multiprocessing.process
        import multiprocessing.util  # its exit handler is to run after ours

        multiprocessing.process.ORIGINAL_DIR = str(folder)
    atexit.register(end_children, channel.owner)
    more_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
    gc.enable()


def more_threads(n: int) -> None:
    """Give numpy's BLAS its share of the cores: the server had to keep it to one thread."""
    os.environ["OPENBLAS_NUM_THREADS"] = str(n)
    if n > 1 and any("numpy" in getattr(finder, "hidden", ()) for finder in sys.meta_path):
        with contextlib.suppress(ImportError):
            from threadpoolctl import threadpool_limits

            threadpool_limits(n)
