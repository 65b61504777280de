"""One thread: the networks are tiny, and workers that share cores would wait for each other."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(params=["cpu", *["cuda"] * torch.cuda.is_available()])
def device(request) -> torch.device:
    """The CPU, and a GPU where there is one."""
    return torch.device(request.param)
