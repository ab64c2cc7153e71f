"""What the exporter refuses in a notebook; each check is a function from it to problems."""

from __future__ import annotations

import ast
import contextlib
import re
import tokenize
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from io import StringIO
from pathlib import Path

from directives import EXPORTS, importable, parse_directive, resembles_export
from notebooks import Cell, Notebook, NotebookError, Problem, read
from render import Module

UNCOMPILABLE = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


def bad_target(notebook: Notebook) -> Iterator[Problem]:
    """Each module must lie inside the library folder, and have a name that can be imported."""
    name = notebook.module
    own = [cell for cell in notebook.exported if not cell.target]
    if own and name is None:
        remedy = "name it like 04_topic.ipynb, or add a cell `#| default_exp NAME`"
        what = "exports cells, but its file name has no number"
        yield Problem(notebook.path, what, remedy, own[0])
    elif name and not importable(name):
        remedy = "use letters, digits, _ and dots, as in `#| default_exp core`"
        yield Problem(notebook.path, f"its module {name!r} has an invalid name", remedy)
    for cell in notebook.exported:
        if cell.target and not importable(cell.target):
            what = f"its module {cell.target!r} has an invalid name"
            yield Problem(notebook.path, what, "use letters, digits, _ and dots", cell, 1)


def left_out(paths: Iterable[Path]) -> Iterator[Problem]:
    """Where only numbered notebooks belong to a project, another one's exports are worth a word."""
    for path in paths:
        with contextlib.suppress(NotebookError):  # half written: nobody's business
            if exported := read(path).exported:
                what = "is left out, for its name has no number, and yet it exports"
                remedy = f"call it like 99_{path.name}, or leave it as your own"
                yield Problem(path, what, remedy, exported[0], mild=True)


def other_language(notebook: Notebook) -> Iterator[Problem]:
    """Cells of another language may look like Python, but do not mean the same."""
    if notebook.exported and not re.match(r"i?python|xpython", notebook.language):
        what = f"exports cells, but is a notebook for {notebook.language}"
        yield Problem(notebook.path, what, "choose a Python kernel, or remove #export")


def near_miss(notebook: Notebook) -> Iterator[Problem]:
    """A comment that was meant as `#export` but is not read as one would lose its cell silently."""
    remedy = "make `#export` the first line of the cell, or reword the comment"
    for cell in notebook.cells:
        if cell.kind != "code":
            first = cell.source.lstrip("\n").split("\n")[0]
            heading = cell.kind == "markdown" and first[1:2] in " |"
            if (parse_directive(first) or [""])[0] in EXPORTS and not heading:
                what = f"a cell of {cell.kind} begins with `{first.strip()}`"
                yield Problem(notebook.path, what, "make it a code cell, or reword it", cell, 1)
            continue
        if cell.exported:
            continue
        for line, text, at_top in suspects(cell):
            if cell.tree and not cell.tree.body:
                break  # only comments: nothing is lost
            plain = unmask(text)
            word, rest = COMMENT.fullmatch(plain).groups()
            prose = text.startswith("# ") and len(rest.split()) > 1
            if plain != text and not rest:
                what = f"`{text}` contains an invisible or look-alike character"
                yield Problem(notebook.path, what, "retype the comment", cell, line)
            elif word not in EXPORTS:
                if at_top and not rest:
                    yield Problem(notebook.path, f"`{text}` is a near miss", remedy, cell, line)
            elif at_top and rest and not prose:
                what = f"`{text}`: export takes nothing, a module, or `replaces NAME`"
                yield Problem(notebook.path, what, remedy, cell, line)
            elif not rest:
                what = f"`{text}` has no effect there"
                yield Problem(notebook.path, what, remedy, cell, line)


COMMENT = re.compile(r"#+[\s|!%#]*([A-Za-z]+)\b\s*(.*)")
LOOK_ALIKES = str.maketrans("еорхтЕОРХТερτοχΕΡΤΟΧ＃⌗♯∣ǀ│¦", "eopxtEOPXTeptoxEPTOX###||||")


def unmask(text: str) -> str:
    """A comment with look-alikes replaced by the letters they imitate, and nothing invisible."""
    seen = (c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return "".join(seen).translate(LOOK_ALIKES)


def suspects(cell: Cell) -> Iterator[tuple[int, str, bool]]:
    """Each comment line that resembles #export: its number, its text, whether no code precedes."""
    lines = cell.source.split("\n")
    found = [
        (number, line.strip())
        for number, line in enumerate(lines, 1)
        if "#" in (plain := line if line.isascii() else unmask(line))
        if (match := COMMENT.fullmatch(plain.strip())) and resembles_export(match[1].lower())
        if (parse_directive(line) or [""])[0] != "exportd"  # nbdev: shown, never exported
        if not re.match(r"# +#", line)  # a directive that was taken out
    ]
    quoted: set[int] = set()  # lines that start inside a string
    try:
        for token in tokenize.generate_tokens(StringIO(cell.source).readline) if found else ():
            quoted |= set(range(token.start[0] + 1, token.end[0] + 1))
    except (tokenize.TokenError, SyntaxError, UnicodeError):
        pass  # a magic, or a lone surrogate: what was read so far must do
    for number, text in found:
        if number not in quoted:
            above = (line.strip() for line in lines[: number - 1])
            yield number, text, all(not line or line.startswith("#") for line in above)


def not_python(notebook: Notebook) -> Iterator[Problem]:
    """Every exported cell must be plain Python, without lines that the exporter writes."""
    for cell in notebook.exported:
        if cell.tree is None:
            yield from uncompilable(notebook, cell)
        for number, line in enumerate(cell.code.split("\n"), cell.first_line):
            if re.match(
                r"# (cell [\w-]+ [0-9a-f]{6}( ·| in |$)|generated from .*: do not edit)", line
            ):
                what = f"the line `{line}` looks like one that the exporter writes"
                yield Problem(notebook.path, what, "reword it", cell, number)


def misplaced(module: Module) -> Iterator[Problem]:
    """What parses may still not compile as part of a module: `return`, `await` outside a def."""
    for part in module.parts:
        if part.cell.tree:
            yield from uncompilable(part.notebook, part.cell)


def uncompilable(notebook: Notebook, cell: Cell) -> Iterator[Problem]:
    try:
        compiled(cell.code)
        if cell.tree is None:  # it compiles, but is too deep to be read
            raise RecursionError("it is nested too deeply")
    except SyntaxError as error:
        error.lineno = error.lineno and error.lineno + cell.first_line - 1
        yield explain(notebook, cell, error)
    except UNCOMPILABLE as error:
        remedy = r"write unusual characters as escapes such as \ud800 or \x00, and nest less"
        yield Problem(notebook.path, f"cannot be compiled: {error}", remedy, cell)


def compiled(code: str | ast.Module) -> None:
    """Compile without running; unlike ast.parse this finds a misplaced await or __future__."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a linter's business
        compile(code, "<cell>", "exec", dont_inherit=True)


def explain(notebook: Notebook, cell: Cell, error: SyntaxError) -> Problem:
    """Name a magic, a shell command or a `?` for what it is; else pass on Python's message."""
    kinds = {
        "magic": r"\s*%|[^#'\"]*=\s*%\w",
        "shell command": r"\s*!|[^#'\"]*=\s*!",
        "help request": r"\s*\?|[^#]*\?\s*$",
        "merge conflict": r"(<{7}|={7}|>{7})( |$)",
    }
    lines = cell.source.split("\n")
    cell_magic = next((n for n, line in enumerate(lines, 1) if line.startswith("%%")), None)
    number = cell_magic or error.lineno
    line = lines[number - 1] if number and number <= len(lines) else ""
    for kind, pattern in kinds.items():
        if re.match(pattern, line):
            remedy = "move it to a cell without #export: a module is plain Python"
            return Problem(
                notebook.path, f"{kind} `{line.strip()}` is exported", remedy, cell, number
            )
    remedy = "correct it, or remove #export"
    if "await" in error.msg or "asynchronous" in error.msg:
        remedy = "put it in an `async def`: a module has no running event loop"
    return Problem(notebook.path, f"syntax error: {error.msg}", remedy, cell, number)


def whole_module(module: Module, text: str, place: Callable) -> Iterator[Problem]:
    """The module must compile; if it does not, name each cell that fails, or the line."""
    path = module.notebook.path
    try:
        compiled(text)
    except UNCOMPILABLE as error:
        if alone := list(misplaced(module)):
            yield from alone
        elif isinstance(error, SyntaxError):
            others = [part.notebook for part in module.parts]
            cell, line = place(module.notebook, text, error.lineno or 1, others)
            remedy = "correct it; each cell compiles alone, but not all of them together"
            yield Problem(path, f"syntax error: {error.msg}", remedy, cell, line)
        else:
            yield Problem(path, f"its module does not compile: {error}", "simplify it")


ALONE = (bad_target, other_language, near_miss, not_python)
