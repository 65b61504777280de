"""From records to a table: one row for each setting, means over seeds with 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half width of its 95 % interval (Student's t); nan for a single value."""
    values = np.asarray(values, float)
    n = len(values)
    if n < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(student.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5)


def by_setting(
    records: Sequence[Mapping[str, Any]],
    setting: Callable[[Mapping[str, Any]], Mapping[str, Any]],
    measures: Mapping[str, Callable[[Mapping[str, Any]], float | None]],
    *,
    against: Callable[[Mapping[str, Any]], bool] | None = None,
) -> list[dict[str, Any]]:
    """Rows of a table: the entries of ``setting(config)``, then each measure over the seeds.

    ``measures[name](metrics)`` is a number, or None where the run has none (it diverged). A row
    has, for each, "name" (the mean), "name +-" (half the width of its 95 % interval), and with
    ``against``, which picks the setting to compare with, "name - base" and "name - base +-": the
    mean difference over the seeds that both have. "runs" and "diverged" count.
    """
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
            found = {r["seed"]: measure(r["metrics"]) for r in runs}
            found = {seed: value for seed, value in found.items() if value is not None}
            if not found:
                continue
            row[name], row[f"{name} +-"] = interval(list(found.values()))
            paired = [v - base[name, s] for s, v in found.items() if (name, s) in base]
            if paired and not (against is not None and against(dict(key))):
                row[f"{name} - base"], row[f"{name} - base +-"] = interval(paired)
        rows.append(row)
    return rows
