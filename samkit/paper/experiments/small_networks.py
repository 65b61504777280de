"""The judged runs: small networks, ten seeds, each method at its own learning rate and radius.

What is run, on what, and how learning rates and radii are chosen is in protocol.toml
(:mod:`samkit.paper.protocol`). There is one scale, ``laptop``. Runs that differ in nothing but
seed, learning rate and radius train side by side as one stack (:mod:`samkit.training.stack`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import softplus

from samkit.data import label_noise, load
from samkit.data.mnist1d import signals
from samkit.paper.experiments import frame as table
from samkit.perturbation import Perturbation
from samkit.training.stack import (
    MLP,
    Draws,
    cross_entropy,
    directions,
    errors,
    gradients,
    worst_case,
)

#: between which the training loss on the line between two stages is taken
LINE = tuple(round(0.1 * k, 1) for k in range(11))
#: of MNIST-1D's test signals
TESTED = 50_000


@dataclass(frozen=True)
class Stage:
    """SGD with momentum 0.9 along one schedule; ``switched`` to another perturbation at an epoch.

    The learning rate falls by a cosine to zero, or is divided by 10 at 50 % and at 75 %
    (``piecewise``). ``step_size_only`` keeps the direction of the gradient at w and takes the
    length of SAM's. ``averaged``: the mean of the weights after each epoch of the second half.
    """

    perturbation: Perturbation = field(default_factory=Perturbation)
    epochs: int = 40
    learning_rate: float = 0.7
    schedule: str = "cosine"
    weight_decay: float = 0.0
    step_size_only: bool = False
    averaged: bool = False
    switch: tuple[int, Perturbation] | None = None

    def at(self, epoch: int) -> Perturbation:
        """The perturbation of this epoch, counted from 0."""
        if self.switch is not None and epoch >= self.switch[0]:
            return self.switch[1]
        return self.perturbation

    def rate(self, done: float) -> float:
        """The share of the learning rate after this share of the steps."""
        if self.schedule == "piecewise":
            return 0.1 ** ((done >= 0.5) + (done >= 0.75))
        return 0.5 * (1 + math.cos(math.pi * done))


@dataclass(frozen=True)
class Config:
    """A run. ``task`` and ``method`` are its names in the protocol.

    data: "mnist1d" or "digits", ``train`` examples of it that the seed draws; noise: the share of
    them with a wrong label. ``sharpness`` measures the trained network at these (m, rho). Only a
    ``judged`` run sees the test set.
    """

    task: str
    method: str
    data: str
    train: int
    network: tuple[int, ...]
    batch_size: int
    stages: tuple[Stage, ...]
    noise: float = 0.0
    noise_kind: str = "symmetric"
    softplus: float | None = None
    sharpness: tuple[tuple[int, float], ...] = ()
    judged: bool = False
    seed: int = 0


def alike(config: Config) -> Config:
    """What runs that train side by side have in common: all but seed, learning rates and radii."""

    def unit(perturbation: Perturbation) -> Perturbation:
        return replace(perturbation, rho=float(perturbation.rho > 0))

    stages = tuple(
        replace(
            stage,
            perturbation=unit(stage.perturbation),
            learning_rate=1.0,
            switch=stage.switch and (stage.switch[0], unit(stage.switch[1])),
        )
        for stage in config.stages
    )
    return replace(config, method="", stages=stages, seed=0)


@dataclass(frozen=True)
class Network(MLP):
    """As :class:`~samkit.training.stack.MLP`, with softplus of a sharpness instead of ReLU."""

    sharp: float = 20.0

    def logits(self, w: Tensor, x: Tensor) -> Tensor:
        (W, b), *others = self.layers(w)
        z = x @ W + b
        for W, b in others:
            z = softplus(z, self.sharp) @ W + b
        return z


@dataclass(frozen=True)
class Examples:
    """Training examples, which of their labels are wrong, and those to validate and to test on."""

    x: Tensor
    y: Tensor
    wrong: Tensor
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def examples(config: Config) -> Examples:
    """What a run sees: drawn by its seed, but for the test set, which is the same for all."""
    if config.data == "mnist1d":
        x, y = signals(config.train, 10_000 + config.seed)
        validation, test = _held_out()
    else:
        digits = load("digits")
        x = np.concatenate([digits.x, digits.x_validation, digits.x_test]).reshape(-1, 64)
        y = np.concatenate([digits.y, digits.y_validation, digits.y_test])
        order = np.random.RandomState(0).permutation(len(y))
        tested, rest = order[:597], order[597:]
        rest = rest[np.random.RandomState(1 + config.seed).permutation(len(rest))]
        validation, test = ((x[k], y[k]) for k in (rest[config.train :], tested))
        x, y = x[rest[: config.train]], y[rest[: config.train]]
    classes = [str(c) for c in range(10)]
    y, wrong = label_noise(
        y, config.noise, classes=classes, kind=config.noise_kind, seed=config.seed
    )
    return Examples(
        torch.tensor(x),
        torch.tensor(y),
        torch.tensor(wrong),
        (torch.tensor(validation[0]), torch.tensor(validation[1])),
        (torch.tensor(test[0]), torch.tensor(test[1])),
    )


@cache
def _held_out() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    published = load("mnist1d")
    return (published.x_validation, published.y_validation), signals(TESTED, 1_000)


def run(config: Config, **how: Any) -> dict[str, Any]:
    """One run: see :func:`run_together`."""
    return run_together([config])[0]


def run_together(
    configs: Sequence[Config], progress: Callable[[float], object] | None = None
) -> list[dict[str, Any]]:
    """Runs that are :func:`alike`, side by side. Metrics of each:

    "validation_error" and "test_error" at the end, "train_loss" there; "history" of both errors'
    companions over the epochs (training loss, errors on right and on wrong labels, validation
    error); "best_epoch", of lowest validation error, and "best_test_error" there. After two stages
    "line", the training loss between their ends; "averaged_test_error" of averaged weights;
    "sharpness". A network whose weights are not finite has only "diverged_step".

    ``progress`` gets the share of the steps done. Raises ValueError for runs that are not alike.
    """
    shared = alike(configs[0])
    if any(alike(config) != shared for config in configs):
        raise ValueError("these runs differ in more than seed, learning rate and radius")
    network = (
        MLP(shared.network)
        if shared.softplus is None
        else Network(shared.network, sharp=shared.softplus)
    )
    data = [examples(config) for config in configs]
    training = _Training(network, configs, data)
    steps = sum(stage.epochs for stage in shared.stages) * training.batches
    ends, done = [], 0
    for k, stage in enumerate(shared.stages):
        training.begin(k)
        for epoch in range(stage.epochs):
            training.epoch(k, epoch)
            done += 1
            if epoch + 1 in _evaluated(stage.epochs, 16 if shared.noise else 4):
                training.evaluate(done)
            if progress is not None:
                progress(done * training.batches / steps)
        ends.append(training.w)
    return [training.metrics(i, ends) for i in range(len(configs))]


def _evaluated(epochs: int, count: int) -> set[int]:
    """After which epochs: so many, evenly on a logarithmic axis, the first and the last."""
    return {round(e) for e in np.geomspace(1, epochs, count)}


class _Training:
    """The state of networks that train side by side: weights w (N, K)."""

    def __init__(self, network: MLP, configs: Sequence[Config], data: Sequence[Examples]):
        self.network, self.configs, self.data = network, configs, data
        self.x = torch.stack([part.x for part in data])
        self.y = torch.stack([part.y for part in data])
        self.size = configs[0].batch_size
        self.batches = self.x.shape[1] // self.size
        self.rows = torch.arange(len(configs))[:, None]
        self.w = torch.stack([Draws(network, c.seed, torch.float32).start for c in configs])
        self.best = torch.full((len(configs),), math.inf), self.w
        self.best_epoch = torch.zeros(len(configs), dtype=torch.long)
        self.history: dict[str, list[Any]] = {"epoch": []}
        self.mean = torch.zeros_like(self.w)

    def begin(self, k: int) -> None:
        """A stage with draws, a schedule and a momentum of its own."""
        seeds = [config.seed + 1000 * k for config in self.configs]
        self.draws = [Draws(self.network, seed, torch.float32) for seed in seeds]
        self.velocity = torch.zeros_like(self.w)
        rates = [[c.stages[k].learning_rate] for c in self.configs]
        self.rates = torch.tensor(rates)

    def epoch(self, k: int, epoch: int) -> None:
        stage, n = self.configs[0].stages[k], self.x.shape[1]
        rule = alike(self.configs[0]).stages[k].at(epoch)
        rho = torch.tensor([[c.stages[k].at(epoch).rho] for c in self.configs])
        own, independent = map(
            torch.stack, zip(*(draw.orders(n) for draw in self.draws), strict=True)
        )
        for j in range(self.batches):
            batch = self._batch(own, j)
            other = {"independent": (independent, j), "previous": (own, (j - 1) % self.batches)}
            other_batch = self._batch(*other[rule.source]) if rule.source in other else batch
            noise = self.w
            if rule.source == "random":
                noise = torch.stack([draw.noise() for draw in self.draws])
            if rule.rho:
                d = directions(self.network, rule, self.w, batch, other_batch, noise, rho)
            else:
                d = gradients(self.network, self.w, *batch)
            if stage.step_size_only:
                g = gradients(self.network, self.w, *batch)
                length = g.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(g.dtype).tiny)
                d = g / length * d.norm(dim=-1, keepdim=True)
            d = d + stage.weight_decay * self.w
            self.velocity = 0.9 * self.velocity + d
            share = (epoch * self.batches + j) / (stage.epochs * self.batches)
            self.w = self.w - self.rates * stage.rate(share) * self.velocity
        if stage.averaged and epoch >= stage.epochs // 2:
            self.mean = self.mean + self.w / (stage.epochs - stage.epochs // 2)

    def _batch(self, order: Tensor, j: int) -> tuple[Tensor, Tensor]:
        chosen = order[:, j * self.size : (j + 1) * self.size]
        return self.x[self.rows, chosen], self.y[self.rows, chosen]

    @torch.no_grad()
    def evaluate(self, epoch: int) -> None:
        wrong_labels = torch.stack([part.wrong for part in self.data])
        z = self.network.logits(self.w, self.x)
        missed = (z.argmax(-1) != self.y).float()
        validation = torch.stack([part.validation[0] for part in self.data])
        labels = torch.stack([part.validation[1] for part in self.data])
        found = {
            "train_loss": cross_entropy(z, self.y).mean(-1),
            "train_clean_error": (missed * ~wrong_labels).sum(-1) / (~wrong_labels).sum(-1),
            "validation_error": errors(self.network, self.w, validation, labels),
        }
        if wrong_labels.any():
            found["train_noisy_error"] = (missed * wrong_labels).sum(-1) / wrong_labels.sum(-1)
        self.history["epoch"].append(epoch)
        for name, values in found.items():
            self.history.setdefault(name, []).append(values.tolist())
        better = found["validation_error"] < self.best[0]
        self.best_epoch[better] = epoch
        self.best = (
            torch.where(better, found["validation_error"], self.best[0]),
            torch.where(better[:, None], self.w, self.best[1]),
        )

    @torch.no_grad()
    def metrics(self, i: int, ends: Sequence[Tensor]) -> dict[str, Any]:
        config, data = self.configs[i], self.data[i]
        if not self.w[i].isfinite().all():
            return {"diverged": True, "data": f"{config.data}, seed {config.seed}"}
        history = {
            name: values if name == "epoch" else [value[i] for value in values]
            for name, values in self.history.items()
        }
        found: dict[str, Any] = {
            "data": f"{config.data}, seed {config.seed}",
            "diverged": False,
            "history": history,
            "train_loss": history["train_loss"][-1],
            "validation_error": history["validation_error"][-1],
            "best_epoch": int(self.best_epoch[i]),
        }
        tested = {"test_error": self.w[i], "best_test_error": self.best[1][i]}
        if any(stage.averaged for stage in config.stages):
            tested["averaged_test_error"] = self.mean[i]
        if not config.judged:
            tested = {}
        for name, w in tested.items():
            found[name] = float(errors(self.network, w, *data.test))
        if len(ends) == 2:
            a, b = (end[i] for end in ends)
            points = torch.stack([(1 - t) * a + t * b for t in LINE])
            z = [self.network.logits(w, data.x) for w in points]
            found["line"] = [float(cross_entropy(part, data.y).mean()) for part in z]
        if config.sharpness:
            found["sharpness"] = {
                f"m={m}, rho={rho:g}": self._sharpness(self.w[i], data, m, rho)
                for m, rho in config.sharpness
            }
        return found

    @torch.enable_grad()
    def _sharpness(self, w: Tensor, data: Examples, m: int, rho: float) -> float:
        """How far the loss of groups of m, of the first 64 examples, rises at worst within rho."""
        x, y = (part[:64].unflatten(0, (-1, m)) for part in (data.x, data.y))
        v = w.expand(len(x), -1)
        rise = worst_case(self.network, v, x, y, rho, steps=6, restarts=0)
        with torch.no_grad():
            flat = cross_entropy(self.network.logits(v, x), y).mean(-1)
        return float((rise - flat).mean())


def configs(scale: str, seeds: Iterable[int]) -> list[Config]:
    """At scale "laptop" what the protocol asks for, by seeds to tune and by seeds to judge."""
    from samkit.paper import protocol

    seeds = tuple(seeds)
    return protocol.tuning(seeds) + protocol.judged(seeds) if scale == "laptop" else []


def seeds() -> tuple[int, ...]:
    """Those of the protocol, to tune by, to judge by, and those of the second stage."""
    from samkit.paper import protocol

    said = protocol.text()
    runs = [run for comparison in said["second"]["comparison"] for run in comparison["runs"]]
    second = {
        seed for task, method in runs for seed in protocol.seeds_of(task, method, second=True)
    }
    return (*said["tuning_seeds"], *said["judged_seeds"], *sorted(second))


def summary(records: Sequence[dict]) -> pd.DataFrame:
    """The judged runs: one row for each task and method, with what was chosen for it."""
    judged = [record for record in records if record["config"]["judged"]]
    if not judged:
        return pd.DataFrame()
    columns = ["task", "method", "learning_rate", "rho"]
    return table.summarize(table.frame(judged, setting), columns, ["test_error", "train_loss"])


def setting(config: Mapping[str, Any]) -> dict[str, Any]:
    """The task, the method, and what was chosen for its first stage."""
    stage = config["stages"][0]
    return {
        "task": config["task"],
        "method": config["method"],
        "m": stage["perturbation"]["m"],
        "learning_rate": stage["learning_rate"],
        "rho": stage["perturbation"]["rho"],
    }
