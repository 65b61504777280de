"""What is known of a model before it is run: whether the ghost path is right, and how fast."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
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


class Plan:
    """What was found out, and the choice of the faster method.

    refused: why the ghost path cannot be used, or ''.
    bytes: what it holds for one group.
    """

    def __init__(self, device: torch.device, *, refused: str = "", bytes: int = 0) -> None:
        self.device = device
        self.bytes = bytes
        self.refused = refused
        self.seconds: dict[str, list[float]] = {"ghost": [], "loop": []}
        self.calls = 0

    @contextmanager
    def choose(self) -> Iterator[str]:
        """The method to run inside; it is timed as long as it is not known which one is faster."""
        best, settled = self.standing()
        if self.refused or settled:
            yield "loop" if self.refused else best
            return
        # The first call of each method warms it up: ghost, loop, ghost, loop, ...
        method = ("ghost", "loop")[self.calls % 2]
        self.wait()
        start = perf_counter()
        yield method
        self.wait()
        if self.calls >= 2:
            self.seconds[method].append(perf_counter() - start)
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


_PLANS: WeakKeyDictionary[nn.Module, dict[Hashable, Plan]] = WeakKeyDictionary()


def plan_for(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Batch,
    params: Sequence[Tensor],
    *,
    m: int,
    decays: bool,
) -> Plan:
    """The plan for this model, loss and shape of batch; made when they are first seen together."""
    key = (
        m,
        decays,
        tuple((t.shape, t.dtype, t.device) for t in leaves((batch.inputs, batch.targets))),
        getattr(loss_fn, "__code__", type(loss_fn)),
        tuple(module.training for module in model.modules()),
        tuple(id(p) for p in params),
        torch.is_autocast_enabled(params[0].device.type),
    )
    plans = _PLANS.setdefault(model, {})
    if key not in plans:
        noise = passes.Noise(params)
        device = params[0].device
        try:
            bytes = prove(model, loss_fn, batch, params, m=m, decays=decays)
            plans[key] = Plan(device, bytes=bytes)
        except Unsupported as reason:
            plans[key] = Plan(device, refused=str(reason))
        noise.replay()
    return plans[key]
