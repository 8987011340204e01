"""Which names a cell reads before it binds them, and which it binds: found in its syntax tree, without running it."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from IPython.core.inputtransformer2 import TransformerManager

from nbgpu.values.scopes import FUNCTIONS, Bindings, Deferred, deferred_names, mutated_names

_CODE_CELL_MAGICS = frozenset({"time", "timeit", "capture", "prun", "memit", "mprun", "lprun", "heat", "gpu"})
"""Cell magics whose body is Python that runs in the cells' namespace."""
_CODE_LINE_MAGICS = frozenset({"time", "timeit", "prun", "memit", "lprun", "mprun"})
_KEEPS_BINDINGS = frozenset({"time", "capture", "gpu"})
_EXPANSION = re.compile(r"\{([^{}]+)\}|(?<!\$)\$\{?([A-Za-z_]\w*)")


@dataclass
class CellNames:
    """The names of one cell.

    Args:
        reads: Those that have to be there before the cell runs.
        binds: Those that it may bind, in the order in which it does.
        certain: Of these, the ones that are bound whenever the cell comes to its end.
        mutated: Those of objects that it is seen to store into: items, attributes, `+=`; or to call a method of.
        attributes: Of whatever it looks at, to tell which submodules of a package it uses.
    """

    reads: set[str] = field(default_factory=set)
    binds: list[str] = field(default_factory=list)
    attributes: set[str] = field(default_factory=set)
    certain: set[str] = field(default_factory=set)
    mutated: set[str] = field(default_factory=set)


@functools.lru_cache(maxsize=256)
def analyse(code: str) -> CellNames | None:
    """Returns a cell's names, or None for a cell that is no Python, which the session's kernel is to say.

    Args:
        code: As the person wrote it, IPython's own syntax included. It is not run, nor are its magics.
    """
    try:
        # A transformer of its own: the shell's may have been given others, with side effects.
        tree = ast.parse(TransformerManager().transform_cell(code))
    except (SyntaxError, ValueError, RecursionError):
        return None
    flow = _Flow()
    try:
        flow.run(tree.body)
        flow.finish()
        flow.names.mutated |= mutated_names(tree)
    except RecursionError:
        return None
    return flow.names


class _Flow:
    """Follows a cell's top level from statement to statement, and knows at each which names are bound for certain."""

    def __init__(self) -> None:
        self.names = CellNames()
        self._bound: set[str] = set()
        self._around: set[str] | None = None
        """In a class's body: what is bound around it, which is all that functions in it see."""
        self._deferred: dict[str, Deferred] = {}
        """What functions and classes that the cell defines read and bind once they are called."""

    def finish(self) -> None:
        """Counts what functions read that the cell defines and does not use itself: later cells will."""
        self.names.certain = self._bound & set(self.names.binds)
        for name in list(self._deferred):
            self._call(name)

    def run(self, statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        method = getattr(self, f"_on_{type(node).__name__}", None)
        if method is not None:
            method(node)
        else:
            self._expressions(node)

    # -- Reading and binding

    def _read(self, name: str, *, inner: bool = False) -> None:
        if name not in (self._around if inner and self._around is not None else self._bound):
            self.names.reads.add(name)
        self._call(name)

    def _call(self, name: str) -> None:
        """Anything that is mentioned may be called."""
        deferred = self._deferred.pop(name, Deferred())
        for each in sorted(deferred.reads):
            self._read(each, inner=True)
        for each in sorted(deferred.binds):
            self._may_bind(each)

    def _bind(self, name: str) -> None:
        self._may_bind(name)
        self._bound.add(name)

    def _may_bind(self, name: str) -> None:
        if name not in self.names.binds:
            self.names.binds.append(name)

    def _expressions(self, node: ast.AST | None) -> None:
        """Reads what is evaluated now in an expression or a simple statement, and binds its targets after."""
        if node is None:
            return
        bindings = Bindings(node)
        self.names.attributes |= bindings.attributes
        for name in bindings.reads:
            self._read(name, inner=name in bindings.inner)
        for magic in bindings.magics:
            self._magic(magic)
        for name in bindings.binds:
            self._bind(name)
        for name in bindings.deletes:
            self._read(name)
            self._bound.discard(name)

    def _branches(self, *branches: Iterable[ast.stmt]) -> None:
        """Runs alternatives, after which only that is bound for certain which all of them bind."""
        before, ends = self._bound, []
        for branch in branches:
            self._bound = set(before)
            self.run(branch)
            ends.append(self._bound)
        self._bound = set.intersection(*ends)

    # -- Statements

    def _on_If(self, node: ast.If) -> None:  # noqa: N802
        self._expressions(node.test)
        self._branches(node.body, node.orelse)

    def _on_While(self, node: ast.While) -> None:  # noqa: N802
        self._expressions(node.test)
        self._branches(node.body, ())
        self._branches(node.orelse, ())

    def _on_For(self, node: ast.For | ast.AsyncFor) -> None:  # noqa: N802
        self._expressions(node.iter)
        before = set(self._bound)
        self._expressions(node.target)
        self._branches(node.body, ())
        self._bound = before
        self._branches(node.orelse, ())

    _on_AsyncFor = _on_For  # noqa: N815

    def _on_With(self, node: ast.With | ast.AsyncWith) -> None:  # noqa: N802
        for item in node.items:
            self._expressions(item.context_expr)
            self._expressions(item.optional_vars)
        # It may swallow an exception, and its body may have ended anywhere.
        self._branches(node.body, ())

    _on_AsyncWith = _on_With  # noqa: N815

    def _on_Try(self, node: ast.Try) -> None:  # noqa: N802
        before = set(self._bound)
        self.run(node.body)
        self.run(node.orelse)
        ends = [self._bound]
        for handler in node.handlers:
            self._bound = set(before)
            self._expressions(handler.type)
            if handler.name:
                self._bind(handler.name)
            self.run(handler.body)
            if handler.name:
                self._bound.discard(handler.name)  # Python deletes it
            ends.append(self._bound)
        after = set.intersection(*ends)
        self._bound = set(before)
        self.run(node.finalbody)
        self._bound |= after

    _on_TryStar = _on_Try  # noqa: N815

    def _on_Match(self, node: ast.Match) -> None:  # noqa: N802
        self._expressions(node.subject)
        before, ends = self._bound, [self._bound]
        for case in node.cases:
            self._bound = set(before)
            self._expressions(case.pattern)
            self._expressions(case.guard)
            self.run(case.body)
            ends.append(self._bound)
        self._bound = set.intersection(*ends)

    def _on_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:  # noqa: N802
        self._expressions(node)
        self._defer(node)

    _on_AsyncFunctionDef = _on_FunctionDef  # noqa: N815

    def _on_ClassDef(self, node: ast.ClassDef) -> None:  # noqa: N802
        for expression in (*node.decorator_list, *node.bases, *node.keywords):
            self._expressions(expression)
        # The body runs now, in a namespace of its own: what it binds is no name of the cell's.
        bound, binds = set(self._bound), list(self.names.binds)
        around, self._around = self._around, bound if self._around is None else self._around
        self.run(node.body)
        self._around = around
        made = [name for name in self.names.binds if name not in binds]
        self._bound = bound
        declared = {name for each in ast.walk(node) if isinstance(each, ast.Global) for name in each.names}
        self.names.binds = [*binds, *(name for name in made if name in declared)]
        methods = [each for each in node.body if isinstance(each, FUNCTIONS)]
        for method in methods:
            self._deferred.pop(method.name, None)
        self._bind(node.name)
        self._defer(node)
        if node.decorator_list or node.bases or node.keywords:
            self._call(node.name)  # a decorator, a base or a metaclass may call what is in it

    def _defer(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        deferred = deferred_names(node)
        self.names.attributes |= deferred.attributes
        self._deferred[node.name] = deferred
        if node.decorator_list:
            self._call(node.name)

    # -- IPython's own syntax

    def _magic(self, call: tuple[str, list[str]]) -> None:
        kind, arguments = call
        if kind == "run_cell_magic" and len(arguments) == 3:
            name, line, body = arguments
            self._expand(line)
            if name in _CODE_CELL_MAGICS:
                self._nested(body, keeps=name in _KEEPS_BINDINGS)
            if name == "capture":
                words = [word for word in line.split() if not word.startswith("-")]
                if words and words[0].isidentifier():
                    self._bind(words[0])
        elif kind == "run_line_magic" and len(arguments) == 2:
            name, line = arguments
            self._expand(line)
            if name in _CODE_LINE_MAGICS:
                self._nested(_without_options(line), keeps=name in _KEEPS_BINDINGS)
        else:
            for text in arguments:
                self._expand(text)

    def _nested(self, code: str, *, keeps: bool) -> None:
        found = analyse(code)
        if found is None:
            return
        self.names.attributes |= found.attributes
        self.names.mutated |= found.mutated
        for name in sorted(found.reads):
            self._read(name)
        for name in found.binds if keeps else ():
            self._may_bind(name)

    def _expand(self, text: str) -> None:
        """Reads the names that IPython puts into a shell's or a magic's line: `$name`, `{expression}`."""
        for match in _EXPANSION.finditer(text):
            expression = match[1] or match[2]
            try:
                tree = ast.parse(expression.strip(), mode="eval")
            except (SyntaxError, ValueError):
                continue
            self._expressions(tree.body)


def _without_options(line: str) -> str:
    """Returns the statement of a line such as `-n 10 -r 3 f(x)`."""
    rest = line.strip()
    while match := re.match(r"-(?:[nrDTlsmfuc]\s*\S+|\w+)\s+", rest):
        rest = rest[match.end() :]
    return rest
