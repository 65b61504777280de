"""The numbers of the sharpness figure against samkit.theory.objectives and a fine search."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from samkit.theory.objectives import quadratic_maximum
from tools import interactive as outside

QUADRATIC = ("bowl", "ravine", "saddle", "hilltop")
LANDSCAPES = outside._node(
    "import(process.argv[1]).then(m => console.log(JSON.stringify(m.LANDSCAPES)))",
    (outside.interactive.ESM / "sharpness.mjs").as_uri(),
)


def hessian(landscape):
    a, b, c = LANDSCAPES[landscape]["H"]
    return np.array([[a, b], [b, c]])


@pytest.mark.parametrize("name", QUADRATIC)
@pytest.mark.parametrize(
    "x, y, rho", [(0.5, 0.9, 0.8), (-1.3, 0.2, 1.5), (0.0, 0.01, 1.0), (0.1, 0.5, 1.2)]
)
def test_the_values_on_a_quadratic(name, x, y, rho):
    result = outside.computed("sharpness", {"landscape": name, "x": x, "y": y, "rho": rho})[
        "result"
    ]
    w, H = np.array([x, y]), hessian(name)
    g = H @ w
    beta = np.abs(np.linalg.eigvalsh(H)).max()
    step = rho * g / np.linalg.norm(g)
    one = g @ step + step @ H @ step / 2
    most, _ = quadratic_maximum(g, H, rho)
    assert result["loss"] == pytest.approx(w @ H @ w / 2, rel=1e-9)
    assert result["linear"] == pytest.approx(rho * np.linalg.norm(g), rel=1e-9)
    assert result["one"] == pytest.approx(one, rel=1e-9, abs=1e-13)
    assert result["maximum"] == pytest.approx(most, rel=1e-9)
    assert result["beta"] == pytest.approx(beta, rel=1e-9)
    assert result["share"] == pytest.approx((most - one) / (beta * rho**2), rel=1e-9, abs=1e-12)
    delta = np.array(result["delta"])
    assert np.linalg.norm(delta) <= rho * (1 + 1e-12)
    assert g @ delta + delta @ H @ delta / 2 == pytest.approx(most, rel=1e-9)
    for radius, *values in result["curve"][1::8]:
        step = radius * g / np.linalg.norm(g)
        expected = [
            radius * np.linalg.norm(g),
            g @ step + step @ H @ step / 2,
            quadratic_maximum(g, H, radius)[0],
        ]
        assert values == pytest.approx(expected, rel=1e-9, abs=1e-13)


def test_the_maximum_on_random_quadratics_and_in_the_hard_cases():
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(40):
        a, b, c = rng.normal(size=3)
        cases.append((rng.normal(size=2), [a, b, c], float(np.exp(rng.uniform(-3, 1)))))
    cases += [
        (np.array([0.0, -1e-3]), [1, 0, -1], 1.0),  # no part along the top eigenvector
        (np.array([1e-9, -1e-3]), [1, 0, -1], 1.0),  # hardly any
        (np.array([0.0, 3.0]), [1, 0, -1], 1.0),
        (np.zeros(2), [1, 0, 0.5], 0.7),  # no gradient
        (np.array([0.3, 0.2]), [2, 0, 2], 0.5),  # a round bowl
        (np.array([0.3, 0.2]), [0, 0, -1], 0.5),  # a flat direction
        (np.array([0.1, 0.1]), [-1, 0, -2], 1.0),  # the top lies inside
        (np.array([2.0, 1.0]), [-1, 0.5, -2], 0.5),  # the top lies outside
    ]
    for g, (a, b, c), rho in cases:
        found = outside.run("sharpness", "quadraticMaximum", g.tolist(), [a, b, c], rho)
        H = np.array([[a, b], [b, c]], float)
        most = quadratic_maximum(g, H, rho)[0]
        delta = np.array(found["delta"])
        assert found["increase"] == pytest.approx(most, rel=1e-9)
        assert g @ delta + delta @ H @ delta / 2 == pytest.approx(most, rel=1e-9)
        assert np.linalg.norm(delta) <= rho * (1 + 1e-12)


def test_the_sharp_example_of_the_chapter():
    state = {"landscape": "saddle", "rho": 1, "x": 0, "y": 0.01}
    share = outside.computed("sharpness", state)["result"]["share"]
    eta = state["y"]
    assert share == pytest.approx(0.5 + (1 - eta) ** 2 / 2 - eta**2 / 4, rel=1e-9)


@pytest.mark.parametrize("x, y, rho", [(-0.6, 0.1, 1.2), (0.9, 0.3, 0.4), (0.2, -1.0, 1.5)])
def test_ripples_against_a_fine_search(x, y, rho):
    result = outside.computed("sharpness", {"landscape": "ripples", "x": x, "y": y, "rho": rho})[
        "result"
    ]
    height, pitch = LANDSCAPES["ripples"]["ripple"], LANDSCAPES["ripples"]["pitch"]
    H, w = hessian("ripples"), np.array([x, y])

    def loss(v):
        return v @ H @ v / 2 + height * (1 - np.cos(pitch * v[0]))

    def on_edge(turn, radius):
        return loss(w + radius * np.array([np.cos(turn), np.sin(turn)])) - loss(w)

    def most_in(radius):
        """A fine grid of the ball, polished by scipy along the edge where it is highest there."""
        turns = np.linspace(0, 2 * np.pi, 721)
        inside = max(
            on_edge(turn, r) for turn in turns[::10] for r in np.linspace(0, radius, 15)[:-1]
        )
        edge = [on_edge(turn, radius) for turn in turns]
        near = turns[np.argmax(edge)] + np.array([-0.01, 0.01])
        found = -minimize_scalar(
            lambda turn: -on_edge(turn, radius),
            bounds=near,
            options={"xatol": 1e-9},
            method="bounded",
        ).fun
        assert found > inside
        return found

    g = H @ w + [height * pitch * np.sin(pitch * x), 0]
    bend = np.diag([height * pitch**2, 0])
    beta = max(np.abs(np.linalg.eigvalsh(H + sign * bend)).max() for sign in (1, -1))
    one = loss(w + rho * g / np.linalg.norm(g)) - loss(w)
    assert result["beta"] == pytest.approx(beta, rel=1e-9)
    assert result["one"] == pytest.approx(one, rel=1e-9, abs=1e-13)
    assert result["maximum"] == pytest.approx(most_in(rho), rel=1e-9)
    for radius, _, _, most in result["curve"][4::6]:
        assert most == pytest.approx(most_in(radius), rel=1e-9)
    assert 0 <= result["share"] < 1
