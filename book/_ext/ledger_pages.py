"""The ledger in the book: `{ledger}` is the whole of it, `{claim} ID` one row in a chapter,
`{claim-map}` the graph of what rests on what.

Verdicts come from the executed chapters that tools/book.py keeps; without them every row shows
what it shows before any check, NOT YET.
"""

from __future__ import annotations

import html
import json
from collections import Counter, defaultdict
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import mean

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


def verdicts(found: dict[str, claims.Report]) -> dict[str, claims.Verdict]:
    """The verdict of every row of the ledger, reported or not."""
    return {
        id_: found[id_].verdict if id_ in found else claim.unchecked_verdict
        for id_, claim in claims.ledger().items()
    }


def css_class(verdict: claims.Verdict) -> str:
    return f"verdict-{verdict.lower().replace(' ', '-')}"


def badge(verdict: claims.Verdict) -> nodes.inline:
    return nodes.inline("", str(verdict), classes=["verdict", css_class(verdict)])


def anchor(claim_id: str) -> str:
    """The id of a row's box on the ledger page."""
    return f"claim-{claim_id}".lower()


class Row(SphinxDirective):
    """What both directives share: the words of one row."""

    def text(self, words: str) -> list[nodes.Node]:
        parsed = self.parse_text_to_nodes(words)
        return parsed[0].children if parsed else []

    def link(self, claim_id: str) -> nodes.Node:
        return addnodes.pending_xref(
            "", nodes.literal("", claim_id), refdomain="std", reftype="ref", refexplicit=True,
            refwarn=True, reftarget=anchor(claim_id), refdoc=self.env.docname,
        )  # fmt: skip

    def heading(self, claim, report, link_to_ledger: bool) -> nodes.paragraph:
        verdict = report.verdict if report else claim.unchecked_verdict
        name = self.link(claim.id) if link_to_ledger else nodes.literal("", claim.id)
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
        if claim.needs:
            body = nodes.paragraph()
            for id_ in claim.needs:
                body += [self.link(id_), nodes.Text(" ")]
            name = nodes.field_name("", "Rests on")
            listed += nodes.field("", name, nodes.field_body("", body))
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
        counts = Counter(verdicts(found).values())
        summary = nodes.paragraph("", f"{counts.total()} rows: ")
        for verdict in claims.Verdict:
            if counts[verdict]:
                summary += [nodes.Text(f" {counts[verdict]} "), badge(verdict)]
        result = [summary]
        labels = self.env.get_domain("std").anonlabels
        for id_, claim in claims.ledger().items():
            labels[anchor(id_)] = (self.env.docname, anchor(id_))
            box = nodes.container("", classes=["claim"], ids=[anchor(id_)])
            box += self.heading(claim, found.get(id_), link_to_ledger=False)
            box += self.facts(claim, found.get(id_))
            result.append(box)
        return result


MARKS = {  # beside the colour, for those who do not see it
    claims.Verdict.PASS: "✓",
    claims.Verdict.FAIL: "✗",
    claims.Verdict.INCONCLUSIVE: "?",
    claims.Verdict.OUT_OF_SCOPE: "–",
    claims.Verdict.NOT_YET: "…",
}
BOX_WIDTH, BOX_HEIGHT, COLUMN, LINE, BAND = 196, 24, 250, 34, 40  # in the units of the drawing


def layout(rows: dict[str, claims.Claim]) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """(id -> (column, line), chapter -> first line) of the map.

    A chapter is a band of lines. The column of a row is the length of the longest chain of needs
    below it, so every edge leads to the right; within a band a row stands as near as it can to
    what it needs. A row without any edge goes where its band is least filled.
    """
    columns: dict[str, int] = {}
    for id_ in TopologicalSorter({id_: row.needs for id_, row in rows.items()}).static_order():
        columns[id_] = 1 + max((columns[need] for need in rows[id_].needs), default=-1)
    needed = {need for row in rows.values() for need in row.needs}
    bands = defaultdict(list)
    for row in sorted(rows.values(), key=lambda row: row.chapter):
        bands[row.chapter].append(row)
    places, starts, top = {}, {}, 0
    for chapter, band in bands.items():
        starts[chapter] = top
        filled = Counter()
        alone = [row for row in band if not row.needs and row.id not in needed]
        for row in sorted((row for row in band if row not in alone), key=lambda r: columns[r.id]):
            column = columns[row.id]
            wanted = [places[need][1] for need in row.needs if rows[need].chapter == chapter]
            line = max(filled[column], round(mean(wanted)) - top if wanted else 0)
            places[row.id] = column, top + line
            filled[column] = line + 1
        for row in alone:
            column = min(range(max(columns.values()) + 1), key=lambda c: (filled[c], c))
            places[row.id] = column, top + filled[column]
            filled[column] += 1
        top += max(filled.values())
    return places, starts


class ClaimMapDirective(SphinxDirective):
    """The rows as boxes in the colours of their verdicts, with an arrow from each to its users."""

    def run(self):
        rows, current = claims.ledger(), verdicts(reports())
        places, starts = layout(rows)
        bands = list(starts)

        def position(id_):
            column, line = places[id_]
            band = bands.index(rows[id_].chapter)
            return 8 + column * COLUMN, 30 + line * LINE + band * BAND

        width = max(x for x, _ in map(position, rows)) + BOX_WIDTH + 8
        height = max(y for _, y in map(position, rows)) + BOX_HEIGHT + 12
        edges = [(position(need), position(id_)) for id_ in rows for need in rows[id_].needs]
        counts = Counter(current.values())
        words = f"Graph of {len(rows)} claims and {len(edges)} dependencies: " + ", ".join(
            f"{counts[verdict]} {verdict}" for verdict in claims.Verdict if counts[verdict]
        )
        parts = []
        for band, (chapter, line) in enumerate(starts.items()):
            y = 22 + line * LINE + band * BAND
            parts.append(f'<text class="band" x="8" y="{y}">{html.escape(chapter)}</text>')
            parts.append(f'<path class="rule" d="M0 {y - 18}H{width}"/>')
        for (x0, y0), (x1, y1) in edges:
            a, b, half = x0 + BOX_WIDTH, x1, BOX_HEIGHT / 2
            bend = COLUMN - BOX_WIDTH
            parts.append(
                f'<path class="edge" marker-end="url(#claim-map-arrow)" d="M{a} {y0 + half}'
                f'C{a + bend} {y0 + half} {b - bend} {y1 + half} {b - 2} {y1 + half}"/>'
            )
        target = self.env.app.builder.get_relative_uri(self.env.docname, "book/ledger")
        for id_, row in rows.items():
            (x, y), verdict = position(id_), current[id_]
            needs = f" Rests on {', '.join(row.needs)}." if row.needs else ""
            title = html.escape(f"{verdict}: {id_}. {row.statement}{needs}")
            corner = BOX_HEIGHT // 2 if row.kind in ("theorem", "statement") else 2
            parts.append(
                f'<a class="node {css_class(verdict)}" href="{target}#{anchor(id_)}">'
                f"<title>{title}</title>"
                f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="{corner}"/>'
                f'<text x="{x + 9}" y="{y + 16}">{MARKS[verdict]} '
                f"{html.escape(id_.removeprefix('theorem.'))}</text></a>"
            )
        legend = "".join(
            f'<li><span class="verdict {css_class(verdict)}">{MARKS[verdict]} {verdict}</span></li>'
            for verdict in claims.Verdict
            if counts[verdict]
        )
        drawing = (
            f'<ul class="claim-map-legend">{legend}<li>round: theorem or statement</li>'
            "<li>square: figure or experiment</li></ul>"
            f'<div class="claim-map" tabindex="0" role="region" aria-label="Map of the claims">'
            f'<svg role="group" aria-label="{words}" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}">'
            '<defs><marker id="claim-map-arrow" viewBox="0 0 8 8" refX="7" refY="4" '
            'markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z"/></marker>'
            f"</defs>{''.join(parts)}</svg></div>"
        )
        return [nodes.raw("", drawing, format="html")]


def setup(app):
    app.setup_extension("folded_proofs")
    app.add_directive("claim", ClaimDirective)
    app.add_directive("ledger", LedgerDirective)
    app.add_directive("claim-map", ClaimMapDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
