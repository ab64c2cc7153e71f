"""Which imports may move to the top of a module: those that pass nothing but definitions."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from names import decorator_name
from notebooks import Block, Cell


def arranged(cells: Sequence[Cell]) -> list[tuple[int, Block]]:
    """The blocks of a module's cells in order, each with the number of its cell, from 0.

    The kind of a block says which part of the module it goes to. The order of what runs is that of
    the cells: an import moves to the top only past statements that run nothing, and that neither
    bind nor use a name that it binds; from the first import that stays on, every one stays.
    """
    found: list[tuple[int, Block]] = []
    above: list[tuple[Cell, Block]] = []  # what the next import would move past
    touched: set[str] = set()  # the names in what was moved past
    moving = True
    for number, cell in enumerate(cells):
        blocks = cell.blocks()
        imports = next((block for block in blocks if block.kind == "imports"), None)
        if imports and moving:
            passed = [(c, statement) for c, block in above for statement in inside(c, block)]
            above.clear()
            moving = all(runs_nothing(statement) for _, statement in passed)
            for c in {id(c): c for c, _ in passed}.values():
                statements = {statement for other, statement in passed if other is c}
                touched |= {e.name for e in c.events if e.statement in statements}
            moving = moving and may_move(inside(cell, imports), touched)
        if imports and not moving:
            blocks = cell.blocks(imports_stay=True)
        found += [(number, block) for block in blocks]
        above += [(cell, block) for block in blocks if block.kind == "body"]
    return found


def may_move(statements: list[ast.stmt], touched: set[str]) -> bool:
    """Whether imports may move past code in which those names occur; a text in front may not."""
    aliases = [alias for statement in statements for alias in getattr(statement, "names", ())]
    bound = {alias.asname or alias.name.split(".")[0] for alias in aliases}
    pure = all(isinstance(node, ast.Import | ast.ImportFrom) for node in statements)
    return not touched or (pure and "*" not in bound and not bound & touched)


def inside(cell: Cell, block: Block) -> list[ast.stmt]:
    """The statements of a cell that are in one of its blocks."""
    first = block.first - cell.first_line + 1
    last = first + block.text.count("\n")
    return [node for node in cell.tree.body if first <= node.lineno <= last]


SIMPLE = (
    ast.Constant, ast.Name, ast.Tuple, ast.List, ast.Dict, ast.Set, ast.expr_context, ast.Lambda,
    ast.UnaryOp, ast.unaryop, ast.arguments, ast.arg,
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
