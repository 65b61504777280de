"""What tools want to read beside the code agrees with it, and workflows call what is here."""

from __future__ import annotations

import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import samkit

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
BOUNDS = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.mark.parametrize("bound", [Requirement(b) for b in BOUNDS], ids=str)
def test_the_tested_versions_are_within_the_bounds(bound):
    if bound.name != "samkit":
        assert bound.specifier.contains(constraints()[canonicalize_name(bound.name)])


def test_conda_and_binder_get_what_pip_gets():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, by_pip = environment["dependencies"]
    assert (environment["name"], pip) == ("samkit", "pip")
    assert by_pip == {"pip": ["-c constraints.txt", "-e .[book]"]}
    assert "book" in PROJECT["optional-dependencies"]
    version = python.removeprefix("python=")  # an exact one, as Binder wants it
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    tested = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert f'python-version: "{version}"' in tested


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert str(citation["version"]) == newest[1] == samkit.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", samkit.__version__)
    released = "(unreleased)" not in newest.string.split(newest[0])[1].splitlines()[0]
    assert released == ("date-released" in citation)


def test_every_address_of_the_repository_is_that_of_pyproject():
    """Written out where a registry reads it, else derived from pyproject.toml."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.splitlines() or [str(p.relative_to(ROOT)) for p in ROOT.rglob("*.toml")]
    name = PROJECT["name"]
    address = re.compile(
        r"(?:(?:github|gitlab|codeberg)\.(?:com|org|io)|raw\.githubusercontent\.com)/([\w.-]+)/"
        rf"{name}\b|([\w.-]+)\.github\.io/{name}\b"
    )
    owner = PROJECT["urls"]["Repository"].split("/")[-2]
    for file in (f for f in names if not f.startswith("notebooks/")):  # generated
        content = (ROOT / file).read_bytes() if (ROOT / file).is_file() else b""
        for match in address.finditer(content.decode("utf-8", "ignore")):
            assert (match[1] or match[2]) == owner, f"{file}: {match[0]}"
            assert file in ("pyproject.toml", "README.md", "codemeta.json"), (
                f"{file}: derive it from pyproject.toml"
            )


def test_the_page_in_a_registry_is_whole():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme)
    assert pictures and all(address.startswith("https://") for address in pictures)
    for address in pictures:
        assert (ROOT / address.partition("/main/")[2]).is_file(), address
    for extra in ("torch", "fast", "data", "figures", "interactive", "experiments"):
        assert extra in PROJECT["optional-dependencies"] and f"`{extra}`" in readme, extra
    assert {"Documentation", "Changelog", "Issues", "Paper"} <= set(PROJECT["urls"])
    assert PROJECT["authors"] and PROJECT["keywords"]
    versions = [c for c in PROJECT["classifiers"] if c.startswith("Programming Language :: Python")]
    assert f"Programming Language :: Python :: {PROJECT['requires-python'][2:]}" in versions


def test_the_lines_for_frameworks_are_those_of_the_tested_recipes():
    chapter = (ROOT / "book" / "14-optimizers.md").read_text(encoding="utf-8")
    recipes = dict(re.findall(r"^# recipe: (\w+)\n(.*?)^```", chapter, re.M | re.S))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = dict(re.findall(r"^\|.*\| (\w+) \| `(.*)` \|$", readme, re.M))
    assert lines.keys() == recipes.keys()
    for name, line in lines.items():
        assert f"    {line}\n" in recipes[name], name


def test_every_source_has_a_doi():
    entries = (ROOT / "book" / "references.bib").read_text().split("\n@")
    for entry in entries:
        assert re.search(r"doi = \{10\.\d{4,}/\S+\}", entry), entry.splitlines()[0]
        eprint = re.search(r"eprint = \{(\S+)\}", entry)
        if eprint and "10.48550/" in entry:
            assert f"10.48550/arXiv.{eprint[1]}}}" in entry


def runs(workflow: Path) -> list[str]:
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_calls_what_is_here(workflow):
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in runs(workflow):
        program, *arguments = command.split()
        if program == "make":
            assert set(a for a in arguments if "=" not in a) <= set(targets), command
        elif command.startswith("pytest "):  # not python -m, which would test the checkout
            path, *paths = command.removeprefix("pytest -o ").split()
            assert path == "pythonpath=tests"
            assert all((ROOT / path).exists() for path in paths), command
        elif extras := re.search(r"pip install .*\.\[([\w,]+)\] hypothesis pytest$", command):
            assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
        else:
            known = (
                "python -m pip install uv",
                "gh release create",
                ".venv/bin/python -m samkit run all --scale ci",
            )
            assert command.startswith(known), f"{command}: unknown here"


def test_the_promises_are_kept_by_workflows():
    commands = {path.stem: runs(path) for path in WORKFLOWS}
    order = [
        commands["tests"].index(f"make {target}") for target in ("book", "test", "nbval", "gate")
    ]
    assert order == sorted(order)
    assert {"make links", "make CONSTRAINTS= test", "make test"} <= set(commands["weekly"])
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())["jobs"]
    release = commands["release"]
    promised = ["book", "test", "nbval", "gate", "archive"]
    assert release[:5] == [f"make {target}" for target in promised]
    assert "dist/samkit-${TAG#v}.zip" in release[5]
    assert set(jobs["publish"]["needs"]) == set(jobs) - {"publish"}
    assert re.search(
        r"make COLAB_PACKAGES=https://\S+ colab\n", "\n".join(commands["weekly"]) + "\n"
    )
    systems = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text())
    matrix = systems["jobs"]["package"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md"])
def test_what_the_pages_for_developers_name_is_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for name in re.findall(r"`((?:[\w.-]+/)+[\w.-]*|[\w.-]+\.(?:py|md|toml|yml|txt))`", text):
        assert name == "esm/" or (ROOT / name).exists(), name
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in re.findall(r"(?:^|`)make ((?:[A-Z]+=\S+ )?[a-z ]+)", text, re.MULTILINE):
        named = [word for word in words.split("  ")[0].split() if "=" not in word]
        assert set(named) <= set(targets), words


def test_another_python_than_the_one_that_is_installed_is_refused(tmp_path):
    for name, version in (("python", "3.11"), ("other", "3.13")):
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho {version}\n")
        path.chmod(0o755)

    def make(python):
        command = ["make", "-n", "help", f"VENV={tmp_path}", f"PYTHON={tmp_path}/bin/{python}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    refused = make("other")
    assert refused.returncode == 2
    assert "holds Python 3.11, not" in refused.stderr and "make clean" in refused.stderr
    assert make("python").returncode == 0


def test_every_target_says_what_it_is_for():
    said = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    assert sorted(re.findall(r"^  make (\w+)  +\S", said, re.MULTILINE)) == sorted(phony)
