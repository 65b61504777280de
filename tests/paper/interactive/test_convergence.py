"""The runs and the bound of the convergence figure against samkit.theory.convergence."""

import numpy as np
import pytest
from scipy import stats

from samkit.theory import convergence as cv
from tools import interactive as outside


def mulberry32(state):
    """The random whole numbers of the figure."""
    while True:
        state = (state + 0x6D2B79F5) % 2**32
        t = (state ^ (state >> 15)) * (1 | state) % 2**32
        t ^= (t + (t ^ (t >> 7)) * (61 | t)) % 2**32
        yield t ^ (t >> 14)


def two_wells(beta, sigma):
    """The two losses, l' = A sin w +- sigma cos(w + pi/4), as samkit's cosine wells."""
    A = outside.run("convergence", "amplitude", beta, sigma)
    wave = A + np.array([1, -1]) * sigma * np.exp(0.75j * np.pi)  # l' = Re(wave) sin + Im(wave) cos
    return A, cv.CosineWells(abs(wave)[:, None], -np.angle(wave)[:, None])


@pytest.mark.parametrize("beta, sigma", [(1.2, 0.9), (1.0, 0.95), (8.0, 0.3), (2.0, 0.0)])
def test_the_constants_are_exact(beta, sigma):
    A, problem = two_wells(beta, sigma)
    assert problem.beta == pytest.approx(beta, rel=1e-9)
    assert problem.sigma2 == pytest.approx(sigma**2, rel=1e-9, abs=1e-15)
    w = np.linspace(-4, 4, 50)
    gap = problem.losses(w[:, None]).mean(-1) - problem.minimum
    assert gap == pytest.approx(A * (1 - np.cos(w)), rel=1e-9, abs=1e-12)


STATES = [
    {},
    {"scheme": "independent", "rho": 1.2, "b": 3, "seed": 4},
    {"normalized": True, "b": 8, "beta": 3, "sigma": 0.7, "start": -2},
    {"scheme": "independent", "normalized": True, "b": 32, "rho": 2.5, "seed": 20},
    {"sigma": 0, "rho": 4.712, "start": 2, "normalized": True},
]


@pytest.mark.parametrize("state", STATES)
def test_runs_and_bound(state):
    found = outside.computed("convergence", {"T": 100, **state})
    s, result = found["state"], found["result"]
    _, problem = two_wells(s["beta"], s["sigma"])
    lengths = result["lengths"]
    assert lengths == [1, 2, 4, 8, 16, 32, 64, 100]
    gap = float(problem.losses(np.array([s["start"]])).mean() - problem.minimum)
    assert result["gap"] == pytest.approx(gap, rel=1e-9)
    noise = s["sigma"] ** 2 / s["b"]
    expected = cv.paper_bound(100, gap, beta=s["beta"], noise=noise)
    assert result["bound"] == pytest.approx(expected, rel=1e-9)
    for T, measured in zip(lengths, result["measured"], strict=True):
        gammas, radii = cv.paper_schedule(T, s["beta"])
        draws = [mulberry32((s["seed"] * 65536 + T) * 16 + run) for run in range(12)]

        def batches(draws=draws):
            ones = np.array([(next(d) >> (32 - s["b"])).bit_count() for d in draws])
            return np.stack([ones, s["b"] - ones], axis=1) / s["b"]

        w = {k: np.full((12, 1), s["start"], float) for k in range(3)}
        squares = np.zeros((3, 12))
        for t in range(T):
            i = batches()
            j = i if s["scheme"] == "same" else batches()
            for k, rho in enumerate((radii[t], s["rho"], 0.0)):
                squares[k] += (problem.gradients(w[k]).mean(-2) ** 2).sum(-1) / T
                step = cv.sam_gradient(problem, w[k], rho, i, j, normalized=s["normalized"])
                w[k] = w[k] - gammas[t] * step
        half = stats.t.ppf(0.975, 11) * squares.std(1, ddof=1) / np.sqrt(12)
        assert [mean for mean, _ in measured] == pytest.approx(squares.mean(1), rel=1e-9)
        assert [h for _, h in measured] == pytest.approx(half, rel=1e-7, abs=1e-13)
        if not s["normalized"]:
            assert measured[0][0] + measured[0][1] <= cv.paper_bound(
                T, gap, beta=s["beta"], noise=noise
            )
    for k in range(3):
        assert result["end"][k] == pytest.approx(w[k][:, 0], rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("scheme", ["same", "independent"])
@pytest.mark.parametrize("normalized", [False, True])
def test_the_mean_direction_and_its_rest(scheme, normalized):
    state = {"scheme": scheme, "normalized": normalized, "rho": 0.8, "T": 1}
    found = outside.computed("convergence", state)
    _, problem = two_wells(1.2, 0.9)
    for w in (-1.0, 0.3, 2.0):
        expected = cv.expected_sam_gradient(problem, [w], 0.8, scheme, normalized=normalized)
        direction = outside.run("convergence", "meanDirection", found["state"], 0.8, w)
        assert direction == pytest.approx(expected[0], rel=1e-9)
    w = found["result"]["resting"]
    around = [
        cv.expected_sam_gradient(problem, [w + d], 0.8, scheme, normalized=normalized)[0]
        for d in (-1e-9, 1e-9)
    ]
    assert around[0] < 0 < around[1]
    floor = float(problem.gradients(np.array([w])).mean(-2)[0] ** 2)
    assert found["result"]["floor"] == pytest.approx(floor, rel=1e-9, abs=1e-15)


def test_what_the_presets_say():
    """Constant radius: a floor with the same batch, not with others; normalized: never lower."""
    floors = {}
    for preset in outside.computed("convergence", {"T": 1})["presets"]:
        result = outside.computed("convergence", preset["state"])["result"]
        (theorem, half), (constant, _), _ = result["measured"][-1]
        floors[preset["label"]] = result["floor"], constant
        if not preset["state"].get("normalized"):
            assert theorem + half < result["bound"]
    floor, constant = floors["A constant radius: a floor"]
    assert constant == pytest.approx(floor, rel=0.2) and floor > 0.03
    assert floors["Independent batches: no floor"][0] < 1e-20
    assert floors["Larger batches: a lower floor"][0] < floor / 10
    floor, constant = floors["Normalized: it does not settle"]
    assert constant == pytest.approx(floor, rel=0.2) and floor > 0.03
    floor, constant = floors["At rest on the steepest slope"]
    assert floor == pytest.approx(1.2**2, rel=1e-5) and constant > 1.3
