"""Everyday callbacks: progress, devices, guards

In the end you can watch a training while it runs, in a notebook, on a terminal or in a log file, run it on a GPU by one word, keep its gradients in bounds, take large steps with little memory, and have it stop by itself.
"""

# cell ae6c2ed0 a6284e · Imports
from __future__ import annotations

# generated from nbs/04b_everyday_callbacks.ipynb: do not edit
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
    "is_first_process",
    "ProgressCallback",
    "DISPLAYS",
    "default_device",
    "to_device",
    "DeviceCallback",
    "clip_gradients",
    "GradientClip",
    "GradientAccumulation",
    "StopOnNaN",
    "Monitor",
    "EarlyStopping",
    "CSVLogger",
]

# cell ae6c2ed0 4744ee · Imports
import csv
import io
import os
import sys
import time
import warnings
from base64 import b64encode
from collections.abc import Iterable, Mapping
from math import inf
from pathlib import Path
from shutil import get_terminal_size
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb04 import Callback, CancelFit, CancelStep, Learner, MetricsCallback, Recorder


# cell dfbe345f 3cbaf5 · Curves
def thin(values: Tensor, n: int = 1000) -> tuple[Tensor, Tensor]:
    """Average a long curve in equal pieces, so that about `n` points are left to draw.

    Shape: values (T,) -> places (≤ n,) and means (≤ n,).
    """
    width = max(1, -(-len(values) // n))
    whole = len(values) // width * width
    means = values[:whole].reshape(-1, width).mean(1)
    return torch.arange(len(means)) * width + (width - 1) / 2, means


# cell 37aa906f 366c3c · Curves
def plot_losses(recorder: Recorder, ax: Any = None, smooth: int = 20) -> Any:
    """Draw the loss of each training batch, its running mean, and the loss of each validation."""
    ax = ax or _axes()
    losses = torch.tensor(recorder.losses)
    ax.plot(*thin(losses), color="C0", alpha=0.35, lw=0.8)
    if len(losses) > smooth:
        sums = torch.cat([torch.zeros(1), losses.double().cumsum(0)])
        places, means = thin((sums[smooth:] - sums[:-smooth]) / smooth)
        ax.plot(places + smooth - 1, means, color="C0", label=f"training, mean of {smooth} batches")
    pairs = zip(recorder.epoch_ends, recorder.epochs, strict=True)
    valid = [(end, results["valid_loss"]) for end, results in pairs if "valid_loss" in results]
    if valid:
        ax.plot(*zip(*valid, strict=True), "C1o-", ms=4, label="validation, each epoch")
    ax.set(title="Loss", xlabel="batch", ylabel="loss")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8)
    return ax


# cell 68bfc6e4 9230c9 · Curves
def plot_metrics(recorder: Recorder, *names: str, ax: Any = None) -> Any:
    """Draw metrics after each epoch, training dashed; without names, all of them but the loss.

    Raises: ValueError for a name that is no metric.
    """
    keys = list(dict.fromkeys(key for results in recorder.epochs for key in results))
    known = list(dict.fromkeys(key.split("_", 1)[1] for key in keys))
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


# cell 0999927b d08fb9 · Curves
def plot_rates(recorder: Recorder, axes: Any = None) -> Any:
    """Draw the learning rate of each parameter group, and the momentum, at each training batch."""
    left, right = _axes(2) if axes is None else axes
    left.plot(recorder.lrs)
    left.set(title="Learning rate", xlabel="batch", ylabel="lr")
    right.plot(recorder.momenta)
    right.set(title="Momentum", xlabel="batch", ylabel="momentum or first beta")
    return left, right


# cell fdaeb9c6 6d185e · Curves
def _axes(columns: int = 1) -> Any:
    import matplotlib.pyplot as plt

    figsize = (5.5, 3) if columns == 1 else (8, 2.8)
    return plt.subplots(1, columns, figsize=figsize, layout="constrained")[1]


# cell 5f488918 735209 · Progress
def where_output_goes() -> str:
    """Tell whether output is shown in a "notebook", on a "terminal", or written as "lines"."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__):
        return "notebook"
    return "terminal" if sys.stderr is not None and sys.stderr.isatty() else "lines"


# cell fcc8dcdc fbfcc7 · Progress
def _cell(name: str, value: Any) -> str:
    if isinstance(value, int):
        return str(value)
    digits = ".1f" if name == "seconds" else ".4f" if abs(value) < 1e4 else ".3e"
    return format(value, digits)


# cell 9d8712fb 57b026 · Progress
def format_table(rows: list[Mapping[str, Any]]) -> str:
    """Write the results of several epochs as a table, "" for none."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = [names] + [[_cell(n, row[n]) if n in row else "" for n in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = [[t.rjust(w) for t, w in zip(row, widths, strict=True)] for row in texts]
    return "\n".join(map("  ".join, lines)) if rows else ""


# cell 844dcf44 9dce39 · Progress
def format_line(row: Mapping[str, Any], n_epochs: int) -> str:
    """Write the results of one epoch as a line that needs no heading."""
    rest = {name: value for name, value in row.items() if name not in ("epoch", "seconds")}
    parts = [f"{name} {_cell(name, value)}" for name, value in rest.items()]
    return ", ".join([f"epoch {row['epoch']}/{n_epochs}", *parts, f"{row['seconds']:.1f} s"])


# cell 5baedd51 5d43eb · Progress
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


# cell dc48291f c74db8 · Progress
class LinesDisplay(Display):
    """Writes one line an epoch and nothing else, as for a log file."""

    def results(self, rows: list[dict[str, Any]], n_epochs: int) -> None:
        print(format_line(rows[-1], n_epochs), flush=True)


# cell 25619157 b7cde2 · Progress
def _make_bar(total: int | None, text: str, file: Any) -> Any:
    """Start a tqdm bar that draws itself only when it is told to."""
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread of its own

    size = get_terminal_size()  # 80 × 24 where a terminal does not say
    return Bar(total=total, desc=text, file=file, leave=False, mininterval=inf, unit="batch",
               ncols=size.columns - 1 if file is sys.stderr else 80, nrows=size.lines)


# cell ed917d1f 4ddde5 · Progress
class TerminalDisplay(LinesDisplay):
    """Writes one line an epoch, and below them a bar that overwrites itself."""

    is_live = True

    def __init__(self, file: Any = None):
        self._bar, self._title, self._file = None, "", file

    def look(self, title: str, done: int, total: int | None, loss: float) -> None:
        if self._bar is None or self._title != title:
            self.close()
            self._bar, self._title = _make_bar(total, title, self._file or sys.stderr), title
        self._bar.n = done
        self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=True)

    def results(self, rows: list[dict[str, Any]], n_epochs: int) -> None:
        self.close()
        super().results(rows, n_epochs)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


# cell fad2280e b613bf · Progress
class NotebookDisplay(TerminalDisplay):
    """Shows a table with the bar below, and a picture, and replaces both by what is new."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())  # the bar writes there, and we show its text
        self._table, self._shown = "", {}

    def look(self, title: str, done: int, total: int | None, loss: float) -> None:
        super().look(title, done, total, loss)
        self._show({"text/plain": f"{self._table}\n{self._bar}".lstrip()})

    def results(self, rows: list[dict[str, Any]], n_epochs: int) -> None:
        self.close()
        self._table = format_table(rows)
        self._show({"text/plain": self._table})

    def picture(self, recorder: Recorder) -> None:
        from matplotlib.figure import Figure  # not pyplot, which would show the figure once more

        figure, file = Figure(figsize=(5.5, 2.8), layout="constrained"), io.BytesIO()
        plot_losses(recorder, figure.subplots())
        figure.savefig(file, format="png", dpi=80)
        picture = b64encode(file.getvalue()).decode()
        self._show({"image/png": picture, "text/plain": "<curve of the loss>"})

    def _show(self, bundle: dict[str, str]) -> None:
        from IPython.display import display

        kind = min(bundle)  # "image/png" or "text/plain"
        if kind in self._shown:
            self._shown[kind].update(bundle, raw=True)
        else:
            self._shown[kind] = display(bundle, raw=True, display_id=True)


# cell a2639b0c 463feb · Progress
def is_first_process() -> bool:
    """Tell whether this process may write: of several that train together, only the first may."""
    return int(os.environ.get("RANK", "0")) == 0  # set by torchrun


# cell 919dfc0a aceada · Progress
class ProgressCallback(Callback):
    """Show how the training goes: a bar with the loss so far, and the results of each epoch.

    In a notebook with a live plot of the loss; on a terminal one clean line; else, as in a log
    file, only a line an epoch. `style` is one of "notebook", "terminal", "lines", or found out.
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
        style = self.style or where_output_goes()
        self._display = DISPLAYS[style]() if is_first_process() else Display()
        self._rows, self._next_look, self._next_plot = [], 0.0, 0.0

    def before_epoch(self, learn: Learner) -> None:
        self._start = time.perf_counter()

    def after_batch(self, learn: Learner) -> None:
        if not self._display.is_live or (now := time.perf_counter()) < self._next_look:
            return
        phase = "train" if learn.training else "valid"
        title = f"epoch {learn.epoch + 1}/{learn.n_epochs} {phase}"
        loss = learn.callback(MetricsCallback).averages(phase)["loss"]
        self._display.look(title, learn.batch_index + 1, learn.n_batches, loss)
        if learn.training and now >= self._next_plot:
            self._draw(learn)
        self._next_look = now + self.every

    def after_epoch(self, learn: Learner) -> None:
        seconds, self._next_look = time.perf_counter() - self._start, 0.0
        self._rows.append({"epoch": learn.epoch + 1, **learn.results, "seconds": seconds})
        self._display.results(self._rows, learn.n_epochs)

    def cleanup_fit(self, learn: Learner) -> None:
        self._display.close()
        if self._rows:
            self._draw(learn)

    def _draw(self, learn: Learner) -> None:
        if self.plot and self._display.is_live:
            start = time.perf_counter()
            learn.recorder.read()
            self._display.picture(learn.recorder)
            took = time.perf_counter() - start
            self._next_plot = start + max(self.plot_every, 10 * took)  # a tenth of the time at most


# cell c4f30ece 9a0455 · Progress
DISPLAYS = {"notebook": NotebookDisplay, "terminal": TerminalDisplay, "lines": LinesDisplay}


# cell 02018ca4 7f6dd8 · Devices
def default_device() -> torch.device:
    """Give the device to train on: EXP_DEVICE if that is set, else a GPU if there is one.

    Raises: ValueError for another device than cpu or cuda; RuntimeError if there is no GPU.
    """
    wanted = os.environ.get("EXP_DEVICE", "")
    there = torch.cuda.is_available()
    if wanted not in ("", "cpu", "cuda"):
        raise ValueError(f"EXP_DEVICE must be cpu or cuda, got {wanted!r}")
    if wanted == "cuda" and not there:
        raise RuntimeError("EXP_DEVICE is cuda, but PyTorch finds no GPU; unset it or set it to "
                           "cpu, or install a PyTorch with CUDA, and a driver")
    return torch.device(wanted or ("cuda" if there else "cpu"))


# cell 9f603a74 4bee2b · Devices
def to_device(x: Any, device: torch.device | str) -> Any:
    """Move a tensor, or all tensors in lists, tuples and dicts; leave the rest as it is."""
    if isinstance(x, Tensor):
        return x.to(device, non_blocking=True)
    if isinstance(x, list | tuple):
        parts = [to_device(part, device) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else type(x)(parts)
    return {k: to_device(v, device) for k, v in x.items()} if isinstance(x, Mapping) else x


# cell 019cedcc 44a849 · Devices
class DeviceCallback(Callback):
    """Move the model before the fit, and each batch before it is used, to a device."""

    order = -100
    evaluates = True

    def __init__(self, device: torch.device | str | None = None):
        self.device = torch.device(device) if device is not None else default_device()

    def before_fit(self, learn: Learner) -> None:
        learn.model.to(self.device)
        if isinstance(learn.loss_func, nn.Module):
            learn.loss_func.to(self.device)  # the weights of its classes, if it has any
        if any(_is_elsewhere(state, p) for p, state in learn.opt.state.items()):
            learn.opt.load_state_dict(learn.opt.state_dict())  # moves the state to its parameters

    def before_batch(self, learn: Learner) -> None:
        learn.inputs = to_device(learn.inputs, self.device)
        learn.target = to_device(learn.target, self.device)


# cell b841e4ba 4c2c03 · Devices
def _is_elsewhere(state: Mapping[str, Any], p: Tensor) -> bool:
    """Whether a part of an optimizer's state of the size of its parameter is on another device."""
    return any(isinstance(t, Tensor) and t.shape == p.shape and t.device != p.device
               for t in state.values())


# cell fd8c1463 b84f9c · Gradients in bounds
def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """Scale all gradients together such that the norm of all of them is at most `max_norm`.

    Shape: -> (), the norm before.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = sum((g.square().sum() for g in gradients), start=torch.zeros(())).sqrt()
    for gradient in gradients:
        gradient.mul_((max_norm / (norm + 1e-6)).clamp(max=1))
    return norm


# cell 0dbbb27f bdce3d · Gradients in bounds
class GradientClip(Callback):
    """Limit the norm of all gradients together, and keep the last norm before that, in `norm`.

    Raises: ValueError unless max_norm is above 0.
    """

    order = 60

    def __init__(self, max_norm: float):
        if not max_norm > 0:
            raise ValueError(f"max_norm must be above 0, got {max_norm}")
        self.max_norm, self.norm = max_norm, None

    def after_backward(self, learn: Learner) -> None:
        self.norm = nn.utils.clip_grad_norm_(learn.model.parameters(), self.max_norm)

    def cleanup_fit(self, learn: Learner) -> None:
        self.norm = None


# cell 42eac033 2ab74c · Large batches in little memory
class GradientAccumulation(Callback):
    """Step once in `n_batches` batches, with the mean gradient of all their items.

    The last batch of an epoch steps with what there is, if the loader knows its length.
    Raises: ValueError unless n_batches is a whole number of at least 1.
    """

    order = 50  # before a callback that looks at the whole gradient

    def __init__(self, n_batches: int):
        if not isinstance(n_batches, int) or n_batches < 1:
            raise ValueError(f"n_batches must be a whole number of at least 1, got {n_batches!r}")
        self.n_batches, self.batches, self.items, self.unit = n_batches, 0, 0, 1

    def after_loss(self, learn: Learner) -> None:
        if not learn.training:
            return
        if all(p.grad is None for p in learn.model.parameters()):  # also after a cancelled batch
            self.batches, self.items, self.unit = 0, 0, learn.n_items
        self._loss = learn.loss
        learn.loss = learn.loss * (learn.n_items / self.unit)  # a batch weighs what it holds

    def after_backward(self, learn: Learner) -> None:
        learn.loss, self._loss = self._loss, None
        self.batches, self.items = self.batches + 1, self.items + learn.n_items
        is_last = learn.n_batches is not None and learn.batch_index == learn.n_batches - 1
        if self.batches < self.n_batches and not is_last:
            raise CancelStep
        for p in learn.model.parameters():
            if p.grad is not None:
                p.grad.mul_(self.unit / self.items)

    def cleanup_fit(self, learn: Learner) -> None:
        self._loss = None

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, "items": self.items, "unit": self.unit}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.batches, self.items, self.unit = state["batches"], state["items"], state["unit"]


# cell 9432d953 11d13f · Stopping by itself
class StopOnNaN(Callback):
    """End the fit with a warning, and before the step, when the loss is no longer a finite number.

    `every`: look only at every so manieth batch, since each look waits for a GPU.
    """

    def __init__(self, every: int = 1):
        if not isinstance(every, int) or every < 1:
            raise ValueError(f"every must be a whole number of at least 1, got {every!r}")
        self.every = every

    def after_loss(self, learn: Learner) -> None:
        looks = learn.training and learn.batch_index % self.every == 0
        if looks and not learn.loss.isfinite().all():
            lrs = [group["lr"] for group in learn.opt.param_groups]
            warnings.warn(f"stopped: the loss is {learn.loss.item()} in epoch {learn.epoch + 1}, "
                          f"batch {learn.batch_index + 1}, with lr {lrs}; try a tenth of it, or "
                          "GradientClip", RuntimeWarning, stacklevel=2)
            raise CancelFit


# cell 44eb4106 fe577a · Stopping by itself
class Monitor(Callback):
    """Watch one result of each epoch; the base of callbacks that act on the best one.

    `mode` says whether "min" or "max" is best; for a loss it need not be said.
    Raises: ValueError for an unknown mode, or none where it is needed.
    """

    order = 80

    def __init__(self, monitor: str = "valid_loss", mode: str | None = None,
                 min_delta: float = 0.0):
        if mode is None and not monitor.endswith("loss"):
            raise ValueError(f'say what is good for {monitor!r}: mode="max" or mode="min"')
        if mode not in (None, "min", "max") or min_delta < 0:
            raise ValueError(f'mode must be "min" or "max", min_delta 0 or more, got {mode!r} '
                             f"and {min_delta}")
        self.monitor, self.min_delta, self.sign = monitor, min_delta, -1 if mode == "max" else 1
        self.best, self.best_epoch = None, None

    def is_better(self, learn: Learner) -> bool:
        """Look at this epoch's result, and take it as the best so far if it is better.

        Raises: KeyError if there is no such result.
        """
        if self.monitor not in learn.results:
            raise KeyError(f"no result {self.monitor!r}; there are {list(learn.results)}")
        value = learn.results[self.monitor]
        limit = inf if self.best is None else self.sign * self.best - self.min_delta
        if self.sign * value < limit:  # never true for NaN
            self.best, self.best_epoch = value, learn.epoch + 1
            return True
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_epoch = state["best"], state["best_epoch"]


# cell 0606c469 ee97d2 · Stopping by itself
class EarlyStopping(Monitor):
    """End the fit when the monitored result has not been better for `patience` epochs."""

    def __init__(self, monitor: str = "valid_loss", patience: int = 3, mode: str | None = None,
                 min_delta: float = 0.0):
        super().__init__(monitor, mode, min_delta)
        if not isinstance(patience, int) or patience < 1:
            raise ValueError(f"patience must be a whole number of at least 1, got {patience!r}")
        self.patience, self.waited = patience, 0

    def before_fit(self, learn: Learner) -> None:
        self.best, self.best_epoch, self.waited = None, None, 0

    def after_epoch(self, learn: Learner) -> None:
        self.waited = 0 if self.is_better(learn) else self.waited + 1

    def before_epoch(self, learn: Learner) -> None:
        if self.waited >= self.patience:  # here, when everyone has dealt with the last epoch
            raise CancelFit

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.waited = state["waited"]


# cell f88bbe61 325ade · A log that survives
class CSVLogger(Callback):
    """Write the results of each epoch as a row of a CSV file, at once.

    A file that is there is replaced, or with `append` continued. A fit that resumes from a
    checkpoint takes back the rows that were written after it.
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
        row = {"epoch": learn.epoch + 1, **learn.results,
               "seconds": round(time.perf_counter() - self._start, 3)}
        if not is_first_process():
            return
        with open(self.path, "r+" if self.size else "w", newline="", encoding="utf-8") as file:
            file.seek(self.size)
            file.truncate()
            writer = csv.DictWriter(file, list(row))
            if not self.size:
                writer.writeheader()
            writer.writerow(row)
            self.size = file.tell()
        self._start = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        return {"size": self.size}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.size = state["size"] if self.path.exists() else 0
