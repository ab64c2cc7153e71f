"""Checkpoints: a training that survives

In the end a training that was killed at any moment goes on as if nothing had happened, to the last bit; the best weights are kept, and a trained model travels as one file that is safe to open.
"""

# cell c5ff5d8c a6284e · Imports
from __future__ import annotations

# generated from nbs/04c_checkpoints.ipynb: do not edit
__all__ = [
    "pack",
    "unpack",
    "FORMAT",
    "write_state",
    "read_state",
    "save_weights",
    "load_weights",
    "learner_state",
    "restore_learner",
    "save_learner",
    "load_learner",
    "checkpoint_files",
    "Checkpoint",
    "SaveBest",
    "export_model",
    "load_exported",
]

# cell c5ff5d8c 12eda6 · Imports
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from inspect import isfunction
from itertools import islice
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from types import ModuleType
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from exp.nb03d import random_state, set_random_state
from exp.nb04 import Callback, Learner, MetricsCallback, loader_length
from exp.nb04a import is_first_process
from exp.nb04b import Monitor, check_counts, to_device


# cell 9677ad03 30e8f6 · A file that cannot bite
def pack(state: Any) -> tuple[dict[str, Tensor], str]:
    """Part a nested state into its tensors, by name, and a JSON text that says where each belongs.

    Raises: TypeError that names the place, for what is no tensor and nothing that JSON can hold.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, "", tensors, {})
    return tensors, json.dumps(tree)


# cell 97516a92 ecf339 · A file that cannot bite
def _pack(x: Any, place: str, tensors: dict[str, Tensor], names: dict[Any, str]) -> Any:
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, Tensor):
        return {"$tensor": _name_tensor(x, place, tensors, names)}
    if type(x).__module__ == "numpy" and type(x).__name__ == "ndarray":
        return {"$array": _name_tensor(torch.from_numpy(x), place, tensors, names)}
    if isinstance(x, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in x):
            return {key: _pack(v, f"{place}.{key}", tensors, names) for key, v in x.items()}
        return {"$dict": [[_pack(key, f"{place} key", tensors, names),
                           _pack(v, f"{place}.{key}", tensors, names)] for key, v in x.items()]}
    if isinstance(x, list | tuple):
        parts = [_pack(part, f"{place}.{i}", tensors, names) for i, part in enumerate(x)]
        return {"$tuple": parts} if isinstance(x, tuple) else parts
    raise TypeError(f"cannot save {place[1:] or 'it'}: a {type(x).__name__}, {x!r:.80}. A file "
                    "holds tensors, numbers, texts, and lists, tuples and dicts of them; of a "
                    "function save its name, of an object what it is built from")


# cell 3f3debd4 04bb42 · A file that cannot bite
def _name_tensor(x: Tensor, place: str, tensors: dict[str, Tensor], names: dict[Any, str]) -> str:
    """Enter a tensor under the place where it was met; one that was met before keeps its name."""
    if x.layout != torch.strided or x.is_complex() or x.is_quantized:
        raise TypeError(f"cannot save {place[1:]}: a tensor with {x.layout} and {x.dtype}; make it "
                        "dense and real (to_dense, view_as_real)")
    where = x.data_ptr()  # 0 of an empty tensor, or one that stands for others: it shares nothing
    memory = (where, x.dtype, x.shape, x.stride(), x.device) if where else object()
    if memory not in names:
        name = place[1:] or "tensor"
        while name in tensors:  # {"a.b": …} and {"a": {"b": …}} are two places with one name
            name += "'"
        names[memory] = name
        tensors[name] = x.detach().cpu().clone(memory_format=torch.contiguous_format)
    return names[memory]


# cell 4c1263e5 4467aa · A file that cannot bite
def unpack(tensors: Mapping[str, Tensor], text: str) -> Any:
    """Put together what `pack` took apart."""
    return _unpack(json.loads(text), tensors)


# cell 11eb109a d0e31b · A file that cannot bite
def _unpack(x: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(x, list):
        return [_unpack(part, tensors) for part in x]
    if not isinstance(x, dict):
        return x
    if len(x) == 1:
        (key, value), = x.items()
        if key == "$tensor":
            return tensors[value]
        if key == "$array":
            return tensors[value].numpy()
        if key == "$tuple":
            return tuple(_unpack(part, tensors) for part in value)
        if key == "$dict":
            return {_unpack(k, tensors): _unpack(v, tensors) for k, v in value}
    return {key: _unpack(value, tensors) for key, value in x.items()}


# cell 659df258 7f8571 · A file that is whole, or not there
FORMAT = "ground-up state 1"


# cell 8889a4db 2df111 · A file that is whole, or not there
def write_state(path: str | Path, state: Any) -> Path:
    """Write a nested state into one file, completely or not at all.

    It is written in a folder beside its place and then renamed: a reader, or a crash at any
    moment, meets the old file or the new one. Only a killed process leaves that folder, `.….tmp`.
    """
    from safetensors.torch import save_file

    path = Path(path)
    tensors, text = pack(state)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        save_file(tensors, beside / path.name, metadata={"format": FORMAT, "state": text})
        _to_disk(beside / path.name)
        os.replace(beside / path.name, path)
        _to_disk(path.parent)
    finally:
        rmtree(beside, ignore_errors=True)
    return path


# cell 6337b079 109033 · A file that is whole, or not there
def _to_disk(path: Path) -> None:
    """Wait until a file, or the list of files in a folder, is on the disk and not on its way."""
    if os.name == "nt" and path.is_dir():
        return  # Windows does not let a folder be opened
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# cell 2383a417 126e96 · A file that is whole, or not there
def read_state(path: str | Path) -> Any:
    """Read what `write_state` wrote; all tensors are on the CPU.

    Raises: FileNotFoundError; ValueError for a file that is incomplete or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is incomplete or no safetensors file: {error}") from error
    if about.get("format") != FORMAT:
        raise ValueError(f"{path} says format {about.get('format')!r}, expected {FORMAT!r}")
    return unpack(tensors, about["state"])


# cell 45fec76e cb70a9 · Weights
def save_weights(model: nn.Module, path: str | Path) -> Path:
    """Write the parameters and buffers of a model into a file."""
    return write_state(path, {"model": model.state_dict()})


# cell 2f9ebcc2 b2e145 · Weights
def _check_same(found: Mapping[str, Any], own: Mapping[str, Any], path: str | Path) -> None:
    """Refuse the weights of another model, and name the keys that differ."""
    problems = [f"missing {name!r}" for name in own if name not in found]
    problems += [f"unknown {name!r}" for name in found if name not in own]
    kinds = [(name, _kind(found[name]), _kind(own[name])) for name in own if name in found]
    problems += [f"{name!r} is {a}, not {b}" for name, a, b in kinds if a != b]
    if problems:
        rest = [f"and {len(problems) - 10} more"] if problems[10:] else []
        raise ValueError(f"{path} holds another model: {'; '.join([*problems[:10], *rest])}")


# cell da09fbea e07bc0 · Weights
def _kind(x: Any) -> str:
    return f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__


# cell a7a25656 07a805 · Weights
def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy parameters and buffers from a file of this module into a model, on its device.

    Raises: ValueError that names the keys, if they are another model's; then nothing changes.
    """
    weights = read_state(path)["model"]
    _check_same(weights, model.state_dict(), path)
    model.load_state_dict(weights)


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


# cell 88316faa 382792 · The whole training
def restore_learner(learn: Learner, state: Mapping[str, Any], path: str | Path = "the state",
                    random: bool = True) -> None:
    """Put a learner into a state that `learner_state` gathered; without `random`, not the random
    numbers.

    Raises: ValueError for another model, optimizer or other callbacks; then nothing changes.
    """
    _check_same(state["model"], learn.model.state_dict(), path)
    _check_same(state["loss"], _loss_state(learn), f"the loss of {path}")
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
    device = next((p.device for p in learn.model.parameters()), "cpu")
    for callback, kept in zip(_keepers(learn), state["callbacks"], strict=True):
        callback.load_state_dict(to_device(kept, device))
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


# cell 9b75eaa7 6d00a8 · Out into the world
def _import_path(factory: str | Callable[..., nn.Module]) -> str:
    """Give the `module:name` by which another process can import a function or a class.

    Raises: ValueError for what it cannot import, such as a lambda.
    """
    if isinstance(factory, str):
        return factory
    name = f"{factory.__module__}:{getattr(factory, '__qualname__', type(factory).__name__)}"
    if "<" in name or name.startswith("__main__:"):
        raise ValueError(f"another process cannot import {name}; define the factory with def, in a "
                         "module or an exported cell, and pass it, or its path 'module:name'")
    return name


# cell b86b3fb2 f42cca · Out into the world
def _find_factory(path: str, trusted: Sequence[str]) -> Callable[..., nn.Module]:
    """Import what `module:name` names, if a trusted package defines it and it makes a model."""
    module, _, name = path.partition(":")
    found = import_module(module) if _is_in(module, trusted) else None
    for part in name.split("."):
        found = getattr(found, part, None)
        if isinstance(found, ModuleType):  # a door into other packages
            found = None
    if not _is_in(getattr(found, "__module__", None) or "", trusted):
        raise ValueError(f"the model is built by {path}, and none of the packages {list(trusted)} "
                         "defines that; if you trust the file, add its package to `trusted`")
    made = get_type_hints(found).get("return") if isfunction(found) else found
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        raise ValueError(f"{path} must be a subclass of torch.nn.Module, or a function that says "
                         f"it returns one: def {name}(…) -> nn.Module")
    return found


# cell bf4bed1e 590755 · Out into the world
def _is_in(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


# cell 31ae9146 c972dd · Out into the world
def export_model(model: nn.Module, path: str | Path, factory: str | Callable[..., nn.Module],
                 arguments: Mapping[str, Any] | None = None, extra: Any = None) -> Path:
    """Write what predicting needs: the weights, how to build the model, and `extra` (say, the means
    to normalise with, or the names of the classes).

    `factory` is a class or function, or its path "module:name"; called with `arguments`, it must
    build a model with the same keys and shapes, and that is checked at once.
    Raises: ValueError for a factory that cannot be imported or builds another model.
    """
    name, arguments = _import_path(factory), dict(arguments or {})
    rebuilt = _find_factory(name, [name.partition(".")[0].partition(":")[0]])(**arguments)
    _check_same(model.state_dict(), rebuilt.state_dict(), f"{name}({arguments})")
    return write_state(path, {"factory": name, "arguments": arguments, "extra": extra,
                              "model": model.state_dict()})


# cell a59ab5a1 edb1cf · Out into the world
def load_exported(path: str | Path, device: torch.device | str = "cpu",
                  trusted: Sequence[str] = ("exp", "torch.nn")) -> tuple[nn.Module, Any]:
    """Rebuild an exported model on a device, ready to predict; and give `extra`.

    Only factories from `trusted` packages are called, since a file could name any function.
    Raises: ValueError for others.
    """
    state = read_state(path)
    if "factory" not in state:
        raise ValueError(f"{path} was not written by export_model; load_weights reads its weights")
    model = _find_factory(state["factory"], trusted)(**state["arguments"])
    _check_same(state["model"], model.state_dict(), path)
    model.load_state_dict(state["model"])
    return model.to(device).eval(), to_device(state["extra"], device)
