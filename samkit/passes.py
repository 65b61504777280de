"""What the two passes of a SAM step share, each as a context manager.

SAM differentiates one function L at two points. So both passes see the same dropout masks, count
as one pass for the running statistics of BatchNorm, and the weights come back exactly.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook


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
        with torch.no_grad():
            if not _alike(self.spare, where):
                self.spare = [torch.empty_like(w) for w in where]
            way = swapped if swappable(where, some, scale) else in_place
            try:
                with way(where, some, scale, self.spare), torch.enable_grad():
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
    if weights:
        torch._foreach_copy_(spare, weights)
    try:
        if weights:
            _add(weights, deltas, scale)
        deltas.clear()  # nobody needs the moves any more, and they are large
        yield
    finally:
        if weights:
            torch._foreach_copy_(weights, spare)


@contextmanager
def swapped(
    weights: list[Tensor], deltas: list[Tensor], scale: Tensor | float, spare: list[Tensor]
) -> Iterator[None]:
    """spare <- w + scale * delta, which w points to until the end. Empties the list of deltas."""
    home = [w.data for w in weights]
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


def _add(weights: list[Tensor], deltas: list[Tensor], scale: Tensor | float) -> None:
    """weights += scale * deltas, in one pass where the scale is a number at hand."""
    if any(d.is_sparse for d in deltas):
        for w, d in zip(weights, deltas, strict=True):
            w.add_(d * scale)
    elif isinstance(scale, Tensor):
        torch._foreach_add_(weights, torch._foreach_mul(deltas, scale))
    else:
        torch._foreach_add_(weights, deltas, alpha=scale)


def total(tensors: Iterable[Tensor | None]) -> Tensor:
    """The sum of all entries, which is inf or nan if one of them is; no synchronization."""
    values = [t.coalesce().values() if t.is_sparse else t for t in tensors if t is not None]
    sums = [v.sum(dtype=torch.promote_types(v.dtype, torch.float32)) for v in values]
    return torch.stack([s.to(sums[-1].device) for s in sums]).sum() if sums else torch.zeros(())


def finite(tensors: Iterable[Tensor | None]) -> bool:
    """Whether no entry is inf or nan (one synchronization)."""
    return bool(torch.isfinite(total(tensors)))


class Noise:
    """The state of torch's random generators at one moment; `replay()` goes back to it.

    While a CUDA graph is recorded its device's generator has no state to go back to, and is left
    alone: record only steps without dropout.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.cuda = {t.device for t in tensors if t.is_cuda}
        if self.cuda and torch.cuda.is_current_stream_capturing():  # pragma: no cover, needs a GPU
            self.cuda = set()
        self.state = torch.get_rng_state()
        self.cuda_states = {d: torch.cuda.get_rng_state(d) for d in self.cuda}

    def replay(self) -> None:
        torch.set_rng_state(self.state)
        for device, state in self.cuda_states.items():  # pragma: no cover, needs a GPU
            torch.cuda.set_rng_state(state, device)


def tracked(modules: Iterable[nn.Module]) -> list[Tensor]:
    """The running statistics that a forward pass of these modules would change."""
    norms = {m for m in modules if isinstance(m, _NormBase) and m.training}
    return [b for m in norms for b in m.buffers(recurse=False)]


@contextmanager
def kept(buffers: Sequence[Tensor]) -> Iterator[None]:
    """Buffers are outside as they were before."""
    before = [b.clone() for b in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


@contextmanager
def modules_called() -> Iterator[list[nn.Module]]:
    """The modules whose forward runs inside, but for those that belong to another one of them."""
    roots: list[nn.Module] = []
    seen: set[nn.Module] = set()

    def note(module: nn.Module, _: object) -> None:
        # A compiled module is seen as a whole, by the call from outside.
        if not torch.compiler.is_compiling() and module not in seen:
            roots.append(module)
            seen.update(module.modules())

    handle = register_module_forward_pre_hook(note)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using `torch.compile.* global hooks")
            yield roots
    finally:
        handle.remove()
