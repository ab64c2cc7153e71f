"""How this works: a notebook becomes a module, and a test

By the end you will be able to turn the marked cells of a notebook into a Python module, check any value in one line, time code honestly, and run a notebook as a test.
"""

# generated from nbs/00_exports.ipynb: do not edit · 33fb82
__all__ = [
    "test",
    "first_difference",
    "test_eq",
    "near",
    "test_near",
    "test_near_zero",
    "test_raises",
    "Timing",
    "timed",
    "build_folder",
    "record_result",
    "RecordedExperiment",
    "record_experiment",
    "recorded_experiment",
]

# cell a3b04328 8f413e · How this works: a notebook becomes a module, and a test
import gc
import json
import math
import operator
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import cache, partial
from itertools import repeat as repeated
from numbers import Number
from pathlib import Path
from typing import Any


# cell aa8004a5 7e3c60 · A check that says what it saw
def test(a: Any, b: Any, compare: Callable[[Any, Any], bool], name: str | None = None) -> None:
    """Check that `compare(a, b)` holds; if it does not, fail and show both.

    Raises: AssertionError with the comparison's name and the two values.
    """
    if not compare(a, b):
        raise AssertionError(f"{name or compare.__name__} does not hold for\n{a!r}\n{b!r}")


test.__test__ = False


# cell d881b706 97e39a · Equal, to the last item
def first_difference(a: Any, b: Any, leaf: Callable[[Any, Any], str], path: str = "") -> str:
    """Walk through dicts, lists and tuples; return where `a` and `b` first differ, or "".

    `leaf` compares all other values: it returns how the two differ, or "".
    """
    if isinstance(a, dict) and isinstance(b, dict):
        places = list(a)
        odd = ", ".join(sorted(map(repr, a.keys() ^ b.keys())))
        text = odd and f"only one of the two has {odd}"
    elif any(isinstance(a, kind) and isinstance(b, kind) for kind in (list, tuple)):
        places = range(len(a))
        text = f"{len(a)} items against {len(b)}" if len(a) != len(b) else ""
    else:
        places, text = (), leaf(a, b)
    if text:
        return f"in {path}: {text}" if path else text
    found = (first_difference(a[place], b[place], leaf, f"{path}[{place!r}]") for place in places)
    return next(filter(None, found), "")


# cell 7650ee52 bc8404 · Equal, to the last item
def _is_array(x: Any) -> bool:
    """Return whether a value is a tensor or a numpy array, without loading either library."""
    return hasattr(x, "reshape") and hasattr(x, "tolist") and not isinstance(x, str | bytes)


def _shape(x: Any) -> tuple[int, ...] | None:
    """Return the shape of an array, () for a number, and None for anything else."""
    if _is_array(x):
        return tuple(x.shape)
    return () if isinstance(x, Number) else None


def _kind(x: Any) -> str:
    """Return the name of the type, with the shape if there is one."""
    return f"{type(x).__name__} of shape {tuple(x.shape)}" if _is_array(x) else type(x).__name__


# cell c93eba7b 28e111 · Equal, to the last item
def _values(x: Any) -> Any:
    """Return an array's values as a tensor on the CPU, detached from the graph."""
    import torch

    return x.detach().cpu() if isinstance(x, torch.Tensor) else torch.tensor(x)


def _mismatches(wrong: Any, a: Any, b: Any) -> str:
    """Count the elements where `wrong` is true and show the first; "" if there are none."""
    if not wrong.any():
        return ""
    place = tuple(wrong.nonzero()[0].tolist())
    left, right = (x[place].item() if place and _shape(x) else x for x in (a, b))
    where = f", first at {list(place)}" if place else ""
    return f"{int(wrong.sum())} of {wrong.numel()} differ{where}: {left} against {right}"


# cell b2caee02 8c984b · Equal, to the last item
def _exact(a: Any, b: Any) -> str:
    """Return how two leaves differ under `==`, or "".

    Raises: TypeError if `==` returns neither True nor False.
    """
    if not (_is_array(a) or _is_array(b)):
        same = a == b
        if not isinstance(same, bool):
            raise TypeError(f"== between {_kind(a)} and {_kind(b)} returns a {_kind(same)}, "
                            "not True or False: compare their parts instead")
        return "" if same else f"{a!r} against {b!r}"
    if _shape(a) != _shape(b):
        return f"{_kind(a)} against {_kind(b)}"
    try:
        a, b = (_values(x) if _is_array(x) else x for x in (a, b))
    except TypeError:  # texts, dates, objects: no tensor holds them
        return first_difference(*(x.tolist() if _is_array(x) else x for x in (a, b)), _exact)
    return _mismatches(a != b, a, b)


def test_eq(a: Any, b: Any) -> None:
    """Check that `a` equals `b` item by item and in shape, without broadcasting.

    Takes numbers, strings, tensors, arrays, and dicts, lists and tuples of them, nested at will.
    The dtypes may differ, the values may not. A list is not a tuple, and NaN equals nothing.
    Raises: AssertionError that says where the first difference is.
    """
    if text := first_difference(a, b, _exact):
        raise AssertionError(f"not equal: {text}")


test_eq.__test__ = False


# cell b3f3c8d7 e480d9 · Near, because numbers are rounded
def _float64(x: Any) -> Any:
    """Turn a number or an array into a tensor of double precision."""
    import torch

    if not _is_array(x):
        x = complex(x) if isinstance(x, complex) else float(x)
        return torch.tensor(x, dtype=torch.complex128 if isinstance(x, complex) else torch.float64)
    x = _values(x)
    return x.to(torch.complex128) if x.is_complex() else x.double()


def _near(a: Any, b: Any, tol: float) -> str:
    """Return how two numbers or arrays differ by more than `tol`, others at all, or ""."""
    if _shape(a) is None or _shape(b) is None:
        return _exact(a, b)
    alone = not (_is_array(a) and _is_array(b))  # a number may stand against a whole tensor
    a, b = _float64(a), _float64(b)
    if a.shape != b.shape and not (alone and a.numel() and b.numel()):
        return f"shape {tuple(a.shape)} against {tuple(b.shape)}"
    close = (a == b) | (((a - b).abs() <= tol * (1 + b.abs())) & b.isfinite())
    text = _mismatches(~close, a, b)
    return text and f"{text}; largest difference {(a - b).abs().max().item():.3g}, tol {tol:g}"


# cell 832ac917 1a9475 · Near, because numbers are rounded
def _apart(a: Any, b: Any, tol: float) -> str:
    """Return where `a` and `b` are first further apart than `tol`, or ""."""
    if not 0 <= tol < math.inf:
        raise ValueError(f"tol must be a finite number, 0 or more; got {tol}")
    return first_difference(a, b, partial(_near, tol=tol))


def near(a: Any, b: Any, tol: float = 1e-5) -> bool:
    """Return whether |a - b| <= tol (1 + |b|) for every element.

    Shapes must be equal, unless one of the two is a number. Dicts, lists and tuples are compared
    item by item. NaN is near nothing, an infinity only near itself.
    Raises: ValueError if `tol` is negative or not finite.
    """
    return not _apart(a, b, tol)


def test_near(a: Any, b: Any, tol: float = 1e-5) -> None:
    """Check that `near(a, b, tol)` holds; if not, fail and say where and by how much."""
    if text := _apart(a, b, tol):
        raise AssertionError(f"not near: {text}")


test_near.__test__ = False


# cell 15af4a7b 51926d · Near, because numbers are rounded
def test_near_zero(a: Any, tol: float = 1e-3) -> None:
    """Check that |a| <= tol for every element."""
    test_near(a, 0.0, tol)


test_near_zero.__test__ = False


# cell bef864a6 ed2d55 · An error that should come
def test_raises(function: Callable[[], Any],
                exception: type[BaseException] | tuple[type[BaseException], ...] = Exception,
                contains: str = "") -> None:
    """Check that calling `function` raises `exception`, with `contains` in its message.

    Raises: AssertionError if nothing was raised, or something else; TypeError if `function`
    is not callable.
    """
    if not callable(function):
        raise TypeError(f"test_raises needs a function: write `lambda: …`, got {_kind(function)}")
    kinds = exception if isinstance(exception, tuple) else (exception,)
    expected = " or ".join(kind.__name__ for kind in kinds)
    try:
        function()
    except kinds as error:
        if contains not in str(error):
            raise AssertionError(f"the message should contain {contains!r}: {error}") from error
        return
    except Exception as error:
        raise AssertionError(f"expected {expected}, got {type(error).__name__}: {error}") from error
    raise AssertionError(f"expected {expected}, but nothing was raised")


test_raises.__test__ = False


# cell bc21c5c9 bc1ea3 · Time
def _readable(seconds: float) -> str:
    """Return a time as text, with three digits and a suitable unit."""
    seconds = float(f"{seconds:.3g}")
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


@dataclass(frozen=True, repr=False)
class Timing:
    """The time that a call takes, measured several times.

    Units: seconds per call in each of the samples; `number` is how many calls make one sample.
    """

    samples: tuple[float, ...]
    number: int
    threads: int
    machine: str

    @property
    def median(self) -> float:
        """The median sample."""
        return statistics.median(self.samples)

    @property
    def low(self) -> float:
        """The shortest sample."""
        return min(self.samples)

    @property
    def high(self) -> float:
        """The longest sample."""
        return max(self.samples)

    def __repr__(self) -> str:
        how = f"median of {len(self.samples)}, {self.threads} thread{'s' * (self.threads > 1)}"
        spread = f"{_readable(self.low)} to {_readable(self.high)}"
        return f"{_readable(self.median)} ({spread}; {how}, {self.machine})"


# cell 382cf125 e4010c · Time
def _cuda() -> Any:
    """Return torch.cuda if this process is already using a GPU, else None."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


def _sample(function: Callable[[], Any], number: int) -> float:
    """Time `number` calls in a row, including the work that is still queued on a GPU."""
    wait = cuda.synchronize if (cuda := _cuda()) else lambda: None
    collecting = gc.isenabled()
    gc.disable()
    try:
        wait()
        start = time.perf_counter()
        for _ in repeated(None, number):
            function()
        wait()
        return time.perf_counter() - start
    finally:
        if collecting:
            gc.enable()


@cache
def _processor() -> str:
    """Return the name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.+)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


# cell c56cc974 c46c06 · Time
def _enough(function: Callable[[], Any]) -> int:
    """Find how many calls in a row take a millisecond."""
    number = 1
    while (seconds := _sample(function, number)) < 1e-3:
        suggested = math.ceil(1.2e-3 / max(seconds / number, 1e-9))
        number = min(max(suggested, number + 1), 10 * number)
    return number


def timed(function: Callable[[], Any], repeat: int = 7, number: int | None = None,
          warmup: int = 1) -> Timing:
    """Time a call: `repeat` samples of `number` calls each, after `warmup` calls that do not count.

    Without `number`, a sample has as many calls as take a millisecond.
    Raises: TypeError if `function` is not callable; ValueError if a count is too small.
    """
    if not callable(function):
        raise TypeError(f"timed needs a function: write `lambda: …`, got {_kind(function)}")
    for name, count, least in (("repeat", repeat, 1), ("number", number, 1), ("warmup", warmup, 0)):
        if count is not None and count < least:
            raise ValueError(f"{name} must be {least} or more, got {count}")
    _sample(function, warmup)
    number = number or _enough(function)
    samples = tuple(_sample(function, number) / number for _ in range(repeat))
    torch = sys.modules.get("torch")
    machine = ", ".join([_processor(), *([cuda.get_device_name()] if (cuda := _cuda()) else [])])
    return Timing(samples, number, torch.get_num_threads() if torch else 1, machine)


# cell 7c40d81e e298da · Results
def _parse_target(target: str) -> Callable[[float], bool]:
    """Turn a target such as ">= 0.992" into a function that says whether a value meets it."""
    match = re.fullmatch(r"\s*(>=|<=|==|>|<)\s*([-+\d][-+.\deE]*)\s*", target)
    try:
        bound = float(match[2])
        bound.as_integer_ratio()  # which an infinity, such as 1e999, has not
    except (TypeError, ValueError, OverflowError):  # no match, no number, no finite one
        raise ValueError(f'a target must be a sign and a number (">= 0.992"), got {target!r}'
                         ) from None
    signs = {">=": "ge", "<=": "le", "==": "eq", ">": "gt", "<": "lt"}
    return lambda value: getattr(operator, signs[match[1]])(value, bound)


# cell e4f40af7 b830b8 · Results
def _merge_json(path: Path, entries: dict[str, Any]) -> None:
    """Add entries to a JSON file in one atomic step, one process at a time."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=60):
        try:
            content = json.loads(path.read_text("utf-8")) if path.exists() else {}
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: {error}; delete it and run again") from error
        text = json.dumps(content | entries, indent=1, sort_keys=True, ensure_ascii=False)
        _replace_file(path, text + "\n")


def _replace_file(path: Path, text: str) -> None:
    draft = path.with_suffix(f".{os.getpid()}.new")
    draft.write_text(text, "utf-8")
    os.replace(draft, path)


def _circumstances() -> tuple[str, str, str]:
    """Return the notebook, the data mode and the device of this run."""
    settings = {"EXP_NOTEBOOK": "interactive", "EXP_DATA": "sample", "EXP_DEVICE": "cpu"}
    return tuple(os.environ.get(key) or settings[key] for key in settings)


def build_folder() -> Path:
    """Return `build` beside the nearest settings.ini here or above, or else in this folder."""
    here = Path.cwd()
    homes = (folder for folder in (here, *here.parents) if (folder / "settings.ini").is_file())
    return next(homes, here) / "build"


# cell d4668547 62a7de · Results
def record_result(name: str, value: float, target: str | None = None, source: str = "",
                  unit: str = "", strict: bool = True) -> None:
    """Record a figure: print it, keep it in build/results.json, and fail if it misses its target.

    `target` is a sign and a number (">= 0.992"), `source` is where the target comes from.
    Raises: AssertionError if `strict` and the target is missed; ValueError if the value is not
    finite or the target cannot be read.
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"a result must be a finite number, got {value} for {name!r}")
    met = None if target is None else _parse_target(target)(value)
    notebook, mode, device = _circumstances()
    entry = {"notebook": notebook, "name": name, "value": value, "unit": unit, "target": target,
             "met": met, "mode": mode, "device": device, "source": source}
    key = " | ".join((notebook, name, mode, device))
    _merge_json(build_folder() / "results.json", {key: entry})
    verdict = "" if target is None else f" (target {target}: {'met' if met else 'MISSED'})"
    line = f"{name}: {' '.join([f'{value:.6g}', unit]).strip()}{verdict}"
    print(line)
    if strict and met is False:
        raise AssertionError(line)


# cell 95b47f7a 4cf637 · Experiments that take minutes
class RecordedExperiment(dict):
    """The figures of an experiment, under "figures", and where they come from."""

    def __repr__(self) -> str:
        threads = "1 thread" if self["threads"] == 1 else f"{self['threads']} threads"
        return (f"{self['name']}: recorded {self['date']}, {self['mode']} data, {self['device']}, "
                f"{threads}, {self['machine']}\n  {self['command']}")


def _recorded(name: str, folder: Path) -> Path:
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"an experiment's name has letters, digits, - and _ only, got {name!r}")
    return folder / "recorded" / f"{name}.json"


# cell e80a723b 82f155 · Experiments that take minutes
def record_experiment(name: str, figures: dict[str, Any]) -> None:
    """Keep the figures of a long experiment as JSON, with date, machine, mode and command.

    The file is build/recorded/NAME.json, and with EXP_RECORD=1 nbs/recorded/NAME.json.
    Raises: ValueError if a figure is not finite, TypeError if it is not JSON.
    """
    notebook, mode, device = _circumstances()
    torch = sys.modules.get("torch")
    run = f"python tools/run_notebook.py nbs/{notebook}.ipynb --slow"
    entry = {"name": name, "date": f"{date.today()}", "mode": mode, "device": device,
             "machine": _processor(), "threads": torch.get_num_threads() if torch else 1,
             "command": f"EXP_RECORD=1 EXP_DATA={mode} {run}", "figures": figures}
    text = json.dumps(entry, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    home = build_folder()
    for folder in (home, home.parent / "nbs")[: 1 + (os.environ.get("EXP_RECORD") == "1")]:
        path = _recorded(name, folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace_file(path, text)
    print(RecordedExperiment(entry))


def recorded_experiment(name: str) -> RecordedExperiment:
    """Return what `record_experiment` kept: from nbs/recorded, or else from build/recorded.

    Raises: FileNotFoundError, with the remedy, if nothing was recorded under this name.
    """
    home = build_folder()
    paths = [_recorded(name, folder) for folder in (home.parent / "nbs", home)]
    for path in paths:
        if path.exists():
            return RecordedExperiment(json.loads(path.read_text("utf-8")))
    raise FileNotFoundError(f"no experiment {name!r} in {paths[0].parent}: run its notebook's "
                            "#slow cells (tools/run_notebook.py NOTEBOOK --slow)")
