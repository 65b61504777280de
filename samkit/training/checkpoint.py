"""The state of a training on disk: whole or not at all, and of one recipe, data set and network."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from samkit.training.recipe import Recipe


def belongs(recipe: Recipe, train: Sequence[Tensor], net: nn.Module) -> dict[str, str]:
    """What a checkpoint is of: the recipe, the training set, the network's names and shapes."""
    digest = hashlib.sha256()
    for part in train:
        digest.update(f"{part.dtype} {tuple(part.shape)} ".encode())
        digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    shapes = {name: list(value.shape) for name, value in net.state_dict().items()}
    return {
        "recipe": json.dumps(asdict(recipe), sort_keys=True),
        "training set": digest.hexdigest(),
        "network": json.dumps(shapes),
    }


def read(path: Path) -> dict[str, Any]:
    """The checkpoint in that file; ValueError that says what to do if it is none, or damaged."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict):
            return state
        reason = f"it holds a {type(state).__name__}"
    except OSError:
        raise
    except Exception as error:  # torch has no one type for files that are not whole
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise ValueError(
        f"{path} is damaged or no checkpoint ({reason}): delete it to start from the beginning"
    )


def write(path: Path, state: dict[str, Any]) -> None:
    """Whole or not at all: an interruption leaves the file of before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.part")
    torch.save(state, temporary)
    os.replace(temporary, path)
