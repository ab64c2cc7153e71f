"""Checkpoints and resume, in one process; the kills are in test_resume.py."""

import json
import math
from functools import partial

import pytest
import small_learner
import torch
import torch.nn.functional as F
from torch import nn

from exp.nb00 import test_eq
from exp.nb03b import DataLoader, DataLoaders
from exp.nb03d import random_state
from exp.nb04 import Callback
from exp.nb04b import DeviceCallback, EarlyStopping, GradientAccumulation
from exp.nb04c import read_state
from exp.nb04d import Checkpoint, SaveBest, load_learner, save_learner

torch.set_num_threads(1)


def learner(callbacks=(), hidden=8, **options):
    """The small learner, with all that makes a training hard to repeat."""
    make_model = partial(small_learner.noisy, hidden)
    options = {"opt_func": partial(torch.optim.SGD, momentum=0.9), "n": 30, **options}
    return small_learner.learner(callbacks, make_model=make_model, **options)


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
            dict(callbacks=[EarlyStopping()]), 2, None),
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
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
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
