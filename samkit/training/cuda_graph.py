"""A training step as a CUDA graph: the device plays its passes without waiting for Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.backends import cudnn
from torch.nn.modules.dropout import _DropoutNd

Examples = tuple[Tensor, Tensor]
Gradient = Callable[[Examples, Examples | None], Tensor]


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:  # pragma: no cover, needs a GPU
    """A stream that is not the default one, for recording, and the fastest convolutions on it."""
    before, own = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    benchmark, cudnn.benchmark = cudnn.benchmark, not cudnn.deterministic
    own.wait_stream(before)
    try:
        with torch.cuda.stream(own):
            yield
    finally:
        before.wait_stream(own)
        cudnn.benchmark = benchmark


class Recorded:
    """The passes of a step as a CUDA graph: the device plays them without waiting for Python.

    The first calls are plain ones, which warm up; the next one is recorded. The loss that a call
    returns, and the gradients it leaves in p.grad, are overwritten by the next.
    """

    WARM_UP = 3

    def __init__(self, passes: Gradient) -> None:
        self.passes, self.calls, self.loss = passes, 0, torch.empty(())
        self.graph, self.inputs = torch.cuda.CUDAGraph(), list[Tensor]()

    def __call__(self, batch: Examples, other: Examples | None) -> Tensor:
        self.calls += 1
        if self.calls <= self.WARM_UP:
            return self.passes(batch, other)
        examples = [*batch, *(other or ())]
        if not self.inputs:
            self._record(examples)
        torch._foreach_copy_(self.inputs, examples)
        self.graph.replay()
        return self.loss

    def _record(self, examples: list[Tensor]) -> None:
        self.inputs = [part.clone() for part in examples]
        (x, y), rest = self.inputs[:2], self.inputs[2:]
        other = (rest[0], rest[1]) if rest else None
        with torch.cuda.graph(self.graph, stream=torch.cuda.current_stream()):
            self.loss = self.passes((x, y), other)


def has_dropout(net: nn.Module) -> bool:
    """Whether the network has dropout: its masks are not those of both passes in a recording."""
    return any(isinstance(module, _DropoutNd) for module in net.modules())
