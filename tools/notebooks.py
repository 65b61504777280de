"""Keep notebooks/*.ipynb in step with book/*.md: `python -m tools.notebooks write` (or `check`).

The notebooks are for Jupyter and Colab, and for nbval. They are generated, never edited: where they
open and what they belong to, a cell that installs samkit in Colab, then the chapter in plain
Markdown, with stable cell ids and no outputs except those of cells tagged `nbval-check-output`,
which `make nbval` compares.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import jupytext
import nbformat

from samkit.paper import claims
from tools import markdown
from tools.execute import execute_stale, kept_execution
from tools.tree import ROOT, BuildFailed, chapters, run, write_whole

FOLDER = ROOT / "notebooks"
COMPARED = "nbval-check-output"
INSTALL = """\
# Installs samkit and the recorded runs in Colab; elsewhere it says what is installed.
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more gain little here, and cost on busy cores
if "google.colab" in sys.modules or "SAMKIT_SOURCE" in os.environ:  # or, for tests, a repository
    source = os.environ.get("SAMKIT_SOURCE", "{repository}")
    clone = ["git", "clone", "--quiet", "--depth", "1", source, "samkit-book"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "./samkit-book[chapters]"]
    for command in (clone, install) if not os.path.exists("samkit-book") else (install,):
        subprocess.run(command, check=True)
    os.environ["SAMKIT_RESULTS"] = os.path.abspath("samkit-book/results")
if "google.colab" in sys.modules:
    from google.colab import output

    output.enable_custom_widget_manager()
try:
    print(f"samkit {{version('samkit')}} is installed, beside torch {{version('torch')}}")
except PackageNotFoundError as missing:
    print(f"{{missing.name}} is not installed: pip install 'samkit[chapters] @ git+{repository}'")
"""
HEAD = """\
[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})
[This chapter in the book]({page}), with its figures and the results that a machine obtained. Each
claim links to its row in the ledger, which says how it is checked."""


def notebook_path(page: Path) -> Path:
    return FOLDER / f"{page.stem}.ipynb"


def is_compared(cell) -> bool:
    return COMPARED in cell.metadata.get("tags", ())


def repository() -> str:
    """The address that pyproject.toml gives."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"]


def head_cell(page: Path) -> nbformat.NotebookNode:
    """Where this notebook opens in Colab, and its page in the book."""
    name = notebook_path(page).relative_to(ROOT).as_posix()
    blob = repository().removeprefix("https://github.com/")
    colab = f"https://colab.research.google.com/github/{blob}/blob/main/{name}"
    there = f"{markdown.site()}/{page.relative_to(ROOT).with_suffix('.html').as_posix()}"
    return nbformat.v4.new_markdown_cell(HEAD.format(colab=colab, page=there))


def install_cell() -> nbformat.NotebookNode:
    """The first cell of code in every notebook: installs samkit in Colab, and only there."""
    source = INSTALL.format(repository=repository()).rstrip()
    return nbformat.v4.new_code_cell(source, metadata={"tags": ["nbval-ignore-output"]})


def convert(
    page: Path, outputs: Mapping[str, list], reports: Mapping[str, Mapping[str, str]]
) -> nbformat.NotebookNode:
    """A chapter as a notebook in plain Markdown.

    ``outputs`` are those to show, by cell id, ``reports`` the verdict and the measurement by row.
    """
    notebook = jupytext.read(page)
    words = markdown.Writer(page.stem, reports)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = words.text(cell.source)
    notebook.cells[:0] = [head_cell(page), install_cell()]
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        key = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[key] += 1
        cell.id = f"{key}-{seen[key]}"
        if cell.cell_type == "code":
            cell.outputs = outputs.get(cell.id, [])
            cell.execution_count = 1 if cell.outputs else None
    notebook.metadata.pop("jupytext", None)
    notebook.metadata["samkit"] = {"reports": reports}
    return notebook


def committed(page: Path) -> nbformat.NotebookNode:
    """The chapter with the outputs and reports that its notebook holds: the same notebook."""
    notebook = nbformat.read(notebook_path(page), as_version=4)
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.get("outputs")}
    return convert(page, outputs, notebook.metadata.get("samkit", {}).get("reports", {}))


def executed(page: Path, everything: bool = True) -> nbformat.NotebookNode:
    """The chapter with the outputs of the execution that the book shows, or the compared ones."""
    execution = kept_execution(page)
    reports = {
        id_: {"verdict": str(report.verdict), "measured": report.measured}
        for id_, report in claims.collect({page.stem: execution}).items()
    }
    ids = [cell.id for cell in convert(page, {}, {}).cells if cell.cell_type == "code"]
    cells = [cell for cell in execution.cells if cell.cell_type == "code"]
    outputs = {}
    for cell_id, cell in zip(ids[1:], cells, strict=True):  # the first is not the chapter's
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = 1
        if everything or is_compared(cell):
            outputs[cell_id] = cell.outputs
    return convert(page, outputs, reports)


def write() -> None:
    execute_stale(chapters())
    for stale in set(FOLDER.glob("*.ipynb")) - {notebook_path(page) for page in chapters()}:
        stale.unlink()
    for page in chapters():
        text = nbformat.writes(executed(page, everything=False))
        write_whole(notebook_path(page), text + "\n")


def check() -> None:
    """Before publishing: BuildFailed if the notebooks would get samkit from somewhere else.

    GitHub names the repository that it runs for in GITHUB_REPOSITORY.
    """
    here = os.environ.get("GITHUB_REPOSITORY")
    if here and repository() != f"https://github.com/{here}":
        raise BuildFailed(
            f"pyproject.toml says that the repository is {repository()}, but this is {here}: "
            "correct it there, under [project.urls], and run `make notebooks`"
        )


if __name__ == "__main__":
    run({"write": write, "check": check}, __doc__)
