r"""The rules by which SAM moves the weights before it looks.

A rule is a pure function of lists of tensors, one entry per parameter, that returns the list of
moves delta; `None` stands for a parameter without a gradient, which does not move.

All of them share one geometry. Parameter k has a radius T_k > 0, a number or a tensor of its shape,
and the moves live in the ellipsoid

.. math::

    \Big\{\delta : \sum_k \lVert T_k^{-1} \delta_k\rVert^2 \le 1\Big\}.

With :math:`T_k = \rho` this is SAM's ball of radius rho. Parameter groups with radii of their own
have :math:`T_k = \rho_k`, so a group with :math:`\rho_k = 0` neither moves nor counts in the norm.
ASAM has :math:`T_k = \rho_k\,(|w_k| + \eta)`. Chapter: "The perturbation".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

Tensors = Sequence[Tensor | None]
Radii = Sequence[float | Tensor]


def radii(weights: Sequence[Tensor], rho: Sequence[float], eta: float | None = None) -> Radii:
    r""":math:`T_k = \rho_k`, or with `eta` ASAM's :math:`\rho_k\,(|w_k| + \eta)`.

    Kwon et al. (2021), section 3.
    """
    if eta is None:
        return list(rho)
    return [r * (w.detach().abs() + eta) for w, r in zip(weights, rho, strict=True)]


def norm(tensors: Tensors) -> Tensor:
    """||t||_2 over all tensors together, sparse ones included; 0 if there are none."""
    some = [t.coalesce().values() if t.is_sparse else t for t in tensors if t is not None]
    return get_total_norm(some) if some else torch.zeros(())


def times(tensors: Tensors, factors: Radii | float | Tensor) -> list[Tensor | None]:
    """Each tensor times its own factor (a number or a tensor), or all times one factor."""
    if isinstance(factors, float | Tensor):
        dense = [t for t in tensors if t is not None and not t.is_sparse]
        if len(dense) == len(tensors):
            return list(torch._foreach_mul(dense, factors))
        factors = [factors] * len(tensors)
    return [None if t is None else _times(t, f) for t, f in zip(tensors, factors, strict=True)]


def _times(t: Tensor, factor: float | Tensor) -> Tensor:
    if t.is_sparse and isinstance(factor, Tensor) and factor.dim() > 0:
        t = t.coalesce()
        return t * factor.sparse_mask(t)
    return t * factor


def one(radii: Radii) -> bool:
    """Whether all radii are the same number, so that one factor serves all parameters."""
    return all(isinstance(r, float | int) and r == radii[0] for r in radii)


def sam(grads: Tensors, radii: Radii) -> list[Tensor | None]:
    r"""The maximizer of <g, delta> over the ellipsoid: delta = T^2 g / ||T g||.

    With one radius, rho g / ||g|| (Foret et al. 2021, equation 2); with ASAM's radii,
    rho T_w^2 g / ||T_w g|| (Kwon et al. 2021, equation 9). Where the gradient is 0, so is delta;
    where its norm is inf or nan, all of delta is nan.

    >>> sam([torch.tensor([3.0, 4.0]), None], [0.5, 0.5])
    [tensor([0.3000, 0.4000]), None]
    """
    if one(radii):
        return times(grads, sam_scale(grads, radii))
    scaled = times(grads, radii)
    return times(times(scaled, radii), _inverse(norm(scaled)))


def sam_scale(grads: Tensors, radii: Radii) -> Tensor:
    """rho / ||g||: what makes SAM's move of a gradient, where all radii are the same number."""
    return float(radii[0]) * _inverse(norm(grads))


def unnormalized(grads: Tensors, radii: Radii, rho: Sequence[float]) -> list[Tensor | None]:
    """delta = rho g, the SAM of the paper's theory; under ASAM's radii, rho T_w^2 g."""
    if one(radii):
        return times(grads, float(radii[0]))
    per_rho = [T * (T / r if r else 0.0) for T, r in zip(radii, rho, strict=True)]
    return times(grads, per_rho)


def gaussian(
    weights: Sequence[Tensor], radii: Radii, generator: torch.Generator | None = None
) -> list[Tensor | None]:
    """delta = T z, z ~ N(0, I): the perturbation of the PAC-Bayes bound; ||z|| is about sqrt(d)."""
    return times([_normal(w, generator) for w in weights], radii)


def sphere(
    weights: Sequence[Tensor], radii: Radii, generator: torch.Generator | None = None
) -> list[Tensor | None]:
    """delta = T z / ||z||, uniform on the sphere of SAM's radius: random, but as long as SAM's."""
    z: list[Tensor | None] = [_normal(w, generator) for w in weights]
    return times(times(z, radii), _inverse(norm(z)))


def _normal(w: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(w.shape, dtype=w.dtype, device=w.device, generator=generator)


def project(deltas: Tensors, radii: Radii) -> list[Tensor | None]:
    """The nearest multiple of delta in the ellipsoid: delta / max(1, ||T^{-1} delta||)."""
    inverse = [1 / T if isinstance(T, Tensor) else (1 / T if T else 0.0) for T in radii]
    return times(deltas, _inverse(norm(times(deltas, inverse)).clamp(min=1.0)))


def ascend(deltas: Tensors, move: Tensors, radii: Radii) -> list[Tensor | None]:
    """One step of projected ascent: delta <- project(delta + move)."""
    both = [
        d if s is None else (s if d is None else d + s) for d, s in zip(deltas, move, strict=True)
    ]
    return project(both, radii)


def step_size_only(grads: Tensors, sam_grads: Tensors) -> list[Tensor | None]:
    """The plain gradient with the length of SAM's: g ||g_sam|| / ||g||."""
    return times(grads, norm(sam_grads) * _inverse(norm(grads)))


def _inverse(x: Tensor) -> Tensor:
    """1 / x; 0 where x = 0; nan where x is inf or nan, so that no move hides an overflow."""
    inverse = torch.where(x > 0, 1 / x, torch.zeros_like(x))
    return inverse + (x - x)
