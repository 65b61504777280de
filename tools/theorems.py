"""The book's theorems as LaTeX: `python -m tools.theorems FILE` writes every statement and proof.

A statement is a `{prf:...}` block of a chapter, its proof the `{prf:proof}` block that follows, and
the idea the paragraph between them that starts with *Idea.* The numbered formulas around them come
along.
Chapters are read as text, nothing is executed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tools.tree import chapters

KINDS = ("assumption", "corollary", "definition", "example", "lemma", "proposition", "theorem")
BLOCK = re.compile(
    r"^(?P<fence>`{3,})\{prf:(?P<kind>\w+)\}[ ]*(?P<title>[^\n]*)\n(?P<body>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
OPTION = re.compile(r"^:(\w+): *(.*)\n", re.MULTILINE)
FORMULA = re.compile(r"\$\$(?:(?!\$\$).)*\$\$ *\([\w-]+\)", re.DOTALL)
IDEA = re.compile(r"^\*Idea\.\* (.*?)(?:\n\n|\Z)", re.MULTILINE | re.DOTALL)
PREAMBLE = r"""\documentclass{article}
\usepackage{amsmath,amssymb,amsthm}
\usepackage[T1]{fontenc}
\newtheorem{theorem}{Theorem}[section]
"""


@dataclass(frozen=True)
class Statement:
    """One `{prf:...}` block: its words are Markdown, as in the chapter."""

    chapter: str
    kind: str
    title: str
    label: str
    words: str
    idea: str
    proof: str


def statements(pages: Iterable[Path] | None = None) -> list[Statement]:
    """Every statement of the chapters, in the order of the book."""
    found = []
    for page in chapters() if pages is None else pages:
        text = page.read_text(encoding="utf-8")
        blocks = [(match, dict(OPTION.findall(match["body"]))) for match in BLOCK.finditer(text)]
        for k, (match, options) in enumerate(blocks):
            if match["kind"] not in KINDS:
                continue
            between, proof = "", ""
            if k + 1 < len(blocks) and blocks[k + 1][0]["kind"] == "proof":
                following = blocks[k + 1][0]
                between = text[match.end() : following.start()]
                proof = OPTION.sub("", following["body"]).strip()
            idea = IDEA.search(between)
            words = OPTION.sub("", match["body"]).strip()
            found.append(
                Statement(
                    page.stem, match["kind"], match["title"].strip(), options.get("label", ""),
                    words, idea[1] if idea else "", proof,
                )
            )  # fmt: skip
    return found


def formulas(page: Path) -> list[str]:
    """The numbered formulas of a chapter that stand in no statement and no proof."""
    return FORMULA.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))


def latex(text: str) -> str:
    """Markdown of the chapters, with MyST roles and labelled equations, as LaTeX."""
    parts = re.split(r"(\$\$.*?\$\$(?: *\([\w-]+\))?|\$[^$]+\$)", text, flags=re.DOTALL)
    return "".join(_math(part) if part.startswith("$") else _words(part) for part in parts)


def _math(part: str) -> str:
    if not part.startswith("$$"):
        return part
    body, _, label = part[2:].partition("$$")
    label = label.strip(" ()")
    lines = "\n".join(line.strip() for line in body.strip().splitlines() if line.strip())
    if label:
        return f"\\begin{{equation}}\\label{{{label}}}\n{lines}\n\\end{{equation}}"
    return f"\\[\n{lines}\n\\]"


def _words(part: str) -> str:
    part = re.sub(r"\{prf:ref\}`([\w-]+)`", r"Statement~\\ref{\1}", part)
    part = re.sub(r"\{eq\}`([\w-]+)`", r"\\eqref{\1}", part)
    part = re.sub(r"\{cite(?::\w+)?\}`([\w, -]+)`", r"[\1]", part)
    part = re.sub(r"(?<!!)\[([^\]]+)\]\([^)]+\)", r"\1", part)
    part = re.sub(r"\*\*([^*]+)\*\*", r"\\textbf{\1}", part)
    part = re.sub(r"\*([^*]+)\*", r"\\emph{\1}", part)
    part = re.sub(
        r"`([^`]+)`", lambda code: rf"\texttt{{{code[1].replace('_', chr(92) + '_')}}}", part
    )
    part = re.sub(r"(?<!\\)([%&#])", r"\\\1", part)
    return part.replace("ü", r"\"u").replace("Ł", r"\L{}").replace("é", r"\'e")


def _lists(text: str) -> str:
    """Lines that begin with "- " or "1. " as items; a blank line does not end a list."""
    out, kind = [], ""
    for block in re.split(r"\n(?=- |\d+\. )|\n\n(?!  )", text):
        start = re.match(r"(- |\d+\. )", block)
        wanted = "" if not start else "itemize" if start[1] == "- " else "enumerate"
        if wanted != kind:
            out += [f"\\end{{{kind}}}"] * bool(kind) + [f"\\begin{{{wanted}}}"] * bool(wanted)
            kind = wanted
        out.append(f"\\item {block[start.end() :]}" if start else f"\n{block}")
    return "\n".join([*out, *[f"\\end{{{kind}}}"] * bool(kind)])


def document() -> str:
    """A LaTeX article: one section a chapter, every statement with its idea and its proof."""
    lines = [PREAMBLE]
    lines += [
        rf"\newtheorem{{{kind}}}[theorem]{{{kind.title()}}}" for kind in KINDS if kind != "theorem"
    ]
    lines += [
        r"\title{The statements of ``SAM, understood''}\date{}",
        r"\begin{document}\maketitle",
    ]
    for page in chapters():
        found = statements([page])
        if not found:
            continue
        heading = re.search(r"^# (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        lines.append(rf"\section{{{latex(heading[1])}}}" if heading else r"\section{}")
        if around := formulas(page):
            lines += [r"\noindent Formulas that the statements refer to:", *map(latex, around)]
        for one in found:
            title = f"[{{{latex(one.title)}}}]" if one.title else ""
            label = rf"\label{{{one.label}}}" if one.label else ""
            lines.append(rf"\begin{{{one.kind}}}{title}{label}")
            lines += [latex(_lists(one.words)), rf"\end{{{one.kind}}}"]
            if one.idea:
                lines.append(rf"\noindent\emph{{Idea.}} {latex(one.idea)}")
            if one.proof:
                lines += [r"\begin{proof}", latex(_lists(one.proof)), r"\end{proof}"]
    return "\n\n".join([*lines, r"\end{document}", ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(document(), encoding="utf-8")
    print(f"{sys.argv[1]}: {len(statements())} statements")
