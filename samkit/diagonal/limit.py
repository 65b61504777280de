"""The gradient flow of m-SAM on a diagonal network, followed to its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import LSODA

from samkit.diagonal.problem import SparseRegression, check_group_size

INTERPOLATES = 1e-24  # training loss below which a limit counts as interpolating
HORIZON = 1e12  # time after which the flow is taken not to converge, or
MAX_STEPS = 5_000  # so many steps of the integrator; convergence takes 1,000 to 2,000


@dataclass(frozen=True)
class FlowResult:
    """The end of the flow. All arrays are (d,).

    ``u``, ``v``, ``beta``: the limit; ``int_A``, ``int_B``: the limits of the two integrals;
    ``alpha``: the effective scale, a_0 exp(-int_B) / sqrt(2) in every coordinate;
    ``int_loss``: the integral of the training loss; ``train_loss``, ``test_loss`` at the end;
    ``time``: where the integration stopped; ``interpolates``: train_loss < 1e-24.
    """

    u: np.ndarray
    v: np.ndarray
    beta: np.ndarray
    int_A: np.ndarray
    int_B: np.ndarray
    alpha: np.ndarray
    int_loss: float
    train_loss: float
    test_loss: float
    time: float
    interpolates: bool


def flow(
    problem: SparseRegression,
    *,
    rho: float = 0.0,
    m: int | None = None,
    init: float | np.ndarray = 0.1,
) -> FlowResult:
    r"""Gradient flow of unnormalized m-SAM from :math:`u = a_0,\ v = 0`, to convergence.

    With :math:`w_\pm = u \pm v`, :math:`r'_i` the residual of example i at its group's perturbed
    point and :math:`g_{G(i)}` the gradient of its group,

    .. math::

        \dot w_\pm = (\mp A - B) \odot w_\pm, \qquad A = \tfrac1n X^\top r', \qquad
        B = \tfrac\rho n \sum_i r'_i\, x_i \odot g_{G(i)},

    so :math:`w_\pm = a_0 \exp(\mp\int A - \int B)` and the state to integrate is the pair of
    integrals. ``rho``, ``m``, ``init`` (scalar or (d,), positive) as in
    :func:`samkit.diagonal.train`. Source: the paper's Section 4, and the exact statement for any
    m derived in the theory chapter.

    Stops when the training loss is below 1e-25, or where the flow blows up, comes to rest
    elsewhere or does not rest: then ``interpolates`` is False. Raises ValueError for settings
    out of range.
    """
    n, d, X, y = problem.n, problem.d, problem.X, problem.y
    m = check_group_size(m, n, "examples")
    if not np.isfinite(rho) or rho < 0:
        raise ValueError(f"rho={rho}: pass a finite number, 0 or larger")
    a_0 = np.asarray(init, dtype=float)
    if a_0.shape not in ((), (d,)) or not (np.isfinite(a_0).all() and (a_0 > 0).all()):
        raise ValueError(
            f"init={init}: pass a positive number, or one for each of the {d} features"
        )
    group = np.arange(n) // m
    share = np.equal.outer(group, group).astype(float)
    share /= share.sum(axis=1, keepdims=True)  # 1/|G| for two examples of one group, else 0

    def weights(state):
        A, B = state[:d], state[d : 2 * d]
        return a_0 * np.exp(-A - B), a_0 * np.exp(A - B)

    def perturbed(state):
        """beta, u^2 + v^2, r; the ascent rho g_G(i) (n, d) and the residual r' of each example."""
        plus, minus = weights(state)
        beta, spread = (plus**2 - minus**2) / 4, (plus**2 + minus**2) / 2
        r = X @ beta - y
        ascent = rho * (share @ (r[:, None] * X))
        return beta, spread, r, ascent, r + np.sum(X * ascent * (ascent * beta + spread), axis=1)

    def rates(_, state):
        _, _, r, ascent, r_G = perturbed(state)
        return np.concatenate([X.T @ r_G / n, r_G @ (X * ascent) / n, [r @ r / (2 * n)]])

    def jacobian(_, state):  # LSODA would find it by 2 d + 1 calls of rates
        beta, spread, r, ascent, r_G = perturbed(state)
        X_a = X * ascent
        r_G_by_beta = X + X_a * ascent
        r_G_by_beta += rho * (share * ((2 * X_a * beta + X * spread) @ X.T)) @ X
        both = np.hstack([X, X_a])
        by_beta, by_spread = both.T @ r_G_by_beta, both.T @ X_a
        by_beta[d:] += rho * (X * (share @ (r_G[:, None] * X))).T @ X
        by_beta, by_spread = np.vstack([by_beta, r @ X]) / n, np.vstack([by_spread, 0 * beta]) / n
        by_A = -spread * by_beta - 4 * beta * by_spread
        by_B = -2 * beta * by_beta - 2 * spread * by_spread
        return np.hstack([by_A, by_B, np.zeros((2 * d + 1, 1))])

    with np.errstate(all="ignore"):
        solver = LSODA(
            rates, 0.0, np.zeros(2 * d + 1), HORIZON, jac=jacobian, rtol=1e-10, atol=1e-12
        )
        train_loss = np.square(y).mean() / 2
        for _ in range(MAX_STEPS):
            converged = train_loss <= INTERPOLATES / 10
            if converged or solver.status != "running" or np.abs(solver.y[: 2 * d]).max() > 300.0:
                break
            solver.step()
            plus, minus = weights(solver.y)
            train_loss = np.square(X @ ((plus**2 - minus**2) / 4) - y).mean() / 2
        state = solver.y
        plus, minus = weights(state)
        beta = (plus**2 - minus**2) / 4
        test_loss = np.square(problem.X_test @ beta - problem.y_test).mean() / 2
    return FlowResult(
        u=(plus + minus) / 2,
        v=(plus - minus) / 2,
        beta=beta,
        int_A=state[:d],
        int_B=state[d : 2 * d],
        alpha=a_0 * np.exp(-state[d : 2 * d]) / np.sqrt(2),
        int_loss=float(state[-1]),
        train_loss=float(train_loss),
        test_loss=float(test_loss),
        time=float(solver.t),
        interpolates=bool(train_loss < INTERPOLATES),
    )
