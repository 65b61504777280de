"""Timing and memory, the same for every benchmark."""

from __future__ import annotations

import platform
import random
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from samkit.paper.records import hardware


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def machine() -> dict[str, object]:
    """The hardware, the versions and the day: without them a timing says nothing."""
    return {
        "device": hardware(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "pytorch-optimizer": version("pytorch-optimizer"),
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }


def interleaved(
    ways: Mapping[str, Callable[[], object]],
    repeats: int,
    slow: Mapping[str, int] | None = None,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, float]:
    """Median seconds of each way, by that clock. `slow`: fewer repeats for those named.

    The ways take turns, in an order that is drawn anew each time: what ran before (and left the
    allocator and the caches in some state) must not favour one of them.
    """
    order, rng = list(ways), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in ways}
    limits = {name: (slow or {}).get(name, repeats) for name in ways}
    for turn in range(-1, repeats):  # turn -1 warms up
        rng.shuffle(order)
        for name in order:
            if turn < limits[name]:
                start = clock()
                ways[name]()
                if device().type == "cuda":
                    torch.cuda.synchronize()
                if turn >= 0:
                    times[name].append(clock() - start)
    return {name: median(t) for name, t in times.items()}


class Work(TorchDispatchMode):
    """Counts what is done inside, by torch's own functions and in backward; needs no clock.

    multiplications: of products, as `torch.utils.flop_counter` has them (nothing for attention in
    one kernel on a CPU). bytes: read and written, views aside. calls: of functions that make no
    view. peak: the most bytes at a time in memory that was not there before.
    """

    def __init__(self) -> None:
        super().__init__()
        self.multiplications = self.bytes = self.calls = self.now = self.peak = 0
        self.known: dict[int, int] = {}  # bytes of each storage, 0 of those from before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given, made = (
            [t for t in tree_leaves(x) if isinstance(t, Tensor)] for x in ((args, kwargs), out)
        )
        for t in given:
            self.known.setdefault(t.untyped_storage()._cdata, 0)
        for t in made:
            self.see(t.untyped_storage())
        returns = [r.alias_info for r in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in returns):
            self.calls += 1
            self.bytes += sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in given + made)
            if count := flop_registry.get(func._overloadpacket):
                self.multiplications += count(*args, **(kwargs or {}), out_val=out) // 2
        return out

    def see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self.known:
            self.known[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.gone, key)

    def gone(self, key: int) -> None:
        self.now -= self.known.pop(key, 0)


_PEAK = """
import resource, runpy, sys, torch
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print("PEAK", torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else peak)
"""


def peak_memory(module: str, name: str, b: int, m: int, way: str) -> float:
    """Peak MB of two steps in a process of their own (on the CPU: of the whole process)."""
    command = [sys.executable, "-c", _PEAK, module, "--one", name, str(b), str(m), way]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(out.split("PEAK")[1])
