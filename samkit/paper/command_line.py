"""``python -m samkit list``, ``run EXPERIMENT``: the experiments, recorded; ``check ID``: a claim.

Many runs at a time: ``--jobs`` on this machine, ``--dask`` on a cluster. One run on several GPUs:
``torchrun --nproc-per-node 2 -m samkit run EXPERIMENT --scale paper``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from samkit.data import load
from samkit.errors import with_cure
from samkit.paper import experiments, records


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 when all is recorded, 3 when time was up before, 2 for bad input.

    For ``check``: 0 when every verdict is the expected one, 1 when not, 2 for an unknown row.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command == "list":
            _list()
            return 0
        if options.command == "check":
            return _check(options)
        return _run_by_all(options)
    except (ValueError, ImportError, OSError) as error:
        print(f"samkit: {with_cure(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished runs are recorded, the same command goes on", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m samkit", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="the experiments, and how many runs are recorded")
    check = commands.add_parser("check", help="measure rows of the ledger, each by itself")
    check.add_argument("rows", nargs="*", help="their ids, or chapters such as 04-relu-network")
    check.add_argument("--all", action="store_true", help="every row")
    run = commands.add_parser("run", help="run what is not recorded yet")
    run.add_argument("experiment", help="its name, or 'all' that have such runs")
    run.add_argument("--scale", help="ci, laptop or paper (default: $SAMKIT_SCALE, else ci)")
    run.add_argument("--seeds", type=_seeds, help="such as 0,1,2 (default: the scale's own)")
    run.add_argument("--data", help="only runs on that data set, such as cifar10")
    run.add_argument(
        "--match", metavar="REGEX", help="only runs whose words match, such as '^SAM rho=0.1,'"
    )
    run.add_argument("--budget-minutes", type=float, help="stop cleanly within that time")
    run.add_argument(
        "--jobs",
        type=int,
        help="runs at a time, each a process; -1 for all cores (default: 1, on a cluster all)",
    )
    run.add_argument(
        "--dask", metavar="ADDRESS", help="run on the Dask cluster with this scheduler's address"
    )
    run.add_argument("--cpu", action="store_true", help="scale paper without a GPU, knowingly")
    run.add_argument(
        "--drop-old", action="store_true", help="remove records made with other settings first"
    )
    return parser


def _seeds(text: str) -> tuple[int, ...]:
    try:
        seeds = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        seeds = (-1,)
    if min(seeds) < 0:
        raise argparse.ArgumentTypeError(f"{text!r}: write numbers like 0,1,2")
    return seeds


def _list() -> None:
    for name in experiments.NAMES:
        experiment = experiments.load(name)
        print(f"{name}: {str(experiment.__doc__).splitlines()[0]}")
        for scale in experiments.SCALES:
            wanted = experiment.configs(scale, experiments.seeds(name, scale))
            found = experiments.recorded_so_far(name, scale)
            hashes = {record["hash"] for record in found}
            have = sum(records.config_hash(config) in hashes for config in wanted)
            print(f"  {scale:7}{have:4} of {len(wanted):3} runs recorded")


def _check(options: argparse.Namespace) -> int:
    # before torch is imported: on small networks a second thread gains little (2.5 s become 1.8 s
    # in chapter 05), and costs much where a core is busy (30 s)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from samkit.paper import checking

    if not options.rows and not options.all:
        raise ValueError("which rows? Name them, or a chapter, or --all")
    return checking.check(options.rows, options.all, say=lambda line: print(line, flush=True))


def _run_by_all(options: argparse.Namespace) -> int:
    """The first process leads; those that torchrun has started beside it share its runs."""
    from samkit.paper.experiments.sweep import dismiss, follow
    from samkit.training.ranks import joined

    with joined() as here:
        if here.index > 0:
            follow()
            return 0
        code = _run(options)
        dismiss()
        return code


def _run(options: argparse.Namespace) -> int:
    from samkit.paper.experiments.sweep import duration, only, stale, sweep

    scale = experiments.scale(options.scale)
    names = _names(options, scale)
    jobs = options.jobs
    if jobs is None:
        jobs = -1 if options.dask else 1
    if jobs == 0 or jobs < -1:
        raise ValueError(f"--jobs {jobs}: pass a number of processes, or -1 for all cores")
    minutes = options.budget_minutes
    if minutes is not None and not minutes >= 0:
        raise ValueError(f"--budget-minutes {minutes}: pass 0 or more")
    started, left = time.monotonic(), 0
    for name in names:
        experiment = experiments.load(name)
        if scale == "paper":
            seeds = experiments.seeds(name, scale) if options.seeds is None else options.seeds
            wanted = only(experiment.configs(scale, seeds), options.data, options.match)
            if not options.cpu:
                _needs_gpu(wanted, duration)
            if not options.dask:  # a cluster's workers have data of their own
                for source in {config.data for config in wanted if hasattr(config, "data")}:
                    load(source)  # what is missing is told before the first run
        if options.drop_old:
            found = records.runs(name, scale)
            old = {record["hash"] for record in stale(name, scale, found)}
            kept = {r["hash"] for r in found} - old
            dropped = records.keep(name, scale, kept)
            print(f"{name}: {dropped} old records removed")
        minutes = options.budget_minutes
        if minutes is not None:
            minutes = max(0.0, minutes - (time.monotonic() - started) / 60)
        print(f"{name} at scale {scale}", flush=True)
        with _cluster(options.dask):
            left += sweep(
                name,
                scale,
                options.seeds,
                data=options.data,
                match=options.match,
                budget_minutes=minutes,
                jobs=jobs,
                say=lambda line: print(line, flush=True),
            ).left
        if found := experiments.recorded_so_far(name, scale):
            print(f"\n{experiment.summary(found).to_string(index=False)}\n", flush=True)
    return 3 if left else 0


def _names(options: argparse.Namespace, scale: str) -> Sequence[str]:
    """The experiments asked for; of 'all' those that have such runs."""
    from samkit.paper.experiments.sweep import NoRun, only

    if options.experiment != "all":
        return (options.experiment,)
    if options.data is None and options.match is None:
        return experiments.NAMES
    found = []
    for name in experiments.NAMES:
        seeds = experiments.seeds(name, scale) if options.seeds is None else options.seeds
        with suppress(NoRun):
            if only(experiments.load(name).configs(scale, seeds), options.data, options.match):
                found.append(name)
    if not found:
        raise ValueError(
            f"no experiment at scale {scale} has a run with --data {options.data}, --match "
            f"{options.match}; for a single experiment these say what there is"
        )
    return found


@contextmanager
def _cluster(scheduler: str | None) -> Iterator[None]:
    """Inside, joblib runs everything on the Dask cluster of that scheduler, if one is given."""
    if scheduler is None:
        yield
        return
    try:
        from distributed import Client
    except ImportError:
        raise ImportError("--dask needs Dask: pip install 'dask[distributed]'") from None
    import joblib

    with (
        Client(scheduler, set_as_default=False) as client,
        joblib.parallel_config(backend="dask", client=client),
    ):
        yield


def _needs_gpu(configs: Sequence, duration: Callable[[float], str]) -> None:
    """ValueError that says what the runs would cost here, if they want a GPU and there is none."""
    import torch

    from samkit.paper.experiments import classify

    configs = [config for config in configs if isinstance(config, classify.Config)]
    if configs and not torch.cuda.is_available():
        seconds = classify.cost(configs)
        raise ValueError(
            f"scale paper wants a GPU and there is none. On this machine these {len(configs)} runs "
            f"would take about {duration(seconds)}. Take --scale laptop, or --cpu to do it anyway"
        )
