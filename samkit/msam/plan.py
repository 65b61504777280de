"""What is known of a model from its earlier calls: whether the fast path is right, and how fast."""

from __future__ import annotations

import functools
import types
import warnings
import weakref
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from samkit.msam.batch import Batch, LossFn, leaves
from samkit.msam.check import Paths, check, timed

#: checks are made at the calls 1, 2, 4, 8, ..., and at the multiples of this
EVERY = 512
#: checks after which it is settled which method is the faster one
TRIALS = 4
#: signatures that are kept for one model, and shapes for a signature; the oldest is dropped
KEPT = 256


@dataclass
class Seconds:
    """What a batch takes on the fast path, and in the loop."""

    fast: float
    loop: float


@dataclass
class Plan:
    """What is known of one signature: a model, a loss, and batches of one kind.

    refused: why the fast path cannot be used, or ''. bytes: what it holds for one group, by shape
    of the batch.
    """

    refused: str = ""
    warned: bool = False
    calls: int = 0
    bytes: dict[Hashable, int] = field(default_factory=dict)
    seconds: list[Seconds] = field(default_factory=list)  # at checks; for a number of the input

    @property
    def loop_is_faster(self) -> bool:
        """The first check warms up, and does not count."""
        timed = self.seconds[1:]
        return bool(timed) and min(s.loop for s in timed) < min(s.fast for s in timed)

    def level(self, new_shape: bool) -> int | None:
        """What the next call's check looks at (see `check`); None where none is due."""
        call = self.calls + 1
        if call == 1:
            return 2
        if call.bit_count() == 1 or call % EVERY == 0:
            return 1
        return 0 if new_shape else None

    def run(self, paths: Paths, batch: Batch, m: int, *, only_fast: bool) -> Tensor | None:
        """The fast path, after a check where one is due; None where the loop is faster.

        Raises Unsupported if a check fails. At a call with a check the fast path is timed.
        """
        shape = tuple(t.shape for t in leaves((batch.inputs, batch.targets)))
        paths.bytes = self.bytes.pop(shape, None)
        level = self.level(new_shape=paths.bytes is None)
        if len(self.seconds) >= TRIALS and self.loop_is_faster and not only_fast:
            level = None  # there is nothing to check
        if level is not None:
            loop = check(paths, batch, m, level=level, seed=self.calls)
        self.calls += 1
        if paths.bytes is not None:
            keep(self.bytes, shape, paths.bytes)
        if level:
            with timed(paths.params) as fast:
                loss = paths.run_fast(batch, m)
            self.seconds.append(Seconds(fast() / batch.size, loop / batch.size))
            return loss
        return paths.run_fast(batch, m) if only_fast or not self.loop_is_faster else None

    def refuse(self, reason: str, groups: int) -> None:
        """From now on it is the loop; says once why."""
        self.refused = reason
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"msam_grad takes the loop, two passes for each of {groups} groups, since the fast "
                f"path is refused: {reason}. With method='loop' there is no warning",
                stacklevel=3,
            )


_PLANS: WeakKeyDictionary[nn.Module, dict[Hashable, Plan]] = WeakKeyDictionary()


def plan_for(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Batch,
    params: Sequence[Tensor],
    kind: Hashable,
) -> Plan:
    """The plan for this model, loss and kind of batch, made when they are first seen together.

    kind: m, and what else the formula depends on. Batches are of one kind if their tensors have as
    many dimensions, the same types and devices.
    """
    tensors = leaves((batch.inputs, batch.targets))
    key = (
        kind,
        tuple((t.dim(), t.dtype, t.device) for t in tensors),
        tuple(module.training for module in model.modules()),
        tuple((id(p), bool(p._backward_hooks)) for p in params),
        torch.is_autocast_enabled(params[0].device.type),
        _contents(loss_fn),
    )
    plans = _PLANS.setdefault(model, {})
    plan = plans.pop(key, None) or Plan()
    keep(plans, key, plan)
    return plan


T = TypeVar("T")


def keep(known: dict[Hashable, T], key: Hashable, value: T) -> None:
    """Adds an entry; the oldest one is dropped where there are too many."""
    known[key] = value
    if len(known) > KEPT:
        del known[next(iter(known))]


def _contents(x: Any, within: tuple[int, ...] = ()) -> Hashable:
    """What a loss function is and holds, as a key.

    Functions of the same code are the same if what they close over is: integers and strings by
    value, floats by whether they are 0 (a coefficient may change in every step), tensors by shape,
    tuples, lists, dicts and partials by what is in them, other objects by identity. So a lambda may
    be written in the loop.
    """
    if id(x) in within:  # a function that closes over itself
        return "itself"
    if isinstance(x, float):
        return float, x == 0
    if x is None or isinstance(x, str | bytes | bool | int | complex):
        return type(x), x
    if isinstance(x, Tensor) and not isinstance(x, nn.Parameter):
        return "tensor", x.shape, x.dtype, x.device

    def inside(*parts: Any) -> Hashable:
        return type(x), tuple(_contents(part, (*within, id(x))) for part in parts)

    if isinstance(x, tuple | list):
        return inside(*x)
    if isinstance(x, Mapping):
        return inside(*x.keys(), *x.values())
    if isinstance(x, functools.partial):
        return inside(x.func, x.args, x.keywords)
    if isinstance(x, types.MethodType):
        return inside(x.__func__, x.__self__)
    if isinstance(x, types.FunctionType):
        cells = [_cell(cell) for cell in x.__closure__ or ()]
        return x.__code__, inside(cells, x.__defaults__, x.__kwdefaults__)
    return _Same(x)


def _cell(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a variable that has no value yet
        return None


class _Same:
    """Equal for one and the same object as long as it lives; does not keep it alive."""

    def __init__(self, x: Any) -> None:
        self.id = id(x)
        try:
            self.alive: Any = weakref.ref(x)
        except TypeError:
            self.alive = None

    def __hash__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same) or self.id != other.id:
            return False
        return self.alive is None or (self.alive() is not None and self.alive() is other.alive())
