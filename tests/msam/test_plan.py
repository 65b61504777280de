"""The choice between loop and ghost, and what a plan is kept for."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import pytest
import torch
from msam.networks import GHOST, build, losses, tied, two
from oracle import dense, grads, relative
from torch import nn

from samkit import Unsupported, msam_grad
from samkit.msam import plan as plans
from samkit.msam.plan import Times


def played(seconds: dict[str, float], monkeypatch) -> list[str]:
    """The methods of 20 calls of all sizes if each takes the seconds given for a unit of size."""
    clock = [0.0]
    monkeypatch.setattr(plans, "perf_counter", lambda: clock[0])
    times, methods = Times(torch.device("cpu")), []
    for call in range(20):
        size = 1 + call % 7
        with times.choose(size) as method:
            clock[0] += size * seconds[method]
        methods.append(method)
    return methods


@pytest.mark.parametrize(
    ("ghost", "loop", "best", "trials"),
    [
        (1.0, 50.0, "ghost", 4),
        (9.0, 1.0, "loop", 4),
        (1.0, 1.6, "ghost", 4),
        (1.0, 1.4, "ghost", 10),
        (1.1, 1.0, "loop", 10),
        (5.0, 5.5, "ghost", 10),
    ],
)
def test_the_faster_one_is_found_soon(ghost, loop, best, trials, monkeypatch):
    methods = played({"ghost": ghost, "loop": loop}, monkeypatch)
    assert methods == (["ghost", "loop"] * 5)[:trials] + [best] * (20 - trials)


def test_what_is_refused_is_never_tried_and_the_user_told_once(monkeypatch):
    net, x, y = build((tied, GHOST["mlp"][1]))
    monkeypatch.setattr(Times, "choose", None)
    with pytest.warns(UserWarning, match="each of 4 groups.*used twice") as told:
        for b in (12, 12, 10):  # also of another shape
            msam_grad(net, losses, x[:b], y[:b], rho=0.1, m=3)
    assert [w.filename for w in told] == [__file__]
    with warnings.catch_warnings(action="error"):
        msam_grad(net, losses, x, y, rho=0.1, m=3, method="loop")
        msam_grad(net, losses, x, y, rho=0.1)


def test_a_call_that_fails_does_not_count():
    times = Times(torch.device("cpu"))
    with pytest.raises(KeyError), times.choose(1):
        raise KeyError
    assert times.calls == 0


@pytest.fixture
def proofs(monkeypatch) -> list[int]:
    """The m of every proof, none of which is made."""
    made = []
    monkeypatch.setattr(plans, "prove", lambda *_, **k: made.append(k["m"]) or 0)
    return made


def test_one_plan_for_each_shape_and_mode(proofs):
    net, x, y = build(GHOST["mlp"])
    for b, m, train in [(12, 3, True), (12, 4, True), (8, 4, True), (12, 3, False)]:
        net.train(train)
        msam_grad(net, losses, x[:b], y[:b], rho=0.1, m=m, method="ghost")
    assert proofs == [3, 4, 4, 3]


def test_proven_again_at_the_calls_1_2_4_8(proofs):
    net, x, y = build(GHOST["mlp"])
    proven = []
    for call in range(1, 17):
        msam_grad(net, losses, x, y, rho=0.1, m=3, method="ghost")
        if len(proofs) > len(proven):
            proven.append(call)
    assert proven == [1, 2, 4, 8, 16]


def test_where_the_loop_is_faster_there_is_nothing_to_prove(proofs, monkeypatch):
    net, x, y = build(GHOST["mlp"])
    monkeypatch.setattr(Times, "standing", lambda _: ("loop", True))
    for _ in range(4):
        msam_grad(net, losses, x, y, rho=0.1, m=3)
    assert len(proofs) == 1


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
    for _ in range(3):  # a proof of the other one is due at the next call only
        msam_grad(net, plain, x, y, rho=0.3, m=3, method="ghost")
    with pytest.raises(Unsupported, match="depends on another one"):
        msam_grad(net, mixed, x, y, rho=0.3, m=3, method="ghost")
    net.zero_grad()
    msam_grad(net, plain, x, y, rho=0.3, m=3, method="ghost")  # is not refused for it
    assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=3)) < 1e-12


@pytest.mark.parametrize("name", ["closure", "default", "nested", "partial"])
def test_a_loss_may_be_written_in_the_loop(name, proofs):
    net, x, y = build(GHOST["mlp"])
    for _ in range(3):
        msam_grad(net, LOSSES[name](0.0), x, y, rho=0.3, m=3, method="ghost")
    assert len(proofs) == 2  # those of the calls 1 and 2


def test_a_loss_that_closes_over_itself_and_over_tensors(proofs):
    net, x, y = build(GHOST["mlp"])

    def made(weights):
        def loss_fn(z, y, again=True):
            return loss_fn(z, y, False) if again else losses(z, y) * weights

        return loss_fn

    for _ in range(3):
        msam_grad(net, made(torch.rand(12)), x, y, rho=0.3, m=3, method="ghost")
    assert len(proofs) == 2


def test_an_object_is_known_as_long_as_it_lives():
    first, second = Loss(), Loss()
    assert plans._contents(first) == plans._contents(first) != plans._contents(second)
    key = plans._contents(first)
    assert key == key
    del first
    assert key != plans._contents(Loss())
    assert plans._contents(print) == plans._contents(print)


@pytest.mark.parametrize("method", ["ghost", "auto"])
def test_a_mixing_that_begins_later_is_found(method):
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
        with pytest.raises(Unsupported, match="depends on another one"):
            msam_grad(net, losses, x, y, rho=0.3, m=3, method=method)
    else:
        with pytest.warns(match="depends on another one"):
            msam_grad(net, losses, x, y, rho=0.3, m=3)
        assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=3)) < 1e-12


def test_rows_in_an_order_of_their_own_although_the_first_batch_is_sorted():
    def how(s, x):
        order = x[:, 0].argsort()
        return s.b(torch.empty_like(x).index_copy(0, order, s.a(x[order])))

    net, x, y = two(how)().double(), torch.randn(12, 7).double(), torch.randint(5, (12,))
    x[:, 0] = torch.arange(12)
    with pytest.raises(Unsupported, match="depends on another one"):
        msam_grad(net, losses, x, y, rho=0.3, m=3, method="ghost")


def lengths(net: nn.Module, T: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(12, T, 7).double(), torch.randint(5, (12,))


def test_timings_serve_all_lengths(monkeypatch):
    net = two(lambda s, x: s.b(s.a(x)).mean(1))().double()
    tried = []
    choose = Times.choose
    monkeypatch.setattr(Times, "choose", lambda self, n: tried.append(self) or choose(self, n))
    for T in range(1, 12):
        msam_grad(net, losses, *lengths(net, T), rho=0.3, m=3)
    assert len(set(tried)) == 1
    assert tried[0].standing()[1]
    assert len(plans._PLANS[net].plans) == 11


def test_only_so_many_plans_are_kept(proofs, monkeypatch):
    net = two(lambda s, x: s.b(s.a(x)).mean(1))().double()
    monkeypatch.setattr(plans, "KEPT", 3)
    for T in (1, 2, 3, 1, 4, 1, 2):
        msam_grad(net, losses, *lengths(net, T), rho=0.3, m=3, method="ghost")
        assert len(plans._PLANS[net].plans) <= 3
    # 1 2 3, 1 again (call 2), 4 (drops 2), 1 (call 3), 2 anew
    assert len(proofs) == 6


def test_plans_die_with_the_model():
    net, x, y = build(GHOST["mlp"])
    msam_grad(net, losses, x, y, rho=0.1, m=3)
    before = len(plans._PLANS)
    del net
    assert len(plans._PLANS) < before
