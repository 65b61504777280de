"""The rehearsal of Colab: its pieces, and the whole of it on a notebook of two cells."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tools import colab, notebooks
from tools.tree import BuildFailed

LIST = """# a comment
Jinja2==3.1.6
torch @ https://example.org/torch-2.11.0%2Bcpu-cp313-cp313-linux_x86_64.whl
-e git+https://example.org/x#egg=x
nvidia-nccl-cu13==2.31.2
"""
HERE = Path(sys.executable)


def test_a_list_of_packages_is_read_by_name():
    assert colab.pins(LIST) == {
        "jinja2": "Jinja2==3.1.6",
        "torch": "torch @ https://example.org/torch-2.11.0%2Bcpu-cp313-cp313-linux_x86_64.whl",
        "nvidia-nccl-cu13": "nvidia-nccl-cu13==2.31.2",
    }


def test_a_newer_list_gives_its_versions_of_the_same_packages(tmp_path, monkeypatch):
    ours, newer = tmp_path / "ours.txt", tmp_path / "newer.txt"
    ours.write_text("jinja2==3.0\ntorch==2.10.0\n")
    newer.write_text(LIST)
    monkeypatch.setattr(colab, "PACKAGES", ours)
    monkeypatch.setattr(colab, "ROOT", tmp_path)
    assert colab.wanted(str(newer)) == LIST.splitlines()[1:3]
    assert colab.wanted(newer.as_uri()) == LIST.splitlines()[1:3]
    ours.write_text("jinja2==3.0\nnumpy==2.1.3\n")
    with pytest.raises(BuildFailed, match="does not hold numpy"):
        colab.wanted(str(newer))
    for gone in (tmp_path / "gone.txt", (tmp_path / "gone.txt").as_uri(), "http://127.0.0.1:9/x"):
        with pytest.raises(BuildFailed, match=r"(gone\.txt|/x) cannot be read .*: name a list of"):
            colab.wanted(str(gone))


def test_the_list_kept_here_holds_what_the_notebooks_import():
    pins = colab.pins(colab.PACKAGES.read_text())
    named = {"anywidget", "ipywidgets", "matplotlib", "numba", "numpy", "scikit-learn", "scipy"}
    assert named | {"ipykernel", "joblib", "platformdirs", "pooch", "torch"} <= set(pins)
    assert "samkit" not in pins and "mnist1d" not in pins  # these the first cell has to bring


def test_a_python_that_is_not_there_or_does_not_run_is_named(tmp_path, monkeypatch):
    with pytest.raises(BuildFailed, match=r"no python9\.9 here"):
        colab.environment("python9.9", [])
    shim = tmp_path / "python3.99"
    shim.write_text("#!/bin/sh\necho no such version is chosen\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setattr(colab, "BUILD", tmp_path)
    with pytest.raises(BuildFailed, match=r"python3\.99 makes no environment: name another"):
        colab.environment(str(shim), [])


def test_packages_that_cannot_be_installed_are_named_and_each_python_has_its_folder(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(colab, "BUILD", tmp_path)
    inside = tmp_path / "colab-{}-{}".format(*sys.version_info) / "bin" / "python"
    inside.parent.mkdir(parents=True)
    inside.symlink_to(sys.executable)
    with pytest.raises(BuildFailed, match=r"could not be installed: see what pip says"):
        colab.environment(sys.executable, ["--no-index", "samkit-no-such-package"])


@pytest.fixture
def tree(tmp_path):
    """A repository that holds a package named samkit with a record, not all of it committed."""
    folder = tmp_path / "project"
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "run.json").write_text("15")
    (folder / ".gitignore").write_text("*.secret\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "samkit"\nversion = "7"\noptional-dependencies = {chapters = []}\n'
        '[tool.setuptools]\npy-modules = ["samkit"]\n'
    )
    (folder / "samkit.py").write_text("answer = 41\n")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    (folder / "samkit.py").write_text("answer = 42\n")
    (folder / "key.secret").write_text("not for others")
    (folder / "untracked.txt").write_text("new")
    return folder


def clone(source, target):
    subprocess.run(["git", "clone", "--quiet", "--depth", "1", source, target], check=True)
    return target


def test_a_snapshot_is_the_working_tree_without_what_git_ignores(tree, tmp_path):
    source = colab.snapshot(tree, tmp_path / "snapshot")
    got = clone(source, tmp_path / "clone")
    assert (got / "samkit.py").read_text() == "answer = 42\n"
    assert (got / "untracked.txt").read_text() == "new"
    assert not (got / "key.secret").exists()


def test_an_environment_on_top_is_empty_and_sees_what_is_below(tmp_path):
    alone = colab.on_top(HERE, tmp_path / "alone")
    assert colab.installed(alone) == {}
    assert {"numpy", "pip"} <= set(colab.installed(HERE))
    subprocess.run([alone, "-c", "import numpy"], check=True)


@pytest.fixture
def rehearse(tree, tmp_path, monkeypatch):
    """Run the first cell of the notebooks, then ``code``, whose output is to be ``reference``."""
    monkeypatch.setenv("PIP_NO_BUILD_ISOLATION", "0")  # which means: without; needs no network
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    source = colab.snapshot(tree, tmp_path / "snapshot")

    def run(code, reference, first=None):
        cell = nbformat.v4.new_code_cell(
            code,
            metadata={"tags": [notebooks.COMPARED]},
            outputs=[nbformat.v4.new_output("stream", name="stdout", text=reference)],
            execution_count=1,
        )
        kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
        notebook = nbformat.v4.new_notebook(
            cells=[first or notebooks.install_cell(), cell], metadata={"kernelspec": kernel}
        )
        nbformat.write(notebook, tmp_path / "page.ipynb")
        folder = tmp_path / "run"
        folder.mkdir()
        return colab.execute(tmp_path / "page.ipynb", HERE, source, folder)

    return run


SHOW = """import os, pathlib, samkit
record = pathlib.Path(os.environ["SAMKIT_RESULTS"], "run.json").read_text()
print(samkit.answer, record, "environment" in samkit.__file__)"""


@pytest.mark.long
def test_the_first_cell_installs_samkit_and_its_records_and_what_differs_is_told(rehearse):
    """In the kernel that runs, without a restart: what is printed is the clone's."""
    wrong, added = rehearse(SHOW, "41 15 True\n")
    assert "42 15 True" in wrong and "1 failed, 1 passed" in wrong
    # HERE holds the true samkit, which Colab's environment does not
    assert wrong.endswith("\nits first cell replaced what Colab holds: samkit")
    assert added == {"samkit": "7"}


@pytest.mark.long
def test_a_first_cell_that_installs_nothing_is_told(rehearse):
    wrong, added = rehearse("print(1)", "1\n", first=nbformat.v4.new_code_cell("pass"))
    assert wrong == "its first cell did not install samkit"
    assert added == {}
