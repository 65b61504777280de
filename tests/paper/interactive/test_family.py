"""Every member's path through the valley, against samkit.SAM around torch's SGD."""

from functools import partial

import numpy as np
import pytest
import torch

from samkit import SAM, perturbation
from tools import interactive as outside

MEMBERS = {  # with the options of chapter 14
    "SAM": {},
    "the theory's SAM": dict(normalize=False),
    "ASAM": dict(adaptive=True),
    "GSAM": dict(combine=partial(perturbation.gsam, alpha=0.2)),
    "WSAM": dict(combine=partial(perturbation.wsam, gamma=0.8)),
    "LookSAM": dict(interval=5, reuse=0.2),
    "SAM in every other step": dict(interval=2),
    "SAM's step size alone": dict(step_size_only=True),
}


def descend(optimizer, start, steps):
    """The path of the weights, and how many gradients it took."""
    w = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    opt, taken, path = optimizer(torch.optim.SGD([w], lr=0.1)), 0, [start]

    def closure():
        nonlocal taken
        taken += 1
        opt.zero_grad()
        loss = (w.prod() - 1) ** 2 / 2
        loss.backward()
        return loss

    for _ in range(steps):
        opt.step(closure)
        path.append(w.tolist())
    return np.array(path), taken


def test_the_members_are_those_that_are_tested():
    (choice,) = (c for c in outside.controls("family") if c["name"] == "member")
    assert choice["options"] == [*MEMBERS]


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("state", [{}, {"rho": 0.3, "u": 1.3, "v": 0.0}])
def test_each_member_goes_where_samkit_goes(member, state):
    shown = outside.computed("family", state | {"member": member, "steps": 60})
    rho, start = shown["state"]["rho"], [shown["state"]["u"], shown["state"]["v"]]
    runs = {
        "own": descend(lambda base: SAM(base, rho=rho, **MEMBERS[member]), start, 60),
        "plain": descend(lambda base: base, start, 60),
    }
    for name, (path, taken) in runs.items():
        found = shown["result"][name]
        assert found["points"] == pytest.approx(path, rel=1e-9, abs=1e-9)
        assert found["gradients"] == taken


def test_what_the_chapter_says_of_the_members():
    def end(member, **state):
        u, v = outside.computed("family", {"member": member, **state})["result"]["own"]["points"][
            -1
        ]
        return u * u + v * v, (u * v - 1) ** 2 / 2

    plain = end("SAM", rho=0)[0]
    ends = {member: end(member)[0] for member in MEMBERS}
    assert ends["WSAM"] < ends["SAM"] < ends["LookSAM"] < ends["SAM in every other step"]
    assert abs(ends["GSAM"] - ends["SAM"]) < 0.1 < plain - ends["the theory's SAM"] < 0.2
    assert ends["SAM"] < ends["ASAM"] < plain - 0.3
    looksam = outside.computed("family", {"member": "LookSAM"})["result"]["own"]
    assert looksam["gradients"] == 240
    assert end("WSAM", rho=0.4)[1] > 0.4  # on the hill between the two valleys
