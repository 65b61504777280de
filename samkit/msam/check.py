r"""Is the fast path right for this model, loss and batch? The check of `msam_grad`, by value.

Let F(B) be the fast path's sum over the groups of a batch B, and L(B) the loop's, the definition.
The fast path is right on B if and only if F(B) = L(B); but L(B) is what it is to save. There are
two kinds of fault, and cheaper questions for each.

- A rule does not see what the model does (a derivative by the input, a parameter read as a number,
  a layer that runs again in the backward pass). Two groups, chosen at random, are held against the
  loop; and at the first call all examples are, as two groups of half of the batch, which the loop
  does at the price of two steps of SAM on half of the batch.
- Groups depend on each other, or on the size of the batch. The loop sees each group alone; so does
  the second question. What each group finds in the whole batch is compared with what it finds by
  itself: the inputs of all layers and the losses in the first pass, the losses in the second, and
  the gradients of these losses by the layers' outputs (in the second pass at the first call only).
  `torch.func.vmap` runs all groups by themselves in one pass, at the price of a few passes of the
  batch. A model that vmap cannot run, such as one that branches on a number, is run on one group
  after the other: on all of them at the first call, on sqrt(G) of G later.

The second question may be too strict, since numbers without influence may differ. So where it finds
a difference, F and L of all groups are compared, and have the last word; and so they have where the
loop rounds groups of half of the batch in another way than small ones.

So the first check misses no rule that turns the gradient of the batch by more than the tolerance,
and no dependence between groups, be it of two of them or a branch on what all examples decide.
Later ones miss no dependence that shows in a value, or in a gradient of the first pass. Where vmap
cannot run the model, they miss with probability (1 - p)^sqrt(G) or less what a share p of the
groups finds otherwise by itself; that is 1 - 1 / sqrt(G) for one group.

Two right ways differ by rounding, which the network may magnify: a ReLU goes to its other side, the
gradient of a fitted example is all rounding. A difference of more than `CLOSE` units of rounding is
a fault if it is there again, the same vector up to half its length, whenever the weights are moved
by `NEARBY` units of their own size; rounding points elsewhere then.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from samkit import passes
from samkit.errors import NonFinite, Undefined, Unsupported
from samkit.msam.batch import Batch, LossFn, leaves, per_example
from samkit.msam.ghost import Inputs, Replay, eager, ghost, no_sync, recorded
from samkit.msam.loop import loop, real
from samkit.perturbation import Tensors, norm

#: units of rounding (the spacing of the numbers at 1) by which two right ways may differ, by which
#: two first passes may, and by which weights are moved to look again: (float32 and 64, half)
CLOSE, FIRST, NEARBY = (1024, 4), (64, 4), (64, 4)
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
#: zeros that are added to the outputs of calls, for the gradients by these
Shifts = dict[int, Tensor]


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
        how = {"m": m, "at_once": at_once or self.at_once(), **self.options}
        loss, bytes = ghost(self.model, self.loss_fn, batch, self.params, **how)
        self.bytes = self.bytes or bytes
        return loss

    def at_once(self) -> int:
        """How many groups the fast path may do together."""
        return max(1, self.max_bytes // max(1, self.bytes or self.max_bytes))

    def run_loop(self, batch: Batch, m: int) -> Tensor:
        """The same by the loop."""
        return loop(self.model, self.loss_fn, batch, self.params, m=m, **self.options)

    def fast(self, batch: Batch, m: int, at_once: int = 0) -> Pieces:
        return self._taken(self.run_fast(batch, m, at_once))

    def loop(self, batch: Batch, m: int) -> Pieces:
        return self._taken(self.run_loop(batch, m))

    def _taken(self, loss: Tensor) -> Pieces:
        grads = [None if p.grad is None else p.grad.to_dense() for p in self.params]
        for p in self.params:
            p.grad = None
        return [[loss], real(grads)]


def check(paths: Paths, batch: Batch, m: int, *, level: int, seed: int) -> float:
    """Raises Unsupported unless the fast path is right on this batch.

    `level` is 2 for the first call, 1 for later ones, 0 for a look at two groups alone; `seed`
    chooses them. Whatever the fast path itself raises comes through. Weights, buffers and random
    states are as before, p.grad is None. Returns the seconds that the loop takes for the whole
    batch, from those for two groups.
    """
    random_state, before = passes.RandomState(paths.params), passes.State([paths.model])
    this = _Check(paths, batch, m, level, seed)
    try:
        with timed(paths.params) as seconds:
            right = paths.loop(this.two, m)  # what it raises is the model's own
        draws = not random_state.untouched()
        random_state.restore()
        try:
            with drawing_alike(paths.model) if draws else nullcontext():
                this.run(None if draws else right)
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
    def __init__(self, paths: Paths, batch: Batch, m: int, level: int, seed: int) -> None:
        self.paths, self.batch, self.m, self.level, self.seed = paths, batch, m, level, seed
        groups = -(-len(batch) // m)
        order = random.Random(seed).sample(range(groups), groups)
        self.two = self.rows(sorted(order[:2]))
        #: those of m examples; a smaller one, the last of the batch, is done alone
        self.order = [group for group in order if (group + 1) * m <= len(batch)]
        #: hooks may keep what they see, and what vmap shows them is of no use outside of it
        self.hooked = any(
            module._forward_hooks or module._forward_pre_hooks for module in paths.model.modules()
        )
        eps = precision(batch, paths.params)
        half = eps > 1e-4
        self.tolerance, self.fine, self.nearby = (
            eps * units[half] for units in (CLOSE, FIRST, NEARBY)
        )

    def run(self, right: Pieces | None) -> None:
        found = self.paths.fast(self.two, self.m, 2)
        self.agree(self.two, self.m, (found, right or self.paths.loop(self.two, self.m)))
        if self.level == 0 or len(self.two) == len(self.batch):
            return
        every = range(-(-len(self.batch) // self.m))
        halves = self.rows([*self.order, *every[len(self.order) :]])
        sides = self.both_ways(halves, self.m * (len(self.order) // 2))
        if self.suspicious() or (self.level == 2 and self.apart(self.tolerance, sides)[1]):
            self.agree(self.rows(every), self.m, at_once=0)

    def rows(self, groups: Iterable[int]) -> Batch:
        """The examples of these groups, in this order."""
        m, b = self.m, len(self.batch)
        index = [i for group in groups for i in range(group * m, min(b, group * m + m))]
        return replace(self.batch.rows(torch.tensor(index)), last=False)

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

    def suspicious(self) -> bool:
        """Whether a group finds other numbers by itself than in the batch, in either pass."""
        try:
            return any(self.apart(self.fine, part)[1] for part in self.parts())
        except (RuntimeError, ValueError, Unsupported):
            return True  # other shapes, or other calls

    def parts(self) -> Iterator[Callable[[], Sides]]:
        """Both sides of the comparison of groups by themselves, for each part of the fast path."""
        at_once = self.paths.at_once()
        for i in range(0, len(self.order) - 1, at_once):
            groups = range(i, min(i + at_once, len(self.order)))
            if len(groups) > 1:
                yield partial(self.together_and_alone, groups)

    def together_and_alone(self, groups: Sequence[int]) -> Sides:
        """What each of these groups finds together with the others, and what it finds by itself.

        That is the inputs of all calls in the first pass, and the losses and their gradients by the
        calls' outputs in both; in later checks, these gradients in the first pass alone. By itself
        a group moves as in the batch, so that differences do not add up.
        """
        paths, model, batch = self.paths, self.paths.model, self.rows(groups)
        decays = paths.options["weight_decay"] > 0
        losses, record = recorded(
            model, paths.loss_fn, batch.copy(), paths.params, len(groups), decays=decays
        )
        self.uses, inputs = record.uses, [site.a for site in record.sites]
        with eager(model):
            slopes = record.backward(losses, keep=True)
        reached = {k: g for k, g in enumerate(slopes) if g is not None}
        s, c = record.scales(losses, **paths.options)
        kept = [site.of_groups() for site in record.sites]

        def alone(
            one: Shifts, two: Shifts, s: Tensor, c: Tensor, kept: Any, tensors: Any
        ) -> tuple[list[Tensor], Tensor, Tensor]:
            group = batch.of(tensors)
            with Inputs(record, one) as seen:
                losses = per_example(paths.loss_fn, model, group.copy())
            with Replay(record, s[None], c[None], kept, two):
                return seen.inputs, losses, per_example(paths.loss_fn, model, group)

        def by_group(x: Any) -> Any:
            return tree_map(lambda t: t.unflatten(0, (len(groups), -1)), x)

        def zeros(wanted: bool) -> Shifts:
            some = reached.items() if wanted else ()
            return {k: torch.zeros_like(g, requires_grad=True) for k, g in some}

        one, two, moves = zeros(True), zeros(self.level == 2), zeros(self.level == 2)
        tensors = by_group(leaves((batch.inputs, batch.targets)))
        with no_sync(model), eager(model):
            (ins, losses_1, losses_2), which = self.each(
                alone, by_group(one), by_group(two), s, c, kept, tensors
            )
            with Replay(record, s, c, (), moves):
                moved = per_example(paths.loss_fn, model, batch)
            slopes_1, slopes_2 = slopes_of(losses_1, one), slopes_of(losses_2, two)
            together = [*inputs, losses, moved, *reached.values(), *slopes_of(moved, moves)]
        sides = (
            [t[which] for t in by_group(together)],
            [*ins, losses_1, losses_2, *(t[which] for t in by_group([*slopes_1, *slopes_2]))],
        )
        if [t.shape for t in sides[0]] != [t.shape for t in sides[1]]:
            raise ValueError("other shapes")
        found, right = ([[_number(t)] for t in side] for side in sides)
        return found, right

    def each(self, f: Callable[..., Any], *of_groups: Any) -> tuple[Any, list[int]]:
        """f of all groups, in one pass by vmap; or of some, one by one, where it cannot do it.

        Those are all at the first call, and later sqrt(G) of G, chosen at random.
        """
        attributes = [(vars(module), {**vars(module)}) for module in self.paths.model.modules()]
        G = len(tree_leaves(of_groups)[0])
        try:
            if not self.hooked:
                # each module may break vmap in a way of its own; of what it warns of, such as fused
                # attention, it makes a loop
                with suppress(Exception), warnings.catch_warnings(action="ignore"):
                    with sdpa_kernel(SDPBackend.MATH):
                        return vmap(f, randomness="same")(*of_groups), [*range(G)]
            some = G if self.level == 2 else math.isqrt(G - 1) + 1
            which = random.Random(self.seed).sample(range(G), some)  # the same ones when repeated
            found = [f(*tree_map(lambda t, k=k: t[k], of_groups)) for k in which]
            return tree_map(lambda *each: torch.stack(each), *found), which
        finally:
            for now, before in attributes:  # a module may have kept what only vmap understands
                now.clear()
                now.update(before)

    def place(self) -> str:
        """What depends on other groups first, for the message; "" where it is not seen."""
        try:
            k = min(k for part in self.parts() for k in self.apart(self.fine, part)[1])
        except (RuntimeError, ValueError, Unsupported):
            return ""
        if k > len(self.uses):
            return ""
        of = [use.base for uses in self.uses[k : k + 1] for use in uses]
        return f", first in {f'what is given to {self.name(of[0])}' if of else 'the loss'}"

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


def slopes_of(losses: Tensor, shifts: Shifts) -> tuple[Tensor, ...]:
    """The gradient of the summed losses by each of the shifts."""
    if not shifts:
        return ()
    return torch.autograd.grad(losses.sum(), [*shifts.values()], materialize_grads=True)


def _number(t: Tensor) -> Tensor:
    t = torch.view_as_real(t) if t.is_complex() else t.detach()
    return t if t.is_floating_point() else t.double()


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
