"""Figure 12: wrong labels. The test error falls and rises again, under SAM too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from samkit.paper.experiments import classify
from samkit.paper.experiments.classify import Config, run
from samkit.paper.experiments.fig08_fine_tuning import name
from samkit.paper.experiments.frame import frame, summarize
from samkit.perturbation import Perturbation
from samkit.training.recipe import Recipe

#: (share of the labels drawn to be wrong, in which way)
NOISE = {
    "ci": ((0.4, "symmetric"),),
    "paper": ((0.6, "symmetric"), (0.4, "asymmetric")),
}
#: on all of these data; asymmetric noise on the first of them
DATA = {"ci": ("mnist1d",), "paper": ("cifar10", "cifar100")}
EPOCHS = {"ci": 40, "paper": 200}
RADIUS = 0.1
SIZES = {"ci": (16,), "paper": (128,)}

__all__ = ["configs", "run", "runs", "setting", "summary"]


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    if scale not in EPOCHS:
        return []
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


def runs(records: Sequence[dict]) -> pd.DataFrame:
    """One row a run: the labels, the method, and "rise".

    "rise" is how far the last test error is above "best_test_error", the one at the epoch of lowest
    validation error.
    """
    table = frame(records, setting)
    if "best_test_error" in table:
        table["rise"] = table["test_error"] - table["best_test_error"]
    return table


def setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """The data, the share and the kind of wrong labels, the method in a word, its radius and m."""
    labels = {"data": config["data"], "noise": config["noise"], "kind": config["noise_kind"]}
    recipe = config["recipes"][0]
    return labels | classify.setting(recipe) | {"method": name(recipe)}


def summary(records: Sequence[dict]) -> pd.DataFrame:
    """One row for each noise and method: the last error, and the best along the way."""
    by = ["data", "noise", "kind", "method"]
    measures = ["test_error", "lowest_test_error", "best_test_error", "rise"]
    return summarize(runs(records), by, measures, {"method": "ERM"})
