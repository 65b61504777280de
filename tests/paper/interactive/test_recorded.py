"""The figures of recorded runs show what the records say; their modules are in step with them."""

import numpy as np
import pytest

from samkit.paper import records
from samkit.paper.experiments import fig12_label_noise, frame
from tools import interactive as outside


@pytest.mark.parametrize("name", outside.RECORDED)
def test_the_data_are_in_step_with_the_records(name):
    stored = (outside.interactive.ESM / f"{name}.mjs").read_text(encoding="utf-8")
    assert stored == outside.RECORDED[name](), "run: python -m tools.interactive write"


def test_the_map_of_m_and_radius():
    shown = outside.computed("role-map", {"m": 16, "rho": 0.4})["result"]
    for cell in shown["cells"]:
        errors = [
            record["metrics"]["test_error"]
            for record in records.runs("fig02_role_of_m", "laptop")
            for recipe in record["config"]["recipes"]
            if record["config"]["data"] == "mnist1d" and recipe["perturbation"]["steps"] == 1
            if (recipe["perturbation"]["m"] if recipe["perturbation"]["rho"] else 0) == cell["m"]
            and recipe["perturbation"]["rho"] == cell["rho"]
        ]
        assert cell["mean"] == pytest.approx(np.mean(errors), rel=1e-9)
        low, high = frame.interval(errors)
        assert cell["half"] == pytest.approx((high - low) / 2, rel=1e-6)
    assert shown["here"] == shown["best"]["16"]


def test_the_same_error_at_another_radius():
    found = outside.computed("role-map", {"m": 16, "rho": 0.1})["result"]
    whole = {c["rho"]: c["mean"] for c in found["cells"] if c["m"] == 128}
    (short, high), (long, low) = sorted(whole.items())[:2]
    assert high > found["here"]["mean"] > low
    expected = np.interp(found["here"]["mean"], [low, high], np.log([long, short]))
    assert np.log(found["same"]) == pytest.approx(expected, rel=1e-9)
    assert outside.computed("role-map", {"m": 16, "rho": 0.4})["result"]["same"] is None


@pytest.mark.parametrize("noise", ["60 % symmetric", "40 % symmetric", "40 % asymmetric"])
def test_right_and_wrong_labels(noise):
    share, kind = noise.split(" % ")
    shown = outside.computed("labels", {"noise": noise})["result"]
    for method in ("ERM", "128-SAM", "16-SAM"):
        histories = [
            record["metrics"]["history"]
            for record in records.runs("fig12_label_noise", "laptop")
            if record["config"]["noise"] == int(share) / 100
            and record["config"]["noise_kind"] == kind
            and fig12_label_noise.name(record["config"]["recipes"][0]) == method
        ]
        for name, series in (("right", "train_clean_error"), ("wrong", "train_noisy_error")):
            expected = 1 - np.mean([history[series] for history in histories], axis=0)
            assert shown[method][name] == pytest.approx(expected, abs=0.5e-4 + 1e-9)
        test = np.mean([history["test_error"] for history in histories], axis=0)
        assert shown[method]["test"] == pytest.approx(test, abs=0.5e-4 + 1e-9)
