"""The update directions as formulas, for one network: the specification of the batched sweep."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from samkit.training.ascent import ascent_step
from samkit.training.network import MLP, gradients

METHODS = ("ERM", "random", "m-SAM", "n-SAM")


@dataclass(frozen=True)
class Rule:
    r"""Where the gradient of a batch is taken.

    ``ERM``: at w. ``random``: at w + noise, :math:`N(0, \rho^2/K)` in each of K weights, so of
    length about rho. ``m-SAM``: for each group of m examples of the batch, at w + the group's own
    :func:`~samkit.training.ascent_step`, averaged; m = None is the whole batch, m = 1 is 1-SAM.
    ``n-SAM``: at w + the ascent step of ANOTHER batch, drawn independently.

    Source: paper, Sections 2 and 3, and the authors' code. Chapter: PAC-Bayes. Raises ValueError.
    """

    method: str
    rho: float = 0.0
    m: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r}: there are {', '.join(METHODS)}")
        if not (math.isfinite(self.rho) and self.rho >= 0):
            raise ValueError(f"rho={self.rho}: pass a finite radius, 0 or larger")
        if self.method == "ERM" and self.rho != 0:
            raise ValueError(f"rho={self.rho}: ERM does not perturb, leave rho at 0")
        if self.method != "m-SAM" and self.m is not None:
            raise ValueError(f"m={self.m}: only m-SAM has groups, {self.method} takes no m")

    def group_size(self, batch_size: int) -> int:
        """m, or the batch size where it is None; ValueError where groups do not fill the batch."""
        m = batch_size if self.m is None else self.m
        if int(m) != m or not 1 <= m <= batch_size or batch_size % m:
            raise ValueError(
                f"m={m}: m is the size of a group, pass a divisor of batch_size={batch_size}"
            )
        return int(m)


def direction(
    network: MLP,
    rule: Rule,
    w: Tensor,
    batch: tuple[Tensor, Tensor],
    other: tuple[Tensor, Tensor],
    noise: Tensor,
) -> Tensor:
    """The gradient that ``rule`` descends along, for one network w (K,): the specification.

    ``batch`` and ``other`` are independent draws of x (B, inputs), y (B,); noise is N(0, 1), (K,).
    """
    x, y = batch
    if rule.method == "ERM":
        return gradients(network, w, x, y)
    if rule.method == "random":
        return gradients(network, w + rule.rho / network.size**0.5 * noise, x, y)
    if rule.method == "n-SAM":
        return gradients(network, w + ascent_step(gradients(network, w, *other), rule.rho), x, y)
    m = rule.group_size(len(y))
    total = torch.zeros_like(w)
    for start in range(0, len(y), m):
        group = x[start : start + m], y[start : start + m]
        delta = ascent_step(gradients(network, w, *group), rule.rho)
        total += gradients(network, w + delta, *group) * m / len(y)
    return total


class Draws:
    """What chance decides in the training of one network: all rules with its seed share it."""

    def __init__(self, network: MLP, seed: int, dtype: torch.dtype):
        states = np.random.SeedSequence(seed).generate_state(4)
        start, self._batch, self._other, self._noise = (
            torch.Generator().manual_seed(int(state)) for state in states
        )
        self._size, self._dtype = network.size, dtype
        self.start = network.init(start).to(dtype)

    def orders(self, n: int) -> tuple[Tensor, Tensor]:
        """The order of the n examples for one epoch, and an independent one."""
        return torch.randperm(n, generator=self._batch), torch.randperm(n, generator=self._other)

    def noise(self) -> Tensor:
        return torch.randn(self._size, generator=self._noise, dtype=self._dtype)


def step_sizes(learning_rate: float, steps: int) -> Iterator[float]:
    """A cosine from the learning rate to zero."""
    for t in range(steps):
        yield learning_rate * 0.5 * (1 + math.cos(math.pi * t / steps))


def train_one(
    network: MLP,
    x: np.ndarray,
    y: np.ndarray,
    rule: Rule,
    seed: int,
    *,
    epochs: int = 60,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""SGD with momentum along :func:`direction`, in a readable loop. Returns the weights (K,).

    :math:`v \leftarrow 0.9\, v + d,\ w \leftarrow w - \gamma_t v`, with :math:`\gamma_t` a cosine
    from the learning rate to zero. An incomplete last batch of an epoch is left out.
    :func:`~samkit.training.train` is the same, fast.
    """
    inputs, labels = torch.tensor(x, dtype=dtype), torch.tensor(y)
    draws = Draws(network, seed, dtype)
    w, velocity = draws.start, torch.zeros(network.size, dtype=dtype)
    batches = len(y) // batch_size
    schedule = step_sizes(learning_rate, epochs * batches)
    for _ in range(epochs):
        order, other_order = draws.orders(len(y))
        for k in range(batches):
            rows = order[k * batch_size : (k + 1) * batch_size]
            others = other_order[k * batch_size : (k + 1) * batch_size]
            batch, other = ((inputs[part], labels[part]) for part in (rows, others))
            d = direction(network, rule, w, batch, other, draws.noise())
            velocity = momentum * velocity + d
            w = w - next(schedule) * velocity
    return w
