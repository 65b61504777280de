"""SAM in other people's training loops: what is right there, and what is refused before a step."""

from __future__ import annotations

import copy
import inspect
import sys
import types
import warnings

import pytest
import torch
from oracle import grads, relative
from test_optim import EXACT, RHO, X2, Y2, X, Y, closure_of, gradient, length, losses, net_of, sam
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.nn.utils import clip_grad_norm_

from samkit import SAM, NonFinite


def sgd(net, **options):
    return torch.optim.SGD(net.parameters(), **{"lr": 0.1} | options)


def weights(net):
    return {k: v.detach().clone() for k, v in net.state_dict().items()}


def unchanged(net, before):
    return all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def drawn(options):
    """Options of SAM, with a random generator of their own."""
    return {"rho": RHO, "generator": torch.Generator().manual_seed(3)} | options


# Gradients that are there already


def test_gradients_of_a_backward_before_the_step_are_refused_if_they_stay():
    """As under Lightning's accumulate_grad_batches, or in davda54's style of step(closure)."""
    net = net_of()
    opt, before = SAM(sgd(net), rho=RHO), weights(net)

    def closure():
        loss = losses(net(X), Y).mean()
        loss.backward()
        return loss

    losses(net(X2), Y2).mean().backward()
    first = grads(net)
    with pytest.raises(ValueError, match="let the closure go over all of them"):
        opt.step(closure)
    assert unchanged(net, before)
    assert relative(grads(net), first) == 0
    assert opt.steps == 0


CLEAR = {
    "opt": lambda net, opt: opt.zero_grad(),
    "opt, in place": lambda net, opt: opt.zero_grad(set_to_none=False),
    "base": lambda net, opt: opt.base.zero_grad(),
    "net": lambda net, opt: net.zero_grad(),
    "net, in place": lambda net, opt: net.zero_grad(set_to_none=False),
    "by hand": lambda net, opt: [setattr(p, "grad", None) for p in net.parameters()],
}


@pytest.mark.parametrize("clear", CLEAR)
@pytest.mark.parametrize("options", [{}, {"direction": "sphere"}, {"step_size_only": True}])
def test_gradients_of_a_backward_before_the_step_are_no_matter_if_the_closure_clears(
    clear, options
):
    results = []
    for foreign in (False, True):
        net = net_of()
        opt = SAM(sgd(net), **drawn(options))

        def closure(net=net, opt=opt):
            CLEAR[clear](net, opt)
            loss = losses(net(X[:5]), Y[:5]).mean()
            loss.backward()
            losses(net(X[5:]), Y[5:]).mean().backward()
            return loss

        for _ in range(3):
            if foreign:  # as a generator's loss leaves in the discriminator
                losses(net(X2), Y2).mean().backward()
            opt.step(closure)
        results.append(weights(net))
    assert relative(*results) < EXACT


OPTIONS = [
    {},
    {"normalize": False},
    {"direction": "sphere"},
    {"between": (2, 4)},
    {"adaptive": True},
    {"ascent_steps": 2},
    {"step_size_only": True},
    {"interval": 2, "reuse": 0.7},
    {"friendly": 0.9},
    {"rho": 0.0},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_closure_that_never_clears(options):
    results = []
    for clears in (True, False):
        net = net_of()
        opt = SAM(sgd(net, momentum=0.9), **drawn(options))

        def closure(net=net, opt=opt, clears=clears):
            if clears:
                opt.zero_grad()
            loss = losses(net(X), Y).mean()
            loss.backward()
            return loss

        for _ in range(5):
            opt.step(closure)
        results.append(weights(net))
    assert relative(*results) < EXACT


@pytest.mark.parametrize("options", OPTIONS)
def test_a_flat_buffer_of_gradients_stays(options):
    results = []
    for flat in (False, True):
        net = net_of()
        sizes = [p.numel() for p in net.parameters()]
        buffer = torch.zeros(sum(sizes), dtype=torch.float64)
        if flat:
            for p, part in zip(net.parameters(), buffer.split(sizes), strict=True):
                p.grad = part.view_as(p)
        opt = SAM(sgd(net), **drawn(options))

        def closure(net=net, opt=opt, flat=flat):
            opt.zero_grad(set_to_none=not flat)
            loss = losses(net(X), Y).mean()
            loss.backward()
            return loss

        for _ in range(3):
            opt.step(closure)
            if flat and not options.keys() & {"step_size_only", "reuse"}:
                whole = torch.cat([p.grad.flatten() for p in net.parameters()])
                assert torch.equal(buffer, whole)
        results.append(weights(net))
    assert relative(*results) < EXACT


@pytest.mark.parametrize("on", [{"num_steps": 2}, {"sync_gradients": False}])
@pytest.mark.parametrize("options", [{}, {"between": (5, None)}])
def test_accumulation_by_accelerate_is_refused(monkeypatch, options, on):
    class GradientState:
        num_steps = 1
        sync_gradients = True

    state = types.SimpleNamespace(GradientState=GradientState)
    monkeypatch.setitem(sys.modules, "accelerate.state", state)
    net = net_of()
    opt, before = SAM(sgd(net), rho=RHO, **options), weights(net)
    for name, value in on.items():
        monkeypatch.setattr(GradientState, name, value)
    with pytest.raises(ValueError, match="gradient_accumulation_steps=1"):
        opt.step(closure_of(net, opt))
    assert unchanged(net, before)
    GradientState.num_steps, GradientState.sync_gradients = 1, True
    opt.step(closure_of(net, opt))


# Closures


@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"adaptive": True}])
def test_a_loss_that_reaches_no_parameter_is_refused(options):
    net, other = net_of(), net_of()
    opt, before = SAM(sgd(net), rho=RHO, **options), weights(net)
    with pytest.raises(ValueError, match="no parameter of this optimizer has a gradient"):
        opt.step(closure_of(other, opt))
    assert unchanged(net, before)


def test_all_parameters_frozen_is_no_step_as_in_torch():
    net = net_of()
    for p in net.parameters():
        p.requires_grad_(False)
    head = nn.Linear(3, 3).double()
    opt, before = SAM(sgd(net, momentum=0.9), rho=RHO), weights(net)

    def closure():
        opt.zero_grad()
        loss = losses(head(net(X)), Y).mean()
        loss.backward()
        return loss

    assert torch.isfinite(opt.step(closure))
    assert unchanged(net, before)


@pytest.mark.parametrize("returns", [True, False])
@pytest.mark.parametrize("deep", [True, False])
def test_a_loss_from_outside_the_closure_is_refused(deep, returns):
    net = net_of() if deep else nn.Linear(4, 3).double()
    opt, before = SAM(sgd(net), rho=RHO), weights(net)
    loss = losses(net(X), Y).mean()

    def closure():
        opt.zero_grad()
        loss.backward(retain_graph=True)
        return loss if returns else None

    with pytest.raises(ValueError, match="did not compute the loss again"):
        opt.step(closure)
    assert unchanged(net, before)


def test_a_closure_may_compute_the_gradient_by_itself():
    """Without a graph: by a formula, as for a solver, or by another program."""
    w = nn.Parameter(torch.tensor([3.0, 4.0]))
    opt = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5)

    def closure():
        w.grad = w.detach().clone()
        return w.detach().square().sum() / 2

    opt.step(closure)
    assert torch.allclose(w, torch.tensor([2.67, 3.56]))


# Mixed precision


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_a_clipping_hook_sees_unscaled_gradients(base, fused):
    net, twin = net_of(), net_of()
    inner, other = (base(n.parameters(), lr=0.1, fused=f) for n, f in ((net, fused), (twin, False)))
    seen = []

    def clip(base, *_):
        seen.append(clip_grad_norm_(base.param_groups[0]["params"], 0.05))

    inner.register_step_pre_hook(clip)
    other.register_step_pre_hook(clip)
    opt, plain = SAM(inner, rho=RHO), SAM(other, rho=RHO)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def closure():
        opt.zero_grad()
        loss = losses(net(X), Y).mean()
        scaler.scale(loss).backward()
        return loss

    true = length(sam(net))
    for _ in range(4):
        opt.step(closure, scaler=scaler)
        scaler.update()
        plain.step(closure_of(twin, plain))
    assert torch.isclose(seen[0], true)
    assert relative(weights(net), weights(twin)) < 1e-9


@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"ascent_steps": 2}])
def test_a_scaler_that_is_not_enabled_is_none(options):
    net = net_of()
    opt, before = SAM(sgd(net), rho=RHO, **options), weights(net)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with pytest.raises(NonFinite):
        opt.step(closure_of(net, opt, X * float("nan")), scaler=scaler)
    assert unchanged(net, before)


def test_the_attributes_of_a_sam_can_be_listed():
    opt = SAM(sgd(net_of()))
    assert hasattr(opt, "_step_supports_amp_scaling")
    inspect.getmembers(opt)


def test_what_a_scaler_told_is_not_kept():
    net = net_of()
    opt = SAM(sgd(net))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(1))
    with pytest.raises(ValueError, match=r"opt.step\(closure, scaler=scaler\)"):
        scaler.step(opt)
    opt.step(closure_of(net, opt))
    assert not hasattr(opt, "found_inf")
    assert not hasattr(opt, "grad_scale")


# What the base optimizer has of its own


def test_maximize_climbs_down_to_where_the_objective_is_worst():
    net, twin = net_of(), net_of()
    opt = SAM(sgd(net, maximize=True), rho=RHO)
    g = gradient(twin)
    true = gradient(twin, {k: -RHO * v / length(g) for k, v in g.items()})
    opt.step(closure_of(net, opt))
    assert relative(grads(net), true) < EXACT
    stepped = {k: p + 0.1 * true[k] for k, p in twin.named_parameters()}
    assert relative(weights(net), stepped) < EXACT


@pytest.mark.parametrize("options", OPTIONS)
def test_maximizing_a_loss_is_minimizing_its_negative(options):
    results = []
    for maximize in (True, False):
        net = net_of()
        opt = SAM(sgd(net, momentum=0.9, maximize=maximize), **drawn(options))

        def closure(net=net, opt=opt, maximize=maximize):
            opt.zero_grad()
            loss = losses(net(X), Y).mean() * (1 if maximize else -1)
            loss.backward()
            return loss

        for _ in range(5):
            opt.step(closure)
        results.append(weights(net))
    assert relative(*results) < EXACT


def test_players_of_one_loss_each_look_where_it_is_worst_for_them():
    u, v = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor([3.0, -1.0]))
    groups = [{"params": [u]}, {"params": [v], "maximize": True}]
    opt = SAM(torch.optim.SGD(groups, lr=0.0), rho=0.5)

    def closure():
        opt.zero_grad()
        loss = u @ v + u.square().sum()
        loss.backward()
        return loss

    opt.step(closure)
    gu, gv = torch.tensor([5.0, 3.0]), torch.tensor([1.0, 2.0])
    scale = 0.5 / torch.cat([gu, gv]).norm()
    assert torch.allclose(u.grad, v - scale * gv + 2 * (u + scale * gu))
    assert torch.allclose(v.grad, u + scale * gu)


def test_a_base_with_a_rho_of_its_own_is_refused():
    class Own(torch.optim.SGD):
        def __init__(self, params):
            super().__init__(params, lr=0.1)
            self.defaults["rho"] = 0.9

    with pytest.raises(ValueError, match="Own has a rho of its own"):
        SAM(Own(net_of().parameters()))


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("of", ["sam", "base"])
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_distributed_checkpoints_resume(base, of, flatten):
    def make(seed):
        net = net_of(seed)
        generator = torch.Generator().manual_seed(seed)
        inner = base(net.parameters(), lr=0.05)
        options = {"random_start": True, "generator": generator, "between": (2, 6)}
        opt = SAM(inner, rho=0.3 if seed == 0 else 0.1, **options if of == "sam" else {})
        return net, opt

    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    net, opt = make(0)
    for _ in range(4):
        opt.step(closure_of(net, opt))
    saved = get_optimizer_state_dict(net, opt if of == "sam" else opt.base, options=options)
    saved, model = copy.deepcopy((saved, net.state_dict()))
    net2, opt2 = make(1)
    net2.load_state_dict(model)
    set_optimizer_state_dict(net2, opt2 if of == "sam" else opt2.base, saved, options=options)
    assert opt2.steps == 4
    for _ in range(4):
        assert torch.equal(opt.step(closure_of(net, opt)), opt2.step(closure_of(net2, opt2)))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), net2.parameters(), strict=True))


@pytest.mark.parametrize("on", ["sam", "base"])
def test_a_scheduler_does_not_warn_about_the_order(on):
    net = net_of()
    opt = SAM(sgd(net), rho=RHO)
    scheduler = torch.optim.lr_scheduler.StepLR(opt if on == "sam" else opt.base, 1, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.gradient(closure_of(net, opt))
        opt.base.step()
        scheduler.step()


# Layers with a memory


class Counter(nn.Module):
    """Counts its calls, as a number and as two kinds of buffer, and divides by the count."""

    def __init__(self):
        super().__init__()
        self.number = 0
        self.register_buffer("filled", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()))
        self.register_buffer("grown", torch.zeros(0))

    def forward(self, z):
        self.number += 1
        self.filled += 1
        self.replaced = self.replaced + 1
        if not self.grown.numel():
            self.grown.resize_(3).zero_()
        self.grown += 1
        return z / (self.number * self.filled * self.replaced)


@pytest.mark.parametrize("knows", [True, False])
@pytest.mark.parametrize("options", [{}, {"ascent_steps": 3}, {"adaptive": True}])
def test_counters_count_once_a_step_and_both_passes_are_of_the_same_count(options, knows):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), Counter(), nn.Linear(6, 3)).double()
    options = options | ({"model": net} if knows else {})
    opt = SAM(sgd(net, lr=0.0), rho=RHO, **options)
    for k in (1, 2, 3):
        opt.step(closure_of(net, opt))
        c = net[1]
        assert (c.number, c.filled, c.replaced, c.grown.tolist()) == (k, k, k, [k] * 3)
        if set(options) <= {"model"}:
            assert relative(grads(net), counted(dict(net.named_parameters()), k)) < EXACT


def counted(w, k):
    """SAM's gradient of the network whose middle layer divides by k^3."""
    w = {n: p.detach().requires_grad_() for n, p in w.items()}

    def loss(w):
        z = X @ w["0.weight"].T + w["0.bias"]
        return losses(z / k**3 @ w["2.weight"].T + w["2.bias"], Y).mean()

    g = dict(zip(w, torch.autograd.grad(loss(w), list(w.values())), strict=True))
    moved = {n: (w[n] + RHO * g[n] / length(g)).detach().requires_grad_() for n in w}
    return dict(zip(w, torch.autograd.grad(loss(moved), list(moved.values())), strict=True))


@pytest.mark.parametrize("norm", ["parametrized", "hook"])
def test_spectral_normalization_is_the_same_function_in_both_passes(norm):
    make = nn.utils.parametrizations.spectral_norm if norm == "parametrized" else None
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    net[0] = (make or nn.utils.spectral_norm)(net[0])
    opt = SAM(sgd(net, lr=0.0), rho=RHO)
    twin = copy.deepcopy(net)
    opt.step(closure_of(net, opt))
    # By hand: each pass from the vectors of the start
    start = copy.deepcopy(dict(twin.named_buffers()))
    closure_of(twin, sgd(twin))()
    end = copy.deepcopy(dict(twin.named_buffers()))
    g = grads(twin)
    with torch.no_grad():
        for k, p in twin.named_parameters():
            p += RHO * g[k] / length(g)
        for k, b in twin.named_buffers():
            b.copy_(start[k])
    closure_of(twin, sgd(twin))()
    assert relative(grads(net), grads(twin)) < EXACT
    assert relative(dict(net.named_buffers()), end) == 0


COMPILED = ["module.compile", "a function", "the closure", "module.compile and model="]


@pytest.mark.parametrize("what", COMPILED)
def test_batch_norm_counts_once_whatever_is_compiled(what):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()

    net, twin = make(), make()
    options = {"model": net} if "model=" in what else {}
    opt, other = SAM(sgd(net), rho=RHO, **options), SAM(sgd(twin), rho=RHO)
    model = net
    if what.startswith("module"):
        net.compile(backend="eager")
    elif what == "a function":
        model = torch.compile(lambda x: net(x), backend="eager")
    closure = closure_of(model, opt)
    if what == "the closure":
        forward = torch.compile(lambda: losses(net(X), Y).mean(), backend="eager")

        def closure():
            opt.zero_grad()
            loss = forward()
            loss.backward()
            return loss

    for _ in range(3):
        opt.step(closure)
        other.step(closure_of(twin, other))
    assert relative(weights(net), weights(twin)) < EXACT
    assert int(net[1].num_batches_tracked) == 3


@pytest.mark.parametrize("knows", [True, False])
def test_a_first_layer_that_changes_the_batch_is_refused(knows):
    net = nn.Sequential(nn.ReLU(inplace=True), net_of())
    opt = SAM(sgd(net), rho=RHO, **{"model": net} if knows else {})
    before, x = weights(net), X.clone()
    with pytest.raises(ValueError, match=r"changes its input, of shape \(10, 4\)"):
        opt.step(closure_of(net, opt, x))
    assert unchanged(net, before)


def test_in_place_layers_are_no_matter_where_nobody_keeps_the_input():
    nets = []
    for inplace in (True, False):
        net = nn.Sequential(nn.ReLU(inplace=inplace), net_of())
        opt = SAM(sgd(net), rho=RHO)

        def closure(net=net, opt=opt):
            opt.zero_grad()
            loss = losses(net(X * 2), Y).mean()
            loss.backward()
            return loss

        opt.step(closure)
        nets.append(weights(net))
    assert relative(*nets) == 0


def test_a_buffer_that_is_filled_with_batch_after_batch_is_no_change_by_a_layer():
    net = net_of()
    opt, x = SAM(sgd(net, lr=0.0), rho=RHO), torch.empty_like(X[:5])
    true = sam(net)

    def closure():
        opt.zero_grad()
        for rows in (slice(0, 5), slice(5, 10)):
            x.copy_(X[rows])
            loss = losses(net(x), Y[rows]).mean() / 2
            loss.backward()
        return loss

    opt.step(closure)
    assert relative(grads(net), true) < EXACT
