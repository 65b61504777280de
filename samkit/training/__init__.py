"""Training with SAM for every group size m. Needs torch.

Any network, with schedules, switches of method, checkpoints and records of each epoch:

- :func:`~samkit.training.fit.fit`: the loop, with its settings
  (:class:`~samkit.training.recipe.Recipe`)
- :mod:`~samkit.training.evaluation`: losses and errors of a network on sets of examples
- :mod:`~samkit.training.checkpoint`: the state of a training on disk
- :mod:`~samkit.training.cuda_graph`: its steps on a GPU
- :mod:`~samkit.training.ranks`: the processes that share one training under torchrun

The one-hidden-layer ReLU network on points in 1D, by formulas (Figure 7):

- :mod:`~samkit.training.relu1d`: its training, its kinks and its path norm

Small networks, many of them side by side as one batched computation (chapters 02, 05 and 11):

- :mod:`~samkit.training.stack`: :func:`train_stack` for perturbations x seeds, and the worst case
"""

from __future__ import annotations

import warnings
from typing import Any

from samkit.perturbation import Perturbation
from samkit.training.fit import Fit, fit
from samkit.training.recipe import Recipe
from samkit.training.stack import MLP, errors, gradients, losses, train_stack, worst_case

__all__ = [
    "MLP",
    "Fit",
    "Recipe",
    "errors",
    "fit",
    "gradients",
    "losses",
    "train_stack",
    "worst_case",
]


def _rule(method: str, rho: float = 0.0, m: int | None = None) -> Perturbation:
    """What was Rule(method, rho, m)."""
    if method == "random":
        return Perturbation(rho, source="random", normalize=False)
    return Perturbation(rho, m=m, source="independent" if method == "n-SAM" else "own")


# Their names before 0.2, kept for one release.
_MOVED = {
    "Rule": (_rule, "samkit.Perturbation"),
    "train": (train_stack, "samkit.training.train_stack"),
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module 'samkit.training' has no attribute {name!r}")
    value, new = _MOVED[name]
    warnings.warn(
        f"samkit.training.{name} is {new} now; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=2,
    )
    return value
