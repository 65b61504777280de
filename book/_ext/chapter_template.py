"""What a chapter looks like: code, checks and solutions folded, figures numbered and captioned.

A cell's code folds away unless it is tagged `teach`; a cell that checks a row of the ledger folds
to the row's id and verdict, one tagged `hide-cell` to "Solution", and one tagged `provenance` to
where recorded runs come from. `{caption}` after a cell says what its figure shows. Figure 6.2 is
the second one of chapter 6; Figure 6 is the paper's.

The folds are <details>: they open without scripts, and pages.mjs opens them on paper and for a link
that leads into them.
"""

from __future__ import annotations

import html
import re
from itertools import count

from docutils import nodes
from ledger_pages import badge_html, reports
from sphinx.util.docutils import SphinxDirective

from samkit.paper import claims

DRAWN = '<svg class="samkit-figure"'  # as samkit.paper.figures.show writes it
CHECK = re.compile(r"claims\.check\(\s*\"([\w.-]+)\"")


class caption_node(nodes.General, nodes.Element):
    """What a figure shows, until it is put below the figure."""


class Caption(SphinxDirective):
    """In a sentence what the figure before it shows."""

    has_content = True

    def run(self):
        node = caption_node()
        node += self.parse_content_to_nodes()
        return [node]


def containers(root: nodes.Node, name: str) -> list[nodes.container]:
    return [node for node in root.findall(nodes.container) if name in node["classes"]]


def raw(text: str) -> nodes.raw:
    return nodes.raw("", text, format="html")


def folded(summary: str, inside: list[nodes.Node], kind: str) -> list[nodes.Node]:
    opening = f'<details class="code-fold {kind}"><summary>{summary}</summary>'
    return [raw(opening), *inside, raw("</details>")]


def fold_code(app, doctree):
    """Every cell but those that teach, with its figures first."""
    found = None
    for cell in containers(doctree, "cell"):
        code = containers(cell, "cell_input")
        if not code or "tag_teach" in cell["classes"]:
            continue
        cell.attributes.pop("hide_mode", None)  # what myst-nb would fold by itself
        source = code[0].astext()
        if ids := CHECK.findall(source):
            found = reports() if found is None else found
            parts = [
                f"{badge_html(claims.find(id_), found.get(id_))} <code>{html.escape(id_)}</code>"
                for id_ in ids
            ]
            inside = folded(" ".join(parts), cell.children, "check")
        elif "tag_hide-cell" in cell["classes"]:
            inside = folded("Solution", cell.children, "solution")
        elif "tag_provenance" in cell["classes"]:
            inside = folded("Where the recorded runs come from", cell.children, "source")
        else:
            rest = [child for child in cell.children if child is not code[0]]
            inside = [*rest, *folded("code", [code[0]], "source")]
        cell.clear()
        cell += inside


def number_figures(app, doctree, docname):
    """A caption under every figure that a cell drew: its number, and what {caption} says."""
    numbers = count(1)
    chapter = app.env.toc_secnumbers.get(docname, {}).get("", ())
    for cell in containers(doctree, "cell"):
        figures = [found for found in cell.findall(nodes.raw) if found.astext().startswith(DRAWN)]
        says = following_caption(cell)
        for figure in figures:
            number = ".".join(map(str, [*chapter, next(numbers)]))
            opening = f'<p class="figure-caption" id="figure-{number}"><b>Figure {number}.</b> '
            figure.parent += [raw(opening), *says, raw("</p>")]
            says = []
        if says:  # of an interactive figure, which has no number
            cell += [raw('<p class="figure-caption">'), *says, raw("</p>")]
    for left in list(doctree.findall(caption_node)):  # after a figure that no cell made
        opening = raw('<p class="figure-caption">')
        left.parent.replace(left, [opening, *words_of(left), raw("</p>")])


def following_caption(cell: nodes.Node) -> list[nodes.Node]:
    """The words of the {caption} right after a cell, taken from there."""
    place = cell.parent.index(cell) + 1
    after = cell.parent.children[place : place + 1]
    if not after or not isinstance(after[0], caption_node):
        return []
    cell.parent.remove(after[0])
    return words_of(after[0])


def words_of(caption: nodes.Node) -> list[nodes.Node]:
    """In one element of text, outside of which Sphinx takes a link for that of a picture."""
    parts = [part for paragraph in caption.children for part in paragraph.children]
    return [nodes.inline("", "", *parts)]


def setup(app):
    app.add_node(caption_node)
    app.add_directive("caption", Caption)
    app.connect("doctree-read", fold_code)
    app.connect("doctree-resolved", number_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
