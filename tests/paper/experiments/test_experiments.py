from dataclasses import replace

import numpy as np
import pytest
import torch

from samkit import Perturbation, data
from samkit.paper import experiments, records
from samkit.paper.experiments import (
    classify,
    fig07_relu_network,
    fig08_fine_tuning,
    switches,
)
from samkit.training import Recipe, fit


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMKIT_RESULTS", str(tmp_path))
    return tmp_path


#: the scales of an experiment, but for "ci" and "paper"; the protocol's depend on what is tuned
SCALES = {
    "fig07_relu_network": experiments.SCALES,
    "short_resnet": ("paper",),
    "small_networks": (),
}


@pytest.mark.parametrize(
    "name, scale",
    [(name, scale) for name in experiments.NAMES for scale in SCALES.get(name, ("ci", "paper"))],
)
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


@pytest.mark.slow
def test_a_run_is_a_fit_on_the_data_with_its_noise():
    config = classify.small(Recipe(Perturbation(0.1, m=250), **TINY), seed=3, noise=0.4)
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
    first, then = Recipe(**TINY), Recipe(Perturbation(0.1), epochs=1, batch_size=500)
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


@pytest.fixture
def images(monkeypatch):
    """Twelve made-up colour images for every name of a data set; the calls to augment them."""
    rng = np.random.default_rng(0)
    x, y = rng.random((12, 3, 32, 32), dtype=np.float32), np.arange(12) % 2
    made_up = data.Dataset(x, y, x[:6], y[:6], x[6:], y[6:], classes=("a", "b"), source="made up")
    monkeypatch.setattr(classify.data, "load", lambda name: made_up)
    calls = []

    def watched(images, *, generator, flip):
        calls.append((tuple(images.shape), flip))
        return data.augment.crop_and_flip(images, generator=generator, flip=flip)

    monkeypatch.setattr(classify.data, "crop_and_flip", watched)
    classify.examples.cache_clear()
    yield made_up, calls
    classify.examples.cache_clear()


@pytest.mark.parametrize(
    "name, augmented",
    [
        ("cifar10:8", [((4, 3, 32, 32), True)] * 2),
        ("svhn:8", [((4, 3, 32, 32), False)] * 2),  # digits are not mirrored
        ("cifar10:8@8", []),  # reduced ones are taken as they are
    ],
)
def test_colour_images_of_full_size_are_augmented(images, name, augmented):
    _, calls = images
    recipe = Recipe(Perturbation(0.1), epochs=1, batch_size=4)
    config = classify.Config(name, "resnet tiny 2 group", (recipe,))
    assert classify.run(config)["diverged_step"] is None
    assert calls == augmented


def test_a_part_of_the_training_set_and_smaller_images(images):
    made_up, _ = images
    whole = classify.examples("cifar10")
    part = classify.examples("cifar10:8")
    small = classify.examples("cifar10:8@4")
    assert [len(y) for _, y in part.sets.values()] == [8, 6, 6]
    assert torch.equal(part.sets["train"][0], torch.tensor(made_up.x[:8]))
    means = made_up.x[:8].reshape(8, 3, 4, 8, 4, 8).mean((3, 5))
    torch.testing.assert_close(small.sets["train"][0], torch.tensor(means))
    assert small.sets["test"][0].shape == (6, 3, 4, 4)
    assert whole.copy.startswith("made up, sha256 ") and whole.copy != part.copy


def test_data_are_named():
    assert classify.parsed("mnist1d") == ("mnist1d", None, None)
    assert classify.parsed("cifar10:4000") == ("cifar10", 4000, None)
    assert classify.parsed("cifar10@16") == ("cifar10", None, 16)
    assert classify.parsed("cifar10:4000@16") == ("cifar10", 4000, 16)
    for name in ("cifar10:", "cifar10@16:4000", "cifar10:4k", ""):
        with pytest.raises(ValueError, match="write 'cifar10', 'cifar10:4000' or"):
            classify.parsed(name)


@pytest.mark.parametrize(
    "part, evaluated", [("12@4", [1, 2, 3, 4]), ("4@4", [3, 4]), ("12", [2, 4]), ("4", [4])]
)
def test_training_is_not_held_up_by_evaluation(images, part, evaluated):
    """12 examples to validate and test: after every epoch of 12, every third of 4.

    Where images are of full size, half as often.
    """
    recipe = Recipe(epochs=4, batch_size=4)
    config = classify.Config(f"cifar10:{part}", "resnet tiny 2 group", (recipe,))
    found = classify.run(config)
    assert found["history"]["epoch"] == evaluated
    assert {len(values) for values in found["history"].values()} == {len(evaluated)}
    assert found["best_epoch"] in evaluated


def test_networks_are_named():
    assert torch.equal(*(next(classify.build("mlp 4 2", 5).parameters()) for _ in range(2)))
    with pytest.raises(ValueError, match="net='cnn 3': write 'mlp"):
        classify.build("cnn 3", 0)


def test_cost_counts_passes():
    erm = classify.small(Recipe(epochs=1), seed=0)
    sam = classify.small(Recipe(Perturbation(0.1), epochs=10), seed=0)
    assert classify.cost([sam]) > classify.cost([erm]) > 0  # 20 passes against one


def test_the_relu_network_in_short():
    config = fig07_relu_network.Config(0.3, 12, True, steps=200)
    found = fig07_relu_network.run(config)
    assert found["steps"] == 200 and len(found["f"]) == 301
    assert found["train_loss"] < found["losses"][0][1]
    start = fig07_relu_network.start(config)
    assert set(np.abs(start[0])) == {2.5}
    worse = replace(config, step_size=1.0)
    assert fig07_relu_network.run(worse)["diverged_step"] is not None


def test_runs_of_a_scale_are_the_recorded_ones_and_the_rest_carried_out(monkeypatch):
    name = "fig01_perturbations"
    experiment = experiments.load(name)
    monkeypatch.setitem(experiment.EPOCHS, "ci", 1)
    first, *rest = experiment.configs("ci", experiments.SEEDS["ci"])
    records.append(name, "ci", first, {"test_error": 0.25}, seconds=1.0, data="")
    found = experiments.runs(name, "ci")
    assert [r["config"] for r in found] == [records.plain(c) for c in (first, *rest)]
    assert [r["seed"] for r in found] == [0] * 4
    assert found[0]["metrics"] == {"test_error": 0.25}
    assert found[1]["metrics"] == records.plain(experiment.run(rest[0]))
    assert len(experiment.summary(found)) == 4
    assert len(records.runs(name, "ci")) == 1  # what is carried out here is not recorded
    monkeypatch.setitem(experiment.EPOCHS, "ci", 2)
    with pytest.raises(ValueError, match="1 of 1 runs were made with other settings"):
        experiments.runs(name, "ci")


def test_summaries_name_the_settings_and_pair_the_seeds():
    tables = {}
    for name in {*experiments.NAMES} - {"small_networks"}:
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
        tables[name] = experiment.summary(experiments.recorded_so_far(name, "ci"))
    assert all((rows["runs"] == 2).all() for rows in tables.values() if len(rows))
    erm, random, *_ = tables["fig01_perturbations"].to_dict("records")
    assert erm["method"] == "ERM" and erm["test_error - base"] == "-"
    assert random["test_error - base"] == "0.100 ± 0.000"
    names = tables["fig08_fine_tuning"]["run"].tolist()
    assert names == ["ERM -> ERM", "ERM -> 16-SAM", "16-SAM -> ERM"]


def test_the_barrier_is_what_the_line_rises_above_its_higher_end():
    config = fig08_fine_tuning.configs("ci", (0,))[0]
    line = {"t": [-0.5, 0.0, 0.5, 1.0, 1.5], "train_loss": [9.0, 1.0, 5.0, 2.0, 9.0]}
    errors = [0.5] * 50
    errors[config.recipes[0].epochs - 1] = 0.4
    metrics = {
        "test_error": 0.3,
        "line": line,
        "history": {"epoch": [*range(1, 101)], "test_error": errors},
    }
    record = {"config": records.plain(config), "seed": 0, "metrics": metrics}
    (row,) = fig08_fine_tuning.runs([record]).to_dict("records")
    assert (row["barrier"], row["first"], row["test_error"]) == (3.0, 0.4, 0.3)


def test_a_switch_is_named_by_what_it_switches_to():
    config = fig08_fine_tuning.configs("paper", (0,))[11]
    assert fig08_fine_tuning.setting(records.plain(config)) == {
        "run": "128-SAM -> ERM",
        "switch": 180,
    }


def test_the_switches_have_names_of_their_own():
    found = [records.plain(config) for config in switches.configs("paper", (0,))]
    names = [(switches.switch(c), *classify.setting(c["recipes"][-1]).values()) for c in found]
    assert len(set(names)) == len(names)
