"""Modules made of notebooks: which cells go into which, the text, and the way back to a cell."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from names import decorator_name, extends
from notebooks import Block, Cell, Notebook, find, importable, read, short_hash
from project import ToolError, settings, show

MARKER = re.compile(r"# cell ([\w-]+) ([0-9a-f]{6})(?: in (\S.*?\.ipynb))?(?: · .*)?")
GENERATED = re.compile(r"# generated from (.+\.ipynb): do not edit(?: · ([0-9a-f]{6}))?")


@dataclass(frozen=True)
class Part:
    """A cell on its way into a module, and the notebook that it is from."""

    notebook: Notebook
    cell: Cell


@dataclass(frozen=True)
class Module:
    """A module of the library: the notebook that it belongs to, and the cells that make it."""

    name: str
    notebook: Notebook
    parts: tuple[Part, ...]

    @cached_property
    def names(self) -> set[str]:
        """Every name that the module's own code binds."""
        return set().union(*(part.cell.names for part in self.parts))

    @cached_property
    def public_names(self) -> list[str]:
        """What `__all__` lists: each public name that an exported cell defines, in order, once."""
        names: dict[str, None] = {}
        for part in self.parts:
            if "exporti" not in part.cell.directives:
                names |= dict.fromkeys(defined(part))
        for part in self.parts:
            statements = part.cell.tree.body if part.cell.tree else ()
            for statement in statements:
                names |= dict.fromkeys(listed(statement))
                for target in statement.targets if isinstance(statement, ast.Delete) else ():
                    names.pop(getattr(target, "id", None), None)
        return list(names)

    @property
    def topic(self) -> str:
        return self.notebook.topic

    @property
    def title(self) -> str:
        return self.notebook.title


def defined(part: Part) -> Iterator[str]:
    """The public names that a cell defines. A notebook of nbdev's, which says `default_exp`, lists
    in `__all__` what nbdev lists: what stands at the left edge, but no def that is a patch."""
    if not part.notebook.default_exp:
        found = [name for name, how, *_ in part.cell.bindings if how == "define"]
    else:
        found = [n for s in (part.cell.tree.body if part.cell.tree else ()) for n in left_edge(s)]
    return (name for name in found if not name.startswith("_"))


def left_edge(statement: ast.stmt) -> list[str]:
    """The names that nbdev takes from a statement."""
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = getattr(statement, "targets", None) or [statement.target]
        flat = [t for target in targets for t in getattr(target, "elts", [target])]
        return [target.id for target in flat if isinstance(target, ast.Name)]
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return []
    decorators = [getattr(d, "func", d) for d in statement.decorator_list]
    plain = [d for d in decorators if isinstance(d, ast.Name)]  # nbdev looks at no `fc.patch`
    return [] if any(map(extends, plain)) else [statement.name]


def listed(statement: ast.stmt) -> list[str]:
    """The names in nbdev's `_all_ = ["name", name]`, which go into `__all__` as they are."""
    targets = getattr(statement, "targets", ()) if isinstance(statement, ast.Assign) else ()
    if not any(getattr(target, "id", "") == "_all_" for target in targets):
        return []
    elements = getattr(statement.value, "elts", ())
    names = [getattr(e, "value", None) or getattr(e, "id", None) for e in elements]
    return [name for name in names if isinstance(name, str)]


def gather(notebooks: Iterable[Notebook]) -> list[Module]:
    """The modules that notebooks make, in order; what others add comes after a module's own."""
    notebooks = list(notebooks)
    own: dict[str, Notebook] = {}
    parts: dict[str, list[Part]] = {}
    for notebook in notebooks:
        if notebook.module and any(not cell.target for cell in notebook.exported):
            own.setdefault(notebook.module, notebook)
    added: list[tuple[str, Part]] = []
    for notebook in notebooks:
        for cell in notebook.exported:
            name, part = cell.target or notebook.module, Part(notebook, cell)
            if name is None or not importable(name):
                continue  # refused elsewhere
            if own.get(name) is notebook:
                parts.setdefault(name, []).append(part)
            else:
                added.append((name, part))
    for name, part in added:
        parts.setdefault(name, []).append(part)
    return [
        Module(name, own.get(name) or found[0].notebook, tuple(found))
        for name, found in parts.items()
    ]


# --- the text ------------------------------------------------------------------------------------


def render(module: Module, nbs: Path) -> str:
    """Write a module: docstring, `__all__`, imports, then the cells in order.

    A marker comment `# cell ID HASH · heading` stands above each block of a cell, and the header
    carries a hash of its own: so what was edited by hand shows.
    """
    text: dict[str, list[str]] = {"future": [], "imports": [], "body": []}
    for part, block in arranged(module):
        text[block.kind].append(f"{marker(part, block, module, nbs)}\n{block.text}")
    names = "".join(f'    "{name}",\n' for name in module.public_names)
    title = docstring(module.title, module.notebook.summary)
    listing = f"__all__ = [\n{names}]" if names else "__all__ = []"
    source = f"# generated from {relative(module.notebook, nbs)}: do not edit"
    header = [
        title,
        *text["future"],
        f"{source} · {short_hash(title + chr(10) + listing)}\n{listing}",
        *text["imports"],
    ]
    return "\n\n\n".join(["\n\n".join(header), *text["body"]]) + "\n"


def relative(notebook: Notebook, nbs: Path) -> str:
    """The path of a notebook as its module names it: from the folder that `nbs` is in."""
    path = os.path.relpath(notebook.path.absolute(), nbs.absolute().parent)
    return path.replace(os.sep, "/").encode("utf-8", "replace").decode()


def marker(part: Part, block: Block, module: Module, nbs: Path) -> str:
    origin = "" if part.notebook is module.notebook else f" in {relative(part.notebook, nbs)}"
    heading = f" · {part.cell.heading}" if part.cell.heading else ""
    return f"# cell {part.cell.id} {short_hash(block.text)}{origin}{heading}"


def docstring(title: str, *paragraphs: str) -> str:
    """Quote text as a docstring, whatever it holds."""
    text = "\n\n".join(part for part in (title, *paragraphs) if part)
    text = text.encode("utf-8", "replace").decode().replace("\\", "\\\\").replace("\0", "\\0")
    if '"""' in text or text.endswith('"'):
        text = text.replace('"', '\\"')
    return f'"""{text}\n"""' if "\n" in text else f'"""{text}"""'


def arranged(module: Module) -> list[tuple[Part, Block]]:
    """The blocks of a module in the order of its cells; the kind says which part of it they go to.

    The order of what runs is that of the cells. An import moves to the top only past statements
    that run nothing and neither bind nor use a name that it binds; from the first that stays on,
    every one stays.
    """
    found: list[tuple[Part, Block]] = []
    above: list[tuple[Part, Block]] = []  # what the next import would move past
    touched: set[str] = set()  # the names in it
    moving = True
    for part in module.parts:
        blocks = part.cell.blocks()
        imports = next((block for block in blocks if block.kind == "imports"), None)
        if imports and moving:
            for statement in (s for passed in above for s in statements_of(*passed)):
                moving = moving and runs_nothing(statement)
            touched |= {e.name for p, _ in above for e in p.cell.events} if moving else set()
            above.clear()
            statements = statements_of(part, imports)
            quoted = not all(isinstance(s, ast.Import | ast.ImportFrom) for s in statements)
            moving = moving and not (quoted and any(block.kind == "body" for _, block in found))
            aliases = [alias for s in statements for alias in getattr(s, "names", ())]
            bound = {alias.asname or alias.name.split(".")[0] for alias in aliases}
            moving = moving and not (touched if "*" in bound else bound & touched)
        if imports and not moving:
            blocks = part.cell.blocks(imports_stay=True)
        found += [(part, block) for block in blocks]
        above += [(part, block) for block in blocks if block.kind == "body"]
    return found


def statements_of(part: Part, block: Block) -> list[ast.stmt]:
    """The statements of a cell that are in one of its blocks."""
    first = block.first - part.cell.first_line + 1
    last = first + block.text.count("\n")
    return [s for s in part.cell.tree.body if first <= s.lineno <= last]


SIMPLE = (
    ast.Constant, ast.Name, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.expr_context, ast.Lambda,
    ast.UnaryOp, ast.unaryop, ast.arguments, ast.arg, ast.JoinedStr, ast.FormattedValue,
)  # fmt: skip
ANNOTATION = (*SIMPLE, ast.Attribute, ast.Subscript, ast.BinOp, ast.operator)
INERT_DECORATORS = {"staticmethod", "classmethod", "property", "dataclass", "cached_property"}


def runs_nothing(statement: ast.stmt) -> bool:
    """Whether a statement only defines: no call, attribute or operator, which may run code."""
    if isinstance(statement, ast.Pass):
        return True
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = getattr(statement, "targets", None) or [statement.target]
        annotation = getattr(statement, "annotation", None)
        value = statement.value
        return (
            all(isinstance(target, ast.Name) for target in targets)
            and (value is None or made_of(value, SIMPLE))
            and (annotation is None or made_of(annotation, ANNOTATION))
        )
    if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return False
    for decorator in statement.decorator_list:
        if decorator_name(decorator) not in INERT_DECORATORS:
            return False
        if isinstance(decorator, ast.Call) and not all(
            made_of(k.value, SIMPLE) for k in decorator.keywords
        ):
            return False
    if isinstance(statement, ast.ClassDef):
        bases = all(made_of(base, ANNOTATION) for base in statement.bases)
        return bases and not statement.keywords and all(map(runs_nothing, statement.body))
    arguments = statement.args
    defaults = [d for d in (*arguments.defaults, *arguments.kw_defaults) if d]
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [a for a in (arguments.vararg, arguments.kwarg) if a]
    annotations = [a.annotation for a in every if a.annotation]
    annotations += [statement.returns] if statement.returns else []
    return all(made_of(d, SIMPLE) for d in defaults) and all(
        made_of(a, ANNOTATION) for a in annotations
    )


def made_of(node: ast.AST, kinds: tuple[type, ...]) -> bool:
    stack = [node]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Lambda):
            node = node.args  # its body runs when it is called
        if not isinstance(node, kinds):
            return False
        stack += ast.iter_child_nodes(node)
    return True


# --- the way back: what a module on disk says of itself ------------------------------------------


@dataclass(frozen=True)
class Section:
    """A run of lines of a module; `id`, `hash` and `origin` are the marker's, empty in the header.

    `first` is the line of the module that the text starts at, from 1.
    """

    id: str
    hash: str
    origin: str
    first: int
    text: str

    @property
    def edited(self) -> bool:
        return bool(self.id) and short_hash(self.text) != self.hash

    def __contains__(self, line: int) -> bool:
        return bool(self.id) and self.first - 1 <= line <= self.first + self.text.count("\n")


def sections(module: str) -> list[Section]:
    """Cut a module at its markers; the header's sections come out too, without an id."""
    lines = module.split("\n")
    starts = [i for i, line in enumerate(lines) if MARKER.fullmatch(line) or GENERATED.match(line)]
    found = [Section("", "", "", 1, "\n".join(lines[: starts[0] if starts else None]))]
    for start, stop in pairwise([*starts, len(lines)]):
        match = MARKER.fullmatch(lines[start])
        text = "\n".join(lines[start + 1 : stop]).rstrip()
        marks = [match[1], match[2], match[3] or ""] if match else ["", "", ""]
        found.append(Section(*marks, start + 2, text))
    return found


def read_module(path: Path) -> str | None:
    """The text of a module, or None if there is none."""
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ToolError(f"{show(path)} cannot be read ({error}); move it away") from None


def is_generated(module: str) -> bool:
    """Whether this exporter wrote a file: it says from which notebook, and looks like it."""
    lines = module.split("\n")
    marked = any(MARKER.fullmatch(line) for line in lines)
    matches = filter(None, map(GENERATED.fullmatch, lines))
    return any(match[2] or marked or "__all__ = []" in lines for match in matches)


def header(module: str) -> str:
    """What stands outside of the cells: the docstring and `__all__`, and what was put beside."""
    first, *others = (section.text.rstrip() for section in sections(module) if not section.id)
    return "\n".join([first, *others])


def hand_edits(module: str) -> list[Section]:
    """The sections of a generated module that are not as the exporter wrote them."""
    found = sections(module)
    edited = [section for section in found if section.edited]
    top = [section for section in found if not section.id]
    match = GENERATED.search(module)
    if match and match[2]:
        if short_hash(header(module)) != match[2]:
            edited.insert(0, top[-1])
    else:  # written before headers had a hash
        edited += [section for section in top if more_than_header(section.text)]
    return edited


def more_than_header(text: str) -> bool:
    """Whether a header holds more than the docstring and `__all__` that the exporter writes."""
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    kinds = (ast.Expr, ast.Assign)
    return len(statements) > 1 or any(not isinstance(node, kinds) for node in statements)


def place(
    notebook: Notebook, module: str, line: int, others: Iterable[Notebook] = ()
) -> tuple[Cell | None, int | None]:
    """Map a line of a module to the cell, and the line in that cell, that it came from.

    The line is None where the cell is no longer what it was when the module was written.
    """
    section = next((section for section in sections(module) if line in section), None)
    if section is None:
        return None, None
    if section.origin:
        named = [n for n in others if n.path.as_posix().endswith(section.origin.lstrip("./"))]
        notebook = next((n for n in named if n.by_id(section.id)), notebook)
    cell = notebook.by_id(section.id)
    if cell is None or cell.tree is None:
        return cell, None
    blocks = [*cell.blocks(), *cell.blocks(imports_stay=True)]
    block = next((b for b in blocks if b.text == section.text), None)
    return cell, block and block.first + max(line - section.first, 0)


def where(path: str | Path, line: int, nbs: str | Path = "") -> tuple[Notebook, Cell, int | None]:
    """Find the notebook, the cell and the line in the cell that a line of a module came from.

    The line is None if the cell has changed since the module was written.

    Raises: ToolError if the file is not generated, its notebook is gone, or no cell owns the line.
    """
    path = Path(path)
    module = read_module(path)
    if module is None:
        raise ToolError(f"there is no file {show(path)}")
    match = GENERATED.search(module)
    if not match:
        if path.name == "__init__.py":
            raise ToolError(f"{show(path)} comes from no cell: it is the front of the package")
        raise ToolError(f"{show(path)} was not written by the exporter; name a module that was")
    if not 1 <= line <= module.count("\n") + 1:
        raise ToolError(f"{show(path)} has {module.count(chr(10))} lines, not {line}")
    nbs = Path(nbs or settings().nbs)
    section = next((section for section in sections(module) if line in section), None)
    source = (section and section.origin) or match[1]
    notebook = read(find_source(source, nbs))
    cell, at = place(notebook, module, line, [notebook])
    if section and cell is None:
        what = f"{show(path)}:{line} came from cell {section.id} of {show(notebook.path)}"
        raise ToolError(f"{what}, which is no longer there; export again")
    if cell is None:
        raise ToolError(f"{show(path)}:{line} belongs to no cell of {show(notebook.path)}")
    return notebook, cell, at


def find_source(name: str, nbs: Path) -> Path:
    """The notebook that a module names, from the folder that `nbs` is in; or one moved since."""
    path = nbs.absolute().parent / name
    if not path.exists():
        path = next((p for p in find(nbs) if p.name == path.name), path)
    return path

