"""SAM under the signature and in the two steps of other people's loops, and the variants of it."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from oracle import grads, relative
from test_optim import EXACT, RHO, X, Y, closure_of, gradient, length, losses, net_of, sam
from test_optim_loops import weights
from torch import Tensor, nn

from samkit import SAM, NonFinite, perturbation
from samkit.optim import normalization_groups


def stateful() -> nn.Sequential:
    """Statistics, masks and power iterations: two passes show in all of them."""
    torch.manual_seed(0)
    first = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 6))
    middle = [nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5)]
    return nn.Sequential(first, *middle, nn.Linear(6, 3)).double()


OPTIONS = {
    "SAM": {},
    "ASAM": {"adaptive": True, "eta": 0.0},
    "unnormalized": {"normalize": False},
    "step size only": {"step_size_only": True},
    "GSAM": {"combine": partial(perturbation.gsam, alpha=0.4)},
    "later": {"between": (2, None)},
    "every third step": {"interval": 3},
    "LookSAM": {"interval": 3, "reuse": 0.7},
    "Friendly SAM": {"friendly": 0.9},
    "ERM": {"rho": 0.0},
}


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize("name", OPTIONS)
def test_first_step_and_second_step_are_the_step_with_a_closure(name, micro, scaled):
    options = {"rho": RHO} | OPTIONS[name]
    nets, states = (stateful(), stateful()), []
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=scaled) for _ in nets]

    def backward(net, scaler):
        total = torch.zeros(())
        for x, y in zip(X.chunk(micro), Y.chunk(micro), strict=True):
            loss = losses(net(x), y).mean() / micro
            scaler.scale(loss).backward()
            total = total + loss.detach()
        return total

    torch.manual_seed(7)
    net, scaler = nets[0], scalers[0]
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9), **options)

    def closure():
        opt.zero_grad()
        return backward(net, scaler)

    for _ in range(5):
        opt.step(closure, scaler=scaler)
        scaler.update()
    states.append((weights(net), torch.get_rng_state()))

    torch.manual_seed(7)
    net, scaler = nets[1], scalers[1]
    opt = SAM(net.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9, model=net, **options)
    for _ in range(5):
        backward(net, scaler)
        opt.first_step(zero_grad=True, scaler=scaler)
        backward(net, scaler)
        opt.second_step(zero_grad=True, scaler=scaler)
        scaler.update()
        with torch.no_grad():  # an evaluation is no pass
            net.eval()(X)
            net.train()
    states.append((weights(net), torch.get_rng_state()))
    assert relative(states[0][0], states[1][0]) < EXACT
    assert torch.equal(states[0][1], states[1][1])
    assert opt.steps == 5


def test_the_familiar_signature_is_the_same_class():
    a, b = net_of(), net_of()
    groups = [{"params": b[0].parameters(), "rho": 0.1}, {"params": b[2].parameters()}]
    opt = SAM(groups, torch.optim.AdamW, rho=0.2, lr=0.01, weight_decay=0.1)
    base = torch.optim.AdamW(
        [{"params": a[0].parameters(), "rho": 0.1}, {"params": a[2].parameters()}],
        lr=0.01,
        weight_decay=0.1,
    )
    other = SAM(base, 0.2)
    for _ in range(3):
        opt.step(closure_of(b, opt))
        other.step(closure_of(a, other))
    assert relative(weights(a), weights(b)) == 0
    assert [g["rho"] for g in opt.param_groups] == [0.1, 0.2]


def test_a_pass_that_was_given_up_is_no_pass():
    net, twin = stateful(), stateful()
    opt = SAM(net.parameters(), torch.optim.SGD, lr=0.1, model=net, rho=RHO)
    other = SAM(torch.optim.SGD(twin.parameters(), lr=0.1), rho=RHO)
    losses(net(X * 2), Y).mean().backward()  # and then the loop goes on to the next batch
    twin(X * 2)
    opt.zero_grad()
    torch.manual_seed(3)
    losses(net(X), Y).mean().backward()
    opt.first_step()
    losses(net(X), Y).mean().backward()
    opt.second_step()
    torch.manual_seed(3)
    other.step(closure_of(twin, other))
    assert relative(weights(net), weights(twin)) < EXACT


def test_without_the_model_a_warning_names_what_differs():
    net = stateful()
    opt = SAM(net.parameters(), torch.optim.SGD, lr=0.1)
    losses(net(X), Y).mean().backward()
    with pytest.warns(UserWarning, match=r"BatchNorm1d, Dropout.*model=model"):
        opt.first_step()
    plain = net_of()
    opt = SAM(plain.parameters(), torch.optim.SGD, lr=0.1)  # nothing to warn of
    losses(plain(X), Y).mean().backward()
    opt.first_step()


def test_bad_use_of_the_two_steps():
    net = net_of()
    opt, before = SAM(net.parameters(), torch.optim.SGD, lr=0.1, rho=RHO), weights(net)
    with pytest.raises(ValueError, match="first_step before second_step"):
        opt.second_step()
    with pytest.raises(ValueError, match="no parameter of this optimizer has a gradient"):
        opt.first_step()
    losses(net(X), Y).mean().backward()
    opt.first_step()
    with pytest.raises(ValueError, match="between two calls"):
        opt.first_step()
    with pytest.raises(ValueError, match="call backward on the loss once more"):
        opt.second_step()
    assert relative(weights(net), before) == 0
    for options in ({"direction": "sphere"}, {"ascent_steps": 2}, {"random_start": True}):
        with pytest.raises(ValueError, match=r"call step\(closure\)"):
            SAM(net.parameters(), torch.optim.SGD, lr=0.1, **options).first_step()


@pytest.mark.parametrize("bad", [1, 2])
def test_two_steps_with_inf_are_no_step(bad):
    net = net_of()
    opt, before = SAM(net.parameters(), torch.optim.SGD, lr=0.1, rho=RHO), weights(net)
    losses(net(X * (float("inf") if bad == 1 else 1)), Y).mean().backward()
    opt.first_step()
    losses(net(X * (float("inf") if bad == 2 else 1)), Y).mean().backward()
    with pytest.raises(NonFinite):
        opt.second_step()
    assert relative(weights(net), before) == 0


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((lambda p: torch.optim.SGD(p, lr=0.1), torch.optim.SGD, {}), ValueError, "either"),
        ((list, 3.0, {"lr": 0.1}), TypeError, "unexpected keyword argument 'lr'"),
        ((list, None, {}), ValueError, "an optimizer, such as"),
        ((list, torch.optim.Adadelta, {}), ValueError, "a rho of its own"),
        ((list, torch.optim.SGD, {"interval": 0}), ValueError, "interval"),
    ],
)
def test_bad_signatures(args, error, message):
    make, second, options = args
    with pytest.raises(error, match=message):
        SAM(make(net_of().parameters()), second, **options)


def test_every_third_step():
    net, twin = net_of(), net_of()
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO, interval=3, between=(1, 6))
    for t in range(9):
        opt.step(closure_of(net, opt))
        g = sam(twin) if t in (1, 4) else gradient(twin)
        with torch.no_grad():
            for k, p in twin.named_parameters():
                p -= 0.1 * g[k]
    assert relative(weights(net), weights(twin)) < EXACT


# Variants, from their definitions: one vector, no lists


def flat(g: dict[str, Tensor]) -> Tensor:
    return torch.cat([v.flatten() for v in g.values()])


def test_gsam_by_projection():
    net = net_of()
    alpha = 0.4
    opt = SAM(
        torch.optim.SGD(net.parameters(), lr=0.0),
        rho=RHO,
        combine=partial(perturbation.gsam, alpha=alpha),
    )
    opt.step(closure_of(net, opt))
    g, gs = flat(gradient(net)), flat(sam(net))
    P = torch.outer(gs, gs) / (gs @ gs)
    true = gs - alpha * (g - P @ g)
    assert torch.allclose(flat(grads(net)), true, rtol=1e-10, atol=1e-14)
    moved = flat(grads(net)) - gs
    assert abs(moved @ gs) < 1e-12  # the perturbed loss is descended on as by SAM


@pytest.mark.parametrize("gamma", [0.2, 0.5, 0.8])
def test_wsam_by_autograd(gamma):
    net = net_of()
    opt = SAM(
        torch.optim.SGD(net.parameters(), lr=0.0),
        rho=RHO,
        combine=partial(perturbation.wsam, gamma=gamma),
    )
    opt.step(closure_of(net, opt))
    g = gradient(net)
    delta = {k: RHO * v / length(g) for k, v in g.items()}
    w = {k: p.detach().requires_grad_() for k, p in net.named_parameters()}
    loss = losses(torch.func.functional_call(net, w, X), Y).mean()
    there = {k: w[k] + delta[k] for k in w}
    worst = losses(torch.func.functional_call(net, there, X), Y).mean()
    objective = loss + gamma / (1 - gamma) * (worst - loss)
    true = dict(zip(w, torch.autograd.grad(objective, list(w.values())), strict=True))
    assert relative(grads(net), true) < EXACT


def test_looksam_with_vectors():
    """g_v by the cosine, as the paper writes it; its length is taken off and put on again."""
    net, twin, alpha = net_of(), net_of(), 0.7
    options = {"interval": 3, "between": (1, 8), "reuse": alpha}
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO, **options)
    part = torch.zeros(())
    for t in range(10):
        opt.step(closure_of(net, opt))
        g, shapes = flat(gradient(twin)), [p.shape for p in twin.parameters()]
        if t in (1, 4, 7):
            gs = flat(sam(twin))
            cosine = g @ gs / (g.norm() * gs.norm())
            part = gs - gs.norm() * cosine * g / g.norm()
            assert abs(part @ g) < 1e-12
            g = gs
        elif 1 < t < 8:
            g = g + alpha * g.norm() / part.norm() * part
        with torch.no_grad():
            for p, v in zip(twin.parameters(), g.split([s.numel() for s in shapes]), strict=True):
                p -= 0.1 * v.view_as(p)
    assert relative(weights(net), weights(twin)) < EXACT


@pytest.mark.parametrize("normalize", [True, False])
def test_friendly_sam_with_vectors(normalize):
    """The mean as the sum that it is: (1 - decay) sum_i decay^(t - i) g_i."""
    net, decay, past = net_of(), 0.8, []
    options = {"friendly": decay, "normalize": normalize}
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO, **options)
    for t in range(5):
        g = gradient(net)
        past.append(flat(g))
        mean = (1 - decay) * sum(decay ** (t - i) * past[i] for i in range(t + 1))
        d = past[-1] - mean
        d = RHO * (d / d.norm() if normalize else d)
        sizes = [v.numel() for v in g.values()]
        parts = zip(g, d.split(sizes), strict=True)
        true = gradient(net, {k: v.view_as(g[k]) for k, v in parts})
        opt.step(closure_of(net, opt))
        assert relative(grads(net), true) < EXACT


def test_friendly_sam_and_its_authors_code():
    """There: g minus the mean before it, which is the first gradient at first."""
    decay, mine, theirs, first = 0.6, [torch.zeros(6).double()], None, None
    for t, g in enumerate(torch.randn(9, 6, dtype=torch.float64)):
        (d,), mine = perturbation.friendly([g], mine, decay)
        if theirs is None:
            first = theirs = there = g
        else:
            there = g - (theirs - decay**t * first)
            theirs = decay * theirs + (1 - decay) * g
        assert torch.allclose(d / d.norm(), there / there.norm(), rtol=0, atol=1e-14)


MEMORIES = {"LookSAM": {"interval": 3, "reuse": 0.7}, "Friendly SAM": {"friendly": 0.9}}


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("name", MEMORIES)
def test_a_memory_resumes_bit_for_bit(name, base, tmp_path):
    def make(seed):
        net = net_of(seed)
        return net, SAM(base(net.parameters(), lr=0.05), rho=RHO, **MEMORIES[name])

    net, opt = make(0)
    for _ in range(4):
        opt.step(closure_of(net, opt))
    torch.save((net.state_dict(), opt.state_dict()), tmp_path / "saved.pt")
    net2, opt2 = make(1)
    model, state = torch.load(tmp_path / "saved.pt", weights_only=True)
    net2.load_state_dict(model)
    opt2.load_state_dict(state)
    for _ in range(4):
        opt.step(closure_of(net, opt))
        opt2.step(closure_of(net2, opt2))
    assert relative(weights(net), weights(net2)) == 0


@pytest.mark.parametrize("name", MEMORIES)
def test_a_step_that_is_skipped_leaves_no_memory(name):
    net = net_of()
    opt = SAM(torch.optim.SGD(net.parameters(), lr=0.1), rho=RHO, **MEMORIES[name])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)

    def closure(x):
        opt.zero_grad()
        loss = losses(net(x), Y).mean()
        scaler.scale(loss).backward()
        return loss

    opt.step(lambda: closure(X * float("inf")), scaler=scaler)
    scaler.update()
    assert not any(opt.state.values())
    for _ in range(3):
        opt.step(lambda: closure(X), scaler=scaler)
        scaler.update()
    assert all(torch.isfinite(v).all() for s in opt.state.values() for v in s.values())
    assert len(opt.state) == 4


@pytest.mark.parametrize("name", MEMORIES)
def test_a_memory_of_sparse_gradients(name):
    torch.manual_seed(0)
    weight, results = torch.randn(7, 3, dtype=torch.float64), []
    for sparse in (True, False):
        e = nn.Embedding(7, 3, _weight=weight.clone(), sparse=sparse)
        opt = SAM(torch.optim.SGD(e.parameters(), lr=0.1), rho=RHO, **MEMORIES[name])
        for tokens in ([1, 1, 4], [4, 0, 1], [2, 2, 6], [3, 0, 1]):

            def closure(e=e, opt=opt, tokens=tokens):
                opt.zero_grad()
                loss = e(torch.tensor(tokens)).pow(3).sum()
                loss.backward()
                return loss

            opt.step(closure)
        results.append(e.weight.detach())
    assert torch.allclose(*results, rtol=1e-12)


VARIANTS = [
    {"combine": partial(perturbation.gsam, alpha=0.4)},
    {"step_size_only": True},
    {"friendly": 0.9},
    {"interval": 2, "reuse": 0.7},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_variants_need_one_gradient_at_w_that_all_share(options):
    net = net_of()
    base = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="no pass is at w"):
        SAM(base, random_start=True, **options)
    with pytest.raises(ValueError, match="the weights of the ranks would part"):
        SAM(base, ascent_context=torch.no_grad, **options)
    opt, before = SAM(base, **options), weights(net)
    if "friendly" not in options:
        with pytest.raises(ValueError, match="of the same examples"):
            opt.step(closure_of(net, opt), closure_of(net, opt, X * 2))
    assert relative(weights(net), before) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reuse": 0.7}, "interval > 1"),
        ({"reuse": 0.0, "interval": 2}, "reuse must be a number > 0"),
        ({"friendly": 1.0}, r"friendly must be a number in \(0, 1\)"),
        ({"friendly": 0.9, "ascent_steps": 2}, "single ascent step"),
        ({"friendly": 0.9, "direction": "sphere"}, "a random direction"),
    ],
)
def test_bad_variants(options, message):
    with pytest.raises(ValueError, match=message):
        SAM(torch.optim.SGD(net_of().parameters(), lr=0.1), **options)


def test_sam_on_the_normalization_layers_alone():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)).double()
    twin = copy.deepcopy(net)
    opt = SAM(torch.optim.SGD(normalization_groups(net, rho=RHO), lr=0.0), rho=0.0)
    opt.step(closure_of(net, opt))
    g = gradient(twin)
    norm = torch.cat([g["1.weight"], g["1.bias"]]).norm()
    move = {k: RHO * v / norm if k.startswith("1.") else torch.zeros_like(v) for k, v in g.items()}
    assert relative(grads(net), gradient(twin, move)) < EXACT
    with pytest.raises(ValueError, match="no normalization layers"):
        normalization_groups(net_of(), rho=0.1)
