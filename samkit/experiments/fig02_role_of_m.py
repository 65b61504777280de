"""Figures 2 and 3: the smaller the group that shares a perturbation, the lower the test error.

ERM and m-SAM over m. At the paper's size with BatchNorm, each group is normalized by its own
statistics, as in the authors' code, which needs m of some size; GroupNorm allows any m.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from samkit.experiments import classify
from samkit.experiments.classify import Config, run
from samkit.experiments.table import by_setting
from samkit.training.fit import Recipe

#: (rho, the values of m)
GRID = {
    "ci": ((0.1, (4, 128)),),
    "laptop": (  # for m = 16 and m = 128 until they are past their best radius
        (0.1, (1, 4, 16, 64, 128)),
        (0.2, (4,)),
        (0.3, (16, 64, 128)),
        (0.4, (16,)),
        (0.5, (16, 64, 128)),
        (0.7, (128,)),
        (1.0, (128,)),
    ),
    "paper": ((0.1, (1, 16, 128)), (0.2, (16, 128))),
}
EPOCHS = {"ci": 20, "laptop": 100, "paper": 200}

__all__ = ["configs", "run", "summary"]


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    rules = [Recipe(epochs=EPOCHS[scale])] + [
        Recipe("m-SAM", rho=rho, m=m, epochs=EPOCHS[scale])
        for rho, sizes in GRID[scale]
        for m in sizes
    ]
    if scale != "paper":
        return [classify.small(rule, seed=seed) for seed in seeds for rule in rules]
    return [classify.large(rule, seed=seed, norm="group") for seed in seeds for rule in rules]


def summary(records: Sequence[dict]) -> list[dict]:
    """One row for each m and radius; differences are to ERM with the same seed."""
    return by_setting(
        records,
        lambda config: {k: config["recipes"][0][k] for k in ("method", "rho", "m")},
        {
            "test error": lambda metrics: metrics.get("test_error"),
            "validation error": lambda metrics: metrics.get("validation_error"),
            "train loss": lambda metrics: metrics.get("train_loss"),
        },
        against=lambda setting: setting["method"] == "ERM",
    )
