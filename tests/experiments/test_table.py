import numpy as np
import pytest
from scipy import stats

from samkit.experiments.table import by_setting, interval


def test_the_interval_is_that_of_the_t_test():
    values = np.random.default_rng(0).normal(size=7)
    mean, half = interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx(tuple(expected))
    assert interval([2.0])[0] == 2.0 and np.isnan(interval([2.0])[1])


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
