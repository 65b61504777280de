"""The words of a chapter as plain Markdown, which every viewer of notebooks shows.

MyST's directives and roles are for the book. Here a theorem is a bold head and a quoted text, a
proof <details>, the claims a table of statements, measurements, verdicts and links to their rows,
a caption stands in italics below its figure, an equation has its number, and citations,
cross-references and links are names with the address of the published page.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache

from pybtex.database import parse_file

from samkit.paper import claims
from tools import tree
from tools.tree import BuildFailed

OPENING = re.compile(r"^( *)(`{3,}|:{3,})\{([\w:-]+)\} *(.*)$")
BOXES = ("admonition", "note", "tip", "warning", "important", "seealso", "exercise", "solution")
INLINE = re.compile(
    r"""(?P<display>\$\$.+?\$\$)(?:\ \((?P<number>[\w-]+)\))?
    | \{(?P<role>[\w:-]+)\}`(?P<content>[^`]+)`
    | (?P<kept>(?P<ticks>`+).+?(?P=ticks) | \$[^$]+\$)
    | (?<!!)\[(?P<text>[^\]\[]*)\]\((?P<target>[^()\s]+)\)
    | ^\((?P<label>[\w-]+)\)=\n""",
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


def site() -> str:
    """The address of the published book."""
    project = tomllib.loads((tree.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Documentation"].rstrip("/")


@cache
def places() -> dict[str, tuple[str, str]]:
    """What may be referred to: label, or name of a page -> its name and address in the book."""
    found: dict[str, tuple[str, str]] = {}
    for page in tree.toc_pages():
        text = page.read_text(encoding="utf-8")
        address = f"{site()}/{page.relative_to(tree.ROOT).with_suffix('.html').as_posix()}"
        title = re.search(r"^# (.+)$", text, re.MULTILINE)
        found[page.stem] = (title[1] if title else page.stem, address)
        number = f"{int(page.stem[:2])}." if page.stem[:2].isdigit() else ""
        kinds: Counter[str] = Counter()
        for kind, options in re.findall(
            r"^[`:]{3,}\{prf:(?!proof)(\w+)\}.*\n((?::.*\n)*)", text, re.MULTILINE
        ):
            kinds[kind] += 1
            if label := re.search(r"^:label: (\S+)$", options, re.MULTILINE):
                name = f"{kind.title()} {number}{kinds[kind]}"
                found[label[1]] = (name, f"{address}#{label[1]}")
        for count, label in enumerate(re.findall(r"\$\$ \(([\w-]+)\)$", text, re.MULTILINE), 1):
            found[label] = (f"({number}{count})", f"{address}#equation-{label.lower()}")
        for label, heading in re.findall(r"^\(([\w-]+)\)=\n+#+ (.+)$", text, re.MULTILINE):
            found[label] = (heading, f"{address}#{label}")
    return found


@cache
def sources() -> dict[str, tuple[str, str, str]]:
    """Key of a reference -> its authors, year and address."""
    found = {}
    for key, entry in parse_file(tree.ROOT / "book" / "references.bib").entries.items():
        names = [" ".join(person.last_names) for person in entry.persons["author"]]
        names = [re.sub(r"[{}\\]", "", name) for name in names]
        authors = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        found[key] = (authors, entry.fields["year"], f"https://doi.org/{entry.fields['doi']}")
    return found


class Writer:
    """Writes the words of one page; ``reports``: row -> "verdict" and "measured" of its check."""

    def __init__(self, page: str, reports: Mapping[str, Mapping[str, str]]):
        self.page, self.reports = page, reports

    def place(self, target: str) -> tuple[str, str]:
        try:
            return places()[target.removeprefix("/book/").removesuffix(".md")]
        except KeyError:
            raise BuildFailed(
                f"book/{self.page}.md refers to {target!r}, which is not there"
            ) from None

    # --- within a paragraph

    def inline(self, text: str) -> str:
        return INLINE.sub(self._inline, text)

    def _inline(self, found: re.Match) -> str:
        if found["display"]:
            if not found["number"]:
                return found[0]
            number = self.place(found["number"])[0].strip("()")
            return f"{found['display'][:-2].rstrip()}\n\\tag{{{number}}}\n$$"
        if found["role"]:
            return self.role(found["role"], found["content"])
        if found["target"]:
            if re.match(r"\w+://|mailto:", found["target"]):
                return found[0]
            name, address = self.place(found["target"].lstrip("#"))
            return f"[{found['text'] or name}]({address})"
        return found["kept"] or ""

    def role(self, role: str, content: str) -> str:
        if role.startswith("cite"):
            keys = [sources()[key.strip()] for key in content.split(",")]
            if role == "cite:t":
                return ", ".join(f"[{who} ({year})]({where})" for who, year, where in keys)
            return f"({'; '.join(f'[{who}, {year}]({where})' for who, year, where in keys)})"
        if role not in ("eq", "prf:ref", "ref", "doc", "numref", "row"):
            raise BuildFailed(f"book/{self.page}.md: tools/markdown.py does not know {{{role}}}")
        words, target = re.fullmatch(r"(?:(.*?)\s*<)?([^<>]+)>?", content, re.DOTALL).groups()
        if role == "row":
            return self.link(claims.find(target).id, words)
        name, address = self.place(target)
        return f"[{words or name}]({address})"

    # --- blocks

    def text(self, source: str) -> str:
        """A cell of Markdown, or the content of a directive."""
        lines, done, plain = iter(source.split("\n")), [], []
        for line in lines:
            opening = OPENING.match(line)
            if not opening:
                plain.append(line)
                continue
            done.append(self.inline("\n".join(plain)))
            plain, content = [], []
            indent, fence, name, title = opening.groups()
            for inner in lines:
                inner = inner.removeprefix(indent)
                if set(inner.rstrip()) == {fence[0]} and len(inner.rstrip()) >= len(fence):
                    break
                content.append(inner)
            done.append(textwrap.indent(self.directive(name, title, content), indent))
        done.append(self.inline("\n".join(plain)))
        return "\n".join(done).strip("\n")

    def directive(self, name: str, title: str, content: list[str]) -> str:
        options = {}
        while content and (option := re.match(r"^:([\w-]+): *(.*)$", content[0])):
            options[option[1]] = option[2]
            content = content[1:]
        words = self.text("\n".join(content)) if name != "claims" else ""
        title = self.inline(title)
        if name == "claims":
            mine = [row.id for row in claims.ledger().values() if row.chapter == self.page]
            rows = [self.row(id_) for id_ in " ".join(content).split() or mine]
            return "\n".join(["| Statement | Here | Verdict |", "|---|---|---|", *rows])
        if name == "caption":
            return f"*{' '.join(words.split())}*"
        if name == "prf:proof":
            return folded("Proof", words)
        if name.startswith("prf:"):
            known = places().get(options.get("label", ""), (name[4:].title(), ""))[0]
            return quoted(f"**{known}**{f' ({title})' if title else ''}\n\n{words}")
        if name not in BOXES:
            raise BuildFailed(f"book/{self.page}.md: tools/markdown.py does not know {{{name}}}")
        title = title or name.capitalize()
        box: Callable[[str, str], str] = folded if "dropdown" in options.get("class", "") else boxed
        return box(title, words)

    def row(self, id_: str) -> str:
        claim, report = claims.find(id_), self.reports.get(id_)
        here = "not measured"
        if report:
            here = f"{claim.quantity}: {report['measured']}; required {claim.criterion}"
        verdict = claim.in_words(report["verdict"] if report else claim.unchecked_verdict)
        said = f"{self.inline(claim.statement)} {self.link(id_)}".replace("|", r"\|")
        return f"| {said} | {here} | **{verdict}** |"

    def link(self, id_: str, words: str | None = None) -> str:
        """To a row of the ledger."""
        anchor = f"claim-{id_}".lower().replace(".", "-")
        return f"[{words or f'`{id_}`'}]({site()}/book/ledger.html#{anchor})"


def quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.strip("\n").split("\n"))


def boxed(title: str, text: str) -> str:
    return quoted(f"**{title}**\n\n{text}")


def folded(title: str, text: str) -> str:
    return f"<details>\n<summary>{title}</summary>\n\n{text.strip()}\n\n</details>"
