"""Where alpha shrinks, against samkit.diagonal: what its flow says of the same problem."""

import numpy as np
import pytest

from samkit.diagonal import SparseRegression, flow, train
from tools import interactive as outside

STOPS = [20, 10, 5, 4, 2, 1]


def array(typed):
    return np.array(list(typed.values()))


@pytest.mark.parametrize("state", [{}, {"seed": 3, "init": 0.06, "rho": 0.05}])
def test_what_alpha_loses(state):
    shown = outside.computed("shrinkage", state)
    rho, init, seed = (shown["state"][name] for name in ("rho", "init", "seed"))
    problem = SparseRegression.sample(seed=seed)
    common = {"step_size": 1 / 6, "steps": 10_001, "init": init}
    for m in (20, 1):  # the groups of which do not depend on a draw
        run = train(problem, rho=rho, m=m, **common)
        found = shown["result"]["runs"][STOPS.index(m)]
        assert array(found["beta"]) == pytest.approx(run.beta, rel=1e-9, abs=1e-9)
        assert found["l1"] == pytest.approx(np.abs(run.beta).sum(), rel=1e-9)
        assert found["test"] == pytest.approx(run.test_loss[-1], rel=1e-9)
        # of the flow, which the steps follow
        limit = flow(problem, rho=rho, m=m, init=init)
        assert np.abs(array(found["lost"]) - limit.int_B).max() < 0.15 * limit.int_B.max()
    erm = train(problem, **common)
    assert shown["result"]["erm"]["l1"] == pytest.approx(np.abs(erm.beta).sum(), rel=1e-9)


def test_the_loss_leaves_the_support_as_m_falls():
    """What the page says: at m = n on the support, at m = 1 everywhere."""
    runs = outside.computed("shrinkage")["result"]["runs"]
    lost = np.array([array(run["lost"]) for run in runs])
    share = lost[:, 3:].mean(axis=1) / lost[:, :3].mean(axis=1)
    assert (np.diff(share) > 0).all() and share[0] < 0.25 and share[-1] > 0.8
    assert runs[0]["l1"] > outside.computed("shrinkage")["result"]["erm"]["l1"] > runs[-1]["l1"]
