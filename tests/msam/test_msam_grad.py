"""The contract of msam_grad: arguments, p.grad, errors that change nothing, noise, BatchNorm."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from contextlib import contextmanager
from types import MappingProxyType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from msam.networks import (
    GHOST,
    attention,
    build,
    encoder,
    image,
    losses,
    mlp,
    picture,
    signal,
    vector,
    weights_too,
    words,
)
from oracle import dense, grads, relative
from torch import nn

from samkit import NonFinite, Undefined, Unsupported, msam_grad, passes

METHODS = ["loop", "ghost", "auto"]


@pytest.fixture
def problem():
    return build(GHOST["mlp"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"m": 0}, "from 1 to 12"),
        ({"m": 13}, "from 1 to 12"),
        ({"m": 2.0}, "integer"),
        ({"m": True}, "integer"),
        ({"rho": -0.1}, "rho"),
        ({"rho": float("nan")}, "rho"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"method": "fast"}, "method"),
        ({"targets": torch.zeros(11).long()}, "first dimension"),
        ({"targets": torch.zeros(0).long(), "inputs": torch.zeros(0, 7)}, "at least one"),
        ({"targets": torch.tensor(0), "inputs": torch.zeros(1, 7)}, "first dimension"),
        ({"targets": [], "inputs": []}, "at least one"),
        ({"inputs": np.zeros((12, 7))}, "no tensor in this ndarray"),
        ({"loss_fn": F.cross_entropy}, "reduction='none'"),
        ({"loss_fn": lambda z, y: z}, "reduction='none'"),
    ],
)
def test_bad_arguments_are_explained_and_change_nothing(problem, change, message):
    net, x, y = problem
    args = {"loss_fn": losses, "inputs": x, "targets": y, "rho": 0.1, "m": 3} | change
    with pytest.raises(ValueError, match=message):
        msam_grad(net, args.pop("loss_fn"), args.pop("inputs"), args.pop("targets"), **args)
    assert all(p.grad is None for p in net.parameters())


def test_nothing_to_train(problem):
    net, x, y = problem
    net.requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad"):
        msam_grad(net, losses, x, y, rho=0.1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("m", [1, 5, None])
def test_adds_to_the_gradients_that_are_there(problem, method, m):
    net, x, y = problem
    true = dense(net, losses, x, y, rho=0.3, m=m or 12, decay=0.3)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    msam_grad(net, losses, x, y, rho=0.3, m=m, weight_decay=0.3, method=method)
    assert relative({k: g - 1 for k, g in grads(net).items()}, true) < 1e-12


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("m", [1, 5, None])
def test_returns_the_mean_loss_where_the_weights_are(problem, method, m):
    net, x, y = problem
    expected = F.cross_entropy(net(x), y).detach()
    found = msam_grad(net, losses, x, y, rho=0.3, m=m, weight_decay=0.3, method=method)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert not found.requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_rho_0_is_the_plain_gradient(problem, method):
    net, x, y = problem
    losses(net(x), y).mean().backward()
    true = grads(net)
    net.zero_grad()
    with torch.no_grad():  # a caller's no_grad does no harm
        msam_grad(net, losses, x, y, rho=0.0, m=3, method=method)
    assert relative(grads(net), true) < 1e-14


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(7, 5), nn.Linear(3, 5)

    def forward(self, u, v):
        return self.a(u) * self.b(v)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_inputs_in_a_structure(method, kind):
    net = Two().double()
    u, v, y = torch.randn(12, 7).double(), torch.randn(12, 3).double(), torch.randint(5, (12,))
    inputs = {"u": u, "v": v} if kind is dict else kind((u, v))
    targets = {"y": y} if kind is dict else kind([y])

    def loss_fn(z, t):
        return losses(z, t["y" if kind is dict else 0])

    msam_grad(net, loss_fn, inputs, targets, rho=0.3, m=5, method=method)
    assert relative(grads(net), dense(net, losses, (u, v), y, rho=0.3, m=5)) < 1e-12


Pair = namedtuple("Pair", "u v")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "structure", [UserDict, OrderedDict, MappingProxyType, lambda d: Pair(**d)]
)
def test_other_mappings_and_named_tuples(method, structure):
    net = Two().double()
    u, v, y = torch.randn(12, 7).double(), torch.randn(12, 3).double(), torch.randint(5, (12,))
    targets = Pair(y, y)
    msam_grad(
        net,
        lambda z, t: losses(z, t.v),
        structure({"u": u, "v": v}),
        targets,
        rho=0.3,
        m=5,
        method=method,
    )
    assert relative(grads(net), dense(net, losses, (u, v), y, rho=0.3, m=5)) < 1e-12


@pytest.mark.parametrize("m", [np.int64(3), torch.tensor(3)])
def test_m_is_any_integer(problem, m):
    net, x, y = problem
    msam_grad(net, losses, x, y, rho=0.3, m=m)
    assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=3)) < 1e-12


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("m", [5, 12])
def test_a_non_finite_loss_changes_nothing(problem, method, m, bad):
    net, x, y = problem
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net[0].bias.grad = torch.ones_like(net[0].bias)
    x[-1] = bad  # in the last group, after the first ones are done
    with pytest.raises(NonFinite, match="inf or nan"):
        msam_grad(net, losses, x, y, rho=0.3, m=m, method=method)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(net[0].bias.grad, torch.ones_like(net[0].bias))
    assert net[0].weight.grad is None


@pytest.mark.parametrize("method", METHODS)
def test_a_non_finite_gradient_of_the_second_pass_changes_nothing(method):
    # exp(w) at w = 0 is 1, and so is its gradient; at w + rho it is beyond all numbers
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    net.weight.grad = torch.full((1, 1), 2.0)
    x, y = torch.ones(4, 1), torch.zeros(4)
    with pytest.raises(NonFinite, match="at the perturbed weights"):
        msam_grad(net, lambda z, y: z[:, 0].exp(), x, y, rho=1000.0, m=2, method=method)
    assert net.weight == 0 and net.weight.grad == 2.0


@pytest.mark.parametrize("method", METHODS)
def test_weights_come_back_bit_for_bit_also_after_an_error(problem, method):
    net, x, y = problem
    before = {k: v.clone() for k, v in net.state_dict().items()}
    msam_grad(net, losses, x, y, rho=0.3, m=5, method=method)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    calls = []

    def fails_in_the_second_pass(z, t):
        calls.append(0)
        if len(calls) >= 2:
            raise KeyError("mine")
        return losses(z, t)

    net.zero_grad()
    with pytest.raises(KeyError, match="mine"):
        msam_grad(net, fails_in_the_second_pass, x, y, rho=0.3, m=5, method=method)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


# Dropout


def noisy() -> nn.Sequential:
    return nn.Sequential(nn.Linear(7, 64), nn.Dropout(0.5), nn.ReLU(), nn.Linear(64, 5)).double()


@pytest.mark.parametrize("method", METHODS)
def test_both_passes_see_the_same_dropout_masks(method):
    # With the masks fixed and rho = 0 both passes are the same; so they are with rho > 0 where
    # the masks, seen at the layer's output, coincide.
    net, masks = noisy(), []
    net[1].register_forward_hook(lambda _, __, z: masks.append(z == 0))
    x, y = torch.randn(12, 7).double(), torch.randint(5, (12,))
    msam_grad(net, losses, x, y, rho=0.1, m=6, method=method)
    seen = masks if method == "loop" else masks[-2:]  # the others are of the check
    assert all(torch.equal(a, b) for a, b in zip(seen[::2], seen[1::2], strict=True))
    assert not torch.equal(seen[0], torch.zeros_like(seen[0]))


@pytest.mark.parametrize("m", [6, 12])
def test_a_step_draws_as_much_noise_as_a_plain_one(m):
    net = noisy()
    x, y = torch.randn(12, 7).double(), torch.randint(5, (12,))
    for method in ("ghost", "auto"):
        torch.manual_seed(3)
        losses(net(x), y)
        plain = torch.get_rng_state()
        torch.manual_seed(3)
        msam_grad(net, losses, x, y, rho=0.1, m=m, method=method)
        assert torch.equal(torch.get_rng_state(), plain)


#: networks with dropout: the layer's, and those of attention with and without its weights
DROPOUT = {
    "mlp": (noisy, vector),
    "encoder layer": (lambda: encoder(dropout=0.3, batch_first=True), words),
    "attention": (lambda: attention(weights_too, dropout=0.3), signal),
}


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("name", DROPOUT)
def test_dropout_ghost_is_the_gradient_under_its_masks(name, m):
    net, x, y = build(DROPOUT[name])
    weights = list(net.parameters())

    def group_grad(rows):
        torch.manual_seed(3)  # the masks of the whole batch, for every group
        return torch.autograd.grad(losses(net(x), y)[rows].mean(), weights)

    total = [torch.zeros_like(w) for w in weights]
    for i in range(0, 12, m):
        g = group_grad(slice(i, i + m))
        s = 0.3 / torch.cat([part.flatten() for part in g]).norm()
        with passes.Moves()(weights, g, s):
            for t, part in zip(total, group_grad(slice(i, i + m)), strict=True):
                t += part * m / 12
    torch.manual_seed(3)
    msam_grad(net, losses, x, y, rho=0.3, m=m, method="ghost")
    true = dict(zip(dict(net.named_parameters()), total, strict=True))
    assert relative(grads(net), true) < 1e-12


# BatchNorm


def batch_norm(track: bool = True) -> nn.Module:
    return image(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=track), nn.ReLU())


@pytest.mark.parametrize("method", ["ghost", "auto"])
@pytest.mark.parametrize("kind", ["train", "no running statistics", "functional"])
def test_batch_norm_by_the_batch_is_undefined_for_smaller_m(method, kind):
    net, x, y = build((lambda: batch_norm(kind != "no running statistics"), picture))
    net.eval() if kind == "no running statistics" else net.train()
    if kind == "functional":
        net = nn.Sequential(net[0].eval(), net[2:])
        net.forward = lambda x: net[1](F.batch_norm(net[0](x), None, None, training=True))
    with pytest.raises(Undefined, match="GroupNorm"):
        msam_grad(net, losses, x, y, rho=0.1, m=3, method=method)


def test_batch_norm_of_the_whole_batch_and_by_groups():
    net, x, y = build((batch_norm, picture))
    for m, method in [(12, "auto"), (12, "ghost"), (4, "loop")]:
        net.zero_grad()
        msam_grad(net, losses, x, y, rho=0.1, m=m, method=method)
        found = grads(net)
        still = {k: v.clone() for k, v in net.state_dict().items()}
        blank = nn.BatchNorm2d(4, track_running_stats=False).double()
        blank.load_state_dict({k: still[f"1.{k}"] for k in ("weight", "bias")})
        pure = nn.Sequential(net[0], blank, *net[2:])
        assert relative(found, dense(pure, losses, x, y, rho=0.1, m=m)) < 1e-12


@pytest.mark.parametrize(("m", "updates"), [(12, 1), (4, 3)])
def test_running_statistics_are_those_of_the_first_pass_alone(m, updates):
    net, x, y = build((batch_norm, picture))
    twin, _, _ = build((batch_norm, picture))
    twin.load_state_dict(net.state_dict())
    for i in range(0, 12, m):
        twin(x[i : i + m])
    msam_grad(net, losses, x, y, rho=0.1, m=m, method="loop")
    a, b = net.state_dict(), twin.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a if "running" in k or "num" in k)
    assert int(a["1.num_batches_tracked"]) == updates + 1  # and one from making the lazy layer


def test_refusal_names_the_reason_and_the_way_out():
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(7, 5))).double()
    with pytest.raises(Unsupported, match=r"_weight_norm.*original0.*'auto' or 'loop'"):
        msam_grad(
            net,
            losses,
            torch.randn(4, 7).double(),
            torch.randint(5, (4,)),
            rho=0.1,
            m=2,
            method="ghost",
        )


def test_frozen_parameters_neither_move_nor_count(problem):
    net, x, y = problem
    net[0].requires_grad_(False)
    true = dense(net, losses, x, y, rho=0.3, m=4)
    assert set(true) == {"2.weight", "4.weight", "4.bias"}
    for method in METHODS:
        net.zero_grad()
        msam_grad(net, losses, x, y, rho=0.3, m=4, method=method)
        assert relative(grads(net), true) < 1e-12
        assert net[0].weight.grad is None


@pytest.mark.parametrize("method", METHODS)
def test_where_the_gradient_is_0_nothing_moves_and_nothing_is_wrong(problem, method):
    net, x, y = problem
    loss = msam_grad(net, lambda z, y: 0 * z.sum(-1), x, y, rho=0.3, m=4, method=method)
    assert loss == 0 and all(not g.any() for g in grads(net).values())


def test_a_parameter_that_the_loss_does_not_reach_has_no_part(problem):
    net, x, y = problem
    net.aside = nn.Parameter(torch.ones(3).double())
    msam_grad(net, losses, x, y, rho=0.3, m=4, method="loop")
    assert net.aside.grad is None and torch.equal(net.aside, torch.ones(3).double())
    del net.aside
    assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=4)) < 1e-12


class Averaging(nn.Module):
    """Notes, as DistributedDataParallel does, which forward passes belong to no average."""

    def __init__(self, net):
        super().__init__()
        self.net, self.apart, self.passes = net, False, []

    def forward(self, x):
        self.passes.append("apart" if self.apart else "averaged")
        return self.net(x)

    @contextmanager
    def no_sync(self):
        self.apart = True
        yield
        self.apart = False


@pytest.mark.parametrize(("m", "groups"), [(4, 3), (5, 3), (12, 1), (None, 1)])
def test_a_model_on_several_ranks_is_averaged_once(problem, m, groups):
    net, x, y = problem
    model = Averaging(net)
    msam_grad(model, losses, x, y, rho=0.3, m=m, method="loop")
    assert model.passes == [*["apart"] * (2 * groups - 1), "averaged"]


def test_unfreezing_is_noticed(problem):
    net, x, y = problem
    for frozen in (True, False):
        net[0].requires_grad_(not frozen)
        net.zero_grad()
        msam_grad(net, losses, x, y, rho=0.3, m=4, method="ghost")
        assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=4)) < 1e-12


def test_autocast_sees_the_moved_weights():
    # Inside of one autocast context torch keeps the cast weights; a move must not be lost by it.
    net, x, y = mlp(), torch.randn(12, 7), torch.randint(5, (12,))
    found = []
    for rho in (0.0, 1.0):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            msam_grad(net, losses, x, y, rho=rho, method="loop")
        found.append(grads(net))
    assert relative(found[1], found[0]) > 0.1


@pytest.mark.parametrize("scale", [1e-10, 1e-20, 1e-22])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("method", ["loop", "ghost"])
def test_gradients_whose_squares_are_0_in_float32(problem, method, normalize, scale):
    net, x, y = problem

    def small(z, t):
        return scale * losses(z, t)

    rho = 0.3 if normalize else 0.3 / scale
    for m in (1, 5):
        true = dense(net.double(), small, x, y, rho=rho, m=m, normalize=normalize)
        net.float().zero_grad()
        msam_grad(net, small, x.float(), y, rho=rho, m=m, normalize=normalize, method=method)
        assert relative({k: g.double() for k, g in grads(net).items()}, true) < 1e-5


@pytest.mark.parametrize("method", ["loop", "ghost"])
def test_weights_in_half_precision(problem, method):
    # The squares of gradients of 1e-4 are 0 in float16, where 6e-8 is the smallest number.
    net, x, y = problem

    def small(z, t):
        return 1e-3 * F.cross_entropy(
            z.to(torch.promote_types(z.dtype, torch.float32)), t, reduction="none"
        )

    true = dense(net, small, x, y, rho=0.3, m=1)
    plain = dense(net, small, x, y, rho=0.0, m=1)
    net.half()
    msam_grad(net, small, x.half(), y, rho=0.3, m=1, method=method)
    assert relative({k: g.double() for k, g in grads(net).items()}, true) < 0.01
    assert relative(plain, true) > 0.1


@pytest.mark.parametrize("m", [1, 2])
def test_small_gradients_under_autocast_in_half_precision(m):
    # There rho / ||g|| is beyond the numbers of float16, which end at 65504; the move is not.
    net, x, y = build(GHOST["mlp"], torch.float32)
    found = {}
    for method in ("loop", "ghost"):
        net.zero_grad()
        with torch.autocast("cpu", torch.float16):
            msam_grad(
                net, lambda z, t: 1e-5 * losses(z.float(), t), x, y, rho=3.0, m=m, method=method
            )
        found[method] = grads(net)
    assert relative(found["ghost"], found["loop"]) < 0.15  # 6e-8 in numbers of 1e-6
