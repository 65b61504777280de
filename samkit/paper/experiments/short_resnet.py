"""Figure 1 in a tenth of its length: the paper's network and data, 20 epochs instead of 200.

ERM, random perturbations, n-SAM and 128-SAM at one radius: an hour of a GPU brings the several
seeds that an interval needs, which the full length does not. There is one scale, ``paper``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from samkit.paper.experiments import classify
from samkit.paper.experiments.classify import Config, run
from samkit.paper.experiments.fig01_perturbations import PERTURBATIONS, runs, setting, summary
from samkit.training.recipe import Recipe

EPOCHS, RHO = 20, 0.1

__all__ = ["configs", "run", "runs", "setting", "summary"]


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    if scale != "paper":
        return []
    erm = Recipe(epochs=EPOCHS)
    rules = [erm] + [replace(erm, perturbation=replace(how, rho=RHO)) for how in PERTURBATIONS]
    return [classify.large(rule, seed=seed) for seed in seeds for rule in rules]
