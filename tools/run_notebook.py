"""Run notebooks as tests: each in a process of its own, in parallel, from a warm start.

plan -> start -> outcomes -> report: `plan` (plan.py) turns a notebook into a task, an engine
(engines.py) turns tasks into a stream of outcomes of cells, and the reports (reports.py for people,
report_files.py for tools) only read that stream.
"""

from __future__ import annotations

import ast
import codecs
import contextlib
import functools
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from annotations import annotations
from cover import measure, uncovered
from drift import drifted
from engines import Engine
from follow import follow
from fork_engine import ForkEngine
from kernel_engine import KernelEngine
from memory import Memory
from notebooks import Settings, ToolError, cli, settings, show
from outcomes import Task
from plan import chosen, planned
from report_files import save_outputs, write_html, write_junit
from reports import Results
from running import outcomes, report, say, stop_on_signal
from timings import Timings, read_shard

# what a word in a notebook or a module says is worth importing once, in the server
WARM = {
    r"\btorch\b": "torch",
    r"\boptim\b|\.compile\(": "torch._dynamo",  # the first optimizer step imports it
    r"\bmatplotlib\b": "matplotlib.pyplot",
    r"\bpandas\b": "pandas",
}
FIGURES = {"png", "retina", "svg", "jpeg"}  # forms of a picture, as IPython names them


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
    tasks: list[Task],
    home: Settings,
    engine: str,
    jobs: int,
    device: str,
    data: str,
    figures: frozenset[str] | None = None,
    more: Mapping[str, str] | None = None,
) -> Engine:
    """Start an engine whose notebooks share the cores and import from the project's root.

    `more`: what else they find in their environment.
    """
    paths = dict.fromkeys([str(home.root), str(home.lib.parent)])
    paths |= dict.fromkeys(filter(None, [os.environ.get("PYTHONPATH")]))
    share = str(max(1, min(cores() // jobs, whole(os.environ.get("OMP_NUM_THREADS")))))
    env = dict(more or {})
    env |= {f"{library}_NUM_THREADS": share for library in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    env |= {
        "EXP_DATA": data,
        "EXP_DEVICE": device,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0"),  # sets print in the same order
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # to ask for a device must not start CUDA
        # large pages where the system has them: training on pictures takes a tenth less time
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
    }
    engine = engine or ("fork" if sys.platform == "linux" else "kernel")
    if engine == "kernel":
        return KernelEngine(env, figures)
    if engine != "fork" or not hasattr(os, "fork"):
        raise ToolError(f"--engine is fork (not on Windows) or kernel, not {engine}")
    texts = [step.source for task in tasks for step in task.steps if not step.skip]
    with contextlib.suppress(OSError):
        texts += [path.read_text("utf-8", "replace") for path in home.lib.glob("**/*.py")]
    said = "\n".join(texts)
    modules = [module for word, module in WARM.items() if re.search(word, said)]
    return ForkEngine(env, modules, figures)


def whole(text: str | None, otherwise: int = 1024) -> int:
    return int(text) if text and text.isdecimal() else otherwise


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def leave_out_unexported(results: Results) -> None:
    """Drop the notebooks that export nothing, and say so, if there are others."""
    kept = [r for r in results if r.outcomes or any(c.exported for c in r.notebook.cells)]
    if kept and (others := len(results.results) - len(kept)):
        what = f"left out: {others} of {len(results.results)}, which export nothing"
        results.notes.append(f"{what}, and so run the same without --exported")
        results.results = kept


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
    experiments: bool = False,
    save: bool = False,
    html: str = "",
    junit: str = "",
    fail_fast: bool = False,
    engine: str = "",
    nbs: str = "",
    all: bool = False,
    watch: bool = False,
    params: str | dict = "",
    shard: str = "",
    drift: float | None = None,
    coverage: str = "",
) -> Results:
    """Run notebooks as tests, each from top to bottom in a process of its own.

    A notebook passes only if each of its cells, but for those marked to be skipped, ran to its end
    and nothing failed on the way: no thread, task, magic or command either. On built-in data what
    passed is remembered, and runs again when something changed that can affect it; notebooks that
    are named run in any case, and so do all with --save, --html, --junit or --coverage.

    Args:
        notebooks: files; none means all of the folder nbs.
        jobs: how many run at a time; 0 means as many as there are cores, which they share.
        device: cpu, cuda or auto; by default what EXP_DEVICE says, or cpu.
        data: sample or full; by default what EXP_DATA says, or settings.ini.
        timeout: seconds for a notebook, 0 for no limit; by default what settings.ini says.
        cell_timeout: the same for a cell.
        slow: run the cells marked #slow, too.
        exported: import from the exported module what exported cells would define; cells marked
            #experiment, those that read what these bind, and notebooks that export nothing are
            left to the run without this.
        experiments: with --exported, run all of these, too.
        save: write the outputs back into the notebooks that passed.
        html: write the book into this folder, for example build/book.
        junit: write JUnit XML into this file, for example build/junit.xml.
        fail_fast: start no further notebook after a failure.
        engine: fork (Linux) or kernel.
        nbs: the folder of the notebooks; by default what settings.ini says.
        all: run what passed and did not change, too.
        watch: stay, and after each save export the notebooks and run what it affects.
        params: n=3,name='x'; new values for what the cell tagged `parameters` binds.
        drift: fail where the printed output differs from the saved one, numbers by more than
            this share, for example 0.05; a cell tagged `drifts` may.
        coverage: name the lines of exported cells that nothing runs, and write coverage.py's data
            and reports into this folder, for example build/coverage; implies --exported.
        shard: 2/5 runs the second of five parts, which take about as long as each other.
    """
    home = settings()
    given_data = data or os.environ.get("EXP_DATA")
    wanted = home.values.get("data")  # in another project this may be a folder
    data = given_data or (wanted if wanted in ("sample", "full") else "sample")
    if data not in ("sample", "full"):
        raise ToolError(f"--data is sample or full, not {data}")
    if engine not in ("", "fork", "kernel"):
        raise ToolError(f"--engine is fork (not on Windows) or kernel, not {engine}")
    exported = exported or bool(coverage)
    if save and exported:
        raise ToolError("--save keeps what the notebook's own cells show: leave out "
                        + ("--coverage" if coverage else "--exported"))  # fmt: skip
    device = pick_device(device or os.environ.get("EXP_DEVICE") or "cpu")
    given = {"timeout": timeout, "cell_timeout": cell_timeout}
    limits = {name: seconds(name, value, home) for name, value in given.items()}
    jobs = number("--jobs is how many notebooks run at a time, 0 or more", jobs, int)

    timings = Timings(home, data, device, *["exported"] * exported)
    folder = Path(nbs) if nbs else home.nbs
    brief = exported and not (experiments or coverage)
    options = {"package": home.lib.name, "device": device, "slow": slow, "exported": exported}
    options |= {"brief": brief, "params": read_params(params)}
    part = read_shard(shard)
    if drift is not None:
        drift = number("--drift is the share by which numbers may differ, as in 0.05", drift, float)
    options["flags"] = frozenset(re.findall(r"\w+", home.values.get("tst_flags", "")))

    def prepare() -> Results:
        paths, left_out = chosen(notebooks, folder)
        paths = timings.shard(paths, *part) if part else paths
        paths = timings.slowest_first(paths)
        results = Results([planned(path, **options, **limits) for path in paths])
        if brief:
            leave_out_unexported(results)
        for path in left_out:
            why = "begins with _" if path.name.startswith("_") else "has no number"
            advice = f"its name {why}; pass it by name to run it"
            results.notes.append(f"left out: {show(path)} ({advice})")
        return results

    kept = save or html  # nobody looks at the pictures of a test
    figures = frozenset(re.findall(r"\w+", home.values.get("figures", "") if kept else ""))
    if wrong := figures - FIGURES:
        raise ToolError(f"figures in the project's settings: no form {', '.join(sorted(wrong))}; "
                        f"write some of {', '.join(sorted(FIGURES))}")  # fmt: skip

    # with --exported none are made: that they can be is shown by the notebooks' own cells
    made = figures if figures or (exported and not kept) else None

    def start_for(tasks: list[Task], jobs: int) -> Engine:
        more = measure(Path(coverage), home) if coverage else {}
        return start(tasks, home, engine, jobs, device, data, made, more)

    memory = Memory(home, timings.file, data, device, exported, brief, engine)
    if watch:
        if save or html or junit or coverage:
            raise ToolError("--watch shows what happens: leave out --save, --html, --junit and "
                            "--coverage")  # fmt: skip
        return follow([folder, home.lib], prepare, start_for, jobs or cores(), memory)
    results = prepare()
    keys = memory.keys(results) if data == "sample" and not options["params"] else {}
    if keys and not (all or notebooks or save or html or junit or coverage or drift is not None):
        memory.recall(results, keys)
        if recalled := sum(result.remembered for result in results):
            results.notes.append(f"{recalled} unchanged since they passed; --all runs them, too")
    tasks = [result.task for result in results if result.status == "not run"]
    jobs = max(1, min(jobs or cores(), len(tasks)))
    if tasks:
        with start_for(tasks, jobs) as running, stop_on_signal(running):
            if running.unseen:
                what = f"on this system the kernel engine cannot see {running.unseen}"
                results.notes.append(what)
            report(results, outcomes(tasks, running, jobs, fail_fast))
        if not part and not coverage:  # or the next part would be cut otherwise
            timings.keep(results)
        if keys:
            memory.keep(results, keys)
    results.sort()
    if drift is not None:
        for result in results:
            results.problems += drifted(result, drift)
    if coverage and tasks:
        results.notes += uncovered(results, Path(coverage), home)
    if save:
        save_outputs(results)
    for option, target, write_report in (("junit", junit, write_junit), ("html", html, write_html)):
        if target:
            try:
                write_report(results, target)
            except Exception as error:  # whatever it is, the failures of the run matter more
                what = str(error) or type(error).__name__
                results.problems.append(f"--{option} {target} could not be written: {what}")
    return results


def read_params(params: str | dict) -> dict[str, object]:
    """`n=3,name='x'`, or a dict, as the values of names. Raises: ToolError if it is neither."""
    if isinstance(params, dict):
        return params
    try:
        call = ast.parse(f"dict({params})", mode="eval").body
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("a value without a name")
        return {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError, TypeError):
        raise ToolError(f"--params is like n=3,name='x'; got {params!r}") from None


def number(rule: str, value: object, kind: type) -> float:
    """A number that an option got. Raises: ToolError, which quotes the rule."""
    try:
        if not isinstance(value, bool) and kind(value) >= 0 and kind(value) == float(value):
            return kind(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ToolError(f"{rule}; got {value!r}")


def seconds(name: str, value: float | None, home: Settings) -> float:
    """The limit of this name, from the option or the settings; 0 is none."""
    rule = f"--{name} is a number of seconds, 0 for no limit"
    if value is None:
        value = home.values.get(name, 0)
        rule = f"{name} in the project's settings is a number of seconds, 0 for no limit"
    limit = number(rule, value, float)
    return 0.0 if math.isinf(limit) else limit


PLAIN = str.maketrans({"─": "-", "…": "...", "·": "|", "×": "x", "→": "->", "–": "-", "≥": ">="})


def look_alike(error: UnicodeError) -> tuple[str, int]:
    """For a terminal that lacks a character: one that looks like it, or its code."""
    text = error.object[error.start : error.end].translate(PLAIN)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


@functools.wraps(run_notebook)
def command(*notebooks, **options) -> None:
    codecs.register_error("look_alike", look_alike)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="look_alike")
    results = run_notebook(*notebooks, **options)
    told = say(results)
    for line in annotations(results):
        say(line)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    if not told:  # a full disk or a closed pipe, of which Python would complain once more
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(not (results.ok and told))


def main() -> None:
    """The entry point of the installed command `run_notebook`."""
    cli(command)


if __name__ == "__main__":
    main()
