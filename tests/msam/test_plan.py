"""The choice between loop and ghost."""

from __future__ import annotations

import pytest
import torch
from msam.networks import GHOST, build, losses

from samkit import msam_grad
from samkit.msam import plan as plans
from samkit.msam.plan import Plan


def played(seconds: dict[str, float], monkeypatch) -> tuple[list[str], Plan]:
    """The methods of 20 calls if each takes the seconds given."""
    clock = [0.0]
    monkeypatch.setattr(plans, "perf_counter", lambda: clock[0])
    plan, methods = Plan(torch.device("cpu")), []
    for _ in range(20):
        with plan.choose() as method:
            clock[0] += seconds[method]
        methods.append(method)
    return methods, plan


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
    methods, _ = played({"ghost": ghost, "loop": loop}, monkeypatch)
    assert methods == (["ghost", "loop"] * 5)[:trials] + [best] * (20 - trials)


def test_what_is_refused_is_never_tried():
    plan = Plan(torch.device("cpu"), refused="why not")
    with plan.choose() as method:
        assert method == "loop"


def test_a_call_that_fails_does_not_count():
    plan = Plan(torch.device("cpu"))
    with pytest.raises(KeyError), plan.choose():
        raise KeyError
    assert plan.calls == 0


def test_one_plan_for_each_shape_and_mode(monkeypatch):
    net, x, y = build(GHOST["mlp"])
    proofs = []
    monkeypatch.setattr(plans, "prove", lambda *_, **k: proofs.append(k["m"]) or 0)
    for b, m, train in [(12, 3, True), (12, 3, True), (12, 4, True), (8, 4, True), (12, 3, False)]:
        net.train(train)
        msam_grad(net, losses, x[:b], y[:b], rho=0.1, m=m)
    assert proofs == [3, 4, 4, 3]


def test_plans_die_with_the_model():
    net, x, y = build(GHOST["mlp"])
    msam_grad(net, losses, x, y, rho=0.1, m=3)
    before = len(plans._PLANS)
    del net
    assert len(plans._PLANS) < before
