"""Networks for the tests of m-SAM. A new one joins every test of its table with one line."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

V, D, CLASSES = 11, 8, 5


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


class Transformer(nn.Module):
    """One pre-norm block over embedded tokens, mean-pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(V, D, padding_idx=0)
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.RMSNorm(D)
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.mlp = nn.Sequential(nn.Linear(D, 16), nn.GELU(), nn.Linear(16, D))
        self.head = nn.Linear(D, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v))
        x = x + self.mlp(self.norm2(x))
        return self.head(x.mean(1))


class ViT(nn.Module):
    """A vision transformer: patches, a class token, positions, two blocks with a scale each."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, D, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, D))
        self.position = nn.Parameter(torch.randn(1, 5, D))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                D, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(2)
        )
        self.scales = nn.ParameterList(torch.randn(D) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(D), nn.Linear(D, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.patches(pictures).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        for block, scale in zip(self.blocks, self.scales, strict=True):
            x = block(x) * scale
        return self.head(self.norm(x[:, 0]))


class GPT(nn.Module):
    """A block as in Hugging Face's GPT-2: products of a matrix (inputs, outputs) by addmm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(V, D), nn.LayerNorm(D)
        self.first, self.second = (nn.Parameter(torch.randn(s) / 3) for s in ((D, 16), (16, D)))
        self.bias1, self.bias2 = nn.Parameter(torch.randn(16)), nn.Parameter(torch.randn(D))
        self.head = nn.Parameter(torch.randn(D, CLASSES))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        h = torch.addmm(self.bias1, self.norm(x).view(-1, D), self.first).tanh()
        x = x + torch.addmm(self.bias2, h, self.second).view(x.shape)
        return (x @ self.head).mean(1)


class Forward(nn.Module):
    """Modules with a forward of one's own."""

    def __init__(self, forward: Callable[..., Tensor], **modules: object) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.how = forward

    def forward(self, *x: Tensor) -> Tensor:
        return self.how(self, *x)


class Scale(torch.autograd.Function):
    """x * w by a gradient of its own."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g * w, (g * x).sum(0)


def image(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LazyLinear(CLASSES))


def encoder(**options: object) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, **{"dropout": 0.0, **options})
    return Forward(lambda s, x: s.b(s.a(x).mean(1)), a=layer, b=nn.Linear(8, CLASSES))


def attention(how: Callable[..., Tensor], **options: object) -> nn.Module:
    layer = nn.MultiheadAttention(9, 3, batch_first=True, **options)
    return Forward(lambda s, x: s.b(how(s.a, x)), a=layer, b=nn.Linear(9, CLASSES))


def with_masks(a: nn.Module, x: Tensor, kind: type, need_weights: bool) -> Tensor:
    """Attention to the words before, of texts of which the last words are padding."""
    ahead = torch.ones(3, 3, device=x.device).triu(1).bool()
    padding = x[..., 0].cumsum(1) > 1.5
    padding[:, 0] = False
    masks = {"attn_mask": ahead, "key_padding_mask": padding}
    if kind is float:
        masks = {k: x.new_zeros(v.shape).masked_fill(v, -torch.inf) for k, v in masks.items()}
    return a(x, x, x, need_weights=need_weights, **masks)[0].mean(1)


def mask_per_head(a: nn.Module, x: Tensor) -> Tensor:
    mask = x[:, None, :, :1].expand(-1, 3, -1, 3).flatten(0, 1)
    return a(x, x, x, attn_mask=mask, need_weights=False)[0].mean(1)


def causal(a: nn.Module, x: Tensor) -> Tensor:
    mask = nn.Transformer.generate_square_subsequent_mask(3, x.device, x.dtype)
    return a(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0].mean(1)


def weights_too(a: nn.Module, x: Tensor) -> Tensor:
    z, averaged = a(x, x, x)
    return z.mean(1) * (1 + averaged[:, 0, :1])


def weights_of_each_head(a: nn.Module, x: Tensor) -> Tensor:
    z, weights = a(x, x, x, average_attn_weights=False)
    return z.mean(1) * (1 + weights[:, 1, 0, :1])


def vector() -> Tensor:
    return torch.randn(12, 7)


def picture() -> Tensor:
    return torch.randn(12, 3, 9, 8)


def signal() -> Tensor:
    return torch.randn(12, 3, 9)


def words() -> Tensor:
    return torch.randn(12, 4, 8)


def tokens() -> Tensor:
    return torch.randint(V, (12, 4))


def frozen(net: nn.Sequential, *names: str) -> nn.Module:
    for name in names:
        net.get_parameter(name).requires_grad_(False)
    return net


def batch_norm_eval() -> nn.Module:
    norm = nn.BatchNorm2d(8)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    return image(nn.Conv2d(3, 8, 3), norm.eval(), nn.ReLU())


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 6, bias=False), nn.Tanh(), nn.Linear(6, CLASSES)
    )


def with_unused() -> nn.Module:
    net = mlp()
    net.register_parameter("spare", nn.Parameter(torch.ones(3)))
    return net


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(7, 7), nn.Tanh(), nn.Linear(7, 7), nn.Linear(7, CLASSES))
    net[2].weight = net[0].weight
    return net


class Bert(nn.Module):
    """As in Hugging Face: positions and token types without a batch, words tied to the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.word, self.position, self.kind = (nn.Embedding(n, D) for n in (V, 9, 2))
        self.norm, self.out_norm = nn.LayerNorm(D), nn.LayerNorm(D)
        self.query, self.key, self.value, self.out = (nn.Linear(D, D) for _ in range(4))
        self.up, self.down = nn.Linear(D, 16), nn.Linear(16, D)
        self.transform, self.decoder = nn.Linear(D, D), nn.Linear(D, V)
        self.decoder.weight = self.word.weight
        self.register_buffer("position_ids", torch.arange(9)[None])
        self.register_buffer("kinds", torch.zeros(1, 9).long())

    def forward(self, tokens: Tensor) -> Tensor:
        b, T = tokens.shape
        kind = self.kind(self.kinds[:, :T].expand(b, T))
        h = self.norm(self.word(tokens) + kind + self.position(self.position_ids[:, :T]))
        q, k, v = (
            f(h).view(b, T, 2, -1).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, T, D)
        h = self.out_norm(h + self.out(mixed))
        h = h + self.down(F.gelu(self.up(h)))
        return self.decoder(F.gelu(self.transform(h)))[:, 0, :CLASSES]


class NanoGPT(nn.Module):
    """As in nanoGPT: positions by arange, the embedding tied to the head; as in GPT-2, addmm."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(V, D), nn.Embedding(6, D)
        self.ln1, self.ln2, self.ln3 = (nn.LayerNorm(D, bias=False) for _ in range(3))
        self.attn, self.proj = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
        self.fc, self.fc_bias = nn.Parameter(torch.randn(D, 16)), nn.Parameter(torch.randn(16))
        self.out = nn.Linear(16, D)
        self.head = nn.Linear(D, V, bias=False)
        self.wte.weight = self.head.weight

    def forward(self, tokens: Tensor) -> Tensor:
        b, T = tokens.shape
        x = self.wte(tokens) + self.wpe(torch.arange(T))
        q, k, v = self.attn(self.ln1(x)).split(D, dim=2)
        q, k, v = (t.view(b, T, 2, -1).transpose(1, 2) for t in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, T, D))
        h = torch.addmm(self.fc_bias, self.ln2(x).view(-1, D), self.fc)
        x = x + self.out(F.gelu(h)).view(b, T, D)
        return self.head(self.ln3(x))[:, -1, :CLASSES]


class LucidViT(nn.Module):
    """As in vit-pytorch of lucidrains: the token repeated, the positions sliced, added in place."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, D), nn.LayerNorm(D))
        self.token, self.position = nn.Parameter(torch.randn(D)), nn.Parameter(torch.randn(1, 7, D))
        self.norm, self.qkv, self.out = (
            nn.LayerNorm(D),
            nn.Linear(D, 24, bias=False),
            nn.Linear(8, D),
        )
        self.mlp = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 16), nn.GELU(), nn.Linear(16, D))
        self.head = nn.Linear(D, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        b = len(pictures)
        x = pictures.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(b, 4, 48)
        x = self.embed(x)
        x = torch.cat([self.token.view(1, 1, D).repeat(b, 1, 1), x], dim=1)
        x += self.position[:, : x.shape[1]]
        q, k, v = self.qkv(self.norm(x)).chunk(3, dim=-1)
        x = self.out((q @ k.mT * D**-0.5).softmax(-1) @ v) + x
        x = self.mlp(x) + x
        return self.head(x.mean(1))


class ConvNeXt(nn.Module):
    """A block with the official LayerNorm of channels first, and LayerScale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, D, 2, 2), nn.Conv2d(D, D, 3, padding=1, groups=D)
        self.weight, self.bias = nn.Parameter(torch.rand(D)), nn.Parameter(torch.randn(D))
        self.norm, self.up, self.down = nn.LayerNorm(D), nn.Linear(D, 16), nn.Linear(16, D)
        self.gamma, self.head = nn.Parameter(torch.randn(D)), nn.Linear(D, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.stem(pictures)
        x = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
        x = self.weight[:, None, None] * x + self.bias[:, None, None]
        h = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = x + (self.gamma * self.down(F.gelu(self.up(h)))).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


class LoRA(nn.Module):
    """As in loralib: a frozen weight, and a product of two small ones that are transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(9, 7), requires_grad=False)
        self.A, self.B = nn.Parameter(torch.randn(2, 7)), nn.Parameter(torch.randn(9, 2))
        self.head = nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        z = F.linear(x, self.weight) + (x @ self.A.transpose(0, 1) @ self.B.transpose(0, 1)) * 0.5
        return self.head(z.tanh())


def siamese() -> nn.Module:
    return Forward(
        lambda s, x: s.b((s.a(x[:, 0]) - s.a(x[:, 1])).square()),
        a=nn.Sequential(nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 6)),
        b=nn.Linear(6, CLASSES),
    )


def recurrent() -> nn.Module:
    """An RNN written with a cell: every weight is used at every step."""

    def how(s: nn.Module, x: Tensor) -> Tensor:
        h = torch.zeros_like(x[:, 0, :6])
        for t in range(x.shape[1]):
            h = (s.a(x[:, t]) + s.c(h)).tanh()
        return s.b(h)

    return Forward(how, a=nn.Linear(9, 6), b=nn.Linear(6, CLASSES), c=nn.Linear(6, 6))


def parts_of_one(s: nn.Module, x: Tensor) -> Tensor:
    """Slices that have nothing in common, and some that overlap."""
    q, k = s.w[:14].chunk(2)
    z = F.linear(x, q, s.bias[:7]) * F.linear(x, k, s.bias[7:]).tanh()
    return s.b(z + F.linear(x, s.w[10:17]) + F.linear(x, s.w.T[:, 3:10].T) + s.w[16] - s.bias[2:9])


#: name -> (network, inputs): those that the ghost path does
GHOST: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "mlp": (mlp, vector),
    "leading dimensions": (
        lambda: Forward(
            lambda s, x: s.b(s.a(x).relu()).mean((1, 2)), a=nn.Linear(8, 6), b=nn.Linear(6, CLASSES)
        ),
        picture,
    ),
    "positions folded into the batch": (
        lambda: Forward(
            lambda s, x: s.b(s.a(x.flatten(0, 1)).relu()).view(len(x), 3, 9, -1).mean((1, 2)),
            a=nn.Linear(8, 6),
            b=nn.Linear(6, CLASSES),
        ),
        picture,
    ),
    "functional use of a layer's weight": (
        lambda: Forward(
            lambda s, x: F.linear(x, s.a.weight, s.b),
            a=nn.Linear(7, CLASSES, bias=False),
            b=nn.Parameter(torch.randn(CLASSES)),
        ),
        vector,
    ),
    "conv": (
        lambda: image(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.GroupNorm(2, 8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        ),
        picture,
    ),
    "conv, strings, groups": (
        lambda: image(
            nn.Conv2d(3, 8, 2, padding="same"),
            nn.Tanh(),
            nn.Conv2d(8, 8, 3, padding="valid", groups=8),
            nn.Conv2d(8, 4, 1, groups=2, bias=False),
        ),
        picture,
    ),
    "conv, circular": (
        lambda: image(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular")),
        picture,
    ),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv1d(8, 4, 3, stride=2, dilation=2, groups=2, bias=False),
            nn.GroupNorm(2, 4),
            nn.Flatten(),
            nn.LazyLinear(CLASSES),
        ),
        signal,
    ),
    "instance norm": (
        lambda: image(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.ReLU()),
        picture,
    ),
    "batch norm, eval": (batch_norm_eval, picture),
    "layer norm, two dimensions": (
        lambda: image(nn.Conv2d(3, 4, 3), nn.LayerNorm((7, 6)), nn.ReLU()),
        picture,
    ),
    "norms without bias": (
        lambda: nn.Sequential(
            nn.Linear(7, 8), nn.LayerNorm(8, bias=False), nn.RMSNorm(8), nn.Linear(8, CLASSES)
        ),
        vector,
    ),
    "transformer": (Transformer, tokens),
    "encoder layer": (lambda: encoder(batch_first=True), words),
    "encoder layer, norm first, no bias": (
        lambda: encoder(batch_first=True, norm_first=True, bias=False),
        words,
    ),
    "vision transformer": (ViT, lambda: torch.randn(12, 3, 8, 8)),
    "addmm and matmul": (GPT, tokens),
    "attention, its weights too": (lambda: attention(weights_too), signal),
    "attention, weights of each head": (lambda: attention(weights_of_each_head), signal),
    "attention, causal": (lambda: attention(causal), signal),
    "attention, a mask for each head": (lambda: attention(mask_per_head), signal),
    "attention, masks of booleans": (
        lambda: attention(lambda a, x: with_masks(a, x, bool, False)),
        signal,
    ),
    "attention, masks of numbers": (
        lambda: attention(lambda a, x: with_masks(a, x, float, True)),
        signal,
    ),
    "shifts and scales": (
        lambda: Forward(
            lambda s, x: s.b(torch.add(s.shift, torch.mul(s.a(x) + s.picture, s.scale)).sum(1)),
            a=nn.Conv2d(3, 4, 2),
            shift=nn.Parameter(torch.randn(4, 1, 7)),
            picture=nn.Parameter(torch.randn(1, 1, 8, 7)),
            scale=nn.Parameter(torch.randn(())),
            b=nn.Sequential(nn.Flatten(), nn.LazyLinear(CLASSES)),
        ),
        picture,
    ),
    "a shift and a scale that widen": (
        lambda: Forward(
            lambda s, x: s.b((s.scale * (s.shift + x[:, None])).tanh().sum((1, 2))),
            shift=nn.Parameter(torch.randn(2, 1)),
            scale=nn.Parameter(torch.randn(3, 1, 7)),
            b=nn.Linear(7, CLASSES),
        ),
        lambda: torch.randn(12, 1, 7),
    ),
    "BERT": (Bert, tokens),
    "nanoGPT": (NanoGPT, tokens),
    "vision transformer of lucidrains": (LucidViT, lambda: torch.randn(12, 3, 8, 8)),
    "ConvNeXt": (ConvNeXt, lambda: torch.randn(12, 3, 8, 8)),
    "LoRA": (LoRA, vector),
    "siamese": (siamese, lambda: torch.randn(12, 2, 9)),
    "recurrent": (recurrent, signal),
    "tied weights": (tied, vector),
    "a layer called twice": (
        lambda: Forward(
            lambda s, x: s.b(s.a(s.a(x).tanh())), a=nn.Linear(7, 7), b=nn.Linear(7, CLASSES)
        ),
        vector,
    ),
    "a convolution called twice": (
        lambda: Forward(
            lambda s, x: s.b(s.a(s.a(x)).flatten(1)),
            a=nn.Conv2d(3, 3, 3, padding=1),
            b=nn.LazyLinear(CLASSES),
        ),
        picture,
    ),
    "a scale used twice": (
        lambda: Forward(
            lambda s, x: s.b(s.n((s.n(x) * s.t + s.shift).tanh() * s.t) - s.shift),
            n=nn.LayerNorm(7),
            t=nn.Parameter(torch.tensor(1.3)),
            shift=nn.Parameter(torch.randn(7)),
            b=nn.Linear(7, CLASSES),
        ),
        vector,
    ),
    "parts of one parameter": (
        lambda: Forward(
            parts_of_one,
            w=nn.Parameter(torch.randn(20, 7)),
            bias=nn.Parameter(torch.randn(14)),
            b=nn.Linear(7, CLASSES),
        ),
        vector,
    ),
    "quotient, difference, PReLU": (
        lambda: Forward(
            lambda s, x: s.b((s.shift - s.p(s.a(x)) / s.scale[:, None, None]).flatten(1)),
            a=nn.Conv2d(3, 4, 2),
            p=nn.PReLU(4),
            scale=nn.Parameter(torch.rand(4) + 0.5),
            shift=nn.Parameter(torch.randn(7)),
            b=nn.LazyLinear(CLASSES),
        ),
        picture,
    ),
    "transposed convolutions": (
        lambda: image(
            nn.ConvTranspose2d(3, 4, (3, 2), stride=2, padding=(1, 0), output_padding=(1, 0)),
            nn.Tanh(),
            nn.ConvTranspose2d(4, 4, 2, dilation=2, groups=2, bias=False),
        ),
        picture,
    ),
    "convolutions in three dimensions": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 3)),
            nn.Conv3d(1, 4, (2, 3, 3), stride=(1, 2, 2), padding=1),
            nn.Tanh(),
            nn.ConvTranspose3d(4, 2, 2, groups=2),
            nn.Flatten(),
            nn.LazyLinear(CLASSES),
        ),
        picture,
    ),
    "convolutions in one dimension, transposed": (
        lambda: nn.Sequential(nn.ConvTranspose1d(3, 4, 3, 2), nn.Flatten(), nn.LazyLinear(CLASSES)),
        signal,
    ),
    "unused parameter": (with_unused, vector),
    "frozen weight": (lambda: frozen(mlp(), "2.weight", "4.weight"), vector),
    "frozen bias": (lambda: frozen(mlp(), "0.bias"), vector),
    "frozen scale": (
        lambda: frozen(
            nn.Sequential(nn.Linear(7, 8), nn.LayerNorm(8), nn.Linear(8, CLASSES)), "1.weight"
        ),
        vector,
    ),
    "a layer without influence": (
        lambda: Forward(
            lambda s, x: s.a(x) + 0 * s.b(x).detach(),
            a=nn.Linear(7, CLASSES),
            b=nn.Linear(7, CLASSES),
        ),
        vector,
    ),
}


def lstm() -> nn.Module:
    return Forward(
        lambda s, x: s.b(s.a(x)[0][:, -1]),
        a=nn.LSTM(9, 6, batch_first=True),
        b=nn.Linear(6, CLASSES),
    )


def two(how: Callable[..., Tensor]) -> Callable[[], nn.Module]:
    return lambda: Forward(
        how, a=nn.Linear(7, 7), b=nn.Linear(7, CLASSES), scale=nn.Parameter(torch.ones(7))
    )


def changed_in_place(s: nn.Module, x: Tensor) -> Tensor:
    x = x * 1
    z = s.a(x)
    x.mul_(2)
    return s.b(z + x)


def ahead() -> nn.Module:
    net = two(lambda s, x: s.b(s.a(x) * s.twice))()
    net.double()
    net.twice = net.scale + 1
    return net


def mixed(z: Tensor, to: int, of: int) -> Tensor:
    """Adds one row of z to another one."""
    rows = list(z)
    rows[to] = rows[to] + rows[of]
    return torch.stack(rows)


def seen(how: Callable[..., Tensor], reason: str) -> tuple[Callable[[], nn.Module], Callable, str]:
    return two(how), vector, reason


#: name -> (network, inputs, why): those that only the loop is right for
LOOP: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str]] = {
    "a sum with a factor": seen(
        lambda s, x: s.b(torch.add(s.a(x), s.scale, alpha=2)), "a factor alpha"
    ),
    "a number times a parameter": seen(lambda s, x: s.b(s.a(x) * (2 * s.scale)), "a number times"),
    "a product of parameters": seen(
        lambda s, x: s.b(s.a(x) * (s.scale * s.a.bias)), "mul of a parameter"
    ),
    "a parameter expanded before the batch": seen(
        lambda s, x: s.b(s.a(x) + s.scale.expand(12, 7)[:7, None].mean()),
        "depends on other ones",
    ),
    "a vector of parameters": seen(lambda s, x: s.b(x) + (x @ s.scale)[:, None], "not a matrix"),
    "addmm with a factor": seen(
        lambda s, x: s.b(torch.addmm(s.scale, x, s.a.weight, beta=2)), "not a product plus a bias"
    ),
    "addmm to a batch": seen(
        lambda s, x: s.b(torch.addmm(x, x, s.a.weight)), "not a product plus a bias"
    ),
    "a parameter in a list": seen(
        lambda s, x: s.b(s.a(x) * torch.stack([s.scale])), "no rule for stack"
    ),
    "an input changed in place": (
        lambda: frozen(two(changed_in_place)(), "a.weight"),
        vector,
        r"changed in place \('a\.bias'\)",
    ),
    "detached": seen(lambda s, x: s.b(F.linear(x, s.a.weight.detach())), "no rule"),
    "no_grad": seen(lambda s, x: s.b(x + torch.no_grad()(s.a)(x)), "under no_grad"),
    "a custom function": seen(lambda s, x: s.b(Scale.apply(s.a(x), s.scale)), "under no_grad"),
    "a parameter used before the call": (ahead, vector, "past torch's"),
    "checkpointing": seen(
        lambda s, x: checkpoint(s.b, s.a(x).tanh(), use_reentrant=False),
        "fails, where the loop does not",
    ),
    "examples that mix": seen(
        lambda s, x: s.b(s.a(x) - s.a(x.mean(0))), "examples in its first dimension"
    ),
    "activations that mix": seen(lambda s, x: s.b(s.a(x) - x.mean(0)), "depends on other ones"),
    "activations that mix later": seen(lambda s, x: s.b(s.a(x).cumsum(0)), "depends on other ones"),
    "detached statistics of the batch": seen(
        lambda s, x: s.b((z := s.a(x)) - z.mean(0).detach()), "depends on other ones"
    ),
    "statistics of the inputs alone": seen(
        lambda s, x: s.b(s.a((x - x.detach().mean(0)) / x.detach().std(0))),
        "depends on other ones",
    ),
    "the first example takes from the last": seen(
        lambda s, x: mixed(s.b(s.a(x)), 0, -1), "depends on other ones"
    ),
    "the last example takes from the first": seen(
        lambda s, x: mixed(s.b(s.a(x)), -1, 0), "depends on other ones"
    ),
    "the batch second": (
        lambda: Forward(
            lambda s, x: s.b(s.a(x.transpose(0, 1)).mean(0)),
            a=nn.Linear(7, 7),
            b=nn.Linear(7, CLASSES),
        ),
        lambda: torch.randn(12, 12, 7),
        "depends on other ones",
    ),
    "LSTM": (lstm, lambda: torch.randn(12, 3, 9), "no rule for lstm"),
    "attention to others": (
        lambda: attention(lambda a, x: a(x, x.flip(1), x)[0].mean(1)),
        signal,
        "with themselves",
    ),
    "attention, widths of its own": (
        lambda: attention(lambda a, x: a(x, x[..., :2], x)[0].mean(1), kdim=2),
        signal,
        "with themselves",
    ),
    "attention with keys of its own": (
        lambda: attention(lambda a, x: a(x, x, x)[0].mean(1), add_bias_kv=True),
        signal,
        "keys or values of its own",
    ),
    "attention, the batch second": (
        lambda: encoder(batch_first=False),
        lambda: torch.randn(12, 12, 8),
        "depends on other ones",
    ),
    "weight norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(7, CLASSES))),
        vector,
        "no rule for _weight_norm",
    ),
    "instance norm with running statistics": (
        lambda: image(
            nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
        ),
        picture,
        "running statistics",
    ),
    "embedding, by frequency": (
        lambda: Forward(
            lambda s, t: s.b(s.e(t).mean(1)),
            e=nn.Embedding(V, D, scale_grad_by_freq=True),
            b=nn.Linear(D, CLASSES),
        ),
        tokens,
        "scale_grad_by_freq",
    ),
}


def build(make: tuple, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor]:
    """(network, inputs, targets) with b = 12."""
    torch.manual_seed(0)
    net, x = make[0](), make[1]()
    net.to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    with torch.no_grad():
        net(x)  # lazy layers
    return net, x, torch.randint(CLASSES, (12,))
