"""The threshold against m-SAM itself, run at a minimum of least squares with one example each."""

from itertools import combinations

import numpy as np
import pytest

from samkit.theory.stability import critical_step_size


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_the_mean_step_of_redrawn_groups_is_neutral_at_the_threshold(m):
    rng = np.random.default_rng(0)
    A = rng.normal(size=(4, 3, 3))
    hessians, rho = A @ A.transpose(0, 2, 1), 0.1
    groups = [hessians[list(group)].mean(0) for group in combinations(range(4), m)]
    mean_step = np.mean([H @ (np.eye(3) + rho * H) for H in groups], axis=0)
    eigenvalues = np.linalg.eigvalsh(np.eye(3) - critical_step_size(hessians, rho, m) * mean_step)
    assert eigenvalues[0] == pytest.approx(-1)


def test_the_threshold_grows_with_the_group_and_needs_a_minimum():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(6, 5))
    hessians = x[:, :, None] * x[:, None]
    assert np.all(np.diff([critical_step_size(hessians, 0.3, m) for m in range(1, 7)]) > 0)
    with pytest.raises(ValueError, match="no minimum to stay at"):
        critical_step_size(-np.eye(2)[None], 0.1, 1)
