"""Run each notebook in a Jupyter kernel of its own, through nbclient, while `watch` looks on."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from engines import Engine
from outcomes import Failure, Outcome, Record, Task, how_it_ended, read_stack

HERE = Path(__file__).parent
POSIX = hasattr(os, "fork")
# Load `watch` and `outcomes` in the kernel under names that no notebook uses, from beside this file
LOAD = f"""
import importlib.util, sys
for name in ("outcomes", "watch"):
    file = {str(HERE)!r} + "/" + name + ".py"
    spec = importlib.util.spec_from_file_location("run_notebook_" + name, file)
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get("outcomes")
    if name == "watch":
        sys.modules["outcomes"] = sys.modules["run_notebook_outcomes"]
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if name == "watch":
        sys.modules.pop("outcomes") if before is None else sys.modules.update(outcomes=before)
"""
WATCH = "__import__('sys').modules['run_notebook_watch']"
ASK = f"{WATCH}.answer(0)"


class KernelEngine(Engine):
    """Run each notebook in a kernel; a keeper (kernel_keeper.py) ends what the kernel leaves."""

    def __init__(self, env: dict[str, str], figures: frozenset[str] | None = None):
        super().__init__(env, figures)
        self.env["JUPYTER_RUNTIME_DIR"] = self.path("runtime")
        self.running: set[KernelNotebook] = set()
        logging.getLogger("asyncio").addFilter(no_pending)  # nbclient leaves tasks behind
        if sys.platform == "win32":
            self.unseen = "processes that a notebook started and left running"
        elif sys.platform != "linux":
            self.unseen = "processes that detached themselves from a notebook"

    def run(self, task: Task) -> Iterator[Outcome]:
        notebook = KernelNotebook(task, self)
        self.running.add(notebook)
        try:
            yield from notebook.run()
        finally:
            notebook.end()
            self.running.discard(notebook)

    def stop(self, why: str) -> None:
        super().stop(why)
        for notebook in list(self.running):
            notebook.let_go()


class KernelNotebook:
    """One notebook on its way through a kernel."""

    def __init__(self, task: Task, engine: KernelEngine):
        self.task, self.engine, self.record = task, engine, Record()
        self.steps = [step for step in task.steps if not step.skip]
        self.number, self.too_late = 0, ""
        self.told: dict[int, Outcome] = {}
        self.started = self.cell_started = time.monotonic()
        name = engine.path(str(threading.get_ident()))
        self.stacks, self.memory = Path(f"{name}.stacks"), Path(f"{name}.memory")
        for file in (self.stacks, self.memory):
            file.unlink(missing_ok=True)
        self.client = make_client([step.source for step in self.steps], str(self.memory))
        self.process, self.lifeline = None, -1

    def run(self) -> Iterator[Outcome]:
        """Start the kernel, run the cells, and end it with all that it started."""
        folder, env = str(Path(self.task.path).parent), self.engine.env
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        if POSIX:
            options["stdin"], self.lifeline = os.pipe()
        self.client.create_kernel_manager()
        self.client.km.connection_file = self.engine.path(f"{id(self)}.json")
        env = env | {"EXP_NOTEBOOK": Path(self.task.path).stem}
        try:
            with self.client.setup_kernel(cwd=folder, env=env, **options):
                self.process = self.client.km.provisioner.process
                yield from self.watched()
                self.end()
        finally:
            if POSIX:
                os.close(options["stdin"])

    def watched(self) -> Iterator[Outcome]:
        """The outcomes, whatever becomes of the kernel."""
        last: list[Failure] = []
        if self.engine.stopped:
            self.let_go()
        try:
            for outcome in self.cells():
                self.told[outcome.number] = outcome
                yield outcome
            if all(outcome.status == "passed" for outcome in self.told.values()):
                last = self.finish()
        except Exception as error:
            last = [self.explain(error)]
            if self.number:
                yield self.outcome(last)
                last = []
        for number in self.record.changed & self.told.keys():
            yield replace(self.told[number], outputs=tuple(self.record.of(number)))
        self.number, self.cell_started = 0, self.started
        yield self.outcome(last)

    def cells(self) -> Iterator[Outcome]:
        """Run the cells in order up to the first failure."""
        nexts = [f"{WATCH}.answer({step.number}, {step.raises})" for step in self.steps]
        watch = f"{WATCH}.watch_kernel({str(self.stacks)!r})"
        self.ask(f"exec({LOAD!r}, {{}}); {watch}; {nexts[0]}")
        for i, (step, following) in enumerate(zip(self.steps, [*nexts[1:], ASK], strict=True)):
            self.number, self.cell_started = step.number, time.monotonic()
            self.record.begin(self.number)
            self.client.record, self.client.timeout = self.record, self.time_left("the cell")
            self.client.execute_cell(self.client.nb.cells[i], i)
            failures = self.ask(following)
            yield self.outcome(failures)
            if failures:
                return

    def finish(self) -> list[Failure]:
        """Let the kernel do what Python does at its exit; returns what failed then."""
        self.number, self.cell_started = 0, time.monotonic()
        self.record.begin(0)
        limit = self.time_left("the end of the notebook")
        return self.ask(f"await {WATCH}.finish()\n{ASK}", limit)

    def time_left(self, what: str) -> int:
        """Whole seconds, as nbclient counts, for what starts now; 0 is no limit."""
        limits = []
        if limit := self.task.cell_timeout:
            limits.append((limit, f"{what} took longer than {limit:g} s"))
        if limit := self.task.timeout:
            left = self.started + limit - time.monotonic()
            limits.append((left, f"the notebook took longer than {limit:g} s"))
        left, self.too_late = min(limits, default=(0, ""))
        return max(1, math.ceil(left)) if limits else 0

    def ask(self, code: str, limit: int = 60) -> list[Failure]:
        """Run a cell that the notebook does not have; `watch.answer` ends it."""
        client, hidden = self.client, self.client.nb.cells[-1]
        client.record, client.timeout, hidden.source = Record(), limit, code
        client.execute_cell(hidden, -1, store_history=False)
        shown = [output for output in client.record.end() if "data" in output]
        if not shown:
            return [Failure(f"the kernel cannot be watched: {client.record.end()}")]
        return [Failure(**failure) for failure in json.loads(shown[-1]["data"]["text/plain"])]

    def outcome(self, failures: list[Failure]) -> Outcome:
        status, seconds = "failed" if failures else "passed", time.monotonic() - self.cell_started
        self.record.cells.setdefault(self.number, [])
        if self.record.number == self.number:
            self.record.end()
        outputs = tuple(self.record.of(self.number))
        return Outcome(self.task.path, self.number, status, seconds, outputs, tuple(failures))

    def explain(self, error: Exception) -> Failure:
        """Why a cell never came to its end."""
        kind = type(error).__name__
        if self.engine.stopped:
            return Failure(self.engine.stopped)
        if kind == "CellTimeoutError":
            return Failure(self.too_late, *self.stack(ask=True))
        if kind == "DeadKernelError":
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)  # its keeper ends when all its children have ended
            held = int(self.memory.read_text()) if self.memory.exists() else 0
            what = how_it_ended(self.process.poll(), held)
            return Failure(what, *self.stack(ask=False))
        return Failure(f"the kernel's messages cannot be read ({kind}: {error}); "
                       "a cell may have broken its connection")  # fmt: skip

    def stack(self, ask: bool) -> tuple[tuple, str]:
        """Where a kernel hangs, if it can still tell, or where it crashed."""
        if ask and hasattr(signal, "SIGUSR1"):
            self.process.send_signal(signal.SIGUSR1)
            until = time.monotonic() + 0.5
            while time.monotonic() < until and not read(self.stacks):
                time.sleep(0.02)
        return read_stack(read(self.stacks))

    def let_go(self) -> None:
        """Tell the kernel's keeper to end it."""
        lifeline, self.lifeline = self.lifeline, -1
        if lifeline >= 0:
            os.close(lifeline)
        elif not POSIX and self.process:
            self.process.kill()

    def end(self) -> None:
        """End the kernel, and wait until it and all that it started are gone."""
        self.let_go()
        if self.process:
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()


def no_pending(record: logging.LogRecord) -> bool:
    return "Task was destroyed but it is pending" not in str(record.msg)


def read(file: Path) -> str:
    return file.read_text("utf-8", "replace") if file.exists() else ""


def make_client(sources: list[str], memory: str):
    """An nbclient that gives the kernel's messages to a Record, and one hidden cell at the end."""
    from quick_nbformat import nbformat  # isort: split
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    class Manager(AsyncKernelManager):
        """Starts the kernel of *this* Python, whatever kernels are installed, under its keeper."""

        @property
        def kernel_spec(self):
            keeper = [sys.executable, str(HERE / "kernel_keeper.py"), memory] if POSIX else []
            kernel = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=keeper + kernel, language="python", display_name="Python")

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
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in [*sources, ""]]
    )
    return Client(notebook, kernel_manager_class=Manager, kernel_name="python3",
                  allow_errors=True, log=quiet)  # fmt: skip
