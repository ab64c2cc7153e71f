"""Curves, progress, the log: what the notebook does not check."""

import csv
import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_learner import learner

from exp.nb00 import test_near
from exp.nb03d import format_table, is_first_process
from exp.nb03f import Callback
from exp.nb03g import ProgressCallback, TerminalDisplay, plot_losses, thin, where_output_goes
from exp.nb04a import CSVLogger, plot_metrics, plot_rates

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    """Fits show themselves here."""
    monkeypatch.delenv("EXP_PROGRESS", raising=False)


# ---------------------------------------------------------------- progress


def test_one_line_an_epoch_where_there_is_no_terminal(capsys):
    learner().fit(3)  # unasked
    out, err = capsys.readouterr()
    heads = [line.split(",")[0] for line in out.splitlines()]
    assert heads == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "valid_accuracy" in out and err == "" and "\r" not in out
    assert where_output_goes() == "lines"


def test_a_second_fit_counts_on(capsys, tmp_path):
    learn = learner([CSVLogger(tmp_path / "log.csv")])
    learn.fit(2), learn.fit(1)
    heads = [line.split(",")[0] for line in capsys.readouterr().out.splitlines()]
    assert heads == ["epoch 1/2", "epoch 2/2", "epoch 3/3"]
    rows = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


SCRIPT = """
    import torch, torch.nn.functional as F
    from exp.nb03b import DataLoaders, TensorDataset
    from exp.nb04 import Learner
    from exp.nb03g import ProgressCallback
    torch.set_num_threads(1)
    data = TensorDataset(torch.randn(400, 3), torch.zeros(400, dtype=torch.long))
    dls = DataLoaders.from_datasets(data, data, batch_size=2)
    Learner(torch.nn.Linear(3, 2), dls, F.cross_entropy,
            callbacks=[ProgressCallback(every=0.001)]).fit(2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_clean_line_on_a_terminal():
    """On a pseudo-terminal: the bar is overwritten, and what stays is a line an epoch."""
    import pty

    ours, theirs = pty.openpty()  # without a size, as in some containers
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(SCRIPT)], cwd=ROOT,
                               stdout=theirs, stderr=theirs)  # fmt: skip
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 65536):
            text += part
    except OSError:  # the other side is closed
        pass
    assert process.wait(60) == 0
    text = text.decode()
    assert "epoch 1/2 train" in text and "epoch 2/2 valid" in text and "loss 0." in text
    lines = [line.split("\r")[-1] for line in text.replace("\r\n", "\n").split("\n")]
    stays = [line for line in lines if line.strip()]
    assert len(stays) == 2 and stays[1].startswith("epoch 2/2, train_loss")


def test_the_clock_of_a_bar_begins_where_the_bar_does():
    """Its first look may come late in an epoch; it knows nothing of the speed before that."""
    screen = io.StringIO()
    display = TerminalDisplay(screen)
    display.look("epoch 1/1 train", 500, 1000, 0.5)
    assert "500/1000" in screen.getvalue() and "?batch/s, loss 0.5000" in screen.getvalue()
    display.close()


def test_in_a_notebook_one_page_with_curve_table_and_bar(monkeypatch):
    shown, handles = [], []

    class Handle:
        def update(self, bundle, raw):
            shown.append(bundle)

    def display(bundle, raw, display_id):
        shown.append(bundle)
        handles.append(Handle())
        return handles[-1]

    monkeypatch.setattr("IPython.display.display", display)
    learn = learner([ProgressCallback(style="notebook", every=0, plot_every=0)])
    learn.fit(2)
    assert len(handles) == 1
    pages = [bundle["text/html"] for bundle in shown]
    assert "<img" not in pages[0]  # nothing to draw after one batch
    assert any("<progress" in page and "epoch 1/2 train" in page for page in pages)
    assert pages[-1].index("<img") < pages[-1].index("<table") and "<progress" not in pages[-1]
    assert pages[-1].count("<tr>") == len(shown[-1]["text/plain"].splitlines()) == 3
    learn.fit(1)
    assert len(handles) == 2  # a new fit has its own
    learn.fit(14)
    assert max(page.count("<tr>") for page in pages) <= 11
    during, after = shown[-2]["text/html"], shown[-1]["text/html"]
    assert (during.count("<tr>"), after.count("<tr>")) == (11, 15)  # ten while it runs, then all


@pytest.mark.parametrize("silent", ["switch", "variable"])
def test_one_switch_and_one_variable_make_it_silent(silent, monkeypatch, capsys):
    if silent == "variable":
        monkeypatch.setenv("EXP_PROGRESS", "0")
    learn = learner(progress=silent != "switch")
    record = learn.fit(2)
    assert capsys.readouterr() == ("", "")
    assert repr(record) == format_table(record.rows()) and record is learn.recorder
    monkeypatch.setenv("EXP_PROGRESS", "loud")
    with pytest.raises(ValueError, match="EXP_PROGRESS must be 0 or one of"):
        learner().fit(1)


def test_a_failing_fit_closes_its_bar(monkeypatch):
    def fail(self, learn):
        if learn.batch_index == 3:
            raise ZeroDivisionError

    failing = type("Failing", (Callback,), {"after_batch": fail, "order": 99})()
    progress = ProgressCallback(style="terminal", every=0)
    with pytest.raises(ZeroDivisionError):
        learner([progress, failing]).fit(1)
    assert progress._display._bar is None


def test_only_the_first_process_shows_and_writes(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("RANK", "1")
    assert not is_first_process()
    learner([ProgressCallback(), CSVLogger(tmp_path / "log.csv")]).fit(1)
    assert capsys.readouterr().out == "" and not (tmp_path / "log.csv").exists()


def test_tables():
    first = {"epoch": 1, "loss": float("nan"), "seconds": 0.12}
    assert format_table([first, {"epoch": 10, "loss": 1e9, "x": -1.0}]).splitlines() == [
        "epoch       loss        x  seconds",
        "    1        nan               0.1",
        "   10  1.000e+09  -1.0000         ",
    ]


@given(n=st.integers(1, 5000), wanted=st.integers(1, 300))
@settings(max_examples=50, deadline=None)
def test_thin_keeps_means(n, wanted):
    values = torch.rand(n)
    places, means = thin(values, wanted)
    width = -(-n // wanted)
    assert len(places) == len(means) == n // width <= wanted
    assert 0 <= places.min() and places.max() <= n - 1
    test_near(means.mean(), values[: len(means) * width].mean(), tol=1e-5)


def test_plots_of_little_data():
    import matplotlib

    matplotlib.use("agg")
    learn = learner(batches=40)
    plot_losses(learn.recorder)  # nothing yet
    learn.fit(1)
    plot_losses(learn.recorder)
    plot_metrics(learn.recorder, "loss", "accuracy")
    plot_rates(learn.recorder)
    learn.recorder.epochs[0]["pixels"] = 3.0  # some callback's own result
    plot_metrics(learn.recorder)
    matplotlib.pyplot.close("all")


# ---------------------------------------------------------------- the log


def test_csv_log(tmp_path):
    path = tmp_path / "deep" / "log.csv"
    learn = learner([CSVLogger(path)])
    learn.fit(2)
    rows = list(csv.DictReader(path.open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    losses = [results["train_loss"] for results in learn.recorder.epochs]
    assert [float(row["train_loss"]) for row in rows] == losses
    learner([CSVLogger(path, append=True)]).fit(1)
    assert len(list(csv.DictReader(path.open()))) == 3
    learner([CSVLogger(path)]).fit(1)  # a new logger begins a new file
    assert len(list(csv.DictReader(path.open()))) == 1


def test_a_log_of_other_columns_is_not_continued(tmp_path):
    path = tmp_path / "log.csv"
    learner([CSVLogger(path)], metrics=()).fit(1)
    before = path.read_text()
    with pytest.raises(ValueError, match="none for .*train_accuracy"):
        learner([CSVLogger(path, append=True)]).fit(1)
    assert path.read_text() == before
    learner([CSVLogger(path)]).fit(1)
    learner([CSVLogger(path, append=True)], metrics=()).fit(1)  # fewer: empty places
    rows = list(csv.DictReader(path.open()))
    assert rows[1]["train_accuracy"] == "" and float(rows[1]["train_loss"]) > 0
