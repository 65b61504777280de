"""samkit: sharpness-aware minimization, with the group size m as a first-class setting.

Where things live (everything is loaded when first used, so that the parts that need only numpy
never import torch):

====================  ==============================================================
Throughout, m is the SIZE of the group of examples that shares one perturbation:
m = 1 perturbs every example on its own, m = n (or the batch) perturbs them together.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_MODULES = (
    "claims",
    "data",
    "diagonal",
    "errors",
    "experiments",
    "figures",
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


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"samkit.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"samkit.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'samkit' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
