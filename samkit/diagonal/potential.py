"""The hyperbolic entropy: what the gradient flow of a diagonal network minimizes."""

from __future__ import annotations

import numpy as np


def hyperbolic_entropy(beta: np.ndarray, alpha: float | np.ndarray) -> np.ndarray:
    r"""The potential :math:`\phi_\alpha(\beta)`, summed over the last axis.

    .. math::

        \phi_\alpha(\beta) = \tfrac12 \sum_i \Big[\beta_i \operatorname{arcsinh}
        \frac{\beta_i}{\alpha_i^2} - \sqrt{\beta_i^2 + \alpha_i^4} + \alpha_i^2\Big]

    It is convex, zero at zero, close to a multiple of the l1 norm for small alpha and of the
    squared l2 norm for large alpha. Woodworth et al. (2020), in the normalization of
    :func:`hyperbolic_entropy_grad`. alpha is a positive scalar or broadcastable to beta.
    """
    beta, square = np.asarray(beta, dtype=float), _squared(alpha)
    # hypot(beta, square) - square, written so that nothing cancels where beta is small
    excess = beta**2 / (np.hypot(beta, square) + square)
    return 0.5 * np.sum(beta * np.arcsinh(beta / square) - excess, axis=-1)


def hyperbolic_entropy_grad(beta: np.ndarray, alpha: float | np.ndarray) -> np.ndarray:
    r""":math:`\nabla\phi_\alpha(\beta)_i = \tfrac12\operatorname{arcsinh}(\beta_i/\alpha_i^2)`."""
    return 0.5 * np.arcsinh(np.asarray(beta, dtype=float) / _squared(alpha))


def _squared(alpha):
    alpha = np.asarray(alpha, dtype=float)
    if not (np.isfinite(alpha).all() and (alpha > 0).all()):
        raise ValueError(f"alpha={alpha}: pass positive, finite numbers")
    return alpha**2
