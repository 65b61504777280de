"""Small mechanical faults in samkit's core: do its tests notice? `python -m tools.mutation_score`.

cosmic-ray changes one operator, number, comparison, decorator or loop of a module at a time. A
change that lets the module's tests pass is a survivor; the score is the share of the others.
Changes of `|` are left out: nearly all of them stand in annotations, which are never evaluated.

The changes are made in a copy of the sources (_build/mutation), never here. What has been tried is
kept there: an interrupted run goes on where it stopped. Results go to results/mutation_score.json;
tests/survivors.toml says of each survivor why it is one.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from samkit.paper import claims, records

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "_build" / "mutation"
RECORD = "mutation_score"
REASONS = ROOT / "tests" / "survivors.toml"
TESTS = {  # of each core module of samkit
    "samkit/perturbation.py": "tests/test_perturbation.py",
    "samkit/optim.py": "tests/test_optim.py",
    "samkit/msam/loop.py": "tests/msam/test_msam_grad.py",
    "samkit/msam/batch.py": "tests/msam/test_msam_grad.py",
    "samkit/msam/plan.py": "tests/msam/test_plan.py",
    "samkit/paper/claims.py": "tests/paper/test_claims.py",
}
CONFIG = """\
[cosmic-ray]
module-path = ["{module}"]
timeout = 60.0
excluded-modules = []
test-command = "{python} -m pytest -q -x -p no:cacheprovider {tests}"

[cosmic-ray.distributor]
name = "local"

[cosmic-ray.filters.operators-filter]
exclude-operators = ["core/ReplaceBinaryOperator_BitOr_.*"]
"""


def sources(module: str) -> str:
    """A hash of the module and its tests: a score is of these."""
    parts = [(ROOT / path).read_bytes() for path in (module, TESTS[module])]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def load() -> dict[str, Any]:
    """The record: module -> its entry; empty where there is none yet."""
    return records.load(RECORD, missing={})


def reasons() -> dict[tuple[str, str], str]:
    """Why survivors survive, by the module and the line that was changed."""
    found = tomllib.loads(REASONS.read_text(encoding="utf-8"))["survivor"]
    return {(entry["module"], entry["old"]): entry["why"] for entry in found}


def attempt(module: str) -> dict[str, Any]:
    """Tries every fault in a module: its entry of the record."""
    tests, folder = TESTS[module], WORK / sources(module)
    config, session, tree = folder / "config.toml", folder / "session.sqlite", folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)  # an interrupted run may have left a fault in it
    for part in ("samkit", "tests", "tools", "book"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    config.write_text(CONFIG.format(module=module, tests=tests, python=sys.executable))

    def call(program: str, *arguments: str | Path, output: int | None = None) -> str:
        own = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [Path(sys.executable).parent / program, *arguments]
        environment = os.environ | own
        return subprocess.run(
            command, cwd=tree, env=environment, check=True, stdout=output, text=True
        ).stdout

    if not session.exists():
        call("cosmic-ray", "baseline", config)  # the tests pass without a fault
        call("cosmic-ray", "init", config, session)
        call("cr-filter-operators", session, config)
    print(f"{module}: how far it is, `cr-report {session.relative_to(ROOT)}` says", flush=True)
    call("cosmic-ray", "exec", config, session)
    return {
        "tests": tests,
        "sources": sources(module),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": claims.versions(),
        **tally(call("cosmic-ray", "dump", session, output=subprocess.PIPE)),
    }


def tally(dump: str) -> dict[str, Any]:
    """The number of faults tried, and the survivors: line, what stood there, what was put there.

    ``dump`` is what `cosmic-ray dump` prints: a line with the fault and its result for each.
    """
    tried, survivors = 0, []
    for line in dump.splitlines():
        item, result = json.loads(line)
        if result is None or result["test_outcome"] == "incompetent":
            raise RuntimeError(f"a fault has not been tried: {item}: {result}")
        if result["worker_outcome"] == "skipped":
            continue
        tried += 1
        if result["test_outcome"] == "survived":
            diff = result["diff"].split("\n")[3:]
            old, new = (
                " ".join(x[1:].strip() for x in diff if x[:1] == sign).strip() for sign in "-+"
            )
            row = item["mutations"][0]["start_pos"][0]
            survivors.append({"line": row, "old": old, "new": new})
    return {"tried": tried, "survivors": sorted(survivors, key=lambda entry: entry["line"])}


def main(chosen: Iterable[str] = ()) -> None:
    """Tries the modules whose record is not of today's sources."""
    if unknown := set(chosen) - set(TESTS):
        raise SystemExit(f"no core module: {', '.join(sorted(unknown))}; name {', '.join(TESTS)}")
    for module in chosen or TESTS:
        found = load()
        if found.get(module, {}).get("sources") != sources(module):
            found[module] = attempt(module)
            records.save(RECORD, {name: found[name] for name in TESTS if name in found})
        entry = found[module]
        noticed = entry["tried"] - len(entry["survivors"])
        print(f"{module}: {noticed} of {entry['tried']} faults noticed", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
