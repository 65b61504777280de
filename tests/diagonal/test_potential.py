import numpy as np
import pytest
from scipy.integrate import quad

from samkit.diagonal import hyperbolic_entropy, hyperbolic_entropy_grad

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
