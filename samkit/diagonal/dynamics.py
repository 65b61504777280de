"""Training a diagonal linear network by gradient descent with SAM, for any group size m."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from samkit.diagonal.problem import SparseRegression, check_group_size

CHUNK = 50_000  # steps whose random batches are drawn (and held) at once


def sam_step(
    X: np.ndarray,
    y: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    *,
    rho: float,
    m: int,
    step_size: float,
) -> tuple[np.ndarray, np.ndarray]:
    r"""One step of unnormalized m-SAM on :math:`\beta = u \odot v`: the specification.

    For every group G of m consecutive rows, with :math:`g_G = \frac1{|G|}\sum_{k \in G} r_k x_k`
    the gradient of its mean loss with respect to :math:`\beta`:

    .. math::

        u_G &= u + \rho\, g_G \odot v, \qquad v_G = v + \rho\, g_G \odot u \\
        u &\leftarrow u - \frac{\gamma}{n} \sum_G \sum_{i \in G} r_i(u_G, v_G)\, x_i \odot v_G

    and likewise for v. A last, smaller group counts by its size. ``rho=0`` is gradient descent,
    ``m=1`` is 1-SAM (a loop over examples), ``m=n`` is n-SAM. Chapter: sparse regression.

    Shapes: X (n, d), y (n,), u and v (d,). Returns the new (u, v).
    """
    n = len(y)
    descent_u, descent_v = np.zeros_like(u), np.zeros_like(v)
    for start in range(0, n, m):
        X_G, y_G = X[start : start + m], y[start : start + m]
        g = X_G.T @ (X_G @ (u * v) - y_G) / len(y_G)
        u_G, v_G = u + rho * g * v, v + rho * g * u
        g_perturbed = X_G.T @ (X_G @ (u_G * v_G) - y_G)
        descent_u += g_perturbed * v_G
        descent_v += g_perturbed * u_G
    return u - step_size * descent_u / n, v - step_size * descent_v / n


def sam_step_factored(
    X: np.ndarray,
    y: np.ndarray,
    plus: np.ndarray,
    minus: np.ndarray,
    *,
    rho: float,
    m: int,
    step_size: float,
) -> tuple[np.ndarray, np.ndarray]:
    r""":func:`sam_step` on :math:`w_\pm = u \pm v`, where a step is a multiplication.

    .. math::

        w_\pm \leftarrow w_\pm \odot \big(1 \mp \gamma A - \gamma B\big), \qquad
        A = \tfrac1n \sum_i r'_i x_i, \quad B = \tfrac\rho n \sum_i r'_i\, x_i \odot g_{G(i)}

    The same map in exact arithmetic. In floating point it keeps a coordinate's relative precision
    however small :math:`w_\pm` becomes, which u and v cannot: u + v is rounding noise once it is
    far below u. Chapter: sparse regression. Shapes as in :func:`sam_step`.
    """
    beta, spread = (plus**2 - minus**2) / 4, (plus**2 + minus**2) / 2
    A, B = pull_and_decay(X, y, beta, spread, rho=rho, m=m)
    return plus * (1 - step_size * (A + B)), minus * (1 + step_size * (A - B))


def pull_and_decay(
    X: np.ndarray,
    y: np.ndarray,
    beta: np.ndarray,
    spread: np.ndarray,
    *,
    rho: float,
    m: int,
    normalized: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    r"""A and B of :func:`sam_step_factored`: what moves beta, and what shrinks alpha; (d,) each.

    ``spread`` is :math:`u^2 + v^2`. ``normalized`` divides the perturbation of each group by the
    norm of its gradient with respect to (u, v), :math:`\lVert g_G \odot (v, u)\rVert`: a scalar, so
    that the step remains the same multiplication. Chapter: diagonal networks.
    """
    n = len(y)
    A, B = np.zeros_like(beta), np.zeros_like(beta)
    for start in range(0, n, m):
        X_G, y_G = X[start : start + m], y[start : start + m]
        g = X_G.T @ (X_G @ beta - y_G) / len(y_G)
        ascent = rho * g
        if normalized and g.any():
            ascent = ascent / np.sqrt(g**2 @ spread)
        g_perturbed = X_G.T @ (X_G @ (beta + ascent * (ascent * beta + spread)) - y_G)
        A += g_perturbed / n
        B += ascent * g_perturbed / n
    return A, B


def _advance_by_steps(X, y, u, v, rho, m, step_size, batches, steps):
    """``steps`` calls of :func:`sam_step`, in place; step t uses ``batches[t % len(batches)]``."""
    with np.errstate(all="ignore"):
        for t in range(steps):
            rows = batches[t % len(batches)]
            u[:], v[:] = sam_step(X[rows], y[rows], u, v, rho=rho, m=m, step_size=step_size)


def _fastest_advance() -> Callable[..., None]:
    try:
        from samkit.diagonal.kernel import advance
    except ImportError:
        warnings.warn(
            "numba is not installed: samkit.diagonal.train runs its readable loop, several hundred "
            "times slower. `pip install numba` makes it fast; the numbers stay the same.",
            stacklevel=3,
        )
        return _advance_by_steps
    return advance


@dataclass(frozen=True)
class TrainResult:
    """What :func:`train` returns. ``...`` is the shape of the sweep, () for a single run.

    ``u``, ``v``, ``beta`` (..., d): the last weights; ``steps`` (k,): the recorded steps, the last
    one included; ``train_loss``, ``test_loss`` (..., k): mean of r^2/2 after that many steps.
    """

    u: np.ndarray
    v: np.ndarray
    beta: np.ndarray
    steps: np.ndarray
    train_loss: np.ndarray
    test_loss: np.ndarray


def train(
    problem: SparseRegression,
    *,
    rho: float | np.ndarray = 0.0,
    m: int | None = None,
    step_size: float | np.ndarray,
    steps: int,
    init: float | np.ndarray = 0.1,
    start: tuple[np.ndarray, np.ndarray] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    record_at: Sequence[int] | None = None,
) -> TrainResult:
    r"""Run :func:`sam_step` ``steps`` times from :math:`u = a_0 \mathbf 1,\ v = 0`.

    Parameters
    ----------
    rho: ascent radius on the scale l_i = r_i^2/2, for every m; 0 is ERM.
    m: SIZE of the group that shares a perturbation, 1 to n (or to ``batch_size``), groups in
        index order; None is one group.
    step_size, steps: constant step size and number of steps.
    init: a_0. Ignored if ``start`` is given.
    start: (u, v) to start from (a warm start), each broadcastable to (..., d).
    batch_size: SGD on that many examples a step, drawn anew each step without replacement; the
        groups are consecutive in the drawn order. None is full batch. One ``seed`` gives every
        run of a sweep the same batches.
    record_at: steps after which losses are recorded; the last is always added. None records the
        start and the last.

    ``init``, ``rho`` and ``step_size`` may be arrays: they broadcast, and every combination is a
    run. A run that diverges has inf or nan losses from there on; the others are not touched.

    Raises ValueError for negative or non-finite settings, m out of range, steps that are not
    whole numbers in order, or shapes that do not fit.

    One example at a time (m = 1) finds a solution that predicts better than the whole batch does:

    >>> problem = SparseRegression.sample()
    >>> for m in (problem.n, 1):
    ...     found = train(problem, rho=0.1, m=m, step_size=1 / 30, steps=5000)
    ...     print(m, f"{found.test_loss[-1]:.4f}")
    20 0.0164
    1 0.0061
    """
    size = problem.n if batch_size is None else batch_size
    if int(size) != size or not 1 <= size <= problem.n:
        raise ValueError(f"batch_size={size}: pass a whole number from 1 to {problem.n} (examples)")
    size = int(size)
    m = check_group_size(m, size, "examples in a batch")
    if int(steps) != steps or steps < 0:
        raise ValueError(f"steps={steps}: pass a whole number, 0 or more")
    steps = int(steps)
    recorded = _recorded_steps(record_at, steps)
    settings = {
        name: np.asarray(value, dtype=np.float64)
        for name, value in (("rho", rho), ("step_size", step_size), ("init", init))
    }
    for name, value in settings.items():
        if not np.isfinite(value).all() or (value < 0).any():
            raise ValueError(f"{name}={value}: pass finite numbers, 0 or larger")
    try:
        rhos, step_sizes, inits = np.broadcast_arrays(*settings.values())
        sweep = rhos.shape
        if start is None:
            u = np.repeat(inits.reshape(-1, 1), problem.d, axis=1)
            v = np.zeros_like(u)
        else:
            start_u, start_v = (np.asarray(w, dtype=np.float64) for w in start)
            if 0 in (start_u.ndim, start_v.ndim):
                raise ValueError("a start without coordinates")
            sweep = np.broadcast_shapes(sweep, start_u.shape[:-1], start_v.shape[:-1])
            rhos, step_sizes = np.broadcast_to(rhos, sweep), np.broadcast_to(step_sizes, sweep)
            u, v = (
                np.broadcast_to(w, (*sweep, problem.d)).reshape(-1, problem.d).copy()
                for w in (start_u, start_v)
            )
    except ValueError as error:
        shapes = {name: value.shape for name, value in settings.items()}
        if start is not None:
            shapes["start"] = tuple(np.shape(w) for w in start)
        raise ValueError(
            f"the shapes {shapes} do not broadcast to one sweep of runs with d={problem.d} "
            f"coordinates ({error}): pass start as (u, v) of shape (..., {problem.d}) and settings "
            "that fit each other"
        ) from None

    advance = _fastest_advance()
    losses = np.full((2, len(u), len(recorded)), np.nan)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the kernel releases the GIL
        column = done = 0
        for batches, count in _batches(problem.n, size, batch_size is not None, seed, recorded):

            def run(k, batches=batches, count=count):
                if np.isfinite(u[k]).all() and np.isfinite(v[k]).all():
                    advance(
                        problem.X, problem.y, u[k], v[k], rhos.flat[k], m, step_sizes.flat[k],
                        batches, count,
                    )  # fmt: skip

            list(pool.map(run, range(len(u))))
            done += count
            if done == recorded[column]:
                losses[:, :, column] = _losses(problem, u, v)
                column += 1
    with np.errstate(all="ignore"):
        beta = u * v
    shape = (*sweep, problem.d)
    return TrainResult(
        u=u.reshape(shape),
        v=v.reshape(shape),
        beta=beta.reshape(shape),
        steps=recorded,
        train_loss=losses[0].reshape(*sweep, -1),
        test_loss=losses[1].reshape(*sweep, -1),
    )


def _losses(problem, u, v):
    """Training and test loss of every run, each by itself: a sweep equals its runs bit for bit."""
    data = ((problem.X, problem.y), (problem.X_test, problem.y_test))
    with np.errstate(all="ignore"):
        return [[np.square(X @ beta - y).mean() / 2 for beta in u * v] for X, y in data]


def _recorded_steps(record_at: Sequence[int] | None, steps: int) -> np.ndarray:
    record_at = (0,) if record_at is None else record_at
    wanted = np.unique(np.append(np.asarray(record_at), steps))
    if (wanted != np.floor(wanted)).any() or wanted[0] < 0 or wanted[-1] > steps:
        raise ValueError(
            f"record_at={record_at}: pass whole numbers from 0 to steps={steps}, "
            "the numbers of steps after which to record"
        )
    return wanted.astype(np.int64)


def _batches(
    n: int, size: int, stochastic: bool, seed: int, recorded: np.ndarray
) -> Iterator[tuple[np.ndarray, int]]:
    """(batches, count) in turn: do ``count`` steps with these rows; stops at each recorded step."""
    rng = np.random.default_rng(seed)
    everyone = np.arange(n)[None, :]
    done = 0
    for stop in recorded:
        if stop == done == 0:
            yield everyone, 0
        while done < stop:
            count = int(min(stop - done, CHUNK))
            if stochastic:
                order = np.tile(np.arange(n), (count, 1))
                yield rng.permuted(order, axis=1)[:, :size].copy(), count
            else:
                yield everyone, count
            done += count
