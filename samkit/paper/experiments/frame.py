"""Runs as a table: one row a run in a pandas DataFrame, and the one comparison that is made.

:func:`frame` makes it of records, :func:`compare` compares two settings seed by seed, and
:func:`summarize` prints means. Every interval is a 95 % one over the seeds; seeds too few to have
one give -inf to inf, which the ledger calls INCONCLUSIVE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import nct as noncentral
from scipy.stats import t as student

#: columns in which a run and the one that it is compared with agree
WITHIN = ("data", "net", "norm", "noise", "kind")


def frame(
    records: Iterable[Mapping[str, Any]], setting: Callable[[Mapping[str, Any]], Mapping[str, Any]]
) -> pd.DataFrame:
    """One row for each record: the entries of ``setting(config)``, "seed", and every metric.

    A metric that a run does not have, because it diverged, is missing (nan).
    """
    rows = [{**setting(r["config"]), "seed": r["seed"], **r["metrics"]} for r in records]
    return pd.DataFrame(rows)


def pick(runs: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    """The rows with these values, None for those that have none; ValueError where there is no row.

    >>> pick(pd.DataFrame({"method": ["ERM", "SAM"], "seed": [0, 0]}), {"method": "SAM"})
      method  seed
    1    SAM     0
    """
    found = _where(runs, where)
    if found.empty:
        raise ValueError(f"there is no run with {dict(where)}")
    return found


def _where(runs: pd.DataFrame, where: Mapping[str, Any]) -> pd.DataFrame:
    for column, value in where.items():
        runs = runs[runs[column].isna() if pd.isna(value) else runs[column] == value]
    return runs


def by_seed(runs: pd.DataFrame, measure: str, where: Mapping[str, Any]) -> pd.Series:
    """The measure of the one run that each seed has with these values, seed -> number.

    Raises ValueError where a seed has two.
    """
    found = pick(runs, where).set_index("seed")[measure].dropna().sort_index()
    if not found.index.is_unique:
        twice = found.index[found.index.duplicated()][0]
        raise ValueError(f"two runs of seed {twice} have {dict(where)}: say which")
    return found.astype(float)


def compare(
    runs: pd.DataFrame, measure: str, a: Mapping[str, Any], b: Mapping[str, Any]
) -> tuple[float, float]:
    """The interval of the mean of ``measure`` under a minus that under b, seed by seed.

    Each of ``a`` and ``b`` picks, by its columns, one run a seed. Raises ValueError where they pick
    two, or have no seed in common.
    """
    difference = (by_seed(runs, measure, a) - by_seed(runs, measure, b)).dropna()
    if difference.empty:
        raise ValueError("a comparison needs seeds that both sides have; there are none")
    return interval(difference)


def share(part: pd.Series, whole: pd.Series) -> tuple[float, float]:
    r"""The interval of the mean of ``part`` over the mean of ``whole``, both by seed.

    Fieller's: those ratios :math:`q` for which zero is in the interval of the mean of part - q
    whole. (-inf, inf) where the mean of ``whole`` cannot be told from zero. Raises ValueError for
    fewer than two seeds in common.
    """
    both = pd.DataFrame({"part": part, "whole": whole}).dropna()
    if len(both) < 2:
        raise ValueError("a share needs two seeds that both sides have")
    a, b = both["part"].mean(), both["whole"].mean()
    unsure = student.ppf(0.975, len(both) - 1) ** 2 / len(both) * both.cov()
    # (b^2 - unsure_bb) q^2 - 2 (ab - unsure_ab) q + (a^2 - unsure_aa) <= 0
    lead = b**2 - unsure.loc["whole", "whole"]
    if lead <= 0:
        return -np.inf, np.inf
    middle = (a * b - unsure.loc["part", "whole"]) / lead
    half = np.sqrt(middle**2 - (a**2 - unsure.loc["part", "part"]) / lead)
    return float(middle - half), float(middle + half)


def seeds_needed(values: pd.Series, distance: float) -> int:
    r"""How many seeds decide, with a power of 90 %, a row whose mean is that far off its tolerance.

    The least n for which the interval leaves the tolerance outside with that probability:
    :math:`P(T_{n-1,\,d\sqrt n/s} \ge t_{0.975,\,n-1}) \ge 0.9` with the noncentral t. d is the
    distance, s the spread of the values: an estimate, which assumes that both stay as they are.
    """
    effect, n = distance / float(np.std(values, ddof=1)), 2
    while noncentral.sf(student.ppf(0.975, n - 1), n - 1, effect * n**0.5) < 0.9:
        n += 1
    return n


def best(runs: pd.DataFrame, by: Sequence[str]) -> dict[str, Any]:
    """The values of these columns with the lowest mean validation error, where no run diverged.

    Of equal ones the first to appear.
    """
    means = runs.groupby(list(by), dropna=False, sort=False)["validation_error"].agg(
        lambda x: x.mean(skipna=False)
    )
    key = means.idxmin()
    return dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))


def interval(values: Sequence[float] | pd.Series, *, correlations: bool = False) -> tuple:
    r"""(low, high) for the mean, by Student's t: :math:`\bar x \pm t_{0.975, n-1}\, s/\sqrt n`.

    For ``correlations`` of Fisher's :math:`z = \operatorname{artanh} r`, and back, so that it stays
    within [-1, 1]; a correlation of exactly 1 or -1 counts as 0.999.

    >>> print("{:.3f} to {:.3f}".format(*interval([0.20, 0.21, 0.25])))
    0.154 to 0.286
    >>> print("{:.3f} to {:.3f}".format(*interval([0.9, 0.95, 0.99], correlations=True)))
    0.453 to 0.998
    """
    x = np.asarray(values, float)
    if correlations and np.ptp(x) > 0:
        low, high = interval(np.arctanh(np.clip(x, -0.999, 0.999)))
        return float(np.tanh(low)), float(np.tanh(high))
    n = len(x)
    if n < 2:
        return (-1.0, 1.0) if correlations else (-np.inf, np.inf)
    half = student.ppf(0.975, n - 1) * np.std(x, ddof=1) / n**0.5
    return float(x.mean() - half), float(x.mean() + half)


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    r"""Where one more run of the same setting is expected, with probability 95 %: (low, high).

    :math:`\bar x \pm t_{0.975,\,n-1}\, s \sqrt{1 + 1/n}` from n earlier runs: wider than
    :func:`interval`, which is for their mean. A rerun outside is not the same experiment. Raises
    ValueError for fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"a prediction needs at least two earlier runs, not {n}")
    low, high = interval(values)
    middle, half = (low + high) / 2, (high - low) / 2
    return middle - half * (n + 1) ** 0.5, middle + half * (n + 1) ** 0.5


def text(values: Sequence[float] | pd.Series, digits: int = 3) -> str:
    """Such as "0.258 ± 0.006": the mean, and half the width of its interval where it has one."""
    low, high = interval(values)
    spread = "" if np.isinf(high) else f" ± {(high - low) / 2:.{digits}f}"
    return f"{np.mean(values):.{digits}f}{spread}"


def means(runs: pd.DataFrame, by: str, measure: str) -> pd.DataFrame:
    """For each value of the column ``by``: the "mean" of the measure, and "half" its interval."""
    found = {}
    for key, own in runs.groupby(by)[measure]:
        low, high = interval(own.dropna())
        found[key] = {"mean": own.mean(), "half": (high - low) / 2}
    return pd.DataFrame(found).T


def summarize(
    runs: pd.DataFrame,
    by: Sequence[str],
    measures: Sequence[str],
    against: Mapping[str, Any] | None = None,
    digits: int = 3,
) -> pd.DataFrame:
    """One row for each combination of the columns ``by``: how many runs, and each measure's mean.

    As text, "0.258 ± 0.006" with half the width of the interval. With ``against``, which picks the
    runs to compare with, "test_error - base" is the mean difference to those with the same seed.
    """
    rows: list[dict[str, Any]] = []
    if runs.empty:
        return pd.DataFrame(rows)
    for key, own in runs.groupby(list(by), dropna=False, sort=False):
        row = dict(zip(by, key, strict=True)) | {"runs": len(own)}
        for measure in measures:
            if measure not in own or own[measure].isna().all():
                continue
            row[measure] = text(own[measure].dropna(), digits)
            if against is None or all(row.get(k) == v for k, v in against.items()):
                continue
            same = {k: row[k] for k in by if k in WITHIN} | dict(against)
            base = _where(runs, same)
            if base.empty:
                continue
            difference = by_seed(own, measure, {}) - by_seed(base, measure, {})
            if difference.notna().any():
                row[f"{measure} - base"] = text(difference.dropna(), digits)
        rows.append(row)
    return pd.DataFrame(rows).fillna("-")
