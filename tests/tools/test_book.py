"""The build: what makes a chapter stale, what it says when something is broken, what a bad page is.

The faults are real ones where they can be: damaged files, killed processes, a device that is full.
"""

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

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


def test_only_libraries_of_the_book_are_part_of_what_was_executed():
    names = {line.split("==")[0] for line in book.libraries("samkit", "book")}
    assert {"samkit", "numpy", "torch", "ipykernel", "sphinx"} <= names  # extras of extras too
    assert not {"pytest", "ruff", "nbval"} & names
    without = {line.split("==")[0] for line in book.libraries("samkit", "")}
    assert without == {"samkit", "numpy", "scipy"}


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


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b'{"cells": 3}'])
def test_a_damaged_execution_is_named_and_made_again(tree, capsys, content):
    run(tree)
    good = book.executed_path(tree).read_text()
    book.executed_path(tree).write_bytes(content)
    run(tree)
    said = capsys.readouterr().out
    assert f"{book.executed_path(tree)} is damaged" in said and "executed again" in said
    assert book.kept_execution(tree).cells[1].outputs[0].text == "42\n"
    assert len(book.executed_path(tree).read_text()) == len(good)


def test_a_missing_record_stops_the_chapter_with_its_name_and_the_cure(tree, monkeypatch, tmp_path):
    monkeypatch.setenv("SAMKIT_RESULTS", str(tmp_path / "nowhere"))
    tree.write_text(PAGE.replace("CODE", "from samkit import records\nrecords.load('bench_msam')"))
    with pytest.raises(book.BuildFailed) as failure:
        run(tree)
    assert "01-page.md failed" in str(failure.value)
    assert f"no record {tmp_path / 'nowhere' / 'bench_msam.json'}" in str(failure.value)
    assert "clone it, or set SAMKIT_RESULTS" in str(failure.value)


def test_a_chapter_that_takes_its_kernel_along_is_named(tree):
    tree.write_text(PAGE.replace("CODE", "import os; os._exit(1)"))
    with pytest.raises(book.BuildFailed, match=r"01-page\.md failed"):
        run(tree)


@pytest.mark.parametrize("step", ["write_text", "replace"])
def test_a_full_disk_is_named_with_the_cure_and_leaves_what_was_there(tree, monkeypatch, step):
    run(tree)
    kept = book.executed_path(tree).read_text()
    tree.write_text(PAGE.replace("CODE", "print(1)"))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, step, full)
        with pytest.raises(book.BuildFailed) as failure:
            run(tree)
    assert f"{book.executed_path(tree)} could not be written (No space left" in str(failure.value)
    assert "Make room" in str(failure.value)
    assert [path.name for path in book.EXECUTED.iterdir()] == ["01-page.ipynb"]
    assert book.executed_path(tree).read_text() == kept


def test_a_cache_that_cannot_be_written_is_named(tree, monkeypatch):
    run(tree)
    monkeypatch.setattr(book, "CACHE", tree / "cache")  # a folder within a file
    with pytest.raises(book.BuildFailed, match=r"cache could not be written[\s\S]*Make room"):
        book.fill_sphinx_cache([tree])


def test_executions_of_chapters_that_are_no_more_are_removed(tree):
    run(tree)
    for name in ("00-old.ipynb", "01-page.part"):
        (book.EXECUTED / name).write_text("{}")
    book.forget_strangers([tree])
    assert [path.name for path in book.EXECUTED.iterdir()] == ["01-page.ipynb"]


@pytest.mark.parametrize(
    ("toc", "complaint"),
    [("root: [", "_toc.yml cannot be read"), (None, "names book/01-page.md, which does not exist")],
)
def test_a_broken_table_of_contents_is_named(project, toc, complaint):
    if toc is None:
        (project / "book" / "01-page.md").unlink()
    else:
        (project / "_toc.yml").write_text(toc)
    result = subprocess.run(BUILD, cwd=project, capture_output=True, text=True)
    assert result.returncode == 1
    assert complaint in result.stderr and "Traceback" not in result.stderr


BUILD = [sys.executable, "-m", "tools.book", "build"]


@pytest.fixture
def project(tmp_path):
    """A book of one chapter and one page in a folder of its own, with its own copy of the tool."""
    for name in ("tools", "book/_ext"):
        shutil.copytree(book.ROOT / name, tmp_path / name)
    (tmp_path / "book" / "index.md").write_text("# Start\n\n" + 50 * "word ")
    page = PAGE.replace("CODE", "import time; time.sleep(1); print(6 * 7)")
    (tmp_path / "book" / "01-page.md").write_text(page + 50 * "word ")
    (tmp_path / "404.html").write_text("")
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nparts: [{chapters: [{file: book/01-page}]}]\n"
    )
    (tmp_path / "_config.yml").write_text(
        "title: T\nonly_build_toc_files: true\nexclude_patterns: [tools]\n"
        "execute: {execute_notebooks: cache}\n"
        "sphinx: {local_extensions: {finished_pages: book/_ext}, "
        "config: {html_extra_path: [404.html]}}\n"
    )
    return tmp_path


def test_killed_anywhere_and_started_again_it_builds_the_same_book(project):
    def pages():
        html = project / "_build" / "html"
        return {p.relative_to(html): p.read_bytes() for p in html.rglob("*.html")}

    subprocess.run(BUILD, cwd=project, check=True, capture_output=True)
    whole = pages()
    shutil.rmtree(project / "_build")
    for moment in ("cell 1/1", "rendering"):
        with subprocess.Popen(
            BUILD, cwd=project, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            assert any(moment in line for line in process.stdout), moment
            os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    (project / "_build" / "html").mkdir(exist_ok=True)
    (project / "_build" / "html" / "old.html").write_text("a page of an earlier book")
    subprocess.run(BUILD, cwd=project, check=True, capture_output=True)
    assert pages() == whole and len(whole) > 3


def test_an_interruption_says_that_the_same_command_goes_on(project):
    with subprocess.Popen(
        BUILD, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert "executing" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in said
    assert "Traceback" not in said


GOOD = f"<article>{'word ' * 50}<div class='cell_output'>42</div></article>"


@pytest.fixture
def site(tree):
    """A built site that passes; the page of the chapter."""
    built = book.HTML / "book" / "01-page.html"
    built.parent.mkdir(parents=True)
    for name in ("index.html", "search.html", "404.html"):
        (book.HTML / name).write_text("")
    built.write_text(GOOD)
    return built


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
        (f'{GOOD}<div class="output text_html">\n<div>\n</div>', "whose output is empty"),
        (f'{GOOD}<script defer src="https://a.b/c.js">', "another machine for https://a.b/c.js"),
        (f'{GOOD}<img alt="x" src="//a.b/c.png">', "another machine for //a.b/c.png"),
        (f'{GOOD}<script src="big.js"></script>', "more than 500"),
    ],
)
def test_a_bad_page_is_found(tree, site, html, complaint):
    (site.parent / "big.js").write_bytes(os.urandom(600_000))
    site.unlink() if html is None else site.write_text(html)
    assert complaint in " ".join(book.check_pages([tree]))


@pytest.mark.parametrize("rule", ["@import '//a.b/c.css';", "x { background: url(http://a.b/c) }"])
def test_a_style_that_loads_from_elsewhere_is_found(tree, site, rule):
    (book.HTML / "style.css").write_text(rule)
    assert "another machine" in " ".join(book.check_pages([tree]))


@pytest.mark.parametrize("name", ["index.html", "search.html", "404.html"])
def test_a_site_without_these_is_not_whole(tree, site, name):
    (book.HTML / name).unlink()
    assert book.check_pages([tree]) == [f"{book.HTML / name} was not built"]


def test_a_good_page_passes(tree, site):
    site.write_text(f'{GOOD}<link rel="canonical" href="https://a.b/"><a href="https://a.b">x</a>')
    assert book.check_pages([tree]) == []


def test_samkit_that_changes_under_the_build_is_named(tree):
    code = "open('../samkit/module.py', 'a').write('y = 2')"
    tree.write_text(PAGE.replace("CODE", code))
    (tree.parents[1] / "_toc.yml").write_text("root: book/01-page\nparts: []\n")
    with pytest.raises(book.BuildFailed, match=r"01-page changed while the book was built: run"):
        book.build()
