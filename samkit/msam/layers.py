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
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv1d_weight, conv2d_weight, conv3d_weight

from samkit.errors import Undefined, Unsupported
from samkit.msam import cost
from samkit.msam.views import is_weight, viewed


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
    held = 0  # bytes of what is kept of g

    def __init__(self, call: Call, moves: tuple[bool, bool], groups: int) -> None:
        self.function = call.function
        self.moves_weight, self.moves_bias = moves
        self.groups = groups
        self.a = call.input.detach()
        self.version = self.a._version
        self.shifts = False  # whether it is z - a that is proportional
        self.reached = False  # whether the loss depends on z; if so g is its gradient by z
        self.shared = False  # whether its parameters move with other calls' gradients as well
        #: whether z is proportional to (w, bias): then c w moves z by c z
        self.proportional = moves == tuple(p is not None for p in call.parameters) and moves[0]
        #: of norms and moves: squares of small numbers are 0 in half precision
        dtype = next(p.dtype for p in call.parameters if p is not None)
        self.dtype = torch.promote_types(dtype, torch.float32)
        if not self.a.dim() or self.a.shape[0] % groups:
            raise Unsupported(
                f"an input of shape {tuple(self.a.shape)} does not have the examples in its first "
                "dimension"
            )
        shapes = [
            p.shape for p, own in zip(call.parameters, moves, strict=True) if own and p is not None
        ]
        self.shapes = shapes  # of the parameters that move

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
    def group_grads(self) -> list[Tensor]:
        """Each group's summed gradient, (G, *shape), by the parameters that move."""

    def share(self, grads: list[Tensor | None]) -> None:
        """Takes, for the parameters that move, the gradient summed over several calls.

        None stands for a parameter whose gradient this call has alone.
        """
        self.shared = True
        for name, grad in zip(self.moving, grads, strict=True):
            if grad is not None:
                setattr(self, name, grad)

    @property
    def moving(self) -> list[str]:
        """The attributes that hold the gradients of the parameters that move."""
        names = zip(("weight_grad", "bias_grad"), (self.moves_weight, self.moves_bias), strict=True)
        return [name for name, moves in names if moves]

    @abstractmethod
    def perturbed(self, call: Call, s: Tensor) -> Tensor:
        """f(a'; w + s_G * gradient of the group), s of shape (G,)."""

    @property
    def bytes(self) -> int:
        """What the second pass holds for this call beyond an ordinary pass; after `forward`."""
        return self.a.nbytes + self.held

    def by_group(self, x: Tensor) -> Tensor:
        """(rows, ...) -> (G, rows / G, ...)."""
        return x.reshape(self.groups, -1, *x.shape[1:])

    def of_groups(self) -> dict[str, Tensor]:
        """What `perturbed` needs of each group, (G, ...)."""
        kept = {name: getattr(self, name, None) for name in OF_GROUPS}
        return {name: t for name, t in kept.items() if t is not None}

    def alone(self, of_group: dict[str, Tensor]) -> Site:
        """The site of one group, given what `of_groups` has of it."""
        site = copy(self)
        site.groups = 1
        vars(site).update({name: t[None] for name, t in of_group.items()})
        return site


class Product(Site):
    """z = W a + bias. A subclass says what the rows of a and z are, and how weights multiply."""

    a_rows: Tensor  # (G, c, N, p): N rows in a group, c independent blocks
    g_rows: Tensor  # (G, c, N, q)
    weight_grad: Tensor | None = None  # (G, *weight.shape)
    bias_grad: Tensor | None = None  # (G, q)
    gram: bool
    has_gram = True

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
        self.gram = self.has_gram and cost.gram_is_cheaper(N, p, q, patches=self.patches(call))
        held = cost.gram_numbers(N, p, q) if self.gram else cost.weight_numbers(p, q)
        self.held = self.groups * c * held * z.element_size()
        return z

    @abstractmethod
    def sizes(self, call: Call, z: Tensor) -> tuple[int, int, int, int]:
        """(N, p, q, c)."""

    def patches(self, call: Call) -> bool:
        return False

    def squared_norms(self) -> Tensor:
        if self.gram:
            self.a_rows, self.g_rows = self.rows_in(self.a), self.rows_out(self.g)
            del self.a, self.g
            K = self.kernel(self.a_rows) * _inner(self.g_rows, self.g_rows)
            return K.sum((1, 2, 3))
        grads = self.group_grads()
        del self.a, self.g
        return torch.stack([squared(grad) for grad in grads]).sum(0)

    def group_grads(self) -> list[Tensor]:
        self.gram = False
        if self.moves_weight:
            self.weight_grad = self.group_weight_grads()
        if self.moves_bias:
            self.bias_grad = self.rows_out(self.g).sum(2).flatten(1)
        return [getattr(self, name) for name in self.moving]

    def kernel(self, rows: Tensor) -> Tensor:
        """<a'_j, a_i> + 1 (the 1 is the bias), (G, c, N, N)."""
        if not self.moves_weight:
            return rows.new_ones(*rows.shape[:3], rows.shape[2])
        K = _inner(rows, self.a_rows)
        return K + 1 if self.moves_bias else K

    def perturbed(self, call: Call, s: Tensor) -> Tensor:
        if self.gram and not self.shared:
            z = call.function(call.input, call.weight, call.bias, **call.options)
            with torch.autocast(z.device.type, enabled=False):
                a = call.input.to(self.dtype)
                rows = self.rows_in(a) if self.moves_weight else self.a_rows
                # s may be beyond the numbers of z's type, but not of this one
                move = _apply(self.kernel(rows) * s.view(-1, 1, 1, 1), self.g_rows)
            return z + self.as_output(move, z).to(z.dtype)
        weight = _moved(_given(call.weight), self.weight_grad, s)
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
        self.options, self.shape = call.options, _given(call.weight).shape
        self.has_gram = self.dims < 3  # there are no patches in torch for three dimensions
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
        a, g = self.side_by_side(self.a), self.side_by_side(self.g.to(self.a.dtype))
        return self.weight_grads_of(a, g)

    def weight_grads_of(self, a: Tensor, g: Tensor) -> Tensor:
        weight_grad = (conv1d_weight, conv2d_weight, conv3d_weight)[self.dims - 1]
        shape = (self.groups * self.shape[0], *self.shape[1:])
        names = (*_GEOMETRY, "groups")
        o = {k: self.options[k] for k in names} | {"groups": self.groups * self.options["groups"]}
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


class Transposed(Conv):
    """A transposed convolution: the linear map that is the convolution's gradient by its input.

    So <g, T(a)> = <conv(g), a>, and the gradient by the weights is that of a convolution of g.
    """

    def __init__(self, call: Call, moves: tuple[bool, bool], groups: int) -> None:
        super().__init__(call, moves, groups)
        self.has_gram = False

    def sizes(self, call: Call, z: Tensor) -> tuple[int, int, int, int]:
        c = self.options["groups"]
        N = self.a.shape[0] * self.a.shape[2:].numel() // self.groups
        return N, self.shape[0] // c, self.shape[1:].numel(), c

    def weight_grads_of(self, a: Tensor, g: Tensor) -> Tensor:
        return super().weight_grads_of(g, a)


class Lookup(Site):
    """An embedding: a product with one-hot rows, summed over each token of each group."""

    weight_grad: Tensor
    sums: Tensor  # (G, rows of a group, ..., q): the sum over its token, for each place

    def __init__(self, call: Call, moves: tuple[bool, bool], groups: int) -> None:
        super().__init__(call, moves, groups)
        if call.options["max_norm"] is not None or call.options["scale_grad_by_freq"]:
            raise Unsupported("an embedding with max_norm or scale_grad_by_freq")
        self.padding_idx = call.options["padding_idx"]
        self.size = _given(call.weight).shape[0]

    def forward(self, call: Call) -> Tensor:
        z = call.function(call.input, call.weight, **call.options)
        self.held = z.nbytes
        return z

    def learning(self, g: Tensor) -> Tensor:
        if self.padding_idx is None:
            return g
        return g * (self.a != self.padding_idx % self.size).unsqueeze(-1)

    def pairs(self, tokens: Tensor) -> Tensor:
        """One number for each token of a group, as a vector."""
        group = torch.arange(self.groups, device=tokens.device)
        return (self.by_group(tokens).flatten(1) + self.size * group[:, None]).flatten()

    def squared_norms(self) -> Tensor:
        unique, inverse = self.pairs(self.a).unique(return_inverse=True)
        g = self.learning(self.g).reshape(-1, self.g.shape[-1])
        sums = g.new_zeros(len(unique), g.shape[1]).index_add(0, inverse, g)
        group = torch.div(unique, self.size, rounding_mode="floor")
        self.sums = self.by_group(sums[inverse].view(self.g.shape))
        return g.new_zeros(self.groups).index_add(0, group, sums.square().sum(1))

    def group_grads(self) -> list[Tensor]:
        g = self.learning(self.g).reshape(-1, self.g.shape[-1])
        grad = g.new_zeros(self.groups * self.size, g.shape[1]).index_add(0, self.pairs(self.a), g)
        return [grad.view(self.groups, self.size, -1)]

    def perturbed(self, call: Call, s: Tensor) -> Tensor:
        z = call.function(call.input, call.weight, **call.options)
        if self.shared:
            rows = self.weight_grad.flatten(0, 1)[self.pairs(call.input)]
            return z + (rows.view(z.shape) * rows_of(s, z)).to(z.dtype)
        if len(self.a) == len(call.input) and not torch.equal(call.input, self.a):
            raise Unsupported("an embedding whose tokens depend on the weights")
        return z + (self.sums.view(z.shape) * rows_of(s, z)).to(z.dtype)


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

    def affine(self, n: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple) -> Tensor:
        if weight is None:
            return n + _given(bias).reshape(shape)
        if bias is None:
            return n * weight.reshape(shape)
        return torch.addcmul(bias.reshape(shape), n, weight.reshape(shape))

    def summed(self, x: Tensor) -> Tensor:
        """Sum over the group and all positions: (rows, ...) -> (G, 1, *against)."""
        return self.by_group(x).sum_to_size(self.groups, 1, *self.against)

    def squared_norms(self) -> Tensor:
        grads = self.group_grads()
        del self.a, self.g, self.n
        return torch.stack([squared(grad) for grad in grads]).sum(0)

    def slope(self) -> Tensor:
        """The derivative of each z by its weight."""
        return self.n

    def group_grads(self) -> list[Tensor]:
        if self.moves_weight:
            self.weight_grad = self.summed(self.g * self.slope())
        if self.moves_bias:
            self.bias_grad = self.summed(self.g)
        grads = (getattr(self, name) for name in self.moving)
        return [
            grad.reshape(self.groups, *shape)
            for grad, shape in zip(grads, self.shapes, strict=True)
        ]

    def perturbed(self, call: Call, s: Tensor) -> Tensor:
        rows = call.input.shape[0] // self.groups

        def each(p: Tensor | None, moves: bool, name: str) -> Tensor | None:
            if p is None:
                return None
            if not moves:
                return p.reshape(self.against)
            grad = getattr(self, name).view(self.groups, 1, *self.against)
            p = _moved(p.reshape(1, *self.against), grad, s)
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


class Pointwise(Broadcast):
    """f(a, w) for each number of a and the one of w that belongs to it."""

    def __init__(self, call: Call, moves: tuple[bool, bool], groups: int) -> None:
        super().__init__(call, moves, groups)
        self.proportional = False

    def forward(self, call: Call) -> Tensor:
        self.w = _given(call.weight).detach().reshape(self.against)
        return super().forward(call)

    def slope(self) -> Tensor:
        return SLOPES[self.function](self.n, self.w)

    def affine(self, n: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple) -> Tensor:
        return self.function(n, _given(weight).reshape(shape))


def _prelu_of(a: Tensor, w: Tensor) -> Tensor:
    return torch.where(a > 0, a, w * a)


#: the derivative by w of each function of a `Pointwise`
SLOPES: dict[Callable, Callable[[Tensor, Tensor], Tensor]] = {
    torch.div: lambda a, w: -a / w.square(),
    _prelu_of: lambda a, w: a.clamp(max=0),
}


def _inner(x: Tensor, y: Tensor) -> Tensor:
    """<x_i, y_k> of the rows of (..., N, p) and (..., N, p): (..., N, N)."""
    return (x * y).sum(-1, keepdim=True) if x.shape[-2] == 1 else x @ y.mT


def _apply(K: Tensor, g: Tensor) -> Tensor:
    """sum_i K_ji g_i: (..., N, N), (..., N, q) -> (..., N, q)."""
    return K * g if K.shape[-1] == 1 else K @ g


def rows_of(per_group: Tensor, x: Tensor) -> Tensor:
    """(G,) -> (rows, 1, ...), each group's number for its rows of x."""
    rows = per_group.repeat_interleave(len(x) // len(per_group))
    return rows.view(-1, *[1] * (x.dim() - 1))


def squared(x: Tensor) -> Tensor:
    """||x_G||^2 of (G, ...): (G,)."""
    return torch.linalg.vector_norm(x.reshape(len(x), -1), dim=1).square()


def _moved(p: Tensor, grad: Tensor | None, s: Tensor) -> Tensor:
    """p + s_G grad_G of (G, ...); a parameter that does not move is the same for all groups."""
    if grad is None:
        return p.expand(len(s), *p.shape)
    s = s.view(-1, *[1] * (grad.dim() - 1))
    return torch.addcmul(p.to(grad.dtype), s, grad).to(p.dtype)


def _given(p: Tensor | None) -> Tensor:
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
    x, y = (y, x) if is_weight(x) else (x, y)
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


def _sub(input, other, *, alpha=1):
    if alpha != 1:
        raise Unsupported("sub of a parameter with a factor alpha")
    if is_weight(input):
        if not isinstance(other, Tensor):
            raise Unsupported("a number minus a parameter, or a parameter minus a number")
        return Call(torch.add, -other, None, input, {})
    return Call(torch.add, input, None, viewed(torch.neg, (other,), {}), {})


def _div(input, other, *, rounding_mode=None):
    a, w = _operands(input, other)
    if w is not other or rounding_mode is not None:
        raise Unsupported("a quotient that is not of a tensor by a parameter")
    return Call(torch.div, a, w, None, {})


def _prelu(input, weight):
    if weight.numel() > 1:
        weight = viewed(Tensor.reshape, (weight, -1, *[1] * (input.dim() - 2)), {})
    return Call(_prelu_of, input, weight, None, {})


def _repeat(input, *sizes):
    sizes = sizes[0] if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes
    if any(n != 1 for n in sizes[1:]):
        raise Unsupported("a parameter that is repeated in other dimensions than the first")
    return _expand(input, sizes[0], *[-1] * (len(sizes) - 1))


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


def _conv_transposed(function):
    def bind(input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
        options = {"stride": stride, "padding": padding, "output_padding": output_padding}
        return Call(
            function, input, weight, bias, options | {"groups": groups, "dilation": dilation}
        )

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

#: attributes of sites with a row for each group
OF_GROUPS = ("a_rows", "g_rows", "weight_grad", "bias_grad", "sums")

#: torch function that changes its first argument -> the one that does not
IN_PLACE: dict[Callable[..., Any], Callable[..., Tensor]] = {
    Tensor.add_: torch.add,
    Tensor.sub_: torch.sub,
    Tensor.mul_: torch.mul,
    Tensor.div_: torch.div,
}

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
    torch.sub: (_sub, Broadcast),
    Tensor.sub: (_sub, Broadcast),
    torch.div: (_div, Pointwise),
    Tensor.div: (_div, Pointwise),
    Tensor.__truediv__: (_div, Pointwise),
    F.prelu: (_prelu, Pointwise),
    torch.prelu: (_prelu, Pointwise),
    Tensor.prelu: (_prelu, Pointwise),
    Tensor.expand: (_expand, Broadcast),
    Tensor.repeat: (_repeat, Broadcast),
    F.conv1d: (_conv(F.conv1d), Conv),
    F.conv2d: (_conv(F.conv2d), Conv),
    F.conv3d: (_conv(F.conv3d), Conv),
    F.conv_transpose1d: (_conv_transposed(F.conv_transpose1d), Transposed),
    F.conv_transpose2d: (_conv_transposed(F.conv_transpose2d), Transposed),
    F.conv_transpose3d: (_conv_transposed(F.conv_transpose3d), Transposed),
    F.group_norm: (_group_norm, Affine),
    F.layer_norm: (_layer_norm, Affine),
    F.rms_norm: (_rms_norm, Affine),
    F.instance_norm: (_instance_norm, Affine),
    F.batch_norm: (_batch_norm, Affine),
    F.embedding: (_embedding, Lookup),
}
