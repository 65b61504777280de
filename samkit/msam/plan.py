"""What is known of a model before it is run: whether the ghost path is right, and how fast."""

from __future__ import annotations

import functools
import types
import warnings
import weakref
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from samkit import passes
from samkit.errors import Unsupported
from samkit.msam.batch import Batch, LossFn, leaves
from samkit.msam.ghost import prove

#: a method is out once it is slower than the other one by this factor
CLEAR = 1.5
#: timed calls of each method, if none is out before
TRIALS = 4
#: plans, and timings, that are kept for one model; the one not used for longest is dropped
KEPT = 256


class Times:
    """The seconds of both methods for each number of the input, and the choice of the faster one.

    One of these serves all shapes with as many dimensions: a text of every length need not be tried
    anew. warned: whether the user was told that only the loop is left.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, list[float]] = {"ghost": [], "loop": []}
        self.calls = 0
        self.warned = False

    @contextmanager
    def choose(self, size: int) -> Iterator[str]:
        """The method to run inside; it is timed as long as it is not known which one is faster."""
        best, settled = self.standing()
        if settled:
            yield best
            return
        # The first call of each method warms it up: ghost, loop, ghost, loop, ...
        method = ("ghost", "loop")[self.calls % 2]
        self.wait()
        start = perf_counter()
        yield method
        self.wait()
        if self.calls >= 2:
            self.seconds[method].append((perf_counter() - start) / size)
        self.calls += 1

    def standing(self) -> tuple[str, bool]:
        """(the faster method so far, whether that is settled)."""
        times = {k: min(v, default=float("inf")) for k, v in self.seconds.items()}
        best, other = sorted(times, key=times.__getitem__)
        trials = min(map(len, self.seconds.values()))
        return best, trials >= TRIALS or (trials >= 1 and times[other] > CLEAR * times[best])

    def wait(self) -> None:
        if self.device.type == "cuda":  # pragma: no cover, needs a GPU
            torch.cuda.synchronize(self.device)

    def warn(self, reason: str, groups: int) -> None:
        """Says once that `auto` pays two passes for each group, and why."""
        if not self.warned:
            self.warned = True
            warnings.warn(
                f"msam_grad takes the loop, two passes for each of {groups} groups, since the fast "
                f"path is refused: {reason}. With method='loop' there is no warning",
                stacklevel=3,
            )


@dataclass
class Plan:
    """What was found out for one shape of the batch.

    refused: why the ghost path cannot be used, or ''. bytes: what it holds for one group.
    """

    times: Times
    refused: str = ""
    bytes: int = 0
    calls: int = 0


@dataclass
class _Known:
    """What is known of one model."""

    plans: dict[Hashable, Plan] = field(default_factory=dict)
    times: dict[Hashable, Times] = field(default_factory=dict)


_PLANS: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


def plan_for(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Batch,
    params: Sequence[Tensor],
    *,
    m: int,
    decays: bool,
    method: str,
) -> Plan:
    """The plan for this model, loss and shape of batch, made when they are first seen together.

    The proof is of the batch at hand, so it is made again at the calls 2, 4, 8, ... of the plan,
    unless `method` is "auto" and the loop is the faster one anyway.
    """
    tensors = leaves((batch.inputs, batch.targets))
    settings = (
        m,
        decays,
        tuple((t.dim(), t.dtype, t.device) for t in tensors),
        tuple(module.training for module in model.modules()),
        tuple((id(p), bool(p._backward_hooks)) for p in params),
        torch.is_autocast_enabled(params[0].device.type),
    )
    known = _PLANS.setdefault(model, _Known())
    times = _latest(known.times, settings) or Times(params[0].device)
    _keep(known.times, settings, times)
    key = (settings, tuple(t.shape for t in tensors), _contents(loss_fn))
    plan = _latest(known.plans, key) or Plan(times)
    loop_anyway = method == "auto" and plan.calls > 0 and times.standing() == ("loop", True)
    due = (plan.calls + 1).bit_count() == 1  # a power of 2
    if due and not plan.refused and not loop_anyway:
        noise = passes.Noise(params)
        try:
            plan.bytes = prove(model, loss_fn, batch, params, m=m, decays=decays)
        except Unsupported as reason:
            plan.refused = str(reason)
        noise.replay()
    plan.calls += 1
    _keep(known.plans, key, plan)
    return plan


T = TypeVar("T")


def _latest(found: dict[Hashable, T], key: Hashable) -> T | None:
    """The entry, which becomes the one used last."""
    return found.pop(key, None)


def _keep(found: dict[Hashable, T], key: Hashable, value: T) -> None:
    """Adds an entry; the oldest one is dropped where there are too many."""
    found[key] = value
    if len(found) > KEPT:
        del found[next(iter(found))]


def _contents(x: Any, within: tuple[int, ...] = ()) -> Hashable:
    """What a loss function is and holds, as a key.

    Functions of the same code are the same if what they close over is: numbers and strings by
    value, tensors by shape, tuples, lists, dicts and partials by what is in them, other objects by
    identity. So a lambda may be written in the loop.
    """
    if id(x) in within:  # a function that closes over itself
        return "itself"
    if x is None or isinstance(x, str | bytes | bool | int | float | complex):
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
