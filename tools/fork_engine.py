"""The runner's side of the fork server: each notebook gets a pipe, and its outcomes come from it.

The server (keeper.py) imports once what is slow to import, and forks; it does nothing else, so it
has no threads and no CUDA context that a fork could break.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from engines import Engine
from outcomes import STOPPED, Failure, Outcome, Task

# what would start threads in the server: numpy's BLAS, and the allocator of pyarrow (with pandas)
UNTHREADED = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


class ForkEngine(Engine):
    """Run each notebook in a fork of one warm server."""

    def __init__(
        self, env: dict[str, str], modules: list[str], figures: frozenset[str] | None = None
    ):
        super().__init__(env, figures)
        self.lock = threading.Lock()
        self.line, theirs = socket.socketpair()
        server = [sys.executable, str(Path(__file__).with_name("keeper.py"))]
        self.server = subprocess.Popen(
            [*server, str(theirs.fileno()), *modules], pass_fds=[theirs.fileno()],
            env=self.env | UNTHREADED,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        theirs.close()

    def run(self, task: Task) -> Iterator[Outcome]:
        reader, writer = os.pipe()
        with open(reader, "rb") as events:
            try:
                with self.lock:
                    self._send(task, writer)
            except OSError:
                pass  # the server is gone, and no other process holds the pipe: it reads as empty
            finally:
                os.close(writer)
            for line in events:
                outcome = json.loads(line)
                failures = tuple(Failure(**failure) for failure in outcome.pop("failures"))
                if failures and failures[0].what == STOPPED:
                    failures = (Failure(self.stopped),)
                yield Outcome(task.path, failures=failures, **outcome)
                if outcome["number"] == 0:
                    return
        what = self.stopped or "the process that watches over the notebook died"
        yield Outcome(task.path, 0, "failed", failures=(Failure(what),))

    def _send(self, task: Task, events: int) -> None:
        """Hand the server a task, and the pipe for its outcomes."""
        theirs, ours = os.pipe()
        try:
            socket.send_fds(self.line, [b"."], [theirs, events])
        finally:
            os.close(theirs)
        with open(ours, "wb") as file:
            file.write(json.dumps(asdict(task)).encode())
        self.line.recv(1)  # it has read the task and holds the pipe

    def stop(self, why: str) -> None:
        super().stop(why)
        with contextlib.suppress(OSError):
            self.line.shutdown(socket.SHUT_RDWR)
        self.server.terminate()

    def __exit__(self, *_):
        self.stop("the runner ended")
        self.line.close()
        self.server.wait()
        self.folder.cleanup()
