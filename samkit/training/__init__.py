"""Training with SAM for every group size m. Needs torch.

Any network, with schedules, switches of method, checkpoints and records of each epoch:

- :mod:`~samkit.training.fit`: the loop, and :class:`~samkit.training.fit.Recipe`, its settings
- :mod:`~samkit.training.ranks`: the processes that share one training under torchrun

The one-hidden-layer ReLU network on points in 1D, by formulas (Figure 7):

- :mod:`~samkit.training.relu1d`: its training, its kinks and its path norm

Small networks, many of them side by side as one batched computation (chapters 02 and 11):

- :mod:`~samkit.training.network`: a network whose weights are one vector, or a stack of them
- :mod:`~samkit.training.ascent`: the first-order step, and the maximum by projected ascent
- :mod:`~samkit.training.rules`: the update directions as formulas, and :func:`train_one`
- :mod:`~samkit.training.sweep`: their batched twin: :func:`train` for rules x radii x seeds

The last four take weights w (..., K) and examples x (..., B, inputs), y (..., B): leading
dimensions are networks. A group with its own perturbation is a network more.
"""

from samkit.training.ascent import ascent_step, worst_case
from samkit.training.network import MLP, errors, gradients, losses
from samkit.training.rules import Rule, train_one
from samkit.training.sweep import train

__all__ = [
    "MLP",
    "Rule",
    "ascent_step",
    "errors",
    "gradients",
    "losses",
    "train",
    "train_one",
    "worst_case",
]
