"""The table of what the measures do names a test for every row, and each of them is there."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_row_of_the_table_has_its_test():
    page = (ROOT / "book" / "api.md").read_text(encoding="utf-8")
    table = page.partition("### What is measured exactly")[2].partition("\n#")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    tests = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("*.py"))
    defined = set(re.findall(r"^def (test_\w+)", tests, re.MULTILINE))
    assert len(rows) > 15
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named and set(named) <= defined, row
