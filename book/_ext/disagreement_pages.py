"""The page of disagreements: `{findings}` puts rows of the ledger between its words, with what was
measured, and `{disagreements}` lists every row that failed or could not be decided.
"""

from __future__ import annotations

from docutils import nodes
from ledger_pages import Row, badge, reports
from sphinx import addnodes

from samkit.paper import claims

OPEN = (claims.Verdict.FAIL, claims.Verdict.INCONCLUSIVE)


class Measured(Row):
    """What both directives share: where a row was measured, and what came out."""

    def chapter(self, claim) -> nodes.Node:
        return addnodes.pending_xref(
            "", nodes.inline("", claim.chapter), refdomain="std", reftype="doc",
            refexplicit=True, refwarn=True, reftarget=f"/book/{claim.chapter}",
            refdoc=self.env.docname,
        )  # fmt: skip

    def outcome(self, claim, report) -> list[nodes.Node]:
        """Such as "measured 0.01 to 0.02, required at most 0.01 (05-perturbations, laptop)"."""
        words = "not measured"
        if report:
            detail = f" {report.detail}" if report.detail else ""
            words = f"measured {report.measured}{detail}, required {claim.criterion}"
        place = [nodes.Text(" ("), self.chapter(claim), nodes.Text(f", {claim.scale})")]
        return [nodes.Text(words), *place]


class Findings(Measured):
    """The rows whose ids it holds: statement, what was measured, reason of a known miss."""

    has_content = True

    def run(self):
        found, boxes = reports(), []
        for id_ in " ".join(self.content).split():
            try:
                claim = claims.find(id_)
            except KeyError as error:
                raise self.error(str(error)) from None
            box = nodes.container("", classes=["claim"])
            box += self.heading(claim, found.get(id_))
            outcome = self.outcome(claim, found.get(id_))
            box += nodes.paragraph("", "", *outcome, nodes.Text(f". {claim.check}"))
            if claim.known_miss:
                known = nodes.emphasis("", "Known miss: ")
                box += nodes.paragraph("", "", known, *self.text(f"{claim.known_miss}."))
            boxes.append(box)
        return boxes


class Disagreements(Measured):
    """One line for each row whose verdict is FAIL or INCONCLUSIVE, and their number."""

    def run(self):
        found = reports()
        items = []
        for id_, claim in claims.ledger().items():
            report = found.get(id_)
            if report and report.verdict in OPEN:
                words = [badge(claim, report), nodes.Text(" "), self.link(id_), nodes.Text(" ")]
                line = nodes.paragraph("", "", *words, *self.outcome(claim, report))
                items.append(nodes.list_item("", line))
        count = f"{len(items)} of {len(claims.ledger())} rows:"
        listed = nodes.bullet_list("", *items, classes=["disagreements"])
        return [nodes.paragraph("", count), *([listed] if items else [])]


def setup(app):
    app.add_directive("findings", Findings)
    app.add_directive("disagreements", Disagreements)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
