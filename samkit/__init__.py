"""samkit: sharpness-aware minimization, with the group size m as a first-class setting.

Where things live (everything is loaded when first used, so that the parts that need only numpy
never import torch):

=========================  =====================================================================
``samkit.SAM``             the optimizer: SAM, ASAM and the rest of the family around any torch
                           optimizer (``optim``; its rules: ``perturb``, its passes: ``passes``)
``samkit.msam_grad``       the exact gradient of m-SAM for every m, at nearly flat cost (``msam``)
``samkit.sharpness``       the worst increase of the loss nearby, over groups of m (``measure``,
                           with the average case, the Hessian, the loss on lines and planes)
``samkit.diagonal``        diagonal linear networks: discrete dynamics, gradient flow, potential
``samkit.theory``          what the theorems predict: objectives with exact maxima, PAC-Bayes
                           bounds, convergence rates
``samkit.training``        training of any network with any of the methods (``fit``), and of small
                           ones side by side
``samkit.nets``            the paper's networks
``samkit.data``            its data sets, label noise, augmentation
``samkit.experiments``     its experiments at three scales; ``python -m samkit list`` and ``run``
``samkit.records``         finished runs on disk, with what they were run on
``samkit.published``       the paper's published numbers, with their source
``samkit.claims``          the ledger: what the paper states, what a machine measured, the verdict;
                           ``python -m samkit check ID`` measures a row alone (``checking``, which
                           finds by ``slicing`` what it needs of its chapter)
``samkit.figures``         one style and one colour per method for every figure
``samkit.interactive``     figures that answer to the hand, in a page and in a notebook
``samkit.errors``          what is raised: ``NonFinite``, ``Undefined``, ``Unsupported``,
                           ``Diverged``
=========================  =====================================================================

Throughout, m is the SIZE of the group of examples that shares one perturbation:
m = 1 perturbs every example on its own, m = n (or the batch) perturbs them together.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = (
    "claims",
    "data",
    "diagonal",
    "errors",
    "experiments",
    "figures",
    "interactive",
    "measure",
    "msam",
    "nets",
    "optim",
    "perturb",
    "published",
    "records",
    "theory",
    "training",
)
_NAMES = {
    "SAM": "optim",
    "msam_grad": "msam",
    "NonFinite": "errors",
    "Undefined": "errors",
    "Unsupported": "errors",
    "sharpness": "measure",
}

__all__ = [*_MODULES, *_NAMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"samkit.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"samkit.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'samkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
