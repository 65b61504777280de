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


@contextmanager
def moved(weights: Sequence[Tensor], deltas: Sequence[Tensor | None]) -> Iterator[None]:
    """weights + deltas inside; outside the weights bit for bit as before, also after an error."""
    where = [w for w, d in zip(weights, deltas, strict=True) if d is not None]
    some = [d for d in deltas if d is not None]
    with torch.no_grad():
        before = [w.clone() for w in where]
        try:
            if any(d.is_sparse for d in some):
                for w, d in zip(where, some, strict=True):
                    w.add_(d)
            elif some:
                torch._foreach_add_(where, some)
            some.clear()  # nobody needs the moves any more, and they are as large as the weights
            torch.clear_autocast_cache()
            with torch.enable_grad():
                yield
        finally:
            if where:
                torch._foreach_copy_(where, before)
            torch.clear_autocast_cache()


class Noise:
    """The state of torch's random generators at one moment; `replay()` goes back to it."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.cuda = {t.device for t in tensors if t.is_cuda}
        self.state = torch.get_rng_state()
        self.cuda_states = {d: torch.cuda.get_rng_state(d) for d in self.cuda}

    def replay(self) -> None:
        torch.set_rng_state(self.state)
        for device, state in self.cuda_states.items():
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
def modules_called() -> Iterator[set[nn.Module]]:
    """The modules whose forward runs inside, with all of their children."""
    seen: set[nn.Module] = set()

    def note(module: nn.Module, _: object) -> None:
        # A compiled module is seen as a whole, by the call from outside.
        if not torch.compiler.is_compiling() and module not in seen:
            seen.update(module.modules())

    handle = register_module_forward_pre_hook(note)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using `torch.compile.* global hooks")
            yield seen
    finally:
        handle.remove()
