"""Test labels are the published ones, and nothing is chosen by them.

Each of these faults would make every figure on networks look right and be wrong.
"""

import numpy as np
import pytest
import torch

from samkit import Perturbation, data
from samkit.errors import Diverged
from samkit.paper import records
from samkit.paper.experiments import classify, fig01_perturbations
from samkit.training import Fit, Recipe

TINY = {"epochs": 2, "batch_size": 500}


def rows(x):
    return {np.ascontiguousarray(row).tobytes() for row in np.asarray(x)}


def errors(net, x, y):
    with torch.no_grad():
        return float((net(torch.tensor(x)).argmax(1) != torch.tensor(y)).float().mean())


@pytest.fixture(scope="module")
def noisy_run():
    return classify.train(classify.small(Recipe(**TINY), seed=3, noise=0.4))


def test_noise_is_in_the_training_labels_alone(noisy_run):
    curves = data.load("mnist1d")
    for name, y in (("validation", curves.y_validation), ("test", curves.y_test)):
        assert (noisy_run.sets[name][1].numpy() == y).all(), name
    changed = noisy_run.sets["train"][1].numpy() != curves.y
    assert changed.mean() == pytest.approx(0.4)
    assert (noisy_run.sets["train"][0].numpy() == curves.x).all()


def test_metrics_are_those_of_their_own_set(noisy_run):
    curves, metrics = data.load("mnist1d"), noisy_run.metrics
    wrong = {
        "train": errors(noisy_run.net, curves.x, noisy_run.sets["train"][1].numpy()),
        "validation": errors(noisy_run.net, curves.x_validation, curves.y_validation),
        "test": errors(noisy_run.net, curves.x_test, curves.y_test),
    }
    assert len(set(wrong.values())) == 3
    for name, value in wrong.items():
        assert metrics[f"{name}_error"] == pytest.approx(value), name
        assert metrics["history"][f"{name}_error"][-1] == pytest.approx(value), name


@pytest.mark.parametrize("name", ["mnist1d", "digits"])
def test_the_three_sets_share_no_example(name):
    parts = data.load(name)
    train, validation, test = (rows(x) for x in (parts.x, parts.x_validation, parts.x_test))
    assert not train & test and not validation & test and not train & validation


def test_the_best_epoch_is_that_of_the_lowest_validation_error(monkeypatch):
    history = {
        "epoch": [1, 2, 3, 4],
        "train_loss": [0.9, 0.8, 0.2, 0.1],
        "train_error": [0.1, 0.2, 0.3, 0.4],
        "validation_error": [0.5, 0.2, 0.4, 0.6],
        "test_loss": [1.0, 1.1, 1.2, 1.3],
        "test_error": [0.45, 0.35, 0.15, 0.25],
    }
    monkeypatch.setattr(classify, "fit", lambda *args, **how: Fit(history))
    metrics = classify.run(classify.small(Recipe(**TINY), seed=0))
    assert (metrics["best_epoch"], metrics["best_test_error"]) == (2, 0.35)
    assert metrics["lowest_test_error"] == 0.15
    assert (metrics["test_error"], metrics["validation_error"]) == (0.25, 0.6)


def test_seeds_differ_in_start_batches_and_noise(monkeypatch):
    seen = []

    def noting(net, recipe, train, **how):
        seen.append((next(net.parameters()).detach().clone(), recipe.seed, train[1]))
        raise Diverged("only looked at", 0)

    monkeypatch.setattr(classify, "fit", noting)
    for seed in (0, 1):
        classify.run(classify.small(Recipe(**TINY), seed=seed, noise=0.4))
    (start, batches, labels), (other_start, other_batches, other_labels) = seen
    assert not torch.equal(start, other_start)
    assert batches != other_batches
    assert not torch.equal(labels, other_labels)
    two = [classify.small(Recipe(**TINY), Recipe(**TINY), seed=s).recipes for s in (0, 1)]
    assert len({recipe.seed for recipes in two for recipe in recipes}) == 4


#: method, radius -> validation error, test error: the best radius by one is not that by the other
FIGURE_1 = {
    ("ERM", 0.0): (0.50, 0.50),
    ("random", 0.1): (0.40, 0.45),
    ("random", 0.3): (0.60, 0.10),
    ("n-SAM", 0.1): (0.55, 0.20),
    ("n-SAM", 0.3): (0.45, 0.44),
    ("SAM", 0.1): (0.30, 0.35),
    ("SAM", 0.3): (0.35, 0.05),
}


def figure_1(spread=0.0):
    """Runs of Figure 1, two seeds, with the errors above."""
    for seed in (0, 1):
        for (method, rho), (validation, test) in FIGURE_1.items():
            sources = {"random": "random", "n-SAM": "previous"}
            recipe = Recipe(Perturbation(rho, source=sources.get(method, "own")))
            metrics = {
                "diverged_step": None,
                "train_loss": 0.1,
                "validation_error": validation + spread * seed,
                "test_error": test + spread * seed,
            }
            config = records.plain(classify.small(recipe, seed=seed))
            yield {"config": config, "seed": seed, "metrics": metrics}


def test_radius_and_rival_are_chosen_on_the_validation_set():
    """SAM at 0.1 and random perturbations at 0.1 are judged: by the test set it would be 0.05."""
    low, high = fig01_perturbations.lead([*figure_1(spread=0.01)])
    assert low == pytest.approx(0.45 - 0.35) and high == pytest.approx(0.45 - 0.35)


def test_a_radius_at_which_a_run_diverged_is_not_chosen():
    runs = [*figure_1(spread=0.01)]
    for run in runs[:7]:
        setting = classify.setting(run["config"]["recipes"][0])
        if (setting["method"], setting["rho"]) == ("SAM", 0.1):
            run["metrics"] = {"diverged_step": 7}
    low, high = fig01_perturbations.lead(runs)
    assert low == pytest.approx(0.45 - 0.05) and high == pytest.approx(0.45 - 0.05)
