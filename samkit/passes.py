"""What the two passes of a SAM step share, each as a context manager.

SAM differentiates one function L at two points. So both passes see the same dropout masks, count
as one pass for the running statistics of BatchNorm, and the weights come back exactly.
"""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves


class Moves:
    """Moves weights and puts them back, in memory that it keeps from one step to the next.

    What it does is written in `in_place`: remember w, add to it, copy back what was remembered.
    Where nobody but the parameter itself can know the address of a weight, `swapped` has the same
    values, bit for bit, at less than half the traffic: it writes w + delta into the spare memory,
    and lets the parameter point there until the pass is over.
    """

    def __init__(self) -> None:
        self.spare: list[Tensor] = []

    @contextmanager
    def __call__(
        self,
        weights: Sequence[Tensor],
        deltas: Sequence[Tensor | None],
        scale: Tensor | float = 1.0,
    ) -> Iterator[None]:
        """weights + scale * deltas inside; outside the weights bit for bit as before.

        None stands for a weight that stays. Also after an error the weights are as before.
        """
        where = [w for w, d in zip(weights, deltas, strict=True) if d is not None]
        some = [d for d in deltas if d is not None]
        del deltas  # this frame lives as long as the pass, and would keep them
        if isinstance(scale, Tensor) and scale.device.type == "cpu":
            scale = float(scale)
        if not _alike(self.spare, where):
            self.spare = [torch.empty_like(w) for w in where]
        way = swapped if swappable(where, some, scale) else in_place
        try:
            with way(where, some, scale, self.spare):
                torch.clear_autocast_cache()  # it holds casts of other weights
                yield
        finally:
            torch.clear_autocast_cache()


def swappable(weights: list[Tensor], deltas: list[Tensor], scale: Tensor | float) -> bool:
    """Whether `swapped` may stand for `in_place`.

    A weight may have to stay where it is: on a GPU because recorded kernels know its address, in a
    flat buffer because others read it there, in a subclass of Tensor because it points to more.
    """
    return isinstance(scale, float | int) and all(
        type(w) in (Tensor, nn.Parameter)
        and w.device.type == "cpu"
        and not d.is_sparse
        and w.untyped_storage().nbytes() == w.nbytes
        for w, d in zip(weights, deltas, strict=True)
    )


@contextmanager
def in_place(
    weights: list[Tensor], deltas: list[Tensor], scale: Tensor | float, spare: list[Tensor]
) -> Iterator[None]:
    """spare <- w, w <- w + scale * delta; in the end w <- spare. Empties the list of deltas."""
    _copy(spare, weights)
    try:
        _add(weights, deltas, scale)
        deltas.clear()  # nobody needs the moves any more, and they are large
        yield
    finally:
        _copy(weights, spare)


@contextmanager
def swapped(
    weights: list[Tensor], deltas: list[Tensor], scale: Tensor | float, spare: list[Tensor]
) -> Iterator[None]:
    """spare <- w + scale * delta, which w points to until the end. Empties the list of deltas."""
    home = [w.data for w in weights]
    with torch.no_grad():
        for w, s in zip(weights, spare, strict=True):
            torch.add(w, deltas.pop(0), alpha=float(scale), out=s)
    try:
        for w, s in zip(weights, spare, strict=True):
            w.data = s
        torch.autograd.graph.increment_version(weights)  # graphs of before are out of date
        yield
    finally:
        for w, h in zip(weights, home, strict=True):
            w.data = h
        torch.autograd.graph.increment_version(weights)


def _alike(buffers: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    """Whether each buffer can hold its weight."""
    return len(buffers) == len(weights) and all(
        b.shape == w.shape
        and b.stride() == w.stride()
        and b.dtype == w.dtype
        and b.device == w.device
        for b, w in zip(buffers, weights, strict=True)
    )


def _plain(tensors: Sequence[Tensor]) -> bool:
    """Whether torch's functions of lists take them: no sparse tensors, no DTensors; some at all."""
    return len(tensors) > 0 and all(
        type(t) in (Tensor, nn.Parameter) and not t.is_sparse for t in tensors
    )


@torch.no_grad()
def _copy(to: list[Tensor], of: list[Tensor]) -> None:
    if _plain(to):
        torch._foreach_copy_(to, of)
    else:
        for t, o in zip(to, of, strict=True):
            t.copy_(o)


@torch.no_grad()
def _add(weights: list[Tensor], deltas: list[Tensor], scale: Tensor | float) -> None:
    """weights += scale * deltas, in one pass where the scale is a number at hand."""
    if not isinstance(scale, Tensor) and _plain(weights) and _plain(deltas):
        torch._foreach_add_(weights, deltas, alpha=scale)
    elif len({d.device for d in deltas}) == 1 and _plain(weights) and _plain(deltas):
        torch._foreach_add_(weights, torch._foreach_mul(deltas, scale))
    else:
        for w, d in zip(weights, deltas, strict=True):
            w.add_(d * (scale.to(d.device) if isinstance(scale, Tensor) else scale))


def total(tensors: Iterable[Tensor | None]) -> Tensor:
    """The sum of all entries, which is inf or nan if one of them is; no synchronization.

    Of sharded tensors on all ranks, so that all of them come to the same result.
    """
    values = [t.coalesce().values() if t.is_sparse else t for t in tensors if t is not None]
    sums: list[Tensor] = []
    shards: dict[Any, list[Tensor]] = {}
    for v in values:
        here = shards.setdefault(v.device_mesh, []) if is_sharded(v) else sums
        v = v.to_local() if is_sharded(v) else v
        here.append(v.sum(dtype=torch.promote_types(v.dtype, torch.float32)))
    sums += [_over_ranks(_sum(some), mesh) for mesh, some in shards.items()]
    return _sum(sums)


def _sum(numbers: list[Tensor]) -> Tensor:
    """The sum of numbers on any devices, on the last one."""
    if not numbers:
        return torch.zeros(())
    return torch.stack([n.to(numbers[-1].device) for n in numbers]).sum()


def _over_ranks(number: Tensor, mesh: Any) -> Tensor:
    """The sum of every rank's number, one communication."""
    from torch.distributed.tensor import DTensor, Partial

    return DTensor.from_local(number, mesh, [Partial()] * mesh.ndim).full_tensor()


def is_sharded(t: Tensor) -> TypeGuard[Any]:
    """Whether a tensor is a DTensor, such as the parameters under FSDP2."""
    return hasattr(t, "device_mesh")


def finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether no entry is inf or nan (one synchronization)."""
    return bool(torch.isfinite(total(tensors)))


class RandomState:
    """The state of torch's random generators at one moment; `restore()` goes back to it.

    While a CUDA graph is recorded its device's generator has no state to go back to, and is left
    alone: record only steps without dropout.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.cuda = {t.device for t in tensors if t.is_cuda}
        if self.cuda and torch.cuda.is_current_stream_capturing():  # pragma: no cover, needs a GPU
            self.cuda = set()
        self.state = torch.get_rng_state()
        self.cuda_states = {d: torch.cuda.get_rng_state(d) for d in self.cuda}

    def untouched(self) -> bool:
        """Whether nothing was drawn since."""
        return torch.equal(self.state, torch.get_rng_state()) and all(
            torch.equal(state, torch.cuda.get_rng_state(d)) for d, state in self.cuda_states.items()
        )

    def restore(self) -> None:
        torch.set_rng_state(self.state)
        for device, state in self.cuda_states.items():  # pragma: no cover, needs a GPU
            torch.cuda.set_rng_state(state, device)


class State:
    """What a forward pass may change in modules beside p.grad, as it was when it was looked at.

    That is every buffer (running statistics, the vectors of spectral normalization, observers,
    codebooks) and every number that a module keeps as an attribute, such as a counter.
    """

    def __init__(self, roots: Iterable[nn.Module] = ()) -> None:
        self.roots: list[nn.Module] = []
        self._buffers: list[tuple[dict[str, Tensor | None], str, Tensor, Tensor]] = []
        self._numbers: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for root in roots:
            self.add(root)

    def add(self, root: nn.Module) -> None:
        """Looks at one more module and at those in it."""
        self.roots.append(root)
        for module in root.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None and not is_lazy(buffer):
                    self._buffers.append((module._buffers, name, buffer, buffer.detach().clone()))
            if not type(module).__module__.startswith("torch.nn."):  # those count nothing
                own = vars(module)
                numbers = {k: v for k, v in own.items() if type(v) in (bool, int, float)}
                self._numbers.append((own, numbers))

    def now(self) -> State:
        """The state in which the same modules are now."""
        return State(self.roots)

    def restore(self) -> None:
        """Puts the modules back into this state; the buffers stay the same tensors."""
        with torch.no_grad():
            for where, name, buffer, value in self._buffers:
                if buffer.shape == value.shape:
                    buffer.copy_(value)
                else:  # an observer's, at its first batch
                    buffer.data = value.clone()
                where[name] = buffer
        for own, numbers in self._numbers:
            own.update(numbers)


@contextmanager
def modules_called(model: nn.Module | None = None) -> Iterator[State]:
    """The modules whose forward runs inside, each with those in it, as they were before they ran.

    With a model, that one alone. ValueError at the end if the forward of one of them has changed
    its own input, and somebody still has that tensor: the next pass would begin with another one.
    """
    state = State()
    seen: set[nn.Module] = set()
    inputs: dict[nn.Module, list[tuple[Tensor, int]]] = {}
    changed: list[tuple[nn.Module, weakref.ref[Tensor], int]] = []

    def before(module: nn.Module, args: object) -> None:
        # A compiled module is seen as a whole, by the call from outside.
        if torch.compiler.is_compiling():
            return
        if module not in seen:
            state.add(module)
            seen.update(module.modules())
        if any(module is root for root in state.roots):
            some = [t for t in tree_leaves(args) if isinstance(t, Tensor) and not t.is_inference()]
            inputs[module] = [(t, t._version) for t in some if t.grad_fn is None]

    def after(module: nn.Module, _: object, __: object) -> None:
        if torch.compiler.is_compiling():
            return
        for t, version in inputs.pop(module, ()):
            if t._version != version:
                changed.append((module, weakref.ref(t), t._version))

    if model is None:
        handles = [register_module_forward_pre_hook(before), register_module_forward_hook(after)]
    elif is_compiled(model):  # hooks would have it compiled again
        state.add(model)
        handles = []
    else:
        state.add(model)
        seen.update(model.modules())
        handles = [model.register_forward_pre_hook(before), model.register_forward_hook(after)]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using `torch.compile.* global hooks")
            yield state
    finally:
        for handle in handles:
            handle.remove()
    inputs.clear()
    for module, ref, version in changed:
        if (t := ref()) is not None and t._version == version:
            raise ValueError(
                f"{type(module).__name__} changes its input, of shape {tuple(t.shape)}, in place, "
                "so a second pass would begin with another batch. Use inplace=False in its first "
                "layer, or call it with a copy, such as model(x.clone())"
            )


def is_compiled(model: nn.Module) -> bool:
    """Whether the module, or one in it, runs what torch.compile has made of it."""
    return any(
        m._compiled_call_impl is not None or type(m).__name__ == "OptimizedModule"
        for m in model.modules()
    )


def owners(weights: Iterable[Tensor], always: bool = False) -> list[nn.Module]:
    """The modules of this process that have one of these weights, each with all those in it.

    A search among all objects, for weights whose modules are not seen when they are called, as
    within a function that torch.compile has compiled; without `always` there are none if nothing
    was compiled.
    """
    ids = {id(w) for w in weights}
    dynamo = sys.modules.get("torch._dynamo.utils")
    if not ids or not (always or (dynamo is not None and dynamo.counters["frames"])):
        return []
    classes = _subclasses(nn.Module)
    modules = [m for m in gc.get_objects() if type(m) in classes]
    having = [m for m in modules if any(id(p) in ids for p in m.parameters())]
    inside = {id(part) for m in having for part in m.modules() if part is not m}
    return [m for m in having if id(m) not in inside]


def _subclasses(of: type) -> set[type]:
    classes: list[type] = of.__subclasses__()
    return {of}.union(*map(_subclasses, classes))
