"""A network as a function of ONE weight vector: a stack of vectors is a stack of networks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


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
