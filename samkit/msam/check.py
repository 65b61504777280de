r"""Is the fast path right for this model, loss and batch? The check of `msam_grad`, by value.

Let F(B) be the fast path's sum over the groups of a batch B, and L(B) the loop's, the definition.
The fast path is right on B if and only if F(B) = L(B); but L(B) is what it is to save. There are
two kinds of fault, and a cheaper question for each:

- Groups depend on each other, or on the size of the batch. Then F(B) is not the sum of F over the
  parts of B. The groups are laid out in a square, at random, and B is split by its rows, and by its
  columns. Two groups that share a row have different columns, so one of the splits parts them.
- A rule does not see what the model does (a derivative by the input, a parameter read as a number,
  a layer that runs again in the backward pass). All of B as ONE group shows it for every example at
  the price of a step of SAM; and two groups, chosen at random, are held against the loop as well.

A check with two splits therefore misses nothing, on the batch at hand, that turns the gradient by
more than the tolerance. With one split it misses two groups that depend on each other, and on no
other one, with probability 1 / sqrt(G) or less, for G groups.

Two right ways differ by rounding, which the network may magnify: a ReLU goes to its other side, the
gradient of a fitted example is all rounding. A difference of more than `CLOSE` units of rounding is
a fault if it is there again, the same vector up to half its length, whenever the weights are moved
by `NEARBY` units of their own size; rounding points elsewhere then.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from samkit import passes
from samkit.errors import NonFinite, Undefined, Unsupported
from samkit.msam.batch import Batch, LossFn, leaves
from samkit.msam.ghost import ghost
from samkit.msam.loop import loop, real
from samkit.perturbation import norm

#: units of rounding (the spacing of the numbers at 1) by which two right ways may differ, and by
#: which the weights are moved to look again: (float32 and float64, half precision)
CLOSE, NEARBY = (1024, 4), (64, 4)
#: how often a difference must be seen again, at other weights nearby, to count as a fault
REPEATS = 3

DEPENDENT = (
    "the loss of one example depends on other ones or on the size of the batch: the whole batch "
    "and its parts differ by {:.1%}. Normalize each example by itself, and let loss_fn return "
    "losses that are not yet divided by anything of the batch"
)
UNSEEN = (
    "it differs from the loop by {:.1%}, most at {!r}: the loss depends on a parameter in a way "
    "that the rules do not see, such as a derivative by the input, .item() or .data of a "
    "parameter, a hook on its gradient, or a checkpointed layer that runs again"
)

#: the summed loss, then the summed gradient of each parameter
Sums = Sequence[Tensor | None]


@dataclass
class Paths:
    """Both paths for one model and loss, as sums over the groups of a batch."""

    model: nn.Module
    loss_fn: LossFn
    params: Sequence[Tensor]
    options: dict[str, Any]  # rho, normalize, weight_decay
    max_bytes: int
    bytes: int | None = None  # what the fast path holds for one group; known after its first run

    def run_fast(self, batch: Batch, m: int) -> Tensor:
        """Adds the m-SAM gradient to p.grad; returns the mean loss."""
        at_once = max(1, self.max_bytes // max(1, self.bytes or self.max_bytes))
        how = {"m": m, "at_once": at_once, **self.options}
        loss, bytes = ghost(self.model, self.loss_fn, batch, self.params, **how)
        self.bytes = self.bytes or bytes
        return loss

    def run_loop(self, batch: Batch, m: int) -> Tensor:
        """The same by the loop."""
        return loop(self.model, self.loss_fn, batch, self.params, m=m, **self.options)

    def fast(self, batch: Batch, m: int) -> Sums:
        return self._sums(self.run_fast(batch, m), len(batch))

    def loop(self, batch: Batch, m: int) -> Sums:
        return self._sums(self.run_loop(batch, m), len(batch))

    def _sums(self, loss: Tensor, b: int) -> Sums:
        sums: list[Tensor | None] = [loss * b]
        for p in self.params:
            sums.append(None if p.grad is None else p.grad.to_dense() * b)
            p.grad = None
        return real(sums)


@dataclass
class Seconds:
    """What the whole batch takes on the fast path, and (from its two groups) in the loop."""

    fast: float
    loop: float


def check(paths: Paths, batch: Batch, m: int, *, splits: int, seed: int) -> Seconds:
    """Raises Unsupported unless the fast path is right on this batch.

    `splits` is 2, 1, or 0 for a look at two groups alone; `seed` chooses them. Whatever the fast
    path itself raises comes through. Weights, buffers and random states are as before, p.grad is
    None.
    """
    order = random.Random(seed).sample(range(-(-len(batch) // m)), -(-len(batch) // m))
    noise, before = passes.Noise(paths.params), passes.State([paths.model])
    try:
        first = _rows(batch, m, order[:1])
        paths.loop(first, m)  # what it raises is the model's own
        noise.replay()
        try:
            paths.fast(first, m)
            with nullcontext() if noise.untouched() else drawing_alike(paths.model):
                return _Check(paths, batch, m, order).run(splits)
        except (Unsupported, Undefined, NonFinite):
            raise
        except Exception as error:
            raise Unsupported(f"it fails, where the loop does not, with {error!r}") from error
    finally:
        noise.replay()
        before.restore()
        for p in paths.params:
            p.grad = None


class _Check:
    def __init__(self, paths: Paths, batch: Batch, m: int, order: list[int]) -> None:
        self.paths, self.batch, self.m, self.order = paths, batch, m, order
        eps = precision(batch, paths.params)
        half = eps > 1e-4
        self.tolerance, self.nearby = eps * CLOSE[half], eps * NEARBY[half]

    def run(self, splits: int) -> Seconds:
        m, b, fast, loop = self.m, len(self.batch), self.paths.fast, self.paths.loop
        two = [self.rows([group]) for group in self.order[:2]]
        both, whole = self.rows(self.order[:2]), replace(self.batch, last=False)

        def fast_each() -> Sums:
            return _total(fast(group, m) for group in two)

        def loop_each() -> Sums:
            return _total(loop(group, m) for group in two)

        seconds = Seconds(0.0, 0.0)
        with self.timed() as of_two:
            right = loop_each()
        seconds.loop = of_two() * len(self.order) / 2
        self.agree(fast_each, loop_each, UNSEEN, right=right)
        if splits:
            self.agree(lambda: fast(whole, b), lambda: loop(whole, b), UNSEEN)
        self.agree(lambda: fast(both, m), fast_each, DEPENDENT)
        if splits:
            with self.timed() as of_all:
                found = fast(whole, m)
            seconds.fast = of_all()
            for parts in self.squares()[:splits]:

                def by_parts(parts: list[list[int]] = parts) -> Sums:
                    return _total(fast(self.rows(part), m) for part in parts)

                self.agree(lambda: fast(whole, m), by_parts, DEPENDENT, found=found)
        return seconds

    def rows(self, groups: Sequence[int]) -> Batch:
        return _rows(self.batch, self.m, groups)

    def squares(self) -> tuple[list[list[int]], list[list[int]]]:
        """The groups by rows and by columns of a square."""
        c = math.isqrt(len(self.order) - 1) + 1
        rows = [self.order[i : i + c] for i in range(0, len(self.order), c)]
        columns = [self.order[i::c] for i in range(c)]
        return columns, rows

    def agree(
        self,
        one: Callable[[], Sums],
        other: Callable[[], Sums],
        reason: str,
        *,
        found: Sums | None = None,
        right: Sums | None = None,
    ) -> None:
        """Raises Unsupported if the two ways differ by more than rounding.

        found, right: what they give, where it is known already.
        """
        found, right = found or one(), right or other()
        gap = difference(found, right)
        if gap <= self.tolerance or not (passes.finite(found) or passes.finite(right)):
            return
        apart = _minus(found, right)
        for k in range(REPEATS):
            chance = torch.Generator().manual_seed(k)
            deltas: list[Tensor | None] = [
                p.detach() * (self.nearby * _signs(p, chance)) for p in self.paths.params
            ]
            with passes.Moves()(self.paths.params, deltas):
                if not _alike(_minus(one(), other()), apart):
                    return
        sizes = [0.0 if t is None else float(norm([t])) for t in apart[1:]]
        most = self.paths.params[sizes.index(max(sizes))]
        names = [name for name, p in self.paths.model.named_parameters() if p is most]
        raise Unsupported(reason.format(gap, *names))

    @contextmanager
    def timed(self) -> Iterator[Callable[[], float]]:
        """Yields a function that says, afterwards, how many seconds the inside took."""
        wait = _synchronize(self.paths.params)
        start, stop = perf_counter(), 0.0
        yield lambda: stop - start
        wait()
        stop = perf_counter()


def _synchronize(params: Sequence[Tensor]) -> Callable[[], None]:
    """A function that waits for what was launched on the parameters' device; called once here."""
    device = params[0].device

    def wait() -> None:
        if device.type == "cuda":  # pragma: no cover, needs a GPU
            torch.cuda.synchronize(device)

    wait()
    return wait


def _rows(batch: Batch, m: int, groups: Sequence[int]) -> Batch:
    """The examples of these groups; a smaller group, which is the last of the batch, comes last."""
    b = len(batch)
    index = [i for group in sorted(groups) for i in range(group * m, min(b, group * m + m))]
    return replace(batch.rows(torch.tensor(index)), last=False)


def _total(several: Iterable[Sums]) -> Sums:
    """The sum of several sums."""

    def add(x: Tensor | None, y: Tensor | None) -> Tensor | None:
        return y if x is None else x if y is None else x + y

    total, *rest = several
    for sums in rest:
        total = [add(x, y) for x, y in zip(total, sums, strict=True)]
    return total


def _minus(found: Sums, right: Sums) -> Sums:
    return [
        x if y is None else -y if x is None else x - y for x, y in zip(found, right, strict=True)
    ]


def difference(found: Sums, right: Sums) -> float:
    """The larger relative difference, of the losses and of the gradients as one vector."""
    apart = _minus(found, right)

    def relative(part: slice) -> float:
        gap = float(norm(apart[part]))
        return gap / max(float(norm(found[part])), float(norm(right[part]))) if gap else 0.0

    gaps = relative(slice(0, 1)), relative(slice(1, None))
    return math.inf if any(map(math.isnan, gaps)) else max(gaps)


def _alike(x: Sums, y: Sums) -> bool:
    """Whether two differences are one and the same fault; those of rounding have any direction."""
    return float(norm(_minus(x, y))) < max(float(norm(x)), float(norm(y))) / 2


def precision(batch: Batch, params: Sequence[Tensor]) -> float:
    """The unit of rounding of the least precise numbers that take part."""
    device = params[0].device.type
    types = {t.dtype for t in (*params, *leaves(batch.inputs)) if t.is_floating_point()}
    if torch.is_autocast_enabled(device):
        types.add(torch.get_autocast_dtype(device))
    eps = [torch.finfo(dtype).eps for dtype in types]
    if device == "cuda" and (
        torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    ):  # pragma: no cover, needs a GPU
        eps.append(2.0**-10)
    return max(eps, default=torch.finfo(torch.float32).eps)


def _signs(p: Tensor, chance: torch.Generator) -> Tensor:
    """-1 or 1 at random for each entry."""
    return (2.0 * torch.randint(2, p.shape, generator=chance) - 1).to(p.device, p.dtype)


@contextmanager
def drawing_alike(model: nn.Module) -> Iterator[None]:
    """Every example and every pass of the model draws the same random numbers inside."""
    seed = int(torch.randint(2**31, ()))

    def start(*_: object) -> None:
        torch.manual_seed(seed)

    handle = model.register_forward_pre_hook(start, prepend=True)
    try:
        with _Alike():
            yield
    finally:
        handle.remove()


class _Alike(TorchDispatchMode):
    """Of a random tensor one row along the last dimension is drawn; all others are the same.

    So neither the numbers nor what is drawn after them depend on the number of examples. Attention
    that drops some of its weights in one kernel keeps them all.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        names = [argument.name for argument in func._schema.arguments]
        args = list(args)
        if "dropout_p" in names:
            k = names.index("dropout_p")
            args, kwargs = [*args[:k], 0.0, *args[k + 1 :]], kwargs | {"dropout_p": 0.0}
            if len(args) > k:
                del kwargs["dropout_p"]
            return func(*args, **kwargs)
        if "size" in names:
            k = names.index("size")
            size = list(args[k])
            args[k] = [size[-1] if len(size) > 1 else 1] if size else size
            return func(*args, **kwargs).expand(size).clone()
        x, *rest = args
        if not isinstance(x, Tensor) or not x.dim():
            return func(*args, **kwargs)
        one = x[(0,) * (x.dim() - 1)] if x.dim() > 1 else x[:1]
        if func is torch.ops.aten.native_dropout.default:
            factor, mask = func(torch.ones_like(one), *rest)
            return x * factor, mask.expand_as(x).clone()
        in_place = func._schema.is_mutable
        if (in_place or func._schema.name.endswith("_like")) and not any(
            isinstance(y, Tensor) for y in rest
        ):
            drawn = func(one.clone(), *rest, **kwargs).expand_as(x)
            return x.copy_(drawn) if in_place else drawn.clone()
        # what is drawn depends on numbers that are given for each row, such as its mean
        noise, rows = passes.Noise([x]), []
        for i in range(len(x)):
            noise.replay()
            own = (y[i : i + 1] if isinstance(y, Tensor) and y.dim() else y for y in rest)
            rows.append(func(x[i : i + 1], *own, **kwargs))
        return x if in_place else torch.cat(rows)
