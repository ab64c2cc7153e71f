"""Which notebooks to run, and which of their cells: a notebook becomes a task for an engine."""

from __future__ import annotations

import ast
import glob
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from notebooks import NUMBERED, Cell, Notebook, ToolError, read, settings, show
from outcomes import Failure, Outcome, Step, Task
from reports import Result

# kernels whose notebooks do not always name their language
FOREIGN = re.compile(
    r"(ir|r|julia.*|javascript|jslab|deno|tslab|bash|x?cpp.*|gophernotes|rust|evcxr.*|scala|almond"
    r"|kotlin|ruby|octave|matlab.*|maxima|haskell|ihaskell|wolfram.*|sas|stata|\.net-.*|java|go|c"
    r"|ocaml.*|perl|lua|sql|coq|lean.*)",
    re.IGNORECASE,
)
SKIPS, RAISES = {"skip-execution", "nbval-skip"}, {"raises-exception", "nbval-raises-exception"}
NBVAL = re.compile(r"^\s*#\s*NBVAL_(SKIP|RAISES_EXCEPTION)\s*$", re.MULTILINE)
TRUE = r"\s*:\s*(true|yes|1)\s*$"


# --- which notebooks ------------------------------------------------------------------------------


def below(folder: Path) -> tuple[list[Path], list[Path]]:
    """The notebooks in a folder and its subfolders, and those left out by their names.

    Names that begin with `_` or `.` mark drafts and checkpoints, and where the setting `numbered`
    is on, so does a missing number; the folders of a virtual environment are not searched.
    """
    found, left_out, numbered = [], [], settings(folder).numbered
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(
            name for name in folders
            if not name.startswith(("_", ".")) and name not in ("node_modules", "site-packages")
            and not (here / name / "pyvenv.cfg").exists()
        )  # fmt: skip
        for name in files:
            if name.endswith(".ipynb") and not name.startswith("."):
                draft = name.startswith("_") or (numbered and not NUMBERED.fullmatch(name[:-6]))
                (left_out if draft else found).append(here / name)
    return sorted(found, key=in_order), left_out


def in_order(path: Path) -> tuple:
    return path.parent.parts, Notebook(path, (), {}).order


def chosen(names: tuple[str, ...], nbs: Path) -> tuple[list[Path], list[Path]]:
    """The notebooks that the arguments name, each once, and those that were left out.

    No argument means the folder of the notebooks. Raises: ToolError if there is none.
    """
    paths: dict[Path, Path] = {}
    left_out: list[Path] = []
    for place in places(names, nbs) if names else [nbs]:
        if place.is_file():
            found = [place]
        else:
            found, drafts = below(place)
            left_out += drafts
        paths |= {path.resolve(): path for path in found}
    if not paths:
        where = " or ".join(map(str, names)) if names else show(nbs)
        drafts = f" except {', '.join(map(show, left_out))}; pass one by name to run it"
        other = "; name one, or use --nbs FOLDER"
        raise ToolError(f"no notebook in {where}{drafts if left_out else other}")
    return list(paths.values()), [path for path in left_out if path.resolve() not in paths]


def places(names: tuple[str, ...], nbs: Path) -> Iterator[Path]:
    """The files and folders that the arguments name."""
    for name in map(str, names):
        candidates = (Path(name), nbs / name, nbs / f"{name}.ipynb")
        path = next((place for place in candidates if place.exists()), None)
        matches = sorted(glob.glob(name)) if path is None else ()  # a shell that leaves `*` alone
        if path is None and not matches:
            raise ToolError(f"there is no notebook {name}, nor one of that name in {show(nbs)}")
        yield from [path] if path else map(Path, matches)


# --- which cells ----------------------------------------------------------------------------------


def why_skip(cell: Cell, device: str, slow: bool, flags: frozenset[str] = frozenset()) -> str:
    """The reason in a cell's directives not to run it, or nothing; `flags`: nbdev's tst_flags."""
    directives = cell.directives
    if "skip" in directives:
        return "#skip"
    if directives.get("eval", "").lower() == "false":
        return "#| eval: false"
    if "slow" in directives and not slow:
        return "#slow: give --slow to run it"
    if "cuda" in directives and device != "cuda":
        return "#cuda: give --device cuda to run it"
    flagged = flags.intersection(directives) - {"slow", "cuda"}
    return ", ".join(f"#| {flag}: one of tst_flags" for flag in sorted(flagged))


def why_leave_out(cell: Cell, missing: set[str]) -> str:
    """The reason to leave a cell out where no `#experiment` runs, or nothing.

    `missing` are the names that only such cells bind; what this cell binds is added or removed.
    """
    experiment = "experiment" in cell.directives
    if not experiment and missing.isdisjoint(re.findall(r"\w+", cell.source)):
        return ""
    bound, needed = set(), set()
    for event in cell.events:
        if not event.binds and event.name in missing - bound:
            needed.add(event.name)
        if event.binds and not event.later:
            bound.add(event.name)
    if not experiment and not needed:
        missing -= bound
        return ""
    missing |= bound
    return ("#experiment: give --experiments to run it" if experiment
            else f"{', '.join(sorted(needed))}: from an #experiment")  # fmt: skip


def tags(cell: Cell) -> set[str]:
    """A cell's tags as Jupyter keeps them; nbval's comments mean the same as its tags."""
    found = cell.metadata.get("tags")
    named = {tag for tag in found if isinstance(tag, str)} if isinstance(found, list) else set()
    said = {f"nbval-{word.lower().replace('_', '-')}" for word in NBVAL.findall(cell.source)}
    return named | said


def why_skip_all(notebook: Notebook) -> str:
    """The reason not to run a notebook at all, or nothing: its language, or nbdev's skip_exec."""
    metadata = notebook.raw.get("metadata") or {}
    info, kernel = (metadata.get(key) or {} for key in ("language_info", "kernelspec"))
    name = str(kernel.get("name") or "")
    language = str(info.get("name") or kernel.get("language") or "")
    if language and not language.lower().startswith(("python", "ipython", "sage")):
        return f"its language is {language}; this runner runs Python"
    if not language and FOREIGN.fullmatch(name):
        return f"its kernel is {name}; this runner runs Python"
    for cell in notebook.cells:
        front = cell.kind == "raw" and cell.source.startswith("---")
        if front and re.search(rf"^skip_exec{TRUE}", cell.source, re.MULTILINE | re.IGNORECASE):
            return "skip_exec: true"
    first = next((cell.source for cell in notebook.cells if cell.kind == "markdown"), "")
    if re.search(rf"^- +skip_exec{TRUE}", first, re.MULTILINE | re.IGNORECASE):
        return "skip_exec: true"
    return ""


def imported(cell: Cell, notebook: Notebook, package: str) -> str:
    """What stands in for an exported cell: the import of each name that it binds."""
    module = cell.target or notebook.module
    if cell.tree is None or module is None:
        what = f"{show(notebook.path)}: cell {cell.number} cannot be exported"
        raise ToolError(f"{what}; see what tools/notebook2script.py says")
    future = [block.text for block in cell.blocks() if block.kind == "future"]
    names = {name: None for name, how, *_ in cell.bindings if how != "loop"}
    module = f"{package}.{module}"
    what = f"from {module} import {', '.join(names)}" if names else f"import {module}"
    stars = [ast.unparse(node) for node in cell.tree.body if is_star(node)]  # they bind no name
    return "\n".join([*future, *stars, what])


def is_star(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.names[0].name == "*" and not node.level


def plan(
    notebook: Notebook,
    package: str,
    device: str = "cpu",
    slow: bool = False,
    exported: bool = False,
    brief: bool = False,
    flags: frozenset[str] = frozenset(),
    params: Mapping[str, object] | None = None,
    **limits: float,
) -> Task:
    """The code cells of a notebook as steps to run or to skip.

    `brief` leaves out the cells marked `#experiment`, and those that read what these bind.
    `params` are new values for names that the cell tagged `parameters` binds, as papermill has it.
    """
    steps, never, missing = [], why_skip_all(notebook), set()
    given = parameters(notebook, params or {})
    for cell in notebook.cells:
        # an empty cell has no number, as in Jupyter; what answers an exercise is its reader's own
        if cell.number and "exercise" not in cell.directives:
            instead = exported and cell.exported and cell.code
            source = imported(cell, notebook, package) if instead and not never else cell.source
            tagged = tags(cell)
            source += given.pop(cell.number, "")
            skip = never or why_skip(cell, device, slow, flags) or ", ".join(tagged & SKIPS)
            if brief and instead:  # its names come from the module, whatever it reads
                missing -= cell.names
            elif brief and not skip:
                skip = why_leave_out(cell, missing)
            steps.append(Step(cell.number, source, skip, not tagged.isdisjoint(RAISES)))
    return Task(str(notebook.path.resolve()), tuple(steps), **limits)


def parameters(notebook: Notebook, params: Mapping[str, object]) -> dict[int, str]:
    """What to add to the cell tagged `parameters`: its number, and the code.

    Raises: ToolError if no cell is so tagged, or it binds no such name.
    """
    if not params:
        return {}
    cell = next((c for c in notebook.cells if c.number and "parameters" in tags(c)), None)
    if cell is None:
        raise ToolError(f"{show(notebook.path)}: --params needs a cell with the tag `parameters`, "
                        "which binds the names with their usual values")  # fmt: skip
    if unknown := [name for name in params if name not in cell.names]:
        valid = ", ".join(sorted(cell.names)) or "nothing"
        raise ToolError(f"{show(notebook.path)}: --params sets {', '.join(unknown)}, but cell "
                        f"{cell.number}, tagged `parameters`, binds {valid}")  # fmt: skip
    lines = [f"{name} = {value!r}" for name, value in params.items()]
    return {cell.number: "\n".join(["", "# parameters of this run", *lines])}


def planned(path: Path, **options) -> Result:
    """A notebook with its task; one that cannot be read has failed already."""
    notebook = Notebook(path, (), {})
    try:
        if path.suffix != ".ipynb":
            raise ToolError(f"{show(path)} is not a notebook (.ipynb); if it is one written as "
                            f"text, convert it: `jupytext --to ipynb {show(path)}`")  # fmt: skip
        notebook = read(path)
        return Result(notebook, plan(notebook, **options), note=why_skip_all(notebook))
    except ToolError as error:
        failed = Outcome(str(path), 0, "failed", failures=(Failure(str(error)),))
        return Result(notebook, Task(str(path), ()), {0: failed})
