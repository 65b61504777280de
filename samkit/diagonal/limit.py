"""The gradient flow of m-SAM on a diagonal network, followed to its end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp

from samkit.diagonal.problem import SparseRegression, check_group_size

INTERPOLATES = 1e-24  # training loss below which a limit counts as interpolating
HORIZON = 1e12  # time after which the flow is taken not to converge


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

    Stops when the training loss is below 1e-25, or where the flow blows up or comes to rest
    elsewhere: then ``interpolates`` is False. Raises ValueError for settings out of range.
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
    averaging = np.equal.outer(np.arange(group[-1] + 1), group).astype(float)
    averaging /= averaging.sum(axis=1, keepdims=True)

    def weights(state):
        A, B = state[:d], state[d : 2 * d]
        return a_0 * np.exp(-A - B), a_0 * np.exp(A - B)

    def residual(state):
        plus, minus = weights(state)
        return X @ ((plus**2 - minus**2) / 4) - y

    def rates(_, state):
        plus, minus = weights(state)
        beta, spread = (plus**2 - minus**2) / 4, (plus**2 + minus**2) / 2
        r = X @ beta - y
        ascent = rho * (averaging @ (r[:, None] * X))  # rho g_G, one row a group
        beta_G = beta * (1 + ascent**2) + ascent * spread
        pull = (np.sum(X * beta_G[group], axis=1) - y)[:, None] * X / n  # r'_i x_i / n
        return np.concatenate(
            [pull.sum(axis=0), (pull * ascent[group]).sum(axis=0), [r @ r / (2 * n)]]
        )

    def converged(_, state):
        r = residual(state)
        return np.log10(r @ r / (2 * n) + 1e-300) - np.log10(INTERPOLATES / 10)

    def blown_up(_, state):
        return 300.0 - np.abs(state[: 2 * d]).max()

    converged.terminal = blown_up.terminal = True
    with np.errstate(all="ignore"):
        path = solve_ivp(
            rates, (0.0, HORIZON), np.zeros(2 * d + 1), method="LSODA", rtol=1e-10, atol=1e-12,
            events=(converged, blown_up),
        )  # fmt: skip
        state = path.y[:, -1]
        plus, minus = weights(state)
        beta = (plus**2 - minus**2) / 4
        train_loss = np.square(X @ beta - y).mean() / 2
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
        time=float(path.t[-1]),
        interpolates=bool(train_loss < INTERPOLATES),
    )
