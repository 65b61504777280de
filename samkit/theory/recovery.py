r"""From alpha to the error: how far the least-entropy solution is from a sparse one (PAC-Bayes).

Throughout, :math:`Xb = y`, S is the support of b and k its size, :math:`s_j = \alpha_j^2`, and
:math:`\beta` minimizes :math:`\phi_\alpha` over :math:`X\beta = y`. Two constants of ker X and the
signs of b decide everything, and linear programs find them:

.. math::
    \theta = \max\{-\langle\mathrm{sign}\, b_S, h_S\rangle : h\in\ker X,\ \|h_{\rm off}\|_1\le1\},
    \qquad
    \Theta = \max\{\|h_S\|_1 : h\in\ker X,\ \|h_{\rm off}\|_1\le1\}.

b is the only solution of least l1 norm if and only if :math:`\theta < 1`. Chapter: PAC-Bayes. The
power :math:`\alpha^{2(1-\theta)}` at equal alpha is known from Wind, Antun and Hansen (2023); the
vector alpha, and with it the comparison of SAM and ERM, is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog

Array = NDArray[np.float64]


@dataclass(frozen=True)
class NullSpace:
    r"""The constant :math:`\theta` of (X, b) and a direction in which it is attained.

    ``theta``; ``direction`` (d,): g in ker X with :math:`\|g_{\rm off}\|_1 = 1` and
    :math:`-\langle\mathrm{sign}\,b_S, g_S\rangle = \theta`; ``support`` (d,), bool: S.
    :math:`\gamma_k = -g_k\,\mathrm{sign}\,b_k` on S, which sums to theta, is ``weights`` (d,), and
    :math:`|g_j|` off it, which sums to one.
    """

    theta: float
    direction: Array
    support: NDArray[np.bool_]
    weights: Array

    def tilt(self, values: ArrayLike) -> Array:
        r""":math:`\langle|g_{\rm off}|, c\rangle - \langle\gamma, c_S\rangle` for c = ``values``,
        (..., d) -> (...): the rate at which :math:`\log\|\beta - b\|` falls where
        :math:`\log\alpha_j^2` falls at the rates c, in the limit of small alpha."""
        sign = np.where(self.support, -1.0, 1.0)
        return (np.asarray(values, float) * sign * self.weights).sum(-1)


def null_space(X: ArrayLike, b: ArrayLike) -> NullSpace:
    r"""The signed null-space constant :math:`\theta` and its maximizer, by one linear program.

    X (n, d), b (d,), with a support whose columns of X are independent (else the maximum is
    infinite, and a ValueError says so). Theta is 0 where no h in ker X lowers the l1 norm on S.

    >>> null_space([[1.0, 2.0, 0.0], [1.0, 0.0, 1.0]], [1.0, 3.0, 0.0]).theta
    0.5
    """
    X, b, support = _problem(X, b)
    sign = np.sign(b)
    value, h = _maximum(X, support, -sign)
    weights = np.where(support, -sign * h, np.abs(h))
    return NullSpace(value, h, support, weights)


def null_space_property(X: ArrayLike, support: ArrayLike) -> float:
    r""":math:`\Theta`, by one linear program for every pattern of signs on S, up to a global one.

    ``support`` (d,) of bool, or coefficients whose nonzero entries mark it; at most 12 of them.
    """
    X, _, on = _problem(X, np.asarray(support, float))
    if on.sum() > 12:
        raise ValueError(f"{on.sum()} coefficients give 2^{on.sum() - 1} programs: pass 12 at most")
    best = 0.0
    for rest in product((-1.0, 1.0), repeat=int(on.sum()) - 1):
        signs = np.zeros(len(on))
        signs[on] = (1.0, *rest)
        best = max(best, _maximum(X, on, signs)[0])
    return best


def l1_ratio_bound(b: ArrayLike, alpha: ArrayLike) -> float:
    r"""Without any assumption on X: :math:`\|\beta\|_1/\|b\|_1` is at most

    .. math:: 1 + \frac{\log(\sum_j s_j/\min_S s)}{\operatorname{arcsinh}(\|b\|_1/\sum_j s_j)}.

    b (d,) is any solution, alpha a scalar or (d,).
    """
    b = np.asarray(b, float)
    s = np.broadcast_to(np.square(alpha), b.shape)
    excess = np.log(s.sum() / s[b != 0].min()) / np.arcsinh(np.abs(b).sum() / s.sum())
    return float(1 + excess)


def off_support_bound(X: ArrayLike, b: ArrayLike, alpha: ArrayLike) -> float:
    r""":math:`\|\beta_{\rm off}\|_1 \le \sinh(T)\sum_{\rm off}s_j`, for every alpha, with

    .. math:: T = \max\Bigl\{-\sum_S\mathrm{sign}(b_k)\operatorname{arcsinh}\frac{|b_k|}{s_k}\,h_k :
              h\in\ker X,\ \|h_{\rm off}\|_1\le1\Bigr\},

    one linear program. alpha is a scalar or (d,).
    """
    X, b, support = _problem(X, b)
    s = np.broadcast_to(np.square(alpha), b.shape)
    T = _maximum(X, support, -np.arcsinh(b / s))[0]
    return float(np.sinh(T) * s[~support].sum())


def error_bound(b: ArrayLike, alpha: ArrayLike, Theta: float) -> float:
    r""":math:`\|\beta-b\|_1 \le \frac{1+\Theta}2\bigl(1+\frac{2\max|b|}{\min_S s}\bigr)^\Theta
    \sum_{\rm off}s_j`, for every alpha (a scalar or (d,)), Theta of :func:`null_space_property`."""
    b = np.asarray(b, float)
    s = np.broadcast_to(np.square(alpha), b.shape)
    power = (1 + 2 * np.abs(b).max() / s[b != 0].min()) ** Theta
    return float((1 + Theta) / 2 * power * s[b == 0].sum())


def leading_error(b: ArrayLike, alpha: ArrayLike, constants: NullSpace) -> Array:
    r"""What :math:`\beta - b` is to leading order as alpha goes to zero: t g, (d,), with

    .. math:: t = \prod_{\rm off}\Bigl(\frac{s_j}{2|g_j|}\Bigr)^{|g_j|}
              \prod_S\Bigl(\frac{2|b_k|}{s_k}\Bigr)^{\gamma_k}

    over the j with :math:`g_j \ne 0`. Needs 0 < theta < 1 and a single maximizer g.
    """
    b = np.asarray(b, float)
    s = np.broadcast_to(np.square(alpha), b.shape)
    g, on = np.abs(constants.direction), constants.support
    used = ~on & (g > 0)
    log_t = (g[used] * np.log(s[used] / (2 * g[used]))).sum()
    log_t += (constants.weights[on] * np.log(2 * np.abs(b[on]) / s[on])).sum()
    return np.exp(log_t) * constants.direction


def _problem(X: ArrayLike, b: ArrayLike) -> tuple[Array, Array, NDArray[np.bool_]]:
    X, b = np.atleast_2d(np.asarray(X, float)), np.asarray(b, float)
    if b.shape != X.shape[1:]:
        raise ValueError(f"b has shape {b.shape}: pass one coefficient for each column of X")
    support = b != 0
    if not support.any() or support.all():
        raise ValueError("b needs a zero and a nonzero coefficient")
    if np.linalg.matrix_rank(X[:, support]) < support.sum():
        raise ValueError("the columns of X on the support of b must be independent")
    return X, b, support


def _maximum(X: Array, support: NDArray[np.bool_], c: Array) -> tuple[float, Array]:
    """max <c_S, h_S> over h in ker X with |h_off|_1 <= 1: the value and h. h_off = p - q."""
    on, off = X[:, support], X[:, ~support]
    k, rest = on.shape[1], off.shape[1]
    cost = np.concatenate([-c[support], np.zeros(2 * rest)])
    length = np.concatenate([np.zeros(k), np.ones(2 * rest)])[None]
    found = linprog(
        cost,
        A_ub=length,
        b_ub=[1.0],
        A_eq=np.hstack([on, off, -off]),
        b_eq=np.zeros(len(X)),
        bounds=[(None, None)] * k + [(0, None)] * (2 * rest),
    )
    if found.status != 0:
        raise RuntimeError(f"the linear program was not solved: {found.message}")
    h = np.empty(len(support))
    h[support] = found.x[:k]
    h[~support] = found.x[k : k + rest] - found.x[k + rest :]
    return float(-found.fun), h
