"""Turn the `#export` cells of notebooks into modules: `nbs/04_callbacks.ipynb` -> `exp/nb04.py`.

    python tools/notebook2script.py [NOTEBOOK ...] [--check] [--prune] [--nbs nbs] [--lib exp]
    python tools/notebook2script.py --where exp/nb05.py:42

Read the notebooks, check them, render every module in memory, and only then write: one problem
anywhere and nothing is written.
"""

from __future__ import annotations

import difflib
import gc
import os
import re
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import refusals
from front_door import docstring, render_init
from notebooks import (
    Cell,
    Notebook,
    NotebookError,
    Problem,
    ToolError,
    cli,
    find,
    read,
    settings,
    short_hash,
    show,
)

MARKER = re.compile(r"# cell ([\w-]+) ([0-9a-f]{6})(?: · .*)?")
GENERATED = re.compile(r"# generated from (.+): do not edit(?: · ([0-9a-f]{6}))?")


# --- render: a notebook in, the text of its module out -------------------------------------------


def render(notebook: Notebook) -> str:
    """Write the module of a notebook: docstring, `__all__`, imports, then the cells in order.

    A marker comment `# cell ID HASH · heading` stands above each block of a cell.
    """
    parts: dict[str, list[str]] = {"future": [], "imports": [], "body": []}
    for cell in notebook.exported:
        heading = f" · {cell.heading}" if cell.heading else ""
        for block in cell.blocks():
            marker = f"# cell {cell.id} {short_hash(block.text)}{heading}"
            parts[block.kind].append(f"{marker}\n{block.text}")
    names = "".join(f'    "{name}",\n' for name in notebook.public_names)
    header = [
        docstring(notebook.title, notebook.summary),
        *parts["future"],
        f"# generated from {notebook.path.parent.name}/{notebook.path.name}: do not edit\n"
        + (f"__all__ = [\n{names}]" if names else "__all__ = []"),
        *parts["imports"],
    ]
    return "\n\n\n".join(["\n\n".join(header), *parts["body"]]) + "\n"


# --- read back: what a module on disk says of itself ---------------------------------------------


@dataclass(frozen=True)
class Section:
    """A run of lines of a module; `id` and `hash` are the marker's, empty in the header."""

    id: str
    hash: str
    first: int  # the line of the module that the text starts at, from 1
    text: str

    @property
    def edited(self) -> bool:
        return bool(self.id) and short_hash(self.text) != self.hash


def sections(module: str) -> list[Section]:
    """Cut a module at its markers; the header's sections come out too, without an id."""
    lines = module.split("\n")
    starts = [i for i, line in enumerate(lines) if MARKER.fullmatch(line) or GENERATED.match(line)]
    found = [Section("", "", 1, "\n".join(lines[: starts[0] if starts else None]))]
    for start, stop in pairwise([*starts, len(lines)]):
        match = MARKER.fullmatch(lines[start])
        text = "\n".join(lines[start + 1 : stop]).rstrip()
        found.append(Section(match[1] if match else "", match[2] if match else "", start + 2, text))
    return found


def read_module(path: Path) -> str | None:
    """The text of a module, or None if there is none."""
    try:
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ToolError(f"{show(path)} cannot be read ({error}); move it away") from None


def is_generated(module: str) -> bool:
    return any(GENERATED.fullmatch(line) for line in module.split("\n"))


def place(notebook: Notebook, module: str, line: int) -> tuple[Cell | None, int | None]:
    """Map a line of a module to the cell, and the line in that cell, that it came from."""
    met: list[str] = []
    for section in sections(module):
        met.append(section.id)
        if section.id and section.first - 1 <= line <= section.first + section.text.count("\n"):
            cell = notebook.by_id(section.id)
            blocks = cell.blocks() if cell and cell.tree else []
            nth = met.count(section.id) - 1  # which block of the cell this is
            if nth >= len(blocks):
                return cell, None
            return cell, blocks[nth].first + max(line - section.first, 0)
    return None, None


def where(path: str | Path, line: int, nbs: str | Path = "") -> tuple[Notebook, Cell, int | None]:
    """Find the notebook, the cell and the line in the cell that a line of a module came from.

    Raises: ToolError if the file is not generated, its notebook is gone, or no cell owns the line.
    """
    module = read_module(Path(path)) or ""
    match = re.search(GENERATED.pattern, module)
    if not match:
        raise ToolError(f"{show(path)} is no generated module; give a file that the exporter wrote")
    notebook = read(Path(nbs or settings().nbs) / Path(match[1]).name)
    cell, at = place(notebook, module, line)
    if cell is None:
        raise ToolError(f"{show(path)}:{line} belongs to no cell of {show(notebook.path)}")
    return notebook, cell, at


# --- plan: every text and every problem, before anything is written ------------------------------


@dataclass(frozen=True)
class Plan:
    """What an export would do: the text of each file, and the generated files nobody makes."""

    files: dict[Path, str]
    sources: dict[Path, Path]
    orphans: list[Path]

    @property
    def stale(self) -> dict[Path, str]:
        return {path: text for path, text in self.files.items() if read_module(path) != text}


def plan(*names: str | Path, nbs: str | Path, lib: str | Path) -> Plan:
    """Read and check notebooks and render their modules; touch nothing.

    With names, only those are exported; the rest of the folder is read for what they share.
    Raises: NotebookError with every problem found.
    """
    nbs, lib, description = Path(nbs), Path(lib), settings().values.get("description", "")
    chosen = {Path(str(name)).resolve() for name in names}
    if not chosen and not nbs.is_dir():
        raise ToolError(f"no folder {show(nbs)}; say where the notebooks are with --nbs")
    known, problems, unread = [], [], False
    for path in {p.resolve(): p for p in [*chosen, *find(nbs)]}.values():
        try:
            known.append(read(path))
        except NotebookError as error:
            unread = True
            if not chosen or path.resolve() in chosen:
                problems += error.problems
    known.sort(key=lambda notebook: notebook.order)
    mine = [n for n in known if not chosen or n.path.resolve() in chosen]
    makers = [n for n in known if n.exported and n.module]
    targets = {n.path: lib.joinpath(*n.module.split(".")).with_suffix(".py") for n in makers}

    problems += [p for refuse in refusals.ALONE for notebook in mine for p in refuse(notebook)]
    shared = [p for refuse in refusals.TOGETHER for p in refuse(known, lib.name)]
    problems += [p for p in shared if any(p.path == n.path for n in mine)]
    unsound = {problem.path for problem in problems}
    files, sources = {}, {}
    for notebook in mine:
        if notebook.path in unsound:
            problems += refusals.misplaced(notebook)
        elif notebook in makers:
            text, target = render(notebook), targets[notebook.path]
            problems += refusals.whole_module(notebook, text, place)
            problems += edited_by_hand(notebook, target, text)
            files[target], sources[target] = text, notebook.path
    init = lib / "__init__.py"
    if makers and not unread:
        problems += edited_init(init)
        files[init] = render_init(makers, lib.name, description)
    if problems:
        raise NotebookError(problems)
    others = [] if chosen else sorted({*lib.rglob("*.py")} - {*targets.values(), init})
    return Plan(files, sources, [p for p in others if is_generated(read_module(p) or "")])


def edited_by_hand(notebook: Notebook, target: Path, text: str) -> list[Problem]:
    """Refuse to overwrite what somebody changed in the module: the markers' hashes tell."""
    old = read_module(target)
    if old is None or old == text:
        return []
    if not is_generated(old):
        return [
            Problem(notebook.path, f"{show(target)} exists and is hand-written", "move it away")
        ]
    new = {(section.id, section.text) for section in sections(text)}
    edited = [s for s in sections(old) if s.edited and (s.id, s.text) not in new]
    edited += [s for s in sections(old) if not s.id and refusals.more_than_header(s.text)]
    remedy = f"bring the edit into the notebook, or drop it: delete {show(target)}; then export"
    return [
        Problem(notebook.path, f"{show(target)}:{section.first} was edited by hand", remedy, cell)
        for section in edited
        for cell in [notebook.by_id(section.id)]
    ]


def edited_init(path: Path) -> list[Problem]:
    first, _, rest = (read_module(path) or "").partition("\n\nimport")
    if not first.strip():
        return []
    body, _, mark = first.rpartition(" · ")
    if mark == short_hash(body + rest):
        return []
    return [Problem(path, "was written or edited by hand", "move it away, then export")]


# --- write: the only part that touches the disk --------------------------------------------------


def write_all(texts: dict[Path, str]) -> None:
    """Replace files by new ones, each whole: after a crash at any point it is the old or the new.

    All are written beside their targets first, so that a full disk changes nothing.
    """
    waiting: list[tuple[str, Path]] = []
    try:
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(".new", f".{path.name}.", path.parent)
            waiting.append((temporary, path))
            with os.fdopen(handle, "wb") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, path.stat().st_mode if path.exists() else 0o644)
        while waiting:
            os.replace(*waiting[0])
            waiting.pop(0)
    finally:
        for temporary, _ in waiting:
            Path(temporary).unlink(missing_ok=True)


# --- the command ---------------------------------------------------------------------------------


def notebook2script(
    *notebooks: str,
    check: bool = False,
    prune: bool = False,
    where: str = "",
    nbs: str = "",
    lib: str = "",
) -> None:
    """Export notebooks to modules: all of the folder, or those named.

    Args:
        check: write nothing; print a diff for each module out of step, and exit with 1.
        prune: remove generated modules whose notebook is gone.
        where: `exp/nb05.py:42`; print the notebook, cell and line that this line came from.
        nbs: the folder of notebooks (settings.ini: nbs_path).
        lib: the folder of modules (settings.ini: lib_path).
    """
    config = settings()
    if where:
        return print_where(where, nbs or config.nbs)
    todo = plan(*notebooks, nbs=nbs or config.nbs, lib=lib or config.lib)
    if check:
        return report_stale(todo)
    stale = todo.stale
    try:
        write_all(stale)
    except OSError as error:
        raise ToolError(
            f"cannot write the modules: {error}; every file is as it was or new"
        ) from error
    for path in stale:
        if path in todo.sources:
            print(f"converted {show(todo.sources[path])} -> {show(path)}")
    for path in todo.orphans:
        if not prune:
            print(f"{show(path)} has no notebook any more; --prune removes it")
        elif any(section.edited for section in sections(read_module(path) or "")):
            raise ToolError(f"{show(path)} has no notebook and was edited by hand; move it away")
        else:
            path.unlink()
            print(f"removed {show(path)}")


def report_stale(todo: Plan) -> None:
    """Print how each file differs from what an export would write.

    Raises: ToolError if any does.
    """
    for path, text in todo.stale.items():
        old = (read_module(path) or "").splitlines(keepends=True)
        new = text.splitlines(keepends=True)
        name = show(path)
        print("".join(difflib.unified_diff(old, new, name, f"{name} (from the notebook)")), end="")
    for path in todo.orphans:
        print(f"{show(path)} has no notebook any more; --prune removes it")
    if wrong := [*todo.stale, *todo.orphans]:
        names = ", ".join(show(path) for path in wrong)
        raise ToolError(f"out of step with the notebooks: {names}; run tools/notebook2script.py")


def print_where(target: str, nbs: str | Path) -> None:
    path, _, line = str(target).rpartition(":")
    if not path or not line.isdigit():
        raise ToolError(f"--where takes FILE:LINE, as in exp/nb05.py:42; got {target!r}")
    notebook, cell, at = where(path, int(line), nbs)
    print(f"{show(notebook.path)}:cell {cell.number} ({cell.id}):{at or '?'} {cell.heading}")
    if at:
        print(cell.source.split("\n")[at - 1])


if __name__ == "__main__":
    gc.disable()  # trees of code all live to the end: searching them for garbage costs a fifth
    cli(notebook2script)
