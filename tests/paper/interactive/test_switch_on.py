"""The switch of Figure 8 in the page against the records."""

import numpy as np
import pytest

from samkit.paper import interactive, records
from samkit.paper.experiments import fig08_fine_tuning, frame
from tools import interactive as outside

RECORDS = records.runs("fig08_fine_tuning", "laptop")
AT = (0, 10, 25, 50, 75, 90, 100)


def chosen(first, at):
    """Records by seed of the runs that start with ERM or 16-SAM and change to the other one."""
    if at == 0:
        first, at = ("16-SAM" if first == "ERM" else "ERM"), 100
    found = {}
    for record in RECORDS:
        recipes = record["config"]["recipes"]
        name = fig08_fine_tuning.name(recipes[0])
        switch = recipes[0]["switch"][0][0] if recipes[0]["switch"] else 100
        wide = len(recipes) == 2 and recipes[1]["perturbation"]["m"] == 128
        if (name, switch) == (first, at) and not wide:
            found[record["seed"]] = record["metrics"]["history"]
    assert sorted(found) == [0, 1, 2, 3, 4]
    return [found[seed] for seed in range(5)]


def test_the_stored_runs_are_in_step_and_small():
    stored = (interactive.ESM / "switch-data.mjs").read_text(encoding="utf-8")
    assert stored == outside.switch_data(), "run: python -m tools.interactive write"
    assert len(stored) < 40_000


def interval(values):
    """Mean, and half the width of its interval."""
    low, high = frame.interval(values)
    return np.mean(values), (high - low) / 2


@pytest.mark.parametrize("direction", ["ERM → 16-SAM", "16-SAM → ERM"])
@pytest.mark.parametrize("measure", ["test", "validation"])
def test_means_and_intervals(direction, measure):
    first = direction.split(" → ")[0]
    for k, at in enumerate(AT):
        runs = np.array([run[f"{measure}_error"][:100] for run in chosen(first, at)]) * 100
        erm = np.array([run[f"{measure}_error"][99] for run in chosen("ERM", 100)]) * 100
        state = {"direction": direction, "measure": measure, "at": k}
        result = outside.computed("switch-on", state)["result"]
        assert result["at"] == at
        end = result["ends"][direction][k]
        assert [end["mean"], end["half"]] == pytest.approx(interval(runs[:, -1]), rel=1e-9)
        assert [point["mean"] for point in result["curve"]] == pytest.approx(runs.mean(0), rel=1e-9)
        halves = [interval(runs[:, epoch])[1] for epoch in range(100)]
        assert [point["half"] for point in result["curve"]] == pytest.approx(halves, rel=1e-9)
        difference = [result["difference"]["mean"], result["difference"]["half"]]
        assert difference == pytest.approx(interval(runs[:, -1] - erm), rel=1e-9, abs=1e-12)


def test_one_seed():
    result = outside.computed("switch-on", {"seed": "3", "at": 1, "measure": "test"})["result"]
    run = chosen("ERM", 10)[3]["test_error"]
    assert [point["mean"] for point in result["curve"]] == pytest.approx(np.array(run) * 100)
    assert {point["half"] for point in result["curve"]} == {0}


def test_the_numbers_beside_the_picture():
    say = outside.computed("switch-on", {"direction": "16-SAM → ERM", "at": 3, "measure": "test"})[
        "say"
    ]
    end, erm, sam = (
        interval([run["test_error"][99] * 100 for run in chosen(*which)])
        for which in (("16-SAM", 50), ("ERM", 100), ("16-SAM", 100))
    )
    assert say["error at the end"] == f"{end[0]:.1f} ± {end[1]:.1f} %"
    assert say["share of 16-SAM's gain"] == f"{100 * (erm[0] - end[0]) / (erm[0] - sam[0]):.0f} %"
