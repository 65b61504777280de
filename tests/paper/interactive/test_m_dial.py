"""The numbers of the m dial against samkit.diagonal."""

import numpy as np
import pytest

from samkit.diagonal import SparseRegression, sam_step, train
from tools import interactive as outside


@pytest.mark.parametrize("m", [1, 3, 4, 8])
def test_trajectories_and_arrows(m):
    found = outside.computed("m-dial", {"m": m, "rho": 0.2, "noise": 0.5, "u": 1.9, "v": 0.3})
    x = np.array(outside.computed("m-dial", {"noise": 0})["result"]["problem"]["y"])
    y = np.array(found["result"]["problem"]["y"])
    assert abs(x @ (y - x)) < 1e-12  # the best fit is u v = 1
    problem = SparseRegression(x[:, None], y, x[:, None], y, np.ones(1))
    same = {"step_size": 0.05, "steps": 3000, "start": (np.array([1.9]), np.array([0.3]))}
    for method, rho, size in (
        ("ERM", 0, 8),
        ("n-SAM", 0.2, 8),
        ("m-SAM", 0.2, m),
        ("1-SAM", 0.2, 1),
    ):
        end = train(problem, rho=rho, m=size, **same)
        path = found["result"]["paths"][method]
        assert path[-1] == pytest.approx([end.u[0], end.v[0]], rel=1e-9)
        assert found["result"]["unequal"][method] == pytest.approx(
            end.u[0] ** 2 - end.v[0] ** 2, rel=1e-9
        )
    u, v = (np.array([w]) for w in found["result"]["here"])
    for k, (du, dv) in enumerate(found["result"]["moves"]):
        rows = slice(m * k, m * k + m)
        uphill = sam_step(x[rows, None], y[rows], u, v, rho=0, m=len(y[rows]), step_size=-0.2)
        move = [float(after[0] - before[0]) for after, before in zip(uphill, (u, v), strict=True)]
        assert [du, dv] == pytest.approx(move, rel=1e-9, abs=1e-15)
