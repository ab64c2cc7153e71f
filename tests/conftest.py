"""What every test file shares."""

import os

os.environ.setdefault("EXP_PROGRESS", "0")  # fits are silent; tests of the display set it
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for each worker, and for what it starts

import pytest
import torch

import quick_nbformat  # noqa: F401 - before nbconvert and others import nbformat

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Let no test wait for the disk: no power fails in them, and files outlive a process anyway."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


LONG = "test_book.py", "test_run_notebook.py", "test_pairs.py", "test_run_anywhere.py"


def pytest_collection_modifyitems(items):
    """Begin with the longest files, and skip tests marked `cuda` where there is no CUDA device.

    A worker takes a whole file at a time: a long one at the end would leave the others idle.
    """
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
