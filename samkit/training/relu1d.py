r"""The ReLU network in 1D, one hidden layer, trained by full-batch SAM: formulas, compiled twin.

.. math::

    f(x) = \sum_k a_k \max(0, w_k x + b_k), \qquad
    L = \tfrac12 \sum_i r_i^2, \quad r_i = f(x_i) - y_i

A network is an array (3, H) with rows w, b, a. Weights of :class:`samkit.nets.OneHiddenLayer`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from samkit.errors import Diverged


def gradient(net: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    r"""The gradient of L, (3, H), and L, of the examples x, y (n,).

    With h_ik = max(0, w_k x_i + b_k) and s_ik = 1 where h_ik > 0: the entries are
    :math:`a_k \sum_i r_i s_{ik} x_i,\ a_k \sum_i r_i s_{ik},\ \sum_i r_i h_{ik}`.
    """
    w, b, a = net
    h = np.maximum(np.outer(x, w) + b, 0.0)
    active, r = h > 0, h @ a - y
    return np.stack([a * ((r * x) @ active), a * (r @ active), r @ h]), float(0.5 * r @ r)


def sam_gradient(
    net: np.ndarray, x: np.ndarray, y: np.ndarray, rho: float, m: int
) -> tuple[np.ndarray, float]:
    r"""The sum over groups G of m examples of grad L_G(w + rho grad L_G / ||grad L_G||); and L(w).

    rho = 0 is gradient descent. The norm goes over w, b and a together.
    """
    total, loss = np.zeros_like(net), 0.0
    for start in range(0, len(x), m):
        group = slice(start, start + m)
        ascent, part = gradient(net, x[group], y[group])
        norm = np.sqrt(np.sum(ascent**2))
        moved = net + rho / norm * ascent if norm > 0 else net
        total += gradient(moved, x[group], y[group])[0]
        loss += part
    return total, loss


@dataclass(frozen=True)
class Training:
    """Final network (3, H), its loss, steps taken, and (step, loss) where it was recorded."""

    net: np.ndarray
    loss: float
    steps: int
    losses: list[tuple[int, float]]


def train(
    net: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    *,
    rho: float,
    m: int,
    step_size: float,
    decay: bool,
    steps: int,
    until: float = 0.0,
    record_at: Sequence[int] = (),
) -> Training:
    """Steps along :func:`sam_gradient` until ``steps`` are done or the loss is at most ``until``.

    With ``decay`` the step size falls linearly to 0. Compiled where numba is installed. Raises
    ValueError for an m that is no group size, Diverged when the loss is inf or nan.
    """
    if int(m) != m or not 1 <= m <= len(x):
        raise ValueError(f"m={m}: pass the size of a group, a whole number from 1 to {len(x)}")
    if rho < 0 or step_size <= 0 or steps < 1:
        raise ValueError(f"rho={rho}, step_size={step_size}, steps={steps} must be positive")
    advance: Callable[..., tuple[int, float]] = advance_slowly
    if importlib.util.find_spec("numba") is not None:
        from samkit.training.relu1d_kernel import advance
    net, losses = np.array(net, dtype=np.float64), []
    stops = sorted({s for s in record_at if 0 <= s < steps} | {steps})
    done = 0
    for stop in stops:
        with np.errstate(over="ignore", invalid="ignore"):
            done, _ = advance(net, x, y, rho, m, step_size, decay, steps, done, stop, until)
            here = gradient(net, x, y)[1]
        if not np.isfinite(here):
            raise Diverged(
                f"the loss is {here} in step {done} of {steps}: lower the step size or rho", done
            )
        losses.append((done, here))
        if done < stop or here <= until:
            break
    return Training(net, losses[-1][1], done, losses)


def advance_slowly(
    net: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    rho: float,
    m: int,
    step_size: float,
    decay: bool,
    steps: int,
    first: int,
    last: int,
    until: float,
) -> tuple[int, float]:
    """Steps ``first`` to ``last`` in place, the specification of the kernel.

    Returns (steps done, loss before the last one that was looked at).
    """
    loss = np.inf
    for t in range(first, last):
        g, loss = sam_gradient(net, x, y, rho, m)
        if loss <= until or not np.isfinite(loss):
            return t, loss
        net -= step_size * (1 - t / steps if decay else 1.0) * g
    return last, loss


# How complicated the learned function is


def values(net: np.ndarray, x: np.ndarray) -> np.ndarray:
    """f(x), of the shape of x."""
    w, b, a = net
    return np.maximum(np.multiply.outer(x, w) + b, 0.0) @ a


def slope_changes(net: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Where in (low, high) the function has its kinks, in order, and by how much its slope jumps.

    Neuron k bends f at :math:`-b_k / w_k`, by :math:`a_k |w_k|`.
    """
    w, b, a = (row[net[0] != 0] for row in net)
    at, change = -b / w, a * np.abs(w)
    inside = (at > low) & (at < high)
    order = np.argsort(at[inside])
    return at[inside][order], change[inside][order]


def kinks(net: np.ndarray, low: float, high: float, *, bins: int = 100, share: float = 0.01) -> int:
    """The number of kinks that the eye can tell apart.

    Jumps of the slope within one of ``bins`` equal parts of [low, high] are added up; those count
    whose sum is more than ``share`` of the sum of all the parts' sizes.
    """
    at, change = slope_changes(net, low, high)
    sums = np.abs(np.histogram(at, bins, (low, high), weights=change)[0])
    return int(np.sum(sums > share * sums.sum()))


def variation(net: np.ndarray, low: float, high: float, bins: int = 100) -> float:
    """The total variation of the slope on [low, high], jumps within a part added up first."""
    at, change = slope_changes(net, low, high)
    return float(np.abs(np.histogram(at, bins, (low, high), weights=change)[0]).sum())


def path_norm(net: np.ndarray) -> float:
    r""":math:`\sum_k |a_k| |w_k|`."""
    w, _, a = net
    return float(np.abs(a * w).sum())
