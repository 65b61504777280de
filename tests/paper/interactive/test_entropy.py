"""The numbers of the entropy figure against samkit.diagonal."""

import numpy as np
import pytest
from scipy.optimize import linprog

from samkit.diagonal import hyperbolic_entropy, hyperbolic_entropy_grad, least_entropy
from tools import interactive as outside


@pytest.mark.parametrize("alpha", [0.001, 0.05, 0.3, 10.0])
@pytest.mark.parametrize("angle, ratio", [(10, 1.0), (30, 1.0), (43.5, 1.0), (70, 0.1), (20, 10.0)])
def test_the_minimizer_and_its_level_sets(alpha, angle, ratio):
    result = outside.computed("entropy", {"alpha": alpha, "angle": angle, "ratio": ratio})["result"]
    x = np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    alphas = np.array([alpha * ratio, alpha])
    least = least_entropy(x[None], np.ones(1), alphas)
    beta = np.array(result["beta"])
    assert beta == pytest.approx(least, rel=1e-9)
    assert result["multiplier"] * x == pytest.approx(
        hyperbolic_entropy_grad(least, alphas), rel=1e-9
    )
    assert result["potential"] == pytest.approx(hyperbolic_entropy(least, alphas), rel=1e-9)
    for size, points in zip((0.5, 1, 1.5), result["levels"], strict=True):
        level = hyperbolic_entropy(size * least, alphas)
        assert hyperbolic_entropy(np.array(points), alphas) == pytest.approx(level, rel=1e-9)
    for at, *along in result["curve"][::20]:
        expected = least_entropy(x[None], np.ones(1), np.array([at * ratio, at]))
        assert along == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("angle", [25, 45, 62])
def test_the_two_ends(angle):
    result = outside.computed("entropy", {"angle": angle})["result"]
    x, beta = np.array(result["x"]), np.array(result["beta"])
    l2 = np.linalg.pinv(x[None]) @ np.ones(1)
    assert result["distances"]["l2"] == pytest.approx(np.linalg.norm(beta - l2), rel=1e-9)
    l1 = linprog([1, 1], A_eq=x[None], b_eq=[1], method="highs")
    assert result["norms"]["least_l1"] == pytest.approx(l1.fun, rel=1e-9)
    if angle == 45:
        assert result["distances"]["l1"] == 0 and len(result["l1"]) == 2
    else:
        assert result["l1"] == [pytest.approx(l1.x, rel=1e-9)]
        assert result["distances"]["l1"] == pytest.approx(np.linalg.norm(beta - l1.x), rel=1e-9)
