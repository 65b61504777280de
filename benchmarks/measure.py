"""Timing and memory, the same for every benchmark."""

from __future__ import annotations

import platform
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from statistics import median
from time import perf_counter

import torch

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
    ways: Mapping[str, Callable[[], object]], repeats: int, slow: Mapping[str, int] | None = None
) -> dict[str, float]:
    """Median seconds of each way. `slow`: fewer repeats for those named.

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
                start = perf_counter()
                ways[name]()
                if device().type == "cuda":
                    torch.cuda.synchronize()
                if turn >= 0:
                    times[name].append(perf_counter() - start)
    return {name: median(t) for name, t in times.items()}


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
