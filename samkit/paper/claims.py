"""The ledger of claims: what the paper states, how it is checked, what came out.

``ledger.toml`` holds one row per statement, figure and theorem: the words, the place, the check
and its tolerance. It holds no results. A chapter measures and calls :func:`check`; the verdict
follows from the measurement and the row's own tolerance, so no chapter can choose its tolerance.
The report travels in the metadata of the notebook's output, from where :func:`collect` reads it
for the book's ledger page.
"""

from __future__ import annotations

import datetime
import html
import math
import platform
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files

METADATA_KEY = "samkit_claim"
SENSES = ("at most", "at least")


class Verdict(StrEnum):
    """What became of a row. INCONCLUSIVE: the measured interval holds the tolerance inside it."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"
    OUT_OF_SCOPE = "OUT OF SCOPE"
    NOT_YET = "NOT YET"


class Evidence(StrEnum):
    """What a row rests on. BOTH: a part of the statement is proved, the rest is measured."""

    PROVED = "proved"
    MEASURED = "measured"
    BOTH = "both"


WORDS = {
    Verdict.PASS: "holds",
    Verdict.FAIL: "does not hold here",
    Verdict.INCONCLUSIVE: "undecided",
    Verdict.NOT_YET: "not yet measured",
    Verdict.OUT_OF_SCOPE: "out of scope",
}
OURS = re.compile(r"\s*\(Ours[^)]*\)")


class ClaimFailed(AssertionError):
    """A measurement contradicts its row in the ledger; ``report`` has both."""

    def __init__(self, message: str, report: Report):
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class Claim:
    """One row of the ledger.

    ``kind`` is theorem, figure, experiment or statement; ``evidence`` is proved, measured or both,
    and ``proof`` the label of what is proved, with its proof folded below it, in a chapter (empty
    for a row that is only measured). A theorem has a proof. ``check`` begins with what the measured
    number is, up to the first comma; ``sense`` and ``tolerance`` say what it must be ("at most"
    1e-6); ``reason`` says why that tolerance. A row without a tolerance is NOT YET checked, or OUT
    OF SCOPE if ``out_of_scope`` gives a reason. A row that is known to miss says why in
    ``known_miss``: then FAIL is the expected verdict and PASS is the surprise that stops the build.
    ``needs`` lists the ids of the rows that this one rests on: what its proof uses, or the theorem
    that a figure shows. ``records`` names the files of results/ that the check reads. ``published``
    is the number that the authors published, if there is one, and ``published_how`` how it is
    known: an output stored in their notebooks, or read off a plot, with what that leaves open.
    """

    id: str
    statement: str
    place: str
    kind: str
    evidence: str
    chapter: str
    scale: str
    check: str
    sense: str = ""
    tolerance: float | None = None
    reason: str = ""
    proof: str = ""
    known_miss: str = ""
    out_of_scope: str = ""
    needs: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    published: str = ""
    published_how: str = ""

    def __post_init__(self):
        for name in ("id", "statement", "place", "kind", "chapter", "scale", "check"):
            if not getattr(self, name):
                raise ValueError(f"ledger row {self.id or '?'}: {name} is empty")
        if self.kind not in ("theorem", "figure", "experiment", "statement"):
            raise ValueError(f"ledger row {self.id}: unknown kind {self.kind!r}")
        if self.evidence not in tuple(Evidence):
            raise ValueError(
                f"ledger row {self.id}: evidence is {self.evidence!r}, not {', '.join(Evidence)}"
            )
        if bool(self.proof) != (self.evidence != Evidence.MEASURED):
            raise ValueError(
                f"ledger row {self.id} is {self.evidence}: name the proof where there is one, and "
                "only there"
            )
        if (self.kind == "theorem" or self.id.startswith("theorem.")) and not self.proof:
            raise ValueError(f"ledger row {self.id} is called a theorem and has no proof")
        if bool(self.published) != bool(self.published_how):
            raise ValueError(f"ledger row {self.id}: a published number needs how it is known")
        if self.tolerance is not None and (self.sense not in SENSES or not self.reason):
            raise ValueError(
                f"ledger row {self.id}: a tolerance needs a sense ({' or '.join(SENSES)}) "
                "and a reason"
            )

    @property
    def is_ours(self) -> bool:
        """Is this not in the paper?"""
        return self.place == "beyond the paper" or bool(OURS.search(self.statement))

    def in_words(self, verdict: Verdict) -> str:
        """A verdict as a reader is told it. What is proved and fails, a counterexample refutes."""
        if verdict == Verdict.FAIL and self.evidence != Evidence.MEASURED:
            return "counterexample"
        return WORDS[Verdict(verdict)]

    @property
    def criterion(self) -> str:
        """The tolerance in words, as in "at most 1e-06"."""
        return "" if self.tolerance is None else f"{self.sense} {self.tolerance:g}"

    @property
    def quantity(self) -> str:
        """What the measured number is a number of: the words with which the check begins."""
        words = self.check.removeprefix("Proof, and ").removeprefix("Proof; ")
        begins = re.split(r"[,;:] | \(|\.(?: |$)", words, maxsplit=1)[0]
        return begins[0].upper() + begins[1:]

    @property
    def unchecked_verdict(self) -> Verdict:
        """The verdict while no chapter has reported."""
        return Verdict.OUT_OF_SCOPE if self.out_of_scope else Verdict.NOT_YET

    def judge(self, low: float, high: float) -> Verdict:
        """The verdict on a measurement known to lie in [low, high]. nan never passes."""
        if self.tolerance is None:
            raise ValueError(f"ledger row {self.id} has no tolerance: give it one in ledger.toml")
        if math.isnan(low) or math.isnan(high):
            return Verdict.FAIL
        if self.sense == "at most":
            holds = [high <= self.tolerance, low <= self.tolerance]
        else:
            holds = [low >= self.tolerance, high >= self.tolerance]
        if all(holds):
            return Verdict.PASS
        return Verdict.INCONCLUSIVE if any(holds) else Verdict.FAIL


@dataclass(frozen=True)
class Report:
    """A measurement and its verdict. ``low`` = ``high`` where there is no interval."""

    id: str
    low: float
    high: float
    verdict: Verdict
    detail: str
    date: str
    versions: dict[str, str]
    machine: str

    @property
    def measured(self) -> str:
        """The measurement as the ledger prints it."""
        if math.isinf(self.low) and math.isinf(self.high):
            return "without an interval"
        if self.low == self.high or math.isnan(self.low):
            return f"{self.low:.3g}"
        return f"{self.low:.3g} to {self.high:.3g}"

    def __str__(self):
        claim = ledger()[self.id]
        return f"{self.verdict}  {self.id}  ({claim.criterion})"

    def _repr_mimebundle_(self, include=None, exclude=None):
        claim = ledger()[self.id]
        color, anchor = self.verdict.lower(), anchor_of_check(self.id)
        badge = f'<span class="verdict verdict-{color}">{self.verdict}</span>'
        detail = f" {html.escape(self.detail)}" if self.detail else ""
        text = (
            f'<p class="claim-report" id="{anchor}">{badge} <strong>{self.id}</strong> '
            f"measured {self.measured}, required {claim.criterion}.{detail}</p>"
        )
        metadata = asdict(self)
        for name in ("low", "high"):  # JSON has no inf and no nan: words, which float() reads
            if not math.isfinite(metadata[name]):
                metadata[name] = str(metadata[name])
        return {"text/plain": str(self), "text/html": text}, {METADATA_KEY: metadata}


def anchor_of_check(claim_id: str) -> str:
    """The id, on the chapter's page, of the report that its check displays."""
    return f"checked-{claim_id}".lower().replace(".", "-")


def parse(source: str) -> dict[str, Claim]:
    """The rows of a ledger, as TOML, by their id.

    Raises ValueError for a row that is there twice, has a key or needs a row that does not exist,
    or needs itself by way of others.
    """
    rows: dict[str, Claim] = {}
    known = {field.name for field in fields(Claim)}
    for row in tomllib.loads(source)["claim"]:
        if unknown := set(row) - known:
            raise ValueError(f"ledger row {row.get('id', '?')}: unknown keys {sorted(unknown)}")
        lists = {name: tuple(row.get(name, ())) for name in ("needs", "records")}
        claim = Claim(**{**row, **lists})
        if claim.id in rows:
            raise ValueError(f"ledger row {claim.id} is there twice")
        rows[claim.id] = claim
    for claim in rows.values():
        if unknown := set(claim.needs) - set(rows):
            raise ValueError(f"ledger row {claim.id} needs unknown rows {sorted(unknown)}")
    try:
        TopologicalSorter({claim.id: claim.needs for claim in rows.values()}).prepare()
    except CycleError as error:
        raise ValueError(f"ledger rows need each other: {' -> '.join(error.args[1])}") from None
    return rows


@cache
def ledger() -> Mapping[str, Claim]:
    """Every row of the ledger by its id, in the order of the file."""
    return parse((files("samkit.paper") / "ledger.toml").read_text(encoding="utf-8"))


def find(claim_id: str) -> Claim:
    """The row of that id; KeyError that lists the ids there are otherwise."""
    try:
        return ledger()[claim_id]
    except KeyError:
        raise KeyError(
            f"no row {claim_id!r} in samkit/paper/ledger.toml; there are: {', '.join(ledger())}"
        ) from None


class NotRecorded(LookupError):
    """Runs that a measurement needs are not recorded yet; the message says how to make them."""


Measured = float | tuple[float, float]


def check(
    claim_id: str, measured: Measured | Callable[[], Measured], detail: str = ""
) -> Report | str:
    """Report a measurement for a row of the ledger; the last line of a chapter's cell.

    ``measured`` is a number, or (low, high) for an interval, or a function that gives one; where
    that raises NotRecorded, "not yet" and the reason are returned. Raises ClaimFailed where the
    verdict is not the one the row expects (PASS, or FAIL for a known miss), so that the notebook
    stops.
    """
    claim = find(claim_id)
    if callable(measured):
        try:
            measured = measured()
        except NotRecorded as missing:
            return f"not yet: {missing}"
    low, high = measured if isinstance(measured, tuple) else (measured, measured)
    low, high = float(low), float(high)
    report = Report(
        id=claim_id,
        low=low,
        high=high,
        verdict=claim.judge(low, high),
        detail=detail,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        versions=versions(),
        machine=f"{platform.system()} {platform.machine()}",
    )
    unexpected = Verdict.PASS if claim.known_miss else Verdict.FAIL
    if report.verdict is unexpected:
        raise ClaimFailed(
            f"{claim_id}: {claim.statement} Measured {report.measured}, required "
            f"{claim.criterion} ({claim.reason}). "
            + (
                f"The ledger calls this a known miss: {claim.known_miss}"
                if claim.known_miss
                else ""
            ),
            report,
        )
    return report


def collect(chapters: Mapping[str, dict]) -> dict[str, Report]:
    """The reports in executed notebooks (name -> notebook as a dict), by id.

    Raises ValueError for a row that the ledger does not know, that belongs to another chapter, or
    that was reported twice.
    """
    reports: dict[str, Report] = {}
    for chapter, notebook in chapters.items():
        for cell in notebook["cells"]:
            for output in cell.get("outputs", ()):
                found = output.get("metadata", {}).get(METADATA_KEY)
                if found is None:
                    continue
                bounds = {name: float(found[name]) for name in ("low", "high")}
                report = Report(**{**found, **bounds, "verdict": Verdict(found["verdict"])})
                claim = ledger().get(report.id)
                if claim is None:
                    raise ValueError(
                        f"{chapter} reports {report.id}, which the ledger does not have"
                    )
                if claim.chapter != chapter:
                    raise ValueError(f"{chapter} reports {report.id}, a row of {claim.chapter}")
                if report.id in reports:
                    raise ValueError(f"{report.id} is reported twice in {chapter}")
                reports[report.id] = report
    return reports


def versions() -> dict[str, str]:
    """Python and those packages that a measurement may depend on, with their versions."""
    found = {"python": platform.python_version()}
    for package in ("samkit", "numpy", "scipy", "numba", "torch", "mnist1d"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
