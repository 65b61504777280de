import json
import subprocess
import tomllib

import pytest

from samkit.paper import claims, protocol, records

RATES, RADII = [0.1, 0.2, 0.4], [0.05, 0.1, 0.2]
PROTOCOL = {
    "tuning_seeds": [100, 101],
    "judged_seeds": [0, 1],
    "second": {
        "first_seed": 2,
        "comparison": [{"rows": ["row"], "seeds": 2, "runs": [["few", "ERM"], ["few", "SAM"]]}],
    },
    "data": {"few": {"train": 20, "network": [64, 4, 10], "batch_size": 10, "epochs": 1}},
    "task": {
        "few": {
            "data": "few",
            "methods": {
                "ERM": {"learning_rates": RATES, "radii": [0.0]},
                "SAM": {"learning_rates": RATES, "radii": RADII},
                "SAM, 2 steps": {"learning_rates": "SAM", "radii": RADII, "steps": 2},
            },
        }
    },
    "arm": [{"task": "few", "method": "ERM", "name": "both", "then": "SAM", "epochs": 1}],
}


@pytest.fixture(autouse=True)
def few(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMKIT_RESULTS", str(tmp_path))
    monkeypatch.setattr(protocol, "text", lambda: PROTOCOL)


def tune(best, errors=None):
    """Records of tuning with the lowest error at that learning rate and radius."""
    for config in protocol.tuning([100, 101]):
        stage = config.stages[0]
        at = stage.learning_rate, stage.perturbation.rho
        wrong = abs(at[0] - best[0]) + (abs(at[1] - best[1]) if at[1] else 0)
        metrics = {"validation_error": wrong + 0.01 * (config.seed - 100)}
        records.append(protocol.NAME, protocol.SCALE, config, metrics, seconds=0, data="")


def test_each_method_has_the_pair_of_lowest_validation_error():
    with pytest.raises(protocol.NotChosen, match="SAM: 0 of 9 settings are tuned"):
        protocol.chosen("few", "SAM")
    tune((0.2, 0.1))
    assert protocol.chosen("few", "ERM") == (0.2, 0.0)
    assert protocol.chosen("few", "SAM") == (0.2, 0.1)


def test_a_learning_rate_may_be_that_of_another_method():
    tune((0.2, 0.1))
    rates = {
        config.stages[0].learning_rate
        for config in protocol.tuning([100])
        if config.method == "SAM, 2 steps"
    }
    assert rates == {0.2}
    tune((0.2, 0.1))
    assert protocol.chosen("few", "SAM, 2 steps") == (0.2, 0.1)


@pytest.mark.parametrize(
    "best, message", [((0.4, 0.1), "learning rate, 0.4"), ((0.2, 0.05), "radius, 0.05")]
)
def test_an_edge_of_the_grid_is_no_choice(best, message):
    tune(best)
    with pytest.raises(protocol.NotChosen, match=f"SAM: the best {message}, is on the edge"):
        protocol.chosen("few", "SAM")
    assert "SAM" not in {config.method for config in protocol.judged([0])}


def test_judged_runs_have_their_own_seeds_and_what_was_chosen():
    tune((0.2, 0.1))
    assert protocol.judged([100]) == []
    found = protocol.judged([0, 1])
    assert {config.seed for config in found} == {0, 1} and all(c.judged for c in found)
    both = next(config for config in found if config.method == "both")
    assert [stage.perturbation.rho for stage in both.stages] == [0.0, 0.1]


def test_a_judged_run_is_refused_unless_a_commit_makes_what_is_asked_for(monkeypatch):
    tune((0.2, 0.1))
    found = protocol.judged([0])
    monkeypatch.setattr(records, "commit", lambda: "abc")
    protocol.check(found)
    for commit in ("", "abc + changes"):
        monkeypatch.setattr(records, "commit", lambda commit=commit: commit)
        with pytest.raises(ValueError, match="this tree has changes: commit them first"):
            protocol.check(found)
    monkeypatch.setattr(records, "commit", lambda: "abc")
    other = protocol._config("few", "SAM", 0.3, 0.1, 0, judged=True)
    with pytest.raises(ValueError, match="SAM, few: this is no run of the protocol"):
        protocol.check([other])


def test_records_of_another_protocol_or_of_changes_are_refused(monkeypatch):
    tune((0.2, 0.1))
    (config, *_) = protocol.judged([0])

    def record(seed, **place):
        own = protocol.replace(config, seed=seed)
        place = {"commit": "abc", "protocol": protocol.digest("few")} | place
        records.append(protocol.NAME, protocol.SCALE, own, {}, seconds=0, data="", place=place)

    record(0)
    assert len(protocol.recorded("few")) == 1
    record(1, protocol="older")
    with pytest.raises(ValueError, match="seed 1: judged by another protocol than today's"):
        protocol.recorded("few")
    path = records.runs_path(protocol.NAME, protocol.SCALE)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[-1] |= {"protocol": protocol.digest("few"), "commit": "abc + changes"}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="seed 1: made by a tree with changes"):
        protocol.recorded("few")


def test_errors_are_by_seed_and_need_every_judged_seed():
    tune((0.2, 0.1))
    for k, config in enumerate(protocol.judged([0, 1])):
        place = {"commit": "abc", "protocol": protocol.digest("few")}
        metrics = {"test_error": 0.1 * config.seed, "train_loss": None} if k else {"diverged": True}
        records.append("small_networks", "laptop", config, metrics, seconds=0, data="", place=place)
        if k == 0:
            with pytest.raises(
                claims.NotRecorded, match="few, ERM: 1 of the judged runs are not recorded"
            ):
                protocol.errors("few", "ERM")
    assert protocol.errors("few", "SAM").tolist() == pytest.approx([0.0, 0.1])
    assert protocol.errors("few", "ERM").tolist() == pytest.approx([0.9, 0.1])
    assert protocol.gain("few", "ERM", "SAM")[1] > 0.9


def test_a_second_stage_has_new_seeds_for_the_methods_that_it_names(monkeypatch):
    tune((0.2, 0.1))
    assert {c.method for c in protocol.judged([2, 3])} == {"ERM", "SAM"}
    assert {c.method for c in protocol.judged([4])} == set()
    monkeypatch.setattr(records, "commit", lambda: "abc")
    protocol.check(protocol.judged([2]))
    other = protocol._config("few", "SAM, 2 steps", 0.2, 0.1, 2, judged=True)
    with pytest.raises(ValueError, match="SAM, 2 steps, few: this is no run of the protocol"):
        protocol.check([other])


def test_the_two_stages_are_judged_apart():
    tune((0.2, 0.1))
    for config in protocol.judged([0, 1, 2, 3]):
        if config.method == "ERM" and config.seed == 3:
            with pytest.raises(claims.NotRecorded, match="few, ERM: 1 of the judged runs"):
                protocol.errors("few", "ERM", second=True)
        sign = {"commit": "abc"} | protocol.signed(config)
        wrong = 0.1 * config.seed * (config.method == "ERM")
        records.append(
            "small_networks",
            "laptop",
            config,
            {"test_error": wrong},
            seconds=0,
            data="",
            place=sign,
        )
    assert protocol.known("few", ["ERM", "SAM"]) == ["ERM", "SAM"]
    assert protocol.errors("few", "ERM").to_dict() == pytest.approx({0: 0.0, 1: 0.1})
    assert protocol.errors("few", "ERM", second=True).to_dict() == pytest.approx({2: 0.2, 3: 0.3})
    assert sum(protocol.gain("few", "ERM", "SAM", second=True)) / 2 == pytest.approx(0.25)
    with pytest.raises(ValueError, match="both: the protocol has no second stage for it"):
        protocol.errors("few", "both", second=True)


def test_a_change_of_the_second_stage_makes_its_records_old_and_no_other(monkeypatch):
    tune((0.2, 0.1))
    for config in protocol.judged([0, 2]):
        sign = {"commit": "abc"} | protocol.signed(config)
        records.append("small_networks", "laptop", config, {}, seconds=0, data="", place=sign)
    first, second = protocol.digest("few"), protocol.digest("few", second=True)
    assert len(protocol.recorded("few")) == 5 and first != second
    changed = PROTOCOL | {"second": PROTOCOL["second"] | {"rule": "another"}}
    monkeypatch.setattr(protocol, "text", lambda: changed)
    assert protocol.digest("few") == first and protocol.digest("few", second=True) != second
    with pytest.raises(ValueError, match="seed 2: judged by another protocol than today's"):
        protocol.recorded("few")


def test_the_second_stage_is_for_rows_that_there_are_and_each_method_has_one_number(monkeypatch):
    monkeypatch.undo()
    second, seen = protocol.text()["second"], set()
    for comparison in second["comparison"]:
        new = {*range(second["first_seed"], second["first_seed"] + comparison["seeds"])}
        assert not new & {*protocol.text()["tuning_seeds"], *protocol.text()["judged_seeds"]}
        for row in comparison["rows"]:
            assert claims.find(row).records == ("small_networks-laptop.jsonl",)
        for task, method in comparison["runs"]:
            assert (task, method) not in seen
            assert protocol.known(task, [method]) == [method]
            seen.add((task, method))


def test_tuning_and_judged_seeds_are_apart_and_there_are_ten(monkeypatch):
    monkeypatch.undo()
    said = protocol.text()
    assert not {*said["tuning_seeds"]} & {*said["judged_seeds"]}
    assert len(said["judged_seeds"]) >= 10
    known = {"task", "method", "name", "then", "epochs", "switch", "rho", "rate", "changes"}
    for arm in said["arm"]:
        assert set(arm) <= known | {"noise", "noise_kind"}
        assert arm["method"] in said["task"][arm["task"]]["methods"]
    for task in said["task"].values():
        for method, settings in task["methods"].items():
            rates, radii = settings["learning_rates"], settings["radii"]
            assert isinstance(rates, str) or len(rates) >= 3, method
            assert radii in ([0.0], [0.3]) or len(radii) >= 3, method


def test_the_code_that_made_a_judged_run_had_the_protocol_it_was_judged_by(monkeypatch):
    """By the commit of the record; commits that a shallow clone does not have are left out."""
    monkeypatch.undo()
    judged = [r for r in records.runs("small_networks", "laptop") if r["config"]["judged"]]
    for commit in {record["commit"] for record in judged}:
        file = f"{commit}:samkit/paper/protocol.toml"
        shown = subprocess.run(["git", "show", file], cwd=records.ROOT, capture_output=True)
        if shown.returncode:
            continue
        then = tomllib.loads(shown.stdout.decode())
        monkeypatch.setattr(protocol, "text", lambda then=then: then)
        for record in judged:
            if record["commit"] == commit:
                task, second = record["config"]["task"], protocol.is_second(record["seed"])
                assert record["protocol"] == protocol.digest(task, second)
