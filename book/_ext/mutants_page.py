"""`{mutants}`: the table of deliberate faults and the rows of the ledger that they turn red.

`{mutation-score}`: how many mechanical faults in samkit's core its tests notice, and the survivors.
"""

from __future__ import annotations

import html
import sys
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from samkit.paper import claims

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # Sphinx does not run in the root
    sys.path.append(str(ROOT))

from ledger_pages import anchor, css_class, reports  # noqa: E402

from tools import mutants  # noqa: E402


def outcome(entry: dict) -> str:
    """What a check said, as HTML: its badge and the measurement, or the exception."""
    if "error" in entry:
        return f"raises <code>{html.escape(entry['error'].split(':')[0])}</code>"
    return measured(claims.Verdict(entry["verdict"]), entry["measured"])


def without(report: claims.Report | None) -> str:
    """What the check says without a fault, in the chapters that the book shows."""
    return measured(report.verdict, report.measured) if report else "not measured"


def measured(verdict: claims.Verdict, value: str) -> str:
    badge = f'<span class="verdict {css_class(verdict)}">{verdict}</span>'
    return f"{badge} {html.escape(value)}"


class MutantsDirective(SphinxDirective):
    """A line of counts, the rows that need words, and the table."""

    def run(self):
        tried, ledger = (
            mutants.load()["rows"],
            self.env.app.builder.get_relative_uri(self.env.docname, "book/ledger"),
        )
        today = reports()

        def link(row: str) -> str:
            return f'<a href="{ledger}#{anchor(row)}"><code>{html.escape(row)}</code></a>'

        lines, turned = [], {}
        for id_, mutant in mutants.catalogue().items():
            rows = tried.get(id_, {"rows": {}})["rows"]
            for number, (row, entry) in enumerate(rows.items()):
                turned.setdefault(row, []).append(mutant)
                head = ""
                if number == 0:
                    head = (
                        f'<th scope="rowgroup" rowspan="{len(rows)}" id="mutant-{anchor(id_)}">'
                        f"{html.escape(mutant.fault)} <code>{html.escape(mutant.file)}</code></th>"
                    )
                lines.append(
                    f"<tr>{head}<td>{link(row)}</td><td>{without(today.get(row))}</td>"
                    f"<td>{outcome(entry)}</td></tr>"
                )
        own = [row for row, by in turned.items() if all(mutant.chapter for mutant in by)]
        dates = sorted({entry["date"] for entry in tried.values()})
        words = [
            f"<p>{len(tried)} mutants were run, from {dates[0]} to {dates[-1]}; all "
            f"{len(turned)} rows with a verdict turned red.</p>",
            "<p>Rows whose formula stands in the chapter and not in samkit, so that only a fault "
            "in the chapter turned them: " + (", ".join(map(link, own)) or "none") + ".</p>",
        ]
        table = (
            '<div class="mutants" tabindex="0" role="region" aria-label="Mutants and rows"><table>'
            '<thead><tr><th scope="col">Fault</th><th scope="col">Row</th>'
            '<th scope="col">Without it</th><th scope="col">With it</th></tr></thead>'
            f"<tbody>{''.join(lines)}</tbody></table></div>"
        )
        return [nodes.raw("", "".join([*words, table]), format="html")]


class MutationScoreDirective(SphinxDirective):
    """A table of the core modules, and under each what its tests did not notice."""

    def run(self):
        found, lines, folds = mutants.load()["core"], [], []
        if missing := set(mutants.TESTS) - set(found):
            raise self.error(f"results/mutants.json lacks {', '.join(sorted(missing))}: make core")
        reasons = mutants.reasons()
        for module, entry in found.items():
            tried, survivors = mutants.tally(entry)
            noticed = tried - len(survivors)
            name = f"<code>{html.escape(module)}</code>"
            same = entry["parts"].keys() == set(mutants.fingerprints(module))
            later = "" if same else " (changed since)"
            lines.append(
                f'<tr><th scope="row">{name} <code>{html.escape(entry["tests"])}</code></th>'
                f"<td>{tried}</td><td>{noticed}</td><td>{noticed / tried:.0%}</td>"
                f"<td>{entry['date']}{later}</td></tr>"
            )
            items = ""
            for old, group in groupby(survivors, itemgetter("old")):
                if (module, old) not in reasons:
                    raise self.error(f"tests/survivors.toml does not say why {old!r} survives")
                became = ", ".join(
                    f"<code>{html.escape(s['new'])}</code>" if s["new"] else "nothing"
                    for s in group
                )
                items += (
                    f"<li><code>{html.escape(old)}</code> became "
                    f"{became}. Why: {html.escape(reasons[module, old])}.</li>"
                )
            folds.append(
                f"<details><summary>The {len(survivors)} survivors of {name}</summary>"
                f"<ul>{items}</ul></details>"
            )
        table = (
            '<div class="mutants" tabindex="0" role="region" aria-label="Mutation score"><table>'
            '<thead><tr><th scope="col">Module and its tests</th>'
            '<th scope="col">Faults</th><th scope="col">Noticed</th><th scope="col">Score</th>'
            f'<th scope="col">Tried</th></tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
        )
        return [nodes.raw("", "".join([table, *folds]), format="html")]


def setup(app):
    app.add_directive("mutants", MutantsDirective)
    app.add_directive("mutation-score", MutationScoreDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
