"""The two networks of the benchmarks."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


def mlp(widths: tuple[int, ...] = (784, 512, 512, 10)) -> nn.Module:
    layers: list[nn.Module] = []
    for p, q in pairwise(widths):
        layers += [nn.Linear(p, q), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Block(nn.Module):
    """Pre-activation residual block (He et al. 2016) with GroupNorm."""

    def __init__(self, cin: int, cout: int, stride: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(groups, cin), nn.GroupNorm(groups, cout)
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        same = stride == 1 and cin == cout
        self.skip = nn.Identity() if same else nn.Conv2d(cin, cout, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.norm1(x))
        return self.skip(x) + self.conv2(F.relu(self.norm2(self.conv1(a))))


def resnet(width: int = 16, stages: int = 3, blocks: int = 1) -> nn.Module:
    """A small pre-activation ResNet; with width 64, 4 stages and 2 blocks it is a ResNet-18."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False)]
    cin = width
    for stage in range(stages):
        for block in range(blocks):
            cout = width * 2**stage
            layers.append(Block(cin, cout, 2 if stage and not block else 1, width // 2))
            cin = cout
    tail = [nn.GroupNorm(width // 2, cin), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *tail, nn.Linear(cin, 10))


def resnet18() -> nn.Module:
    return resnet(64, 4, 2)
