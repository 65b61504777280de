"""Networks put together at random out of what torch offers, and every method against brute force.

    PYTHONPATH=.:tests python -m msam.random_networks 3000

tries so many networks, and writes results/random_networks.json after every 50 of them, for a
chapter to show. The ordinary tests try a few.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msam.networks import Scale, losses
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from samkit import Undefined, Unsupported, msam_grad

D, CLASSES = 6, 4
#: rounding, magnified by 1 / ||g|| and by up to seven layers; the largest that was seen: results/
CLOSE = 1e-8


class Step(nn.Module):
    """What a step of a network may use."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(D, D), nn.Linear(D, D, bias=False)
        self.norm, self.conv = nn.LayerNorm(D), nn.Conv1d(1, 2, 3, padding=1)
        self.deconv, self.prelu = nn.ConvTranspose1d(2, 1, 3, padding=1), nn.PReLU()
        self.table = nn.Embedding(5, D)
        self.scale, self.t = nn.Parameter(torch.rand(D) + 0.5), nn.Parameter(torch.tensor(0.8))
        self.positions = nn.Parameter(torch.randn(1, 9, D))


class HalfBack(torch.autograd.Function):
    """The identity, with half of its derivative."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g / 2


def attend(s: Step, h: Tensor) -> Tensor:
    q, k = s.a(h)[:, :, None], s.b(h)[:, :, None]
    return (q @ k.mT).softmax(-1) @ h[:, :, None].flatten(2) @ torch.ones(1, 1).to(h)


def slope(s: Step, h: Tensor) -> Tensor:
    x = h if h.requires_grad else h.detach().requires_grad_()
    return torch.autograd.grad(s.a(x).tanh().square().sum(), x, create_graph=True)[0] + s.b(h)


def routed(s: Step, h: Tensor) -> Tensor:
    first = h[:, 0] > 0
    out = torch.zeros_like(h)
    out[first], out[~first] = s.a(h[first]), s.b(h[~first])
    return out


def deviation(s: Step, h: Tensor) -> Tensor:
    g = next(g for g in (4, 3, 2, 1) if len(h) % g == 0)
    return h + (s.a(h).view(g, -1, D).var(0, correction=0) + 0.1).sqrt().repeat(g, 1)


def branch(on: Callable[[Tensor], bool]) -> Callable[[Step, Tensor], Tensor]:
    return lambda s, h: s.a(h) if on(h) else s.b(h)


def pair(s: Step, h: Tensor) -> Tensor:
    rows = list(s.a(h))
    rows[0] = rows[0] + 0.3 * rows[-1].detach()
    return torch.stack(rows)


def by_vmap(s: Step, h: Tensor) -> Tensor:
    return torch.func.vmap(lambda row: F.linear(row, s.a.weight, s.a.bias).sin())(h)


def in_place(s: Step, h: Tensor) -> Tensor:
    z = s.a(h)
    z.mul_(2).sub_(1)
    return F.relu_(z)


#: each example by itself
APART: dict[str, Callable[[Step, Tensor], Tensor]] = {
    "linear": lambda s, h: s.a(h),
    "residual": lambda s, h: h + s.b(F.gelu(s.a(h))),
    "norm": lambda s, h: s.norm(h),
    "tanh": lambda s, h: h.tanh(),
    "relu": lambda s, h: h.relu(),
    "conv": lambda s, h: s.conv(h[:, None]).sum(1).sin(),
    "transposed conv": lambda s, h: s.deconv(s.conv(h[:, None]))[:, 0],
    "scale": lambda s, h: h * s.scale,
    "quotient": lambda s, h: h / s.scale,
    "difference": lambda s, h: s.scale - h,
    "prelu": lambda s, h: s.prelu(h),
    "scaled by a scalar": lambda s, h: s.t * h,
    "softmax": lambda s, h: h.softmax(-1),
    "attention": lambda s, h: attend(s, h).squeeze(-1),
    "table": lambda s, h: h + s.table((h[:, 0].detach() * 0 + 2).long()),
    "positions": lambda s, h: (h[:, None] + s.positions[:, :3]).sin().sum(1),
    "slice": lambda s, h: torch.cat([h[:, :3] @ s.a.weight[:3, :3].T, h[:, 3:]], 1),
    "transposed": lambda s, h: h @ s.a.weight.T,
    "product of parameters": lambda s, h: h * (s.scale * s.t),
    "exp of a parameter": lambda s, h: h * s.scale.exp(),
    "einsum": lambda s, h: torch.einsum("bi,ji->bj", h, s.a.weight),
    "bilinear": lambda s, h: h * (s.a(h) * s.b(h)),
    "twice": lambda s, h: s.a(s.a(h).tanh()),
    "tied": lambda s, h: F.linear(s.b(h).tanh(), s.b.weight.T),
    "in place": in_place,
    "input in place": lambda s, h: s.b(F.leaky_relu_(h, 0.3)),
    "times in place": lambda s, h: s.b(h.mul_(0.5)) if not h.is_leaf else s.b(h),
    "no_grad": lambda s, h: h + torch.no_grad()(s.a)(h),
    "detached": lambda s, h: h + s.a(h.detach()),
    "detached weight": lambda s, h: F.linear(h, s.a.weight.detach()) + s.b(h),
    "rounded": lambda s, h: s.a(h) + (2 * h).round(),
    "sign": lambda s, h: s.a(h.sign() + h),
    "largest": lambda s, h: s.a(h) + F.one_hot(h.argmax(1), D).to(h),
    "half of the derivative": lambda s, h: HalfBack.apply(s.a(h)),
    "own derivative": lambda s, h: Scale.apply(h, s.scale),
    "number": lambda s, h: s.t * h * s.t.item(),
    "numbers": lambda s, h: s.a(h) * max(s.a.bias.tolist()),
    "data": lambda s, h: s.a(h) * s.a.bias.data,
    "numpy": lambda s, h: s.a(h) * float(s.a.weight.detach().numpy().max()),
    "input's derivative": slope,
    "checkpoint": lambda s, h: checkpoint(s.a, h, use_reentrant=False),
    "vmap": by_vmap,
    "where": lambda s, h: torch.where(h > 0, s.a(h), h * s.t.item()),
    "routed": routed,
    "one by one": lambda s, h: torch.stack([s.a(row) for row in h]),
}

#: examples that depend on each other, or on how many they are
MIXED: dict[str, Callable[[Step, Tensor], Tensor]] = {
    "mean": lambda s, h: s.a(h) - h.mean(0),
    "detached mean": lambda s, h: s.a(h) - h.mean(0).detach(),
    "standardized": lambda s, h: s.a(h) / (h.detach().square().mean(0) + 1).sqrt(),
    "roll": lambda s, h: s.a(h) + h.roll(1, 0),
    "flip": lambda s, h: s.a(h) + h.flip(0) * 0.1,
    "cumsum": lambda s, h: s.a(h).cumsum(0) * 0.1,
    "rank": lambda s, h: s.a(h) + 0.1 * h[:, :1].argsort(0).argsort(0).to(h),
    "sorted": lambda s, h: s.a(h.sort(0).values),
    "deviation": deviation,
    "branch on a sum": branch(lambda h: h.sum() > 0),
    "branch on the largest": branch(lambda h: h.max() > 1.5),
    "branch on the first": branch(lambda h: h[0, 0] > 0),
    "branch on the size": branch(lambda h: len(h) > 3),
    "branch without if": lambda s, h: torch.where(h.sum() > 0, s.a(h), s.b(h)),
    "branch to a factor": lambda s, h: s.a(h) * (2 if h.mean() > 0 else 1),
    "branch of derivatives": lambda s, h: s.a(h) + s.b(h if h.sum() > 0 else h.detach()),
    "pair": pair,
    "first": lambda s, h: s.a(h) + 0.1 * h[:1],
    "batch attention": lambda s, h: s.a(h) + (h @ h.T).softmax(-1) @ h,
    "size": lambda s, h: s.a(h) / len(h),
    "place": lambda s, h: s.a(h) + torch.arange(len(h)).to(h)[:, None],
    "pooled": lambda s, h: s.a(h) * (1 + s.b(h).square().mean()),
    "largest of all": lambda s, h: s.a(h) / (1 + h.abs().max()),
}

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plain": losses,
    "squares": lambda z, y: (z - F.one_hot(y, CLASSES)).square().mean(1),
    "by the size": lambda z, y: losses(z, y) / len(y),
    "by the class": lambda z, y: losses(z, y) / torch.bincount(y, minlength=CLASSES)[y],
    "penalty": lambda z, y: losses(z, y) + 0.1 * z.square().mean(),
}


class Network(nn.Module):
    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names
        self.steps = nn.ModuleList(Step() for _ in names)
        self.head = nn.Linear(D, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for name, step in zip(self.names, self.steps, strict=True):
            x = (APART | MIXED)[name](step, x)
        return self.head(x)


def brute(
    net: nn.Module, loss_fn: Callable, x: Tensor, y: Tensor, rho: float, m: int, normalize: bool
) -> list[Tensor]:
    """The m-SAM gradient by plain autograd, one group at a time, on copies of everything."""
    total = [torch.zeros_like(p) for p in net.parameters()]

    def gradient(net: nn.Module, group: slice) -> list[Tensor]:
        weights = list(net.parameters())
        loss = loss_fn(net(x[group].clone()), y[group]).mean()
        found = torch.autograd.grad(loss, weights, allow_unused=True)
        return [
            torch.zeros_like(p) if g is None else g for g, p in zip(found, weights, strict=True)
        ]

    for i in range(0, len(x), m):
        group = slice(i, min(i + m, len(x)))
        g = gradient(deepcopy(net), group)
        length = torch.cat([part.flatten() for part in g]).norm()
        factor = rho if not normalize else rho / length if length > 0 else 0.0
        moved = deepcopy(net)
        with torch.no_grad():
            for p, part in zip(moved.parameters(), g, strict=True):
                p += factor * part
        for t, part in zip(total, gradient(moved, group), strict=True):
            t += part * (group.stop - group.start) / len(x)
    return total


class Outcome(NamedTuple):
    """way: "fast", "loop", or "error" where brute force has none either."""

    way: str
    deviation: float


def examine(
    names: list[str], loss: str, b: int, m: int, rho: float, normalize: bool, seed: int
) -> Outcome:
    """Every method against brute force; AssertionError where one is wrong."""
    torch.manual_seed(seed)
    net = Network(names).double()
    x, y = torch.randn(b, D).double(), torch.randint(CLASSES, (b,))
    before, loss_fn = x.clone(), LOSSES[loss]
    how = {"rho": rho, "m": m, "normalize": normalize}
    error = None
    try:
        right = brute(net, loss_fn, x, y, **how)
    except Exception as raised:
        error = raised
    size = 0.0 if error else max(float(t.abs().max()) for t in right)

    def run(method: str) -> float:
        net.zero_grad()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            msam_grad(net, loss_fn, x, y, **how, method=method)
        run.warned = any("takes the loop" in str(w.message) for w in caught)
        assert torch.equal(x, before), "the batch was changed"
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
        gap = max(float((f - r).abs().max()) for f, r in zip(found, right, strict=True))
        return gap / size if gap else 0.0

    if error:
        for method in ("loop", "auto"):
            try:
                run(method)
            except Exception:
                continue
            raise AssertionError(f"{method} has a value where brute force has {error!r}")
        return Outcome("error", 0.0)
    worst, way = run("loop"), "loop"
    try:
        worst, way = max(worst, run("ghost")), "fast"
    except (Unsupported, Undefined):
        pass
    for _ in range(2):
        worst = max(worst, run("auto"))
        assert worst < CLOSE, (names, loss, how, worst)
    return Outcome(way, worst)


networks = st.fixed_dictionaries(
    {
        "names": st.lists(
            st.one_of(st.sampled_from(list(APART)), st.sampled_from([*APART, *MIXED])),
            min_size=1,
            max_size=4,
        ),
        "loss": st.sampled_from(["plain", "squares", *LOSSES]),
        "b": st.one_of(st.integers(2, 12), st.integers(2, 12), st.sampled_from([16, 32, 48])),
        "m": st.integers(1, 5),
        "rho": st.sampled_from([0.05, 0.3, 1.0]),
        "normalize": st.booleans(),
        "seed": st.integers(0, 10**6),
    }
).filter(lambda kw: kw["m"] < kw["b"])


def main() -> None:
    from benchmarks.measure import machine
    from samkit.paper import records

    ways: Counter[str] = Counter()
    worst = 0.0

    @settings(
        max_examples=int(sys.argv[1]) if len(sys.argv) > 1 else 1000,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(networks)
    def run(network: dict) -> None:
        nonlocal worst
        outcome = examine(**network)
        ways[outcome.way] += 1
        worst = max(worst, outcome.deviation)
        if ways.total() % 50 == 0:
            result = {"tried": ways.total(), "ways": dict(ways), "largest deviation": worst}
            records.save("random_networks", {"machine": machine()} | result)
            print(result, flush=True)

    run()


if __name__ == "__main__":
    main()
