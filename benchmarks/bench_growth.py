"""How the cost of a step grows with the batch, the width and the length of the sequences.

    python -m benchmarks.bench_growth [batch] [width] [length] [--seconds 3]

SGD, SAM, and m-SAM with m = 1 and 8 on the fast path take turns, on an MLP and a small GPT. Each
row gets about so many seconds. Beside medians of processor time, in one thread, it has what
`samkit.msam.price` says that a step multiplies and holds, and what was counted once: bytes read and
written, calls of torch, the most bytes held at a time. Writes results/bench_growth.json.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable
from time import process_time

import torch
from torch import Tensor, nn

from benchmarks.bench_msam import losses
from benchmarks.measure import Work, interleaved, machine
from benchmarks.nets import GPT, mlp
from samkit import SAM, msam_grad
from samkit.msam import price
from samkit.paper import records

WORDS, BLOCKS = 64, 2
#: batch, width, length; the ones that grow are lists
SWEEPS: dict[str, list[tuple[str, list[int], list[int], list[int]]]] = {
    "batch": [
        ("mlp", [16, 32, 64, 128, 256, 512, 1024], [512], [1]),
        ("gpt", [16, 32, 64, 128, 256, 512, 1024], [64], [32]),
    ],
    "width": [
        ("mlp", [128], [128, 256, 512, 1024, 2048], [1]),
        ("gpt", [32], [32, 64, 128, 256], [32]),
    ],
    "length": [("gpt", [32], [64], [16, 32, 64, 128, 256])],
}
METHODS: dict[str, int | None] = {"SGD": None, "SAM": 0, "1-SAM": 1, "8-SAM": 8}


def problem(name: str, b: int, d: int, T: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    if name == "mlp":
        return mlp((784, d, d, 10)), torch.randn(b, 784), torch.randint(10, (b,))
    words = torch.randint(WORDS, (b, T + 1))
    return GPT(WORDS, T, d, BLOCKS, heads=4), words[:, :-1], words[:, 1:]


def layers(name: str, d: int, T: int) -> list[price.Layer]:
    return price.mlp((784, d, d, 10)) if name == "mlp" else price.transformer(T, d, BLOCKS, WORDS)


def step(method: str, net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], object]:
    base = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
    opt, m = SAM(base, rho=0.05) if method == "SAM" else base, METHODS[method]

    def closure() -> Tensor:
        base.zero_grad()
        loss = losses(net(x), y).mean()
        loss.backward()
        return loss

    def by_groups(n: int = len(x)) -> None:
        base.zero_grad()
        msam_grad(net, losses, x[:n], y[:n], rho=0.05, m=m, method="ghost")
        base.step()

    if not m:
        return lambda: opt.step(closure)
    for _ in range(9):  # with few examples: the next check of the fast path is at the 16th call
        by_groups(16)
    return by_groups


def row(name: str, b: int, d: int, T: int, seconds: float) -> dict:
    ways = {method: step(method, *problem(name, b, d, T)) for method in METHODS}
    counts = {}
    for method, way in ways.items():
        way()
        gc.collect()
        with Work() as work:
            way()
        counts[method] = work
    start = process_time()
    for way in ways.values():
        way()
    repeats = min(20, max(3, int(seconds / (process_time() - start))))
    times = interleaved(ways, repeats, clock=process_time)
    shapes, result = layers(name, d, T), {"net": name, "b": b, "width": d, "length": T}
    for method, m in METHODS.items():
        group = b if m == 0 else m
        result[method] = {
            "ms": 1e3 * times[method],
            "multiplications": price.multiplications(shapes, b, group),
            "bytes": counts[method].bytes,
            "calls": counts[method].calls,
            "peak": counts[method].peak,
            "peak on paper": 4 * price.peak(shapes, b, group),
        }
    return result | {"repeats": repeats}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", nargs="*", default=list(SWEEPS))
    parser.add_argument("--seconds", type=float, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)  # the time of a processor is that of one thread then
    result = records.load("bench_growth", missing={})  # sweeps not run now stay as they were
    for sweep in args.sweeps:
        rows = []
        for name, batches, widths, lengths in SWEEPS[sweep]:
            for b, d, T in [(b, d, T) for b in batches for d in widths for T in lengths]:
                rows.append(row(name, b, d, T, args.seconds))
                sgd = rows[-1]["SGD"]["ms"]
                ratios = {m: round(rows[-1][m]["ms"] / sgd, 2) for m in METHODS}
                print(sweep, name, b, d, T, f"{sgd:.2f} ms", ratios, flush=True)
        result[sweep] = {"machine": machine(), "rows": rows}
        records.save("bench_growth", result)


if __name__ == "__main__":
    main()
