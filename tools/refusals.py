"""What the exporter refuses: each check is one small function from notebooks to problems."""

from __future__ import annotations

import ast
import builtins
import re
import tokenize
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path

from modules import Module, Part, listed
from names import Event, absolute, decorator_name, star_imports
from notebooks import (
    EXPORTS,
    Cell,
    Notebook,
    Problem,
    importable,
    imports_of,
    parse_directive,
    resembles_export,
)
from project import show
from stars import Stars

NUMBERED_MODULE = re.compile(r"nb\d+[a-z]?")
GIVEN = {*dir(builtins), "__name__", "__file__", "__doc__", "__spec__", "__package__", "__path__",
         "__all__", "__class__", "__builtins__", "__loader__", "__annotations__"}  # fmt: skip
IPYTHON = {"display", "get_ipython", "In", "Out", "exit", "quit", "_"}  # at hand in a notebook only
STAR = re.compile(r"import\s*\*")
UNCOMPILABLE = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


@dataclass(frozen=True)
class Library:
    """What is checked together: the notebooks, their modules, where they go, the house rules."""

    notebooks: list[Notebook]
    modules: list[Module]
    lib: Path
    rules: frozenset[str] = frozenset()

    @property
    def package(self) -> str:
        return self.lib.name

    @cached_property
    def by_name(self) -> dict[str, Module]:
        return {module.name: module for module in self.modules}

    @cached_property
    def stars(self) -> Stars:
        made = {f"{self.package}.{m.name}": m.public_names for m in self.modules}
        return Stars(made, self.lib.absolute().parent)

    def full_name(self, module: Module) -> str:
        return f"{self.package}.{module.name}"


# --- one notebook --------------------------------------------------------------------------------


def bad_target(notebook: Notebook) -> Iterator[Problem]:
    """Each module must lie inside the library folder, and have a name that can be imported."""
    name = notebook.module
    own = [cell for cell in notebook.exported if not cell.target]
    if own and name is None:
        remedy = "name it like 04_topic.ipynb, or add a cell `#| default_exp NAME`"
        what = "exports cells but its name has no number"
        yield Problem(notebook.path, what, remedy, own[0])
    elif name and not importable(name):
        remedy = "use letters, digits, _ and dots, as in `#| default_exp core`"
        yield Problem(notebook.path, f"its module {name!r} is no name inside the library", remedy)
    for cell in notebook.exported:
        if cell.target and not importable(cell.target):
            what = f"its module {cell.target!r} is no name inside the library"
            yield Problem(notebook.path, what, "use letters, digits, _ and dots", cell, 1)


def other_language(notebook: Notebook) -> Iterator[Problem]:
    """Cells of another language may look like Python, and never mean the same."""
    if notebook.exported and not re.match(r"i?python|xpython", notebook.language):
        what = f"exports cells, but is a notebook for {notebook.language}"
        yield Problem(notebook.path, what, "choose a Python kernel, or take #export away")


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
                what = f"`{text}` holds a character that looks like another, or like none"
                yield Problem(notebook.path, what, "type the comment anew", cell, line)
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
    """A comment with what looks like a letter written as that letter, and nothing invisible."""
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
    """Every exported cell must be plain Python, and hold no line that the exporter writes."""
    for cell in notebook.exported:
        if cell.tree is None:
            yield from uncompilable(notebook, cell)
        for number, line in enumerate(cell.code.split("\n"), cell.first_line):
            if re.match(
                r"# (cell [\w-]+ [0-9a-f]{6}( ·| in |$)|generated from .*: do not edit)", line
            ):
                what = f"the line `{line}` is what the exporter itself writes"
                yield Problem(notebook.path, what, "reword it", cell, number)


def misplaced(module: Module) -> Iterator[Problem]:
    """What parses may still not compile as a part of a module: `return`, `await` outside of def."""
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
    remedy = "correct it, or take #export away"
    if "await" in error.msg or "asynchronous" in error.msg:
        remedy = "put it into an `async def`: a module has no running event loop"
    return Problem(notebook.path, f"syntax error: {error.msg}", remedy, cell, number)


# --- the modules together ------------------------------------------------------------------------


def names_left_behind(library: Library) -> Iterator[Problem]:
    """Every name that an exported cell uses must come along into the module, and in time."""
    for module in library.modules:
        parts = [part for part in module.parts if part.cell.tree]
        bound = {e.name for part in parts for e in part.cell.events if e.binds} | GIVEN
        used = {e.name for part in parts for e in part.cell.events if e.how == "read"}
        stars: dict[str, set[str] | None] = {}  # what each star import brings, if that can be told
        for part in parts if used - bound else ():
            for node in stars_of(part):
                source = absolute(node, library.full_name(module))
                stars[source] = library.stars.names(source)
        brought = set().union(*filter(None, stars.values()))
        for part in parts:
            missing: dict[str, Event] = {}  # its first use, one that runs at once before others
            for event in sorted(part.cell.events, key=lambda e: e.later):
                if event.how == "read" and event.name not in bound and event.name not in brought:
                    missing.setdefault(event.name, event)
            for name in sorted(missing):
                yield from left_behind(library, module, part, missing[name], stars)
        yield from too_late(library, module, parts)


def left_behind(
    library: Library, module: Module, part: Part, use: Event, stars: dict[str, set[str] | None]
) -> Iterator[Problem]:
    """A name that the module lacks. A hidden cell has it: that is refused. Nothing has it: so is
    that, if importing the module would fail, or the house is strict; else it is mentioned."""
    name, mild = use.name, False
    unseen = sorted(source for source, names in stars.items() if names is None)
    home = hidden_home(library, part, name)
    if home:
        what = f"uses `{name}`, which only cell {home.number} ({home.id}) defines"
        remedy = "export that cell too, or pass the value in"
        if unseen:
            what = f"uses `{name}`, which cell {home.number} ({home.id}) defines, not exported"
            remedy += f"; or install {', '.join(unseen)}: what `import *` brings is not seen yet"
    elif any(name in p.names for p in part.notebook.exported):
        what = f"uses `{name}`, which another module than {module.name} gets"
        remedy = "import it from there"
    elif unseen or is_dynamic(module) or is_quoted(module, name):
        return
    else:
        what = f"uses `{name}`, which nothing in the notebook defines"
        remedy = "import or define it in an exported cell"
        if name in IPYTHON:
            what = f"uses `{name}`, which is there in a notebook only"
            remedy = "import it in an exported cell, from IPython"
        mild = use.later and bool(stars or name in IPYTHON) and "names" not in library.rules
    yield Problem(part.notebook.path, what, remedy, part.cell, line_of(use.node, part.cell), mild)


def listed_without_being_there(library: Library) -> Iterator[Problem]:
    """nbdev's `_all_` puts names into `__all__`; one that the module lacks breaks star imports."""
    for module in library.modules:
        for part in module.parts:
            for statement in part.cell.tree.body if part.cell.tree else ():
                for name in listed(statement):
                    if not has_name(library, module, name):
                        what = f"`_all_` lists `{name}`, which the module does not define"
                        line = line_of(statement, part.cell)
                        remedy = "import or define it in an exported cell"
                        yield Problem(part.notebook.path, what, remedy, part.cell, line)


def is_dynamic(module: Module) -> bool:
    """Whether code may give the module names that no reader of it can know."""
    makers = {"globals", "exec", "setattr", "__getattr__"}
    return any(event.name in makers for part in module.parts for event in part.cell.events)


def is_quoted(module: Module, name: str) -> bool:
    """Whether a name stands in a string of its own, from which a call may make it."""
    trees = (part.cell.tree for part in module.parts if name in part.cell.code)
    nodes = (node for tree in trees if tree for node in ast.walk(tree))
    return any(isinstance(node, ast.Constant) and node.value == name for node in nodes)


def line_of(node: ast.AST, cell: Cell) -> int:
    return getattr(node, "lineno", 1) + cell.first_line - 1


def hidden_home(library: Library, part: Part, name: str) -> Cell | None:
    """The first cell of a part's notebook that defines a name and is not exported."""
    for cell in part.notebook.cells:
        if cell.kind == "code" and not cell.exported:
            if name in cell.code and name in cell.names:
                return cell
            for node in star_imports(cell.tree) if STAR.search(cell.code) and cell.tree else ():
                if name in (library.stars.names(absolute(node, library.package + ".x")) or ()):
                    return cell
    return None


def too_late(library: Library, module: Module, parts: list[Part]) -> Iterator[Problem]:
    """A name that a hidden cell defines first, and an exported one after it was needed."""
    arrivals = {event.name for part in parts for event in part.cell.events if event.binds}
    for star in (star for part in parts for star in stars_of(part)):
        arrivals |= brought_by(library, module, star, set())
    there: set[str] = set(GIVEN)
    needs: dict[str, set[str]] = {}  # what a function or class reads when it is called
    for part in parts:
        stars = stars_of(part)
        later: dict[ast.stmt, set[str]] = {}
        for event in part.cell.events:
            if event.later and event.how == "read":
                later.setdefault(event.statement, set()).add(event.name)
        for event in part.cell.events:
            while stars and stars[0].lineno < event.statement.lineno:
                there |= brought_by(library, module, stars.pop(0), arrivals)
            if event.later:
                continue
            if event.binds:
                there.add(event.name)
                needs[event.name] = later.get(event.statement, set())
                continue
            for name in sorted(arrivals & closure(event.name, needs) - there):
                home = hidden_home(library, part, name)
                if home is None or home.index > part.cell.index:
                    continue
                what = f"needs `{name}` of cell {home.number} ({home.id}), which is not exported"
                remedy = "export that cell too; the cell that exports the name comes too late"
                line = line_of(event.node, part.cell)
                yield Problem(part.notebook.path, what, remedy, part.cell, line)
                there.add(name)
        for star in stars:
            there |= brought_by(library, module, star, arrivals)


def stars_of(part: Part) -> list[ast.ImportFrom]:
    return list(star_imports(part.cell.tree)) if STAR.search(part.cell.code) else []


def brought_by(
    library: Library, module: Module, star: ast.ImportFrom, all_names: set[str]
) -> set[str]:
    """What a star import brings; if that cannot be told, it may be any name."""
    names = library.stars.names(absolute(star, library.full_name(module)))
    return all_names if names is None else names


def closure(name: str, needs: dict[str, set[str]]) -> set[str]:
    """A name, what it needs when it is called, and so on."""
    found, todo = set(), [name]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += needs.get(name, ())
    return found


def one_module(library: Library) -> Iterator[Problem]:
    """Two notebooks may not write one module, a module is no package, and a topic is one's own."""
    groups = [("module", [n for n in library.notebooks if any(not c.target for c in n.exported)])]
    if "init" in library.rules:
        numbered = [n for n in groups[0][1] if NUMBERED_MODULE.fullmatch(n.module or "")]
        groups.append(("topic", numbered))
    for attribute, group in groups:
        homes: dict[str, Notebook] = {}
        for notebook in group:
            name = getattr(notebook, attribute)
            if name and homes.setdefault(name, notebook) is not notebook:
                what = f"has the {attribute} {name}, as {show(homes[name].path)} has"
                yield Problem(notebook.path, what, "rename one of them")
    packages = {name.rsplit(".", n)[0]: module for name, module in library.by_name.items()
                for n in range(1, name.count(".") + 1)}  # fmt: skip
    for name in packages.keys() & library.by_name.keys():
        notebook = library.by_name[name].notebook
        what = f"makes the module {name}, which is a folder for {packages[name].name}"
        yield Problem(notebook.path, what, f"choose another name, such as {name}.core")


def unknown_module(library: Library) -> Iterator[Problem]:
    """`#export NAME` may be a comment, unless a notebook makes that module."""
    made = {notebook.module for notebook in library.notebooks}
    for notebook in library.notebooks:
        for cell in notebook.exported:
            lines = cell.source.split("\n")[: cell.first_line - 1]
            for number, line in enumerate(lines, 1):
                name, argument = parse_directive(line) or ("", "")
                if name in EXPORTS and cell.target == argument != "" and "|" not in line:
                    if argument not in made:
                        what = f"`{line.strip()}`: export takes nothing, `replaces NAME`, or a "
                        what += "module that a notebook makes"
                        remedy = f"write `#| export {argument}` if the cell goes there"
                        yield Problem(notebook.path, what, remedy, cell, number)


def two_homes(library: Library) -> Iterator[Problem]:
    """A public name is bound once in a module, and exported by one module only."""
    exports: dict[str, tuple[Notebook, Cell]] = {}
    for module in library.modules:
        if "names" in library.rules:
            yield from bound_again(module)
        public = set(module.public_names)
        for part in module.parts if library.rules & {"names", "init"} else ():
            replaced = replaced_by(part.cell)
            for name, how, node, _ in part.cell.bindings:
                if how != "define" or name not in public or name in replaced:
                    continue
                home, first = exports.setdefault(name, (module, part))
                if home is not module:
                    cell = f"cell {first.cell.number} ({first.cell.id})"
                    what = f"exports `{name}` again, after {cell} of {show(first.notebook.path)}"
                    remedy = f"choose another name, or say `#export replaces {name}`"
                    line = line_of(node, part.cell)
                    yield Problem(part.notebook.path, what, remedy, part.cell, line)


def bound_again(module: Module) -> Iterator[Problem]:
    bound: dict[str, tuple[Part, ast.stmt, str]] = {}
    for part in module.parts:
        replaced = replaced_by(part.cell)
        for name, how, node, statement in part.cell.bindings:
            if name.startswith("_") or how == "loop" or name in replaced:
                continue
            origin = imported(node, name) if how == "import" else how
            first, other, same = bound.setdefault(name, (part, statement, origin))
            if other is statement or (origin == same and how != "define") or adds(node, other):
                continue
            what = f"binds `{name}` again, after cell {first.cell.number} ({first.cell.id})"
            remedy = f"choose another name, or say `#export replaces {name}`"
            line = line_of(node, part.cell)
            yield Problem(part.notebook.path, what, remedy, part.cell, line)


def replaced_by(cell: Cell) -> list[str]:
    argument = cell.directives.get("export", "")
    return re.findall(r"\w+", argument)[1:] if argument.startswith("replaces") else []


def adds(node: ast.AST, other: ast.stmt) -> bool:
    """Whether a def is one more case of the same function: `@dispatch`, `@f.register`, a setter."""
    ways = {"dispatch", "typedispatch", "register", "setter", "getter", "deleter", "overload"}
    both = (getattr(n, "decorator_list", []) for n in (node, other))
    return any(decorator_name(d) in ways for decorators in both for d in decorators)


def imported(node: ast.Import | ast.ImportFrom, name: str) -> str:
    """What an import binds a name to, as a text: two imports of the same thing are no clash."""
    source = "." * getattr(node, "level", 0) + (getattr(node, "module", None) or "")
    for alias in node.names:
        if alias.asname == name or alias.name == name:
            return f"{source}:{alias.name}"
    return f"{source}:{name}"  # import os.path binds os


def later_import(library: Library) -> Iterator[Problem]:
    """A notebook builds on earlier ones only, and on what they export.

    Where the order is no house rule, only what would break the import of the module is refused.
    """
    strict = "order" in library.rules
    topics = {m.topic: m for m in library.modules if strict}
    homes = {name: m for m in library.modules for name in m.public_names if strict}
    named = {**topics, **library.by_name}
    for notebook in library.notebooks:
        for cell in notebook.cells:
            if cell.kind != "code" or not (strict or cell.exported):
                continue
            within = cell.target or notebook.module or "x"
            for line, module, name in imports_of(cell, library.package, strict, within):
                what = ""
                target = named.get(module)
                if name is None and module in homes:
                    target = homes[module]  # from exp import accuracy
                if target is None:
                    if strict and NUMBERED_MODULE.fullmatch(module):
                        what = f"imports {library.package}.{module}, which no notebook makes"
                elif strict and target.notebook.order >= notebook.order:
                    path = show(target.notebook.path)
                    what = f"imports {library.package}.{module}, but {path} is not earlier"
                elif name and name != "*" and not has_name(library, target, name):
                    what = f"imports `{name}`, which {show(target.notebook.path)} does not export"
                if what:
                    remedy = "correct the import, or move the code"
                    yield Problem(notebook.path, what, remedy, cell, line)


def has_name(library: Library, module: Module, name: str) -> bool:
    if name in module.names or name.startswith("__") or f"{module.name}.{name}" in library.by_name:
        return True
    if is_dynamic(module):
        return True
    for part in module.parts:
        for node in stars_of(part) if part.cell.tree else ():
            names = library.stars.names(absolute(node, library.full_name(module)))
            if names is None or name in names:
                return True
        if any(e.name == name and e.binds for e in part.cell.events):
            return True
    return False


def whole_module(module: Module, text: str, place: Callable) -> Iterator[Problem]:
    """The module must compile; if it does not, name each cell that fails, or the place."""
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
TOGETHER = (
    one_module, unknown_module, two_homes, later_import, names_left_behind,
    listed_without_being_there,
)  # fmt: skip
