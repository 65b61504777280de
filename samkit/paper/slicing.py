"""The backward slice of a program: which of its statements one of them needs.

Works on text alone, by ``ast``, and errs on the side of too much:

- A statement needs, for every name it reads, the last one that binds the name, and every one that
  may change the object in between: by an assignment to an element or attribute, by a method not
  known to leave its object alone (so a random generator is changed by every draw), or by a call
  whose result nobody takes.
- What is bound inside ``if``, ``for``, ``with`` or ``try`` may not be bound there, so what bound it
  before is needed too.
- A function reads and changes its global names where it is called, not where it stands.
- torch's own random numbers are one more name, which every draw and every layer changes.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

RANDOM = "<random state>"
#: methods of arrays, tensors, dicts and strings that leave their object as it is
HARMLESS = frozenset(
    """all any argmax argmin astype clone copy count detach double expand flatten float format get
    index items join keys max mean min norm numpy removeprefix replace reshape round split square
    startswith std sum tolist transpose unflatten values var""".split()
)
DRAWS = frozenset("rand randn randint randperm rand_like randn_like".split())
SILENT = frozenset(("print", "claims.check"))


@dataclass
class Statement:
    """A statement of the top level: what it reads, binds and changes.

    ``binds`` maps a name to True where it surely binds it; ``deferred`` holds what functions in it
    read when they are called, ``effects`` what they change then.
    """

    node: ast.stmt
    reads: set[str] = field(default_factory=set)
    binds: dict[str, bool] = field(default_factory=dict)
    changes: set[str] = field(default_factory=set)
    deferred: set[str] = field(default_factory=set)
    effects: set[str] = field(default_factory=set)


def statements(source: str) -> list[Statement]:
    """The top level of a program, analysed."""
    modules: set[str] = set()
    found = []
    for node in ast.parse(source).body:
        statement = Statement(node)
        _Reader(statement, modules).block([node], sure=True)
        found.append(statement)
    return found


def backward(program: Sequence[Statement], targets: Collection[int]) -> list[int]:
    """The positions of the statements that those at ``targets`` need, themselves included."""
    chosen: set[int] = set()
    seen: set[tuple[str, int]] = set()
    work: list[tuple[str | None, int]] = [(None, target) for target in targets]
    while work:
        name, position = work.pop()
        if name is None:  # a statement
            if position not in chosen:
                chosen.add(position)
                work += [(read, position) for read in program[position].reads]
                work += [(read, position) for read in program[position].changes]
            continue
        if (name, position) in seen:
            continue
        seen.add((name, position))
        for k in range(position - 1, -1, -1):  # the last binding, and the changes since
            statement = program[k]
            if name in statement.binds:
                work.append((None, k))
                work += [(read, position) for read in statement.deferred]
                if statement.binds[name]:
                    break
            elif name in statement.changes or name in _called_effects(program, k):
                work.append((None, k))
    return sorted(chosen)


def with_assertions(program: Sequence[Statement], targets: Collection[int]) -> list[int]:
    """As :func:`backward`, and every ``assert`` before the targets that needs nothing more."""
    chosen = set(backward(program, targets))
    for k in range(max(targets)):
        if isinstance(program[k].node, ast.Assert) and chosen >= {*backward(program, [k])} - {k}:
            chosen.add(k)
    return sorted(chosen)


def _called_effects(program: Sequence[Statement], position: int) -> set[str]:
    """What the functions that this statement names may change, theirs included."""
    effects, work, seen = set(), list(program[position].reads), set()
    while work:
        name = work.pop()
        if name in seen:
            continue
        seen.add(name)
        for k in range(position - 1, -1, -1):
            if name in program[k].binds:
                effects |= program[k].effects
                work += program[k].deferred
                if program[k].binds[name]:
                    break
    return effects


class _Reader(ast.NodeVisitor):
    """Fills a Statement, walking in the order of execution.

    ``bound`` are the names surely bound by the statement itself up to here, ``local`` those of the
    functions around; ``depth`` counts these functions.
    """

    def __init__(self, statement: Statement, modules: set[str]):
        self.out, self.modules = statement, modules
        self.bound: set[str] = set()
        self.local: list[set[str]] = []
        self.sure = True

    # --- names

    def is_local(self, name: str) -> bool:
        return any(name in names for names in self.local)

    def read(self, name: str) -> None:
        if self.is_local(name) or name in self.bound or hasattr(builtins, name):
            return
        (self.out.deferred if self.local else self.out.reads).add(name)

    def bind(self, name: str) -> None:
        if self.local:
            self.local[-1].add(name)
            return
        self.out.binds[name] = self.sure or self.out.binds.get(name, False)
        self.bound.add(name)

    def change(self, node: ast.AST) -> None:
        """The object at the root of x, x.a, x[k], x.method() ... may be changed."""
        while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred | ast.Call):
            node = node.func if isinstance(node, ast.Call) else node.value
        if isinstance(node, ast.Name) and node.id not in self.modules:
            self.change_name(node.id)

    def change_name(self, name: str) -> None:
        if not (self.is_local(name) or name in self.bound):
            (self.out.effects if self.local else self.out.changes).add(name)

    # --- statements

    def block(self, nodes: Sequence[ast.stmt], sure: bool) -> None:
        """Statements in order; without ``sure`` they may not happen, or not to their end."""
        bound, before = set(self.bound), self.sure
        self.sure = before and sure
        for node in nodes:
            self.visit(node)
        self.sure = before
        if not sure:
            self.bound = bound

    def visit_Import(self, node):
        for alias in node.names:
            name = (alias.asname or alias.name).split(".")[0]
            self.modules.add(name)
            self.bind(name)

    visit_ImportFrom = visit_Import

    def visit_Assign(self, node):
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AnnAssign(self, node):
        if node.value:
            self.visit(node.value)
        self.visit(node.target)

    def visit_AugAssign(self, node):
        self.visit(node.value)
        if isinstance(node.target, ast.Name):
            self.read(node.target.id)
            self.change_name(node.target.id)
        self.visit(node.target)

    def visit_Expr(self, node):
        self.visit(node.value)
        if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) not in SILENT:
            for argument in (*node.value.args, *(k.value for k in node.value.keywords)):
                self.change(argument)  # nobody takes the result: it is called for what it changes

    def visit_Delete(self, node):
        for target in node.targets:
            self.change(target)

    def visit_If(self, node):
        self.visit(node.test)
        self.block(node.body, sure=False)
        self.block(node.orelse, sure=False)

    def visit_For(self, node):
        self.visit(node.iter)
        bound, before = set(self.bound), self.sure
        self.sure = False
        self.visit(node.target)
        self.sure = before
        self.block(node.body, sure=False)
        self.bound = bound
        self.block(node.orelse, sure=False)

    def visit_While(self, node):
        self.visit(node.test)
        self.block(node.body, sure=False)
        self.block(node.orelse, sure=False)

    def visit_With(self, node):
        for item in node.items:
            self.visit(item.context_expr)
            if item.optional_vars:
                self.visit(item.optional_vars)
        self.block(node.body, sure=False)

    def visit_Try(self, node):
        self.block(node.body, sure=False)
        for handler in node.handlers:
            if handler.type:
                self.visit(handler.type)
            self.block(handler.body, sure=False)
        self.block(node.orelse, sure=False)
        self.block(node.finalbody, sure=True)

    # --- functions, classes, scopes

    def visit_FunctionDef(self, node):
        for outer in (
            *node.decorator_list,
            *node.args.defaults,
            *filter(None, node.args.kw_defaults),
        ):
            self.visit(outer)
        self.bind(node.name)
        self.inside(node.args, node.body)

    def visit_Lambda(self, node):
        for outer in _defaults(node.args):
            self.visit(outer)
        self.inside(node.args, [node.body])

    def visit_ClassDef(self, node):
        for outer in (*node.bases, *(k.value for k in node.keywords), *node.decorator_list):
            self.visit(outer)
        if any(ast.unparse(base).endswith("Module") for base in node.bases):
            self.out.effects.add(RANDOM)  # layers draw their weights
            self.out.deferred.add(RANDOM)
        self.bind(node.name)
        self.inside(None, node.body)

    def inside(self, arguments: ast.arguments | None, body: Sequence[ast.AST]) -> None:
        """A body that runs later: its local names are all that it binds anywhere."""
        names = set()
        if arguments is not None:
            every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            every += filter(None, (arguments.vararg, arguments.kwarg))
            names = {argument.arg for argument in every}
        outer: set[str] = set()
        for part in body:
            for child in ast.walk(part):
                if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                    names.add(child.id)
                elif isinstance(child, ast.FunctionDef | ast.ClassDef):
                    names.add(child.name)
                elif isinstance(child, ast.Global | ast.Nonlocal):
                    outer |= set(child.names)
        self.out.effects |= outer
        self.local.append(names - outer)
        for part in body:
            self.visit(part)
        self.local.pop()

    def comprehension(self, node):
        names = {
            child.id
            for generator in node.generators
            for child in ast.walk(generator.target)
            if isinstance(child, ast.Name)
        }
        self.visit(node.generators[0].iter)
        hidden = names - self.bound
        self.bound |= hidden
        for number, generator in enumerate(node.generators):
            if number:
                self.visit(generator.iter)
            for test in generator.ifs:
                self.visit(test)
        for part in ("key", "value", "elt"):
            if hasattr(node, part):
                self.visit(getattr(node, part))
        self.bound -= hidden

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = comprehension

    # --- expressions

    def visit_Name(self, node):
        (self.read if isinstance(node.ctx, ast.Load) else self.bind)(node.id)

    def visit_Attribute(self, node):
        self.visit(node.value)
        if isinstance(node.ctx, ast.Store):
            self.change(node.value)

    def visit_Subscript(self, node):
        self.visit(node.value)
        self.visit(node.slice)
        if isinstance(node.ctx, ast.Store):
            self.change(node.value)

    def visit_NamedExpr(self, node):
        self.visit(node.value)
        self.visit(node.target)

    def visit_Call(self, node):
        self.generic_visit(node)
        if not isinstance(node.func, ast.Attribute):
            return
        method, owner = node.func.attr, node.func.value
        root = ast.unparse(owner).split(".")[0]
        given = {keyword.arg for keyword in node.keywords}
        if "seed" in method and root in self.modules:
            self.change_name(RANDOM)
        elif root == "nn" or (root == "torch" and method in DRAWS and "generator" not in given):
            self.read(RANDOM)
            self.change_name(RANDOM)
        elif method not in HARMLESS:
            self.change(owner)


def _defaults(arguments: ast.arguments) -> list[ast.expr]:
    return [*arguments.defaults, *filter(None, arguments.kw_defaults)]
