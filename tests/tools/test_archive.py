"""The archive of a release: what is in it, and that it comes out the same again."""

import json
import re
import zipfile

import pytest

import samkit
from tools import archive, tree
from tools.tree import ROOT


def test_codemeta_is_in_step_with_the_project():
    assert json.loads(archive.CODEMETA.read_text()) == archive.codemeta(), (
        "run: python -m tools.archive codemeta"
    )


@pytest.fixture
def packed(tmp_path, monkeypatch):
    """An archive of a small built book, and of what this tree holds."""
    site = tmp_path / "html"
    (site / "book").mkdir(parents=True)
    for name in ("index.html", "book/index.html", ".nojekyll"):
        (site / name).write_text(name)
    wheel = tmp_path / f"samkit-{samkit.__version__}-py3-none-any.whl"
    wheel.write_bytes(b"wheel")
    monkeypatch.setattr(tree, "HTML", site)
    monkeypatch.setattr(archive.render, "commit_time", lambda: "1780000000")
    target = tmp_path / "out.zip"
    archive.pack(target, [wheel])
    return target, wheel


def test_it_holds_the_book_the_notebooks_the_records_and_the_package(packed):
    target, wheel = packed
    with zipfile.ZipFile(target) as file:
        assert file.testzip() is None
        root = f"samkit-{samkit.__version__}/"
        names = {name.removeprefix(root) for name in file.namelist()}
        assert all(name.startswith(root) for name in file.namelist())
        contents = file.read(f"{root}CONTENTS.md").decode()
    assert {"index.html", "book/index.html", ".nojekyll"} == {
        name.removeprefix("book/") for name in names if name.startswith("book/")
    }
    notebooks = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks == {name.split("/")[1] for name in names if name.startswith("notebooks/")}
    records = {f"results/{path.name}" for path in (ROOT / "results").glob("*.jsonl")}
    assert records and records | {*archive.PAGES} <= names
    assert not any("checkpoint" in name for name in names)
    for place in re.findall(r"`([\w./{}-]+)`", contents):
        place = place.rstrip("/")
        assert place in names or any(name.startswith(f"{place}/") for name in names), place
    assert f"dist/{wheel.name}" in names and wheel.name in contents


def test_the_same_tree_gives_the_same_archive(packed, tmp_path):
    target, wheel = packed
    again = tmp_path / "again.zip"
    archive.pack(again, [wheel])
    assert again.read_bytes() == target.read_bytes()
