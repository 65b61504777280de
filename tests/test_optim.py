"""SAM, the optimizer: its gradients against closed forms and torch.func, and its manners."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import dense, grads, relative
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from samkit import SAM, NonFinite, perturbation

EXACT = 1e-12


def net_of(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


X = torch.randn(10, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.arange(10) % 3
X2, Y2 = X.flip(0) * 0.7, (Y + 1) % 3


def losses(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y, reduction="none")


def closure_of(net: nn.Module, opt: torch.optim.Optimizer, x=X, y=Y):
    def closure() -> Tensor:
        opt.zero_grad()
        loss = losses(net(x), y).mean()
        loss.backward()
        return loss

    return closure


def gradient(net: nn.Module, move: dict[str, Tensor] | None = None, x=X, y=Y) -> dict[str, Tensor]:
    """grad L(w + move), with weights of its own."""
    w = {
        k: (p.detach() + (0 if move is None else move[k])).requires_grad_()
        for k, p in net.named_parameters()
    }
    loss = losses(torch.func.functional_call(net, w, x), y).mean()
    return dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))


def length(g: dict[str, Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in g.values()]).norm()


# The family: each member's gradient, written once more from its definition.

RHO = 0.3


def sam(net):
    return dense(net, losses, X, Y, rho=RHO, m=10)


def theory(net):
    return dense(net, losses, X, Y, rho=RHO, m=10, normalize=False)


def asam(net, rho=RHO, eta=0.01):
    g, T = gradient(net), {k: p.detach().abs() + eta for k, p in net.named_parameters()}
    bottom = length({k: T[k] * g[k] for k in g})
    return gradient(net, {k: rho * T[k] ** 2 * g[k] / bottom for k in g})


def asam_unnormalized(net):
    g, T = gradient(net), {k: p.detach().abs() + 0.01 for k, p in net.named_parameters()}
    return gradient(net, {k: RHO * T[k] ** 2 * g[k] for k in g})


def several_steps(net, start=None, lr=1.0, steps=3):
    d = start or {k: torch.zeros_like(p) for k, p in net.named_parameters()}
    for _ in range(steps):
        g = gradient(net, d)
        d = {k: d[k] + lr * RHO * g[k] / length(g) for k in g}
        d = {k: v * min(1.0, RHO / float(length(d))) for k, v in d.items()}
    return gradient(net, d)


def random_sphere(net, seed=7):
    generator = torch.Generator().manual_seed(seed)
    z = {
        k: torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for k, p in net.named_parameters()
    }
    return {k: RHO * v / length(z) for k, v in z.items()}


def random_gaussian(net):
    generator = torch.Generator().manual_seed(7)
    return gradient(
        net,
        {
            k: RHO * torch.randn(p.shape, generator=generator, dtype=p.dtype)
            for k, p in net.named_parameters()
        },
    )


def independent(net):
    g = gradient(net, x=X2, y=Y2)
    return gradient(net, {k: RHO * v / length(g) for k, v in g.items()})


def only_step_size(net):
    g, s = gradient(net), sam(net)
    return {k: v * length(s) / length(g) for k, v in g.items()}


#: name -> (its definition, options of SAM, whether the ascent has a batch of its own)
FAMILY = {
    "ERM": (gradient, {"rho": 0.0}, False),
    "SAM": (sam, {}, False),
    "unnormalized": (theory, {"normalize": False}, False),
    "ASAM": (asam, {"adaptive": True}, False),
    "ASAM, unnormalized": (asam_unnormalized, {"adaptive": True, "normalize": False}, False),
    "several steps": (several_steps, {"ascent_steps": 3}, False),
    "short steps": (
        lambda n: several_steps(n, lr=0.4),
        {"ascent_steps": 3, "ascent_lr": 0.4},
        False,
    ),
    "random start": (
        lambda n: several_steps(n, random_sphere(n)),
        {"ascent_steps": 3, "random_start": True},
        False,
    ),
    "random, Gaussian": (random_gaussian, {"direction": "gaussian"}, False),
    "random, on the sphere": (
        lambda n: gradient(n, random_sphere(n)),
        {"direction": "sphere"},
        False,
    ),
    "n-SAM": (independent, {}, True),
    "step size only": (only_step_size, {"step_size_only": True}, False),
    "too early": (gradient, {"between": (1, None)}, False),
    "too late": (gradient, {"between": (0, 0)}, False),
    "in time": (sam, {"between": (0, 1)}, False),
}


@pytest.mark.parametrize("name", FAMILY)
def test_member_of_the_family(name):
    definition, options, other_batch = FAMILY[name]
    net = net_of()
    true = definition(net)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    options = {"rho": RHO, "generator": torch.Generator().manual_seed(7)} | options
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.0), **options)
    opt.step(closure_of(net, opt), closure_of(net, opt, X2, Y2) if other_batch else None)
    assert relative(grads(net), true) < EXACT
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())  # lr = 0


@settings(deadline=None)  # a machine may be busy
@given(
    d=st.integers(1, 5),
    rho=st.floats(0, 1),
    lr=st.floats(0, 0.1),
    seed=st.integers(0, 50),
    normalize=st.booleans(),
)
def test_closed_form_on_a_quadratic(d, rho, lr, seed, normalize):
    # L = w^T H w / 2: w <- w - lr H (w + rho H w / ||H w||)
    generator = torch.Generator().manual_seed(seed)
    H = torch.randn(d, d, generator=generator, dtype=torch.float64)
    H = H @ H.T
    w = torch.randn(d, generator=generator, dtype=torch.float64)
    p = nn.Parameter(w.clone())
    opt = SAM(torch.optim.SGD([p], lr=lr), rho=rho, normalize=normalize)

    def closure():
        opt.zero_grad()
        loss = p @ H @ p / 2
        loss.backward()
        return loss

    for _ in range(3):
        loss = opt.step(closure)
        assert torch.isclose(loss, w @ H @ w / 2)
        g = H @ w
        w = w - lr * H @ (w + rho * (g / g.norm() if normalize else g))
    assert torch.allclose(p, w, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, [2, 2, 2, 2]),
        ({"rho": 0.0}, [1, 1, 1, 1]),
        ({"between": (2, None)}, [1, 1, 2, 2]),
        ({"between": (0, 3)}, [2, 2, 2, 1]),
        ({"between": (1, 3)}, [1, 2, 2, 1]),
        ({"ascent_steps": 3}, [4, 4, 4, 4]),
        ({"direction": "sphere"}, [1, 1, 1, 1]),
        ({"interval": 3, "reuse": 0.7}, [2, 1, 1, 2]),
    ],
)
def test_how_many_passes_a_step_takes_and_that_its_loss_is_the_first(options, passes):
    net = net_of()
    opt, seen = SAM(torch.optim.SGD(net.parameters(), lr=0.1), **{"rho": RHO} | options), []
    inner = closure_of(net, opt)

    def closure():
        seen[-1].append(inner())
        return seen[-1][-1]

    for _ in passes:
        seen.append([])
        assert opt.step(closure) is seen[-1][0]
    assert [len(losses) for losses in seen] == passes


def test_the_gradient_is_all_of_a_step_but_the_bases():
    net, twin = net_of(), net_of()
    opt, other = (SAM(BASES["SGD"](n.parameters())) for n in (net, twin))
    assert opt.param_groups[0]["rho"] == 0.05  # unless told otherwise
    for _ in range(3):
        before = copy.deepcopy(net.state_dict())
        loss = opt.gradient(closure_of(net, opt))
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
        opt.base.step()
        assert torch.equal(loss, other.step(closure_of(twin, other)))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), twin.parameters(), strict=True))


def test_groups_with_radii_of_their_own():
    net = net_of()
    rho = {"0.weight": 0.3, "0.bias": 0.0, "2.weight": 0.1, "2.bias": 0.1}
    g = gradient(net)
    bottom = length({k: rho[k] * g[k] for k in g})
    true = gradient(net, {k: rho[k] ** 2 * g[k] / bottom for k in g})
    groups = [
        {"params": [net[0].weight], "rho": 0.3},
        {"params": [net[0].bias], "rho": 0.0},
        {"params": net[2].parameters()},
    ]
    opt = SAM(torch.optim.SGD(groups, lr=0.0), rho=0.1)
    opt.step(closure_of(net, opt))
    assert relative(grads(net), true) < EXACT


BASES = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "SGD foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


@pytest.mark.parametrize("base", BASES)
def test_step_is_the_base_optimizers_step_with_the_sam_gradient(base):
    net, twin = net_of(), net_of()
    opt, plain = SAM(BASES[base](net.parameters()), rho=RHO), BASES[base](twin.parameters())
    for _ in range(4):
        loss = opt.step(closure_of(net, opt))
        assert torch.isclose(loss, losses(twin(X), Y).mean(), rtol=1e-12)
        for (_, p), g in zip(twin.named_parameters(), sam(twin).values(), strict=True):
            p.grad = g
        plain.step()
    assert relative(dict(net.named_parameters()), dict(twin.named_parameters())) < 1e-10


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("options", [{}, {"direction": "sphere"}, {"between": (3, 6)}])
def test_resumes_bit_for_bit(base, options, tmp_path):
    def make(net):
        generator = torch.Generator().manual_seed(0)
        return SAM(BASES[base](net.parameters()), rho=RHO, generator=generator, **options)

    net = net_of()
    opt = make(net)
    for _ in range(4):
        opt.step(closure_of(net, opt))
    torch.save({"net": net.state_dict(), "opt": opt.state_dict()}, tmp_path / "saved.pt")
    net2 = net_of(1)
    opt2 = make(net2)
    saved = torch.load(tmp_path / "saved.pt", weights_only=True)
    net2.load_state_dict(saved["net"])
    opt2.load_state_dict(saved["opt"])
    assert opt2.state is opt2.base.state
    assert opt2.param_groups is opt2.base.param_groups
    for _ in range(4):
        assert torch.equal(opt.step(closure_of(net, opt)), opt2.step(closure_of(net2, opt2)))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), net2.parameters(), strict=True))


@pytest.mark.parametrize("has", [False, True])
def test_resumes_where_only_one_of_the_two_has_a_generator(has):
    def make(generator):
        opt = SAM(BASES["SGD"](net_of().parameters()), generator=generator)
        return opt, None if generator is None else generator.get_state()

    generators = None, torch.Generator().manual_seed(3)
    saved, _ = make(generators[has])
    loaded, state = make(generators[not has])
    loaded.load_state_dict(saved.state_dict())
    assert state is None or torch.equal(loaded.generator.get_state(), state)


@pytest.mark.parametrize("on", ["sam", "base"])
@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.StepLR(o, 1, 0.5),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=5),
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 5),
    ],
)
def test_schedulers_on_either(on, schedule):
    net, twin = net_of(), net_of()
    opt, plain = SAM(BASES["SGD"](net.parameters()), rho=0.0), BASES["SGD"](twin.parameters())
    scheduler, other = schedule(opt if on == "sam" else opt.base), schedule(plain)
    for _ in range(3):
        opt.step(closure_of(net, opt))
        plain.step(closure_of(twin, plain))
        scheduler.step()
        other.step()
        assert opt.param_groups[0]["lr"] == plain.param_groups[0]["lr"]
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))


def test_restores_when_the_second_pass_raises():
    net = net_of()
    before = copy.deepcopy(net.state_dict())
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=1e3)
    calls = []

    def closure():
        calls.append(0)
        if len(calls) == 2:
            raise KeyError("mine")
        return closure_of(net, opt)()

    with pytest.raises(KeyError, match="mine"):
        opt.step(closure)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_non_finite_first_gradient(bad):
    net = net_of()
    before = copy.deepcopy(net.state_dict())
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO)
    with pytest.raises(NonFinite, match="inf or nan"):
        opt.step(closure_of(net, opt, X * bad))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    opt.step(closure_of(net, opt))  # and goes on
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_non_finite_second_gradient_takes_no_step():
    net = net_of()
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO)
    before, calls = copy.deepcopy(net.state_dict()), []

    def closure():
        calls.append(0)
        return closure_of(net, opt, X if len(calls) == 1 else X * float("nan"))()

    with pytest.raises(NonFinite, match="second pass"):
        opt.step(closure)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("only", [1, 2])
def test_a_gradient_in_only_one_of_the_passes(only):
    a, b = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([3.0]))
    opt = SAM(torch.optim.SGD([a, b], lr=1.0, momentum=0.9), rho=0.5)
    calls = []

    def closure():
        calls.append(0)
        opt.zero_grad()
        loss = a**2 / 2 + (b**2 / 2 if len(calls) == only else 0)
        loss.backward()
        return loss

    opt.step(closure)
    if only == 1:  # b moves and gets no step
        length = (2.0**2 + 3.0**2) ** 0.5
        assert torch.allclose(a, torch.tensor([2 - (2 + 0.5 * 2 / length)]))
        assert b.item() == 3.0
    else:  # b does not move and gets a step
        assert torch.allclose(a, torch.tensor([2 - 2.5]))
        assert b.item() == 0.0


def test_parameters_without_gradient_or_frozen():
    net = net_of()
    net[0].bias.requires_grad_(False)
    spare = nn.Parameter(torch.ones(3))
    opt = SAM(torch.optim.SGD([*net.parameters(), spare], lr=0.1), rho=RHO)
    true = sam(net)
    opt.step(closure_of(net, opt))
    assert relative(grads(net), true) < EXACT
    assert torch.equal(spare, torch.ones(3))


@pytest.mark.parametrize(
    "options", [{}, {"normalize": False}, {"ascent_steps": 2}, {"step_size_only": True}]
)
def test_complex_weights_count_as_pairs_of_real_ones(options):
    torch.manual_seed(0)
    start = torch.randn(3, 2, dtype=torch.float64)
    A = torch.randn(4, 3, dtype=torch.complex128)
    results = []
    for pairs in (False, True):
        w = nn.Parameter(start.clone() if pairs else torch.view_as_complex(start.clone()))
        opt = SAM(torch.optim.SGD([w], lr=0.1), rho=RHO, **options)

        def closure(w=w, opt=opt, pairs=pairs):
            opt.zero_grad()
            loss = (A @ (torch.view_as_complex(w) if pairs else w)).abs().pow(3).sum()
            loss.backward()
            return loss

        opt.step(closure)
        results.append(w.detach() if pairs else torch.view_as_real(w.detach()))
    assert torch.allclose(*results, rtol=1e-12)


def test_sparse_gradients():
    torch.manual_seed(0)
    results = []
    weight = torch.randn(7, 3, dtype=torch.float64)
    tokens = torch.tensor([[1, 1, 4], [4, 0, 1]])
    for sparse in (True, False):
        e = nn.Embedding(7, 3, _weight=weight.clone(), sparse=sparse)
        opt = SAM(torch.optim.SGD(e.parameters(), lr=0.1), rho=RHO)

        def closure(e=e, opt=opt):
            opt.zero_grad()
            loss = e(tokens).pow(3).sum()
            loss.backward()
            return loss

        for _ in range(3):
            opt.step(closure)
        assert e.weight.grad.is_sparse == sparse
        results.append(e.weight.detach())
    assert torch.allclose(*results, rtol=1e-12)


def test_batch_norm_statistics_are_updated_once():
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()

    for options in ({}, {"ascent_steps": 3}, {"normalize": False}, {"adaptive": True}):
        net, twin = make(), make()
        opt = SAM(torch.optim.SGD(net.parameters(), lr=0.0), rho=RHO, **options)
        for _ in range(2):
            opt.step(closure_of(net, opt))
            twin(X)
        for a, b in zip(net.buffers(), twin.buffers(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("how", ["torch.compile", "one layer", "module.compile"])
def test_batch_norm_statistics_of_compiled_models(how):
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()

    net, twin, options = make(), make(), {}
    model = net
    if how == "torch.compile":
        model = torch.compile(net, backend="eager")
    elif how == "one layer":
        model = nn.Sequential(torch.compile(net[:2], backend="eager"), net[2])
    else:
        net.compile(backend="eager")
        options = {"model": net}
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO, **options)
    other = SAM(torch.optim.SGD(twin.parameters(), lr=0.1), rho=RHO)
    for _ in range(3):
        opt.step(closure_of(model, opt))
        other.step(closure_of(twin, other))
    assert relative(net.state_dict(), twin.state_dict()) < 1e-12
    assert int(net[1].num_batches_tracked) == 3


def test_a_compiled_model_is_not_compiled_again_and_again():
    net, graphs = net_of(), []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    model = torch.compile(net, backend=backend)
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO)
    for _ in range(6):
        opt.step(closure_of(model, opt))
    assert len(graphs) <= 2  # the first step, which looks for modules, and all the others


def test_dropout_is_the_same_in_both_passes_and_drawn_once():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 3)).double()
    masks = []
    net[1].register_forward_hook(lambda _, __, z: masks.append(z == 0))
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO)
    torch.manual_seed(5)
    opt.step(closure_of(net, opt))
    after = torch.get_rng_state()
    assert torch.equal(masks[0], masks[1])
    torch.manual_seed(5)
    net(X)
    assert torch.equal(after, torch.get_rng_state())


def test_gradient_accumulation_in_the_closure():
    net = net_of()
    true = sam(net)
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.0), rho=RHO)

    def closure():
        opt.zero_grad()
        total = torch.zeros(())
        for i in range(0, 10, 5):
            loss = losses(net(X[i : i + 5]), Y[i : i + 5]).mean() / 2
            loss.backward()
            total = total + loss.detach()
        return total

    opt.step(closure)
    assert relative(grads(net), true) < EXACT


def test_a_closure_that_forgets_to_clear_is_cleared_between_the_passes():
    net = net_of()
    true = sam(net)
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.0), rho=RHO)

    def closure():
        loss = losses(net(X), Y).mean()
        loss.backward()
        return loss

    opt.step(closure)
    assert relative(grads(net), true) < EXACT


def test_clipping_in_the_base_optimizers_hook():
    net, twin = net_of(), net_of()
    base = torch.optim.SGD(net.parameters(), lr=0.1)

    def clip(*_):
        clip_grad_norm_(net.parameters(), 0.01)

    base.register_step_pre_hook(clip)
    opt = SAM(base, rho=RHO)
    opt.step(closure_of(net, opt))
    g = sam(twin)
    for k, p in twin.named_parameters():
        p.data -= 0.1 * g[k] * 0.01 / (length(g) + 1e-6)
    assert relative(dict(net.named_parameters()), dict(twin.named_parameters())) < 1e-10


@pytest.mark.parametrize("normalize", [True, False])
def test_grad_scaler_is_the_same_step(normalize):
    net, twin = net_of(), net_of()
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), rho=RHO, normalize=normalize)
    other = SAM(
        torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9), rho=RHO, normalize=normalize
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)

    def closure():
        opt.zero_grad()
        loss = losses(net(X), Y).mean()
        scaler.scale(loss).backward()
        return loss

    for _ in range(5):
        loss = opt.step(closure, scaler=scaler)
        scaler.update()
        assert torch.isclose(loss, other.step(closure_of(twin, other)))
    assert scaler.get_scale() > 2.0**10
    assert relative(dict(net.named_parameters()), dict(twin.named_parameters())) < 1e-10


def test_grad_scaler_is_the_same_step_with_radii_of_groups():
    found = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**10)):
        net = net_of()
        groups = [{"params": [net[0].weight], "rho": 0.3}, {"params": net[2].parameters()}]
        opt = SAM(torch.optim.SGD(groups, lr=0.1), rho=0.1, normalize=False)

        def closure(net=net, opt=opt, scaler=scaler):
            opt.zero_grad()
            loss = losses(net(X), Y).mean()
            (loss if scaler is None else scaler.scale(loss)).backward()
            return loss

        opt.step(closure, scaler=scaler)
        found.append(dict(net.named_parameters()))
    assert relative(*found) < 1e-12


@pytest.mark.parametrize("overflow", [1, 2])
def test_grad_scaler_skips_an_overflow_in_either_pass(overflow):
    net = net_of()
    before, calls = copy.deepcopy(net.state_dict()), []
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)

    def closure():
        calls.append(0)
        opt.zero_grad()
        loss = losses(net(X), Y).mean()
        scaler.scale(loss * (float("inf") if len(calls) == overflow else 1)).backward()
        return loss

    opt.step(closure, scaler=scaler)
    scaler.update()
    assert scaler.get_scale() == 2.0**9
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    opt.step(closure, scaler=scaler)
    assert not torch.equal(net[0].weight, before["0.weight"])


@pytest.mark.parametrize("around", ["closure", "step"])
def test_bf16_autocast(around):
    net = net_of().float()
    x = X.float()
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.0), rho=1.0)

    @contextmanager
    def cast(here):
        with torch.autocast("cpu", torch.bfloat16, enabled=here):
            yield

    def closure():
        opt.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = losses(net(x), Y).mean()
        loss.backward()
        return loss

    with cast(around == "step"):
        opt.step(closure)
    net64 = net_of()
    true = dense(net64, losses, X, Y, rho=1.0, m=10)
    error = relative({k: g.double() for k, g in grads(net).items()}, true)
    assert error < 0.1  # bfloat16 has 8 bits
    assert relative(gradient(net64), true) > 0.2  # so a lost move would show


def test_pure_bf16_weights():
    net = net_of().bfloat16()
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO)
    loss = opt.step(closure_of(net, opt, X.bfloat16()))
    assert torch.isfinite(loss)


def test_groups_added_later_on_either():
    net, more = net_of(), [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
    opt = SAM(BASES["SGD"](net.parameters()), rho=RHO)
    opt.add_param_group({"params": more[:1], "lr": 0.5})
    opt.base.add_param_group({"params": more[1:], "rho": 0.2})
    assert [g["rho"] for g in opt.param_groups] == [RHO, RHO, 0.2]
    assert opt.param_groups is opt.base.param_groups

    def closure():
        opt.zero_grad()
        loss = losses(net(X), Y).mean() + sum(p.sum() for p in more)
        loss.backward()
        return loss

    opt.step(closure)
    assert all((p < 1).all() for p in more)


def test_deepcopy_goes_on_by_itself():
    net = net_of()
    opt = SAM(BASES["AdamW"](net.parameters()), rho=RHO)
    opt.step(closure_of(net, opt))
    net2, opt2 = copy.deepcopy((net, opt))
    assert opt2.state is opt2.base.state
    a, b = opt.step(closure_of(net, opt)), opt2.step(closure_of(net2, opt2))
    assert torch.equal(a, b)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), net2.parameters(), strict=True))
    assert net[0].weight is not net2[0].weight


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rho": -1}, "rho"),
        ({"rho": float("nan")}, "rho"),
        ({"rho": float("inf")}, "rho"),
        ({"ascent_steps": 0}, "ascent_steps"),
        ({"ascent_steps": 1.5}, "ascent_steps"),
        ({"ascent_steps": 1.5, "direction": "sphere"}, "ascent_steps"),
        ({"rho": "0.1"}, "rho"),
        ({"rho": None}, "rho"),
        ({"eta": -0.1}, "eta"),
        ({"eta": float("nan"), "adaptive": True}, "eta"),
        ({"ascent_lr": 0.0}, "ascent_lr"),
        ({"ascent_lr": float("inf")}, "ascent_lr"),
        ({"between": 5}, "between"),
        ({"between": (5, 2)}, "between"),
        ({"between": (-1, None)}, "between"),
        ({"between": (0, 1.5)}, "between"),
        ({"model": 1}, "model"),
        ({"direction": "up"}, "direction"),
        ({"direction": "sphere", "ascent_steps": 2}, "random direction"),
        ({"direction": "gaussian", "normalize": False}, "random direction"),
        ({"direction": "gaussian", "random_start": True}, "random direction"),
        ({"direction": "gaussian", "step_size_only": True}, "random direction"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SAM(torch.optim.SGD([nn.Parameter(torch.ones(1))]), **options)


def test_bad_use():
    with pytest.raises(ValueError, match="an optimizer, such as"):
        SAM(torch.optim.SGD)
    opt = SAM(torch.optim.SGD([nn.Parameter(torch.ones(1))]))
    for call in (opt.step, opt.gradient):
        with pytest.raises(ValueError, match=r"call step\(closure\)"):
            call()
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(1))
    with pytest.raises(ValueError, match=r"opt.step\(closure, scaler=scaler\)"):
        scaler.step(opt, lambda: None)
    for call in (opt.step, opt.gradient):
        with pytest.raises(TypeError, match="positional"):
            call(lambda: None, None, torch.amp.GradScaler("cpu"))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (torch.optim.LBFGS, "by itself"),
        (torch.optim.Adadelta, "a rho of its own"),
        (lambda p: SAM(torch.optim.SGD(p)), "a SAM already"),
    ],
)
def test_optimizers_that_cannot_be_the_base(base, message):
    with pytest.raises(ValueError, match=message):
        SAM(base([nn.Parameter(torch.ones(1))]))


def test_radii_of_groups_are_looked_at():
    net = net_of()
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO)
    with pytest.raises(ValueError, match=r"number >= 0, not -3\.0"):
        opt.add_param_group({"params": [nn.Parameter(torch.ones(1))], "rho": -3.0})
    opt.param_groups[0]["rho"] = -1.0
    with pytest.raises(ValueError, match=r"number >= 0, not -1\.0"):
        opt.step(closure_of(net, opt))


def test_a_base_that_was_in_a_sam_before_gets_the_new_radius():
    net = net_of()
    groups = [{"params": net[0].parameters()}, {"params": net[2].parameters(), "rho": 0.4}]
    base = torch.optim.SGD(groups, lr=0.1)
    SAM(base, rho=0.1)
    assert [g["rho"] for g in SAM(base, rho=0.7).param_groups] == [0.7, 0.4]


def loaded_by_the_base(opt):
    opt.base.load_state_dict(copy.deepcopy(opt.base.state_dict()))
    return opt


@pytest.mark.parametrize(
    "after",
    [
        loaded_by_the_base,
        lambda opt: loaded_by_the_base(copy.deepcopy(opt)),
        lambda opt: loaded_by_the_base(pickle.loads(pickle.dumps(opt))),
    ],
)
def test_a_state_loaded_into_the_base_is_seen(after):
    net = net_of()
    opt = SAM(BASES["SGD"](net.parameters()), rho=RHO)
    opt.step(closure_of(net, opt))
    opt = after(opt)
    assert opt.param_groups is opt.base.param_groups
    assert opt.state is opt.base.state
    torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    opt.param_groups[0]["lr"] = 0.7
    assert opt.base.param_groups[0]["lr"] == 0.7


def test_the_base_does_not_keep_the_sam_around_it_alive():
    base = BASES["SGD"](net_of().parameters())
    sam = weakref.ref(SAM(base))
    gc.collect()
    assert sam() is None
    base.load_state_dict(base.state_dict())


@pytest.mark.parametrize("by", ["sam", "base"])
def test_goes_on_from_a_checkpoint_without_sam(by):
    net, twin = net_of(), net_of()
    plain = BASES["SGD"](twin.parameters())
    plain.zero_grad()
    losses(twin(X), Y).mean().backward()
    plain.step()
    groups = [{"params": [p]} for p in net.parameters()]
    saved = copy.deepcopy(plain.state_dict())
    saved["param_groups"] = [saved["param_groups"][0] | {"params": [k]} for k in range(4)]
    groups[3]["rho"] = 0.7
    opt = SAM(BASES["SGD"](groups), rho=RHO)
    opt.steps = 3
    (opt if by == "sam" else opt.base).load_state_dict(saved)
    assert [group["rho"] for group in opt.param_groups] == [RHO, RHO, RHO, 0.7]
    assert len(opt.state) == 4
    assert opt.steps == (0 if by == "sam" else 3)
    opt.step(closure_of(net, opt))


def test_the_generators_state_may_come_from_anywhere():
    class Elsewhere(torch.Tensor):
        """Stands for a tensor on another device."""

        def cpu(self):
            return self.as_subclass(torch.Tensor)

        def __deepcopy__(self, _):
            return self

    generator = torch.Generator().manual_seed(3)
    opt = SAM(BASES["SGD"](net_of().parameters()), generator=generator)
    state = opt.state_dict()
    expected = generator.get_state()
    state["param_groups"][0]["sam_generator"] = expected.clone().as_subclass(Elsewhere)
    generator.manual_seed(4)
    opt.load_state_dict(state)
    assert torch.equal(generator.get_state(), expected)


UNSEEN = {
    "inf where the second pass has no gradient": ({}, float("inf")),
    "nan there": ({}, float("nan")),
    "unnormalized": ({"normalize": False}, float("inf")),
    "ASAM": ({"adaptive": True}, float("inf")),
    "several steps": ({"ascent_steps": 2}, float("inf")),
    "a move that overflows": ({"normalize": False, "adaptive": True, "eta": 1e10}, 1e30),
    "step size": ({"step_size_only": True}, float("inf")),
}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", UNSEEN)
def test_what_only_the_first_pass_sees_is_no_step(name, scaled):
    options, slope = UNSEEN[name]
    w, v = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    opt = SAM(torch.optim.SGD([w, v], lr=0.1), rho=0.1, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0) if scaled else None
    calls = []

    def closure():
        calls.append(0)
        opt.zero_grad()
        loss = w.sum() + (v.sum() * slope if len(calls) == 1 else 0)  # grad w is 1 everywhere
        (loss if scaler is None else scaler.scale(loss)).backward()
        return loss

    if scaler is None:
        with pytest.raises(NonFinite, match="in the first or the second pass"):
            opt.step(closure)
    else:
        opt.step(closure, scaler=scaler)
        scaler.update()
        assert scaler.get_scale() == 2.0
    assert w.tolist() == [1, 1, 1]
    assert v.tolist() == [1, 1]


@pytest.mark.parametrize("options", [{}, {"ascent_steps": 2}, {"adaptive": True}])
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_a_gradient_whose_squares_overflow_or_underflow_is_normalized_all_the_same(options, scale):
    seen = []
    for slope in (1.0, scale):
        w = nn.Parameter(torch.tensor([3.0, 4.0]))
        opt = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5, **options)

        def closure(w=w, opt=opt, slope=slope):
            opt.zero_grad()
            seen.append(w.detach().clone())
            loss = slope * (w * w.new_tensor([1.0, 2.0])).sum()
            loss.backward()
            return loss

        opt.gradient(closure)
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    torch.testing.assert_close(first, second)
    assert not torch.equal(first[0], first[1])


def test_after_non_finite_there_is_no_gradient_and_no_step_is_counted():
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO)
    opt.step(closure_of(net, opt))
    with pytest.raises(NonFinite):
        opt.step(closure_of(net, opt, X * float("nan")))
    assert opt.steps == 1
    assert all(p.grad is None for p in net.parameters())
    assert int(net[1].num_batches_tracked) == 2


def test_batch_norm_added_after_the_first_step_counts_once_too():
    for told in (False, True):
        net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).double()
        options = {"model": net} if told else {}
        opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO, **options)
        opt.step(closure_of(net, opt))
        net.append(nn.BatchNorm1d(4).double())
        opt.base.add_param_group({"params": net[2].parameters()})
        opt.step(closure_of(net, opt))
        net[0] = nn.Sequential(net[0], nn.BatchNorm1d(4).double())  # as a conversion does
        opt.step(closure_of(net, opt))
        assert [int(m.num_batches_tracked) for m in (net[1], net[2], net[0][1])] == [3, 2, 1]


def test_a_copy_knows_the_model():
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).double()
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO, model=net)
    net2, opt2 = copy.deepcopy((net, opt))
    assert opt2.model is net2


def test_the_first_gradients_are_free_during_the_second_pass():
    net, first, alive = net_of(), [], []
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO)

    def closure():
        opt.zero_grad()
        alive.extend(g() is not None for g in first)
        loss = losses(net(X), Y).mean()
        loss.backward()
        first[:] = [weakref.ref(p.grad) for p in net.parameters()]
        return loss

    opt.step(closure)
    assert alive == [False] * 4


def test_weight_decay_of_the_base_is_not_in_the_move():
    seen = []
    net = net_of()
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.0, weight_decay=100.0), rho=RHO)
    inner = closure_of(net, opt)

    def closure():
        seen.append([p.detach().clone() for p in net.parameters()])
        return inner()

    opt.step(closure)
    moved = [b - a for a, b in zip(*seen, strict=True)]
    true = perturbation.sam(list(gradient(net).values()), [RHO] * 4)
    assert all(torch.allclose(a, b, rtol=1e-8) for a, b in zip(moved, true, strict=True))
