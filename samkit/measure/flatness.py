"""How much the loss grows around the weights: at worst, on average, and by the Hessian."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from samkit.errors import NonFinite, Unsupported
from samkit.measure.objective import Objective, WeightNormByFormula, batches
from samkit.msam.batch import Batch, LossFn, mapped
from samkit.perturbation import ball, unit

#: numbers that the weights of all groups ascending together may take
CHUNK = 2**26

Climb = Callable[[Tensor], tuple[Tensor, Tensor]]


def sharpness(
    model: nn.Module,
    loss_fn: LossFn,
    inputs: Any,
    targets: Any = None,
    *,
    rho: float,
    m: int | None = None,
    steps: int = 20,
    restarts: int = 1,
    adaptive: bool = False,
    eta: float = 0.01,
    seed: int = 0,
) -> float:
    r"""m-sharpness: the mean over groups of the largest increase of the loss within the ball.

    .. math::

        \frac1n \sum_G |G| \max_{\lVert T^{-1}\delta\rVert \le \rho} L_G(w + \delta) - L_G(w),
        \qquad T = 1 \quad\text{or, if adaptive,}\quad T_k = |w_k| + \eta.

    The maximum is searched by projected gradient ascent, ``steps`` normalized steps whose length
    falls linearly from rho, from SAM's one-step point and from ``restarts`` random points of the
    sphere, so that a minimum with zero gradient does not read as flat. The best LOSS along all
    ascents counts. What is returned is a lower bound of the true maximum, and at least 0.

    Between two examples that pull to both sides the mean is as flat as it can be, and each of them
    alone is not:

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> x, y = torch.ones(2, 1), torch.tensor([1.0, -1.0])
    >>> def loss(outputs, targets):
    ...     return (outputs.squeeze(1) - targets).square() / 2
    >>> [round(sharpness(model, loss, x, y, rho=0.1, m=m), 4) for m in (1, 2)]
    [0.105, 0.005]

    Args:
        model: used in the mode it is in, and left as it was.
        loss_fn: loss_fn(model(inputs), targets) gives one loss per example, shape (b,).
        inputs: of b examples, tensors (b, ...) or a tuple, list or mapping of them; or a DataLoader
            or another iterable of pairs (inputs, targets), and no ``targets``. It is gone through
            once; a group may span several batches, and is all that is held in memory.
        targets: those of the inputs, of any such kind.
        rho: the radius, in the units of the weights; adaptive: as a share of them.
        m: the size of a group, consecutive examples; None: all examples in one, n-sharpness. A
            last, smaller group counts by its size.
        adaptive: each weight moves in proportion to its size (Kwon et al. 2021, ASAM's ball).
        seed: of the random starts.

    The groups of a batch ascend together where ``torch.func.vmap`` can run the model and gives for
    the first group what plain autograd gives. Elsewhere each ascends by itself, which is slower,
    and a RuntimeWarning says why.

    Raises ValueError for settings out of range, for a loss that is not one per example or reaches
    no weight; Undefined for BatchNorm in train mode; Unsupported for a forward pass that computes
    in half precision, or sharded weights; NonFinite.
    Source: Section 3 of the paper. Chapter: the role of m.
    """
    _check_radius(rho, eta)
    if steps < 1 or restarts < 0:
        raise ValueError(f"steps={steps}, restarts={restarts}: pass at least 1 step, 0 restarts")
    with Objective(model, loss_fn).measuring() as objective:
        generator = torch.Generator(objective.w.device).manual_seed(seed)
        T = objective.w.abs() + eta if adaptive else None
        total, count, by_vmap = torch.zeros_like(objective.w[0]), 0, None
        data = batches(objective, inputs, targets)
        for parts, groups in _chunks(data, m, max(1, CHUNK // objective.w.numel())):
            examples = sum(map(len, parts))
            if count == 0:
                objective.look(_first(parts, groups))
            if groups > 1 and by_vmap is None:
                by_vmap = _vmap_agrees(objective, parts[0], groups)
            climb = _climb(objective, parts, groups, T, bool(by_vmap))
            zero = objective.w.new_zeros(groups, objective.w.numel())
            value, slope = climb(zero)
            starts = [rho * unit(slope)]
            for _ in range(restarts):
                noise = torch.randn(
                    zero.shape, generator=generator, dtype=zero.dtype, device=zero.device
                )
                starts.append(rho * unit(noise))
            best = _highest(climb, value, starts, rho, steps)
            total = total + (best - value).sum() * (examples // groups)
            count += examples
    if not torch.isfinite(total):
        raise NonFinite("a loss within the ball is inf or nan: lower rho")
    return float(total) / count


def _highest(
    climb: Climb, best: Tensor, starts: Sequence[Tensor], rho: float, steps: int
) -> Tensor:
    """The largest loss (G,) that G ascents meet, from several starts (G, K)."""
    for delta in starts:
        for step in range(steps + 1):
            value, slope = climb(delta)
            best = torch.maximum(best, value)
            length = rho * (1 - step / steps)
            delta = ball(delta + length * unit(slope), rho)
    return best


def _climb(
    objective: Objective, parts: list[Batch], groups: int, T: Tensor | None, by_vmap: bool
) -> Climb:
    """delta (G, K), in the units of T -> the losses of the groups (G,), their slopes (G, K)."""
    if groups > 1 and by_vmap:
        at = _at_once(objective, parts[0], groups)
    else:
        each = (
            [parts]
            if groups == 1
            else [[group] for group in parts[0].groups(len(parts[0]) // groups)]
        )

        def at(w: Tensor) -> tuple[Tensor, Tensor]:
            values, slopes = zip(*map(objective.value_and_slope, w, each), strict=True)
            return torch.stack(values), torch.stack(slopes)

    def climb(delta: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = at(objective.w + (delta if T is None else T * delta))
        return value, slope if T is None else T * slope

    return climb


def _at_once(objective: Objective, batch: Batch, groups: int) -> Climb:
    """w (G, K) -> losses (G,), slopes (G, K), of all groups of a batch by ``torch.func.vmap``."""
    x, y = (
        mapped(lambda t: t.unflatten(0, (groups, len(batch) // groups)), part)
        for part in (batch.inputs, batch.targets)
    )

    def loss(w: Tensor, x: Any, y: Any) -> Tensor:
        return objective.at(w, Batch(x, y))

    def at(w: Tensor) -> tuple[Tensor, Tensor]:
        slope, value = vmap(grad_and_value(loss), randomness="same")(w, x, y)
        return value, slope

    return at


def _vmap_agrees(objective: Objective, batch: Batch, groups: int) -> bool:
    """Whether vmap gives for the first group what plain autograd gives; else a warning why."""
    value, slope = objective.value_and_slope(objective.w, _first([batch], groups))
    try:
        w = objective.w.expand(groups, -1)
        values, slopes = _at_once(objective, batch, groups)(w)
        off = (values[0] - value).abs() / value.abs().clamp_min(1) + (slopes[0] - slope).norm() / (
            slope.norm().clamp_min(torch.finfo(w.dtype).tiny)
        )
        if off < torch.finfo(w.dtype).eps ** 0.5 * 10 or not torch.isfinite(off):
            return True
        reason = f"it is off by {off:.0e}"
    except Exception as error:  # each module may break vmap in a way of its own
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:120]}"
    warnings.warn(
        f"torch.func.vmap cannot run this model ({reason}): the groups ascend one after the other, "
        "which gives the same and takes longer",
        RuntimeWarning,
        stacklevel=3,
    )
    return False


def average_sharpness(
    model: nn.Module,
    loss_fn: LossFn,
    inputs: Any,
    targets: Any = None,
    *,
    rho: float,
    draws: int = 100,
    adaptive: bool = False,
    eta: float = 0.01,
    seed: int = 0,
) -> tuple[float, float]:
    r"""The mean increase under random perturbations of length rho, and its standard error.

    :math:`\mathbb E\, L(w + \rho T z / \lVert z\rVert) - L(w)` with z standard Gaussian: the ball
    of :func:`sharpness`, whose arguments these are, and a random direction in it.

    Raises as :func:`sharpness` does, and ValueError for fewer than 2 ``draws``.
    Source: Section 3 of the paper. Chapter: the role of m.
    """
    _check_radius(rho, eta)
    if draws < 2:
        raise ValueError(f"draws={draws}: pass at least 2 draws, for a standard error")
    with Objective(model, loss_fn).measuring() as objective:
        w, parts = objective.w, list(batches(objective, inputs, targets))
        objective.look(parts[:1])
        generator = torch.Generator(w.device).manual_seed(seed)
        start, increases = objective.value(w, parts), []
        for _ in range(draws):
            z = torch.randn(w.shape, generator=generator, dtype=w.dtype, device=w.device)
            move = rho * unit(z) * (w.abs() + eta if adaptive else 1.0)
            increases.append(float(objective.value(w + move, parts) - start))
    if not np.isfinite(increases).all():
        raise NonFinite("a loss within the ball is inf or nan: lower rho")
    return _mean_and_error(increases)


def top_eigenvalue(model: nn.Module, loss_fn: LossFn, inputs: Any, targets: Any = None) -> float:
    """The largest eigenvalue of the Hessian of the mean loss (Lanczos, scipy's eigsh).

    In float64 to about eight digits, in float32 to about four. 0 where the loss is linear. The
    largest by value, not by magnitude: at a minimum these are one. Arguments as in
    :func:`sharpness`. Attention and weight norm are computed by their formulas, since their fast
    kernels have no right second derivative.

    Raises as :func:`sharpness` does; Unsupported where torch has no second derivative, or one that
    is not symmetric or not the derivative of the first (see :func:`hessian_trace`).
    """
    with Objective(model, loss_fn).measuring() as objective, WeightNormByFormula():
        product, K = _hessian(objective, list(batches(objective, inputs, targets)))
        if K == 1:
            return float(product(np.ones(1))[0])
        start = np.random.default_rng(0).normal(size=K)
        if not product(start).any():  # of a random vector: the Hessian is 0, refused by eigsh
            return 0.0
        operator = LinearOperator((K, K), matvec=product, dtype=np.float64)
        tolerance = 1e-10 if objective.dtype == torch.float64 else 1e-5
        return float(eigsh(operator, k=1, which="LA", tol=tolerance, v0=start)[0][0])


def hessian_trace(
    model: nn.Module,
    loss_fn: LossFn,
    inputs: Any,
    targets: Any = None,
    *,
    draws: int = 100,
    seed: int = 0,
) -> tuple[float, float]:
    r"""The trace of the Hessian of the mean loss, and the standard error of this estimate.

    The mean of :math:`z^\top H z` over ``draws`` vectors z of random signs (Hutchinson 1990): its
    expectation is the trace, its error comes from the entries off the diagonal alone. Arguments
    as in :func:`sharpness`.

    The second derivative is looked at before it is used: for random u and v, u'Hv must be v'Hu, and
    where the model also runs in float64, Hv must be the difference of the slopes at w + hv and
    w - hv, divided by 2h.

    Raises as :func:`top_eigenvalue` does, and ValueError for fewer than 2 ``draws``.
    """
    if draws < 2:
        raise ValueError(f"draws={draws}: pass at least 2 draws, for a standard error")
    with Objective(model, loss_fn).measuring() as objective, WeightNormByFormula():
        product, K = _hessian(objective, list(batches(objective, inputs, targets)))
        rng = np.random.default_rng(seed)
        signs = (rng.choice([-1.0, 1.0], size=K) for _ in range(draws))
        return _mean_and_error([float(z @ product(z)) for z in signs])


def _hessian(
    objective: Objective, parts: list[Batch]
) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """v (K,) -> H v in float64, and K; looked at first."""
    objective.look(parts[:1])
    product, K = _product(objective, parts), objective.w.numel()
    u, v = np.random.default_rng(1).normal(size=(2, K))
    Hu, Hv = product(u), product(v)
    if not np.isfinite([Hu, Hv]).all():
        raise NonFinite("the Hessian has an entry that is inf or nan")
    scale = np.linalg.norm(Hu) + np.linalg.norm(Hv)
    if abs(u @ Hv - v @ Hu) > (1e-8 if objective.dtype == torch.float64 else 1e-2) * scale:
        raise Unsupported(
            f"torch's second derivative of this model is not symmetric (u'Hv = {u @ Hv:.4g}, "
            f"v'Hu = {v @ Hu:.4g}), so it is not the Hessian: look for a layer whose backward pass "
            "is written by hand or in a fast kernel, and write it by its formula"
        )
    _check_against_differences(objective, parts[0])
    return product, K


def _product(objective: Objective, parts: list[Batch]) -> Callable[[np.ndarray], np.ndarray]:
    """v -> H v. The graph of a single batch is kept, those of several are made for each v."""
    w = objective.w.detach().requires_grad_()
    count = sum(map(len, parts))

    def slope(part: Batch) -> Tensor:
        (g,) = torch.autograd.grad(
            objective.at(w, part), w, create_graph=True, materialize_grads=True
        )
        return g * (len(part) / count)

    kept = [slope(part) for part in parts] if len(parts) == 1 else None

    def product(v: np.ndarray) -> np.ndarray:
        vector, result = (
            torch.as_tensor(v.ravel(), dtype=w.dtype, device=w.device),
            np.zeros(len(w)),
        )
        for g in kept or map(slope, parts):
            if g.requires_grad:  # else it is the same for all w
                try:
                    (Hv,) = torch.autograd.grad(
                        g, w, vector, retain_graph=kept is not None, materialize_grads=True
                    )
                except RuntimeError as error:
                    raise Unsupported(
                        "torch has no second derivative of this model "
                        f"({str(error).splitlines()[0]}): write the layer by its formula, or "
                        "measure sharpness instead"
                    ) from error
                result = result + Hv.double().cpu().numpy()
        return result

    return product


def _check_against_differences(objective: Objective, batch: Batch) -> None:
    """Unsupported unless H v is the derivative of the slope along v, for a few examples."""
    few = batch.part(0, min(4, len(batch)))
    try:
        twin = Objective(objective.model, objective.pair.loss_fn, torch.float64)
        with twin.measuring():
            product, w = _product(twin, [few]), twin.w
            for seed, step in enumerate((1e-8, 1e-9, 1e-9)):  # between two kinks, if it has some
                v = torch.as_tensor(np.random.default_rng(seed).normal(size=len(w))).to(w)
                h = step * (1 + w.norm()) / v.norm()
                Hv = torch.as_tensor(product(v.cpu().numpy())).to(w)
                (_, ahead), (_, behind) = (
                    twin.value_and_slope(w + along * v, [few]) for along in (h, -h)
                )
                difference = (ahead - behind) / (2 * h)
                off, size = (Hv - difference).norm(), torch.maximum(Hv.norm(), difference.norm())
                if off <= 1e-3 * size + 1e-13 * ahead.norm() / h:
                    return
    except RuntimeError:  # it does not run in float64
        return
    raise Unsupported(
        "torch's second derivative of this model is not the derivative of the first: H v and "
        f"differences of the gradient are {off / size:.0%} apart. Look for a layer whose "
        "backward pass is written by hand, or rounds, and write it by its formula"
    )


def _check_radius(rho: float, eta: float) -> None:
    if not 0 < rho < float("inf"):
        raise ValueError(f"rho={rho}: pass a positive radius, in the units of the weights")
    if not 0 <= eta < float("inf"):
        raise ValueError(f"eta={eta}: pass a finite number of at least 0")


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5)


def _chunks(
    data: Iterable[Batch], m: int | None, together: int
) -> Iterator[tuple[list[Batch], int]]:
    """(batches, groups in them): ``together`` equal groups of one batch, or one group of several.

    Raises ValueError, before anything is computed, for an m that is no size of a group.
    """
    if m is not None and (not isinstance(m, int | np.integer) or m < 1):
        raise _no_size(m, data)
    pending: list[Batch] = []
    whole = False
    for batch in data:
        missing = len(batch) if m is None else (m - sum(map(len, pending))) % m
        start = min(missing, len(batch))
        if start:
            pending.append(batch.part(0, start))
        if m is None:
            continue
        if pending and sum(map(len, pending)) == m:
            yield pending, 1
            pending, whole = [], True
        groups = (len(batch) - start) // m
        for first in range(0, groups, together):
            last = min(first + together, groups)
            yield [batch.part(start + first * m, start + last * m)], last - first
            whole = True
        if start + groups * m < len(batch):
            pending.append(batch.part(start + groups * m, len(batch)))
    if pending and m is not None and not whole:
        raise _no_size(m, pending)
    if pending:
        yield pending, 1


def _no_size(m: Any, data: Iterable[Batch]) -> ValueError:
    count = sum(map(len, data))
    return ValueError(f"m={m!r}: pass the size of a group, a whole number from 1 to {count}")


def _first(parts: list[Batch], groups: int) -> list[Batch]:
    """The first of the groups that these batches are."""
    return parts if groups == 1 else [parts[0].part(0, len(parts[0]) // groups)]
