"""Checkpoints: a training that survives

By the end you will have training runs that can be killed at any moment and resume as if nothing had happened, to the last bit, that keep their best weights, and that refuse the folder of another run.
"""

# cell a09b0626 a6284e · Checkpoints: a training that survives
from __future__ import annotations

# generated from nbs/04d_checkpoints.ipynb: do not edit · 435045
__all__ = [
    "learner_state",
    "restore_learner",
    "save_learner",
    "load_learner",
    "checkpoint_files",
    "Checkpoint",
    "SaveBest",
]
__dir__ = __all__.copy  # what completion offers

# cell a09b0626 40ffc0 · Checkpoints: a training that survives
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03d import (
    check_counts,
    gather_objects,
    has_joined,
    is_first_process,
    process_rank,
    random_state,
    set_random_state,
)
from exp.nb03f import Callback, MetricsCallback
from exp.nb03h import check_folder_place, read_state, write_state
from exp.nb03k import compare_runs, describe_run
from exp.nb03l import check_groups, group_names, load_optimizer_state, match_groups
from exp.nb04 import Learner
from exp.nb04b import Monitor, check_best_files, model_device, to_device
from exp.nb04c import check_weights_fit, load_weights, save_weights, unwrapped


# cell 67dc4cb0 55d903 · What has to be kept?
def learner_state(learn: Learner) -> dict[str, Any]:
    """Gather everything that the next step of a training depends on."""
    named = _named_parameters(learn)
    counts = {"n_steps": learn.n_steps, "step_batches": learn.step_batches,
              "step_weight": learn.step_weight, "n_groups": learn._n_groups}
    callbacks = [{"of": type(c).__name__, "state": c.state_dict()} for c in _keepers(learn)]
    return {"parts": _parts_of(learn), "model": unwrapped(learn.model).state_dict(),
            "gradients": {name: p.grad for name, p in named.items() if p.grad is not None},
            "frozen": [name for name, p in named.items() if not p.requires_grad],
            "optimizer": learn.opt.state_dict(), "groups": group_names(learn.opt, named),
            "loss": _loss_state(learn), "callbacks": callbacks,
            "counts": counts, "random": random_state(learn.loaders)}


# cell 7dc0cceb 050872 · What has to be kept?
def _parts_of(learn: Learner) -> dict[str, Any]:
    """Name what has to be the same for a state to fit, besides the model."""
    return {"optimizer": type(learn.opt).__name__,
            "metrics": list(learn.callback(MetricsCallback).metrics),
            "callbacks": [type(c).__name__ for c in _keepers(learn) if not c.only_watches]}


def _loss_state(learn: Learner) -> dict[str, Any]:
    """Return the tensors of a loss that is a module, such as a running statistic."""
    return learn.loss_func.state_dict() if isinstance(learn.loss_func, nn.Module) else {}


def _keepers(learn: Learner) -> list[Callback]:
    """List the callbacks that have a state to keep."""
    return [c for c in learn.callbacks if type(c).state_dict is not Callback.state_dict]


def _restore_callbacks(learn: Learner, states: list[Mapping[str, Any]]) -> None:
    """Give each callback its state, by class; one that only watches may have none yet."""
    left = list(states)
    for callback in _keepers(learn):
        places = [i for i, s in enumerate(left) if s["of"] == type(callback).__name__]
        if places:
            callback.load_state_dict(left.pop(places[0])["state"])


# cell b60fe3b0 a472cc · What has to be kept?
def _named_parameters(learn: Learner) -> dict[str, Tensor]:
    """Return the parameters of the model, and of a loss that has some, by name."""
    loss = learn.loss_func
    own = dict(loss.named_parameters()) if isinstance(loss, nn.Module) else {}
    return {**dict(unwrapped(learn.model).named_parameters()),
            **{f"loss.{name}": p for name, p in own.items()}}


# cell ea37bf2d 1a21b9 · What has to be kept?
def restore_learner(learn: Learner, state: Mapping[str, Any], path: str | Path = "the state",
                    new_fit: bool = False, epoch_start: Mapping[str, Any] | None = None) -> None:
    """Put a learner into a state that `learner_state` returned.

    `new_fit`: for another fit, which draws its own random numbers and has the settings of `learn`:
    rates, weight decay, groups, what is frozen. `epoch_start` has the groups and the frozen
    parameters at the beginning of the epoch, if its `before_epoch` is still to come.
    Raises: ValueError for another model, optimizer or other callbacks; then nothing changes.
    """
    check_weights_fit(state["model"], unwrapped(learn.model).state_dict(), path)
    check_weights_fit(state["loss"], _loss_state(learn), f"the loss of {path}")
    for kind, here in _parts_of(learn).items():
        if state["parts"][kind] != here:
            raise ValueError(f"{path} is of a training with the {kind} {state['parts'][kind]}, "
                             f"this one has {here}; build the learner as it was built then")
    named, there = _named_parameters(learn), state["groups"]
    check_groups(group_names(learn.opt, named), there, named, path, same_order=not new_fit)
    start = epoch_start or {"n_groups": len(there), "frozen": state["frozen"]}
    if not new_fit:
        match_groups(learn.opt, there[:start["n_groups"]], named)
    load_optimizer_state(learn.opt, named, state["optimizer"], there, settings=not new_fit)
    unwrapped(learn.model).load_state_dict(state["model"])
    if state["loss"]:
        learn.loss_func.load_state_dict(state["loss"])
    for name, p in named.items():
        gradient = state["gradients"].get(name)
        p.grad = None if gradient is None else gradient.to(p.device, copy=True)
        if not new_fit and p.requires_grad == (name in start["frozen"]):
            p.requires_grad_(name not in start["frozen"])
    kept, counts = to_device([state["callbacks"], state["counts"]], model_device(learn.model))
    _restore_callbacks(learn, kept)
    learn.n_steps = counts["n_steps"]
    if not new_fit:
        learn.step_batches, learn.step_weight = counts["step_batches"], counts["step_weight"]
        learn._n_groups = counts["n_groups"]
        set_random_state(state["random"], learn.loaders)


# cell bbbb8118 6a8eef · What has to be kept?
def save_learner(learn: Learner, path: str | Path) -> Path:
    """Write model, optimizer, callbacks' states and random numbers into a file."""
    return write_state(path, learner_state(learn))


# cell 92bf07c4 e628c8 · What has to be kept?
def load_learner(learn: Learner, path: str | Path) -> None:
    """Read model, optimizer and callbacks' states from a file, to train on with a *new* fit.

    Rates and other settings stay those of `learn`, and what is frozen as well.
    Raises: ValueError as `restore_learner`.
    """
    restore_learner(learn, read_state(path, ["parts", "loss"]), path, new_fit=True)


# cell f632a615 d995e2 · Resuming where it stopped
def checkpoint_files(folder: Path, fit: int) -> list[Path]:
    """List the checkpoints in a folder of the fit with this number, the oldest first."""
    pattern = rf"fit{fit}_epoch\d{{6}}_batch\d{{8}}\.safetensors"
    return sorted(file for file in folder.iterdir() if re.fullmatch(pattern, file.name))


def _of_process(path: Path, rank: int) -> Path:
    """Return the file of one of several processes; the first one's is the checkpoint itself."""
    return path if rank == 0 else path.with_name(f"{path.stem}.process{rank}{path.suffix}")


# cell f1f3728d 601ae5 · Resuming where it stopped
def _remove_half_done(folder: Path) -> None:
    """Remove what a killed process left half done; only while no other process can be writing."""
    if is_first_process():
        for half in folder.glob(".fit*.tmp"):
            rmtree(half, ignore_errors=True)


def _clear_away(folder: Path, fit: int, keep: int) -> None:
    """Remove of this fit all files but the last."""
    if is_first_process():
        for old in checkpoint_files(folder, fit)[:-keep]:
            old.unlink(missing_ok=True)
            for other in folder.glob(f"{old.stem}.process*"):
                other.unlink(missing_ok=True)


# cell b8a65d18 f69c19 · Resuming where it stopped
def _resume(learn: Learner, state: Mapping[str, Any], path: Path) -> None:
    """Put a learner at the place in its fit where a checkpoint was written."""
    inside = state["n_batches"] > 0
    restore_learner(learn, state, path, epoch_start=state["epoch_start"] if inside else None)
    planned = learn._last_step - learn._first_step
    learn._first_step = learn.n_steps - state["steps_of_fit"]
    learn._last_step = learn._first_step + planned
    learn.epoch = state["epoch"]
    if inside:
        learn.numbered = partial(_pass_over, learn, state, path)
    if is_first_process() and learn.progress and (inside or learn.epoch):
        of = f" of {learn.n_epochs}" if learn.n_epochs else ""
        print(f"resumed from {path.name}: {learn.epoch}{of} epochs and {state['n_batches']} "
              "batches are done")


def _pass_over(learn: Learner, state: Mapping[str, Any], path: Path,
               loader: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Number the batches of a loader from the first one that is not done yet."""
    batches = enumerate(loader)
    for learn.batch_index, _ in islice(batches, state["n_batches"]):
        pass
    restore_learner(learn, state, path)
    return batches


# cell 3baca5c4 a1397a · Resuming where it stopped
def _processes() -> tuple[int, int]:
    """Return the rank of this process and how many have joined to train together."""
    return process_rank() if has_joined() else (0, 1)


def _wait_for_all() -> None:
    if _processes()[1] > 1:
        torch.distributed.barrier()


# cell 6738d43d 1b34e5 · Resuming where it stopped
def _write_file(path: Path, state: dict[str, Any], model: nn.Module) -> None:
    """Write a checkpoint; of several processes, each what is its own, and the first one the rest.
    """
    rank, count = _processes()
    if rank:
        buffers = {name for name, _ in model.named_buffers()}
        own = {key: value for key, value in state.items() if key not in ("model", "optimizer")}
        own["buffers"] = {name: t for name, t in state["model"].items() if name in buffers}
        write_state(_of_process(path, rank), own)
    _wait_for_all()
    if is_first_process():
        write_state(path, {**state, "processes": count})


def _read_file(path: Path) -> dict[str, Any]:
    """Read a checkpoint; of several processes, each its own part."""
    state = read_state(path)
    rank, count = _processes()
    if "run" not in state or "processes" not in state:
        raise ValueError(f"{path} was written by an earlier version of this library, and cannot be "
                         "resumed; load_weights reads its weights")
    if state["processes"] != count:
        raise ValueError(f"{path} was written by {state['processes']} processes, this is one of "
                         f"{count}; start as many, or take the weights with load_weights")
    if rank:
        own = read_state(_of_process(path, rank))
        state = {**state, **own, "model": {**state["model"], **own["buffers"]}}
    return state


# cell 64cb8828 1d2bde · Resuming where it stopped
class Checkpoint(Callback):
    """Write the training into a folder after each epoch, and every `every` batches; when the same
    script runs again, resume from the last file, to the same bits.

    `keep`: how many files of a fit stay. `resume` False refuses a folder that has files of this
    fit. A folder of another run is refused: another seed, model, loss, optimizer, data set, or
    other callbacks; with `extend` the fit may have more epochs than before, unless a callback says
    `follows_length = True`; with `check` False only what cannot be restored is refused. Callbacks
    with `only_watches = True` may differ.
    Raises: ValueError for invalid arguments, and as the fit begins for files of another run, and
        for loaders whose random numbers are out of reach (`persistent_workers`).
    """

    order, only_watches = 10_000, True  # the last one: all others have seen the batch

    def __init__(self, folder: str | Path, every: int | None = None, keep: int = 2,
                 resume: bool = True, extend: bool = False, check: bool = True):
        check_counts(every=1 if every is None else every, keep=keep)
        self.folder, self.every, self.keep = Path(folder), every, keep
        self.resume, self.extend, self.check = resume, extend, check
        self._run, self._epoch_random, self._epoch_start, self._resumed = {}, {}, {}, None
        self._begun: tuple[Any, ...] = ()  # the learner and fit of the last attempt

    def before_fit(self, learn: Learner) -> None:
        self._resumed, error = None, None
        try:
            path, state = self._find(learn)
        except (ValueError, OSError) as found:
            error = found
        if error is None:
            _remove_half_done(self.folder)
        _raise_together(error)
        self._epoch_start = _group_state(learn)
        if path:
            _resume(learn, state, path)
            self._resumed = state
            self._epoch_start = state["epoch_start"] if state["n_batches"] else _group_state(learn)
        elif learn.n_fits:
            self._write(learn, 0, 0)
        _clear_away(self.folder, learn.n_fits + 1, self.keep)

    def before_epoch(self, learn: Learner) -> None:
        if self._resumed and self._resumed["n_batches"]:
            set_random_state(self._resumed["epoch_random"], learn.loaders)
        self._resumed, self._epoch_random = None, random_state(learn.loaders)  # of its order

    def after_batch(self, learn: Learner) -> None:
        if learn.training and self.every and (learn.batch_index + 1) % self.every == 0:
            self._write(learn, learn.epoch, learn.batch_index + 1)

    def after_epoch(self, learn: Learner) -> None:
        self._epoch_start = _group_state(learn)
        self._write(learn, learn.epoch + 1, 0)

    def cleanup_fit(self, learn: Learner) -> None:
        self._resumed, self._epoch_random = None, {}

    def _find(self, learn: Learner) -> tuple[Path | None, dict[str, Any]]:
        """Find the last file of this fit, and read it if it is of the same run."""
        _check_loaders(learn)
        check_folder_place(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        fit = learn.n_fits + 1
        files = gather_objects(checkpoint_files(self.folder, fit))[0]
        if files and not self.resume:
            raise FileExistsError(f"{self.folder} holds checkpoints, and resume is False; empty "
                                  "the folder or choose another")
        first = not any(checkpoint_files(self.folder, earlier) for earlier in range(1, fit))
        again = self._begun == (learn, fit, learn.loss_func) and bool(files)
        self._run = self._describe(learn, first, again)
        self._begun = learn, fit, learn.loss_func
        if not files:
            _warn_without_seed(first)
            return None, {}
        state = _read_file(files[-1])
        if self.check:
            then = dict(state["run"])
            if self.extend:
                then["n_epochs"] = _extended(learn, then, state)
            compare_runs(then, self._run, str(self.folder))
        return files[-1], state

    def _describe(self, learn: Learner, first: bool, again: bool) -> dict[str, Any]:
        """Describe the run; a second attempt keeps what the first one has changed by training."""
        run = describe_run(learn, unwrapped(learn.model))
        if not first:  # these weights are checked by the files of the fits before
            run["weights"] = None
        if again:
            kept = {name: self._run[name] for name in ("seed", "weights", "loss", "model")}
            groups = self._run["optimizer"]["groups"]
            mine = {**run["optimizer"], "groups": run["optimizer"]["groups"][:len(groups)]}
            run = {**run, **kept, "optimizer": mine}
            for name in ("train", "valid"):
                if run[name]:
                    run[name] = {**run[name], "generators": self._run[name]["generators"]}
        return run

    def _write(self, learn: Learner, epoch: int, n_batches: int) -> None:
        """Write a file, whose name says where in which fit, and remove old ones."""
        fit = f"fit{learn.n_fits + 1}"
        path = self.folder / f"{fit}_epoch{epoch:06}_batch{n_batches:08}.safetensors"
        state = {**learner_state(learn), "run": self._run, "epoch": epoch, "n_batches": n_batches,
                 "steps_of_fit": learn.n_steps - learn._first_step,
                 "epoch_start": self._epoch_start,
                 "epoch_random": self._epoch_random if n_batches else None}
        _write_file(path, state, unwrapped(learn.model))
        _clear_away(self.folder, learn.n_fits + 1, self.keep)


# cell e6b3a04a 39a559 · Resuming where it stopped
def _raise_together(error: Exception | None) -> None:
    """Raise an error of this process, or one that another process has found."""
    texts = gather_objects(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for rank, text in enumerate(texts):
        if text is not None:
            raise ValueError(f"process {rank} refuses to begin: {text}")


def _group_state(learn: Learner) -> dict[str, Any]:
    """Return which groups there are and what is frozen, before an epoch can change it."""
    frozen = [name for name, p in _named_parameters(learn).items() if not p.requires_grad]
    return {"n_groups": len(learn.opt.param_groups), "frozen": frozen}


def _warn_without_seed(first: bool) -> None:
    """Warn if PyTorch has drawn its seed itself, which then has 64 bits."""
    if first and torch.initial_seed() >= 2**32:
        warnings.warn("no seed was set, so this script will begin with other weights when it is "
                      "started again, and its checkpoints will be refused as those of another run; "
                      "call seed_everything(…) first", RuntimeWarning, stacklevel=4)


def _check_loaders(learn: Learner) -> None:
    for loader in learn.loaders:
        if getattr(loader, "persistent_workers", False):
            raise ValueError("a loader has persistent_workers=True: its processes keep random "
                             "numbers from one epoch to the next, where no checkpoint can reach "
                             "them; build it with persistent_workers=False")


def _extended(learn: Learner, then: Mapping[str, Any], state: Mapping[str, Any]) -> int | None:
    """Return the number of epochs to compare with, if a run may be extended to that of this fit.

    Raises: ValueError if a callback goes by the length of the fit.
    """
    before, now = then["n_epochs"], learn.n_epochs
    if before is None or now is None or now <= before:
        return before
    for callback in learn.callbacks:
        if getattr(callback, "follows_length", False):
            raise ValueError(f"{type(callback).__name__} goes by the length of the fit, so that "
                             f"{before} epochs are not the beginning of {now}; keep the fit of "
                             f"{before} epochs in the script, and add a second one after it")
    return now


# cell 5e52804e e37910 · The best weights
class SaveBest(Monitor):
    """Write the weights into a file whenever the monitored result is the best of the fit so far.

    With `restore`, the best weights are restored when the fit ends, however it ends. A fit whose
    result was never a number writes no file, and warns.
    """

    def __init__(self, path: str | Path, monitor: str = "valid_loss", mode: str | None = None,
                 min_delta: float = 0.0, restore: bool = True):
        super().__init__(monitor, mode, min_delta)
        self.path, self.restore, self._n_seen = Path(path), restore, 0

    def before_fit(self, learn: Learner) -> None:
        check_best_files(learn, self)
        super().before_fit(learn)
        self._n_seen = 0

    def before_epoch(self, learn: Learner) -> None:
        if self.restore and self.best is not None and not self.path.exists():
            self.best, self._n_seen = None, 0  # nothing to restore
            raise FileNotFoundError(f"{self.path} is gone, which had the best weights so far; put "
                                    "it back, or begin anew in an empty checkpoint folder")

    def after_epoch(self, learn: Learner) -> None:
        self._n_seen += 1
        if self.is_better(learn) and is_first_process():
            save_weights(learn.model, self.path)
        _wait_for_all()  # no process reads the file before it is written

    def cleanup_fit(self, learn: Learner) -> None:
        if self.best is None and self._n_seen:
            warnings.warn(f"SaveBest({str(self.path)!r}) has saved nothing: {self.monitor} was "
                          f"never a number in {self._n_seen} epochs; the model has its last "
                          "weights", RuntimeWarning, stacklevel=2)
        if self.restore and self.best is not None:
            load_weights(learn.model, self.path)
