"""The ghost path against the dense definition and the loop, in float64; and what it refuses."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msam.networks import GHOST, LOOP, Forward, build, losses, two
from oracle import dense, grads, relative
from torch import nn

from samkit import Unsupported, msam_grad
from samkit.msam import cost
from samkit.msam import plan as plans

# Rounding of sums over at most 12 * 72 float64 terms; the errors seen are below 2e-15.
EXACT = 1e-12

SIZES = [1, 2, 5, 6, 11, 12]  # 5 and 11 leave a ragged last group


def check(net, x, y, monkeypatch, **options):
    """The loop, and both forms of the ghost path, against the definition."""
    true = dense(net, losses, x, y, rho=0.3, **options)
    options |= {"weight_decay": options.pop("decay", 0.0)}
    for method in ("loop", "gram", "weight"):
        monkeypatch.setattr(cost, "gram_is_cheaper", lambda *_, by=method, **__: by == "gram")
        options["method"] = "loop" if method == "loop" else "ghost"
        net.zero_grad()
        loss = msam_grad(net, losses, x, y, rho=0.3, **options)
        assert relative(grads(net), true) < EXACT, (method, options)
        assert abs(loss - losses(net(x), y).mean()) < EXACT


NORMALIZE = [True, pytest.param(False, marks=pytest.mark.slow)]


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("name", GHOST)
def test_equals_the_definition_and_the_loop(name, normalize, device, monkeypatch):
    net, x, y = (part.to(device) for part in build(GHOST[name]))
    for m in SIZES:
        check(net, x, y, monkeypatch, m=m, normalize=normalize)


#: networks with a layer whose outputs are not proportional to what is trained
IN_PART = ("frozen weight", "frozen bias", "frozen scale", "quotient, difference, PReLU")


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("name", [name for name in GHOST if name not in IN_PART])
def test_weight_decay_of_the_loss(name, normalize, monkeypatch):
    net, x, y = build(GHOST[name])
    for m, decay in ((1, 0.2), (5, 1.0), (6, 0.2), (12, 0.2)):
        check(net, x, y, monkeypatch, m=m, normalize=normalize, decay=decay)


@pytest.mark.parametrize("name", IN_PART)
def test_weight_decay_of_a_layer_trained_in_part_is_for_the_loop(name):
    net, x, y = build(GHOST[name])
    options = {"rho": 0.3, "m": 5, "weight_decay": 0.2}
    with pytest.raises(Unsupported, match="not proportional"):
        msam_grad(net, losses, x, y, **options, method="ghost")
    with pytest.warns(match="not proportional"):
        msam_grad(net, losses, x, y, **options)
    assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=5, decay=0.2)) < EXACT


@settings(max_examples=30, deadline=None)
@given(
    b=st.integers(1, 9),
    m=st.integers(1, 9),
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    lead=st.lists(st.integers(1, 3), max_size=2),
    bias=st.booleans(),
    rho=st.floats(0.0, 2.0),
    seed=st.integers(0, 99),
)
def test_any_shape_and_group(b, m, widths, lead, bias, rho, seed):
    torch.manual_seed(seed)
    m = min(m, b)
    layers = []
    for p, q in zip([3, *widths], [*widths, 2], strict=True):
        layers += [nn.Linear(p, q, bias=bias), nn.Tanh()]
    net = nn.Sequential(*layers).double()
    x, y = torch.randn(b, *lead, 3).double(), torch.randn(b, *lead, 2).double()

    def loss_fn(z, y):
        return (z - y).square().flatten(1).sum(1)

    true = dense(net, loss_fn, x, y, rho=rho, m=m)
    msam_grad(net, loss_fn, x, y, rho=rho, m=m, method="ghost")
    assert relative(grads(net), true) < 1e-10  # 1 / ||g|| may magnify rounding


@settings(max_examples=15, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    blocks=st.sampled_from([1, 2, 4]),
    m=st.integers(1, 4),
    gram=st.booleans(),
)
def test_any_convolution(kernel, stride, padding, dilation, blocks, m, gram):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups=blocks)
    net = nn.Sequential(conv, nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)).double()
    x, y = torch.randn(4, 4, 7, 6).double(), torch.randint(2, (4,))
    net(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "gram_is_cheaper", lambda *_, **__: gram)
        msam_grad(net, losses, x, y, rho=0.3, m=m, method="ghost")
    assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=m)) < EXACT


@pytest.mark.parametrize("name", LOOP)
def test_refuses_and_auto_takes_the_loop(name):
    make = LOOP[name]
    net, x, y = build(make)
    with pytest.raises(Unsupported, match=make[2]):
        msam_grad(net, losses, x, y, rho=0.3, m=3, method="ghost")
    assert all(p.grad is None for p in net.parameters())
    for expected in (pytest.warns(UserWarning, match=make[2]), nullcontext()):  # once
        net.zero_grad()
        with expected:
            msam_grad(net, losses, x, y, rho=0.3, m=3)
        found = grads(net)
        net.zero_grad()
        msam_grad(net, losses, x, y, rho=0.3, m=3, method="loop")
        assert relative(found, grads(net)) == 0


def test_float32_stays_close_to_float64():
    net, x, y = build(GHOST["conv"])
    true = dense(net, losses, x, y, rho=0.3, m=2)
    net.float()
    msam_grad(net, losses, x.float(), y, rho=0.3, m=2, method="ghost")
    assert relative({k: g.double() for k, g in grads(net).items()}, true) < 5e-6


@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize(("groups", "forwards"), [(1, 12), (2, 6), (4, 4), (100, 2)])
def test_parts_that_fit_give_the_same(groups, forwards, decay, monkeypatch):
    net, x, y = build(GHOST["conv"])
    options = {"rho": 0.3, "m": 2, "weight_decay": decay, "method": "ghost"}
    msam_grad(net, losses, x, y, **options)
    (plan,) = plans._PLANS[net].values()
    (bytes,) = plan.bytes.values()
    monkeypatch.setattr(plans, "check", lambda *_, **__: 0.0)
    calls = []
    net.register_forward_hook(lambda *_: calls.append(1))
    net.zero_grad()
    msam_grad(net, losses, x, y, **options, max_bytes=groups * bytes)
    assert len(calls) == forwards  # two for each part of 6 groups
    net._forward_hooks.clear()
    assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=2, decay=decay)) < EXACT


def test_a_group_without_gradient_does_not_move():
    net = nn.Sequential(nn.Linear(2, 2, bias=False)).double()
    x = torch.tensor([[0.0, 0.0], [1.0, 2.0]]).double()
    y = torch.tensor([[1.0, 1.0], [0.0, 1.0]]).double()

    def loss_fn(z, y):
        return (z - y).square().sum(1)

    for method in ("loop", "ghost"):
        net.zero_grad()
        msam_grad(net, loss_fn, x, y, rho=0.3, m=1, method=method)
        assert relative(grads(net), dense(net, loss_fn, x, y, rho=0.3, m=1)) < EXACT


def test_closed_form_of_one_linear_neuron():
    # l_i = (w x_i - y_i)^2 / 2, unnormalized: grad l_i(w + rho r_i x_i) = (r_i + rho r_i x_i^2) x_i
    x, y, w, rho = torch.randn(5, 1).double(), torch.randn(5, 1).double(), 0.7, 0.2
    net = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(net.weight, w)
    msam_grad(net, lambda z, y: (z - y).square().sum(1) / 2, x, y, rho=rho, m=1, normalize=False)
    r = w * x - y
    assert torch.allclose(
        net.weight.grad, ((r + rho * r * x**2) * x).mean()[None, None], rtol=1e-14
    )


@pytest.mark.parametrize("where", ["whole model", "one layer", "module.compile"])
def test_compiled_models(where):
    net, x, y = build(GHOST["mlp"])
    true = dense(net, losses, x, y, rho=0.3, m=3)
    model = net
    if where == "whole model":
        model = torch.compile(net, backend="eager")
    elif where == "one layer":
        model = nn.Sequential(torch.compile(net[:2], backend="eager"), net[2:])
    else:
        net.compile(backend="eager")
    for method in ("ghost", "loop", "auto"):
        net.zero_grad()
        msam_grad(model, losses, x, y, rho=0.3, m=3, method=method)
        assert relative(grads(net), true) < EXACT


def test_hooks_of_the_user_take_part():
    net, x, y = build(GHOST["mlp"])
    calls = []
    net[0].register_forward_pre_hook(lambda _, args: (2 * args[0],))
    net[2].register_forward_hook(lambda _, __, z: z.sin())
    true = dense(net, losses, x, y, rho=0.3, m=3)
    net[4].register_full_backward_hook(lambda *_: calls.append(1))
    msam_grad(net, losses, x, y, rho=0.3, m=3, method="ghost")
    assert relative(grads(net), true) < EXACT
    assert calls


@pytest.mark.parametrize("method", ["ghost", "auto"])
def test_a_model_that_changes_its_course_in_the_second_pass(method, monkeypatch):
    monkeypatch.setattr(plans.Plan, "loop_is_faster", False)  # whatever the clock says
    course = {"calls": 0}

    def how(s, x):
        course["calls"] += 1
        return s.b(x) if course["calls"] == 2 else s.b(s.a(x))

    net = two(how)().double()
    x, y = torch.randn(12, 7).double(), torch.randint(5, (12,))
    for _ in range(2):  # a third call is not checked
        msam_grad(net, losses, x, y, rho=0.3, m=3, method="ghost")
    net.zero_grad()
    course["calls"] = 0
    if method == "ghost":
        with pytest.raises(Unsupported, match="differently in the second pass"):
            msam_grad(net, losses, x, y, rho=0.3, m=3, method="ghost")
        assert all(p.grad is None for p in net.parameters())
    else:  # goes over to the loop in the middle of the call
        with pytest.warns(match="differently in the second pass"):
            msam_grad(net, losses, x, y, rho=0.3, m=3)
        assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=3)) < EXACT


def by_valid_targets(z, y):
    """The mean over the batch's targets other than 0."""
    valid = (y > 0).to(z.dtype)
    return losses(z, y) * valid / valid.sum().clamp(min=1) * len(y)


def by_class(z, y):
    """Classes that are rare in the batch count for more."""
    return losses(z, y) / torch.bincount(y, minlength=5)[y]


@pytest.mark.parametrize("m", [1, 3, 5])
@pytest.mark.parametrize("loss_fn", [by_valid_targets, by_class])
def test_losses_that_count_the_targets_of_the_batch(loss_fn, m):
    net, x, y = build(GHOST["mlp"])
    y[:6] = torch.tensor([0, 1, 1, 2, 1, 4])
    with pytest.raises(Unsupported, match="depends on other ones"):
        msam_grad(net, loss_fn, x, y, rho=0.3, m=m, method="ghost")
    with pytest.warns(match="depends on other ones"):
        msam_grad(net, loss_fn, x, y, rho=0.3, m=m)
    assert relative(grads(net), dense(net, loss_fn, x, y, rho=0.3, m=m)) < EXACT


@pytest.mark.parametrize("later", [False, True])
def test_hooks_on_the_gradient_of_a_parameter(later):
    net, x, y = build(GHOST["mlp"])
    if later:
        msam_grad(net, losses, x, y, rho=0.3, m=3, method="ghost")
    handle = net[0].weight.register_hook(lambda g: g * (torch.arange(9) < 4).view(9, 1))
    with pytest.raises(Unsupported, match="a hook on its gradient"):
        msam_grad(net, losses, x, y, rho=0.3, m=3, method="ghost")
    handle.remove()
    net.zero_grad()
    msam_grad(net, losses, x, y, rho=0.3, m=3, method="ghost")
    assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=3)) < EXACT


def test_tokens_that_depend_on_the_weights():
    def how(s, x):
        z = s.a(x)
        return s.e((z.detach() > 0).long()).mean(1) + z

    net = Forward(how, a=nn.Linear(7, 5), e=nn.Embedding(2, 5)).double()
    x, y = torch.randn(12, 7).double(), torch.randint(5, (12,))
    with pytest.raises(Unsupported, match="tokens depend on the weights"):
        msam_grad(net, losses, x, y, rho=3.0, m=3, method="ghost")
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("method", ["ghost", "auto"])
def test_saved_for_backward_packed_by_the_user(method):
    net, x, y = build(GHOST["mlp"])
    true = dense(net, losses, x, y, rho=0.3, m=3)
    packed = torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t)
    with packed:
        msam_grad(net, losses, x, y, rho=0.3, m=3, method=method)
    assert relative(grads(net), true) < EXACT


def test_sparse_embedding_keeps_a_sparse_gradient():
    net = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(12, 5)).double()
    t, y = torch.randint(9, (6, 3)), torch.randint(5, (6,))
    true = dense(
        nn.Sequential(nn.Embedding(9, 4, _weight=net[0].weight), net[1], net[2]),
        losses,
        t,
        y,
        rho=0.3,
        m=2,
    )
    for method in ("loop", "ghost"):
        net.zero_grad()
        msam_grad(net, losses, t, y, rho=0.3, m=2, method=method)
        assert net[0].weight.grad.is_sparse
        dense_grad = {k: g.to_dense() if g.is_sparse else g for k, g in grads(net).items()}
        assert relative(dense_grad, true) < EXACT


@pytest.mark.parametrize("decay", [0.0, 0.2])
@pytest.mark.parametrize("method", ["loop", "ghost"])
def test_bf16_autocast(method, decay):
    net, x, y = build(GHOST["conv"], torch.float32)
    true = dense(net, losses, x, y, rho=0.3, m=3, decay=decay)
    with torch.autocast("cpu", torch.bfloat16):
        msam_grad(net, losses, x, y, rho=0.3, m=3, weight_decay=decay, method=method)
    assert 0 < relative(grads(net), true) < 0.1  # bfloat16 has 8 bits
    assert all(p.grad.dtype == torch.float32 for p in net.parameters())


def test_weights_in_bf16():
    net, x, y = build(GHOST["mlp"])
    true = dense(net, losses, x, y, rho=0.3, m=3)
    net.bfloat16()
    msam_grad(net, losses, x.bfloat16(), y, rho=0.3, m=3, method="ghost")
    assert relative({k: g.double() for k, g in grads(net).items()}, true) < 0.1
