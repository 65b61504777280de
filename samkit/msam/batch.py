"""A batch, its groups, and the two checks that every method makes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
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


def _others(x: Any) -> Iterator[Any]:
    """What is no tensor in x: arrays, and lists or tuples that hold no tensor."""
    if isinstance(x, Mapping | list | tuple):
        if not isinstance(x, Mapping) and not leaves(x):
            yield x
        for v in x.values() if isinstance(x, Mapping) else x:
            yield from _others(v)
    elif not isinstance(x, Tensor | str):
        yield x


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
        sizes = {t.size(0) if t.dim() else 0 for t in leaves((self.inputs, self.targets))}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                "inputs and targets must have the examples in their first dimension, at least one "
                f"and as many in each; here the lengths are {sorted(sizes)}. A list or tuple is "
                "taken as several inputs, not as several examples: stack these into one tensor"
            )

    def require_tensors(self) -> None:
        """ValueError if something else than a tensor has a part for each example, too."""
        for x in _others((self.inputs, self.targets)):
            if hasattr(x, "__len__") and len(x) == len(self):
                raise ValueError(
                    f"the batch has a {type(x).__name__} of {len(x)} entries, as many as examples, "
                    "which is not cut into groups: make a tensor of it, or leave it out"
                )

    def __len__(self) -> int:
        return leaves(self.inputs)[0].size(0)

    @property
    def size(self) -> int:
        """How many numbers the inputs are."""
        return max(1, sum(t.numel() for t in leaves(self.inputs)))

    def rows(self, index: Tensor) -> Batch:
        """These examples, in this order."""
        return Batch(
            mapped(lambda t: _dense(t)[index.to(t.device)], self.inputs),
            mapped(lambda t: _dense(t)[index.to(t.device)], self.targets),
            self.last,
        )

    def of(self, tensors: Iterable[Tensor]) -> Batch:
        """This batch with other tensors, in the order of `leaves`."""
        following = iter(tensors)
        inputs = mapped(lambda _: next(following), self.inputs)
        return Batch(inputs, mapped(lambda _: next(following), self.targets), self.last)

    def part(self, start: int, stop: int) -> Batch:
        """The examples start, ..., stop - 1."""
        return Batch(
            mapped(lambda t: _dense(t)[start:stop], self.inputs),
            mapped(lambda t: _dense(t)[start:stop], self.targets),
            last=self.last and stop >= len(self),
        )

    def copy(self) -> Batch:
        """The same numbers in memory of their own, for a model that may change them in place."""
        return Batch(mapped(torch.clone, self.inputs), mapped(torch.clone, self.targets), self.last)

    def again(self, used: Batch) -> Batch:
        """This batch for another pass, after one that was given the copy `used`.

        Itself, unless that pass changed its copy in place.
        """
        tensors = leaves((used.inputs, used.targets))
        return self.copy() if any(t._version for t in tensors) else self

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


def _dense(t: Tensor) -> Tensor:
    if t.layout is not torch.strided or t.is_nested:
        kind = "a nested tensor" if t.is_nested else str(t.layout).removeprefix("torch.")
        raise ValueError(
            f"inputs and targets must be dense tensors to be cut into groups, not {kind}: use "
            "t.to_dense(), or t.to_padded_tensor(0.0) and a mask, or m = the batch size"
        )
    return t


def per_example(loss_fn: LossFn, model: nn.Module, batch: Batch) -> Tensor:
    """loss_fn(model(inputs), targets), which must be one loss per example, shape (b,)."""
    losses = loss_fn(batch.call(model), batch.targets)
    shape = tuple(losses.shape) if isinstance(losses, Tensor) else f"a {type(losses).__name__}"
    if shape != (len(batch),):
        raise ValueError(
            f"loss_fn must return one loss per example, shape ({len(batch)},); got {shape}. Use "
            "reduction='none', and average over all but the first dimension"
        )
    return losses


def require_finite(losses: Tensor, norms: Tensor) -> None:
    """Raises NonFinite unless all losses and gradient norms are finite (one synchronization)."""
    if not bool(torch.isfinite(losses.detach().sum() + norms.sum())):
        raise NonFinite(
            "the loss or its gradient is inf or nan at the current weights; weights and p.grad of "
            "the groups not yet done are unchanged. Lower the learning rate, or skip this batch"
        )
