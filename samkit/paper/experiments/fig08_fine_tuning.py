"""Figures 8 to 10: when SAM matters. ERM -> SAM and SAM -> ERM, and a switch at any epoch.

Fine-tuning has a learning rate schedule of its own after the first training has ended; ERM -> ERM
and SAM -> SAM are its controls, and the loss is measured on the line between the two ends.
Switching happens within one training and one schedule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import pandas as pd

from samkit.paper.experiments import classify
from samkit.paper.experiments.classify import Config, run
from samkit.paper.experiments.frame import frame, summarize
from samkit.perturbation import Perturbation
from samkit.training.recipe import Recipe

#: (epochs, epochs of fine-tuning, radius, values of m)
SIZES = {
    "ci": (24, 12, 0.1, (16,)),
    "paper": (200, 50, 0.1, (128,)),
}
#: fine-tuning is tried on all of these data, the switch on the first
DATA = {"ci": ("mnist1d",), "paper": ("cifar10", "cifar100")}
#: shares of training at which to switch, with the first of the values of m
SHARES = {"ci": (), "paper": (0.25, 0.5, 0.75, 0.9)}

__all__ = ["configs", "run", "runs", "summary"]


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    if scale not in SIZES:
        return []
    epochs, more, rho, sizes = SIZES[scale]
    erm, short = Recipe(epochs=epochs), Recipe(epochs=more)
    found = []
    for data, seed in product(DATA[scale], seeds):
        make = partial(classify.on, data)
        found.append(make(erm, short, seed=seed))
        for m in sizes:
            sam = Recipe(Perturbation(rho, m=m), epochs=epochs)
            found += [
                make(erm, replace(sam, epochs=more), seed=seed),
                make(sam, short, seed=seed),
            ]
            if scale != "ci":
                found.append(make(sam, replace(sam, epochs=more), seed=seed))
        sam = Recipe(Perturbation(rho, m=sizes[0]), epochs=epochs)
        for share in SHARES[scale] if data == DATA[scale][0] else ():
            at = round(share * epochs)
            for first, then in ((erm, sam), (sam, erm)):
                switch = ((at, then.perturbation),)
                found.append(make(replace(first, switch=switch), seed=seed))
    return found


def setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """The two methods in words, and the epoch of a switch within one training."""
    recipes = config["recipes"]
    parts = [name(recipe) for recipe in recipes]
    at = None
    if recipes[0]["switch"]:
        ((at, perturbation),) = recipes[0]["switch"]
        parts.append(name(recipes[0] | {"perturbation": perturbation}))
    return {"run": " -> ".join(parts), "switch": at}


def name(recipe: Mapping[str, Any]) -> str:
    """The perturbation of a recorded recipe in a word: ERM, random, n-SAM, or such as 16-SAM."""
    return Recipe(Perturbation(**recipe["perturbation"]), batch_size=recipe["batch_size"]).label


def runs(records: Sequence[dict]) -> pd.DataFrame:
    """One row a run, by :func:`setting` and data, with two more columns after fine-tuning.

    "first" is the test error before fine-tuning; "barrier" how far the training loss on the line
    rises above the higher of its two ends.
    """
    table = frame(records, lambda config: {"data": config["data"]} | setting(config))
    more = []
    for record in records:
        metrics, found = record["metrics"], {}
        if "line" in metrics:
            first = metrics["history"]["epoch"].index(record["config"]["recipes"][0]["epochs"])
            ends = dict(zip(metrics["line"]["t"], metrics["line"]["train_loss"], strict=True))
            between = [loss for t, loss in ends.items() if 0 <= t <= 1]
            found["first"] = metrics["history"]["test_error"][first]
            found["barrier"] = max(between) - max(ends[0.0], ends[1.0])
        more.append(found)
    return table.join(pd.DataFrame(more, index=table.index, columns=["first", "barrier"]))


def summary(records: Sequence[dict]) -> pd.DataFrame:
    """One row for each run; differences are to ERM -> ERM with the same data and seed."""
    by, measures = ["data", "run", "switch"], ["first", "test_error", "barrier"]
    return summarize(runs(records), by, measures, {"run": "ERM -> ERM"})
