"""Execute the chapters that need it, and keep what came out in _build/executed.

A chapter is executed again when the code of its cells has changed (not its words), or something
that its kernel used: modules of samkit (not their comments and docstrings, unless the chapter shows
them), recorded runs, libraries, the scale. What a kernel used is known from the last execution. The
executions of different scales are kept side by side.

A chapter runs in nbclient, two at a time. It is kept whole or not at all.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import nbformat
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from samkit.paper import claims, experiments, records
from tools import tree
from tools.meaning import statements
from tools.tree import BuildFailed

CELL = re.compile(r"^```\{code-cell\}.*?^```$", re.MULTILINE | re.DOTALL)
PASSED_OVER = {".venv", ".git", "_build", "__pycache__", "samkit.egg-info"}  # made, not written

# In the kernel, before the cells and after them: which files of this tree it has opened, which
# modules it has loaded, and the text of which it has shown, as inspect and tracebacks do.
BEFORE = """exec('''
import os, sys
sys._opened = set()
def listen(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and not arguments[2] & os.O_ACCMODE:
        sys._opened.add(os.path.abspath(arguments[0]))
sys.addaudithook(listen)
''', {})"""
AFTER = """__import__("json").dumps({
    "opened": sorted(__import__("sys")._opened),
    "loaded": [m.__file__ for m in [*__import__("sys").modules.values()]
               if getattr(m, "__file__", None)],
    "shown": [name for name, entry in __import__("linecache").cache.items() if len(entry) > 1],
})"""


def folder() -> Path:
    """Where the executions of today's scale are kept."""
    return tree.BUILD / "executed" / experiments.scale()


def executed_path(page: Path) -> Path:
    return folder() / f"{page.stem}.ipynb"


def digest(*parts: str | bytes) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part.encode() if isinstance(part, str) else part)
        total.update(b"\0")
    return total.hexdigest()


@functools.cache
def libraries(name: str, extra: str) -> tuple[str, ...]:
    """A package with an extra and all that they require, as installed, such as "numpy==2.4.6"."""
    versions: dict[str, str] = {}
    seen, waiting = set(), [(name, ""), (name, extra)]
    while waiting:
        name, extra = waiting.pop()
        if (canonicalize_name(name), extra) in seen:
            continue
        seen.add((canonicalize_name(name), extra))
        try:
            package = distribution(name)
        except PackageNotFoundError:  # for other systems, or not asked for
            continue
        versions[canonicalize_name(name)] = package.version
        for needed in map(Requirement, package.requires or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed.name, part) for part in ("", *needed.extras)]
    return tuple(sorted(f"{name}=={version}" for name, version in versions.items()))


def environment() -> str:
    """What besides the files decides an execution: the libraries, the scale, which runs are there.

    The names of recorded runs, since a chapter may look whether there are some.
    """
    recorded = sorted(path.name for path in records.folder().glob("*.jsonl"))
    return "\n".join([*libraries("samkit", "book"), sys.version, experiments.scale(), *recorded])


def code(page: Path) -> str:
    """The cells of a page and its header, and none of its words."""
    cells = CELL.findall(page.read_text(encoding="utf-8"))
    return digest(tree.header(page), *cells)


def used(report: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    """The files of this tree that a kernel used, each with a hash of its content.

    A module that was loaded and not shown has one of its meaning too.
    """
    shown, loaded = set(report["shown"]), set(report["loaded"])
    entries = {}
    for name in sorted({*report["opened"], *loaded, *shown}):
        path = Path(name)
        ours = path.is_relative_to(tree.ROOT) or path.is_relative_to(records.folder())
        relative = path.relative_to(tree.ROOT) if path.is_relative_to(tree.ROOT) else path
        if not ours or PASSED_OVER & set(relative.parts) or not path.is_file():
            continue
        content = path.read_bytes()
        entry = {"content": digest(content)}
        if path.suffix == ".py" and name in loaded and name not in shown:
            entry["meaning"] = digest(*statements(content.decode()))
        entries[relative.as_posix()] = entry
    return entries


def unchanged(name: str, entry: dict[str, str]) -> bool:
    """Does this file do what it did?"""
    path = tree.ROOT / name
    if not path.is_file():
        return False
    content = path.read_bytes()
    if digest(content) == entry["content"]:
        return True
    try:
        return "meaning" in entry and digest(*statements(content.decode())) == entry["meaning"]
    except SyntaxError:
        return False


def is_kept(page: Path) -> bool:
    """Is there an execution of this page that is still good?"""
    path, facts = executed_path(page), executed_path(page).with_suffix(".json")
    try:
        content, known = path.read_bytes(), json.loads(facts.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except ValueError:
        content, known = b"", {}
    if not isinstance(known, dict) or known.get("notebook") != digest(content):
        print(f"{path} is damaged: the chapter is executed again")
        path.unlink()
        return False
    return (known["code"], known["environment"]) == (code(page), digest(environment())) and all(
        unchanged(name, entry) for name, entry in known["used"].items()
    )


def kept_execution(page: Path) -> nbformat.NotebookNode:
    """The page as it is now, with the outputs of its kept execution."""
    import jupytext

    notebook = jupytext.read(page)
    executed = nbformat.read(executed_path(page), as_version=4)
    outputs = [cell for cell in executed.cells if cell.cell_type == "code"]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell, ran in zip(cells, outputs, strict=True):
        cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    return notebook


async def execute(page: Path, turn: asyncio.Semaphore) -> None:
    """Run a page's cells with a line of progress each; keep the result only if all went well."""
    import jupytext
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    async with turn:
        print(f"{page.stem}: executing", flush=True)
        began, clock = time.time(), time.perf_counter()
        state, notebook = code(page), jupytext.read(page)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        if len(cells) != len(CELL.findall(page.read_text(encoding="utf-8"))):
            raise BuildFailed(f"{page}: write each cell as ```{{code-cell}} ... ```")
        client = NotebookClient(
            notebook,
            timeout=900,
            kernel_name="python3",
            extra_arguments=["--log-level=ERROR"],
            coalesce_streams=True,
            record_timing=False,  # cell metadata is part of what the cache of Sphinx looks at
            resources={"metadata": {"path": str(page.parent)}},
        )
        # what the kernel itself says matters if it dies, not when it is told to stop
        with tempfile.TemporaryFile() as words:
            kernel = client.create_kernel_manager()
            try:  # nbclient's own setup would take Ctrl-C for itself
                await client.async_start_new_kernel(env=kernel_environment(), stderr=words)
                await client.async_start_new_kernel_client()
                await client.kc.execute_interactive(BEFORE, silent=True)
                for done, cell in enumerate(cells, 1):
                    await client.async_execute_cell(cell, notebook.cells.index(cell))
                    seconds = time.perf_counter() - clock
                    print(f"{page.stem}: cell {done}/{len(cells)}, {seconds:.1f} s", flush=True)
                ask = {"user_expressions": {"report": AFTER}}
                reply = await client.kc.execute_interactive("", silent=True, **ask)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                words.seek(0)
                last = words.read().decode(errors="replace")[-2000:]
                raise BuildFailed(
                    f"\n{page.relative_to(tree.ROOT)} failed: correct the chapter, or what the "
                    f"error below names.\n{error}\n{last}"
                ) from None
            finally:
                if client.kc is not None:
                    client.kc.stop_channels()
                if kernel.has_kernel:
                    await kernel.shutdown_kernel(now=True)
        for cell in cells:
            for output in cell.outputs:
                if output.get("name") == "stderr":
                    raise BuildFailed(f"\n{page.relative_to(tree.ROOT)} warns:\n{output.text}")
        keep(page, notebook, state, reply, began)


def keep(page: Path, notebook: Any, state: str, reply: Any, began: float) -> None:
    """Write an execution, and beside it what it was made of."""
    said = reply["content"]["user_expressions"]["report"]["data"]["text/plain"]
    entries = used(json.loads(ast.literal_eval(said)))
    if late := [name for name in entries if (tree.ROOT / name).stat().st_mtime > began]:
        raise BuildFailed(
            f"{', '.join(late)} changed while {page.stem} was executed: run the same command again"
        )
    text = nbformat.writes(notebook)
    facts = {"code": state, "environment": digest(environment()), "used": entries}
    tree.write_whole(executed_path(page), text)
    facts["notebook"] = digest(text)
    tree.write_whole(executed_path(page).with_suffix(".json"), json.dumps(facts, indent=1))


def kernel_environment() -> dict[str, str]:
    """This tree's samkit and no other, and one thread."""
    return {
        **os.environ,
        "SAMKIT_BOOK": "1",
        "PYTHONPATH": str(tree.ROOT),
        # a second thread gains little on small networks, and costs much where a core is busy
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    }


def execute_stale(pages: Iterable[Path]) -> None:
    """Execute what needs it, as many at a time as there are cores (two at most)."""
    pages = list(pages)
    known_at_once(pages)
    if stale := [page for page in pages if not is_kept(page)]:
        asyncio.run(execute_all(stale))


async def execute_all(pages: list[Path]) -> None:
    for name in ("MPLCONFIGDIR", "IPYTHONDIR"):  # there may be no home that can be written
        own = tree.BUILD / "home" / name
        own.mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(own)
    turn = asyncio.Semaphore(min(2, os.cpu_count() or 1))
    ends = await asyncio.gather(*(execute(page, turn) for page in pages), return_exceptions=True)
    failures = [end for end in ends if end is not None]
    for failure in failures:
        if not isinstance(failure, BuildFailed):
            raise failure
    if failures:
        raise BuildFailed("\n".join(map(str, failures)))


def known_at_once(pages: Iterable[Path]) -> None:
    """BuildFailed for what would stop the chapters, before minutes are spent on them."""
    try:
        experiments.scale()
    except ValueError as error:
        raise BuildFailed(str(error)) from None
    for entry in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        other = Path(entry).resolve() / "samkit" / "__init__.py"
        if other.exists() and other.parents[1] != tree.ROOT:
            raise BuildFailed(
                f"PYTHONPATH names {entry}, which holds another samkit than {tree.ROOT}: unset it, "
                "or build there"
            )
    try:
        folder().mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder()).close()
    except OSError as error:
        raise tree.unwritable(folder(), error) from None
    listed = subprocess.run(
        ["git", "ls-files", "results"], cwd=tree.ROOT, capture_output=True, text=True
    )
    published = {Path(name).name for name in listed.stdout.splitlines()}
    chapters = {page.stem for page in pages}
    rows = [row for row in claims.ledger().values() if row.chapter in chapters]
    for name in sorted(published & {name for row in rows for name in row.records}):
        if not (records.folder() / name).exists():
            raise BuildFailed(
                f"no {records.folder() / name}, which a chapter reads. Records come with the "
                "repository: restore it, `git restore results`, or set SAMKIT_RESULTS to the "
                "folder that holds it"
            )


def forget_strangers(pages: list[Path]) -> None:
    """Remove the executions of chapters that are no more, and halves that a crash has left."""
    kept = {executed_path(page).with_suffix(end) for page in pages for end in (".ipynb", ".json")}
    for path in set(folder().glob("*")) - kept:
        path.unlink()
