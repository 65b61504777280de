"""One run of an experiment on classification: data, network, one recipe or two in a row."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d
from torch.optim.swa_utils import AveragedModel

from samkit import data, measure, nets
from samkit.errors import Diverged
from samkit.perturbation import Perturbation
from samkit.training.evaluation import EVALUATED, cross_entropy, forward_precision
from samkit.training.fit import fit
from samkit.training.recipe import Recipe

#: where the loss on the line between two stages is taken
LINE = tuple(round(0.1 * k, 1) for k in range(-5, 16))
#: shape of an input, and number of training examples
SHAPES = {
    "mnist1d": ((40,), 4000),
    "cifar10": ((3, 32, 32), 45000),
    "cifar100": ((3, 32, 32), 45000),
}


#: what tables show of a run
MEASURES = ("test_error", "validation_error", "train_loss")


@dataclass(frozen=True)
class Config:
    """A run: ``recipes`` one after the other, each with a learning rate schedule of its own.

    data: a name of :func:`samkit.data.load`; "cifar10:4000" for the first 4000 training examples,
    "cifar10:4000@16" for these as images of 16 x 16 pixels. Colour images of full size are
    cropped and flipped at random in training, smaller ones are taken as they are.
    net: "mlp 40 256 256 10", or "resnet DEPTH WIDTH NORM" such as "resnet 18 64 batch";
    "softplus:20 mlp 40 256 256 10" has softplus of that sharpness instead of ReLU.
    noise: the share of training labels replaced by other ones, in the way of ``noise_kind``.
    seed: of the start, the batches and the noise; recipes get theirs from it.
    """

    data: str
    net: str
    recipes: tuple[Recipe, ...]
    noise: float = 0.0
    noise_kind: str = "symmetric"
    seed: int = 0


def setting(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Of the perturbation of a recorded recipe: "method" (its label), "rho" and "m"."""
    how = Perturbation(**recipe["perturbation"])
    return {"method": how.label, "rho": how.rho, "m": how.m}


def small(
    *recipes: Recipe,
    seed: int,
    noise: float = 0.0,
    noise_kind: str = "symmetric",
    net: str = "mlp 40 256 256 10",
) -> Config:
    """The setting of the scales ci and laptop: MNIST-1D, an MLP."""
    return _config("mnist1d", net, recipes, seed, noise, noise_kind)


def large(
    *recipes: Recipe,
    seed: int,
    noise: float = 0.0,
    noise_kind: str = "symmetric",
    data: str = "cifar10",
    norm: str = "batch",
    net: str | None = None,
) -> Config:
    """The paper's: CIFAR-10 with a ResNet-18, or CIFAR-100 with a ResNet-34, of width 64; learning
    rate divided by ten at 50 % and 75 %, weight decay 0.0005.

    Weight decay is in the loss, and so in the ascent, as in the paper.
    """
    recipes = tuple(replace(r, schedule="piecewise", weight_decay=5e-4) for r in recipes)
    net = net or {"cifar10": "resnet 18 64", "cifar100": "resnet 34 64"}[data]
    return _config(data, f"{net} {norm}", recipes, seed, noise, noise_kind)


def on(data: str, *recipes: Recipe, **how: Any) -> Config:
    """The setting that belongs to the data: :func:`small` or :func:`large`."""
    return small(*recipes, **how) if data == "mnist1d" else large(*recipes, data=data, **how)


def _config(
    data: str, net: str, recipes: tuple[Recipe, ...], seed: int, noise: float, kind: str
) -> Config:
    seeded = tuple(replace(r, seed=1000 * k + seed) for k, r in enumerate(recipes))
    return Config(data, net, seeded, noise, kind, seed)


@dataclass
class Trained:
    """A finished run: the network at its end, what it was trained and evaluated on, metrics."""

    net: nn.Module
    sets: dict[str, tuple[Tensor, Tensor]]
    metrics: dict[str, Any]


def run(config: Config, **how: Any) -> dict[str, Any]:
    """Trains, evaluates, and returns the metrics: see :func:`train`."""
    return train(config, **how).metrics


def train(
    config: Config,
    *,
    checkpoint: Path | None = None,
    progress: Callable[[float], object] | None = None,
) -> Trained:
    """Trains and evaluates. Metrics:

    "history": per epoch, through all recipes; "data": which copy was used; the last values of test,
    validation and training; "best_epoch" with the lowest validation error, and "best_test_error"
    there; "diverged_step" if it did, else None. After two recipes "line": losses and errors at
    (1 - t) a + t b, with a and b the networks after the first and after the second one; and if the
    first recipe averages weights (SWA), "swa_line", with a that average.

    ``progress`` gets the share of the epochs done; what it raises ends the run, and ``checkpoint``
    (a file name; a suffix is added for each recipe) resumes it.
    """
    found = examples(config.data)
    sets, noisy = found.sets, None
    if config.noise:
        x, y = sets["train"]
        labels, wrong = data.label_noise(
            y.numpy(),
            config.noise,
            classes=found.classes,
            kind=config.noise_kind,
            seed=config.seed,
        )
        sets = sets | {"train": (x, torch.from_numpy(labels))}
        noisy = torch.from_numpy(wrong)
    augment = None
    if sets["train"][0].shape[1:] == (3, 32, 32):  # house numbers are not mirrored
        augment = partial(data.crop_and_flip, flip=not config.data.startswith("svhn"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = build(config.net, config.seed, len(found.classes)).to(device)
    evaluated = {name: part for name, part in sets.items() if name != "train"}
    # a small training set is not held up by large ones to evaluate; for images of full size the
    # evaluation is a good third of an epoch by count, and done after every second one
    every = max(1, sum(len(y) for _, y in evaluated.values()) // len(sets["train"][1]))
    every = every if augment is None else 2 * every

    history: dict[str, list[float]] = {}
    ends: list[dict[str, Tensor]] = []
    average: AveragedModel | None = None
    diverged, before, total = None, 0, sum(r.epochs for r in config.recipes)
    for stage, recipe in enumerate(config.recipes):

        def report(epoch: int, _: Mapping[str, float], before: int = before) -> None:
            if progress is not None:
                progress((before + epoch) / total)

        try:
            fitted = fit(
                net,
                recipe,
                sets["train"],
                evaluate=evaluated,
                noisy=noisy,
                augment=augment,
                evaluate_every=every,
                checkpoint=checkpoint and checkpoint.with_name(f"{checkpoint.name}.{stage}.pt"),
                progress=report,
            )
            new, average = fitted.history, average or fitted.averaged
        except Diverged as error:
            new, diverged = error.history, error.step
        for name, values in new.items():
            shift = before if name == "epoch" else 0
            history.setdefault(name, []).extend(v + shift for v in values)
        before += recipe.epochs
        ends.append({k: v.detach().clone() for k, v in net.state_dict().items()})
        if diverged is not None:
            break

    metrics: dict[str, Any] = {"data": found.copy, "diverged_step": diverged, "history": history}
    if diverged is None:
        metrics |= _last(history)
        if len(ends) == 2:
            metrics["line"] = _line(net, ends[0], ends[1], sets)
            if average is not None:
                metrics["swa_line"] = _line(net, average.module.state_dict(), ends[1], sets)
    return Trained(net, sets, metrics)


def _last(history: Mapping[str, list[float]]) -> dict[str, float]:
    best = int(np.argmin(history["validation_error"]))
    kept = ("train_loss", "train_error", "validation_error", "test_loss", "test_error")
    last = {name: history[name][-1] for name in kept}
    return last | {
        "best_epoch": history["epoch"][best],
        "best_test_error": history["test_error"][best],
        "lowest_test_error": min(history["test_error"]),
    }


def _line(net: nn.Module, a: dict, b: dict, sets: Mapping[str, tuple[Tensor, Tensor]]) -> dict:
    """Loss and error of training and test set on the line through the two networks."""
    device = next(net.parameters()).device
    there = {name: [part.to(device) for part in sets[name]] for name in ("train", "test")}

    def both(network: nn.Module) -> list[float]:
        values = []
        for x, y in there.values():
            z = torch.cat([network(part) for part in x.split(EVALUATED)]).float()
            values += [float(cross_entropy(z, y).mean()), float((z.argmax(-1) != y).float().mean())]
        return values

    net.eval()
    with forward_precision(device):
        statistics = there["train"][0].split(EVALUATED)
        points = measure.on_line(net, a, b, LINE, both, statistics=statistics)
    names = ("train_loss", "train_error", "test_loss", "test_error")
    return {"t": list(LINE)} | dict(zip(names, map(list, zip(*points, strict=True)), strict=True))


def build(name: str, seed: int, classes: int = 10) -> nn.Module:
    """The network of that name, started by the seed; the global random numbers are put back.

    ``classes`` are the outputs of a ResNet; an MLP has as many as its name says.
    """
    found = re.fullmatch(
        r"(?:softplus:(?P<beta>\S+) )?"
        r"(?:mlp (?P<widths>[\d ]+)|resnet (?P<depth>\w+) (?P<width>\d+) (?P<norm>\w+))",
        name,
    )
    if not found:
        raise ValueError(
            f"net={name!r}: write 'mlp 40 256 10' or 'resnet 18 64 batch', and 'softplus:20 ' "
            "before it for softplus of that sharpness instead of ReLU"
        )
    beta = float(found["beta"]) if found["beta"] else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if found["widths"]:
            return nets.mlp(*map(int, found["widths"].split()), softplus=beta)
        return nets.resnet(
            found["depth"],
            width=int(found["width"]),
            classes=classes,
            norm=found["norm"],
            softplus=beta,
        )


@dataclass(frozen=True)
class Examples:
    """Training, validation and test set as tensors by name; the classes; which copy they are."""

    sets: dict[str, tuple[Tensor, Tensor]]
    classes: tuple[str, ...]
    copy: str


def parsed(name: str) -> tuple[str, int | None, int | None]:
    """Of "cifar10:4000@16" the data set, the number of training examples, and the pixels a side."""
    found = re.fullmatch(r"(\w+)(?::(\d+))?(?:@(\d+))?", name)
    if not found:
        raise ValueError(f"data={name!r}: write 'cifar10', 'cifar10:4000' or 'cifar10:4000@16'")
    name, size, side = found.groups()
    return name, int(size) if size else None, int(side) if side else None


@cache
def examples(name: str) -> Examples:
    """The data set of that name, a part of it, and smaller images: see :class:`Config`."""
    name, size, side = parsed(name)
    found = data.load(name)
    rows = slice(size)
    parts = {
        "train": (found.x[rows], found.y[rows]),
        "validation": (found.x_validation, found.y_validation),
        "test": (found.x_test, found.y_test),
    }
    digest = hashlib.sha256()
    for x, y in parts.values():
        digest.update(np.ascontiguousarray(x).data)
        digest.update(np.ascontiguousarray(y).data)
    sets = {name: (torch.tensor(x), torch.tensor(y)) for name, (x, y) in parts.items()}
    if side:
        sets = {name: (adaptive_avg_pool2d(x, side), y) for name, (x, y) in sets.items()}
    return Examples(sets, found.classes, f"{found.source}, sha256 {digest.hexdigest()[:16]}")


def cost(configs: Sequence[Config]) -> float:
    """About how many seconds these runs take on this machine, judged by two steps of ERM.

    A step of SAM counts as two of ERM (``Recipe.passes``); m-SAM costs somewhat more than that.
    """
    seconds: dict[tuple[str, str], float] = {}
    total = 0.0
    for config in configs:
        key = (config.data, config.net)
        name, size, side = parsed(config.data)
        shape, n = SHAPES[name]
        shape, n = (*shape[:-2], side, side) if side else shape, size or n
        if key not in seconds:
            net = build(config.net, 0)
            x = torch.rand(config.recipes[0].batch_size, *shape)
            for _ in range(2):  # the first one warms up
                started = perf_counter()
                cross_entropy(net(x), torch.zeros(len(x), dtype=torch.long)).mean().backward()
                seconds[key] = perf_counter() - started
        for recipe in config.recipes:
            total += seconds[key] * recipe.passes() * (n // recipe.batch_size)
    return total
