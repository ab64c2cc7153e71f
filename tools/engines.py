"""Run a notebook in a process of its own, and say what became of each of its cells.

    runner -- server -- keeper -- notebook     the engine "fork": Linux and other Unix systems
    runner -- nbclient -- ipykernel            the engine "kernel": everywhere

The server imports once what is slow to import, and forks; it does nothing else, so it has no
threads and no CUDA context that a fork could break. A keeper watches over one notebook: it gathers
the output, watches the clock, and in the end, however that comes, it ends the notebook's process
and all that it started. When the runner is gone, in whatever way, each keeper notices and does so.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

TEXT_LIMIT = 200_000  # characters of printed output that are kept of a cell
SHOWN_LIMIT = 20_000_000  # characters of figures, tables and the like that are kept of a cell
CELL_FILE = re.compile(r"<ipython-input-(\d+)-\w+>")  # the file name that IPython compiles under
STOPPED = "stopped"  # what a keeper says when the runner wants it to end


@dataclass(frozen=True)
class Step:
    """One code cell as it will run: its number, and the source or the reason to skip it."""

    number: int
    source: str
    skip: str = ""


@dataclass(frozen=True)
class Task:
    """What an engine needs to know to run a notebook; times are in seconds."""

    path: str
    steps: tuple[Step, ...]
    timeout: float | None = None
    cell_timeout: float | None = None


@dataclass(frozen=True)
class Failure:
    """One thing that went wrong; a frame is (number of a cell or path of a file, line, name)."""

    what: str
    frames: tuple[tuple[int | str, int, str], ...] = ()
    details: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell; number 0 is the notebook as a whole, and its last outcome.

    A later outcome of the same cell replaces the earlier one: its display was updated.
    """

    path: str
    number: int
    status: str  # "passed", "failed" or "skipped"
    seconds: float = 0.0
    outputs: tuple[dict, ...] = ()
    failures: tuple[Failure, ...] = ()


def in_cells(frames: list[tuple[str, int, str]]) -> tuple[tuple[int | str, int, str], ...]:
    """Name the cells among the files of a traceback, drop what is above them, shorten the rest."""
    named = [
        (int(match[1]) if (match := CELL_FILE.fullmatch(file)) else file, line, name)
        for file, line, name in frames
    ]
    start = next((i for i, (file, *_) in enumerate(named) if isinstance(file, int)), 0)
    named = named[start:]
    return tuple(named if len(named) <= 20 else [*named[:5], ("…", 0, ""), *named[-14:]])


def read_stack(text: str) -> tuple[tuple, str]:
    """Frames and text of what faulthandler wrote, the thread that runs the cell if there is one."""
    text = re.split(r"\n\n?(?=Extension modules:)", text)[0].strip()
    threads = re.split(r"\n\n", text)
    chosen = next((thread for thread in threads if CELL_FILE.search(thread)), threads[0])
    frames = re.findall(r'  File "(.*?)", line (\d+) in (.*)', chosen)
    return in_cells([(file, int(line), name) for file, line, name in reversed(frames)]), text


def how_it_ended(code: int | None, memory: int = 0) -> str:
    """Name the way in which a process ended too early; `memory` is the most it held, in KiB."""
    if code is None or code >= 0:
        return f"the process ended by itself with exit code {code}, as after os._exit({code})"
    name = signal.Signals(-code).name
    if name != "SIGKILL":
        return f"the process was ended by {name}"
    held = f"; it held up to {memory / 1024:,.0f} MiB" if memory else ""
    return f"the process was killed (SIGKILL), as the system does when memory runs out{held}"


class Record:
    """The outputs of the cells, put together from what happens as Jupyter puts them together."""

    def __init__(self):
        self.cells: dict[int, list[dict]] = {}
        self.shown: dict[str, list[tuple[int, dict]]] = {}  # display id -> its places
        self.changed: set[int] = set()  # cells whose outputs changed after their end
        self.begin(0)

    def begin(self, number: int) -> None:
        self.number, self.outputs = number, self.cells.setdefault(number, [])
        self.clearing, self.ended = False, False
        self.size = self.lines = self.shown_size = 0

    def end(self) -> list[dict]:
        if self.size > TEXT_LIMIT and not self.ended:
            total = f"\n… cut: {self.lines:,} lines, {self.size:,} characters in all\n"
            self.outputs.append({"output_type": "stream", "name": "stderr", "text": total})
        self.ended = True
        return self.outputs

    def text(self, name: str, text: str) -> None:
        """Add printed text; neighbours of one kind become one output, and too much is cut."""
        kept = text[: max(0, TEXT_LIMIT - self.size)]
        self.size += len(text)
        self.lines += text.count("\n")
        if kept:
            self._now()
            if not self.outputs or self.outputs[-1].get("name") != name:
                self.outputs.append({"output_type": "stream", "name": name, "text": ""})
            self.outputs[-1]["text"] += kept

    def show(self, output: dict, id: str | None = None) -> None:
        self._now()
        self.shown_size += sum(len(str(value)) for value in output.get("data", {}).values())
        if self.shown_size > SHOWN_LIMIT:
            return self.text("stderr", "\n… a display is left out: this cell shows too much\n")
        self.outputs.append(output)
        if id:
            self.shown.setdefault(id, []).append((self.number, output))

    def update(self, output: dict, id: str | None = None) -> None:
        for number, earlier in self.shown.get(id, ()):
            earlier |= {"data": output["data"], "metadata": output["metadata"]}
            self.changed.add(number)

    def clear(self, wait: bool) -> None:
        self.clearing = True
        if not wait:
            self._now()

    def _now(self) -> None:
        """Before the outputs change: a clear that waited for this moment happens."""
        if self.clearing:
            self.outputs.clear()
            self.clearing = False
        if self.ended:
            self.changed.add(self.number)


class Engine:
    """What both engines share: a folder that ends with them, and a way to stop."""

    def __init__(self, env: dict[str, str]):
        self.folder = tempfile.TemporaryDirectory(prefix="notebooks-")
        self.env = os.environ | env | {"IPYTHONDIR": self.folder.name}
        self.stopped = ""

    def run(self, task: Task) -> Iterator[Outcome]:
        """Run one notebook; several threads may do so at a time."""
        raise NotImplementedError

    def stop(self, why: str) -> None:
        """End every notebook that runs, without waiting; their last outcomes say why."""
        self.stopped = self.stopped or why

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop("the runner ended")
        self.folder.cleanup()


class ForkEngine(Engine):
    """The runner's side of the server: it gives each notebook a pipe and reads outcomes from it."""

    def __init__(self, env: dict[str, str], modules: list[str]):
        super().__init__(env)
        self.lock = threading.Lock()
        self.line, theirs = socket.socketpair()
        server = [sys.executable, str(Path(__file__).with_name("keeper.py"))]
        self.server = subprocess.Popen(
            [*server, str(theirs.fileno()), *modules], pass_fds=[theirs.fileno()],
            env=self.env | {"OPENBLAS_NUM_THREADS": "1"},  # its threads would be in the server
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        theirs.close()

    def run(self, task: Task) -> Iterator[Outcome]:
        reader, writer = os.pipe()
        with open(reader, "rb") as events:
            try:
                with self.lock, tempfile.NamedTemporaryFile("w", dir=self.folder.name) as file:
                    json.dump(asdict(task), file)
                    file.flush()
                    socket.send_fds(self.line, [file.name.encode()], [writer])
                    self.line.recv(1)  # it has read the file and holds the pipe
            except OSError:
                pass  # the server is gone, and then nobody else holds the pipe: it reads as empty
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


class KernelEngine(Engine):
    """Run each notebook in a Jupyter kernel of its own, through nbclient.

    Differs: what leaves the kernel's process group is not found and ended, nor are its children if
    the runner itself is killed by SIGKILL; exit handlers of the notebook run unwatched.
    """

    def __init__(self, env: dict[str, str]):
        super().__init__(env)
        self.kernels: set[subprocess.Popen] = set()

    def run(self, task: Task) -> Iterator[Outcome]:
        started, folder = time.monotonic(), str(Path(task.path).parent)
        stacks = Path(self.folder.name) / f"{threading.get_ident()}.stacks"
        notebook = KernelNotebook(task, stacks)
        env = self.env | {"EXP_NOTEBOOK": Path(task.path).stem}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with notebook.client.setup_kernel(cwd=folder, env=env, **quiet):
            kernel = notebook.client.km.provisioner.process
            self.kernels.add(kernel)
            try:
                yield from notebook.cells()
            except Exception as error:
                failure = Failure(f"{type(error).__name__}: {error}")
                if type(error).__name__ == "DeadKernelError":
                    failure = Failure(self.stopped or how_it_ended(kernel.poll()))
                elif type(error).__name__ == "CellTimeoutError":
                    failure = Failure(notebook.too_late, *ask_stack(kernel, stacks))
                end_group(kernel)
                yield notebook.outcome([failure])
        self.kernels.discard(kernel)
        end_group(kernel)
        seconds = time.monotonic() - started
        yield Outcome(task.path, 0, "failed" if notebook.last else "passed", seconds,
                      tuple(notebook.record.cells[0]), tuple(notebook.last))  # fmt: skip

    def stop(self, why: str) -> None:
        super().stop(why)
        for kernel in list(self.kernels):
            end_group(kernel)


class KernelNotebook:
    """One notebook on its way through a kernel, in which `inside.py` watches."""

    def __init__(self, task: Task, stacks: Path):
        self.task, self.stacks, self.record = task, stacks, Record()
        self.steps = [step for step in task.steps if not step.skip]
        self.client = make_client([step.source for step in self.steps])
        self.number, self.too_late, self.last = 0, "", []
        self.started = self.cell_started = time.monotonic()

    def cells(self) -> Iterator[Outcome]:
        """Run the cells in order up to the first failure."""
        numbers = [*(step.number for step in self.steps), 0]
        here = str(Path(__file__).parent)
        watch = f"import inside; inside.watch_kernel({str(self.stacks)!r})"
        code = f"import sys; sys.path.append({here!r}); {watch}; sys.path.remove({here!r})"
        self.ask(f"exec({code!r}, {{}}); __import__('inside').answer({numbers[0]})")
        for i, cell in enumerate(self.client.nb.cells[:-1]):
            self.number, self.cell_started = numbers[i], time.monotonic()
            self.record.begin(self.number)
            self.client.record, self.client.timeout = self.record, self.time_left()
            self.client.execute_cell(cell, i)
            failures = self.ask(f"__import__('inside').answer({numbers[i + 1]})")
            yield self.outcome(failures)
            if failures:
                return
        self.number = 0
        self.record.begin(0)
        settle = "await __import__('inside').watch.settle(threads=True)"
        self.last = self.ask(f"{settle}\n__import__('inside').answer(0)")

    def time_left(self) -> int:
        """Whole seconds, as nbclient counts, for a cell that starts now; 0 is no limit."""
        limits = []
        if limit := self.task.cell_timeout:
            limits.append((limit, f"the cell took longer than {limit:g} s"))
        if limit := self.task.timeout:
            left = self.started + limit - time.monotonic()
            limits.append((left, f"the notebook took longer than {limit:g} s"))
        left, self.too_late = min(limits, default=(0, ""))
        return max(1, math.ceil(left)) if limits else 0

    def ask(self, code: str) -> list[Failure]:
        """Run a cell that the notebook does not have; `inside.answer` ends it."""
        client, hidden = self.client, self.client.nb.cells[-1]
        client.record, client.timeout, hidden.source = Record(), 60, code
        client.execute_cell(hidden, -1, store_history=False)
        shown = [output for output in client.record.outputs if "data" in output]
        if not shown:
            return [Failure(f"the kernel cannot be watched: {client.record.outputs}")]
        return [Failure(**failure) for failure in json.loads(shown[-1]["data"]["text/plain"])]

    def outcome(self, failures: list[Failure]) -> Outcome:
        status, seconds = "failed" if failures else "passed", time.monotonic() - self.cell_started
        outputs = tuple(self.record.end())
        return Outcome(self.task.path, self.number, status, seconds, outputs, tuple(failures))


def make_client(sources: list[str]):
    """An nbclient that gives the kernel's messages to a Record, and one hidden cell at the end."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    class Client(NotebookClient):
        record = Record()

        def process_message(self, msg, cell, index):
            kind, content = msg["msg_type"], msg["content"]
            id = content.get("transient", {}).get("display_id")
            if kind == "stream":
                self.record.text(content["name"], content["text"])
            elif kind in ("display_data", "execute_result", "error"):
                kept = content.keys() - {"transient", "execution_count"}
                output = {"output_type": kind, **{key: content[key] for key in kept}}
                self.record.show(output, id)
            elif kind == "update_display_data":
                self.record.update(content, id)
            elif kind == "clear_output":
                self.record.clear(content["wait"])
            else:
                super().process_message(msg, cell, index)

    quiet = logging.getLogger("run_notebook.nbclient")
    quiet.disabled = True
    notebook = new_notebook(cells=[new_code_cell(source) for source in [*sources, ""]])
    return Client(notebook, kernel_name="python3", allow_errors=True, log=quiet)


def ask_stack(kernel: subprocess.Popen, stacks: Path) -> tuple[tuple, str]:
    """Where a kernel hangs, if it can still tell."""
    if not hasattr(signal, "SIGUSR1"):
        return (), ""
    kernel.send_signal(signal.SIGUSR1)
    until = time.monotonic() + 0.5
    while time.monotonic() < until and not (stacks.exists() and stacks.stat().st_size):
        time.sleep(0.02)
    return read_stack(stacks.read_text("utf-8", "replace")) if stacks.exists() else ((), "")


def end_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
