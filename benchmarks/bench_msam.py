"""m-SAM against one SGD step and against the loop over groups, for every m, in one run.

    python -m benchmarks.bench_msam [mlp] [resnet] [memory] [calls] [--repeats 20] [--batch 128]

Writes results/bench_msam.json, on a GPU under names of its own ("mlp, cuda"). All methods of a row
take turns, so that a slow moment of the machine falls on all of them; a number is the median of the
repeats, and what is reported is its ratio to the median of the SGD step in the same row. `calls` is
what the checks add: the first calls of a fresh network, SGD steps in between, in processor time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import process_time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.measure import device, interleaved, machine, peak_memory
from benchmarks.nets import gpt, mlp, resnet, resnet18
from samkit import msam_grad
from samkit.paper import records

NETS: dict[str, Callable[[], nn.Module]] = {
    "mlp": mlp,
    "resnet": resnet,
    "resnet18": resnet18,
    "gpt": gpt,
}
#: of which `calls` tells the price: those up to a check and four after it
CALLS = 12


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of each picture, or of each text the mean over its words."""
    each = F.cross_entropy(outputs.movedim(-1, 1), targets, reduction="none")
    return each.view(len(each), -1).mean(1)


def problem(name: str, b: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    net = NETS[name]()
    dev = device()
    if name == "gpt":
        words = torch.randint(64, (b, 33), device=dev)
        return net.to(dev), words[:, :-1], words[:, 1:]
    shape = (784,) if name == "mlp" else (3, 32, 32)
    return net.to(dev), torch.randn(b, *shape, device=dev), torch.randint(10, (b,), device=dev)


def methods(name: str, b: int, m: int) -> dict[str, Callable[[], object]]:
    """One optimizer step each, on a net of its own."""

    def step(gradient: Callable[[nn.Module, Tensor, Tensor], object]) -> Callable[[], object]:
        net, x, y = problem(name, b)
        opt = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)

        def run() -> None:
            opt.zero_grad()
            gradient(net, x, y)
            opt.step()

        return run

    def by(method: str) -> Callable[[], object]:
        return step(lambda net, x, y: msam_grad(net, losses, x, y, rho=0.05, m=m, method=method))

    sgd = step(lambda net, x, y: losses(net(x), y).mean().backward())
    return {"sgd": sgd, "ghost": by("ghost"), "auto": by("auto"), "loop": by("loop")}


def table(name: str, b: int, repeats: int) -> list[dict]:
    rows = []
    for m in [2**k for k in range(b.bit_length()) if 2**k <= b]:
        ways = methods(name, b, m)
        for _ in range(10):  # 'auto' makes up its mind
            ways["auto"]()
        loops = 5 if name != "mlp" and m <= 4 else repeats  # a loop there takes seconds
        seconds = interleaved(ways, repeats, slow={"loop": loops})
        row = {"net": name, "b": b, "m": m, "sgd_ms": 1e3 * seconds["sgd"], "loops": loops}
        row |= {f"{way} / sgd": seconds[way] / seconds["sgd"] for way in ("ghost", "auto", "loop")}
        row["loop / ghost"] = seconds["loop"] / seconds["ghost"]
        row["auto / best"] = seconds["auto"] / min(seconds["ghost"], seconds["loop"])
        rows.append(row)
        print(
            "  ".join(
                f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()
            ),
            flush=True,
        )
    return rows


def calls(b: int, repeats: int) -> list[dict]:
    """Processor time of the first calls in SGD steps: each one, and all together."""

    def seconds(way: Callable[[], object]) -> float:
        start = process_time()
        way()
        return process_time() - start

    rows = []
    for name in ("mlp", "gpt"):
        for m in (1, 2, 8):
            runs = []
            for _ in range(repeats):
                ways = methods(name, b, m)
                ways["sgd"]()  # warms up
                pairs = [(seconds(ways["ghost"]), seconds(ways["sgd"])) for _ in range(CALLS)]
                sgd = median(s for _, s in pairs)
                runs.append([call / sgd for call, _ in pairs])
            each = [median(call) for call in zip(*runs, strict=True)]
            rows.append({"net": name, "b": b, "m": m, "calls": each, "together": sum(each)})
            print(rows[-1], flush=True)
    return rows


def memory(b: int) -> list[dict]:
    """Peak memory of a step beyond what is held between steps, in MB, each in its own process."""
    rows = []
    for name in ("mlp", "resnet", "resnet18"):
        peaks = {w: peak_memory("benchmarks.bench_msam", name, b, 1, w) for w in ("sgd", "ghost")}
        rows.append({"net": name, "b": b, "m": 1} | {f"{w} MB": p for w, p in peaks.items()})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["mlp", "resnet", "memory", "calls"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--one", nargs=4, help="run one method twice: net, batch, m, method")
    args = parser.parse_args()
    if args.one:
        name, b, m, way = args.one
        run = methods(name, int(b), int(m))[way]
        run()
        run()
        return
    print(machine())
    result = records.load("bench_msam", missing={})  # parts not run now stay as they were
    for part in args.parts:
        if part == "memory":
            rows = memory(args.batch)
        elif part == "calls":
            rows = calls(args.batch, args.repeats)
        else:
            rows = table(part, args.batch, args.repeats)
        name = part if device().type == "cpu" else f"{part}, {device().type}"
        result[name] = {"machine": machine(), "repeats": args.repeats, "rows": rows}
    records.save("bench_msam", result)


if __name__ == "__main__":
    main()
