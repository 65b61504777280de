"""Render the pages with Sphinx, through jupyter-book, from the executions that are kept.

All pages are written anew, into an empty folder, unless only the words of some have changed: no
execution, no extension, no setting, and no page is new or gone. Then Sphinx reads these again, and
writes them and what shows something of them (book/_ext/changed_pages.py).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat

from tools import execute, notebooks, tree
from tools.tree import BuildFailed

CACHE = tree.BUILD / ".jupyter_cache"
STAMP = tree.BUILD / "stamps" / "book"
SETTINGS = ("_config.yml", "_toc.yml", "pyproject.toml", "samkit", "tools")
SETTINGS += ("results/mutants.json", "tests/mutants.toml", "tests/survivors.toml")


def files(*names: str) -> list[Path]:
    """The files of these folders, and these files themselves."""
    found = []
    for path in (tree.ROOT / name for name in names):
        found += sorted(path.rglob("*")) if path.is_dir() else [path]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def state(chapters: list[Path]) -> dict[str, str]:
    """What the pages are made of: a hash of each source and one of all the rest."""
    sources = [path for path in files("book") if path.suffix == ".md"]
    rest = [path for path in files("book", *SETTINGS) if path not in sources]
    rest += [execute.executed_path(page) for page in chapters]
    day = int(commit_time()) // 86400  # stands on every page
    parts = [b"%s" % str(path).encode() + path.read_bytes() for path in rest]
    everything = execute.digest(execute.environment(), str(day), *parts)
    texts = {path.name: execute.digest(path.read_bytes()) for path in sources}
    return {"everything else": everything, **texts}


def commit_time() -> str:
    """When the commit was made that is built, in seconds; now where there is no repository."""
    command = ["git", "log", "-1", "--format=%ct"]
    try:
        return subprocess.run(
            command, cwd=tree.ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return str(int(time.time()))


def rendered() -> dict[str, str]:
    """The state of the pages that are there; none if they were not finished."""
    try:
        return json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def render(chapters: list[Path], now: dict[str, str], *, anew: bool = False) -> None:
    """Bring the pages to the state ``now``; ``anew``, where they are not as they were written."""
    before = rendered()
    STAMP.unlink(missing_ok=True)  # what it vouches for is about to change
    name = "everything else"
    if anew or before.get(name) != now[name] or before.keys() != now.keys():
        for folder in (tree.HTML, tree.BUILD / ".doctrees", tree.BUILD / "jupyter_execute"):
            shutil.rmtree(folder, ignore_errors=True)
    fill_sphinx_cache(chapters)
    sphinx()
    for page in chapters:  # the executed notebooks are published beside the pages
        text = nbformat.writes(notebooks.executed(page))
        tree.write_whole(tree.HTML / "executed" / f"{page.stem}.ipynb", text)


def fill_sphinx_cache(chapters: list[Path]) -> None:
    """Hand the executed notebooks to Sphinx through its own cache, begun anew."""
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn
    from sqlalchemy.exc import SQLAlchemyError

    shutil.rmtree(CACHE, ignore_errors=True)
    try:
        cache = get_cache(CACHE)
        for page in chapters:
            bundle = CacheBundleIn(execute.kept_execution(page), str(page))
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    except (OSError, SQLAlchemyError) as error:
        raise tree.unwritable(CACHE, error) from None


def sphinx() -> None:
    """Sphinx through jupyter-book, warnings as errors."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    own = {"PATH": search, "PYTHONPATH": str(tree.ROOT), "SOURCE_DATE_EPOCH": commit_time()}
    result = subprocess.run(
        ["jupyter-book", "build", str(tree.ROOT), "-W", "-n", "--keep-going"],
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode or "Executing notebook" in result.stdout:
        print(result.stdout)
        if os.strerror(errno.ENOSPC) in result.stdout:
            raise BuildFailed(f"{tree.BUILD} could not be written: make room there and build again")
        raise BuildFailed(
            "the pages were not built: correct what the warnings above name"
            if result.returncode
            else "Sphinx executed a chapter by itself: its cache did not match tools/execute.py"
        )
