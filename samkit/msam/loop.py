"""m-SAM by its definition: a loop over the groups. The specification of `ghost.py`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from samkit import passes, perturbation
from samkit.msam.batch import Batch, LossFn, per_example, require_finite


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
    radii = [float(rho)] * len(params)
    moved = passes.Moves()
    total = torch.zeros((), device=params[0].device)
    for group in batch.groups(m):
        noise = passes.Noise(params)
        with no_sync():
            losses = per_example(loss_fn, model, group)
        decay = half_squares(params, weight_decay)
        grads = _wide(torch.autograd.grad(losses.mean() + decay, params, allow_unused=True))
        require_finite(losses, perturbation.norm(grads))
        delta = (
            perturbation.sam(grads, radii)
            if normalize
            else perturbation.unnormalized(grads, radii, radii)
        )
        noise.replay()
        with moved(params, delta), passes.kept(passes.tracked(model.modules())):
            with nullcontext() if group.last else no_sync():
                perturbed = per_example(loss_fn, model, group)
                decay = len(group) * half_squares(params, weight_decay)
                ((perturbed.sum() + decay) / len(batch)).backward()
        total = total + losses.detach().sum()
    return total / len(batch)


def _wide(grads: perturbation.Tensors) -> perturbation.Tensors:
    """Gradients in float32 or more."""
    return [None if g is None else g.to(torch.promote_types(g.dtype, torch.float32)) for g in grads]


def half_squares(params: Sequence[Tensor], weight_decay: float) -> Tensor | float:
    """weight_decay ||w||^2 / 2, 0.0 without."""
    return 0.5 * weight_decay * sum(p.square().sum() for p in params) if weight_decay else 0.0
