"""Rows of the ledger by themselves: ``python -m samkit check ID``.

A row is measured by a statement of a chapter, ``claims.check("ID", ...)``. :func:`execute` runs the
chapter from its top down to that statement, in the folder and at the scale of the book, and
:func:`check` says what came out.
"""

from __future__ import annotations

import ast
import re
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from contextlib import chdir
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from unittest.mock import patch

from samkit.paper import claims

BOOK = Path(__file__).resolve().parents[2] / "book"


@dataclass(frozen=True)
class Outcome:
    """What a row gave: its report, and the error that stops the book at its check or before it."""

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
    path = BOOK / f"{name}.md"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no chapter {path}. A row is checked by the book's chapters, which come with "
            "the repository and not with an installed samkit: clone it and run the command there"
        )
    try:
        import jupytext
    except ImportError:
        raise ImportError("reading a chapter needs jupytext: pip install 'samkit[book]'") from None
    page = jupytext.reads(change(path.read_text(encoding="utf-8")), fmt="md:myst")
    return "\n".join(cell.source for cell in page.cells if cell.cell_type == "code")


def select(names: Sequence[str], everything: bool = False) -> list[str]:
    """Rows by id or by the name of their chapter, in the order of the ledger.

    Raises ValueError, which names rows with a similar id, for a name that is neither.
    """
    rows = claims.ledger()
    for name in names:
        if name not in rows and not any(row.chapter == name for row in rows.values()):
            near = get_close_matches(name, rows, n=5, cutoff=0.5)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise ValueError(f"no row {name!r} in samkit/paper/ledger.toml{hint}")
    return [id_ for id_, row in rows.items() if everything or {id_, row.chapter} & set(names)]


def execute(
    chapter: str, rows: Iterable[str], change: Callable[[str], str] = str
) -> dict[str, Outcome]:
    """Check rows of one chapter in a fresh namespace, which ends with the last of their checks.

    A statement that raises is left behind, as in a debugger; the rows after it have its error.
    """
    wanted = dict.fromkeys(rows)
    outcomes: dict[str, Outcome] = {}
    raised: list[Exception] = []
    check = claims.check

    def listen(claim_id, *measured, **more):
        first = raised[0] if raised else None
        try:
            report = check(claim_id, *measured, **more)
        except claims.ClaimFailed as failed:
            report, first = failed.report, first or failed
        if isinstance(report, claims.Report):
            outcomes[claim_id] = Outcome(report, first)
        return report

    module = types.ModuleType(f"chapter_{re.sub('[^0-9a-z]', '_', chapter)}")
    sys.modules[module.__name__] = module  # where its classes are looked for
    with chdir(BOOK), patch.object(claims, "check", listen):
        for statement in ast.parse(source(chapter, change)).body:
            if wanted.keys() <= outcomes.keys():
                break
            try:
                part = compile(ast.Module([statement], []), f"{chapter}.md", "exec")
                exec(part, module.__dict__)
            except Exception as error:
                raised.append(error)
    missing = Outcome(None, raised[0] if raised else NotReported(chapter))
    return {row: outcomes.get(row, missing) for row in wanted}


def check(
    names: Sequence[str], everything: bool = False, say: Callable[[str], object] = print
) -> int:
    """Check rows and say what came out; 0 when every verdict is as expected, else 1."""
    rows = claims.ledger()
    selected = sorted(select(names, everything), key=lambda row: rows[row].chapter)
    code = 0
    for chapter, group in groupby(selected, key=lambda row: rows[row].chapter):
        asked = list(group)
        checked = [row for row in asked if rows[row].tolerance is not None]
        outcomes = execute(chapter, checked)
        for row in asked:
            claim, outcome = rows[row], outcomes.get(row)
            say(f"{row}: {claim.statement}")
            if outcome is None:
                why = claim.out_of_scope or "no chapter checks it yet"
                say(f"  {claim.unchecked_verdict}  {why}")
                continue
            if isinstance(outcome.error, NotReported):
                why = f"its runs are not recorded (scale {claim.scale})"
                say(f"  {claim.unchecked_verdict}  {why}")
                continue
            if report := outcome.report:
                say(f"  required  {claim.criterion}: {claim.reason}")
                say(f"  measured  {report.measured} {report.detail}".rstrip())
                known = f"; a known miss: {claim.known_miss}" if claim.known_miss else ""
                unexpected = isinstance(outcome.error, claims.ClaimFailed)
                say(f"  {report.verdict}{', unexpected' if unexpected else ''}{known}")
            if outcome.error and not isinstance(outcome.error, claims.ClaimFailed):
                before = "in the chapter before it" if outcome.report else "no measurement"
                say(f"  {before}: {type(outcome.error).__name__}: {outcome.error}")
            code = code if outcome.expected else 1
    return code
