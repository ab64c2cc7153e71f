"""Run notebooks as tests: each in a process of its own, in parallel, from a warm start.

plan -> start -> outcomes -> report: `plan` turns a notebook into a task, an engine (engines.py)
turns tasks into a stream of outcomes of cells, and reports (reports.py) only read that stream.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import math
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from engines import Engine, Failure, ForkEngine, KernelEngine, Outcome, Step, Task
from notebooks import (
    Cell,
    Notebook,
    Settings,
    ToolError,
    cli,
    find,
    read,
    settings,
    show,
)
from reports import Result, Results, save_outputs, write, write_html, write_junit

# what a word in a notebook or a module says is worth importing once, in the server
WARM = {
    r"\btorch\b": "torch",
    r"\boptim\b|\.compile\(": "torch._dynamo",  # the first optimizer step imports it
    r"\bmatplotlib\b": "matplotlib.pyplot",
    r"\bpandas\b": "pandas",
}


# --- plan ----------------------------------------------------------------------------------------


def why_skip(cell: Cell, device: str, slow: bool) -> str:
    """The reason not to run a cell, or nothing."""
    directives = cell.directives
    if "skip" in directives:
        return "#skip"
    if directives.get("eval", "").lower() == "false":
        return "#| eval: false"
    if "slow" in directives and not slow:
        return "#slow: give --slow to run it"
    if "cuda" in directives and device != "cuda":
        return "#cuda: give --device cuda to run it"
    return ""


def imported(cell: Cell, notebook: Notebook, package: str) -> str:
    """What stands in for an exported cell: the import of each name that it binds."""
    if cell.tree is None or notebook.module is None:
        what = f"{show(notebook.path)}: cell {cell.number} cannot be exported"
        raise ToolError(f"{what}; see what tools/notebook2script.py says")
    future = [block.text for block in cell.blocks() if block.kind == "future"]
    names = {name: None for name, how, *_ in cell.bindings if how != "loop"}
    module = f"{package}.{notebook.module}"
    what = f"from {module} import {', '.join(names)}" if names else f"import {module}"
    return "\n".join([*future, what])


def chosen(names: tuple[str, ...], nbs: Path) -> list[Path]:
    """The notebooks that the arguments name, each once; no argument means the folder."""
    if not names:
        found = find(nbs)
        if not found:
            raise ToolError(f"no notebook in {show(nbs)}; name one, or give --nbs FOLDER")
        return found
    paths: dict[Path, Path] = {}
    for name in map(str, names):
        places = (Path(name), nbs / name, nbs / f"{name}.ipynb")
        path = next((place for place in places if place.exists()), None)
        if path is None:
            raise ToolError(f"there is no notebook {name}, nor one of that name in {show(nbs)}")
        for one in find(path) if path.is_dir() else [path]:
            paths[one.resolve()] = one
    return list(paths.values())


def plan(
    notebook: Notebook,
    package: str,
    device: str = "cpu",
    slow: bool = False,
    exported: bool = False,
    **limits: float,
) -> Task:
    """The code cells of a notebook as steps to run or to skip."""
    steps = []
    for cell in notebook.cells:
        if cell.number:  # an empty cell has none, as in Jupyter
            instead = exported and cell.exported and cell.code
            source = imported(cell, notebook, package) if instead else cell.source
            steps.append(Step(cell.number, source, why_skip(cell, device, slow)))
    return Task(str(notebook.path.resolve()), tuple(steps), **limits)


def planned(path: Path, **options) -> Result:
    """A notebook with its task; one that cannot be read has failed already."""
    notebook = Notebook(path, (), {})
    try:
        notebook = read(path)
        return Result(notebook, plan(notebook, **options))
    except ToolError as error:
        failed = Outcome(str(path), 0, "failed", failures=(Failure(str(error)),))
        return Result(notebook, Task(str(path), ()), {0: failed})


# --- start ---------------------------------------------------------------------------------------


def pick_device(device: str) -> str:
    """Turn `auto` into cpu or cuda, and refuse cuda where there is none."""
    if device not in ("cpu", "cuda", "auto"):
        raise ToolError(f"--device is cpu, cuda or auto, not {device}")
    if device == "cpu" or (device == "auto" and not shutil.which("nvidia-smi")):
        return "cpu"
    # in a process of its own: CUDA that was started does not survive a fork
    probe = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", probe]).returncode == 0:
        return "cuda"
    if device == "cuda":
        raise ToolError("--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    return "cpu"


def start(
    tasks: list[Task], home: Settings, engine: str, jobs: int, device: str, data: str
) -> Engine:
    """Start an engine whose notebooks share the cores and import from the project's root."""
    paths = [str(home.root), *filter(None, [os.environ.get("PYTHONPATH")])]
    share = str(max(1, min(cores() // jobs, int(os.environ.get("OMP_NUM_THREADS", 1024)))))
    env = {f"{library}_NUM_THREADS": share for library in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    env |= {
        "EXP_DATA": data,
        "EXP_DEVICE": device,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0"),  # sets print in the same order
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # to ask for a device must not start CUDA
    }
    engine = engine or ("fork" if sys.platform == "linux" else "kernel")
    if engine == "kernel":
        return KernelEngine(env)
    if engine != "fork" or not hasattr(os, "fork"):
        raise ToolError(f"--engine is fork (not on Windows) or kernel, not {engine}")
    texts = [step.source for task in tasks for step in task.steps if not step.skip]
    texts += [path.read_text("utf-8", "replace") for path in home.lib.glob("*.py")]
    said = "\n".join(texts)
    return ForkEngine(env, [module for word, module in WARM.items() if re.search(word, said)])


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# --- outcomes ------------------------------------------------------------------------------------


def outcomes(tasks: list[Task], engine: Engine, jobs: int, fail_fast: bool) -> Iterator[Outcome]:
    """Run up to `jobs` notebooks at a time, and yield what becomes of their cells as it happens."""
    todo, news, running = collections.deque(tasks), queue.SimpleQueue(), 0

    def work(task: Task) -> None:
        skips = [step for step in task.steps if step.skip]
        for step in skips:
            news.put(Outcome(task.path, step.number, "skipped"))
        try:
            if len(skips) == len(task.steps):
                return news.put(Outcome(task.path, 0, "passed"))
            for outcome in engine.run(task):
                news.put(outcome)
        except BaseException as error:
            failure = Failure(f"the runner failed: {type(error).__name__}: {error}")
            news.put(Outcome(task.path, 0, "failed", failures=(failure,)))

    while running or todo:
        while todo and running < jobs:
            threading.Thread(target=work, args=[todo.popleft()], daemon=True).start()
            running += 1
        with contextlib.suppress(queue.Empty):
            outcome = news.get(timeout=0.2)
            yield outcome
            running -= outcome.number == 0
            if fail_fast and outcome.status == "failed":
                todo.clear()
        if engine.stopped:
            todo.clear()


@contextlib.contextmanager
def stop_on_signal(engine: Engine) -> Iterator[None]:
    """On Ctrl-C or SIGTERM the running notebooks end, and the report says so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(
            number, lambda n, _: engine.stop(f"stopped: the runner got {signal.Signals(n).name}")
        )
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Timings:
    """How long each notebook took the last time, kept in build/ to start with the slowest."""

    def __init__(self, home: Settings, *mode: str):
        self.file, self.mode = home.root / "build" / "timings.json", " ".join(mode)
        self.all = {}
        with contextlib.suppress(OSError, ValueError):
            self.all = json.loads(self.file.read_text())
        self.last = self.all.setdefault(self.mode, {})

    def slowest_first(self, paths: list[Path]) -> list[Path]:
        return sorted(paths, key=lambda path: -self.last.get(show(path), math.inf))

    def keep(self, results: Results) -> None:
        done = [result for result in results if result.status == "passed"]
        self.last |= {show(r.notebook.path): round(r.seconds, 2) for r in done}
        with contextlib.suppress(OSError):  # a read-only checkout
            write(self.file, json.dumps(self.all, indent=1, sort_keys=True))


# --- the command ---------------------------------------------------------------------------------


def run_notebook(
    *notebooks: str,
    jobs: int = 0,
    device: str = "",
    data: str = "",
    timeout: float | None = None,
    cell_timeout: float | None = None,
    slow: bool = False,
    exported: bool = False,
    save: bool = False,
    html: str = "",
    junit: str = "",
    fail_fast: bool = False,
    engine: str = "",
    nbs: str = "",
) -> Results:
    """Run notebooks as tests, each from top to bottom in a process of its own.

    A notebook passes only if each of its cells, but for those marked to be skipped, ran to its end
    and nothing failed on the way: no thread, task, magic or command either.

    Args:
        notebooks: files; none means all of the folder nbs.
        jobs: how many run at a time; 0 means as many as there are cores, which they share.
        device: cpu, cuda or auto; by default what EXP_DEVICE says, or cpu.
        data: sample or full; by default what EXP_DATA says, or settings.ini.
        timeout: seconds for a notebook, 0 for no limit; by default what settings.ini says.
        cell_timeout: the same for a cell.
        slow: run the cells marked #slow, too.
        exported: import from the exported module what exported cells would define.
        save: write the outputs back into the notebooks that passed.
        html: write the book into this folder, for example build/book.
        junit: write JUnit XML into this file, for example build/junit.xml.
        fail_fast: start no further notebook after a failure.
        engine: fork (Linux) or kernel.
        nbs: the folder of the notebooks; by default what settings.ini says.
    """
    home = settings()
    data = data or os.environ.get("EXP_DATA") or home.values.get("data", "sample")
    if data not in ("sample", "full"):
        raise ToolError(f"--data is sample or full, not {data}")
    if save and exported:
        raise ToolError("--save keeps what the notebook's own cells show: leave out --exported")
    device = pick_device(device or os.environ.get("EXP_DEVICE") or "cpu")
    limits = {"timeout": timeout, "cell_timeout": cell_timeout}
    for name, value in limits.items():
        limits[name] = float(home.values.get(name, 0) if value is None else value)

    timings = Timings(home, data, device, *["exported"] * exported)
    paths = timings.slowest_first(chosen(notebooks, Path(nbs) if nbs else home.nbs))
    options = {"package": home.lib.name, "device": device, "slow": slow, "exported": exported}
    results = Results([planned(path, **options, **limits) for path in paths])
    tasks = [result.task for result in results if result.status == "not run"]
    jobs = max(1, min(int(jobs) or cores(), len(tasks)))
    with start(tasks, home, engine, jobs, device, data) as running, stop_on_signal(running):
        for outcome in outcomes(tasks, running, jobs, fail_fast):
            result = results.add(outcome)
            if outcome.number == 0:
                print(results.progress(result), flush=True)

    timings.keep(results)
    results.sort()
    if save:
        save_outputs(results)
    if junit:
        write_junit(results, junit)
    if html:
        write_html(results, html)
    return results


@functools.wraps(run_notebook)
def command(*notebooks, **options) -> None:
    for name, default in run_notebook.__kwdefaults__.items():
        if isinstance(default, bool) and isinstance(options.get(name), str):
            notebooks += (options[name],)  # to fire, `--save FILE` is a flag with a value
            options[name] = True
    results = run_notebook(*notebooks, **options)
    print(results)
    sys.exit(not results.ok)


if __name__ == "__main__":
    cli(command)
