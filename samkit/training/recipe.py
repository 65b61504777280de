"""How to train a network: the settings of :func:`samkit.training.fit`, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from samkit.perturbation import Perturbation

SCHEDULES = ("cosine", "piecewise", "constant")


@dataclass(frozen=True)
class Recipe:
    r"""How to train. The defaults are those of the book's small networks, trained by ERM.

    ``perturbation`` says where the gradient of a batch is taken: see
    :class:`~samkit.Perturbation`. Groups are m consecutive examples of the batch; the batch
    previous to an epoch's first is its last. ``switch=((50, Perturbation(0.1)),)`` takes another
    one from epoch 50 on (epochs count from 0); schedule and momentum go on. With
    ``separate_groups`` every group passes the network by itself, so that BatchNorm takes its own
    statistics for each, as in the authors' code; without BatchNorm that is only slower.
    ``step_size_only`` keeps the direction of the gradient at w and takes only the length of SAM's.

    The learning rate is constant, falls by a ``cosine`` to zero step by step, or is divided by 10
    at 50 % and at 75 % (``piecewise``). ``weight_decay`` adds weight_decay ||w||^2 / 2 to the loss,
    so it is in the ascent as well; with ``decay_in_ascent=False`` it is the optimizer's own, in the
    step alone. ``swa_from``: average the weights at the end of each epoch from this one on. An
    incomplete last batch of an epoch is left out.

    Everything random follows from ``seed`` and the epoch, so that all perturbations see the same
    batches. Raises ValueError, before anything is trained. Source: Sections 2 to 4 of the paper and
    the authors' code. Chapters: perturbations, the role of m, fine-tuning, label noise.
    """

    perturbation: Perturbation = field(default_factory=Perturbation)
    separate_groups: bool = False
    step_size_only: bool = False
    epochs: int = 100
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    schedule: str = "cosine"
    weight_decay: float = 0.0
    decay_in_ascent: bool = True
    switch: tuple[tuple[int, Perturbation], ...] = ()
    swa_from: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "seed"):
            if not _whole(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r}: pass an integer")
        for name in ("learning_rate", "momentum", "weight_decay"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)}: pass a finite number")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule!r}: pass one of {', '.join(SCHEDULES)}")
        if self.seed < 0 or self.momentum < 0:
            raise ValueError(f"seed={self.seed}, momentum={self.momentum}: pass 0 or more")
        if min(self.epochs, self.batch_size) < 1 or self.learning_rate <= 0:
            raise ValueError("epochs, batch_size and learning_rate must be positive")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay={self.weight_decay} must be at least 0")
        first = self.swa_from
        if first is not None and not (_whole(first) and 0 <= first < self.epochs):
            raise ValueError(
                f"swa_from={first}: pass the epoch, from 0, whose end is the first to be "
                f"averaged; the last one is {self.epochs - 1}"
            )
        for epoch, _ in self.switch:
            if not (_whole(epoch) and 0 <= epoch <= self.epochs):
                raise ValueError(f"switch at epoch {epoch} of {self.epochs}")
        for how in self.perturbations:
            if not isinstance(how, Perturbation):
                raise ValueError(f"{how!r}: pass a samkit.Perturbation, such as Perturbation(0.1)")
            groups = how.group_size(self.batch_size) < self.batch_size
            if groups and (how.steps > 1 or how.adaptive or self.step_size_only):
                raise ValueError(
                    "several steps, adaptive radii and step_size_only are for m = batch_size: "
                    "leave m out"
                )
            if how.share_of_batch and self.batch_size % how.group_size(self.batch_size):
                raise ValueError(f"share_of_batch: pass an m that divides {self.batch_size}")
            if how.project:
                raise ValueError("project is for samkit.training.train_stack: leave it out")
            if self.step_size_only and how.source != "own":
                raise ValueError(
                    "step_size_only needs the gradient at w of the same batch: not a random "
                    'direction and not another batch\'s, so leave source at "own"'
                )

    @property
    def perturbations(self) -> tuple[Perturbation, ...]:
        """All that the training takes, in the order of their epochs."""
        later = sorted(self.switch, key=lambda item: item[0])
        return (self.perturbation, *(how for _, how in later))

    @property
    def label(self) -> str:
        """That of the perturbation, with m: "128-SAM" where "SAM" is over a batch of 128."""
        label = self.perturbation.label
        return f"{self.batch_size}-SAM" if label == "SAM" else label

    @property
    def grouped(self) -> bool:
        """Whether the groups that share a perturbation are smaller than the batch."""
        how = self.perturbation
        return how.rho > 0 and how.group_size(self.batch_size) < self.batch_size

    def at(self, epoch: int) -> Recipe:
        """The recipe that holds in this epoch, its switches carried out."""
        chosen = self.perturbation
        for start, how in sorted(self.switch, key=lambda item: item[0]):
            chosen = how if start <= epoch else chosen
        return replace(self, perturbation=chosen, switch=())

    def passes(self) -> int:
        """How many times all epochs together go over the data, forward and backward.

        Once an epoch, and once more for each ascent step where there is a gradient to ascend,
        whatever m is. Evaluation is not counted.
        """
        return sum(1 + self.at(epoch).perturbation.ascents for epoch in range(self.epochs))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate in a step of ``steps`` in all."""
        done = step / steps
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        if self.schedule == "piecewise":
            return self.learning_rate * 0.1 ** ((done >= 0.5) + (done >= 0.75))
        return self.learning_rate


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer)
