"""Saving: files that are whole and cannot bite

In the end the numbers of any state, the weights of a model, or a model with all that predicting needs, are one file, which is safe to open and is whole or not there.
"""

# cell 7cf2aa79 a6284e · Imports
from __future__ import annotations

# generated from nbs/04c_saving.ipynb: do not edit
__all__ = [
    "pack",
    "unpack",
    "FORMAT",
    "write_state",
    "read_state",
    "save_weights",
    "check_weights_fit",
    "load_weights",
    "export_model",
    "load_exported",
]

# cell 7cf2aa79 236d0b · Imports
import json
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from inspect import isfunction
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from types import ModuleType
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from exp.nb04b import to_device


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


# cell 2f9ebcc2 b4e3a2 · Weights
def check_weights_fit(found: Mapping[str, Any], own: Mapping[str, Any],
                      path: str | Path) -> None:
    """Refuse weights whose names, shapes or types are not those of a model; `path` says whose.

    Raises: ValueError that names the keys that differ, ten of them at most.
    """
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


# cell a7a25656 7de978 · Weights
def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy parameters and buffers from a file of this module into a model, on its device.

    Raises: ValueError that names the keys, if they are another model's; then nothing changes.
    """
    weights = read_state(path)["model"]
    check_weights_fit(weights, model.state_dict(), path)
    model.load_state_dict(weights)


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


# cell 31ae9146 c9a721 · Out into the world
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
    check_weights_fit(model.state_dict(), rebuilt.state_dict(), f"{name}({arguments})")
    return write_state(path, {"factory": name, "arguments": arguments, "extra": extra,
                              "model": model.state_dict()})


# cell a59ab5a1 5989a1 · Out into the world
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
    check_weights_fit(state["model"], model.state_dict(), path)
    model.load_state_dict(state["model"])
    return model.to(device).eval(), to_device(state["extra"], device)
