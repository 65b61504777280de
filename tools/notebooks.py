"""Keep notebooks/*.ipynb in step with book/*.md: `python -m tools.notebooks write` (or `check`).

The notebooks are for Jupyter and Colab, and for nbval. They are generated, never edited: a first
cell that installs samkit in Colab, then the chapter's source, with stable cell ids and no outputs
except those of cells tagged `nbval-check-output`, which nbval compares on every test run.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from pathlib import Path

import jupytext
import nbformat

from tools.execute import execute_stale, kept_execution
from tools.tree import ROOT, BuildFailed, chapters, run, write_whole

FOLDER = ROOT / "notebooks"
COMPARED = "nbval-check-output"
INSTALL = """\
# In Colab this cell gets the book's repository, recorded runs included, and installs samkit from
# it; elsewhere it does nothing (unless SAMKIT_SOURCE, for tests, names a repository to clone).
import os
import subprocess
import sys

if "google.colab" in sys.modules or "SAMKIT_SOURCE" in os.environ:
    source = os.environ.get("SAMKIT_SOURCE", "{repository}")
    clone = ["git", "clone", "--quiet", "--depth", "1", source, "samkit-book"]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "./samkit-book[chapters]"]
    for command in (clone, install) if not os.path.exists("samkit-book") else (install,):
        subprocess.run(command, check=True)
    os.environ["SAMKIT_RESULTS"] = os.path.abspath("samkit-book/results")
if "google.colab" in sys.modules:
    from google.colab import output

    output.enable_custom_widget_manager()
"""


def notebook_path(page: Path) -> Path:
    return FOLDER / f"{page.stem}.ipynb"


def is_compared(cell) -> bool:
    return COMPARED in cell.metadata.get("tags", ())


def repository() -> str:
    """The address that pyproject.toml gives."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"]


def install_cell() -> nbformat.NotebookNode:
    """The first cell of every notebook: installs samkit in Colab, and only there."""
    source = INSTALL.format(repository=repository()).rstrip()
    return nbformat.v4.new_code_cell(source, metadata={"tags": ["nbval-ignore-output"]})


def convert(page: Path, outputs: dict[str, list]) -> nbformat.NotebookNode:
    """A chapter as a notebook whose compared cells carry ``outputs`` (by cell id)."""
    notebook = jupytext.read(page)
    notebook.cells.insert(0, install_cell())
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        key = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[key] = seen.get(key, 0) + 1
        cell.id = f"{key}-{seen[key]}"
        if cell.cell_type == "code":
            compared = is_compared(cell) and cell.id in outputs
            cell.outputs = outputs[cell.id] if compared else []
            cell.execution_count = 1 if compared else None
    notebook.metadata.pop("jupytext", None)
    return notebook


def stored_outputs(page: Path) -> dict[str, list]:
    """The reference outputs in the committed notebook, by cell id."""
    notebook = nbformat.read(notebook_path(page), as_version=4)
    return {cell.id: cell.outputs for cell in notebook.cells if cell.get("outputs")}


def executed_outputs(page: Path) -> dict[str, list]:
    """The outputs of the execution that the book shows, by cell id."""
    _, *ids = [cell.id for cell in convert(page, {}).cells]  # the first cell is not the chapter's
    outputs = {}
    for cell_id, cell in zip(ids, kept_execution(page).cells, strict=True):
        for output in cell.get("outputs", ()):
            if output.output_type == "execute_result":
                output.execution_count = 1
        if cell.get("outputs"):
            outputs[cell_id] = cell.outputs
    return outputs


def write() -> None:
    execute_stale(chapters())
    for stale in set(FOLDER.glob("*.ipynb")) - {notebook_path(page) for page in chapters()}:
        stale.unlink()
    for page in chapters():
        text = nbformat.writes(convert(page, executed_outputs(page)))
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
