"""What is wrong with the built pages: nothing, or they are not published."""

from __future__ import annotations

import functools
import gzip
import re
from pathlib import Path
from urllib.parse import unquote

from tools import tree
from tools.tree import BuildFailed

WEIGHT = 500_000  # bytes that a page may load, compressed, without MathJax


def check() -> None:
    """BuildFailed that says what is wrong with the pages of the book."""
    if wrong := faults(tree.toc_pages(), tree.chapters()):
        raise BuildFailed("\n".join(wrong))


def faults(pages: list[Path], chapters: list[Path]) -> list[str]:
    """What is wrong with the built pages, as a list of sentences."""
    wrong = [
        f"{tree.HTML / name} was not built"
        for name in ("index.html", "search.html", "404.html")
        if not (tree.HTML / name).exists()
    ]
    for style in sorted(tree.HTML.rglob("*.css")):
        elsewhere = r"(?:url\(|@import )[\"']?(?:https?:)?//[^)\"']*"
        if match := re.search(elsewhere, style.read_text(encoding="utf-8")):
            wrong.append(f"{style} asks another machine for {match[0]}")
    for page in pages:
        built = tree.HTML / page.relative_to(tree.ROOT).with_suffix(".html")
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
        if page in chapters and "cell_output" not in source:
            wrong.append(f"{built} shows no output of its cells")
        if re.search(r'<div class="output [^"]*">\s*(?:<div[^>]*>\s*)*</div>', source):
            wrong.append(f"{built} has a cell whose output is empty")
        wrong += [f"{built} asks another machine for {url}" for url in foreign(source)]
        loads = loaded(built, source)
        missing = [path for path in loads if not path.is_file() or not path.stat().st_size]
        wrong += [f"{built} loads {path}, which is missing or empty" for path in missing]
        size = sum(map(compressed, {built, *loads} - {*missing}))
        if size > WEIGHT:
            wrong.append(f"{built} loads {size / 1000:.0f} kB, more than {WEIGHT // 1000}")
    return wrong


def foreign(source: str) -> list[str]:
    """What a page loads from elsewhere: scripts, styles, pictures, frames; links may lead there."""
    loads = r"<(?:script|img|iframe|source|video|audio|embed|object|link)\b[^>]*?"
    tags = re.findall(rf'({loads}\b(?:src|href|data)="((?:https?:)?//[^"]*)"[^>]*>)', source)
    return [url for tag, url in tags if 'rel="canonical"' not in tag]


def loaded(built: Path, source: str) -> set[Path]:
    """The scripts, styles and fonts that a page loads, but for MathJax."""
    tags = re.findall(r'<(?:script|link)\b[^>]*?\b(?:src|href)="([^"#?:]+)', source)
    named = {(built.parent / unquote(name)).resolve() for name in tags}
    files = {path for path in named if path.suffix in (".js", ".mjs", ".css", ".woff2")}
    if "data-samkit-figure" in source:
        files |= {path.resolve() for path in (tree.HTML / "_static").glob("*.mjs")}
    return {path for path in files if path.name != "tex-svg.js"}


@functools.cache
def compressed(path: Path) -> int:
    """Bytes of a file as a server sends it."""
    return len(gzip.compress(path.read_bytes()))
