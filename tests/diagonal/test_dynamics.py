import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samkit.diagonal import SparseRegression, dynamics, sam_step, sam_step_factored, train
from samkit.paper import published

TOLERANCE = 1e-12  # float64, a few hundred operations a step, a few hundred steps


@pytest.fixture(scope="module")
def problem():
    return SparseRegression.sample(n=7, d=9, sparsity=2, n_test=11, seed=1)


def complex_step_gradient(loss, w):
    """The gradient of ``loss`` by the complex step: exact to rounding, no calculus by hand."""
    step = 1e-30
    return np.array([loss(w + step * 1j * e).imag / step for e in np.eye(len(w))])


@pytest.mark.parametrize("m", [1, 2, 3, 7])
@pytest.mark.parametrize("rho", [0.0, 0.2])
def test_the_specification_is_the_gradient_at_the_perturbed_weights(problem, m, rho):
    rng = np.random.default_rng(0)
    u, v = rng.normal(size=(2, problem.d))

    def group_loss(rows):
        def loss(w):
            r = problem.X[rows] @ (w[: problem.d] * w[problem.d :]) - problem.y[rows]
            return (r * r).sum() / (2 * len(rows))

        return loss

    w = np.concatenate([u, v])
    descent = np.zeros_like(w)
    for start in range(0, problem.n, m):
        rows = np.arange(problem.n)[start : start + m]
        loss = group_loss(rows)
        ascent = w + rho * complex_step_gradient(loss, w)
        descent += len(rows) / problem.n * complex_step_gradient(loss, ascent)
    expected = w - 0.05 * descent

    new = sam_step(problem.X, problem.y, u, v, rho=rho, m=m, step_size=0.05)
    np.testing.assert_allclose(np.concatenate(new), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("m", [1, 3, 7])
def test_the_factored_step_is_the_same_map(problem, m):
    u, v = np.random.default_rng(0).normal(size=(2, problem.d))
    settings = dict(rho=0.2, m=m, step_size=0.05)
    expected_u, expected_v = sam_step(problem.X, problem.y, u, v, **settings)
    plus, minus = sam_step_factored(problem.X, problem.y, u + v, u - v, **settings)
    np.testing.assert_allclose(plus, expected_u + expected_v, rtol=1e-12)
    np.testing.assert_allclose(minus, expected_u - expected_v, rtol=1e-12)


def test_the_normalized_pull_and_decay_are_those_of_a_perturbation_of_length_rho():
    X, y, rho, m = np.array([[1.0, 2.0], [0.5, -1.0]]), np.array([1.0, 0.3]), 0.2, 1
    u, v = np.array([0.7, 0.4]), np.array([0.2, -0.3])
    descent_u, descent_v = np.zeros(2), np.zeros(2)
    for x_i, y_i in zip(X, y, strict=True):
        gradient = (x_i @ (u * v) - y_i) * np.array([x_i * v, x_i * u])
        u_G, v_G = np.array([u, v]) + rho * gradient / np.linalg.norm(gradient)
        descent_u += (x_i @ (u_G * v_G) - y_i) * x_i * v_G / 2
        descent_v += (x_i @ (u_G * v_G) - y_i) * x_i * u_G / 2
    A, B = dynamics.pull_and_decay(X, y, u * v, u**2 + v**2, rho=rho, m=m, normalized=True)
    np.testing.assert_allclose([A * v + B * u, A * u + B * v], [descent_u, descent_v], rtol=1e-12)


@pytest.mark.slow
def test_the_factored_step_keeps_what_rounding_destroys():
    """Against 180-digit arithmetic: integers scaled by 2^600, in the coordinates u and v."""
    problem = SparseRegression.sample()
    n, d, bits, steps = problem.n, problem.d, 600, 400
    rho, step_size, init = 0.6, 1 / 6, 0.02

    def scaled(values):
        exact = [int(Fraction(float(value)) * 2**bits) for value in np.ravel(values)]
        return np.array(exact, dtype=object).reshape(np.shape(values))

    def product(a, b):
        return (a * b) >> bits

    X, y = scaled(problem.X), scaled(problem.y)
    u, v = scaled(np.full(d, init)), scaled(np.zeros(d))
    rho_, step_ = scaled([rho, step_size])
    plus = minus = np.full(d, init)
    float_u, float_v = np.full(d, init), np.zeros(d)
    settings = dict(rho=rho, m=1, step_size=step_size)
    for _ in range(steps):
        ascent = product(product((X @ product(u, v) >> bits) - y, rho_)[:, None], X)
        u_k, v_k = u + product(ascent, v), v + product(ascent, u)
        r = (np.sum(product(u_k, v_k) * X, axis=1) >> bits) - y
        pull = product(r[:, None], X)
        u = u - product(step_, product(pull, v_k).sum(axis=0)) // n
        v = v - product(step_, product(pull, u_k).sum(axis=0)) // n
        plus, minus = sam_step_factored(problem.X, problem.y, plus, minus, **settings)
        float_u, float_v = sam_step(problem.X, problem.y, float_u, float_v, **settings)

    exact = np.array([float(Fraction(int(w), 2**bits)) for w in u + v])
    np.testing.assert_allclose(plus, exact, rtol=1e-11)
    lost = np.abs((float_u + float_v) / exact - 1)
    assert exact.min() < 1e-30 and lost.max() > 0.5, "u + v has lost the smallest coordinates"


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_the_compiled_kernel_equals_the_specification(data):
    n = data.draw(st.integers(1, 9), label="n")
    d = data.draw(st.integers(1, 9), label="d")
    m = data.draw(st.integers(1, n), label="m")
    rho = data.draw(st.sampled_from([0.0, 0.03, 0.3]), label="rho")
    problem = SparseRegression.sample(n=n, d=d, sparsity=1, n_test=2, seed=n)
    result = train(problem, rho=rho, m=m, step_size=0.02, steps=200, init=0.2)
    u, v = np.full(d, 0.2), np.zeros(d)
    for _ in range(200):
        u, v = sam_step(problem.X, problem.y, u, v, rho=rho, m=m, step_size=0.02)
    np.testing.assert_allclose(result.u, u, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(result.v, v, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.slow
def test_the_published_runs():
    problem, reference = SparseRegression.sample(), published.diagonal()
    for run in reference["runs"]:
        one = run["method"] == "1-sam"
        result = train(
            problem,
            rho=run.get("rho", 0.0) * (2 if one else 1),
            m=1 if one else None,
            step_size=reference["step_size"],
            steps=reference["steps"],
            init=run["init"] * (1 + np.finfo(float).eps * np.arange(31)),
        )
        # the median, since the last run hangs on rounding (see the chapter); the others do not
        assert np.median(result.test_loss[:, -1]) == pytest.approx(run["test_loss"], rel=1e-9), run


def test_without_numba_the_readable_loop_runs_and_says_so(problem, monkeypatch):
    arguments = dict(rho=[0.0, 0.1], m=2, step_size=0.02, steps=30, batch_size=5, seed=4)
    fast = train(problem, **arguments)
    monkeypatch.setitem(sys.modules, "samkit.diagonal.kernel", None)
    with pytest.warns(UserWarning, match="pip install numba"):
        slow = train(problem, **arguments)
    np.testing.assert_allclose(fast.beta, slow.beta, rtol=TOLERANCE)


def test_a_sweep_is_its_runs_one_by_one(problem):
    rho, init, step_size = np.array([[0.0], [0.1]]), np.array([0.1, 0.3, 0.5]), 0.02
    sweep = train(
        problem, rho=rho, m=2, init=init, step_size=step_size, steps=50, record_at=[10, 30]
    )
    assert sweep.beta.shape == (2, 3, problem.d)
    assert sweep.test_loss.shape == (2, 3, 3)
    assert sweep.steps.tolist() == [10, 30, 50]
    for i in range(2):
        for j in range(3):
            one = train(
                problem, rho=rho[i, 0], m=2, init=init[j], step_size=step_size, steps=50,
                record_at=[10, 30],
            )  # fmt: skip
            assert one.test_loss.shape == (3,)
            assert (one.beta == sweep.beta[i, j]).all()
            assert (one.train_loss == sweep.train_loss[i, j]).all()


def test_losses_are_half_the_mean_square(problem):
    result = train(problem, step_size=0.02, steps=20)
    for X, y, loss in (
        (problem.X, problem.y, result.train_loss),
        (problem.X_test, problem.y_test, result.test_loss),
    ):
        assert loss[0] == pytest.approx(np.mean(y**2) / 2, rel=1e-14)
        assert loss[-1] == pytest.approx(np.mean((X @ result.beta - y) ** 2) / 2, rel=1e-14)


def test_a_diverging_run_spoils_nobody_and_warns_nobody(problem):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sweep = train(problem, step_size=[0.02, 50.0, 0.03], steps=300, record_at=[1, 200])
    alone = train(problem, step_size=[0.02, 0.03], steps=300, record_at=[1, 200])
    assert np.isfinite(sweep.train_loss[1, 0])
    assert not np.isfinite(sweep.train_loss[1, 1:]).any()
    assert not np.isfinite(sweep.test_loss[1, 1:]).any()
    assert (sweep.train_loss[[0, 2]] == alone.train_loss).all()
    assert (sweep.beta[[0, 2]] == alone.beta).all()


def test_a_warm_start_continues_the_run(problem):
    arguments = dict(rho=0.1, m=1, step_size=0.02)
    whole = train(problem, steps=80, **arguments)
    half = train(problem, steps=40, **arguments)
    rest = train(problem, steps=40, start=(half.u, half.v), **arguments)
    assert (rest.beta == whole.beta).all()


def test_one_start_serves_a_sweep(problem):
    start = (np.full(problem.d, 0.2), np.full(problem.d, 0.1))
    sweep = train(problem, rho=[0.0, 0.1], m=1, step_size=0.02, steps=5, start=start)
    assert sweep.beta.shape == (2, problem.d)
    assert (start[0] == 0.2).all(), "the caller's arrays are not touched"


SGD = dict(rho=0.1, m=2, step_size=0.02, batch_size=5)


class TestSGD:
    def test_the_seed_decides(self, problem):
        first = train(problem, steps=60, seed=1, **SGD)
        again = train(problem, steps=60, seed=1, **SGD)
        other = train(problem, steps=60, seed=2, **SGD)
        assert (first.beta == again.beta).all()
        assert (first.beta != other.beta).any()

    def test_recording_and_chunking_do_not_change_the_run(self, problem, monkeypatch):
        whole = train(problem, steps=60, **SGD)
        monkeypatch.setattr(dynamics, "CHUNK", 7)
        pieces = train(problem, steps=60, record_at=[0, 11, 12, 59], **SGD)
        assert (whole.beta == pieces.beta).all()

    def test_each_step_is_a_step_on_its_batch(self, problem):
        rows = np.random.default_rng(3).permuted(np.arange(problem.n)[None, :], axis=1)[0, :4]
        u, v = np.full(problem.d, 0.1), np.zeros(problem.d)
        expected = sam_step(problem.X[rows], problem.y[rows], u, v, rho=0.2, m=3, step_size=0.05)
        result = train(problem, rho=0.2, m=3, step_size=0.05, steps=1, batch_size=4, seed=3)
        np.testing.assert_allclose((result.u, result.v), expected, rtol=1e-14)

    def test_every_example_is_drawn_equally_often(self):
        drawn = np.zeros(7)
        for batches, _ in dynamics._batches(7, 2, True, 0, [20_000]):
            np.add.at(drawn, batches.ravel(), 1)
            assert (batches[:, 0] != batches[:, 1]).all()
        expected = 20_000 * 2 / 7
        spread = np.sqrt(20_000 * (2 / 7) * (5 / 7))
        assert np.abs(drawn - expected).max() < 5 * spread

    def test_the_whole_set_as_a_batch_is_the_full_batch(self, problem):
        full = train(problem, rho=0.1, step_size=0.02, steps=50)
        sgd = train(problem, rho=0.1, step_size=0.02, steps=50, batch_size=problem.n)
        np.testing.assert_allclose(full.beta, sgd.beta, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"m": 0}, "group SIZE, a whole number from 1 to 7"),
        ({"m": 8}, "group SIZE, a whole number from 1 to 7"),
        ({"m": 2.5}, "group SIZE"),
        ({"m": 3, "batch_size": 2}, "from 1 to 2"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 8}, "batch_size=8"),
        ({"rho": -0.1}, "rho=-0.1: pass finite numbers"),
        ({"rho": [0.1, np.nan]}, "rho="),
        ({"step_size": np.inf}, "step_size=inf"),
        ({"init": -1.0}, "init=-1.0"),
        ({"steps": -1}, "steps=-1"),
        ({"steps": 1.5}, "steps=1.5"),
        ({"record_at": [11]}, "record_at=\\[11\\]: pass whole numbers from 0 to steps=10"),
        ({"record_at": [-1]}, "record_at"),
        ({"record_at": [0.5]}, "record_at"),
        ({"rho": [0.1, 0.2], "init": [0.1, 0.2, 0.3]}, "do not broadcast"),
        ({"start": (np.zeros(3), np.zeros(9))}, "pass start as"),
        ({"start": (0.1, 0.0)}, "pass start as"),
    ],
)
def test_bad_settings_are_refused_in_words(problem, changes, message):
    with pytest.raises(ValueError, match=message):
        train(problem, **{"step_size": 0.02, "steps": 10, **changes})
