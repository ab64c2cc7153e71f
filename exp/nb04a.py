"""Watching a training: curves, and a log that survives

By the end you will be able to see at a glance from its curves how a training went, choose what it shows while it runs, and keep the results of every epoch in a file that survives a crash.
"""

# cell f84825e1 a6284e · Watching a training: curves, and a log that survives
from __future__ import annotations

# generated from nbs/04a_watching.ipynb: do not edit · 7442b7
__all__ = [
    "plot_metrics",
    "plot_rates",
    "CSVLogger",
]
__dir__ = __all__.copy  # what completion offers

# cell f84825e1 289e37 · Watching a training: curves, and a log that survives
import csv
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# re-exported: some were defined here once
from exp.nb03d import format_line, format_table, is_first_process  # noqa: F401
from exp.nb03f import Callback
from exp.nb03g import (  # noqa: F401
    Display,
    LinesDisplay,
    NotebookDisplay,
    ProgressCallback,
    Recorder,
    TerminalDisplay,
    new_axes,
    plot_losses,
    thin,
    where_output_goes,
)
from exp.nb03h import check_file_place
from exp.nb04 import Learner


# cell 8f79f052 6d8dd6 · Metrics, rates and momentum
def plot_metrics(recorder: Recorder, *names: str, ax: Any = None) -> Any:
    """Draw metrics after each epoch, training dashed; without names, all of them but the loss.

    Raises: ValueError for a name that is not a metric.
    """
    keys = list(dict.fromkeys(key for results in recorder.epochs for key in results))
    measured = [key for key in keys if key.startswith(("train_", "valid_"))
                and isinstance(recorder.epochs[-1].get(key, 0.0), int | float)]
    known = list(dict.fromkeys(key.split("_", 1)[1] for key in measured))
    names = [n for part in names for n in ([part] if isinstance(part, str) else part)]
    if wrong := sorted(set(names) - set(known)):
        raise ValueError(f"unknown metrics {wrong}; there are {known}")
    chosen = list(names) or [name for name in known if name != "loss"]
    ax = ax or new_axes()
    for phase, line in (("train", ".--"), ("valid", "o-")):
        for color, name in enumerate(chosen):
            if (key := f"{phase}_{name}") in keys:
                values = [results.get(key, float("nan")) for results in recorder.epochs]
                label = f"{name}, {'training' if phase == 'train' else 'validation'}"
                ax.plot(range(1, len(values) + 1), values, line, color=f"C{color}", label=label)
    ax.set(title="Metrics", xlabel="epoch", ylabel="metric")
    ax.locator_params(axis="x", integer=True)
    ax.legend(fontsize=8)
    return ax


# cell 44106016 a44eb6 · Metrics, rates and momentum
def plot_rates(recorder: Recorder, axes: Any = None) -> Any:
    """Draw the learning rate of each parameter group, and the momentum, at each training batch."""
    left, right = new_axes(2) if axes is None else axes
    left.plot(recorder.lrs)
    left.set(title="Learning rate", xlabel="batch", ylabel="lr")
    right.plot(recorder.momenta)
    right.set(title="Momentum", xlabel="batch", ylabel="momentum or first beta")
    return left, right


# cell 5ce33967 6a47c6 · A log that survives
class CSVLogger(Callback):
    """Write the results of each epoch as a row of a CSV file, at once.

    A file that exists is replaced, or continued with `append`. A fit that resumes from a checkpoint
    takes back the rows that were written after it. Only results that are numbers are written.
    Raises: ValueError for results that the heading of a continued file does not name.
    """

    order = 90
    only_watches = True

    def __init__(self, path: str | Path, append: bool = False):
        self.path, self.append, self.size = Path(path), append, 0

    def before_fit(self, learn: Learner) -> None:
        check_file_place(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        keep = self.append or self.size
        self.size = self.path.stat().st_size if keep and self.path.exists() else 0
        self._start = time.perf_counter()

    def after_epoch(self, learn: Learner) -> None:
        now = time.perf_counter()
        numbers = {k: v for k, v in learn.results.items() if isinstance(v, int | float | str)}
        epoch, seconds = len(learn.recorder.epochs), round(now - self._start, 3)
        row = {"epoch": epoch, **numbers, "seconds": seconds}
        self._start = now
        if is_first_process():
            self.size = _write_row(self.path, self.size, row)

    def state_dict(self) -> dict[str, Any]:
        return {"size": self.size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.size = state["size"] if self.path.exists() else 0


# cell fb0aa7e6 b387c6 · A log that survives
def _write_row(path: Path, size: int, row: Mapping[str, Any]) -> int:
    """Write a row after the first `size` bytes of a CSV file, and return its new size."""
    with open(path, "r+" if size else "w", newline="", encoding="utf-8") as file:
        names = next(csv.reader([file.readline()])) if size else list(row)
        if unknown := [name for name in row if name not in names]:
            raise ValueError(f"{path} has the columns {names}, and none for {unknown}; "
                             "write to another file")
        file.seek(size)
        file.truncate()
        writer = csv.DictWriter(file, names)
        if not size:
            writer.writeheader()
        writer.writerow(row)
        return file.tell()
