"""A rerun agrees with the record of its own code, and not with that of another training."""

import pytest

from samkit.paper import experiments, records
from samkit.paper.experiments import rerun, small_networks
from samkit.paper.experiments.small_networks import Config, Stage
from samkit.perturbation import Perturbation


def tiny(seed):
    stage = Stage(Perturbation(0.05, m=10), epochs=15, learning_rate=0.05)
    return Config("few", "SAM", "digits", 300, (64, 32, 10), 10, (stage,), seed=seed)


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMKIT_RESULTS", str(tmp_path))
    monkeypatch.setattr(experiments, "NAMES", ("small_networks",))
    for seed in range(4):
        metrics = small_networks.run(tiny(seed))
        data = metrics.pop("data")
        records.append("small_networks", "laptop", tiny(seed), metrics, seconds=seed + 1, data=data)


@pytest.mark.slow
def test_the_quickest_run_of_a_task_is_repeated_and_agrees(recorded, capsys):
    ((words, record, others),) = rerun.quickest("small_networks")
    assert words == "small_networks few" and record["seed"] == 0
    assert sorted(r["seed"] for r in others) == [1, 2, 3]
    assert rerun.main() == 0
    (found,) = records.load("rerun")["runs"].values()
    assert found["again"] == pytest.approx(found["recorded"], abs=1e-5)
    assert "agrees" in capsys.readouterr().out


@pytest.mark.slow
def test_another_training_disagrees(recorded, monkeypatch, capsys):
    monkeypatch.setattr(Stage, "rate", lambda stage, done: 0.0)
    assert rerun.main() == 1
    assert "DISAGREES small_networks few" in capsys.readouterr().out
