"""A model's mean loss as one function of one vector, which leaves the model as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import reduce
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from samkit import passes
from samkit.errors import Undefined, Unsupported
from samkit.msam.batch import Batch, LossFn, leaves, mapped, per_example

HALF = (torch.bfloat16, torch.float16)


class Objective:
    r"""w -> the mean loss of some examples, w (K,) being all trainable weights laid end to end.

    Every evaluation starts from the same buffers, module attributes and random numbers, so that it
    is ONE function of w whatever the module keeps track of, and dropout masks are the same
    everywhere. Inside of ``with`` the model is used; afterwards its weights, buffers, modes and
    attributes and the global random states (torch, NumPy, Python) are bit for bit what they were,
    also after an error. Inputs that a layer changes in place are passed as copies.

    The loss is computed in the type of the weights. Where they are of several types, or in half
    precision, it is that of a copy of the model in the widest of them, at least float32, to which
    weights, buffers and inputs are converted, without autocast: in bfloat16 a move of the weights
    by less than their spacing would be lost. A complex weight counts as its real and its imaginary
    part.

    Raises ValueError if nothing is trainable, Undefined for BatchNorm in train mode, Unsupported
    for sharded weights.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn, dtype: torch.dtype | None = None) -> None:
        model = getattr(model, "_orig_mod", model)  # of torch.compile
        model = model.module if isinstance(model, DistributedDataParallel) else model
        self.model, self.pair = model, _Pair(model, loss_fn)
        _check(model)
        named = {f"model.{name}": p for name, p in model.named_parameters()}
        self.trained = {name: p for name, p in named.items() if p.requires_grad}
        if not self.trained:
            raise ValueError("the model has no parameter with requires_grad=True: nothing to move")
        floats = [p.dtype for p in named.values() if p.is_floating_point() or p.is_complex()]
        wide = reduce(torch.promote_types, (d.to_real() for d in floats), torch.float32)
        self.dtype = dtype or wide
        self.converts = any(d.to_real() != self.dtype for d in floats)
        self.device = next(iter(self.trained.values())).device
        self.w = torch.cat(
            [_real(p.detach()).flatten().to(self.device, self.dtype) for p in self.trained.values()]
        )
        self.kept = dict(self.pair.named_parameters()) | dict(self.pair.named_buffers())
        self.kept = {name: t for name, t in self.kept.items() if name not in self.trained}
        self.watch: AbstractContextManager = nullcontext()  # of the forward pass
        self.start = RandomState(named.values())

    @contextmanager
    def measuring(self) -> Iterator[Objective]:
        """The model is used inside, and outside as it was."""
        tensors = [*self.pair.parameters(), *self.pair.buffers()]
        before = [t.detach().clone() for t in tensors]
        self.attributes = original = _Attributes(self.pair)
        try:
            for module in self.pair.modules():
                if isinstance(module, nn.Embedding | nn.EmbeddingBag):
                    module.sparse = False  # the same gradient, which can be differentiated again
            self.attributes = _Attributes(self.pair)
            with sdpa_kernel(SDPBackend.MATH), torch.autocast(self.device.type, enabled=False):
                yield self
        finally:
            original.restore()
            self.start.restore()
            _put_back(tensors, before)

    # the weights

    def tensors(self, w: Tensor) -> dict[str, Tensor]:
        """Each trainable weight by its name, from w."""
        sizes = [prod(p.shape) * (2 if p.is_complex() else 1) for p in self.trained.values()]
        parts = zip(self.trained.items(), w.split(sizes), strict=True)
        return {name: self._shaped(part, p) for (name, p), part in parts}

    def _shaped(self, part: Tensor, p: Tensor) -> Tensor:
        if p.is_complex():
            return torch.view_as_complex(part.view(*p.shape, 2).clone()).to(p.device)
        return part.view(p.shape).clone().to(p.device)

    def _convert(self, t: Tensor) -> Tensor:
        """A copy; in the type of the evaluation, if that is not the model's own."""
        t = t.detach().clone()
        if not self.converts or not (t.is_floating_point() or t.is_complex()):
            return t
        return t.to(self.dtype.to_complex() if t.is_complex() else self.dtype)

    # its values

    def loss(self, weights: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """The mean loss of a batch, differentiable in the weights given by name."""
        state = {**weights, **{name: self._convert(t) for name, t in self.kept.items()}}
        batch = Batch(mapped(self._convert, batch.inputs), mapped(self._convert, batch.targets))
        self.start.restore()
        try:
            with self.watch:
                return functional_call(self.pair, state, (batch,)).mean()
        except RuntimeError as error:
            if self.converts and "dtype" in str(error):
                raise Unsupported(
                    f"the model, whose weights are of several types or of half precision, is "
                    f"measured in {self.dtype}, and its forward pass does not allow that "
                    f"({str(error).splitlines()[0]}): pass model.float(), whose forward pass "
                    "converts nothing to a type by name"
                ) from error
            raise
        finally:
            self.attributes.restore()

    def at(self, w: Tensor, batch: Batch) -> Tensor:
        """The mean loss at the weights w (K,)."""
        return self.loss(self.tensors(w), batch)

    def value(self, w: Tensor, parts: Sequence[Batch]) -> Tensor:
        """The mean over all examples of several batches, without a gradient."""
        count = sum(map(len, parts))
        with torch.no_grad():
            values = [self.at(w, part).to(w) * (len(part) / count) for part in parts]
        return torch.stack(values).sum()

    def value_and_slope(self, w: Tensor, parts: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """The same, and its gradient (K,), in plain reverse mode, batch after batch."""
        count, value, slope = sum(map(len, parts)), torch.zeros_like(w[0]), torch.zeros_like(w)
        for part in parts:
            weights = {k: t.requires_grad_() for k, t in self.tensors(w.detach()).items()}
            with torch.enable_grad():
                loss = self.loss(weights, part)
            if not loss.requires_grad:
                raise ValueError(_UNREACHED)
            grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            if all(g is None for g in grads):
                raise ValueError(_UNREACHED)
            share = len(part) / count
            value = value + loss.detach().to(value) * share
            flat = [
                torch.zeros_like(_real(t)) if g is None else _real(g.to_dense())
                for g, t in zip(grads, weights.values(), strict=True)
            ]
            slope = slope + torch.cat([g.flatten().to(slope) for g in flat]) * share
        return value, slope

    def look(self, parts: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """:meth:`value_and_slope` at the model's own weights, looked at for what would be wrong.

        Raises ValueError for a loss that is not one per example or reaches no trainable weight,
        Unsupported where the forward pass itself computes in half precision.
        """
        self.watch = watch = _HalfPrecision()
        values = self.value_and_slope(self.w, parts)
        self.watch = nullcontext()
        if watch.operation:
            raise Unsupported(
                f"the forward pass computes in half precision ({watch.operation}), where the "
                "increase of the loss in a small ball is lost to rounding: measure without "
                "autocast and .half() or .bfloat16() inside of the model"
            )
        return values


_END = object()
_UNREACHED = (
    "the loss depends on none of the model's trainable weights: pass the model that the loss is "
    "of, without torch.no_grad() or .detach() on the way from its weights to the loss"
)


class _Pair(nn.Module):
    """Model and loss in one module, so that a loss that reads the weights sees the moved ones."""

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, batch: Batch) -> Tensor:
        return per_example(self.loss_fn, self.model, batch)


def _check(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise Undefined(
                f"BatchNorm in train mode ({name or 'the model'}) makes the loss depend on which "
                "examples are taken together: call model.eval() before measuring"
            )
        if type(module).__name__ == "FullyShardedDataParallel":
            raise Unsupported("the model is sharded by FSDP: measure it on one process, unsharded")
    for name, p in model.named_parameters():
        if hasattr(p, "full_tensor"):
            raise Unsupported(f"{name} is sharded (a DTensor): measure the model unsharded")
        if is_lazy(p):
            raise ValueError(f"{name} has no shape yet: call the model once before measuring")


def batches(objective: Objective, inputs: Any, targets: Any) -> Iterator[Batch]:
    """One batch; or those of a loader, where targets is None. On the device of the weights."""
    if targets is not None:
        pairs: Iterable[Any] = [(inputs, targets)]
    elif isinstance(inputs, Tensor | Mapping | str) or not isinstance(inputs, Iterable):
        raise ValueError(
            "targets are missing: pass them after the inputs, or in place of both a DataLoader or "
            f"another iterable of pairs (inputs, targets), not a {type(inputs).__name__}"
        )
    else:
        pairs = inputs
    state, rest, empty = objective.start, iter(pairs), True
    while True:
        state.restore()  # evaluations have drawn from their own
        if (pair := next(rest, _END)) is _END:
            break
        state = RandomState(objective.pair.parameters())
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(
                f"a batch is a {type(pair).__name__}: make it a pair (inputs, targets), where "
                "inputs may be a tuple or a mapping of what the model is called with, as in "
                "((b, b['labels']) for b in loader)"
            )
        empty = False
        yield Batch(*(mapped(lambda t: t.to(objective.device), part) for part in pair))
    if empty:
        raise ValueError("there are no batches: pass an iterable with at least one")


def _real(t: Tensor) -> Tensor:
    return torch.view_as_real(t) if t.is_complex() else t


class RandomState(passes.RandomState):
    """torch's, NumPy's and Python's global random states at one moment."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__(tensors)
        self.numpy, self.python = np.random.get_state(), random.getstate()

    def restore(self) -> None:
        super().restore()
        np.random.set_state(self.numpy)
        random.setstate(self.python)


class _Attributes:
    """What the modules have as attributes, training modes and registered names among them."""

    def __init__(self, module: nn.Module) -> None:
        own = [vars(m) for m in module.modules()]
        inner = [v for names in own for v in names.values()]
        self.dicts = [(d, dict(d)) for d in (*own, *(v for v in inner if isinstance(v, dict)))]
        self.lists = [(v, list(v)) for v in inner if isinstance(v, list)]
        self.generators = [(v, v.get_state()) for v in inner if isinstance(v, torch.Generator)]
        self.tensors = [v for v in inner if isinstance(v, Tensor)]
        self.values = [t.detach().clone() for t in self.tensors]

    def restore(self) -> None:
        for names, before in self.dicts:
            names.clear()
            names.update(before)
        for entries, kept in self.lists:
            entries[:] = kept
        for generator, state in self.generators:
            generator.set_state(state)
        _put_back(self.tensors, self.values)


def _put_back(tensors: Iterable[Tensor], before: Iterable[Tensor]) -> None:
    """In place, where one has changed: an unchanged one may be needed by a graph of the user's."""
    for tensor, value in zip(tensors, before, strict=True):
        if not torch.equal(tensor, value):
            tensor.data.copy_(value)


class WeightNormByFormula(TorchFunctionMode):
    """v g / ||v|| written out: torch's second derivative of its fused form is not symmetric."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func is torch._weight_norm:
            v, g, dim = (*args, 0)[:3]
            return v * (g / torch.norm_except_dim(v, 2, dim))
        return func(*args, **(kwargs or {}))


class _HalfPrecision(TorchDispatchMode):
    """Notes the first operation whose result is in half precision."""

    operation = ""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        half = [t.dtype for t in leaves(result) if t.dtype in HALF]
        if half and not self.operation:
            self.operation = f"{func} in {half[0]}"
        return result
