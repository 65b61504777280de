"""Several processes that train one network together, as torchrun starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """Which process this is, from 0, and how many there are; with one, nothing is exchanged."""

    index: int = 0
    count: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """The processes of torch.distributed's default group; one if there is none."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of a batch (b, ...): b / count consecutive examples."""
        return batch.tensor_split(self.count)[self.index]

    def from_first(self, value: Any) -> Any:
        """What process 0 has for ``value``, in all of them."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Puts the mean over the processes into each tensor."""
        if self.count == 1:
            return
        flat = torch.cat([t.flatten() for t in tensors]).div_(self.count)
        dist.all_reduce(flat)
        for t, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            t.copy_(mean.view_as(t))


@contextmanager
def joined() -> Iterator[Ranks]:
    """Connects the processes if torchrun has started this one: by NCCL on CUDA, by gloo without.

    Each gets a GPU of its own. After an error the connection is left as it is: the others may wait
    for this process in the middle of an exchange, and torchrun ends them.
    """
    if not dist.is_torchelastic_launched():
        yield Ranks()
        return
    cuda = torch.cuda.is_available()
    if cuda:  # pragma: no cover, needs a GPU
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    yield Ranks.here()
    dist.destroy_process_group()
