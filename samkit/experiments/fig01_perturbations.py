"""Figure 1: only the worst-case perturbation of the batch itself helps, not any perturbation.

ERM, random perturbations, n-SAM (delta from another batch) and SAM with m = the batch, over radii.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product

from samkit.experiments import classify
from samkit.experiments.classify import Config, run
from samkit.experiments.table import by_setting
from samkit.training.fit import Recipe

METHODS = ("random", "n-SAM", "SAM")
RADII = {"ci": (0.1,), "laptop": (0.03, 0.1, 0.3), "paper": (0.025, 0.05, 0.1, 0.2, 0.4)}
EPOCHS = {"ci": 20, "laptop": 100, "paper": 200}

__all__ = ["configs", "run", "summary"]


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    make = classify.large if scale == "paper" else classify.small
    rules = [Recipe()] + [Recipe(m, rho=r) for m, r in product(METHODS, RADII[scale])]
    return [
        make(Recipe(rule.method, rho=rule.rho, epochs=EPOCHS[scale]), seed=seed)
        for seed in seeds
        for rule in rules
    ]


def summary(records: Sequence[dict]) -> list[dict]:
    """One row for each method and radius; differences are to ERM with the same seed."""
    return by_setting(
        records,
        lambda config: {k: config["recipes"][0][k] for k in ("method", "rho")},
        {
            "test error": lambda metrics: metrics.get("test_error"),
            "validation error": lambda metrics: metrics.get("validation_error"),
            "train loss": lambda metrics: metrics.get("train_loss"),
        },
        against=lambda setting: setting["method"] == "ERM",
    )
