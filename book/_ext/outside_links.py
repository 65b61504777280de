"""Roles for the places that the book leads to: {paper}, {authors}, {repository}, {colab}."""

from __future__ import annotations

import launch_buttons
from docutils import nodes

PLACES = {
    "paper": lambda: "https://arxiv.org/abs/2206.06232",
    "authors": lambda: "https://github.com/tml-epfl/understanding-sam",
    "repository": lambda: launch_buttons.repository(),
    "colab": lambda: launch_buttons.links("book/01-sparse-regression")["Colab"],
}


def setup(app):
    for name, place in PLACES.items():

        def role(kind, raw, text, line, inliner, options=None, content=(), place=place):
            return [nodes.reference(raw, text, refuri=place())], []

        app.add_role(name, role)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
