"""Figure 12: wrong labels. The test error falls and rises again, under SAM too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from samkit.paper.experiments import classify
from samkit.paper.experiments.classify import Config, run
from samkit.paper.experiments.table import by_setting
from samkit.perturbation import Perturbation
from samkit.training.recipe import Recipe

#: (share of the labels drawn to be wrong, in which way)
NOISE = {
    "ci": ((0.4, "symmetric"),),
    "laptop": ((0.4, "symmetric"), (0.6, "symmetric"), (0.4, "asymmetric")),
    "paper": ((0.6, "symmetric"), (0.4, "asymmetric")),
}
#: on all of these data; asymmetric noise on the first of them
DATA = {"ci": ("mnist1d",), "laptop": ("mnist1d",), "paper": ("cifar10", "cifar100")}
EPOCHS = {"ci": 40, "laptop": 100, "paper": 200}
RADIUS = 0.1
SIZES = {"ci": (16,), "laptop": (128, 16), "paper": (128,)}

__all__ = ["configs", "rise", "run", "summary"]


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    rules = [Recipe(epochs=EPOCHS[scale])] + [
        Recipe(Perturbation(RADIUS, m=m), epochs=EPOCHS[scale]) for m in SIZES[scale]
    ]
    return [
        classify.on(data, rule, seed=seed, noise=noise, noise_kind=kind)
        for data in DATA[scale]
        for seed in seeds
        for noise, kind in NOISE[scale]
        for rule in rules
        if kind == "symmetric" or data == DATA[scale][0]
    ]


def summary(records: Sequence[dict]) -> list[dict]:
    """One row for each noise and method: the last error, and the best along the way."""
    return by_setting(
        records,
        lambda config: _labels(config) | classify.setting(config["recipes"][0]),
        {
            "test error": lambda metrics: metrics.get("test_error"),
            "lowest": lambda metrics: metrics.get("lowest_test_error"),
            "stopped early": lambda metrics: metrics.get("best_test_error"),
            "rise": rise,
        },
        against=lambda setting: setting["method"] == "ERM",
        within=lambda config: tuple(_labels(config).values()),
    )


def rise(metrics: Mapping[str, Any]) -> float | None:
    """How far the last test error is above the one at the epoch of lowest validation error."""
    if "test_error" not in metrics:
        return None
    return metrics["test_error"] - metrics["best_test_error"]


def _labels(config: Mapping[str, Any]) -> dict:
    return {"data": config["data"], "noise": config["noise"], "kind": config["noise_kind"]}
