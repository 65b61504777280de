"""Numbers published by the paper's authors, each with its source, and how we know it."""

from __future__ import annotations

import json
from importlib.resources import files


def diagonal() -> dict:
    """The test losses that the authors' diagonal-network notebook stored as outputs.

    Keys: ``source``, ``step_size``, ``steps`` and ``runs``, a list of dicts with ``method`` ("gd",
    "n-sam", "1-sam"), ``init``, ``rho`` (as the authors write it) and ``test_loss``.

    >>> sorted(diagonal())
    ['runs', 'source', 'step_size', 'steps']
    """
    return json.loads((files(__package__) / "diagonal.json").read_text(encoding="utf-8"))
