"""Fingerprints: telling two runs apart

By the end you will be able to describe a run (its model, data, loss and settings) in a few lines of text, compare two such descriptions, and name what differs.
"""

# cell d3b4e998 a6284e · Fingerprints: telling two runs apart
from __future__ import annotations

# generated from nbs/03k_fingerprints.ipynb: do not edit · 3291f9
__all__ = [
    "digest",
    "fingerprint",
    "fingerprint_model",
    "fingerprint_data",
    "differences",
    "describe_run",
    "compare_runs",
]
__dir__ = __all__.copy  # what completion offers

# cell d3b4e998 a7ee69 · Fingerprints: telling two runs apart
import inspect
import json
import warnings
from collections.abc import Iterable, Mapping
from enum import Enum
from functools import partial
from hashlib import blake2b
from os.path import commonprefix
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn

from exp.nb03a import generator_state, held_generators
from exp.nb03d import loader_length, random_kept, seed_everything


# cell 90276884 ba275f · Many numbers, one short name
_LARGE = 2**26  # bytes; of a larger tensor, evenly spaced numbers are hashed


def digest(x: Tensor | bytes) -> str:
    """Hash bytes, or a tensor's type, shape and numbers, into 12 characters."""
    if isinstance(x, bytes):
        return blake2b(x, digest_size=6).hexdigest()
    if hasattr(x, "materialize"):
        return "unknown"  # a parameter of a lazy layer
    x = x.detach().to_dense() if x.layout != torch.strided else x.detach()
    flat = x.resolve_conj().reshape(-1)[::max(1, x.nbytes // _LARGE)]
    raw = flat.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return digest(f"{tuple(x.shape)} {x.dtype} ".encode() + raw)


# cell ac67682b dfa918 · A description
def fingerprint(x: Any, depth: int = 6) -> Any:
    """Describe a value by names, numbers and hashes that JSON can hold.

    Equal descriptions mean equal types and settings, and equal numbers in tensors. Devices and
    paths do not count, nor does what an object keeps beyond the arguments of its constructor.
    """
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, bytes):
        return f"bytes #{digest(x)}"
    if isinstance(x, torch.device | Path):
        return f"a {'device' if isinstance(x, torch.device) else 'path'}"
    if isinstance(x, complex | torch.dtype | torch.Generator | Enum):
        return _seed_of(x) if isinstance(x, torch.Generator) else str(x)
    if isinstance(x, Tensor):
        shape = "of unknown shape" if hasattr(x, "materialize") else f"{tuple(x.shape)} {x.dtype}"
        return f"tensor {shape} #{digest(x)}"
    if type(x).__module__ == "numpy" and hasattr(x, "tobytes"):
        return f"array {x.shape} {x.dtype} #{digest(x.tobytes())}"
    if isinstance(x, type):
        return f"{x.__module__}:{x.__qualname__}"
    if depth == 0:
        return "…"
    return _of_parts(x, depth - 1)


def _seed_of(generator: Any) -> str:
    if isinstance(generator, torch.Generator):
        return f"seed {generator.initial_seed()}"
    return f"{type(generator).__name__} #{_digest_text(fingerprint(generator_state(generator)))}"


def _of_parts(x: Any, depth: int) -> Any:
    if isinstance(x, Mapping):
        return {str(key): fingerprint(value, depth) for key, value in x.items()}
    if isinstance(x, list | tuple | set | frozenset):
        parts = [fingerprint(part, depth) for part in x]
        parts = sorted(parts, key=str) if isinstance(x, set | frozenset) else parts
        return parts if len(parts) <= 20 else f"{len(parts)} items #{_digest_text(parts)}"
    if isinstance(x, partial):
        return {"function": fingerprint(x.func, depth), "arguments": fingerprint(x.args, depth),
                **_of_parts(x.keywords, depth)}
    if hasattr(x, "__qualname__") or inspect.isroutine(x):
        return _of_function(x, depth)
    if isinstance(x, nn.Module):
        return fingerprint_model(x)
    kind = fingerprint(type(x))
    if hasattr(x, "tobytes"):  # a picture
        return f"{kind} #{digest(x.tobytes())}"
    settings = {name: fingerprint(getattr(x, name), depth) for name in _settings(x)}
    return {"class": kind, **settings} if settings else kind


def _settings(x: Any) -> list[str]:
    """List the arguments of an object's constructor that it keeps in attributes."""
    try:
        names = inspect.signature(type(x)).parameters
    except (TypeError, ValueError):
        return []
    return [name for name in names if hasattr(x, name) and not inspect.ismethod(getattr(x, name))]


def _digest_text(parts: Any) -> str:
    return digest(json.dumps(parts).encode())


# cell 0e9d62aa 3b8fb6 · A description
def _of_function(x: Any, depth: int) -> Any:
    name = f"{getattr(x, '__module__', None)}:{getattr(x, '__qualname__', type(x).__name__)}"
    code = getattr(x, "__code__", None)
    if code is None or "-packages" in code.co_filename:
        return name
    cells = [cell.cell_contents for cell in x.__closure__ or () if cell != type(cell)()]
    held = {"closure": cells, "defaults": [*(x.__defaults__ or ())],
            "keywords": x.__kwdefaults__ or {}}
    return {"function": f"{name} #{_digest_text(_of_code(code))}",
            **{part: fingerprint(value, depth) for part, value in held.items() if value}}


def _of_code(code: CodeType) -> list[Any]:
    constants = [_of_code(c) if isinstance(c, CodeType) else
                 sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c)
                 for c in code.co_consts]
    return [code.co_code.hex(), list(code.co_names), constants]


# cell 96b774e5 25dd7c · A model and its data
def fingerprint_model(model: nn.Module) -> dict[str, Any]:
    """Describe a module: what each layer is, which parameters are frozen, a hash of all weights."""
    layers = {}
    for name, layer in model.named_modules():
        plain = {key: getattr(layer, key) for key in _settings(layer)
                 if isinstance(getattr(layer, key), bool | int | float | str | tuple)}
        said = layer.extra_repr() or ", ".join(f"{key}={value}" for key, value in plain.items())
        layers[name or "itself"] = f"{type(layer).__name__}({said})"
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    state = [(name, digest(t)) for name, t in model.state_dict().items() if isinstance(t, Tensor)]
    weights = {"weights": f"#{_digest_text(state)}"} if state else {}
    return {"layers": layers, **({"frozen": frozen} if frozen else {}), **weights}


# cell 5eb38a94 49f08a · A model and its data
def fingerprint_data(loader: Any) -> dict[str, Any] | None:
    """Describe a loader: its settings, its order, the seeds of its generators, and its data.

    All random numbers are afterwards what they were.
    """
    if loader is None:
        return None
    dataset, sampler = getattr(loader, "dataset", None), getattr(loader, "sampler", None)
    about = {"loader": fingerprint(type(loader)), "batches": loader_length(loader),
             "batch_size": fingerprint(getattr(loader, "batch_size", None)),
             "order": fingerprint(type(sampler)) if sampler is not None else None,
             "generators": [_seed_of(held) for held in held_generators(loader)]}
    data = loader if dataset is None else dataset
    return {**about, "data": {**_held(data), **_samples(data, loader)}}


def _held(data: Any) -> dict[str, Any]:
    """Describe the tensors, arrays and settings that a data set or loader holds."""
    held = {name: value for name, value in getattr(data, "__dict__", {}).items()
            if name in ("dataset", "tensors") or name in _settings(data)
            or isinstance(value, Tensor) or type(value).__module__ == "numpy"}
    return {"class": fingerprint(type(data)), "length": loader_length(data),
            **{name: fingerprint(value) for name, value in held.items()
               if not held_generators(value) and name not in ("sampler", "batch_sampler")}}


def _samples(data: Any, loader: Any) -> dict[str, Any]:
    """Describe three samples, or batches in a list."""
    n = loader_length(data)
    if not n or not hasattr(data, "__getitem__") or hasattr(data, "tensors"):
        return {}
    seen = []
    with random_kept([loader]):
        for i in (0, n // 2, n - 1, 0):
            seed_everything(0)
            try:
                seen.append(fingerprint(data[i]))
            except Exception:  # the training will say it better, if it comes to that
                return {}
    return {"samples": seen[:3]} if seen[0] == seen[3] else {}


# cell e9d58bad 3ea9b9 · What differs?
def differences(then: Any, now: Any, place: str = "") -> list[str]:
    """List how two descriptions differ, each difference with its place."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*then, *now])
        return [line for key in keys for line in _one(then, now, key, f"{place}.{key}")]
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        return [line for i in range(len(then))
                for line in differences(then[i], now[i], f"{place}.{i}")]
    if json.dumps(then) == json.dumps(now):
        return []
    first, second = repr(then), repr(now)
    start = max(0, len(commonprefix([first, second])) - 30) if len(first + second) > 120 else 0
    return [f"{place[1:] or 'it'}: {_short(first, start)} then, {_short(second, start)} now"]


def _one(then: Mapping[str, Any], now: Mapping[str, Any], key: str, place: str) -> list[str]:
    if key in then and key in now:
        return differences(then[key], now[key], place)
    there, absent = ("then", "now") if key in then else ("now", "then")
    value = then[key] if key in then else now[key]
    return [f"{place[1:]}: {_short(repr(value))} {there}, absent {absent}"]


def _short(text: str, start: int = 0) -> str:
    """Cut a long text to 60 characters, from a little before where it begins to differ."""
    return f"{'…' if start else ''}{text[start:start + 60]}{'…' if text[start + 60:] else ''}"


# cell 183e9e1c 4767db · A run
def describe_run(learn: Any, model: nn.Module) -> dict[str, Any]:
    """Describe what a fit of this Learner depends on and what is known before its first step."""
    about, n_steps = fingerprint_model(model), learn._last_step - learn._first_step
    settings = [{name: fingerprint(value) for name, value in group.items() if name != "params"}
                for group in learn.opt.param_groups]
    weights = about.pop("weights", None)
    return {"n_epochs": learn.n_epochs, **({} if learn.n_epochs else {"n_steps": n_steps}),
            "model": about, "loss": fingerprint(learn.loss_func),
            "optimizer": {"class": fingerprint(type(learn.opt)), "groups": settings},
            "train": fingerprint_data(learn.dls.train), "valid": fingerprint_data(learn.dls.valid),
            "callbacks": _describe_callbacks(learn.callbacks),
            "seed": torch.initial_seed(), "weights": weights}


def _describe_callbacks(callbacks: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for callback in callbacks:
        if not getattr(callback, "only_watches", False):
            kind, count = fingerprint(type(callback)), 1
            while (name := kind if count == 1 else f"{kind} {count}") in found:
                count += 1
            about = fingerprint(callback)
            found[name] = about if isinstance(about, dict) else {}
    return found


# cell 0691d8ca 2096fe · A run
def compare_runs(then: Mapping[str, Any], now: Mapping[str, Any], place: str) -> None:
    """Refuse to resume a run that differs; warn if a callback of one's own has come or gone.

    Raises: ValueError that names what differs and what to do.
    """
    there, here = then["callbacks"], now["callbacks"]
    loose = [name for name in there.keys() ^ here.keys() if name.partition(".")[0] != "exp"]
    both = [{**run, "callbacks": {k: v for k, v in run["callbacks"].items() if k not in loose}}
            for run in (then, now)]
    if found := differences(*both):
        raise ValueError("\n".join([f"{place} belongs to another run; it differs in:",
                                    *(f"  {line}" for line in found[:8]), _remedy(found)]))
    for name in sorted(loose):
        change = "took part until now and is missing" if name in there else "is new"
        warnings.warn(f"the run in {place} is resumed, although the callback {name} {change}; if "
                      "it changes the training, this is another run; if it only watches, say so "
                      "in its class: only_watches = True", RuntimeWarning, stacklevel=3)


def _remedy(found: list[str]) -> str:
    drawn = any(line.startswith(("seed", "weights", "train", "valid")) for line in found)
    longer = any(line.startswith("n_epochs") for line in found)
    return "".join([
        "To resume that run, build everything as it was. To start this one, choose another folder, "
        "such as one for each seed and setting, or empty this one.",
        " If you have changed nothing, the script draws data or weights from random numbers that "
        "are not seeded: call seed_everything(…) before it makes them." if drawn else "",
        " To train a finished run for longer: Checkpoint(…, extend=True)." if longer else "",
        " Checkpoint(…, check=False) resumes in spite of the differences."])
