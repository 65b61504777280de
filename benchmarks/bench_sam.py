"""One SAM step (m = the batch) against one SGD step and against `pytorch-optimizer`'s SAM.

    python -m benchmarks.bench_sam [mlp] [resnet] [--repeats 30] [--batch 128]

Writes results/bench_sam.json. The three take turns; a number is the ratio of medians.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from pytorch_optimizer import SAM as PeerSAM
from torch import Tensor

from benchmarks.bench_msam import problem
from benchmarks.measure import interleaved, machine
from samkit import SAM
from samkit.paper import records


def step(name: str, b: int, make: Callable) -> Callable[[], object]:
    net, x, y = problem(name, b)
    opt = make(net.parameters())

    def closure() -> Tensor:
        opt.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        return loss

    if not isinstance(opt, PeerSAM):
        return lambda: opt.step(closure)

    def peer() -> None:  # as its documentation says
        closure()
        opt.first_step(zero_grad=True)
        closure()
        opt.second_step(zero_grad=True)

    return peer


def sgd(params) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=1e-4, momentum=0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nets", nargs="*", default=["mlp", "resnet"])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args()
    rows = []
    for name in args.nets:
        ways = {
            "sgd": step(name, args.batch, sgd),
            "samkit": step(name, args.batch, lambda p: SAM(sgd(p), rho=0.05)),
            "pytorch-optimizer": step(
                name,
                args.batch,
                lambda p: PeerSAM(p, torch.optim.SGD, rho=0.05, lr=1e-4, momentum=0.9),
            ),
        }
        seconds = interleaved(ways, args.repeats)
        row = {"net": name, "b": args.batch, "sgd_ms": 1e3 * seconds["sgd"]}
        row |= {f"{w} / sgd": seconds[w] / seconds["sgd"] for w in ("samkit", "pytorch-optimizer")}
        row["samkit / pytorch-optimizer"] = seconds["samkit"] / seconds["pytorch-optimizer"]
        rows.append(row)
        print(row, flush=True)
    result = {"machine": machine(), "repeats": args.repeats, "rows": rows}
    records.save("bench_sam", result)


if __name__ == "__main__":
    main()
