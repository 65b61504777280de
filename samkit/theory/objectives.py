"""What SAM maximizes, where the maximum is known exactly (chapter: what SAM minimizes)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq


def variance_factor(n: int, m: ArrayLike) -> NDArray[np.float64]:
    r"""The law in m: :math:`\frac{n-m}{(n-1)\,m}`, what is left of a variance in means of m of n.

    For a uniformly random group G of m of n >= 2 vectors with mean :math:`\bar z`,
    :math:`\mathbb E\lVert z_G-\bar z\rVert^2 = \frac{n-m}{(n-1)m}\,\frac1n\sum_i\lVert z_i-\bar
    z\rVert^2`. It is 1 at m = 1 and 0 at m = n. Raises ValueError for m outside 1 to n.

    >>> variance_factor(8, [1, 2, 4, 8]).round(2)
    array([1.  , 0.43, 0.14, 0.  ])
    """
    m = np.asarray(m)
    if (m < 1).any() or (m > n).any():
        raise ValueError(f"m={m}: pass a group SIZE, from 1 to {n}")
    return (n - m) / (max(n - 1, 1) * m)


def quadratic_maximum(
    gradient: np.ndarray, hessian: np.ndarray, rho: float
) -> tuple[float, np.ndarray]:
    r"""The maximum of :math:`\langle g, \delta\rangle + \frac12\langle\delta, H\delta\rangle` over
    :math:`\lVert\delta\rVert \le \rho`, and a maximizer.

    Inside the ball :math:`\delta = -H^{-1} g` if H is negative definite. On the sphere
    :math:`\delta = (s I - H)^{-1} g`, where s is at least 0 and at least the largest eigenvalue of
    H, and :math:`\lVert\delta\rVert = \rho` fixes it (Moré and Sorensen, 1983). Where g has no part
    along the top eigenvector no s may do; the length is then filled up along that eigenvector.

    Shapes: gradient (d,), hessian (d, d), symmetric. Raises ValueError for rho not above 0.

    >>> value, best = quadratic_maximum(np.array([1.0, 0.0]), np.diag([2.0, 1.0]), rho=0.5)
    >>> print(value, best)
    0.75 [0.5 0. ]
    """
    if not rho > 0:
        raise ValueError(f"rho={rho}: pass a radius above 0")
    values, vectors = np.linalg.eigh(hessian)
    q = vectors.T @ gradient
    gaps = max(values[-1], 0.0) - values

    def step(t: float) -> np.ndarray:  # s is t above its least value: nothing cancels
        gap = t + gaps
        return np.divide(q, gap, out=np.zeros_like(q), where=gap > 0)

    scale = 1e-12 * (np.abs(values).max() + np.linalg.norm(q) / rho)
    if values[-1] < 0 and np.linalg.norm(step(0.0)) <= rho:
        best = step(0.0)
    elif np.linalg.norm(step(scale)) < rho:
        best = np.where(gaps > scale, step(0.0), 0.0)
        best[-1] += np.sqrt(max(rho**2 - best @ best, 0.0))
    else:
        highest = scale + np.linalg.norm(q) / rho
        t = brentq(lambda t: rho / np.linalg.norm(step(t)) - 1, scale, highest, xtol=1e-15 * scale)
        best = step(t)
    return float(q @ best + 0.5 * values @ best**2), vectors @ best
