"""The check by value: what it must see, what it must let pass, and what it must leave alone."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from msam.networks import CLASSES, GHOST, Forward, build, losses, two
from oracle import dense, grads, relative
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from samkit import Unsupported, msam_grad
from samkit.msam import check as checks
from samkit.msam.batch import Batch
from samkit.msam.check import Paths, check

EXACT = 1e-12
DEPENDS, DIFFERS = "depends on other ones", "differs from the loop"


def vector(b: int = 12) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(b, 7).double(), torch.randint(CLASSES, (b,))


def deviation(s: nn.Module, x: Tensor) -> Tensor:
    """The minibatch deviation of a discriminator: each example with the g-th after it."""
    h = s.a(x)
    g = min(4, len(h))
    deviation = (h.view(g, -1, 7).var(0, correction=0) + 1e-8).sqrt().mean(1)
    return s.b(h * deviation.repeat(g)[:, None])


def slope(s: nn.Module, x: Tensor) -> Tensor:
    """A field whose values are the derivatives of a network by its input."""
    x = x.detach().requires_grad_()
    z = s.b(s.a(x).tanh())
    return z + torch.autograd.grad(z.square().sum(), x, create_graph=True)[0][:, :CLASSES]


def slope_by_func(s: nn.Module, x: Tensor) -> Tensor:
    def energy(x: Tensor) -> Tensor:
        return s.b(s.a(x).tanh()).square().sum()

    return torch.func.grad(energy)(x)[:, :CLASSES] + s.b(x)


def by_numpy(s: nn.Module, x: Tensor) -> Tensor:
    return s.b(s.a(torch.from_numpy(x.numpy().clip(-1, 1))))


def straight_through(s: nn.Module, x: Tensor) -> Tensor:
    w = s.a.weight
    return s.b(F.linear(x, w + (w.detach().sign() - w.detach())))


#: forward passes that the fast path would get wrong, or cannot do: (how, reason)
WRONG: dict[str, tuple[Callable[[nn.Module, Tensor], Tensor], str]] = {
    "minibatch deviation": (deviation, DEPENDS),
    "the next example": (lambda s, x: s.b(s.a(x) + x.roll(1, 0)), DEPENDS),
    "the rank in the batch": (lambda s, x: s.b(s.a(x) + x.argsort(0).double()), DEPENDS),
    "half of the batch": (lambda s, x: s.b(s.a(x) + x[: -(-len(x) // 2)].mean(0)), DEPENDS),
    "the size of the batch": (lambda s, x: s.b(s.a(x)) / len(x), DEPENDS),
    "the largest of the batch": (lambda s, x: s.b(s.a(x) / x.abs().max()), DEPENDS),
    "every second one": (
        lambda s, x: s.b(s.a(x)) + torch.cat([x[::2], x[1::2]])[:, :CLASSES],
        DEPENDS,
    ),
    "a derivative by the input": (slope, DIFFERS),
    "a derivative by torch.func": (slope_by_func, "no rule|fails, where|differs|used twice"),
    "a parameter read as a number": (lambda s, x: s.b(s.a(x) * s.t * s.t.item()), DIFFERS),
    "a parameter read as a list": (lambda s, x: s.b(s.a(x) * max(s.a.bias.tolist())), DIFFERS),
    "a parameter's data": (lambda s, x: s.b(s.a(x) * s.scale.data), "no rule|differs"),
    "a straight-through weight": (straight_through, "no rule|used twice"),
    "a parameter by numpy": (
        lambda s, x: s.b(s.a(x) * torch.from_numpy(s.scale.detach().numpy() ** 2)),
        "no rule",
    ),
}


@pytest.mark.parametrize("m", [1, 4])
@pytest.mark.parametrize("name", WRONG)
def test_what_the_fast_path_gets_wrong_is_for_the_loop(name, m):
    how, reason = WRONG[name]
    net, (x, y) = two(how)().double(), vector()
    net.t = nn.Parameter(torch.tensor(0.7).double())
    with pytest.raises(Unsupported, match=reason):
        msam_grad(net, losses, x, y, rho=0.5, m=m, method="ghost")
    assert all(p.grad is None for p in net.parameters())
    with pytest.warns(match=reason):
        msam_grad(net, losses, x, y, rho=0.5, m=m)
    by_auto = grads(net)
    net.zero_grad()
    msam_grad(net, losses, x, y, rho=0.5, m=m, method="loop")
    assert relative(by_auto, grads(net)) == 0


def test_losses_divided_by_the_size_of_the_batch():
    net, (x, y) = two(lambda s, x: s.b(s.a(x)))().double(), vector()

    def loss_fn(z: Tensor, y: Tensor) -> Tensor:
        return losses(z, y) / len(y)

    with pytest.warns(match=DEPENDS):
        msam_grad(net, loss_fn, x, y, rho=0.3, m=3)
    assert relative(grads(net), dense(net, loss_fn, x, y, rho=0.3, m=3)) < EXACT


def test_a_checkpointed_first_layer_is_right_either_way():
    net, (x, y) = (
        two(lambda s, x: s.b(checkpoint(s.a, x, use_reentrant=False)))().double(),
        vector(),
    )
    for m in (1, 3, 6):
        net.zero_grad()
        with warnings.catch_warnings(action="ignore"):  # the loop takes over for some m
            msam_grad(net, losses, x, y, rho=0.3, m=m)
        plain = Forward(lambda s, x: s.b(s.a(x)), a=net.a, b=net.b, scale=net.scale)
        assert relative(grads(net), dense(plain, losses, x, y, rho=0.3, m=m)) < EXACT


def test_a_forward_with_numpy_on_its_inputs_stays_fast():
    net, (x, y) = two(by_numpy)().double(), vector()
    msam_grad(net, losses, x, y, rho=0.3, m=3, method="ghost")
    assert relative(grads(net), dense(two_clipped(net), losses, x, y, rho=0.3, m=3)) < EXACT


def two_clipped(net: nn.Module) -> nn.Module:
    return Forward(lambda s, x: s.b(s.a(x.clamp(-1, 1))), a=net.a, b=net.b, scale=net.scale)


def test_complex_weights_are_for_the_loop():
    net = Forward(
        lambda s, x: s.b((x.to(torch.complex128) @ s.w).abs()),
        w=nn.Parameter(torch.randn(7, 6, dtype=torch.complex128)),
        b=nn.Linear(6, CLASSES).double(),
    )
    x, y = vector()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        msam_grad(net, losses, x, y, rho=0.3, m=3)
    by_auto = grads(net)
    net.zero_grad()
    msam_grad(net, losses, x, y, rho=0.3, m=3, method="loop")
    # the same network in real numbers
    w = torch.view_as_real(net.w.detach())
    real = Forward(
        lambda s, x: s.b(torch.hypot(x @ s.w[..., 0], x @ s.w[..., 1])), w=nn.Parameter(w), b=net.b
    )
    true = dense(real, losses, x, y, rho=0.3, m=3)
    for found in (grads(net), by_auto):
        assert relative(found | {"w": torch.view_as_real(found["w"])}, true) < EXACT


# Layers that change their input

IN_PLACE = {
    "dropout": lambda inplace: nn.Sequential(nn.Dropout(0.5, inplace), nn.Linear(7, CLASSES)),
    "relu": lambda inplace: nn.Sequential(nn.ReLU(inplace), nn.Linear(7, CLASSES)),
    "leaky relu": lambda inplace: nn.Sequential(nn.LeakyReLU(2.0, inplace), nn.Linear(7, CLASSES)),
}


@pytest.mark.parametrize("method", ["loop", "ghost", "auto"])
@pytest.mark.parametrize("m", [1, 5, 12])
@pytest.mark.parametrize("name", IN_PLACE)
def test_a_layer_that_changes_the_batch_in_place(name, m, method):
    x, y = vector()
    found = {}
    for inplace in (True, False):
        torch.manual_seed(0)
        net, batch = IN_PLACE[name](inplace).double(), x.clone()
        for _ in range(2):
            msam_grad(net, losses, batch, y, rho=0.3, m=m, method=method)
        found[inplace] = grads(net)
        assert torch.equal(batch, x)
    assert relative(found[True], found[False]) < EXACT


# The chance of a miss


def coupled(pairs: Callable[[], tuple[Tensor, Tensor]]) -> nn.Module:
    """Two examples of the batch, found by their first numbers, have the sum of their features."""

    def how(s: nn.Module, x: Tensor) -> Tensor:
        h, (one, other) = s.a(x), pairs()
        first, second = (x[:, 0] == one).to(h), (x[:, 0] == other).to(h)
        mixed = torch.outer(first, second @ h) + torch.outer(second, first @ h)
        return s.b((h + mixed).tanh())

    return two(how)()


@pytest.mark.long
@pytest.mark.parametrize(("b", "m"), [(128, 1), (128, 2), (128, 8), (35, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_dependent_examples_are_never_missed_at_first(b, m, dtype):
    torch.manual_seed(0)
    x, y = torch.randn(b, 7, dtype=dtype), torch.randint(CLASSES, (b,))
    where = [0, b - 1]
    net = coupled(lambda: (x[where[0], 0], x[where[1], 0])).to(dtype)
    paths = Paths(net, losses, [*net.parameters()], OPTIONS, 2**30)
    for seed in range(6):
        i, j = torch.randperm(b)[:2].tolist()
        if i // m != j // m:
            where[:] = i, j
            with pytest.raises(Unsupported, match=DEPENDS):
                check(paths, Batch(x, y), m, level=2, seed=seed)
        where[:] = 0, 0 if m == 1 else 1
        if where[1]:  # dependence inside of a group is no fault
            check(paths, Batch(x, y), m, level=2, seed=seed)


OPTIONS = {"rho": 0.3, "normalize": True, "weight_decay": 0.0}


def pair(coupling: Callable[[Tensor, Tensor], Tensor]) -> tuple[nn.Module, Batch, list[int]]:
    """(network, 16 examples, where): to the features of one example something of another is added.

    where: which two.
    """
    torch.manual_seed(0)
    x, y, where = torch.randn(16, 7).double(), torch.randint(CLASSES, (16,)), [0, 1]

    def how(s: nn.Module, z: Tensor) -> Tensor:
        h = s.a(z).tanh()
        one, other = ((z[:, 0] == x[i, 0]).to(h) for i in where)
        return s.b(h + torch.outer(one, coupling(h, other @ h)))

    return two(how)().double(), Batch(x, y), where


def misses(net: nn.Module, batch: Batch, where: list[int], level: int, checks: int) -> int:
    """How many of these checks let the network pass, with two others each time."""
    paths, missed = Paths(net, losses, [*net.parameters()], OPTIONS, 2**30), 0
    for seed in range(checks):
        where[:] = torch.randperm(16, generator=torch.Generator().manual_seed(seed))[:2].tolist()
        with suppress(Unsupported):
            check(paths, batch, 1, level=level, seed=checks + seed)
            missed += 1
    return missed


#: what of another example is added to one's features
COUPLINGS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "value and derivative": lambda h, other: other,
    "a derivative alone": lambda h, other: other - other.detach(),
    "a value alone": lambda h, other: other.detach(),
}


@pytest.mark.parametrize("level", [2, 1])
@pytest.mark.parametrize("name", COUPLINGS)
def test_two_examples_that_depend_on_each_other_are_never_missed(name, level):
    assert misses(*pair(COUPLINGS[name]), level, checks=4) == 0


@pytest.mark.parametrize("derivative", [False, True])
def test_a_dependence_at_the_moved_weights_alone(derivative):
    def coupling(h: Tensor, other: Tensor) -> Tensor:
        moved = torch.cdist(h.detach(), home).amin(1).max() > 1e-9
        return (other - other.detach() if derivative else other.detach()) * moved

    net, batch, where = pair(coupling)
    home = net.a(batch.inputs).tanh().detach()
    assert misses(net, batch, where, level=2, checks=4) == 0
    if not derivative:
        assert misses(net, batch, where, level=1, checks=4) == 0


def test_where_vmap_cannot_run_the_model_later_checks_look_at_some_groups():
    """Of G groups sqrt(G): what one group alone has wrong is missed by the share of the others."""

    def coupling(h: Tensor, other: Tensor) -> Tensor:
        return other.detach() * float(h.detach().isfinite().all())  # a number is read

    problem = pair(coupling)
    assert misses(*problem, level=2, checks=2) == 0
    tried = 24
    missed, expected = misses(*problem, level=1, checks=tried) / tried, 1 - 4 / 16
    assert abs(missed - expected) < 3 * math.sqrt(expected * (1 - expected) / tried)


def test_numbers_without_influence_may_depend_on_the_batch():
    # The first, cheap look sees them; what the fast path computes has the last word.
    def how(s: nn.Module, x: Tensor) -> Tensor:
        length = int(x[:, :, 0].ne(0).sum(1).max())  # of the longest text
        h = s.a(x[:, :length])
        padding = x[:, :length, :1] == 0
        return s.b((h + padding * h.mean(0)).masked_fill(padding, 0).sum(1))

    net, y = two(how)().double(), torch.randint(CLASSES, (12,))
    words = torch.arange(5) <= torch.arange(12)[:, None] % 5
    x = torch.randn(12, 5, 7).double() * words[..., None]
    msam_grad(net, losses, x, y, rho=0.3, m=2, method="ghost")
    assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=2)) < EXACT


@pytest.mark.parametrize("b", [2, 3, 5, 12])
@pytest.mark.parametrize("name", ["BERT", "nanoGPT", "conv", "siamese"])
def test_the_cheap_look_at_first_passes_suspects_no_right_network(name, b, monkeypatch):
    compared = []
    monkeypatch.setattr(checks._Check, "agree", lambda _, batch, *__: compared.append(len(batch)))
    net, x, y = build(GHOST[name])
    paths = Paths(net, losses, [*net.parameters()], OPTIONS, 2**30)
    check(paths, Batch(x[:b], y[:b]), 1, level=2, seed=0)
    assert compared == [2]  # and not all groups as well


def test_the_message_says_where_the_dependence_is_seen_first():
    layers = nn.Sequential(nn.Linear(7, 7), nn.Linear(7, 7), nn.Linear(7, CLASSES)).double()
    x, y = vector()
    layers[1].register_forward_hook(lambda _, __, z: z - z.mean(0))
    with pytest.raises(Unsupported, match=r"first in what is given to '2\.weight' of Linear"):
        msam_grad(layers, losses, x, y, rho=0.3, m=3, method="ghost")
    layers[1]._forward_hooks.clear()

    def in_the_loss(z: Tensor, y: Tensor) -> Tensor:
        return losses(z, y) * z.square().mean()

    with pytest.raises(Unsupported, match="first in the loss"):
        msam_grad(layers, in_the_loss, x, y, rho=0.3, m=3, method="ghost")


def test_the_price_of_the_checks():
    # In floating-point operations, as multiples of those of an SGD step.
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, CLASSES))
    x, y = torch.randn(128, 64), torch.randint(CLASSES, (128,))

    def counted(step: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as flops:
            step()
        return flops.get_total_flops()

    sgd = counted(lambda: losses(net(x), y).mean().backward())
    calls = [
        counted(lambda: msam_grad(net, losses, x, y, rho=0.3, m=1, method="ghost")) / sgd
        for _ in range(8)
    ]
    first, later, without = calls[0], calls[1], calls[2]
    assert calls == [first, later, without, later, *[without] * 3, later]
    assert without < 2 and later - without < 3.5 and first - later < 5.5


# What must pass


class Noisy(nn.Module):
    """Draws in most of the ways in which layers draw."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mean, self.spread = nn.Linear(7, 16), nn.Linear(16, 8), nn.Linear(16, 8)
        self.b = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = F.dropout(self.a(x), 0.3).relu()
        h = h * torch.rand(len(h), 1, dtype=h.dtype).round()  # drops whole examples
        h = F.alpha_dropout(h, 0.1, training=True) + torch.native_dropout(h, 0.2, True)[0]
        mean, spread = self.mean(h), self.spread(h)
        h = mean + spread * torch.randn_like(mean)
        h = h + torch.bernoulli(h.detach().sigmoid()) + torch.normal(h.detach(), 0.1)
        return self.b(F.rrelu(h, training=False)) + torch.empty_like(h[:, :1]).exponential_()


@pytest.mark.parametrize("m", [1, 5])
def test_a_network_that_draws_stays_on_the_fast_path_and_draws_what_it_would(m):
    net, (x, y) = Noisy().double(), vector()
    torch.manual_seed(5)
    net(x)
    after = torch.get_rng_state()
    for _ in range(2):
        torch.manual_seed(5)
        msam_grad(net, losses, x, y, rho=0.3, m=m, method="ghost")
        assert torch.equal(torch.get_rng_state(), after)


def test_a_network_that_draws_and_depends_is_seen():
    net, (x, y) = two(lambda s, x: s.b(F.dropout((z := s.a(x)) - z.mean(0).detach())))(), vector()
    with pytest.raises(Unsupported, match=DEPENDS):
        msam_grad(net.double(), losses, x, y, rho=0.3, m=3, method="ghost")


def test_a_check_leaves_everything_as_it_was():
    net, x, y = build(GHOST["conv"])
    net.register_buffer("seen", torch.zeros(3))
    net.register_forward_pre_hook(lambda net, _: net.seen.add_(1.0).sum().isnan().item() or None)
    paths = Paths(net, losses, list(net.parameters()), OPTIONS, 2**30)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.get_rng_state()
    check(paths, Batch(x, y), 3, level=2, seed=0)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in net.parameters())


def test_what_a_hook_keeps_can_be_read_afterwards():
    net, x, y = build(GHOST["mlp"])
    seen: list[Tensor] = []
    next(iter(net.children())).register_forward_hook(lambda _, __, z: seen.append(z.detach()))
    msam_grad(net, losses, x, y, rho=0.3, m=1, method="ghost")
    assert all(z.isfinite().all() for z in seen)  # vmap's own tensors raise here


def test_what_a_module_keeps_can_be_read_afterwards():
    def how(s: nn.Module, x: Tensor) -> Tensor:
        s.seen = s.a(x)
        if getattr(s, "mask", None) is None or len(s.mask) != len(x):
            s.mask = torch.ones_like(x)
        return s.b(s.seen * s.mask)

    net, (x, y) = two(how)().double(), vector()
    paths = Paths(net, losses, [*net.parameters()], OPTIONS, 2**30)
    check(paths, Batch(x, y), 1, level=1, seed=0)
    assert net.seen.isfinite().all() and net.mask.sum() == net.mask.numel()


def test_fitted_examples_are_rounding_and_no_fault():
    # Their gradients are differences of nearly equal numbers, and a ReLU may go to its other side.
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(7, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    x, y = torch.randn(24, 7), torch.randint(5, (24,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3, momentum=0.9)
    paths = Paths(net, losses, list(net.parameters()), OPTIONS | {"rho": 0.05}, 2**30)
    for step in range(300):
        if step % 50 == 0:
            for m in (1, 5):
                check(paths, Batch(x, y), m, level=2, seed=step)
        optimizer.zero_grad()
        loss = losses(net(x), y).mean()
        loss.backward()
        optimizer.step()
    assert loss < 1e-4


@pytest.mark.parametrize("name", ["conv", "transformer", "mlp"])
@pytest.mark.parametrize("half", ["autocast", "weights"])
def test_half_precision_has_a_threshold_of_its_own(name, half):
    net, x, y = build(GHOST[name], torch.float32)
    if half == "weights":
        net.bfloat16()
        x = x.bfloat16() if x.is_floating_point() else x
    with torch.autocast("cpu", torch.bfloat16, enabled=half == "autocast"):
        for m in (1, 5):
            msam_grad(net, losses, x, y, rho=0.3, m=m, method="ghost")

        def dependent(z: Tensor, y: Tensor) -> Tensor:
            return losses(z, y) * (1 + z.square().mean())

        with pytest.raises(Unsupported, match=DEPENDS):
            msam_grad(net, dependent, x, y, rho=0.3, m=1, method="ghost")


# What is refused before anything moves


@pytest.mark.parametrize("method", ["loop", "ghost", "auto"])
@pytest.mark.parametrize("m", [3, 12])
@pytest.mark.parametrize("how", [lambda s, x: s.b(s.a(x)).detach(), lambda s, x: x[:, :CLASSES]])
def test_no_parameter_reached(how, m, method):
    net, (x, y) = two(how)().double(), vector()
    with pytest.raises(ValueError, match="no parameter of the model received a gradient"):
        msam_grad(net, losses, x.requires_grad_(), y, rho=0.3, m=m, method=method)
    assert all(p.grad is None for p in net.parameters()) and x.grad is None


@pytest.mark.parametrize("method", ["loop", "auto"])
@pytest.mark.parametrize("m", [3, 12])
def test_reentrant_checkpointing_names_the_way_out(m, method):
    net = two(lambda s, x: s.b(checkpoint(s.a, x + 0 * s.scale, use_reentrant=True)))().double()
    x, y = vector()
    with pytest.raises(ValueError, match="use_reentrant=False"):
        msam_grad(net, losses, x, y, rho=0.3, m=m, method=method)


def nested() -> Tensor:
    return torch.nested.nested_tensor([torch.ones(2, 7), torch.ones(3, 7)], layout=torch.jagged)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (lambda: torch.eye(2, 7).to_sparse(), "not sparse_coo.*to_dense"),
        (lambda: torch.eye(2, 7).to_sparse_csr(), "not sparse_csr"),
        (nested, "not a nested tensor"),
        (lambda: [torch.ones(3, 4, 5), torch.ones(3, 5, 4)], "stack these into one tensor"),
    ],
)
@pytest.mark.parametrize("method", ["loop", "ghost", "auto"])
def test_batches_that_cannot_be_cut_into_groups(inputs, message, method):
    net = nn.Linear(7, CLASSES)
    with warnings.catch_warnings(action="ignore"):
        x = inputs()
    with pytest.raises(ValueError, match=message):
        msam_grad(net, losses, x, torch.zeros(2).long(), rho=0.3, m=1, method=method)


@pytest.mark.parametrize(
    "names", [[*"abcdefghijkl"], tuple(range(12)), torch.zeros(12).numpy(), {"ids": [*range(12)]}]
)
@pytest.mark.parametrize("method", ["loop", "ghost", "auto"])
def test_what_is_no_tensor_and_has_a_part_for_each_example(names, method):
    def call(s: nn.Module, x: Tensor, names: object) -> Tensor:
        return s.b(s.a(x))

    x, y = vector()
    how = {"rho": 0.3, "method": method}
    with pytest.raises(ValueError, match="12 entries, as many as examples"):
        msam_grad(two(call)().double(), losses, (x, names), y, m=3, **how)
    msam_grad(two(call)().double(), losses, (x, names), y, m=12, **how)
    msam_grad(two(call)().double(), losses, (x, [224, 224]), y, m=3, **how)


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("method", ["loop", "ghost", "auto"])
@pytest.mark.parametrize("m", [3, 12])
@pytest.mark.parametrize("kind", ["fully_shard", "FullyShardedDataParallel"])
def test_sharded_models_are_refused(kind, m, method, one_rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    net = nn.Sequential(nn.Linear(7, 7), nn.Linear(7, CLASSES))
    if kind == "fully_shard":
        net = fully_shard(net, mesh=init_device_mesh("cpu", (1,)))
    else:
        with warnings.catch_warnings(action="ignore"):  # one rank is no shards
            net = FullyShardedDataParallel(net, device_id=torch.device("cpu"), use_orig_params=True)
    x, y = vector()
    with pytest.raises(Unsupported, match=r"sharded.*DistributedDataParallel"):
        msam_grad(net, losses, x.float(), y, rho=0.3, m=m, method=method)
