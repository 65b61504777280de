"""Many runs of an experiment, each recorded as soon as it is done. Behind ``samkit run``."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from threading import Lock
from typing import Any

import torch
from tqdm import tqdm

from samkit.paper import experiments, protocol, records
from samkit.perturbation import Perturbation
from samkit.training.ranks import Ranks

#: how many runs train side by side at most
SIDE_BY_SIDE = 20


class OutOfTime(Exception):
    """The time is up; what the run has done so far is in its checkpoint."""


class NoRun(ValueError):
    """None of an experiment's runs is asked for."""


@dataclass
class Outcome:
    """What a sweep did: runs recorded now, recorded before, and not reached in time."""

    done: int = 0
    skipped: int = 0
    left: int = 0


def stale(name: str, scale: str, found: Iterable[dict]) -> list[dict]:
    """Those records that are not runs of the experiment, or not by the protocol, as it is now."""
    found = list(found)
    seeds = sorted({record["seed"] for record in found})
    known = {records.config_hash(c) for c in experiments.load(name).configs(scale, seeds)}
    tasks, stages = protocol.text()["task"], (False, True)
    today = {(task, stage): protocol.digest(task, stage) for task in tasks for stage in stages}
    return [
        record
        for record in found
        if record["hash"] not in known
        or record.get("protocol")
        not in (None, today.get((record["config"].get("task"), protocol.is_second(record["seed"]))))
    ]


def sweep(
    name: str,
    scale: str,
    seeds: Sequence[int] | None = None,
    *,
    data: str | None = None,
    match: str | None = None,
    budget_minutes: float | None = None,
    jobs: int = 1,
    say: Callable[[str], object] = print,
) -> Outcome:
    """Runs what is not recorded yet, ``jobs`` at a time (-1: as many as there are), and records it.

    The runs go to processes of this machine, or within ``joblib.parallel_config(backend=...)`` to
    that backend, such as a Dask or Ray cluster whose workers have one thread each. This process
    writes all records; checkpoints are written where a run is, to the same path. With a budget no
    run is begun that would not end in time, judging by the runs before; a run that is still going
    then stops at the end of its epoch, and resumes from there the next time; so do those of this
    machine whose parent is killed. Every process takes one thread for its computations, except at
    scale "paper".

    Where torchrun has started several processes, all of them share every run: the first calls this,
    the others :func:`follow` it.

    ``data`` leaves out the runs on other data sets, ``match`` those that :func:`describe` describes
    in words where this regular expression is not found. Raises ValueError for unknown names, for
    records of other settings, and for two runs at once in one process.
    """
    from joblib import Parallel, cpu_count, delayed, effective_n_jobs

    experiment = experiments.load(name)
    scale = experiments.scale(scale)
    records.check_writable()
    seeds = experiments.seeds(name, scale) if seeds is None else seeds
    before = experiments.recorded_so_far(name, scale)
    known = {record["hash"] for record in before}
    wanted = only(experiment.configs(scale, seeds), data, match)
    todo = [config for config in wanted if records.config_hash(config) not in known]
    outcome = Outcome(skipped=len(wanted) - len(todo), left=len(todo))
    if outcome.skipped:
        say(f"{outcome.skipped} of {len(wanted)} runs are recorded already")
    deadline = None if budget_minutes is None else time.time() + 60 * budget_minutes
    took = [record["seconds"] for record in before if "seconds" in record]

    groups = [[config] for config in todo]
    if hasattr(experiment, "alike"):  # those that train side by side, at most so many
        together: dict[Any, list] = {}
        for config in todo:
            together.setdefault(experiment.alike(config), []).append(config)
        groups = [
            own[k : k + SIDE_BY_SIDE]
            for own in together.values()
            for k in range(0, len(own), SIDE_BY_SIDE)
        ]
    judged = [config for config in todo if getattr(config, "judged", False)]
    if judged:
        protocol.check(judged)

    def in_time() -> Iterator[Any]:
        for group in groups:
            expected = mean(took) * len(group) if took else 0.0
            if deadline is not None and time.time() + expected > deadline:
                return
            yield group

    jobs = effective_n_jobs(-1) if jobs == -1 else jobs
    processes = Ranks.here().count
    if processes > 1 and jobs > 1:
        raise ValueError(f"{processes} processes share each run: take one at a time, not {jobs}")
    threads = 1 if scale != "paper" else max(1, cpu_count() // (jobs * processes))
    # one by one, so that each is recorded when it is done
    one_by_one = {"return_as": "generator_unordered", "pre_dispatch": jobs, "batch_size": 1}
    bar = tqdm(total=len(todo), desc=name, unit="run", disable=None)  # none where no one looks
    for group, found, seconds, place in Parallel(n_jobs=jobs, **one_by_one)(
        delayed(_all)(name, own, checkpoint(name, scale, own[0]), deadline, threads, os.getpid())
        for own in in_time()
    ):
        if found is None:
            say(f"time is up: {describe(group[0])} goes on from its checkpoint next time")
            continue
        for config, metrics in zip(group, found, strict=True):
            data = metrics.pop("data")
            where = place | protocol.signed(config)
            records.append(name, scale, config, metrics, seconds=seconds, data=data, place=where)
            took.append(seconds)
            outcome.done += 1
            outcome.left -= 1
            bar.update()
            bar.set_postfix_str(_result(metrics))
            remaining = outcome.left * mean(took) / jobs
            say(
                f"[{outcome.done}/{len(todo)}] {describe(config)}: {_result(metrics)} "
                f"({seconds:.1f} s; about {duration(remaining)} left)"
            )
        kept = checkpoint(name, scale, group[0])
        for file in kept.parent.glob(f"{kept.name}.*"):
            file.unlink()
    bar.close()
    if outcome.left:
        say(f"stopped: {outcome.left} runs are left; the same command goes on with them")
    return outcome


def _all(*task: Any) -> tuple[list, list[dict] | None, float, dict]:
    """The runs of a group, shared by all processes that torchrun has started."""
    ranks = Ranks.here()
    group, metrics, seconds, place = _one(*ranks.from_first(task))
    if ranks.count > 1:
        place["hardware"] = f"{ranks.count} processes, the first on {place['hardware']}"
    return group, metrics, seconds, place


def follow() -> None:
    """Every process but the first: its share of each run, until the first one is done."""
    while (task := Ranks.here().from_first(None)) is not None:
        _one(*task)


def dismiss() -> None:
    """The first process, when it is done: the others need not follow any more."""
    Ranks.here().from_first(None)


_alone = Lock()


def _one(
    name: str, group: list, checkpoint: Path, deadline: float | None, threads: int, parent: int
) -> tuple[list, list[dict] | None, float, dict]:
    """A group in a worker: (its runs, their metrics or None when time was up, seconds each, place).

    The seconds are those of all attempts whose work the run took over from a checkpoint.
    """
    if not _alone.acquire(blocking=False):
        raise ValueError(
            "two runs in one process would mix up their random numbers: give every worker one "
            "thread (dask worker --nthreads 1)"
        )
    torch.set_num_threads(threads)
    started, child = time.time(), os.getppid() == parent
    attempts = checkpoint.with_name(f"{checkpoint.name}.seconds")
    before = _seconds(attempts)

    def progress(share: float) -> None:
        late = deadline is not None and time.time() > deadline
        if share < 1 and (late or (child and os.getppid() != parent)):
            raise OutOfTime

    metrics, experiment = None, experiments.load(name)
    try:
        if hasattr(experiment, "alike"):
            metrics = experiment.run_together(group, progress)
        else:
            metrics = [experiment.run(group[0], checkpoint=checkpoint, progress=progress)]
    except (OutOfTime, KeyboardInterrupt) as stop:
        if list(checkpoint.parent.glob(f"{checkpoint.name}.*")):
            attempts.write_text(f"{before + time.time() - started}")
        if isinstance(stop, KeyboardInterrupt):
            raise
    finally:
        _alone.release()
    seconds = (before + time.time() - started) / len(group)
    return group, metrics, seconds, records.environment()


def _seconds(attempts: Path) -> float:
    """What earlier attempts took; 0 if there were none, or none that wrote it down whole."""
    try:
        return float(attempts.read_text())
    except (FileNotFoundError, ValueError):
        return 0.0


def checkpoint(name: str, scale: str, config: Any) -> Path:
    """Where a run keeps its state, without suffix: results/checkpoints/, which git ignores."""
    file = f"{name}-{scale}-{records.config_hash(config)}"
    return records.folder() / "checkpoints" / file


def only(configs: Sequence[Any], data: str | None, match: str | None = None) -> list[Any]:
    """Those configurations on this data set that match; NoRun, a ValueError, if none does."""
    found = [config for config in configs if data in (None, getattr(config, "data", None))]
    if configs and not found:
        there = sorted({getattr(config, "data", "its own points") for config in configs})
        raise NoRun(f"no run is on data {data!r}; they are on {', '.join(there)}")
    if match is not None and found:
        words = [describe(config) for config in found]
        try:
            found = [c for c, text in zip(found, words, strict=True) if re.search(match, text)]
        except re.error as error:
            raise ValueError(f"{match!r} is no regular expression: {error}") from None
        if not found:
            raise NoRun(f"no run matches {match!r}; they are\n  " + "\n  ".join(words))
    return found


def describe(config: Any) -> str:
    """A run in a few words."""
    if hasattr(config, "task"):
        stage = config.stages[0]
        settings = f"lr={stage.learning_rate:g}, rho={stage.perturbation.rho:g}"
        return f"{config.task}, {config.method}, {settings}, seed {config.seed}"
    plain = records.plain(config)
    parts = []
    for recipe in plain.get("recipes", [plain]):
        changes = [(None, recipe.get("perturbation", recipe)), *recipe.get("switch", ())]
        words = []
        for at, entries in changes:
            how = Perturbation(entries["rho"], entries["m"], entries.get("source", "own"))
            words += [] if at is None else [f"from {at}:"]
            words += [how.label, *([f"rho={how.rho}"] if how.rho else [])]
        parts.append(" ".join(words))
    noise = f", noise {plain['noise']}" if plain.get("noise") else ""
    data = plain.get("data", "mnist1d")
    place = "" if data == "mnist1d" else f", {data}, {plain['net']}"
    return f"{' -> '.join(parts)}{noise}{place}, seed {plain['seed']}"


def _result(metrics: dict) -> str:
    if metrics.get("diverged"):
        return "diverged"
    if metrics.get("diverged_step") is not None:
        return f"diverged in step {metrics['diverged_step']}"
    shown = ("test_error", "kinks", "train_loss")
    return ", ".join(f"{k.replace('_', ' ')} {metrics[k]:.3g}" for k in shown if k in metrics)


def duration(seconds: float) -> str:
    """Such as "40 s", "12 min" or "3.5 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
