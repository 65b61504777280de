"""The companion to the paper: what the book needs and a stranger's training loop does not.

The library (everything beside this folder) never imports it; ``make lint`` holds that.

=====================  =========================================================================
``claims``             the ledger (``ledger.toml``): what the paper states, what a machine
                       measured, the verdict; ``python -m samkit check ID`` (``checking``)
``experiments``        the paper's experiments at three scales; ``python -m samkit list``, ``run``
``records``            finished runs on disk, with what they were run on
``published``          the paper's published numbers, with their source
``figures``            one style and one colour per method for every figure
``interactive``        figures that answer to the hand, in a page and in a notebook
``command_line``       ``python -m samkit``
=====================  =========================================================================
"""

from __future__ import annotations

from typing import Any

from samkit.errors import imported

_MODULES = ("claims", "experiments", "figures", "interactive", "published", "records")

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return imported(f"samkit.paper.{name}")
    raise AttributeError(f"module 'samkit.paper' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
