"""Counting: the choice between the two forms of a product."""

from __future__ import annotations

import pytest

from samkit.msam import cost


@pytest.mark.parametrize(
    ("N", "p", "q", "patches", "gram"),
    [
        (1, 512, 512, False, True),  # an MLP at m = 1
        (16, 512, 512, False, True),
        (1024, 512, 512, False, False),
        (1024, 144, 16, True, False),  # the first stage of a ResNet
        (16, 4608, 512, True, True),  # the last stage of a ResNet-18 at m = 1
        (16 * 128, 4608, 512, True, False),
    ],
)
def test_form(N, p, q, patches, gram):
    assert cost.gram_is_cheaper(N, p, q, patches=patches) is gram


def test_large_groups_always_build_the_weights():
    chosen = [cost.gram_is_cheaper(N, 64, 64, patches=False) for N in range(1, 500)]
    assert chosen == sorted(chosen, reverse=True)  # once the weight form wins it stays so
    assert chosen[0]
    assert not chosen[-1]
