import numpy as np
import pytest
from scipy.integrate import solve_ivp

import samkit.diagonal.limit as limit_module
from samkit.diagonal import (
    SparseRegression,
    flow,
    hyperbolic_entropy,
    hyperbolic_entropy_grad,
    sam_step,
    train,
)

GROUP_SIZES = [1, 2, 4, 5, 10, 20]


@pytest.fixture(scope="module")
def problem():
    return SparseRegression.sample()


def off_row_space(problem, vector):
    """The part of a vector outside the row space of X."""
    _, _, rows = np.linalg.svd(problem.X, full_matrices=False)
    return vector - rows.T @ (rows @ vector)


@pytest.mark.parametrize("rho", [0.01, 0.1])
@pytest.mark.parametrize("m", GROUP_SIZES)
def test_the_limit_interpolates_and_is_optimal_for_alpha_sam(problem, m, rho):
    limit = flow(problem, rho=rho, m=m)
    assert limit.interpolates
    assert np.mean((problem.X @ limit.beta - problem.y) ** 2) / 2 < 1e-24
    # KKT: the potential's gradient lies in the row space of X
    gradient = hyperbolic_entropy_grad(limit.beta, limit.alpha)
    assert np.abs(off_row_space(problem, gradient)).max() < 1e-8


@pytest.mark.parametrize(("m", "rho"), [(None, 0.0), (20, 0.1), (3, 0.1), (1, 0.1)])
def test_against_an_independent_integration(problem, m, rho):
    """The flow in u and v themselves, with the descent direction of the specification."""
    d = problem.d

    def rates(_, w):
        new = sam_step(problem.X, problem.y, w[:d], w[d:], rho=rho, m=m or 20, step_size=1.0)
        return np.concatenate(new) - w

    start = np.concatenate([np.full(d, 0.1), np.zeros(d)])
    path = solve_ivp(rates, (0, 20_000), start, method="BDF", rtol=1e-9, atol=1e-11)
    u, v = path.y[:d, -1], path.y[d:, -1]
    limit = flow(problem, rho=rho, m=m)
    np.testing.assert_allclose(limit.u, u, atol=1e-6)
    np.testing.assert_allclose(limit.v, v, atol=1e-6)
    # the identity u^2 - v^2 = 2 alpha_SAM^2, with u, v from here and alpha from int B
    np.testing.assert_allclose(u**2 - v**2, 2 * limit.alpha**2, atol=1e-7)


def test_small_steps_end_where_the_flow_ends(problem):
    distances = []
    limit = flow(problem, rho=0.1, m=1)
    for step_size in (0.1, 0.05):
        end = train(problem, rho=0.1, m=1, step_size=step_size, steps=int(2000 / step_size))
        distances.append(np.abs(end.beta - limit.beta).max())
    assert 1.7 < distances[0] / distances[1] < 2.4, "the distance is of first order in the step"


def test_the_limit_has_the_least_potential_of_all_solutions(problem):
    limit = flow(problem, rho=0.1, m=4)
    least = hyperbolic_entropy(limit.beta, limit.alpha)
    rng = np.random.default_rng(0)
    for _ in range(50):
        other = limit.beta + off_row_space(problem, rng.normal(size=problem.d) * 0.1)
        assert hyperbolic_entropy(other, limit.alpha) > least


def test_without_ascent_alpha_is_that_of_the_initialization(problem):
    init = np.linspace(0.05, 0.2, problem.d)
    limit = flow(problem, init=init)
    assert (limit.int_B == 0).all()
    np.testing.assert_allclose(limit.alpha, init / np.sqrt(2), rtol=1e-15)
    assert (
        np.abs(off_row_space(problem, hyperbolic_entropy_grad(limit.beta, limit.alpha))).max()
        < 1e-8
    )


def test_int_loss_is_the_integral_of_the_loss(problem):
    step_size = 0.002
    path = train(problem, step_size=step_size, steps=400_000, record_at=np.arange(0, 400_000, 100))
    integral = np.trapezoid(path.train_loss, path.steps * step_size)
    assert flow(problem).int_loss == pytest.approx(integral, rel=5e-3)


def test_noise_in_more_examples_than_features_is_not_interpolated():
    rng = np.random.default_rng(0)
    X, noise = rng.normal(size=(40, 5)), rng.normal(size=40)
    truth = np.ones(5)
    problem = SparseRegression(X, X @ truth + noise, X, X @ truth, truth)
    limit = flow(problem)
    least_squares = np.linalg.lstsq(problem.X, problem.y, rcond=None)[0]
    assert not limit.interpolates
    np.testing.assert_allclose(limit.beta, least_squares, atol=1e-6)


@pytest.mark.parametrize("m", [1, 3, 20])
def test_the_jacobian_is_that_of_the_rates(problem, m, monkeypatch):
    class Solver:
        def __init__(self, rates, *_, jac, **__):
            state, step = np.random.default_rng(0).normal(size=61) / 2, 1e-6
            columns = [
                (rates(0, state + e) - rates(0, state - e)) / (2 * step) for e in step * np.eye(61)
            ]
            error = np.abs(np.transpose(columns) - jac(0, state)).max()
            raise StopIteration(error / np.abs(columns).max())

    monkeypatch.setattr(limit_module, "LSODA", Solver)
    with pytest.raises(StopIteration) as stopped:
        flow(problem, rho=0.3, m=m)
    assert stopped.value.value < 1e-7


def test_a_flow_that_does_not_end_is_given_up(problem, monkeypatch):
    monkeypatch.setattr(limit_module, "MAX_STEPS", 20)
    limit = flow(problem, rho=0.1, m=1)
    assert not limit.interpolates and 0 < limit.time < 1e4 and limit.train_loss > 1e-24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rho": -1.0}, "rho=-1.0"),
        ({"rho": np.nan}, "rho=nan"),
        ({"m": 21}, "from 1 to 20"),
        ({"init": 0.0}, "init=0.0: pass a positive number"),
        ({"init": np.ones(3)}, "one for each of the 30 features"),
    ],
)
def test_bad_settings_are_refused_in_words(problem, changes, message):
    with pytest.raises(ValueError, match=message):
        flow(problem, **changes)
