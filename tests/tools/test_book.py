"""The build: what makes a chapter stale, what it says when something is broken, what a bad page is.

The faults are real ones where they can be: damaged files, killed processes, a device that is full.
"""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from samkit.paper import claims
from tools import book, execute, gate, render, tree
from tools.tree import BuildFailed

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


def placed(folder, monkeypatch):
    """The build works in this folder."""
    monkeypatch.setattr(tree, "ROOT", folder)
    monkeypatch.setattr(tree, "BUILD", folder / "_build")
    monkeypatch.setattr(tree, "HTML", folder / "_build" / "html")
    for name in ("MPLCONFIGDIR", "IPYTHONDIR"):  # which the build sets
        monkeypatch.setenv(name, "")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A small project, executed: one chapter, a module that it loads, a record."""
    folder = tmp_path_factory.mktemp("executed")
    for name in ("book", "results"):
        (folder / name).mkdir()
    (folder / "module.py").write_text("x = 42\n")
    (folder / "results" / "run.json").write_text("1")
    page = folder / "book" / "01-page.md"
    page.write_text(PAGE.replace("CODE", "import module\nprint(module.x)"))
    (folder / "_toc.yml").write_text("root: book/01-page\nparts: []\n")
    past = time.time() - 60  # what is younger than an execution may have changed in its course
    for file in folder.rglob("*.*"):
        os.utime(file, (past, past))
    with pytest.MonkeyPatch.context() as monkeypatch:
        placed(folder, monkeypatch)
        run(page)
    return folder


@pytest.fixture
def page(executed, tmp_path, monkeypatch):
    """The chapter of such a project in a folder of its own."""
    folder = shutil.copytree(executed, tmp_path / "project")
    placed(folder, monkeypatch)
    return folder / "book" / "01-page.md"


def run(*pages):
    execute.execute_stale(pages)


def write(path, text):
    path.write_text(text)
    os.utime(path, (time.time() - 60,) * 2)


def outputs(page):
    return execute.kept_execution(page).cells[1].outputs


def test_a_chapter_is_executed_once_and_again_when_its_code_changes(page, capsys):
    run(page)
    assert capsys.readouterr().out == "" and outputs(page)[0].text == "42\n"
    page.write_text(page.read_text().replace("print(", "print(1 + "))
    run(page)
    assert "cell 1/1" in capsys.readouterr().out
    assert outputs(page)[0].text == "43\n"


def test_other_words_need_no_execution_and_are_shown(page):
    page.write_text(page.read_text().replace("A page", "Another page"))
    assert execute.is_kept(page)
    notebook = execute.kept_execution(page)
    assert "Another page" in notebook.cells[0].source and outputs(page)[0].text == "42\n"


def test_a_module_counts_for_what_it_does_where_the_chapter_has_loaded_it(page):
    module, other = (page.parents[1] / f"{name}.py" for name in ("module", "other"))
    other.write_text("y = 1")
    module.write_text('"""Words."""\n\nx = (  # a comment\n    42\n)\n')
    assert execute.is_kept(page)
    module.write_text("x = 43\n")
    assert not execute.is_kept(page)
    module.write_text("x = (")
    assert not execute.is_kept(page)
    module.unlink()
    assert not execute.is_kept(page)


def test_a_module_whose_text_is_shown_counts_with_its_comments(page):
    code = "import inspect, module\nprint(inspect.getsource(module))"
    page.write_text(PAGE.replace("CODE", code))
    run(page)
    (page.parents[1] / "module.py").write_text("x = 42  # a comment\n")
    assert not execute.is_kept(page)


def test_a_record_counts_where_the_chapter_has_read_it(page, monkeypatch):
    page.write_text(PAGE.replace("CODE", "print(open('../results/run.json').read())"))
    monkeypatch.setenv("SAMKIT_RESULTS", str(page.parents[1] / "results"))
    run(page)
    results = page.parents[1] / "results"
    (results / "other.json").write_text("1")
    (results / "checkpoints").mkdir()
    (results / "checkpoints" / "run.pt").write_text("half a run")
    assert execute.is_kept(page)
    (results / "run-laptop.jsonl").write_text("{}\n")  # there are runs now, where none were
    assert not execute.is_kept(page)
    (results / "run-laptop.jsonl").unlink()
    (results / "run.json").write_text("2")
    assert not execute.is_kept(page)


def test_what_changes_during_an_execution_is_named(page):
    code = "import module, time\nopen('../module.py', 'a').write('y = 2')"
    page.write_text(PAGE.replace("CODE", code))
    with pytest.raises(BuildFailed, match=r"module\.py changed while 01-page was executed: run"):
        run(page)
    assert not execute.is_kept(page)


def test_executions_of_different_scales_are_kept_side_by_side(page, monkeypatch, capsys):
    page.write_text(PAGE.replace("CODE", "import os; print(os.environ.get('SAMKIT_SCALE'))"))
    run(page)
    monkeypatch.setenv("SAMKIT_SCALE", "laptop")
    assert not execute.is_kept(page)
    run(page)
    assert outputs(page)[0].text == "laptop\n"
    monkeypatch.delenv("SAMKIT_SCALE")
    capsys.readouterr()
    run(page)
    assert capsys.readouterr().out == "" and outputs(page)[0].text == "None\n"


def test_only_libraries_of_the_book_are_part_of_what_was_executed():
    names = {line.split("==")[0] for line in execute.libraries("samkit", "book")}
    assert {"samkit", "numpy", "torch", "ipykernel", "sphinx"} <= names  # extras of extras too
    assert not {"pytest", "ruff", "nbval"} & names
    without = {line.split("==")[0] for line in execute.libraries("samkit", "")}
    assert without == {"samkit", "numpy", "scipy"}


def test_a_broken_chapter_is_named_with_its_error_and_keeps_nothing(page):
    page.write_text(PAGE.replace("CODE", "1 / 0"))
    with pytest.raises(BuildFailed, match=r"01-page\.md failed:[\s\S]*ZeroDivisionError"):
        run(page)
    assert not execute.is_kept(page)


def test_a_cell_that_is_written_otherwise_is_named(page):
    page.write_text(
        PAGE.replace("```{code-cell} ipython3", "````{code-cell} ipython3", 1)[:-1] + "`"
    )
    with pytest.raises(BuildFailed, match=r"write each cell as"):
        run(page)


def test_a_warning_does_not_reach_the_page(page):
    page.write_text(PAGE.replace("CODE", "import warnings; warnings.warn('look here')"))
    with pytest.raises(BuildFailed, match=r"01-page\.md warns:[\s\S]*look here"):
        run(page)
    assert not execute.is_kept(page)


def test_a_damaged_execution_is_named_and_made_again(page, capsys):
    executed_path = execute.executed_path(page)
    for path in (executed_path, executed_path.with_suffix(".json")):
        for content in (b"", b"[]", b'{"cells": 3}'):
            whole = {file: file.read_bytes() for file in path.parent.iterdir()}
            path.write_bytes(content)
            assert not execute.is_kept(page)
            assert f"{executed_path} is damaged" in capsys.readouterr().out
            for file, good in whole.items():
                file.write_bytes(good)
            assert execute.is_kept(page)
    path.write_bytes(b"")
    run(page)
    assert "executed again" in capsys.readouterr().out
    assert outputs(page)[0].text == "42\n" and execute.is_kept(page)


def test_a_chapter_that_takes_its_kernel_along_is_named(page):
    page.write_text(PAGE.replace("CODE", "import os; os._exit(1)"))
    with pytest.raises(BuildFailed, match=r"01-page\.md failed"):
        run(page)


@pytest.mark.parametrize("step", ["write_text", "replace"])
def test_a_full_disk_is_named_with_the_cure_and_leaves_what_was_there(page, monkeypatch, step):
    kept = execute.executed_path(page).read_text()
    page.write_text(PAGE.replace("CODE", "print(1)"))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, step, full)
        with pytest.raises(BuildFailed) as failure:
            run(page)
    path = execute.executed_path(page)
    assert f"{path} could not be written (No space left" in str(failure.value)
    assert "Make room" in str(failure.value)
    assert sorted(file.name for file in path.parent.iterdir()) == ["01-page.ipynb", "01-page.json"]
    assert path.read_text() == kept


def test_a_cache_that_cannot_be_written_is_named(page, monkeypatch):
    monkeypatch.setattr(render, "CACHE", page / "cache")  # a folder within a file
    with pytest.raises(BuildFailed, match=r"cache could not be written[\s\S]*Make room"):
        render.fill_sphinx_cache([page])


def test_executions_of_chapters_that_are_no_more_are_removed(page):
    for name in ("00-old.ipynb", "01-page.ipynb.part"):
        (execute.folder() / name).write_text("{}")
    execute.forget_strangers([page])
    assert sorted(path.suffix for path in execute.folder().iterdir()) == [".ipynb", ".json"]


# --- what is known at once ---------------------------------------------------------------------


def test_a_wrong_scale_is_said_at_once_and_leaves_what_is_kept(page, monkeypatch, capsys):
    monkeypatch.setenv("SAMKIT_SCALE", "foo")
    with pytest.raises(BuildFailed, match=r"no scale 'foo' .*SAMKIT_SCALE.*ci, laptop, paper"):
        book.build()
    monkeypatch.delenv("SAMKIT_SCALE")
    assert execute.is_kept(page)


def test_a_missing_record_is_said_at_once_with_the_command_that_restores_it(monkeypatch, tmp_path):
    monkeypatch.setenv("SAMKIT_RESULTS", str(tmp_path))
    started = "no chapter is to be executed"
    monkeypatch.setattr(execute, "execute_all", lambda pages: pytest.fail(started))
    with pytest.raises(BuildFailed) as failure:
        run(tree.ROOT / "book" / "08-label-noise.md")
    assert f"no {tmp_path / 'small_networks-laptop.jsonl'}" in str(failure.value)
    assert "git restore results" in str(failure.value)


def test_another_samkit_on_the_path_is_said_at_once(page, monkeypatch, tmp_path):
    (tmp_path / "other" / "samkit").mkdir(parents=True)
    (tmp_path / "other" / "samkit" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{tmp_path / 'other'}")
    with pytest.raises(BuildFailed, match=r"PYTHONPATH names .*other, which holds another samkit"):
        run(page)


def test_a_kernel_has_the_samkit_of_this_tree_and_needs_no_home(page, monkeypatch):
    code = "import samkit, matplotlib.pyplot, os\nprint(samkit.__name__, os.environ['HOME'])"
    page.write_text(PAGE.replace("CODE", code))
    (page.parents[1] / "samkit.py").write_text("")
    os.utime(page.parents[1] / "samkit.py", (0, 0))
    monkeypatch.setenv("HOME", "/proc/none")
    run(page)
    assert outputs(page)[0].text == "samkit /proc/none\n"
    assert (
        "samkit.py"
        in json.loads(execute.executed_path(page).with_suffix(".json").read_text())["used"]
    )


def test_a_folder_that_cannot_be_written_is_said_at_once(page, monkeypatch):
    monkeypatch.setattr(tree, "BUILD", page / "_build")  # a folder within a file
    for command in (book.build, lambda: run(page)):
        with pytest.raises(BuildFailed, match=r"_build.* could not be written[\s\S]*give access"):
            command()


def test_two_builds_at_once_are_said_at_once(page):
    with book.alone():
        with pytest.raises(BuildFailed, match=r"another build is running in .*: wait for it"):
            book.build()


def test_a_row_that_names_records_which_its_chapter_does_not_read_is_named(page, monkeypatch):
    row = claims.Claim(
        id="x", statement="s", place="p", kind="figure", chapter="01-page", scale="ci",
        check="how", evidence="measured", sense="at most", tolerance=1.0, reason="because",
        records=("run.json",),
    )  # fmt: skip
    monkeypatch.setattr(claims, "ledger", lambda: {"x": row})
    monkeypatch.setattr(claims, "collect", lambda executed: {"x": None})
    with pytest.raises(BuildFailed, match=r"the check of x reads run\.json, but 01-page does not"):
        book.check_reports([page])


@pytest.mark.parametrize(
    ("toc", "complaint"),
    [
        ("root: [", r"_toc\.yml cannot be read"),
        (None, "names book/01-page.md, which does not exist"),
    ],
)
def test_a_broken_table_of_contents_is_named(page, toc, complaint):
    if toc is None:
        page.unlink()
    else:
        (tree.ROOT / "_toc.yml").write_text(toc)
    with pytest.raises(SystemExit, match=complaint):  # its words, and the exit code 1
        tree.end(book.build)


BUILD = [sys.executable, "-m", "tools.book", "build"]
# what one page holds and others refer to
HOLDS = """

$$
a = b
$$ (an-equation)

```{prf:theorem} A theorem
:label: a-theorem
So.
```
"""
REFERS = "\n\n{eq}`an-equation`, {prf:ref}`a-theorem`, {cite}`a1`\n"
LISTS = "\n```{bibliography}\n```\n"


@pytest.fixture
def project(tmp_path):
    """A book of one chapter and two pages in a folder of its own, with its own copy of the tool."""
    for name in ("tools", "book/_ext"):
        shutil.copytree(tree.ROOT / name, tmp_path / name)
    for name, more in {"index": LISTS, "other": ""}.items():
        text = f"# The {name}\n\n{50 * 'word '}{REFERS}{more}"
        (tmp_path / "book" / f"{name}.md").write_text(text)
    (tmp_path / "references.bib").write_text("@misc{a1, author={A. B.}, title={C}, year=2001}")
    page = PAGE.replace("CODE", "import time; time.sleep(1); print(6 * 7)")
    (tmp_path / "book" / "01-page.md").write_text(f"{page}{50 * 'word '}{HOLDS}")
    shutil.copy(tree.ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "404.html").write_text("")
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\n"
        "parts: [{chapters: [{file: book/01-page}, {file: book/other}]}]\n"
    )
    (tmp_path / "_config.yml").write_text(
        "title: T\nonly_build_toc_files: true\nexclude_patterns: [tools]\n"
        "execute: {execute_notebooks: cache}\nbibtex_bibfiles: [references.bib]\n"
        "sphinx: {extra_extensions: [sphinx_proof], "
        "local_extensions: {changed_pages: book/_ext, finished_pages: book/_ext}, "
        "config: {html_extra_path: [404.html], mathjax_path: tex-svg.js}}\n"
    )
    return tmp_path


@pytest.mark.long
def test_changed_or_killed_anywhere_and_started_again_it_builds_the_same_book(project):
    """Pages are written again where words have changed, all of them where a title has."""
    html = project / "_build" / "html"
    page, other = project / "book" / "01-page.md", html / "book" / "other.html"

    def built():
        subprocess.run(BUILD, cwd=project, check=True, capture_output=True)
        found = [*html.rglob("*.html"), html / "searchindex.js"]
        return {path.relative_to(html): path.read_bytes() for path in found}

    built()
    before = other.stat().st_mtime_ns
    page.write_text(page.read_text().replace("word", "unheard"))
    assert b"unheard" in built()[Path("searchindex.js")]
    assert other.stat().st_mtime_ns == before
    page.write_text(page.read_text().replace("# A page", "# A name"))
    changed = built()
    assert b"A name" in changed[Path("book/other.html")] and len(changed) > 4

    shutil.rmtree(project / "_build")
    for moment in ("cell 1/1", "rendering"):
        with subprocess.Popen(
            BUILD, cwd=project, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            assert any(moment in line for line in process.stdout), moment
            os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    html.mkdir(exist_ok=True)
    (html / "old.html").write_text("a page of an earlier book")
    assert built() == changed


def heeds_ctrl_c():
    """Where a shell has started the tests in the background, what they start would not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_an_interruption_of_two_chapters_ends_in_seconds_and_keeps_what_is_done(project):
    """No kernel is left, and no traceback; what had been executed is not executed again."""
    slow = PAGE.replace("CODE", "import time; time.sleep(600)") + 50 * "word "
    (project / "book" / "01-page.md").write_text(PAGE.replace("CODE", "print('anew')"))
    for name in ("02-slow", "03-slow"):
        (project / "book" / f"{name}.md").write_text(slow)
    (project / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nparts: [{chapters: [{file: book/01-page}, "
        "{file: book/02-slow}, {file: book/03-slow}]}]\n"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(BUILD, cwd=project, preexec_fn=heeds_ctrl_c, **pipes) as process:
        for moment in ("01-page: cell 1/1", "03-slow: executing"):
            assert any(moment in line for line in process.stdout)
        parent = psutil.Process(process.pid)
        while len(kernels := parent.children()) < 2:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command goes on" in said
    assert "Traceback" not in said and not psutil.wait_procs(kernels, timeout=2)[1]
    assert time.monotonic() - began < 10  # two on a quiet machine
    assert (project / "_build" / "executed" / "ci" / "01-page.ipynb").exists()


GOOD = f"<article>{'word ' * 50}<div class='cell_output'>42</div></article>"


@pytest.fixture
def site(page):
    """A built site that passes; the page of the chapter."""
    built = tree.HTML / "book" / "01-page.html"
    built.parent.mkdir(parents=True)
    for name in ("index.html", "search.html", "404.html"):
        (tree.HTML / name).write_text("")
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
def test_a_bad_page_is_found(page, site, html, complaint):
    (site.parent / "big.js").write_bytes(os.urandom(600_000))
    site.unlink() if html is None else site.write_text(html)
    assert complaint in " ".join(gate.faults([page], [page]))


@pytest.mark.parametrize("rule", ["@import '//a.b/c.css';", "x { background: url(http://a.b/c) }"])
def test_a_style_that_loads_from_elsewhere_is_found(page, site, rule):
    (tree.HTML / "style.css").write_text(rule)
    assert "another machine" in " ".join(gate.faults([page], [page]))


def test_an_emptied_file_that_a_page_loads_is_found(page, site):
    style = site.parent / "style.css"
    site.write_text(f'{GOOD}<link rel="stylesheet" href="style.css?v=1">')
    style.write_text("p { margin: 0 }")
    assert gate.faults([page], [page]) == []
    style.write_text("")
    assert gate.faults([page], [page]) == [f"{site} loads {style}, which is missing or empty"]


@pytest.mark.parametrize("name", ["index.html", "search.html", "404.html"])
def test_a_site_without_these_is_not_whole(page, site, name):
    (tree.HTML / name).unlink()
    assert gate.faults([page], [page]) == [f"{tree.HTML / name} was not built"]


def test_a_good_page_passes(page, site):
    site.write_text(f'{GOOD}<link rel="canonical" href="https://a.b/"><a href="https://a.b">x</a>')
    assert gate.faults([page], [page]) == []
