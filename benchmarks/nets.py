"""The networks of the benchmarks."""

from __future__ import annotations

from itertools import pairwise

import torch
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


class Words(nn.Module):
    """One block of a GPT: causal attention and an MLP, each added to what came in."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.attention(self.norm1(x)).chunk(3, -1)
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Word and position embeddings, blocks, and a head for the next word."""

    def __init__(self, words: int, length: int, d: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.word, self.position = nn.Embedding(words, d), nn.Embedding(length, d)
        self.blocks = nn.Sequential(*(Words(d, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, words, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.blocks(self.word(tokens) + self.position(places))))


def gpt() -> nn.Module:
    return GPT(words=64, length=32, d=64, blocks=2, heads=4)
