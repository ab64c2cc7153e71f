"""Stay and watch: after each save the notebooks are exported, and what the save affects runs.

The engine stays warm between saves, so that a small notebook's verdict is there in a blink. What is
wrong in the middle of an edit (a syntax error, a notebook half written or gone) is said, and the
next save is awaited.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from engines import Engine
from memory import Memory
from notebook2script import notebook2script
from notebooks import ToolError
from outcomes import Task
from reports import Result, Results, failures
from running import outcomes, report, say, stop_on_signal


def follow(
    folders: list[Path],
    prepare: Callable[[], Results],
    start: Callable[[list[Task], int], Engine],
    jobs: int,
    memory: Memory,
) -> Results:
    """Run what each save affects, from one warm start, until Ctrl-C; return the last results.

    `prepare` reads the notebooks anew, `start` starts the engine that serves them all.
    """
    results = prepare()
    ran: dict[str, str] = {}  # the key with which each notebook ran last
    latest: dict[str, Result] = {}
    whole = True  # whether all could be read and exported at the last save
    with start([result.task for result in results], jobs) as engine, stop_on_signal(engine):
        for saved in saves(folders, engine):
            began, was_whole = time.perf_counter(), whole
            try:
                whole = export()
                results = prepare()
            except ToolError as error:
                say(error)
                whole = False
                continue
            keys = memory.keys(results)
            if not ran:
                memory.recall(results, keys)
            affected = [r for r in results if not r.remembered and ran.get(r.name) != keys[r.name]]
            ran = keys
            tasks = [result.task for result in affected if result.status == "not run"]
            tasks.sort(key=lambda task: Path(task.path) not in saved)  # what is edited comes first
            report(results, outcomes(tasks, engine, jobs, fail_fast=False))
            memory.keep(results, keys)
            latest |= {r.name: r for r in results if r.status != "not run"}
            results.results = [latest.get(r.name, r) for r in results]
            if affected or whole > was_whole:  # also when a complaint is answered by going back
                say(verdict(results, affected, time.perf_counter() - began))
            if engine.stopped:
                break
    return results


def saves(folders: list[Path], engine: Engine) -> Iterator[set[Path]]:
    """Yield at once, and then after each change of a notebook or a module, until the engine stops.

    Each time it is the files that changed.

    Raises: ToolError without watchfiles.
    """
    try:
        from watchfiles import watch
    except ImportError:
        raise ToolError("--watch needs watchfiles: pip install 'ground-up[tools]'") from None
    changes = watch(
        *{folder for folder in folders if folder.is_dir()},
        watch_filter=lambda _, path: is_source(Path(path)),
        debounce=100, step=10, rust_timeout=200, yield_on_timeout=True,
        raise_interrupt=False,
    )  # fmt: skip
    next(changes, None)  # from here it watches: a save during the first run is not lost
    say("watching; Ctrl-C ends it")
    yield set()
    for change in changes:
        if engine.stopped:
            return
        if change:
            yield {Path(path).resolve() for _, path in change}


def is_source(path: Path) -> bool:
    """Whether it is a file that notebooks depend on, and no editor's temporary one."""
    hidden = any(part.startswith((".", "~")) or part == "__pycache__" for part in path.parts[-3:])
    return path.suffix in (".ipynb", ".py", ".json", ".csv", ".txt", ".ini") and not hidden


def export() -> bool:
    """Export the notebooks, and return whether that went well; what went wrong is said."""
    told, well = io.StringIO(), True
    try:
        with contextlib.redirect_stdout(told):
            notebook2script()
    except ToolError as error:
        say(f"not exported: {error}")
        well = False
    said = told.getvalue().strip()
    if said and not said.startswith("nothing to export"):
        say(said)
    return well


def verdict(results: Results, affected: list[Result], seconds: float) -> str:
    """The failures, and a line that counts what ran."""
    told = failures(affected)
    bad = sum(result.status == "failed" for result in affected)
    line = f"{datetime.now():%H:%M:%S} {len(affected)} ran in {seconds:.1f} s, {bad} failed; "
    line += f"{len(results.results) - len(affected)} not affected"
    return "\n".join([*told, results.paint(line, "failed" if bad else "passed")])
