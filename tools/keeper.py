"""The server that forks notebooks from a warm start, and the keeper of each (see engines.py)."""

from __future__ import annotations

import codecs
import contextlib
import ctypes
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

from engines import STOPPED, Failure, Record, Step, Task, how_it_ended, read_stack
from inside import host


class Keeper:
    """Run one notebook in a child process, and write its outcomes, a line of JSON for each."""

    def __init__(self, task: Task, events: int, lifeline: socket.socket):
        self.task, self.events, self.lifeline = task, open(events, "wb"), lifeline
        self.record, self.number, self.failures, self.told = Record(), 0, [], {}
        self.started = self.cell_started = time.monotonic()
        self.stacks = tempfile.TemporaryFile()  # written by faulthandler, whatever else is broken
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
            be_notebook(self.task, line, raw, self.stacks)
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
        self.told[number] = {"number": number, "status": status, "seconds": seconds,
                             "outputs": self.record.end(), "failures": failures}  # fmt: skip
        self.tell(number)

    def tell(self, number: int) -> None:
        with contextlib.suppress(BrokenPipeError):  # the runner is gone
            self.events.write(json.dumps(self.told[number]).encode() + b"\n")
            self.events.flush()

    def ask_stack(self) -> None:
        """Let the notebook's process write where it hangs; this works in C code as well."""
        os.kill(self.child, signal.SIGUSR1)
        until = time.monotonic() + 0.5
        while time.monotonic() < until and not os.fstat(self.stacks.fileno()).st_size:
            time.sleep(0.02)

    def end(self, what: str) -> None:
        """End the notebook's process and all its descendants, and tell the last outcomes."""
        end_descendants(self.child)
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


def be_notebook(task: Task, line: socket.socket, output: int, stacks: io.IOBase) -> None:
    """The child's side of the fork: its own process group, standard streams, and no way back."""
    try:
        os.setsid()
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: die with the keeper
        with contextlib.suppress(OSError):  # and if memory runs out, before the keeper
            Path("/proc/self/oom_score_adj").write_text("500")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        faulthandler.enable(stacks)  # a segmentation fault tells where
        faulthandler.register(signal.SIGUSR1, stacks)  # and so does a cell that hangs
        host(task, line)
        os._exit(0)
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(70)


def prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parents die: what detaches itself stays in reach."""
    prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def end_descendants(child: int) -> None:
    """Kill the process group of a child, then, where the system allows, all other descendants."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(child, signal.SIGKILL)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    until = time.monotonic() + 5  # a process in an uninterruptible wait cannot be killed
    with contextlib.suppress(ChildProcessError):  # none is left
        while time.monotonic() < until:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                for orphan in children.read_text().split() if children.exists() else ():
                    os.kill(int(orphan), signal.SIGKILL)
                time.sleep(0.002)


def serve(line: socket.socket, modules: list[str]) -> None:
    """Import the modules, then fork a keeper for each task that comes along the line.

    While Python's garbage collector is off the imports take a quarter less time.
    """
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers need no one to wait for them
    for module in ["IPython.core.interactiveshell", *modules]:
        with contextlib.suppress(Exception):  # the cell that needs it will say what is wrong
            importlib.import_module(module)
    gc.freeze()
    while True:
        file, descriptors, *_ = socket.recv_fds(line, 4096, 1)
        if not file:
            return
        task = json.loads(Path(file.decode()).read_bytes())
        task["steps"] = [Step(**step) for step in task["steps"]]
        if os.fork() == 0:
            try:
                Keeper(Task(**task), descriptors[0], line).run()
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.close(descriptors[0])
        line.send(b".")


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
