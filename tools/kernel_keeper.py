"""Run a kernel as a child, and end with it all that it started: `kernel_keeper.py FILE COMMAND …`.

It ends the kernel when its standard input is closed, as it is when the runner dies, and ends as the
kernel ended. How much memory the kernel held, in KiB, is written to FILE.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # not there yet where PYTHONSAFEPATH is set

from processes import adopt_orphans, end_descendants, end_with_parent

GRACE = 0.3  # seconds for what ends by itself after the kernel


def main(file: str, *command: str) -> None:
    adopt_orphans()
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # the kernel looks after its parent
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    kernel = os.fork()
    if kernel == 0:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            end_with_parent()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.execv(command[0], command)
        finally:
            os._exit(70)
    for number in (signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, lambda n, _: os.kill(kernel, n))
    patience, ended, code = 0.0, 0, -signal.SIGKILL
    while not ended:
        ready, *_ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
        ended, status, usage = os.wait4(kernel, os.WNOHANG)
        if ended:
            patience, code = GRACE, os.waitstatus_to_exitcode(status)
            with contextlib.suppress(OSError):
                Path(file).write_text(str(usage.ru_maxrss))
        elif 0 in ready:
            break
    signal.set_wakeup_fd(-1)
    end_descendants(kernel, patience if code == 0 else 0.0)
    if code < 0:
        with contextlib.suppress(ImportError, ValueError, OSError):
            import resource

            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the kernel has left its core already
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main(*sys.argv[1:])
