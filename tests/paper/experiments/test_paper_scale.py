"""The paper's own sizes, rehearsed small: every kind of run, and what is concluded from them."""

import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from samkit import data
from samkit.data.dataset import Dataset
from samkit.paper import checking, claims, experiments, records
from samkit.paper.experiments import (
    classify,
    fig01_perturbations,
    fig02_role_of_m,
    fig04_sharpness,
    fig12_label_noise,
)
from samkit.paper.experiments.classify import Config


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMKIT_RESULTS", str(tmp_path))


@pytest.fixture
def images(monkeypatch):
    """Few random images, under the names of CIFAR-10 and CIFAR-100."""
    rng = np.random.default_rng(0)

    def load(name):
        classes = tuple(map(str, range({"cifar10": 10, "cifar100": 100}[name])))
        parts = [
            (rng.random((n, 3, 32, 32), np.float32), rng.integers(len(classes), size=n))
            for n in (32, 16, 16)
        ]
        return Dataset(*(array for part in parts for array in part), classes, "random images")

    monkeypatch.setattr(data, "load", load)
    classify.examples.cache_clear()
    yield
    classify.examples.cache_clear()


def tiny(config: Config) -> Config:
    """Two epochs of two batches, width 2; a switch of method stays a switch."""
    recipes = []
    for recipe in config.recipes:
        first, *later = (replace(p, m=p.m and max(1, p.m // 8)) for p in recipe.perturbations)
        changed = {"perturbation": first, "switch": tuple((1, how) for how in later)}
        changed |= {"swa_from": None if recipe.swa_from is None else 1}
        recipes.append(replace(recipe, **changed, epochs=2, batch_size=16))
    *softplus, _, depth, _, norm = config.net.split()
    assert depth == {"cifar10": "18", "cifar100": "34"}[config.data]
    changes = {"examples": 8, "sizes": (2, 8), "steps": 2} if hasattr(config, "examples") else {}
    net = " ".join([*softplus, "resnet tiny 2", norm])
    return replace(config, net=net, recipes=tuple(recipes), **changes)


ON_IMAGES = sorted({*experiments.NAMES} - {"fig07_relu_network", "small_networks"})


@pytest.mark.long
@pytest.mark.parametrize("name", ON_IMAGES)
def test_every_kind_of_run_goes_through(name, images):
    experiment = experiments.load(name)
    kinds = {}
    for config in experiment.configs("paper", (0,)):
        rules = tuple(
            replace(r, perturbation=replace(r.perturbation, rho=float(r.perturbation.rho > 0)))
            for r in tiny(config).recipes
        )
        kinds[config.data, config.net, config.noise_kind, str(rules)] = config
    assert {config.data for config in kinds.values()} >= {"cifar10"}
    runs = []
    for config in map(tiny, kinds.values()):
        found = experiment.run(config)
        assert found["diverged_step"] is None and len(found["history"]["test_error"]) >= 1
        runs.append({"config": records.plain(config), "seed": config.seed, "metrics": found})
    assert len(experiment.summary(runs)) >= len({run["config"]["net"] for run in runs})


def test_the_network_has_as_many_outputs_as_there_are_classes():
    assert classify.build("resnet tiny 2 batch", 0, 100)(torch.rand(2, 3, 32, 32)).shape == (2, 100)


def record(name, seeds, metrics):
    """All runs at scale "paper", with metrics(config, noise), noise being that of its seed."""
    for config in experiments.load(name).configs("paper", seeds):
        own = {"diverged_step": None} | metrics(config, 0.001 * config.seed)
        records.append(name, "paper", config, own, seconds=1.0, data="none")


def test_a_seed_counts_when_all_its_runs_on_the_data_are_recorded():
    name = "fig01_perturbations"
    *others, last = fig01_perturbations.configs("paper", (0, 1))
    assert last.data == "cifar100" and last.seed == 1
    for config in others:
        records.append(name, "paper", config, {}, seconds=1.0, data="none")
    found = {on: experiments.complete(name, "paper", on) for on in ("cifar10", "cifar100")}
    assert {r["seed"] for r in found["cifar10"]} == {0, 1} and len(found["cifar10"]) == 32
    assert {r["seed"] for r in found["cifar100"]} == {0} and len(found["cifar100"]) == 16


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_the_lead_of_sam_is_over_the_best_of_the_others(seeds):
    def metrics(config, noise):
        how = config.recipes[0].perturbation
        validation = 0.05 - 0.01 * (how.rho == 0.1)
        test = {"ERM": 0.06, "random": 0.05, "n-SAM": 0.055, "SAM": 0.04}[how.label]
        test -= 0.02 * (how.rho == 0.4)  # lucky, but not what validation chooses
        return {"validation_error": validation, "test_error": test + noise}

    record("fig01_perturbations", seeds, metrics)
    low, high = fig01_perturbations.lead(
        experiments.complete("fig01_perturbations", "paper", "cifar10")
    )
    if len(seeds) == 1:
        assert (low, high) == (-np.inf, np.inf)
    else:
        assert low == pytest.approx(0.01) == high


def test_the_least_fall_with_m():
    errors = {("group", 1): 0.03, ("group", 16): 0.035, ("group", 128): 0.05}
    errors |= {("batch", 32): 0.05, ("batch", 128): 0.04}

    def metrics(config, noise):
        how = config.recipes[0].perturbation
        if how.rho != 0.1:
            return {"test_error": 0.5}
        steps = 0.037 if how.steps > 1 else None
        return {"test_error": noise + (steps or errors[config.net.split()[-1], how.m])}

    record("fig02_role_of_m", (0, 1), metrics)
    found = experiments.complete("fig02_role_of_m", "paper", "cifar10")
    assert fig02_role_of_m.falls(found, "group", (1, 16, 128)) == pytest.approx((0.005, 0.005))
    assert fig02_role_of_m.falls(found, "batch", (32, 128)) == pytest.approx((-0.01, -0.01))
    assert fig02_role_of_m.beyond_ascent(found, m=16) == pytest.approx((0.002, 0.002))


def test_the_order_by_sharpness_is_spearmans():
    rng = np.random.default_rng(0)

    def metrics(config, noise):
        error, which = rng.random(), product((0.1, 0.3), (16, 1024))
        value = {(rho, m): -error if m == 16 else rng.random() for rho, m in which}
        sharp = [{"rho": rho, "m": m, "value": v} for (rho, m), v in value.items()]
        return {"validation_error": error, "sharpness": sharp}

    record("fig04_sharpness", (0, 1, 2), metrics)
    found = experiments.complete("fig04_sharpness", "paper", "cifar10")
    table = fig04_sharpness.runs(found)
    assert fig04_sharpness.order(table, 16, 0.1) == pytest.approx((-1, -1))
    low, high = fig04_sharpness.order(table, 1024, 0.1)
    assert low < high and abs(low + high) < 1.5


def test_the_rise_under_label_noise():
    config = records.plain(fig12_label_noise.configs("ci", (0,))[0])
    metrics = [{"test_error": 0.4, "best_test_error": 0.3}, {"diverged_step": 3}]
    found = [{"config": config, "seed": k, "metrics": m} for k, m in enumerate(metrics)]
    rise = fig12_label_noise.runs(found)["rise"]
    assert rise[0] == pytest.approx(0.1) and np.isnan(rise[1])


def gained(recipe):
    """By how much the error is lower than ERM's after this recipe."""
    if recipe.switch:
        return 0.015 if recipe.switch[0][1].rho else 0.0
    gain = 0.0 if recipe.label in ("ERM", "random", "n-SAM") else 0.02
    return gain - 0.001 * np.log(recipe.perturbation.m or 128)


def as_the_paper_says(config, noise):
    """Metrics with which every row on the paper's own networks passes; ``noise`` is the seed's."""
    errors = [e for r in config.recipes for e in [0.1 - gained(r) + noise] * r.epochs]
    history, error = {"epoch": [*range(1, len(errors) + 1)], "test_error": errors}, errors[-1]
    metrics = {"test_error": error, "validation_error": error, "history": history}
    metrics |= {"best_test_error": error - 0.08, "lowest_test_error": error - 0.09}
    metrics |= {"train_loss": 0.002}
    metrics["line"] = {"t": [0.0, 0.5, 1.0], "train_loss": [0.001, 0.002, 0.001]}
    if hasattr(config, "radii"):
        which = product(config.radii, config.sizes)
        metrics["sharpness"] = [{"rho": rho, "m": m, "value": -error} for rho, m in which]
    return metrics


@pytest.mark.long
def test_the_ledger_judges_what_is_recorded(tmp_path):
    """With runs of three seeds, each of the rows that waits for a GPU has a verdict: PASS."""
    for path in (Path(__file__).parents[3] / "results").glob("*-laptop.jsonl"):
        shutil.copy(path, tmp_path)  # which the chapters read as well
    rows = claims.ledger().values()
    paper = [r for r in rows if r.scale == "paper" and r.place != "beyond the paper"]
    assert len(paper) == 13
    chapters = {}
    for row in paper:
        chapters.setdefault(row.chapter, []).append(row.id)
    before = checking.execute("08-label-noise", chapters["08-label-noise"])
    assert all(isinstance(outcome.error, checking.NotReported) for outcome in before.values())
    for name in ON_IMAGES:
        record(name, (0, 1, 2), as_the_paper_says)
    for chapter, ids in chapters.items():
        for id_, outcome in checking.execute(chapter, ids).items():
            assert outcome.expected and outcome.report.verdict == "PASS", (id_, outcome)
