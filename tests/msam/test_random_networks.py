"""A few of the random networks; `python -m msam.random_networks` tries thousands."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from msam.random_networks import APART, LOSSES, MIXED, examine, networks


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks)
def test_networks_at_random(network):
    examine(**network)


@pytest.mark.parametrize("name", [*APART, *MIXED])
def test_each_step_by_itself(name):
    examine(["linear", name, "tanh"], "plain", 6, 2, 0.3, True, 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_each_loss(loss):
    examine(["linear", "tanh"], loss, 6, 1, 0.3, False, 0)


@pytest.mark.parametrize("name", [name for name in MIXED if "branch" in name])
def test_what_all_examples_decide_together_is_seen(name):
    """Each part of the batch may decide as the whole does, and one example alone may not."""
    for seed in range(3):
        examine(["linear", "twice", name], "plain", 16, 1, 0.05, True, seed)
