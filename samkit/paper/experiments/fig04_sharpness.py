"""Figure 4: does sharpness explain the test error? m- and n-sharpness of the trained networks.

Networks trained by ERM, random perturbations, n-SAM, SAM and m-SAM, each at its end measured by
:func:`samkit.sharpness` on the first training examples, over groups of several sizes and radii.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pandas as pd

from samkit.measure import sharpness
from samkit.paper.experiments import classify
from samkit.paper.experiments.frame import frame, interval, summarize
from samkit.perturbation import Perturbation
from samkit.training.evaluation import cross_entropy
from samkit.training.recipe import Recipe

PREVIOUS = Perturbation(source="previous")
PERTURBATIONS = {
    "ci": (Perturbation(), Perturbation(0.1), Perturbation(0.1, m=16)),
    "paper": (
        Perturbation(),
        *(replace(PREVIOUS, rho=rho) for rho in (0.1, 0.2)),
        *(Perturbation(rho) for rho in (0.1, 0.2)),
        Perturbation(0.1, m=16),
    ),
}
EPOCHS = {"ci": 20, "paper": 200}
#: how many training examples sharpness is measured on, and over groups of which sizes
MEASURED = {"ci": (128, (16, 128)), "paper": (1024, (16, 1024))}


@dataclass(frozen=True)
class Config(classify.Config):
    """A run, and what is measured at its end: ``sizes`` are the values of m."""

    examples: int = 128
    sizes: tuple[int, ...] = (1, 16, 128)
    radii: tuple[float, ...] = (0.03, 0.1, 0.3)
    steps: int = 10
    restarts: int = 1


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    if scale not in MEASURED:
        return []
    examples, sizes = MEASURED[scale]
    found = []
    for seed in seeds:
        for how in PERTURBATIONS[scale]:
            recipe = Recipe(how, epochs=EPOCHS[scale])
            if scale == "paper":
                run = classify.large(recipe, seed=seed, norm="group")
            else:
                run = classify.small(recipe, seed=seed)
            same = {field.name: getattr(run, field.name) for field in fields(run)}
            found.append(Config(**same, examples=examples, sizes=sizes))
    return found


def run(config: Config, **how: Any) -> dict[str, Any]:
    """As :func:`classify.run`, and "sharpness": [{"rho", "m", "value"}, ...]."""
    trained = classify.train(config, **how)
    if trained.metrics["diverged_step"] is not None:
        return trained.metrics
    device = next(trained.net.parameters()).device
    x, y = (part[: config.examples].to(device) for part in trained.sets["train"])
    trained.net.eval()
    ascent: dict[str, Any] = {
        "steps": config.steps,
        "restarts": config.restarts,
        "seed": config.seed,
    }
    measured = [
        {"rho": rho, "m": m}
        | {"value": sharpness(trained.net, cross_entropy, x, y, rho=rho, m=m, **ascent)}
        for rho in config.radii
        for m in config.sizes
    ]
    return trained.metrics | {"sharpness": measured}


def runs(records: Sequence[dict]) -> pd.DataFrame:
    """One row a run: how it was trained, and each sharpness as a column "m=16, rho=0.1"."""
    table = frame(records, lambda config: classify.setting(config["recipes"][0]))
    sharp = [
        {column(e["m"], e["rho"]): e["value"] for e in record["metrics"].get("sharpness", ())}
        for record in records
    ]
    return table.join(pd.DataFrame(sharp, index=table.index))


def column(m: int, rho: float) -> str:
    """The sharpness of that m and radius in :func:`runs`."""
    return f"m={m}, rho={rho:g}"


def summary(records: Sequence[dict]) -> pd.DataFrame:
    """One row for each method: the test error, and each sharpness."""
    table = runs(records)
    sharp = [name for name in table if name.startswith("m=")]
    return summarize(table, ["method", "rho", "m"], ["test_error", *sharp])


def order(table: pd.DataFrame, m: int, rho: float) -> tuple[float, float]:
    """Spearman's correlation of this sharpness with the validation error over the ways to train.

    1: the sharper the worse, without exception. The 95 % interval of its mean over the seeds.
    """
    pairs = table.dropna(subset=[column(m, rho)]).groupby("seed")
    both = ["validation_error", column(m, rho)]
    ranks = [own[both].corr("spearman").iloc[0, 1] for _, own in pairs]
    return interval(ranks, correlations=True)
