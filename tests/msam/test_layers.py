"""The rules one by one: the sizes that they count with, and arguments that a call leaves out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from msam.networks import CLASSES, GHOST, Forward, build, losses
from oracle import dense, grads, relative
from torch import nn

from samkit import Unsupported, msam_grad
from samkit.msam import cost
from samkit.msam.batch import Batch, per_example
from samkit.msam.ghost import Record
from samkit.msam.layers import Product

M = 3


@pytest.mark.parametrize("name", GHOST)
def test_a_product_counts_the_rows_it_has(name, monkeypatch):
    counted = []
    monkeypatch.setattr(
        cost, "gram_is_cheaper", lambda N, p, q, *, patches: counted.append((N, p, q)) or True
    )
    net, x, y = build(GHOST[name])
    params = [p for p in net.parameters() if p.requires_grad]
    record = Record(net, params, len(x) // M, len(x), decays=False)
    with record:
        loss = per_example(losses, net, Batch(x, y))
    held = [
        site.bytes - site.a.nbytes
        for site in record.sites
        if isinstance(site, Product) and site.has_gram  # others have the weight form alone
    ]
    record.backward(loss)
    for site in record.sites:
        if site.reached:
            site.squared_norms()
    products = [site for site in record.sites if isinstance(site, Product) and site.has_gram]
    assert len(counted) == len(products) == len(held)
    for site, (N, p, q), bytes in zip(products, counted, held, strict=True):
        if site.reached:
            G, c = len(x) // M, site.g_rows.shape[1]
            assert site.a_rows.shape == (G, c, N, p)
            assert site.g_rows.shape == (G, c, N, q)
            assert bytes == 8 * G * c * cost.gram_numbers(N, p, q)


def test_counts_for_the_weight_form(monkeypatch):
    monkeypatch.setattr(cost, "gram_is_cheaper", lambda *_, **__: False)
    net, x, y = build(GHOST["conv"])
    record = Record(net, list(net.parameters()), len(x) // M, len(x), decays=False)
    with record:
        per_example(losses, net, Batch(x, y))
    products = [site for site in record.sites if isinstance(site, Product)]
    weights = [layer.weight.numel() for layer in net.modules() if hasattr(layer, "kernel_size")]
    held = [site.bytes - site.a.nbytes for site in products[:2]]
    assert held == [8 * len(x) // M * 2 * size for size in weights[:2]]  # weights, and gradient


#: calls with every argument left out that may be, of x (b, 4, 3, 5)
FUNCTIONS = {
    "linear": lambda s, x: F.linear(x, s.matrix),
    "conv1d": lambda s, x: F.conv1d(x.flatten(2), s.filters1),
    "conv2d": lambda s, x: F.conv2d(x, s.filters),
    "conv1d, same": lambda s, x: F.conv1d(x[..., 0], s.even1, padding="same", dilation=3),
    "conv2d, same": lambda s, x: F.conv2d(x, s.even, padding="same", dilation=(1, 3)),
    "conv2d, same, one dilation": lambda s, x: F.conv2d(x, s.even, padding="same", dilation=2),
    "group_norm": lambda s, x: F.group_norm(x, 2, s.scale),
    "layer_norm": lambda s, x: F.layer_norm(x, (5,), s.row),
    "rms_norm": lambda s, x: F.rms_norm(x, (5,), s.row),
    "instance_norm": lambda s, x: F.instance_norm(x, weight=s.scale),
    "batch_norm": lambda s, x: F.batch_norm(x, s.mean, s.variance, s.scale),
    "embedding": lambda s, x: F.embedding((x[:, 0] > 0).long() + 2 * (x[:, 1] > 0), s.matrix),
}


def one(how):
    """A network of one such call and a linear layer; the call's parameters are its leaves."""
    torch.manual_seed(0)
    sizes = {"matrix": (6, 5), "scale": (4,), "row": (5,)}
    sizes |= {"filters": (6, 4, 2, 2), "even": (6, 4, 2, 4)}
    sizes |= {"filters1": (6, 4, 2), "even1": (6, 4, 4)}
    parameters = {name: nn.Parameter(torch.randn(size)) for name, size in sizes.items()}
    fixed = {"mean": torch.randn(4).double(), "variance": torch.rand(4).double() + 0.5}
    net = Forward(lambda s, x: s.head(how(s, x).flatten(1)), head=nn.LazyLinear(CLASSES))
    for name, value in (parameters | fixed).items():
        setattr(net, name, value)
    net.double()
    x = torch.randn(12, 4, 3, 5).double()
    net(x)
    return net, x, torch.randint(CLASSES, (12,))


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_call_leaves_out(name, gram, monkeypatch):
    monkeypatch.setattr(cost, "gram_is_cheaper", lambda *_, **__: gram)
    net, x, y = one(FUNCTIONS[name])
    for m in (1, 5):
        net.zero_grad()
        msam_grad(net, losses, x, y, rho=0.3, m=m, method="ghost")
        assert relative(grads(net), dense(net, losses, x, y, rho=0.3, m=m)) < 1e-12


@pytest.mark.parametrize(("shape", "dims"), [((12, 5, 5), 2), ((12, 5), 1)])
def test_a_convolution_of_one_example_is_no_batch(shape, dims):
    function = F.conv2d if dims == 2 else F.conv1d
    net = Forward(
        lambda s, x: function(x, s.w).flatten(1), w=nn.Parameter(torch.randn(12, 12, *[2] * dims))
    )
    x, y = torch.randn(shape), torch.zeros(12).long()
    record = Record(net, list(net.parameters()), 4, 12, decays=False)
    with record, pytest.raises(Unsupported, match="without a batch dimension"):
        per_example(losses, net, Batch(x, y))


@pytest.mark.parametrize("how", [lambda w, x: x + w, lambda w, x: w.expand(12, 7) * x])
def test_a_parameter_of_every_example_is_no_parameter_of_all(how):
    net = Forward(lambda s, x: how(s.w, x), w=nn.Parameter(torch.randn(12, 7)))
    record = Record(net, [net.w], 4, 12, decays=False)
    with record, pytest.raises(Unsupported, match="a dimension for the examples"):
        net(torch.randn(12, 7))


def test_weight_decay_and_a_normalization_with_a_shift_alone():
    net = Forward(
        lambda s, x: s.b(F.layer_norm(x, (7,), None, s.shift)),
        shift=nn.Parameter(torch.randn(7)),
        b=nn.Linear(7, CLASSES),
    )
    x, y = torch.randn(12, 7), torch.randint(CLASSES, (12,))
    with pytest.raises(Unsupported, match="not proportional"):
        msam_grad(net, losses, x, y, rho=0.3, m=3, weight_decay=0.1, method="ghost")
