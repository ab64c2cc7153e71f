"""Progress: a training that shows itself

By the end you will have a training that reports without being asked: one line per epoch in a log, a bar in a terminal, a table with its curve in a notebook. And you will have a summary of any model, layer by layer.
"""

# cell c7a470e0 a6284e · Progress: a training that shows itself
from __future__ import annotations

# generated from nbs/03g_progress.ipynb: do not edit · 12c627
__all__ = [
    "Recorder",
    "thin",
    "plot_losses",
    "new_axes",
    "STYLES",
    "where_output_goes",
    "Display",
    "LinesDisplay",
    "TerminalDisplay",
    "NotebookDisplay",
    "ProgressCallback",
    "ModelSummary",
    "summarize",
]
__dir__ = __all__.copy  # what completion offers

# cell c7a470e0 54e29a · Progress: a training that shows itself
import html
import io
import os
import sys
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from math import inf
from shutil import get_terminal_size
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03d import (
    Column,
    evaluating,
    format_html,
    format_line,
    format_table,
    is_first_process,
    map_tensors,
    random_kept,
)
from exp.nb03f import Callback, MetricsCallback


# cell 51d2b080 2d0987 · A record
class Recorder(Callback):
    """Record the loss and rates of each training batch and the results of each epoch.

    `losses`, `lrs` (of each parameter group), `momenta`: one entry per training batch. `epochs`
    (dicts of results), `seconds`, `epoch_ends` (batches so far): one entry per epoch.
    """

    order = 20
    requires = (MetricsCallback,)
    only_watches = True

    def __init__(self) -> None:
        self.losses, self.lrs, self.momenta = [], [], []
        self.epochs, self.seconds, self.epoch_ends = [], [], []
        self._unread = Column()

    def __repr__(self) -> str:
        return format_table(self.rows()) or "Recorder: no epoch is complete yet"

    def _repr_html_(self) -> str:
        return format_html(self.rows()) or repr(self)

    def rows(self) -> list[dict[str, Any]]:
        """Return the table: for each epoch its number, its results and its seconds."""
        pairs = zip(self.epochs, self.seconds, strict=True)
        return [{"epoch": i, **results, "seconds": s} for i, (results, s) in enumerate(pairs, 1)]

    def before_epoch(self, learn: Any) -> None:
        self._start = time.perf_counter()

    def after_batch(self, learn: Any) -> None:
        if learn.training:
            self.lrs.append([group["lr"] for group in learn.opt.param_groups])
            self.momenta.append(_momentum(learn.opt.param_groups[0]))
            self._unread.append(learn.loss)

    def after_epoch(self, learn: Any) -> None:
        self.read()
        self.epochs.append(dict(learn.results))
        self.seconds.append(time.perf_counter() - self._start)
        self.epoch_ends.append(len(self.losses))

    def cleanup_fit(self, learn: Any) -> None:
        self.read()

    def read(self) -> None:
        """Read the losses that still wait as tensors; this waits for a GPU."""
        self.losses += self._unread.read().tolist()
        self._unread = Column()

    def state_dict(self) -> dict[str, Any]:
        self.read()
        kept = {name: getattr(self, name) for name in ("epochs", "seconds", "epoch_ends")}
        series = {name: _series(getattr(self, name)) for name in ("losses", "lrs", "momenta")}
        return {**kept, **series}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._unread = Column()
        lists = {k: v.tolist() if isinstance(v, Tensor) else list(v) for k, v in state.items()}
        vars(self).update(lists)


def _series(values: list[Any]) -> Tensor | list[Any]:
    """Make a long list a tensor, which is quicker to write; not if its rows differ in length."""
    try:
        return torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError):
        return list(values)


def _momentum(group: Mapping[str, Any]) -> float:
    return group["betas"][0] if "betas" in group else group.get("momentum", 0.0)


# cell 497af95e 3cbaf5 · A curve
def thin(values: Tensor, n: int = 1000) -> tuple[Tensor, Tensor]:
    """Average a long curve in equal pieces, so that about `n` points are left to draw.

    Shape: values (T,) -> places (≤ n,) and means (≤ n,).
    """
    width = max(1, -(-len(values) // n))
    whole = len(values) // width * width
    means = values[:whole].reshape(-1, width).mean(1)
    return torch.arange(len(means)) * width + (width - 1) / 2, means


# cell cba4bc37 e4d261 · A curve
def plot_losses(recorder: Recorder, ax: Any = None, smooth: int = 20) -> Any:
    """Draw the loss of each training batch, its running mean, and the loss of each validation."""
    recorder = getattr(recorder, "recorder", recorder)  # a Learner has one
    ax = ax or new_axes()
    losses = torch.tensor(recorder.losses)
    ax.plot(*thin(losses), color="C0", alpha=0.35, lw=0.8)
    if len(losses) > smooth:
        sums = torch.cat([torch.zeros(1), losses.double().cumsum(0)])
        places, means = thin((sums[smooth:] - sums[:-smooth]) / smooth)
        middle = places + (smooth - 1) / 2  # of the batches that the mean is taken over
        ax.plot(middle, means, color="C0", label=f"training, mean of {smooth}")
    pairs = zip(recorder.epoch_ends, recorder.epochs, strict=True)
    valid = [(end, results["valid_loss"]) for end, results in pairs if "valid_loss" in results]
    if valid:
        ax.plot(*zip(*valid, strict=True), "C1o-", ms=4, label="validation, each epoch")
    ax.set(title="Loss", xlabel="batch", ylabel="loss")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=8)
    return ax


# cell 80030f0b 731c9f · A curve
def new_axes(columns: int = 1) -> Any:
    """Return new axes of the size that suits a curve: one pair, or an array of `columns`."""
    import matplotlib.pyplot as plt

    size = (5.5, 3) if columns == 1 else (8, 2.8)
    return plt.subplots(1, columns, figsize=size, layout="constrained")[1]


# cell 1ece5d1a 7c14f3 · Where does the output go?
STYLES = "notebook", "terminal", "lines"


def where_output_goes() -> str:
    """Return "notebook", "terminal" or "lines" (a file, a pipe), or "silent" if so told.

    Raises: ValueError for an unknown EXP_PROGRESS.
    """
    wanted = os.environ.get("EXP_PROGRESS", "")
    if wanted not in ("", "0", "1", *STYLES):
        raise ValueError(f"EXP_PROGRESS must be 0 or one of {list(STYLES)}, got {wanted!r}")
    if wanted not in ("", "1"):
        return wanted if wanted in STYLES else "silent"
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if any(kind.__name__ == "ZMQInteractiveShell" for kind in type(shell).__mro__):
        return "notebook"
    return "terminal" if sys.stderr is not None and sys.stderr.isatty() else "lines"


# cell 883ebdfa d65836 · Where does the output go?
class Display:
    """Shows nothing; the base of the other displays."""

    is_live = False  # whether it shows more than the results of whole epochs

    def look(self, title: str, done: int, total: int | None, loss: float) -> None:
        """Show how far a phase is."""

    def results(self, rows: Sequence[Mapping[str, Any]], n_epochs: int | None) -> None:
        """Show the results of the epochs so far, the last of which is new."""

    def picture(self, recorder: Recorder) -> None:
        """Show the curve of the loss."""

    def close(self) -> None:
        """Remove what is of interest only while it moves."""


class LinesDisplay(Display):
    """Writes one line an epoch, as for a log file."""

    def results(self, rows: Sequence[Mapping[str, Any]], n_epochs: int | None) -> None:
        print(format_line(rows[-1], n_epochs), flush=True)


# cell f2380a9a c02aaa · Where does the output go?
def _make_bar(total: int | None, done: int, text: str, file: Any) -> Any:
    """Start a tqdm bar that draws only when told to; its clock begins at `done`."""
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread of its own

    size = get_terminal_size()  # 80 × 24 where a terminal does not say
    return Bar(total=total, initial=done, desc=text, file=file, leave=False, mininterval=inf,
               unit="batch", ncols=size.columns - 1 if file is sys.stderr else 80,
               nrows=size.lines)


# cell 3ab63ace d041bf · Where does the output go?
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

    def results(self, rows: Sequence[Mapping[str, Any]], n_epochs: int | None) -> None:
        self.close()
        super().results(rows, n_epochs)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


# cell 2a5bf207 83dc5c · Where does the output go?
class NotebookDisplay(Display):
    """Shows curve, table and bar in a notebook's output, and replaces them as they change."""

    is_live = True

    def __init__(self) -> None:
        self._rows: Sequence[Mapping[str, Any]] = []
        self._picture, self._bar, self._handle = "", "", None

    def look(self, title: str, done: int, total: int | None, loss: float) -> None:
        end = f"/{total}" if total else ""
        bar = f'<progress value="{done}" max="{total}"></progress> ' if total else ""
        self._bar = f"<div>{bar}{html.escape(title)} {done}{end}, loss {loss:.4f}</div>"
        self._show(self._rows[-10:])

    def results(self, rows: Sequence[Mapping[str, Any]], n_epochs: int | None) -> None:
        self._rows, self._bar = rows, ""
        self._show(rows[-10:])

    def picture(self, recorder: Recorder) -> None:
        from matplotlib.figure import Figure  # not pyplot, which would show the figure once more

        if len(recorder.losses) > 1:
            figure, file = Figure(figsize=(5.5, 2.6), layout="constrained"), io.BytesIO()
            plot_losses(recorder, figure.subplots())
            figure.savefig(file, format="png", dpi=110)
            data = b64encode(file.getvalue()).decode()
            self._picture = (f'<img src="data:image/png;base64,{data}" width="605" '
                             'alt="curve of the loss">')

    def close(self) -> None:
        self._bar = ""
        if self._rows or self._handle:
            self._show(self._rows)

    def _show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from IPython.display import display

        earlier = len(self._rows) - len(rows)
        more = f"<div>… {earlier} earlier</div>" if earlier else ""
        page = self._picture + more + format_html(rows) + self._bar
        bundle = {"text/html": page, "text/plain": format_table(rows)}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


# cell 2a783e1e 85563e · The callback
class ProgressCallback(Callback):
    """Show a training while it runs: a bar with the loss, the results of each epoch, the curve.

    Every Learner adds one; give your own to change its settings.
    `style`: "notebook", "terminal", or "lines" (one an epoch, as in a log file); None finds out.
    Units: `every` and `plot_every`, seconds between two looks; each look waits for a GPU.
    Raises: ValueError for an unknown style.
    """

    order = Recorder.order + 10
    requires = (Recorder,)
    only_watches = True

    def __init__(self, plot: bool = True, every: float = 0.2, plot_every: float = 1.0,
                 style: str | None = None):
        if style not in (None, *STYLES):
            raise ValueError(f"style must be one of {list(STYLES)}, got {style!r}")
        self.plot, self.every, self.plot_every, self.style = plot, every, plot_every, style
        self._display = Display()

    def before_fit(self, learn: Any) -> None:
        displays = {"notebook": NotebookDisplay, "terminal": TerminalDisplay, "lines": LinesDisplay}
        style = where_output_goes() if is_first_process() else "silent"
        style = style if style == "silent" else self.style or style
        self._display = displays.get(style, Display)()
        self._n_shown, now = 0, time.perf_counter()
        self._next_look, self._next_plot = now + self.every, now + self.plot_every

    def after_batch(self, learn: Any) -> None:
        if self._display.is_live and time.perf_counter() >= self._next_look:
            self._draw(learn)
            self._display.look(*_how_far(learn))
            self._next_look = time.perf_counter() + self.every

    def _draw(self, learn: Any) -> None:
        start = time.perf_counter()
        if self.plot and start >= self._next_plot:
            learn.recorder.read()
            self._display.picture(learn.recorder)
            took = time.perf_counter() - start
            self._next_plot = start + max(self.plot_every, 10 * took)

    def after_epoch(self, learn: Any) -> None:
        self._n_shown += 1
        rows = learn.recorder.rows()[-self._n_shown:]
        self._display.results(rows, _total(learn, rows[-1]["epoch"]))

    def take_row(self, row: Mapping[str, Any]) -> None:
        """Show what `ValidateEvery` has found, where the output is lines."""
        if isinstance(self._display, LinesDisplay):
            self._display.close()  # the bar, which comes back below the line
            print(", ".join(f"{n} {v:.4f}" if isinstance(v, float) else f"{n} {v}"
                            for n, v in row.items() if isinstance(v, int | float)), flush=True)

    def cleanup_fit(self, learn: Any) -> None:
        self._next_plot = -inf
        if self._display.is_live:
            self._draw(learn)
        self._display.close()


def _how_far(learn: Any) -> tuple[str, int, int | None, float]:
    """Return a title, the batches done, how many there are, and the mean loss so far."""
    phase = "train" if learn.training else "valid"
    loss = learn.callback(MetricsCallback).averages(phase).get("loss", float("nan"))
    epoch = len(learn.recorder.epochs) + 1
    end = f"/{_total(learn, epoch)}" if learn.n_epochs else ""
    return f"epoch {epoch}{end} {phase}", learn.batch_index + 1, learn.n_batches, loss


def _total(learn: Any, epoch: int) -> int | None:
    """Count the epochs there will be, those of earlier fits included; `epoch` is the present."""
    return learn.n_epochs and epoch - (learn.epoch + 1) + learn.n_epochs


# cell 51526090 dc98d1 · What a model consists of
class ModelSummary:
    """The layers of a model with output shapes and parameters; its repr is a table."""

    def __init__(self, rows: list[dict[str, Any]], n_parameters: int, n_trained: int):
        self.rows, self.n_parameters, self.n_trained = rows, n_parameters, n_trained

    def _last_line(self) -> str:
        frozen = self.n_parameters - self.n_trained
        return (f"{self.n_parameters:,} parameters, {self.n_trained:,} trained"
                + (f", {frozen:,} frozen" if frozen else ""))

    def __repr__(self) -> str:
        return f"{format_table(self.rows)}\n{self._last_line()}"

    def _repr_html_(self) -> str:
        return f"{format_html(self.rows)}<div>{self._last_line()}</div>"


# cell 12f2bccd b1bd99 · What a model consists of
def summarize(model: nn.Module, inputs: Sequence[Any] | Mapping[str, Any] | None = None,
              optimizer: Any = None) -> ModelSummary:
    """Summarise a model: each layer's name, class, output shape, parameters, and what is trained.

    With `inputs`, one batch of the model's arguments (a list, or a dict by name), the model is run
    once for the shapes, and nothing is changed. A layer is a module without modules inside it, or
    one with parameters of its own. Shared parameters count once. With an optimizer, only what it
    holds is trained.
    """
    shapes: dict[str, str] = {}
    if inputs is not None:
        handles = [part.register_forward_hook(_note_shape(shapes, name))
                   for name, part in model.named_modules()]
        try:
            with evaluating(model), random_kept():
                model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)
        finally:
            for handle in handles:
                handle.remove()
    groups = optimizer.param_groups if optimizer else [{"params": model.parameters()}]
    learned = {id(p) for group in groups for p in group["params"] if p.requires_grad}
    rows, counted = [], set()
    for name, part in model.named_modules():
        own = [p for p in part.parameters(recurse=False) if id(p) not in counted]
        counted |= set(map(id, own))
        if own or not any(True for _ in part.children()):
            trained = sum(_size(p) for p in own if id(p) in learned)
            rows.append({"layer": name or "(model)", "type": type(part).__name__,
                         "output": shapes.get(name, ""), "parameters": f"{sum(map(_size, own)):,}",
                         "trained": f"{trained:,}" if own else ""})
    parameters = list(model.parameters())
    trained = sum(_size(p) for p in parameters if id(p) in learned)
    return ModelSummary(rows, sum(map(_size, parameters)), trained)


def _size(p: Tensor) -> int:
    return 0 if hasattr(p, "materialize") else p.numel()  # a lazy one has no size yet


def _note_shape(shapes: dict[str, str], name: str) -> Any:
    def note(part: nn.Module, inputs: Any, output: Any) -> None:
        found: list[tuple[int, ...]] = []
        map_tensors(lambda t: found.append(tuple(t.shape)) or t, output)
        shapes[name] = ", ".join(map(str, found))

    return note
