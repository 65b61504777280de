"""The ledger and the chapters speak of the same rows, without executing anything."""

import re
from collections import Counter

import pytest

from samkit.paper import claims
from tools.tree import ROOT, chapters

CALL = re.compile(r"claims\.check\(\s*[\"']([^\"']+)[\"']")
FINDINGS = re.compile(r"^```\{findings\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def checked():
    """(row, chapter) for every check in the text of the chapters."""
    return [
        (claim_id, page.stem)
        for page in chapters()
        for claim_id in CALL.findall(page.read_text(encoding="utf-8"))
    ]


def test_every_row_that_a_chapter_checks_is_in_the_ledger_under_that_chapter(checked):
    assert checked
    for claim_id, chapter in checked:
        assert claims.find(claim_id).chapter == chapter


def test_no_row_is_checked_twice(checked):
    assert not [row for row, count in Counter(id_ for id_, _ in checked).items() if count > 1]


def test_every_row_with_a_tolerance_is_checked(checked):
    with_tolerance = {c.id for c in claims.ledger().values() if c.tolerance is not None}
    assert with_tolerance == {id_ for id_, _ in checked}


def test_every_proof_that_a_row_names_unfolds_below_its_statement():
    proofs = {claim.proof for claim in claims.ledger().values() if claim.proof}
    folded = set()
    for page in chapters():
        statements = re.split(r"^`{3,}\{prf:(?!proof)", page.read_text("utf-8"), flags=re.MULTILINE)
        for text in statements[1:]:
            label = re.search(r"^:label: (\S+)$", text, re.MULTILINE)
            if label and re.search(r"^`+\{prf:proof\}.*\n:class: dropdown$", text, re.MULTILINE):
                folded.add(label[1])
    assert proofs <= folded, proofs - folded


def test_a_check_begins_with_what_its_number_is_of():
    rows = claims.ledger()
    assert rows["diagonal.sparser.1-sam"].quantity == "Logarithm of the ratio of the two l1 norms"
    assert rows["theorem.normalized"].quantity.startswith("The largest distance of the mean of 500")
    with_number = [row for row in rows.values() if row.tolerance is not None]
    assert not [row.id for row in with_number if len(row.quantity.split()) < 3]
    assert not [row.id for row in with_number if row.quantity.startswith(("As ", "Proof"))]


def test_every_row_has_a_numbered_chapter():
    for claim in claims.ledger().values():
        assert re.fullmatch(r"\d\d-[a-z0-9-]+", claim.chapter), claim.id


@pytest.mark.parametrize("page", chapters(), ids=lambda page: page.stem)
def test_a_chapter_with_rows_has_one_table_of_them_before_its_first_section(page):
    text = page.read_text(encoding="utf-8")
    has_rows = any(claim.chapter == page.stem for claim in claims.ledger().values())
    assert text.count("```{claims}") == has_rows
    assert not has_rows or text.index("```{claims}") < text.index("\n## ")


def test_every_known_miss_is_discussed_on_the_page_of_disagreements():
    page = (ROOT / "book" / "disagreements.md").read_text(encoding="utf-8")
    discussed = [id_ for box in FINDINGS.findall(page) for id_ in box.split()]
    assert set(discussed) <= claims.ledger().keys()
    assert {row.id for row in claims.ledger().values() if row.known_miss} <= set(discussed)
    assert not [id_ for id_, times in Counter(discussed).items() if times > 1]
