"""The figures of recorded runs show what the records say; their modules are in step with them."""

import numpy as np
import pytest

from samkit.paper import protocol, records
from samkit.paper.experiments import frame
from tools import interactive as outside


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "gain-data" else ())
        for name in outside.RECORDED
    ],
)
def test_the_data_are_in_step_with_the_records(name):
    stored = (outside.interactive.ESM / f"{name}.mjs").read_text(encoding="utf-8")
    assert stored == outside.RECORDED[name](), "run: python -m tools.interactive write"
    assert len(stored) < 10_000


def mean_and_half(values):
    low, high = frame.interval(values)
    return pytest.approx((np.mean(values), (high - low) / 2), rel=1e-6)


def test_the_map_of_m_and_radius():
    shown = outside.computed("role-map", {"m": 16})["result"]
    tuned = protocol.tuned_frame("mnist1d")
    for cell in shown["cells"]:
        method = f"{cell['m']}-SAM" if cell["m"] else "ERM"
        own = tuned[(tuned["method"] == method) & (tuned["rho"] == cell["rho"])]
        assert cell["tuned"] == pytest.approx(own["validation_error"].min(), abs=1e-6)
        if cell["judged"]:
            assert protocol.chosen("mnist1d", method)[1] == cell["rho"]
            errors = protocol.errors("mnist1d", method)
            assert tuple(cell["judged"].values()) == mean_and_half(errors)
    assert sum(cell["judged"] is not None for cell in shown["cells"]) == 6
    assert shown["here"] == shown["best"]["16"]


def test_the_same_error_at_another_radius():
    found = outside.computed("role-map", {"m": 64, "radius": 1})["result"]
    assert found["here"]["rho"] == max(c["rho"] for c in found["cells"] if c["m"] == 64)
    whole = {c["rho"]: c["tuned"] for c in found["cells"] if c["m"] == 128}
    (short, high), (long, low) = sorted(whole.items())[:2]
    assert high > found["here"]["tuned"] > low
    expected = np.interp(found["here"]["tuned"], [low, high], np.log([long, short]))
    assert np.log(found["same"]) == pytest.approx(expected, rel=1e-9)
    assert outside.computed("role-map", {"m": 16})["result"]["same"] is None


@pytest.mark.parametrize(
    "noise, name",
    [
        ("60 % symmetric", "{}, 60 %"),
        ("40 % symmetric", "{}"),
        ("40 % asymmetric", "{}, asymmetric"),
    ],
)
def test_right_and_wrong_labels(noise, name):
    shown = outside.computed("labels", {"noise": noise})["result"]
    for method in ("ERM", "128-SAM", "16-SAM"):
        histories = protocol.errors("mnist1d-noise40", name.format(method), "history")
        for part, series in (("right", "train_clean_error"), ("wrong", "train_noisy_error")):
            expected = 1 - np.mean([history[series] for history in histories], axis=0)
            assert shown[method][part] == pytest.approx(expected, abs=0.5e-4 + 1e-9)
        expected = np.mean([history["validation_error"] for history in histories], axis=0)
        assert shown[method]["validation"] == pytest.approx(expected, abs=0.5e-4 + 1e-9)


@pytest.mark.parametrize(
    "network, net", [("MLP on a CPU", "mlp"), ("ResNet-18 on a GPU", "resnet18, cuda")]
)
def test_the_price_of_a_step(network, net):
    rows = {row["m"]: row for row in records.load("bench_msam")[net]["rows"]}
    for m in (1, 128):
        shown = outside.computed("price", {"network": network, "m": m})["result"]["here"]
        for way in ("loop", "ghost", "auto"):
            assert shown[way] == pytest.approx(rows[m][f"{way} / sgd"], abs=5e-4)


@pytest.mark.parametrize(
    "method, name, task",
    [
        ("random", "random", "mnist1d-random"),
        ("n-SAM previous", "n-SAM, previous batch", "mnist1d"),
        ("128-SAM", "128-SAM", "mnist1d"),
    ],
)
def test_the_radius_and_the_gain_of_a_way_to_perturb(method, name, task):
    rate, rho = protocol.chosen(task, name)
    found = outside.computed("radius", {"method": method, "rho": rho})
    here = found["result"]["here"]
    assert here["tuned"] == pytest.approx(protocol.tuned(task, name)[rate, rho], abs=1e-6)
    differences = protocol.errors("mnist1d", "ERM") - protocol.errors(task, name)
    assert here["gain"] == pytest.approx(frame.interval(differences), abs=1e-6)
    if method != "128-SAM":
        sam = protocol.errors("mnist1d", "ERM") - protocol.errors("mnist1d", "128-SAM")
        share = differences.mean() / sam.mean()
        assert f"That is {100 * share:.0f} % of what SAM gains" in found["tell"]


def test_the_nearest_radius_that_was_run_is_shown():
    found = outside.computed("radius", {"method": "random", "rho": 0.3})
    assert found["result"]["here"]["rho"] == 0.7
    assert "the nearest that was run" in found["tell"]


def test_a_switch_changes_the_gain_by_what_the_seeds_say():
    sam = protocol.errors("mnist1d", "128-SAM")
    ten = outside.computed("switches", {"at": 0})["result"]["shown"]
    change = sam - protocol.errors("mnist1d-unnormalized", "128-SAM, unnormalized")
    assert ten[0]["change"] == pytest.approx(frame.interval(change), abs=1e-6)
    smooth = protocol.errors("mnist1d", "ERM, softplus") - protocol.errors(
        "mnist1d", "128-SAM, softplus"
    )
    change = smooth - (protocol.errors("mnist1d", "ERM") - sam)
    assert ten[3]["change"] == pytest.approx(frame.interval(change), abs=1e-6)
    sixty = outside.computed("switches", {"at": 5, "seeds": "sixty new seeds"})["result"]
    lead = protocol.gain("mnist1d", "128-SAM", "n-SAM", second=True)
    assert sixty["here"]["change"] == pytest.approx(lead, abs=1e-6)
    assert [one["many"] for one in sixty["shown"]].count("sixty") == 2


@pytest.mark.parametrize(
    "ends, words",
    [
        ((-0.009, 0.009), "no difference that counts"),
        ((-0.03, -0.011), "a loss that counts"),
        ((0.011, 0.03), "a gain that counts"),
        ((-0.03, -0.001), "a loss, and it is open whether it counts"),
        ((0.001, 0.03), "a gain, and it is open whether it counts"),
        ((-0.03, 0.001), "not decided"),
    ],
)
def test_the_verdict_on_a_switch_is_that_of_its_interval(ends, words):
    assert outside.run("switches", "verdict", ends) == words
