"""One epoch of 128-SAM on images the size of CIFAR-10's, by samkit and by a plain loop.

    python -m benchmarks.bench_epoch [--width 64] [--images 45000] [--repeats 3]

`samkit.training.fit` (on CUDA: channels_last, bf16 autocast, a step that does not wait for the
device) against a loop as one writes it first: float32, parameter after parameter, the loss read in
every step. The same ResNet-18 with BatchNorm, batch size, crops and flips; ERM of both beside it.
Both evaluate their training set after the epoch.
Writes results/bench_epoch.json, a part for each kind of device; what is reported is the ratio of
medians, and the seconds of an epoch. On a CPU take --width 8 --images 1280.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import device, interleaved, machine
from samkit import Perturbation, nets
from samkit.data import crop_and_flip
from samkit.paper import records
from samkit.training import Recipe, fit
from samkit.training.evaluation import EVALUATED

BATCH, RHO = 128, 0.1


def plain(width: int, x: Tensor, y: Tensor, rho: float) -> Callable[[], object]:
    """An epoch of SAM, of ERM if rho is 0, written down as the formulas say."""
    net = nets.resnet("18", width=width).to(device())
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    generator = torch.Generator(device())

    def backward(inputs: Tensor, targets: Tensor) -> Tensor:
        opt.zero_grad()
        loss = F.cross_entropy(net(inputs), targets)
        loss.backward()
        return loss

    def epoch() -> None:
        net.train()
        total = 0.0
        for rows in torch.randperm(len(y)).split(BATCH)[: len(y) // BATCH]:
            inputs, targets = crop_and_flip(x[rows], generator=generator), y[rows]
            loss = backward(inputs, targets)
            if rho:
                length = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
                moves = [rho * p.grad / length for p in net.parameters()]
                with torch.no_grad():
                    for p, move in zip(net.parameters(), moves, strict=True):
                        p.add_(move)
                backward(inputs, targets)
                with torch.no_grad():
                    for p, move in zip(net.parameters(), moves, strict=True):
                        p.sub_(move)
            opt.step()
            total += loss.item()
        net.eval()
        with torch.no_grad():
            for inputs, targets in zip(x.split(EVALUATED), y.split(EVALUATED), strict=True):
                total += F.cross_entropy(net(inputs), targets, reduction="sum").item()

    return epoch


def ours(width: int, x: Tensor, y: Tensor, rho: float) -> Callable[[], object]:
    net = nets.resnet("18", width=width).to(device())
    recipe = Recipe(Perturbation(rho), epochs=1, weight_decay=5e-4, batch_size=BATCH)
    return lambda: fit(net, recipe, (x, y), augment=crop_and_flip)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--images", type=int, default=45_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    result = {"machine": machine(), "width": args.width, "images": args.images}
    print(result)
    torch.manual_seed(0)
    x = torch.rand(args.images, 3, 32, 32, device=device())
    y = torch.randint(10, (args.images,), device=device())
    ways = {
        f"{method}, {name}": make(args.width, x, y, rho)
        for method, rho in (("ERM", 0.0), ("128-SAM", RHO))
        for name, make in (("samkit", ours), ("plain loop", plain))
    }
    seconds = interleaved(ways, args.repeats)
    for name, time in seconds.items():
        print(f"{name:20} {time:8.2f} s an epoch")
    result |= {"repeats": args.repeats, "seconds": seconds}
    result["plain loop / samkit"] = {
        method: seconds[f"{method}, plain loop"] / seconds[f"{method}, samkit"]
        for method in ("ERM", "128-SAM")
    }
    print(result["plain loop / samkit"])
    kept = records.load("bench_epoch", missing={})  # that of the other kind of device
    records.save("bench_epoch", kept | {device().type: result})


if __name__ == "__main__":
    main()
