"""Figure 1: only the worst-case perturbation of the batch itself helps, not any perturbation.

ERM, random perturbations, n-SAM (delta from another batch) and SAM with m = the batch, over radii;
at the paper's size on CIFAR-10 and CIFAR-100.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from samkit.paper.experiments import classify
from samkit.paper.experiments.classify import Config, run
from samkit.paper.experiments.frame import best, compare, frame, summarize
from samkit.perturbation import Perturbation
from samkit.training.recipe import Recipe

PERTURBATIONS = (Perturbation(source="random"), Perturbation(source="previous"), Perturbation())
RADII = {"ci": (0.1,), "paper": (0.025, 0.05, 0.1, 0.2, 0.4)}
DATA = {"ci": ("mnist1d",), "paper": ("cifar10", "cifar100")}
EPOCHS = {"ci": 20, "paper": 200}

__all__ = ["configs", "lead", "run", "runs", "setting", "summary"]


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    if scale not in EPOCHS:
        return []
    ways = [Perturbation()]
    ways += [replace(how, rho=rho) for how in PERTURBATIONS for rho in RADII[scale]]
    return [
        classify.on(data, Recipe(how, epochs=EPOCHS[scale]), seed=seed)
        for data in DATA[scale]
        for seed in seeds
        for how in ways
    ]


def setting(config: Mapping[str, Any]) -> dict:
    """The data, the method and the radius."""
    method, rho, _ = classify.setting(config["recipes"][0]).values()
    return {"data": config["data"], "method": method, "rho": rho}


def runs(records: Sequence[dict]) -> pd.DataFrame:
    """One row a run, by :func:`setting`."""
    return frame(records, setting)


def summary(records: Sequence[dict]) -> pd.DataFrame:
    """One row for each method and radius; differences are to ERM with the same data and seed."""
    by = ["data", "method", "rho"]
    return summarize(runs(records), by, classify.MEASURES, {"method": "ERM"})


def lead(records: Sequence[dict]) -> tuple[float, float]:
    """95 % interval of how far SAM's test error is below the best of all others, paired by seed.

    Every method has the radius of its lowest mean validation error, of those at which no run
    diverged. Records of one data set.
    """
    table = runs(records)
    sam = table["method"] == "SAM"
    other, own = (best(part, ["method", "rho"]) for part in (table[~sam], table[sam]))
    return compare(table, "test_error", other, own)
