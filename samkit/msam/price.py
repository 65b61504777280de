r"""What a step costs, on paper: multiplications and memory, from the shapes of a network alone.

A network is a list of products z = W a, with W of q rows and p columns, each made at T positions of
every one of b examples. With groups of m, N = m T rows share a move.

Multiplications: a pass makes b T p q forward, as many for the gradient by a, and as many for the
gradient by W. SGD has one pass, SAM two. On the fast path of m-SAM the first pass has no gradient
by W; instead, each group has 3 N^2 (p + q) in the Gram form, or N p q in the weight form (see
`cost.py`, which chooses). Attention multiplies its T positions by its keys twice.

Memory, in numbers, beside the weights, the optimizer's state and the batch: a pass holds what
autograd keeps of the forward pass, from which backward takes away while it adds the gradients by
the weights. SAM holds the moved weights as well. The fast path of m-SAM holds through its second
pass the inputs a and the gradients g of the layers in the Gram form, and of those in the weight
form each group's weights.

Left out of both: what other functions than products compute, read and write. What a step takes
longer for lies in benchmarks/bench_growth.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from samkit.msam.cost import gram_is_cheaper


@dataclass(frozen=True)
class Layer:
    """A product of W (q, p) with the inputs at T = `rows` positions of each example.

    Args:
        keeps: numbers of each position, beside the inputs, that autograd keeps of the functions
            between the product before and this one.
        scaled: of those, the inputs of a normalization with a scale of its own.
        attends: the number of keys that each position attends to, just before.
        inputs: how many numbers each position brings, where the p are a patch of a picture.
        trained: whether W has a gradient.
        back: whether a has one, since something below is trained.
    """

    rows: int
    p: int
    q: int
    keeps: float = 0
    scaled: int = 0
    attends: int = 0
    inputs: float | None = None
    trained: bool = True
    back: bool = True

    @property
    def weights(self) -> int:
        """How many have a gradient, a bias included."""
        return (self.p + 1) * self.q if self.trained else 0

    @property
    def a(self) -> float:
        """Numbers of one example's input, and in `z` of its output."""
        return self.rows * (self.p if self.inputs is None else self.inputs)

    @property
    def z(self) -> int:
        return self.rows * self.q

    @property
    def kept(self) -> float:
        """Numbers of one example that wait for backward; the batch itself is not counted."""
        return self.rows * self.keeps + (self.a if self.back and self.trained else 0)

    def gram(self, m: int) -> bool:
        patches = self.inputs is not None
        return gram_is_cheaper(m * self.rows, self.p, self.q, patches=patches)

    def held(self, m: int) -> float:
        """Numbers of one example that the second pass needs of the first."""
        if not self.gram(m):
            return self.weights / m
        patches = 0 if self.inputs is None else self.rows * self.p
        return self.rows * (self.p + self.q) + patches


def multiplications(layers: Sequence[Layer], b: int, m: int | None = None) -> int:
    """Of a step of SGD; with m, of m-SAM, which is SAM where m = b."""
    total = 0
    for layer in layers:
        one = b * layer.rows * layer.p * layer.q
        through = (1 + layer.back) * one + 3 * 2 * b * layer.rows * layer.attends * layer.p
        own = one if layer.trained else 0
        total += through + own
        if m is not None:
            if m < b and layer.trained and layer.gram(m):
                own = (2 + layer.back) * b * m * layer.rows**2 * (layer.p + layer.q)
            total += through + own
    return total


def peak(layers: Sequence[Layer], b: int, m: int | None = None) -> float:
    """The most numbers held at a time in a step of SGD; with m, of m-SAM, and of SAM if m = b."""
    live = b * sum(layer.kept for layer in layers)
    one_pass = 0.0
    for layer in reversed(layers):
        live += layer.weights
        one_pass = max(one_pass, live + b * (layer.back * layer.a + layer.z))
        live -= b * layer.kept
    if m is None:
        return one_pass
    trained = [layer for layer in layers if layer.trained]
    if m == b:
        return one_pass + sum(layer.weights for layer in trained)
    first = sum(layer.a + layer.z + 2 * layer.rows * layer.scaled for layer in trained)
    first += max(layer.z for layer in trained)  # of which the largest entry is taken
    return max(b * first, b * sum(layer.held(m) for layer in trained) + one_pass)


def mlp(widths: Sequence[int]) -> list[Layer]:
    """Linear layers with ReLU between them, of which autograd keeps nothing but the inputs."""
    return [Layer(1, p, q, back=k > 0) for k, (p, q) in enumerate(pairwise(widths))]


def transformer(
    T: int, d: int, blocks: int, outputs: int, *, read: int | None = None
) -> list[Layer]:
    """Blocks of attention over T positions and of an MLP of width 4 d, with LayerNorm and GELU.

    The head is at `read` positions, at all if None, with a softmax over its outputs.
    """
    block = [
        Layer(T, d, 3 * d, keeps=d, scaled=d),
        Layer(T, d, d, keeps=4 * d, attends=T),
        Layer(T, d, 4 * d, keeps=d, scaled=d),
        Layer(T, 4 * d, d, keeps=4 * d),
    ]
    return [*block * blocks, Layer(read or T, d, outputs, keeps=d + 2 * outputs, scaled=d)]


def vit_large() -> list[Layer]:
    """ViT-L/16 on 224 x 224 pictures: 196 patches and a class token (Dosovitskiy et al. 2021)."""
    return [Layer(196, 768, 1024, back=False), *transformer(197, 1024, 24, 1000, read=1)]


def convolution(side: int, p: int, q: int, kernel: int, stride: int, *, back: bool = True) -> Layer:
    """On a picture of side x side pixels with p channels, normalized and with ReLU before."""
    rows, inputs = (side // stride) ** 2, p * stride**2
    norm = inputs if back else 0
    return Layer(rows, p * kernel**2, q, keeps=norm, scaled=norm, inputs=inputs, back=back)


def resnet50() -> list[Layer]:
    """ResNet-50 on 224 x 224 pictures, the stride in the 3 x 3 (He et al. 2016)."""
    layers, p, side = [convolution(224, 3, 64, 7, 2, back=False)], 64, 56
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for k in range(blocks):
            stride = 2 if width > 64 and k == 0 else 1
            layers += [
                convolution(side, p, width, 1, 1),
                convolution(side, width, width, 3, stride),
                convolution(side // stride, width, 4 * width, 1, 1),
            ]
            if k == 0:
                layers.append(
                    replace(convolution(side, p, 4 * width, 1, stride), keeps=0, scaled=0)
                )
            p, side = 4 * width, side // stride
    return [*layers, Layer(1, p, 1000)]


def llama_lora(T: int = 2048, rank: int = 16) -> list[Layer]:
    """Llama-7B: 32 frozen blocks of width 4096 and 11008; LoRA on queries and values.

    Autograd keeps no input of a frozen product. Source of the sizes: Touvron et al. 2023, of what
    is adapted: Hu et al. 2022.
    """
    d, hidden = 4096, 11008
    fixed = {"trained": False}
    adapter = [Layer(T, d, rank), Layer(T, rank, d)]
    block = [
        Layer(T, d, 3 * d, keeps=d, **fixed),
        *adapter * 2,
        Layer(T, d, d, keeps=4 * d, attends=T, **fixed),
        Layer(T, d, 2 * hidden, keeps=d, **fixed),
        Layer(T, hidden, d, keeps=3 * hidden, **fixed),
    ]
    return [*block * 32, Layer(T, d, 32000, keeps=d + 2 * 32000, **fixed)]
