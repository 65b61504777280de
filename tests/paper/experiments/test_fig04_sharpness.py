import pytest
import torch

from samkit import Perturbation, sharpness
from samkit.paper import records
from samkit.paper.experiments import classify, fig04_sharpness
from samkit.paper.experiments.fig04_sharpness import Config
from samkit.training import Recipe
from samkit.training.evaluation import cross_entropy

TINY = Recipe(Perturbation(0.1, m=16), epochs=1, batch_size=250)


def test_sharpness_is_that_of_the_trained_network_and_training_is_as_without_it():
    config = Config(
        "mnist1d", "mlp 40 8 10", (TINY,), examples=32, sizes=(4, 32), radii=(0.1,), steps=2
    )
    found = fig04_sharpness.run(config)
    record = {"config": records.plain(config), "seed": 0, "metrics": found}
    table = fig04_sharpness.runs([record])
    plain = classify.train(classify.Config("mnist1d", "mlp 40 8 10", (TINY,)))
    assert found["test_error"] == plain.metrics["test_error"]
    x, y = (part[:32] for part in plain.sets["train"])
    for m in (4, 32):
        same = {"rho": 0.1, "m": m, "steps": 2, "restarts": 1, "seed": 0}
        expected = sharpness(plain.net, cross_entropy, x, y, **same)
        assert table[fig04_sharpness.column(m, 0.1)].item() == pytest.approx(expected, rel=1e-6)
    assert fig04_sharpness.column(5, 0.1) not in table
    assert all(torch.isfinite(p).all() for p in plain.net.parameters())


def test_a_run_that_diverges_has_no_sharpness():
    wild = Config("mnist1d", "mlp 40 8 10", (Recipe(epochs=1, learning_rate=1e30),))
    assert "sharpness" not in fig04_sharpness.run(wild)


def test_every_measured_setting_is_in_the_hash():
    config = fig04_sharpness.configs("ci", (0,))[0]
    hashes = {
        records.config_hash(config),
        records.config_hash(Config(**vars(config) | {"examples": 5})),
        records.config_hash(Config(**vars(config) | {"sizes": (1,)})),
        records.config_hash(Config(**vars(config) | {"steps": 3})),
    }
    assert len(hashes) == 4


def test_the_summary_has_a_column_for_every_m_and_radius():
    configs = fig04_sharpness.configs("ci", (0, 1))
    made_up = [
        {
            "config": records.plain(config),
            "seed": config.seed,
            "metrics": {
                "test_error": 0.3,
                "sharpness": [{"m": m, "rho": 0.1, "value": float(m)} for m in config.sizes],
            },
        }
        for config in configs
    ]
    rows = fig04_sharpness.summary(made_up)
    assert rows["method"].tolist() == ["ERM", "SAM", "16-SAM"]
    assert rows["m=16, rho=0.1"][0] == "16.000 ± 0.000"
    assert rows["m=128, rho=0.1"][0] == "128.000 ± 0.000"
