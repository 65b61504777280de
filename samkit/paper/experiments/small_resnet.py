"""Figures 1 to 3 and 9 on images: a small ResNet and 1000 images of CIFAR-10, on a CPU.

What an MLP on MNIST-1D shows in fig01, fig02 and fig08, here with convolutions, with GroupNorm and
with BatchNorm. The images are reduced to 16 x 16 pixels and not augmented, so that the network
fits them in a minute. There is one scale, ``laptop``: ``ci`` has no images without a download,
and ``paper`` is in the other files. Needs CIFAR-10, by download or from $SAMKIT_DATA.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from samkit.paper.experiments import classify
from samkit.paper.experiments.classify import Config, run
from samkit.paper.experiments.fig01_perturbations import PERTURBATIONS
from samkit.paper.experiments.fig08_fine_tuning import name
from samkit.paper.experiments.frame import frame, summarize
from samkit.perturbation import Perturbation
from samkit.training.recipe import Recipe

DATA = "cifar10:1000@16"
EPOCHS, MORE = 60, 30
RHO = 0.1
#: (rho, m) with GroupNorm beside m = 128; at 0.1, m = 1 and m = 4 do not learn (one seed tried)
GROUPS = ((0.1, 16), (0.03, 1))
#: with BatchNorm a group needs enough examples of its own
BATCH_NORM_GROUP = 32

__all__ = ["configs", "run", "runs", "setting", "summary"]


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    if scale != "laptop":
        return []
    erm = Recipe(epochs=EPOCHS, weight_decay=5e-4, decay_in_ascent=False)
    sam = replace(erm, perturbation=Perturbation(RHO, m=16))
    others = [replace(erm, perturbation=replace(how, rho=RHO)) for how in PERTURBATIONS]
    group_norm = [
        (erm,),
        *((recipe,) for recipe in others),
        *((replace(erm, perturbation=Perturbation(rho, m=m)),) for rho, m in GROUPS),
        (erm, replace(erm, epochs=MORE)),
        (erm, replace(sam, epochs=MORE)),
        (sam, replace(erm, epochs=MORE)),
    ]
    batch_norm = [
        (erm,),
        (replace(erm, perturbation=Perturbation(RHO)),),
        (
            replace(
                erm,
                perturbation=Perturbation(RHO, m=BATCH_NORM_GROUP),
                separate_groups=True,
            ),
        ),
    ]
    return [
        Config(
            DATA,
            f"resnet tiny 16 {norm}",
            tuple(replace(r, seed=1000 * k + seed) for k, r in enumerate(recipes)),
            seed=seed,
        )
        for seed in seeds
        for norm, runs in (("group", group_norm), ("batch", batch_norm))
        for recipes in runs
    ]


def setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """The norm, the methods in words, and the radius."""
    recipes = config["recipes"]
    return {
        "norm": config["net"].split()[-1],
        "run": " -> ".join(name(recipe) for recipe in recipes),
        "rho": max(recipe["perturbation"]["rho"] for recipe in recipes),
    }


def runs(records: Sequence[dict]) -> pd.DataFrame:
    """One row a run, by :func:`setting`."""
    return frame(records, setting)


def summary(records: Sequence[dict]) -> pd.DataFrame:
    """One row for each run; differences are to ERM with the same norm and seed."""
    return summarize(runs(records), ["norm", "run", "rho"], classify.MEASURES, {"run": "ERM"})
