"""The compiled loop of samkit.diagonal against its readable specification.

The specification at m = 1 is a Python loop over examples, the shape of the authors' code. Both run
in this process, interleaved; a figure is the median of the rounds. The loop is timed on fewer steps
and quoted per step.
"""

from __future__ import annotations

import platform
import time
from statistics import median

import numpy as np

from samkit.diagonal import SparseRegression, dynamics, train
from samkit.paper import published

ROUNDS = 7


def per_step(function, steps: int) -> float:
    """Microseconds a step."""
    began = time.perf_counter()
    function(steps)
    return (time.perf_counter() - began) / steps * 1e6


def loop(problem, rho, m, step_size, init):
    """Train by calling the specification, one run after the other."""

    def run(steps):
        rows = np.arange(problem.n)[None, :]
        for radius in np.atleast_1d(rho):
            u, v = np.full(problem.d, init), np.zeros(problem.d)
            dynamics._advance_by_steps(
                problem.X, problem.y, u, v, radius, m, step_size, rows, steps
            )

    return run


def fast(problem, rho, m, step_size, init):
    def run(steps):
        train(problem, rho=rho, m=m, step_size=step_size, steps=steps, init=init)

    return run


def main():
    problem, reference = SparseRegression.sample(), published.diagonal()
    step_size = reference["step_size"]
    radii = 2 * np.array([r["rho"] for r in reference["runs"] if r["method"] == "1-sam"])
    cases = {
        "published sweep, 1-SAM, 4 radii": (radii, 1, 10_001, 300),
        "long run, 1-SAM, 10^6 steps": (0.14, 1, 1_000_000, 1000),
        "long run, n-SAM, 10^6 steps": (0.07, problem.n, 1_000_000, 10_000),
    }
    print(f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"{'case':34} {'loop, us/step':>14} {'fast, us/step':>14} {'ratio':>7}")
    train(problem, rho=0.1, m=1, step_size=step_size, steps=1)  # compile
    for name, (rho, m, steps, loop_steps) in cases.items():
        slow, quick = (f(problem, rho, m, step_size, 0.02) for f in (loop, fast))
        times = [(per_step(slow, loop_steps), per_step(quick, steps)) for _ in range(ROUNDS)]
        a, b = (median(column) for column in zip(*times, strict=True))
        ratio = median(x / y for x, y in times)
        print(f"{name:34} {a:14.1f} {b:14.2f} {ratio:7.0f}")


if __name__ == "__main__":
    main()
