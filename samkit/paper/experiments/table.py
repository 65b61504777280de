"""From records to a table: one row for each setting, means over seeds with 95 % intervals.

``by_setting`` makes the rows, ``text`` prints them, ``paired`` compares two settings,
``prediction_interval`` says where a rerun should end. A comparison of seeds too few to have an
interval is from -inf to inf: the ledger calls that INCONCLUSIVE.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (Student's t); nan for a single value.

    >>> mean, half = interval([0.20, 0.21, 0.25])
    >>> f"{mean:.3f} +- {half:.3f}"
    '0.220 +- 0.066'
    """
    x = np.asarray(values, float)
    n, mean = len(x), float(np.mean(x))
    if n < 2:
        return mean, float("nan")
    return mean, float(student.ppf(0.975, n - 1) * np.std(x, ddof=1) / n**0.5)


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """The ends of the mean's 95 % interval; -inf and inf for a single value."""
    mean, half = interval(values)
    return (-math.inf, math.inf) if math.isnan(half) else (mean - half, mean + half)


def prediction_interval(values: Sequence[float]) -> tuple[float, float]:
    r"""Where one more run of the same setting is expected, with probability 95 %: (low, high).

    :math:`\bar x \pm t_{0.975,\,n-1}\, s \sqrt{1 + 1/n}` from n earlier runs: wider than
    :func:`interval`, which is for their mean. A rerun outside is not the same experiment. Raises
    ValueError for fewer than two values.
    """
    n = len(values)
    if n < 2:
        raise ValueError(f"a prediction needs at least two earlier runs, not {n}")
    mean, half = interval(values)
    return mean - half * (n + 1) ** 0.5, mean + half * (n + 1) ** 0.5


def by_setting(
    records: Sequence[Mapping[str, Any]],
    setting: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    measures: Mapping[str, Callable[[Mapping[str, Any]], float | None]],
    *,
    against: Callable[[Mapping[str, Any]], bool] | None = None,
    within: Callable[[Mapping[str, Any]], Any] = lambda config: None,
) -> list[dict[str, Any]]:
    """Rows of a table: the entries of ``setting(config)``, then each measure over the seeds.

    ``measures[name](metrics)`` is a number, or None where the run has none (it diverged). A row
    has, for each, "name" (the mean), "name +-" (half the width of its 95 % interval), and with
    ``against``, which picks the setting to compare with, "name - base" and "name - base +-": the
    mean difference over the seeds that both have. "runs" and "diverged" count. Only runs with the
    same ``within(config)``, such as a data set, are compared, and their rows are together.
    """
    parts = list(dict.fromkeys(within(record["config"]) for record in records))
    rows = []
    for part in parts:
        own = [record for record in records if within(record["config"]) == part]
        rows += _rows(own, setting, measures, against)
    return rows


def _rows(
    records: Sequence[Mapping[str, Any]],
    setting: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    measures: Mapping[str, Callable[[Mapping[str, Any]], float | None]],
    against: Callable[[Mapping[str, Any]], bool] | None,
) -> list[dict[str, Any]]:
    """The rows of runs that may be compared."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(tuple(setting(record["config"]).items()), []).append(record)
    base: dict[tuple[str, int], float] = {}
    for key, runs in groups.items():
        if against is not None and against(dict(key)):
            for name, measure in measures.items():
                base |= {
                    (name, r["seed"]): value
                    for r in runs
                    if (value := measure(r["metrics"])) is not None
                }
    rows = []
    for key, runs in groups.items():
        row: dict[str, Any] = dict(key) | {
            "runs": len(runs),
            "diverged": sum(r["metrics"].get("diverged_step") is not None for r in runs),
        }
        for name, measure in measures.items():
            found = {r["seed"]: value for r in runs if (value := measure(r["metrics"])) is not None}
            if not found:
                continue
            row[name], row[f"{name} +-"] = interval(list(found.values()))
            paired = [v - base[name, s] for s, v in found.items() if (name, s) in base]
            if paired and not (against is not None and against(dict(key))):
                row[f"{name} - base"], row[f"{name} - base +-"] = interval(paired)
        rows.append(row)
    return rows


def text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], digits: int = 3) -> str:
    """Rows as lines of aligned columns; a number with an interval as "0.258 +- 0.006".

    A row without a column's entry (its runs diverged), or with None, shows "-".
    """
    lines = [list(columns)] + [[_cell(row, name, digits) for name in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(row: Mapping[str, Any], name: str, digits: int) -> str:
    value = row.get(name)
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    half = row.get(f"{name} +-")
    if half is None:
        return f"{value:g}"
    spread = "" if np.isnan(half) else f" +- {half:.{digits}f}"
    return f"{value:.{digits}f}{spread}"


def paired(
    records: Sequence[Mapping[str, Any]],
    measure: Callable[[Mapping[str, Any]], float | None],
    a: Callable[[Mapping[str, Any]], bool],
    b: Callable[[Mapping[str, Any]], bool],
) -> tuple[float, float]:
    """95 % interval of the mean over seeds of measure(metrics) under a minus that under b.

    ``a`` and ``b`` each pick, by the config, one run per seed. With one seed in common it is from
    -inf to inf. Raises ValueError if they pick two runs of a seed, or have none in common.
    """
    sides: list[dict[int, float]] = []
    for pick in (a, b):
        found: dict[int, float] = {}
        for record in records:
            if pick(record["config"]) and (value := measure(record["metrics"])) is not None:
                if record["seed"] in found:
                    raise ValueError(f"two runs of seed {record['seed']} are picked: pick one")
                found[record["seed"]] = value
        sides.append(found)
    common = sorted(set(sides[0]) & set(sides[1]))
    if not common:
        raise ValueError("a comparison needs seeds that both sides have; found none")
    return bounds([sides[0][seed] - sides[1][seed] for seed in common])
