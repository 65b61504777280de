"""The appendix's switches: variations of SAM, each against ERM and against SAM as it is.

Unnormalized SAM, several ascent steps, another batch's perturbation, SAM's step size alone,
softplus instead of ReLU, and weight averaging (SWA). SAM for a part of training is in fig08,
asymmetric label noise in fig12.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from samkit.paper.experiments import classify
from samkit.paper.experiments.classify import Config, run
from samkit.paper.experiments.frame import frame, summarize
from samkit.perturbation import Perturbation
from samkit.training.recipe import Recipe

#: radii: of normalized SAM, of unnormalized SAM (another unit), and the one of all other switches
RADII = {
    "ci": ((0.1,), (1.0,), 0.1),
    "paper": ((0.1, 0.2), (0.1, 0.5, 1.0), 0.1),
}
#: (epochs, epochs of fine-tuning)
EPOCHS = {"ci": (10, 5), "paper": (200, 50)}
ASCENT_STEPS = 3
SOFTPLUS = 20.0

__all__ = ["configs", "run", "runs", "setting", "summary"]


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    if scale not in RADII:
        return []
    normalized, unnormalized, rho = RADII[scale]
    epochs, more = EPOCHS[scale]
    erm = Recipe(epochs=epochs)
    sam = replace(erm, perturbation=Perturbation(rho))
    ways = [
        *(Perturbation(radius) for radius in normalized),
        *(Perturbation(radius, normalize=False) for radius in unnormalized),
        Perturbation(rho, steps=ASCENT_STEPS),
        *(Perturbation(rho, source=source) for source in ("previous", "independent")),
    ]
    recipes = [
        erm,
        *(replace(erm, perturbation=how) for how in ways),
        replace(sam, step_size_only=True),
    ]
    make, net = classify.small, "mlp 40 256 256 10"
    if scale == "paper":
        make, net = classify.large, "resnet 18 64"
    found = []
    for seed in seeds:
        found += [make(recipe, seed=seed) for recipe in recipes]
        found += [
            make(recipe, seed=seed, net=f"softplus:{SOFTPLUS:g} {net}") for recipe in (erm, sam)
        ]
        average = replace(erm, swa_from=epochs // 2)
        found.append(make(average, replace(sam, epochs=more), seed=seed))
    return found


def switch(config: Mapping[str, Any]) -> str:
    """What is switched, in words."""
    recipe = config["recipes"][0]
    if recipe["swa_from"] is not None:
        return "SWA, then SAM"
    how = Perturbation(**recipe["perturbation"])
    words = [] if how.normalize else ["unnormalized"]
    if how.steps > 1:
        words.append(f"{how.steps} ascent steps")
    if how.source != "own":
        words.append(f"{how.source} batch")
    if recipe["step_size_only"]:
        words.append("step size only")
    if config["net"].startswith("softplus"):
        words.append("softplus")
    return ", ".join(words) or "as it is"


def setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """The last method, what is switched, and the radius."""
    method, rho, _ = classify.setting(config["recipes"][-1]).values()
    return {"method": method, "switch": switch(config), "rho": rho}


def runs(records: Sequence[dict]) -> pd.DataFrame:
    """One row a run, by :func:`setting`; "averaged" is the test error of SWA's averaged weights.

    (Its "test_error" is SAM's after fine-tuning.)
    """
    table = frame(records, setting)
    lines = [record["metrics"].get("swa_line") for record in records]
    table["averaged"] = [line and line["test_error"][line["t"].index(0.0)] for line in lines]
    return table


def summary(records: Sequence[dict]) -> pd.DataFrame:
    """One row for each setting; differences are to ERM with ReLU and the same seed."""
    base = {"method": "ERM", "switch": "as it is"}
    by, measures = ["method", "switch", "rho"], [*classify.MEASURES, "averaged"]
    return summarize(runs(records), by, measures, base)
