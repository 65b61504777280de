r"""One rule per layer: its part of every group's gradient, and its forward at the moved weights.

A rule (a `Site` of the first pass) answers two questions about one call z = f(a; w) in a network.
Let G groups share the rows of a and z; let g be the gradient of the summed losses by z.

- `squared_norms()`: ||sum over the group of the gradient by w||^2 for each group, shape (G,).
- `perturbed(call, s)`: f(a'; w + s_G sum over the group of the gradient by w), a function of a' and
  w that autograd can differentiate while the move is held constant.

For a product z = W a the gradient of one row is the outer product g a^T. So

    (W + s sum_i g_i a_i^T) a' = W a' + s sum_i g_i <a_i, a'>            (the Gram form)

needs no weight-sized tensor, and ||sum_i g_i a_i^T||^2 = sum_{i,k} <a_i, a_k> <g_i, g_k>. A bias is
an input that is always 1: it adds 1 to <a_i, a'>. The other form builds sum_i g_i a_i^T for each
group and multiplies in one batched product (the weight form). `cost.gram_is_cheaper` chooses.

To support another layer add one entry to `RULES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv1d_weight, conv2d_weight

from samkit.errors import Undefined, Unsupported
from samkit.msam import cost


@dataclass(frozen=True)
class Call:
    """A call of a torch function: `function(input, weight, bias; options)`."""

    function: Callable[..., Tensor]
    input: Tensor
    weight: Tensor | None
    bias: Tensor | None
    options: dict[str, Any]

    @property
    def parameters(self) -> tuple[Tensor | None, Tensor | None]:
        return self.weight, self.bias

    def with_parameters(self, change: Callable[[Tensor], Tensor]) -> Call:
        weight, bias = (None if p is None else change(p) for p in self.parameters)
        return replace(self, weight=weight, bias=bias)


class Site(ABC):
    """One call in the first pass, with what the second pass needs to know of it."""

    g: Tensor

    def __init__(self, call: Call, moves: tuple[bool, bool], groups: int) -> None:
        self.function = call.function
        self.moves_weight, self.moves_bias = moves
        self.groups = groups
        self.a = call.input.detach()
        self.version = self.a._version
        self.shifts = False  # whether it is z - a that is proportional
        self.reached = False  # whether the loss depends on z; if so g is its gradient by z
        #: whether z is proportional to (w, bias): then c w moves z by c z
        self.proportional = moves == tuple(p is not None for p in call.parameters) and moves[0]
        #: of norms and moves: squares of small numbers are 0 in half precision
        dtype = next(p.dtype for p in call.parameters if p is not None)
        self.dtype = torch.promote_types(dtype, torch.float32)
        if not self.a.dim() or self.a.shape[0] % groups:
            raise Unsupported(f"an input of shape {tuple(self.a.shape)} has not the batch first")

    def receive(self, g: Tensor | None, unit: Tensor) -> None:
        """Takes the loss's gradient by z, of each group in a unit of its own, (G,)."""
        if g is None:
            return
        by_group = self.by_group(g.to(self.dtype))
        unit = unit.to(self.dtype).view(-1, *[1] * g.dim())
        self.reached, self.g = True, (by_group / unit).view(g.shape)
        if self.a.is_floating_point():
            self.a = self.a.to(self.dtype)

    def learning(self, g: Tensor) -> Tensor:
        """g where it reaches the weights, 0 elsewhere."""
        return g

    @abstractmethod
    def forward(self, call: Call) -> Tensor:
        """f(a; w), as the user's model would compute it."""

    @abstractmethod
    def squared_norms(self) -> Tensor:
        """(G,) squared norm of each group's summed gradient by this call's parameters.

        Keeps what `perturbed` needs of a and g, and lets go of the rest.
        """

    @abstractmethod
    def perturbed(self, call: Call, s: Tensor) -> Tensor:
        """f(a'; w + s_G * gradient of the group), s of shape (G,)."""

    @property
    def bytes(self) -> int:
        """What the second pass holds for this call beyond an ordinary pass; after `forward`."""
        return self.a.nbytes

    def by_group(self, x: Tensor) -> Tensor:
        """(rows, ...) -> (G, rows / G, ...)."""
        return x.reshape(self.groups, -1, *x.shape[1:])


class Product(Site):
    """z = W a + bias. A subclass says what the rows of a and z are, and how weights multiply."""

    a_rows: Tensor  # (G, c, N, p): N rows in a group, c independent blocks
    g_rows: Tensor  # (G, c, N, q)
    weight_grad: Tensor | None = None  # (G, *weight.shape)
    bias_grad: Tensor | None = None  # (G, q)
    gram: bool

    @abstractmethod
    def rows_in(self, a: Tensor) -> Tensor: ...

    @abstractmethod
    def rows_out(self, z: Tensor) -> Tensor: ...

    @abstractmethod
    def as_output(self, rows: Tensor, like: Tensor) -> Tensor: ...

    @abstractmethod
    def group_weight_grads(self) -> Tensor: ...

    @abstractmethod
    def product(self, call: Call, weight: Tensor, bias: Tensor | None) -> Tensor:
        """z with weights (G, *weight.shape) and biases (G, q), each group its own."""

    def forward(self, call: Call) -> Tensor:
        z = call.function(call.input, call.weight, call.bias, **call.options)
        N, p, q, c = self.sizes(call, z)
        self.gram = cost.gram_is_cheaper(N, p, q, patches=self.patches(call))
        held = cost.gram_numbers(N, p, q) if self.gram else cost.weight_numbers(p, q)
        self.held = self.groups * c * held * z.element_size()
        return z

    @abstractmethod
    def sizes(self, call: Call, z: Tensor) -> tuple[int, int, int, int]:
        """(N, p, q, c)."""

    def patches(self, call: Call) -> bool:
        return False

    @property
    def bytes(self) -> int:
        return super().bytes + self.held

    def squared_norms(self) -> Tensor:
        if self.gram:
            self.a_rows, self.g_rows = self.rows_in(self.a), self.rows_out(self.g)
            del self.a, self.g
            K = self.kernel(self.a_rows) * _inner(self.g_rows, self.g_rows)
            return K.sum((1, 2, 3))
        total = self.a.new_zeros(self.groups)
        if self.moves_weight:
            self.weight_grad = self.group_weight_grads()
            total = total + _squared(self.weight_grad)
        if self.moves_bias:
            self.bias_grad = self.rows_out(self.g).sum(2).flatten(1)
            total = total + _squared(self.bias_grad)
        del self.a, self.g
        return total

    def kernel(self, rows: Tensor) -> Tensor:
        """<a'_j, a_i> + 1 (the 1 is the bias), (G, c, N, N)."""
        if not self.moves_weight:
            return rows.new_ones(*rows.shape[:3], rows.shape[2])
        K = _inner(rows, self.a_rows)
        return K + 1 if self.moves_bias else K

    def perturbed(self, call: Call, s: Tensor) -> Tensor:
        if self.gram:
            z = call.function(call.input, call.weight, call.bias, **call.options)
            with torch.autocast(z.device.type, enabled=False):
                a = call.input.to(self.dtype)
                rows = self.rows_in(a) if self.moves_weight else self.a_rows
                # s may be beyond the numbers of z's type, but not of this one
                move = _apply(self.kernel(rows) * s.view(-1, 1, 1, 1), self.g_rows)
            return z + self.as_output(move, z).to(z.dtype)
        weight = _moved(_there(call.weight), self.weight_grad, s)
        self.weight_grad = None
        bias = None if call.bias is None else _moved(call.bias, self.bias_grad, s)
        return self.product(call, weight, bias)


class Linear(Product):
    """A row is one example at one position of the leading dimensions; c = 1."""

    def sizes(self, call: Call, z: Tensor) -> tuple[int, int, int, int]:
        return z.shape[:-1].numel() // self.groups, self.a.shape[-1], z.shape[-1], 1

    def rows_in(self, a: Tensor) -> Tensor:
        return a.reshape(self.groups, 1, -1, a.shape[-1])

    def rows_out(self, z: Tensor) -> Tensor:
        return self.rows_in(z)

    def as_output(self, rows: Tensor, like: Tensor) -> Tensor:
        return rows.reshape(like.shape)

    def group_weight_grads(self) -> Tensor:
        return (self.rows_out(self.g).mT @ self.rows_in(self.a))[:, 0]

    def product(self, call: Call, weight: Tensor, bias: Tensor | None) -> Tensor:
        a = self.rows_in(call.input)[:, 0]
        z = a @ weight.mT if bias is None else torch.baddbmm(bias[:, None], a, weight.mT)
        return z.reshape(*call.input.shape[:-1], -1)


class Matrix(Linear):
    """a @ W + bias: a `Linear` whose weight (p, q) is the transpose of a layer's."""

    def group_weight_grads(self) -> Tensor:
        return (self.rows_in(self.a).mT @ self.rows_out(self.g))[:, 0]

    def product(self, call: Call, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super().product(call, weight.mT, bias)


class Conv(Product):
    """A row is the patch under one output position; c = the channel groups of the convolution."""

    def __init__(self, call: Call, moves: tuple[bool, bool], groups: int) -> None:
        super().__init__(call, moves, groups)
        self.options, self.shape = call.options, _there(call.weight).shape
        if call.input.dim() != len(self.shape):
            raise Unsupported("a convolution of an input without a batch dimension")

    @property
    def dims(self) -> int:
        return len(self.shape) - 2

    def sizes(self, call: Call, z: Tensor) -> tuple[int, int, int, int]:
        c = self.options["groups"]
        N = z.shape[0] * z.shape[2:].numel() // self.groups
        return N, self.shape[1:].numel(), self.shape[0] // c, c

    def patches(self, call: Call) -> bool:
        return True

    def rows_in(self, a: Tensor) -> Tensor:
        """(b, C, *space) -> (G, c, N, p)."""
        kernel, o, c = self.shape[2:], self.options, self.options["groups"]
        stride, padding, dilation = (_each(o[k], self.dims) for k in _GEOMETRY)
        if self.dims == 1:
            a, kernel = a.unsqueeze(2), torch.Size((1, *kernel))
            stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
        cols = F.unfold(a, kernel, dilation, padding, stride)  # (b, C * kernel, positions)
        cols = cols.reshape(self.groups, -1, c, cols.shape[1] // c, cols.shape[2])
        return cols.permute(0, 2, 1, 4, 3).flatten(2, 3)

    def rows_out(self, z: Tensor) -> Tensor:
        """(b, O, *space) -> (G, c, N, q)."""
        c = self.options["groups"]
        z = z.reshape(self.groups, -1, c, z.shape[1] // c, z.shape[2:].numel())
        return z.permute(0, 2, 1, 4, 3).flatten(2, 3)

    def as_output(self, rows: Tensor, like: Tensor) -> Tensor:
        rows = rows.unflatten(2, (like.shape[0] // self.groups, -1))  # (G, c, r, positions, q)
        return rows.permute(0, 2, 1, 4, 3).reshape(like.shape)

    def group_weight_grads(self) -> Tensor:
        weight_grad = conv2d_weight if self.dims == 2 else conv1d_weight
        shape = (self.groups * self.shape[0], *self.shape[1:])
        o = self.options | {"groups": self.groups * self.options["groups"]}
        a, g = self.side_by_side(self.a), self.side_by_side(self.g.to(self.a.dtype))
        return weight_grad(a, shape, g, **o).view(self.groups, *self.shape)

    def product(self, call: Call, weight: Tensor, bias: Tensor | None) -> Tensor:
        o = self.options | {"groups": self.groups * self.options["groups"]}
        bias = None if bias is None else bias.flatten()
        z = self.function(self.side_by_side(call.input), weight.flatten(0, 1), bias, **o)
        z = z.reshape(z.shape[0], self.groups, -1, *z.shape[2:])
        return z.transpose(0, 1).flatten(0, 1)

    def side_by_side(self, x: Tensor) -> Tensor:
        """(G * r, C, *space) -> (r, G * C, *space): the groups become channel groups."""
        return self.by_group(x).transpose(0, 1).flatten(1, 2)


class Lookup(Site):
    """An embedding: a product with one-hot rows, kept as (group, token) pairs and their sums."""

    def __init__(self, call: Call, moves: tuple[bool, bool], groups: int) -> None:
        super().__init__(call, moves, groups)
        if call.options["max_norm"] is not None or call.options["scale_grad_by_freq"]:
            raise Unsupported("an embedding with max_norm or scale_grad_by_freq")
        self.padding_idx = call.options["padding_idx"]
        self.size = _there(call.weight).shape[0]

    def forward(self, call: Call) -> Tensor:
        return call.function(call.input, call.weight, **call.options)

    def learning(self, g: Tensor) -> Tensor:
        if self.padding_idx is None:
            return g
        return g * (self.a != self.padding_idx % self.size).unsqueeze(-1)

    def squared_norms(self) -> Tensor:
        group = torch.arange(self.groups, device=self.a.device)
        pairs = self.by_group(self.a).flatten(1) + self.size * group[:, None]
        unique, self.inverse = pairs.flatten().unique(return_inverse=True)
        g = self.learning(self.g).reshape(-1, self.g.shape[-1])
        self.sums = g.new_zeros(len(unique), g.shape[1]).index_add(0, self.inverse, g)
        self.group = torch.div(unique, self.size, rounding_mode="floor")
        return g.new_zeros(self.groups).index_add(0, self.group, self.sums.square().sum(1))

    def perturbed(self, call: Call, s: Tensor) -> Tensor:
        if not torch.equal(call.input, self.a):
            raise Unsupported("an embedding whose tokens depend on the weights")
        z = call.function(call.input, call.weight, **call.options)
        return z + (self.sums * s[self.group, None])[self.inverse].view(z.shape).to(z.dtype)


class Affine(Site):
    """The scale and shift of a normalization: z = scale * n(a) + shift, one number per feature.

    The gradients of a group are small here, so each example simply gets its group's scale and
    shift.
    """

    against: tuple[int, ...]

    def __init__(self, call: Call, moves: tuple[bool, bool], groups: int) -> None:
        super().__init__(call, moves, groups)
        features = next(p.shape for p in call.parameters if p is not None)
        self.lay_out(call, features)

    def lay_out(self, call: Call, features: torch.Size) -> None:
        trailing = "normalized_shape" in call.options
        rest = self.a.shape[1:]
        # the features' shape against one example: (..., *features) or (features, 1, ..., 1)
        self.against = (
            (1,) * (len(rest) - len(features)) + features
            if trailing
            else features + (1,) * (len(rest) - 1)
        )
        if self.a.dim() < 2 or (trailing and len(rest) < len(features)):
            raise Unsupported("a normalization of an input without a batch dimension")

    def normalized(self, call: Call) -> Tensor:
        return call.function(call.input, **call.options)

    def forward(self, call: Call) -> Tensor:
        n = self.normalized(call)
        self.n = n.detach()
        return self.affine(n, call.weight, call.bias, self.against)

    @staticmethod
    def affine(n: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple) -> Tensor:
        if weight is None:
            return n + _there(bias).reshape(shape)
        if bias is None:
            return n * weight.reshape(shape)
        return torch.addcmul(bias.reshape(shape), n, weight.reshape(shape))

    def summed(self, x: Tensor) -> Tensor:
        """Sum over the group and all positions: (rows, ...) -> (G, 1, *against)."""
        return self.by_group(x).sum_to_size(self.groups, 1, *self.against)

    def squared_norms(self) -> Tensor:
        total = self.g.new_zeros(self.groups)
        if self.moves_weight:
            self.weight_grad = self.summed(self.g * self.n)
            total = total + _squared(self.weight_grad)
        if self.moves_bias:
            self.bias_grad = self.summed(self.g)
            total = total + _squared(self.bias_grad)
        del self.a, self.g, self.n
        return total

    def perturbed(self, call: Call, s: Tensor) -> Tensor:
        rows = call.input.shape[0] // self.groups

        def each(p: Tensor | None, moves: bool, name: str) -> Tensor | None:
            if p is None:
                return None
            if not moves:
                return p.reshape(self.against)
            p = _moved(p.reshape(1, *self.against), getattr(self, name), s)
            return p.expand(-1, rows, *self.against).flatten(0, 1)

        n = self.normalized(call)
        weight = each(call.weight, self.moves_weight, "weight_grad")
        bias = each(call.bias, self.moves_bias, "bias_grad")
        shape = (-1, *self.against)
        return self.affine(n, weight, bias, shape)


class Broadcast(Affine):
    """a * w or a + w for a parameter w that is the same for all examples."""

    def __init__(self, call: Call, moves: tuple[bool, bool], groups: int) -> None:
        super().__init__(call, moves, groups)
        self.proportional, self.shifts = True, call.weight is None

    def lay_out(self, call: Call, features: torch.Size) -> None:
        dims = self.a.dim()
        if len(features) == dims and features[0] == 1:
            features = features[1:]
        if len(features) >= dims:
            raise Unsupported("a parameter with a dimension for the examples")
        self.against = (1,) * (dims - 1 - len(features)) + features

    def normalized(self, call: Call) -> Tensor:
        return call.input


def _inner(x: Tensor, y: Tensor) -> Tensor:
    """<x_i, y_k> of the rows of (..., N, p) and (..., N, p): (..., N, N)."""
    return (x * y).sum(-1, keepdim=True) if x.shape[-2] == 1 else x @ y.mT


def _apply(K: Tensor, g: Tensor) -> Tensor:
    """sum_i K_ji g_i: (..., N, N), (..., N, q) -> (..., N, q)."""
    return K * g if K.shape[-1] == 1 else K @ g


def _squared(x: Tensor) -> Tensor:
    """||x_G||^2 of (G, ...): (G,)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).square()


def _moved(p: Tensor, grad: Tensor | None, s: Tensor) -> Tensor:
    """p + s_G grad_G of (G, ...); a parameter that does not move is the same for all groups."""
    if grad is None:
        return p.expand(len(s), *p.shape)
    s = s.view(-1, *[1] * (grad.dim() - 1))
    return torch.addcmul(p.to(grad.dtype), s, grad).to(p.dtype)


def _there(p: Tensor | None) -> Tensor:
    assert p is not None
    return p


def _each(x: int | tuple[int, ...], dims: int) -> tuple[int, ...]:
    x = (x,) if isinstance(x, int) else tuple(x)
    return x * dims if len(x) == 1 else x


_GEOMETRY = ("stride", "padding", "dilation")


# What each torch function calls its arguments: the signature of the function, as a Call.


def _linear(input, weight, bias=None):
    return Call(F.linear, input, weight, bias, {})


def _multiply(input, weight, bias=None):
    return input @ weight if bias is None else torch.addmm(bias, input, weight)


def _matmul(input, other):
    if input.dim() < 2 or other.dim() != 2:
        raise Unsupported("a product with a parameter that is not a matrix")
    return Call(_multiply, input, other, None, {})


def _addmm(input, mat1, mat2, *, beta=1, alpha=1):
    if input.dim() != 1 or len(input) != mat2.shape[1] or (beta, alpha) != (1, 1):
        raise Unsupported("addmm that is not a product plus a bias")
    return Call(_multiply, mat1, mat2, input, {})


def _operands(x, y):
    """(the tensor, the parameter) of two factors or summands."""
    x, y = (y, x) if isinstance(x, nn.Parameter) else (x, y)
    if not isinstance(x, Tensor):
        raise Unsupported("a number times or plus a parameter")
    return x, y


def _mul(input, other):
    a, w = _operands(input, other)
    return Call(torch.mul, a, w, None, {})


def _add(input, other, *, alpha=1):
    a, w = _operands(input, other)
    if alpha != 1:
        raise Unsupported("add of a parameter with a factor alpha")
    return Call(torch.add, a, None, w, {})


def _expand(input, *sizes):
    """The parameter added to a 0 for every example."""
    shape = input.detach().expand(*sizes).shape
    return Call(torch.add, input.detach().new_zeros(()).expand(shape), None, input, {})


def _conv(function):
    def bind(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        if padding == "same":
            total = [
                d * (k - 1)
                for d, k in zip(_each(dilation, weight.dim() - 2), weight.shape[2:], strict=True)
            ]
            pads = [side for t in reversed(total) for side in (t // 2, t - t // 2)]
            input, padding = F.pad(input, pads), 0
        padding = 0 if padding == "valid" else padding
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return Call(function, input, weight, bias, options)

    return bind


def _group_norm(input, num_groups, weight=None, bias=None, eps=1e-5):
    return Call(F.group_norm, input, weight, bias, {"num_groups": num_groups, "eps": eps})


def _layer_norm(input, normalized_shape, weight=None, bias=None, eps=1e-5):
    options = {"normalized_shape": normalized_shape, "eps": eps}
    return Call(F.layer_norm, input, weight, bias, options)


def _rms_norm(input, normalized_shape, weight=None, eps=None):
    options = {"normalized_shape": normalized_shape, "eps": eps}
    return Call(F.rms_norm, input, weight, None, options)


def _instance_norm(
    input,
    running_mean=None,
    running_var=None,
    weight=None,
    bias=None,
    use_input_stats=True,
    momentum=0.1,
    eps=1e-5,
):
    if use_input_stats and running_mean is not None:
        raise Unsupported("InstanceNorm that updates running statistics, once for each group")
    options = {
        "running_mean": running_mean,
        "running_var": running_var,
        "use_input_stats": use_input_stats,
        "momentum": momentum,
        "eps": eps,
    }
    return Call(F.instance_norm, input, weight, bias, options)


def _batch_norm(
    input,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
):
    if training:
        raise Undefined(BATCH_NORM)
    options = {"running_mean": running_mean, "running_var": running_var, "eps": eps}
    return Call(F.batch_norm, input, weight, bias, options)


def _embedding(
    input,
    weight,
    padding_idx=None,
    max_norm=None,
    norm_type=2.0,
    scale_grad_by_freq=False,
    sparse=False,
):
    options = {
        "padding_idx": padding_idx,
        "max_norm": max_norm,
        "norm_type": norm_type,
        "scale_grad_by_freq": scale_grad_by_freq,
        "sparse": sparse,
    }
    return Call(F.embedding, input, weight, None, options)


BATCH_NORM = (
    "BatchNorm in train mode makes one example's loss depend on the others, so m-SAM with m "
    "smaller than the batch is not defined. Use GroupNorm or LayerNorm, put the BatchNorm layers "
    "in eval mode, take m = the batch size, or pass method='loop' to normalize each group by its "
    "own statistics"
)

#: torch function -> (its signature, its rule)
RULES: dict[Callable[..., Any], tuple[Callable[..., Call], type[Site]]] = {
    F.linear: (_linear, Linear),
    torch.matmul: (_matmul, Matrix),
    Tensor.matmul: (_matmul, Matrix),
    torch.addmm: (_addmm, Matrix),
    Tensor.addmm: (_addmm, Matrix),
    torch.mul: (_mul, Broadcast),
    Tensor.mul: (_mul, Broadcast),
    torch.add: (_add, Broadcast),
    Tensor.add: (_add, Broadcast),
    Tensor.expand: (_expand, Broadcast),
    F.conv1d: (_conv(F.conv1d), Conv),
    F.conv2d: (_conv(F.conv2d), Conv),
    F.group_norm: (_group_norm, Affine),
    F.layer_norm: (_layer_norm, Affine),
    F.rms_norm: (_rms_norm, Affine),
    F.instance_norm: (_instance_norm, Affine),
    F.batch_norm: (_batch_norm, Affine),
    F.embedding: (_embedding, Lookup),
}
