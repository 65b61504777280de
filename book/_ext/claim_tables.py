"""`{claim-table}`: the rows that a chapter is about, one line each, in a table.

What is said (with its row in the ledger), what it rests on (with its proof), what came out here.
"""

from __future__ import annotations

from docutils import nodes
from ledger_pages import Row, badge, reports

from samkit.paper import claims

HEADS = ("What is said", "Rests on", "Here", "Verdict")
WIDTHS = (52, 18, 16, 14)


class ClaimTable(Row):
    """Its content is the ids of rows, in order."""

    has_content = True

    def run(self):
        found = reports()
        group = nodes.tgroup(cols=len(HEADS))
        group += [nodes.colspec(colwidth=width) for width in WIDTHS]
        head, body = nodes.thead(), nodes.tbody()
        head += self.line([nodes.paragraph("", name)] for name in HEADS)
        for id_ in " ".join(self.content).split():
            try:
                claim = claims.find(id_)
            except KeyError as error:
                raise self.error(str(error)) from None
            body += self.line(self.cells(claim, found.get(id_)))
        group += [head, body]
        return [nodes.table("", group, classes=["claim-table"])]

    def cells(self, claim, report):
        said = nodes.paragraph("", "", *self.text(claim.statement), nodes.Text(" "))
        said += self.link(claim.id)
        proof = [nodes.Text(": "), *self.text(f"{{prf:ref}}`{claim.proof}`")] if claim.proof else []
        rests = nodes.paragraph("", "", nodes.Text(claim.evidence), *proof)
        words = f"{report.measured}; required {claim.criterion}" if report else "not measured"
        verdict = report.verdict if report else claim.unchecked_verdict
        return [
            [said],
            [rests],
            [nodes.paragraph("", words)],
            [nodes.paragraph("", "", badge(verdict))],
        ]

    @staticmethod
    def line(cells) -> nodes.row:
        row = nodes.row()
        for content in cells:
            row += nodes.entry("", *content)
        return row


def setup(app):
    app.add_directive("claim-table", ClaimTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
