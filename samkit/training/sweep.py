"""Many networks trained as one batched computation: rules x seeds in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from samkit.training.ascent import ascent_step
from samkit.training.network import MLP, cross_entropy, gradients
from samkit.training.rules import Draws, Rule, step_sizes


def train(
    network: MLP,
    x: np.ndarray,
    y: np.ndarray,
    rules: Sequence[Rule],
    seeds: Sequence[int],
    *,
    epochs: int = 60,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Train every rule from every seed. Returns weights (rules, seeds, K).

    The numbers are those of :func:`~samkit.training.train_one` up to rounding. All rules with one
    seed share initial weights, batches and noise, so their results are paired. Rules that differ
    only in rho run as one stack of networks, and a group of m-SAM needs no weights of its own.
    Measured against one network after the other by benchmarks/bench_grid.py.

    Shapes: x (n, inputs), y (n,). Raises ValueError for a batch larger than the data or an m that
    does not divide it, before anything is trained, and FloatingPointError that names the rule
    when weights stop being finite.
    """
    if not 1 <= batch_size <= len(y) or len(x) != len(y):
        raise ValueError(
            f"batch_size={batch_size} with {len(x)} inputs and {len(y)} labels: pass one label per "
            "input and a batch no larger than the data"
        )
    if not len(rules) or not len(seeds):
        raise ValueError("pass at least one rule and one seed")
    alike: dict[tuple[str, int], list[int]] = {}
    for position, rule in enumerate(rules):
        alike.setdefault((rule.method, rule.group_size(batch_size)), []).append(position)
    data = torch.tensor(x, dtype=dtype), torch.tensor(y)
    result = torch.empty(len(rules), len(seeds), network.size, dtype=dtype)
    for (method, m), positions in alike.items():
        chosen = [rules[position] for position in positions]
        result[positions] = _train_alike(
            network, *data, chosen, seeds, method, m, epochs, batch_size, learning_rate, momentum
        )
    return result


def _train_alike(
    network: MLP,
    x: Tensor,
    y: Tensor,
    rules: Sequence[Rule],
    seeds: Sequence[int],
    method: str,
    m: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
) -> Tensor:
    """Rules that differ only in rho, as one stack of rules x seeds networks."""
    draws = [Draws(network, seed, x.dtype) for seed in seeds]
    stack = (len(rules), len(seeds))
    w = torch.stack([draw.start for draw in draws]).expand(*stack, -1).flatten(0, 1)
    rho = torch.tensor([rule.rho for rule in rules], dtype=x.dtype)
    rho = rho.repeat_interleave(len(seeds))[:, None]

    def every_rule(per_seed: Tensor) -> Tensor:
        return per_seed.expand(len(rules), *per_seed.shape).flatten(0, 1)

    velocity = torch.zeros_like(w)
    batches = len(y) // batch_size
    schedule = step_sizes(learning_rate, epochs * batches)
    for epoch in range(epochs):
        orders = [
            torch.stack(order)
            for order in zip(*(draw.orders(len(y)) for draw in draws), strict=True)
        ]
        for k in range(batches):
            rows, others = (order[:, k * batch_size : (k + 1) * batch_size] for order in orders)
            batch = every_rule(x[rows]), every_rule(y[rows])
            if method == "m-SAM":
                d = _mean_over_groups(network, w, *batch, rho, m)
            else:
                perturbed = w
                if method == "random":
                    noise = every_rule(torch.stack([draw.noise() for draw in draws]))
                    perturbed = w + rho / network.size**0.5 * noise
                elif method == "n-SAM":
                    other = every_rule(x[others]), every_rule(y[others])
                    perturbed = w + ascent_step(gradients(network, w, *other), rho)
                d = gradients(network, perturbed, *batch)
            velocity.mul_(momentum).add_(d)
            w = w - next(schedule) * velocity
        if not (finite := w.isfinite().all(-1)).all():
            lost = int((~finite).nonzero()[0])
            raise FloatingPointError(
                f"{rules[lost // len(seeds)]}, seed {seeds[lost % len(seeds)]}: weights are not "
                f"finite after epoch {epoch + 1}; lower rho or the learning rate"
            )
    return w.unflatten(0, stack)


def _mean_over_groups(network: MLP, w: Tensor, x: Tensor, y: Tensor, rho: Tensor, m: int) -> Tensor:
    r"""m-SAM without weights for every group, as in :mod:`samkit.msam.ghost`.

    With a the inputs of a layer and d the gradients at its outputs, those of a group's m examples
    as rows, the group's gradient is :math:`a^\top d` for the matrix and the sum of d for the bias.
    So its squared length is the sum of :math:`(a a^\top + 1) \circ d d^\top` over the layers, and
    in the second pass the perturbation adds :math:`s\,(h a^\top + 1)\,d` to the outputs of a
    layer with inputs h, s being rho over the length.
    """
    networks, batch_size = y.shape
    groups = batch_size // m
    if groups == 1:
        return gradients(network, w + ascent_step(gradients(network, w, x, y), rho), x, y)

    def grouped(rows: Tensor) -> Tensor:
        return rows.detach().reshape(networks, groups, m, -1)

    outputs, inputs, h = [], [], x
    for W, b in network.layers(w):
        z = torch.baddbmm(b, h, W).requires_grad_()
        inputs.append(grouped(h))
        outputs.append(z)
        h = z.relu()
    found = torch.autograd.grad(cross_entropy(z, y).sum(), outputs)
    # divided by the largest first: squares of the gradients of fitted examples underflow
    d = [grouped(part) for part in found]
    largest = torch.stack([part.abs().amax((2, 3), keepdim=True) for part in d]).amax(0)
    d = [part / largest.clamp_min(torch.finfo(w.dtype).tiny) for part in d]
    squares = [
        ((a @ a.mT + 1) * (part @ part.mT)).sum((2, 3), keepdim=True)
        for a, part in zip(inputs, d, strict=True)
    ]
    length = torch.stack(squares).sum(0).sqrt()
    s = rho[..., None, None] / length.clamp_min(torch.finfo(w.dtype).tiny)

    w, h = w.detach().requires_grad_(), x
    for (W, b), a, part in zip(network.layers(w), inputs, d, strict=True):
        own = s * (h.reshape(networks, groups, m, -1) @ a.mT + 1) @ part
        z = torch.baddbmm(b, h, W) + own.reshape(networks, batch_size, -1)
        h = z.relu()
    (gradient,) = torch.autograd.grad(cross_entropy(z, y).mean(-1).sum(), w)
    return gradient
