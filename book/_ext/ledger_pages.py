"""The ledger in the book: `{ledger}` is the whole of it, `{claim} ID` one row in a chapter.

Verdicts come from the executed chapters that tools/book.py keeps; without them every row shows
what it shows before any check, NOT YET.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

from samkit import claims

EXECUTED = Path(__file__).resolve().parents[2] / "_build" / "executed"


def reports() -> dict[str, claims.Report]:
    """Every report of the executed chapters, by id."""
    return claims.collect(
        {
            path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(EXECUTED.glob("*.ipynb"))
        }
    )


def badge(verdict: claims.Verdict) -> nodes.inline:
    kind = verdict.lower().replace(" ", "-")
    return nodes.inline("", str(verdict), classes=["verdict", f"verdict-{kind}"])


class Row(SphinxDirective):
    """What both directives share: the words of one row."""

    def text(self, words: str) -> list[nodes.Node]:
        parsed = self.parse_text_to_nodes(words)
        return parsed[0].children if parsed else []

    def heading(self, claim, report, link_to_ledger: bool) -> nodes.paragraph:
        verdict = report.verdict if report else claim.unchecked_verdict
        name = nodes.literal("", claim.id)
        if link_to_ledger:
            name = addnodes.pending_xref(
                "", name, refdomain="std", reftype="ref", refexplicit=True, refwarn=True,
                reftarget=f"claim-{claim.id}".lower(), refdoc=self.env.docname,
            )  # fmt: skip
        paragraph = nodes.paragraph("", "", badge(verdict), nodes.Text(" "), name, nodes.Text(" "))
        paragraph += self.text(claim.statement)
        return paragraph

    def facts(self, claim, report) -> nodes.field_list:
        listed = nodes.field_list()
        rows = [("In the paper", claim.place), ("Check", claim.check)]
        if claim.criterion:
            rows.append(("Wanted", f"{claim.criterion}: {claim.reason}"))
        if report:
            rows.append(("Measured", f"{report.measured} {report.detail}".strip()))
            versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
            rows.append(("Obtained", f"{report.date}, {report.machine}, {versions}"))
        for name, reason in (("Known miss", claim.known_miss), ("Why not", claim.out_of_scope)):
            if reason:
                rows.append((name, reason))
        rows.append(("Chapter, scale", f"{claim.chapter}, {claim.scale}"))
        for name, value in rows:
            body = nodes.paragraph("", "", *self.text(value))
            if name == "Chapter, scale" and f"book/{claim.chapter}" in self.env.found_docs:
                link = addnodes.pending_xref(
                    "", nodes.inline("", claim.chapter), refdomain="std", reftype="doc",
                    refexplicit=True, reftarget=f"/book/{claim.chapter}", refdoc=self.env.docname,
                )  # fmt: skip
                body = nodes.paragraph("", "", link, nodes.Text(f", {claim.scale}"))
            listed += nodes.field("", nodes.field_name("", name), nodes.field_body("", body))
        return listed


class ClaimDirective(Row):
    """One row: `{claim} fig06.digits`."""

    required_arguments = 1

    def run(self):
        claim = claims.find(self.arguments[0])
        box = nodes.container("", classes=["claim"])
        box += self.heading(claim, reports().get(claim.id), link_to_ledger=True)
        return [box]


class LedgerDirective(Row):
    """Every row, by chapter, under a line that counts the verdicts."""

    def run(self):
        found = reports()
        verdicts = {
            id_: found[id_].verdict if id_ in found else claim.unchecked_verdict
            for id_, claim in claims.ledger().items()
        }
        counts = Counter(verdicts.values())
        summary = nodes.paragraph("", f"{len(verdicts)} rows: ")
        for verdict in claims.Verdict:
            if counts[verdict]:
                summary += [nodes.Text(f" {counts[verdict]} "), badge(verdict)]
        result = [summary]
        labels = self.env.get_domain("std").anonlabels
        for id_, claim in claims.ledger().items():
            anchor = f"claim-{id_}".lower()
            labels[anchor] = (self.env.docname, anchor)
            box = nodes.container("", classes=["claim"], ids=[anchor])
            box += self.heading(claim, found.get(id_), link_to_ledger=False)
            box += self.facts(claim, found.get(id_))
            result.append(box)
        return result


def setup(app):
    app.add_directive("claim", ClaimDirective)
    app.add_directive("ledger", LedgerDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
