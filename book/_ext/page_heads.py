"""What a page says of itself to those who are not on it yet: search engines, and whoever is shown a
link to it. A description (the page's first paragraph), OpenGraph, a picture; a sitemap where the
book is published under an address (`baseurl` in _config.yml); and a titled page at the root.

In the foot stands a link to report a mistake on the page, at the top what is missing where scripts
do not run: all of them, or only those of the figures, as in a page that is opened from a folder.
"""

from __future__ import annotations

import html
from pathlib import Path
from urllib.parse import urlencode, urljoin

import launch_buttons
from docutils import nodes

import samkit

LENGTH = 200  # characters of a description
WITHOUT_SCRIPTS = """\
<noscript><p class="missing">Scripts are switched off. Formulas are shown as TeX, the figures are
pictures that do not move, and there is no search.</p></noscript>
"""
FROM_FOLDER = """\
<p class="missing" hidden>This page was opened from a folder, where a browser runs no figures: they
are pictures that do not move. To play with them, run <code>python -m http.server</code> in the
folder that holds index.html, and open <code>http://localhost:8000</code>.</p>
<script>
document.currentScript.previousElementSibling.hidden = location.protocol !== "file:";
</script>
"""
CARD = "_static/card.png"
CARD_WORDS = "The test loss falls tenfold as fewer examples share a step uphill"


def lead(doctree: nodes.document | None) -> str:
    """The first paragraph that is prose, cut at a word."""
    for paragraph in doctree.findall(nodes.paragraph) if doctree else ():
        if isinstance(paragraph.parent, nodes.section):
            words = " ".join(paragraph.astext().split())
            if len(words) > 60:
                cut = words if len(words) <= LENGTH else words[:LENGTH].rsplit(" ", 1)[0] + " …"
                return cut.replace("\\", "")
    return ""


def describe(app, pagename, templatename, context, doctree):
    name = app.config.html_title or app.config.project
    title = html.unescape(context.get("title", "")) or name
    words = lead(doctree) or f"{title}: a page of {name}, an interactive companion to a paper."
    body = context.get("body") or ""
    if 'class="math' in body or "data-samkit-figure" in body:
        moving = FROM_FOLDER if "data-samkit-figure" in body else ""
        context["body"] = WITHOUT_SCRIPTS + moving + body
    relative = context["pathto"]
    base = app.config.html_baseurl
    picture = urljoin(base, CARD) if base else relative(CARD, 1)
    fields = {
        "og:title": title, "og:description": words, "og:type": "article", "og:site_name": name,
        "og:image": picture, "og:image:alt": CARD_WORDS,
    }  # fmt: skip
    if base:
        fields["og:url"] = urljoin(base, f"{pagename}.html")
    tags = [f'<meta name="description" content="{html.escape(words)}">']
    tags += [f'<meta property="{k}" content="{html.escape(v)}">' for k, v in fields.items()]
    tags.append('<meta name="twitter:card" content="summary_large_image">')
    context["metatags"] = context.get("metatags", "") + "\n".join(tags)
    mistake = launch_buttons.repository() + "/issues/new?"
    mistake += urlencode({"title": f"A mistake in {pagename}"})
    context["theme_extra_footer"] = (
        f'<p>samkit {samkit.__version__} · <a href="{html.escape(mistake)}">'
        "Report a mistake on this page</a></p>"
    )


ROOT_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="0; url={first}">
<link rel="canonical" href="{canonical}">
{tags}
</head>
<body><p><a href="{first}">{title}</a></p></body>
</html>
"""


def write_root(app, exception):
    """index.html, where the address of the book itself leads; and sitemap.xml."""
    if exception is not None or app.builder.format != "html":
        return
    first = f"{app.config.root_doc}.html"
    start = (Path(app.outdir) / first).read_text(encoding="utf-8")
    tags = [
        line.replace("../_static", "_static")
        for line in start.splitlines()
        if line.strip().startswith(('<meta name="description"', '<meta property="og:'))
    ]
    base = app.config.html_baseurl
    page = ROOT_PAGE.format(
        title=html.escape(app.config.html_title), first=first,
        canonical=urljoin(base, first), tags="\n".join(tags),
    )  # fmt: skip
    (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")
    if base:
        lost = Path(app.outdir) / "404.html"  # its script finds the way back; without scripts, this
        text = lost.read_text(encoding="utf-8").replace('href="/', f'href="{base.rstrip("/")}/')
        lost.write_text(text, encoding="utf-8")
        places = "".join(
            f"<url><loc>{html.escape(urljoin(base, f'{name}.html'))}</loc></url>\n"
            for name in sorted(app.env.found_docs)
        )
        (Path(app.outdir) / "sitemap.xml").write_text(
            '<?xml version="1.0" encoding="utf-8"?>\n'
            f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{places}</urlset>\n',
            encoding="utf-8",
        )


def setup(app):
    app.connect("html-page-context", describe, priority=600)
    app.connect("build-finished", write_root, priority=900)  # after the toc's own
    return {"parallel_read_safe": True, "parallel_write_safe": True}
