"""notebooks/ is book/ in another form, and nbval really compares it."""

import os
import re
import shutil
import subprocess
import sys
import types
from importlib.metadata import PackageNotFoundError, version

import jupytext
import nbformat
import pytest

import samkit
from tools import markdown, notebooks, tree
from tools.tree import ROOT, BuildFailed, chapters

CHAPTERS = pytest.mark.parametrize("page", chapters(), ids=lambda page: page.stem)


@CHAPTERS
def test_the_notebook_is_in_step_with_its_chapter(page):
    committed = notebooks.notebook_path(page).read_text(encoding="utf-8")
    expected = nbformat.writes(notebooks.committed(page)) + "\n"
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
def test_the_words_are_plain_markdown(page):
    """No directive, role or label is left, and no link that leads nowhere outside of the book."""
    for cell in notebooks.convert(page, {}, {}).cells:
        if cell.cell_type == "markdown":
            prose = re.sub(r"\$\$.*?\$\$|\$[^$]+\$", "", cell.source, flags=re.DOTALL)
            left = r"^[> ]*(?:`{3,}|:{3,})\{.*|\{[\w:-]+\}`.*|^\([\w-]+\)=$|\]\((?!https?://).*"
            assert re.findall(left, prose, re.MULTILINE) == []


@CHAPTERS
def test_a_notebook_links_to_its_page_and_opens_itself_in_colab(page):
    head = notebooks.convert(page, {}, {}).cells[0].source
    assert f"{markdown.site()}/book/{page.stem}.html" in head
    assert f"/blob/main/notebooks/{page.stem}.ipynb)" in head and "colab-badge" in head


WORDS = r"""# A page

```{prf:theorem} A *name*
:label: thm-one
If $f[x](w)$ then

$$
a = b
$$ (eq-one)
```

````{prf:proof}
:class: dropdown
By {eq}`eq-one` and {prf:ref}`thm-one`, as in
{cite:t}`woodworth2020`
{cite}`foret2021,karimi2016`
and `code [a](b)`.

1. First
   ```{claims}
   fig05
   ```
````

(here)=
## A heading

:::{admonition} Look
:class: note
At [this](#here), [that](01-sparse-regression) and [](here).
:::
"""
PLAIN = r"""# A page

> **Theorem 7.1** (A *name*)
>
> If $f[x](w)$ then
>
> $$
> a = b
> \tag{7.1}
> $$

<details>
<summary>Proof</summary>

By [(7.1)](SITE/07-a.html#equation-eq-one) and [Theorem 7.1](SITE/07-a.html#thm-one), as in
[Woodworth et al. (2020)](DOI/10.48550/arXiv.2002.09277)
([Foret et al., 2021](DOI/10.48550/arXiv.2010.01412); [Karimi et al., 2016](DOI/10.1007/978-3-319-46128-1_50))
and `code [a](b)`.
"""  # noqa: E501


def test_what_becomes_of_directives_and_roles(tmp_path, monkeypatch):
    page = tmp_path / "book" / "07-a.md"
    page.parent.mkdir()
    page.write_text(WORDS)
    for name in ("references.bib", "01-sparse-regression.md"):
        shutil.copy(ROOT / "book" / name, page.parent)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(tree, "ROOT", tmp_path)
    monkeypatch.setattr(
        tree, "toc_pages", lambda: [page, page.with_name("01-sparse-regression.md")]
    )
    markdown.places.cache_clear()
    found = markdown.Writer("07-a", {"fig05": {"verdict": "PASS", "measured": "0"}}).text(WORDS)
    markdown.places.cache_clear()
    site = f"{markdown.site()}/book"
    assert found.startswith(PLAIN.replace("SITE", site).replace("DOI", "https://doi.org"))
    assert "| **holds** |" in found and f"{site}/ledger.html#claim-fig05)" in found
    assert f"> **Look**\n>\n> At [this]({site}/07-a.html#here)" in found
    assert f"[that]({site}/01-sparse-regression.html)" in found
    assert f"[A heading]({site}/07-a.html#here)." in found and "(here)=" not in found


@pytest.mark.parametrize("text", ["```{mermaid}\n```", "{unknown}`x`", "[x](gone)", "{eq}`gone`"])
def test_what_has_no_plain_form_or_no_place_is_named(text):
    with pytest.raises(BuildFailed, match=r"book/07-a\.md"):
        markdown.Writer("07-a", {}).text(text)


@CHAPTERS
def test_the_first_code_is_what_installs_samkit_and_the_chapter_does_not(page):
    _, first, *rest = notebooks.convert(page, {}, {}).cells
    assert first.source == notebooks.install_cell().source
    assert "pip" not in "".join(cell.source for cell in rest if cell.cell_type == "code")
    assert "SAMKIT_SOURCE" not in page.read_text(encoding="utf-8")


@pytest.fixture
def first_cell(tmp_path, monkeypatch):
    """Runs the first cell with its commands recorded in place of executed; returns them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAMKIT_SOURCE", raising=False)
    monkeypatch.setenv("SAMKIT_RESULTS", "as before")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))

    def run():
        commands.clear()
        exec(notebooks.install_cell().source, {})
        return list(commands)

    return run


def test_outside_of_colab_the_first_cell_says_what_is_installed(
    first_cell, tmp_path, capsys, monkeypatch
):
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert first_cell() == []
    said = capsys.readouterr().out
    assert said == f"samkit {samkit.__version__} is installed, beside torch {version('torch')}\n"
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ["SAMKIT_RESULTS"] == "as before"
    assert list(tmp_path.iterdir()) == []


def test_without_samkit_the_first_cell_says_how_to_get_it(first_cell, capsys, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", missing)
    first_cell()
    said = capsys.readouterr().out
    assert said.startswith("samkit is not installed: pip install 'samkit[chapters] @ git+https://")


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


@pytest.mark.long
def test_nbval_fails_when_one_digit_of_a_reference_output_changes(tmp_path):
    """On a notebook of two cells: the same machinery as on a chapter, in seconds."""
    cells = [
        nbformat.v4.new_code_cell(
            "print('loss 0.0150560')",
            metadata={"tags": [notebooks.COMPARED]},
            outputs=[nbformat.v4.new_output("stream", name="stdout", text=reference)],
            execution_count=1,
        )
        for reference in ("loss 0.0150560\n", "loss 0.0150561\n")
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    path = tmp_path / "digits.ipynb"
    nbformat.write(notebook, path)
    compared = run_nbval(path)
    assert compared.returncode == 1 and "1 failed, 1 passed" in compared.stdout, compared.stdout
    assert "0.0150561" in compared.stdout
