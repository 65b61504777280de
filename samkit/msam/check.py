r"""Is the fast path right for this model, loss and batch? The check of `msam_grad`, by value.

Let F(B) be the fast path's sum over the groups of a batch B, and L(B) the loop's, the definition.
The fast path is right on B if and only if F(B) = L(B); but L(B) is what it is to save. There are
two kinds of fault, and cheaper questions for each.

- A rule does not see what the model does (a derivative by the input, a parameter read as a number,
  a layer that runs again in the backward pass). Two groups, chosen at random, are held against the
  loop; and at the first call all examples are, as two groups of half of the batch, which the loop
  does at the price of two steps of SAM on half of the batch.
- Groups depend on each other, or on the size of the batch. The two comparisons above see each
  dependence that is between the two groups, or between the random halves. For all others the first
  pass is looked at alone, which is cheap since no weight gradient is made. The groups are laid out
  in a square, at random, and B is split by its rows, and by its columns; two groups that share a
  row have different columns, so one of the splits parts them. A group on which nothing else acts
  has the same input of every layer, and the same losses, in the whole batch and in its part. And if
  the losses are summed with factors r_G, every layer's gradient g turns into r_G g; where group H
  acts on group G through anything that autograd knows, g has a share of r_H in it.

Up to `FEW` groups the first call asks no such questions, and compares F and L of all groups.

These questions may be too strict: numbers without influence may differ between first passes, and
the loop rounds groups of half of the batch in another way than small ones. So where one of them
finds a difference, F and L of all groups are compared, and have the last word.

So a check with two splits misses no rule that turns the gradient of the batch by more than the
tolerance, and no two groups whose dependence shows in a value or a derivative of the first pass.
With one split it misses two groups that depend on each other by value alone, and on no other one,
with probability 1 / sqrt(G) or less, for G groups. What two groups have with each other at the
moved weights alone, or in the size of a gradient alone, is seen if the halves part them, with
probability 1/2. What many groups decide together, such as a branch on the sign of a sum over the
batch, is seen where the two groups, a row, a column or a half decide otherwise than the batch does.

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
from samkit.msam.ghost import Record, ghost, recorded
from samkit.msam.layers import rows_of
from samkit.msam.loop import loop, real
from samkit.perturbation import Tensors, norm

#: units of rounding (the spacing of the numbers at 1) by which two right ways may differ, by which
#: two first passes may, and by which weights are moved to look again: (float32 and 64, half)
CLOSE, FIRST, NEARBY = (1024, 4), (64, 4), (64, 4)
#: groups that are all compared with the loop at the first call
FEW = 12
#: how often a difference must be seen again, at other weights nearby, to count as a fault
REPEATS = 3

DEPENDENT = (
    "the loss of one example depends on other ones or on the size of the batch: the whole batch "
    "and its parts differ by {:.1%}{}. Normalize each example by itself, and let loss_fn return "
    "losses that are not yet divided by anything of the batch"
)
UNSEEN = (
    "it differs from the loop by {:.1%}{}: the loss depends on a parameter in a way "
    "that the rules do not see, such as a derivative by the input, .item() or .data of a "
    "parameter, a hook on its gradient, or a checkpointed layer that runs again"
)

#: what is compared, each piece in units of its own length: of a whole call the loss, and the
#: gradient by all parameters; of a first pass each layer's input, and the losses
Pieces = Sequence[Sequence[Tensor | None]]
Sides = tuple[Pieces, Pieces]
First = tuple[Tensor, Record]


@dataclass
class Paths:
    """Both paths for one model and loss."""

    model: nn.Module
    loss_fn: LossFn
    params: Sequence[Tensor]
    options: dict[str, Any]  # rho, normalize, weight_decay
    max_bytes: int
    bytes: int | None = None  # what the fast path holds for one group; known after its first run

    def run_fast(self, batch: Batch, m: int, at_once: int = 0) -> Tensor:
        """Adds the m-SAM gradient to p.grad; returns the mean loss."""
        at_once = at_once or max(1, self.max_bytes // max(1, self.bytes or self.max_bytes))
        how = {"m": m, "at_once": at_once, **self.options}
        loss, bytes = ghost(self.model, self.loss_fn, batch, self.params, **how)
        self.bytes = self.bytes or bytes
        return loss

    def run_loop(self, batch: Batch, m: int) -> Tensor:
        """The same by the loop."""
        return loop(self.model, self.loss_fn, batch, self.params, m=m, **self.options)

    def fast(self, batch: Batch, m: int, at_once: int = 0) -> Pieces:
        return self._taken(self.run_fast(batch, m, at_once))

    def loop(self, batch: Batch, m: int) -> Pieces:
        return self._taken(self.run_loop(batch, m))

    def first_pass(self, batch: Batch, groups: int) -> First:
        """A first pass of the fast path, before its backward pass: the losses and the record."""
        return recorded(self.model, self.loss_fn, batch.copy(), self.params, groups)

    def _taken(self, loss: Tensor) -> Pieces:
        grads = [None if p.grad is None else p.grad.to_dense() for p in self.params]
        for p in self.params:
            p.grad = None
        return [[loss], real(grads)]


def check(paths: Paths, batch: Batch, m: int, *, splits: int, seed: int) -> float:
    """Raises Unsupported unless the fast path is right on this batch.

    `splits` is 2, 1, or 0 for a look at two groups alone; `seed` chooses them. Whatever the fast
    path itself raises comes through. Weights, buffers and random states are as before, p.grad is
    None. Returns the seconds that the loop takes for the whole batch, from those for two groups.
    """
    random_state, before = passes.RandomState(paths.params), passes.State([paths.model])
    this = _Check(paths, batch, m, seed)
    try:
        with timed(paths.params) as seconds:
            right = paths.loop(this.two, m)  # what it raises is the model's own
        draws = not random_state.untouched()
        random_state.restore()
        try:
            with drawing_alike(paths.model) if draws else nullcontext():
                this.run(splits, None if draws else right)
        except (Unsupported, Undefined, NonFinite):
            raise
        except Exception as error:
            raise Unsupported(f"it fails, where the loop does not, with {error!r}") from error
    finally:
        random_state.restore()
        before.restore()
        for p in paths.params:
            p.grad = None
    return seconds() * len(batch) / len(this.two)


class _Check:
    def __init__(self, paths: Paths, batch: Batch, m: int, seed: int) -> None:
        self.paths, self.batch, self.m = paths, batch, m
        groups = -(-len(batch) // m)
        order = random.Random(seed).sample(range(groups), groups)
        self.two = self.rows(sorted(order[:2]))
        #: those of m examples; a smaller one, the last of the batch, is done alone
        self.order = [group for group in order if (group + 1) * m <= len(batch)]
        eps = precision(batch, paths.params)
        half = eps > 1e-4
        self.tolerance, self.fine, self.nearby = (
            eps * units[half] for units in (CLOSE, FIRST, NEARBY)
        )

    def run(self, splits: int, right: Pieces | None) -> None:
        found = self.paths.fast(self.two, self.m, 2)
        self.agree(self.two, self.m, (found, right or self.paths.loop(self.two, self.m)))
        if not splits or len(self.two) == len(self.batch):
            return
        every = range(-(-len(self.batch) // self.m))
        halves = self.rows([*self.order, *every[len(self.order) :]])
        sides = self.both_ways(halves, self.m * (len(self.order) // 2))
        if (
            (splits == 2 and len(every) <= FEW)
            or self.first_passes_differ(splits)
            or (splits == 2 and self.apart(self.tolerance, sides)[1])
        ):
            self.agree(self.rows(every), self.m, at_once=0)

    def rows(self, groups: Iterable[int]) -> Batch:
        """The examples of these groups, in this order."""
        m, b = self.m, len(self.batch)
        index = [i for group in groups for i in range(group * m, min(b, group * m + m))]
        return replace(self.batch.rows(torch.tensor(index)), last=False)

    def squares(self) -> tuple[list[list[int]], list[list[int]]]:
        """The groups by rows and by columns of a square."""
        c = math.isqrt(len(self.order) - 1) + 1
        rows = [self.order[i : i + c] for i in range(0, len(self.order), c)]
        columns = [self.order[i::c] for i in range(c)]
        return columns, rows

    def agree(self, batch: Batch, m: int, first: Sides | None = None, *, at_once: int = 2) -> None:
        """Raises Unsupported unless F = L on this batch in groups of m; first: (F, L) if known."""
        gap, wrong = self.apart(self.tolerance, self.both_ways(batch, m, at_once), first)
        if wrong and len(batch) > m:
            for group in batch.groups(m):  # if a group by itself is wrong, a rule is
                self.agree(group, m)
            raise Unsupported(DEPENDENT.format(gap, self.place()))
        if wrong:
            sizes = [0.0 if t is None else float(norm([t])) for t in wrong.get(1, ())]
            most = self.paths.params[sizes.index(max(sizes))] if sizes else None
            where = "" if most is None else f", most at {self.name(id(most))}"
            raise Unsupported(UNSEEN.format(gap, where))

    def both_ways(self, batch: Batch, m: int, at_once: int = 2) -> Callable[[], Sides]:
        return lambda: (self.paths.fast(batch, m, at_once), self.paths.loop(batch, m))

    def first_passes_differ(self, splits: int) -> bool:
        """Whether a group's inputs of layers, losses, or g depend on other groups."""
        whole = self.first_pass(range(len(self.order)))
        if any(self.differs_at(parts, whole) is not None for parts in self.squares()[:splits]):
            return True
        slopes = self.apart(self.fine, lambda: self.slopes(self.first_pass()), self.slopes(whole))
        return bool(slopes[1])

    def first_pass(self, groups: Sequence[int] = ()) -> First:
        """That of these groups, or of all, in the order of the batch."""
        groups = sorted(groups or self.order)
        return self.paths.first_pass(self.rows(groups), len(groups))

    def differs_at(self, parts: Sequence[Sequence[int]], whole: First) -> int | None:
        """The first of the `values` that is another one in the parts; -1 if they do not compare."""
        # a group alone would be recorded in another way than one of several
        parts = [sorted([*part, *part] if len(part) == 1 else part) for part in parts]
        order = torch.tensor([group for part in parts for group in part])

        def sides(whole: First | None = None) -> Sides:
            of_whole = [t[order.to(t.device)] for t in values(whole or self.first_pass())]
            each = [values(self.first_pass(part)) for part in parts]
            of_parts = [torch.cat(several) for several in zip(*each, strict=True)]
            if [t.shape for t in of_parts] != [t.shape for t in of_whole]:
                raise ValueError("other shapes in the parts")
            return [[t] for t in of_whole], [[t] for t in of_parts]

        try:
            return min(self.apart(self.fine, sides, sides(whole))[1], default=None)
        except (RuntimeError, ValueError):
            return -1

    def slopes(self, first: First) -> Sides:
        """Each g of losses that have a factor for each group, and the factor times each g."""
        losses, record = first
        factors = 1 + torch.tensor(self.order, device=losses.device) / len(self.order)
        ones = record.grads(losses.sum(), retain_graph=True)
        found = record.grads((losses * rows_of(factors.to(losses), losses)).sum())
        right = [None if g is None else g * rows_of(factors.to(g), g) for g in ones]
        return [[g] for g in found], [[g] for g in right]

    def place(self) -> str:
        """What depends on other groups first, for the message; "" where it is not seen."""
        whole = self.first_pass()
        uses = whole[1].uses
        for parts in self.squares():
            k = self.differs_at(parts, whole)
            if k is not None and k >= 0:
                seen = f"what is given to {self.name(uses[k][0].base)}" if uses[k:] else "the loss"
                return f", first in {seen}"
        return ""

    def name(self, base: int) -> str:
        """A parameter's name, and the class of its module."""
        model = self.paths.model
        name = next(name for name, p in model.named_parameters() if id(p) == base)
        return f"{name!r} of {type(model.get_submodule(name.rpartition('.')[0])).__name__}"

    def apart(
        self, tolerance: float, sides: Callable[[], Sides], first: Sides | None = None
    ) -> tuple[float, dict[int, Sequence[Tensor | None]]]:
        """The pieces by which two ways differ by more than rounding, and the largest difference.

        first: what the two give, where it is known already.
        """
        gaps, wrong = [0.0], {}
        for k, (found, right) in enumerate(zip(*(first or sides()), strict=True)):
            gap, difference = _difference(found, right)
            if not gap <= tolerance:
                gaps.append(gap)
                wrong[k] = difference
        for seed in range(REPEATS if wrong else 0):
            chance = torch.Generator().manual_seed(seed)
            deltas: list[Tensor | None] = [
                p.detach() * (self.nearby * _signs(p, chance)) for p in self.paths.params
            ]
            with passes.Moves()(self.paths.params, deltas):
                one, other = sides()
            again = {k: _difference(one[k], other[k])[1] for k in wrong}
            wrong = {k: d for k, d in wrong.items() if _alike(again[k], d)}
            if not wrong:
                break
        return max(gaps), wrong


@contextmanager
def timed(params: Sequence[Tensor]) -> Iterator[Callable[[], float]]:
    """Yields a function that says, afterwards, how many seconds the inside took."""
    wait = _synchronize(params)
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


def values(first: First) -> list[Tensor]:
    """Each layer's input and then the losses, (G, ...)."""
    losses, record = first
    inputs = [site.by_group(site.a) for site in record.sites]
    each = [*inputs, losses.detach().view(record.groups, -1)]
    return [t if t.is_floating_point() else t.double() for t in map(_real, each)]


def _real(t: Tensor) -> Tensor:
    return torch.view_as_real(t) if t.is_complex() else t


def _difference(found: Tensors, right: Tensors) -> tuple[float, Tensors]:
    """The relative difference of two vectors, and the difference itself."""
    apart = [
        x if y is None else -y if x is None else x - y for x, y in zip(found, right, strict=True)
    ]
    gap = float(norm(apart))
    return gap and gap / max(float(norm(found)), float(norm(right))), apart


def _alike(x: Tensors, y: Tensors) -> bool:
    """Whether two differences are one and the same fault; those of rounding have any direction."""
    return _difference(x, y)[0] < 1 / 2


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
        random_state, rows = passes.RandomState([x]), []
        for i in range(len(x)):
            random_state.restore()
            own = (y[i : i + 1] if isinstance(y, Tensor) and y.dim() else y for y in rest)
            rows.append(func(x[i : i + 1], *own, **kwargs))
        return x if in_place else torch.cat(rows)
