"""What is kept of earlier calls, when checks are made, and the choice between loop and ghost."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import pytest
import torch
from msam.networks import GHOST, LOOP, build, losses, two
from oracle import dense, grads, relative
from torch import nn

from samkit import Unsupported, msam_grad
from samkit.msam import plan as plans
from samkit.msam.plan import Plan, Seconds


@pytest.mark.parametrize(
    ("fast", "loop", "faster"),
    [
        ([1.0], [0.1], False),  # the first check warms up
        ([9.0, 1.0], [9.0, 1.5], False),
        ([9.0, 2.0], [9.0, 1.5], True),
        ([9.0, 2.0, 1.0], [9.0, 1.5, 1.5], False),  # the first of the two was a slow moment
    ],
)
def test_the_loop_is_taken_where_it_is_faster(fast, loop, faster):
    plan = Plan(seconds=[Seconds(*pair) for pair in zip(fast, loop, strict=True)])
    assert plan.loop_is_faster == faster


@pytest.fixture
def checks(monkeypatch) -> list[tuple[int, int]]:
    """(m, level) of every check, none of which is made."""
    made = []

    def check(paths, batch, m, *, level, seed):
        made.append((m, level))
        paths.bytes = 1
        return 1000.0

    monkeypatch.setattr(plans, "check", check)
    return made


@pytest.mark.parametrize("method", ["ghost", "auto"])
def test_checked_at_the_calls_1_2_4_8_and_every_so_often(method, checks, monkeypatch):
    monkeypatch.setattr(plans, "EVERY", 10)
    net, x, y = build(GHOST["mlp"])
    due = []
    for call in range(1, 32):
        before = len(checks)
        msam_grad(net, losses, x, y, rho=0.1, m=3, method=method)
        if len(checks) > before:
            due.append((call, checks[-1][1]))
    assert due == [(1, 2), (2, 1), (4, 1), (8, 1), (10, 1), (16, 1), (20, 1), (30, 1)]


def test_a_new_shape_is_looked_at_and_a_new_mode_or_m_checked(checks):
    net, x, y = build(GHOST["mlp"])
    for b, m, train in [(12, 3, True), (12, 3, True), (8, 3, True), (8, 3, True), (12, 4, True)]:
        net.train(train)
        msam_grad(net, losses, x[:b], y[:b], rho=0.1, m=m, method="ghost")
    net.eval()
    msam_grad(net, losses, x, y, rho=0.1, m=3, method="ghost")
    msam_grad(net, losses, x, y, rho=0.1, m=3, method="ghost", normalize=False)
    assert checks == [(3, 2), (3, 1), (3, 0), (3, 1), (4, 2), (3, 2), (3, 2)]


def test_where_the_loop_is_faster_it_is_taken_and_there_is_nothing_to_check(checks, monkeypatch):
    net, x, y = build(GHOST["mlp"])
    monkeypatch.setattr(Plan, "loop_is_faster", True)
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(20):
        msam_grad(net, losses, x, y, rho=0.1, m=3)
    # two passes for each of four groups; but the fast path where it is timed, after a check
    assert len(calls) == (20 - plans.TRIALS) * 2 * 4 + plans.TRIALS * 2
    assert len(checks) == plans.TRIALS


def test_who_names_the_fast_path_has_it_checked_also_where_the_loop_is_faster(checks, monkeypatch):
    net, x, y = build(GHOST["mlp"])
    monkeypatch.setattr(Plan, "loop_is_faster", True)
    for _ in range(32):
        msam_grad(net, losses, x, y, rho=0.1, m=3, method="ghost")
    assert len(checks) == 6  # at the calls 1, 2, 4, 8, 16, 32


def test_what_is_refused_is_never_tried_again_and_the_user_warned_once(monkeypatch):
    net, x, y = build(LOOP["weight norm"])
    with pytest.warns(UserWarning, match="each of 4 groups.*no rule for _weight_norm") as warned:
        msam_grad(net, losses, x, y, rho=0.1, m=3)
        monkeypatch.setattr(Plan, "run", None)
        for b in (12, 10):  # also of another shape
            msam_grad(net, losses, x[:b], y[:b], rho=0.1, m=3)
    assert [w.filename for w in warned] == [__file__]
    with warnings.catch_warnings(action="error"):
        msam_grad(net, losses, x, y, rho=0.1, m=3, method="loop")
        msam_grad(net, losses, x, y, rho=0.1)


class Loss:
    def __init__(self, mix: float = 0.0) -> None:
        self.mix = mix

    def __call__(self, z, y):
        return losses(z, y) * (1 + self.mix * z.mean())

    method = __call__


def mixing(z, y, mix=0.0):
    return losses(z, y) * (1 + mix * z.mean())


def closure(mix: float) -> Callable:
    return lambda z, y: losses(z, y) * (1 + mix * z.mean())


def default(mix: float) -> Callable:
    return lambda z, y, mix=mix: losses(z, y) * (1 + mix * z.mean())


def nested(mix: float) -> Callable:
    options = {"mix": [mix]}
    return lambda z, y: losses(z, y) * (1 + options["mix"][0] * z.mean())


#: from a number to a loss; with 0 examples do not mix
LOSSES = {
    "closure": closure,
    "default": default,
    "nested": nested,
    "partial": lambda mix: functools.partial(mixing, mix=mix),
    "object": Loss,
    "method": lambda mix: Loss(mix).method,
    "partial of a closure": lambda mix: functools.partial(closure(mix)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_with_other_contents_is_another_loss(name):
    net, x, y = build(GHOST["mlp"])
    plain, mixed = LOSSES[name](0.0), LOSSES[name](0.5)
    for _ in range(4):  # a check of the other one is due in four calls only
        msam_grad(net, plain, x, y, rho=0.3, m=3, method="ghost")
    with pytest.raises(Unsupported, match="depends on other ones"):
        msam_grad(net, mixed, x, y, rho=0.3, m=3, method="ghost")
    net.zero_grad()
    msam_grad(net, plain, x, y, rho=0.3, m=3, method="ghost")  # is not refused for it
    assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=3)) < 1e-12


@pytest.mark.parametrize("name", ["closure", "default", "nested", "partial"])
def test_a_loss_may_be_written_in_the_loop_and_its_coefficients_may_change(name, checks):
    net, x, y = build(GHOST["mlp"])
    for step in range(3):
        msam_grad(net, LOSSES[name](0.1 * (1 + step)), x, y, rho=0.3, m=3, method="ghost")
    assert len(checks) == 2  # those of the calls 1 and 2


def test_a_loss_that_closes_over_itself_and_over_tensors(checks):
    net, x, y = build(GHOST["mlp"])

    def made(weights):
        def loss_fn(z, y, again=True):
            return loss_fn(z, y, False) if again else losses(z, y) * weights

        return loss_fn

    for _ in range(3):
        msam_grad(net, made(torch.rand(12)), x, y, rho=0.3, m=3, method="ghost")
    assert len(checks) == 2


def test_an_object_is_known_as_long_as_it_lives():
    first, second = Loss(), Loss()
    assert plans._contents(first) == plans._contents(first) != plans._contents(second)
    key = plans._contents(first)
    assert key == key
    del first
    assert key != plans._contents(Loss())
    assert plans._contents(print) == plans._contents(print)


@pytest.mark.parametrize("method", ["ghost", "auto"])
def test_a_mixing_that_begins_later_is_seen(method):
    def how(s, x):
        z = s.a(x)
        return s.b(z - z.mean(0) if s.mix else z)

    net, x, y = two(how)().double(), torch.randn(12, 7).double(), torch.randint(5, (12,))
    net.mix = False
    for _ in range(3):
        msam_grad(net, losses, x, y, rho=0.3, m=3, method=method)
    net.mix = True
    net.zero_grad()
    if method == "ghost":
        with pytest.raises(Unsupported, match="depends on other ones"):
            msam_grad(net, losses, x, y, rho=0.3, m=3, method=method)
    else:
        with pytest.warns(match="depends on other ones"):
            msam_grad(net, losses, x, y, rho=0.3, m=3)
        assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=3)) < 1e-12


def lengths(net: nn.Module, T: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(12, T, 7).double(), torch.randint(5, (12,))


def test_only_so_many_shapes_and_signatures_are_kept(checks, monkeypatch):
    net = two(lambda s, x: s.b(s.a(x)).mean(1))().double()
    monkeypatch.setattr(plans, "KEPT", 3)
    for T in (1, 2, 3, 4, 5, 6, 3, 4):
        msam_grad(net, losses, *lengths(net, T), rho=0.3, m=3, method="ghost")
        (plan,) = plans._PLANS[net].values()
        assert len(plan.bytes) <= 3
    assert [level for _, level in checks] == [2, 1, 0, 1, 0, 0, 0, 1]  # 3 had been dropped
    for m in (1, 2, 3, 4, 5):
        msam_grad(net, losses, *lengths(net, 1), rho=0.3, m=m, method="ghost")
        assert len(plans._PLANS[net]) <= 3


def test_plans_die_with_the_model():
    net, x, y = build(GHOST["mlp"])
    msam_grad(net, losses, x, y, rho=0.1, m=3)
    before = len(plans._PLANS)
    del net
    assert len(plans._PLANS) < before
