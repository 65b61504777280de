"""notebooks/ is book/ in another form, and nbval really compares it."""

import os
import re
import subprocess
import sys
import types

import jupytext
import nbformat
import pytest

from tools import notebooks
from tools.tree import BuildFailed, chapters

CHAPTERS = pytest.mark.parametrize("page", chapters(), ids=lambda page: page.stem)


@CHAPTERS
def test_the_notebook_is_in_step_with_its_chapter(page):
    committed = notebooks.notebook_path(page).read_text(encoding="utf-8")
    expected = nbformat.writes(notebooks.convert(page, notebooks.stored_outputs(page))) + "\n"
    assert committed == expected, "run `make notebooks`"


@CHAPTERS
def test_every_compared_cell_has_a_reference_output(page):
    notebook = nbformat.read(notebooks.notebook_path(page), as_version=4)
    compared = [cell for cell in notebook.cells if notebooks.is_compared(cell)]
    assert compared, "tag a cell that prints the chapter's numbers with nbval-check-output"
    for cell in compared:
        assert cell.outputs, cell.source
        assert all(output.output_type != "error" for output in cell.outputs)


@CHAPTERS
def test_the_round_trip_through_ipynb_loses_nothing(page):
    text = page.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt="md:myst")
    as_json = nbformat.writes(notebook)
    again = jupytext.writes(nbformat.reads(as_json, as_version=4), fmt="md:myst")
    body = text.split("\n---\n", 1)[1]
    assert again.split("\n---\n", 1)[1] == body


@CHAPTERS
def test_no_figure_has_a_colour_of_its_own(page):
    """A method has one colour in the whole book: samkit.paper.figures says which."""
    for cell in jupytext.read(page).cells:
        if cell.cell_type == "code":
            own = re.findall(r"""['"](?:#[0-9a-fA-F]{3,8}|C\d|tab:\w+)['"]""", cell.source)
            own += re.findall(r"""\bcolors?=['"]\w+['"]""", cell.source)
            assert not own, f"take it from figures.COLORS: {own}"


def test_no_notebook_without_a_chapter():
    expected = {notebooks.notebook_path(page) for page in chapters()}
    assert set(notebooks.FOLDER.glob("*.ipynb")) == expected


@CHAPTERS
def test_the_first_cell_is_the_one_that_installs_samkit_and_the_chapter_does_not(page):
    first, *rest = nbformat.read(notebooks.notebook_path(page), as_version=4).cells
    assert first.source == notebooks.install_cell().source
    assert "pip" not in "".join(cell.source for cell in rest if cell.cell_type == "code")
    assert "SAMKIT_SOURCE" not in page.read_text(encoding="utf-8")


@pytest.fixture
def first_cell(tmp_path, monkeypatch):
    """Runs the first cell with its commands recorded in place of executed; returns them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAMKIT_SOURCE", raising=False)
    monkeypatch.setenv("SAMKIT_RESULTS", "as before")
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))

    def run():
        commands.clear()
        exec(notebooks.install_cell().source, {})
        return list(commands)

    return run


def test_the_first_cell_does_nothing_outside_of_colab(first_cell, tmp_path):
    assert first_cell() == []
    assert os.environ["SAMKIT_RESULTS"] == "as before"
    assert list(tmp_path.iterdir()) == []


def test_the_first_cell_in_colab(first_cell, tmp_path, monkeypatch):
    """Clones once, upgrades nothing, points to the records, and lets figures be widgets."""
    called = []
    output = types.SimpleNamespace(enable_custom_widget_manager=lambda: called.append("widgets"))
    module = types.SimpleNamespace(output=output)
    monkeypatch.setitem(sys.modules, "google", types.SimpleNamespace(colab=module))
    monkeypatch.setitem(sys.modules, "google.colab", module)
    clone, install = first_cell()
    assert clone[:2] == ["git", "clone"] and notebooks.repository() in clone
    assert install[1:4] == ["-m", "pip", "install"]
    assert not {"--upgrade", "-U", "--force-reinstall", "-c", "-r"} & set(install)
    assert os.environ["SAMKIT_RESULTS"] == str(tmp_path / "samkit-book" / "results")
    assert called == ["widgets"]
    (tmp_path / "samkit-book").mkdir()
    assert first_cell() == [install]


def test_what_is_published_elsewhere_than_the_notebooks_say_is_not_published(monkeypatch):
    monkeypatch.delenv("GITHUB_REPOSITORY", raising=False)
    notebooks.check()
    monkeypatch.setenv("GITHUB_REPOSITORY", notebooks.repository().split("github.com/")[1])
    notebooks.check()
    monkeypatch.setenv("GITHUB_REPOSITORY", "someone/else")
    with pytest.raises(BuildFailed, match=r"this is someone/else: correct it .*\[project\.urls\]"):
        notebooks.check()


def run_nbval(path):
    command = ["-m", "pytest", "--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, *command, str(path)], capture_output=True, text=True, cwd=path.parent
    )


def test_nbval_fails_when_one_digit_of_a_reference_output_changes(tmp_path):
    """On a notebook of two cells: the same machinery as on a chapter, in seconds."""
    cell = nbformat.v4.new_code_cell(
        "print('loss 0.0150560')",
        metadata={"tags": [notebooks.COMPARED]},
        outputs=[nbformat.v4.new_output("stream", name="stdout", text="loss 0.0150560\n")],
        execution_count=1,
    )
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    path = tmp_path / "digits.ipynb"
    nbformat.write(notebook, path)
    good = run_nbval(path)
    assert good.returncode == 0, good.stdout
    cell.outputs[0].text = "loss 0.0150561\n"
    nbformat.write(notebook, path)
    changed = run_nbval(path)
    assert changed.returncode == 1, changed.stdout
    assert "0.0150561" in changed.stdout
