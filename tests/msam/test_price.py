"""The price on paper, held against what torch counts while a step is made."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.bench_msam import losses
from benchmarks.measure import Work
from benchmarks.nets import GPT, mlp
from samkit import SAM, msam_grad
from samkit.msam import price

B, T, D, WORDS = 16, 24, 48, 40


def case(name):
    """The shapes, the network, a batch."""
    torch.manual_seed(0)
    if name == "mlp":
        widths = (90, 150, 60, 10)
        return price.mlp(widths), mlp(widths), torch.randn(B, 90), torch.randint(10, (B,))
    if name == "gpt":
        words = torch.randint(WORDS, (B, T + 1))
        net = GPT(words=WORDS, length=T, d=D, blocks=2, heads=4)
        return price.transformer(T, D, 2, WORDS), net, words[:, :-1], words[:, 1:]
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.GroupNorm(4, 32), nn.ReLU()),
        *(nn.Conv2d(32, 8, 1), nn.Flatten(), nn.Linear(8 * 36, 10)),
    )
    layers = [
        price.convolution(12, 3, 16, 3, 1, back=False),
        price.convolution(12, 16, 32, 3, 2),
        price.convolution(6, 32, 8, 1, 1),
        price.Layer(1, 8 * 36, 10),
    ]
    return layers, net, torch.randn(B, 3, 12, 12), torch.randint(10, (B,))


def counted(net, x, y, m):
    """What a step of SGD, SAM (m = b) or m-SAM does, once it has been made before."""
    base = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    opt = SAM(base, rho=0.05)

    def closure():
        base.zero_grad()
        loss = losses(net(x), y).mean()
        loss.backward()
        return loss

    def step():
        if m is None or m == B:
            (opt if m else base).step(closure)
        else:
            base.zero_grad()
            msam_grad(net, losses, x, y, rho=0.05, m=m, method="ghost")
            base.step()

    for _ in range(2 if m in (None, B) else 5):  # the third call of msam_grad has no check
        step()
    gc.collect()
    with Work() as work:
        step()
    return work


@pytest.mark.parametrize(
    "name, m",  # one row alone is multiplied without a product, and torch miscounts channel groups
    [
        *(("mlp", m) for m in (None, 2, 4, B)),
        *(("gpt", m) for m in (None, 1, 4, B)),
        *(("convolutions", m) for m in (None, B)),
    ],
)
def test_multiplications_are_those_that_torch_counts(name, m):
    layers, net, x, y = case(name)
    with sdpa_kernel(SDPBackend.MATH):
        work = counted(net, x, y, m)
    assert price.multiplications(layers, B, m) == work.multiplications


@pytest.mark.parametrize("m", [None, 1, 4, B])
@pytest.mark.parametrize("name", ["mlp", "gpt", "convolutions"])
def test_memory_is_within_a_fifth_of_what_is_held(name, m):
    layers, net, x, y = case(name)
    assert 4 * price.peak(layers, B, m) == pytest.approx(counted(net, x, y, m).peak, rel=0.2)


@pytest.mark.parametrize(
    "layers, weights, forward",
    [(price.resnet50(), 25.6e6, 4.09e9), (price.vit_large(), 304e6, 61.6e9)],
    ids=["ResNet-50", "ViT-L/16"],
)
def test_networks_of_the_literature_have_the_sizes_that_are_known(layers, weights, forward):
    assert sum(layer.weights for layer in layers) == pytest.approx(weights, rel=0.01)
    one = sum(x.rows * x.p * (x.q + 2 * x.attends) for x in layers)
    assert one == pytest.approx(forward, rel=0.01)


def test_of_a_7b_network_with_lora_a_thousandth_is_trained():
    layers = price.llama_lora(T=1)
    assert sum(layer.p * layer.q for layer in layers) == pytest.approx(6.7e9, rel=0.03)
    assert sum(layer.weights for layer in layers) == pytest.approx(8.4e6, rel=0.04)
    assert price.multiplications(layers, 8, 8) == 2 * price.multiplications(layers, 8)
