"""Run a notebook in a process of its own, and say what became of each of its cells.

    runner -- server -- keeper -- notebook          fork_engine: Linux and other Unix systems
    runner -- nbclient -- keeper -- ipykernel       kernel_engine: everywhere

A keeper watches over one notebook; at the end, however that comes, it ends the notebook's process
and all that it started. When the runner is gone, in whatever way, each keeper notices and does so.

Both engines give the same verdict, with these exceptions (tests/test_conformance.py holds each):

- What breaks a kernel's own connection (a patched `json.dumps` or `os.getpid`, `sys.stdout = None`)
  fails in a kernel, as it does in Jupyter; a forked shell survives it.
- A kernel has threads and an event loop of its own: `threading.active_count() == 1` holds only
  in a forked shell, as in a script.
- Where a process cannot become the parent of orphans (anywhere but on Linux), a child that
  detaches itself is not found. On Windows there is no keeper: a kernel's children are left to it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from notebooks import ToolError
from outcomes import Outcome, Task

# pictures in these forms, or in none; an SVG of the same drawing is the same text each time
SHARP = """c = get_config()
c.InlineBackend.figure_formats = {}
c.InlineBackend.print_figure_kwargs = {{"bbox_inches": "tight", "dpi": 200}}
c.InlineBackend.rc = {{"svg.hashsalt": "figure"}}
"""


class Engine:
    """What both engines share: a folder that ends with them, and a way to stop."""

    unseen = ""  # what this engine cannot see here; the report says it

    def __init__(self, env: dict[str, str], figures: frozenset[str] | None = None):
        try:
            self.folder = tempfile.TemporaryDirectory("", "notebooks-", ignore_cleanup_errors=True)
        except OSError as error:
            raise ToolError(f"no folder for temporary files can be made: {error}; "
                            "free some space, or set TMPDIR") from None  # fmt: skip
        self.env = os.environ | env
        self.env.pop("PYTEST_CURRENT_TEST", None)  # with it a kernel hears only Python's output
        self.env["IPYTHONDIR"] = self.path("ipython")
        readme = Path(self.path("ipython"), "profile_default", "startup", "README")
        with contextlib.suppress(OSError):
            readme.parent.mkdir(parents=True)
            readme.touch()  # or each notebook would copy IPython's
            if figures is not None:
                config = readme.parents[1] / "ipython_config.py"
                config.write_text(SHARP.format(set(figures)), "utf-8")
        if "MPLCONFIGDIR" not in self.env and not writable_home():
            self.env["MPLCONFIGDIR"] = self.path("matplotlib")
        self.stopped = ""

    def path(self, name: str) -> str:
        """The path of a file or folder that ends with the engine."""
        return os.path.join(self.folder.name, name)

    def run(self, task: Task) -> Iterator[Outcome]:
        """Run one notebook; several threads may do so at a time."""
        raise NotImplementedError

    def stop(self, why: str) -> None:
        """End every notebook that runs, without waiting; their last outcomes say why."""
        self.stopped = self.stopped or why

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop("the runner ended")
        self.folder.cleanup()


def writable_home() -> bool:
    """Whether matplotlib can keep its settings where it looks for them.

    Where it cannot it makes a temporary folder and removes it at its exit: in each fork.
    """
    home = Path("~").expanduser()
    for variable, name in (("XDG_CONFIG_HOME", ".config"), ("XDG_CACHE_HOME", ".cache")):
        place = Path(os.environ.get(variable) or home / name, "matplotlib")
        existing = next(folder for folder in [place, *place.parents] if folder.exists())
        try:
            tempfile.TemporaryFile(dir=existing).close()
        except OSError:
            return False
    return True
