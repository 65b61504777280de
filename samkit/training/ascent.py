"""Uphill in a ball: SAM's first-order step, and the maximum that it stands for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from samkit.training.network import MLP, gradients, losses


def ascent_step(gradient: Tensor, rho: float | Tensor) -> Tensor:
    r"""The normalized step :math:`\rho\, g / \lVert g\rVert`; zero where the gradient is zero.

    Source: the authors' deep-network experiments. Chapter: what SAM minimizes.
    """
    tiny = torch.finfo(gradient.dtype).tiny
    # divided by the largest entry first: the squares of a fitted example's gradient underflow
    gradient = gradient / gradient.abs().amax(dim=-1, keepdim=True).clamp_min(tiny)
    return rho * gradient / gradient.norm(dim=-1, keepdim=True).clamp_min(tiny)


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
    starts = [ascent_step(gradients(network, w, x, y), rho), torch.zeros_like(w)]
    for _ in range(restarts):
        noise = torch.randn(w.shape, generator=generator, dtype=w.dtype)
        starts.append(project(rho * noise / w.shape[-1] ** 0.5, rho))
    best = score(network, w, x, y).detach()
    for delta in starts:
        for step in range(steps + 1):
            best = torch.maximum(best, score(network, w + delta, x, y).detach())
            if step < steps:
                length = rho * (0.5 if step < steps // 2 else 0.1)
                uphill = ascent_step(gradients(network, w + delta, x, y), length)
                delta = project(delta + uphill, rho)
    return best


def project(delta: Tensor, rho: float) -> Tensor:
    """The nearest point of the ball of radius rho."""
    norm = delta.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(delta.dtype).tiny)
    return delta * (rho / norm).clamp(max=1)
