"""The loss between solutions: on the line through two networks, in the plane through three."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from samkit.errors import Unsupported
from samkit.measure.objective import RandomState

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

    ``a``, ``b`` are state_dicts of ``model``, which itself is not changed: at each point a copy is
    measured, its modules in the modes that those of ``model`` are in, from the same random numbers.
    What is no real or complex number in them, such as a counter, is the model's. Networks with
    BatchNorm need ``statistics``, batches of inputs (or pairs that begin with them) from which
    running statistics are estimated anew at every point, since the average of two networks'
    statistics belongs to neither. Only a BatchNorm in eval mode within a model in train mode, which
    somebody has frozen, keeps those that lie on the line.

    Raises ValueError if the weights do not belong to the model or statistics are missing,
    Unsupported for a model that cannot be copied.
    Source: Section 4.4 of the paper. Chapter: fine-tuning.
    """
    points = [{k: torch.lerp(_wide(a[k]), _wide(b[k]), t) for k in _shared(a, b)} for t in ts]
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
        return torch.cat([_reals(_wide(w[k])).flatten() for k in once])

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
            like = _reals(a[k])
            part = point[start : start + like.numel()].view_as(like)
            result[k] = torch.view_as_complex(part) if a[k].is_complex() else part
            start += like.numel()
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


def _wide(t: Tensor) -> Tensor:
    """In double precision."""
    return t.to(torch.complex128 if t.is_complex() else torch.float64)


def _reals(t: Tensor) -> Tensor:
    """A complex entry as its real and its imaginary part."""
    return torch.view_as_real(t) if t.is_complex() else t


def _again(batches: Iterable[Any] | None) -> Iterable[Any] | None:
    """Batches that every point can go through: a generator has them only once."""
    return list(batches) if isinstance(batches, Iterator) else batches


def _shared(*networks: Weights) -> list[str]:
    """The names of the entries that lie on a line, real or complex, the same in all networks."""
    names = [k for k, v in networks[0].items() if v.is_floating_point() or v.is_complex()]
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
    anew = _unfrozen(model)
    if anew and statistics is None:
        raise ValueError(
            "the model has BatchNorm: pass statistics, batches of inputs to estimate its running "
            "statistics from at every point"
        )
    results = []
    start = RandomState(model.parameters())
    try:
        for point in points:
            start.restore()
            net = _copy(model)
            state = net.state_dict()
            if unknown := set(point) - set(state):
                raise ValueError(f"the model has no {sorted(unknown)}")
            net.load_state_dict({k: point.get(k, v) for k, v in state.items()})
            if anew:
                estimate_statistics(net, statistics or ())
            with torch.no_grad():
                results.append(measure(net))
    finally:
        start.restore()
    return results


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise Unsupported(
            f"the model cannot be copied, and is not to be changed ({error}): pass one just made, "
            "that has not been called yet"
        ) from error


def _unfrozen(net: nn.Module) -> list[Any]:
    """BatchNorm with running statistics, but for one in eval mode within a net in train mode."""
    norms = (m for m in net.modules() if isinstance(m, _BatchNorm) and m.track_running_stats)
    return [m for m in norms if m.training >= net.training]


@torch.no_grad()
def estimate_statistics(net: nn.Module, batches: Iterable[Any]) -> None:
    """Sets BatchNorm's running statistics to the means over these batches, in place.

    Every other module, and a BatchNorm that is in eval mode within a network in train mode, stays
    in its mode and as it is: unlike in ``torch.optim.swa_utils.update_bn``, which trains them all.
    ``batches``: inputs, or pairs that begin with them. Raises ValueError if there are none.
    """
    norms = _unfrozen(net)
    before = [(m.training, m.momentum) for m in norms]
    for m in norms:
        m.reset_running_stats()
        m.training, m.momentum = True, None  # the plain mean
    for batch in batches if norms else ():
        net(batch[0] if isinstance(batch, tuple | list) else batch)
    for m, (training, momentum) in zip(norms, before, strict=True):
        m.training, m.momentum = training, momentum
    if any(m.num_batches_tracked == 0 for m in norms):
        raise ValueError("statistics has no batch: pass at least one batch of inputs")
