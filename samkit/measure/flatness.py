"""How much the loss grows around the weights: at worst, on average, and by the Hessian."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

from samkit.errors import NonFinite, Undefined
from samkit.msam.batch import Batch, LossFn, leaves, mapped

#: numbers that the weights of all groups ascending together may take
CHUNK = 2**26


def sharpness(
    model: nn.Module,
    loss_fn: LossFn,
    inputs: Any,
    targets: Any,
    *,
    rho: float,
    m: int | None = None,
    steps: int = 20,
    restarts: int = 1,
    seed: int = 0,
) -> float:
    r"""m-sharpness: the mean over groups of the largest increase found within the ball.

    .. math::

        \frac1n \sum_G |G| \max_{\lVert\delta\rVert \le \rho} L_G(w + \delta) - L_G(w)

    The maximum is searched by projected gradient ascent, ``steps`` normalized steps whose length
    falls linearly from rho, from SAM's one-step point and from ``restarts`` random points of the
    sphere, so that a minimum with zero gradient does not read as flat. The best LOSS along all
    ascents counts. What is returned is a lower bound of the true maximum, and at least 0.

    ``m`` is the size of a group, None for all examples (n-sharpness); a last, smaller group counts
    by its size. ``loss_fn`` gives one loss per example, shape (b,). The model is used in the mode
    it is in; networks with dropout or BatchNorm belong in eval mode. Weights are not touched.

    Between two examples that pull to both sides the mean is as flat as it can be, and each of them
    alone is not:

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> x, y = torch.ones(2, 1), torch.tensor([1.0, -1.0])
    >>> def loss(outputs, targets):
    ...     return (outputs.squeeze(1) - targets).square() / 2
    >>> [round(sharpness(model, loss, x, y, rho=0.1, m=m), 4) for m in (1, 2)]
    [0.105, 0.005]

    Raises ValueError for settings out of range, Undefined for BatchNorm in train mode, NonFinite.
    Source: Section 3 of the paper. Chapter: the role of m.
    """
    batch = Batch(inputs, targets)
    m = len(batch) if m is None else m
    if not 0 < rho < float("inf"):
        raise ValueError(f"rho={rho}: pass a positive radius, in the units of the weights")
    if not isinstance(m, int | np.integer) or not 1 <= m <= len(batch):
        raise ValueError(
            f"m={m!r}: pass the size of a group, a whole number from 1 to {len(batch)}"
        )
    if steps < 1 or restarts < 0:
        raise ValueError(f"steps={steps}, restarts={restarts}: pass at least 1 step, 0 restarts")
    net = Flat(model, loss_fn)
    generator = torch.Generator(net.w.device).manual_seed(seed)
    value_and_slope = vmap(grad_and_value(net.loss), randomness="same")

    total = torch.zeros((), dtype=net.w.dtype, device=net.w.device)
    for part, groups in _equal_groups(batch, m, net.w.numel()):
        x, y = (_by_group(t, groups) for t in (part.inputs, part.targets))

        def climb(delta: Tensor, x: Any = x, y: Any = y) -> tuple[Tensor, Tensor]:
            slope, value = value_and_slope(net.w + delta, x, y)
            return value, slope

        zero = torch.zeros(groups, net.w.numel(), dtype=net.w.dtype, device=net.w.device)
        start, slope = climb(zero)
        best = start
        firsts = [rho * _unit(slope)]
        for _ in range(restarts):
            noise = torch.randn(
                zero.shape, generator=generator, dtype=zero.dtype, device=zero.device
            )
            firsts.append(rho * _unit(noise))
        for delta in firsts:
            for step in range(steps + 1):
                value, slope = climb(delta)
                best = torch.maximum(best, value)
                length = rho * (1 - step / steps)
                delta = _project(delta + length * _unit(slope), rho)
        total = total + (best - start).sum() * (len(part) // groups)
    if not torch.isfinite(total):
        raise NonFinite("a loss within the ball is inf or nan: lower rho")
    return float(total) / len(batch)


def average_sharpness(
    model: nn.Module,
    loss_fn: LossFn,
    inputs: Any,
    targets: Any,
    *,
    rho: float,
    draws: int = 100,
    seed: int = 0,
) -> tuple[float, float]:
    r"""The mean increase under random perturbations of length rho, and its standard error.

    :math:`\mathbb E\, L(w + \rho z / \lVert z\rVert) - L(w)` with z standard Gaussian: the same
    radius as :func:`sharpness`, a random direction. Raises ValueError, Undefined.
    """
    if not 0 < rho < float("inf") or draws < 2:
        raise ValueError(f"rho={rho}, draws={draws}: pass a positive radius and at least 2 draws")
    batch, net = Batch(inputs, targets), Flat(model, loss_fn)
    generator = torch.Generator(net.w.device).manual_seed(seed)
    with torch.no_grad():
        at = net.loss(net.w, batch.inputs, batch.targets)
        increases = []
        for _ in range(draws):
            z = torch.randn(
                net.w.shape, generator=generator, dtype=net.w.dtype, device=net.w.device
            )
            moved = net.loss(net.w + rho * _unit(z), batch.inputs, batch.targets)
            increases.append(float(moved - at))
    return float(np.mean(increases)), float(np.std(increases, ddof=1) / draws**0.5)


def top_eigenvalue(model: nn.Module, loss_fn: LossFn, inputs: Any, targets: Any) -> float:
    """The largest eigenvalue of the Hessian of the mean loss (Lanczos, scipy's eigsh).

    In float64 to about eight digits, in float32 to about four. 0 where the loss is linear.
    Attention is computed by its formula, since the fast kernels have no second derivative. Raises
    ValueError for a loss that is not one per example, Undefined for BatchNorm in train mode,
    NonFinite.
    """
    batch, net = Batch(inputs, targets), Flat(model, loss_fn)
    w = net.w.detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        loss = net.loss(w, batch.inputs, batch.targets)
    (slope,) = torch.autograd.grad(loss, w, create_graph=True, materialize_grads=True)

    def product(v: np.ndarray) -> np.ndarray:
        vector = torch.as_tensor(v.ravel(), dtype=w.dtype, device=w.device)
        (curved,) = torch.autograd.grad(slope, w, vector, retain_graph=True, materialize_grads=True)
        return curved.double().cpu().numpy()

    if not slope.requires_grad:  # it does not depend on w
        return 0.0
    K = w.numel()
    if K == 1:
        return float(product(np.ones(1))[0])
    hessian = LinearOperator((K, K), matvec=product, dtype=np.float64)
    tolerance = 1e-10 if w.dtype == torch.float64 else 1e-5
    start = np.random.default_rng(0).normal(size=K)
    image = product(start)
    if not np.isfinite(image).all():
        raise NonFinite("the Hessian has an entry that is inf or nan")
    if not image.any():  # of a random vector: the Hessian is 0, which eigsh does not take
        return 0.0
    return float(eigsh(hessian, k=1, which="LA", tol=tolerance, v0=start)[0][0])


class Flat:
    """A model's mean loss as a function of one vector, its trainable weights laid end to end."""

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        if any(isinstance(m, _BatchNorm) and m.training for m in model.modules()):
            raise Undefined(
                "BatchNorm in train mode makes the loss depend on which examples are taken "
                "together: call model.eval() before measuring"
            )
        self.model, self.loss_fn = model, loss_fn
        named = {k: p.detach() for k, p in model.named_parameters() if p.requires_grad}
        if not named:
            raise ValueError("the model has no parameter with requires_grad=True")
        self.shapes = {name: p.shape for name, p in named.items()}
        self.w = torch.cat([p.flatten() for p in named.values()])

    def loss(self, w: Tensor, x: Any, y: Any) -> Tensor:
        """The mean of ``loss_fn`` over the examples, at the weights w (K,)."""
        parts = w.split([shape.numel() for shape in self.shapes.values()])
        state = {
            name: part.view(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        arguments, keywords = (tuple(x), {}) if isinstance(x, tuple | list) else ((x,), {})
        if isinstance(x, dict):
            arguments, keywords = (), x
        outputs = functional_call(self.model, state, arguments, keywords)
        losses, examples = self.loss_fn(outputs, y), leaves((x, y))[0].shape[0]
        if losses.shape != (examples,):
            raise ValueError(
                f"loss_fn must return one loss per example, shape ({examples},); got "
                f"{tuple(losses.shape)}. Use reduction='none', and average over all but the first "
                "dimension"
            )
        return losses.mean()


def _equal_groups(batch: Batch, m: int, weights: int) -> Iterator[tuple[Batch, int]]:
    """(part, groups in it): groups of one size each, few enough to hold their weights at once."""
    together = max(1, CHUNK // weights)
    whole = len(batch) // m
    for first in range(0, whole, together):
        last = min(first + together, whole)
        yield batch.part(first * m, last * m), last - first
    if whole * m < len(batch):
        yield batch.part(whole * m, len(batch)), 1


def _by_group(x: Any, groups: int) -> Any:
    return mapped(lambda t: t.unflatten(0, (groups, ceil(t.shape[0] / groups))), x)


def _unit(v: Tensor) -> Tensor:
    """v / ||v|| over the last axis, and 0 where v is 0.

    Divided by the largest entry first: the squares of a fitted example's gradient underflow.
    """
    tiny = torch.finfo(v.dtype).tiny
    v = v / v.abs().amax(dim=-1, keepdim=True).clamp_min(tiny)
    return v / v.norm(dim=-1, keepdim=True).clamp_min(tiny)


def _project(delta: Tensor, rho: float) -> Tensor:
    """The nearest point of the ball."""
    length = delta.norm(dim=-1, keepdim=True)
    return delta * (rho / length.clamp_min(torch.finfo(delta.dtype).tiny)).clamp(max=1.0)
