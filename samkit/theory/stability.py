"""At which minima m-SAM can stay: the edge of stability for every m (chapter: rest points)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from samkit.theory.objectives import variance_factor


def critical_step_size(hessians: ArrayLike, rho: float, m: int) -> float:
    r"""The step size above which unnormalized m-SAM leaves a minimum that fits every example.

    With :math:`H_i` the Hessian of example i there, H their mean, and groups of m drawn anew at
    every step, the mean step is :math:`w \mapsto (I - \gamma M)\,w` to first order,

    .. math:: M = H + \rho\,\mathbb E_G H_G^2
              = H + \rho H^2 + \rho\,\frac{n-m}{(n-1)\,m}\,\frac1n\sum_i (H_i - H)^2 ,

    and :math:`2 / \lambda_{\max}(M)` is returned. ``hessians``: (n, d, d), symmetric. For fixed
    groups pass the Hessians of the groups, and m = 1. Raises ValueError if M has no positive
    eigenvalue.
    """
    H = np.asarray(hessians, float)
    mean = H.mean(0)
    variance = ((H - mean) @ (H - mean)).mean(0)
    M = mean + rho * (mean @ mean + variance_factor(len(H), m) * variance)
    largest = float(np.linalg.eigvalsh(M)[-1])
    if largest <= 0:
        raise ValueError("no direction is curved upwards: there is no minimum to stay at")
    return 2 / largest
