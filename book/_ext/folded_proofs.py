"""Proofs that open with a click: `{prf:proof}` with `:class: dropdown` becomes <details>.

On paper pages.mjs unfolds them, and whatever else is folded.

sphinx-proof gives a proof no title, on which the script that folds other boxes stumbles, and the
same id to all of them and to the words of each theorem: here the proof of `thm-nesting` is at
`#proof-of-thm-nesting`.
"""

from __future__ import annotations

from docutils import nodes
from sphinx_proof.nodes import proof_node


def labelled_or_proof(node):
    return isinstance(node, proof_node) or (isinstance(node, nodes.Admonition) and "label" in node)


def fold(app, doctree):
    label, seen = "", set()
    same = [part for part in doctree.findall(nodes.section) if part["ids"] == ["proof-content"]]
    for number, section in enumerate(same, 1):  # Sphinx wants every section to have one
        section["ids"] = [f"proof-content-{number}"]
    for proof in list(doctree.findall(labelled_or_proof)):
        if not isinstance(proof, proof_node):
            label = proof["label"] or label
            continue
        (box,) = proof.children
        box["ids"] = []
        name = f"proof-of-{label}"
        if name in seen:  # a second one, of a remark between
            name += f"-{len(seen)}"
        seen.add(name)
        if "dropdown" not in box["classes"]:
            box["ids"] = [name]
            continue
        first = next(box.findall(nodes.Text))
        first.parent.replace(first, nodes.Text(first.astext().removeprefix("Proof. ")))
        proof.parent.replace(
            proof,
            [
                nodes.raw(
                    "",
                    f'<details class="proof-fold" id="{name}"><summary>Proof</summary>',
                    format="html",
                ),
                *box.children,
                nodes.raw("", "</details>", format="html"),
            ],
        )


def setup(app):
    app.connect("doctree-read", fold)
    app.add_js_file("pages.mjs", type="module")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
