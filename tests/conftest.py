"""One thread: the networks are tiny, and workers that share cores would wait for each other."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
