"""The last touch to built pages: for readers with a screen reader, and less to load."""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes

CHANGES = [
    # everything on a page is in a landmark
    (
        r'<div class="bd-sidebar-primary bd-sidebar">',
        '<div class="bd-sidebar-primary bd-sidebar" role="navigation" aria-label="Book">',
    ),
    # a list has list items; and the role of bibliography entries is deprecated
    (r'<div role="list" class="citation-list">', '<div class="citation-list">'),
    (r' role="doc-biblioentry"', ""),
    # style sheets that are copied late: what comes after the name depends on when
    (r"(/(?:mystnb\.\w+|proof)\.css)\?v=\w+", r"\1"),
    # the icons come as a font with a style sheet; the script that draws them again weighs 0.5 MB
    (r'<script src="[^"]*/fontawesome/[^"]*/all\.min\.js[^"]*"></script>', ""),
    (r'<link rel="preload" [^>]*fa-(?:brands|regular)-400\.woff2[^>]*>', ""),
]


def change_pages(app, exception):
    if exception is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            old = new = page.read_text(encoding="utf-8")
            for find, put in CHANGES:
                new = re.sub(find, put, new)
            if new != old:
                page.write_text(new, encoding="utf-8")


def unnest(app, doctree):
    """Takes the blocks out of a parameter's paragraph, where Sphinx puts them: <p> holds words."""
    for outer in list(doctree.findall(nodes.paragraph)):
        inner = [child for child in outer.children if isinstance(child, nodes.Body)]
        if not inner or not isinstance(inner[0], nodes.paragraph):
            continue
        place = outer.index(inner[0])
        blocks = outer.children[place + 1 :]
        words = [*outer.children[:place], *inner[0].children]
        outer.parent.replace(outer, [nodes.paragraph("", "", *words), *blocks])


def setup(app):
    app.connect("doctree-read", unnest)
    app.connect("build-finished", change_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
