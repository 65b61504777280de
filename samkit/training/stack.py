r"""Many small networks trained side by side, as one batched computation. Chapters 05 and 11.

A network is a function of ONE weight vector, so a stack of vectors is a stack of networks. Weights
w are (..., K), examples x (..., B, inputs) and y (..., B): leading dimensions are networks, and a
group with a perturbation of its own is a network more. :func:`direction` is the specification of
a step, :func:`train_stack` takes it for all networks at once; the rules of both are those of
:mod:`samkit.perturbation`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from samkit.perturbation import Perturbation, ball, unit

Examples = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class MLP:
    r"""Layers of these widths, ReLU between them; ``size`` weights.

    With one hidden layer :math:`z = \mathrm{relu}(x W_1 + b_1) W_2 + b_2`. The weight vector is
    (W_1, b_1, W_2, b_2, ...), each matrix row by row. Chapter: PAC-Bayes.
    """

    widths: tuple[int, ...] = (40, 64, 10)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Of W_1, b_1, W_2, ... in turn."""
        return [
            shape
            for rows, columns in pairwise(self.widths)
            for shape in ((rows, columns), (1, columns))
        ]

    @property
    def size(self) -> int:
        """The number K of weights."""
        return sum(rows * columns for rows, columns in self.shapes)

    def init(self, generator: torch.Generator) -> Tensor:
        """A vector (K,), float64, uniform within 1/sqrt(inputs of the layer): torch's default."""
        bounds = [inputs**-0.5 for inputs in self.widths[:-1] for _ in range(2)]
        parts = [
            bound * (2 * torch.rand(rows * columns, generator=generator, dtype=torch.float64) - 1)
            for bound, (rows, columns) in zip(bounds, self.shapes, strict=True)
        ]
        return torch.cat(parts)

    def layers(self, w: Tensor) -> list[tuple[Tensor, Tensor]]:
        """w (..., K) as (W_1, b_1), (W_2, b_2), ..., of the shapes (..., inputs, outputs) and
        (..., 1, outputs)."""
        parts = w.split([rows * columns for rows, columns in self.shapes], -1)
        parts = [part.unflatten(-1, shape) for part, shape in zip(parts, self.shapes, strict=True)]
        return list(zip(parts[::2], parts[1::2], strict=True))

    def logits(self, w: Tensor, x: Tensor) -> Tensor:
        """w (..., K), x (..., B, inputs) -> (..., B, outputs)."""
        (W, b), *others = self.layers(w)
        z = x @ W + b
        for W, b in others:
            z = z.relu() @ W + b
        return z


def losses(network: MLP, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy over the examples, one number a network: (...)."""
    return cross_entropy(network.logits(w, x), y).mean(-1)


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    """One loss an example, (..., B), of logits z (..., B, outputs)."""
    correct = z.gather(-1, y.expand(z.shape[:-1])[..., None])[..., 0]
    return z.logsumexp(-1) - correct


@torch.no_grad()
def errors(network: MLP, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Share of wrong predictions, one number a network: (...)."""
    return (network.logits(w, x).argmax(-1) != y).to(w.dtype).mean(-1)


def gradients(network: MLP, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each network's loss in its own weights: the shape of w."""
    w = w.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(losses(network, w, x, y).sum(), w)
    return gradient


def worst_case(
    network: MLP,
    w: Tensor,
    x: Tensor,
    y: Tensor,
    rho: float,
    *,
    score: Callable = losses,
    steps: int = 30,
    restarts: int = 1,
    seed: int = 0,
) -> Tensor:
    r"""The largest score found in the ball :math:`\lVert\delta\rVert \le \rho` around w: (...).

    Projected ascent on the loss, from the first-order step, from w itself and from ``restarts``
    random points of the ball: normalized steps of length rho/2, then of rho/10, projected back
    onto the ball. ``score`` (:func:`losses` or :func:`errors`) is taken at w and after every step,
    and the largest kept. So the result is a LOWER bound of the true maximum, never below the
    one-step value. The weights are left as they are. Chapter: what SAM minimizes.

    Shapes: w (..., K), x (..., B, inputs), y (..., B).
    """
    generator = torch.Generator().manual_seed(seed)
    starts = [rho * unit(gradients(network, w, x, y)), torch.zeros_like(w)]
    for _ in range(restarts):
        noise = torch.randn(w.shape, generator=generator, dtype=w.dtype)
        starts.append(ball(rho * noise / w.shape[-1] ** 0.5, rho))
    best = score(network, w, x, y).detach()
    for delta in starts:
        for step in range(steps + 1):
            best = torch.maximum(best, score(network, w + delta, x, y).detach())
            if step < steps:
                length = rho * (0.5 if step < steps // 2 else 0.1)
                delta = ball(delta + length * unit(gradients(network, w + delta, x, y)), rho)
    return best


# Training


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
        """N(0, 1) for each weight, (K,)."""
        return torch.randn(self._size, generator=self._noise, dtype=self._dtype)


def step_sizes(learning_rate: float, steps: int) -> Iterator[float]:
    """A cosine from the learning rate to zero."""
    for t in range(steps):
        yield learning_rate * 0.5 * (1 + math.cos(math.pi * t / steps))


def direction(
    network: MLP,
    perturbation: Perturbation,
    w: Tensor,
    batch: Examples,
    other: Examples,
    noise: Tensor | None = None,
) -> Tensor:
    """The gradient that one network w (K,) descends along: the specification.

    ``batch`` is x (B, inputs), y (B,); ``other`` is the batch that n-SAM perturbs by, noise is
    N(0, 1), (K,), for random directions.
    """
    x, y = batch
    m = perturbation.group_size(len(y))
    total = torch.zeros_like(w)
    for start in range(0, len(y), m):
        group = x[start : start + m], y[start : start + m]
        ascent = group if perturbation.source == "own" else other

        def gradient(v: Tensor, ascent: Examples = ascent) -> Tensor:
            return gradients(network, v, *ascent)

        delta = perturbation.delta(w, gradient, noise=noise, groups=len(y) // m)
        total += gradients(network, w + delta, *group) * m / len(y)
    return total


def train_stack(
    network: MLP,
    x: np.ndarray,
    y: np.ndarray,
    perturbations: Sequence[Perturbation],
    seeds: Sequence[int],
    *,
    epochs: int = 60,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Train with every perturbation from every seed. Returns weights (perturbations, seeds, K).

    SGD with momentum along :func:`direction`, up to rounding: :math:`v \leftarrow 0.9\, v + d,\
    w \leftarrow w - \gamma_t v`, with :math:`\gamma_t` a cosine from the learning rate to zero. An
    incomplete last batch of an epoch is left out; the batch previous to an epoch's first is its
    last. All trainings with one seed share initial weights, batches and noise, so their results are
    paired. Perturbations that differ only in rho run as one stack of networks, and a group of m-SAM
    needs no weights of its own. Measured against one network after the other by
    benchmarks/bench_grid.py.

    Shapes: x (n, inputs), y (n,). Raises ValueError, before anything is trained, for a batch larger
    than the data, an m that does not divide it, and groups with several steps or ASAM's radii;
    FloatingPointError that names the perturbation when weights stop being finite.
    """
    if not 1 <= batch_size <= len(y) or len(x) != len(y):
        raise ValueError(
            f"batch_size={batch_size} with {len(x)} inputs and {len(y)} labels: pass one label per "
            "input and a batch no larger than the data"
        )
    if not len(perturbations) or not len(seeds):
        raise ValueError("pass at least one perturbation and one seed")
    alike: dict[Perturbation, list[int]] = {}
    for position, perturbation in enumerate(perturbations):
        m = perturbation.group_size(batch_size)
        if batch_size % m:
            raise ValueError(f"m={m}: pass a divisor of batch_size={batch_size}")
        if m < batch_size and (perturbation.steps > 1 or perturbation.adaptive):
            raise ValueError(f"m={m}: several steps and adaptive radii are for the whole batch")
        alike.setdefault(replace(perturbation, rho=1.0), []).append(position)
    inputs, labels = torch.tensor(x, dtype=dtype), torch.tensor(y)
    batches = len(y) // batch_size
    result = torch.empty(len(perturbations), len(seeds), network.size, dtype=dtype)
    for rule, positions in alike.items():
        draws = [Draws(network, seed, dtype) for seed in seeds]

        def for_all(per_seed: Sequence[Tensor], radii: int = len(positions)) -> Tensor:
            """(seeds, ...) -> (radii x seeds, ...)."""
            return torch.stack(list(per_seed)).repeat(radii, *[1] * per_seed[0].dim())

        rho = torch.tensor([perturbations[position].rho for position in positions], dtype=dtype)
        rho = rho.repeat_interleave(len(seeds))[:, None]
        w = for_all([draw.start for draw in draws])
        velocity, schedule = torch.zeros_like(w), step_sizes(learning_rate, epochs * batches)
        for epoch in range(epochs):
            orders = [draw.orders(len(y)) for draw in draws]
            own, others = (
                for_all(order).split(batch_size, 1)[:batches] for order in zip(*orders, strict=True)
            )
            for k in range(batches):
                rows = {"previous": own[k - 1], "independent": others[k]}.get(rule.source, own[k])
                batch, other = (inputs[own[k]], labels[own[k]]), (inputs[rows], labels[rows])
                random = rule.source == "random"
                noise = for_all([draw.noise() for draw in draws]) if random else None
                velocity.mul_(momentum).add_(directions(network, rule, w, batch, other, noise, rho))
                w = w - next(schedule) * velocity
            if not (finite := w.isfinite().all(-1)).all():
                lost, seed = divmod(int((~finite).nonzero()[0]), len(seeds))
                raise FloatingPointError(
                    f"{perturbations[positions[lost]]}, seed {seeds[seed]}: weights are not "
                    f"finite after epoch {epoch + 1}; lower rho or the learning rate"
                )
        result[positions] = w.unflatten(0, (len(positions), len(seeds)))
    return result


def directions(
    network: MLP,
    rule: Perturbation,
    w: Tensor,
    batch: Examples,
    other: Examples,
    noise: Tensor | None,
    rho: Tensor,
) -> Tensor:
    """:func:`direction` for a stack w (networks, K) with radii rho (networks, 1)."""
    m, batch_size = rule.group_size(batch[1].shape[1]), batch[1].shape[1]
    if m < batch_size:
        return _mean_over_groups(network, rule, w, *batch, rho, m)
    delta = rule.delta(w, lambda v: gradients(network, v, *other), noise=noise, rho=rho)
    return gradients(network, w + delta, *batch)


def _mean_over_groups(
    network: MLP, rule: Perturbation, w: Tensor, x: Tensor, y: Tensor, rho: Tensor, m: int
) -> Tensor:
    r"""m-SAM without weights for every group, as in :mod:`samkit.msam.ghost`.

    With a the inputs of a layer and d the gradients at its outputs, those of a group's m examples
    as rows, the group's gradient is :math:`a^\top d` for the matrix and the sum of d for the bias.
    So its squared length is the sum of :math:`(a a^\top + 1) \circ d d^\top` over the layers, and
    in the second pass the perturbation adds :math:`s\,(h a^\top + 1)\,d` to the outputs of a
    layer with inputs h, s being the perturbation's factor.
    """
    networks, batch_size = y.shape
    groups = batch_size // m

    def grouped(rows: Tensor) -> Tensor:
        return rows.detach().reshape(networks, groups, m, -1)

    outputs, inputs, h = [], [], x
    for W, b in network.layers(w):
        z = torch.baddbmm(b, h, W).requires_grad_()
        inputs.append(grouped(h))
        outputs.append(z)
        h = z.relu()
    slopes = torch.autograd.grad(cross_entropy(z, y).sum() / m, outputs)
    d = [grouped(part) for part in slopes]
    largest = torch.stack([part.abs().amax((2, 3), keepdim=True) for part in d]).amax(0)
    largest = torch.where(largest > 0, largest, 1)
    d = [part / largest for part in d]
    squares = [
        ((a @ a.mT + 1) * (part @ part.mT)).sum((2, 3), keepdim=True)
        for a, part in zip(inputs, d, strict=True)
    ]
    length = torch.stack(squares).sum(0).sqrt()
    s = rule.factor(length, largest, groups=groups, rho=rho[..., None, None])

    w, h = w.detach().requires_grad_(), x
    for (W, b), a, part in zip(network.layers(w), inputs, d, strict=True):
        own = s * (h.reshape(networks, groups, m, -1) @ a.mT + 1) @ part
        z = torch.baddbmm(b, h, W) + own.reshape(networks, batch_size, -1)
        h = z.relu()
    (gradient,) = torch.autograd.grad(cross_entropy(z, y).mean(-1).sum(), w)
    return gradient
