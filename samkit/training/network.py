"""A network as a function of ONE weight vector: a stack of vectors is a stack of networks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MLP:
    r"""One hidden layer: :math:`z = \mathrm{relu}(x W_1 + b_1) W_2 + b_2`, with ``size`` weights.

    The weight vector is (W_1, b_1, W_2, b_2), each matrix row by row. Chapter: PAC-Bayes.
    """

    inputs: int = 40
    hidden: int = 64
    outputs: int = 10

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [
            (self.inputs, self.hidden),
            (1, self.hidden),
            (self.hidden, self.outputs),
            (1, self.outputs),
        ]

    @property
    def size(self) -> int:
        """The number K of weights."""
        return sum(rows * columns for rows, columns in self.shapes)

    def init(self, generator: torch.Generator) -> Tensor:
        """A vector (K,), float64, uniform within 1/sqrt(inputs of the layer): torch's default."""
        bounds = [self.inputs**-0.5] * 2 + [self.hidden**-0.5] * 2
        parts = [
            bound * (2 * torch.rand(rows * columns, generator=generator, dtype=torch.float64) - 1)
            for bound, (rows, columns) in zip(bounds, self.shapes, strict=True)
        ]
        return torch.cat(parts)

    def logits(self, w: Tensor, x: Tensor) -> Tensor:
        """w (..., K), x (..., B, inputs) -> (..., B, outputs)."""
        parts = w.split([rows * columns for rows, columns in self.shapes], -1)
        W1, b1, W2, b2 = (
            part.unflatten(-1, shape) for part, shape in zip(parts, self.shapes, strict=True)
        )
        return (x @ W1 + b1).relu() @ W2 + b2


def losses(network: MLP, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy over the examples, one number a network: (...)."""
    z = network.logits(w, x)
    correct = z.gather(-1, y.expand(z.shape[:-1])[..., None])[..., 0]
    return (z.logsumexp(-1) - correct).mean(-1)


@torch.no_grad()
def errors(network: MLP, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Share of wrong predictions, one number a network: (...)."""
    return (network.logits(w, x).argmax(-1) != y).to(w.dtype).mean(-1)


def gradients(network: MLP, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each network's loss in its own weights: the shape of w."""
    w = w.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(losses(network, w, x, y).sum(), w)
    return gradient
