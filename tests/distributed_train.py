"""Trains small models on its share of the data; `torchrun --nproc_per_node 2` or alone.

    python tests/distributed_train.py OUT

For each of KINDS, every process writes OUT/KIND/rankR.safetensors (weights and the last epoch's
results) for the test to compare; the log OUT/KIND/log.csv is written by rank 0 only.
"""

import sys
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from exp.nb03b import TensorDataset
from exp.nb03c import accuracy
from exp.nb04 import Learner
from exp.nb04a import CSVLogger
from exp.nb04b import DeviceCallback, GradientAccumulation, GradientClip
from exp.nb06c import DistributedCallback, process_device, process_group, shared_loaders

KINDS = {"plain": {}, "accumulated": {"accumulate": 3}, "batch_norm": {"batch_norm": True}}


def train(out: Path, rank: int, world_size: int, accumulate: int = 1, batch_norm: bool = False):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(85, 1, 8, 8, generator=generator)
    y = (x.mean((1, 2, 3)) > 0).long()
    train, valid = TensorDataset(x[:58], y[:58]), TensorDataset(x[58:], y[58:])  # 58 = 3 · 16 + 10
    torch.manual_seed(rank)  # copies that differ at first: rank 0 counts
    norm = [nn.BatchNorm2d(4)] if batch_norm else []
    model = nn.Sequential(nn.Conv2d(1, 4, 3), *norm, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    many = [GradientAccumulation(accumulate)] if accumulate > 1 else []
    learn = Learner(
        model,
        shared_loaders(train, valid, 16, seed=3),
        F.cross_entropy,
        0.1,
        partial(torch.optim.SGD, momentum=0.9),
        [accuracy],
        [
            DeviceCallback(process_device()),
            DistributedCallback(),
            GradientClip(1.0),
            *many,
            CSVLogger(out / "log.csv"),
        ],
    )
    learn.fit(3)
    results = {
        **learn.recorder.epochs[-1],
        **{f"evaluate_{k}": v for k, v in learn.evaluate().items()},
    }
    save_file(
        {
            **{name: t.cpu() for name, t in model.state_dict().items()},
            **{name: torch.tensor(v, dtype=torch.float64) for name, v in results.items()},
            "world_size": torch.tensor(world_size),
        },
        out / f"rank{rank}.safetensors",
    )


def main(out: Path) -> None:
    torch.set_num_threads(1)
    torch.backends.cudnn.allow_tf32 = False  # its 10 bits would hide a small difference
    with process_group() as (rank, world_size):
        for kind, options in KINDS.items():
            (out / kind).mkdir(exist_ok=True)
            train(out / kind, rank, world_size, **options)
    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    if left := [name for name in threads if "gloo" in name]:  # they may crash Python's exit
        raise RuntimeError(f"threads outlive the process group: {left}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
