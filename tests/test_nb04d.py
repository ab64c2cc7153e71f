"""Checkpoints and resume, in one process; the kills are in test_resume.py."""

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import small_learner
import torch
import torch.nn.functional as F
from torch import nn

import exp
from exp.nb00 import test_eq
from exp.nb03b import DataLoader, DataLoaders
from exp.nb03d import random_state
from exp.nb03f import Callback
from exp.nb03h import read_state, write_state
from exp.nb04 import Learner
from exp.nb04a import CSVLogger
from exp.nb04b import (
    DeviceCallback,
    EarlyStopping,
    GradientAccumulation,
    GradientClip,
    StopOnNaN,
)
from exp.nb04d import Checkpoint, SaveBest, load_learner, save_learner
from exp.nb05 import LinearSchedule, ScheduleCallback
from exp.nb06a import ActivationStatsCallback


def learner(callbacks=(), hidden=8, **options):
    """The small learner, with all that makes a training hard to repeat."""
    make_model = options.pop("make_model", small_learner.noisy)
    options = {"opt_func": partial(torch.optim.SGD, momentum=0.9), "n": 30, **options}
    return small_learner.learner(callbacks, make_model=partial(make_model, hidden), **options)


class Stop(Callback):
    """Fail at a batch of an epoch, as a crash would."""

    order, only_watches = 20_000, True

    def __init__(self, epoch, batch):
        self.epoch, self.batch = epoch, batch

    def after_batch(self, learn):
        if learn.training and (learn.epoch, learn.batch_index) == (self.epoch, self.batch):
            raise ZeroDivisionError("crash")


def record(learn):
    """Everything that was recorded but the times."""
    return {**learn.recorder.state_dict(), "seconds": None}


def resumed(script, folder, *place):
    """Let a training crash at this batch of this epoch; start it again, and give what it became."""
    with pytest.raises(ZeroDivisionError):
        script(folder, Stop(*place))
    return script(folder)


# ---------------------------------------------------------------- learners in files


def test_a_learner_goes_on_in_a_new_fit(tmp_path):
    learn = learner()
    learn.fit(2)
    save_learner(learn, tmp_path / "l")
    other = learner(seed=9)
    load_learner(other, tmp_path / "l")
    torch.manual_seed(4)
    learn.fit(1)
    torch.manual_seed(4)
    other.fit(1)
    test_eq(other.model.state_dict(), learn.model.state_dict())
    test_eq(other.opt.state_dict(), learn.opt.state_dict())
    assert other.n_steps == learn.n_steps and len(other.recorder.epochs) == 3


def test_the_text_in_a_file_is_plain_json(tmp_path):
    from safetensors import safe_open

    path = save_learner(learner(), tmp_path / "l")
    with safe_open(path, framework="pt") as file:
        json.loads(file.metadata()["state"])


def test_a_lambda_in_an_optimizer_is_named(tmp_path):
    learn = learner([Checkpoint(tmp_path)])
    learn.opt.param_groups[0]["rule"] = lambda step: 0.1
    place = "optimizer.param_groups.0.rule"
    with pytest.raises(TypeError, match=f"{place}: a function.*<lambda>"):
        learn.fit(1)
    assert not list(tmp_path.glob("*"))


# ---------------------------------------------------------------- resume, in one process


def train(folder, crash=None, **options):
    """Two fits of two epochs; after a crash, the whole script once more."""

    def script(*callbacks):
        learn = learner([Checkpoint(folder, every=2), *callbacks], **options)
        learn.fit(2)
        learn.fit(1, lr=0.01)
        return learn

    if crash:
        with pytest.raises(ZeroDivisionError):
            script(Stop(*crash))
    return script()


@pytest.mark.parametrize(
    "opt_func",
    [
        torch.optim.SGD,
        torch.optim.Adam,
        partial(torch.optim.AdamW, amsgrad=True),
        torch.optim.RMSprop,
        partial(torch.optim.SGD, momentum=0.9, nesterov=True),
    ],
)
def test_resumes_with_any_optimizer(tmp_path, opt_func):
    whole = train(tmp_path / "a", opt_func=opt_func)
    again = train(tmp_path / "b", crash=(1, 5), opt_func=opt_func)
    test_eq(again.model.state_dict(), whole.model.state_dict())
    test_eq(again.opt.state_dict(), whole.opt.state_dict())
    test_eq(record(again), record(whole))


def test_resumes_with_workers(tmp_path):
    whole = train(tmp_path / "a", workers=2)
    again = train(tmp_path / "b", crash=(0, 4), workers=2)
    test_eq(again.model.state_dict(), whole.model.state_dict())


def test_resumes_with_torchs_loader(tmp_path):
    def script(folder, *callbacks):
        learn = learner([Checkpoint(tmp_path / folder, every=1), *callbacks])
        dataset = learn.dls.train.dataset
        draw = torch.Generator().manual_seed(2)
        loader = torch.utils.data.DataLoader(dataset, 4, shuffle=True, generator=draw)
        learn.dls = DataLoaders(loader, None)
        learn.fit(3)
        return learn

    whole = script("a")
    again = resumed(script, "b", 1, 2)
    test_eq(again.model.state_dict(), whole.model.state_dict())
    test_eq(again.recorder.losses, whole.recorder.losses)


def test_resumes_in_the_middle_of_gathered_gradients(tmp_path):
    def script(folder, *callbacks):
        checkpoint = Checkpoint(tmp_path / folder, every=1)
        learn = learner([GradientAccumulation(3), checkpoint, *callbacks])
        learn.fit(2)
        return learn

    whole = script("a")
    for batch in (0, 1, 2):
        again = resumed(script, f"b{batch}", 1, batch)
        test_eq(again.model.state_dict(), whole.model.state_dict())


def test_a_retry_in_the_same_process_resumes(tmp_path):
    whole = learner([Checkpoint(tmp_path / "a", every=1)])
    whole.fit(2)
    learn = learner([Checkpoint(tmp_path / "b", every=1)])
    with pytest.raises(ZeroDivisionError):
        learn.fit(2, callbacks=[Stop(1, 3)])
    learn.fit(2)
    test_eq(learn.model.state_dict(), whole.model.state_dict())
    test_eq(learn.recorder.losses, whole.recorder.losses)


def test_events_of_a_resumed_fit(tmp_path):
    """before_epoch comes once in each process; no batch comes twice."""
    seen = []

    class Note(Callback):
        def before_epoch(self, learn):
            seen.append(("epoch", learn.epoch))

        def before_batch(self, learn):
            if learn.training:
                seen.append((learn.epoch, learn.batch_index))

    with pytest.raises(ZeroDivisionError):
        learner([Checkpoint(tmp_path, every=3), Note(), Stop(0, 3)]).fit(2)
    seen.clear()
    learner([Checkpoint(tmp_path, every=3), Note()]).fit(2)
    assert seen == [("epoch", 0), *[(0, i) for i in range(3, 8)],
                    ("epoch", 1), *[(1, i) for i in range(8)]]  # fmt: skip


def test_a_look_before_the_first_batch_of_a_resumed_fit(tmp_path):
    """The evaluation must not take the place in the epoch for its own."""

    class Look(Callback):
        def before_fit(self, learn):
            learn.evaluate()

        def before_epoch(self, learn):
            learn.evaluate()

        def before_batch(self, learn):
            learn.get_preds()

    def script(folder, *callbacks):
        learn = learner([Checkpoint(tmp_path / folder, every=2), Look(), *callbacks])
        learn.fit(2)
        return learn

    whole = learner()
    whole.fit(2)
    again = resumed(script, "b", 1, 4)
    test_eq(again.model.state_dict(), whole.model.state_dict())
    assert again.recorder.losses == whole.recorder.losses


def test_old_checkpoints_go(tmp_path):
    learner([Checkpoint(tmp_path, every=1, keep=3)]).fit(1)
    assert [f.name for f in sorted(tmp_path.iterdir())] == [
        "fit1_epoch000000_batch00000007.safetensors",
        "fit1_epoch000000_batch00000008.safetensors",
        "fit1_epoch000001_batch00000000.safetensors",
    ]


def test_what_a_killed_process_did_not_clear_away_goes(tmp_path):
    """Killed after it had written the last file of a fit, before it removed the old one."""
    checkpoint = Checkpoint(tmp_path, every=1, keep=9)
    learner([checkpoint]).fit(1)
    (tmp_path / ".fit1_x.tmp").mkdir()
    learner([Checkpoint(tmp_path, keep=1)]).fit(1)
    assert [f.name for f in tmp_path.iterdir()] == ["fit1_epoch000001_batch00000000.safetensors"]


def test_other_metrics_are_refused_and_nothing_changes(tmp_path):
    learner([Checkpoint(tmp_path)]).fit(2)
    other = learner([Checkpoint(tmp_path)], metrics={"other": lambda pred, target: 0.5})
    before = {name: t.clone() for name, t in other.model.state_dict().items()}
    with pytest.raises(ValueError, match=r"metrics .*this one has \['other'\]"):
        other.fit(2)
    test_eq(other.model.state_dict(), before)


def test_the_loss_has_a_state_too(tmp_path):
    class Centred(nn.Module):
        """Counts its calls in a buffer, and depends on them."""

        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, pred, target):
            self.calls += 1
            return F.cross_entropy(pred, target) * (1 + 0.1 * self.calls)

    def script(folder, *callbacks):
        learn = learner([Checkpoint(tmp_path / folder, every=1), *callbacks])
        learn.loss_func = Centred()
        learn.fit(2)
        return learn

    whole = script("a")
    again = resumed(script, "b", 1, 3)
    test_eq(again.recorder.losses, whole.recorder.losses)
    assert again.loss_func.calls == whole.loss_func.calls


def test_another_training_is_refused(tmp_path):
    learner([Checkpoint(tmp_path)]).fit(2)
    adam = torch.optim.Adam
    attempts = {
        "model.layers.0: .*out_features=8.* then, .*out_features=9": (dict(hidden=9), 2, None),
        "optimizer.class: 'torch.optim.sgd:SGD' then, .*adam:Adam": (dict(opt_func=adam), 2, None),
        "n_epochs: 2 then, 3 now.*extend=True": ({}, 3, None),
        "optimizer.groups.0.lr: 0.1 then, 0.3 now": ({}, 2, 0.3),
        "callbacks.exp.nb04b:EarlyStopping: .* now, absent then": (
            dict(callbacks=[EarlyStopping()]),
            2,
            None,
        ),
        "seed: 1 then, 2 now\n  weights: .*seed_everything": (dict(seed=2), 2, None),
    }
    for message, (options, n_epochs, lr) in attempts.items():
        callbacks = [Checkpoint(tmp_path), *options.pop("callbacks", [])]
        with pytest.raises(ValueError, match=f"(?s)belongs to another run.*{message}"):
            learner(callbacks, **options).fit(n_epochs, lr)
    learn = learner([Checkpoint(tmp_path)])
    learn.dls = DataLoaders(DataLoader(learn.dls.train.dataset, 5), None)
    with pytest.raises(ValueError, match="train.batches: 8 then, 6 now"):
        learn.fit(2)
    with pytest.raises(FileExistsError, match="resume is False"):
        learner([Checkpoint(tmp_path, resume=False)]).fit(2)


def test_checkpoints_hold_all_random_numbers(tmp_path):
    learn = learner([Checkpoint(tmp_path)])
    learn.fit(1)
    state, now = read_state(next(tmp_path.iterdir()))["random"], random_state(learn.loaders)
    test_eq(state, now)


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    learner([Checkpoint(tmp_path / "c"), SaveBest(tmp_path / "best", restore=False)]).fit(1)
    assert list((tmp_path / "c").iterdir()) == [] and not (tmp_path / "best").exists()


@pytest.mark.cuda
def test_what_is_saved_on_one_device_loads_on_the_other(tmp_path):
    def script(folder, device, *callbacks):
        checkpoint = Checkpoint(tmp_path / folder, every=2)
        learn = learner([DeviceCallback(device), checkpoint, *callbacks])
        learn.fit(2)
        return learn

    for first, second in (("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")):
        folder = f"{first}-{second}"
        with pytest.raises(ZeroDivisionError):
            script(folder, first, Stop(1, 3))
        learn = script(folder, second)
        assert next(learn.model.parameters()).device.type == second
        assert len(learn.recorder.losses) == 16
    whole, again = script("whole", "cuda"), learn
    test_eq(again.model.state_dict(), whole.model.state_dict())  # cuda to cuda: to the last bit


# ---------------------------------------------------------------- the same run, or another


ELSE = {  # what a sweep may vary, and where the refusal must name it
    "seed": (dict(seed=2), "seed: 1 then, 2 now"),
    "weight decay": (
        dict(opt_func=partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1)),
        "optimizer.groups.0.weight_decay: 0 then, 0.1 now",
    ),
    "momentum": (dict(opt_func=partial(torch.optim.SGD, momentum=0.8)), "groups.0.momentum"),
    "data": (dict(n=31), "train.data"),
    "batch size": (dict(batch_size=5), "train.batch_size: 4 then, 5 now"),
}


@pytest.mark.parametrize("what", ELSE)
def test_a_sweep_in_one_folder_is_refused(tmp_path, what):
    options, place = ELSE[what]
    learner([Checkpoint(tmp_path)]).fit(1)
    files = {f.name: f.read_bytes() for f in tmp_path.iterdir()}
    other = learner([Checkpoint(tmp_path)], **options)
    before = {name: t.clone() for name, t in other.model.state_dict().items()}
    with pytest.raises(ValueError, match="belongs to another run") as caught:
        other.fit(1)
    assert place in str(caught.value) and "another folder" in str(caught.value)
    assert other.n_steps == 0
    test_eq(other.model.state_dict(), before)
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
    "change",
    [
        "loss",
        "smoothing",
        "dropout",
        "frozen",
        "data",
        "labels",
        "clip",
        "another callback",
        "one callback less",
    ],
)
def test_another_run_is_named(tmp_path, change):
    def script(changed):
        clip = [GradientClip(2.0 if changed and change == "clip" else 1.0)]
        if changed and change == "one callback less":
            clip = []
        stop = [StopOnNaN()] if changed and change == "another callback" else []
        learn = learner([Checkpoint(tmp_path), *clip, *stop])
        learn.loss_func = nn.CrossEntropyLoss()
        if changed and change == "loss":
            learn.loss_func = nn.MultiMarginLoss()
        if changed and change == "smoothing":
            learn.loss_func = nn.CrossEntropyLoss(label_smoothing=0.1)
        if changed and change == "dropout":
            learn.model[2].p = 0.5
        if changed and change == "frozen":
            learn.model[0].bias.requires_grad_(False)
        if changed and change == "data":
            learn.dls.train.dataset.tensors[0][3, 2] += 1
        if changed and change == "labels":
            learn.dls.train.dataset.tensors[1][3] = 2 - learn.dls.train.dataset.tensors[1][3]
        learn.fit(1)

    script(False)
    script(False)  # the same script once more
    places = {
        "loss": "loss",
        "smoothing": "loss.layers.itself",
        "dropout": "model.layers.2",
        "frozen": "model.frozen",
        "data": "train.data.tensors.0",
        "labels": "train.data.tensors.1",
        "clip": "GradientClip.max_norm: 1.0 then, 2.0 now",
        "another callback": "StopOnNaN: ",
        "one callback less": "GradientClip: ",
    }
    with pytest.raises(ValueError, match=f"(?s)another run.*{places[change]}"):
        script(True)


def test_what_only_watches_may_come_and_go(tmp_path, recwarn):
    learner([Checkpoint(tmp_path), CSVLogger(tmp_path / "a.csv")], progress=True).fit(1)

    class Look(Callback):
        only_watches = True

    class Mixup(Callback):
        pass

    looks = [Look(), ActivationStatsCallback(nn.Linear)]
    learner([Checkpoint(tmp_path), *looks], progress=False).fit(1)
    learner([Checkpoint(tmp_path), CSVLogger(tmp_path / "b.csv")]).fit(1)
    assert not recwarn.list
    with pytest.warns(RuntimeWarning, match="Mixup is new; if it changes the training"):
        learner([Checkpoint(tmp_path), Mixup()]).fit(1)


def test_differences_may_be_overruled(tmp_path):
    learner([Checkpoint(tmp_path)]).fit(1)
    learn = learner([Checkpoint(tmp_path, check=False)], seed=3, lr=0.7)
    learn.fit(2)
    assert len(learn.recorder.epochs) == 2 and learn.n_steps == 16
    with pytest.raises(ValueError, match="another model"):
        learner([Checkpoint(tmp_path, check=False)], hidden=9).fit(2)


def test_a_log_may_be_added_on_the_way(tmp_path):
    with pytest.raises(ZeroDivisionError):
        learner([Checkpoint(tmp_path / "c"), Stop(1, 3)]).fit(3)
    learn = learner([Checkpoint(tmp_path / "c"), CSVLogger(tmp_path / "log.csv")])
    learn.fit(3)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3  # a head, epochs 2 and 3
    assert len(learn.recorder.epochs) == 3


def test_a_finished_run_is_extended(tmp_path):
    def script(n_epochs, **options):
        learn = learner([Checkpoint(tmp_path / "a", every=3, **options), EarlyStopping(patience=9)])
        learn.fit(n_epochs)
        return learn

    script(2)
    with pytest.raises(ValueError, match="(?s)n_epochs: 2 then, 4 now.*extend=True"):
        script(4)
    again = script(4, extend=True)
    whole = learner([EarlyStopping(patience=9)])
    whole.fit(4)
    test_eq(again.model.state_dict(), whole.model.state_dict())
    test_eq(record(again), record(whole))
    assert script(4, extend=True).n_steps == whole.n_steps  # extend may stay in the script
    with pytest.raises(ValueError, match="n_epochs: 4 then, 3 now"):
        script(3, extend=True)


def test_a_schedule_cannot_be_extended(tmp_path):
    def script(n_epochs, extend=False):
        schedule = ScheduleCallback("lr", LinearSchedule(0.1, 0.01))
        learner([Checkpoint(tmp_path, extend=extend), schedule]).fit(n_epochs)

    script(2)
    with pytest.raises(ValueError, match="2 epochs are not the beginning of 3; .*second one"):
        script(3, extend=True)
    script(2, extend=True)


SCRIPT = """
import os, sys, numpy, torch, torch._dynamo
from torch import nn
from exp import Learner, DataLoaders, TensorDataset, Checkpoint

for folder, seed in zip(sys.argv[1::2], sys.argv[2::2]):
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    for stream in (1, 2):
        os.dup2(os.open(f"{folder}/{stream}.txt", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), stream)
    try:
        exec(seed)
        x = torch.from_numpy(numpy.random.rand(20, 3)).float()
        dls = DataLoaders.from_datasets(TensorDataset(x, x[:, :1]), None, batch_size=4)
        learn = Learner(nn.Linear(3, 1), dls, nn.MSELoss(), 0.1, callbacks=[Checkpoint(folder)],
                        progress=False)
        learn.fit(2)
        print(learn.model.weight.tolist(), flush=True)
    except ValueError as error:
        print(error, file=sys.stderr)
    os._exit(0)  # a fork need not take down all that was imported
"""
SEEDS = {
    "": "seed weights train",
    "torch.manual_seed(0)": "train",
    "numpy.random.seed(0)": "seed weights",
    "numpy.random.seed(0); torch.manual_seed(0)": "",
}


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """What a script with each line of SEEDS says in a first and a second start, and its errors.

    A start imports once for all: each script goes on in a fork of its own, where nothing is drawn.
    """
    folders = {seed: str(tmp_path_factory.mktemp("seed")) for seed in SEEDS}
    words = [word for seed, folder in folders.items() for word in (folder, seed)]
    environment = {**os.environ, "PYTHONPATH": str(Path(exp.__file__).parent.parent)}
    said = {seed: [] for seed in SEEDS}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", SCRIPT, *words], env=environment, check=True)
        for seed, folder in folders.items():
            said[seed].append([Path(folder, f"{i}.txt").read_text() for i in (1, 2)])
    return said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(("seed", "names"), SEEDS.items())
def test_scripts_without_a_seed(starts, seed, names):
    """Neither PyTorch nor NumPy starts alike in each process: warned of first, then refused."""
    (first, warned), (second, refused) = starts[seed]
    assert first, warned
    assert ("no seed was set" in warned) == ("seed" in names)
    if not names:
        assert second.splitlines()[-1] == first.splitlines()[-1]
        return
    assert not second and "call seed_everything(…)" in refused
    for name in ("seed", "weights", "train"):
        assert (f"  {name}" in refused) == (name in names), refused


# ---------------------------------------------------------------- what is hard to resume


def test_loaders_with_a_numpy_generator(tmp_path):
    class Shuffled:
        def __init__(self, batches):
            self.batches, self.rng = batches, np.random.default_rng(0)

        def __len__(self):
            return len(self.batches)

        def __iter__(self):
            return (self.batches[i] for i in self.rng.permutation(len(self.batches)))

    def script(folder, *callbacks):
        learn = learner([Checkpoint(tmp_path / folder, every=2), *callbacks])
        learn.dls = DataLoaders(Shuffled(list(learner().dls.valid) * 4), None)
        learn.fit(3)
        return learn

    whole = script("a")
    again = resumed(script, "b", 1, 4)
    assert again.recorder.losses == whole.recorder.losses


def test_persistent_workers_are_refused_before_the_fit(tmp_path):
    learn = learner([Checkpoint(tmp_path)])
    loader = torch.utils.data.DataLoader(
        learn.dls.train.dataset, 4, num_workers=1, persistent_workers=True
    )
    for dls in (DataLoaders(loader, None), DataLoaders(learn.dls.train, loader)):
        learn.dls = dls
        with pytest.raises(ValueError, match="build it with persistent_workers=False"):
            learn.fit(1)
    assert learn.n_steps == 0


class Unfreeze(Callback):
    """Begin with the last layer; add the others, as a group of its own, in the second epoch."""

    def before_fit(self, learn):
        if learn.n_fits == 0 and len(learn.opt.param_groups) == 1:
            learn.model[:3].requires_grad_(False)

    def before_epoch(self, learn):
        if learn.n_fits == 0 and learn.epoch == 1:
            learn.model[:3].requires_grad_(True)
            learn.opt.add_param_group({"params": list(learn.model[:3].parameters()), "lr": 0.01})


@pytest.mark.parametrize("epoch", [0, 1, 2])
@pytest.mark.parametrize("batch", [2, 5])
def test_groups_that_are_added_during_a_fit(tmp_path, epoch, batch):
    def script(folder, *callbacks):
        learn = learner(
            [Checkpoint(tmp_path / folder, every=3), Unfreeze(), *callbacks],
            groups=lambda model: [{"params": list(model[3].parameters())}],
        )
        learn.fit(3)
        learn.fit(1, lr=[0.1, 0.02])
        return learn

    whole = script("a")
    again = resumed(script, "b", epoch, batch)
    test_eq(again.model.state_dict(), whole.model.state_dict())
    test_eq(again.opt.state_dict(), whole.opt.state_dict())
    test_eq(again.recorder.lrs, whole.recorder.lrs)
    assert [p.requires_grad for p in again.model.parameters()] == [True] * 6


def test_a_retry_of_a_fit_that_has_added_a_group(tmp_path):
    def script(folder):
        return learner(
            [Checkpoint(tmp_path / folder), Unfreeze()],
            groups=lambda model: [{"params": list(model[3].parameters())}],
        )

    whole = script("a")
    whole.fit(3)
    learn = script("b")
    with pytest.raises(ZeroDivisionError):
        learn.fit(3, callbacks=[Stop(1, 3)])
    learn.fit(3)  # from the end of the first epoch, when there was one group
    test_eq(learn.model.state_dict(), whole.model.state_dict())


def test_averages_find_their_parameters_by_name(tmp_path):
    def script(order):
        return learner(
            groups=lambda model: [
                {"params": [p]} for p in sorted(model.parameters(), key=lambda p: order * p.numel())
            ],
            opt_func=torch.optim.Adam,
        )

    learn, other = script(1), script(-1)
    learn.fit(1)
    save_learner(learn, tmp_path / "l")
    load_learner(other, tmp_path / "l")
    for (name, mine), p in zip(
        learn.model.named_parameters(), other.model.parameters(), strict=True
    ):
        assert torch.equal(learn.opt.state[mine]["exp_avg"], other.opt.state[p]["exp_avg"]), name
    stranger = learner(
        groups=lambda model: [list(model[3].parameters())], opt_func=torch.optim.Adam
    )
    with pytest.raises(ValueError, match="an optimizer with the parameters"):
        load_learner(stranger, tmp_path / "l")


def test_a_resumed_optimizer_has_the_same_groups(tmp_path):
    def script(first):
        learn = learner(
            [Checkpoint(tmp_path, check=False)],
            groups=lambda model: [
                {"params": list(model[first].parameters())},
                {"params": list(model[3 - first].parameters())},
            ],
        )
        learn.fit(1)

    script(0)
    with pytest.raises(ValueError, match="an optimizer with the parameters .*'0.weight'"):
        script(3)


def test_a_loaded_learner_keeps_its_own_settings(tmp_path):
    learn = learner(lr=0.1)
    learn.fit(1)
    save_learner(learn, tmp_path / "l")
    other = learner(lr=0.001, opt_func=partial(torch.optim.SGD, momentum=0.5))
    other.model[0].requires_grad_(False)
    load_learner(other, tmp_path / "l")
    assert other.lr == 0.001 and other.opt.param_groups[0]["momentum"] == 0.5
    assert not other.model[0].weight.requires_grad
    other.fit(1)
    assert other.recorder.lrs[-1] == [0.001]


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(4, 3, dtype=torch.complex64))

    def forward(self, x):
        return (torch.fft.rfft(x) @ self.filter).abs()


@pytest.mark.parametrize(
    ("make_model", "opt_func"),
    [
        (Spectral, torch.optim.Adam),
        (
            lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.LazyLinear(3)),
            torch.optim.SGD,
        ),
    ],
    ids=["complex", "lazy"],
)
def test_unusual_models(tmp_path, make_model, opt_func):
    def script(folder, *callbacks):
        learn = small_learner.learner(
            [Checkpoint(tmp_path / folder, every=3), *callbacks],
            make_model=make_model,
            opt_func=opt_func,
        )
        learn.fit(2)
        return learn

    whole = script("a")
    again = resumed(script, "b", 1, 4)
    test_eq(again.model.state_dict(), whole.model.state_dict())
    test_eq(again.opt.state_dict(), whole.opt.state_dict())


def test_a_wrapper_may_come_and_go(tmp_path):
    """Compiled or in a DataParallel, and resumed without: the same names, the same bits."""

    def script(folder, wrap, *callbacks):
        learn = learner(
            [Checkpoint(tmp_path / folder, every=3), *callbacks],
            make_model=lambda hidden: wrap(small_learner.noisy(hidden)),
        )
        learn.fit(2)
        return learn

    whole = script("a", lambda model: model)
    with pytest.raises(ZeroDivisionError):
        script("b", partial(torch.compile, backend="eager"), Stop(0, 4))
    with pytest.raises(ZeroDivisionError):
        script("b", nn.DataParallel, Stop(1, 3))
    again = script("b", lambda model: model)
    test_eq(again.model.state_dict(), whole.model.state_dict())
    test_eq(again.opt.state_dict(), whole.opt.state_dict())


def test_sparse_gradients_in_an_accumulation_window(tmp_path):
    batches = [(torch.randint(6, (4,)), torch.randint(3, (4,))) for _ in range(8)]

    def script(folder, *callbacks):
        torch.manual_seed(1)
        learn = Learner(
            nn.Embedding(6, 3, sparse=True),
            DataLoaders(batches, None),
            nn.CrossEntropyLoss(),
            0.1,
            progress=False,
            callbacks=[GradientAccumulation(3), Checkpoint(tmp_path / folder, every=1), *callbacks],
        )
        learn.fit(2)
        return learn

    whole = script("a")
    for batch in (0, 1):
        again = resumed(script, f"b{batch}", 1, batch)
        test_eq(again.model.state_dict(), whole.model.state_dict())


def test_a_number_of_steps(tmp_path):
    def script(folder, *callbacks):
        learn = learner([Checkpoint(tmp_path / folder, every=1), *callbacks])
        learn.fit(n_steps=13)
        learn.fit(n_steps=5)
        return learn

    whole = script("a")
    for place in ((0, 2), (1, 3)):
        again = resumed(script, str(place), *place)
        test_eq(again.model.state_dict(), whole.model.state_dict())
        assert again.n_steps == whole.n_steps == 18
        test_eq(record(again), record(whole))


def test_frozen_norms_stay_frozen(tmp_path):
    """A norm that is unfrozen in an epoch trains from the next one on, resumed or not."""

    class Thaw(Callback):
        def before_epoch(self, learn):
            if learn.epoch == 1:
                learn.model[1].requires_grad_(True)

    def script(folder, *callbacks):
        learn = learner([Checkpoint(tmp_path / folder, every=2), Thaw(), *callbacks])
        learn.model[1].requires_grad_(False)
        learn.fit(3)
        return learn

    whole = script("a")
    for epoch in (0, 1, 2):
        again = resumed(script, f"b{epoch}", epoch, 4)
        test_eq(again.model.state_dict(), whole.model.state_dict())


def test_files_of_several_processes_are_not_for_one(tmp_path):
    learner([Checkpoint(tmp_path)]).fit(1)
    [path] = tmp_path.iterdir()
    write_state(path, {**read_state(path), "processes": 2})
    with pytest.raises(ValueError, match="written by 2 processes, this is one of 1; start as many"):
        learner([Checkpoint(tmp_path)]).fit(1)
    write_state(path, {key: part for key, part in read_state(path).items() if key != "run"})
    with pytest.raises(ValueError, match="earlier version"):
        learner([Checkpoint(tmp_path)]).fit(1)


# ---------------------------------------------------------------- best weights


class Watched(small_learner.Course):
    """Keep the weights of each epoch, too."""

    def after_epoch(self, learn):
        super().after_epoch(learn)
        self.weights = [*getattr(self, "weights", []), learn.model[0].weight.detach().clone()]


def test_the_best_weights_come_back(tmp_path):
    course, best = Watched([3, 1, 2, math.nan]), SaveBest(tmp_path / "best")
    learn = learner([course, best])
    learn.fit(4)
    assert best.best == 1 and best.best_epoch == 2
    assert torch.equal(learn.model[0].weight, course.weights[1])
    learn = learner([Watched([3, 1, 2]), SaveBest(tmp_path / "b"), Stop(2, 1)])
    with pytest.raises(ZeroDivisionError):
        learn.fit(3)
    assert torch.equal(learn.model[0].weight, learn.callback(Watched).weights[1])


def test_a_best_value_does_not_outlive_its_fit(tmp_path):
    course, best = Watched([1, 2, 3]), SaveBest(tmp_path / "best")
    learn = learner([course, best])
    learn.fit(2)
    assert best.best == 1
    course.values = [9, 8, 7]
    learn.fit(3)
    assert (best.best, best.best_epoch) == (7, 3)
    assert torch.equal(learn.model[0].weight, course.weights[-1])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_result_that_is_never_a_number_is_warned_of(tmp_path, value):
    learn = learner([Watched([value] * 2), SaveBest(tmp_path / "best")])
    with pytest.warns(RuntimeWarning, match="valid_loss was never a number in 2 epochs"):
        learn.fit(2)
    assert not (tmp_path / "best").exists()


def test_the_best_weights_of_two_fits_resume(tmp_path):
    """Killed in the second fit, whose best is in the file that the first fit ended with."""

    def script(folder, *callbacks):
        folder = tmp_path / folder
        learn = learner([Checkpoint(folder / "c"), SaveBest(folder / "best"), *callbacks], lr=1.0)
        learn.fit(3)
        learn.fit(3, lr=0.3, callbacks=[StopInSecond()] if callbacks else [])
        return learn

    class StopInSecond(Callback):
        order, only_watches = 90, True  # after SaveBest has written, before Checkpoint has

        def after_epoch(self, learn):
            if learn.epoch == 1:
                raise ZeroDivisionError("crash")

    whole = script("a")
    with pytest.raises(ZeroDivisionError):
        script("b", Stop(9, 9))
    again = script("b")
    test_eq(again.model.state_dict(), whole.model.state_dict())
    test_eq(record(again), record(whole))
    test_eq(read_state(tmp_path / "b" / "best"), read_state(tmp_path / "a" / "best"))


def test_best_weights_that_are_gone(tmp_path):
    def script(*callbacks):
        learner([Checkpoint(tmp_path / "c"), SaveBest(tmp_path / "best"), *callbacks]).fit(3)

    with pytest.raises(ZeroDivisionError):
        script(Stop(1, 3))
    (tmp_path / "best").unlink()
    with pytest.raises(FileNotFoundError, match="best weights"):
        script()
