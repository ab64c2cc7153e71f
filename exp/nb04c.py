"""Saving: weights, and models that travel

By the end you will be able to save the weights of a model, load all or some of another model's weights, and send a model with everything it needs to predict, in one file that is safe to open.
"""

# cell 7cf2aa79 a6284e · Saving: weights, and models that travel
from __future__ import annotations

# generated from nbs/04c_saving.ipynb: do not edit · c93b00
__all__ = [
    "unwrapped",
    "save_weights",
    "read_weights",
    "check_weights_fit",
    "LoadReport",
    "load_weights",
    "export_model",
    "load_exported",
]
__dir__ = __all__.copy  # what completion offers

# cell 7cf2aa79 0520fe · Saving: weights, and models that travel
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import Parameter, isfunction, signature
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from exp.nb03d import random_kept
from exp.nb03h import FORMAT, pack, read_safetensors, read_state, unpack, write_state
from exp.nb04b import to_device


# cell 45fec76e 779da1 · Weights
_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module",
             "DistributedDataParallel": "module"}


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside torch.compile, DataParallel or DistributedDataParallel."""
    if not isinstance(model, nn.Module):
        hint = "; pass its .model" if hasattr(model, "model") else "; the model comes first"
        raise TypeError(f"a model is needed, got a {type(model).__name__}{hint}")
    while (attribute := _WRAPPERS.get(type(model).__name__)) and hasattr(model, attribute):
        model = getattr(model, attribute)
    return model


# cell 2f9ebcc2 fb61dc · Weights
def save_weights(model: nn.Module, path: str | Path) -> Path:
    """Write the parameters and buffers of a model into a file, under the names in the plain model.
    """
    return write_state(path, {"model": unwrapped(model).state_dict()})


# cell b86b3fb2 9386ff · Weights
_ENTRIES = "model", "state_dict", "model_state_dict"  # where files keep the weights, by custom


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a file, by name: of this module, any safetensors file, or of torch.save.

    Nothing that a file says is run: files of torch.save are read with `weights_only`.
    Raises: FileNotFoundError; ValueError for a file that is incomplete, that holds more than
        tensors, or no weights.
    """
    path = Path(path)
    if path.is_file() and path.read_bytes()[8:9] != b"{":  # where safetensors begins its header
        state = _read_torch(path)
    else:
        tensors, about = read_safetensors(path)
        state = unpack(tensors, about["state"]) if about.get("format") == FORMAT else tensors
    inside = [state[key] for key in _ENTRIES if isinstance(state, Mapping) and key in state]
    weights = inside[0] if inside and isinstance(inside[0], Mapping) else state
    if not isinstance(weights, Mapping) or not any(map(torch.is_tensor, weights.values())):
        what = list(weights)[:10] if isinstance(weights, Mapping) else type(weights).__name__
        raise ValueError(f"{path} holds no weights by name, but {what}; save model.state_dict()")
    return dict(weights)


# cell 62777abf 9d49f9 · Weights
def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds, for bytes that are no pickle at all
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is neither a complete safetensors file nor one of torch.save "
                         f"that holds tensors only, and opening another kind could run code: "
                         f"{reason:.200}; where the file was made, save model.state_dict()"
                         ) from error


# cell 026d02c5 7c09a6 · Weights
def _match_names(found: Mapping[str, Any], own: Iterable[str]) -> dict[str, Any]:
    """Rename weights to a model's names, if they differ only by what wrappers put into them."""
    def plain(name: str) -> str:
        return ".".join(part for part in name.split(".") if part not in _WRAPPERS.values())

    names = {plain(name): name for name in own}
    if len(names) < len(list(own)) or len(set(map(plain, found))) < len(found):
        return dict(found)  # two tensors with one name: they are told apart by these very parts
    return {names.get(plain(name), name): value for name, value in found.items()}


# cell da09fbea 591293 · Weights
def _misfits(found: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Compare shapes and types: what a file holds, what the model has; a lazy one fits any."""
    kinds = {name: (_kind(found[name]), _kind(own[name])) for name in own
             if name in found and not hasattr(own[name], "materialize")}
    return {name: (a, b) for name, (a, b) in kinds.items() if a != b}


def _kind(x: Any) -> str:
    return f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__


# cell a7a25656 ccd1de · Weights
def check_weights_fit(found: Mapping[str, Any], own: Mapping[str, Any],
                      path: str | Path, remedy: str = "") -> None:
    """Refuse weights whose names, shapes or types differ from a model's; `path` says whose.

    Raises: ValueError that names the keys that differ, ten of them at most.
    """
    problems = [f"missing {name!r}" for name in own if name not in found]
    problems += [f"unknown {name!r}" for name in found if name not in own]
    problems += [f"{name!r} is {a}, not {b}" for name, (a, b) in _misfits(found, own).items()]
    if problems:
        rest = [f"and {len(problems) - 10} more"] if problems[10:] else []
        listed = "; ".join([*problems[:10], *rest])
        raise ValueError(f"{path} holds another model: {listed}{remedy}")


# cell 4712f1da ca4fdb · Weights
@dataclass(frozen=True)
class LoadReport:
    """The outcome of `load_weights`, in names of the model; it prints as text.

    `missing`: not in the file; `unused`: not in the model; `misfits`: of another shape or type, as
    (in the file, in the model).
    """

    path: str
    loaded: list[str]
    missing: list[str]
    unused: list[str]
    misfits: dict[str, tuple[str, str]]

    def __repr__(self) -> str:
        total = len(self.loaded) + len(self.missing) + len(self.misfits)
        differ = [f"{name} is {a}, not {b}" for name, (a, b) in self.misfits.items()]
        lines = [f"loaded {len(self.loaded)} of {total} tensors from {self.path}"]
        for about, names in (("missing in the file", self.missing), ("not used", self.unused),
                             ("of another shape or type", differ)):
            lines += [f"{about}: {', '.join(names)}"] if names else []
        return "\n".join(lines)


# cell 444bf4ad 6e866a · Weights
def load_weights(model: nn.Module, path: str | Path, partial: bool = False) -> LoadReport:
    """Copy the weights in a file into a model, on its device, and report what was loaded.

    Reads files of `save_weights`, `export_model`, `save_learner` and `Checkpoint`, other
    safetensors files, and files that torch.save wrote of tensors; see `read_weights`. Wrappers
    such as torch.compile and DataParallel may be around either model. With `partial`, tensors
    that have no counterpart of the same shape and type are left alone and reported.
    Raises: ValueError if the weights are another model's, or with `partial` if none of them fits;
        then nothing changes.
    """
    own = model.state_dict()
    weights = _match_names(read_weights(path), own)
    misfits = _misfits(weights, own)
    fits = [name for name in own if name in weights and name not in misfits]
    report = LoadReport(str(path), fits, [name for name in own if name not in weights],
                        [name for name in weights if name not in own], misfits)
    if not partial or not report.loaded:
        some = "; load_weights(…, partial=True) loads the part that fits" if report.loaded else ""
        check_weights_fit(weights, own, path, some)
    model.load_state_dict({name: weights[name] for name in report.loaded}, strict=not partial)
    return report


# cell b3248856 28a88d · Out into the world
def _import_path(factory: str | Callable[..., nn.Module]) -> str:
    """Return the `module:name` by which another process can import a function or a class.

    Raises: ValueError for one that it cannot import, such as a lambda.
    """
    if isinstance(factory, str):
        return factory
    name = f"{factory.__module__}:{getattr(factory, '__qualname__', type(factory).__name__)}"
    if "<" in name or name.startswith("__main__:"):
        raise ValueError(f"another process cannot import {name}; define it with def or class in a "
                         "module or an exported cell, and pass it, or its path 'module:name'")
    return name


# cell 86796a23 ecd75e · Out into the world
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
        raise ValueError(f"{path} must be a subclass of torch.nn.Module, or a function annotated "
                         f"as returning one: def {name}(…) -> nn.Module")
    return found


# cell bf4bed1e 590755 · Out into the world
def _is_in(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


# cell a59ab5a1 eaa369 · Out into the world
_CONTAINERS = "Sequential", "ModuleList", "ModuleDict"  # they hold layers and have no settings
_RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout",
              "bidirectional")
_NAMES = {"LSTM": (*_RECURRENT, "proj_size"), "GRU": _RECURRENT,
          "RNN": (*_RECURRENT, "nonlinearity")}  # whose signature is (*args, **kwargs)
_ELSEWHERE = {("MultiheadAttention", "bias"): lambda m: m.in_proj_bias is not None,
              ("MultiheadAttention", "add_bias_kv"): lambda m: m.bias_k is not None}


def _torchs_name(kind: Any) -> str:
    """Return the name of a class of torch.nn, "" for others."""
    return kind.__name__ if getattr(kind, "__module__", "").startswith("torch.nn.") else ""


def _arguments_of(module: nn.Module) -> dict[str, Any]:
    """Read the arguments that a module was built with from its attributes of the same names."""
    kind, name_there, found = type(module), _torchs_name(type(module)), {}
    named = {name: p for name, p in signature(kind).parameters.items()
             if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
             and name not in ("device", "dtype") and not name.startswith("_")}
    for name in _NAMES.get(name_there, named):
        default = named[name].default if name in named else None
        if (name_there, name) in _ELSEWHERE:
            found[name] = _ELSEWHERE[name_there, name](module)
        elif hasattr(module, name):
            value = getattr(module, name)
            is_flag = isinstance(default, bool) and not isinstance(value, bool)
            found[name] = value is not None if is_flag else value  # bias=True makes a tensor
        elif default is Parameter.empty:
            raise ValueError(f"it does not keep its argument {name!r} in an attribute of that name")
    return found


# cell 387441a5 3c1b17 · Out into the world
def _differences(a: nn.Module, b: nn.Module, place: str = "") -> list[str]:
    """List how a rebuilt module `b` differs from `a`, apart from the numbers in its weights."""
    where = place[1:] or "the model"
    if type(a) is not type(b):
        return [f"{where} is a {type(a).__name__}, rebuilt a {type(b).__name__}"]
    if a._forward_hooks or a._forward_pre_hooks:
        return [f"{where} has hooks"]
    mine, theirs = ({k: v for k, v in vars(m).items() if k[0] != "_" and k != "training"}
                    for m in (a, b))
    found = [f"{where}.{name} is {mine.get(name)!r:.60}, rebuilt {theirs.get(name)!r:.60}"
             for name in [*mine, *(theirs.keys() - mine)]
             if name not in mine or name not in theirs or not _same(mine[name], theirs[name])]
    for kind in ("_parameters", "_buffers"):
        mine, theirs = ({k: None if v is None else _kind(v).split(" torch")[0]
                         for k, v in getattr(m, kind).items()} for m in (a, b))
        found += [f"{where} has {mine}, rebuilt {theirs}"] if mine != theirs else []
    mine, theirs = ({k: m for k, m in x._modules.items() if m is not None} for x in (a, b))
    if [*mine] != [*theirs]:
        found += [f"{where} has the layers {[*mine]}, rebuilt {[*theirs]}"]
    return found + [line for name, m in mine.items() if name in theirs
                    for line in _differences(m, theirs[name], f"{place}.{name}")]


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(a == b)


# cell 916528a7 c5aab3 · Out into the world
def _describe(module: nn.Module) -> dict[str, Any]:
    """Describe how to build a module: its class, its arguments, and layers that differ from theirs.

    Raises: ValueError for a class that cannot be imported or does not keep its arguments.
    """
    kind = type(module)
    path = _import_path(kind)
    try:
        arguments = {} if _torchs_name(kind) in _CONTAINERS else _arguments_of(module)
        text = _to_text(arguments)
        pack(text)
        built = kind(**arguments)._modules
    except (ValueError, TypeError) as error:
        raise ValueError(f"{kind.__name__}: {error}") from error
    layers = {name: _describe(layer) for name, layer in module._modules.items() if layer is not None
              and (name not in built or _differences(layer, built[name]))}
    return {"class": path, "arguments": text, "layers": layers}


# cell 82273652 41fc95 · Out into the world
def _to_text(x: Any) -> Any:
    """Replace classes by their paths and modules by their descriptions, in arguments."""
    if isinstance(x, type):
        return {"$class": _import_path(x)}
    if isinstance(x, nn.Module):
        return {"$module": _describe(x)}
    if isinstance(x, Mapping):
        return {key: _to_text(value) for key, value in x.items()}
    return type(x)(map(_to_text, x)) if type(x) in (list, tuple) else x


# cell f6b9cdf9 5f0154 · Out into the world
def _from_text(x: Any, trusted: Sequence[str]) -> Any:
    if isinstance(x, Mapping) and len(x) == 1 and "$class" in x:
        return _find_factory(x["$class"], trusted)
    if isinstance(x, Mapping) and len(x) == 1 and "$module" in x:
        return _build(x["$module"], trusted)
    if isinstance(x, Mapping):
        return {key: _from_text(value, trusted) for key, value in x.items()}
    return type(x)(_from_text(part, trusted) for part in x) if type(x) in (list, tuple) else x


def _build(about: Mapping[str, Any], trusted: Sequence[str]) -> nn.Module:
    """Build the module that `_describe` described."""
    module = _find_factory(about["class"], trusted)(**_from_text(about["arguments"], trusted))
    for name, layer in about["layers"].items():
        module.add_module(name, _build(layer, trusted))
    return module


# cell bda18f59 d63375 · Out into the world
def export_model(model: nn.Module, path: str | Path,
                 factory: str | Callable[..., nn.Module] | None = None,
                 arguments: Mapping[str, Any] | None = None, extra: Any = None) -> Path:
    """Write what predicting needs: the weights, how to build the model, and `extra` (for example
    the means to normalise with, or the names of the classes).

    Without `factory` the model is described by the classes of its layers and their arguments. That
    works for classes that keep their arguments in attributes of the same names: torch's layers,
    the library's ResNets, and a `Sequential` of them. Otherwise `factory` is a class of models, or
    a function annotated as returning one (`def build(…) -> nn.Module`), or its path "module:name",
    in a module that others can import. Either way a second model is built at once and compared.
    Raises: ValueError for a model that cannot be described, and for a factory that cannot be
        imported or builds another model.
    """
    model = unwrapped(model)
    if _torchs_name(factory) in _CONTAINERS and not arguments:  # a description is what builds one
        factory = None
    about = _description(model) if factory is None else {"factory": _import_path(factory)}
    about["arguments"] = _to_text(dict(arguments or {}))
    if factory is not None:
        rebuilt = _rebuild(about, [about["factory"].partition(":")[0].partition(".")[0], "exp",
                                   "torch.nn"])
        check_weights_fit(model.state_dict(), rebuilt.state_dict(), f"{about['factory']}")
    elif arguments:
        raise ValueError(f"arguments {list(arguments)} need the factory that takes them")
    return write_state(path, {**about, "extra": extra, "model": model.state_dict()})


# cell e8e0ea6c 37c6a3 · Out into the world
def _description(model: nn.Module) -> dict[str, Any]:
    with random_kept():  # building a model draws its first weights
        try:
            about = {"description": _describe(model)}
            packages = {type(m).__module__.partition(".")[0] for m in model.modules()}
            found = _differences(model, _rebuild(about, [*packages]))
        except ValueError as error:
            found = [str(error)]
    if found:
        raise ValueError(f"cannot describe how to build this {type(model).__name__}: "
                         f"{'; '.join(found[:3])}; pass a factory: a class or a function that "
                         "builds the model, and its arguments")
    return about


def _rebuild(state: Mapping[str, Any], trusted: Sequence[str]) -> nn.Module:
    if "description" in state:
        return _build(state["description"], trusted)
    return _find_factory(state["factory"], trusted)(**_from_text(state["arguments"], trusted))


# cell e6e4349f 9f2dec · Out into the world
def load_exported(path: str | Path, device: torch.device | str = "cpu",
                  trusted: Sequence[str] = ("exp", "torch.nn")) -> tuple[nn.Module, Any]:
    """Rebuild an exported model on a device, ready to predict, and return it with `extra`.

    Only classes and factories from `trusted` packages are called, since a file could name any.
    Raises: ValueError for others.
    """
    state = read_state(path)
    if "factory" not in state and "description" not in state:
        raise ValueError(f"{path} was not written by export_model; load_weights reads its weights")
    model = _rebuild(state, trusted)
    if "description" in state:  # built with torch's default dtype
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name in state["model"]:
                tensor.data = tensor.data.to(state["model"][name].dtype)
    check_weights_fit(state["model"], model.state_dict(), path)
    model.load_state_dict(state["model"])
    return model.to(device).eval(), to_device(state["extra"], device)
