"""Turn the `#export` cells of notebooks into modules: `nbs/04_callbacks.ipynb` -> `exp/nb04.py`.

    python tools/notebook2script.py [NOTEBOOK ...] [--check] [--prune] [--nbs nbs] [--lib exp]
    python tools/notebook2script.py --where exp/nb05.py:42
    python tools/notebook2script.py --sync

Read the notebooks, check them, render every module in memory, and only then write: one problem
anywhere and nothing is written.
"""

from __future__ import annotations

import difflib
import gc
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import refusals
from directives import importable
from files import write_all
from front_door import edited_init, render_init
from left_behind import names_left_behind
from library import TOGETHER, Library
from modules import frame, hand_edits, is_generated, place, read_module, sections, where
from notebooks import NotebookError, Problem, find, read
from project import Settings, ToolError, cli, settings, show
from render import Module, gather, render
from sync import brought_back, find_edits
from unchanged import everything, in_step, remember

# --- plan: every text and every problem, before anything is written ------------------------------


@dataclass(frozen=True)
class Plan:
    """What an export would do: the text of each file, and the generated files nobody makes."""

    files: dict[Path, str]
    sources: dict[Path, Path]
    orphans: list[Path]
    notes: tuple[Problem, ...] = ()
    looked_outside: bool = False  # read modules of other libraries, for a star import

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing to do, nothing to say, and nothing outside to depend on."""
        return bool(self.files) and not (
            self.stale or self.orphans or self.notes or self.looked_outside
        )

    @property
    def stale(self) -> dict[Path, str]:
        return {path: text for path, text in self.files.items() if read_module(path) != text}


def plan(
    *names: str | Path,
    nbs: str | Path = "",
    lib: str | Path = "",
    config: Settings | None = None,
    returned: frozenset[tuple[str, str]] = frozenset(),
) -> Plan:
    """Read and check notebooks and render their modules; touch nothing.

    With names, only those are exported; the rest of the folder is read for what they share.
    `returned` are edits of modules, (cell, text), that the notebooks have by now.

    Raises: NotebookError with every problem found.
    """
    config = config or settings()
    nbs, lib = Path(nbs or config.nbs), Path(lib or config.lib)
    if not importable(lib.name):
        raise ToolError(f"the library folder {show(lib)} cannot be imported under that name; "
                        "use letters, digits and _")  # fmt: skip
    chosen = named(names, config.recursive)
    if not chosen and not nbs.is_dir():
        raise ToolError(f"no folder {show(nbs)}; say where the notebooks are with --nbs, "
                        "or as nbs_path in settings.ini or pyproject.toml")  # fmt: skip
    paths = {path.absolute(): path for path in [*chosen, *find(nbs, config.recursive)]}
    if not paths:
        raise ToolError(f"there is no notebook in {show(nbs)}")
    known, problems, unread = [], [], False
    for absolute, path in paths.items():
        try:
            known.append(read(path))
        except NotebookError as error:
            unread = True
            if not chosen or absolute in chosen:
                problems += error.problems
    known.sort(key=lambda notebook: notebook.order)
    mine = [n for n in known if not chosen or n.path.absolute() in chosen]
    modules = gather(known)
    library = Library(known, modules, lib, config.house_rules)

    problems += [p for refuse in refusals.ALONE for notebook in mine for p in refuse(notebook)]
    problems += [
        problem
        for refuse in (*TOGETHER, names_left_behind)
        for problem in refuse(library)
        if any(problem.path == notebook.path for notebook in mine)
    ]
    if config.numbered and not chosen:
        problems += refusals.left_out(sorted({*nbs.glob("[!._]*.ipynb")} - {*paths.values()}))
    notes = tuple(problem for problem in problems if problem.mild)
    problems = [problem for problem in problems if not problem.mild]
    unsound = {problem.path for problem in problems}
    files, sources = {}, {}
    for module in modules:
        made_from = {part.notebook.path for part in module.parts}
        if not any(notebook.path in made_from for notebook in mine):
            continue
        if made_from & unsound:
            problems += refusals.misplaced(module)
            continue
        text, target = render(module, nbs), target_of(module, lib)
        if read_module(target) != text:  # else it has passed before
            problems += refusals.whole_module(module, text, place)
            problems += edited_by_hand(module, target, text, returned)
        files[target], sources[target] = text, module.notebook.path
    targets = {target_of(module, lib) for module in modules}
    inits = packages(targets, lib)
    if "init" in config.house_rules:
        init = inits.pop(0)
        if modules and not unread:
            problems += edited_init(init)
            files[init] = render_init(modules, lib.name, config.values.get("description", ""))
    files |= {init: "" for init in inits if files and not init.exists()}
    if problems:
        raise NotebookError(problems)
    others = [] if chosen else sorted({*lib.rglob("*.py")} - {*targets, lib / "__init__.py"})
    orphans = [path for path in others if is_generated(read_module(path) or "")]
    return Plan(files, sources, orphans, notes, library.stars.looked_outside)


def named(names: Iterable[str | Path], recursive: bool) -> dict[Path, Path]:
    """The notebooks that arguments name, folders included: absolute path -> path."""
    found: list[Path] = []
    for path in map(Path, map(str, names)):
        inside = find(path, recursive) if path.is_dir() else [path]
        if not inside:
            raise ToolError(f"there is no notebook in {show(path)}")
        found += inside
    return {path.absolute(): path for path in found}


def target_of(module: Module, lib: Path) -> Path:
    return lib.joinpath(*module.name.split(".")).with_suffix(".py")


def packages(targets: Iterable[Path], lib: Path) -> list[Path]:
    """The `__init__.py` of the library and of each folder in it that gets a module."""
    folders = {folder for target in targets for folder in target.parents if lib in folder.parents}
    return [lib / "__init__.py", *(folder / "__init__.py" for folder in sorted(folders))]


def edited_by_hand(
    module: Module, target: Path, text: str, returned: frozenset[tuple[str, str]]
) -> list[Problem]:
    """Refuse to overwrite what was changed in the file: the hashes in it show what was."""
    old = read_module(target)
    path = module.notebook.path
    if old is None or not old.strip():
        return []
    if not is_generated(old):
        return [Problem(path, f"{show(target)} exists and is hand-written", "move it away")]
    new = {(section.id, section.text) for section in sections(text)} | returned
    same_frame = frame(old) == frame(text)
    remedy = f"bring the edit into the notebook with --sync, or drop it: delete {show(target)}"
    return [
        Problem(path, f"{show(target)}:{section.first} was edited by hand", remedy, cell)
        for section in hand_edits(old)
        if (not same_frame if not section.id else (section.id, section.text) not in new)
        for cell in [module.notebook.by_id(section.id)]
    ]


# --- the command ---------------------------------------------------------------------------------


def notebook2script(
    *notebooks: str,
    check: bool = False,
    prune: bool = False,
    where: str = "",
    sync: bool = False,
    nbs: str = "",
    lib: str = "",
) -> None:
    """Export notebooks to modules: all of the folder, or those named.

    Args:
        notebooks: files, or folders of them; none means the whole folder of notebooks.
        check: write nothing; print a diff for each module out of step, and exit with 1.
        prune: remove generated modules whose notebook is gone.
        where: `exp/nb05.py:42`; print the notebook, cell and line that this line came from.
        sync: bring what was edited in modules back into the cells it came from; then export.
        nbs: the folder of notebooks (setting nbs_path, by default nbs).
        lib: the folder of modules (setting lib_path, by default lib_name or exp).
    """
    config = settings()
    if where:
        return print_where(str(where), nbs or config.nbs)
    folders = Path(nbs or config.nbs), Path(lib or config.lib)
    if sync:
        return bring_back(notebooks, *folders, config)
    seen = "" if notebooks else everything(config, *folders)
    if seen and in_step(folders[1], seen):
        return None
    todo = plan(*notebooks, nbs=nbs, lib=lib, config=config)
    if seen and todo.is_silent and seen == everything(config, *folders):
        remember(folders[1], seen)
    for note in todo.notes:
        print(f"note: {note}", file=sys.stderr)
    if check:
        return report_stale(todo)
    for path in todo.orphans if prune else ():
        if hand_edits(read_module(path) or ""):
            raise ToolError(f"{show(path)} has no notebook and was edited by hand; move it away")
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
    if not todo.files:
        print(f"nothing to export: no cell in {show(nbs or config.nbs)} is marked #export")
    for path in todo.orphans:
        if not prune:
            print(f"{show(path)} has no notebook any more; --prune removes it")
        else:
            path.unlink()
            print(f"removed {show(path)}")


def bring_back(names: Iterable[str], nbs: Path, lib: Path, config: Settings) -> None:
    """Write the edits of modules into their notebooks, and export; or refuse, and write nothing.

    Raises: NotebookError if an edit cannot go back, or what it makes of a notebook is refused.
    """
    chosen = named(names, config.recursive)
    paths = {path.absolute(): path for path in [*chosen, *find(nbs, config.recursive)]}
    known = sorted(map(read, paths.values()), key=lambda notebook: notebook.order)
    targets = {module.name: target_of(module, lib) for module in gather(known)}
    edits, problems = find_edits(known, targets, nbs)
    mine = {paths[path] for path in chosen} or {*paths.values(), *targets.values()}
    edits = [edit for edit in edits if edit.notebook.path in mine]
    if problems := [problem for problem in problems if problem.path in mine]:
        raise NotebookError(problems)
    if not edits:
        print("no module was edited")
        return
    texts = brought_back(edits)
    before = {path: path.read_bytes().decode("utf-8") for path in texts}
    returned = frozenset((edit.section.id, edit.section.text) for edit in edits)
    write_all(texts)
    try:
        todo = plan(nbs=nbs, lib=lib, config=config, returned=returned)
    except BaseException:
        write_all(before)
        raise
    write_all(todo.stale)
    for edit in edits:
        cell = f"cell {edit.cell.number} ({edit.cell.id})"
        origin = f"{show(edit.target)}:{edit.section.first}"
        print(f"brought back {origin} -> {show(edit.notebook.path)}:{cell}")


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
        raise ToolError(f"out of step with the notebooks: {names}; run notebook2script")


def print_where(target: str, nbs: str | Path) -> None:
    path, _, line = target.rpartition(":")
    if not path or not (line.isascii() and line.isdigit()):
        raise ToolError(f"--where takes FILE:LINE, as in exp/nb05.py:42; got {target!r}")
    notebook, cell, at = where(path, int(line), nbs)
    print(f"{show(notebook.path)}:cell {cell.number} ({cell.id}):{at or '?'} {cell.heading}")
    if at:
        print(cell.source.split("\n")[at - 1])
    else:
        print("the cell has changed since the module was written: export, then ask again")


def main() -> None:
    gc.disable()  # trees of code all live to the end: searching them for garbage costs a fifth
    cli(notebook2script)


if __name__ == "__main__":
    main()
