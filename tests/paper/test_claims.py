import json
import math
from dataclasses import FrozenInstanceError
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

import nbformat
import numpy as np
import pytest

from samkit.paper import claims
from samkit.paper.claims import Claim, ClaimFailed, Verdict

ROW = dict(
    id="x", statement="s", place="p", kind="statement", evidence="measured", chapter="c",
    scale="ci", check="how", sense="at most", tolerance=1.0, reason="because",
)  # fmt: skip


@pytest.fixture
def row(monkeypatch):
    """A ledger with one row, as described."""

    def put(**changes):
        claim = Claim(**{**ROW, **changes})
        monkeypatch.setattr(claims, "ledger", lambda: {claim.id: claim})
        return claim

    return put


@pytest.mark.parametrize(
    ("sense", "low", "high", "verdict"),
    [
        ("at most", 0.5, 0.5, "PASS"),
        ("at most", 1.0, 1.0, "PASS"),
        ("at most", 1.1, 1.1, "FAIL"),
        ("at most", 0.9, 1.1, "INCONCLUSIVE"),
        ("at most", float("nan"), float("nan"), "FAIL"),
        ("at least", 1.1, 1.3, "PASS"),
        ("at least", 1.0, 1.0, "PASS"),
        ("at least", 1.0, 1.3, "PASS"),
        ("at least", 0.9, 1.0, "INCONCLUSIVE"),
        ("at least", 0.5, 0.9, "FAIL"),
        ("at least", 0.9, 1.1, "INCONCLUSIVE"),
        ("at least", float("nan"), 2.0, "FAIL"),
    ],
)
def test_the_verdict_follows_from_the_tolerance(sense, low, high, verdict):
    assert Claim(**{**ROW, "sense": sense}).judge(low, high) == verdict


def test_without_a_report_a_row_waits_or_is_out_of_scope():
    assert Claim(**ROW).unchecked_verdict is Verdict.NOT_YET
    assert Claim(**ROW, out_of_scope="why").unchecked_verdict is Verdict.OUT_OF_SCOPE


def test_the_ledger_of_the_package_is_read_once():
    rows = claims.ledger()
    assert claims.find("objectives") is rows["objectives"]
    assert claims.ledger() is rows


def test_rows_and_reports_do_not_change():
    with pytest.raises(FrozenInstanceError):
        Claim(**ROW).tolerance = 2.0
    report = claims.check("objectives", 0.0)
    with pytest.raises(FrozenInstanceError):
        report.verdict = Verdict.FAIL


def test_a_failed_check_stops_the_cell(row):
    row()
    assert claims.check("x", 0.5).verdict is Verdict.PASS
    assert claims.check("x", (0.5, 2)).verdict is Verdict.INCONCLUSIVE
    with pytest.raises(ClaimFailed, match="Measured 2, required at most 1") as failed:
        claims.check("x", 2)
    assert failed.value.report.verdict is Verdict.FAIL


def test_a_known_miss_must_go_on_missing(row):
    row(known_miss="the paper uses another seed")
    assert claims.check("x", 2).verdict is Verdict.FAIL
    with pytest.raises(ClaimFailed, match="known miss"):
        claims.check("x", 0.5)


def test_an_unknown_row_is_named_with_those_there_are(row):
    row()
    with pytest.raises(KeyError, match=r"no row 'y'.*there are: x"):
        claims.check("y", 1)


def test_a_row_without_a_tolerance_cannot_be_checked(row):
    row(tolerance=None, sense="", reason="")
    with pytest.raises(ValueError, match="has no tolerance"):
        claims.check("x", 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chapter": ""}, "row x: chapter is empty"),
        ({"id": ""}, r"row \?: id is empty"),
        ({"kind": "rumour"}, "unknown kind"),
        ({"evidence": "hearsay"}, "evidence is 'hearsay', not proved, measured, both"),
        ({"evidence": "proved"}, "name the proof"),
        ({"proof": "thm"}, "name the proof"),
        ({"kind": "theorem"}, "row x is called a theorem and has no proof"),
        ({"id": "theorem.x"}, "theorem.x is called a theorem and has no proof"),
        ({"sense": "about"}, "sense"),
        ({"reason": ""}, "reason"),
        ({"published": "5.15 %"}, "how it is known"),
        ({"published_how": "read off the plot"}, "how it is known"),
    ],
)
def test_a_row_must_be_whole(changes, message):
    with pytest.raises(ValueError, match=message):
        Claim(**{**ROW, **changes})


def notebook(*reports):
    cells = []
    for report in reports:
        data, metadata = report._repr_mimebundle_()
        printed = nbformat.v4.new_output("stream", text="before the report\n")
        output = nbformat.v4.new_output("display_data", data, metadata=metadata)
        cells.append(nbformat.v4.new_code_cell("", outputs=[printed, output]))
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("text"), *cells])


def test_reports_travel_in_the_notebook(row):
    row()
    report = claims.check("x", (0.25, 0.5), "detail <3")
    assert claims.collect({"c": notebook(report)}) == {"x": report}
    data, _ = report._repr_mimebundle_()
    assert data["text/plain"] == "PASS  x  (at most 1)"
    assert "detail &lt;3" in data["text/html"] and "0.25 to 0.5" in data["text/html"]
    assert f'id="{claims.anchor_of_check("x")}"' in data["text/html"]


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (-math.inf, math.inf, "without an interval"),  # one seed
        (0.5, math.inf, "0.5 to inf"),
        (-math.inf, 2.0, "-inf to 2"),
    ],
)
def test_an_unbounded_interval_travels_in_strict_json(row, low, high, words):
    row()
    report = claims.check("x", (low, high))
    assert report.verdict is Verdict.INCONCLUSIVE and report.measured == words
    stored = json.loads(json.dumps(notebook(report), allow_nan=False))
    assert claims.collect({"c": stored}) == {"x": report}


def test_collecting_refuses_what_does_not_fit(row, monkeypatch):
    row()
    report = claims.check("x", 0.5)
    with pytest.raises(ValueError, match="reported twice"):
        claims.collect({"c": notebook(report, report)})
    for other in ("another", "that"):  # before and after it in the alphabet
        with pytest.raises(ValueError, match=f"{other} reports x, a row of c"):
            claims.collect({other: notebook(report)})
    stored = notebook(report)
    monkeypatch.setattr(claims, "ledger", dict)
    with pytest.raises(ValueError, match="which the ledger does not have"):
        claims.collect({"c": stored})


def toml(**needs):
    """A ledger with these rows (id=list of needs)."""
    keys = ("statement", "place", "chapter", "scale", "check")
    words = "\n".join(['evidence = "measured"', *(f'{key} = "x"' for key in keys)])
    return "\n".join(
        f'[[claim]]\nid = "{id_}"\nkind = "statement"\n{words}\nneeds = {needed}'
        for id_, needed in needs.items()
    )


def test_a_row_names_what_it_rests_on():
    rows = claims.parse(toml(theorem=["lemma"], lemma=[], corollary=["theorem", "lemma"]))
    assert rows["corollary"].needs == ("theorem", "lemma")
    assert rows["lemma"].needs == ()


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        (dict(a=["b"], b=["nowhere"]), r"b needs unknown rows .*nowhere"),
        (dict(a=["a"]), "need each other: a -> a"),
        (dict(a=["b"], b=["c"], c=["a"], d=[]), "need each other: (a|b|c) -> "),
    ],
)
def test_needs_lead_to_rows_and_never_in_a_circle(needs, message):
    with pytest.raises(ValueError, match=message):
        claims.parse(toml(**needs))


def test_a_ledger_has_no_row_twice_and_no_unknown_key():
    row = toml(a=[])
    with pytest.raises(ValueError, match="a is there twice"):
        claims.parse(row + "\n" + row)
    with pytest.raises(ValueError, match=r"unknown keys .*colour"):
        claims.parse(row + '\ncolour = "red"')


def test_versions_are_those_of_the_packages_that_are_there(monkeypatch):
    found = claims.versions()
    assert found["numpy"] == np.__version__ and found["torch"] == version_of("torch")

    def version(package):
        if package == "numpy":
            raise PackageNotFoundError(package)
        return found[package]

    monkeypatch.setattr(claims, "version", version)
    assert claims.versions() == {k: v for k, v in found.items() if k != "numpy"}


def test_a_measurement_whose_runs_are_not_recorded_is_not_yet():
    def measured():
        raise claims.NotRecorded("run it: python -m samkit run it")

    assert claims.check("objectives", measured) == "not yet: run it: python -m samkit run it"
    assert claims.check("objectives", lambda: 0.1).verdict == "PASS"
