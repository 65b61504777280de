"""The loss between solutions: on the line through two networks, in the plane through three."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

Weights = dict[str, Tensor]


def on_line(
    model: nn.Module,
    a: Weights,
    b: Weights,
    ts: Sequence[float],
    measure: Callable[[nn.Module], Any],
    *,
    statistics: Iterable[Any] | None = None,
) -> list[Any]:
    """``measure(network)`` at (1 - t) a + t b for each t.

    ``a``, ``b`` are state_dicts of ``model``, which itself is not changed: measuring happens on a
    copy, in the mode that ``model`` is in. Networks with BatchNorm need ``statistics``, batches of
    inputs from which running statistics are estimated anew at every point, since the average of
    two networks' statistics belongs to neither.

    Raises ValueError if the weights do not belong to the model or statistics are missing.
    Source: Section 4.4 of the paper. Chapter: fine-tuning.
    """
    points = [{k: torch.lerp(a[k].double(), b[k].double(), t) for k in _shared(a, b)} for t in ts]
    return _measured(model, points, measure, _again(statistics))


def plane_through(
    a: Weights, b: Weights, c: Weights
) -> tuple[Callable[[float, float], Weights], list[tuple[float, float]]]:
    r"""An orthonormal frame of the plane through three networks.

    Returns the map (x, y) -> weights, with distances in the plane equal to distances of weights,
    and the coordinates of a, b, c: (0, 0), (:math:`\lVert b - a\rVert`, 0), and those of c with
    y > 0. A parameter that the networks have under two names counts once.

    Raises ValueError if the three lie on one line.
    """
    names = _shared(a, b, c)
    first_names = _tied(names, (a, b, c))
    once = [k for k in names if first_names[k] == k]

    def flat(w: Weights) -> Tensor:
        return torch.cat([w[k].double().flatten() for k in once])

    origin, along, aside = flat(a), flat(b) - flat(a), flat(c) - flat(a)
    length = along.norm()
    first = along / length.clamp_min(torch.finfo(length.dtype).tiny)
    x = aside @ first
    height = (aside - x * first).norm()
    if length == 0 or height < 1e-9 * aside.norm() or aside.norm() == 0:
        raise ValueError("the three networks lie on one line: there is no plane through them")
    second = (aside - x * first) / height

    def at(u: float, v: float) -> Weights:
        point, start, result = origin + u * first + v * second, 0, {}
        for k in once:
            size = a[k].numel()
            result[k] = point[start : start + size].view_as(a[k])
            start += size
        return {k: result[first_names[k]] for k in names}

    return at, [(0.0, 0.0), (float(length), 0.0), (float(x), float(height))]


def on_plane(
    model: nn.Module,
    at: Callable[[float, float], Weights],
    us: Sequence[float],
    vs: Sequence[float],
    measure: Callable[[nn.Module], Any],
    *,
    statistics: Iterable[Any] | None = None,
) -> list[list[Any]]:
    """``measure(network)`` at every (u, v), one row for each v; otherwise as :func:`on_line`."""
    statistics = _again(statistics)
    return [_measured(model, [at(u, v) for u in us], measure, statistics) for v in vs]


def _again(batches: Iterable[Any] | None) -> Iterable[Any] | None:
    """Batches that every point can go through: a generator has them only once."""
    return list(batches) if isinstance(batches, Iterator) else batches


def _shared(*networks: Weights) -> list[str]:
    """The names of the floating-point entries, the same in all networks."""
    names = [k for k, v in networks[0].items() if v.is_floating_point()]
    shapes = [{k: w[k].shape for k in names if k in w} for w in networks]
    if any(
        s != shapes[0] or len(w) != len(networks[0]) for s, w in zip(shapes, networks, strict=True)
    ):
        raise ValueError("the networks differ in the names or shapes of their weights")
    return names


def _tied(names: Sequence[str], networks: Sequence[Weights]) -> dict[str, str]:
    """For each name the first one that has the same values in every network."""
    firsts: dict[str, str] = {}
    for k in names:
        same = (
            first
            for first in dict.fromkeys(firsts.values())
            if all(torch.equal(w[k], w[first]) for w in networks)
        )
        firsts[k] = next(same, k)
    return firsts


def _measured(
    model: nn.Module,
    points: Iterable[Weights],
    measure: Callable[[nn.Module], Any],
    statistics: Iterable[Any] | None,
) -> list[Any]:
    normed = any(isinstance(m, _BatchNorm) and m.track_running_stats for m in model.modules())
    if statistics is None:
        if normed:
            raise ValueError(
                "the model has BatchNorm: pass statistics, batches of inputs to estimate its "
                "running statistics from at every point"
            )
        statistics = ()
    net = copy.deepcopy(model)
    results = []
    for point in points:
        state = net.state_dict()
        unknown = set(point) - set(state)
        if unknown:
            raise ValueError(f"the model has no {sorted(unknown)}")
        net.load_state_dict({k: point.get(k, v) for k, v in state.items()})
        if normed:
            update_bn(statistics, net)
            net.train(model.training)
        with torch.no_grad():
            results.append(measure(net))
    return results
