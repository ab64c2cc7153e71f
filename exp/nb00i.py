"""Timing and results: figures that you can trust

By the end you will be able to time a call and say how far to trust the time, and to keep a figure together with how it came about, so that no page of this book has a measurement typed by hand.
"""

# generated from nbs/00i_results.ipynb: do not edit · 4bac2a
__all__ = [
    "Timing",
    "timed",
    "build_folder",
    "record_result",
    "RecordedExperiment",
    "record_experiment",
    "recorded_experiment",
    "recorded_figures",
]
__dir__ = __all__.copy  # what completion offers

# cell 9a30c12e 0e3f0a · Timing and results: figures that you can trust
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
from functools import cache
from itertools import repeat as repeated
from pathlib import Path
from typing import Any


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


# cell c56cc974 0e7e9d · Time
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
        raise TypeError(f"timed needs a function: write `lambda: …`, got {type(function).__name__}")
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


# cell d4668547 368b00 · Results
def record_result(name: str, value: float, target: str | None = None, source: str = "",
                  unit: str = "", strict: bool = True, headline: bool = False,
                  recorded: dict[str, Any] | None = None) -> None:
    """Record a figure: print it, keep it in build/results.json, and fail if it misses its target.

    `target` is a sign and a number (">= 0.992"), `source` is where the target comes from. A
    `headline` goes into the README. A figure of a `recorded` experiment has its data and device.
    Raises: AssertionError if `strict` and the target is missed; ValueError if the value is not
    finite or the target cannot be read.
    """
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(f"a result must be a finite number, got {value} for {name!r}")
    met = None if target is None else _parse_target(target)(value)
    notebook, mode, device = _circumstances()
    if recorded is not None:
        mode, device = recorded["mode"], recorded["device"]
    entry = {"notebook": notebook, "name": name, "value": value, "unit": unit, "target": target,
             "met": met, "mode": mode, "device": device, "source": source, "headline": headline}
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


# cell e80a723b 8f50d4 · Experiments that take minutes
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


def recorded_figures(name: str, **same: Any) -> dict[str, Any]:
    """Return the figures that are kept of this mode of the data, so that a run can go on from them.

    Where there are none, or they differ in what `same` names, it is `same` alone.
    """
    try:
        entry = recorded_experiment(name)
    except FileNotFoundError:
        return same
    fits = entry["mode"] == _circumstances()[1] and same.items() <= entry["figures"].items()
    return entry["figures"] if fits else same
