"""Under every figure that a cell drew, its number and a link to the code of that cell, which opens
if folded. Figure 6.2 is the second one of chapter 6; Figure 6 is the paper's.
"""

from __future__ import annotations

from itertools import count

from docutils import nodes

DRAWN = '<svg class="samkit-figure"'  # as samkit.paper.figures.show writes it


def containers(root: nodes.Node, name: str) -> list[nodes.container]:
    return [node for node in root.findall(nodes.container) if name in node["classes"]]


def link_figures(app, doctree, docname):
    cells, numbers = count(1), count(1)
    chapter = app.env.toc_secnumbers.get(docname, {}).get("", ())
    for cell in containers(doctree, "cell"):
        code = containers(cell, "cell_input")
        figures = [raw for raw in cell.findall(nodes.raw) if raw.astext().startswith(DRAWN)]
        if not code or not figures:
            continue
        anchor = f"code-{next(cells)}"
        code[0]["ids"].append(anchor)
        link = f'<a href="#{anchor}" aria-label="code of this figure">code</a>'
        for figure in figures:
            number = ".".join(map(str, [*chapter, next(numbers)]))
            line = f"Figure {number}<span> · {link}</span>"
            line = f'<p class="figure-code" id="figure-{number}">{line}</p>'
            figure.parent.append(nodes.raw("", line, format="html"))


def setup(app):
    app.connect("doctree-resolved", link_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
