"""The records of a run: what to run, what became of it, and how its output adds up.

Plain values that travel as JSON between the runner, a keeper and a notebook's own process; this
module imports nothing of the runner, and is the only one that a notebook's process needs of it
besides `watch` and `host`.
"""

from __future__ import annotations

import re
import signal
from collections import deque
from dataclasses import dataclass

TEXT_LIMIT = 200_000  # characters of printed output that are kept of a cell: half of them its end
SHOWN_LIMIT = 20_000_000  # characters of figures, tables and the like that are kept of a cell
CELL_FILE = re.compile(r"<ipython-input-(\d+)-\w+>")  # the file name that IPython compiles under
STOPPED = "stopped"  # what a keeper says when the runner wants it to end


@dataclass(frozen=True)
class Step:
    """One code cell as it will run: its number, and the source or the reason to skip it.

    `raises`: the notebook says that the cell raises an exception, and goes on after it.
    """

    number: int
    source: str
    skip: str = ""
    raises: bool = False


@dataclass(frozen=True)
class Task:
    """What an engine needs to know to run a notebook; times are in seconds."""

    path: str
    steps: tuple[Step, ...]
    timeout: float | None = None
    cell_timeout: float | None = None


@dataclass(frozen=True)
class Failure:
    """One thing that went wrong; a frame is (number of a cell or path of a file, line, name)."""

    what: str
    frames: tuple[tuple[int | str, int, str], ...] = ()
    details: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell; number 0 is the notebook as a whole, and its last outcome.

    A later outcome of the same cell replaces the earlier one: its display was updated.
    """

    path: str
    number: int
    status: str  # "passed", "failed" or "skipped"
    seconds: float = 0.0
    outputs: tuple[dict, ...] = ()
    failures: tuple[Failure, ...] = ()


def in_cells(frames: list[tuple[str, int, str]]) -> tuple[tuple[int | str, int, str], ...]:
    """Name the cells among the files of a traceback, drop what is above them, shorten the rest."""
    named = [
        (int(match[1]) if (match := CELL_FILE.fullmatch(file)) else file, line, name)
        for file, line, name in frames
    ]
    start = next((i for i, (file, *_) in enumerate(named) if isinstance(file, int)), 0)
    named = named[start:]
    return tuple(named if len(named) <= 20 else [*named[:5], ("…", 0, ""), *named[-14:]])


def read_stack(text: str) -> tuple[tuple, str]:
    """Frames and text of what faulthandler wrote, the thread that runs the cell if there is one."""
    text = re.split(r"\n\n?(?=Extension modules:)", text)[0].strip()
    threads = re.split(r"\n\n", text)
    chosen = next((thread for thread in threads if CELL_FILE.search(thread)), threads[0])
    frames = re.findall(r'  File "(.*?)", line (\d+) in (.*)', chosen)
    return in_cells([(file, int(line), name) for file, line, name in reversed(frames)]), text


def how_it_ended(code: int | None, memory: int = 0) -> str:
    """Name the way in which a process ended too early; `memory` is the most it held, in KiB."""
    if code is None or code >= 0:
        return f"the process ended by itself with exit code {code}, as after os._exit({code})"
    name = signal.Signals(-code).name
    if name != "SIGKILL":
        return f"the process was ended by {name}"
    held = f"; it held up to {memory / 1024:,.0f} MiB" if memory else ""
    return f"the process was killed (SIGKILL), as the system does when memory runs out{held}"


class Printed:
    """Neighbouring pieces of printed text of one kind."""

    def __init__(self, name: str):
        self.name, self.pieces, self.size = name, deque(), 0

    def add(self, text: str) -> None:
        self.pieces.append(text)
        self.size += len(text)

    def drop(self, count: int) -> None:
        """Drop this many characters from the start."""
        self.size -= count
        while count:
            first = self.pieces.popleft()
            if len(first) > count:
                self.pieces.appendleft(first[count:])
            count -= min(count, len(first))

    def __str__(self) -> str:
        return "".join(self.pieces)


class Record:
    """The outputs of the cells, put together from what happens as Jupyter puts them together.

    Of long output the first and the last half of the limit are kept: why a program failed tends to
    stand at the end.
    """

    def __init__(self):
        self.cells: dict[int, list[Printed | dict]] = {}
        self.shown: dict[str, list[tuple[int, dict]]] = {}  # display id -> its places
        self.changed: set[int] = set()  # cells whose outputs changed after their end
        self.begin(0)

    def begin(self, number: int) -> None:
        self.number, self.outputs = number, self.cells.setdefault(number, [])
        self.clearing, self.ended, self.cut = False, False, None
        self.tail: deque[Printed] = deque()  # what was printed beyond the first half
        self.size = self.lines = self.tail_size = self.shown_size = 0

    def end(self) -> list[dict]:
        """The outputs of the cell that ran last; what it still prints is added to them."""
        self.ended = True
        self._trim()
        return self.of(self.number)

    def of(self, number: int) -> list[dict]:
        """The outputs of a cell as they are now."""
        found: list[dict] = []
        for output in self.cells[number]:
            if not isinstance(output, Printed):
                found.append(output)
            elif found and found[-1].get("name") == output.name and found[-1] is not self.cut:
                found[-1]["text"] += str(output)
            else:
                made = {"output_type": "stream", "name": output.name, "text": str(output)}
                found.append(made)
        return found

    def text(self, name: str, text: str) -> None:
        """Add printed text; neighbours of one kind become one output, and too much is cut."""
        if not text:
            return
        self._now()
        first = text[: max(0, TEXT_LIMIT // 2 - self.size)]
        rest = text[len(first) :]
        self.size += len(text)
        self.lines += text.count("\n")
        if first:
            self._last(name).add(first)
        if rest:
            if not self.tail or self.tail[-1] is not self.outputs[-1] or self.tail[-1].name != name:
                self.tail.append(Printed(name))
                self.outputs.append(self.tail[-1])
            self.tail[-1].add(rest)
            self.tail_size += len(rest)
            if self.tail_size > 2 * TEXT_LIMIT:
                self._trim()

    def _last(self, name: str) -> Printed:
        last = self.outputs[-1] if self.outputs else None
        if not isinstance(last, Printed) or last.name != name:
            self.outputs.append(Printed(name))
        return self.outputs[-1]

    def _trim(self) -> None:
        """Cut what is too much from the middle, and say there how much it was in all."""
        excess = self.tail_size - TEXT_LIMIT // 2
        if excess > 0:
            if self.cut is None:
                self.cut = {"output_type": "stream", "name": "stderr"}
                self.outputs.insert(self.outputs.index(self.tail[0]), self.cut)
            total = f"{self.lines:,} lines, {self.size:,} characters in all"
            self.cut["text"] = f"\n… cut here: {total}\n"
            self.tail_size -= excess
        gone = set()
        while excess > 0:
            first = self.tail[0]
            dropped = min(excess, first.size)
            first.drop(dropped)
            excess -= dropped
            if not first.size:
                gone.add(id(self.tail.popleft()))
        if gone:
            self.outputs[:] = [output for output in self.outputs if id(output) not in gone]

    def show(self, output: dict, id: str | None = None) -> None:
        self._now()
        self.shown_size += sum(len(str(value)) for value in output.get("data", {}).values())
        if self.shown_size > SHOWN_LIMIT:
            return self.text("stderr", "\n… a display is left out: this cell shows too much\n")
        self.outputs.append(output)
        if id:
            self.shown.setdefault(id, []).append((self.number, output))

    def update(self, output: dict, id: str | None = None) -> None:
        for number, earlier in self.shown.get(id, ()):
            earlier |= {"data": output["data"], "metadata": output["metadata"]}
            self.changed.add(number)

    def clear(self, wait: bool) -> None:
        self.clearing = True
        if not wait:
            self._now()

    def _now(self) -> None:
        """Before the outputs change: a clear that waited for this moment happens."""
        if self.clearing:
            self.outputs.clear()
            self.tail.clear()
            self.size = self.lines = self.tail_size = 0
            self.clearing, self.cut = False, None
        if self.ended:
            self.changed.add(self.number)
