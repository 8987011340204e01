"""Python's scopes: which names an expression, a function or a class reads of the globals around it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Any, TypeAlias

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SHELL_CALLS = frozenset({"system", "getoutput", "run_line_magic", "run_cell_magic"})


@dataclass(frozen=True)
class Deferred:
    """What functions do once they are called."""

    reads: frozenset[str] = frozenset()
    """Names that they look for outside of themselves."""
    declared: frozenset[str] = frozenset()
    """Of these, the ones that are declared global, which no function around hides."""
    binds: frozenset[str] = frozenset()
    """Globals that they bind."""
    attributes: frozenset[str] = frozenset()
    """Attributes that they look at."""

    def __or__(self, other: Deferred) -> Deferred:
        return Deferred(
            self.reads | other.reads,
            self.declared | other.declared,
            self.binds | other.binds,
            self.attributes | other.attributes,
        )


class Bindings(ast.NodeVisitor):
    """What is evaluated when an expression or a simple statement runs at the top level.

    Attributes:
        reads: Names, in order. The bodies of lambdas count: whatever gets one may call it.
        inner: Of these, the ones that a lambda or a comprehension reads, which see nothing of a class around them.
        binds: Names that are bound, in order.
        deletes: Names that are deleted.
        attributes: Of whatever is looked at.
        magics: Calls that IPython's own syntax was turned into: method and texts.
    """

    def __init__(self, node: ast.AST) -> None:
        self.reads: list[str] = []
        self.inner: set[str] = set()
        self.binds: list[str] = []
        self.deletes: list[str] = []
        self.attributes: set[str] = set()
        self.magics: list[tuple[str, list[str]]] = []
        self._hidden: list[set[str]] = []
        """Names of the comprehensions and lambdas around what is visited."""
        self.visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._read(node.id)
        elif isinstance(node.ctx, ast.Store):
            if not self._is_hidden(node.id):
                self.binds.append(node.id)
        elif not self._is_hidden(node.id):
            self.deletes.append(node.id)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self.visit(node.target)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    visit_AsyncFor = visit_For  # noqa: N815

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._read(node.target.id)
        self.visit(node.value)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)
        elif not isinstance(node.target, ast.Name):
            self.visit(node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        # Of a comprehension too it is the scope around that is bound; of a lambda it is the lambda's own.
        self.binds.append(node.target.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.attributes.add(node.attr)
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        function = node.func
        if (
            isinstance(function, ast.Attribute)
            and function.attr in _SHELL_CALLS
            and isinstance(function.value, ast.Call)
            and isinstance(function.value.func, ast.Name)
            and function.value.func.id == "get_ipython"
        ):
            texts = [each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
            self.magics.append((function.attr, texts))
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.binds += [alias.asname or alias.name.partition(".")[0] for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.binds += [alias.asname or alias.name for alias in node.names if alias.name != "*"]

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        self.generic_visit(node)
        if node.name:
            self.binds.append(node.name)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name:
            self.binds.append(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.generic_visit(node)
        if node.rest:
            self.binds.append(node.rest)

    def visit_FunctionDef(self, node: Function) -> None:
        """The definition itself: decorators, defaults and annotations are evaluated, the body is not."""
        for expression in outer_expressions(node):
            self.visit(expression)
        self.binds.append(node.name)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        deferred = function_names(node)
        self.attributes |= deferred.attributes
        for name in sorted(deferred.reads):
            self._read(name, inner=True)

    def _visit_comprehension(self, node: Any) -> None:
        first = node.generators[0]
        self.visit(first.iter)
        targets = {name.id for each in node.generators for name in ast.walk(each.target) if isinstance(name, ast.Name)}
        self._hidden.append(targets)
        for each in node.generators:
            self.visit(each.target)
            if each is not first:
                self.visit(each.iter)
            for condition in each.ifs:
                self.visit(condition)
        for expression in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self.visit(expression)
        self._hidden.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension  # noqa: N815

    def _read(self, name: str, *, inner: bool = False) -> None:
        if not self._is_hidden(name) and name not in self.binds:
            self.reads.append(name)
            if inner or self._hidden:
                self.inner.add(name)

    def _is_hidden(self, name: str) -> bool:
        return any(name in names for names in self._hidden)


def outer_expressions(node: Function) -> list[ast.expr]:
    """Returns what a function definition evaluates outside of the function: when it is defined."""
    arguments = node.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    annotations = [each.annotation for each in every if each is not None]
    found = [*node.decorator_list, *arguments.defaults, *arguments.kw_defaults, *annotations, node.returns]
    return [each for each in found if each is not None]


def deferred_names(node: Function | ast.ClassDef) -> Deferred:
    """Returns what a function, or the functions in a class, do once they are called."""
    if isinstance(node, FUNCTIONS):
        return function_names(node)
    found = Deferred()
    for statement in node.body:
        for each in ast.walk(statement):
            if isinstance(each, (*FUNCTIONS, ast.Lambda)):
                found |= function_names(each)
    return found


def mutated_names(tree: ast.AST) -> set[str]:
    """Returns names of objects that code stores into or calls methods of, whatever its scopes: rather one too many."""
    found: set[str] = set()
    for node in ast.walk(tree):
        target: ast.AST = node
        if isinstance(node, ast.AugAssign):
            target = node.target
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            target = node.func
        elif not isinstance(node, (ast.Attribute, ast.Subscript)) or isinstance(node.ctx, ast.Load):
            continue
        while isinstance(target, (ast.Attribute, ast.Subscript)):
            target = target.value
        if isinstance(target, ast.Name):
            found.add(target.id)
    return found


def function_names(node: Function | ast.Lambda) -> Deferred:
    """Returns what a function does once it is called.

    What functions in it read counts as read by it; whatever is local to it does not.
    """
    return _FunctionScope(node).deferred()


class _FunctionScope(ast.NodeVisitor):
    """One function's names, as Python's compiler sorts them into local, global and free."""

    def __init__(self, node: Function | ast.Lambda) -> None:
        self._inner = Deferred()
        self._attributes: set[str] = set()
        self._loads: set[str] = set()
        self._globals: set[str] = set()
        self._nonlocals: set[str] = set()
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        self._stores: set[str] = {each.arg for each in every if each is not None}
        for each in node.body if isinstance(node.body, list) else [node.body]:
            self.visit(each)

    def deferred(self) -> Deferred:
        reads = self._loads | self._inner.reads
        # A name that a function in this one declares global is not this one's local of the same name.
        declared = (reads & self._globals) | self._inner.declared
        hidden = self._stores - self._globals - self._nonlocals
        return Deferred(
            frozenset((reads - hidden) | declared),
            frozenset(declared),
            frozenset(self._stores & self._globals) | self._inner.binds,
            frozenset(self._attributes) | self._inner.attributes,
        )

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._loads.add(node.id)
        else:
            self._stores.add(node.id)

    def visit_Global(self, node: ast.Global) -> None:
        self._globals.update(node.names)

    def visit_Nonlocal(self, node: ast.Nonlocal) -> None:
        self._nonlocals.update(node.names)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self._loads.add(node.target.id)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._attributes.add(node.attr)
        self.visit(node.value)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self._stores |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}

    visit_ImportFrom = visit_Import  # noqa: N815

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.name:
            self._stores.add(node.name)
        self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs | ast.MatchStar) -> None:
        if node.name:
            self._stores.add(node.name)
        self.generic_visit(node)

    visit_MatchStar = visit_MatchAs  # noqa: N815

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        if node.rest:
            self._stores.add(node.rest)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: Function) -> None:
        for expression in outer_expressions(node):
            self.visit(expression)
        self._stores.add(node.name)
        self._inner |= function_names(node)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        self._inner |= function_names(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for expression in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(expression)
        self._stores.add(node.name)
        body = Bindings(ast.Module(body=node.body, type_ignores=[]))
        self._loads.update(body.reads)
        # What a class's body reads before it binds it, it looks up in the globals, past the functions around.
        past = frozenset(body.reads) & frozenset(body.binds)
        self._inner |= Deferred(reads=past, declared=past)
        self._attributes |= body.attributes
        self._inner |= deferred_names(node)

    def _visit_comprehension(self, node: Any) -> None:
        bindings = Bindings(node)
        self._loads.update(bindings.reads)
        self._stores |= set(bindings.binds)
        self._attributes |= bindings.attributes

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _visit_comprehension  # noqa: N815
