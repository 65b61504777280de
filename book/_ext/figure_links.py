"""Under every figure that a cell drew, a link to the code of that cell, which opens if folded."""

from __future__ import annotations

from itertools import count

from docutils import nodes

DRAWN = '<svg class="samkit-figure"'  # as samkit.figures.show writes it


def containers(root: nodes.Node, name: str) -> list[nodes.container]:
    return [node for node in root.findall(nodes.container) if name in node["classes"]]


def link_figures(app, doctree, docname):
    numbers = count(1)
    for cell in containers(doctree, "cell"):
        code = containers(cell, "cell_input")
        figures = [raw for raw in cell.findall(nodes.raw) if raw.astext().startswith(DRAWN)]
        if not code or not figures:
            continue
        anchor = f"code-{next(numbers)}"
        code[0]["ids"].append(anchor)
        link = f'<a href="#{anchor}" aria-label="code of this figure">code</a>'
        for figure in figures:
            figure.parent.append(nodes.raw("", f'<p class="figure-code">{link}</p>', format="html"))


def setup(app):
    app.connect("doctree-resolved", link_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
