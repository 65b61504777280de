"""Null-space constants against brute force over the kernel, bounds against a convex solver."""

import numpy as np
import pytest
from scipy import linalg

from samkit.diagonal import SparseRegression, flow, least_entropy
from samkit.diagonal.prediction import limit_derivative
from samkit.theory import recovery


def random_problem(rng, n=4, d=6, k=2):
    b = np.zeros(d)
    b[:k] = rng.choice([-1, 1], k) * rng.uniform(0.5, 2, k)
    return rng.normal(size=(n, d)), b


def around_the_kernel(X, on, values):
    """The largest values(h) / |h_off|_1 over a kernel of two dimensions.

    A convex function over a polygon is largest at a corner: where a coordinate of h_off is zero.
    """
    basis = linalg.null_space(X)
    assert basis.shape[1] == 2
    corners = [basis @ linalg.null_space(basis[[j]])[:, 0] for j in np.flatnonzero(~on)]
    h = np.array([*corners, *(-corner for corner in corners)])
    return (values(h) / np.abs(h[:, ~on]).sum(1)).max()


@pytest.mark.parametrize("seed", range(5))
def test_the_constants_are_the_maxima_over_the_kernel(seed):
    X, b = random_problem(np.random.default_rng(seed))
    on = b != 0
    constants = recovery.null_space(X, b)
    signed = around_the_kernel(X, on, lambda h: -h @ np.sign(b))
    plain = around_the_kernel(X, on, lambda h: np.abs(h[:, on]).sum(1))
    assert constants.theta == pytest.approx(signed, rel=1e-9)
    assert recovery.null_space_property(X, b) == pytest.approx(plain, rel=1e-9)
    g = constants.direction
    assert np.abs(X @ g).max() < 1e-9
    assert np.abs(g[~on]).sum() == pytest.approx(1)
    assert -g @ np.sign(b) == pytest.approx(constants.theta)
    c = np.random.default_rng(seed).normal(size=6)
    by_hand = (np.abs(g) * c)[~on].sum() - (-g * np.sign(b) * c)[on].sum()
    assert constants.tilt(c) == pytest.approx(by_hand)
    assert constants.tilt(np.ones(6)) == pytest.approx(1 - constants.theta)


@pytest.mark.parametrize("seed", range(20))
def test_the_bounds_hold_for_unequal_scales(seed):
    rng = np.random.default_rng(seed)
    X, b = random_problem(rng, n=rng.integers(3, 6), d=8)
    alpha = np.exp(rng.uniform(-4, 0.5, 8))
    beta = least_entropy(X, X @ b, alpha)
    Theta = recovery.null_space_property(X, b)
    off = np.abs(beta[b == 0]).sum()
    assert off <= recovery.off_support_bound(X, b, alpha) * (1 + 1e-9)
    assert np.abs(beta - b).sum() <= recovery.error_bound(b, alpha, Theta) * (1 + 1e-9)
    assert np.abs(beta).sum() <= recovery.l1_ratio_bound(b, alpha) * np.abs(b).sum()


def test_the_bound_off_the_support_is_attained_where_one_coordinate_is_off_it():
    X, b = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.25]]), np.array([1.0, 0.6, 0.0])
    for alpha in (1e-3, 1e-1):
        beta = least_entropy(X, X @ b, alpha)
        share = np.abs(beta[2]) / recovery.off_support_bound(X, b, alpha)
        assert 0.6 < share <= 1 + 1e-9


def test_the_leading_error_is_approached_as_alpha_falls():
    problem = SparseRegression.sample(seed=1)
    b = problem.beta_star
    constants = recovery.null_space(problem.X, b)
    c = np.random.default_rng(0).uniform(0.5, 2, problem.d)
    scales = np.array([1e-2, 1e-3, 1e-4, 1e-5])
    off, ratio = [], []
    for alpha in scales:
        error = least_entropy(problem.X, problem.y, alpha * c) - b
        leading = recovery.leading_error(b, alpha * c, constants)
        off.append(np.linalg.norm(error - leading) / np.linalg.norm(error))
        ratio.append(np.linalg.norm(error) / np.linalg.norm(leading))
    assert np.abs(np.log(ratio)).max() < 0.1  # while the error itself falls 6000-fold
    np.testing.assert_allclose(off * np.log(1 / scales), 2.2, rtol=0.05)  # as 1 / log(1/alpha)


def test_the_tilt_is_the_slope_of_the_error_for_a_small_alpha():
    problem = SparseRegression.sample(seed=1)
    b, alpha = problem.beta_star, 1e-3
    constants = recovery.null_space(problem.X, b)
    beta = least_entropy(problem.X, problem.y, alpha)
    shrinkage = np.random.default_rng(0).uniform(0, 2, problem.d)
    derivative = limit_derivative(problem.X, beta, alpha, shrinkage)
    slope = (beta - b) @ derivative / ((beta - b) @ (beta - b))
    assert slope == pytest.approx(-2 * constants.tilt(shrinkage), abs=0.05)


def test_gradient_flow_can_end_at_the_truth_exactly_and_leave_it_for_a_smaller_alpha():
    X, b = np.array([[1.0, 2.0, 0.0], [1.0, 0.0, 1.0]]), np.array([1.0, 3.0, 0.0])
    problem = SparseRegression(X, X @ b, X, X @ b, b)
    assert recovery.null_space(X, b).theta == pytest.approx(0.5)
    errors = [
        np.linalg.norm(flow(problem, init=(2 * square) ** 0.5).beta - b)
        for square in (0.5**0.5, 2 / 5**0.5, 0.3, 0.1, 0.01)
    ]
    assert errors[1] < 1e-9
    assert errors[2] > 0.1 and errors[3] > 0.1


def test_what_does_not_fit_is_said():
    X, b = random_problem(np.random.default_rng(0))
    with pytest.raises(ValueError, match="one coefficient for each column"):
        recovery.null_space(X, b[:3])
    with pytest.raises(ValueError, match="a zero and a nonzero"):
        recovery.null_space(X, np.ones(6))
    with pytest.raises(ValueError, match="must be independent"):
        recovery.null_space(np.ones((3, 6)), b)
    with pytest.raises(ValueError, match="12 at most"):
        recovery.null_space_property(np.eye(20, 30), np.arange(30) < 13)
