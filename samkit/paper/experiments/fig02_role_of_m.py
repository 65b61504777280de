"""Figures 2 and 3: the smaller the group that shares a perturbation, the lower the test error.

ERM and m-SAM over m; at the paper's size also SAM with several ascent steps. With BatchNorm, each
group is normalized by its own statistics, as in the authors' code, which needs m of some size;
GroupNorm allows any m.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pandas as pd

from samkit.paper.experiments import classify
from samkit.paper.experiments.classify import Config, run
from samkit.paper.experiments.frame import compare, frame, summarize
from samkit.perturbation import Perturbation
from samkit.training.recipe import Recipe

#: (rho, the values of m)
GRID = {
    "ci": ((0.1, (4, 128)),),
    "paper": ((0.1, (1, 16, 128)), (0.2, (16, 128))),
}
#: at the paper's size: the one radius of BatchNorm's values of m, and of several ascent steps
RADIUS, BATCH_NORM_SIZES, ASCENT_STEPS = 0.1, (32, 128), 5
EPOCHS = {"ci": 20, "paper": 200}

__all__ = ["beyond_ascent", "configs", "falls", "run", "runs", "setting", "summary"]


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    if scale not in EPOCHS:
        return []
    rules = [Recipe(epochs=EPOCHS[scale])] + [
        Recipe(Perturbation(rho, m=m), epochs=EPOCHS[scale])
        for rho, sizes in GRID[scale]
        for m in sizes
    ]
    if scale != "paper":
        return [classify.small(rule, seed=seed) for seed in seeds for rule in rules]
    erm = rules[0]
    rules.append(replace(erm, perturbation=Perturbation(RADIUS, steps=ASCENT_STEPS)))
    batch_norm = [erm] + [
        replace(erm, perturbation=Perturbation(RADIUS, m=m), separate_groups=True)
        for m in BATCH_NORM_SIZES
    ]
    return [
        classify.large(rule, seed=seed, norm=norm)
        for seed in seeds
        for norm, chosen in (("group", rules), ("batch", batch_norm))
        for rule in chosen
    ]


def setting(config: Mapping[str, Any]) -> dict:
    """The network and what distinguishes the methods."""
    recipe, net = config["recipes"][0], config["net"]
    steps = {"steps": recipe["perturbation"]["steps"]}
    return {"net": net, "norm": net.split()[-1]} | classify.setting(recipe) | steps


def runs(records: Sequence[dict]) -> pd.DataFrame:
    """One row a run, by :func:`setting`."""
    return frame(records, setting)


def summary(records: Sequence[dict]) -> pd.DataFrame:
    """One row for each m and radius; differences are to ERM with the same network and seed."""
    by = ["net", "method", "rho", "m", "steps"]
    return summarize(runs(records), by, classify.MEASURES, {"method": "ERM"})


def falls(records: Sequence[dict], norm: str, sizes: Sequence[int]) -> tuple[float, float]:
    """By how much the test error falls from each m to the next smaller one, the least of the falls.

    At scale "paper", with :data:`RADIUS` for every m of ``sizes``: the 95 % interval, paired by
    seed, that reaches lowest.
    """
    table, own = runs(records), {"norm": norm, "rho": RADIUS, "steps": 1}
    falling = sorted(sizes, reverse=True)
    return min(
        compare(table, "test_error", own | {"m": large}, own | {"m": small})
        for large, small in pairwise(falling)
    )


def beyond_ascent(records: Sequence[dict], m: int) -> tuple[float, float]:
    """How far m-SAM's test error is below that of SAM with several ascent steps: 95 % interval."""
    own = {"norm": "group", "rho": RADIUS}
    steps, group = own | {"steps": ASCENT_STEPS}, own | {"m": m, "steps": 1}
    return compare(runs(records), "test_error", steps, group)
