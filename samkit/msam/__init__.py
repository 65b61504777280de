r"""m-SAM: every group of m examples looks from its own perturbed weights.

    L_m(w) = sum_G (|G| / b) L_G(w + delta_G),     delta_G = rho grad L_G(w) / ||grad L_G(w)||

`msam_grad` computes the gradient of L_m with every delta_G held constant. `loop.py` is the
definition, `ghost.py` the same numbers without a loop over groups, `layers.py` its rule for each
layer, `attention.py` torch's attention out of such layers, `cost.py` the counting behind each
layer's form, `price.py` what a whole step multiplies and holds, `check.py` the comparison of the
two by value, `plan.py` when it is made and which of them is faster.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn.modules.batchnorm import _BatchNorm

from samkit import passes
from samkit.errors import NonFinite, Undefined, Unsupported
from samkit.msam.batch import Batch, LossFn
from samkit.msam.check import Paths
from samkit.msam.layers import BATCH_NORM
from samkit.msam.plan import plan_for

__all__ = ["msam_grad", "sam_grad"]


def msam_grad(
    model: nn.Module,
    loss_fn: LossFn,
    inputs: Any,
    targets: Any,
    *,
    rho: float,
    m: int | None = None,
    normalize: bool = True,
    weight_decay: float = 0.0,
    method: str = "auto",
    max_bytes: int = 4 * 2**30,
    scaler: GradScaler | None = None,
) -> Tensor:
    r"""Adds the m-SAM gradient to p.grad and returns the mean loss at the unperturbed weights.

    The groups G are m consecutive examples of the batch; shuffle before. A last, smaller group
    counts by its size:

    .. math::

        \frac1b \sum_G |G|\, \nabla L_G(w + \delta_G), \qquad
        \delta_G = \rho\, \frac{\nabla L_G(w)}{\lVert\nabla L_G(w)\rVert}
        \quad\text{or, not normalized,}\quad \delta_G = \rho\, \nabla L_G(w).

    :math:`L_G` is the mean loss of the group plus weight_decay :math:`\lVert w\rVert^2 / 2`, the
    norm goes over all trainable parameters together, and :math:`\delta_G = 0` where the gradient is
    0. Both passes see the same dropout masks. The loss returned is without weight decay.

    Two examples pull the weight 1 to 1 and to -1. Alone, the first one has no gradient and does not
    move; together they move up the gradient of their mean:

    >>> model = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.ones_(model.weight)
    >>> x, y = torch.ones(2, 1), torch.tensor([1.0, -1.0])
    >>> def loss(outputs, targets):
    ...     return (outputs.squeeze(1) - targets).square() / 2
    >>> for m in (1, 2):
    ...     model.zero_grad()
    ...     _ = msam_grad(model, loss, x, y, rho=0.1, m=m)
    ...     print(m, round(model.weight.grad.item(), 4))
    1 1.05
    2 1.1

    Args:
        model: called as `model(inputs)`, with `*inputs` for a tuple or list, with `**inputs` for a
            mapping. Parameters with requires_grad False neither move nor get a gradient.
        loss_fn: loss_fn(model output, targets) -> one loss per example, shape (b,).
        inputs, targets: tensors (b, ...), or tuples, lists or mappings of them. What is no tensor
            is given to every group as it is.
        rho: the radius of the perturbation, in the units of the weights, at least 0.
        m: the size of a group, 1 <= m <= b; None for the whole batch (SAM as usually run).
        normalize: whether delta_G has length rho or rho times the gradient's.
        weight_decay: of the loss, at least 0, so it is in delta_G as well; an optimizer's own is
            in the step alone.
        method: "loop" runs two passes for each group, "ghost" two for all of them, see `ghost.py`;
            they agree to rounding. "auto" takes the faster one, which is found in the first calls,
            and the loop where the ghost path is refused or fails: a warning says why. For runs that
            repeat bit for bit, name one.
            Refused are calls without a rule, in every call, and whatever makes the ghost path wrong
            on the batch at hand: at the calls 1, 2, 4, ..., 512, 1024, 1536, ... of a model, loss
            and kind of batch it is held against the loop by value, see `check.py`. At the first
            call nothing is missed that turns the gradient by more than 1e-4 in float32, 2e-13 in
            float64 or 3 % in bfloat16, and stands out from rounding. Later checks miss what only
            the gradient at the moved weights shows. Where torch.func.vmap cannot run the model,
            they look at sqrt(G) of the G groups, chosen at random, and miss one that is wrong alone
            with probability 1 - 1 / sqrt(G). What happens only in calls between the checks is not
            seen.
        max_bytes: how much the ghost path may hold for all groups beyond two ordinary passes; a
            larger batch is done in parts of some groups each.
        scaler: for float16. p.grad is that of the scaled loss then, delta_G and the loss returned
            are as without: ``scaler.step(optimizer)`` and ``scaler.update()`` follow. Where a
            gradient overflows, p.grad and the loss are nan instead of an error, and the scaler
            skips the step. Not for DDP: use bfloat16, which needs no scaler.

    Raises:
        ValueError: rho, m, weight_decay, method, or the shapes of inputs, targets or losses do not
            fit; inputs that cannot be cut into groups, such as a list of names; no parameter gets
            a gradient; checkpointing with use_reentrant=True.
        Undefined: BatchNorm in train mode and m < b (method "loop" allows it: each group is then
            normalized by its own statistics).
        Unsupported: method "ghost", and the model is one that only the loop is right for. Any
            method, and the parameters are sharded over devices (FSDP, tensor parallelism).
        NonFinite: a loss or gradient is inf or nan.
        After any of these, weights and p.grad are as before.

    Source: section 2 of the paper (m-sharpness: Foret et al. 2021, section 4.1). The norms of the
    groups' gradients without the gradients are Goodfellow's (2015, arXiv:1510.01799; for private
    learning "ghost clipping", Li et al. 2022, arXiv:2110.05679); to run at the moved weights in the
    same way is this project's. Chapter: "Can every example have its own perturbation?".
    """
    if scaler is not None and scaler.is_enabled():
        options = {"m": m, "normalize": normalize, "method": method, "max_bytes": max_bytes}
        return _scaled(scaler, model, loss_fn, inputs, targets, rho, weight_decay, options)
    batch = Batch(inputs, targets)
    params = [p for p in model.parameters() if p.requires_grad]
    m = len(batch) if m is None else _integer(m)
    _check(rho, m, len(batch), weight_decay, method, model, params)
    if m < len(batch):
        batch.require_tensors()
    paths = Paths(
        model,
        loss_fn,
        params,
        {"rho": rho, "normalize": normalize, "weight_decay": weight_decay},
        max_bytes,
    )
    with _all_or_nothing(params) as start_again, torch.enable_grad():
        if method == "loop" or m == len(batch):
            return paths.run_loop(batch, m)
        if any(map(_mixes_examples, model.modules())):
            raise Undefined(BATCH_NORM)
        plan = plan_for(model, loss_fn, batch, params, (m, normalize, weight_decay > 0))
        reason = plan.refused
        if not reason:
            try:
                loss = plan.run(paths, batch, m, only_fast=method == "ghost")
                if loss is not None:
                    return loss
            except Undefined:
                raise
            except Unsupported as refusal:
                reason = str(refusal)
            except Exception as error:
                if method == "ghost":
                    raise
                reason = f"it fails with {error!r}"
            start_again()
        if method == "ghost":
            plan.refused = reason
            raise Unsupported(f"method 'ghost' is not right here: {reason}. Use 'auto' or 'loop'")
        loss = paths.run_loop(batch, m)
        if reason:  # the loop can do what the fast path cannot
            plan.refuse(reason, -(-len(batch) // m))
        return loss


def _scaled(
    scaler: GradScaler,
    model: nn.Module,
    loss_fn: LossFn,
    inputs: Any,
    targets: Any,
    rho: float,
    weight_decay: float,
    options: dict[str, Any],
) -> Tensor:
    """`msam_grad` of s times the loss: delta_G is the same where rho g is rho / s times s g."""
    if hasattr(model, "no_sync"):
        raise ValueError(
            "with a scaler a rank whose gradient overflows would leave the others waiting: use "
            "torch.bfloat16, which needs no scaler, or samkit.SAM"
        )

    def scaled(outputs: Any, targets: Any) -> Tensor:
        return scaler.scale(loss_fn(outputs, targets))

    s = scaler.get_scale()
    options |= {"rho": rho if options["normalize"] else rho / s, "weight_decay": weight_decay * s}
    try:
        return msam_grad(model, scaled, inputs, targets, **options) / s
    except NonFinite:
        params = [p for p in model.parameters() if p.requires_grad]
        for p in params:
            p.grad = torch.full_like(p, math.nan)
        return torch.full((), math.nan, device=params[0].device)


def sam_grad(
    model: nn.Module,
    loss_fn: LossFn,
    inputs: Any,
    targets: Any,
    *,
    rho: float,
    normalize: bool = True,
    weight_decay: float = 0.0,
    scaler: GradScaler | None = None,
) -> Tensor:
    r"""Adds SAM's gradient to p.grad and returns the loss at the unperturbed weights.

    It is `msam_grad` with the batch as its only group, which has the arguments and what is raised.
    So `loss_fn(model output, targets)` may return the mean over the batch as well, or any other
    number, and BatchNorm may be in train mode:

    .. math::

        \nabla L(w + \delta), \qquad \delta = \rho\, \nabla L(w) / \lVert\nabla L(w)\rVert.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.zeros_(model.weight)
    >>> x, y = torch.eye(2), torch.tensor([[3.0], [4.0]])
    >>> sam_grad(model, nn.functional.mse_loss, x, y, rho=5.0).item()
    12.5
    >>> model.weight.grad  # w - y at w + delta = (-3, -4)
    tensor([[-6., -8.]])
    """
    b = len(Batch(inputs, targets))

    def losses(outputs: Any, targets: Any) -> Tensor:
        loss = loss_fn(outputs, targets)
        return loss if loss.dim() else loss.expand(b)

    options: dict[str, Any] = {"normalize": normalize, "weight_decay": weight_decay}
    return msam_grad(model, losses, inputs, targets, rho=rho, scaler=scaler, **options)


def _check(
    rho: float,
    m: int,
    b: int,
    weight_decay: float,
    method: str,
    model: nn.Module,
    params: Sequence[Tensor],
) -> None:
    for name, value in (("rho", rho), ("weight_decay", weight_decay)):
        if not 0 <= value < float("inf"):
            raise ValueError(f"{name} must be a number >= 0, not {value}")
    if not 1 <= m <= b:
        raise ValueError(f"m, the size of a group, must be an integer from 1 to {b}, not {m}")
    if method not in ("auto", "ghost", "loop"):
        raise ValueError(f"method must be 'auto', 'ghost' or 'loop', not {method!r}")
    if not params:
        raise ValueError("the model has no parameter with requires_grad=True")
    if any(map(passes.is_sharded, params)) or any(
        "_fsdp_wrapped_module" in module._modules for module in model.modules()
    ):
        raise Unsupported(
            "the parameters are sharded over devices (fully_shard, FullyShardedDataParallel, or "
            "tensor parallelism), and m-SAM needs a group's whole gradient on its device. Use "
            "DistributedDataParallel, where every rank has groups of its own"
        )


def _integer(m: Any) -> int:
    """m, of any type of integers."""
    if isinstance(m, bool) or not hasattr(m, "__index__"):
        raise ValueError(f"m, the size of a group, must be an integer, not {m!r}")
    return operator.index(m)


def _mixes_examples(module: nn.Module) -> bool:
    """Whether this is a BatchNorm that normalizes by the statistics of the batch at hand."""
    return isinstance(module, _BatchNorm) and (module.training or module.running_mean is None)


@contextmanager
def _all_or_nothing(params: Sequence[Tensor]) -> Iterator[Callable[[], None]]:
    """What is added to p.grad inside is added to what was there, or after an error not at all.

    Yields a function that goes back to the start: gradients of 0 and the same random numbers.
    """
    before = [p.grad for p in params]
    random_state = passes.RandomState(params)

    def start_again() -> None:
        random_state.restore()
        for p in params:
            p.grad = None

    for p in params:
        p.grad = None
    try:
        yield start_again
        if not passes.finite(p.grad for p in params):
            raise NonFinite(
                "the gradient is inf or nan at the perturbed weights; weights and p.grad are "
                "unchanged. Lower rho or the learning rate, or skip this batch"
            )
    except BaseException:
        for p, old in zip(params, before, strict=True):
            p.grad = old
        raise
    for p, old in zip(params, before, strict=True):
        if old is not None:
            p.grad = old if p.grad is None else old.add_(p.grad)
