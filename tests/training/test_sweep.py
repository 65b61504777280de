import re

import numpy as np
import pytest
import torch

from samkit.training import MLP, Rule, gradients, train, train_one
from samkit.training.rules import Draws, direction
from samkit.training.sweep import _mean_over_groups

NET = MLP((4, 6, 3))
NETS = {"one hidden layer": NET, "three": MLP((4, 6, 5, 6, 3)), "none": MLP((4, 3))}
SHORT = dict(epochs=2, batch_size=8, dtype=torch.float64)
RULES = [
    Rule("ERM"),
    Rule("random", 0.5),
    Rule("m-SAM", 0.3),
    Rule("m-SAM", 0.3, 1),
    Rule("n-SAM", 0.3),
    Rule("m-SAM", 0.1, 2),
    Rule("random", 1.5),
    Rule("m-SAM", 0.3, 2),
]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(27, 4)), rng.integers(3, size=27)  # 27: the last 3 are left out


@pytest.fixture(scope="module")
def swept(data):
    return {name: train(net, *data, RULES, [5, 9], **SHORT) for name, net in NETS.items()}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("rule", range(len(RULES)), ids=lambda k: str(RULES[k]))
@pytest.mark.parametrize("seed", [0, 1])
def test_the_batched_twin_equals_the_specification(data, swept, net, rule, seed):
    expected = train_one(NETS[net], *data, RULES[rule], [5, 9][seed], **SHORT)
    torch.testing.assert_close(swept[net][rule, seed], expected, rtol=1e-10, atol=1e-12)


def test_rules_and_seeds_differ(swept):
    flat = swept["one hidden layer"].flatten(0, 1)
    apart = torch.cdist(flat, flat) + torch.eye(len(flat))
    assert apart.min() > 1e-4


def test_the_optimizer_is_torchs_sgd_with_momentum(data):
    x, y = torch.tensor(data[0]), torch.tensor(data[1])
    draws = Draws(NET, 3, torch.float64)
    w = draws.start.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for _ in range(2):
        order, _ = draws.orders(27)
        for k in range(3):
            rows = order[8 * k : 8 * k + 8]
            w.grad = gradients(NET, w, x[rows], y[rows])
            optimizer.step()
            schedule.step()
    torch.testing.assert_close(train_one(NET, *data, Rule("ERM"), 3, **SHORT), w.detach())


def test_the_extremes_of_m_and_of_rho(data):
    x, y = torch.tensor(data[0]), torch.tensor(data[1])
    draws = Draws(NET, 0, torch.float64)
    w, noise = draws.start, draws.noise()
    batch, other = (x[:8], y[:8]), (x[8:16], y[8:16])

    def d(rule, other=other):
        return direction(NET, rule, w, batch, other, noise)

    torch.testing.assert_close(d(Rule("m-SAM", 0.3)), d(Rule("m-SAM", 0.3, 8)))
    torch.testing.assert_close(d(Rule("n-SAM", 0.3), other=batch), d(Rule("m-SAM", 0.3)))
    for method in ("random", "m-SAM", "n-SAM"):
        torch.testing.assert_close(d(Rule(method, 0.0)), d(Rule("ERM")))
    by_example = [gradients(NET, w, x[i : i + 1], y[i : i + 1]) for i in range(8)]
    shifted = [
        gradients(NET, w + 0.3 * g / g.norm(), x[i : i + 1], y[i : i + 1])
        for i, g in enumerate(by_example)
    ]
    torch.testing.assert_close(d(Rule("m-SAM", 0.3, 1)), torch.stack(shifted).mean(0))


def test_rules_with_one_seed_share_start_and_batches(data):
    zero = train(NET, *data, [Rule("ERM"), Rule("n-SAM"), Rule("m-SAM", m=4)], [7], **SHORT)
    torch.testing.assert_close(zero[0], zero[1])
    torch.testing.assert_close(zero[0], zero[2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Rule("SAM", 0.1), "there are ERM, random, m-SAM, n-SAM"),
        (lambda: Rule("m-SAM", -1.0), "finite radius, 0 or larger"),
        (lambda: Rule("random", float("nan")), "finite radius"),
        (lambda: Rule("ERM", 0.1), "ERM does not perturb"),
        (lambda: Rule("n-SAM", 0.1, 4), "only m-SAM has groups"),
    ],
)
def test_a_rule_that_cannot_be(call, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("m", [0, 3, 16, 2.5])
def test_a_group_size_that_does_not_fill_the_batch(data, m):
    with pytest.raises(ValueError, match="divisor of batch_size=8"):
        train(NET, *data, [Rule("ERM"), Rule("m-SAM", 0.1, m)], [0], **SHORT)


def test_data_that_do_not_fit(data):
    x, y = data
    with pytest.raises(ValueError, match="no larger than the data"):
        train(NET, x, y, [Rule("ERM")], [0], batch_size=28)
    with pytest.raises(ValueError, match="one label per"):
        train(NET, x[:-1], y, [Rule("ERM")], [0], batch_size=8)
    with pytest.raises(ValueError, match="at least one rule"):
        train(NET, x, y, [], [0], batch_size=8)


def test_weights_that_stop_being_finite_stop_the_sweep_with_the_name_of_the_rule(data):
    x, y = data
    with pytest.raises(FloatingPointError, match=r"random.*rho=1e\+200.*seed 4.*lower rho"):
        train(NET, x, y, [Rule("random", 0.1), Rule("random", 1e200)], [4], **SHORT)


@pytest.mark.parametrize("m", [1, 2])
def test_a_fitted_group_is_perturbed_by_rho_although_squares_underflow(m):
    """A gradient of 1e-25 in float32, for the second logit alone: its squares are zero."""
    net, w, rho = MLP((1, 2)), torch.tensor([[29.0, -29.0, 0.0, 0.0]]), torch.tensor([[60.0]])
    x, y = torch.ones(1, 2, 1), torch.tensor([[0, 0]])
    assert 0 < gradients(net, w, x, y).abs().max() < 1e-20
    moved = w + rho * torch.tensor([[0.0, 0.5, 0.0, 0.5]]).sqrt()
    expected = gradients(net, moved, x, y)
    assert expected.abs().max() > 0.9
    torch.testing.assert_close(_mean_over_groups(net, w, x, y, rho, m), expected)
