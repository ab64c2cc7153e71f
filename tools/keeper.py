"""The server that forks notebooks from a warm start, and the keeper of each (see engines.py)."""

from __future__ import annotations

import codecs
import contextlib
import faulthandler
import gc
import importlib
import io
import json
import math
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # not there yet where PYTHONSAFEPATH is set

from host import host
from outcomes import STOPPED, Failure, Record, Step, Task, how_it_ended, read_stack
from processes import adopt_orphans, end_descendants, end_with_parent
from warm import Warm

# what every kernel has imported before its first cell, so that it is no secret in a fork either
BASE = ("IPython.core.interactiveshell", "ipykernel.kernelapp", "ipykernel.zmqshell",
        "multiprocessing.util", "concurrent.futures", "sqlite3",  # and what its debugger imports:
        "http.server", "xmlrpc.server", "xml.parsers.expat")  # fmt: skip
GRACE = 0.3  # seconds for what ends by itself after its notebook


class Keeper:
    """Run one notebook in a child process, and write its outcomes, a line of JSON for each."""

    def __init__(self, task: Task, events: int, lifeline: socket.socket, warm: Warm):
        self.task, self.events, self.lifeline = task, open(events, "wb"), lifeline
        self.warm = warm
        self.record, self.number, self.failures, self.told = Record(), 0, [], {}
        self.started = self.cell_started = time.monotonic()
        self.stacks = memory_file()  # written by faulthandler, whatever else is broken
        self.decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self.messages, self.finished = b"", False

    def run(self) -> None:
        """Start the notebook and stay until it ends, its time is up, or the runner is gone."""
        adopt_orphans()
        wake, waker = os.pipe()
        os.set_blocking(waker, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a child's end is written to the waker
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        self.raw, raw = os.pipe()
        self.line, line = socket.socketpair()
        self.child = os.fork()
        if self.child == 0:
            signal.set_wakeup_fd(-1)
            for ours in (wake, waker, self.raw):
                os.close(ours)
            for ours in (self.line, self.lifeline, self.events):
                ours.close()
            be_notebook(self.task, line, raw, self.stacks, self.warm)
        os.close(raw)
        line.close()
        os.set_blocking(self.raw, False)
        self.line.setblocking(False)
        self.poll, lull = select.poll(), select.poll()
        for poll in (self.poll, lull):
            poll.register(wake, select.POLLIN)
            poll.register(self.line, select.POLLIN)
            poll.register(self.lifeline, 0)  # an event here means that its other end is closed
        self.poll.register(self.raw, select.POLLIN)
        what = None
        while what is None:
            deadline, too_late = self.deadline()
            patience = min(max(0.0, deadline - time.monotonic()), 3600)
            ready = dict(self.poll.poll(patience * 1000))
            if wake in ready:
                os.read(wake, 4096)
            ended, status, usage = os.wait4(self.child, os.WNOHANG)
            self.gather()
            if ended:
                code = os.waitstatus_to_exitcode(status)
                what = "" if self.finished else how_it_ended(code, usage.ru_maxrss)
            elif self.lifeline.fileno() in ready:
                what = STOPPED
            elif time.monotonic() >= deadline:
                what = too_late
                self.ask_stack()
            elif list(ready) == [self.raw]:
                lull.poll(2)  # not every line that is printed is worth waking up for
        self.end(what)

    def deadline(self) -> tuple[float, str]:
        """When this must end, and what to say then."""
        times = [(math.inf, "")]
        if limit := self.task.timeout:
            times.append((self.started + limit, f"the notebook took longer than {limit:g} s"))
        if limit := self.task.cell_timeout:
            what = "the cell" if self.number else "the end of the notebook"
            times.append((self.cell_started + limit, f"{what} took longer than {limit:g} s"))
        return min(times)

    def gather(self) -> None:
        """Take in what was printed, and then the message before which it was printed."""
        try:
            got = self.line.recv(1 << 20)
            if not got:
                self.poll.unregister(self.line)
        except (BlockingIOError, ConnectionError, KeyError):
            got = b""
        read = 0
        with contextlib.suppress(BlockingIOError, KeyError):
            while read < 1 << 20:
                data = os.read(self.raw, 1 << 16)
                self.record.text("stdout", self.decode(data))
                read += len(data)
                if not data:
                    self.poll.unregister(self.raw)
                    break
        *lines, self.messages = (self.messages + got).split(b"\n")
        for line in lines:
            self.handle(**json.loads(line))
            with contextlib.suppress(OSError):
                self.line.send(b".")

    def handle(self, do: str, number: int = 0, failures: list = (), **rest) -> None:
        """One message of the notebook's process."""
        if do == "start":
            self.number, self.cell_started = number, time.monotonic()
            self.record.begin(number)
        elif do == "end":
            self.emit(self.number, failures)
            self.number, self.cell_started = 0, time.monotonic()
        elif do == "done":
            self.failures += failures
            self.finished = True
        elif do == "stderr":
            self.record.text("stderr", rest["text"])
        else:
            getattr(self.record, do)(**rest)  # show, update, clear

    def emit(self, number: int, failures: list, seconds: float | None = None) -> None:
        if seconds is None:
            seconds = time.monotonic() - self.cell_started
        status = "failed" if failures else "passed"
        self.record.end()
        self.told[number] = {"number": number, "status": status, "seconds": seconds,
                             "failures": failures}  # fmt: skip
        self.tell(number)

    def tell(self, number: int) -> None:
        message = self.told[number] | {"outputs": self.record.of(number)}
        with contextlib.suppress(BrokenPipeError):  # the runner is gone
            self.events.write(json.dumps(message).encode() + b"\n")
            self.events.flush()

    def ask_stack(self) -> None:
        """Let the notebook's process write where it hangs; this works in C code as well."""
        os.kill(self.child, signal.SIGUSR1)
        until = time.monotonic() + 0.5
        while time.monotonic() < until and not os.fstat(self.stacks.fileno()).st_size:
            time.sleep(0.02)

    def end(self, what: str) -> None:
        """End the notebook's process and all its descendants, and tell the last outcomes."""
        end_descendants(self.child, GRACE * self.finished)
        self.gather()
        if what:
            stack = os.pread(self.stacks.fileno(), 10_000, 0).decode("utf-8", "replace")
            failure = asdict(Failure(what, *read_stack(stack)))
            if self.number:
                self.emit(self.number, [failure])
            else:
                self.failures.append(failure)
        for number in self.record.changed & set(self.told):
            self.tell(number)
        self.record.begin(0)
        self.emit(0, self.failures, time.monotonic() - self.started)


def memory_file() -> io.IOBase:
    """A file that needs no disk, where the system has such files."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("stacks"), "r+b", buffering=0)
    return tempfile.TemporaryFile()


def be_notebook(task: Task, line: socket.socket, output: int, stacks: io.IOBase, warm: Warm):
    """The child's side of the fork: its own process group, standard streams, and no way back."""
    try:
        os.setsid()
        end_with_parent()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.enable(stacks)  # a segmentation fault tells where
        faulthandler.register(signal.SIGUSR1, stacks)  # and so does a cell that hangs
        warm.reseed()
        host(task, line)
        os._exit(0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(70)


def serve(line: socket.socket, modules: list[str]) -> None:
    """Import the modules, then fork a keeper for each task that comes along the line.

    While Python's garbage collector is off the imports take a quarter less time.
    """
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers need no one to wait for them
    for module in BASE:
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    warm = Warm()
    warm.load(modules)
    gc.freeze()
    while True:
        _, descriptors, *_ = socket.recv_fds(line, 1, 2)
        if not descriptors:
            return
        with open(descriptors[0], "rb") as file:
            task = json.loads(file.read() or b"null")
        if task and os.fork() == 0:
            try:
                task["steps"] = [Step(**step) for step in task["steps"]]
                Keeper(Task(**task), descriptors[1], line, warm).run()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(descriptors[1])
        line.send(b".")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
