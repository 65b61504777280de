"""The ledger in the book: `{ledger}` is the whole of it, `{claims}` the rows of a chapter in a
table, the role {row} links words to one, `{claim-map}` the main statements and what rests on what.

Verdicts come from the executed chapters that tools/execute.py keeps; without them every row shows
what it shows before any check: not yet measured.
"""

from __future__ import annotations

import html
import json
import math
import re
import textwrap
from collections import Counter
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective, SphinxRole

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


PLACE = re.compile(r"Figures? \d+(?: and \d+)?|Theorem \d+|Section \d+|Appendix")


def verdict_of(claim, report) -> claims.Verdict:
    return report.verdict if report else claim.unchecked_verdict


def words(claim, report) -> str:
    return claim.in_words(verdict_of(claim, report))


def css_class(verdict: claims.Verdict) -> str:
    return f"verdict-{verdict.lower().replace(' ', '-')}"


def badge(claim, report) -> nodes.inline:
    verdict = verdict_of(claim, report)
    return nodes.inline("", words(claim, report), classes=["verdict", css_class(verdict)])


def badge_html(claim, report) -> str:
    verdict = verdict_of(claim, report)
    return f'<span class="verdict {css_class(verdict)}">{words(claim, report)}</span>'


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
    return f"{len(seeds)} seeds, recorded {when}{repeated(name)}"


def repeated(name: str) -> str:
    """Whether today's code repeats the runs of that file, as the last `make rerun` found."""
    path = RESULTS / "rerun.json"
    found = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else {}
    own = [run["agrees"] for words, run in found.items() if words.split()[0] in name]
    if not own:
        return ""
    return "; a rerun agrees" if all(own) else "; today's code no longer repeats them"


def link_to(claim_id: str, docname: str) -> nodes.Node:
    return addnodes.pending_xref(
        "", nodes.literal("", claim_id), refdomain="std", reftype="ref", refexplicit=True,
        refwarn=True, reftarget=anchor(claim_id), refdoc=docname,
    )  # fmt: skip


class Row(SphinxDirective):
    """What the directives share: the words of one row."""

    def text(self, words: str) -> list[nodes.Node]:
        parsed = self.parse_text_to_nodes(words)
        return parsed[0].children if parsed else []

    def link(self, claim_id: str) -> nodes.Node:
        return link_to(claim_id, self.env.docname)

    def statement(self, claim) -> list[nodes.Node]:
        """What is claimed, marked where the paper does not say it."""
        said = self.text(claims.OURS.sub("", claim.statement))
        return (
            [*said, nodes.Text(" "), nodes.inline("", "ours", classes=["ours"])]
            if claim.is_ours
            else said
        )

    def heading(self, claim, report) -> nodes.paragraph:
        parts = [badge(claim, report), self.link(claim.id), *self.statement(claim)]
        spaced = [piece for part in parts for piece in (part, nodes.Text(" "))]
        return nodes.paragraph("", "", *spaced)

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


def table(head: list[str], rows: list[list[list[nodes.Node]]], kind: str) -> nodes.table:
    """An HTML table; each cell is a list of inline nodes."""
    group = nodes.tgroup("", cols=len(head))
    group += [nodes.colspec(colwidth=1) for _ in head]

    def line(cells) -> nodes.row:
        return nodes.row("", *[nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells])

    group += nodes.thead("", line([[nodes.Text(name)] for name in head]))
    group += nodes.tbody("", *[line(cells) for cells in rows])
    return nodes.table("", group, classes=[kind])


class ClaimsDirective(Row):
    """The rows of the chapter it stands in, the main ones open and the others folded.

    The main ones are those whose ids it holds; if it holds none, the paper's that are measured.
    """

    has_content = True

    def run(self):
        chapter, found = Path(self.env.docname).name, reports()
        rows = [row for row in claims.ledger().values() if row.chapter == chapter]
        try:
            main = [claims.find(id_) for id_ in " ".join(self.content).split()]
        except KeyError as error:
            raise self.error(str(error)) from None
        main = main or [row for row in rows if not row.is_ours and row.id in found]
        main = main or [row for row in rows if row.id in found] or rows
        further = [row for row in rows if row not in main and row.id in found]
        later = [row for row in rows if row not in main and row.id not in found]
        parts: list[nodes.Node] = [self.table(main, found)]
        for group, name in ((further, "Further statements"), (later, "Not yet measured")):
            if group:
                summary = f"<summary>{name} ({len(group)})</summary>"
                opening = f'<details class="claims-fold">{summary}'
                parts.append(nodes.raw("", opening, format="html"))
                parts.append(self.table(group, found))
                parts.append(nodes.raw("", "</details>", format="html"))
        return parts

    def table(self, rows, found) -> nodes.table:
        lines = []
        for claim in rows:
            report = found.get(claim.id)
            here = [nodes.Text("not yet")]
            if report:
                said = f"{claim.quantity}: {plain(report)}; required: {plain(claim)}"
                here = [nodes.Text(said)]
            elif claim.out_of_scope:
                here = self.text(claim.out_of_scope)
            lines.append(
                [self.statement(claim), here, [badge(claim, report)], [self.link(claim.id)]]
            )
        return table(["Statement", "Here", "Verdict", "Row"], lines, "claims")


def plain(of: claims.Claim | claims.Report) -> str:
    """A measurement, or what is required of it, with powers of ten as such."""
    words = of.criterion if isinstance(of, claims.Claim) else of.measured
    words = re.sub(r"(-?[\d.]+)e([+-])0*(\d+)", _power, words)
    return re.sub(r"(?<![\w.])-(?=[\d.])", "\N{MINUS SIGN}", words)


def _power(match: re.Match) -> str:
    mantissa, sign, exponent = match.groups()
    digits = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
    power = "10" + ("⁻" if sign == "-" else "") + exponent.translate(digits)
    return power if mantissa == "1" else f"{mantissa} · {power}"


BAR = (96, 16)  # pixels


def bar(claim, report) -> str:
    """The interval against the tolerance, as a small drawing; the allowed side is shaded."""
    if not report or not all(map(math.isfinite, (report.low, report.high))):
        return '<span class="bar"></span>'
    values = [report.low, report.high, claim.tolerance]
    sizes = [abs(value) for value in values if value]
    if all(value > 0 for value in values) and max(sizes) / min(sizes) > 30:
        values = [math.log(value) for value in values]
    low, high = min(values), max(values)
    pad = 0.3 * (high - low) or 1.0
    x0, x1, t = (BAR[0] * (v - low + pad) / (high - low + 2 * pad) for v in values)
    start, width = (0.0, t) if claim.sense == "at most" else (t, BAR[0] - t)
    said = html.escape(f"measured {plain(report)}, required {plain(claim)}")
    return (
        f'<svg class="bar" role="img" aria-label="{said}" width="{BAR[0]}" height="{BAR[1]}">'
        f'<rect class="allowed" x="{start:.1f}" y="0" width="{width:.1f}" height="{BAR[1]}"/>'
        f'<path class="tolerance" d="M{t:.1f} 0V{BAR[1]}"/>'
        f'<path class="interval" d="M{x0:.1f} {BAR[1] / 2}H{max(x1, x0 + 0.1):.1f}"/></svg>'
    )


class LedgerDirective(Row):
    """Every row in a line that opens, under a line that counts the verdicts.

    ledger.mjs puts filters above them, for which each row carries what it is filtered by.
    """

    def run(self):
        found = reports()
        counts = Counter(verdicts(found).values())
        summary = nodes.paragraph("", f"{counts.total()} rows: ")
        for verdict in claims.Verdict:
            if counts[verdict]:
                words = nodes.inline(
                    "", claims.WORDS[verdict], classes=["verdict", css_class(verdict)]
                )
                summary += [nodes.Text(f" {counts[verdict]} "), words]
        result: list[nodes.Node] = [summary, self.raw('<div class="ledger">')]
        labels = self.env.get_domain("std").anonlabels
        for id_, claim in claims.ledger().items():
            labels[anchor(id_)] = (self.env.docname, anchor(id_))
            result += self.row(claim, found.get(id_))
        return [*result, self.raw("</div>")]

    def raw(self, text: str) -> nodes.raw:
        return nodes.raw("", text, format="html")

    def row(self, claim, report) -> list[nodes.Node]:
        figure = PLACE.search(claim.place)
        kept = {
            "verdict": words(claim, report),
            "chapter": claim.chapter,
            "place": figure[0] if figure else claim.place,
            "evidence": claim.evidence,
            "by": "ours" if claim.is_ours else "the paper's",
        }
        data = "".join(f' data-{name}="{html.escape(value)}"' for name, value in kept.items())
        return [
            self.raw(f'<details class="row" id="{anchor(claim.id)}"{data}><summary>'),
            badge(claim, report),
            nodes.Text(" "),
            nodes.inline("", "", *self.statement(claim), classes=["statement"]),
            self.raw(f" {bar(claim, report)} <code>{html.escape(claim.id)}</code></summary>"),
            self.facts(claim, report),
            self.raw("</details>"),
        ]


class ClaimMapDirective(Row):
    """The main statements as boxes, each a line `key | words | chapter | prefixes of rows | needs`.

    A box leads to its chapter and says how the rows that begin with one of the prefixes came out.
    In a narrow window a list says the same.
    """

    has_content = True

    def run(self):
        found, boxes = reports(), {}
        for line in self.content:
            key, said, chapter, prefixes, needs = (part.strip() for part in line.split("|"))
            rows = [
                row
                for row in claims.ledger().values()
                if any(row.id == p or row.id.startswith(f"{p}.") for p in prefixes.split())
            ]
            if not rows:
                raise self.error(f"{key}: no row of the ledger begins with {prefixes}")
            if unknown := set(needs.split()) - set(boxes):
                raise self.error(f"{key} needs {unknown}, which must stand above it")
            counts = Counter(words(row, found.get(row.id)) for row in rows)
            outcome = ", ".join(f"{SIGNS[name]} {counts[name]}" for name in SIGNS if counts[name])
            boxes[key] = said, chapter, outcome, needs.split()
        return [nodes.raw("", drawing(boxes, self.uri), format="html")]

    def uri(self, chapter: str) -> str:
        name = next(n for n in sorted(self.env.found_docs) if n.startswith(f"book/{chapter}-"))
        return self.env.app.builder.get_relative_uri(self.env.docname, name)


SIGNS = {  # small, for a box of the map
    "holds": "✓",
    "counterexample": "✗",
    "does not hold here": "✗",
    "undecided": "?",
    "not yet measured": "…",
    "out of scope": "–",
}
BOX, GAP, COLUMNS = (226, 92), (20, 34), 3  # pixels


def drawing(boxes: dict, uri) -> str:
    """Boxes in reading order, row after row, with a line from what is used to what uses it."""
    place = {
        key: ((k % COLUMNS) * (BOX[0] + GAP[0]), (k // COLUMNS) * (BOX[1] + GAP[1]))
        for k, key in enumerate(boxes)
    }
    width = COLUMNS * BOX[0] + (COLUMNS - 1) * GAP[0]
    height = max(y for _, y in place.values()) + BOX[1] + 4
    edges, shapes, items = [], [], []
    for key, (said, chapter, outcome, needs) in boxes.items():
        x, y = place[key]
        for need in needs:
            x0, y0 = place[need]
            if y0 == y:  # a neighbour
                start, end = (x0 + BOX[0] if x0 < x else x0), (x if x0 < x else x + BOX[0])
                path = f"M{start} {y0 + BOX[1] / 2}H{end}"
            else:
                a, b = x0 + BOX[0] / 2, x + BOX[0] / 2
                turn = y - GAP[1] / 2
                path = f"M{a} {y0 + BOX[1]}C{a} {turn + 30} {b} {turn - 60} {b} {y}"
            edges.append(f'<path class="edge" marker-end="url(#claim-map-arrow)" d="{path}"/>')
        lines = textwrap.wrap(said, 29)
        text = "".join(
            f'<tspan x="{x + 10}" y="{y + 20 + 17 * k}">{html.escape(line)}</tspan>'
            for k, line in enumerate(lines)
        )
        link = html.escape(uri(chapter))
        shapes.append(
            f'<a class="node" href="{link}"><rect x="{x}" y="{y}" width="{BOX[0]}" '
            f'height="{BOX[1]}" rx="6"/><text>{text}</text>'
            f'<text class="outcome" x="{x + 10}" y="{y + BOX[1] - 9}">'
            f"{html.escape(f'chapter {int(chapter)}: {outcome}')}</text></a>"
        )
        uses = f" Rests on: {'; '.join(boxes[need][0] for need in needs)}." if needs else ""
        items.append(
            f'<li><a href="{link}">{html.escape(said)}.</a> '
            f"<small>{html.escape(outcome)}.{html.escape(uses)}</small></li>"
        )
    arrow = (
        '<defs><marker id="claim-map-arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>'
    )
    return (
        f'<div class="claim-map"><svg role="group" aria-label="Map of the {len(boxes)} main '
        f'statements" viewBox="-2 -2 {width + 4} {height + 4}">{arrow}'
        f"{''.join(edges + shapes)}</svg><ol>{''.join(items)}</ol></div>"
    )


class RowRole(SphinxRole):
    """Words that link to the row of the ledger they rest on, {row}`it is sparser <fig06.1-sam>`.

    Where the row does not hold, or is undecided or not yet measured, its verdict follows, and
    `VerdictsLast` moves it to the end of the paragraph.
    """

    def run(self):
        said, _, id_ = self.text.removesuffix(">").rpartition("<")
        try:
            claim = claims.find(id_)
        except KeyError as error:
            return [], [self.inliner.reporter.error(str(error), line=self.lineno)]
        link = link_to(id_, self.env.docname)
        link.children = [nodes.inline("", said.strip())]
        report = reports().get(id_)
        if verdict_of(claim, report) is claims.Verdict.PASS:
            return [link], []
        verdict = link_to(id_, self.env.docname)
        verdict.children = [nodes.inline("", words(claim, report))]
        verdict["classes"] = ["verdict", css_class(verdict_of(claim, report))]
        return [link, verdict], []


class VerdictsLast(SphinxTransform):
    """Moves the verdicts of {row} behind the last word of their paragraph, item or cell."""

    default_priority = 500

    def apply(self, **given):
        for paragraph in list(self.document.findall(nodes.paragraph)):
            for verdict in list(paragraph.findall(addnodes.pending_xref)):
                if "verdict" in verdict["classes"]:
                    verdict.parent.remove(verdict)
                    paragraph += [nodes.Text(" "), verdict]


def setup(app):
    app.add_directive("claims", ClaimsDirective)
    app.add_directive("ledger", LedgerDirective)
    app.add_directive("claim-map", ClaimMapDirective)
    app.add_role("row", RowRole())
    app.add_transform(VerdictsLast)
    for script in ("ledger.mjs", "previews.mjs"):
        app.add_js_file(script, type="module")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
