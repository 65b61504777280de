r"""Does today's code repeat the records? ``python -m samkit.paper.experiments.rerun``.

One recorded run of each experiment, and of each task of the protocol, is carried out again: the
quickest. Where everything rounds as it did, it gives the recorded number. Elsewhere training
amplifies a rounding error, at worst until two trainings of one seed have no more in common than two
of different seeds. So a rerun agrees if it is as close to its record as two seeds are with
probability 95 %: :math:`|x - x'| \le t_{0.975,\,n-1}\, s\sqrt 2`, with s over the n recorded seeds
of the setting. A larger difference is not explained by rounding: then the records are not those of
today's code.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy.stats import t as student

from samkit.paper import experiments, records

#: compared, the first of these that a record has
MEASURES = ("test_error", "validation_error", "train_loss")
SCALE = "laptop"


def alike(record: dict[str, Any], others: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records that differ from this one in nothing but the seed."""

    def setting(r: dict[str, Any]) -> Any:
        return records.plain(_without_seed(r["config"]))

    own = setting(record)
    return [r for r in others if r["seed"] != record["seed"] and setting(r) == own]


def _without_seed(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: _without_seed(v) for k, v in x.items() if k != "seed"}
    return [_without_seed(v) for v in x] if isinstance(x, list) else x


def quickest(name: str) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    """For each task of an experiment its name, its quickest run of SAM, and that run's other seeds.

    Settings with fewer than three seeds, and runs that diverged, are left out.
    """
    found = [r for r in records.runs(name, SCALE) if any(m in r["metrics"] for m in MEASURES)]
    tasks: dict[str, list[dict[str, Any]]] = {}
    for record in found:
        tasks.setdefault(record["config"].get("task", ""), []).append(record)
    for task, own in tasks.items():
        for record in sorted(own, key=lambda r: r["seconds"]):
            others = alike(record, own)
            if len(others) >= 2:
                yield f"{name} {task}".strip(), record, others
                break


def compare(name: str, record: dict[str, Any], others: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Carries the run out again: "recorded", "again", the difference "allowed", "agrees"."""
    experiment = experiments.load(name)
    config = records.restored(experiment.Config, record["config"])
    again = records.plain(experiment.run(config))
    measure = next(m for m in MEASURES if m in record["metrics"])
    values = [r["metrics"][measure] for r in (record, *others)]
    allowed = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) * 2**0.5
    difference = abs(again.get(measure, np.inf) - record["metrics"][measure])
    return {
        "measure": measure,
        "recorded": record["metrics"][measure],
        "again": again.get(measure),
        "allowed": float(allowed),
        "agrees": bool(difference <= allowed),
    }


def main() -> int:
    """Rerun, say what came out and record it as results/rerun.json; 1 if something disagrees."""
    outcome: dict[str, Any] = {}
    for name in experiments.NAMES:
        for words, record, others in quickest(name):
            outcome[words] = found = compare(name, record, others)
            verdict = "agrees" if found["agrees"] else "DISAGREES"
            print(
                f"{verdict:9} {words}: {found['measure']} recorded {found['recorded']:.4g}, again "
                f"{found['again'] or math.nan:.4g}, allowed {found['allowed']:.2g} apart"
            )
    records.save("rerun", {"commit": records.commit(), "runs": outcome})
    return 0 if all(found["agrees"] for found in outcome.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
