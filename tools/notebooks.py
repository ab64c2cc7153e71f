"""What the tools share: notebooks and their cells, directives, order and names; the settings."""

from __future__ import annotations

import ast
import configparser
import functools
import hashlib
import inspect
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

NUMBERED = re.compile(r"(\d+)([a-z]?)_(.+)")
DIRECTIVE = re.compile(r"#\s*(\|?)\s*(\w+)(.*)")
EXPORTS = {"export", "exports", "exporti"}  # the last two are nbdev's: shown, and private
FLAGS = EXPORTS | {"slow", "cuda", "hide", "skip"}  # directives that stand alone
CONFLICT = re.compile(r"^(<{7}|\|{7}|={7}|>{7})( .*)?$", re.MULTILINE)


class ToolError(Exception):
    """A mistake of the user's; the command line prints it without a traceback."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where it is, what it is, and what to do about it."""

    path: Path
    what: str
    remedy: str
    cell: Cell | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = show(self.path)
        if self.cell:
            place += f":cell {self.cell.number} ({self.cell.id})"
        if self.line:
            place += f":{self.line}"
        return f"{place}: {self.what}; {self.remedy}"


class NotebookError(ToolError):
    """One or more problems that keep a notebook from being used."""

    def __init__(self, problems: Iterable[Problem]):
        self.problems = list(problems)
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Block:
    """A run of whole lines of a cell that stays together in a module."""

    kind: str  # "future", "imports" or "body"
    first: int  # the line of the cell it starts at, from 1
    text: str


@dataclass(frozen=True)
class Cell:
    """A cell; code cells are numbered as `In [number]` on a clean run, the others are 0."""

    number: int
    id: str
    kind: str  # "code", "markdown" or "raw"
    source: str
    heading: str = ""
    index: int = 0  # the place in the notebook's list of cells, from 0

    @cached_property
    def _split(self) -> tuple[dict[str, str], int]:
        """The directives at the top, and how many lines they and the blank lines around take."""
        found: dict[str, str] = {}
        lines = self.source.split("\n")
        for skipped, line in enumerate(lines):
            if line.strip():
                directive = parse_directive(line)
                if directive is None:
                    return found, skipped
                name, argument = directive
                found[name] = ", ".join(filter(None, [found.get(name), argument]))
        return found, len(lines)

    @property
    def directives(self) -> dict[str, str]:
        """Name -> argument of each directive, in order; `#export` is `{"export": ""}`."""
        return self._split[0] if self.kind == "code" else {}

    @property
    def exported(self) -> bool:
        return not EXPORTS.isdisjoint(self.directives)

    @property
    def first_line(self) -> int:
        """The line of the source, from 1, at which the code below the directives starts."""
        return self._split[1] + 1

    @cached_property
    def code(self) -> str:
        """The source below the directives; blank space at the end is dropped."""
        return "\n".join(self.source.split("\n")[self._split[1] :]).rstrip()

    @cached_property
    def tree(self) -> ast.Module | None:
        """The parsed code, or None where it is not plain Python (a magic, a syntax error)."""
        try:
            return ast.parse(self.code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None

    @cached_property
    def bindings(self) -> tuple[tuple[str, str, ast.AST, ast.stmt], ...]:
        """Each name that the code binds, as `bound_names` gives it, and the statement it is in."""
        statements = self.tree.body if self.tree else ()
        return tuple(
            (*bound, statement) for statement in statements for bound in bound_names(statement)
        )

    @property
    def names(self) -> set[str]:
        return {name for name, *_ in self.bindings}

    def blocks(self) -> list[Block]:
        """Cut the code into `from __future__` imports, the other imports at its top, and the rest.

        An import that stands behind other code of its cell stays there: it may depend on it.
        """
        assert self.tree is not None, "blocks() needs code that compiles"
        statements = self.tree.body
        kinds, cuts = [], [0]  # each block ends behind this line
        if statements and _is_docstring(statements[0]):
            statements = statements[1:]
        for kind, belongs in (("future", _is_future), ("imports", _is_import)):
            while statements and belongs(statements[0]):
                following = _start(statements[1]) if len(statements) > 1 else None
                if following is not None and following <= statements[0].end_lineno:
                    break  # `import a; b = 1` shares its line
                if kinds[-1:] == [kind]:
                    cuts[-1] = statements[0].end_lineno
                else:
                    kinds.append(kind)
                    cuts.append(statements[0].end_lineno)
                statements = statements[1:]
        lines = self.code.split("\n")
        kinds.append("body")
        cuts.append(len(lines))
        found = []
        for kind, start, stop in zip(kinds, cuts, cuts[1:], strict=False):
            while start < stop and not lines[start].strip():
                start += 1
            if text := "\n".join(lines[start:stop]).rstrip():
                found.append(Block(kind, self.first_line + start, text))
        return found


@dataclass(frozen=True)
class Notebook:
    """A notebook as the tools see it: where it is, its cells, and `raw`, the JSON as read."""

    path: Path
    cells: tuple[Cell, ...]
    raw: dict = field(repr=False, compare=False)

    @property
    def order(self) -> tuple:
        """The key to sort by: number, letter, name; notebooks without a number come last."""
        match = NUMBERED.fullmatch(self.path.stem)
        return (0, int(match[1]), match[2], match[3]) if match else (1, 0, "", self.path.stem)

    @property
    def topic(self) -> str:
        """The name behind the number, as an identifier: `04_callbacks` -> `callbacks`."""
        match = NUMBERED.fullmatch(self.path.stem)
        return re.sub(r"\W+", "_", match[3] if match else self.path.stem)

    @cached_property
    def module(self) -> str | None:
        """The module it exports to: `nb04` for `04_callbacks`, or what `#| default_exp` says."""
        for cell in self.cells:
            if name := cell.directives.get("default_exp"):
                return name
        match = NUMBERED.fullmatch(self.path.stem)
        return f"nb{match[1]}{match[2]}" if match else None

    @cached_property
    def exported(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.exported and cell.code)

    @cached_property
    def public_names(self) -> list[str]:
        """What `__all__` lists: each public name that an exported cell defines, in order, once."""
        deleted = {
            target.id
            for cell in self.exported
            for statement in (cell.tree.body if cell.tree else ())
            if isinstance(statement, ast.Delete)
            for target in statement.targets
            if isinstance(target, ast.Name)
        }
        names = {
            name: None
            for cell in self.exported
            if "exporti" not in cell.directives
            for name, how, *_ in cell.bindings
            if how == "define" and not name.startswith("_")
        }
        return [name for name in names if name not in deleted]

    @cached_property
    def title(self) -> str:
        """The text of the first H1, or the topic."""
        return self._opening[0] or self.topic

    @cached_property
    def summary(self) -> str:
        """The `>` sentence below the title, or nothing."""
        return self._opening[1]

    @cached_property
    def _opening(self) -> tuple[str, str]:
        for cell in self.cells:
            for line, text in headings(cell.source) if cell.kind == "markdown" else ():
                if line.startswith("# "):
                    below = cell.source.split(line + "\n", 1)[-1].lstrip("\n").split("\n")
                    quoted = itertools.takewhile(lambda row: row.startswith(">"), below)
                    return text, " ".join(row.lstrip("> ").strip() for row in quoted)
        return "", ""

    def by_id(self, id: str) -> Cell | None:
        return next((cell for cell in self.cells if cell.id == id), None)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__" and node.level == 0


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import | ast.ImportFrom)


def _start(node: ast.stmt) -> int:
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


def parse_directive(line: str) -> tuple[str, str] | None:
    """Read `#export`, `# export`, `#|export`, `#| export` as one directive: (name, argument).

    A comment is a directive if it says so alone on its line (`# hide`), if it is `#earns …`,
    `#export replaces …`, or if it starts with `#|`; `# skip the header` is only a comment.
    """
    match = DIRECTIVE.fullmatch(line.strip())
    if match is None:
        return None
    bar, name, argument = match[1], match[2], match[3].strip().removeprefix(":").strip()
    if name in FLAGS and not argument:
        return name, ""
    if name == "export" and re.match(r"replaces\s+\w", argument):
        return name, argument
    if name in ("earns", "default_exp") and argument and match[3][0] in " \t":
        return name, argument
    # other `#| key: value` lines are options of nbdev and Quarto; a bare word may be a misspelling
    return (name, argument) if bar and match[3].strip() and name not in FLAGS else None


def show(path: Path) -> str:
    """The path as a reader wants it: below the working directory, with forward slashes."""
    path = Path(path)
    try:
        path = path.resolve().relative_to(Path.cwd().resolve())
    except ValueError:
        pass
    return path.as_posix()


def read(path: str | Path) -> Notebook:
    """Read and validate one notebook file.

    Raises: NotebookError, which names the file and the remedy, if it is missing, empty, not JSON,
    in the middle of a merge, older than nbformat 4, or has cells without the parts of a cell.
    """
    path = Path(path)

    def refuse(what: str, remedy: str, line: int | None = None) -> NotebookError:
        return NotebookError([Problem(path, what, remedy, line=line)])

    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise refuse(f"is not UTF-8 ({error})", "save it as UTF-8") from None
    except OSError as error:
        raise refuse(f"cannot be read: {error.strerror}", "check the path") from None
    if not text.strip():
        raise refuse("is an empty file", "delete it, or restore it with git")
    if "<<<<<<<" in text and (match := CONFLICT.search(text)):
        line = text.count("\n", 0, match.start()) + 1
        raise refuse(
            "has a merge conflict", "resolve it, for example with `nbdime mergetool`", line
        )
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise refuse(f"is not JSON ({error})", "restore it with git", line) from None
    if not isinstance(raw, dict) or not isinstance(raw.get("nbformat"), int):
        raise refuse("is JSON but not a notebook", "open and save it in Jupyter")
    if raw["nbformat"] < 4:
        remedy = "convert it: `jupyter nbconvert --to notebook --nbformat 4 --inplace FILE`"
        raise refuse(f"is in the old format nbformat {raw['nbformat']}, 4 is needed", remedy)
    if not isinstance(raw.get("cells"), list):
        raise refuse("has no list of cells", "open and save it in Jupyter")

    cells: list[Cell] = []
    number, heading, ids = 0, "", set()
    for index, cell in enumerate(raw["cells"]):
        source = cell.get("source") if isinstance(cell, dict) else None
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = "".join(source)
        if not isinstance(source, str) or cell.get("cell_type") not in ("code", "markdown", "raw"):
            raise refuse(f"cell {index + 1} of {len(raw['cells'])} has no source or no known type",
                         "open and save it in Jupyter")  # fmt: skip
        source = source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        kind = cell["cell_type"]
        if kind == "markdown":
            heading = [heading, *(text for _, text in headings(source))][-1]
        counted = kind == "code" and bool(source.strip())  # Jupyter does not run empty cells
        number += counted
        id = cell.get("id", "")
        if not (isinstance(id, str) and re.fullmatch(r"[\w-]+", id, re.ASCII)):
            id = stand_in = "h" + short_hash(source, 8)  # before nbformat 4.5 cells had no ids
            copies = 1
            while id in ids:
                copies += 1
                id = f"{stand_in}-{copies}"
        if id in ids:
            raise refuse(f"two cells have the id {id}", "open and save it in Jupyter")
        ids.add(id)
        cells.append(Cell(number if counted else 0, id, kind, source, heading, index))
    return Notebook(path, tuple(cells), raw)


def headings(markdown: str) -> Iterator[tuple[str, str]]:
    """Each heading of a markdown text, as (its line, its text); what is fenced is code."""
    fence = ""
    for line in markdown.split("\n"):
        mark = re.match(r"\s{0,3}(`{3,}|~{3,})", line)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence):
            fence = ""
        elif not fence and (match := re.match(r"#{1,6} +(.+?)( +#+)? *$", line)):
            yield line, re.sub(r"[^\S ]|[\ud800-\udfff]", " ", match[1]).strip()


def find(folder: str | Path) -> list[Path]:
    """The notebooks of a folder in reading order."""
    paths = [p for p in Path(folder).glob("*.ipynb") if not p.name.startswith((".", "_"))]
    return sorted(paths, key=lambda p: Notebook(p, (), {}).order)


def short_hash(text: str, length: int = 6) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:length]


def bound_names(node: ast.AST) -> Iterator[tuple[str, str, ast.AST]]:
    """Each name that running these statements binds, as (name, how, node).

    `how` is "import", "define" (def, class, =, :=, with, match, also inside if, try and loops) or
    "loop" (the target of a for or an except). What functions, classes and comprehensions bind is
    theirs.
    """
    for child in [node] if isinstance(node, ast.stmt) else ast.iter_child_nodes(node):
        yield from _bound(child, "define")


def _bound(node: ast.AST, how: str) -> Iterator[tuple[str, str, ast.AST]]:
    inner: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        if not any(_extends(decorator) for decorator in node.decorator_list):
            yield node.name, how, node
        arguments = [] if isinstance(node, ast.ClassDef) else [node.args]
        bases = [*getattr(node, "bases", []), *getattr(node, "keywords", [])]
        inner = [*node.decorator_list, *arguments, *bases]
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            if alias.name != "*" and not _is_future(node):
                yield alias.asname or alias.name.split(".")[0], "import", node
        return
    elif isinstance(node, ast.Lambda):
        inner = [node.args]
    elif isinstance(node, ast.comprehension):
        inner = [node.iter, *node.ifs]
    elif isinstance(node, ast.AugAssign):
        inner = [node.value]
    elif isinstance(node, ast.AnnAssign) and node.value is None:
        inner = [node.annotation]
    elif isinstance(node, ast.For | ast.AsyncFor):
        yield from _bound(node.target, "loop")
        inner = [node.iter, *node.body, *node.orelse]
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name, "loop", node
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id, how, node
    elif isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
        yield node.name, how, node
    elif isinstance(node, ast.MatchMapping) and node.rest:
        yield node.rest, how, node
    for child in inner:
        yield from _bound(child, how)


def _extends(decorator: ast.expr) -> bool:
    """Whether a decorated def adds to something that exists instead of binding a new name."""
    name = ast.unparse(decorator).split("(")[0]
    return name.split(".")[-1] in {"patch", "patch_to", "overload"}


def imports_of(cell: Cell, package: str) -> Iterator[tuple[int, str, str | None]]:
    """Each import from the package in a cell, also inside functions: (line, module, name or None).

    `from exp.nb01 import f` gives `(1, "nb01", "f")`, `import exp.nb01` gives `(1, "nb01", None)`.
    """
    mentioned = re.search(rf"\b{package}\b|\bfrom\s+\.", cell.code)  # parsing takes longer
    for node in ast.walk(cell.tree) if mentioned and cell.tree else ():
        line = getattr(node, "lineno", 1) + cell.first_line - 1
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith(package + "."):
                    yield line, alias.name.removeprefix(package + "."), None
        elif isinstance(node, ast.ImportFrom):
            module = (package + "." if node.level else "") + (node.module or "")
            for alias in node.names:
                if module.rstrip(".") == package:
                    yield line, alias.name, None
                elif module.startswith(package + "."):
                    yield line, module.removeprefix(package + "."), alias.name


@dataclass(frozen=True)
class Settings:
    """The paths and defaults of the tools, from the nearest settings.ini at or above the folder."""

    root: Path
    nbs: Path
    lib: Path
    values: dict[str, str]


def settings(start: str | Path = ".") -> Settings:
    """Read settings.ini: `nbs_path`, `lib_path` and whatever else a tool looks up in `values`."""
    start = Path(start).resolve()
    candidates = [*(p for p in [start, *start.parents]), Path(__file__).resolve().parents[1]]
    root = next((p for p in candidates if (p / "settings.ini").is_file()), start)
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(root / "settings.ini", encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ToolError(f"{show(root / 'settings.ini')} cannot be read: {error}") from None
    values = dict(parser["DEFAULT"])
    nbs, lib = values.get("nbs_path", "nbs"), values.get("lib_path", "exp")
    return Settings(root, root / nbs, root / lib, values)


def cli(function: Callable) -> None:
    """Run a function as a command with fire: a mistake of the user's is a message and exit code 1.

    Fire calls the function first and complains of a misspelt flag afterwards; for a tool that
    writes files that is too late, so the flags are compared with the signature before.
    """
    import fire
    from fire.core import FireExit

    parameters = inspect.signature(function).parameters
    for flag in sys.argv[1:]:
        name = re.match(r"--?(?:no)?([A-Za-z][\w-]*)", flag)
        known = {*parameters, *(f"no{p}" for p in parameters), "help", "h"}
        if name and flag.lstrip("-").split("=")[0].replace("-", "_") not in known:
            valid = ", ".join(f"--{p}" for p in parameters if p != "notebooks")
            sys.exit(f"unknown flag {flag.split('=')[0]}; the flags are {valid}")

    @functools.wraps(function)
    def checked(*args, **options):
        for name, value in options.items():
            if isinstance(value, bool) and isinstance(parameters[name].default, str):
                raise ToolError(f"--{name} needs a value")
        return function(*args, **options)

    try:
        fire.Fire(checked)
    except FireExit:
        raise
    except ToolError as error:
        sys.exit(str(error))
