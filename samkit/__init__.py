"""samkit: sharpness-aware minimization, with the group size m as a first-class setting.

Where things live (everything is loaded when first used, so that the parts that need only numpy
never import torch):

=======================  =========================================================================
``samkit.SAM``           the optimizer: SAM, ASAM and the rest of the family around any torch
                         optimizer (``optim``; its passes: ``passes``)
``samkit.Perturbation``  where the gradient is taken: radius, m, whose direction, ...
                         (``perturbation``, with the rules that it is made of)
``samkit.msam_grad``     the exact gradient of m-SAM for every m, at nearly flat cost (``msam``);
                         ``samkit.sam_grad`` that of SAM, as a function
``samkit.sharpness``     the worst increase of the loss nearby, over groups of m (``measure``, with
                         the average case, the Hessian, the loss on lines and planes)
``samkit.diagonal``      diagonal linear networks: discrete dynamics, gradient flow, potential
``samkit.theory``        what the theorems predict: objectives with exact maxima, PAC-Bayes bounds,
                         convergence rates
``samkit.training``      training of any network with any of the methods (``fit``), and of small
                         ones side by side
``samkit.nets``          the paper's networks
``samkit.data``          its data sets, label noise, augmentation
``samkit.errors``        what is raised: ``NonFinite``, ``Undefined``, ``Unsupported``, ``Diverged``
``samkit.paper``         the companion to the paper, which nothing above imports: the ledger, the
                         recorded experiments, the figures; ``python -m samkit``
=======================  =========================================================================

Throughout, m is the SIZE of the group of examples that shares one perturbation:
m = 1 perturbs every example on its own, m = n (or the batch) perturbs them together.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from samkit.errors import imported

if TYPE_CHECKING:  # mypy finds modules by itself, pyright those that are imported
    from samkit import (
        data,
        diagonal,
        errors,
        measure,
        msam,
        nets,
        optim,
        paper,
        perturbation,
        theory,
        training,
    )
    from samkit.errors import NonFinite, Undefined, Unsupported
    from samkit.measure import sharpness
    from samkit.msam import msam_grad, sam_grad
    from samkit.optim import SAM
    from samkit.perturbation import Perturbation

__version__ = "0.1.0"

_NAMES = {
    "Perturbation": "perturbation",
    "SAM": "optim",
    "msam_grad": "msam",
    "sam_grad": "msam",
    "NonFinite": "errors",
    "Undefined": "errors",
    "Unsupported": "errors",
    "sharpness": "measure",
}
# Where they were before 0.2, kept for one release.
_MOVED = {
    name: f"samkit.paper.{name}"
    for name in ("claims", "experiments", "figures", "interactive", "published", "records")
} | {"perturb": "samkit.perturbation"}

__all__ = [
    "SAM",
    "NonFinite",
    "Perturbation",
    "Undefined",
    "Unsupported",
    "__version__",
    "data",
    "diagonal",
    "errors",
    "measure",
    "msam",
    "msam_grad",
    "nets",
    "optim",
    "paper",
    "perturbation",
    "sam_grad",
    "sharpness",
    "theory",
    "training",
]
_MODULES = set(__all__) - _NAMES.keys() - {"__version__"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return imported(f"samkit.{name}")
    if name in _NAMES:
        return getattr(imported(f"samkit.{_NAMES[name]}"), name)
    if name in _MOVED:
        warnings.warn(
            f"samkit.{name} is {_MOVED[name]} now; the old name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return imported(_MOVED[name])
    raise AttributeError(f"module 'samkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
