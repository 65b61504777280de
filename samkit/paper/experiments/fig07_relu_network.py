"""Figure 7: twelve points in 1D, one hidden layer of ReLUs: SAM finds the simpler function.

The authors' data, start and step sizes: full batch, gradient descent against SAM (m = 12, the
authors' own), and beside it m = 1. At ``laptop`` it runs as long as theirs; so ``paper`` is the
same, and no GPU is of use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from samkit.errors import Diverged
from samkit.nets import OneHiddenLayer
from samkit.paper.experiments.frame import frame, summarize
from samkit.perturbation import Perturbation
from samkit.training import relu1d

X = (np.arange(12) - 5.5) / 4 + 0.07
Y = 0.345 + np.array([-2, 1.5, 0, 0, 2, 1, 0, -1, 0, 1, 2, -1])
#: where the learned function is recorded: the data and a quarter of their range to both sides
GRID = np.linspace(X[0] - 0.5, X[-1] + 0.5, 301)
STEPS = {"ci": 100_000, "laptop": 1_000_000, "paper": 1_000_000}


@dataclass(frozen=True)
class Config:
    """A run of gradient descent (rho = 0) or SAM; step size and stop are the authors'."""

    rho: float
    m: int
    decay: bool
    steps: int
    step_size: float = 5e-5
    until: float = 1e-5
    hidden: int = 100
    seed: int = 0


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    steps = STEPS[scale]
    return [
        config
        for seed in seeds
        for config in (
            Config(0.0, 12, False, steps, seed=seed),
            Config(0.3, 12, True, steps, seed=seed),
            Config(0.3, 1, True, steps, seed=seed),
        )
    ]


def start(config: Config) -> np.ndarray:
    """The network at the start, (3, H): the same for all methods with one seed."""
    net = OneHiddenLayer(config.hidden, torch.Generator().manual_seed(config.seed))
    return torch.stack([net.w, net.b, net.a]).detach().double().numpy()


def run(
    config: Config,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[float], object] | None = None,
) -> dict[str, Any]:
    """Trains and measures: "f" on GRID, kinks, path norm, variation of the slope, losses by step.

    Takes seconds, so ``checkpoint`` and ``progress`` are not used.
    """
    at = [0, *np.unique(np.geomspace(1, config.steps, 60).astype(int)).tolist()]
    try:
        found = relu1d.train(
            start(config),
            X,
            Y,
            rho=config.rho,
            m=config.m,
            step_size=config.step_size,
            decay=config.decay,
            steps=config.steps,
            until=config.until,
            record_at=at,
        )
    except Diverged as error:
        return {"data": "in the source", "diverged_step": error.step}
    return {
        "data": "in the source",
        "diverged_step": None,
        "train_loss": found.loss,
        "steps": found.steps,
        "kinks": relu1d.kinks(found.net, X[0], X[-1]),
        "kinks_start": relu1d.kinks(start(config), X[0], X[-1]),
        "path_norm": relu1d.path_norm(found.net),
        "variation": relu1d.variation(found.net, X[0], X[-1]),
        "losses": [[step, loss] for step, loss in found.losses],
        "f": relu1d.values(found.net, GRID).tolist(),
    }


def runs(records: Sequence[dict]) -> pd.DataFrame:
    """One row a run: "method", "rho", "m"."""

    def setting(config: Mapping[str, Any]) -> dict[str, Any]:
        how = Perturbation(config["rho"], m=config["m"])
        return {"method": how.label, "rho": how.rho, "m": how.m}

    return frame(records, setting)


def summary(records: Sequence[dict]) -> pd.DataFrame:
    """One row for each method; differences are to gradient descent from the same start."""
    measures = ("train_loss", "steps", "kinks", "path_norm", "variation")
    return summarize(runs(records), ["method", "rho", "m"], measures, {"method": "ERM"})
