"""What smaller groups gain; that the numbers are samkit's is tested in test_recorded.py."""

import numpy as np
import pytest

from samkit.theory.objectives import variance_factor
from tools import interactive as outside


def gain(data):
    return outside.computed("gain", {"data": data})["result"]


def test_the_mean_of_three_problems_and_its_standard_error():
    each, shown = [gain(f"problem {k}") for k in range(3)], gain("mean of three problems")
    assert shown["law"] == pytest.approx(np.mean([one["law"] for one in each], 0))
    for found, *alone in zip(shown["measured"], *(one["measured"] for one in each), strict=True):
        values = [one["gain"] for one in alone]
        assert {one["m"] for one in alone} == {found["m"]}
        assert found["gain"] == pytest.approx(np.mean(values))
        assert found["error"] == pytest.approx(np.std(values, ddof=1) / 3**0.5)


@pytest.mark.parametrize("data", ["mean of three problems", "problem 0", "problem 2"])
def test_both_parts_follow_the_law_in_m(data):
    shown = gain(data)
    factor = variance_factor(20, np.arange(1, 21))
    for part in (shown["off"], shown["on"]):
        line = part[-1] + factor * (part[0] - part[-1])
        assert part == pytest.approx(line, abs=2e-4)
    assert max(shown["off"]) < 0 < min(shown["on"])
    assert shown["law"] == pytest.approx(np.add(shown["off"], shown["on"]))


def test_the_words_say_what_the_numbers_are():
    shown = outside.computed("gain", {"m": 2})
    measured = {one["m"]: one["gain"] for one in shown["result"]["measured"]}
    lower = [round(100 * (1 - 10**log)) for log in (shown["result"]["law"][1], measured[2])]
    assert (
        "to be {} % lower than that of plain training, and is {} % lower.".format(*lower)
        in shown["tell"]
    )
    assert "not run" in outside.computed("gain", {"m": 3})["say"]["measured"]
