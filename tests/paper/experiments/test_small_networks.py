from dataclasses import replace

import numpy as np
import pytest
import torch

from samkit.paper import protocol
from samkit.paper.experiments import small_networks
from samkit.paper.experiments.small_networks import Config, Stage, examples, run, run_together
from samkit.perturbation import Perturbation
from samkit.training.stack import MLP, errors, train_stack

SAM = Perturbation(0.1, m=5)


def tiny(stage, **more):
    """On digits, with few examples and a small network."""
    sizes = {"train": 40, "network": (64, 8, 10), "batch_size": 20}
    return Config("task", "method", "digits", stages=(stage,), **sizes | more)


@pytest.mark.parametrize(
    "perturbation",
    [
        Perturbation(),
        Perturbation(0.1, source="random"),
        Perturbation(0.1, source="independent"),
        Perturbation(0.1, source="previous"),
        Perturbation(0.1),
        SAM,
    ],
)
def test_a_run_is_that_of_the_stack(perturbation):
    config = tiny(Stage(perturbation, epochs=3, learning_rate=0.3), judged=True, seed=4)
    data, network = examples(config), MLP(config.network)
    setting = {"epochs": 3, "batch_size": 20, "learning_rate": 0.3}
    w = train_stack(network, data.x.numpy(), data.y.numpy(), [perturbation], [4], **setting)[0, 0]
    found = run(config)
    assert found["test_error"] == pytest.approx(float(errors(network, w, *data.test)))
    assert found["validation_error"] == pytest.approx(float(errors(network, w, *data.validation)))


def test_side_by_side_is_one_by_one():
    stage = Stage(SAM, epochs=2, switch=(1, Perturbation()))
    configs = [
        tiny(replace(stage, learning_rate=rate, perturbation=replace(SAM, rho=rho)), seed=seed)
        for rate, rho, seed in ((0.1, 0.1, 0), (0.2, 0.3, 0), (0.1, 0.1, 7))
    ]
    for together, config in zip(run_together(configs), configs, strict=True):
        for name, value in run(config)["history"].items():
            assert together["history"][name] == pytest.approx(value, rel=1e-4)
    with pytest.raises(ValueError, match="differ in more than seed, learning rate and radius"):
        run_together([configs[0], tiny(Stage(epochs=2))])


def test_a_switch_is_a_switch():
    start = tiny(Stage(epochs=2))
    as_sam = tiny(Stage(epochs=2, switch=(0, SAM)))
    late = tiny(Stage(epochs=2, switch=(2, SAM)))
    assert run(as_sam)["train_loss"] == run(tiny(Stage(SAM, epochs=2)))["train_loss"]
    assert run(late)["train_loss"] == run(start)["train_loss"] != run(as_sam)["train_loss"]


def test_the_step_size_alone_keeps_the_direction():
    """One step of batch gradient descent: along the gradient, as far as SAM goes."""
    moved = {}
    for name, stage in {
        "ERM": Stage(epochs=1),
        "SAM": Stage(Perturbation(0.5), epochs=1),
        "size": Stage(Perturbation(0.5), epochs=1, step_size_only=True),
    }.items():
        config = tiny(stage, batch_size=40)
        training = small_networks._Training(MLP(config.network), [config], [examples(config)])
        before = training.w
        training.begin(0)
        training.epoch(0, 0)
        moved[name] = (training.w - before)[0]
    cosine = torch.nn.functional.cosine_similarity(moved["ERM"], moved["size"], dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-5)
    assert float(moved["size"].norm()) == pytest.approx(float(moved["SAM"].norm()), rel=1e-4)


def test_only_training_labels_are_wrong_and_no_example_is_in_two_sets():
    clean, noisy = (examples(tiny(Stage(), noise=noise, seed=3)) for noise in (0.0, 0.5))
    assert noisy.wrong.sum() == 20 and not clean.wrong.any()
    assert torch.equal(noisy.y[~noisy.wrong], clean.y[~noisy.wrong])
    assert (noisy.y[noisy.wrong] != clean.y[noisy.wrong]).all()
    for part in ("validation", "test"):
        assert torch.equal(getattr(noisy, part)[1], getattr(clean, part)[1])
    sets = [clean.x, clean.validation[0], clean.test[0]]
    rows = [row.numpy().tobytes() for part in sets for row in part]
    assert len(set(rows)) == len(rows)


def test_signals_to_train_to_validate_and_to_test_are_others(monkeypatch):
    monkeypatch.setattr(small_networks, "TESTED", 200)
    monkeypatch.setattr(small_networks, "_held_out", small_networks._held_out.__wrapped__)
    data = examples(replace(tiny(Stage(), seed=3), data="mnist1d"))
    sets = [data.x, data.validation[0], data.test[0]]
    rows = [row.numpy().tobytes() for part in sets for row in part]
    assert len(set(rows)) == len(rows) == 40 + 5000 + 200


def test_seeds_draw_their_own_training_set_and_share_the_test_set():
    one, other = (examples(tiny(Stage(), seed=seed)) for seed in (0, 1))
    assert not torch.equal(one.x, other.x) and not torch.equal(
        one.validation[0], other.validation[0]
    )
    assert torch.equal(one.test[0], other.test[0])


def test_a_run_that_tunes_does_not_see_the_test_set():
    found = run(tiny(Stage(epochs=1)))
    assert "validation_error" in found and not any("test" in name for name in found)


def test_the_epoch_is_chosen_by_the_validation_error():
    config = tiny(Stage(learning_rate=0.3, epochs=30), noise=0.5, judged=True)
    data, network = examples(config), MLP(config.network)
    training = small_networks._Training(network, [config], [data])
    training.begin(0)
    seen = []
    for epoch in range(30):
        training.epoch(0, epoch)
        training.evaluate(epoch + 1)
        parts = data.validation, data.test
        seen.append([float(errors(network, training.w[0], *part)) for part in parts])
    found = training.metrics(0, [training.w])
    best = int(np.argmin([validation for validation, _ in seen]))
    assert found["best_epoch"] == best + 1 < 30
    assert found["best_test_error"] == pytest.approx(seen[best][1])
    assert found["best_test_error"] > min(test for _, test in seen)  # not what the test set says


def test_a_second_stage_goes_on_and_its_line_ends_at_both():
    first = tiny(Stage(epochs=2, averaged=True), judged=True)
    both = replace(first, stages=(*first.stages, Stage(SAM, epochs=1)))
    found = run(both)
    assert len(found["line"]) == len(small_networks.LINE)
    assert found["line"][0] == pytest.approx(run(first)["train_loss"], rel=1e-4)
    assert found["line"][-1] == pytest.approx(found["train_loss"], rel=1e-4)
    assert 0 < found["averaged_test_error"] < 1


def test_a_run_that_diverges_is_a_result():
    assert run(tiny(Stage(learning_rate=1e30, epochs=2)))["diverged"]


def test_sharpness_is_more_over_single_examples():
    pairs = ((1, 0.1), (16, 0.1), (64, 0.1))
    found = run(tiny(Stage(epochs=1), train=100, sharpness=pairs))["sharpness"]
    one, group, all_of_them = found.values()
    assert one > group > all_of_them > 0
    assert list(found) == ["m=1, rho=0.1", "m=16, rho=0.1", "m=64, rho=0.1"]


def test_the_configurations_are_the_protocols():
    found = small_networks.configs("laptop", (100,))
    assert found and not any(config.judged for config in found)
    assert {config.task for config in found} == set(protocol.text()["task"])
    assert small_networks.configs("ci", (0,)) == []


def test_a_run_of_the_command_takes_the_seeds_of_both_stages():
    said = protocol.text()
    most = max(comparison["seeds"] for comparison in said["second"]["comparison"])
    new = tuple(range(10, 10 + most))
    assert small_networks.seeds() == (*said["tuning_seeds"], *said["judged_seeds"], *new)
