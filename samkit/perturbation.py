r"""Where the gradient is taken: one value, :class:`Perturbation`, and the rules that it is made of.

A step of the SAM family descends along the gradient at w + delta. With g the gradient that gives
delta its direction, and T = rho, or ASAM's elementwise :math:`\rho\,(|w| + \eta)`:

.. math::

    \delta = \frac{T^2 g}{\lVert T g\rVert} \quad\text{(normalized)}, \qquad
    \delta = \frac{T^2 g}{\rho} \quad\text{(unnormalized)}, \qquad
    \lVert T^{-1}\delta\rVert \le 1 \quad\text{(the ball)}.

The rules are written twice. For one vector of weights, or a stack of them along the last dimension,
they read like the formulas (:func:`unit`, :func:`ball`, :meth:`Perturbation.delta`). For lists of
tensors, one entry per parameter with `None` for one without a gradient, which does not move, they
are fast (:func:`sam`, :func:`unnormalized`, :func:`project`, ...): there parameter k has a radius
T_k of its own, a number or a tensor, and a parameter with T_k = 0 neither moves nor counts in the
norm. Chapter: "The perturbation".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SOURCES = ("own", "previous", "independent", "random")
#: ASAM's eta
ETA = 0.01

Tensors = Sequence[Tensor | None]
Radii = Sequence[float | Tensor]


@dataclass(frozen=True)
class Perturbation:
    r"""How far, and in whose direction, the weights are moved before the gradient is taken.

    m is the SIZE of the group of examples that shares a perturbation; None is the whole batch, so
    SAM is m-SAM with m = b. ``label`` names it: rho = 0 is "ERM", every group's own gradient gives
    "16-SAM" or, over the whole batch, "SAM", another batch's "n-SAM", none "random".

    >>> [Perturbation(0.1, m=16).label, Perturbation(0.1, source="random").label]
    ['16-SAM', 'random']

    Args:
        rho: the radius, in the units of the weights, finite and at least 0.
        m: the size of a group, for the source "own".
        source: whose gradient g gives the direction. "own": the group's, at w. "independent": that
            of another batch, drawn on its own, which stands for the gradient of all n examples.
            "previous", as in the authors' code: that of the batch before. "random": nobody's.
            delta = rho z / ||z|| with z ~ N(0, 1), uniform on the sphere; unnormalized
            :math:`\rho z / \sqrt K` in K weights, so N(0, rho^2 / K) each, whose root-mean-square
            length is rho.
        normalize: whether delta has the length rho, or rho times the gradient's.
        steps: of projected ascent, each by the rule of one step and then onto the ball.
        adaptive: ASAM's elementwise radii rho (``|w|`` + 0.01) (Kwon et al. 2021).
        project: an unnormalized delta is taken back onto the ball, as in the authors' code.
        share_of_batch: g is the share ``|G| / b`` of the batch's gradient, as in the authors'
            code, so that an unnormalized delta is b / m times smaller.

    Raises ValueError for what does not go together. Source: Sections 2 and 3 of the paper (m and n:
    Foret et al. 2021, section 4.1); the last two arguments: its code.
    """

    rho: float = 0.0
    m: int | None = None
    source: str = "own"
    normalize: bool = True
    steps: int = 1
    adaptive: bool = False
    project: bool = False
    share_of_batch: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.rho < math.inf:
            raise ValueError(f"rho={self.rho!r}: pass a finite radius, 0 or larger")
        if self.source not in SOURCES:
            raise ValueError(f"source={self.source!r}: pass one of {', '.join(SOURCES)}")
        for name, value in (("m", self.m), ("steps", self.steps)):
            optional = name == "m" and value is None
            if not (optional or (isinstance(value, int | np.integer) and value >= 1)):
                raise ValueError(f"{name}={value!r}: pass a whole number, 1 or larger")
        if self.m is not None and self.source != "own":
            raise ValueError(f"m={self.m}: only the group's own gradient has groups; leave m out")
        if self.source == "random" and (self.steps > 1 or self.adaptive):
            raise ValueError("a random direction is no ascent: leave out steps and adaptive")
        if self.project and (self.normalize or self.source == "random"):
            raise ValueError("project is for unnormalized ascent: a normalized delta is as long")
        if self.share_of_batch and (self.normalize or self.m is None):
            raise ValueError("share_of_batch is for unnormalized ascent over groups of m")

    @property
    def label(self) -> str:
        """Such as "ERM", "random", "n-SAM", "16-SAM"; "SAM" where the group is the whole batch."""
        if self.rho == 0:
            return "ERM"
        if self.source != "own":
            return "random" if self.source == "random" else "n-SAM"
        return "SAM" if self.m is None else f"{self.m}-SAM"

    @property
    def ascents(self) -> int:
        """How many gradients it takes to find delta."""
        return self.steps if self.rho and self.source != "random" else 0

    def group_size(self, batch_size: int) -> int:
        """m, or the batch size where it is None; ValueError for a group larger than the batch."""
        if self.m is not None and self.m > batch_size:
            raise ValueError(f"m={self.m}: pass a whole number from 1 to {batch_size}")
        return batch_size if self.m is None else int(self.m)

    def delta(
        self,
        w: Tensor,
        gradient: Callable[[Tensor], Tensor] | None = None,
        *,
        noise: Tensor | None = None,
        groups: int = 1,
        rho: Tensor | None = None,
    ) -> Tensor:
        """The perturbation of w (..., K), by the formulas.

        ``gradient(v)`` is the gradient (..., K) at v of the group that gives the direction,
        ``noise`` (..., K) is N(0, 1), for a random one; ``groups`` are in the batch. ``rho``
        (..., 1) in place of the radius serves a stack of networks that differ in it.
        """
        radius = self.rho if rho is None else rho
        if noise is not None and self.source == "random":
            return radius * (unit(noise) if self.normalize else noise / w.shape[-1] ** 0.5)
        assert gradient is not None
        T = w.abs() + ETA if self.adaptive else 1.0  # in units of the radius
        z = torch.zeros_like(w)  # delta = rho T z
        for _ in range(self.steps):
            g = T * gradient(w + radius * T * z)
            z = z + (unit(g) if self.normalize else g / (groups if self.share_of_batch else 1))
            if self.project or self.steps > 1:
                z = ball(z)
        return radius * T * z

    def factor(
        self,
        norm: Tensor,
        unit: Tensor | float = 1.0,
        *,
        groups: int = 1,
        rho: Tensor | None = None,
    ) -> Tensor:
        """One step as a multiple of the gradient: delta = factor g / unit, of norm = ||g / unit||.

        ``norm`` has an entry for each group; a unit that is about as large as the group's g keeps
        squares from overflow and underflow.
        """
        radius = self.rho if rho is None else rho
        if self.normalize:
            return radius * inverse(norm)
        share = groups if self.share_of_batch else 1
        unit = torch.as_tensor(unit, dtype=norm.dtype, device=norm.device)
        if self.project:
            return radius * inverse(torch.maximum(norm, share / unit))
        return radius * unit / share


def unit(x: Tensor) -> Tensor:
    """x / ||x|| for each vector (..., K); 0 where x = 0, nan where an entry is inf or nan.

    x is divided by its largest entry first, since squares overflow and underflow.
    """
    largest = x.abs().amax(-1, keepdim=True)
    x = x / torch.where(largest > 0, largest, 1)
    return x * inverse(x.norm(dim=-1, keepdim=True))


def ball(x: Tensor, radius: float = 1.0) -> Tensor:
    """The nearest point to each vector (..., K) in the ball of that radius around 0."""
    largest = x.abs().amax(-1, keepdim=True).clamp(min=1.0)
    outside = (x / largest).norm(dim=-1, keepdim=True) * largest > radius
    return torch.where(outside, radius * unit(x), x)


def inverse(x: Tensor) -> Tensor:
    """1 / x; 0 where x = 0; nan where x is inf or nan, so that no move hides an overflow.

    At most the largest number, which is less than 1 / x below all normal numbers.
    """
    inverted = (1 / x).clamp(max=torch.finfo(x.dtype).max)
    return torch.where(x > 0, inverted, torch.zeros_like(x)) + (x - x)


# The same for lists of tensors, one entry per parameter


def radii(weights: Sequence[Tensor], rho: Sequence[float], eta: float | None = None) -> Radii:
    r""":math:`T_k = \rho_k`, or with `eta` ASAM's :math:`\rho_k\,(|w_k| + \eta)`.

    Kwon et al. (2021), section 3.
    """
    if eta is None:
        return list(rho)
    return [r * (w.detach().abs() + eta) for w, r in zip(weights, rho, strict=True)]


def norm(tensors: Tensors) -> Tensor:
    """||t||_2 over all tensors together, sparse ones included; 0 if there are none.

    In float32 or more. Its squares neither overflow nor underflow: they are summed in float64, or
    of numbers divided by the largest; on a CPU only where the plain sum shows the need.
    """
    some = [t.coalesce().values() if t.is_sparse else t for t in tensors if t is not None]
    some = [t for t in some if t.numel()]
    if not some:
        return torch.zeros(())
    dtype = torch.float32
    for t in some:
        dtype = torch.promote_types(dtype, t.dtype)
    if all(t.is_cpu for t in some):
        plain = _norm(some, dtype)
        limits = torch.finfo(dtype)
        if (limits.tiny / limits.eps) ** 0.5 < float(plain) < math.inf:
            return plain
    elif dtype == torch.float32 and all(t.is_cuda for t in some):  # pragma: no cover, needs a GPU
        return _norm(some, torch.float64).to(dtype)
    largest = torch.stack([t.abs().max().to(some[0].device, dtype) for t in some]).max()
    largest = torch.where(largest > 0, largest, 1)
    divided = [t.to(dtype) / largest.to(t.device) for t in some]
    return largest * _norm(divided, dtype)


def _norm(tensors: list[Tensor], dtype: torch.dtype) -> Tensor:
    """By the plain sum of squares in that type."""
    norms = torch._foreach_norm(tensors, 2, dtype)
    return torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]))


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
    where it is inf or nan in an entry, all of delta is nan.

    >>> sam([torch.tensor([3.0, 4.0]), None], [0.5, 0.5])
    [tensor([0.3000, 0.4000]), None]
    """
    if one(radii):
        return times(grads, sam_scale(grads, radii))
    scaled = times(grads, radii)
    return times(times(scaled, inverse(norm(scaled))), radii)


def sam_scale(grads: Tensors, radii: Radii) -> Tensor:
    """rho / ||g||: what makes SAM's move of a gradient, where all radii are the same number."""
    scale = float(radii[0]) * inverse(norm(grads))
    return scale.clamp(max=torch.finfo(scale.dtype).max)


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
    return times(times(z, radii), inverse(norm(z)))


def _normal(w: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(w.shape, dtype=w.dtype, device=w.device, generator=generator)


def project(deltas: Tensors, radii: Radii) -> list[Tensor | None]:
    """The nearest multiple of delta in the ellipsoid: delta / max(1, ||T^{-1} delta||)."""
    inverses = [inverse(T) if isinstance(T, Tensor) else (1 / T if T else 0.0) for T in radii]
    return times(deltas, inverse(norm(times(deltas, inverses)).clamp(min=1.0)))


def ascend(deltas: Tensors, move: Tensors, radii: Radii) -> list[Tensor | None]:
    """One step of projected ascent: delta <- project(delta + move)."""
    both = [
        d if s is None else (s if d is None else d + s) for d, s in zip(deltas, move, strict=True)
    ]
    return project(both, radii)


def step_size_only(grads: Tensors, sam_grads: Tensors) -> list[Tensor | None]:
    """The plain gradient with the length of SAM's: g ||g_sam|| / ||g||."""
    return times(grads, norm(sam_grads) * inverse(norm(grads)))


def inner(a: Tensors, b: Tensors) -> Tensor:
    """<a, b> over all tensors together; None counts as 0."""
    both = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    sums = [(x.to_dense() * y.to_dense()).sum() for x, y in both]
    return torch.stack([s.to(sums[0].device) for s in sums]).sum() if sums else torch.zeros(())


def added(a: Tensors, b: Tensors, factor: float | Tensor) -> list[Tensor | None]:
    """a + factor b; None counts as 0 in b, and stays None in a."""
    pairs = zip(a, times(b, factor), strict=True)
    return [x if x is None or y is None else x + y for x, y in pairs]


def orthogonal(a: Tensors, b: Tensors) -> list[Tensor | None]:
    """What of a is orthogonal to b: a - <a, u> u with u = b / ||b||; all of a where b = 0."""
    u = times(b, inverse(norm(b)))
    return added(a, u, -inner(a, u))


def gsam(grads: Tensors, sam_grads: Tensors, alpha: float) -> list[Tensor | None]:
    r"""GSAM: :math:`g_s - \alpha g_\perp`, with g_perp what of g is orthogonal to SAM's g_s.

    It descends on the perturbed loss, and on its gap to the loss without changing the former to
    first order. Source: Zhuang et al. 2022, "Surrogate gap minimization improves sharpness-aware
    training", algorithm 1; their schedule of rho is a schedule of the group's "rho".

    >>> gsam([torch.tensor([1.0, 1.0])], [torch.tensor([2.0, 0.0])], alpha=0.5)
    [tensor([ 2.0000, -0.5000])]
    """
    return added(sam_grads, orthogonal(grads, sam_grads), -alpha)


def wsam(grads: Tensors, sam_grads: Tensors, gamma: float) -> list[Tensor | None]:
    r"""WSAM: the gradient of :math:`L + \frac\gamma{1 - \gamma}(L_{SAM} - L)`; SAM if gamma = 1/2.

    Source: Yue et al. 2023, "Sharpness-aware minimization revisited: weighted sharpness as a
    regularization term", equation 4, with the momentum and the decay of the base optimizer for both
    terms. Their algorithm keeps the second term out of the base optimizer, and adds it to the
    weights times the learning rate: the same where the base is SGD without momentum.

    >>> wsam([torch.tensor([1.0])], [torch.tensor([2.0])], gamma=0.75)
    [tensor([4.])]
    """
    weight = gamma / (1 - gamma)
    return added(times(sam_grads, weight), grads, 1 - weight)


def looksam(grads: Tensors, part: Tensors, alpha: float) -> list[Tensor | None]:
    r"""LookSAM between two SAM steps: :math:`g + \alpha \lVert g\rVert\, g_v / \lVert g_v\rVert`.

    g_v is what of the last SAM gradient was orthogonal to the plain one of that step, see
    :func:`orthogonal`; it changes slowly. Source: Liu et al. 2022, "Towards efficient and scalable
    sharpness-aware minimization", algorithm 1, with the norms over all parameters together. The
    authors' repository (yong-6/LookSAM) has no code; the formula is held against what others write
    of the paper. Of their programs some take both norms for each tensor alone.

    >>> looksam([torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 2.0])], alpha=0.5)
    [tensor([3.0000, 6.5000])]
    """
    return added(grads, part, alpha * norm(grads) * inverse(norm(part)))


def friendly(
    grads: Tensors, mean: Tensors, decay: float
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    r"""Friendly SAM: the direction :math:`g - m`, with m the running mean of the gradients, and m.

    :math:`m \leftarrow \lambda m + (1 - \lambda) g` first, lambda the `decay`, from m = 0. The mean
    stands for the gradient of all examples, so the rest is the noise of the batch. Source:
    Li et al. 2024, "Friendly sharpness-aware minimization", algorithm 1, with sigma = 1 as in their
    experiments. Their code (nblt/F-SAM) takes off the mean before it has seen g. That is g - m
    divided by lambda, so where the move is normalized it is the same. But there the first gradient
    is the first mean, and after t further steps the means differ by :math:`\lambda^{t+1}` times it.

    >>> friendly([torch.tensor([1.0, 3.0])], [torch.tensor([1.0, 1.0])], decay=0.5)
    ([tensor([0., 1.])], [tensor([1., 2.])])
    """
    mean = added(times(_dense(grads), 1 - decay), mean, decay)
    return added(_dense(grads), mean, -1.0), mean


def _dense(tensors: Tensors) -> list[Tensor | None]:
    return [t.to_dense() if t is not None and t.is_sparse else t for t in tensors]
