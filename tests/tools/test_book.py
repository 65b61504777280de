"""The build: what makes a chapter stale, what a broken chapter says, what a bad page is."""

import asyncio

import pytest

from tools import book

PAGE = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
    format_version: 0.13
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---

# A page

```{code-cell} ipython3
CODE
```
"""


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small project in a folder of its own: one chapter, one module of samkit."""
    for folder in ("book", "samkit"):
        (tmp_path / folder).mkdir()
    (tmp_path / "samkit" / "module.py").write_text("x = 1\n")
    page = tmp_path / "book" / "01-page.md"
    page.write_text(PAGE.replace("CODE", "print(6 * 7)"))
    monkeypatch.setattr(book, "ROOT", tmp_path)
    monkeypatch.setattr(book, "EXECUTED", tmp_path / "executed")
    monkeypatch.setattr(book, "HTML", tmp_path / "html")
    monkeypatch.setattr(book, "SELF", page)
    return page


def run(*pages):
    asyncio.run(book.execute_stale(list(pages)))


def test_a_chapter_is_executed_once_and_again_when_samkit_changes(tree, capsys):
    run(tree)
    assert "cell 1/1" in capsys.readouterr().out
    assert book.kept_execution(tree).cells[1].outputs[0].text == "42\n"
    run(tree)
    assert capsys.readouterr().out == ""
    (tree.parents[1] / "samkit" / "module.py").write_text("x = 2\n")
    assert book.kept_execution(tree) is None
    run(tree)
    assert "cell 1/1" in capsys.readouterr().out


def test_the_scale_is_part_of_what_was_executed(tree, monkeypatch):
    before = book.fingerprint(tree)
    monkeypatch.setenv("SAMKIT_SCALE", "laptop")
    assert book.fingerprint(tree) != before


def test_records_are_part_of_what_was_executed_and_checkpoints_are_not(tree):
    results, before = tree.parents[1] / "results", book.fingerprint(tree)
    (results / "checkpoints").mkdir(parents=True)
    (results / "checkpoints" / "run.pt").write_text("half a run")
    assert book.fingerprint(tree) == before
    (results / "run-laptop.jsonl").write_text("{}\n")
    assert book.fingerprint(tree) != before


def test_a_broken_chapter_is_named_with_its_error_and_leaves_nothing(tree):
    tree.write_text(PAGE.replace("CODE", "1 / 0"))
    with pytest.raises(book.BuildFailed, match=r"01-page\.md failed:[\s\S]*ZeroDivisionError"):
        run(tree)
    assert not book.executed_path(tree).exists()


def test_a_warning_does_not_reach_the_page(tree):
    tree.write_text(PAGE.replace("CODE", "import warnings; warnings.warn('look here')"))
    with pytest.raises(book.BuildFailed, match=r"01-page\.md warns:[\s\S]*look here"):
        run(tree)
    assert not book.executed_path(tree).exists()


def test_a_corrupt_execution_is_not_used(tree):
    run(tree)
    book.executed_path(tree).write_text("{")
    assert book.kept_execution(tree) is None


@pytest.mark.parametrize(
    ("html", "complaint"),
    [
        (None, "was not built"),
        ("<article>few words</article>", "has only 2 words"),
        (
            f"<article>{'word ' * 50} Traceback (most recent call last)</article>cell_output",
            "shows a traceback",
        ),
        (f"<article>{'word ' * 50}</article>", "shows no output"),
    ],
)
def test_a_bad_page_is_found(tree, html, complaint):
    built = book.HTML / "book" / "01-page.html"
    built.parent.mkdir(parents=True)
    if html is not None:
        built.write_text(html)
    assert complaint in " ".join(book.check_pages([tree]))


def test_a_good_page_passes(tree):
    built = book.HTML / "book" / "01-page.html"
    built.parent.mkdir(parents=True)
    built.write_text(f"<article>{'word ' * 50} <div class='cell_output'>42</div></article>")
    assert book.check_pages([tree]) == []


def test_samkit_that_changes_under_the_build_is_named(tree):
    code = "open('../samkit/module.py', 'a').write('y = 2')"
    tree.write_text(PAGE.replace("CODE", code))
    (tree.parents[1] / "_toc.yml").write_text("root: book/01-page\nparts: []\n")
    with pytest.raises(book.BuildFailed, match=r"01-page changed while the book was built: run"):
        book.build()
