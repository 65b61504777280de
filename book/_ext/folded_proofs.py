"""Proofs that open with a click: `{prf:proof}` with `:class: dropdown` becomes <details>.

On paper print.mjs unfolds them, and whatever else is folded.

sphinx-proof gives a proof no title, on which the script that folds other boxes stumbles, and the
same id to all of them.
"""

from __future__ import annotations

from docutils import nodes
from sphinx_proof.nodes import proof_node


def fold(app, doctree):
    for proof in list(doctree.findall(proof_node)):
        (box,) = proof.children
        box["ids"] = []
        if "dropdown" not in box["classes"]:
            continue
        first = next(box.findall(nodes.Text))
        first.parent.replace(first, nodes.Text(first.astext().removeprefix("Proof. ")))
        proof.parent.replace(
            proof,
            [
                nodes.raw(
                    "", '<details class="proof-fold"><summary>Proof</summary>', format="html"
                ),
                *box.children,
                nodes.raw("", "</details>", format="html"),
            ],
        )


def setup(app):
    app.connect("doctree-read", fold)
    app.add_js_file("print.mjs", type="module")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
