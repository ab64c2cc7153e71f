"""Two processes that train together, started as torchrun starts them, without a torchrun."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(device="cpu", **more):
    """What such a process needs to know; a rank that this process may have is not its own."""
    keep = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ours = {"OMP_NUM_THREADS": "1", "EXP_DEVICE": device, "PYTHONPATH": path, "EXP_PROGRESS": "0"}
    return keep | ours | more


def run_two(*command, timeout=120):
    """Run a script with its arguments in two processes; both must end well."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            env=environment(RANK=str(r), LOCAL_RANK=str(r), **place),
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(2)
    ]
    for process in processes:
        try:
            _, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            for other in processes:
                other.kill()
            raise
        assert process.returncode == 0, errors[-3000:]
