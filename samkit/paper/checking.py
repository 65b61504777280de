"""One row of the ledger alone: ``python -m samkit check ID``.

A row is measured by a statement of a chapter, ``claims.check("ID", ...)``. :func:`find` locates
it, :func:`check` executes it and those statements before it that it needs
(:mod:`samkit.paper.slicing`), in the folder and at the scale of the book, and says what came out.
"""

from __future__ import annotations

import ast
import re
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from unittest.mock import patch

from samkit.paper import claims, slicing

BOOK = Path(__file__).resolve().parents[2] / "book"


@dataclass(frozen=True)
class Chapter:
    """The code of a chapter, ``checks``: row -> where it is checked, in the list of statements."""

    name: str
    program: list[slicing.Statement]
    checks: dict[str, int]


@dataclass(frozen=True)
class Outcome:
    """What a row alone gave: a report, or the error that came before there was one."""

    report: claims.Report | None
    error: Exception | None = None

    @property
    def expected(self) -> bool:
        """Is the verdict one that the row allows (see :func:`samkit.paper.claims.check`)?"""
        return self.error is None


class NotReported(Exception):
    """The chapter ran and had nothing to report on this row, such as for want of recorded runs."""


def source(name: str, change: Callable[[str], str] = str) -> str:
    """The code of a chapter's cells, one after the other; ``change`` is applied to the page."""
    try:
        import jupytext
    except ImportError:
        raise ImportError("reading a chapter needs jupytext: pip install 'samkit[book]'") from None
    path = BOOK / f"{name}.md"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no chapter {path}. A row is checked by the book's chapters, which come with "
            "the repository and not with an installed samkit: clone it and run the command there"
        )
    page = jupytext.reads(change(path.read_text(encoding="utf-8")), fmt="md:myst")
    return "\n".join(cell.source for cell in page.cells if cell.cell_type == "code")


@cache
def chapter(name: str, change: Callable[[str], str] = str) -> Chapter:
    """A chapter, analysed but not executed."""
    program = slicing.statements(source(name, change))
    rows = [claim.id for claim in claims.ledger().values() if claim.chapter == name]
    checks: dict[str, int] = {}
    for position, statement in enumerate(program):
        for pattern in _ids(statement.node):
            for row in rows:
                if re.fullmatch(pattern, row):
                    checks.setdefault(row, position)
    return Chapter(name, program, checks)


def _ids(node: ast.AST) -> Iterator[str]:
    """A regular expression for each id given to ``claims.check`` inside a statement."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("claims.check", "check"):
            named = [keyword.value for keyword in call.keywords if keyword.arg == "claim_id"]
            match (call.args or named)[0]:
                case ast.Constant(value=str(text)):
                    yield re.escape(text)
                case ast.JoinedStr(values=parts):
                    yield "".join(
                        re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".+"
                        for part in parts
                    )
                case _:
                    yield ".+"


def find(row: str) -> Chapter:
    """The chapter of a row; ValueError that names rows with a similar id if there is none."""
    if row not in claims.ledger():
        near = get_close_matches(row, claims.ledger(), n=5, cutoff=0.5)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise ValueError(f"no row {row!r} in samkit/paper/ledger.toml{hint}")
    return chapter(claims.ledger()[row].chapter)


def records_of(row: str) -> list[str]:
    """The files of results/ that a row's check reads, such as "fig02_role_of_m-laptop.jsonl"."""
    where, found = find(row), []
    for position in slicing.backward(where.program, [where.checks[row]]):
        for call in ast.walk(where.program[position].node):
            if isinstance(call, ast.Call):
                arguments = [str(a.value) for a in call.args if isinstance(a, ast.Constant)]
                match ast.unparse(call.func), arguments:
                    case (("experiments.recorded" | "experiments.complete"), [name, scale, *_]):
                        found.append(f"{name}-{scale}.jsonl")
                    case "records.load", [name]:
                        found.append(f"{name}.json")
    return found


def select(names: Sequence[str], everything: bool = False) -> list[str]:
    """Rows by id or by the name of their chapter; ValueError as for :func:`find`."""
    rows = claims.ledger()
    found: list[str] = [*rows] if everything else []
    for name in names:
        of_chapter = [id_ for id_, claim in rows.items() if claim.chapter == name]
        found += of_chapter or [name]
    for row in found:
        find(row)
    return list(dict.fromkeys(found))


def execute(where: Chapter, rows: Iterable[str]) -> dict[str, Outcome]:
    """Check rows of one chapter in a fresh namespace; what they share is executed once.

    A statement that raises ends the rows that need it, and no others.
    """
    program = where.program
    outcomes: dict[str, Outcome] = {}
    raised: dict[int, Exception] = {}
    needs = {row: slicing.with_assertions(program, [where.checks[row]]) for row in rows}
    module = types.ModuleType(f"chapter_{re.sub('[^0-9a-z]', '_', where.name)}")
    check = claims.check

    def listen(claim_id, *measured, **more):
        try:
            outcomes[claim_id] = Outcome(check(claim_id, *measured, **more))
        except claims.ClaimFailed as failed:
            outcomes[claim_id] = Outcome(failed.report, failed)
        return outcomes[claim_id].report

    sys.modules[module.__name__] = module  # where its classes are looked for
    with chdir(BOOK), patch.object(claims, "check", listen):
        for position in sorted(set().union(*needs.values())):
            users = [row for row, needed in needs.items() if position in needed]
            if all(raised.keys() & needs[row] for row in users):
                continue
            part = ast.Module([program[position].node], [])
            try:
                exec(compile(part, f"{where.name}.md", "exec"), module.__dict__)
            except Exception as error:
                raised[position] = error
    for row, needed in needs.items():
        if row not in outcomes:
            errors = [raised[position] for position in needed if position in raised]
            outcomes[row] = Outcome(None, errors[0] if errors else NotReported(row))
    return {row: outcomes[row] for row in needs}


def check(
    names: Sequence[str], everything: bool = False, say: Callable[[str], object] = print
) -> int:
    """Check rows one by one and say what came out; 0 when every verdict is as expected, else 1."""
    code = 0
    for row in select(names, everything):
        claim, where = claims.ledger()[row], find(row)
        say(f"{row}: {claim.statement}")
        if row not in where.checks:
            say(f"  {claim.unchecked_verdict}  {claim.out_of_scope or 'no chapter checks it yet'}")
            continue
        (outcome,) = execute(where, [row]).values()
        if isinstance(outcome.error, NotReported):
            say(f"  {claim.unchecked_verdict}  its runs are not recorded (scale {claim.scale})")
            continue
        if outcome.report:
            report = outcome.report
            say(f"  wanted    {claim.criterion}: {claim.reason}")
            say(f"  measured  {report.measured} {report.detail}".rstrip())
            known = f"; a known miss: {claim.known_miss}" if claim.known_miss else ""
            say(f"  {report.verdict}{'' if outcome.expected else ', unexpected'}{known}")
        else:
            say(f"  no measurement: {type(outcome.error).__name__}: {outcome.error}")
        code = code if outcome.expected else 1
    return code
