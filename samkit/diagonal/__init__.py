r"""Diagonal linear networks: the model in which SAM's implicit bias can be computed.

The network predicts :math:`\langle x, \beta\rangle` with :math:`\beta = u \odot v`. One scale is
used for every m: :math:`\ell_i = r_i^2 / 2` with residual
:math:`r_i = \langle x_i, u \odot v\rangle - y_i`, training loss the mean of :math:`\ell_i`.

- :mod:`~samkit.diagonal.problem`: sparse regression data (the authors', bit for bit)
- :mod:`~samkit.diagonal.dynamics`: one step of m-SAM as a formula, and :func:`train`
- :mod:`~samkit.diagonal.kernel`: the same step compiled by numba, for long runs
- :mod:`~samkit.diagonal.limit`: the gradient flow to its end, and the effective scale alpha
- :mod:`~samkit.diagonal.potential`: the hyperbolic entropy, and its minimizer by a convex solver

Needs numpy and scipy; with numba installed long runs are several hundred times faster.
"""

from samkit.diagonal.dynamics import TrainResult, sam_step, sam_step_factored, train
from samkit.diagonal.limit import FlowResult, flow
from samkit.diagonal.potential import (
    hyperbolic_entropy,
    hyperbolic_entropy_grad,
    least_entropy,
)
from samkit.diagonal.problem import SparseRegression

__all__ = [
    "FlowResult",
    "SparseRegression",
    "TrainResult",
    "flow",
    "hyperbolic_entropy",
    "hyperbolic_entropy_grad",
    "least_entropy",
    "sam_step",
    "sam_step_factored",
    "train",
]
