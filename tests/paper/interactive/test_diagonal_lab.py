"""The diagonal-network lab against numpy's legacy generator and samkit.diagonal."""

import json
from decimal import Decimal, localcontext

import numpy as np
import pytest

from samkit.diagonal import (
    SparseRegression,
    hyperbolic_entropy,
    hyperbolic_entropy_grad,
    train,
)
from samkit.paper import published
from tools import interactive as outside

TOLERANCE = 1e-9  # relative; what the page promises
STEPS = 10_001


def array(typed):
    """A typed array of JavaScript, as JSON has it."""
    return np.array(list(typed.values()))


def lab(**state):
    return outside.computed("diagonal-lab", state)


def close(found, expected, tolerance=TOLERANCE):
    """Relative to the largest entry."""
    expected = np.asarray(expected)
    assert np.abs(np.asarray(found) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("seed", [0, 1, 99, 2**32 - 1])
def test_the_generator(seed):
    count = 5000
    uniform = array(outside.run("numpy-legacy", "draws", seed, "uniform", count))
    np.testing.assert_array_equal(uniform, np.random.RandomState(seed).random_sample(count))
    # but for the C library's logarithm, whose last bit is not always right
    normal = array(outside.run("numpy-legacy", "draws", seed, "normal", count))
    expected = np.random.RandomState(seed).standard_normal(count)
    np.testing.assert_array_max_ulp(normal, expected, maxulp=2)
    assert np.mean(normal == expected) > 0.99


def test_the_logarithm_is_rounded_correctly():
    rng = np.random.default_rng(0)
    near_one = 1 - rng.random(1000) * np.geomspace(1e-15, 0.5, 1000)
    values = np.concatenate([rng.random(2000), near_one, np.geomspace(1e-12, 1e12, 1000)])
    script = """import(process.argv[1]).then(m => console.log(JSON.stringify(
        JSON.parse(process.argv[2]).map(m.log))))"""
    module = (outside.interactive.ESM / "numpy-legacy.mjs").as_uri()
    found = outside._node(script, module, json.dumps(values.tolist()))
    with localcontext(prec=50):
        assert found == [float(Decimal(value).ln()) for value in values.tolist()]


@pytest.mark.parametrize("sizes", [dict(n=20, sparsity=3, seed=0), dict(n=7, sparsity=8, seed=5)])
def test_the_data(sizes):
    found = outside.run("diagonal", "sample", {"d": 30, **sizes})
    expected = SparseRegression.sample(d=30, **sizes)
    close([array(row) for row in found["X"]], expected.X, 1e-14)
    close(array(found["y"]), expected.y, 1e-14)
    close(array(found["beta"]), expected.beta_star, 1e-14)
    spread = expected.X_test.T @ expected.X_test / len(expected.X_test)
    close(array(found["spread"]).reshape(30, 30), spread, 1e-13)


@pytest.mark.parametrize(
    "state",
    [
        dict(),
        dict(m=4),
        dict(m=7),  # a last group of 6
        dict(m=20, rho=0.2, init=0.1),
        dict(m=29, n=13),  # groups are at most n
        dict(m=3, rho=0.05, init=0.3, stepSize=0.05, n=8, sparsity=5, seed=7),
        dict(m=1, rho=0.1, init=0.1, n=30, sparsity=1, seed=2),
    ],
)
def test_everything_shown(state):
    found = lab(**state)
    state, result = found["state"], found["result"]
    problem = SparseRegression.sample(n=state["n"], sparsity=state["sparsity"], seed=state["seed"])
    m = min(state["m"], problem.n)
    assert result["m"] == m
    recorded = np.unique(np.geomspace(1, STEPS, 81).round().astype(int))
    runs = {}
    for method, rho, size in (
        ("ERM", 0.0, None),
        ("n-SAM", state["rho"], problem.n),
        ("1-SAM", state["rho"], 1),
        (result["method"], state["rho"], m),
    ):
        run = runs[method] = train(
            problem,
            rho=rho,
            m=size,
            step_size=state["stepSize"],
            steps=STEPS,
            init=state["init"],
            record_at=recorded,
        )
        shown = result["runs"][method]
        assert shown["test"] == pytest.approx(run.test_loss, rel=TOLERANCE)
        assert shown["trainLoss"] == pytest.approx(run.train_loss, rel=1e-6, abs=1e-20)
        close(array(shown["beta"]), run.beta)
        close(array(shown["alpha"]), np.sqrt((run.u**2 - run.v**2) / 2))
    assert set(runs) == set(result["runs"])

    sam, erm = runs[result["method"]], runs["ERM"]
    by_flow, by_steps = integrals(problem, state["rho"], m, state["stepSize"], state["init"])
    alpha = np.sqrt((sam.u**2 - sam.v**2) / 2)
    predicted = state["init"] / np.sqrt(2) * np.exp(-by_flow - by_steps)
    gradient = hyperbolic_entropy_grad(sam.beta, alpha)
    multipliers = np.linalg.lstsq(problem.X.T, gradient, rcond=None)[0]
    normal = np.abs(gradient - problem.X.T @ multipliers).max()
    values = result["values"]
    assert values["identity"] == pytest.approx(np.abs(alpha / predicted - 1).max(), abs=TOLERANCE)
    assert values["bySteps"] == pytest.approx(1 - np.exp(-by_steps.max()), rel=TOLERANCE)
    assert values["kkt"] == pytest.approx(normal / np.abs(gradient).max(), abs=TOLERANCE)
    ratio = alpha / np.sqrt((erm.u**2 - erm.v**2) / 2)
    assert values["alpha"] == pytest.approx(ratio.max(), rel=TOLERANCE)
    l1 = [np.abs(run.beta).sum() for run in (sam, erm)]
    assert values["sparser"] == pytest.approx(l1[0] / l1[1], rel=TOLERANCE)
    test_losses = sam.test_loss[-1], erm.test_loss[-1]
    assert values["test"] == pytest.approx(test_losses[0] / test_losses[1], rel=TOLERANCE)
    for name, run in (("own", sam), ("ERM", erm)):
        expected = hyperbolic_entropy(run.beta, alpha)
        assert result["entropy"][name] == pytest.approx(expected, rel=TOLERANCE)


def integrals(problem, rho, m, step_size, init):
    """What log alpha loses: to the flow, and to finite steps in second order."""
    X, y, n = problem.X, problem.y, problem.n
    group = np.arange(n) // m
    share = np.equal.outer(group, group) / np.bincount(group)[group]
    u, v = np.full(problem.d, init), np.zeros(problem.d)
    by_flow, by_steps = np.zeros((2, problem.d))
    for _ in range(STEPS):
        g = share @ ((X @ (u * v) - y)[:, None] * X)
        pull = (np.sum(X * (u + rho * g * v) * (v + rho * g * u), axis=1) - y)[:, None] * X / n
        a, b = step_size * pull.sum(axis=0), step_size * rho * (pull * g).sum(axis=0)
        u, v = u - a * v - b * u, v - a * u - b * v
        by_flow += b
        by_steps += (a**2 + b**2) / 2
    return by_flow, by_steps


def gradients(X, y, u, v):
    """Of the mean of r^2 / 2 in u and v."""
    g = X.T @ (X @ (u * v) - y) / len(y)
    return np.array([g * v, g * u])


def broken(problem, rule, *, rho, m, step_size, steps, init):
    """The rules that the lab breaks, as one would write them by mistake."""
    w = np.array([np.full(problem.d, init), np.zeros(problem.d)])
    for _ in range(steps):
        start, descent = np.zeros_like(w), np.zeros_like(w)
        for first in range(0, problem.n, m):
            X, y = problem.X[first : first + m], problem.y[first : first + m]
            g = gradients(X, y, *w)
            if rule == "ascent downhill":
                perturbed = w - rho * g
            elif rule == "normalized ascent":
                perturbed = w + rho * g / np.linalg.norm(g)
            else:
                perturbed = w + rho * g
            leaves = rule == "step from the perturbed point"
            start += (perturbed if leaves else w) * len(y) / problem.n
            descent += gradients(X, y, *perturbed) * len(y) / problem.n
        w = start - step_size * descent
    return w


@pytest.mark.parametrize(
    "rule, rho",
    [
        ("ascent downhill", 0.14),
        ("normalized ascent", 0.02),
        ("step from the perturbed point", 0.05),
        ("step from the perturbed point", 0.2),  # above the step size: away from the fit
    ],
)
@pytest.mark.parametrize("m", [1, 2, 7, 20])
def test_broken_rules(rule, rho, m):
    problem = SparseRegression.sample()
    given = dict(rho=rho, m=m, steps=300)
    w = broken(problem, rule, step_size=1 / 6, init=0.1, **given)
    start = {"u": [0.1] * problem.d, "v": [0.0] * problem.d, "stepSize": 1 / 6, "broken": rule}
    data = {"X": problem.X.tolist(), "y": problem.y.tolist()}
    found = outside.run("diagonal", "train", {**data, **start, **given})
    close([array(found["u"]), array(found["v"])], w)


def test_the_published_digits():
    reference = published.diagonal()
    assert reference["steps"] == STEPS and lab()["state"]["stepSize"] == reference["step_size"]
    for run in reference["runs"]:
        rho, m = {
            "gd": (0.0, 1),
            "n-sam": (run.get("rho"), 20),
            "1-sam": (2 * run.get("rho", 0), 1),
        }[run["method"]]
        if rho == 0.6:  # made by rounding: see the chapter
            continue
        found = lab(init=run["init"], rho=rho, m=m)["result"]
        method = "ERM" if run["method"] == "gd" else found["method"]
        end = found["runs"][method]["test"][-1]
        assert end == pytest.approx(run["test_loss"], rel=TOLERANCE)


def test_what_each_preset_shows_to_fail():
    failing = {
        "1-SAM: sparser and better": "",
        "n-SAM: smaller α, not sparser": "sparser test",
        "In between: m = 4": "",
        "A large start is not sparse": "",
        "Ten true coefficients: no gain": "sparser test",
        "Radius too large: all dies": "fitted identity kkt test",
        "Smaller steps: the flow": "",
        "Break it: ascent downhill": "alpha sparser test",
        "Break it: normalized ascent": "fitted",
        "Break it: step from the perturbed point": "fitted sparser test",
    }
    presets = {preset["label"]: preset["state"] for preset in lab()["presets"]}
    assert set(presets) == set(failing)
    for label, state in presets.items():
        met = lab(**state)["result"]["met"]
        assert " ".join(key for key, holds in met.items() if not holds) == failing[label], label
