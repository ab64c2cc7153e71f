"""The names in a piece of code: which it binds, which it reads, what it imports.

Everything here walks a tree with a stack of its own: code may nest deeper than Python recurses.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


# --- what code binds -----------------------------------------------------------------------------


def bound_names(node: ast.AST) -> Iterator[tuple[str, str, ast.AST]]:
    """Each name that running these statements binds, as (name, how, node), in order.

    `how` is "import", "define" (def, class, =, :=, with, match, also inside if, try and loops) or
    "loop" (the target of a for or an except). What functions, classes and comprehensions bind is
    theirs.
    """
    tree = ast.Module([node], []) if isinstance(node, ast.stmt) else node
    for event in events(tree):
        if event.how in ("import", "define", "loop") and not event.later:
            yield event.name, event.how, event.node


def is_future(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__" and node.level == 0


def decorator_name(node: ast.expr) -> str:
    """The last part of a decorator's name: `to` of `@a.b.to(x)`."""
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def extends(decorator: ast.expr) -> bool:
    """Whether a decorated def adds to something that exists instead of binding a new name."""
    name = decorator_name(decorator)
    return name.startswith("patch") or name in ("overload", "typedispatch")


# --- what code reads -----------------------------------------------------------------------------


@dataclass(eq=False)
class Scope:
    """A part of code with names of its own; `later` says that it runs when it is called."""

    kind: str  # "module", "class", "function" or "block" (a comprehension, type parameters)
    parent: Scope | None = None
    bound: set[str] = field(default_factory=set)
    outer: set[str] = field(default_factory=set)  # declared global
    borrowed: set[str] = field(default_factory=set)  # declared nonlocal

    @property
    def later(self) -> bool:
        scope = self
        while scope is not None and scope.kind != "function":
            scope = scope.parent
        return scope is not None

    def bind(self, name: str) -> Scope:
        """Bind a name where a `:=` here would; return the scope that it ends up in."""
        scope = self
        while scope.kind == "block":
            scope = scope.parent
        if name in scope.outer:
            while scope.parent is not None:
                scope = scope.parent
        scope.bound.add(name)
        return scope

    def is_global(self, name: str) -> bool:
        """Whether a name that is read here is one of the module's."""
        scope = self
        if name in scope.outer:
            return True
        while scope.parent is not None:
            mine = name in scope.bound and name not in scope.borrowed
            if mine and (scope.kind != "class" or scope is self):
                return False
            scope = scope.parent
            if name in scope.outer:
                return True
        return True


@dataclass(frozen=True, slots=True)
class Event:
    """A name of the module is read or bound; `later`: when a function is called.

    `how` is "read"; "import", "define" or "loop", as in `bound_names`; "extend" (a def that adds to
    one that exists); or "add" (what += does: read and bind).
    """

    how: str
    name: str
    node: ast.AST
    statement: ast.stmt
    later: bool

    @property
    def binds(self) -> bool:
        return self.how not in ("read", "add")


LEAVES = (ast.Constant, ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
          ast.Pass, ast.Break, ast.Continue)  # fmt: skip


def events(tree: ast.Module) -> list[Event]:
    """Each time that code reads or binds a name of its module, in the order in which it runs."""
    module = Scope("module")
    found: list[tuple[str, str, ast.AST, ast.stmt, Scope]] = []
    for statement in tree.body:
        stack: list[tuple] = [(statement, module, "define")]

        def bind(name: str, node: ast.AST, scope: Scope, how: str, statement=statement) -> None:
            if scope.bind(name) is module:
                found.append((how, name, node, statement, scope))

        while stack:
            node, scope, how = stack.pop()
            kind = type(node)
            if kind is ast.Name:
                if type(node.ctx) is ast.Store:
                    bind(node.id, node, scope, how)
                elif not (scope.kind == "class" and node.id in scope.bound):
                    found.append(("read", node.id, node, statement, scope))
            elif kind is ast.Attribute:
                stack.append((node.value, scope, how))
            elif kind is tuple:  # a name to bind after what stands before it was read
                bind(*node, scope, how)
            elif issubclass(kind, LEAVES):
                pass
            elif kind in ENTERED:
                stack += enter(node, scope)[::-1]
            elif kind in COMPREHENSIONS:
                inner = Scope("block", scope)
                for n, part in enumerate(node.generators):
                    inner.bound |= {t.id for t in ast.walk(part.target) if isinstance(t, ast.Name)}
                    stack.append((part.iter, inner if n else scope, how))
                    stack += [(test, inner, how) for test in part.ifs]
                elements = [getattr(node, name, None) for name in ("elt", "key", "value")]
                stack += [(element, inner, how) for element in elements if element]
            elif kind is ast.AugAssign and type(node.target) is ast.Name:
                found.append(("read", node.target.id, node.target, statement, scope))
                bind(node.target.id, node.target, scope, "add")
                stack.append((node.value, scope, how))
            elif kind is ast.Import or kind is ast.ImportFrom:
                for alias in node.names:
                    if alias.name != "*" and not is_future(node):
                        name = alias.asname or alias.name.split(".")[0]
                        bind(name, node, scope, "import")
            elif kind is ast.Global:
                scope.outer |= set(node.names)
            elif kind is ast.Nonlocal:
                scope.borrowed |= set(node.names)
            elif kind is ast.For or kind is ast.AsyncFor:
                stack += [(part, scope, how) for part in (*node.body, *node.orelse)[::-1]]
                stack += [(node.target, scope, "loop"), (node.iter, scope, how)]
            elif kind.__name__ == "TypeAlias":  # from Python 3.12 on
                around = Scope("block", scope, {p.name for p in node.type_params})
                stack += [(node.value, Scope("function", around), how), (node.name, scope, how)]
            else:
                if kind is ast.ExceptHandler and node.name:
                    bind(node.name, node, scope, "loop")
                elif (kind is ast.MatchAs or kind is ast.MatchStar) and node.name:
                    bind(node.name, node, scope, how)
                elif kind is ast.MatchMapping and node.rest:
                    bind(node.rest, node, scope, how)
                for part in in_order(node)[::-1]:
                    stack.append((part, scope, how))
    return [
        Event(how, name, node, statement, scope.later)
        for how, name, node, statement, scope in found
        if how != "read" or scope is module or scope.is_global(name)
    ]


def in_order(node: ast.AST) -> list[ast.AST]:
    """The parts of a node, those that run first in front."""
    fields = node._fields
    if isinstance(node, ast.Assign | ast.NamedExpr):
        fields = fields[::-1]
    elif isinstance(node, ast.AnnAssign):
        bare = node.value is None and isinstance(node.target, ast.Name)
        fields = ("annotation",) if bare else ("annotation", "value", "target")
    parts: list[ast.AST] = []
    for name in fields:
        value = getattr(node, name, None)
        if type(value) is list:
            parts += [part for part in value if isinstance(part, ast.AST)]
        elif isinstance(value, ast.AST):
            parts.append(value)
    return parts


def enter(node: ast.AST, scope: Scope) -> list[tuple]:
    """What a function or class reads where it stands, its name, and its body in a new scope."""
    around = scope
    if parameters := getattr(node, "type_params", []):
        around = Scope("block", scope, {parameter.name for parameter in parameters})
    decorators = getattr(node, "decorator_list", [])
    todo: list[tuple] = [(decorator, scope, "define") for decorator in decorators]
    if not isinstance(node, ast.Lambda):
        how = "extend" if any(map(extends, decorators)) else "define"
        name = ((node.name, node), scope, how)
    if isinstance(node, ast.ClassDef):
        inner = Scope("class", around, {"__module__", "__qualname__"})
        todo += [(part, around, "define") for part in (*node.bases, *node.keywords)]
        return [*todo, *((part, inner, "define") for part in node.body), name]
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    every += [a for a in (arguments.vararg, arguments.kwarg) if a]
    inner = Scope("function", around, {a.arg for a in every})
    defaults = [d for d in (*arguments.defaults, *arguments.kw_defaults) if d]
    todo += [(part, scope, "define") for part in defaults]
    todo += [(a.annotation, around, "define") for a in every if a.annotation]
    if isinstance(node, ast.Lambda):
        return [*todo, (node.body, inner, "define")]
    if node.returns:
        todo.append((node.returns, around, "define"))
    return [*todo, name, *((part, inner, "define") for part in node.body)]


ENTERED = {*FUNCTIONS, ast.Lambda, ast.ClassDef}


# --- what code imports ---------------------------------------------------------------------------


def absolute(node: ast.ImportFrom, module: str) -> str:
    """The full name of what a `from … import` names, written in a module of that full name."""
    if not node.level:
        return node.module or ""
    base = module.split(".")[: -node.level]
    return ".".join([*base, *filter(None, [node.module])])


def star_imports(tree: ast.Module) -> Iterator[ast.ImportFrom]:
    """Each `from … import *` of a module; Python allows them nowhere else."""
    for node in top_level(tree):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            yield node


def top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements of a module that run when it is imported, also those inside if and try."""
    stack: list[ast.AST] = tree.body[::-1]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.stmt):
            yield node
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.expr)):
            stack += list(ast.iter_child_nodes(node))[::-1]
