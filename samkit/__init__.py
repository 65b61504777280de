"""samkit: sharpness-aware minimization, with the group size m as a first-class setting.

Where things live (each name is loaded when first used, so that the parts that need only numpy
never import torch):

===================  =====================================================================
``samkit.diagonal``  diagonal linear networks: discrete dynamics, gradient flow, potential
``samkit.training``  small networks trained with SAM, many side by side (needs torch)
``samkit.theory``    what the theorems predict: objectives with exact maxima, PAC-Bayes bounds
``samkit.data``      MNIST-1D, generated on this machine
``samkit.published`` the paper's published numbers, with their source
``samkit.claims``    the ledger: what the paper states, what a machine measured, the verdict
``samkit.figures``   one style and one colour per method for every figure
===================  =====================================================================

Throughout, m is the SIZE of the group of examples that shares one perturbation:
m = 1 perturbs every example on its own, m = n (or the batch) perturbs them together.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_MODULES = ("claims", "data", "diagonal", "figures", "published", "theory", "training")

__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"samkit.{name}")
    raise AttributeError(f"module 'samkit' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
