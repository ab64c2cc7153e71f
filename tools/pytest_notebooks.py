"""A plugin for pytest: `pytest --notebooks nbs` runs each notebook there as a test.

    pytest --notebooks nbs                    an item for each notebook
    pytest --notebooks nbs --notebook-cells   an item for each code cell
    pytest tests --notebooks nbs -n auto --dist loadfile

The verdict is that of run_notebook, whose engine runs them; `-k`, `-x`, `--lf`, `--durations` and
pytest-xdist work as for any test. Nothing is imported of it unless the option is given.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = str(Path(__file__).parent)
ENGINE = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("notebooks")
    group.addoption("--notebooks", action="append", metavar="PATH", default=[],
                    help="run the notebooks of this folder, or this one; repeatable")  # fmt: skip
    group.addoption("--notebook-cells", action="store_true", help="an item for each code cell")
    group.addoption("--notebook-exported", action="store_true",
                    help="take what exported cells define from the exported module")  # fmt: skip
    group.addoption("--notebook-slow", action="store_true", help="run cells marked #slow, too")
    group.addoption("--notebook-data", choices=("sample", "full"), help="the data to run on")


def pytest_configure(config: pytest.Config) -> None:
    if chosen := config.getoption("notebooks"):
        for path in chosen:
            if not Path(path).exists():
                raise pytest.UsageError(f"--notebooks {path}: there is no such file or folder")
        given = config.args_source is pytest.Config.ArgsSource.ARGS
        config.args = [*(config.args if given else []), *chosen]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix != ".ipynb" or ".ipynb_checkpoints" in file_path.parts:
        return None
    chosen = [Path(path).resolve() for path in parent.config.getoption("notebooks")]
    if not {file_path.resolve(), *file_path.resolve().parents} & set(chosen):
        return None
    return NotebookFile.from_parent(parent, path=file_path)


def pytest_unconfigure(config: pytest.Config) -> None:
    if running := config.stash.get(ENGINE, None):
        running.__exit__()


class NotebookFile(pytest.File):
    """A notebook: its plan, and what became of it once it ran."""

    def collect(self):
        tools, config = our_tools(), self.config
        home = tools.project.settings(config.invocation_params.dir)
        self.home = home
        limits = {name: tools.run_notebook.seconds(name, None, home)
                  for name in ("timeout", "cell_timeout")}  # fmt: skip
        self.result = tools.plan.planned(
            self.path, package=home.lib.name, device=os.environ.get("EXP_DEVICE") or "cpu",
            slow=config.getoption("notebook_slow"), flags=frozenset(),
            exported=config.getoption("notebook_exported"), **limits,
        )  # fmt: skip
        self.ran = False
        if not config.getoption("notebook_cells") or not self.result.task.steps:
            yield NotebookItem.from_parent(self, name="notebook", number=0)
            return
        for step in self.result.task.steps:
            cell = self.result.cell(step.number)
            name = f"cell {step.number} ({cell.id}) {cell.heading}".strip()
            yield NotebookItem.from_parent(self, name=name, number=step.number)

    def run(self) -> None:
        """Run the notebook, unless it has run already."""
        if not self.ran and self.result.status == "not run":
            tools, running = our_tools(), self.engine()
            for outcome in tools.running.outcomes([self.result.task], running, 1, False):
                self.result.outcomes[outcome.number] = outcome
        self.ran = True

    def engine(self):
        """The engine of this session; it starts with the first notebook."""
        stash = self.config.stash
        if ENGINE not in stash:
            tools = our_tools()
            files = {item.parent for item in self.session.items if isinstance(item, NotebookItem)}
            data = self.config.getoption("notebook_data") or os.environ.get("EXP_DATA")
            workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
            stash[ENGINE] = tools.run_notebook.start(
                [file.result.task for file in files], self.home, "", workers,
                os.environ.get("EXP_DEVICE") or "cpu", data or "sample",
            )  # fmt: skip
            stash[ENGINE].__enter__()
        return stash[ENGINE]


class NotebookItem(pytest.Item):
    """A notebook, or with a number one cell of it, as a test."""

    def __init__(self, *, number: int, **options):
        super().__init__(**options)
        self.number = number

    def runtest(self) -> None:
        self.parent.run()
        result = self.parent.result
        mine = result.outcomes.get(self.number)
        whole = result.outcomes.get(0)
        if self.number == 0:
            if result.note:
                pytest.skip(result.note)
            if result.status != "passed":
                raise Failed(result, list(result.outcomes.values()))
        elif mine and mine.status == "failed":
            raise Failed(result, [mine])
        elif mine is None and whole and self.is_last and whole.status == "failed":
            raise Failed(result, [whole])
        elif mine is None or mine.status == "skipped":
            step = next(step for step in result.task.steps if step.number == self.number)
            pytest.skip(step.skip or "an earlier cell failed")
        elif self.is_last and whole and whole.failures:
            raise Failed(result, [whole])

    @property
    def is_last(self) -> bool:
        return self.number == self.parent.result.task.steps[-1].number

    def repr_failure(self, excinfo, style=None) -> str:
        if not isinstance(excinfo.value, Failed):
            return super().repr_failure(excinfo, style)
        explain = our_tools().reports.explain
        result, outcomes = excinfo.value.args
        ordered = sorted(outcomes, key=lambda outcome: outcome.number or 1e9)
        texts = [explain(result, o, failure) for o in ordered for failure in o.failures]
        return "\n".join(texts) or f"{result.notebook.path}: {result.status}"

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, f"{self.path.name}::{self.name}"


class Failed(Exception):
    """Cells of a notebook failed: its result, and the outcomes that say so."""


def our_tools() -> SimpleNamespace:
    """Our scripts as modules, without leaving their short names to the tests' own imports."""
    if not hasattr(our_tools, "found"):
        hidden = {name: module for name, module in sys.modules.items() if is_ours(name)}
        for name in hidden:
            del sys.modules[name]
        sys.path.insert(0, HERE)
        try:
            names = ("plan", "project", "reports", "run_notebook", "running")
            found = {name: importlib.import_module(name) for name in names}
        finally:
            sys.path.remove(HERE)
            for name in [*sys.modules]:
                if is_ours(name) and getattr(sys.modules[name], "__file__", "").startswith(HERE):
                    del sys.modules[name]
            sys.modules.update(hidden)
        our_tools.found = SimpleNamespace(**found)
    return our_tools.found


def is_ours(name: str) -> bool:
    return "." not in name and Path(HERE, f"{name}.py").exists()
