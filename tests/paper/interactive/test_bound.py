"""The PAC-Bayes bound in the page against samkit.theory.pac_bayes; its numbers against networks."""

import numpy as np
import pytest

from samkit.theory import pac_bayes
from tools import interactive as outside

NETWORK = outside._node(
    "import(process.argv[1]).then(m => console.log(JSON.stringify(m.NETWORK)))",
    (outside.interactive.ESM / "bound.mjs").as_uri(),
)
S, NOISY = np.transpose(NETWORK["levels"])


def bound(n, s=S, noisy=NOISY):
    known = {"k": NETWORK["size"], "delta": 0.05}
    return pac_bayes.random_bound(noisy, NETWORK["distance"], n=n, std=s, **known)


@pytest.mark.parametrize("n, s", [(1000, 10), (4000, 0.0631), (1_024_000, 0.01)])
def test_the_bound_at_every_noise(n, s):
    found = outside.computed("bound", {"n": n, "s": s})["result"]
    expected = bound(n)
    assert [level["bound"] for level in found["levels"]] == pytest.approx(expected, rel=1e-9)
    assert found["best"]["bound"] == pytest.approx(expected.min(), rel=1e-9)
    assert found["here"]["bound"] == pytest.approx(expected[list(S).index(s)], rel=1e-9)


@pytest.mark.parametrize("name, error", [("guessing", 0.9), ("test", NETWORK["test"])])
def test_the_number_of_examples_that_would_be_enough(name, error):
    found = outside.computed("bound", {"s": 0.02512})["result"]
    n, at = found["enough"][name], list(S).index(0.02512)
    assert bound(n)[at] < error <= bound(n - 1)[at]
    least = found["fewest"][name]["n"]
    assert bound(least).min() < error <= bound(least - 1).min()


def test_no_number_is_enough_where_noise_has_left_nothing():
    found = outside.computed("bound", {"s": 10})
    assert found["result"]["enough"]["guessing"] is None
    assert "no number is enough" in found["say"]["examples for less than guessing, at this s"]


@pytest.mark.parametrize(
    "state, words",
    [
        ({}, "promises nothing"),
        ({"n": 16000}, "better than guessing"),
        ({"n": 1_024_000, "s": 0.01}, "below"),
    ],
)
def test_the_words_say_what_the_bound_is_worth(state, words):
    assert words in outside.computed("bound", state)["tell"]


@pytest.mark.long
def test_the_numbers_are_those_of_networks():
    """Trained and disturbed again, with noise of another seed: to two hundredths."""
    import torch

    from samkit import Perturbation
    from samkit.data import load
    from samkit.training import MLP, errors, train_stack

    data, network = load("mnist1d"), MLP()
    part = torch.tensor(data.x), torch.tensor(data.y)
    kept = [
        train_stack(network, data.x, data.y, [Perturbation()], seeds=range(4), **changes)[0]
        for changes in ({}, {"epochs": 0})
    ]
    generator = torch.Generator().manual_seed(1)
    assert network.size == NETWORK["size"]
    distance = (kept[0] - kept[1]).norm(dim=1).mean().item()
    assert distance == pytest.approx(NETWORK["distance"], rel=0.02)
    for s, noisy in NETWORK["levels"][::3]:
        draws = [torch.randn(kept[0].shape, generator=generator) for _ in range(20)]
        found = np.mean([errors(network, kept[0] + s * z, *part).mean().item() for z in draws])
        assert found == pytest.approx(noisy, abs=0.02)
