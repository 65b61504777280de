"""The ReLU network in the page against samkit.training.relu1d, its start against a twin."""

import numpy as np
import pytest

from samkit.paper.experiments.fig07_relu_network import X, Y
from samkit.training import relu1d
from tools import interactive as outside


def random_bits(seed):
    """The generator of relu1d.mjs: a counter, mixed, in 32 bits."""
    state = (seed + 1) * 0x9E3779B9 % 2**32
    while True:
        state = (state + 0x6D2B79F5) % 2**32
        z = (state ^ (state >> 15)) * (state | 1) % 2**32
        z ^= (z + (z ^ (z >> 7)) * (z | 61)) % 2**32
        yield z ^ (z >> 14)


def start(hidden, seed):
    bits = random_bits(seed)

    def uniform():
        return (next(bits) + 0.5) / 2**32

    def normal():
        return np.sqrt(-2 * np.log(uniform())) * np.cos(2 * np.pi * uniform())

    w = [-2.5 if uniform() < 0.5 else 2.5 for _ in range(hidden)]
    b = [2.5 * normal() for _ in range(hidden)]
    return np.array([w, b, [4 * normal() for _ in range(hidden)]])


def as_rows(net):
    return np.array(
        [[*row.values()] if isinstance(row, dict) else row for row in map(net.get, "wba")]
    )


def deviation(net, expected):
    """Of the weights, relative to the largest."""
    return np.abs(as_rows(net) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("hidden, seed", [(5, 0), (50, 2), (100, 7)])
def test_the_start_is_the_twins(hidden, seed):
    expected = start(hidden, seed)
    assert as_rows(outside.run("relu1d", "start", hidden, seed)) == pytest.approx(
        expected, rel=1e-13
    )


def test_the_start_has_the_authors_distribution():
    w, b, a = np.concatenate([start(100, seed) for seed in range(40)], axis=1)
    assert set(w) == {-2.5, 2.5} and abs(w.mean()) < 0.2
    for row, spread in ((b, 2.5), (a, 4.0)):
        assert abs(row.mean()) < 0.05 * spread
        assert row.std() == pytest.approx(spread, rel=0.05)
        assert np.mean(np.abs(row) < spread) == pytest.approx(0.683, abs=0.03)


@pytest.mark.parametrize(
    "hidden, seed, step_size, rho, m, steps",
    [
        (100, 0, 5e-5, 0.0, 12, 10_000),
        (100, 0, 5e-5, 0.3, 12, 10_000),
        (100, 1, 5e-5, 0.3, 1, 10_000),
        (100, 2, 2e-4, 0.3, 4, 1000),
        (50, 2, 3e-4, 0.3, 12, 10_000),
        (50, 2, 3e-4, 0.1, 1, 10_000),
        (30, 5, 3e-4, 0.6, 5, 1000),  # groups of 5, 5 and 2
    ],
)
def test_training(hidden, seed, step_size, rho, m, steps):
    net, y = start(hidden, seed), Y + 0.1 * np.cos(np.arange(12))
    given = {"rho": rho, "m": m, "decay": rho > 0, "steps": steps}
    expected = relu1d.train(net, X, y, step_size=step_size, **given)
    data = {"net": dict(zip("wba", net.tolist(), strict=True)), "x": X.tolist(), "y": y.tolist()}
    found = outside.run("relu1d", "train", {**data, **given, "stepSize": step_size})
    assert found["step"] == steps
    assert deviation(found["net"], expected.net) < 1e-9
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-9)


def test_it_stops_where_samkit_stops():
    net = start(50, 2)
    given = {"rho": 0.0, "m": 12, "decay": False, "steps": 30_000}
    expected = relu1d.train(net, X, Y, step_size=3e-4, until=0.02, **given)
    data = {"net": dict(zip("wba", net.tolist(), strict=True)), "x": X.tolist(), "y": Y.tolist()}
    found = outside.run("relu1d", "train", {**data, **given, "stepSize": 3e-4, "enough": 0.02})
    assert 100 < found["step"] == expected.steps < 30_000
    assert found["loss"] == pytest.approx(expected.loss, rel=1e-9)


STATES = [
    {},
    {"m": 1, "rho": 0.1},
    {"m": 4, "rho": 0.5, "hidden": 100, "seed": 3, "stepSize": 1e-4, "steps": 20_000},
    {"moved": "3.-12_9.20", "ahead": 2000},
]


@pytest.mark.parametrize("state", STATES)
def test_numbers_of_the_figure(state):
    found = outside.computed("relu-network", state)
    state, result = found["state"], found["result"]
    ahead = int(min(state["ahead"], state["steps"]))
    y = Y.copy()
    for part in filter(None, state["moved"].split("_")):
        point, tenths = map(int, part.split("."))
        y[point - 1] += tenths / 10
    assert result["y"] == pytest.approx(y, rel=1e-12)
    for name, rho, m in (("ERM", 0.0, 12), ("SAM", state["rho"], state["m"])):
        stops = [step for step, _ in result[name]["losses"]]
        expected = relu1d.train(
            start(state["hidden"], state["seed"]),
            X,
            y,
            rho=rho,
            m=m,
            step_size=state["stepSize"],
            decay=rho > 0,
            steps=int(state["steps"]),
            until=1e-5,
            record_at=[*stops, ahead],
        )
        recorded = dict(expected.losses)
        done = expected.losses[-1][0] if expected.loss <= 1e-5 else ahead
        assert result[name]["step"] == min(done, ahead)
        assert result[name]["loss"] == pytest.approx(recorded[min(done, ahead)], rel=1e-9)
        assert [loss for _, loss in result[name]["losses"]] == pytest.approx(
            [recorded[step] for step in stops], rel=1e-9
        )
        net = as_rows(result[name]["net"])
        kinks = relu1d.kinks(net, X[0], X[-1])
        shown = "ERM" if name == "ERM" else f"{m}-SAM"
        assert found["say"][f"{shown}: kinks"] == f"{kinks}" and kinks > 5
        given = dict(zip("wba", net.tolist(), strict=True))
        path_norm = outside.run("relu1d", "pathNorm", given)
        assert path_norm == pytest.approx(relu1d.path_norm(net), rel=1e-12)
        assert found["say"][f"{shown}: path norm"] == outside.run("kit", "num", path_norm)


def test_the_function_and_where_it_bends():
    net = start(60, 4)
    given = dict(zip("wba", net.tolist(), strict=True))
    x = np.linspace(-2, 2, 41)
    assert outside.run("relu1d", "values", given, x.tolist()) == pytest.approx(
        relu1d.values(net, x)
    )
    at, change = relu1d.slope_changes(net, X[0], X[-1])
    found = outside.run("relu1d", "slopeChanges", given, X[0], X[-1])
    assert [kink["at"] for kink in found] == pytest.approx(at, rel=1e-12)
    assert [kink["change"] for kink in found] == pytest.approx(change, rel=1e-12)
    marked = outside.run("relu1d", "kinks", given, X[0], X[-1])
    assert len(marked) == relu1d.kinks(net, X[0], X[-1])
    assert all(min(abs(at - kink)) <= (X[-1] - X[0]) / 200 * (1 + 1e-9) for kink in marked)


def test_frames_go_on_where_the_start_ended():
    script = """Promise.all([import(process.argv[1]), import(process.argv[2])]).then(([kit, m]) => {
        const f = m.default.figure, start = {...kit.defaults(f), ahead: 700, speed: 100};
        let result = f.compute(start);
        for (let k = 0; k < 3; k++) result = f.tick(start, result);
        const straight = f.compute({...start, ahead: 1000});
        const late = {...start, steps: 1000};
        const end = [f.tick(late, f.compute({...late, ahead: 950})).SAM.step];
        end.push(f.tick(late, f.compute({...late, ahead: 1000})) === undefined);
        console.log(JSON.stringify([f.say(start, result), f.say(start, straight), end]));
    })"""
    modules = [
        (outside.interactive.ESM / f"{part}.mjs").as_uri() for part in ("kit", "relu-network")
    ]
    played, straight, end = outside._node(script, *modules)
    assert played == straight and ["step", "1,000 of 100,000"] in played
    assert end == [1000, True]


@pytest.mark.parametrize(
    "text, kept",
    [
        ("", ""),
        ("9.20_3.-12", "3.-12_9.20"),
        ("1.99", "1.52"),  # not out of the drawing: from -1.655 to 3.5
        ("1.-99", "1.-10"),
        ("0.3_13.4_2.x_4.1.5_junk_5.0_6.2_6.3", "4.1_6.2"),
    ],
)
def test_moved_points_in_the_address(text, kept):
    found = outside.computed("relu-network", {"moved": text})
    assert found["state"]["moved"] == kept
    assert -2.75 < min(found["result"]["y"]) and max(found["result"]["y"]) < 3.55
