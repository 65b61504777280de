"""What the theme and docutils leave out for readers with a screen reader, put into built pages."""

from __future__ import annotations

from pathlib import Path

CHANGES = {
    # everything on a page is in a landmark
    '<div class="bd-sidebar-primary bd-sidebar">': (
        '<div class="bd-sidebar-primary bd-sidebar" role="navigation" aria-label="Book">'
    ),
    # a list has list items; and the role of bibliography entries is deprecated
    '<div role="list" class="citation-list">': '<div class="citation-list">',
    ' role="doc-biblioentry"': "",
}


def change_pages(app, exception):
    if exception is None and app.builder.format == "html":
        for page in Path(app.outdir).rglob("*.html"):
            old = page.read_text(encoding="utf-8")
            new = old
            for find, put in CHANGES.items():
                new = new.replace(find, put)
            if new != old:
                page.write_text(new, encoding="utf-8")


def setup(app):
    app.connect("build-finished", change_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
