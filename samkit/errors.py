"""What samkit raises when a SAM gradient cannot be had, beside ValueError for bad arguments."""

from __future__ import annotations


class NonFinite(FloatingPointError):
    """A loss or a gradient is inf or nan: no step has been taken, the weights are as before.

    After ``SAM.step`` every p.grad is None and the step is not counted. What forward passes update,
    such as BatchNorm's running statistics, has seen the batch.
    """


class Undefined(ValueError):
    """The quantity asked for does not exist, such as one example's loss under BatchNorm."""


class Unsupported(RuntimeError):
    """The ghost path cannot be proven equal to the loop for this model; the loop is right."""


class Diverged(NonFinite):
    """A training has come to inf or nan: in ``step`` (from 0), after epochs with ``history``."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step
        self.history: dict[str, list[float]] = {}
