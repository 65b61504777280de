"""The table of the chapter on optimizers that compares SAM's implementations, cell by cell.

`usual` is the two-step class as it is in use, after davda54's, which is no package: written here
anew, from its description.
"""

from __future__ import annotations

import copy
from functools import partial

import jax
import numpy as np
import optax
import pytest
import pytorch_optimizer
import torch
import torch.nn.functional as F
from frameworks.recipes import CHAPTER, LR, RHO, batches, gap, net_of, trained
from oracle import dense, grads, relative
from torch import nn

from samkit import SAM, NonFinite, msam_grad, perturbation

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]
jax.config.update("jax_enable_x64", True)


class Usual(torch.optim.Optimizer):
    """w + rho g / (||g|| + 1e-12) and back, around a base optimizer made of a class."""

    def __init__(self, params, base_optimizer, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base = base_optimizer(self.param_groups, **options)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def first_step(self, zero_grad=False):
        some = [p for g in self.param_groups for p in g["params"] if p.grad is not None]
        length = torch.stack([p.grad.norm() for p in some]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.state[p]["home"] = p.clone()
                    p.add_(p.grad * (group["rho"] / (length + 1e-12)))
        if zero_grad:
            self.zero_grad()

    @torch.no_grad()
    def second_step(self, zero_grad=False):
        for p, state in self.state.items():
            p.copy_(state["home"])
        self.base.step()
        if zero_grad:
            self.zero_grad()


def loss_of(net, x, y):
    return F.cross_entropy(net(x), y)


def samkit_step(opt, net, x, y):
    def closure():
        opt.zero_grad()
        loss = loss_of(net, x, y)
        loss.backward()
        return loss

    opt.step(closure)


def two_steps(opt, net, x, y):
    loss_of(net, x, y).backward()
    opt.first_step(zero_grad=True)
    loss_of(net, x, y).backward()
    opt.second_step(zero_grad=True)


#: name -> (how an optimizer is made, how it takes a step)
TORCH = {
    "samkit": (lambda p, **o: SAM(p, torch.optim.SGD, rho=RHO, **o), samkit_step),
    "pytorch_optimizer": (
        lambda p, **o: pytorch_optimizer.SAM(p, torch.optim.SGD, rho=RHO, **o),
        two_steps,
    ),
    "usual": (lambda p, **o: Usual(p, torch.optim.SGD, rho=RHO, **o), two_steps),
}


def optax_sam(lr=LR, **options):
    climb = optax.chain(optax.contrib.normalize(), optax.sgd(RHO))
    options = {"opaque_mode": True} | options
    return optax.contrib.sam(optax.sgd(lr), climb, **options)


def optax_trained(data, **options):
    """The same network by JAX: weights as a list of arrays."""
    w = [p.detach().numpy() for p in net_of().parameters()]

    def loss(w, x, y):
        z = jax.numpy.tanh(x @ w[0].T + w[1]) @ w[2].T + w[3]
        return optax.softmax_cross_entropy_with_integer_labels(z, y).mean()

    opt = optax_sam(**options)
    state = opt.init(w)
    for x, y in data:
        x, y = x.numpy(), y.numpy()

        def gradient(w, _, x=x, y=y):
            return jax.grad(loss)(w, x, y)

        updates, state = opt.update(gradient(w, 0), state, w, grad_fn=gradient)
        w = optax.apply_updates(w, updates)
    net = net_of()
    for p, v in zip(net.parameters(), w, strict=True):
        p.data = torch.from_numpy(np.array(v))
    return net


def torch_trained(name, data, net=None, opt=None, **options):
    make, step = TORCH[name]
    net = net or net_of()
    opt = opt or make(net.parameters(), **{"lr": LR} | options)
    for x, y in data:
        step(opt, net, x, y)
    return net


def is_the_definition(name):
    data = batches()
    net = optax_trained(data) if name == "optax" else torch_trained(name, data)
    return gap(net, trained(data)) < 1e-8


def comes_back_exactly(name):
    data = batches(1)
    net = optax_trained(data, lr=0.0) if name == "optax" else torch_trained(name, data, lr=0.0)
    return gap(net, net_of()) == 0


def has_one_mask(name):
    """Whether both passes of a step see the same dropout mask."""
    masks = []
    net = nn.Sequential(nn.Linear(4, 40), nn.Dropout(0.5), nn.Linear(40, 3)).double()
    net[1].register_forward_hook(lambda m, i, z: masks.append(z == 0))
    torch_trained(name, batches(1), net)
    return torch.equal(*masks)


def counts_once(name):
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    torch_trained(name, batches(5), net)
    return int(net[1].num_batches_tracked) == 5


def refuses_inf(name):
    """Whether the weights are as before a step whose first gradient is inf."""
    data = [(x * float("inf"), y) for x, y in batches(1)]
    if name == "optax":
        return gap(optax_trained(data), net_of()) == 0
    net = net_of()
    try:
        torch_trained(name, data, net)
    except NonFinite:
        pass
    return gap(net, net_of()) == 0


def skips_an_overflow(name):
    """Whether an overflow in the first pass alone is a step that the GradScaler skips."""
    net, scaler, calls = net_of(), torch.amp.GradScaler("cpu", init_scale=4.0), []
    opt = TORCH[name][0](net.parameters(), lr=LR)
    ((x, y),) = batches(1)

    def backward():
        calls.append(0)
        scaler.scale(loss_of(net, x * (float("inf") if len(calls) == 1 else 1), y)).backward()

    def closure():
        opt.zero_grad()
        backward()

    if name == "samkit":
        opt.step(closure, scaler=scaler)
    else:
        backward()
        scaler.unscale_(opt)
        opt.first_step(zero_grad=True)
        scaler.update()
        backward()
        scaler.unscale_(opt)
        opt.second_step(zero_grad=True)
    scaler.update()
    return gap(net, net_of()) == 0


def resumes(name):
    """Bit for bit, with momentum, from state_dict and load_state_dict of the optimizer alone."""
    make, data = TORCH[name][0], batches(6)
    net = net_of()
    opt = make(net.parameters(), lr=LR, momentum=0.9)
    torch_trained(name, data[:3], net, opt)
    again = copy.deepcopy(net)
    other = make(again.parameters(), lr=LR, momentum=0.9)
    other.load_state_dict(copy.deepcopy(opt.state_dict()))
    torch_trained(name, data[3:], net, opt)
    torch_trained(name, data[3:], again, other)
    return gap(net, again) == 0


def has_several_steps(name):
    """Three steps of ascent, each as long as rho."""
    if name == "optax":
        return gap(optax_trained(batches(1), sync_period=4), optax_trained(batches(1))) > 1e-6
    try:
        net = torch_trained(name, batches(1), ascent_steps=3)
    except TypeError:
        return False
    return gap(net, torch_trained(name, batches(1))) > 1e-6


def has_m(name):
    """A gradient of m-SAM for every m: of the packages only one has a function for it."""
    if name != "samkit":
        package = {"optax": optax.contrib, "pytorch_optimizer": pytorch_optimizer}.get(name, Usual)
        return any(n.lower().startswith(("msam_grad", "m_sam")) for n in dir(package))
    net, ((x, y),) = net_of(), batches(1)
    losses = partial(F.cross_entropy, reduction="none")
    found = []
    for m in range(1, 9):
        net.zero_grad()
        msam_grad(net, losses, x, y, rho=RHO, m=m)
        found.append(relative(grads(net), dense(net, losses, x, y, rho=RHO, m=m)) < 1e-10)
    return all(found)


def has_variants(name):
    """GSAM, WSAM, LookSAM, Friendly SAM."""
    if name == "samkit":
        return all(hasattr(perturbation, n) for n in ("gsam", "wsam", "looksam", "friendly"))
    names = ("GSAM", "WSAM", "LookSAM", "FriendlySAM")
    package = {"optax": optax.contrib, "pytorch_optimizer": pytorch_optimizer}.get(name)
    return package is not None and all(hasattr(package, n) for n in names)


CELLS = {
    "is the definition, to 1e-8 in float64": is_the_definition,
    "the weights come back bit for bit": comes_back_exactly,
    "both passes have the same dropout masks": has_one_mask,
    "BatchNorm counts a step once": counts_once,
    "a first gradient of inf or nan is no step": refuses_inf,
    "a GradScaler skips an overflow in the first pass": skips_an_overflow,
    "resumes bit for bit from its own `state_dict`": resumes,
    "several steps of ascent": has_several_steps,
    "m-SAM for every m": has_m,
    "GSAM, WSAM, LookSAM, Friendly SAM": has_variants,
}
NAMES = ["samkit", "pytorch_optimizer", "usual", "optax"]


def table():
    """row -> four cells, as the chapter prints them."""
    lines = [line.strip("| ").split(" | ") for line in CHAPTER.read_text().splitlines()]
    return {line[0]: line[1:] for line in lines if line[0] in CELLS}


@pytest.mark.parametrize("row", CELLS)
def test_a_row(row):
    cells = table()[row]
    found = []
    for name, cell in zip(NAMES, cells, strict=True):
        if cell == "–":
            assert name == "optax"  # masks, statistics and scales are arguments of the loss there
            found.append(cell)
        else:
            found.append("yes" if CELLS[row](name) else "no")
    assert found == cells
