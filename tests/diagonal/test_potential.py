import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import null_space
from scipy.optimize import linprog, minimize

from samkit.diagonal import (
    SparseRegression,
    hyperbolic_entropy,
    hyperbolic_entropy_grad,
    least_entropy,
)

BETA = np.array([-2.0, -0.3, 0.0, 1e-4, 0.7])


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 20.0])
def test_the_potential_is_the_integral_of_its_gradient(alpha):
    integral = sum(
        quad(lambda b: float(hyperbolic_entropy_grad(b, alpha)), 0, b, epsabs=1e-14, limit=500)[0]
        for b in BETA
    )
    assert hyperbolic_entropy(BETA, alpha) == pytest.approx(integral, rel=1e-8)


def test_the_gradient_is_the_one_of_the_theorem():
    alpha = np.linspace(0.1, 0.5, len(BETA))
    np.testing.assert_allclose(alpha**2 * np.sinh(2 * hyperbolic_entropy_grad(BETA, alpha)), BETA)


def test_large_alpha_is_l2_and_small_alpha_is_l1():
    other = np.array([0.1, -0.2, 3.0, 0.5, -1.0])
    l2 = np.sum(BETA**2) / np.sum(other**2)
    l1 = np.abs(BETA).sum() / np.abs(other).sum()
    large = hyperbolic_entropy(BETA, 1e3) / hyperbolic_entropy(other, 1e3)
    tiny = hyperbolic_entropy(BETA, 1e-100) / hyperbolic_entropy(other, 1e-100)
    assert large == pytest.approx(l2, rel=1e-9)
    assert tiny == pytest.approx(l1, rel=1e-2)  # the approach is logarithmic


def test_nothing_cancels_where_beta_is_small():
    assert hyperbolic_entropy(np.array([1e-9]), 1.0) == pytest.approx(1e-18 / 4, rel=1e-12)


def test_it_sums_over_the_last_axis_only():
    assert hyperbolic_entropy(np.ones((2, 3)), 1.0).shape == (2,)


@pytest.mark.parametrize("alpha", [0.0, -1.0, np.nan, [0.1, 0.0]])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ValueError, match="pass positive, finite numbers"):
        hyperbolic_entropy(np.ones(2), alpha)


class TestLeastEntropy:
    @pytest.fixture(scope="class")
    def problem(self):
        return SparseRegression.sample(n=6, d=10, n_test=1)

    @pytest.mark.parametrize("alpha", [0.05, 0.5, np.linspace(0.1, 2.0, 10)])
    def test_against_a_search_in_the_null_space(self, problem, alpha):
        """The primal problem, by a general-purpose minimizer."""
        start, directions = np.linalg.pinv(problem.X) @ problem.y, null_space(problem.X)
        found = minimize(
            lambda z: hyperbolic_entropy(start + directions @ z, alpha),
            np.zeros(directions.shape[1]),
            jac=lambda z: directions.T @ hyperbolic_entropy_grad(start + directions @ z, alpha),
            method="BFGS",
            options={"gtol": 1e-10},
        )
        beta = least_entropy(problem.X, problem.y, alpha)
        np.testing.assert_allclose(beta, start + directions @ found.x, atol=1e-7)

    @pytest.mark.parametrize("alpha", [1e-10, 1e-3, 1.0, 1e3])
    def test_feasible_and_kkt_to_rounding(self, alpha):
        problem = SparseRegression.sample()
        beta = least_entropy(problem.X, problem.y, alpha)
        np.testing.assert_allclose(problem.X @ beta, problem.y, atol=1e-11)
        gradient = hyperbolic_entropy_grad(beta, alpha)
        assert np.abs(null_space(problem.X).T @ gradient).max() < 1e-12

    def test_the_two_ends(self):
        problem = SparseRegression.sample()
        X, y, d = problem.X, problem.y, problem.d
        np.testing.assert_allclose(least_entropy(X, y, 1e4), np.linalg.pinv(X) @ y, atol=1e-12)
        program = linprog(np.ones(2 * d), A_eq=np.hstack([X, -X]), b_eq=y)
        least_l1 = program.x[:d] - program.x[d:]
        np.testing.assert_allclose(least_entropy(X, y, 1e-8), least_l1, atol=1e-6)

    def test_equations_that_repeat_each_other(self, problem):
        X, y = np.vstack([problem.X, problem.X[:2]]), np.append(problem.y, problem.y[:2])
        once = least_entropy(problem.X, problem.y, 0.3)
        np.testing.assert_allclose(least_entropy(X, y, 0.3), once, rtol=1e-9)

    def test_zero_targets(self, problem):
        assert (least_entropy(problem.X, np.zeros(problem.n), 0.3) == 0).all()

    def test_equations_without_a_solution(self, problem):
        X, y = np.vstack([problem.X, problem.X[:1]]), np.append(problem.y, problem.y[0] + 1)
        with pytest.raises(ValueError, match="no beta solves X beta = y"):
            least_entropy(X, y, 0.3)
        with pytest.raises(ValueError, match="no beta solves"):
            least_entropy(problem.X, np.full(problem.n, np.nan), 0.3)
