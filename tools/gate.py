"""What is wrong with the built pages: nothing, or they are not published.

`check` and `faults` read the files, at the end of every build. What a reader sees, a browser
measures: `python -m tools.gate` prints it for each page, in Chromium, or in Firefox with
`python -m tools.gate firefox`.
"""

from __future__ import annotations

import functools
import gzip
import re
import sys
from collections import Counter
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean
from typing import Any, Protocol
from urllib.parse import unquote, urljoin, urlsplit

from tools import tree
from tools.tree import BuildFailed

WEIGHT = 500_000  # bytes that a page may load, compressed, without MathJax
CODE = 0.15  # of the height of the chapters, on average: code and raw output in sight
FIRST_FIGURE = 1200  # pixels from the top of a chapter: a screen and a half
SLIDER = 250  # pixels
WIDTHS = (390, 1280, 1440, 1920)  # of windows in which nothing may be cut
DESK = 1280


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
        if (size := weight(built)) > WEIGHT:
            wrong.append(f"{built} loads {size / 1000:.0f} kB, more than {WEIGHT // 1000}")
    return wrong


def weight(built: Path) -> int:
    """Bytes that a page loads, as a server sends them, without MathJax."""
    files = {built, *loaded(built, built.read_text(encoding="utf-8"))}
    return sum(compressed(path) for path in files if path.is_file())


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


# --- the source of a page -------------------------------------------------------------------------


class Source(HTMLParser):
    """The links of a page, those in drawings too, and the ids that a link may name."""

    WORDS = ("p", "summary", "button", "label", "h1", "h2", "h3", "h4", "h5", "h6")
    BLOCKS = ("p", "div", "table", "ul", "ol", "dl", "pre", "section", "details", "figure")

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.ids: Counter[str] = Counter()
        self.misplaced: list[str] = []  # a block where only words may stand
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if given.get("id"):
            self.ids[given["id"]] += 1
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if self._inside and tag in self.BLOCKS:
            self.misplaced.append(f"<{tag}> in <{self._inside[-1]}>, line {self.getpos()[0]}")
        if tag in self.WORDS:
            self._inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass


@functools.cache
def source(path: str) -> Source:
    """Of a page below the root of the site."""
    return Source((tree.HTML / path).read_text(encoding="utf-8"))


def broken_links(path: str) -> list[str]:
    """The links of a page within the book that lead to no file, or to no place in it."""
    broken = []
    for link in source(path).links:
        url = urlsplit(urljoin(f"http://site/{path}", link))
        if url.netloc != "site":
            continue
        target, place = unquote(url.path).lstrip("/"), unquote(url.fragment)
        there = (tree.HTML / target).is_file()
        if not there or (place and target.endswith(".html") and place not in source(target).ids):
            broken.append(link)
    return broken


def invalid(path: str) -> list[str]:
    """What is no HTML in a page: errors of its syntax, an id twice, a block among words."""
    from tinyhtml5.parser import HTMLParser as Parser

    parser = Parser()
    parser.parse((tree.HTML / path).read_text(encoding="utf-8"))
    wrong = [f"line {line}: {error}" for (line, _), error, _ in parser.errors]
    wrong += [f"id {name} {times} times" for name, times in source(path).ids.items() if times > 1]
    return wrong + source(path).misplaced


# --- what a browser measures ----------------------------------------------------------------------


class Tab(Protocol):
    """A page in a browser."""

    def goto(self, address: str) -> None: ...

    def resize(self, width: int) -> None: ...

    def evaluate(self, function: str) -> Any:
        """What a function of JavaScript returns, once it has: `async () => ...`."""


# Every figure stands in its picture's place, every formula is set, those out of sight too.
READY = """async () => {
  const frame = () => new Promise(requestAnimationFrame);
  const waits = "[data-samkit-figure]:not([data-mounted]), .samkit-interactive[aria-busy=true]";
  while (document.querySelector(waits)) await frame();
  await window.MathJax?.startup?.promise;
  await window.MathJax?.startup?.document?.lazyTypesetAll?.();
  await frame();
}"""

# The code and raw output in sight, the first figure, the main sliders, the figures without words.
SEEN = """async () => {
  const article = document.querySelector("article");
  const shown = (el) => el.checkVisibility() && el.getBoundingClientRect().height > 0;
  const outermost = (names) => [...article.querySelectorAll(names)].filter(
    (el) => shown(el) && !el.parentElement.closest(names));
  const tall = (el) => el.getBoundingClientRect().height;
  const top = (el) => Math.round(el.getBoundingClientRect().top + scrollY);
  const code = outermost("div.cell_input, div.highlight, pre, div.output.stream");
  const drawn = "[data-samkit-figure], svg.samkit-figure, .claim-map > svg, img";
  const figures = outermost(drawn).filter((el) => el.getBoundingClientRect().width > 200);
  const wordless = figures.map((el) => {
    const picture = el.matches("svg, img") ? el : el.querySelector("svg[role=img]");
    const cell = el.closest("div.cell");
    const next = (cell ?? el).nextElementSibling;
    const captions = [cell?.querySelector(".figure-caption"), el.querySelector(".samkit-words"),
      el.closest("figure")?.querySelector("figcaption"),
      el.closest(".claim-map")?.previousElementSibling,
      next?.matches(".figure-caption") ? next : undefined];
    const lacks = [];
    if (!captions.some((caption) => caption?.textContent.trim().length > 20)) lacks.push("caption");
    if ((picture.getAttribute("aria-label") ?? picture.alt ?? "").length < 20) lacks.push("alt");
    return lacks.length ? `${el.id || picture.getAttribute("aria-label")?.slice(0, 40)}: no ${
      lacks.join(", no ")}` : "";
  }).filter(Boolean);
  const sliders = [...article.querySelectorAll(".samkit-main input[type=range]")].filter(shown);
  return {
    code: code.reduce((sum, el) => sum + tall(el), 0) / tall(article),
    figure: figures.length ? Math.min(...figures.map(top)) : null,
    sliders: sliders.map((el) => Math.round(el.getBoundingClientRect().width)),
    wordless,
  };
}"""

# Texts of drawings that lie on each other, matplotlib's included, which are groups of paths.
ON_TOP = """() => {
  const found = [];
  for (const svg of document.querySelectorAll("svg[role=img]")) {
    const texts = [...svg.querySelectorAll("text, g[id*='text_']")]
      .map((el) => [el.textContent.trim().slice(0, 30) || el.id, el.getBoundingClientRect()])
      .filter(([, box]) => box.width > 1);
    texts.forEach(([words, a], k) => {
      for (const [others, b] of texts.slice(0, k)) {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const tall = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        // a box has a fifth of air above and below its letters
        if (wide > 1 && tall > 0.4 * Math.min(a.height, b.height))
          found.push(`text ${words} on ${others}`);
      }
    });
  }
  return found;
}"""

# What leaves the window or the box that hides it, and can be scrolled to nowhere.
CUT = """async () => {
  for (const _ of [1, 2, 3]) await new Promise(requestAnimationFrame);
  for (const moving of document.getAnimations())  // Firefox lets none end that is out of sight
    if (Number.isFinite(moving.effect.getComputedTiming().endTime)) moving.finish();
  const wide = document.documentElement.clientWidth;
  const name = (el) => `${el.tagName.toLowerCase()}.${[...el.classList].join(".")} ${
    el.textContent.trim().slice(0, 30)}`;
  const scrolls = (el) => {
    for (; el && el !== document.body; el = el.parentElement)
      if (/auto|scroll/.test(getComputedStyle(el).overflowX)) return true;
    return false;
  };
  const shortened = (el) => el && (getComputedStyle(el).textOverflow === "ellipsis"
    || shortened(el.parentElement));
  const cut = [];
  for (const el of document.querySelectorAll("article :not(svg *, mjx-assistive-mml, \
      mjx-assistive-mml *, .samkit-spoken)")) {
    if (!el.checkVisibility({visibilityProperty: true}) || shortened(el.parentElement)) continue;
    const box = el.getBoundingClientRect(), style = getComputedStyle(el);
    if (!box.width || !box.height) continue;
    const leaves = (box.right > wide + 1 || box.left < -1) && !scrolls(el);
    const hides = el instanceof HTMLElement && el.clientWidth > 1 &&
      /hidden|clip/.test(style.overflowX) && style.textOverflow !== "ellipsis" &&
      el.scrollWidth > el.clientWidth + 1;
    if (leaves || hides) cut.push(name(el));
  }
  for (const svg of document.querySelectorAll("article svg[role=img]")) {
    const frame = svg.getBoundingClientRect();
    if (!frame.width) continue;
    for (const text of svg.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (box.width && (box.left < frame.left - 2 || box.right > frame.right + 2))
        cut.push(`text ${text.textContent.slice(0, 40)}`);
    }
  }
  return cut;
}"""


@dataclass(frozen=True)
class Measured:
    """A page as it is seen: pixels at a desk, and what is cut, by the width of the window."""

    code: float  # share of the height
    figure: int | None  # from the top to the first one
    sliders: list[int]  # their widths
    wordless: list[str]  # figures without a caption or an alternative text
    cut: dict[int, list[str]]  # or lies on something else

    def wrong(self, is_chapter: bool) -> list[str]:
        """As a list of sentences."""
        wrong = [f"a figure lacks words: {figure}" for figure in self.wordless]
        for width in self.sliders:
            if width < SLIDER:
                wrong.append(f"a main slider is {width} px wide, less than {SLIDER}")
        for width, elements in self.cut.items():
            wrong += [f"cut at {width} px: {element}" for element in elements]
        if is_chapter and (self.figure is None or self.figure > FIRST_FIGURE):
            wrong.append(f"the first figure stands at {self.figure} px, below {FIRST_FIGURE}")
        return wrong


def measured(tab: Tab) -> Measured:
    """The page in a tab."""
    tab.resize(DESK)
    tab.evaluate(READY)
    seen = tab.evaluate(SEEN)
    cut = {}
    for width in WIDTHS:
        tab.resize(width)
        cut[width] = tab.evaluate(CUT) + tab.evaluate(ON_TOP)
    return Measured(cut=cut, **seen)


def numbered(pages: list[Path]) -> list[Path]:
    """The chapters proper, without the page on how to reproduce them."""
    return [page for page in pages if page.stem[:2].isdigit()]


def code_share(found: dict[Path, Measured]) -> float:
    """The mean over the chapters."""
    return mean(found[page].code for page in numbered([*found]))


def table(found: dict[Path, Measured]) -> str:
    """A line a page."""
    lines = [f"{'page':24}{'code':>6}{'figure':>8}{'slider':>8}{'cut':>5}{'kB':>6}"]
    for page, one in found.items():
        cut = sum(map(len, one.cut.values()))
        size = weight(tree.HTML / page.relative_to(tree.ROOT).with_suffix(".html"))
        lines.append(
            f"{page.stem:24}{one.code:6.0%}{one.figure or '':>8}"
            f"{min(one.sliders, default=''):>8}{cut:>5}{size / 1000:>6.0f}"
        )
    return "\n".join([*lines, f"{'mean of the chapters':24}{code_share(found):6.1%}"])


def look(tab: Tab, site: str) -> tuple[dict[Path, Measured], list[str]]:
    """Every page of the book: what a browser measures, and what is not as it must be."""
    found, wrong = {}, []
    for page in tree.toc_pages():
        path = page.relative_to(tree.ROOT).with_suffix(".html").as_posix()
        tab.goto(site + path)
        one = found[page] = measured(tab)
        problems = one.wrong(page in numbered([page])) + invalid(path)
        problems += [f"a link leads nowhere: {link}" for link in broken_links(path)]
        wrong += [f"{page.stem}: {problem}" for problem in problems]
    if (share := code_share(found)) > CODE:
        wrong.append(f"code takes {share:.1%} of the chapters, more than {CODE:.0%}")
    return found, wrong


def show(name: str = "chromium") -> None:
    """The table; BuildFailed with what is not as it must be."""
    from tools import browser, serve

    with serve.serving(tree.HTML) as site, browser.tab(name) as tab:
        found, wrong = look(tab, site)
    print(table(found))
    if wrong:
        raise BuildFailed("\n".join(wrong))


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["chromium"], ["firefox"]):
        raise SystemExit(__doc__)
    tree.end(lambda: show(*sys.argv[1:]))
