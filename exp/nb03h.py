"""Files: complete, and safe to open

By the end you will be able to save the state of a training, however deeply its tensors and numbers are nested, in one file that is safe to open and is either complete or absent.
"""

# cell 70867f87 a6284e · Files: complete, and safe to open
from __future__ import annotations

# generated from nbs/03h_files.ipynb: do not edit · 8e94a0
__all__ = [
    "pack",
    "unpack",
    "FORMAT",
    "write_state",
    "check_file_place",
    "check_folder_place",
    "read_state",
    "read_safetensors",
]
__dir__ = __all__.copy  # what completion offers

# cell 70867f87 6a7cd0 · Files: complete, and safe to open
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import torch
from torch import Tensor, nn


# cell bd16b25b d5384b · A file that is safe to open
def pack(state: Any) -> tuple[dict[str, Tensor], str]:
    """Split a nested state into its tensors, by name, and a JSON text that says where each belongs.

    Raises: TypeError that names the place of a value that is neither a tensor nor valid JSON.
    """
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, "", tensors, {})
    return tensors, json.dumps(tree)


# cell dee5bf1f 658956 · A file that is safe to open
def _pack(x: Any, place: str, tensors: dict[str, Tensor], names: dict[Any, str]) -> Any:
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, Tensor):
        return _pack_tensor(x, place, tensors, names)
    if type(x).__module__ == "numpy" and hasattr(x, "tolist"):
        is_array = type(x).__name__ == "ndarray"  # else one of numpy's numbers
        return {"$array": _name_tensor(torch.from_numpy(x), place, tensors, names)} if is_array \
            else _pack(x.tolist(), place, tensors, names)
    if isinstance(x, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in x):
            return {key: _pack(v, f"{place}.{key}", tensors, names) for key, v in x.items()}
        return {"$dict": [[_pack(key, f"{place} key", tensors, names),
                           _pack(v, f"{place}.{key}", tensors, names)] for key, v in x.items()]}
    if isinstance(x, list | tuple):
        plain = {int, float, str}.issuperset(map(type, x))  # as the 625 of random.getstate()
        parts = list(x) if plain else \
            [_pack(part, f"{place}.{i}", tensors, names) for i, part in enumerate(x)]
        return {"$tuple": parts} if isinstance(x, tuple) else parts
    raise TypeError(f"cannot save {place[1:] or 'it'}: a {type(x).__name__}, {x!r:.80}. A file "
                    "holds tensors, numbers, strings, and lists, tuples and dicts of them; save "
                    "the name of a function, and the arguments that an object is built from")


# cell e52b8e65 cc18eb · A file that is safe to open
def _pack_tensor(x: Tensor, place: str, tensors: dict[str, Tensor],
                 names: dict[Any, str]) -> dict[str, Any]:
    if hasattr(x, "materialize"):  # a parameter of a lazy layer
        raise TypeError(f"cannot save {place[1:]}: its shape is unknown until the lazy layer has "
                        "seen a batch; run one batch through the model first")
    if x.layout == torch.sparse_coo:
        x = x.detach()
        parts = [x._indices(), x._values(), list(x.shape), x.is_coalesced()]
        return {"$sparse": _pack(parts, place, tensors, names)}
    if x.layout != torch.strided or x.is_quantized:
        raise TypeError(f"cannot save {place[1:]}: a tensor with {x.layout} and {x.dtype}; make it "
                        "dense and real (to_dense, dequantize)")
    if x.is_complex():
        pairs = torch.view_as_real(x.detach().resolve_conj())
        return {"$complex": _name_tensor(pairs, place, tensors, names)}
    return {"$tensor": _name_tensor(x, place, tensors, names)}


# cell 296f0965 4f383b · A file that is safe to open
def _name_tensor(x: Tensor, place: str, tensors: dict[str, Tensor], names: dict[Any, str]) -> str:
    """Store a tensor under the place where it was found; one that was found before keeps its name.
    """
    where = x.data_ptr()  # 0 for an empty tensor, or one that stands for others: it shares nothing
    memory = (where, x.dtype, x.shape, x.stride(), x.device) if where else object()
    if memory not in names:
        name = place[1:] or "tensor"
        while name in tensors:  # {"a.b": …} and {"a": {"b": …}} are two places with one name
            name += "'"
        names[memory] = name
        tensors[name] = x.detach().cpu().clone(memory_format=torch.contiguous_format)
    return names[memory]


# cell 23efaf79 bda6f6 · A file that is safe to open
def unpack(tensors: Mapping[str, Tensor], text: str) -> Any:
    """Rebuild the state that `pack` split."""
    return _unpack(json.loads(text), tensors)


# cell 09c919fc 191c35 · A file that is safe to open
def _unpack(x: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(x, list):
        return [_unpack(part, tensors) for part in x]
    if not isinstance(x, dict):
        return x
    if len(x) == 1:
        (key, value), = x.items()
        if key == "$tensor":
            return tensors[value]
        if key == "$complex":
            return torch.view_as_complex(tensors[value])
        if key == "$sparse":
            indices, values, shape, coalesced = _unpack(value, tensors)
            return torch.sparse_coo_tensor(indices, values, shape, is_coalesced=coalesced,
                                           check_invariants=True)  # the file may be anyone's
        if key == "$array":
            return tensors[value].numpy()
        if key == "$tuple":
            return tuple(_unpack(part, tensors) for part in value)
        if key == "$dict":
            return {_unpack(k, tensors): _unpack(v, tensors) for k, v in value}
    return {key: _unpack(value, tensors) for key, value in x.items()}


# cell 4c42021b 7f8571 · A file that is complete or absent
FORMAT = "ground-up state 1"


# cell 7eaa930a 35b47e · A file that is complete or absent
def write_state(path: str | Path, state: Any) -> Path:
    """Write a nested state into one file, completely or not at all.

    The file is written in a folder beside its place and then renamed: a reader, or a crash at any
    moment, finds the old file or the new one. Only a killed process leaves that folder, `.….tmp`.
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


# cell c8565386 77fbeb · A file that is complete or absent
def _to_disk(path: Path) -> None:
    """Wait until a file, or the list of files in a folder, has reached the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows does not let a folder be opened
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# cell 31f9ec49 352088 · A file that is complete or absent
def check_file_place(path: Path) -> None:
    """Refuse a path at which no file can be written, before it is needed."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; a file is to be written: choose a name in it")
    check_folder_place(path.parent)


def check_folder_place(path: Path) -> None:
    """Refuse a path at which no folder can be made."""
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise NotADirectoryError(f"{part} is a file, where a folder is needed; choose another")


# cell 24db1421 9a3c1e · A file that is complete or absent
def read_state(path: str | Path, needs: Sequence[str] = ()) -> Any:
    """Read the state that `write_state` wrote; all tensors are on the CPU.

    Raises: FileNotFoundError; ValueError for a file that is incomplete or of another kind, or
        without an entry that is in `needs`.
    """
    tensors, about = read_safetensors(Path(path))
    if about.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {about.get('format')!r}, expected {FORMAT!r}; "
                         "load_weights reads the weights of other files")
    state = unpack(tensors, about["state"])
    if missing := [name for name in needs if name not in state]:
        raise ValueError(f"{path} holds no whole training, since {missing} are missing; if it holds"
                         " weights, load_weights reads them")
    return state


# cell f23cea35 67d828 · A file that is complete or absent
def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors of a file, and the text that describes them."""
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; pass the path of a file in it")
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is incomplete or not a safetensors file: {error}") from error
