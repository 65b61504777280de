r"""What the path of gradient flow alone says about m-SAM, for every m, before SAM is run.

To first order in the radius everything that SAM changes is a function of one matrix,

.. math:: R = \int_0^\infty r\, r^\top ds \qquad (n, n),

the second moments of the residuals along the path of ERM: the group gradients are linear in r.
Chapters: diagonal networks, PAC-Bayes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.integrate import LSODA
from scipy.linalg import null_space

from samkit.diagonal.limit import HORIZON, INTERPOLATES, MAX_STEPS
from samkit.diagonal.potential import _squared
from samkit.diagonal.problem import SparseRegression, check_group_size
from samkit.theory.objectives import variance_factor

NODES, WEIGHTS = np.polynomial.legendre.leggauss(8)  # on [-1, 1], for each step


def residual_moments(problem: SparseRegression, *, init: float = 0.1) -> np.ndarray:
    r"""The matrix :math:`R = \int_0^\infty r r^\top ds` along gradient flow from u = init, v = 0.

    The flow is integrated in its dual, :math:`\dot\theta = r / n` with
    :math:`\beta = \alpha^2 \sinh(-2 X^\top \theta)`, :math:`\alpha = a_0 / \sqrt 2`, and R by
    Gauss' rule on each of the integrator's steps. Shape (n, n). Its trace is n times
    :math:`\phi_\alpha(\beta_\infty)`, which the chapter on diagonal networks proves.

    Raises ValueError if init is not a positive number, RuntimeError if the flow does not come to
    interpolate, as where X beta = y has no solution.
    """
    X, y, n = problem.X, problem.y, problem.n
    square = _squared(init / np.sqrt(2))

    def residual(theta):
        return X @ (square * np.sinh(-2 * X.T @ theta)) - y

    def rates(_, theta):
        return residual(theta) / n

    def jacobian(_, theta):
        return -(X * (2 * square * np.cosh(2 * X.T @ theta))) @ X.T / n

    solver = LSODA(rates, 0.0, np.zeros(n), HORIZON, jac=jacobian, rtol=1e-11, atol=1e-14)
    moments = np.zeros((n, n))
    for _ in range(MAX_STEPS):
        if np.square(residual(solver.y)).mean() / 2 <= INTERPOLATES / 10:
            return moments
        if solver.status != "running":
            break
        solver.step()
        half = (solver.t - solver.t_old) / 2
        at = solver.dense_output()(solver.t_old + half * (NODES + 1))
        r = np.apply_along_axis(residual, 0, at)
        moments += half * (r * WEIGHTS) @ r.T
    raise RuntimeError("gradient flow did not come to interpolate: has X beta = y a solution?")


def first_order_shrinkage(
    problem: SparseRegression, moments: np.ndarray, m: int, *, groups: str = "redrawn"
) -> np.ndarray:
    r""":math:`\Delta_m = \int \bar g^2 ds`, in :math:`\log\alpha_{\rm SAM} = \log\alpha - \rho
    \Delta_m + O(\rho^2)`, from the ``moments`` R of :func:`residual_moments`; (d,).

    ``groups="redrawn"``: groups of m of the n examples drawn anew at every time. With
    :math:`\Delta_n = \int g^2` and :math:`\Delta_1 = \int\frac1n\sum_i g_i^2`,

    .. math:: \Delta_m = \Delta_n + \frac{n-m}{(n-1)\,m}\,(\Delta_1 - \Delta_n).

    ``groups="fixed"``: m consecutive rows each, as in :func:`samkit.diagonal.flow`. Raises
    ValueError for an m out of range or another word.
    """
    X, n = problem.X, problem.n
    m = check_group_size(m, n, "examples")
    if groups == "fixed":
        group = np.arange(n) // m
        share = np.equal.outer(group, group) / np.bincount(group)[group]
        return np.einsum("ik,ij,jk->k", X, share * moments, X) / n
    if groups != "redrawn":
        raise ValueError(f'groups={groups!r}: pass "redrawn" or "fixed"')
    whole = np.einsum("ik,ij,jk->k", X, moments, X) / n**2
    single = np.diag(moments) @ X**2 / n
    return whole + variance_factor(n, m) * (single - whole)


def limit_derivative(
    X: ArrayLike, beta: ArrayLike, alpha: ArrayLike, shrinkage: ArrayLike
) -> np.ndarray:
    r"""How the limit moves with the radius: :math:`\beta'(0) = -2\,\Pi(\Delta \odot \beta)`, (d,).

    :math:`\beta(\rho)` minimizes :math:`\phi_{\alpha e^{-\rho\Delta}}` over
    :math:`X\beta = X\beta(0)`, and :math:`\Pi` is the projection on ker X that is orthogonal in
    :math:`H = \nabla^2\phi_\alpha(\beta) = \mathrm{diag}(1 / (2\sqrt{\beta^2 + \alpha^4}))`.
    ``beta``, ``shrinkage`` (d,), ``alpha`` a scalar or (d,).
    """
    X, beta = np.atleast_2d(np.asarray(X, float)), np.asarray(beta, float)
    root_H = (2 * np.hypot(beta, _squared(alpha))) ** -0.5
    basis = null_space(X / root_H)  # of X H^(-1/2): orthonormal, the same as H-orthonormal in ker X
    moved = np.asarray(shrinkage, float) * beta
    return -2 * (basis @ (basis.T @ (root_H * moved))) / root_H
