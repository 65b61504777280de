"""The m-SAM gradient by its definition, through torch.func: shares no code with samkit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad

Params = dict[str, Tensor]


def dense(
    net: nn.Module,
    loss_fn: Any,
    x: Any,
    y: Tensor,
    *,
    rho: float,
    m: int,
    normalize: bool = True,
    decay: float = 0.0,
) -> Params:
    """(1/b) sum_G |G| grad L_G(w + delta_G) for every trainable parameter."""
    w = {k: p.detach().clone() for k, p in net.named_parameters() if p.requires_grad}
    total = {k: torch.zeros_like(v) for k, v in w.items()}
    b = len(y)
    for i in range(0, b, m):
        index = slice(i, min(i + m, b))

        def L(v: Params, index: slice = index) -> Tensor:
            args = x[index] if isinstance(x, Tensor) else tuple(t[index] for t in x)
            half = 0.5 * sum(t.square().sum() for t in v.values())
            return loss_fn(functional_call(net, v, args), y[index]).mean() + decay * half

        g = grad(L)(w)
        length = torch.cat([t.flatten() for t in g.values()]).norm()
        s = (rho / length if length > 0 else 0.0) if normalize else rho
        at = grad(L)({k: w[k] + s * g[k] for k in w})
        for k in total:
            total[k] += at[k] * (index.stop - index.start) / b
    return total


def relative(found: Params, true: Params) -> float:
    """max |found - true| / max |true| over all parameters."""
    error = max((found[k] - true[k]).abs().max().item() for k in true)
    return error / max(1e-300, max(t.abs().max().item() for t in true.values()))


def grads(net: nn.Module) -> Params:
    """p.grad of the trainable parameters, 0 where there is none."""
    return {
        k: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for k, p in net.named_parameters()
        if p.requires_grad
    }
