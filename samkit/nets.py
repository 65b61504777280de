"""The networks of the paper: pre-activation ResNets, the one-hidden-layer ReLU net, an MLP.

Widths and norms are parameters; the defaults are the paper's. Inputs of the ResNets are images
(b, 3, h, w) in [0, 1], not normalized, as in the authors' code.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("batch", "group", "none")
BLOCKS = {"tiny": (1, 1, 1, 1), "18": (2, 2, 2, 2), "34": (3, 4, 6, 3)}


def mlp(*widths: int, softplus: float | None = None) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them: ``mlp(40, 256, 256, 10)``.

    ``softplus`` is its sharpness, to replace ReLU by softplus; None for ReLU.

    >>> parameter_count(mlp(40, 256, 10))
    13066
    """
    if len(widths) < 2:
        raise ValueError(f"widths {widths}: pass at least the inputs and the outputs")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [
            nn.Linear(inputs, outputs),
            nn.ReLU() if softplus is None else Softplus(softplus),
        ]
    return nn.Sequential(*layers[:-1])


class OneHiddenLayer(nn.Module):
    r"""The 1D network of Figure 7: :math:`f(x) = \sum_k a_k \max(0, w_k x + b_k)`, no output bias.

    Start: w_k = +-2.5 with equal probability, b_k from N(0, 2.5^2), a_k from N(0, 4^2).
    x (b, 1) -> (b,).
    """

    def __init__(self, hidden: int = 100, generator: torch.Generator | None = None) -> None:
        super().__init__()
        signs = torch.randint(0, 2, (hidden,), generator=generator) * 2 - 1
        self.w = nn.Parameter(2.5 * signs.to(torch.get_default_dtype()))
        self.b = nn.Parameter(2.5 * torch.randn(hidden, generator=generator))
        self.a = nn.Parameter(4.0 * torch.randn(hidden, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x * self.w + self.b) @ self.a


class Softplus(nn.Module):
    """softplus with sharpness beta: log(1 + exp(beta z)) / beta, ReLU in the limit."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, z: Tensor) -> Tensor:
        return F.softplus(z, beta=self.beta)


def _norm(kind: str, channels: int, groups: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(groups, channels) if kind == "group" else nn.Identity()


class PreActBlock(nn.Module):
    """norm, activation, 3x3, norm, activation, 3x3, plus the input or its 1x1 projection."""

    def __init__(
        self, inputs: int, outputs: int, stride: int, norm: str, groups: int, activation: nn.Module
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(norm, inputs, groups), _norm(norm, outputs, groups)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.activation = activation
        same = stride == 1 and inputs == outputs
        self.project = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a = self.activation(self.norm1(x))
        shortcut = x if self.project is None else self.project(a)  # of a, as in the authors' code
        return shortcut + self.conv2(self.activation(self.norm2(self.conv1(a))))


def resnet(
    depth: str = "18",
    *,
    width: int = 64,
    classes: int = 10,
    norm: str = "batch",
    softplus: float | None = None,
) -> nn.Sequential:
    """Pre-activation ResNet of the paper (He et al. 2016), started by Kaiming's rule, fan_out.

    Args:
        depth: "18" (CIFAR-10), "34" (CIFAR-100), or "tiny", one block a stage.
        width: channels of the first stage; the four stages have 1, 2, 4, 8 times as many.
        classes: number of outputs.
        norm: "batch", "group" (width / 2 groups) or "none".
        softplus: its sharpness, to replace ReLU by softplus in the blocks; None for ReLU.

    Raises ValueError for another depth or norm, or an odd width with GroupNorm.
    """
    if depth not in BLOCKS:
        raise ValueError(f"depth={depth!r}: pass one of {', '.join(BLOCKS)}")
    if norm not in NORMS:
        raise ValueError(f"norm={norm!r}: pass one of {', '.join(NORMS)}")
    if norm == "group" and width % 2:
        raise ValueError(f"width={width}: GroupNorm has width / 2 groups, pass an even width")
    activation = nn.ReLU() if softplus is None else Softplus(softplus)
    groups = width // 2
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False)]
    inputs = width
    for stage, blocks in enumerate(BLOCKS[depth]):
        outputs = width * 2**stage
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(PreActBlock(inputs, outputs, stride, norm, groups, activation))
            inputs = outputs
    layers += [
        _norm(norm, inputs, groups),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        head := nn.Linear(inputs, classes),
    ]
    net = nn.Sequential(*layers)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(head.bias)
    return net


def parameter_count(net: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(p.numel() for p in net.parameters())
