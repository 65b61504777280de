"""The hyperbolic entropy: what the gradient flow of a diagonal network minimizes."""

from __future__ import annotations

import numpy as np
from scipy.linalg import orth
from scipy.optimize import minimize, root


def hyperbolic_entropy(beta: np.ndarray, alpha: float | np.ndarray) -> np.ndarray:
    r"""The potential :math:`\phi_\alpha(\beta)`, summed over the last axis.

    .. math::

        \phi_\alpha(\beta) = \tfrac12 \sum_i \Big[\beta_i \operatorname{arcsinh}
        \frac{\beta_i}{\alpha_i^2} - \sqrt{\beta_i^2 + \alpha_i^4} + \alpha_i^2\Big]

    It is convex, zero at zero, close to a multiple of the l1 norm for small alpha and of the
    squared l2 norm for large alpha. Woodworth et al. (2020), in the normalization of
    :func:`hyperbolic_entropy_grad`. alpha is a positive scalar or broadcastable to beta.

    Two halves cost half of one whole for large alpha, as in the squared l2 norm, and nearly as much
    as one whole for small alpha, as in the l1 norm:

    >>> for alpha in (10.0, 0.001):
    ...     print(hyperbolic_entropy([[1.0, 0.0], [0.5, 0.5]], alpha).round(4))
    [0.0025 0.0012]
    [6.7543 6.4078]
    """
    beta, square = np.asarray(beta, dtype=float), _squared(alpha)
    # hypot(beta, square) - square, written so that nothing cancels where beta is small
    excess = beta**2 / (np.hypot(beta, square) + square)
    return 0.5 * np.sum(beta * np.arcsinh(beta / square) - excess, axis=-1)


def hyperbolic_entropy_grad(beta: np.ndarray, alpha: float | np.ndarray) -> np.ndarray:
    r""":math:`\nabla\phi_\alpha(\beta)_i = \tfrac12\operatorname{arcsinh}(\beta_i/\alpha_i^2)`."""
    return 0.5 * np.arcsinh(np.asarray(beta, dtype=float) / _squared(alpha))


def least_entropy(X: np.ndarray, y: np.ndarray, alpha: float | np.ndarray) -> np.ndarray:
    r"""The minimizer of :math:`\phi_\alpha` over the solutions of :math:`X\beta = y`, (d,).

    By scipy, through the dual problem, which is smooth and without constraints: with the rows of
    Q an orthonormal basis of the row space of X, and :math:`\beta_0` any solution,

    .. math::

        \min_\nu\ \sum_k \tfrac{\alpha_k^2}{2} \cosh\big(2 (Q^\top\nu)_k\big)
        - \langle Q\beta_0, \nu\rangle, \qquad
        \beta = \alpha^2 \odot \sinh(2 Q^\top\nu),

    so that :math:`\nabla\phi_\alpha(\beta) = Q^\top\nu` lies in the row space. X (n, d), y (n,),
    alpha a positive scalar or (d,). Source: convex duality; chapter: diagonal networks.

    Raises ValueError if no beta solves the equations, RuntimeError if the solver does not reach
    them to 1e-10.

    Of the solutions of beta_1 + 2 beta_2 = 1, a small alpha chooses a sparse one, a large alpha
    the one of least l2 norm:

    >>> for alpha in (0.001, 10.0):
    ...     print(least_entropy([[1.0, 2.0]], [1.0], alpha).round(3))
    [0.  0.5]
    [0.2 0.4]
    """
    X, y = np.asarray(X, dtype=float), np.asarray(y, dtype=float)
    square = np.broadcast_to(_squared(alpha), X.shape[1:])
    some_solution = np.linalg.lstsq(X, y, rcond=None)[0]
    gap, size = np.abs(X @ some_solution - y).max(), np.abs(y).max()
    if not gap <= 1e-9 * size:
        raise ValueError(
            f"no beta solves X beta = y: least squares still misses by {gap:.1e}. Pass a y in the "
            "range of X, as any y is when the n rows of X are independent (n <= d)"
        )
    rows = orth(X.T).T
    target = rows @ some_solution

    def dual(nu):
        return np.sum(square * np.cosh(2 * nu @ rows)) / 2 - target @ nu

    def excess(nu):
        return rows @ (square * np.sinh(2 * nu @ rows)) - target

    def curvature(nu):
        return (rows * (2 * square * np.cosh(2 * nu @ rows))) @ rows.T

    with np.errstate(over="ignore", invalid="ignore"):  # trial steps that are turned down
        start = np.zeros(len(rows))
        close = {"gtol": 1e-11 * (np.linalg.norm(target) or 1)}
        found = minimize(dual, start, jac=excess, hess=curvature, method="trust-ncg", options=close)
        nu = root(excess, found.x, jac=curvature, tol=1e-15).x  # the last digits
    beta = square * np.sinh(2 * nu @ rows)
    if not np.abs(X @ beta - y).max() <= 1e-10 * size:
        raise RuntimeError(f"the dual problem was not solved: {found.message}")
    return beta


def _squared(alpha):
    alpha = np.asarray(alpha, dtype=float)
    if not (np.isfinite(alpha).all() and (alpha > 0).all()):
        raise ValueError(f"alpha={alpha}: pass positive, finite numbers")
    return alpha**2
