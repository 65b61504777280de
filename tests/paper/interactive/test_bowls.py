"""The worst losses nearby of four bowls against samkit's exact maximum of a quadratic."""

from itertools import permutations

import numpy as np
import pytest

from samkit.theory.objectives import quadratic_maximum
from tools import interactive as outside

BOWLS = outside._node(
    "import(process.argv[1]).then(m => console.log(JSON.stringify(m.BOWLS)))",
    (outside.interactive.ESM / "bowls.mjs").as_uri(),
)
CENTERS = np.array([bowl["center"] for bowl in BOWLS])
HEIGHTS = np.array([bowl["height"] for bowl in BOWLS])


def mean_loss(group, w):
    return np.mean(HEIGHTS[group] / 2 * np.square(w - CENTERS[group]).sum(axis=1))


def worst(group, w, rho):
    """(the maximum of the group's mean loss in the ball, where)"""
    gradient = np.mean(HEIGHTS[group, None] * (w - CENTERS[group]), axis=0)
    rise, to = quadratic_maximum(gradient, HEIGHTS[group].mean() * np.eye(2), rho)
    return mean_loss(group, w) + rise, to


@pytest.mark.parametrize("rho, x, y", [(0.5, 0.1, 0.16), (0.02, -1.5, 0.7), (1, 0.05, -1.2)])
def test_every_objective_is_the_mean_over_all_groups(rho, x, y):
    found = outside.computed("bowls", {"rho": rho, "x": x, "y": y})["result"]
    w = np.array([x, y])
    assert found["loss"] == pytest.approx(mean_loss([0, 1, 2, 3], w), rel=1e-9)
    for m in (1, 2, 4):
        values = [
            worst(list(order[first : first + m]), w, rho)[0]
            for order in permutations(range(4))
            for first in range(0, 4, m)
        ]
        assert found["objective"][str(m)] == pytest.approx(np.mean(values), rel=1e-9)
        for shown in found["groups"][str(m)]:
            value, to = worst(shown["group"], w, rho)
            assert shown["value"] == pytest.approx(value, rel=1e-9)
            assert shown["to"] == pytest.approx(to, rel=1e-6, abs=1e-9)


def test_the_smaller_the_group_the_larger_the_objective():
    for state in ({}, {"x": -1.2, "y": 1.1}, {"rho": 0.1}):
        found = outside.computed("bowls", state)["result"]
        own, pairs, common = (found["objective"][m] for m in ("1", "2", "4"))
        assert own > pairs > common > found["loss"]
