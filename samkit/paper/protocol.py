"""The protocol of the judged runs: read from protocol.toml, carried out, and held to.

Tuning comes first, on seeds of its own; :func:`chosen` then says which learning rate and radius
each method takes, and raises where the best pair lies on the edge of its grid. :func:`check`
refuses a judged run that is not the protocol's, or whose code is not a commit. Rows that ten seeds
left undecided have a second stage, with new seeds for the methods that they compare.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from samkit.paper import records
from samkit.paper.claims import NotRecorded
from samkit.paper.experiments.frame import frame as table
from samkit.paper.experiments.frame import interval
from samkit.paper.experiments.frame import text as words
from samkit.paper.experiments.small_networks import Config, Stage, setting
from samkit.perturbation import Perturbation

NAME, SCALE = "small_networks", "laptop"
#: what a training that diverged counts as: guessing among ten classes
CHANCE = 0.9
PERTURBATION = ("m", "source", "normalize", "steps", "project")


class NotChosen(ValueError):
    """A method's learning rate and radius are not chosen: runs are missing, or the grid is."""


@cache
def text() -> dict[str, Any]:
    """protocol.toml."""
    return tomllib.loads((files("samkit.paper") / "protocol.toml").read_text(encoding="utf-8"))


def seeds_of(task: str, method: str, second: bool = False) -> list[int]:
    """The seeds that judge a method, or those of its second stage: none where it has no such."""
    if not second:
        return text()["judged_seeds"]
    first, found = text()["second"]["first_seed"], text()["second"]["comparison"]
    count = max((c["seeds"] for c in found if [task, method] in c["runs"]), default=0)
    return [*range(first, first + count)]


def digest(task: str, second: bool = False) -> str:
    """16 hex digits of all that the protocol says of a task, and of the second stage if asked."""
    own = text()["task"][task]
    extra = [arm for arm in text()["arm"] if arm["task"] == task]
    rest = {k: v for k, v in text().items() if k not in ("task", "arm", "data", "second")}
    rules = [own, extra, text()["data"][own["data"]], rest, *([text()["second"]] if second else [])]
    said = json.dumps(rules, sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _config(task: str, method: str, rate: float, rho: float, seed: int, **more: Any) -> Config:
    """The run of a method of a task at that learning rate and radius."""
    own = text()["task"][task]
    data = text()["data"][own["data"]]
    settings = own["methods"][method]
    perturbation = Perturbation(
        rho=rho, **{k: v for k, v in settings.items() if k in PERTURBATION} if rho else {}
    )
    stage = Stage(
        perturbation,
        epochs=data["epochs"],
        learning_rate=rate,
        step_size_only=settings.get("step_size_only", False),
    )
    return Config(
        task=task,
        method=method,
        data=own["data"].split("-")[0],
        train=data["train"],
        network=tuple(data["network"]),
        batch_size=data["batch_size"],
        stages=(stage,),
        noise=own.get("noise", 0.0),
        softplus=settings.get("softplus"),
        seed=seed,
        **more,
    )


def _grid(task: str, method: str) -> tuple[list[float], list[float]]:
    """The learning rates and radii tried; the rates of another method where it names that."""
    settings = text()["task"][task]["methods"][method]
    rates, radii = settings["learning_rates"], settings["radii"]
    return [chosen(task, rates)[0]] if isinstance(rates, str) else rates, radii


def tuning(seeds: Sequence[int]) -> list[Config]:
    """The runs that choose; of a method that takes another's learning rate, once that is known."""
    found = []
    for task, own in text()["task"].items():
        for method in own["methods"]:
            try:
                rates, radii = _grid(task, method)
            except NotChosen:
                continue
            found += [
                _config(task, method, rate, rho, seed)
                for rate, rho, seed in product(rates, radii, seeds)
                if seed in text()["tuning_seeds"]
            ]
    return found


@cache
def _recorded(path: str, size: int) -> dict[str, float]:
    """Validation errors of the recorded tuning runs, by hash; ``size`` is that of the file."""
    return {
        record["hash"]: record["metrics"].get("validation_error", CHANCE)
        for record in records.runs(NAME, SCALE)
        if not record["config"]["judged"]
    }


def tuned(task: str, method: str) -> dict[tuple[float, float], float]:
    """(learning rate, radius) -> mean validation error over the tuning seeds, where all are run."""
    path = records.runs_path(NAME, SCALE)
    return dict(_means(task, method, str(path), path.stat().st_size if path.exists() else 0))


@cache
def _means(task: str, method: str, path: str, size: int) -> dict[tuple[float, float], float]:
    known, found = _recorded(path, size), {}
    for pair in product(*_grid(task, method)):
        hashes = [
            records.config_hash(_config(task, method, *pair, seed))
            for seed in text()["tuning_seeds"]
        ]
        if all(h in known for h in hashes):
            found[pair] = float(np.mean([known[h] for h in hashes]))
    return found


def chosen(task: str, method: str) -> tuple[float, float]:
    """The learning rate and the radius of a method, by the rule of the protocol.

    Raises NotChosen where tuning is not finished, and where the best pair lies on the edge.
    """
    rates, radii = _grid(task, method)
    errors = tuned(task, method)
    if len(errors) < len(rates) * len(radii):
        raise NotChosen(
            f"{task}, {method}: {len(errors)} of {len(rates) * len(radii)} settings are tuned: "
            f"python -m samkit run {NAME} --scale {SCALE}"
        )
    rate, rho = min(errors, key=lambda pair: errors[pair])
    for name, value, tried in (("learning rate", rate, rates), ("radius", rho, radii)):
        if len(tried) > 1 and value in (min(tried), max(tried)):
            raise NotChosen(
                f"{task}, {method}: the best {name}, {value:g}, is on the edge of its grid "
                f"{tried}: extend it in protocol.toml"
            )
    return rate, rho


def judged(seeds: Sequence[int]) -> list[Config]:
    """The runs that are judged, in both stages: those with learning rate and radius chosen."""
    found = []
    for config in _judged():
        of = config.task, config.method
        own = {*seeds_of(*of), *seeds_of(*of, second=True)}
        found += [replace(config, seed=seed) for seed in seeds if seed in own]
    return found


def _judged() -> Iterator[Config]:
    for task, own in text()["task"].items():
        for method in own["methods"]:
            try:
                pairs = tuple((m, rho) for m, rho in own.get("sharpness", ()))
                settings = chosen(task, method)
                yield _config(task, method, *settings, 0, sharpness=pairs, judged=True)
            except NotChosen:
                continue
    for arm in text()["arm"]:
        try:
            yield _arm(**arm)
        except NotChosen:
            continue


def _arm(
    task: str,
    method: str,
    name: str,
    *,
    then: str | None = None,
    epochs: int = 0,
    switch: Mapping[str, Any] | None = None,
    rho: float | None = None,
    rate: float | str | None = None,
    changes: Mapping[str, Any] | None = None,
    **more: Any,
) -> Config:
    """A method at what is chosen for it, but for some changes.

    ``then``: a second stage of so many ``epochs`` by that method. ``switch``: {"to", "at"}, a
    method and a share of the epochs. ``rho``, ``rate``: another radius, another learning rate (or
    that of another method). ``changes`` are of the stage, ``more`` of the run.
    """
    own_rate, own_rho = chosen(task, method)
    if isinstance(rate, str):
        rate = chosen(task, rate)[0]
    config = _config(task, method, rate or own_rate, own_rho if rho is None else rho, 0)
    (stage,) = config.stages
    stage = replace(stage, **(changes or {}))
    if switch is not None:
        other = _config(task, switch["to"], *chosen(task, switch["to"]), 0).stages[0]
        stage = replace(stage, switch=(round(switch["at"] * stage.epochs), other.perturbation))
    stages: tuple[Stage, ...] = (stage,)
    if then is not None:
        second = _config(task, then, *chosen(task, then), 0).stages[0]
        stages = (stage, replace(second, epochs=epochs))
    return replace(config, method=name, stages=stages, judged=True, **more)


def check(configs: Sequence[Config]) -> None:
    """ValueError unless these judged runs are ones that the protocol asks for, made by a commit."""
    asked = set(judged(sorted({config.seed for config in configs})))
    for config in configs:
        if config not in asked:
            raise ValueError(f"{config.method}, {config.task}: this is no run of the protocol")
    commit = records.commit()
    if not commit or commit.endswith("changes"):
        raise ValueError(
            "judged runs are made by a commit, and this tree has changes: commit them first"
        )


def signed(config: Any) -> dict[str, str]:
    """What the record of a judged run has besides: the digest of what it was judged by."""
    judged = getattr(config, "judged", False)
    return {"protocol": digest(config.task, is_second(config.seed))} if judged else {}


def is_second(seed: int) -> bool:
    """Is a judged run of that seed one of the second stage?"""
    return seed not in text()["judged_seeds"]


def recorded(task: str) -> list[dict[str, Any]]:
    """The judged runs of a task that are recorded, all of them by the protocol as it is now.

    Raises ValueError for one that is older than the protocol, or made by a tree with changes.
    """
    found = [
        record
        for record in records.runs(NAME, SCALE)
        if record["config"]["judged"] and record["config"]["task"] == task
    ]
    for record in found:
        commit = record["commit"]
        words = f"{task}, {record['config']['method']}, seed {record['seed']}"
        if record.get("protocol") != digest(task, is_second(record["seed"])):
            raise ValueError(
                f"{words}: judged by another protocol than today's: run with --drop-old"
            )
        if not commit or commit.endswith("changes"):
            raise ValueError(f"{words}: made by a tree with changes; run it again")
    return found


def frame(task: str) -> pd.DataFrame:
    """The judged runs of a task, one a row: "method", "seed", what was chosen, every metric."""
    path = records.runs_path(NAME, SCALE)
    return _frame(task, str(path), path.stat().st_size if path.exists() else 0).copy()


@cache
def _frame(task: str, path: str, size: int) -> pd.DataFrame:
    return table(recorded(task), setting)


def known(task: str, methods: Sequence[str]) -> list[str]:
    """Those of the methods whose judged runs are all recorded."""
    found = frame(task)
    runs = {*zip(found["method"], found["seed"], strict=True)} if len(found) else {}
    return [m for m in methods if all((m, seed) in runs for seed in seeds_of(task, m))]


def gain(
    task: str, worse: str, better: str, measure: str = "test_error", second: bool = False
) -> tuple[float, float]:
    """The interval of a measure of one method minus that of another, paired by seed."""
    return interval(errors(task, worse, measure, second) - errors(task, better, measure, second))


def errors(task: str, method: str, measure: str = "test_error", second: bool = False) -> pd.Series:
    """A measure of a method's judged runs, seed -> number; NotRecorded unless every seed is there.

    Of the ten seeds, or of the ``second`` stage: ValueError for a method that has none. A training
    that diverged counts as :data:`CHANCE`.
    """
    found, wanted = frame(task), seeds_of(task, method, second)
    if not wanted:
        raise ValueError(f"{task}, {method}: the protocol has no second stage for it")
    own = found[(found["method"] == method) & found["seed"].isin(wanted)] if len(found) else found
    if missing := {*wanted} - {*own.get("seed", ())}:
        raise NotRecorded(
            f"{task}, {method}: {len(missing)} of the judged runs are not recorded: "
            f"python -m samkit run {NAME} --scale {SCALE}"
        )
    measured = own.set_index("seed")[measure].sort_index()
    return measured.fillna(CHANCE) if measure.endswith("error") else measured


def outcomes(
    task: str,
    methods: Sequence[str],
    against: str | None = None,
    measures: Sequence[str] = ("test_error",),
    digits: int = 3,
) -> pd.DataFrame:
    """One row a method: what was chosen for it, each measure, and its gain over ``against``.

    A measure is text, "0.258 ± 0.006", with half the width of its interval over the judged seeds.
    The gain is how far the first measure is below that of the method ``against`` of the same task.
    Methods whose runs are not all recorded are left out.
    """
    found, rows = frame(task), list[dict[str, Any]]()
    for method in known(task, methods):
        first = found[found["method"] == method].iloc[0]
        row = {"method": method, "learning rate": first["learning_rate"]}
        row |= {"rho": first["rho"] or None}
        row |= {m: words(errors(task, method, m), digits) for m in measures}
        if against is not None:
            gained = errors(task, against, measures[0]) - errors(task, method, measures[0])
            row[f"gain over {against}"] = words(gained, digits) if method != against else None
        rows.append(row)
    return pd.DataFrame(rows)


def tuned_frame(task: str) -> pd.DataFrame:
    """What tuning found: one row for each method, learning rate and radius tried."""
    rows = []
    for method, settings in text()["task"][task]["methods"].items():
        try:
            errors = tuned(task, method)
        except NotChosen:
            continue
        for (rate, rho), error in errors.items():
            row = {"method": method, "m": settings.get("m"), "learning_rate": rate, "rho": rho}
            rows.append(row | {"validation_error": error})
    return pd.DataFrame(rows)
