import numpy as np
import pytest
from scipy import stats

from samkit.paper.experiments.table import (
    bounds,
    by_setting,
    interval,
    paired,
    prediction_interval,
    text,
)


def test_the_interval_is_that_of_the_t_test():
    values = np.random.default_rng(0).normal(size=7)
    mean, half = interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx(tuple(expected))
    assert interval([2.0])[0] == 2.0 and np.isnan(interval([2.0])[1])
    assert bounds(values) == pytest.approx(tuple(expected)) and bounds([2.0]) == (-np.inf, np.inf)


def test_differences_are_paired_by_seed_and_diverged_runs_counted():
    def record(method, seed, error):
        metrics = {"diverged_step": 3} if error is None else {"error": error}
        return {"config": {"method": method}, "seed": seed, "metrics": metrics}

    errors = {"ERM": [0.5, 0.7, 0.9], "SAM": [0.4, None, 0.7]}
    records = [record(m, seed, e) for m, row in errors.items() for seed, e in enumerate(row)]
    erm, sam = by_setting(
        records,
        lambda config: config,
        {"error": lambda metrics: metrics.get("error")},
        against=lambda setting: setting["method"] == "ERM",
    )
    assert erm["error"] == pytest.approx(0.7) and "error - base" not in erm
    assert (sam["runs"], sam["diverged"]) == (3, 1)
    mean, half = interval([0.4 - 0.5, 0.7 - 0.9])
    assert sam["error - base"] == pytest.approx(mean)
    assert sam["error - base +-"] == pytest.approx(half)


def test_only_runs_within_one_data_set_are_compared():
    errors = {("a", "ERM"): 0.5, ("b", "ERM"): 0.3, ("a", "SAM"): 0.4, ("b", "SAM"): 0.1}
    records = [
        {"config": {"data": d, "method": m}, "seed": 0, "metrics": {"error": e}}
        for (d, m), e in errors.items()
    ]
    rows = by_setting(
        records,
        lambda config: config,
        {"error": lambda metrics: metrics["error"]},
        against=lambda setting: setting["method"] == "ERM",
        within=lambda config: config["data"],
    )
    assert [row["data"] for row in rows] == ["a", "a", "b", "b"]
    assert [row.get("error - base") for row in rows] == pytest.approx([None, -0.1, None, -0.2])


def test_text_has_aligned_columns_and_intervals():
    rows = [
        {"method": "ERM", "m": None, "error": 0.25, "error +-": 0.0123, "rho": 0.0},
        {"method": "m-SAM", "m": 16, "error": 0.1234, "error +-": float("nan"), "rho": 0.1},
        {"method": "SAM", "m": 128, "rho": 0.3},
    ]
    assert text(rows, ["method", "m", "rho", "error"]).split("\n") == [
        "method  m    rho  error",
        "ERM     -    0    0.250 +- 0.012",
        "m-SAM   16   0.1  0.123",  # a single seed has no interval
        "SAM     128  0.3  -",
    ]
    assert text(rows[:1], ["error"], digits=1) == "error\n0.2 +- 0.0"


def test_a_paired_difference_is_that_of_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=6), rng.normal(size=6)
    runs = [
        {"config": {"method": method}, "seed": seed, "metrics": {"error": float(error)}}
        for method, errors in (("SAM", a), ("ERM", b))
        for seed, error in enumerate(errors)
    ]
    runs[8]["metrics"] = {"diverged_step": 1}  # seed 2 of ERM: the pair does not count
    shared = [0, 1, 3, 4, 5]

    def compare(first, then):
        return paired(
            runs,
            lambda metrics: metrics.get("error"),
            lambda config: config["method"] == first,
            lambda config: config["method"] == then,
        )

    expected = stats.ttest_rel(a[shared], b[shared]).confidence_interval(0.95)
    assert compare("SAM", "ERM") == pytest.approx(tuple(expected))
    with pytest.raises(ValueError, match=r"seeds that both sides have; found none"):
        compare("SAM", "n-SAM")
    del runs[7:]  # one seed of ERM is left, which decides nothing
    assert compare("SAM", "ERM") == (-np.inf, np.inf)
    runs.append(runs[0])
    with pytest.raises(ValueError, match="two runs of seed 0 are picked"):
        compare("SAM", "ERM")


def test_a_prediction_interval_holds_95_percent_of_reruns_and_is_wider_than_that_of_the_mean():
    draws = np.random.default_rng(0).normal(2.0, 3.0, size=(4000, 6))
    held = 0
    for *earlier, rerun in draws:
        low, high = prediction_interval(earlier)
        held += low <= rerun <= high
        mean, half = interval(earlier)
        assert low < mean - half and mean + half < high
    assert held / len(draws) == pytest.approx(0.95, abs=0.015)
    with pytest.raises(ValueError, match="at least two earlier runs, not 1"):
        prediction_interval([1.0])
