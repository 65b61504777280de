from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import minimize

from samkit.theory.objectives import quadratic_maximum, variance_factor


def value(g, H, delta):
    return g @ delta + 0.5 * delta @ H @ delta


@pytest.mark.parametrize("rho", [0.05, 1.0, 20.0])
def test_against_a_general_optimizer_from_many_starts(rho):
    rng = np.random.default_rng(0)
    for _ in range(5):
        g, A = rng.normal(size=3), rng.normal(size=(3, 3))
        H = A + A.T
        found, delta = quadratic_maximum(g, H, rho)
        assert np.linalg.norm(delta) <= rho * (1 + 1e-9)
        assert value(g, H, delta) == pytest.approx(found, rel=1e-12)
        ball = {"type": "ineq", "fun": lambda d, rho=rho: rho**2 - d @ d}
        peaks = [
            -minimize(lambda d, g=g, H=H: -value(g, H, d), start, constraints=ball, tol=1e-14).fun
            for start in rho * rng.normal(size=(10, 3)) / 3
        ]
        assert found == pytest.approx(max(peaks), rel=1e-4)


def test_nothing_in_the_ball_is_higher_in_many_dimensions():
    rng = np.random.default_rng(1)
    for _ in range(20):
        g, A = rng.normal(size=12), rng.normal(size=(12, 12))
        H, rho = A + A.T, np.exp(rng.uniform(-3, 3))
        found, delta = quadratic_maximum(g, H, rho)
        near = delta + 0.1 * rho * rng.normal(size=(1000, 12))
        near *= np.minimum(1, rho / np.linalg.norm(near, axis=1))[:, None]
        assert max(value(g, H, d) for d in near) <= found + 1e-9 * abs(found)


def test_by_hand():
    one = np.array([1.0, 0.0])
    down = -np.eye(2)
    assert quadratic_maximum(one, down, 3.0)[0] == pytest.approx(0.5)  # inside, at delta = g
    assert quadratic_maximum(one, down, 0.5)[0] == pytest.approx(0.5 - 0.125)
    assert quadratic_maximum(one, np.zeros((2, 2)), 2.0)[0] == pytest.approx(2.0)
    assert quadratic_maximum(0 * one, np.diag([1.0, 3.0]), 2.0)[0] == pytest.approx(6.0)
    assert quadratic_maximum(0 * one, down, 1.0)[0] == 0.0


def test_no_gradient_along_the_top_eigenvector():
    """The hard case: g = (1, 0), H = diag(0, 2), rho = 1: delta = (1/2, +-sqrt(3)/2)."""
    found, delta = quadratic_maximum(np.array([1.0, 0.0]), np.diag([0.0, 2.0]), 1.0)
    assert np.abs(delta) == pytest.approx([0.5, np.sqrt(0.75)])
    assert found == pytest.approx(0.5 + 0.75)


@pytest.mark.parametrize("part", [1e-9, 1e-6, 1e-3])
def test_hardly_any_gradient_along_the_top_eigenvector(part):
    """g = (part, 1e-3), H = diag(1, -1), rho = 1, against a fine grid on the sphere."""
    g, H = np.array([part, 1e-3]), np.diag([1.0, -1.0])
    turn = np.linspace(-1e-3, 2e-3, 300_001)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    found, delta = quadratic_maximum(g, H, 1.0)
    assert np.linalg.norm(delta) == pytest.approx(1.0, abs=1e-13)
    assert found == pytest.approx((circle @ g + 0.5 * circle**2 @ np.diag(H)).max(), abs=1e-14)


def test_a_ball_without_a_radius():
    with pytest.raises(ValueError, match="above 0"):
        quadratic_maximum(np.ones(2), np.eye(2), 0.0)


@pytest.mark.parametrize("m", range(1, 7))
def test_the_law_in_m_is_the_variance_of_the_means_of_all_groups(m):
    z = np.random.default_rng(0).normal(size=(6, 3))
    means = np.array([z[list(group)].mean(0) for group in combinations(range(6), m)])
    variance = ((means - z.mean(0)) ** 2).sum(1).mean()
    whole = ((z - z.mean(0)) ** 2).sum(1).mean()
    assert variance == pytest.approx(variance_factor(6, m) * whole, abs=1e-14)


def test_the_law_in_m_wants_the_size_of_a_group():
    assert variance_factor(1, 1) == 0
    for m in (0, 9):
        with pytest.raises(ValueError, match="group SIZE, from 1 to 8"):
            variance_factor(8, m)
