"""Execute the chapters, build the pages, check them: `python -m tools.book build`, check or serve.

A chapter is executed when its text, samkit, a library's version or the scale has changed since the
kept execution in _build/executed. Sphinx then only renders: it finds the executed notebooks in its
cache, which looks at a chapter's code alone and would not notice a change in samkit.

The build may be interrupted anywhere: an execution is kept whole or not at all, pages are rendered
into an empty folder, and the stamp that calls them finished is written last.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import gzip
import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import jupytext
import nbformat
import yaml
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sqlalchemy.exc import SQLAlchemyError

from samkit.paper import claims

SELF = Path(__file__).resolve()
ROOT = SELF.parents[1]
BUILD = ROOT / "_build"
EXECUTED = BUILD / "executed"
HTML = BUILD / "html"
CACHE = BUILD / ".jupyter_cache"
STAMP = BUILD / "stamps" / "book"
MUTANTS = [  # which no chapter reads, but a page shows
    ROOT / "results" / f"{record}.json" for record in ("mutants", "mutation_score")
]
FINGERPRINT = "samkit_fingerprint"
IGNORED = {"__pycache__", ".ipynb_checkpoints", "checkpoints"}
WEIGHT = 500_000  # bytes that a page may load, compressed, without MathJax


class BuildFailed(Exception):
    """What stops a build: its words name the file and the cure."""


def toc_pages() -> list[Path]:
    """Every page that _toc.yml names, as a source file in order."""
    try:
        toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise BuildFailed(f"_toc.yml cannot be read: mend it.\n{error}") from None
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


def libraries(name: str, extra: str) -> list[str]:
    """A package with an extra and all that they require, as installed, such as "numpy==2.4.6"."""
    found: dict[str, str] = {}
    seen, waiting = set(), [(name, ""), (name, extra)]
    while waiting:
        name, extra = waiting.pop()
        if (canonicalize_name(name), extra) in seen:
            continue
        seen.add((canonicalize_name(name), extra))
        try:
            package = distribution(name)
        except PackageNotFoundError:  # wanted on other systems, or without need
            continue
        found[canonicalize_name(name)] = package.version
        for needed in map(Requirement, package.requires or ()):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                waiting += [(needed.name, part) for part in ("", *needed.extras)]
    return sorted(f"{name}=={version}" for name, version in found.items())


def environment() -> str:
    """What besides the sources decides an execution: the libraries and the scale."""
    scale = os.environ.get("SAMKIT_SCALE", "ci")
    return "\n".join([*libraries("samkit", "book"), sys.version, scale])


def fingerprint(page: Path) -> str:
    """Changes whenever the page must be executed again."""
    results = [path for path in sorted((ROOT / "results").glob("*")) if path not in MUTANTS]
    return hashlib.sha256(
        (digest([page, ROOT / "samkit", *results, SELF]) + environment()).encode()
    ).hexdigest()


def executed_path(page: Path) -> Path:
    return EXECUTED / f"{page.stem}.ipynb"


def kept_execution(page: Path):
    """The executed notebook of this page if it is still good, else None."""
    path = executed_path(page)
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a damaged file makes of the reader
        print(f"{path} is damaged ({type(error).__name__}): the chapter is executed again")
        path.unlink()
        return None
    return notebook if notebook.metadata.get(FINGERPRINT) == fingerprint(page) else None


async def execute(page: Path, turn: asyncio.Semaphore) -> None:
    """Run a page's cells with a line of progress each; write the result only if all went well."""
    async with turn:
        print(f"{page.stem}: executing", flush=True)
        notebook, state = jupytext.read(page), fingerprint(page)
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
            # a second thread gains little on small networks, and costs much where a core is busy
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
        }
        # what the kernel itself says matters if it dies, not when it is told to stop
        with tempfile.TemporaryFile() as words:
            async with client.async_setup_kernel(env=kernel_environment, stderr=words):
                try:
                    for index, cell in enumerate(notebook.cells):
                        await client.async_execute_cell(cell, index)
                except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                    words.seek(0)
                    last = words.read().decode(errors="replace")[-2000:]
                    raise BuildFailed(
                        f"\n{page.relative_to(ROOT)} failed: mend the chapter, or what the error "
                        f"below names.\n{error}\n{last}"
                    ) from None
        for cell in notebook.cells:
            for output in cell.get("outputs", ()):
                if output.get("name") == "stderr":
                    raise BuildFailed(f"\n{page.relative_to(ROOT)} warns:\n{output.text}")
        notebook.metadata[FINGERPRINT] = state
        write_whole(executed_path(page), nbformat.writes(notebook))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that an interruption leaves the old one or the new one, never a half.

    Raises BuildFailed when the disk does not take it.
    """
    temporary = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        if temporary.is_file():
            temporary.unlink()
        raise BuildFailed(
            f"{path} could not be written ({error.strerror}). Make room or give access there and "
            "run the same command again: finished chapters are kept"
        ) from None


async def execute_stale(pages: list[Path]) -> None:
    """Execute what needs it, as many at a time as there are cores (two at most)."""
    stale = [page for page in pages if kept_execution(page) is None]
    if not stale:
        return
    at_once = min(2, os.cpu_count() or 1, len(stale))
    turn = asyncio.Semaphore(at_once)
    work = [execute(page, turn) for page in stale]
    failures = [end for end in await asyncio.gather(*work, return_exceptions=True) if end]
    for failure in failures:
        if not isinstance(failure, BuildFailed):
            raise failure
    if failures:
        raise BuildFailed("\n".join(map(str, failures)))


def forget_strangers(pages: list[Path]) -> None:
    """Remove the executions of chapters that are no more, and halves that a crash has left."""
    kept = {executed_path(page) for page in pages}
    for path in set(EXECUTED.glob("*")) - kept:
        path.unlink()


def fill_sphinx_cache(pages: list[Path]) -> None:
    """Hand the executed notebooks to Sphinx through its own cache, begun anew."""
    shutil.rmtree(CACHE, ignore_errors=True)
    try:
        cache = get_cache(CACHE)
        for page in pages:
            bundle = CacheBundleIn(kept_execution(page), str(page))
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    except (OSError, SQLAlchemyError) as error:
        raise BuildFailed(
            f"{CACHE} could not be written ({error}). Make room or give access there and run the "
            "same command again: finished chapters are kept"
        ) from None


def commit_time() -> str:
    """When the commit was made that is built, in seconds; now where there is no repository."""
    command = ["git", "log", "-1", "--format=%ct"]
    try:
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return str(int(time.time()))


def render() -> None:
    """Sphinx through jupyter-book into empty folders, warnings as errors."""
    for folder in (HTML, *(BUILD / name for name in (".doctrees", "jupyter_execute"))):
        shutil.rmtree(folder, ignore_errors=True)
    command = ["jupyter-book", "build", str(ROOT), "-W", "-n", "--keep-going"]
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        command,
        env={**os.environ, "PATH": search, "SOURCE_DATE_EPOCH": commit_time()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode or "Executing notebook" in result.stdout:
        print(result.stdout)
        if os.strerror(errno.ENOSPC) in result.stdout:
            raise BuildFailed(f"{BUILD} could not be written: make room there and build again")
        raise BuildFailed(
            "the pages were not built: mend what the warnings above name"
            if result.returncode
            else "Sphinx executed a chapter by itself: its cache did not match tools/book.py"
        )


def check_pages(pages: list[Path]) -> list[str]:
    """What is wrong with the built pages, as a list of sentences; nothing wrong: publish them."""
    wrong = [
        f"{HTML / name} was not built"
        for name in ("index.html", "search.html", "404.html")
        if not (HTML / name).exists()
    ]
    for style in sorted(HTML.rglob("*.css")):
        if found := re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)\"']*", style.read_text()):
            wrong.append(f"{style} asks another machine for {found[0]}")
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
        if re.search(r'<div class="output [^"]*">\s*(?:<div[^>]*>\s*)*</div>', source):
            wrong.append(f"{built} has a cell whose output is empty")
        wrong += [f"{built} asks another machine for {url}" for url in foreign(source)]
        if (size := weight(built)) > WEIGHT:
            wrong.append(f"{built} loads {size / 1000:.0f} kB, more than {WEIGHT // 1000}")
    return wrong


def foreign(source: str) -> list[str]:
    """What a page loads from elsewhere: scripts, styles, pictures, frames; links may lead there."""
    loads = r"<(?:script|img|iframe|source|video|audio|embed|object|link)\b[^>]*?"
    found = re.findall(rf'({loads}\b(?:src|href|data)="((?:https?:)?//[^"]*)"[^>]*>)', source)
    return [url for tag, url in found if 'rel="canonical"' not in tag]


def weight(built: Path) -> int:
    """Bytes of a page and of all that it loads, each file compressed, without MathJax."""
    source = built.read_text(encoding="utf-8")
    named = {built.parent / name for name in re.findall(r'(?:src|href)="([^"#?:]+)', source)}
    files = {path.resolve() for path in named if path.suffix in (".js", ".mjs", ".css", ".woff2")}
    if "data-samkit-figure" in source:
        files |= {path.resolve() for path in (HTML / "_static").glob("*.mjs")}
    files = {path for path in files if path.is_file() and path.name != "tex-svg.js"}
    return sum(len(gzip.compress(path.read_bytes())) for path in (built, *files))


def build() -> None:
    pages = toc_pages()
    for page in pages:
        if not page.exists():
            raise BuildFailed(
                f"_toc.yml names {page.relative_to(ROOT)}, which does not exist: write it, or take "
                "the line out"
            )
    chapters = [page for page in pages if is_notebook(page)]
    forget_strangers(chapters)
    asyncio.run(execute_stale(chapters))
    executed = {page.stem: kept_execution(page) for page in chapters}
    if changed := [name for name, notebook in executed.items() if notebook is None]:
        raise BuildFailed(
            f"samkit, a package or {', '.join(changed)} changed while the book was built: run the "
            "same command again"
        )
    claims.collect(executed)
    settings = [ROOT / name for name in ("_config.yml", "_toc.yml", "pyproject.toml")]
    inputs = [ROOT / "book", ROOT / "samkit", *settings, EXECUTED]
    inputs += [*MUTANTS, ROOT / "tests" / "mutants.toml"]
    day = int(commit_time()) // 86400  # stands on every page
    state = f"{digest(inputs)}{environment()}\n{day}"
    fresh = STAMP.exists() and STAMP.read_bytes() == state.encode()
    if not fresh or check_pages(pages):
        print("rendering the pages", flush=True)
        STAMP.unlink(missing_ok=True)  # what it vouches for is about to change
        fill_sphinx_cache(chapters)
        render()
        copy_executions(chapters)
        check()
        write_whole(STAMP, state)
    print(f"The book is at {HTML / 'index.html'} ({len(pages)} pages). `make serve` shows it.")


def copy_executions(chapters: list[Path]) -> None:
    """The executed notebooks are published beside the pages, in executed/."""
    for page in chapters:
        write_whole(
            HTML / "executed" / f"{page.stem}.ipynb", executed_path(page).read_text("utf-8")
        )


def check() -> None:
    """The gate before publishing: BuildFailed that says what is wrong with the built pages."""
    if wrong := check_pages(toc_pages()):
        raise BuildFailed("\n".join(wrong))


def server(port: int = 0) -> http.server.ThreadingHTTPServer:
    """A web server on this machine for the built pages (0: any free port)."""
    handler = functools.partial(QuietHandler, directory=HTML)
    return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {  # noqa: RUF012
        **http.server.SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
    }

    def send_error(self, code, message=None, explain=None):
        """A page that is not there is answered as by the hosts of static pages: with 404.html."""
        page = HTML / "404.html"
        if code != 404 or not page.exists():
            super().send_error(code, message, explain)
            return
        content = page.read_bytes()
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


def serve(port: int = 8000) -> None:
    with server(port) as running:
        print(f"The book is at http://127.0.0.1:{running.server_port} (Ctrl-C to stop)")
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()


def run(command: Callable[[], None]) -> None:
    """A command to its end: a failure ends it with its words and the exit code 1."""
    try:
        command()
    except BuildFailed as failure:
        raise SystemExit(str(failure)) from None
    except KeyboardInterrupt:
        print("interrupted: finished chapters are kept, the same command goes on", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    commands = {"build": build, "check": check, "serve": serve}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise SystemExit(__doc__)
    run(commands[sys.argv[1]])
