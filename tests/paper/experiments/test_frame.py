import numpy as np
import pandas as pd
import pytest
from scipy import stats

from samkit.paper.experiments.frame import (
    by_seed,
    compare,
    frame,
    interval,
    pick,
    prediction_interval,
    seeds_needed,
    share,
    summarize,
)


def made_up(**errors):
    """Runs of several methods, one column an error for each seed; None diverged."""
    return frame(
        [
            {
                "config": {"method": method},
                "seed": seed,
                "metrics": {} if e is None else {"error": e},
            }
            for method, row in errors.items()
            for seed, e in enumerate(row)
        ],
        dict,
    )


def test_the_interval_is_that_of_the_t_test():
    values = np.random.default_rng(0).normal(size=7)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert interval(values) == pytest.approx(tuple(expected))
    assert interval([2.0]) == (-np.inf, np.inf)


def test_the_interval_of_correlations_stays_a_correlation():
    rng = np.random.default_rng(0)
    for true in (-0.95, 0.0, 0.9):
        held = 0
        for _ in range(300):
            z = np.arctanh(true) + 0.3 * rng.normal(size=5)
            low, high = interval(np.tanh(z), correlations=True)
            assert -1 <= low <= high <= 1
            held += low <= true <= high
        assert held / 300 == pytest.approx(0.95, abs=0.04)
    low, high = interval([1.0, 1.0, 0.9], correlations=True)
    assert low < 0.99 and high <= 1
    assert interval([0.3], correlations=True) == (-1, 1)


def test_a_comparison_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=6), rng.normal(size=6)
    runs = made_up(SAM=a.tolist(), ERM=[*b[:2].tolist(), None, *b[3:].tolist()])
    shared = [0, 1, 3, 4, 5]  # seed 2 of ERM diverged: the pair does not count
    expected = stats.ttest_rel(a[shared], b[shared]).confidence_interval(0.95)
    pair = {"method": "SAM"}, {"method": "ERM"}
    assert compare(runs, "error", *pair) == pytest.approx(tuple(expected))
    with pytest.raises(ValueError, match=r"there is no run with \{'method': 'n-SAM'\}"):
        compare(runs, "error", pair[0], {"method": "n-SAM"})
    one = runs[(runs["method"] == "SAM") | (runs["seed"] == 0)]
    assert compare(one, "error", *pair) == (-np.inf, np.inf)
    none = runs[(runs["method"] == "SAM") | (runs["seed"] == 2)]
    with pytest.raises(ValueError, match="seeds that both sides have; there are none"):
        compare(none, "error", *pair)
    with pytest.raises(ValueError, match="two runs of seed 0 have"):
        by_seed(pd.concat([runs, runs]), "error", pair[0])


def test_missing_values_are_picked_by_none():
    runs = pd.DataFrame({"m": [None, 16.0], "seed": [0, 0]})
    assert pick(runs, {"m": None}).index.tolist() == [0]
    assert pick(runs, {"m": 16}).index.tolist() == [1]


def test_a_summary_has_means_intervals_and_differences():
    runs = made_up(ERM=[0.5, 0.7, 0.9], SAM=[0.4, None, 0.7])
    erm, sam = summarize(runs, ["method"], ["error"], against={"method": "ERM"}).to_dict("records")
    assert erm["error"] == "0.700 ± 0.497" and sam["runs"] == 3
    assert sam["error - base"] == f"-0.150 ± {stats.t.ppf(0.975, 1) * 0.05:.3f}"


def test_differences_are_taken_within_one_data_set():
    rows = [("a", "ERM", 0.5), ("b", "ERM", 0.3), ("a", "SAM", 0.4), ("b", "SAM", 0.1)]
    runs = pd.DataFrame(rows, columns=["data", "method", "error"]).assign(seed=0)
    found = summarize(runs, ["data", "method"], ["error"], against={"method": "ERM"})
    assert found["error - base"].tolist()[2:] == ["-0.100", "-0.200"]


def test_a_prediction_interval_holds_95_percent_of_reruns_and_is_wider_than_that_of_the_mean():
    draws = np.random.default_rng(0).normal(2.0, 3.0, size=(4000, 6))
    held = 0
    for *earlier, rerun in draws:
        low, high = prediction_interval(earlier)
        held += low <= rerun <= high
        inner = interval(earlier)
        assert low < inner[0] and inner[1] < high
    assert held / len(draws) == pytest.approx(0.95, abs=0.015)
    with pytest.raises(ValueError, match="at least two earlier runs, not 1"):
        prediction_interval([1.0])


def test_a_share_is_the_ratio_whose_contrast_has_zero_at_an_end_of_its_interval():
    rng = np.random.default_rng(0)
    whole = pd.Series(0.05 + 0.01 * rng.standard_normal(10))
    part = 0.4 * whole + pd.Series(0.01 * rng.standard_normal(10))
    low, high = share(part, whole)
    assert low < part.mean() / whole.mean() < high
    assert interval(part - low * whole)[0] == pytest.approx(0, abs=1e-12)
    assert interval(part - high * whole)[1] == pytest.approx(0, abs=1e-12)
    assert share(part, whole - whole.mean()) == (-np.inf, np.inf)
    with pytest.raises(ValueError, match="two seeds"):
        share(part[:1], whole)


def test_that_many_seeds_decide_nine_times_of_ten_and_one_fewer_do_not():
    values = pd.Series([0.1, 0.12, 0.08, 0.11, 0.09])
    n = seeds_needed(values, 0.02)
    draws = np.random.default_rng(0).normal(0.02, values.std(), size=(40_000, n))
    power = [
        np.mean(stats.ttest_1samp(drawn, 0.0, axis=1).confidence_interval(0.95).low >= 0)
        for drawn in (draws[:, 1:], draws)
    ]
    assert power[0] < 0.9 <= power[1] < 0.95
    assert seeds_needed(values, 0.01) > 3 * n
