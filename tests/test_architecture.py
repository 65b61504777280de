"""The picture in ARCHITECTURE.md is what the imports are."""

import re
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def imports():
    """room -> the rooms that it imports: the modules and packages right below samkit."""
    graph = grimp.build_graph("samkit", include_external_packages=False)
    rooms = {}
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            a, b = (name.split(".")[1:2] for name in (module, other))
            if a and b and a != b and a != ["__main__"]:
                rooms.setdefault(a[0], set()).add(b[0])
    return rooms


def reach(imports, room):
    """The rooms that one needs, directly or by others."""
    found, work = set(), [room]
    while work:
        new = imports.get(work.pop(), set()) - found
        found |= new
        work += new
    return found


def test_no_rooms_import_each_other(imports):
    assert not [room for room in imports if room in reach(imports, room)]


def test_the_picture_has_an_arrow_for_every_import_that_no_other_implies(imports):
    needed = {
        (a, b)
        for a, others in imports.items()
        for b in others
        if not any(b in reach(imports, c) for c in others - {b})
    }
    assert set(re.findall(r"^  (\w+) --> (\w+)$", PAGE, re.MULTILINE)) == needed


def test_every_room_has_its_line():
    rooms = {path.stem for path in (ROOT / "samkit").glob("[a-z]*") if path.name != "py.typed"}
    assert rooms == set(re.findall(r"^\| `samkit/(\w+)", PAGE, re.MULTILINE))
