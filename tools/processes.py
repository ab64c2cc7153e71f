"""Keep hold of a child process and its descendants; anywhere but on Linux, of its group."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path


def prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parents die: what detaches itself stays in reach."""
    prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def end_with_parent() -> None:
    """Die when the parent dies, and if memory runs out, before it."""
    prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")


def end_descendants(child: int, patience: float = 0.0) -> None:
    """Kill a child's process group and all other descendants, after `patience` seconds at most.

    What ends by itself in that time can put its things in order: multiprocessing's resource tracker
    removes shared memory when the process that it served is gone.
    """
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    gentle, until = time.monotonic() + patience, time.monotonic() + patience + 5
    with contextlib.suppress(ChildProcessError):  # none is left
        while time.monotonic() < until:  # a process in an uninterruptible wait cannot be killed
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                if time.monotonic() >= gentle:
                    for kill in (os.killpg, os.kill):
                        with contextlib.suppress(ProcessLookupError, PermissionError):
                            kill(child, signal.SIGKILL)
                    for orphan in children.read_text().split() if children.exists() else ():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(orphan), signal.SIGKILL)
                time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)  # elsewhere than on Linux, orphans are no children
