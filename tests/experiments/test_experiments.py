from dataclasses import replace

import numpy as np
import pytest
import torch

from samkit import data, experiments, records
from samkit.experiments import classify, fig07_relu_network, fig08_fine_tuning, switches
from samkit.training.fit import Recipe, fit


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMKIT_RESULTS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("scale", experiments.SCALES)
@pytest.mark.parametrize("name", experiments.NAMES)
def test_every_run_is_told_from_every_other(name, scale):
    configs = experiments.load(name).configs(scale, (0, 7))
    hashes = [records.config_hash(config) for config in configs]
    assert len(set(hashes)) == len(hashes) > 0
    assert {config.seed for config in configs} == {0, 7}
    assert len(configs) == 2 * len(experiments.load(name).configs(scale, (3,)))


def test_scales_come_from_the_environment(monkeypatch):
    monkeypatch.delenv("SAMKIT_SCALE", raising=False)
    assert experiments.scale() == "ci"
    monkeypatch.setenv("SAMKIT_SCALE", "laptop")
    assert experiments.scale() == "laptop"
    assert experiments.scale("paper") == "paper"
    monkeypatch.setenv("SAMKIT_SCALE", "huge")
    with pytest.raises(ValueError, match=r"'huge' \(from .* SAMKIT_SCALE\); there are ci, laptop"):
        experiments.scale()
    with pytest.raises(ValueError, match="no experiment 'fig99'; there are fig01"):
        experiments.load("fig99")


TINY = {"epochs": 2, "batch_size": 500}


def test_a_run_is_a_fit_on_the_data_with_its_noise():
    config = classify.small(Recipe("m-SAM", rho=0.1, m=250, **TINY), seed=3, noise=0.4)
    found = classify.run(config)
    curves = data.load("mnist1d")
    y, wrong = data.label_noise(curves.y, 0.4, classes=curves.classes, seed=3)
    torch.manual_seed(3)
    layers = torch.nn.Linear(40, 256), torch.nn.Linear(256, 256), torch.nn.Linear(256, 10)
    relu = torch.nn.ReLU()
    net = torch.nn.Sequential(layers[0], relu, layers[1], relu, layers[2])
    expected = fit(
        net,
        replace(config.recipes[0], seed=3),
        (torch.tensor(curves.x), torch.tensor(y)),
        noisy=torch.tensor(wrong),
    )
    assert found["history"]["train_loss"] == expected.history["train_loss"]
    assert found["history"]["train_noisy_error"] == expected.history["train_noisy_error"]
    assert found["test_error"] == found["history"]["test_error"][-1]
    best = int(np.argmin(found["history"]["validation_error"]))
    assert found["best_epoch"] == best + 1
    assert found["best_test_error"] == found["history"]["test_error"][best]
    assert found["data"].startswith(curves.source)


def test_fine_tuning_goes_on_from_the_first_end_and_measures_the_line():
    first, then = Recipe(**TINY), Recipe("SAM", rho=0.1, epochs=1, batch_size=500)
    shares = []
    found = classify.run(classify.small(first, then, seed=0), progress=shares.append)
    alone = classify.run(classify.small(first, seed=0))
    history, line = found["history"], found["line"]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
    assert history["epoch"] == [1, 2, 3]
    assert history["test_error"][:2] == alone["history"]["test_error"]
    ends = line["t"].index(0.0), line["t"].index(1.0)
    for name in ("train_loss", "test_loss", "test_error"):
        at_ends = [line[name][k] for k in ends]
        assert at_ends == pytest.approx(history[name][1:], rel=1e-5)


def test_a_run_that_diverges_is_a_result():
    config = classify.small(Recipe(**TINY, learning_rate=1e30), seed=0)
    found = classify.run(config)
    assert found["diverged_step"] is not None and "test_error" not in found


def test_colour_images_are_augmented_and_a_part_of_them_can_be_taken(monkeypatch):
    rng = np.random.default_rng(0)
    x, y = rng.random((12, 3, 8, 8), dtype=np.float32), np.arange(12) % 2
    made_up = data.Dataset(x, y, x, y, x, y, classes=("a", "b"), source="made up")
    monkeypatch.setattr(classify.data, "load", lambda name: made_up)
    calls = []

    def watched(images, *, generator, flip):
        calls.append((len(images), flip))
        return data.augment.crop_and_flip(images, generator=generator, flip=flip)

    monkeypatch.setattr(classify.data, "crop_and_flip", watched)
    classify.examples.cache_clear()
    recipe = Recipe("m-SAM", rho=0.1, m=1, epochs=1, batch_size=4)
    for name, flip in (("cifar10:8", True), ("svhn:8", False)):
        config = classify.Config(name, "resnet tiny 4 group", (recipe,))
        assert classify.run(config)["diverged_step"] is None
        assert calls == [(4, flip)] * 2
        calls.clear()
    classify.examples.cache_clear()


def test_networks_are_named():
    assert torch.equal(*(next(classify.build("mlp 4 2", 5).parameters()) for _ in range(2)))
    with pytest.raises(ValueError, match="net='cnn 3': write 'mlp"):
        classify.build("cnn 3", 0)


def test_cost_counts_passes():
    erm = classify.small(Recipe(epochs=1), seed=0)
    sam = classify.small(Recipe("SAM", rho=0.1, epochs=10), seed=0)
    assert classify.cost([erm, sam]) > 0
    both = classify.cost([erm]) and classify.cost([sam])
    assert both > classify.cost([erm])


def test_the_relu_network_in_short():
    config = fig07_relu_network.Config("SAM", 0.3, 12, True, steps=200)
    found = fig07_relu_network.run(config)
    assert found["steps"] == 200 and len(found["f"]) == 301
    assert found["train_loss"] < found["losses"][0][1]
    start = fig07_relu_network.start(config)
    assert set(np.abs(start[0])) == {2.5}
    worse = replace(config, step_size=1.0)
    assert fig07_relu_network.run(worse)["diverged_step"] is not None


def test_summaries_name_the_settings_and_pair_the_seeds():
    tables = {}
    for name in experiments.NAMES:
        experiment = experiments.load(name)
        for k, config in enumerate(experiment.configs("ci", (0, 1))):
            metrics = {
                "diverged_step": None,
                "test_error": 0.1 * k + config.seed,
                "best_test_error": 0.1,
                "lowest_test_error": 0.1,
                "kinks": k,
            }
            records.append(name, "ci", config, metrics, seconds=1.0, data="")
        tables[name] = experiment.summary(experiments.recorded(name, "ci"))
    assert all(row["runs"] == 2 for rows in tables.values() for row in rows)
    erm, random, *_ = tables["fig01_perturbations"]
    assert erm["method"] == "ERM" and "test error - base" not in erm
    assert random["test error - base"] == pytest.approx(0.1)
    names = [row["run"] for row in tables["fig08_fine_tuning"]]
    assert names == ["ERM -> ERM", "ERM -> 16-SAM", "16-SAM -> ERM"]


def test_a_switch_is_named_by_what_it_switches_to():
    config = fig08_fine_tuning.configs("laptop", (0,))[-1]
    assert fig08_fine_tuning.setting(records.plain(config)) == {
        "run": "16-SAM -> ERM",
        "switch": 90,
    }


def test_the_switches_have_names_of_their_own():
    found = [records.plain(config) for config in switches.configs("laptop", (0,))]
    names = [
        (switches.switch(c), c["recipes"][-1]["method"], c["recipes"][-1]["rho"]) for c in found
    ]
    assert len(set(names)) == len(names)
    assert ("learning rate 0.4", "ERM", 0.0) in names
