"""The faults: every one can be injected, every row has one that turns it, and it still does."""

import pytest

from samkit.paper import claims
from tools import mutants
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


def test_the_record_is_whole_and_every_row_has_a_mutant_that_turns_it():
    assert mutants.faults(mutants.load()) == []


#: cheap ones: a formula, what reads recorded runs, a compiled kernel, a chapter
SAMPLE = ("bound.grid", "records.tenth", "kernel.half-radius", "chapter-05.sandwich")


@pytest.mark.parametrize("mutant_id", SAMPLE)
def test_a_mutant_still_does_what_was_recorded(mutant_id):
    again = mutants.run_one(CATALOGUE[mutant_id])["rows"]
    recorded = mutants.load()[mutant_id]["rows"]
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
    record = mutants.load() | {"m": {"fingerprint": mutants.fingerprint(harmless)}}
    record["m"]["rows"] = {"pac-bayes.grid": {"red": False}}
    wrong = mutants.faults(record)
    assert "m: pac-bayes.grid is not red" in wrong and "no mutant turns fig07" in wrong


def test_an_old_record_is_named(monkeypatch):
    monkeypatch.setattr(mutants, "catalogue", lambda: {"m": fault()})
    assert "m has not been run: python -m tools.mutants run" in mutants.faults({})
    record = {"m": {"fingerprint": mutants.fingerprint(fault(new=("np.ceil(0 * k",))), "rows": {}}}
    assert any("m was run with other code" in line for line in mutants.faults(record))


def test_an_expression_that_is_gone_is_named():
    with pytest.raises(ValueError, match=r"'gone' is there 0 times in samkit/theory/pac_bayes"):
        fault(old=("gone",)).applied("text")


def test_a_mutant_that_cannot_be_imported_says_so():
    broken = CATALOGUE["bound.grid"]
    with pytest.raises(RuntimeError, match=r"bound\.grid: not done after 0 s"):
        mutants.run_one(broken, limit=0.01)
