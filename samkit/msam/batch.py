"""A batch, its groups, and the two checks that every method makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from samkit.errors import NonFinite

LossFn = Callable[[Any, Any], Tensor]


def mapped(f: Callable[[Tensor], Tensor], x: Any) -> Any:
    """x with f applied to its tensors."""
    if isinstance(x, Mapping):
        changed = copy(x) if isinstance(x, MutableMapping) else dict(x)
        changed.update({k: mapped(f, v) for k, v in x.items()})
        return changed
    if isinstance(x, tuple | list):
        values = [mapped(f, v) for v in x]
        return type(x)(*values) if hasattr(x, "_fields") else type(x)(values)
    return f(x) if isinstance(x, Tensor) else x


def leaves(x: Any) -> list[Tensor]:
    """The tensors in x."""
    if isinstance(x, Mapping):
        return [t for v in x.values() for t in leaves(v)]
    if isinstance(x, tuple | list):
        return [t for v in x for t in leaves(v)]
    return [x] if isinstance(x, Tensor) else []


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of b examples: tensors (b, ...), or tuples, lists, mappings of them."""

    inputs: Any
    targets: Any
    last: bool = True

    def __post_init__(self) -> None:
        if not leaves(self.inputs):
            raise ValueError(
                "inputs must be tensors (b, ...) with at least one example, or tuples, lists or "
                f"mappings of them; there is no tensor in this {type(self.inputs).__name__}"
            )
        sizes = {t.shape[0] if t.dim() else 0 for t in leaves((self.inputs, self.targets))}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                "inputs and targets must have the examples in their first dimension, "
                f"at least one and as many in each; found lengths {sorted(sizes)}"
            )

    def __len__(self) -> int:
        return leaves(self.inputs)[0].shape[0]

    @property
    def size(self) -> int:
        """How many numbers the inputs are."""
        return max(1, sum(t.numel() for t in leaves(self.inputs)))

    def rows(self, index: Tensor) -> Batch:
        """These examples, in this order."""
        return Batch(
            mapped(lambda t: t[index.to(t.device)], self.inputs),
            mapped(lambda t: t[index.to(t.device)], self.targets),
            self.last,
        )

    def part(self, start: int, stop: int) -> Batch:
        """The examples start, ..., stop - 1."""
        return Batch(
            mapped(lambda t: t[start:stop], self.inputs),
            mapped(lambda t: t[start:stop], self.targets),
            last=stop >= len(self),
        )

    def groups(self, m: int) -> Iterator[Batch]:
        """Consecutive groups of m examples; the last one may be smaller."""
        b = len(self)
        return (self.part(i, min(i + m, b)) for i in range(0, b, m)) if m < b else iter([self])

    def call(self, model: nn.Module) -> Any:
        """model(inputs): a tuple or list gives positional, a mapping keyword arguments."""
        if isinstance(self.inputs, Mapping):
            return model(**self.inputs)
        if isinstance(self.inputs, tuple | list):
            return model(*self.inputs)
        return model(self.inputs)


def per_example(loss_fn: LossFn, model: nn.Module, batch: Batch) -> Tensor:
    """loss_fn(model(inputs), targets), which must be one loss per example, shape (b,)."""
    losses = loss_fn(batch.call(model), batch.targets)
    if losses.shape != (len(batch),):
        raise ValueError(
            f"loss_fn must return one loss per example, shape ({len(batch)},); got "
            f"{tuple(losses.shape)}. Use reduction='none', and average over all but the first "
            "dimension"
        )
    return losses


def require_finite(losses: Tensor, norms: Tensor) -> None:
    """Raises NonFinite unless all losses and gradient norms are finite (one synchronization)."""
    if not bool(torch.isfinite(losses.detach().sum() + norms.sum())):
        raise NonFinite(
            "the loss or its gradient is inf or nan at the current weights; weights and p.grad of "
            "the groups not yet done are unchanged. Lower the learning rate, or skip this batch"
        )
