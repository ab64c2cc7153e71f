"""The rules of the game: what a notebook may use of PyTorch, and what it has to earn first.

    python tools/check_rules.py [--markdown] [--readme [README.md]] [--nbs nbs]

reads the notebooks' code in order, runs nothing, and prints the ledger of what is earned where;
`--readme` writes it between `<!-- ledger -->` and `<!-- /ledger -->`. A name is followed through
imports, `as`, `nn = torch.nn` and imports from earlier notebooks to what it stands for (game.py):

- FREE from the start: creating tensors, random numbers, types, shape and index, element-wise
  arithmetic (operators, comparisons, and what Python's own `math` can do to a number: `exp`, `log`,
  `tanh`), reductions, ordering and counting (as `sorted` and `Counter` do), facts of the machine.
- MODULES are tools that no lesson builds: from which notebook on, and why. The standard library
  and the notebooks' own modules need no entry. The notebooks of BOX make the data, without rules.
- All else is earned by a cell whose first line is `#earns torch.nn.Linear, …`. It uses the API in
  its code and calls a `test_…` (not only `test_raises`, which compares nothing), itself or through
  a function of the notebook. From that cell on it may be used, with all that lies in it:
  `torch.autograd` is also `x.backward()`. In such a cell the ORACLES are free: the gradients to
  compare with come from them.

What has several names is earned in one cell: `@`, `torch.mm`, `x.dot(y)`; `torch.relu`, `F.relu`.
Of tensor methods, METHODS are earned. What type `x` has in `x.backward()` is unknown here, so a
method that some class of this notebook, or of one that it imports from, defines is taken for its
own. Torch's autograd does not get through by that: it starts at `requires_grad`, always seen.
"""

from __future__ import annotations

import ast
import gc
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import files
import notebooks
from game import BOX, ORACLES, WHOLES, canonical, is_earned, parents, refuse
from names import bound_names
from notebooks import Cell, Notebook, NotebookError, Problem
from project import ToolError, show
from render import gather


@dataclass(frozen=True)
class Earned:
    """A line of the ledger: an API and the cell that earned it."""

    api: str
    notebook: Notebook
    cell: Cell


def parse(cell: Cell) -> ast.Module | None:
    """The cell's code without magics (`%time x @ y` counts as code), None if it is not Python."""
    if re.match(r"%%(?!time|capture|prun)", cell.code):  # `%%bash` …
        return ast.Module([], [])
    if cell.tree:
        return cell.tree
    timed = r"^( *(?:\w+ *= *)?)%%?(?:time|timeit|capture|prun)\b(?: +-[a-z]+(?: *\d+)?)* *"
    code = re.sub(timed, r"\1", cell.code, flags=re.M)
    code = re.sub(r"^( *)(?:(?:\w+ *= *)?[%!].*|.*\?) *$", r"\1pass", code, flags=re.M)
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class Reader(ast.NodeVisitor):
    """Follows the names of a notebook, cell by cell, to what they stand for.

    A scope maps a name to a path such as `torch.nn`, or to None if it is the notebook's own.
    """

    def __init__(
        self,
        notebook: Notebook,
        package: str,
        earlier: dict[str, Reader],
        homes: dict[str, str] | None = None,
    ):
        self.package, self.earlier = package, earlier
        self.homes = homes or {}  # the module of each public name: from exp import accuracy
        self.scopes: list[dict[str, str | None]] = [{}]
        self.inside: tuple[str, ...] = ()  # the functions around
        self.testers: set[str] = set()  # functions that call a test
        self.own: set[str] = set()  # attributes of classes that are defined or imported here
        self.stars: set[tuple[str, int]] = set()
        self.cells = [cell for cell in notebook.cells if cell.kind == "code"]
        for cell in self.cells:  # a function may use what a later cell imports
            for node in getattr(parse(cell), "body", []):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    self.visit(node)

    def read(self, tree: ast.Module) -> None:
        """Read a cell: what it `uses`, whether it `tests`, and what it imports with a star."""
        self.uses: list[tuple[str, int]] = []
        self.either: list[tuple[str, int]] = []  # methods of torch's or of our own
        self.tests, self.stars = False, set()
        self.visit(tree)

    @contextmanager
    def scope(self, names: Iterable[str], function: str = "") -> Iterator[None]:
        saved = self.scopes, self.inside
        if function:  # does not see what the body of a class around it binds
            self.scopes = [scope for scope in self.scopes if "<class>" not in scope]
            self.inside += (function,)
        self.scopes = [*self.scopes, dict.fromkeys(names)]
        yield
        self.scopes, self.inside = saved

    def path(self, node: ast.AST) -> str | None:
        """The path that a name or a chain of attributes stands for, or None."""
        if isinstance(node, ast.Name):
            return next((s[node.id] for s in reversed(self.scopes) if node.id in s), None)
        base = self.path(node.value) if isinstance(node, ast.Attribute) else None
        return base and f"{base}.{node.attr}"

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            self.scopes[-1][node.id] = None
        elif path := self.path(node):
            self.uses.append((path, node.lineno))

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if path := self.path(node):
            self.uses.append((path, node.end_lineno))
            return
        sets = isinstance(node.ctx, ast.Store)
        name = "requires_grad_" if sets and node.attr == "requires_grad" else node.attr
        if getattr(node.value, "id", "") == "self":
            self.own.update([node.attr] if sets else [])
        elif is_earned(name):
            sure = name == "requires_grad_" or name not in self.own
            (self.uses if sure else self.either).append((f"torch.Tensor.{name}", node.end_lineno))
        self.visit(node.value)

    def visit_BinOp(self, node: ast.BinOp | ast.AugAssign) -> None:
        if isinstance(node.op, ast.MatMult):
            self.uses.append(("@", node.lineno))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in self.testers or (name.startswith("test_") and name != "test_raises"):
            self.tests = self.tests or not self.inside
            self.testers.update(self.inside)
        own = isinstance(node.func, ast.Name) and not self.path(node.func)
        for keyword in node.keywords:
            if keyword.arg == "requires_grad" and not own:
                self.uses.append(("torch.Tensor.requires_grad_", keyword.value.lineno))
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        pairs = [(target, node.value) for target in node.targets]
        for target, value in pairs:
            both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            if both and len(target.elts) == len(value.elts):  # nn, F = torch.nn, …
                pairs.extend(zip(target.elts, value.elts, strict=True))
                continue
            path = self.path(value)
            if path not in WHOLES:  # `nn = torch.nn` uses nothing yet
                self.visit(value)
            if not isinstance(target, ast.Name):
                self.visit(target)
            elif not (isinstance(value, ast.Constant) and value.value is None):
                self.scopes[-1][target.id] = path  # None stands where an import failed

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            root = alias.name.split(".")[0]
            path = alias.name if alias.asname else root
            self.scopes[-1][alias.asname or root] = None if root == self.package else path

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        package, _, module = (node.module or "").partition(".")
        for alias in node.names:
            path = None if node.level else f"{node.module}.{alias.name}"
            if alias.name == "*":
                self.stars.add((node.module or ".", node.lineno))
            elif package == self.package:
                source = self.earlier.get(module or self.homes.get(alias.name, alias.name))
                path = source and source.scopes[0].get(alias.name)
                self.own |= source.own if source else set()
            self.scopes[-1][alias.asname or alias.name] = path

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        body = [node.body] if isinstance(node, ast.Lambda) else node.body
        outside = [*getattr(node, "decorator_list", []), node.args, getattr(node, "returns", None)]
        for part in filter(None, outside):
            self.visit(part)
        name = getattr(node, "name", "<lambda>")
        self.scopes[-1][name] = None
        arguments = [part.arg for part in ast.walk(node.args) if isinstance(part, ast.arg)]
        with self.scope(arguments, function=name):
            found = list(bound_names(ast.Module(body, [])))
            self.scopes[-1].update((name, None) for name, _, _ in found)
            imports = (part for _, how, part in found if how == "import")
            for part in [*imports, *body]:
                self.visit(part)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.scopes[-1][node.name] = None
        self.own.update(name for name, _, _ in bound_names(ast.Module(node.body, [])))
        with self.scope(["<class>"]):
            self.generic_visit(node)

    def visit_ListComp(self, node: ast.AST) -> None:
        targets = [part for loop in node.generators for part in ast.walk(loop.target)]
        with self.scope(part.id for part in targets if isinstance(part, ast.Name)):
            self.generic_visit(node)

    visit_AugAssign = visit_BinOp
    visit_AsyncFunctionDef = visit_Lambda = visit_FunctionDef
    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp


def check(books: Iterable[Notebook], package: str = "exp") -> tuple[list[Earned], list[Problem]]:
    """Play through notebooks in reading order: the ledger, and what breaks the rules."""
    ledger: list[Earned] = []
    problems: list[Problem] = []
    readers: dict[str, Reader] = {}
    books = list(books)
    homes = {name: module.name for module in gather(books) for name in module.public_names}
    for notebook in books:
        unnumbered, place, letter, _ = notebook.order
        number = "~" if unnumbered else f"{place:02}{letter}"
        reader = readers[notebook.module or "~"] = Reader(notebook, package, readers, homes)
        for cell in reader.cells:
            problems += read_cell(notebook, cell, number, reader, ledger)
    return ledger, problems


def read_cell(notebook: Notebook, cell: Cell, number: str, reader: Reader,
              ledger: list[Earned]) -> Iterator[Problem]:  # fmt: skip
    """Enter what a cell earns in the ledger, and say what is wrong with the cell."""

    def problem(what: str, remedy: str, line: int = 1) -> Problem:
        return Problem(notebook.path, what, remedy, cell, line)

    if "exercise" in cell.directives:  # its reader may use what there is
        return
    tree = parse(cell)
    if tree is None:
        if "skip" not in cell.directives:
            yield problem("is not Python", "mend it, or put `#skip` on its first line")
        return
    reader.read(tree)
    comments = re.match(r"(?:\s*#.*\n?)*", cell.code)[0]
    if match := re.search(r"^\s*#\W*(earns\b|earn\b.*(torch|@)).*", comments, re.M):
        yield problem(f"`{match[0].strip()}` earns nothing", "write `#earns torch.nn.Linear, …` on "
                      "the first line: full paths, with commas between")  # fmt: skip
    earned = {canonical(line.api): line for line in ledger}
    claims = [api.strip() for api in cell.directives.get("earns", "").split(",") if api.strip()]
    for api in dict.fromkeys(claims):
        if not re.fullmatch(r"@|[^\W\d]\w*(\.\w+)+|torch", api):
            yield problem(f"earns `{api}`, which is not the full path of an API",
                          "write `#earns torch.nn.Linear, torch.nn.Module`")  # fmt: skip
        elif api in WHOLES:
            yield problem(f"earns all of {api} at once", "name what of it was built")
        elif not refuse(api, number):
            yield problem(f"earns {api}, which is free", "leave it out")
        elif again := parents(api) & earned.keys():
            old = earned[min(again)]
            place = f"{show(old.notebook.path)}:cell {old.cell.number} ({old.cell.id})"
            yield problem(f"earns {api}, which {old.api} in {place} did already", "leave it out")
        else:
            ledger.append(Earned(api, notebook, cell))
            used = (parents(path) for path, _ in reader.uses + reader.either)
            if not any(canonical(api) in paths for paths in used):
                yield problem(f"earns {api}, but its code does not use it",
                              "compare with it here, and write its full path above")  # fmt: skip
    if claims and not reader.tests:
        yield problem("earns without a test", "compare values and gradients with a `test_…` here")
    for module, line in sorted(reader.stars):
        yield problem(f"imports * from {module}", "import names", line + cell.first_line - 1)
    if number in BOX:
        return
    seen = {canonical(line.api) for line in ledger} | (ORACLES if claims else set())
    for path, line in reader.uses:
        if not parents(path) & seen and (refusal := refuse(path, number)):
            seen = seen | {canonical(path)}
            yield problem(*refusal, line + cell.first_line - 1)


def table(ledger: Iterable[Earned]) -> str:
    """The ledger to read in a terminal, a line for each API."""
    rows = [("API", "earned in", "at")]
    rows += [(line.api, line.notebook.path.stem, line.cell.heading) for line in ledger]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def markdown_table(ledger: Iterable[Earned], root: Path) -> str:
    """The ledger as Markdown, a line for each section, with links that hold in the root."""
    rows = [("earned in", "at", "API")]
    for (path, at), lines in groupby(ledger, lambda line: (line.notebook.path, line.cell.heading)):
        link = os.path.relpath(path, root).replace(os.sep, "/")
        rows.append((f"[{path.stem}]({link})", at, ", ".join(f"`{line.api}`" for line in lines)))
    return files.markdown(rows)


def check_rules(nbs: str = "", markdown: bool = False, readme: str | bool = "") -> None:
    """Check a folder of notebooks, and the ledger in the README if there is one; print the ledger.

    Args:
        nbs: the folder of notebooks (settings.ini: nbs_path).
        markdown: print the ledger as Markdown.
        readme: write the ledger into this file, between its two marks (alone: README.md).
    """
    config = notebooks.settings()
    if not (paths := notebooks.find(nbs or config.nbs)):
        raise ToolError(
            f"there is no notebook in {show(nbs or config.nbs)}: name the folder, --nbs"
        )
    books, problems = [], []
    for path in paths:
        try:
            books.append(notebooks.read(path))
        except NotebookError as error:
            problems += error.problems
    if problems:
        raise NotebookError(problems)
    ledger, problems = check(books, config.lib.name)
    if problems:
        raise NotebookError(problems)
    target = Path(readme) if isinstance(readme, str) and readme else config.root / "README.md"
    rows = markdown_table(ledger, target.resolve().parent)
    if readme:
        files.write_between(target, rows, "ledger")
    elif not nbs and target.is_file() and "<!-- ledger -->" in target.read_text("utf-8"):
        if files.write_between(target, rows, "ledger", dry=True):
            remedy = "run `python tools/check_rules.py --readme`"
            raise NotebookError([Problem(target, "its ledger is out of date", remedy)])
    print(markdown_table(ledger, config.root) if markdown else table(ledger))


if __name__ == "__main__":
    gc.disable()  # trees of code all live to the end
    notebooks.cli(check_rules)
