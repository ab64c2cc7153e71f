"""Two processes that train together, started as torchrun starts them, without a torchrun."""

import os
import runpy
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
    """Run a script with its arguments in two processes; both must end well.

    Where a process can fork, one imports torch for both.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, ranks, *command],
            env=environment(**place),
            stderr=subprocess.PIPE,
            text=True,
        )
        for ranks in (["01"] if hasattr(os, "fork") else ["0", "1"])
    ]
    for process in processes:
        try:
            _, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            for other in processes:
                other.kill()
            raise
        assert process.returncode == 0, errors[-3000:]


def main(ranks, *command):
    """Run a script as these ranks: the last one in this process, each other in a fork of it."""
    import torch._dynamo  # noqa: F401 - the first optimizer would import it, in each process

    *others, rank = ranks
    forks = []
    for other in others:
        if not (fork := os.fork()):
            rank, forks = other, []
            break
        forks.append(fork)
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
    sys.argv = list(command)
    runpy.run_path(command[0], run_name="__main__")
    sys.exit(any(os.waitpid(fork, 0)[1] for fork in forks))


if __name__ == "__main__":
    main(*sys.argv[1:])
