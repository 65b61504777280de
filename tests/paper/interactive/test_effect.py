"""The numbers of the landing figure against samkit.diagonal, and the law that it shows."""

from itertools import pairwise

import numpy as np
import pytest

from samkit.diagonal import SparseRegression, sam_step, train
from samkit.paper import interactive
from tools import interactive as outside

STOPS = [20, 10, 5, 4, 2, 1]
STEPS, STEP_SIZE, INIT, RHO = 10_001, 1 / 6, 0.03, 0.14


@pytest.fixture(scope="module")
def found():
    return outside.computed("effect")["result"]


class Orders:
    """The rows in the order of each step: shuffled again and again, as Fisher and Yates do."""

    def __init__(self, n):
        self.rng, self.order = np.random.RandomState(0), np.arange(n)

    def next(self):
        for k in range(len(self.order) - 1, 0, -1):
            j = int(self.rng.random_sample() * (k + 1))
            self.order[[k, j]] = self.order[[j, k]]
        return self.order


@pytest.mark.parametrize("m", STOPS)
def test_every_solution_and_its_test_loss(found, m):
    problem = SparseRegression.sample()
    if m in (1, problem.n):  # the groups are the same in any order
        run = train(problem, rho=RHO, m=m, step_size=STEP_SIZE, steps=STEPS, init=INIT)
        beta = run.beta
    else:
        u, v = np.full(problem.d, INIT), np.zeros(problem.d)
        orders = Orders(problem.n)
        for _ in range(STEPS):
            rows = orders.next()
            u, v = sam_step(
                problem.X[rows], problem.y[rows], u, v, rho=RHO, m=m, step_size=STEP_SIZE
            )
        beta = u * v
    shown = found["runs"][STOPS.index(m)]
    assert shown["m"] == m
    assert np.abs(np.array(shown["beta"]) - beta).max() <= 1e-9 * np.abs(beta).max()
    loss = np.mean((problem.X_test @ beta - problem.y_test) ** 2) / 2
    assert shown["test"] == pytest.approx(loss, rel=1e-9)


def test_plain_training(found):
    problem = SparseRegression.sample()
    run = train(problem, step_size=STEP_SIZE, steps=STEPS, init=INIT)
    assert found["erm"]["test"] == pytest.approx(run.test_loss[-1], rel=1e-9)


def test_the_effect_grows_as_m_falls_without_an_exception(found):
    """What the page says: a lower test loss, and less off the support, at every stop."""
    losses = [run["test"] for run in found["runs"]]
    off = np.array(list(found["set"]["beta"].values())) == 0
    strays = [np.abs(np.array(run["beta"])[off]).sum() for run in found["runs"]]
    for values in (losses, strays):
        assert all(later < earlier for earlier, later in pairwise(values))
    assert found["erm"]["test"] > 9 * losses[-1]


def test_the_arrows(found):
    """In the plane of the mean gradient and of what varies most, by numpy's decomposition."""
    problem = SparseRegression.sample()
    g = -problem.y[:, None] * problem.X
    up = g.mean(axis=0) / np.linalg.norm(g.mean(axis=0))
    rest = g - np.outer(g @ up, up)
    rest /= np.linalg.norm(rest, axis=1, keepdims=True)
    side = np.linalg.svd(rest - rest.mean(axis=0))[2][0]
    plane = np.stack([g @ side, g @ up], axis=1)
    order = Orders(problem.n).next()
    for m, tips in zip(STOPS, np.array(found["tips"]), strict=True):
        wanted = np.empty_like(plane)
        for first in range(0, problem.n, m):
            members = order[first : first + m]
            wanted[members] = plane[members].mean(axis=0)
        wanted[:, 0] *= np.sign(wanted[0, 0] * tips[0, 0]) or 1  # a direction has two signs
        assert np.abs(tips - wanted).max() < 1e-6 * np.abs(plane).max()
        assert len(np.unique(tips.round(9), axis=0)) == problem.n // m


def test_the_words(found):
    words = {m: outside.computed("effect", {"m": m})["tell"] for m in STOPS}
    assert words[20].startswith("All 20 examples share one step uphill.")
    assert "5 steps" in words[4]
    ratios = {run["m"]: run["test"] / found["erm"]["test"] for run in found["runs"]}
    assert f"{100 * (ratios[20] - 1):.0f} % higher than with plain training" in words[20]
    assert f"{100 * (1 - ratios[5]):.0f} % lower than with plain training" in words[5]
    assert f"{1 / ratios[1]:.2g} times lower than with plain training" in words[1]


def test_the_picture_for_pages_without_scripts_is_where_the_film_begins():
    first = outside.computed("effect", {"m": 20})
    page = interactive.html("effect")
    assert first["body"] in page and f"<p>{first['tell']}</p>" in page
