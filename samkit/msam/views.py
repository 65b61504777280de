"""Views of a parameter: its slices, transposes, reshapes. What is done with one is done with it.

A view is a linear map of the parameter that only moves its numbers about (or changes all signs). So
the gradient by the parameter is as long as that by the view, and the view of the moved parameter is
the view moved along its own gradient. This holds as long as no number of the parameter is used
elsewhere as well, which `Use.overlaps` says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Use:
    """Which numbers of which parameter a tensor is, and how they are taken from it."""

    base: int  # the id of the parameter
    start: int  # in memory, counted from the parameter's first number
    stop: int
    view: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)

    def overlaps(self, other: Use) -> bool:
        """Whether the two may have numbers in common."""
        return self.base == other.base and self.start < other.stop and other.start < self.stop

    def of(self, grads: Tensor) -> Tensor:
        """(G, *parameter) -> (G, *view)."""
        return grads if self.view is None else torch.func.vmap(self.view)(grads)

    def spread(self, grads: Tensor, parameter: Tensor) -> Tensor:
        """(G, *view) -> (G, *parameter): the gradients by the parameter, from those by the view."""
        if self.view is None:
            return grads
        zeros = grads.new_zeros(len(grads), *parameter.shape)
        with torch.enable_grad():
            back = torch.func.vjp(self.of, zeros)[1]
            return back(grads)[0].detach()


def use_of(t: Tensor) -> Use:
    """A parameter is used as a whole, unless it is known as a view of one."""
    return getattr(t, "_use", None) or Use(id(t), 0, t.numel())


def is_weight(t: Any) -> bool:
    """Whether this is a parameter or a view of one."""
    return isinstance(t, nn.Parameter) or hasattr(t, "_use")


def viewed(func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """func(*args, **kwargs), known as views of the parameter args[0]; None if it makes none."""
    rest = (*args[1:], *kwargs.values())
    basic = func is not Tensor.__getitem__ or _is_basic(args[1])
    if func not in VIEWS or not basic or any(isinstance(x, Tensor) for x in rest):
        return None
    return rows_known(args[0], lambda w: func(w, *args[1:], **kwargs))


def rows_known(weight: Tensor, view: Callable[[Tensor], Any]) -> Any:
    """view(weight), one tensor or several, known as views of the weight."""
    out = view(weight)
    if isinstance(out, Tensor):
        return _known(out, weight, view)
    return type(out)(_known(t, weight, _nth(view, k)) for k, t in enumerate(out))


def _nth(view: Callable[[Tensor], Any], k: int) -> Callable[[Tensor], Tensor]:
    return lambda w: view(w)[k]


def _known(out: Tensor, weight: Tensor, view: Callable[[Tensor], Tensor]) -> Tensor:
    parent = use_of(weight)
    before = parent.view

    def whole(w: Tensor) -> Tensor:
        return view(w if before is None else before(w))

    start, stop = parent.start, parent.stop
    if out.numel() and out.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr():
        start += int(out.storage_offset()) - int(weight.storage_offset())
        reach = (int(s) * (n - 1) for s, n in zip(out.stride(), out.shape, strict=True))
        stop = start + sum(reach) + 1
    if out is not weight:
        out._use = Use(parent.base, start, stop, whole)  # type: ignore[attr-defined]
    return out


def _is_basic(index: Any) -> bool:
    """Whether an index takes every number at most once, without numbers of its own."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(isinstance(part, int | slice | None | type(Ellipsis)) for part in parts)


def are_positions(tokens: Tensor, groups: int, rows: int) -> bool:
    """Whether these are row numbers that all examples share, such as arange(T)."""
    if groups == 1 or tokens.numel() < 2:
        return False  # one group may have all rows
    flat = tokens.flatten()
    if tokens.shape[0] == rows:  # positions only if there are as many as examples
        return tokens.dim() == 1 and rows > 2 and torch.equal(flat, torch.arange(rows).to(flat))
    return bool((flat[1:] > flat[:-1]).all())


VIEWS: set[Any] = {
    Tensor.__getitem__, Tensor.t, torch.t, Tensor.T.__get__, Tensor.mT.__get__,  # type: ignore[attr-defined]
    Tensor.transpose, torch.transpose, Tensor.permute, torch.permute, Tensor.reshape, torch.reshape,
    Tensor.view, Tensor.view_as, Tensor.flatten, torch.flatten, Tensor.unflatten, torch.unflatten,
    Tensor.squeeze, torch.squeeze, Tensor.unsqueeze, torch.unsqueeze, Tensor.narrow, torch.narrow,
    Tensor.select, torch.select, Tensor.chunk, torch.chunk, Tensor.split, torch.split,
    Tensor.unbind, torch.unbind, Tensor.movedim, torch.movedim, Tensor.swapaxes, torch.swapaxes,
    Tensor.contiguous, Tensor.clone, torch.clone, Tensor.neg, torch.neg, Tensor.__neg__,
    Tensor.to, Tensor.type_as, Tensor.float, Tensor.double,
}  # fmt: skip
