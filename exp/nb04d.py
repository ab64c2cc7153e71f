"""Checkpoints: a training that survives

In the end a training that was killed at any moment goes on as if nothing had happened, to the last bit, and its best weights are kept.
"""

# cell a09b0626 a6284e · Imports
from __future__ import annotations

# generated from nbs/04d_checkpoints.ipynb: do not edit · 2c3fc6
__all__ = [
    "learner_state",
    "restore_learner",
    "save_learner",
    "load_learner",
    "checkpoint_files",
    "Checkpoint",
    "SaveBest",
]

# cell a09b0626 61b978 · Imports
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from shutil import rmtree
from typing import Any

from torch import nn

from exp.nb03d import check_counts, is_first_process, loader_length, random_state, set_random_state
from exp.nb03f import Callback, MetricsCallback
from exp.nb04 import Learner
from exp.nb04b import Monitor, model_device, to_device
from exp.nb04c import check_weights_fit, load_weights, read_state, save_weights, write_state


# cell 67dc4cb0 f202ad · The whole training
def learner_state(learn: Learner) -> dict[str, Any]:
    """Gather all that the next step of a training depends on."""
    gradients = {name: p.grad for name, p in learn.model.named_parameters() if p.grad is not None}
    return {"parts": _parts_of(learn), "model": learn.model.state_dict(), "gradients": gradients,
            "optimizer": learn.opt.state_dict(), "loss": _loss_state(learn),
            "callbacks": [c.state_dict() for c in _keepers(learn)],
            "n_steps": learn.n_steps, "random": random_state(learn.loaders)}


# cell 7dc0cceb 21558c · The whole training
def _parts_of(learn: Learner) -> dict[str, Any]:
    """Name what has to be the same for a state to fit, besides the model."""
    return {"optimizer": type(learn.opt).__name__,
            "metrics": list(learn.callback(MetricsCallback).metrics),
            "callbacks": [type(c).__name__ for c in _keepers(learn)]}


# cell 2ea7fc08 13b070 · The whole training
def _loss_state(learn: Learner) -> dict[str, Any]:
    """The tensors of a loss that is a module, such as a running statistic."""
    return learn.loss_func.state_dict() if isinstance(learn.loss_func, nn.Module) else {}


# cell 7050a02d a8f2fb · The whole training
def _keepers(learn: Learner) -> list[Callback]:
    """The callbacks that have a state to keep."""
    return [c for c in learn.callbacks if type(c).state_dict is not Callback.state_dict]


# cell 88316faa 169ee9 · The whole training
def restore_learner(learn: Learner, state: Mapping[str, Any], path: str | Path = "the state",
                    random: bool = True) -> None:
    """Put a learner into a state that `learner_state` gathered; without `random`, not the random
    numbers.

    Raises: ValueError for another model, optimizer or other callbacks; then nothing changes.
    """
    check_weights_fit(state["model"], learn.model.state_dict(), path)
    check_weights_fit(state["loss"], _loss_state(learn), f"the loss of {path}")
    for kind, here in _parts_of(learn).items():
        if state["parts"][kind] != here:
            raise ValueError(f"{path} is of a training with the {kind} {state['parts'][kind]}, "
                             f"this one has {here}; build the learner as it was built then")
    learn.opt.load_state_dict(state["optimizer"])
    learn.model.load_state_dict(state["model"])
    if state["loss"]:
        learn.loss_func.load_state_dict(state["loss"])
    for name, p in learn.model.named_parameters():
        gradient = state["gradients"].get(name)
        p.grad = None if gradient is None else gradient.to(p.device, copy=True)
    kept = to_device(state["callbacks"], model_device(learn.model))
    for callback, own in zip(_keepers(learn), kept, strict=True):
        callback.load_state_dict(own)
    learn.n_steps = state["n_steps"]
    if random:
        set_random_state(state["random"], learn.loaders)


# cell bbbb8118 6a8eef · The whole training
def save_learner(learn: Learner, path: str | Path) -> Path:
    """Write model, optimizer, callbacks' states and random numbers into a file."""
    return write_state(path, learner_state(learn))


# cell 92bf07c4 10ccad · The whole training
def load_learner(learn: Learner, path: str | Path) -> None:
    """Read model, optimizer and callbacks' states from a file, to go on with a *new* fit.

    Raises: ValueError as `restore_learner`.
    """
    restore_learner(learn, read_state(path), path, random=False)


# cell f632a615 eeb6b6 · Going on where it stopped
def checkpoint_files(folder: Path, fit: int) -> list[Path]:
    """List the checkpoints in a folder of the fit with this number, the oldest first."""
    pattern = rf"fit{fit}_epoch\d{{6}}_batch\d{{8}}\.safetensors"
    return sorted(file for file in folder.iterdir() if re.fullmatch(pattern, file.name))


# cell f1f3728d 67c219 · Going on where it stopped
def _last_file(learn: Learner, folder: Path, resume: bool) -> Path | None:
    """Find the last checkpoint of this fit, if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    files = checkpoint_files(folder, learn.n_fits + 1)
    if files and not resume:
        raise FileExistsError(f"{folder} holds checkpoints, and resume is False; empty the folder "
                              "or take another")
    return files[-1] if files else None


# cell b8a65d18 9cee97 · Going on where it stopped
def _clear_away(folder: Path, fit: int, keep: int) -> None:
    """Remove what a killed process left half done, and of this fit all files but the last."""
    if is_first_process():
        for half in folder.glob(".fit*.tmp"):
            rmtree(half, ignore_errors=True)
        for old in checkpoint_files(folder, fit)[:-keep]:
            old.unlink(missing_ok=True)


# cell 816fbeb0 12a0f9 · Going on where it stopped
def _plan_of(learn: Learner) -> dict[str, Any]:
    """What has to be the same when a fit is resumed, and can be known before it."""
    return {"n_epochs": learn.n_epochs, "lrs": [group["lr"] for group in learn.opt.param_groups],
            "n_batches": loader_length(learn.dls.train)}


# cell 3baca5c4 530aea · Going on where it stopped
def _go_on(learn: Learner, path: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Put a learner to the place in its fit where a checkpoint was written, and give its state."""
    state = read_state(path)
    if state["plan"] != plan:
        raise ValueError(f"{path} is of a fit with {state['plan']}, this one has {plan}; "
                         "empty the folder, or take the weights over with load_weights")
    restore_learner(learn, state, path)

    def behind_those_done(loader: Iterable[Any]) -> Iterator[tuple[int, Any]]:
        batches = enumerate(loader)
        for learn.batch_index, _ in islice(batches, state["n_batches"]):
            pass
        restore_learner(learn, state, path)
        return batches

    learn.epoch = state["epoch"]
    learn.numbered = behind_those_done if state["n_batches"] else enumerate
    if is_first_process():
        print(f"resumed from {path.name}: {state['epoch']} of {learn.n_epochs} epochs and "
              f"{state['n_batches']} batches are done")
    return state


# cell 64cb8828 7716d8 · Going on where it stopped
class Checkpoint(Callback):
    """Write the training into a folder after each epoch and every so many batches; when the same
    script runs again, go on from the last file, to the same bits. `keep`: how many of a fit stay.

    Raises: ValueError for arguments that make no sense, or files of a different training.
    """

    order = 10_000  # the last one: every other callback has seen the batch

    def __init__(self, folder: str | Path, every: int | None = None, keep: int = 2,
                 resume: bool = True):
        check_counts(every=1 if every is None else every, keep=keep)
        self.folder, self.every, self.keep, self.resume = Path(folder), every, keep, resume
        self._plan, self._epoch_random, self._resumed = {}, {}, None

    def before_fit(self, learn: Learner) -> None:
        self._plan, path = _plan_of(learn), _last_file(learn, self.folder, self.resume)
        self._resumed = _go_on(learn, path, self._plan) if path else None
        _clear_away(self.folder, learn.n_fits + 1, self.keep)

    def before_epoch(self, learn: Learner) -> None:
        if self._resumed and self._resumed["n_batches"]:
            set_random_state(self._resumed["epoch_random"], learn.loaders)
        self._resumed, self._epoch_random = None, random_state(learn.loaders)  # of its order

    def after_batch(self, learn: Learner) -> None:
        if learn.training and self.every and (learn.batch_index + 1) % self.every == 0:
            self._write(learn, learn.epoch, learn.batch_index + 1)

    def after_epoch(self, learn: Learner) -> None:
        self._write(learn, learn.epoch + 1, 0)

    def cleanup_fit(self, learn: Learner) -> None:
        self._resumed, self._epoch_random = None, {}

    def _write(self, learn: Learner, epoch: int, n_batches: int) -> None:
        position = {"plan": self._plan, "epoch": epoch, "n_batches": n_batches,
                    "epoch_random": self._epoch_random if n_batches else None}
        _write_file(learn, self.folder, position, self.keep)


# cell e6b3a04a 37d4e6 · Going on where it stopped
def _write_file(learn: Learner, folder: Path, position: Mapping[str, Any], keep: int) -> None:
    """Write a checkpoint, whose name says where in which fit, and remove the old ones."""
    place = f"epoch{position['epoch']:06}_batch{position['n_batches']:08}"
    path = folder / f"fit{learn.n_fits + 1}_{place}.safetensors"
    if is_first_process():
        write_state(path, {**learner_state(learn), **position})
    _clear_away(folder, learn.n_fits + 1, keep)


# cell 5e52804e a87e5e · The best weights
class SaveBest(Monitor):
    """Write the weights into a file when the monitored result is better than ever before.

    With `restore`, the best weights are put back when the fit ends, however it ends.
    """

    def __init__(self, path: str | Path, monitor: str = "valid_loss", mode: str | None = None,
                 min_delta: float = 0.0, restore: bool = True):
        super().__init__(monitor, mode, min_delta)
        self.path, self.restore = Path(path), restore

    def after_epoch(self, learn: Learner) -> None:
        if self.is_better(learn) and is_first_process():
            save_weights(learn.model, self.path)

    def cleanup_fit(self, learn: Learner) -> None:
        if self.restore and self.best is not None:
            load_weights(learn.model, self.path)
