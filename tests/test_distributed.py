"""The same script alone and on two processes: equal weights, equal metrics, one log."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from exp.nb00 import test_eq, test_near

HERE = Path(__file__).parent
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="needs two GPUs")])]
pytestmark = pytest.mark.skipif(not torch.distributed.is_available(),
                                reason="torch without distributed")


def run(folder, *options, processes=1, device="cpu"):
    launcher = TORCHRUN if processes == 2 else []
    command = [sys.executable, *launcher, HERE / "distributed_train.py", folder, *options]
    keep = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**keep, "OMP_NUM_THREADS": "1", "EXP_DEVICE": device, "PYTHONPATH": path}
    folder.mkdir()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return [load_file(folder / f"rank{rank}.safetensors") for rank in range(processes)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", [(), ("--accumulate", "3")])
def test_two_processes_end_as_one_with_the_same_global_batches(tmp_path, options, device):
    [alone] = run(tmp_path / "one", *options, device=device)
    together = run(tmp_path / "two", *options, processes=2, device=device)
    assert [int(t.pop("world_size")) for t in (alone, *together)] == [1, 2, 2]
    test_eq(together[0], together[1])
    test_near(together[0], alone, tol=1e-5)
    assert "evaluate_accuracy" in alone
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("one", "two")]
    assert [len(log) for log in logs] == [4, 4]  # a head and three epochs, written once


@pytest.mark.parametrize("device", DEVICES)
def test_copies_with_batch_norm_stay_equal(tmp_path, device):
    together = run(tmp_path / "two", "--batch_norm", processes=2, device=device)
    test_eq(together[0], together[1])
