"""Deliberate faults: is each of them noticed? `python -m tools.mutants rows` and `... core`.

``rows``: tests/mutants.toml lists faults that were thought out, for rows of the ledger: a file of
samkit or a chapter, an expression of it, what is put in its place, and the rows that must turn red.
A process of its own imports samkit with the changed text and checks the rows as `python -m samkit
check` does. A row is red when the check stops the build: a verdict that the row does not allow, or
an exception. That all rows pass without a fault is what the book's build shows.

``core``: mechanical faults in the modules that much of samkit rests on. cosmic-ray knows them: one
operator, number, comparison, decorator or loop changed at a time (but for `|`, which stands in
annotations). A fault with which the module's tests pass is a survivor; tests/survivors.toml says
why.

Results go to results/mutants.json as they come: a run that is interrupted goes on where it stopped,
and what has not changed is not run again. `rows ID ...` and `core FILE ...` run these alone.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import hashlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from tools.meaning import statements

ROOT = Path(__file__).resolve().parents[1]
CATALOGUE = ROOT / "tests" / "mutants.toml"
REASONS = ROOT / "tests" / "survivors.toml"
RECORD = "mutants"
LIMIT = 600  # seconds for the rows of one mutant
TESTS = {  # of each core module of samkit
    "samkit/perturbation.py": "tests/test_perturbation.py",
    "samkit/optim.py": "tests/test_optim.py",
    "samkit/msam/loop.py": "tests/msam/test_msam_grad.py",
    "samkit/msam/batch.py": "tests/msam/test_msam_grad.py",
    "samkit/msam/plan.py": "tests/msam/test_plan.py",
    "samkit/paper/claims.py": "tests/paper/test_claims.py",
}


def load() -> dict[str, Any]:
    """The record: "rows", with an entry for each mutant, and "core", with one for each module."""
    from samkit.paper import records

    return {"rows": {}, "core": {}} | records.load(RECORD, missing={})


def save(part: str, entries: Mapping[str, Any], order: Iterable[str]) -> None:
    from samkit.paper import records

    kept = {name: entries[name] for name in order if name in entries}
    records.save(RECORD, load() | {part: kept})


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def stamp() -> dict[str, Any]:
    """When, and with which versions, something was tried."""
    from samkit.paper.claims import versions

    today = datetime.datetime.now(datetime.UTC).date()
    return {"date": today.isoformat(), "versions": versions()}


class Changed(SourceFileLoader):
    """Loads a module from another text than its file's, and leaves Python's cache of it alone."""

    def __init__(self, name: str, file: str, text: str):
        super().__init__(name, str(ROOT / file))
        self.text = text

    def get_code(self, fullname):
        return compile(self.text, self.path, "exec", dont_inherit=True)

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)


def change(file: str, text: str) -> None:
    """From now on this process imports a module of samkit from ``text``."""
    name = file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    sys.meta_path.insert(0, Changed(name, file, text))


# --- faults for rows of the ledger ----------------------------------------------------------------


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
            if (times := text.count(old)) != 1:
                raise ValueError(
                    f"mutant {self.id}: {old!r} is there {times} times in {self.file}, not once: "
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
    return {row: text for row in rows for text in code if f"'{row}'" in text}


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

    It does not follow what these call in samkit: `rows --again` repeats everything.
    """
    from samkit.paper import claims

    parts = [mutant.id, *mutant.changed()]
    for row in mutant.rows:
        claim = claims.find(row)
        parts += [checks(claim.chapter)[row], claim.criterion]
    return digest(*parts)


def outcomes(mutant: Mutant) -> dict[str, dict[str, Any]]:
    """Row -> "verdict", "measured", "red", and "error" where an exception came before a report."""
    if not mutant.chapter:
        text = (ROOT / mutant.file).read_text(encoding="utf-8")
        change(mutant.file, mutant.applied(text))
    from samkit.paper import checking, claims

    by_chapter: dict[str, list[str]] = {}
    for row in mutant.rows:
        by_chapter.setdefault(claims.find(row).chapter, []).append(row)
    entries: dict[str, dict[str, Any]] = {}
    for chapter, rows in by_chapter.items():
        here = mutant.applied if chapter == mutant.chapter else str
        for row, outcome in checking.execute(chapter, rows, here).items():
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
    return {
        "fingerprint": fingerprint(mutant),
        **stamp(),
        "seconds": round(time.perf_counter() - began, 1),
        "rows": json.loads(done.stdout),
    }


def run_rows(chosen: Iterable[str] = (), again: bool = False) -> list[str]:
    """Runs what is not recorded; returns what is wrong with the record, as :func:`faults`."""
    mutants = catalogue()
    if unknown := set(chosen) - set(mutants):
        raise SystemExit(f"there are no mutants {sorted(unknown)}")
    record = {id_: entry for id_, entry in load()["rows"].items() if id_ in mutants}
    current = {id_: fingerprint(mutants[id_]) for id_ in chosen or mutants}  # before any is run
    for id_, now in current.items():
        if id_ in record and record[id_]["fingerprint"] == now and not again:
            continue
        entry = record[id_] = run_one(mutants[id_])
        red = sum(row["red"] for row in entry["rows"].values())
        print(f"{id_}: {red} of {len(entry['rows'])} red, {entry['seconds']} s", flush=True)
        save("rows", record, mutants)
    return faults(record)


def current(record: Mapping[str, Any]) -> set[str]:
    """The mutants that were run on today's code."""
    return {
        id_
        for id_, mutant in catalogue().items()
        if id_ in record and record[id_]["fingerprint"] == fingerprint(mutant)
    }


def faults(record: Mapping[str, Any]) -> list[str]:
    """What is wrong with a record: sentences, none if every row has a mutant that turned it."""
    wrong: list[str] = []
    turned: set[str] = set()
    for id_, mutant in catalogue().items():
        if id_ not in record:
            wrong.append(f"{id_} has not been run: python -m tools.mutants rows")
            continue
        if record[id_]["fingerprint"] != fingerprint(mutant):
            wrong.append(f"{id_} was run with other code: python -m tools.mutants rows")
        red = {row for row, entry in record[id_]["rows"].items() if entry["red"]}
        wrong += [f"{id_}: {row} is not red" for row in mutant.rows if row not in red]
        turned |= red
    wrong += [f"no mutant turns {row}" for row in rows_with_verdict() if row not in turned]
    return wrong


# --- mechanical faults in the core ----------------------------------------------------------------


def fingerprints(module: str) -> list[str]:
    """One for each statement of a module's outermost level: of it and of the module's tests."""
    text, tests = (statements((ROOT / n).read_text("utf-8")) for n in (module, TESTS[module]))
    return [digest(part, *tests) for part in text]


def mechanical(module: str) -> dict[str, list[tuple[str, str, str]]]:
    """The faults in a module by the fingerprint of the statement they are in.

    Each is the text of the module with the fault, the lines that it changes, and what they become.
    """
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    text = (ROOT / module).read_text(encoding="utf-8")
    parts, names = statements(text), fingerprints(module)
    faulty: dict[str, list[tuple[str, str, str]]] = {name: [] for name in names}
    nodes = [*ast_nodes(get_ast(text))]
    for operator in operator_names():
        kind = get_operator(operator)
        if operator.startswith("core/ReplaceBinaryOperator_BitOr_") or kind.arguments():
            continue
        places = sum(len([*kind().mutation_positions(node)]) for node in nodes)
        for occurrence in range(places):
            changed = mutate_code(text, kind(), occurrence)
            try:
                after = statements(changed)
            except SyntaxError:  # no fault that could slip in
                continue
            for name, old, new in zip(names, parts, after, strict=True):
                if old != new:
                    lines = list(difflib.ndiff(old.splitlines(), new.splitlines()))
                    was, became = (
                        " ".join(line[2:].strip() for line in lines if line[0] == sign)
                        for sign in "-+"
                    )
                    faulty[name].append((changed, was, became))
    return faulty


def survives(module: str, text: str) -> bool:
    """Do the tests of a module pass with that text in its place? In a fork of this process."""
    import pytest

    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    code = 1
    try:
        signal.alarm(LIMIT // 10)  # a loop that does not end is noticed
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1), os.dup2(silence, 2)
        change(module, text)
        code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", str(ROOT / TESTS[module])])
    finally:
        os._exit(code)


def try_module(module: str, known: Sequence[str]) -> None:
    """Prints, for each statement that is not known, its fingerprint, faults tried, survivors."""
    import hypothesis  # noqa: F401, once for all forks
    import torch  # noqa: F401

    if not survives(module, (ROOT / module).read_text(encoding="utf-8")):
        raise RuntimeError(f"{TESTS[module]} fails without a fault")
    for name, faulty in mechanical(module).items():
        if name not in known:
            left = [{"old": o, "new": n} for text, o, n in faulty if survives(module, text)]
            print(json.dumps([name, {"tried": len(faulty), "survivors": left}]), flush=True)


def run_core(chosen: Iterable[str] = ()) -> None:
    """Tries the statements of the core modules that are not recorded as they are."""
    if unknown := set(chosen) - set(TESTS):
        raise SystemExit(f"no core module: {', '.join(sorted(unknown))}; name {', '.join(TESTS)}")
    for module in chosen or TESTS:
        record = load()["core"]
        names = fingerprints(module)
        parts = record.get(module, {}).get("parts", {})
        parts = {name: parts[name] for name in names if name in parts}
        if len(parts) < len({*names}):
            command = [sys.executable, "-m", "tools.mutants", "try", module, *parts]
            one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            with subprocess.Popen(
                command, cwd=ROOT, env=one_thread, stdout=subprocess.PIPE, text=True
            ) as process:
                for line in process.stdout or ():
                    name, entry = json.loads(line)
                    parts[name] = entry
                    record[module] = {"tests": TESTS[module], **stamp(), "parts": parts}
                    save("core", record, TESTS)
            if process.returncode:
                raise SystemExit(f"{module} could not be tried")
        tried, left = tally(record[module])
        print(f"{module}: {tried - len(left)} of {tried} faults noticed", flush=True)


def tally(entry: Mapping[str, Any]) -> tuple[int, list[dict[str, str]]]:
    """The number of faults tried in a module, and the survivors: "old" and "new" lines."""
    parts = entry["parts"].values()
    return sum(p["tried"] for p in parts), [s for part in parts for s in part["survivors"]]


def reasons() -> dict[tuple[str, str], str]:
    """Why survivors survive, by the module and the line that was changed."""
    entries = tomllib.loads(REASONS.read_text(encoding="utf-8"))["survivor"]
    return {(entry["module"], entry["old"]): entry["why"] for entry in entries}


def main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["rows", *chosen]:
            wrong = run_rows([id_ for id_ in chosen if id_ != "--again"], "--again" in chosen)
            print("\n".join(wrong) or "every row has a mutant that turns it red")
            return 1 if wrong else 0
        case ["core", *chosen]:
            run_core(chosen)
        case ["one", mutant_id]:
            one(mutant_id)
        case ["try", module, *known]:
            try_module(module, known)
        case _:
            raise SystemExit(__doc__)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
