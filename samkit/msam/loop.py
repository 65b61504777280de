"""m-SAM by its definition: a loop over the groups. The specification of `ghost.py`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from samkit import passes
from samkit.msam.batch import Batch, LossFn, per_example, require_finite
from samkit.perturbation import Perturbation, Tensors, norm

UNREACHED = (
    "no parameter of the model received a gradient from the loss, so m-SAM would be the plain "
    "gradient, or none. Give msam_grad the module whose parameters the loss depends on, without "
    "detach() or no_grad() on the way; a model that replaces its parameters while it runs, such as "
    "one sharded by FSDP, has no gradient at model.parameters(): use DistributedDataParallel"
)


def loop(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Batch,
    params: Sequence[Tensor],
    *,
    rho: float,
    m: int,
    normalize: bool,
    weight_decay: float,
) -> Tensor:
    """Adds (1/b) sum_G |G| grad L_G(w + delta_G) to p.grad; returns the mean loss at w.

    L_G has weight_decay ||w||^2 / 2 in it, the loss returned has not.
    """
    no_sync = getattr(model, "no_sync", nullcontext)  # a DDP model averages over ranks once
    rule = Perturbation(rho, m=m, normalize=normalize)
    moved = passes.Moves()
    total = torch.zeros((), device=params[0].device)
    for group in batch.groups(m):
        random_state, before = passes.RandomState(params), passes.State([model])
        first = group.copy()
        with no_sync():
            losses = per_example(loss_fn, model, first)
        decay = half_squares(params, weight_decay)
        grads = _wide(gradients(losses.mean() + decay, params))
        length = norm(real(grads))
        require_finite(losses, length)
        random_state.restore()
        after = before.now()
        before.restore()
        with moved(params, grads, rule.factor(length)):
            del grads
            with nullcontext() if group.last else no_sync():
                perturbed = per_example(loss_fn, model, group.again(first))
                decay = len(group) * half_squares(params, weight_decay)
                ((perturbed.sum() + decay) / len(batch)).backward()
        after.restore()
        total = total + losses.detach().sum()
    return total / len(batch)


def gradients(loss: Tensor, params: Sequence[Tensor]) -> Tensors:
    """The gradient of the loss by each parameter, None for one that it does not reach."""
    if not loss.requires_grad:
        raise ValueError(UNREACHED)
    try:
        grads = torch.autograd.grad(loss, params, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" in str(error):
            raise ValueError(
                "checkpoint(..., use_reentrant=True) recomputes layers in a way that only works "
                "with backward(); pass use_reentrant=False"
            ) from error
        raise
    if all(g is None for g in grads):
        raise ValueError(UNREACHED)
    return grads


def real(tensors: Tensors) -> Tensors:
    """Complex numbers as pairs of real ones."""
    return [torch.view_as_real(t) if t is not None and t.is_complex() else t for t in tensors]


def _wide(grads: Tensors) -> Tensors:
    """Gradients in float32 or more."""
    return [None if g is None else g.to(torch.promote_types(g.dtype, torch.float32)) for g in grads]


def half_squares(params: Sequence[Tensor], weight_decay: float) -> Tensor | float:
    """weight_decay ||w||^2 / 2, 0.0 without."""
    return 0.5 * weight_decay * sum(p.square().sum() for p in params) if weight_decay else 0.0
