"""`{theorems}`: every statement of the book with its row in the ledger, and all of them as LaTeX.

A line a statement: its name, what it says in words, what its check found. Its exact words with all
hypotheses, and the idea of the proof, unfold below the line. theorems.tex is written beside the
page.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from ledger_pages import Row, badge, reports

from samkit.paper import claims
from tools import theorems, tree


class Theorems(Row):
    """It has no arguments: everything comes from the chapters and the ledger."""

    def run(self):
        found, result, chapter = reports(), [], ""
        for page in tree.chapters():  # whose words it repeats
            self.env.note_dependency(str(page))
        for one in theorems.statements():
            if not one.label:
                continue
            if one.chapter != chapter:
                chapter = one.chapter
                result += self.parse_text_to_nodes(f"{{doc}}`/book/{chapter}`")
                result[-1]["classes"].append("theorems-chapter")
            result.append(self.line(one, found))
        return result

    def line(self, one, found) -> nodes.container:
        rows = [claim for claim in claims.ledger().values() if claim.proof == one.label]
        box = nodes.container("", classes=["claim"])
        title = f" *{one.title}.*" if one.title else ""
        head = nodes.paragraph("", "", *self.text(f"{{prf:ref}}`{one.label}`{title} "))
        if rows:
            head += [nodes.Text(" "), *self.text(rows[0].statement)]
        box += head
        if rows:
            checks = nodes.paragraph("", "Checked: ")
            for claim in rows:
                report = found.get(claim.id)
                words = f" {report.measured}, required {claim.criterion}. " if report else " "
                checks += [
                    badge(claim, report),
                    nodes.Text(" "),
                    self.link(claim.id),
                    nodes.Text(words),
                ]
            box += checks
        words = re.sub(r"(\$\$) *\([\w-]+\)", r"\1", one.words)
        idea = f"\n\n*Idea.* {one.idea}" if one.idea else ""
        fold = f"`````{{dropdown}} In full\n{words}{idea}\n`````"
        box += self.parse_text_to_nodes(fold)
        return box


def write(app, _exception=None):
    (Path(app.outdir) / "theorems.tex").write_text(theorems.document(), encoding="utf-8")


def setup(app):
    app.add_directive("theorems", Theorems)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
