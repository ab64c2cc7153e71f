"""Watching a training: curves, progress, a log

In the end you can watch a training while it runs, in a notebook, on a terminal or in a log file, draw what the record holds, and keep every epoch's results in a table that survives the process.
"""

# cell f84825e1 a6284e · Imports
from __future__ import annotations

# generated from nbs/04a_watching.ipynb: do not edit
__all__ = [
    "thin",
    "plot_losses",
    "plot_metrics",
    "plot_rates",
    "where_output_goes",
    "format_table",
    "format_line",
    "Display",
    "LinesDisplay",
    "TerminalDisplay",
    "NotebookDisplay",
    "Pace",
    "is_first_process",
    "DISPLAYS",
    "ProgressCallback",
    "CSVLogger",
]

# cell f84825e1 e43890 · Imports
import csv
import io
import os
import sys
import time
from base64 import b64encode
from collections.abc import Mapping
from math import inf
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

import torch
from torch import Tensor

from exp.nb04 import Callback, Learner, MetricsCallback, Recorder


# cell 497af95e 3cbaf5 · Curves
def thin(values: Tensor, n: int = 1000) -> tuple[Tensor, Tensor]:
    """Average a long curve in equal pieces, so that about `n` points are left to draw.

    Shape: values (T,) -> places (≤ n,) and means (≤ n,).
    """
    width = max(1, -(-len(values) // n))
    whole = len(values) // width * width
    means = values[:whole].reshape(-1, width).mean(1)
    return torch.arange(len(means)) * width + (width - 1) / 2, means


# cell cba4bc37 4b4303 · Curves
def plot_losses(recorder: Recorder, ax: Any = None, smooth: int = 20) -> Any:
    """Draw the loss of each training batch, its running mean, and the loss of each validation."""
    ax = ax or _axes()
    losses = torch.tensor(recorder.losses)
    ax.plot(*thin(losses), color="C0", alpha=0.35, lw=0.8)
    if len(losses) > smooth:
        sums = torch.cat([torch.zeros(1), losses.double().cumsum(0)])
        places, means = thin((sums[smooth:] - sums[:-smooth]) / smooth)
        ax.plot(places + smooth - 1, means, color="C0", label=f"training, mean of last {smooth}")
    pairs = zip(recorder.epoch_ends, recorder.epochs, strict=True)
    valid = [(end, results["valid_loss"]) for end, results in pairs if "valid_loss" in results]
    if valid:
        ax.plot(*zip(*valid, strict=True), "C1o-", ms=4, label="validation, each epoch")
    ax.set(title="Loss", xlabel="batch", ylabel="loss")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8)
    return ax


# cell 8f79f052 14e90d · Curves
def plot_metrics(recorder: Recorder, *names: str, ax: Any = None) -> Any:
    """Draw metrics after each epoch, training dashed; without names, all of them but the loss.

    Raises: ValueError for a name that is no metric.
    """
    keys = list(dict.fromkeys(key for results in recorder.epochs for key in results))
    measured = [key for key in keys if key.startswith(("train_", "valid_"))]
    known = list(dict.fromkeys(key.split("_", 1)[1] for key in measured))
    if wrong := sorted(set(names) - set(known)):
        raise ValueError(f"no metric {wrong}; there are {known}")
    chosen = list(names) or [name for name in known if name != "loss"]
    ax = ax or _axes()
    for phase, line in (("train", ".--"), ("valid", "o-")):
        for color, name in enumerate(chosen):
            if (key := f"{phase}_{name}") in keys:
                values = [results.get(key, float("nan")) for results in recorder.epochs]
                label = f"{name}, {'training' if phase == 'train' else 'validation'}"
                ax.plot(range(1, len(values) + 1), values, line, color=f"C{color}", label=label)
    ax.set(title="Metrics", xlabel="epoch", ylabel="mean over the items")
    ax.locator_params(axis="x", integer=True)
    ax.legend(fontsize=8)
    return ax


# cell 44106016 d08fb9 · Curves
def plot_rates(recorder: Recorder, axes: Any = None) -> Any:
    """Draw the learning rate of each parameter group, and the momentum, at each training batch."""
    left, right = _axes(2) if axes is None else axes
    left.plot(recorder.lrs)
    left.set(title="Learning rate", xlabel="batch", ylabel="lr")
    right.plot(recorder.momenta)
    right.set(title="Momentum", xlabel="batch", ylabel="momentum or first beta")
    return left, right


# cell 80030f0b 6d185e · Curves
def _axes(columns: int = 1) -> Any:
    import matplotlib.pyplot as plt

    figsize = (5.5, 3) if columns == 1 else (8, 2.8)
    return plt.subplots(1, columns, figsize=figsize, layout="constrained")[1]


# cell 1ece5d1a 735209 · Progress
def where_output_goes() -> str:
    """Tell whether output is shown in a "notebook", on a "terminal", or written as "lines"."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__):
        return "notebook"
    return "terminal" if sys.stderr is not None and sys.stderr.isatty() else "lines"


# cell a16abfcb 9d6c04 · Progress
def _cell(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    digits = ".1f" if name == "seconds" else ".4f" if abs(value) < 1e4 else ".3e"
    return format(value, digits)


# cell 85c4cefe 57b026 · Progress
def format_table(rows: list[Mapping[str, Any]]) -> str:
    """Write the results of several epochs as a table, "" for none."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = [names] + [[_cell(n, row[n]) if n in row else "" for n in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = [[t.rjust(w) for t, w in zip(row, widths, strict=True)] for row in texts]
    return "\n".join(map("  ".join, lines)) if rows else ""


# cell 845c8d21 9dce39 · Progress
def format_line(row: Mapping[str, Any], n_epochs: int) -> str:
    """Write the results of one epoch as a line that needs no heading."""
    rest = {name: value for name, value in row.items() if name not in ("epoch", "seconds")}
    parts = [f"{name} {_cell(name, value)}" for name, value in rest.items()]
    return ", ".join([f"epoch {row['epoch']}/{n_epochs}", *parts, f"{row['seconds']:.1f} s"])


# cell 883ebdfa 5d43eb · Progress
class Display:
    """Shows nothing: what the other displays have in common, and all of it in a second process."""

    is_live = False  # whether it shows more than the results of whole epochs

    def look(self, title: str, done: int, total: int | None, loss: float) -> None:
        """Show how far a phase is."""

    def results(self, rows: list[dict[str, Any]], n_epochs: int) -> None:
        """Show the results of all epochs so far, the last of which is new."""

    def picture(self, recorder: Recorder) -> None:
        """Show the curve of the loss."""

    def close(self) -> None:
        """Take away what is only of interest while it moves."""


# cell dc83fd7f c74db8 · Progress
class LinesDisplay(Display):
    """Writes one line an epoch and nothing else, as for a log file."""

    def results(self, rows: list[dict[str, Any]], n_epochs: int) -> None:
        print(format_line(rows[-1], n_epochs), flush=True)


# cell f2380a9a 8162e8 · Progress
def _make_bar(total: int | None, done: int, text: str, file: Any) -> Any:
    """Start a tqdm bar that draws itself only when it is told to; its clock begins at `done`."""
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread of its own

    size = get_terminal_size()  # 80 × 24 where a terminal does not say
    return Bar(total=total, initial=done, desc=text, file=file, leave=False, mininterval=inf,
               unit="batch", ncols=size.columns - 1 if file is sys.stderr else 80,
               nrows=size.lines)


# cell 3ab63ace 7ca5fa · Progress
class TerminalDisplay(LinesDisplay):
    """Writes one line an epoch, and below them a bar that overwrites itself."""

    is_live = True

    def __init__(self, file: Any = None):
        self._bar, self._title, self._file = None, "", file

    def look(self, title: str, done: int, total: int | None, loss: float) -> None:
        if self._bar is None or self._title != title:
            self.close()
            self._bar = _make_bar(total, done, title, self._file or sys.stderr)
            self._title = title
        self._bar.n = done
        self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=True)

    def results(self, rows: list[dict[str, Any]], n_epochs: int) -> None:
        self.close()
        super().results(rows, n_epochs)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


# cell 2a5bf207 ba6994 · Progress
class NotebookDisplay(TerminalDisplay):
    """Shows a table with the bar below, and a picture, and replaces both by what is new."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())  # the bar writes there, and we show its text
        self._table, self._shown = "", {}

    def look(self, title: str, done: int, total: int | None, loss: float) -> None:
        super().look(title, done, total, loss)
        self._show("table", {"text/plain": f"{self._table}\n{self._bar}".lstrip()})

    def results(self, rows: list[dict[str, Any]], n_epochs: int) -> None:
        self.close()
        self._table = format_table(rows)
        self._show("table", {"text/plain": self._table})

    def picture(self, recorder: Recorder) -> None:
        from matplotlib.figure import Figure  # not pyplot, which would show the figure once more

        figure, file = Figure(figsize=(5.5, 2.8), layout="constrained"), io.BytesIO()
        plot_losses(recorder, figure.subplots())
        figure.savefig(file, format="png", dpi=80)
        picture = b64encode(file.getvalue()).decode()
        self._show("picture", {"image/png": picture, "text/plain": "<curve of the loss>"})

    def _show(self, place: str, bundle: dict[str, str]) -> None:
        from IPython.display import display

        if place in self._shown:
            self._shown[place].update(bundle, raw=True)
        else:
            self._shown[place] = display(bundle, raw=True, display_id=True)


# cell 072203f5 31e415 · Progress
class Pace:
    """Says when it is time again: after so many seconds, and when it does not cost too much.

    `share`: at most this share of the time is spent in the `with`.
    """

    def __init__(self, seconds: float, share: float = 1.0):
        self.seconds, self.share, self._next = seconds, share, 0.0

    def is_due(self) -> bool:
        """Tell whether it is time again."""
        return time.perf_counter() >= self._next

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        took = time.perf_counter() - self._start
        self._next = self._start + max(self.seconds, took / self.share)


# cell 3170ddc0 463feb · Progress
def is_first_process() -> bool:
    """Tell whether this process may write: of several that train together, only the first may."""
    return int(os.environ.get("RANK", "0")) == 0  # set by torchrun


# cell 2233fd62 9a0455 · Progress
DISPLAYS = {"notebook": NotebookDisplay, "terminal": TerminalDisplay, "lines": LinesDisplay}


# cell 64dc0f7f 39dd92 · Progress
def _display(style: str | None) -> Display:
    return DISPLAYS[style or where_output_goes()]() if is_first_process() else Display()


# cell 2a783e1e 315789 · Progress
class ProgressCallback(Callback):
    """Show how the training goes: a bar with the loss so far, the results of each epoch, a plot.

    `style`: "notebook", "terminal", or "lines" (one an epoch, as in a log file); None finds out.
    Units: `every` and `plot_every`, seconds between two looks; each waits for a GPU.
    """

    order = 30
    requires = (Recorder,)

    def __init__(self, plot: bool = True, every: float = 0.2, plot_every: float = 1.0,
                 style: str | None = None):
        if style not in (None, *DISPLAYS):
            raise ValueError(f"style must be one of {list(DISPLAYS)}, got {style!r}")
        self.plot, self.every, self.plot_every, self.style = plot, every, plot_every, style

    def before_fit(self, learn: Learner) -> None:
        self._display = _display(self.style)
        self._rows, self._looks, self._plots = [], Pace(self.every), Pace(self.plot_every, 0.1)

    def before_epoch(self, learn: Learner) -> None:
        self._start = time.perf_counter()

    def after_batch(self, learn: Learner) -> None:
        if self._display.is_live and self._looks.is_due():
            with self._looks:
                self._display.look(*_how_far(learn))
            if self.plot and self._plots.is_due():
                _draw(self._display, learn.recorder, self._plots)

    def after_epoch(self, learn: Learner) -> None:
        seconds = time.perf_counter() - self._start
        self._rows.append({"epoch": learn.epoch + 1, **learn.results, "seconds": seconds})
        self._display.results(self._rows, learn.n_epochs)

    def cleanup_fit(self, learn: Learner) -> None:
        self._display.close()
        if self.plot and self._rows:
            _draw(self._display, learn.recorder, self._plots)


# cell 8fc69e95 01881e · Progress
def _draw(display: Display, recorder: Recorder, pace: Pace) -> None:
    with pace:
        recorder.read()
        display.picture(recorder)


# cell a0a5b6a1 72d38c · Progress
def _how_far(learn: Learner) -> tuple[str, int, int | None, float]:
    """Give a title, the batches done, those there are, and the mean loss so far."""
    phase = "train" if learn.training else "valid"
    loss = learn.callback(MetricsCallback).averages(phase)["loss"]
    title = f"epoch {learn.epoch + 1}/{learn.n_epochs} {phase}"
    return title, learn.batch_index + 1, learn.n_batches, loss


# cell 5ce33967 ab2acb · A log that survives
class CSVLogger(Callback):
    """Write the results of each epoch as a row of a CSV file, at once.

    A file that is there is replaced, or with `append` continued. A fit that resumes from a
    checkpoint takes back the rows that were written after it.
    Raises: ValueError for results that the heading of a continued file does not name.
    """

    order = 90

    def __init__(self, path: str | Path, append: bool = False):
        self.path, self.append, self.size = Path(path), append, 0

    def before_fit(self, learn: Learner) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        keep = self.append or self.size
        self.size = self.path.stat().st_size if keep and self.path.exists() else 0
        self._start = time.perf_counter()

    def after_epoch(self, learn: Learner) -> None:
        now = time.perf_counter()
        row = {"epoch": learn.epoch + 1, **learn.results, "seconds": round(now - self._start, 3)}
        self._start = now
        if is_first_process():
            self.size = _write_row(self.path, self.size, row)

    def state_dict(self) -> dict[str, Any]:
        return {"size": self.size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.size = state["size"] if self.path.exists() else 0


# cell fb0aa7e6 822e5c · A log that survives
def _write_row(path: Path, size: int, row: Mapping[str, Any]) -> int:
    """Write a row behind the first `size` bytes of a CSV file, and give its new size."""
    with open(path, "r+" if size else "w", newline="", encoding="utf-8") as file:
        names = next(csv.reader([file.readline()])) if size else list(row)
        if unknown := [name for name in row if name not in names]:
            raise ValueError(f"{path} has the columns {names}, and none for {unknown}; "
                             "write into another file")
        file.seek(size)
        file.truncate()
        writer = csv.DictWriter(file, names)
        if not size:
            writer.writeheader()
        writer.writerow(row)
        return file.tell()
