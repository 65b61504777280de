"""The paper's experiments on networks, each at three scales.

One file for each: ``configs(scale, seeds)`` lists its runs as frozen dataclasses, ``run(config)``
carries one out and returns its metrics, ``summary(records)`` makes the table that it is for.

==========================  ======================================================  ==============
``fig01_perturbations``     ERM, random, n-SAM and SAM over radii                   Figures 1, 11
``fig02_role_of_m``         m-SAM over m                                            Figures 2 and 3
``fig04_sharpness``         sharpness of the trained networks against test error    Figure 4
``fig07_relu_network``      one hidden layer in 1D: what SAM's function looks like  Figure 7
``fig08_fine_tuning``       ERM then SAM, SAM then ERM, switching at any epoch      Figures 8 to 10
``fig12_label_noise``       wrong labels: the U-shape, early stopping               Figure 12
``switches``                variations: unnormalized, more steps, softplus, SWA     the appendix
``short_resnet``            the paper's network and data in 20 epochs               Figure 1
``small_networks``          the judged runs, by the protocol                        all but 5 to 7
==========================  ======================================================  ==============

- :mod:`~samkit.paper.experiments.classify`: the run that all but Figure 7 share
- :mod:`~samkit.paper.experiments.sweep`: many runs, recorded one by one (``python -m samkit run``)
- :mod:`~samkit.paper.experiments.frame`: runs as a table, and the one paired comparison

Scales: ``ci`` runs in seconds, live in the book; ``laptop`` in minutes on a CPU, recorded under
results/; ``paper`` has the paper's sizes and wants a GPU.
"""

from __future__ import annotations

import os
from types import ModuleType

from samkit.errors import imported

NAMES = (
    "fig01_perturbations",
    "fig02_role_of_m",
    "fig04_sharpness",
    "fig07_relu_network",
    "fig08_fine_tuning",
    "fig12_label_noise",
    "switches",
    "short_resnet",
    "small_networks",
)
SCALES = ("ci", "laptop", "paper")
#: seeds that a scale runs unless told otherwise
SEEDS = {"ci": (0,), "laptop": (0, 1, 2, 3, 4), "paper": (0, 1, 2)}


def load(name: str) -> ModuleType:
    """The experiment of that name; ValueError that lists the names otherwise."""
    if name not in NAMES:
        raise ValueError(f"there is no experiment {name!r}; there are {', '.join(NAMES)}")
    return imported(f"samkit.paper.experiments.{name}")


def seeds(name: str, scale: str) -> tuple[int, ...]:
    """The seeds that an experiment runs at a scale unless told otherwise."""
    own = getattr(load(name), "seeds", None)
    return SEEDS[scale] if own is None else own()


def scale(name: str | None = None) -> str:
    """``name``, or $SAMKIT_SCALE, or "ci"; ValueError for any other than the three scales."""
    chosen = name or os.environ.get("SAMKIT_SCALE") or "ci"
    if chosen not in SCALES:
        where = "" if name else " (from the environment variable SAMKIT_SCALE)"
        raise ValueError(f"there is no scale {chosen!r}{where}; there are {', '.join(SCALES)}")
    return chosen


def recorded(name: str, scale: str) -> list[dict]:
    """The recorded runs of an experiment, all of them runs that it still has, at least one.

    Raises FileNotFoundError, with the command that makes them, where none are recorded; ValueError
    for a record that belongs to another configuration than today's, or none.
    """
    from samkit.paper import records

    found = recorded_so_far(name, scale)
    if not found:
        raise FileNotFoundError(
            f"no runs in {records.runs_path(name, scale)}. Records come with the repository: "
            f"restore the file, or make it: python -m samkit run {name} --scale {scale}"
        )
    return found


def recorded_so_far(name: str, scale: str) -> list[dict]:
    """:func:`recorded`, but none where none are recorded yet."""
    from samkit.paper import records
    from samkit.paper.experiments.sweep import stale

    found = records.runs(name, scale)
    if old := stale(name, scale, found):
        raise ValueError(
            f"{records.runs_path(name, scale)}: {len(old)} of {len(found)} runs were made with "
            f"other settings than {name} has now. Run them anew: python -m samkit run {name} "
            f"--scale {scale} --drop-old"
        )
    return found


def complete(name: str, scale: str, data: str) -> list[dict]:
    """The recorded runs on that data set, of those seeds that have all of its runs."""
    from samkit.paper import records

    found = {r["hash"]: r for r in recorded_so_far(name, scale) if r["config"].get("data") == data}
    kept = []
    for seed in sorted({record["seed"] for record in found.values()}):
        wanted = [c for c in load(name).configs(scale, (seed,)) if c.data == data]
        hashes = [records.config_hash(config) for config in wanted]
        kept += [found[h] for h in hashes] if all(h in found for h in hashes) else []
    return kept


def runs(name: str, scale_name: str | None = None) -> list[dict]:
    """All runs of an experiment at a scale: those recorded, and the others carried out now.

    What is carried out here is not recorded (``python -m samkit run`` does that), which suits the
    scale ``ci``. Each is a record's "config", "seed" and "metrics".
    """
    from samkit.paper import records

    chosen = scale(scale_name)
    found = {record["hash"]: record for record in recorded_so_far(name, chosen)}
    experiment = load(name)
    result = []
    for config in experiment.configs(chosen, seeds(name, chosen)):
        record = found.get(records.config_hash(config))
        if record is None:
            plain = records.plain(config)
            metrics = records.plain(experiment.run(config))
            record = {"config": plain, "seed": plain["seed"], "metrics": metrics}
        result.append(record)
    return result
