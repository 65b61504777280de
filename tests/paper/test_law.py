import numpy as np
import pytest

from samkit.diagonal import SparseRegression
from samkit.paper import law


def test_the_small_picture_says_what_the_factor_multiplies():
    alt = law.factor("the variance").alt
    assert "1 at m = 1, 0.43 at m = 2" in alt and "multiplies the variance" in alt


def test_a_gain_is_predicted_before_sam_is_run():
    problems = [SparseRegression.sample(n=12, d=16, sparsity=2, n_test=1, seed=k) for k in (3, 1)]
    found = law.gain(problems, rho=0.01)
    assert list(found.sizes) == [1, 2, 3, 4, 6, 12]
    assert np.abs(found.measured - found.predicted).max() < 0.1 * np.abs(found.measured).max()
    assert found.measured[0, 0] < 0 < found.measured[0, -1]  # 1-SAM gains, n-SAM loses
    assert found.predicted[0, 0] < 0 < found.predicted[0, -1]
    # whatever the data, the law is a straight line in the factor
    factor = (12 - np.arange(1, 13)) / (11 * np.arange(1, 13))
    line = found.law[0, -1] + factor * (found.law[0, 0] - found.law[0, -1])
    assert found.law[0] == pytest.approx(line)
    # it gains where alpha shrinks off the support, and loses where it shrinks on it
    on = found.law - found.off
    assert (found.off < 0).all() and (on > 0).all() and (np.diff(found.off) > 0).all()
    assert "at m = 12" in law.gain_picture(found).alt
