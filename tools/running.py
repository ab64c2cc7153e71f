"""From tasks to outcomes: notebooks run side by side, and what becomes of them is collected."""

from __future__ import annotations

import collections
import contextlib
import queue
import signal
import threading
from collections.abc import Iterator

from engines import Engine
from outcomes import Failure, Outcome, Task
from reports import Results


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


def report(results: Results, stream: Iterator[Outcome]) -> None:
    """Collect the outcomes of a run, with a line for each notebook as it ends."""
    for outcome in stream:
        result = results.add(outcome)
        if outcome.number == 0:
            say(results.progress(result))


def say(text: object) -> bool:
    """Print, if there is still something to print to; returns whether there was."""
    try:
        print(text, flush=True)
        return True
    except (OSError, ValueError, AttributeError):
        return False
