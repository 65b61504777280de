"""The recipes of the chapter on optimizers, as they are printed, and the plain loop beside them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from samkit import SAM, msam_grad

CHAPTER = Path(__file__).parents[2] / "book" / "14-optimizers.md"
EXACT = 1e-10
RHO, LR = 0.3, 0.1


def recipe(name: str, **known: Any) -> dict[str, Any]:
    """What the recipe of that name defines: the block of code with that first line."""
    code = re.search(rf"^```python\n# recipe: {name}\n(.*?)^```", CHAPTER.read_text(), re.M | re.S)
    assert code, f"the chapter has no recipe {name!r}"
    names = {"torch": torch, "F": F, "SAM": SAM, "msam_grad": msam_grad, "rho": RHO, "lr": LR}
    names |= {"DistributedDataParallel": DistributedDataParallel} | known
    exec(compile(code[1], f"recipe {name}", "exec"), names)
    return names


def net_of(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def batches(steps: int = 4, b: int = 8) -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(b, 4).double(), torch.randint(3, (b,))) for _ in range(steps)]


def sam_gradient(net, loss_of, rho=RHO):
    """By the definition, without samkit: (loss at w, gradient at w + rho g / ||g||)."""
    params = list(net.parameters())
    loss = loss_of()
    g = torch.autograd.grad(loss, params)
    length = torch.cat([t.flatten() for t in g]).norm()
    with torch.no_grad():
        home = [p.clone() for p in params]
        for p, t in zip(params, g, strict=True):
            p.add_(rho * t / length)
    g = torch.autograd.grad(loss_of(), params)
    with torch.no_grad():
        for p, h in zip(params, home, strict=True):
            p.copy_(h)
    return loss.detach(), list(g)


def plain_loop(net, losses, lr=LR, rho=RHO, clip=float("inf")):
    """SGD with these gradients, each clipped to that length; `losses`: one function a step."""
    seen = []
    for loss_of in losses:
        loss, g = sam_gradient(net, loss_of, rho)
        seen.append(loss)
        length = torch.cat([t.flatten() for t in g]).norm()
        scale = min(1.0, clip / (float(length) + 1e-6))  # as torch's clip_grad_norm_ has it
        with torch.no_grad():
            for p, t in zip(net.parameters(), g, strict=True):
                p.sub_(lr * scale * t)
    return seen


def trained(data, **options) -> nn.Sequential:
    net = net_of()
    plain_loop(net, [lambda x=x, y=y: F.cross_entropy(net(x), y) for x, y in data], **options)
    return net


def gap(a: nn.Module, b: nn.Module) -> float:
    """The largest difference of two weights."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max((p - q).abs().max().item() for p, q in pairs)
