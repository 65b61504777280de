"""Does today's code repeat the records? ``python -m samkit.paper.experiments.rerun``.

One recorded run of each experiment, and of each task of the protocol, is carried out again: the
quickest. A machine that rounds differently cannot be asked for the same number, since training
amplifies a rounding error until two trainings have no more in common than two of different seeds.
So a rerun agrees if it ends where one more seed would end with probability 95 %: in the
:func:`~samkit.paper.experiments.frame.prediction_interval` from the other seeds of its setting.
What is outside is not explained by rounding; then the records are not those of today's code.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from samkit.paper import experiments, records
from samkit.paper.experiments.frame import prediction_interval

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
    """Carries the run out again: what was recorded, what came out, where it should, "agrees"."""
    experiment = experiments.load(name)
    config = records.restored(experiment.Config, record["config"])
    again = records.plain(experiment.run(config))
    measure = next(m for m in MEASURES if m in record["metrics"])
    low, high = prediction_interval([r["metrics"][measure] for r in others])
    new = again.get(measure, float("nan"))
    return {
        "measure": measure,
        "recorded": record["metrics"][measure],
        "again": new,
        "low": low,
        "high": high,
        "agrees": bool(low <= new <= high),
    }


def main() -> int:
    """Rerun, say what came out and record it as results/rerun.json; 1 if something disagrees."""
    outcome: dict[str, Any] = {}
    for name in experiments.NAMES:
        for words, record, others in quickest(name):
            outcome[words] = found = compare(name, record, others)
            verdict = "agrees" if found["agrees"] else "DISAGREES"
            print(
                f"{verdict:9} {words}: {found['measure']} {found['again']:.4g}, recorded "
                f"{found['recorded']:.4g}, expected {found['low']:.4g} to {found['high']:.4g}"
            )
    records.save("rerun", {"commit": records.commit(), "runs": outcome})
    return 0 if all(found["agrees"] for found in outcome.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
