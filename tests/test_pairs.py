"""Every pair of the library's callbacks is killed and resumed at random batches.

Each pair trains undisturbed, and once more with a Checkpoint, killed twice on the way and resumed.
Both must end alike to the last bit, unless the pair is refused before the first step. The classes
are collected from `exp`; one that has no entry in CALLBACKS fails the first test.
"""

import faulthandler
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from itertools import combinations, count
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

import exp
from exp.nb03b import DataLoaders, TensorDataset
from exp.nb03c import accuracy
from exp.nb03d import process_rank, random_state, seed_everything
from exp.nb03f import Callback
from exp.nb03h import pack, read_state
from exp.nb03k import digest
from exp.nb04 import Learner
from exp.nb04a import CSVLogger
from exp.nb04b import (
    DeviceCallback,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    StopOnNaN,
)
from exp.nb04d import Checkpoint, SaveBest, learner_state
from exp.nb04e import SchedulerCallback, ValidateEvery, WeightAverage
from exp.nb04f import ClosureStep, TensorBoardLogger
from exp.nb05 import CosineSchedule, LinearSchedule, ScheduleCallback
from exp.nb06a import ActivationStatsCallback, UpdateStatsCallback
from exp.nb06c import (
    AverageGradients,
    ChannelsLast,
    DistributedCallback,
    MixedPrecision,
    process_group,
    shared_loaders,
)
from exp.nb07a import MixUp
from exp.nb11 import sequence_loss
from exp.nb11b import RecurrentLM, StatefulTraining, TextBatches, TimeBudget
from exp.nb11e import ActivationPenalty, WeightDropLSTM

BASES = "Callback", "Monitor", "CollectCallback"  # of others; of looks, not of a fit
ALWAYS = "MetricsCallback", "Recorder", "ProgressCallback", "Checkpoint"  # part of every training
TRANSLATORS = "TeacherForcing", "DecoderPenalty"  # for one kind of model: tests/test_nb12.py
TEXTS = "StatefulTraining", "ActivationPenalty"  # for models that hand on a state

CALLBACKS = {  # how to make each, given a folder for its files
    "CSVLogger": lambda folder: CSVLogger(folder / "log.csv"),
    "DeviceCallback": lambda folder: DeviceCallback("cpu"),
    "GradientClip": lambda folder: GradientClip(0.5),
    "GradientAccumulation": lambda folder: GradientAccumulation(4),
    "StopOnNaN": lambda folder: StopOnNaN(2),
    "EarlyStopping": lambda folder: EarlyStopping("train_loss", patience=1, min_delta=0.05),
    "EarlyStopping 2": lambda folder: EarlyStopping("train_loss", patience=2, min_delta=0.02),
    "SaveBest": lambda folder: SaveBest(folder / "best.safetensors"),
    "SaveBest 2": lambda folder: SaveBest(
        folder / "best2.safetensors", "train_loss", restore=False
    ),
    "ScheduleCallback": lambda folder: ScheduleCallback("lr", CosineSchedule(0.2, 0.01)),
    "ScheduleCallback 2": lambda folder: ScheduleCallback("momentum", LinearSchedule(0.5, 0.9)),
    "SchedulerCallback": lambda folder: SchedulerCallback(partial(StepLR, step_size=3, gamma=0.5)),
    "SchedulerCallback 2": lambda folder: SchedulerCallback(
        partial(ReduceLROnPlateau, patience=0, threshold=0.1), "epoch", "train_loss"
    ),
    "WeightAverage": lambda folder: WeightAverage(0.8),
    "WeightAverage 2": lambda folder: WeightAverage(None),
    "ValidateEvery": lambda folder: ValidateEvery(4),
    "TensorBoardLogger": lambda folder: TensorBoardLogger(folder / "board", every=2),
    "ClosureStep": lambda folder: ClosureStep(),
    "ActivationStatsCallback": lambda folder: ActivationStatsCallback(nn.Linear),
    "UpdateStatsCallback": lambda folder: UpdateStatsCallback(),
    "MixedPrecision": lambda folder: MixedPrecision(torch.bfloat16),
    "MixedPrecision 2": lambda folder: MixedPrecision(torch.float16),
    "ChannelsLast": lambda folder: ChannelsLast(),
    "AverageGradients": lambda folder: AverageGradients(),
    "DistributedCallback": lambda folder: DistributedCallback(),
    "StatefulTraining": lambda folder: StatefulTraining(),
    "ActivationPenalty": lambda folder: ActivationPenalty(1.0, 1.0),
    "MixUp": lambda folder: MixUp(0.4),
    "TimeBudget": lambda folder: TimeBudget(9, 0.2, clock=count().__next__),  # 9 batches
}


def library_callbacks():
    """Collect the callbacks that the library defines."""
    found = {}
    for path in sorted(Path(exp.__file__).parent.glob("nb*.py")):
        module = import_module(f"exp.{path.stem}")
        found |= {
            name: kind
            for name, kind in vars(module).items()
            if isinstance(kind, type)
            and issubclass(kind, Callback)
            and kind.__module__ == module.__name__
            and not name.startswith("_")
        }
    return found


def wait_for_all():
    if torch.distributed.is_initialized():
        torch.distributed.barrier()


class Killed(BaseException):
    """What no callback catches."""


class Kill(Callback):
    """End the process, as far as a test can, after the n-th batch that this process takes."""

    order, only_watches = 20_000, True

    def __init__(self, n=0):
        self.n, self.count = n, 0

    def after_batch(self, learn):
        self.count += 1
        if self.count == self.n:
            raise Killed


class Noise(Callback):
    """Draw from every source of random numbers, as augmentation does."""

    order = -50

    def before_batch(self, learn):
        first = learn.inputs[0]
        if learn.training and first.is_floating_point():
            scale = 1 + 0.1 * random.random() + 0.1 * float(numpy.random.rand())
            learn.inputs[0] = scale * first + 0.1 * torch.randn_like(first)


@cache
def images():
    draw = torch.Generator().manual_seed(5)
    x = torch.randn(24, 1, 5, 5, generator=draw)
    y = (x.sum((1, 2, 3)) > 0).long()
    return TensorDataset(x[:18], y[:18]), TensorDataset(x[18:], y[18:])


@cache
def texts():
    return torch.randint(6, (150,), generator=torch.Generator().manual_seed(5))


def new_learner(names, folder, *others):
    """Build the learner that a script would build, from its seed on."""
    rank, n_processes = process_rank()
    seed_everything(3 + rank)
    opt_func = partial(torch.optim.SGD, momentum=0.9)
    if "ClosureStep" in names:
        opt_func = partial(torch.optim.LBFGS, max_iter=2)
    callbacks = [CALLBACKS[name](folder) for name in names] + [Noise(), *others]
    if set(TEXTS) & set(names):
        model = RecurrentLM(6, 4, 1, dropout_in=0.1, layer=partial(WeightDropLSTM, weight_drop=0.2))
        draw = torch.Generator().manual_seed(4)
        dls = DataLoaders(
            TextBatches(texts()[:100], 3, 6, generator=draw), TextBatches(texts()[100:], 2, 6)
        )
        return Learner(
            model, dls, sequence_loss, 0.1, opt_func, callbacks=callbacks, progress=False
        )
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(18, 2),
    )
    dls = (
        shared_loaders(*images(), batch_size=8)
        if n_processes > 1
        else DataLoaders.from_datasets(*images(), batch_size=4)
    )  # 5 and 2 batches, the last ones smaller
    return Learner(
        model, dls, F.cross_entropy, 0.1, opt_func, [accuracy], callbacks, progress=False
    )


def train(names, folder, *others):
    """Let the script run: two fits, the second shorter; return what it has become."""
    learn = new_learner(names, folder, *others)
    learn.fit(2)
    learn.fit(1, lr=0.05)
    return learn


def outcome(learn, folder):
    """Gather everything that must be equal: all but times, and all but what the kill brings."""
    state = learner_state(learn)
    kept = [c for c in learn.callbacks if not isinstance(c, Checkpoint | Kill)]
    callbacks = {type(c).__name__ + str(i): c.state_dict() for i, c in enumerate(kept)}
    callbacks = {
        name: {k: v for k, v in own.items() if k not in ("seconds", "size")}
        for name, own in callbacks.items()
    }
    wait_for_all()  # the first process may still write
    log = folder / "log.csv"
    rows = [line.rsplit(",", 1)[0] for line in log.read_text().splitlines()] if log.exists() else []
    tensors, text = pack(
        {
            **state,
            "parts": None,
            "callbacks": callbacks,
            "rows": rows,
            "random": random_state(learn.loaders),
        }
    )
    best = folder / "best.safetensors"
    kept = {"best": read_state(best)} if best.exists() else {}
    tensors |= {f"best {name}": t for name, t in pack(kept)[0].items()}
    return text, {name: t.numpy().tobytes() for name, t in tensors.items() if t.numel()}


def check_pair(names, folder, draw):
    """Kill and resume a training with these callbacks; return "resumed" or the refusal."""
    whole_folder, folder = folder / "whole", folder / "killed"
    try:
        counter = Kill()
        whole = train(names, whole_folder, counter)
    except (ValueError, TypeError) as error:
        with pytest.raises(type(error)) as again:
            train(names, folder, Checkpoint(folder / "checkpoints"))
        assert str(again.value) == str(error)
        assert not list(folder.rglob("*.safetensors")), "refused only after a checkpoint"
        return str(error)
    every = draw.choice([1, 2, 3, None])
    first, second = draw.randint(1, counter.count), draw.randint(1, counter.count // 2)
    with pytest.raises(Killed):
        train(names, folder, Checkpoint(folder / "checkpoints", every=every), Kill(first))
    with suppress(Killed):  # less may be left than that
        train(names, folder, Checkpoint(folder / "checkpoints", every=every), Kill(second))
    again = train(names, folder, Checkpoint(folder / "checkpoints", every=every))
    text, tensors = outcome(whole, whole_folder)
    text_again, tensors_again = outcome(again, folder)
    assert text_again == text
    assert [n for n in tensors if tensors[n] != tensors_again.get(n)] == []
    return "resumed"


NAMES = sorted(CALLBACKS)
PAIRS = [
    pair
    for pair in combinations(NAMES, 2)
    if not ("MixedPrecision 2" in pair and set(TEXTS) & set(pair))
]  # no such LSTM on CPUs
RESULTS = Counter()


def chosen_for_two():
    """Choose what two processes try: each callback alone, and a part of the pairs."""
    names = [
        name for name in NAMES if name not in (*TEXTS, "AverageGradients", "DistributedCallback")
    ]
    pairs = random.Random(2).sample([*combinations(names, 2)], 20)
    return [(*chosen, "DistributedCallback") for chosen in [*((name,) for name in names), *pairs]]


def main(folder):
    """Try them in one of two processes, and write down what has come of each."""
    found = {}
    with meet() as (rank, _):
        for names in chosen_for_two():
            try:
                found["+".join(names)] = check_pair(
                    names, folder / "+".join(names), random.Random("+".join(names))
                )
            except AssertionError as error:
                found["+".join(names)] = f"process {rank}: {error}"
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


def one_training(folder, n):
    """Train in one of two processes; the second one is killed by SIGKILL after n batches."""
    with meet() as (rank, _):
        names = ["SaveBest", "GradientAccumulation", "CSVLogger", "DistributedCallback"]
        power_cut = [PowerCut(n)] if rank == 1 and n else []
        learn = train(names, folder, Checkpoint(folder / "checkpoints", every=2), *power_cut)
        text, tensors = outcome(learn, folder)
    found = {name: digest(raw) for name, raw in tensors.items()}
    (folder / f"rank{rank}.json").write_text(json.dumps([text, found]))


class PowerCut(Kill):
    def after_batch(self, learn):
        self.count += 1
        if self.count == self.n:
            os.kill(os.getpid(), signal.SIGKILL)


def run_two(*arguments):
    """Run this file in two processes, and return their exit codes and errors."""
    keep = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "EXP_DEVICE": "cpu",
        "WORLD_SIZE": "2",
        "PYTHONPATH": str(Path(exp.__file__).parent.parent),
    }
    command = [sys.executable, __file__, *map(str, arguments)]
    with TemporaryDirectory() as meeting:
        processes = [
            subprocess.Popen(
                command,
                stderr=subprocess.PIPE,
                text=True,
                env={**keep, "RANK": str(r), "MEETING": meeting},
            )
            for r in range(2)
        ]
        try:
            errors = [process.communicate(timeout=420)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
    return [process.returncode for process in processes], errors


def meet():
    """Let the two processes meet in a file; a port could be taken by someone else."""
    return process_group(
        init_method=f"file://{os.environ['MEETING']}/store",
        world_size=2,
        rank=int(os.environ["RANK"]),
    )


@pytest.mark.slow
def test_one_of_two_processes_is_killed(tmp_path):
    """The other one ends with an error; started again, both end as if nothing had happened."""
    assert run_two(tmp_path / "whole", 0)[0] == [0, 0]
    codes, errors = run_two(tmp_path / "killed", 7)
    assert codes[1] == -signal.SIGKILL and codes[0] == 1, errors[0][-2000:]
    codes, errors = run_two(tmp_path / "killed", 0)
    assert codes == [0, 0], errors[0][-3000:]
    for r in range(2):
        whole, again = (
            json.loads((tmp_path / name / f"rank{r}.json").read_text())
            for name in ("whole", "killed")
        )
        assert again == whole


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Both are killed at the same batch, and both resume; each has its own random numbers."""
    codes, errors = run_two(tmp_path)
    assert codes == [0, 0], errors[0][-3000:]
    first, second = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in range(2))
    print(f"\non two processes: {Counter(first.values())}")
    assert first == second
    assert not [result for result in first.values() if result.startswith("process")]
    assert list(first.values()).count("resumed") >= 0.8 * len(first)


def test_every_callback_of_the_library_takes_part():
    named = {name.split(" ")[0] for name in CALLBACKS} | {*BASES, *ALWAYS, *TRANSLATORS}
    found = library_callbacks()
    missing = sorted(set(found) - named)
    assert not missing, f"{missing}: say in CALLBACKS how to make them"
    assert not sorted(named - set(found)), "entries of classes that are gone"
    repeatable = {name for name, kind in found.items() if kind.repeatable} - {*BASES}
    assert {f"{name} 2" for name in repeatable} <= set(CALLBACKS), "two of them are a pair as well"


@pytest.mark.parametrize("pair", PAIRS, ids="+".join)
def test_a_pair_resumes_or_is_refused(pair, tmp_path):
    result = check_pair(pair, tmp_path, random.Random("+".join(pair)))
    RESULTS[result] += 1


def test_count():
    """Print how many pairs were resumed, and why the others were refused (pytest -s)."""
    refused = {reason: n for reason, n in RESULTS.items() if reason != "resumed"}
    print(
        f"\n{sum(RESULTS.values())} pairs: {RESULTS['resumed']} resumed, "
        f"{sum(refused.values())} refused"
    )
    for reason, n in refused.items():
        print(f"  {n}: {reason}")


class Forgetful(Callback):
    """Raise the loss with each step, and tell no checkpoint how far it is."""

    def __init__(self):
        self.steps = 0

    def after_loss(self, learn):
        if learn.training:
            self.steps += 1
            learn.loss = learn.loss * (1 + 0.1 * self.steps)


def test_a_state_that_is_forgotten_is_noticed(tmp_path, monkeypatch):
    """So that the tests above cannot pass for a wrong reason."""
    monkeypatch.setitem(CALLBACKS, "Forgetful", lambda folder: Forgetful())
    with pytest.raises(AssertionError, match="assert"):
        check_pair(["Forgetful", "GradientClip"], tmp_path, random.Random(1))


@pytest.mark.parametrize("seed", range(4))
def test_many_at_once(seed, tmp_path):
    """Not only pairs: half of all callbacks, drawn at random."""
    draw = random.Random(seed)
    names = draw.sample([n for n in NAMES if n not in TEXTS], len(NAMES) // 2)
    check_pair(sorted(names), tmp_path, draw)


if __name__ == "__main__":
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(400, exit=True)
    os.fsync = lambda handle: None
    if sys.argv[2:]:
        one_training(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main(Path(sys.argv[1]))
