"""A training that gets killed: the script behind test_resume.py.

It reads one job a line from its input, runs it in a child process that is forked off (so that
torch is imported once), and answers with the child's exit code. A job is a JSON object: `folder`,
and how the child ends: `event` and `late` (at that event, before or after the other callbacks),
`replace` (before the n-th checkpoint takes its name), `half` (in the middle of writing the n-th),
`seconds` (from outside, after a time), or none of these: it runs to its end and writes `result`.
With `careless` it does not put random numbers back.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from safetensors import torch as safetensors
from torch import nn

from exp import nb04d
from exp.nb03b import DataLoader, DataLoaders, TensorDataset
from exp.nb03d import random_state
from exp.nb04 import EVENTS, Callback, Learner
from exp.nb04a import CSVLogger
from exp.nb04b import EarlyStopping, GradientAccumulation, GradientClip
from exp.nb04c import pack
from exp.nb04d import Checkpoint, SaveBest, learner_state


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Kill(Callback):
    """Count the events, and die at one of them."""

    only_watches = True

    def __init__(self, at, late):
        self.at, self.count, self.order = at, 0, 20_000 if late else -20_000


def count_event(self, learn):
    self.count += 1
    if self.count == self.at:
        die()


for name in EVENTS:
    setattr(Kill, name, count_event)


class Noise(Callback):
    """Draw from every source of random numbers, as augmentation does."""

    order = -50

    def before_batch(self, learn):
        if learn.training:
            scale = 1 + 0.1 * random.random() + 0.1 * float(numpy.random.rand())
            learn.inputs[0] = scale * learn.inputs[0] + 0.1 * torch.randn_like(learn.inputs[0])


def die_at_write(n, half):
    """Die at the n-th file: with half of its bytes written, or with all but without its name."""
    count, replace, save_file = 0, os.replace, safetensors.save_file

    def counted_replace(source, target):
        nonlocal count
        count += 1
        if count == n and not half:
            die()
        replace(source, target)

    def half_save(tensors, file, metadata):
        save_file(tensors, file, metadata)
        if half and count == n - 1:
            os.truncate(file, os.path.getsize(file) // 2)
            die()

    os.replace, safetensors.save_file = counted_replace, half_save


def train(job):
    folder = Path(job["folder"])
    random.seed(1)
    numpy.random.seed(1)
    torch.manual_seed(1)
    x = torch.randn(95, 6)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    generator = torch.Generator().manual_seed(3) if job.get("generator", True) else None
    dls = DataLoaders(
        DataLoader(TensorDataset(x[:60], y[:60]), 7, shuffle=True, generator=generator),
        DataLoader(TensorDataset(x[60:], y[60:]), 10),
    )
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    kill = [Kill(job["event"], job.get("late", True))] if "event" in job else []
    callbacks = [
        Noise(),
        GradientAccumulation(2),
        GradientClip(1.0),
        CSVLogger(folder / "log.csv"),
        EarlyStopping(patience=job.get("patience", 99)),
        SaveBest(folder / "best.safetensors"),
        Checkpoint(folder / "checkpoints", every=job.get("every", 2)),
        *kill,
    ]
    learn = Learner(
        model,
        dls,
        F.cross_entropy,
        0.05,
        lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
        callbacks=callbacks,
        progress=False,
    )
    if job.get("careless"):
        nb04d.set_random_state = lambda state, loaders: None
    if "replace" in job or "half" in job:
        die_at_write(job.get("replace") or job["half"], "half" in job)
    learn.fit(2)
    learn.fit(1, lr=0.01)
    write_result(learn, folder)


def write_result(learn, folder):
    """Digest all that must be the same: everything but the times."""
    tensors, text = pack(
        {**learner_state(learn), "recorder": {**learn.recorder.state_dict(), "seconds": None},
         "callbacks": None, "random": random_state(learn.loaders)}
    )  # fmt: skip
    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors.items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    log = [line.rsplit(",", 1)[0] for line in (folder / "log.csv").read_text().splitlines()]
    left = sorted(f.name for f in (folder / "checkpoints").iterdir())
    result = {"digest": digest.hexdigest(), "log": log, "left": left, "n_steps": learn.n_steps}
    (folder / "result.json").write_text(json.dumps(result))


def run(job):
    """Run a job in a child, kill it from outside if the job says so, and give its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), 1)
                train(job)
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    if "seconds" in job:
        time.sleep(job["seconds"])
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    warm = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    warm.step()  # the first step imports a second's worth of modules: once, before the forks
    for line in sys.stdin:
        print(run(json.loads(line)), flush=True)
