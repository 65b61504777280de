"""Execute the chapters, build the pages, check them: `python -m tools.book build` (or `serve`).

A chapter is executed when its text, samkit, a library's version or the scale has changed since the
kept execution in _build/executed. Sphinx then only renders: it finds the executed notebooks in its
cache, which looks at a chapter's code alone and would not notice a change in samkit.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path

import jupytext
import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from samkit import claims

SELF = Path(__file__).resolve()
ROOT = SELF.parents[1]
BUILD = ROOT / "_build"
EXECUTED = BUILD / "executed"
HTML = BUILD / "html"
CACHE = BUILD / ".jupyter_cache"
STAMP = BUILD / "stamps" / "book"
MUTANTS = "results/mutants.json"  # which no chapter reads, but a page shows
FINGERPRINT = "samkit_fingerprint"
IGNORED = {"__pycache__", ".ipynb_checkpoints", "checkpoints"}


def toc_pages() -> list[Path]:
    """Every page that _toc.yml names, as a source file in order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"]]
    for part in toc["parts"]:
        names += [chapter["file"] for chapter in part["chapters"]]
    return [ROOT / f"{name}.md" for name in names]


def is_notebook(page: Path) -> bool:
    """Does this page have cells to execute (the jupytext header says so)?"""
    text = page.read_text(encoding="utf-8")
    return text.startswith("---\n") and "format_name: myst" in text.split("\n---\n")[0]


def digest(paths) -> str:
    """One hash over the names and contents of files and folders."""
    total = hashlib.sha256()
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and not IGNORED & set(file.parts):
                total.update(file.relative_to(ROOT).as_posix().encode() + b"\0")
                total.update(file.read_bytes())
    return total.hexdigest()


def environment() -> str:
    """What besides the sources decides an execution: the libraries and the scale."""
    installed = sorted({f"{d.metadata['Name']}=={d.version}" for d in distributions()})
    return "\n".join([*installed, sys.version, os.environ.get("SAMKIT_SCALE", "ci")])


def fingerprint(page: Path) -> str:
    """Changes whenever the page must be executed again."""
    results = [path for path in sorted((ROOT / "results").glob("*")) if path != ROOT / MUTANTS]
    return hashlib.sha256(
        (digest([page, ROOT / "samkit", *results, SELF]) + environment()).encode()
    ).hexdigest()


def executed_path(page: Path) -> Path:
    return EXECUTED / f"{page.stem}.ipynb"


def kept_execution(page: Path):
    """The executed notebook of this page if it is still good, else None."""
    try:
        notebook = nbformat.read(executed_path(page), as_version=4)
    except (OSError, ValueError):
        return None
    return notebook if notebook.metadata.get(FINGERPRINT) == fingerprint(page) else None


class ChapterFailed(Exception):
    """A cell of a chapter raised, or wrote a warning into the page."""


async def execute(page: Path, turn: asyncio.Semaphore, threads: int) -> None:
    """Run a page's cells with a line of progress each; write the result only if all went well."""
    async with turn:
        print(f"{page.stem}: executing", flush=True)
        notebook = jupytext.read(page)
        cells = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
        began = time.perf_counter()

        def progress(cell, cell_index):
            if cell_index in cells:
                seconds = time.perf_counter() - began
                done = cells.index(cell_index) + 1
                print(f"{page.stem}: cell {done}/{len(cells)}, {seconds:.1f} s", flush=True)

        client = NotebookClient(
            notebook,
            timeout=900,
            kernel_name="python3",
            extra_arguments=["--log-level=ERROR"],
            coalesce_streams=True,
            record_timing=False,  # cell metadata is part of what the cache of Sphinx looks at
            resources={"metadata": {"path": str(page.parent)}},
            on_cell_executed=lambda cell, cell_index, execute_reply: progress(cell, cell_index),
        )
        kernel_environment = {
            **os.environ,
            "SAMKIT_BOOK": "1",
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
        }
        async with client.async_setup_kernel(env=kernel_environment):
            try:
                for index, cell in enumerate(notebook.cells):
                    await client.async_execute_cell(cell, index)
            except (CellExecutionError, DeadKernelError) as error:
                raise ChapterFailed(f"\n{page.relative_to(ROOT)} failed:\n{error}") from None
        for cell in notebook.cells:
            for output in cell.get("outputs", ()):
                if output.get("name") == "stderr":
                    raise ChapterFailed(f"\n{page.relative_to(ROOT)} warns:\n{output.text}")
        notebook.metadata[FINGERPRINT] = fingerprint(page)
        write_whole(executed_path(page), nbformat.writes(notebook))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that an interruption leaves the old one or the new one, never a half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


async def execute_stale(pages: list[Path]) -> None:
    """Execute what needs it, as many at a time as there are cores (two at most)."""
    stale = [page for page in pages if kept_execution(page) is None]
    if not stale:
        return
    at_once = min(2, os.cpu_count() or 1, len(stale))
    turn = asyncio.Semaphore(at_once)
    threads = max(1, (os.cpu_count() or 1) // at_once)
    work = [execute(page, turn, threads) for page in stale]
    failures = [end for end in await asyncio.gather(*work, return_exceptions=True) if end]
    for failure in failures:
        if not isinstance(failure, ChapterFailed):
            raise failure
    if failures:
        raise SystemExit("\n".join(map(str, failures)))


def fill_sphinx_cache(pages: list[Path]) -> None:
    """Hand the executed notebooks to Sphinx through its own cache."""
    shutil.rmtree(CACHE, ignore_errors=True)
    cache = get_cache(CACHE)
    for page in pages:
        bundle = CacheBundleIn(kept_execution(page), str(page))
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def render() -> None:
    """Sphinx through jupyter-book, warnings as errors; all pages, since verdicts may differ."""
    command = ["jupyter-book", "build", str(ROOT), "-W", "-n", "--keep-going", "--all"]
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        command,
        env={**os.environ, "PATH": search},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode or "Executing notebook" in result.stdout:
        print(result.stdout)
        raise SystemExit(
            "the pages were not built: see the warnings above"
            if result.returncode
            else "Sphinx executed a chapter by itself: its cache did not match tools/book.py"
        )


def check_pages(pages: list[Path]) -> list[str]:
    """What is wrong with the built pages, as a list of sentences."""
    wrong = []
    for page in pages:
        built = HTML / page.relative_to(ROOT).with_suffix(".html")
        if not built.exists():
            wrong.append(f"{built} was not built")
            continue
        source = built.read_text(encoding="utf-8")
        article = re.search(r"<article.*?</article>", source, re.DOTALL)
        words = len(re.sub(r"<[^>]+>", " ", article[0]).split()) if article else 0
        if words < 40:
            wrong.append(f"{built} has only {words} words of content")
        if "Traceback (most recent call last)" in source:
            wrong.append(f"{built} shows a traceback")
        if is_notebook(page) and "cell_output" not in source:
            wrong.append(f"{built} shows no output of its cells")
    return wrong


def build() -> None:
    pages = toc_pages()
    for page in pages:
        if not page.exists():
            raise SystemExit(f"_toc.yml names {page.relative_to(ROOT)}, which does not exist")
    chapters = [page for page in pages if is_notebook(page)]
    asyncio.run(execute_stale(chapters))
    claims.collect({page.stem: kept_execution(page) for page in chapters})
    inputs = [ROOT / "book", ROOT / "samkit", ROOT / "_config.yml", ROOT / "_toc.yml", EXECUTED]
    inputs += [ROOT / MUTANTS, ROOT / "tests" / "mutants.toml"]
    state = digest(inputs) + environment()
    fresh = STAMP.exists() and STAMP.read_text(encoding="utf-8") == state
    if not fresh or check_pages(pages):
        print("rendering the pages", flush=True)
        fill_sphinx_cache(chapters)
        render()
        if wrong := check_pages(pages):
            raise SystemExit("\n".join(wrong))
        write_whole(STAMP, state)
    print(f"The book is at {HTML / 'index.html'} ({len(pages)} pages). `make serve` shows it.")


def server(port: int = 0) -> http.server.ThreadingHTTPServer:
    """A web server on this machine for the built pages (0: any free port)."""
    handler = functools.partial(QuietHandler, directory=HTML)
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def log_message(self, *args):
        pass


def serve(port: int = 8000) -> None:
    with server(port) as running:
        print(f"The book is at http://127.0.0.1:{running.server_port} (Ctrl-C to stop)")
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()


if __name__ == "__main__":
    if sys.argv[1:] not in (["build"], ["serve"]):
        raise SystemExit(__doc__)
    {"build": build, "serve": serve}[sys.argv[1]]()
