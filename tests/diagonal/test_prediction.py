"""Each prediction against brute force that shares no formula with it."""

from itertools import combinations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from samkit.diagonal import SparseRegression, flow, hyperbolic_entropy, least_entropy
from samkit.diagonal.prediction import first_order_shrinkage, limit_derivative, residual_moments


@pytest.fixture(scope="module")
def problem():
    return SparseRegression.sample(n=6, d=9, n_test=1, seed=3)


@pytest.fixture(scope="module")
def moments(problem):
    return residual_moments(problem, init=0.5)


def test_the_moments_are_those_of_the_weights_own_flow(problem, moments):
    X, y, n, d = problem.X, problem.y, problem.n, problem.d

    def rates(_, state):
        u, v = state[:d], state[d : 2 * d]
        r = X @ (u * v) - y
        pull = X.T @ r / n
        return np.concatenate([-pull * v, -pull * u, np.outer(r, r).ravel()])

    start = np.concatenate([np.full(d, 0.5), np.zeros(d + n * n)])
    end = solve_ivp(rates, (0, 2000), start, method="LSODA", rtol=1e-11, atol=1e-13).y[:, -1]
    assert np.abs(moments - end[2 * d :].reshape(n, n)).max() < 1e-8 * np.abs(moments).max()


@pytest.mark.parametrize("init", [0.05, 0.5, 2.0])
def test_half_the_entropy_of_the_limit_is_the_integral_of_the_loss(problem, init):
    entropy = hyperbolic_entropy(flow(problem, init=init).beta, init / np.sqrt(2))
    assert np.trace(residual_moments(problem, init=init)) / problem.n == pytest.approx(
        entropy, rel=1e-9
    )


@pytest.mark.parametrize("m", [1, 2, 3, 4, 6])
def test_redrawn_groups_are_the_mean_over_all_groups(problem, moments, m):
    X = problem.X
    squares = []
    for group in map(list, combinations(range(problem.n), m)):
        within = moments[np.ix_(group, group)]
        squares.append(np.einsum("ik,ij,jk->k", X[group], within, X[group]) / m**2)
    np.testing.assert_allclose(
        first_order_shrinkage(problem, moments, m), np.mean(squares, axis=0), rtol=1e-12
    )


@pytest.mark.parametrize("m", [1, 2, 4, 6])
def test_fixed_groups_shrink_alpha_as_the_flow_of_a_small_radius_does(problem, moments, m):
    shrinkage = first_order_shrinkage(problem, moments, m, groups="fixed")
    errors = [
        np.abs(flow(problem, rho=rho, m=m, init=0.5).int_B / rho - shrinkage).max()
        for rho in (2e-3, 1e-3)
    ]
    assert errors[1] < 0.02 * shrinkage.max()
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)


def test_the_limit_moves_as_its_derivative_says(problem):
    X, y = problem.X, problem.y
    rng = np.random.default_rng(0)
    alpha, shrinkage = rng.uniform(0.2, 0.6, problem.d), rng.uniform(0, 3, problem.d)
    h = 1e-5
    ends = [least_entropy(X, y, alpha * np.exp(-rho * shrinkage)) for rho in (h, -h)]
    beta = least_entropy(X, y, alpha)
    derivative = limit_derivative(X, beta, alpha, shrinkage)
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * h), derivative, atol=1e-7)
    assert np.abs(X @ derivative).max() < 1e-12


def test_what_does_not_fit_is_said(problem, moments):
    with pytest.raises(ValueError, match="positive"):
        residual_moments(problem, init=-1.0)
    with pytest.raises(ValueError, match="redrawn"):
        first_order_shrinkage(problem, moments, 2, groups="random")
    with pytest.raises(ValueError, match="group SIZE"):
        first_order_shrinkage(problem, moments, 7)
    X = np.ones((2, 1))
    impossible = SparseRegression(X, np.array([1.0, 2.0]), X, np.ones(2), np.ones(1))
    with pytest.raises(RuntimeError, match="has X beta = y a solution"):
        residual_moments(impossible)
