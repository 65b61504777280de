r"""Exact m-SAM without a loop over groups: the fast twin of `loop.py`.

Two passes over the whole batch, with delta_G = s_G grad L_G and s_G its normalization:

1. forward, keeping each layer's input a; backward to the layers' outputs only, giving g. The
   norm of each group's gradient follows from a and g (`layers.py`), and so does s_G.
2. forward of every example at its own group's weights w + s_G sum_i g_i a_i^T; an ordinary
   backward, with a, g and s constant, adds (1/b) sum_j grad l_j(w + delta_G(j)) to p.grad.

Weight decay in the loss adds k w, with k = |G| weight_decay, to a group's summed gradient. Every z
is proportional to its layer's weights (where they are added to the input a, z - a is). So the norm
needs <sum_i g_i a_i^T, w> = sum_i <g_i, z_i>; and the weights of step 2, w + s_G (sum_i g_i a_i^T +
k w), are (1 + c_G) (w + s'_G sum_i g_i a_i^T) with c_G = s_G k and s'_G = s_G / (1 + c_G), so they
give 1 + c_G times the z for s'_G. The gradient's own part weight_decay (w + delta_G), averaged over
the groups, takes one more weight gradient at w, with each example weighted by s_G.

The norms of step 1, from a and g alone, are those of Goodfellow, "Efficient per-example gradient
computations" (2015, arXiv:1510.01799). Li, Tramer, Liang and Hashimoto, "Large language models can
be strong differentially private learners" (2022, arXiv:2110.05679), gave the form for sequences and
the name "ghost clipping". Step 2 is this project's.

Layers are found by the torch functions that they call, not by their class: every call that is given
a trainable parameter, or a view of one, goes through its rule or is refused; and a parameter that
reaches the loss unseen (a custom autograd function) is given away by its own gradient in the first
pass. Both raise `Unsupported`. A parameter that is used more than once has the sum over its uses as
its gradient; there, the gradient of each group is built.
"""

from __future__ import annotations

import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from itertools import count, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.overrides import TorchFunctionMode

from samkit import passes
from samkit.errors import Unsupported
from samkit.msam.attention import self_attention
from samkit.msam.batch import Batch, LossFn, leaves, per_example, require_finite
from samkit.msam.layers import IN_PLACE, RULES, Call, Lookup, Site, rows_of, squared
from samkit.msam.views import Use, are_positions, rows_known, use_of, viewed
from samkit.perturbation import Perturbation


def ghost(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Batch,
    params: Sequence[Tensor],
    *,
    rho: float,
    m: int,
    normalize: bool,
    weight_decay: float,
    at_once: int,
) -> tuple[Tensor, int]:
    """Adds (1/b) sum_G |G| grad L_G(w + delta_G) to p.grad; returns the mean loss at w.

    `at_once` groups are done together, to bound the memory; a last, smaller group is done alone.
    Returned with the loss: the bytes held for one group beyond two ordinary passes.
    """
    b, total, bytes = len(batch), torch.zeros((), device=params[0].device), 0
    even = b - b % m  # where the groups of size m end
    starts = [*range(0, even, m * at_once), *([even] if even < b else [])]
    for start, stop in pairwise([*starts, b]):
        groups = max(1, (stop - start) // m)
        part = batch.part(start, stop)
        losses, held = _part(model, loss_fn, part, params, rho, groups, normalize, weight_decay, b)
        total, bytes = total + losses.sum(), max(bytes, held // groups)
    return total / b, bytes


def _part(
    model: nn.Module,
    loss_fn: LossFn,
    part: Batch,
    params: Sequence[Tensor],
    rho: float,
    groups: int,
    normalize: bool,
    weight_decay: float,
    b: int,
) -> tuple[Tensor, int]:
    """The share of groups of one size, all at once; returns (the losses at w, the bytes held)."""
    random_state, before = passes.RandomState(params), passes.State([model])
    first = part.copy()
    losses, record = recorded(model, loss_fn, first, params, groups, decays=weight_decay > 0)
    bytes = record.bytes
    with eager(model):  # checkpointed layers run again
        record.backward(losses)
    s, c = record.scales(losses, rho=rho, normalize=normalize, weight_decay=weight_decay)
    if weight_decay:
        _add_decay(params, record.weighted_gradients(s), weight_decay * len(part) / b, c)

    random_state.restore()
    after = before.now()
    before.restore()
    with eager(model), nullcontext() if part.last else no_sync(model):
        with Replay(record, s, c):
            perturbed = per_example(loss_fn, model, part.again(first))
        (perturbed.sum() / b).backward()
    after.restore()
    return losses.detach(), bytes


def recorded(
    model: nn.Module,
    loss_fn: LossFn,
    batch: Batch,
    params: Sequence[Tensor],
    groups: int,
    *,
    decays: bool = False,
) -> tuple[Tensor, Record]:
    """The forward of the first pass: the losses, and the record of its calls."""
    record = Record(model, params, groups, len(batch), decays=decays)
    with no_sync(model), eager(model), record:
        return per_example(loss_fn, model, batch), record


def no_sync(model: nn.Module) -> AbstractContextManager[None]:
    """A DDP model averages over ranks once, in the last pass."""
    return getattr(model, "no_sync", nullcontext)()


def _add_decay(
    params: Sequence[Tensor], moves: Sequence[Tensor | None], factor: float, c: Tensor
) -> None:
    """p.grad += factor * mean over the groups of (w + delta_G), delta_G = move_G + c_G w."""
    for p, summed in zip(params, moves, strict=True):
        decay = p.detach() * (factor * (1 + c.mean()))
        if summed is not None:
            decay += summed * (factor / len(c))
        p.grad = decay if p.grad is None else p.grad.add_(decay)


def _stand_in(t: Tensor) -> Tensor:
    """The same numbers as a leaf of their own, so that nothing is added to t.grad."""
    return t.detach().requires_grad_(t.is_floating_point())


class Located(Unsupported):
    """A refusal that names the parameters and where they are used."""


class _Intercept(TorchFunctionMode, ABC):
    """Every torch function that is given a trainable parameter is visited, or refused."""

    def __init__(self, model: nn.Module, params: Sequence[Tensor]) -> None:
        super().__init__()
        self.model, self.params = model, list(params)
        self.ids = {id(p) for p in params}

    @abstractmethod
    def visit(self, call: Call, rule: type[Site]) -> Tensor: ...

    @abstractmethod
    def are_positions(self, tokens: Tensor) -> bool:
        """Whether all examples share these row numbers of a parameter."""

    def __torch_function__(
        self, func: Callable, kinds: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        weights = self.among((*args, *kwargs.values()))
        try:
            return self.call(func, args, kwargs, weights)
        except Unsupported as refusal:
            raise self.located(refusal, weights) from None

    def call(self, func: Callable, args: tuple, kwargs: dict, weights: list[Tensor]) -> Any:
        if func is F.multi_head_attention_forward and weights:
            with self:
                return self_attention(*args, **kwargs)
        if weights and func in IN_PLACE and args[0] is not weights[0]:
            changed, *rest = args
            out = self.call(IN_PLACE[func], (changed.clone(), *rest), kwargs, weights)
            return changed.copy_(out)
        if weights and args[0] is weights[0] and (out := viewed(func, args, kwargs)) is not None:
            return out
        if func in RULES and (weights or func is F.batch_norm):
            signature, rule = RULES[func]
            call = signature(*args, **kwargs)
            if weights:
                if self.among((call.input, *call.options.values())):
                    raise Unsupported(f"{_name(func)} of a parameter")
                if rule is Lookup and self.are_positions(call.input):
                    return rows_known(weights[0], lambda w: w[call.input])
                return self.visit(call, rule)
        out = func(*args, **kwargs)
        if weights and leaves(out):
            raise Unsupported(f"there is no rule for {_name(func)} of a parameter")
        return out

    def among(self, values: Iterable[Any]) -> list[Tensor]:
        """The trainable parameters, and views of them, in arguments of a function."""
        found: list[Tensor] = []
        for v in values:
            if isinstance(v, Tensor):
                found += [v] if use_of(v).base in self.ids else []
            elif isinstance(v, tuple | list):
                found += self.among(v)
        return found

    def located(self, refusal: Unsupported, weights: list[Tensor]) -> Unsupported:
        """The refusal with the names of the parameters, and of the forward that uses them."""
        if not weights or isinstance(refusal, Located):
            return refusal
        ids = {use_of(w).base for w in weights}
        names = [repr(name) for name, p in self.model.named_parameters() if id(p) in ids]
        return Located(f"{refusal} ({', '.join(names)}{_caller()})")


class Record(_Intercept):
    """The first pass: a `Site` for each visited call, in the order of the calls."""

    def __init__(
        self, model: nn.Module, params: Sequence[Tensor], groups: int, rows: int, *, decays: bool
    ) -> None:
        super().__init__(model, params)
        self.groups, self.rows, self.decays = groups, rows, decays
        self.sites: list[Site] = []
        self.uses: list[list[Use]] = []  # of which parameters, call by call
        self.shared: dict[int, Tensor] = {}  # the parameters that are used more than once
        self.edges: list[GradientEdge] = []
        self.decay: list[_Decaying] = []  # with weight decay, call by call
        self.positions: list[bool] = []  # what `are_positions` said

    def are_positions(self, tokens: Tensor) -> bool:
        self.positions.append(are_positions(tokens, self.groups, self.rows))
        return self.positions[-1]

    def visit(self, call: Call, rule: type[Site]) -> Tensor:
        mine = [p is not None and use_of(p).base in self.ids for p in call.parameters]
        uses = [
            use_of(p) for p, own in zip(call.parameters, mine, strict=True) if own and p is not None
        ]
        if not torch.is_grad_enabled():
            raise Unsupported("a parameter used under no_grad")
        site = rule(call, (mine[0], mine[1]), self.groups)
        stands_in = call.with_parameters(
            lambda p: _stand_in(p) if use_of(p).base in self.ids else p
        )
        z = site.forward(stands_in)
        before = [other for each in self.uses for other in each]
        for k, use in enumerate(uses):
            if any(map(use.overlaps, [*before, *uses[:k]])):
                self.shared[use.base] = next(p for p in self.params if id(p) == use.base)
        self.sites.append(site)
        self.uses.append(uses)
        self.edges.append(get_gradient_edge(z))
        if self.decays:
            if not site.proportional:
                raise Unsupported("weight decay, and a layer not proportional to what is trained")
            self.decay.append(_Decaying(stands_in, z.detach(), z._version))
        return z

    @property
    def bytes(self) -> int:
        """What the second pass holds for all groups beyond an ordinary pass; after the forward."""
        shared = sum(2 * self.groups * p.nbytes for p in self.shared.values())
        return shared + sum(site.bytes for site in self.sites)

    def grads(self, loss: Tensor, retain_graph: bool = False) -> tuple[Tensor | None, ...]:
        """The gradients of the loss by each call's output.

        Weight gradients are not computed, since the stand-ins are not asked for. A parameter itself
        has none unless it came into the graph unseen.
        """
        wanted: list[Any] = [*self.params, *self.edges]
        grads = torch.autograd.grad(loss, wanted, allow_unused=True, retain_graph=retain_graph)
        if any(g is not None for g in grads[: len(self.params)]):
            past = [p for p, g in zip(self.params, grads, strict=False) if g is not None]
            refusal = Unsupported("a parameter that reaches the loss past torch's functions")
            raise self.located(refusal, past)
        for site, uses in zip(self.sites, self.uses, strict=True):
            if site.a._version != site.version:
                of = {use.base for use in uses}
                refusal = Unsupported("a layer's input that is changed in place")
                raise self.located(refusal, [p for p in self.params if id(p) in of])
        return grads[len(self.params) :]

    def backward(self, losses: Tensor, keep: bool = False) -> list[Tensor | None]:
        """Gives each site its g, the gradient of the summed losses by the call's output.

        Returns them if they are to be kept, else an empty list.
        """
        self.gradients = list(self.grads(losses.sum(), retain_graph=self.decays))
        kept = list(self.gradients) if keep else []
        self.unit = self.largest()
        for k, site in enumerate(self.sites):
            site.receive(self.gradients[k], self.unit)
            if not self.decays:  # nobody needs it any more, and it is large
                self.gradients[k] = None
        if not self.decays:
            self.edges.clear()
            del self.gradients
        return kept

    def largest(self) -> Tensor:
        """The largest |entry| of each group's g, (G,), as the unit in which they are squared.

        For the squares of the gradients of examples that are fitted well may underflow. With weight
        decay, which is the larger part there, it is 1.
        """
        largest = [torch.ones(self.groups, device=self.params[0].device)]
        if not self.decays:
            rows = [
                site.by_group(g).flatten(1)
                for site, g in zip(self.sites, self.gradients, strict=True)
                if g is not None and g.numel()
            ]
            largest = [g.abs().amax(1) for g in rows] or largest
        unit = _wide(reduce(torch.maximum, largest))
        return torch.where(unit > 0, unit, 1)

    def scales(
        self, losses: Tensor, *, rho: float, normalize: bool, weight_decay: float
    ) -> tuple[Tensor, Tensor]:
        """(s, c) of delta_G = s_G (sum over G of grad l_i) / unit_G + c_G w, after `backward`."""
        k = weight_decay * self.rows / self.groups
        norms = self.squared_norms(k)
        require_finite(losses, norms)
        s = Perturbation(rho, normalize=normalize).factor(norms.sqrt(), self.unit)
        s = s if normalize else s * (self.groups / self.rows)
        return s, s * k

    def squared_norms(self, k: float) -> Tensor:
        """||(k w + sum over the group of grad l_i) / unit||^2 over all parameters, shape (G,)."""
        device = self.params[0].device
        total = torch.zeros(self.groups, device=device)
        with torch.autocast(device.type, enabled=False), torch.no_grad():
            if k:
                total = (
                    total
                    + 2 * k * self.along_weights()
                    + k**2 * sum(_wide(p).square().sum() for p in self.params)
                )
            summed: dict[int, Tensor] = {}
            for site, uses in zip(self.sites, self.uses, strict=True):
                if not site.reached:
                    continue
                if not any(use.base in self.shared for use in uses):
                    total = total + site.squared_norms()
                    continue
                for use, grad in zip(uses, site.group_grads(), strict=True):
                    if use.base in self.shared:
                        whole = use.spread(grad, self.shared[use.base])
                        before = summed.get(use.base)
                        summed[use.base] = whole if before is None else before + whole
                    else:
                        total = total + squared(grad)
            for grad in summed.values():
                total = total + squared(grad)
            for site, uses in zip(self.sites, self.uses, strict=True):
                if summed.keys() & {use.base for use in uses}:
                    site.share(
                        [use.of(summed[use.base]) if use.base in summed else None for use in uses]
                    )
        return total.clamp(min=0)  # rounding, where weight decay balances the gradient

    def along_weights(self) -> Tensor:
        """<sum over the group of grad l_i, w> = sum of <g, z>, shape (G,)."""
        total = torch.zeros(self.groups, device=self.params[0].device)
        for site, g, first in zip(self.sites, self.gradients, self.decay, strict=True):
            if g is not None:
                z = first.z if first.z._version == first.version else site.forward(first.call)
                z = z - first.call.input if site.shifts else z
                products = site.by_group(site.learning(g.to(site.dtype)) * z.to(site.dtype))
                total = total + products.flatten(1).sum(1)
        return total

    def weighted_gradients(self, s: Tensor) -> list[Tensor | None]:
        """sum_G s_G sum over the group of grad l_i, for each parameter."""
        summed: dict[int, Tensor] = {}
        of = {id(p): p for p in self.params}
        for k, (g, first) in enumerate(zip(self.gradients, self.decay, strict=True)):
            if g is not None:
                stand_ins = [p for p in first.call.parameters if p is not None]
                weighted = (g * rows_of(s, g)).to(g.dtype)
                grads = torch.autograd.grad(self.edges[k], stand_ins, weighted, retain_graph=True)
                for use, grad in zip(self.uses[k], grads, strict=True):
                    whole = grad if use.view is None else use.spread(grad[None], of[use.base])[0]
                    before = summed.get(use.base)
                    summed[use.base] = whole if before is None else before + whole
        self.edges.clear()
        self.decay.clear()
        del self.gradients
        return [summed.get(id(p)) for p in self.params]


class _Again(_Intercept):
    """A pass after the recorded one, with the same calls; `shifts` are added to their outputs."""

    def __init__(self, record: Record, shifts: Mapping[int, Tensor]) -> None:
        super().__init__(record.model, record.params)
        self.positions, self.shifts, self.calls = iter(record.positions), shifts, count()

    def are_positions(self, tokens: Tensor) -> bool:
        return next(self.positions, False)

    def visit(self, call: Call, rule: type[Site]) -> Tensor:
        z, k = self.output(call, rule), next(self.calls)
        return z + self.shifts[k] if k in self.shifts else z

    @abstractmethod
    def output(self, call: Call, rule: type[Site]) -> Tensor: ...


class Inputs(_Again):
    """The first pass for one group alone, of which only each call's input is kept."""

    def __init__(self, record: Record, shifts: Mapping[int, Tensor]) -> None:
        super().__init__(record, shifts)
        self.inputs: list[Tensor] = []

    def output(self, call: Call, rule: type[Site]) -> Tensor:
        mine = [p is not None and use_of(p).base in self.ids for p in call.parameters]
        self.inputs.append(call.input.detach())
        return rule(call, (mine[0], mine[1]), 1).forward(call)


class Replay(_Again):
    """The second pass: the same calls, at each group's own weights (1 + c_G)(w + s_G ...).

    alone: for one group by itself, with s and c of shape (1,), what each site keeps of it.
    """

    def __init__(
        self,
        record: Record,
        s: Tensor,
        c: Tensor,
        alone: Sequence[dict[str, Tensor]] = (),
        shifts: Mapping[int, Tensor] | None = None,
    ) -> None:
        super().__init__(record, shifts or {})
        sites = [*map(Site.alone, record.sites, alone)] if alone else record.sites
        self.expected = iter(zip(sites, record.uses, strict=True))
        self.s, self.c = s / (1 + c), c if record.decays else None

    def output(self, call: Call, rule: type[Site]) -> Tensor:
        site, before = next(self.expected, (None, None))
        if site is None or before != [use_of(p) for p in self.among(call.parameters)]:
            raise Unsupported("a model that calls its layers differently in the second pass")
        if not (site.reached or site.shared):
            return site.forward(call)
        s = self.s.to(site.dtype)
        if self.c is None:
            return site.perturbed(call, s)
        # z is multiplied by 1 + c, and so is the gradient by the input, but not that by the weights
        a = call.input
        if site.shifts:
            z = site.perturbed(call, s)
            return z + (rows_of(self.c, z) * (z - a).detach()).to(z.dtype)
        if a.requires_grad:
            a = a + (rows_of(self.c, a) * (a - a.detach())).to(a.dtype)
        z = site.perturbed(replace(call, input=a), s)
        return z + (rows_of(self.c, z) * z.detach()).to(z.dtype)


@dataclass
class _Decaying:
    """A call of the first pass with stand-ins for its parameters, and its z as it was then."""

    call: Call
    z: Tensor
    version: int


def _wide(x: Tensor) -> Tensor:
    """x in float32 or more."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _caller() -> str:
    """The innermost forward of a module that is not torch's own, as " in GPT.forward"."""
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        owner, name = frame.f_locals.get("self"), frame.f_code.co_name
        own = isinstance(owner, nn.Module) and not type(owner).__module__.startswith("torch.")
        if own and name not in ("_call_impl", "_wrapped_call_impl", "__call__"):
            return f" in {type(owner).__qualname__}.{name}"
        frame = frame.f_back
    return ""


def _name(func: Callable) -> str:
    return getattr(func, "__name__", repr(func))


@contextmanager
def eager(model: nn.Module) -> Iterator[None]:
    """Compiled modules run uncompiled inside, so that their calls can be seen."""
    compiled = any(
        getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod")
        for module in model.modules()
    )
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield
