"""How long notebooks took the last time: the slowest start first, and parts take equally long."""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path

from files import write_all
from notebooks import Settings, ToolError, show
from reports import Results


class Timings:
    """How long each notebook took the last time, to start with the slowest.

    Kept in the project's folder build/, or in the user's cache where the folder is no project.
    """

    def __init__(self, home: Settings, *mode: str):
        self.file, self.mode = timings_file(home), " ".join(mode)
        self.all: dict[str, dict] = {}
        with contextlib.suppress(OSError, ValueError):
            self.all = json.loads(self.file.read_text("utf-8"))
        if not isinstance(self.all, dict) or not all(
            isinstance(t, dict) for t in self.all.values()
        ):
            self.all = {}
        own_cells = self.all.get(" ".join(mode[:2]), {})  # takes about as long as --exported
        self.last = own_cells | self.all.setdefault(self.mode, {})

    def slowest_first(self, paths: list[Path]) -> list[Path]:
        def seconds(path: Path) -> float:
            last = self.last.get(show(path))
            return last if isinstance(last, int | float) else math.inf

        return sorted(paths, key=lambda path: -seconds(path))

    def shard(self, paths: list[Path], number: int, count: int) -> list[Path]:
        """One of `count` parts that take about as long; every machine cuts the same parts.

        A notebook of which no time is known counts as the mean of those with one.
        """
        known = {path: self.last.get(show(path)) for path in paths}
        times = [time for time in known.values() if isinstance(time, int | float)]
        usual = sum(times) / len(times) if times else 1.0
        cost = {path: known[path] if known[path] in times else usual for path in paths}
        parts: list[list[Path]] = [[] for _ in range(count)]
        for path in sorted(paths, key=lambda path: (-cost[path], show(path))):
            min(parts, key=lambda part: sum(map(cost.get, part))).append(path)
        return parts[number - 1]

    def keep(self, results: Results) -> None:
        done = [result for result in results if result.status == "passed"]
        self.all[self.mode] |= {show(r.notebook.path): round(r.seconds, 2) for r in done}
        with contextlib.suppress(OSError):  # a read-only checkout
            write_all({self.file: json.dumps(self.all, indent=1, sort_keys=True)})


def timings_file(home: Settings) -> Path:
    if any((home.root / name).is_file() for name in ("settings.ini", "pyproject.toml")):
        return home.root / "build" / "timings.json"
    import hashlib
    import tempfile

    name = hashlib.sha256(str(home.root).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    try:
        from platformdirs import user_cache_dir

        folder = Path(user_cache_dir("run_notebook"))
    except ImportError:
        folder = Path(tempfile.gettempdir()) / "run_notebook"
    return folder / f"{name}.json"


def read_shard(shard: str) -> tuple[int, int] | None:
    """`2/5` as two numbers. Raises: ToolError if it is not one of so many parts."""
    if not shard:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", str(shard))
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ToolError(f"--shard is the number of a part and how many there are, as in 2/5; "
                        f"got {shard!r}")  # fmt: skip
    return int(match[1]), int(match[2])
