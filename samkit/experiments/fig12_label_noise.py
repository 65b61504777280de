"""Figure 12: wrong labels. The test error falls and rises again, under SAM too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from samkit.experiments import classify
from samkit.experiments.classify import Config, run
from samkit.experiments.table import by_setting
from samkit.training.fit import Recipe

#: (share of the labels drawn to be wrong, in which way)
NOISE = {
    "ci": ((0.4, "symmetric"),),
    "laptop": ((0.4, "symmetric"), (0.6, "symmetric"), (0.4, "asymmetric")),
    "paper": ((0.6, "symmetric"), (0.4, "asymmetric")),
}
EPOCHS = {"ci": 40, "laptop": 100, "paper": 200}
RADIUS = 0.1
SIZES = {"ci": (16,), "laptop": (128, 16), "paper": (128,)}

__all__ = ["configs", "run", "summary"]


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    make = classify.large if scale == "paper" else classify.small
    rules = [Recipe(epochs=EPOCHS[scale])] + [
        Recipe("m-SAM", rho=RADIUS, m=m, epochs=EPOCHS[scale]) for m in SIZES[scale]
    ]
    return [
        make(rule, seed=seed, noise=noise, noise_kind=kind)
        for seed in seeds
        for noise, kind in NOISE[scale]
        for rule in rules
    ]


def summary(records: Sequence[dict]) -> list[dict]:
    """One row for each noise and method: the last error, and the best along the way."""
    rows = []
    for noise in dict.fromkeys(map(_noise, records)):
        rows += by_setting(
            [record for record in records if _noise(record) == noise],
            lambda config: (
                {"noise": config["noise"], "kind": config["noise_kind"]}
                | {k: config["recipes"][0][k] for k in ("method", "rho", "m")}
            ),
            {
                "test error": lambda metrics: metrics.get("test_error"),
                "lowest": lambda metrics: metrics.get("lowest_test_error"),
                "stopped early": lambda metrics: metrics.get("best_test_error"),
                "rise": lambda metrics: (
                    metrics["test_error"] - metrics["best_test_error"]
                    if "test_error" in metrics
                    else None
                ),
            },
            against=lambda setting: setting["method"] == "ERM",
        )
    return rows


def _noise(record: dict) -> tuple[float, str]:
    return record["config"]["noise"], record["config"]["noise_kind"]
