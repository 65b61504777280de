"""The faults: every one can be injected, every row has one that turns it, and it still does."""

import subprocess
import sys

import pytest

from samkit.paper import claims
from tools import mutants, tree
from tools.mutants import Mutant

CATALOGUE = mutants.catalogue()


@pytest.mark.parametrize("mutant", CATALOGUE.values(), ids=lambda mutant: mutant.id)
def test_a_mutant_fits_the_sources(mutant):
    text = (mutants.ROOT / mutant.file).read_text(encoding="utf-8")
    assert mutant.applied(text) != text
    assert mutant.rows and mutant.fault.endswith(".")
    for row in mutant.rows:
        assert claims.find(row).tolerance is not None
        assert mutant.chapter in ("", claims.find(row).chapter)


def test_every_row_has_a_mutant_that_turned_it_on_todays_code():
    assert mutants.faults(mutants.load()["rows"]) == []


#: a formula, a chapter, what reads recorded runs, a compiled kernel
SAMPLE = ("bound.grid",)
MORE = ("chapter-05.sandwich", "records.tenth", "kernel.half-radius")


@pytest.mark.parametrize(
    "mutant_id", [*SAMPLE, *(pytest.param(id_, marks=pytest.mark.long) for id_ in MORE)]
)
def test_a_mutant_still_does_what_was_recorded(mutant_id):
    again = mutants.run_one(CATALOGUE[mutant_id])["rows"]
    recorded = mutants.load()["rows"][mutant_id]["rows"]
    assert {row: entry["red"] for row, entry in again.items()} == dict.fromkeys(again, True)
    assert {row: entry.get("verdict") for row, entry in again.items()} == {
        row: entry.get("verdict") for row, entry in recorded.items()
    }


def fault(**changes):
    """A mutant of one row, as described."""
    same = dict(id="m", fault="None.", file="samkit/theory/pac_bayes.py", rows=("pac-bayes.grid",))
    return Mutant(**same | dict(old=("np.ceil(k",), new=("np.ceil(1 * k",)) | changes)


def test_a_mutant_that_changes_nothing_is_not_red(monkeypatch):
    harmless = fault()
    monkeypatch.setattr(mutants, "catalogue", lambda: {"m": harmless})
    record = mutants.load()["rows"] | {"m": {"fingerprint": mutants.fingerprint(harmless)}}
    record["m"]["rows"] = {"pac-bayes.grid": {"red": False}}
    wrong = mutants.faults(record)
    assert "m: pac-bayes.grid is not red" in wrong and "no mutant turns fig07" in wrong


def test_an_old_record_is_named(monkeypatch):
    monkeypatch.setattr(mutants, "catalogue", lambda: {"m": fault()})
    assert "m has not been run: python -m tools.mutants rows" in mutants.faults({})
    record = {"m": {"fingerprint": mutants.fingerprint(fault(new=("np.ceil(0 * k",))), "rows": {}}}
    assert any("m was run with other code" in line for line in mutants.faults(record))


def test_an_expression_that_is_gone_is_named():
    with pytest.raises(ValueError, match=r"'gone' is there 0 times in samkit/theory/pac_bayes"):
        fault(old=("gone",)).applied("text")


def test_a_mutant_that_cannot_be_imported_says_so():
    broken = CATALOGUE["bound.grid"]
    with pytest.raises(RuntimeError, match=r"bound\.grid: not done after 0 s"):
        mutants.run_one(broken, limit=0.01)


# --- mechanical faults ------------------------------------------------------------------------

MODULE = '''"""Words."""
def f(a: int | None, b):
    """More words."""
    return a - b  # what is left
def g(*, c):
    return c
'''
TEST = """from samkit.small import f
def test_it():
    assert f(3, 1) == 2
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A core of one module; its tests notice what f does, and not what g does."""
    (tmp_path / "samkit").mkdir()
    (tmp_path / "samkit" / "small.py").write_text(MODULE)
    (tmp_path / "test_small.py").write_text(TEST)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "TESTS", {"samkit/small.py": "test_small.py"})
    return tmp_path


def test_the_faults_of_a_module_stand_under_the_part_that_they_change(small):
    pytest.importorskip("cosmic_ray")
    first, second = mutants.mechanical("samkit/small.py").values()
    assert ("return a - b", "return a + b") in [fault[1:] for fault in first]
    assert all("|" in old or old == "return a - b" for _, old, _ in first) and second == []
    for text, old, new in first:
        compile(text, "", "exec")
        assert text != MODULE and old != new


def test_a_part_is_known_by_what_it_does_and_by_the_tests(small):
    f, g = mutants.fingerprints("samkit/small.py")
    (small / "samkit" / "small.py").write_text(MODULE.replace("# what", "# that which"))
    assert mutants.fingerprints("samkit/small.py") == [f, g]
    (small / "samkit" / "small.py").write_text(MODULE.replace("return c", "return 2 * c"))
    assert mutants.fingerprints("samkit/small.py")[0] == f
    assert mutants.fingerprints("samkit/small.py")[1] != g
    (small / "test_small.py").write_text(TEST.replace("3, 1", "4, 2"))
    assert f not in mutants.fingerprints("samkit/small.py")


@pytest.mark.long
def test_a_fault_survives_where_the_tests_pass(small):
    """In a process of its own, where no samkit has been imported yet."""
    code = (
        "from pathlib import Path; from tools import mutants\n"
        f"mutants.ROOT = Path({str(small)!r})\n"
        "mutants.TESTS = {'samkit/small.py': 'test_small.py'}\n"
        f"text = {MODULE!r}\n"
        "for old, new in (('', ''), ('a - b', 'a + b'), ('return c', 'return 2'), ('3', '3 +')):\n"
        "    print(mutants.survives('samkit/small.py', text.replace(old, new) if old else text))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False", "True", "True"]


def test_every_core_module_has_a_score():
    record = mutants.load()["core"]
    assert list(record) == list(mutants.TESTS)
    for module, entry in record.items():
        assert entry["tests"] == mutants.TESTS[module]
        assert (tree.ROOT / module).exists() and (tree.ROOT / entry["tests"]).exists()
        tried, survivors = mutants.tally(entry)
        assert len(survivors) < tried / 4


def test_every_survivor_is_explained_and_nothing_else():
    record = mutants.load()["core"].items()
    survivors = {(module, s["old"]) for module, entry in record for s in mutants.tally(entry)[1]}
    assert mutants.reasons().keys() == survivors
    assert all(mutants.reasons().values())


def test_an_unknown_module_is_named_with_those_that_there_are():
    with pytest.raises(SystemExit, match=r"no core module: samkit/no\.py; name samkit/perturb"):
        mutants.run_core(["samkit/no.py"])
