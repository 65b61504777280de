"""The switch of Figure 8 in the page against the records."""

import numpy as np
import pytest

from samkit.paper import protocol
from samkit.paper.experiments import frame
from samkit.paper.experiments.small_networks import Stage
from tools import interactive as outside

NAMES = {"cosine": "{}", "divided by ten": "{}, piecewise"}
SHARES = {"cosine": (0, 0.25, 0.5, 0.75, 1), "divided by ten": (0, 0.5, 1)}


def errors(schedule, direction, share):
    """Test errors in percent of the runs that begin with one method and change to the other."""
    first, then = direction.split(" → ")
    method = {0: then, 1: first}.get(share, f"{first} to {then} at {share:g}")
    method = "ERM, rate of 16-SAM" if method == "ERM" else method
    return 100 * protocol.errors("mnist1d", NAMES[schedule].format(method))


@pytest.mark.parametrize("schedule", SHARES)
@pytest.mark.parametrize("direction", ["ERM → 16-SAM", "16-SAM → ERM"])
def test_means_and_intervals(schedule, direction):
    state = {"schedule": schedule, "direction": direction, "at": 0.5}
    result = outside.computed("switch-on", state)["result"]
    erm = errors(schedule, "ERM → 16-SAM", 1)
    points = result["points"][direction]
    assert [point["share"] for point in points] == list(SHARES[schedule])
    for point in points:
        found = errors(schedule, direction, point["share"])
        for name, values in (("error", found), ("gain", erm - found)):
            low, high = frame.interval(values)
            assert point[name]["mean"] == pytest.approx(values.mean(), abs=1e-9)
            assert point[name]["half"] == pytest.approx((high - low) / 2, rel=1e-6, abs=1e-9)
    assert result["here"]["share"] == 0.5


@pytest.mark.parametrize("schedule, name", [("cosine", "cosine"), ("divided by ten", "piecewise")])
def test_the_share_of_the_step_sizes_is_that_of_the_training(schedule, name):
    stage = Stage(schedule=name)
    rates = np.array([stage.rate(t / 10_000) for t in range(10_000)])
    for share in (0.25, 0.5, 0.75):
        shown = outside.run("switch-on", "steps", schedule, share)
        assert shown == pytest.approx(rates[: round(share * 10_000)].sum() / rates.sum(), abs=1e-4)


def test_the_numbers_beside_the_picture():
    state = {"direction": "16-SAM → ERM", "at": 0.5}
    say = outside.computed("switch-on", state)["say"]
    end = errors("cosine", "16-SAM → ERM", 0.5)
    erm, sam = (errors("cosine", "ERM → 16-SAM", share) for share in (1, 0))
    low, high = frame.interval(end)
    assert say["error at the end"] == f"{end.mean():.1f} ± {(high - low) / 2:.1f} %"
    share = (erm.mean() - end.mean()) / (erm.mean() - sam.mean())
    assert say["share of 16-SAM's gain"] == f"{100 * share:.0f} %"
