"""A network on sets of examples, in eval mode: mean losses, and the errors of its task."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samkit.msam.batch import LossFn

#: examples evaluated at once
EVALUATED = 2048


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """One loss per example, (b,)."""
    return F.cross_entropy(outputs, targets, reduction="none")


def wrong(outputs: Any, targets: Any) -> Tensor | None:
    """1 where the largest output is not that of the target's class, else 0; nan for no class.

    Of the targets' shape; None where they are not classes: see :class:`Fit`.
    """
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor)):
        return None
    if targets.is_floating_point() or outputs.dim() != targets.dim() + 1:
        return None
    for axis in (1, -1):
        classes = outputs.shape[axis]
        if outputs.movedim(axis, -1).shape[:-1] == targets.shape and classes > 1:
            no_class = (targets < 0) | (targets >= classes)
            return (outputs.argmax(axis) != targets).float().masked_fill(no_class, math.nan)
    return None


def forward_precision(device: torch.device) -> AbstractContextManager:
    """In which networks are evaluated on that device: bf16 autocast on CUDA, else as they are."""
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


@torch.no_grad()
def evaluate(
    net: nn.Module,
    loss_fn: LossFn,
    sets: Mapping[str, tuple[Tensor, Tensor]],
    noisy: Tensor | None = None,
) -> dict[str, float]:
    """ "<set>_loss", the mean of each set, and "<set>_error" where its targets are classes.

    ``noisy``: bool (n,), which labels of the set "train" are wrong; their errors and those of the
    others are then told apart as "train_noisy_error" and "train_clean_error".
    """
    values: dict[str, Tensor] = {}
    device = next(net.parameters()).device
    with in_mode(net, training=False), forward_precision(device):
        for name, (x, y) in sets.items():
            losses, errors = [], []
            for part, targets in zip(x.split(EVALUATED), y.split(EVALUATED), strict=True):
                outputs = net(part)
                losses.append(loss_fn(outputs, targets))
                if (part_errors := wrong(outputs, targets)) is not None:
                    errors.append(part_errors)
            values[f"{name}_loss"] = torch.cat(losses).mean()
            if not errors:
                continue
            error = torch.cat(errors)
            values[f"{name}_error"] = error.nanmean()
            if name == "train" and noisy is not None:
                values["train_clean_error"] = error[~noisy].nanmean()
                values["train_noisy_error"] = error[noisy].nanmean()
    return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


@contextmanager
def in_mode(net: nn.Module, *, training: bool) -> Iterator[None]:
    """All modules in eval mode; or in train mode, if the network is not in train mode already.

    Afterwards each is in the mode it was in.
    """
    modes = [(module, module.training) for module in net.modules()]
    if not (training and net.training):
        net.train(training)
    try:
        yield
    finally:
        for module, before in modes:
            module.training = before
