"""What the exporter refuses: each check is one small function from notebooks to problems."""

from __future__ import annotations

import ast
import builtins
import difflib
import functools
import re
import symtable
import sys
import tokenize
import warnings
from collections.abc import Callable, Iterator
from io import StringIO

from notebooks import Cell, Notebook, Problem, imports_of, show

MODULE_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
NUMBERED_MODULE = re.compile(r"nb\d+[a-z]?")
MODULE_DUNDERS = {"__name__", "__file__", "__doc__", "__spec__", "__package__"}
UNCOMPILABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


def bad_target(notebook: Notebook) -> Iterator[Problem]:
    """The module must lie inside the library folder."""
    name = notebook.module
    if notebook.exported and name is None:
        remedy = "name it like 04_topic.ipynb, or add a cell `#| default_exp NAME`"
        what = "exports cells but its name has no number"
        yield Problem(notebook.path, what, remedy, notebook.exported[0])
    elif name and (not MODULE_NAME.fullmatch(name) or name.endswith("__init__")):
        remedy = "use letters, digits, _ and dots, as in `#| default_exp core`"
        yield Problem(notebook.path, f"its module {name!r} is no name inside the library", remedy)


def near_miss(notebook: Notebook) -> Iterator[Problem]:
    """A comment that was meant as `#export` but is not read as one would lose its cell silently."""
    remedy = "make `#export` the first line of the cell, or reword the comment"
    for cell in notebook.cells:
        if cell.kind != "code" or cell.exported:
            continue
        for line, text, at_top in suspects(cell):
            word, rest = COMMENT.fullmatch(text).groups()
            if word not in ("export", "exports", "exporti"):
                if at_top and not rest:
                    yield Problem(notebook.path, f"`{text}` is a near miss", remedy, cell, line)
            elif at_top and rest:
                what = f"`{text}`: export takes nothing, or `replaces NAME`"
                yield Problem(notebook.path, what, remedy, cell, line)
            elif not rest:
                what = f"`{text}` has no effect there"
                yield Problem(notebook.path, what, remedy, cell, line)


COMMENT = re.compile(r"#+[\s|]*([A-Za-z]+)\b\s*(.*)")


def suspects(cell: Cell) -> Iterator[tuple[int, str, bool]]:
    """Each comment line that resembles #export: its number, its text, whether no code precedes."""
    lines = cell.source.split("\n")
    found = [
        (number, line.strip())
        for number, line in enumerate(lines, 1)
        if (match := COMMENT.fullmatch(line.strip())) and resembles_export(match[1].lower())
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


@functools.cache
def resembles_export(word: str) -> bool:
    return difflib.SequenceMatcher(None, word, "export").ratio() > 0.8


def not_python(notebook: Notebook) -> Iterator[Problem]:
    """Every exported cell must be plain Python, and hold no line that the exporter writes."""
    for cell in notebook.exported:
        if cell.tree is None:
            yield from uncompilable(notebook, cell)
        for number, line in enumerate(cell.code.split("\n"), cell.first_line):
            if re.match(r"# (cell [\w-]+ [0-9a-f]{6}( ·|$)|generated from .*: do not edit)", line):
                what = f"the line `{line}` is what the exporter itself writes"
                yield Problem(notebook.path, what, "reword it", cell, number)


def misplaced(notebook: Notebook) -> Iterator[Problem]:
    """What parses may still not compile as a part of a module: `return`, `await` outside of def."""
    for cell in notebook.exported:
        if cell.tree:
            yield from uncompilable(notebook, cell)


def uncompilable(notebook: Notebook, cell: Cell) -> Iterator[Problem]:
    try:
        compiled(cell.tree or cell.code)
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
    remedy = "correct it, or take #export away"
    if "await" in error.msg or "asynchronous" in error.msg:
        remedy = "put it into an `async def`: a module has no running event loop"
    return Problem(notebook.path, f"syntax error: {error.msg}", remedy, cell, number)


def names_left_behind(notebook: Notebook) -> Iterator[Problem]:
    """Every name that an exported cell uses must come along into the module."""
    exported = [cell for cell in notebook.exported if cell.tree]
    tables = [symbols(cell) for cell in exported]
    known = {*dir(builtins), *MODULE_DUNDERS}.union(*(cell.names for cell in exported))
    known |= set().union(*map(declared_global, tables))
    stars = any(re.search(r"^\s*from .* import \*", cell.code, re.M) for cell in exported)
    for cell, table in zip(exported, tables, strict=True):
        for name in sorted(used_globals(table) - known):
            home = next((c for c in notebook.cells if c.kind == "code" and name in c.names), None)
            if home:
                what = f"uses `{name}`, which only cell {home.number} ({home.id}) defines"
                remedy = "export that cell too, or pass the value in"
            elif not stars:
                what = f"uses `{name}`, which nothing in the notebook defines"
                remedy = "import or define it in an exported cell"
            else:
                continue
            uses = (n for n in ast.walk(cell.tree) if isinstance(n, ast.Name) and n.id == name)
            line = next((use.lineno + cell.first_line - 1 for use in uses), None)
            yield Problem(notebook.path, what, remedy, cell, line)


def symbols(cell: Cell) -> symtable.SymbolTable:
    """Who binds and who reads which name in a cell; nobody, where it does not compile."""
    code = cell.code
    if sys.version_info >= (3, 12) and cell.tree and "for" in code:
        code = ast.unparse(Unfold().visit(ast.parse(code)))
    try:
        return symtable.symtable(code, "<cell>", "exec")
    except UNCOMPILABLE:
        return symtable.symtable("", "<cell>", "exec")


class Unfold(ast.NodeTransformer):
    """Comprehensions as generators: from Python 3.12 on only those have a scope of their own."""

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.AST:
        return self.generic_visit(ast.GeneratorExp(node.elt, node.generators))

    visit_SetComp = visit_ListComp

    def visit_DictComp(self, node: ast.DictComp) -> ast.AST:
        both = ast.Tuple([node.key, node.value], ast.Load())
        return self.generic_visit(ast.GeneratorExp(both, node.generators))


def used_globals(table: symtable.SymbolTable) -> set[str]:
    """The module-level names that code reads, at any depth."""
    top = table.get_type() == "module"
    symbols = (s for s in table.get_symbols() if s.is_referenced() and (top or s.is_global()))
    names = {symbol.get_name() for symbol in symbols}
    return names.union(*map(used_globals, table.get_children()))


def declared_global(table: symtable.SymbolTable) -> set[str]:
    """The names that functions bind through `global`."""
    symbols = (s for s in table.get_symbols() if s.is_declared_global() and s.is_assigned())
    names = {symbol.get_name() for symbol in symbols}
    return names.union(*map(declared_global, table.get_children()))


def two_homes(notebooks: list[Notebook], package: str) -> Iterator[Problem]:
    """A public name is bound once in a module, and exported by one module only."""
    exports: dict[str, tuple[Notebook, Cell]] = {}
    for notebook in notebooks:
        bound: dict[str, tuple[Cell, ast.stmt, str]] = {}
        for cell in notebook.exported:
            replaced = re.findall(r"\w+", cell.directives.get("export", ""))[1:]
            for name, how, node, statement in cell.bindings:
                if name.startswith("_") or how == "loop" or name in replaced:
                    continue
                origin = imported(node, name) if how == "import" else how
                line = node.lineno + cell.first_line - 1
                remedy = f"choose another name, or say `#export replaces {name}`"
                first, other, same = bound.setdefault(name, (cell, statement, origin))
                if other is not statement and (origin != same or how == "define"):
                    what = f"binds `{name}` again, after cell {first.number} ({first.id})"
                    yield Problem(notebook.path, what, remedy, cell, line)
                if how == "define":
                    home, first = exports.setdefault(name, (notebook, cell))
                    if home is not notebook:
                        place = f"cell {first.number} ({first.id}) of {show(home.path)}"
                        what = f"exports `{name}` again, after {place}"
                        yield Problem(notebook.path, what, remedy, cell, line)


def imported(node: ast.Import | ast.ImportFrom, name: str) -> str:
    """What an import binds a name to, as a text: two imports of the same thing are no clash."""
    source = "." * getattr(node, "level", 0) + (getattr(node, "module", None) or "")
    for alias in node.names:
        if alias.asname == name or alias.name == name:
            return f"{source}:{alias.name}"
    return f"{source}:{name}"  # import os.path binds os


def one_number(notebooks: list[Notebook], package: str) -> Iterator[Problem]:
    """Two notebooks may not write one module, or answer to one topic."""
    numbered = [n for n in notebooks if NUMBERED_MODULE.fullmatch(n.module or "")]
    for attribute, group in (("module", notebooks), ("topic", numbered)):
        homes: dict[str, Notebook] = {}
        for notebook in group:
            name = getattr(notebook, attribute)
            if name and homes.setdefault(name, notebook) is not notebook:
                what = f"has the {attribute} {name}, as {show(homes[name].path)} has"
                yield Problem(notebook.path, what, "rename one of them")


def later_import(notebooks: list[Notebook], package: str) -> Iterator[Problem]:
    """A notebook builds on earlier ones only, and only on what they export."""
    named = {n.topic: n for n in notebooks if n.module} | {
        n.module: n for n in notebooks if n.module
    }
    for notebook in notebooks:
        for cell in notebook.cells:
            for line, module, name in imports_of(cell, package) if cell.kind == "code" else ():
                target = named.get(module)
                what = ""
                if target is None:
                    if NUMBERED_MODULE.fullmatch(module):
                        what = f"imports {package}.{module}, which no notebook makes"
                elif target.order >= notebook.order:
                    what = f"imports {package}.{module}, but {show(target.path)} is not earlier"
                elif name and name != "*" and name not in module_names(target):
                    what = f"imports `{name}`, which {show(target.path)} does not export"
                if what:
                    remedy = "correct the import, or move the code"
                    yield Problem(notebook.path, what, remedy, cell, line)


def module_names(notebook: Notebook) -> set[str]:
    return set().union(*(cell.names for cell in notebook.exported))


def whole_module(notebook: Notebook, text: str, place: Callable) -> Iterator[Problem]:
    """The module must compile; if it does not, name each cell that fails, or the place."""
    try:
        compiled(text)
    except UNCOMPILABLE as error:
        if alone := list(misplaced(notebook)):
            yield from alone
        elif isinstance(error, SyntaxError):
            cell, line = place(notebook, text, error.lineno or 1)
            remedy = "correct it; each cell compiles alone, but not all of them together"
            yield Problem(notebook.path, f"syntax error: {error.msg}", remedy, cell, line)
        else:
            yield Problem(notebook.path, f"its module does not compile: {error}", "simplify it")


def more_than_header(text: str) -> bool:
    """Whether a header holds more than the docstring and `__all__` that the exporter writes."""
    try:
        statements = ast.parse(text).body
    except SyntaxError:
        return True
    kinds = (ast.Expr, ast.Assign)
    return len(statements) > 1 or any(not isinstance(node, kinds) for node in statements)


ALONE = (bad_target, near_miss, not_python, names_left_behind)
TOGETHER = (one_number, two_homes, later_import)
