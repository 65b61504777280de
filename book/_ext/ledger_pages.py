"""The ledger in the book: `{ledger}` is the whole of it, `{claim} ID` one row in a chapter,
`{claim-map}` the graph of what rests on what.

Verdicts come from the executed chapters that tools/execute.py keeps; without them every row shows
what it shows before any check, NOT YET.
"""

from __future__ import annotations

import html
import json
from collections import Counter, defaultdict
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import mean

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

from samkit.paper import claims, experiments

ROOT = Path(__file__).resolve().parents[2]
EXECUTED = ROOT / "_build" / "executed" / experiments.scale()
RESULTS = ROOT / "results"


@cache
def reports() -> dict[str, claims.Report]:
    """Every report of the executed chapters, by id; read once a build."""
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
    return f"claim-{claim_id}".lower().replace(".", "-")  # scripts select by it


@cache
def recorded(name: str) -> str:
    """In words: how many seeds are in a file of results/, and when it was recorded."""
    if not name.endswith(".jsonl"):
        record = json.loads((RESULTS / name).read_text(encoding="utf-8"))
        return f"measured {record['machine']['date']}" if "machine" in record else "measured"
    lines = (RESULTS / name).read_text(encoding="utf-8").splitlines()
    runs = [json.loads(line) for line in lines]
    seeds, dates = {run["seed"] for run in runs}, sorted(run["date"][:10] for run in runs)
    when = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    return f"{len(seeds)} seeds, recorded {when}"


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
        evidence = nodes.inline("", claim.evidence.upper(), classes=["evidence"])
        paragraph += [evidence, nodes.Text(" ")]
        paragraph += self.text(claim.statement)
        return paragraph

    def page(self, claim, words: str) -> nodes.Node:
        """A link to the chapter of a row; to the report in it where there is one."""
        if f"book/{claim.chapter}" not in self.env.found_docs:
            return nodes.Text(words)
        return addnodes.pending_xref(
            "", nodes.inline("", words), refdomain="std", reftype="doc", refexplicit=True,
            reftarget=f"/book/{claim.chapter}", refdoc=self.env.docname,
        )  # fmt: skip

    def checked(self, claim) -> nodes.Node:
        """A link to the cell that made the check."""
        uri = self.env.app.builder.get_relative_uri(self.env.docname, f"book/{claim.chapter}")
        uri += f"#{claims.anchor_of_check(claim.id)}"
        return nodes.reference("", f"a cell of {claim.chapter}", refuri=uri, internal=True)

    def recorded(self, claim) -> list[nodes.Node]:
        """The recorded runs that a check reads, to be downloaded, and their seeds."""
        body: list[nodes.Node] = []
        for name in claim.records:
            if not (RESULTS / name).exists():  # it waits for its first run
                continue
            body += [nodes.Text("; ")] if body else []
            link = addnodes.download_reference(
                "", "", nodes.literal("", name), reftarget=f"/results/{name}",
                refdoc=self.env.docname,
            )  # fmt: skip
            body += [link, nodes.Text(f", {recorded(name)}")]
        return body

    def facts(self, claim, report) -> nodes.field_list:
        listed = nodes.field_list()
        rows = [("In the paper", claim.place), ("Check", claim.check)]
        if claim.criterion:
            rows.append(("Required", f"{claim.criterion}: {claim.reason}"))
        if claim.proof:
            rows.append(("Proof", f"{{prf:ref}}`{claim.proof}`"))
        if claim.published:
            rows.append(("Published", f"{claim.published} ({claim.published_how})"))
        if report:
            rows.append(("Measured", f"{report.measured} {report.detail}".strip()))
            versions = ", ".join(f"{name} {number}" for name, number in report.versions.items())
            rows.append(("Date and machine", f"{report.date}, {report.machine}, {versions}"))
        for name, reason in (
            ("Known miss", claim.known_miss),
            ("Out of scope", claim.out_of_scope),
        ):
            if reason:
                rows.append((name, reason))
        fields = [(name, self.text(value)) for name, value in rows]
        where = [self.page(claim, claim.chapter), nodes.Text(f", {claim.scale}")]
        fields.append(("Chapter and scale", where))
        if report:
            alone = nodes.literal("", f"python -m samkit check {claim.id}")
            fields.append(("Checked in", [self.checked(claim), nodes.Text("; alone: "), alone]))
        if claim.tolerance is not None and (record := self.recorded(claim)):
            fields.append(("Recorded runs", record))
        if claim.needs:
            links = [part for id_ in claim.needs for part in (self.link(id_), nodes.Text(" "))]
            fields.append(("Depends on", links))
        for name, parts in fields:
            body = nodes.field_body("", nodes.paragraph("", "", *parts))
            listed += nodes.field("", nodes.field_name("", name), body)
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
WIDTH, HEIGHT = 240, 24  # of a box, in the units of the drawing
LINE, BAND, GUTTER = 38, 30, 44  # GUTTER holds lines
COLUMN = WIDTH + GUTTER  # a step to the right


def layout(rows: dict[str, claims.Claim]) -> dict[str, dict[str, tuple[int, int]]]:
    """chapter -> id -> (column, line): a band of boxes for every chapter.

    The column of a row is the length of the longest chain of needs below it inside its chapter,
    and its line as near as can be to the lines of what it needs there. A row without any such tie
    goes where its band is least filled.
    """
    bands = defaultdict(dict)
    for row in sorted(rows.values(), key=lambda row: row.chapter):
        bands[row.chapter][row.id] = [id_ for id_ in row.needs if rows[id_].chapter == row.chapter]
    columns: dict[str, int] = {}
    for graph in bands.values():
        for id_ in TopologicalSorter(graph).static_order():
            columns[id_] = 1 + max((columns[need] for need in graph[id_]), default=-1)
    places = {}
    for chapter, graph in bands.items():
        used = {need for needs in graph.values() for need in needs}
        alone = [id_ for id_ in graph if not graph[id_] and id_ not in used]
        band, filled = {}, Counter()
        for id_ in sorted(graph.keys() - alone, key=lambda i: (columns[i], [*graph].index(i))):
            wanted = [band[need][1] for need in graph[id_]]
            line = max(filled[columns[id_]], round(mean(wanted)) if wanted else 0)
            band[id_] = columns[id_], line
            filled[columns[id_]] = line + 1
        for id_ in alone:
            column = min(range(max(columns.values()) + 1), key=lambda c: (filled[c], c))
            band[id_] = column, filled[column]
            filled[column] += 1
        places[chapter] = band
    return places


def route(start: tuple[int, int], end: tuple[int, int], track: int) -> str:
    """An SVG path from box to box that keeps to the gutters between columns and lines."""
    (x0, y0), (x1, y1) = start, end
    shift = 6 + 5 * (track % 7)
    out, into = x0 + WIDTH + shift, x1 - GUTTER + shift
    path = f"M{x0 + WIDTH} {y0 + HEIGHT // 2}H{out}"
    if out != into:  # not the next column: cross over just above the line of the target
        path += f"V{y1 - 3 - 3 * (track % 3)}H{into}"
    return f"{path}V{y1 + HEIGHT // 2}H{x1 - 1}"


class ClaimMapDirective(SphinxDirective):
    """The rows as boxes in the colours of their verdicts, with a line from each to its users."""

    def run(self):
        rows, current = claims.ledger(), verdicts(reports())
        target = self.env.app.builder.get_relative_uri(self.env.docname, "book/ledger")
        position, tracks, names, top = {}, {}, [], 0
        for chapter, band in layout(rows).items():
            names.append(f'<path class="rule" d="M0 {top}H9999"/>')
            names.append(f'<text class="band" x="8" y="{top + 18}">{html.escape(chapter)}</text>')
            for id_, (column, line) in band.items():
                position[id_] = GUTTER + column * COLUMN, top + BAND + 6 + line * LINE
                tracks[id_] = sum(x == position[id_][0] for x, _ in position.values())
            top += BAND + LINE * (1 + max(line for _, line in band.values()))
        width = max(x for x, _ in position.values()) + WIDTH + 8
        edges = [
            f'<path class="edge" marker-end="url(#claim-map-arrow)" '
            f'd="{route(position[need], position[id_], tracks[need])}"/>'
            for id_, row in rows.items()
            for need in row.needs
        ]
        boxes = []
        for id_, row in rows.items():
            (x, y), verdict = position[id_], current[id_]
            needs = f" Depends on {', '.join(row.needs)}." if row.needs else ""
            corner = HEIGHT // 2 if row.kind in ("theorem", "statement") else 2
            boxes.append(
                f'<a class="node {css_class(verdict)}" href="{target}#{anchor(id_)}">'
                f"<title>{html.escape(f'{verdict}: {id_}. {row.statement}{needs}')}</title>"
                f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="{corner}"/>'
                f'<text x="{x + 9}" y="{y + 16}">{MARKS[verdict]} '
                f"{html.escape(id_.removeprefix('theorem.'))}</text></a>"
            )
        counts = Counter(current.values())
        legend = [
            f'<span class="verdict {css_class(verdict)}">{MARKS[verdict]} {verdict}</span>'
            for verdict in claims.Verdict
            if counts[verdict]
        ] + ["round: theorem or statement", "square: figure or experiment"]
        words = (
            f"Graph of {len(rows)} claims and the {len(edges)} lines between them: "
            + ", ".join(
                f"{counts[verdict]} {verdict}" for verdict in claims.Verdict if counts[verdict]
            )
        )
        drawing = (
            f'<ul class="claim-map-legend">{"".join(f"<li>{item}</li>" for item in legend)}</ul>'
            '<div class="claim-map" tabindex="0" role="region" '
            'aria-label="Map of the claims">'
            f'<svg role="group" aria-label="{words}" width="{width}" height="{top}" '
            f'viewBox="0 0 {width} {top}">'
            '<defs><marker id="claim-map-arrow" viewBox="0 0 8 8" refX="7" refY="4" '
            'markerWidth="6" markerHeight="6" orient="auto"><path d="M0 0L8 4L0 8z"/></marker>'
            f"</defs>{''.join(names + edges + boxes)}</svg></div>"
        )
        return [nodes.raw("", drawing, format="html")]


def setup(app):
    app.add_directive("claim", ClaimDirective)
    app.add_directive("ledger", LedgerDirective)
    app.add_directive("claim-map", ClaimMapDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
