"""Deliberate faults: does each check of the ledger notice one? `python -m tools.mutants run`.

tests/mutants.toml lists the mutants: a file of samkit or a chapter, an expression of it, what is
put in its place, and the rows that must turn red. For each of them a process of its own imports
samkit with the changed text and checks the rows as `python -m samkit check` does. A row is red when
the check stops the build: a verdict that the row does not allow, or an exception. That all rows
pass without a fault is what the book's build shows.

Results go to results/mutants.json, one mutant after the other: a run that is interrupted goes on
where it stopped, and what has not changed is not run again. `run ID ...` runs these mutants alone.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.machinery
import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tools.meaning import statements

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = ROOT / "tests" / "mutants.toml"
RECORD = "mutants"
LIMIT = 600  # seconds for one mutant


@dataclass(frozen=True)
class Mutant:
    """A fault: in ``file`` each of ``old`` is replaced by its ``new``; ``rows`` must turn red."""

    id: str
    fault: str
    file: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    rows: tuple[str, ...]

    def applied(self, text: str) -> str:
        """The text with the fault; ValueError where an expression is not there exactly once."""
        for old, new in zip(self.old, self.new, strict=True):
            if (count := text.count(old)) != 1:
                raise ValueError(
                    f"mutant {self.id}: {old!r} is there {count} times in {self.file}, not once: "
                    "write in tests/mutants.toml what stands there now"
                )
            text = text.replace(old, new)
        return text

    @property
    def chapter(self) -> str:
        """The chapter that the fault is in, whose own code the row measures; "" in samkit."""
        return Path(self.file).stem if self.file.startswith("book/") else ""

    def changed(self) -> list[str]:
        """The definitions that the fault changes, as they are and as they become."""
        from samkit.paper import checking

        if self.chapter:
            before, after = (checking.source(self.chapter, f) for f in (str, self.applied))
        else:
            before = (ROOT / self.file).read_text(encoding="utf-8")
            after = self.applied(before)
        old, new = map(statements, (before, after))
        return [text for text in old if text not in new] + [text for text in new if text not in old]


@cache
def checks(chapter: str) -> dict[str, str]:
    """Row -> the statement of a chapter that checks it."""
    from samkit.paper import checking, claims

    code = statements(checking.source(chapter))
    rows = [row.id for row in claims.ledger().values() if row.chapter == chapter]
    return {row: text for row in rows for text in code if f"Constant(value='{row}')" in text}


def catalogue() -> dict[str, Mutant]:
    """The mutants by id, in the order of the file."""
    found: dict[str, Mutant] = {}
    for entry in tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))["mutant"]:
        changes = entry.pop("changes")
        parts = {"old": tuple(old for old, _ in changes), "new": tuple(new for _, new in changes)}
        mutant = Mutant(**entry | parts | {"rows": tuple(entry["rows"])})
        if mutant.id in found:
            raise ValueError(f"mutant {mutant.id} is there twice")
        found[mutant.id] = mutant
    return found


def rows_with_verdict() -> list[str]:
    """The rows that a chapter checks, but for the paper's own that wait for runs at its size."""
    from samkit.paper import claims

    rows = [row for row in claims.ledger().values() if row.tolerance is not None]
    return [row.id for row in rows if row.scale != "paper" or row.place == "beyond the paper"]


def fingerprint(mutant: Mutant) -> str:
    """Changes when a definition that the fault changes does, or a row's check or tolerance.

    It does not follow what these call in samkit: `run --again` repeats everything.
    """
    from samkit.paper import claims

    parts = [mutant.id, *mutant.changed()]
    for row in mutant.rows:
        claim = claims.find(row)
        parts += [checks(claim.chapter)[row], claim.criterion]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


# --- in the process of a mutant -------------------------------------------------------------------


class _Changed(importlib.machinery.SourceFileLoader):
    """Loads a module from a changed text, and leaves Python's cache of it alone."""

    mutant: Mutant

    def get_code(self, fullname):
        text = self.mutant.applied(Path(self.path).read_text(encoding="utf-8"))
        return compile(text, self.path, "exec", dont_inherit=True)


class _Finder:
    """Finds the one module that a mutant changes."""

    def __init__(self, mutant: Mutant):
        name = mutant.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        self.mutant, self.name = mutant, name

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        file = str(ROOT / self.mutant.file)
        loader = _Changed(fullname, file)
        loader.mutant = self.mutant
        return importlib.util.spec_from_file_location(fullname, file, loader=loader)


def outcomes(mutant: Mutant) -> dict[str, dict[str, Any]]:
    """Row -> "verdict", "measured", "red", and "error" where an exception came before a report."""
    if not mutant.chapter:
        sys.meta_path.insert(0, _Finder(mutant))
    from samkit.paper import checking, claims

    by_chapter: dict[str, list[str]] = {}
    for row in mutant.rows:
        by_chapter.setdefault(claims.find(row).chapter, []).append(row)
    entries: dict[str, dict[str, Any]] = {}
    for chapter, rows in by_chapter.items():
        change = mutant.applied if chapter == mutant.chapter else str
        for row, outcome in checking.execute(chapter, rows, change).items():
            entries[row] = {"red": not outcome.expected}
            if report := outcome.report:
                entries[row] |= {"verdict": str(report.verdict), "measured": report.measured}
            else:
                first = str(outcome.error).strip().split("\n")[0][:120]
                entries[row]["error"] = f"{type(outcome.error).__name__}: {first}"
    return {row: entries[row] for row in mutant.rows}


def one(mutant_id: str) -> None:
    """Prints the outcomes of a mutant as JSON, and nothing else."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = outcomes(catalogue()[mutant_id])
    print(json.dumps(result))


# --- the runner -----------------------------------------------------------------------------------


def run_one(mutant: Mutant, limit: float = LIMIT) -> dict[str, Any]:
    """Runs a mutant in its process: one entry of the record."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **dict.fromkeys(threads, "1"), "MPLBACKEND": "agg"}
        environment["PYTHONPATH"] = str(ROOT)
        if "kernel" in mutant.file:  # numba's cache would not see the change
            environment["NUMBA_CACHE_DIR"] = folder
        command = [sys.executable, "-m", "tools.mutants", "one", mutant.id]
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"mutant {mutant.id}: not done after {limit:.0f} s") from None
    if done.returncode:
        raise RuntimeError(f"mutant {mutant.id} could not be run:\n{done.stderr[-2000:]}")
    from samkit.paper.claims import versions

    return {
        "fingerprint": fingerprint(mutant),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": versions(),
        "seconds": round(time.perf_counter() - began, 1),
        "rows": json.loads(done.stdout),
    }


def load() -> dict[str, Any]:
    """The record: mutant -> its entry; empty where there is none yet."""
    from samkit.paper import records

    return records.load(RECORD, missing={})


def run(chosen: Iterable[str] = (), again: bool = False) -> list[str]:
    """Runs what is not recorded; returns what is wrong with the record, as :func:`faults`."""
    from samkit.paper import records

    mutants = catalogue()
    if unknown := set(chosen) - set(mutants):
        raise SystemExit(f"there are no mutants {sorted(unknown)}")
    record = {id_: entry for id_, entry in load().items() if id_ in mutants}
    for id_ in chosen or mutants:  # before any is run
        mutants[id_].applied((ROOT / mutants[id_].file).read_text(encoding="utf-8"))
    for id_ in chosen or mutants:
        fresh = id_ in record and record[id_]["fingerprint"] == fingerprint(mutants[id_])
        if fresh and not again:
            continue
        entry = record[id_] = run_one(mutants[id_])
        red = sum(row["red"] for row in entry["rows"].values())
        print(f"{id_}: {red} of {len(entry['rows'])} red, {entry['seconds']} s", flush=True)
        records.save(RECORD, {name: record[name] for name in mutants if name in record})
    return faults(record)


def faults(record: Mapping[str, Any]) -> list[str]:
    """What is wrong with a record: sentences, none if every row has a mutant that turned it."""
    wrong: list[str] = []
    turned: set[str] = set()
    for id_, mutant in catalogue().items():
        if id_ not in record:
            wrong.append(f"{id_} has not been run: python -m tools.mutants run")
            continue
        if record[id_]["fingerprint"] != fingerprint(mutant):
            wrong.append(f"{id_} was run with other code: python -m tools.mutants run")
        red = {row for row, entry in record[id_]["rows"].items() if entry["red"]}
        wrong += [f"{id_}: {row} is not red" for row in mutant.rows if row not in red]
        turned |= red
    wrong += [f"no mutant turns {row}" for row in rows_with_verdict() if row not in turned]
    return wrong


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["one", mutant_id]:
            one(mutant_id)
            return 0
        case ["run", *chosen]:
            wrong = run([id_ for id_ in chosen if id_ != "--again"], "--again" in chosen)
            print("\n".join(wrong) or "every row has a mutant that turns it red")
            return 1 if wrong else 0
    raise SystemExit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
