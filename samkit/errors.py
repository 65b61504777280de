"""What samkit raises beside ValueError for bad arguments, and what it says of a missing package."""

from __future__ import annotations

import importlib
from types import ModuleType

#: the extra of samkit that holds a package
EXTRAS = {
    "torch": "torch",
    "matplotlib": "figures",
    "anywidget": "interactive",
    "cattrs": "experiments",
    "ipywidgets": "interactive",
    "joblib": "experiments",
    "pandas": "experiments",
    "jupytext": "book",
    "tqdm": "experiments",
}


def imported(module: str) -> ModuleType:
    """That module; where it needs a package of an extra, an ImportError that says what to do."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise with_cure(error) from None


def with_cure(error: Exception) -> Exception:
    """The error; or, where a package of an extra is missing, one that says what to install."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package not in EXTRAS:
        return error
    return ImportError(
        f"this needs {package}, which is not installed: pip install 'samkit[{EXTRAS[package]}]'",
        name=package,
    )


class NonFinite(FloatingPointError):
    """A loss or a gradient is inf or nan: no step has been taken, the weights are as before.

    After ``SAM.step`` every p.grad is None and the step is not counted. What forward passes update,
    such as BatchNorm's running statistics, has seen the batch.
    """


class Undefined(ValueError):
    """The quantity asked for does not exist, such as one example's loss under BatchNorm."""


class Unsupported(RuntimeError):
    """Not for this model: the ghost path, where the loop is right; or a measure, wrong there."""


class Diverged(NonFinite):
    """A training has come to inf or nan: in ``step`` (from 0), after epochs with ``history``."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step
        self.history: dict[str, list[float]] = {}
