r"""SAM around any torch optimizer: one mechanism, and the family of its gradients by options.

A SAM step is: a first pass at w, a move to w + delta by a rule of `perturbation.py`, a second pass
there, the weights back by copying, and a step of the base optimizer with the second pass's
gradient. The members of the family differ in where delta comes from:

    ERM                         rho=0 (a single pass)
    SAM, m = the batch          SAM(base, rho)
    the theory's SAM            normalize=False
    ASAM                        adaptive=True
    several ascent steps        ascent_steps=K, random_start=True or False
    random perturbation         direction="gaussian" or "sphere" (a single pass)
    n-SAM, independent batch    step(closure, ascent_closure), with the loss of another batch or of
                                all the data
    SAM's step size alone       step_size_only=True
    SAM for a part of training  between=(first, last), interval=k
    GSAM, WSAM                  combine=perturbation.gsam, perturbation.wsam
    LookSAM                     interval=k, reuse=alpha
    Friendly SAM                friendly=decay
    SAM on normalization alone  SAM(SGD(normalization_groups(model, rho=0.5), lr=...), rho=0)
    m-SAM with m = b / ranks    ascent_context=ddp_model.no_sync
    m-SAM with any m            samkit.msam_grad, then the base optimizer's own step
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import LBFGS, Optimizer

from samkit import passes, perturbation
from samkit.errors import NonFinite

Closure = Callable[[], Tensor]
#: (gradients at w, gradients at w + delta) -> the gradients of the step
Combine = Callable[[perturbation.Tensors, perturbation.Tensors], Sequence[Tensor | None]]

DIRECTIONS = ("gradient", "gaussian", "sphere")


class SAM(Optimizer):
    r"""Sharpness-Aware Minimization around a constructed torch optimizer::

        opt = SAM(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), rho=0.05)

        def closure():
            opt.zero_grad()
            loss = loss_fn(model(x), y)
            loss.backward()
            return loss

        loss = opt.step(closure)

    The move is

    .. math::

        \delta_k = \frac{T_k^2\, g_k}{\lVert T g\rVert}, \qquad
        T_k = \rho \quad\text{or, if adaptive,}\quad T_k = \rho\,(|w_k| + \eta),

    where the norm goes over all parameters together; without `normalize` it is
    :math:`\rho\, g_k`, or :math:`\rho\,(|w_k| + \eta)^2 g_k`. It takes the gradients as the closure
    leaves them: weight decay of the base optimizer is not in the move, weight decay written into
    the loss is.

    `param_groups` and `state` are the base optimizer's own, so a scheduler may be attached to
    either, a state loaded into either, and `state_dict` holds everything. rho is an entry of each
    parameter group. Groups with different radii move in the ellipsoid
    :math:`\sum_k \lVert\delta_k\rVert^2 / \rho_k^2 \le 1`: a group with rho = 0 does not move and
    does not count in the norm.

    The gradient is that of :math:`w + \delta`, here (3.3, 4.4) for the loss
    :math:`\lVert w\rVert^2 / 2` at (3, 4):

    >>> w = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> opt = SAM(torch.optim.SGD([w], lr=0.1), rho=0.5)
    >>> def closure():
    ...     opt.zero_grad()
    ...     loss = w.square().sum() / 2
    ...     loss.backward()
    ...     return loss
    >>> opt.step(closure).item()
    12.5
    >>> [round(x, 4) for x in w.tolist()]
    [2.67, 3.56]

    - Gradient clipping belongs between the second pass and the step of the base optimizer, that
      is in a hook: `base.register_step_pre_hook(clip)`, with a `clip(*_)` that calls
      `clip_grad_norm_` and returns None. It sees unscaled gradients, also under a GradScaler. A
      hook on the SAM optimizer itself comes before the passes, too early to clip.
    - Gradient accumulation: let the closure run forward and backward on all micro-batches. A
      framework's own accumulation has to be off; where it is seen to be on, `step` raises.
    - Mixed precision: the closure does `scaler.scale(loss).backward()`, then
      `opt.step(closure, scaler=scaler); scaler.update()`. Gradients that overflow in either pass
      skip the step, as in torch. The closure opens autocast itself. Weights that are themselves
      bfloat16 or float16 do not move where the move is smaller than half their spacing, in bfloat16
      :math:`2^{-9}` of the weight: keep float32 weights.
    - Both passes are of one function: they see the same dropout masks (torch's random numbers are
      drawn again; those of Python's `random`, NumPy and generators of the closure's own are not),
      and both begin with the same buffers and numbers in the modules (BatchNorm's statistics, the
      vectors of spectral normalization, counters), which after the step are as the first pass left
      them. With an `ascent_closure`, whose forward pass is of other examples, both count.
    - DDP: by default every rank moves along the averaged gradient (m = the global batch). With
      `ascent_context=model.no_sync` each rank moves along its own (m = the local batch), without
      communication in the first pass. The closure must contain the forward pass. DDP's
      `static_graph=True` does not allow passes within `no_sync`. If one rank alone raises, as by
      inf in what only its first pass saw, the others wait for it: let that end all of them.
    - FSDP2 (`fully_shard`): as on one device. FSDP1 raises.
    - `maximize=True` of the base optimizer or of a group: its move is along minus the gradient, to
      where the objective that it climbs is lowest.
    - complex weights count as pairs of real ones, but ASAM's ``|w|`` is the modulus. Its
      radii are for all parameters alike, biases too; `eta` keeps those at 0 from standing still.
    - sparse gradients, parameters without a gradient, and parameters with one in only one of the
      passes are fine: who has none in the first does not move, who has none in the second gets no
      step.

    Args:
        base: the optimizer that takes the step; or parameters (or groups of them), for which
            `base_optimizer`, a class such as torch.optim.SGD, makes one with the other keyword
            arguments: ``SAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1)``.
        rho: radius, in the units of the weights, at least 0; groups may have set their own "rho".
        normalize: whether the move has the length rho or rho times the gradient's.
        adaptive: ASAM's elementwise radii (Kwon et al. 2021); `eta` is its eta.
        direction: "gradient"; or "gaussian", delta = T z; or "sphere", delta = T z / ||z||, with
            z ~ N(0, I). The random ones need a single pass.
        ascent_steps: K steps of projected ascent, each as long as SAM's (or `ascent_lr` times
            that), projected on the ball of SAM. K = 1 from no random start is SAM.
        random_start: the ascent starts on the sphere of the ball, at a random place.
        step_size_only: the gradient at w, with the length of the gradient at w + delta.
        combine: makes the gradients of the step of two lists, those at w and those at w + delta
            (None where a parameter has none); such as `functools.partial(perturbation.gsam,
            alpha=0.4)`, or `perturbation.wsam`.
        between: (first, last): SAM in the steps first <= t < last, the base optimizer's plain
            step in all others. None as last: to the end.
        interval: SAM in every such step of those, the plain step in the others.
        reuse: alpha > 0: the steps between take `perturbation.looksam` in place of the plain
            gradient (LookSAM).
        friendly: the decay in (0, 1) of the mean that the move leaves out, see
            `perturbation.friendly`; it goes over the gradients at w of the SAM steps.
        ascent_context: a context manager for the passes that find delta. Not for what needs one
            gradient at w on all ranks: combine, step_size_only, reuse, friendly.
        model: whose buffers and numbers are to change once a step. By default those of the modules
            called in the first step, with all that belongs to them later, and of compiled ones that
            have the weights. Pass it if it is first called in a later step.
        generator: for the random directions; its state is saved too.

    A base optimizer that has been in a SAM before gets the new rho in those groups that had the
    earlier one.

    Raises:
        ValueError: arguments that do not fit; no parameter got a gradient; gradients of before that
            the closure does not clear; a closure that does not compute the loss again; a first
            layer that changes the batch in place; parameters flattened by FSDP1. In all cases the
            weights are as before.
        NonFinite: there is no scaler, or one that is not enabled, and the gradient of either pass,
            or the move, is inf or nan: the weights are as before, p.grad is cleared and the step
            does not count, but buffers have seen the batch. A step of a single pass is not looked
            at, as in torch, nor is one that is recorded as a CUDA graph.

    Sources: Foret et al. 2021; Kwon et al. 2021; sections 2 to 4 of the paper, and the switches of
    its code. Chapter: "Which optimizer do I call, and how?".
    """

    @overload
    def __init__(
        self,
        base: Optimizer,
        base_optimizer: float | None = ...,  # the radius, where it is the second argument
        rho: float = ...,
        *,
        normalize: bool = ...,
        adaptive: bool = ...,
        eta: float = ...,
        direction: str = ...,
        ascent_steps: int = ...,
        ascent_lr: float = ...,
        random_start: bool = ...,
        step_size_only: bool = ...,
        combine: Combine | None = ...,
        between: tuple[int, int | None] = ...,
        interval: int = ...,
        reuse: float | None = ...,
        friendly: float | None = ...,
        ascent_context: Callable[[], AbstractContextManager] = ...,
        model: nn.Module | None = ...,
        generator: torch.Generator | None = ...,
    ) -> None: ...

    @overload
    def __init__(
        self,
        base: Iterable[Any],
        base_optimizer: Callable[..., Optimizer],
        rho: float = ...,
        **options: Any,
    ) -> None: ...

    def __init__(
        self,
        base: Optimizer | Iterable[Any],
        base_optimizer: Callable[..., Optimizer] | float | None = None,
        rho: float = 0.05,
        *,
        normalize: bool = True,
        adaptive: bool = False,
        eta: float = 0.01,
        direction: str = "gradient",
        ascent_steps: int = 1,
        ascent_lr: float = 1.0,
        random_start: bool = False,
        step_size_only: bool = False,
        combine: Combine | None = None,
        between: tuple[int, int | None] = (0, None),
        interval: int = 1,
        reuse: float | None = None,
        friendly: float | None = None,
        ascent_context: Callable[[], AbstractContextManager] = nullcontext,
        model: nn.Module | None = None,
        generator: torch.Generator | None = None,
        **base_options: Any,
    ) -> None:
        if isinstance(base_optimizer, int | float):
            rho, base_optimizer = base_optimizer, None
        base = _constructed(base, base_optimizer, base_options)
        for r in (rho, *(group.get("rho", rho) for group in base.param_groups)):
            _check_radius(r)
        if ascent_steps < 1 or int(ascent_steps) != ascent_steps:
            raise ValueError(f"ascent_steps must be an integer >= 1, not {ascent_steps}")
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {DIRECTIONS}, not {direction!r}")
        random = direction != "gradient"
        if step_size_only:
            combine = perturbation.step_size_only
        variant = combine is not None or reuse is not None or friendly is not None
        if random and (ascent_steps > 1 or random_start or variant or not normalize):
            raise ValueError("a random direction takes no gradient, so no option of an ascent")
        if variant and random_start:
            raise ValueError("with random_start no pass is at w, where this option has a gradient")
        if variant and ascent_context is not nullcontext:
            raise ValueError(
                "with an ascent_context every rank has a gradient at w of its own, and with this "
                "option the weights of the ranks would part: leave ascent_context out"
            )
        if friendly is not None and ascent_steps > 1:
            raise ValueError("friendly is for a single ascent step")
        _check_between(between)
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 1:
            raise ValueError(f"interval must be an integer >= 1, not {interval!r}")
        if reuse is not None and interval == 1:
            raise ValueError("reuse is for the steps between those of SAM: set interval > 1")
        _check_number("eta", eta, eta >= 0, ">= 0")
        _check_number("ascent_lr", ascent_lr, ascent_lr > 0, "> 0")
        _check_number("reuse", reuse, reuse is None or reuse > 0, "> 0")
        _check_number("friendly", friendly, friendly is None or 0 < friendly < 1, "in (0, 1)")
        if model is not None and not isinstance(model, nn.Module):
            raise ValueError(f"model must be a torch.nn.Module, not {type(model).__name__}")
        self.base = base
        self.normalize = normalize
        self.eta = eta if adaptive else None
        self.direction = direction
        self.ascent_steps = ascent_steps
        self.ascent_lr = ascent_lr
        self.random_start = random_start
        self.combine = combine
        self.between = between
        self.interval = interval
        self.reuse = reuse
        self.friendly = friendly
        self.ascent_context = ascent_context
        self.generator = generator
        self.model = model
        self._called: list[nn.Module] | None = None
        self._moves = passes.Moves()
        self._stepped: list[tuple[weakref.ref[Tensor], int]] = []
        self._learned: list[tuple[str, Tensor, Tensor | None]] = []
        self._in_place = False
        self._away: _Away | None = None
        self._calls = _Calls(model) if base_optimizer and model is not None else None
        for group in base.param_groups:  # of an earlier SAM
            if "rho" in base.defaults and group["rho"] == base.defaults["rho"]:
                group["rho"] = rho
        own: dict[str, Any] = {"rho": rho, "sam_steps": 0}
        if generator is not None:
            own["sam_generator"] = generator.get_state()
        super().__init__(base.param_groups, {**base.defaults, **own})
        base.defaults.update(own)  # a group added to the base optimizer gets it too
        self._share()
        self._follow()
        self.steps = 0

    @property
    def steps(self) -> int:
        """How many steps were taken; kept in the groups, as those are what every checkpoint has."""
        return self.param_groups[0]["sam_steps"]

    @steps.setter
    def steps(self, value: int) -> None:
        for group in self.param_groups:
            group["sam_steps"] = value

    def _share(self) -> None:
        """One list of groups and one state for both optimizers; groups keep what is SAM's."""
        for old, new in zip(self.param_groups, self.base.param_groups, strict=True):
            for name in old.keys() & {"rho", "sam_steps", "sam_generator"}:
                new.setdefault(name, old[name])
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def _follow(self) -> None:
        """Sees when the base optimizer loads a state, which makes new groups, and when it steps."""
        here = weakref.ref(self)

        def share(_: Optimizer) -> None:
            if (sam := here()) is not None:
                sam._share()

        def remember(*_: object) -> None:
            if (sam := here()) is not None:
                sam._keep()
                sam._remember()

        self.base.register_load_state_dict_post_hook(share)
        self.base.register_step_post_hook(remember)

    #: A GradScaler then calls `step` with `found_inf` set on this optimizer, and is told better.
    _step_supports_amp_scaling = True

    def step(  # type: ignore[override]  # the loss is returned always
        self,
        closure: Closure | None = None,
        ascent_closure: Closure | None = None,
        *,
        scaler: GradScaler | None = None,
    ) -> Tensor:
        """One SAM step; returns the loss of the first pass.

        `closure` clears the gradients, computes the loss, calls backward and returns the loss: it
        is called at w and again at w + delta. `ascent_closure` does the same for the loss that is
        to find delta, if that is another one. With a random direction the only pass is at
        w + delta.
        """
        if self.__dict__.pop("found_inf", None) is not None:
            self.__dict__.pop("grad_scale", None)
            raise ValueError(SCALER)
        rates = [group.get("lr") for group in self.param_groups]
        if closure is None and all(lr is not None and float(lr) == 0 for lr in rates):
            # torch.distributed.checkpoint makes the base optimizer's state like this
            self.base.step()
            return torch.zeros(())
        loss = self.gradient(closure, ascent_closure, scaler=scaler)
        self._take(scaler)
        return loss

    def gradient(
        self,
        closure: Closure | None = None,
        ascent_closure: Closure | None = None,
        *,
        scaler: GradScaler | None = None,
    ) -> Tensor:
        """All of a step but the base optimizer's own: leaves the gradient at w + delta in p.grad.

        For loops that take that step themselves, such as one that records the passes as a CUDA
        graph. Arguments and result are those of `step`.
        """
        if closure is None:
            raise ValueError(
                "SAM evaluates the loss more than once: call step(closure), with a closure that "
                "clears the gradients, computes the loss, calls backward and returns the loss"
            )
        if ascent_closure is not None and (self.combine is not None or self.reuse is not None):
            raise ValueError(
                "this option needs the gradient at w of the same examples, not of others"
            )
        now = self._now()
        left = self._clear_stepped(now.weights)
        with torch.enable_grad():
            if not now.active:
                with self._noticed(now.weights):
                    loss = closure()
                self._look(now)
            elif self.direction != "gradient":
                rule = getattr(perturbation, self.direction)
                delta = rule(now.weights, now.radii, self.generator)
                with self._noticed(now.weights), _refused(left), self._moves(now.weights, delta):
                    loss = closure()
            else:
                loss = self._sam(now, closure, ascent_closure, left, scaler)
        self.steps += 1
        return loss

    def _now(self) -> _Now:
        """The weights of this step, and what the groups say of them."""
        for group in self.param_groups:
            _check_radius(group["rho"])
        pairs = [(p, g) for g in self.param_groups for p in g["params"] if p.requires_grad]
        weights, rho = [p for p, _ in pairs], [float(g["rho"]) for _, g in pairs]
        first, last = self.between
        inside = first <= self.steps and (last is None or self.steps < last) and any(rho)
        active = inside and (self.steps - first) % self.interval == 0
        if any(rho):  # not only in the active steps: better soon than late
            _check_weights(weights)
        signs = [-1.0 if g.get("maximize") else 1.0 for _, g in pairs]
        self._learned = []
        return _Now(weights, rho, signs, perturbation.radii(weights, rho, self.eta), inside, active)

    def _sam(
        self,
        now: _Now,
        closure: Closure,
        ascent: Closure | None,
        left: list[Tensor],
        scaler: GradScaler | None,
    ) -> Tensor:
        """Fills p.grad with the gradient at w + delta; returns the loss of the first pass."""
        weights = now.weights
        delta: list[Tensor | None] = [None] * len(weights)
        if self.random_start:
            delta = perturbation.sphere(weights, now.radii, self.generator)
        factor: Tensor | float = 1.0  # the move is factor * delta
        random_state = passes.RandomState(weights)
        before = after = passes.State()
        first: list[Tensor | None] = []
        losses: list[Tensor] = []
        probe: Tensor | None = None
        for k in range(self.ascent_steps + 1):
            last = k == self.ascent_steps
            # The descent on other examples than the ascent's is a forward pass of its own.
            again = k > 0 and not (last and ascent)
            if k:
                random_state.restore()
            if again:
                before.restore()
            with ExitStack() as around:
                if again:
                    around.callback(after.restore)
                if k == 0:
                    before = around.enter_context(self._watched(weights))
                    around.enter_context(self._noticed(weights))
                    around.enter_context(_refused(left))
                if not last:
                    around.enter_context(self.ascent_context())
                around.enter_context(self._moves(weights, delta, factor))
                if k:
                    self._clear(weights)
                if last:
                    delta = []  # nobody needs the moves any more, and they are large
                losses.append(_evaluate(closure if last else ascent or closure, losses, probe))
            if k == 0:
                after = before.now()
                first = self._kept(weights)
                probe = next((p for p in weights if p.grad is not None), None)
            if not last:
                delta, factor, mark = self._ascend(now, delta, scaler)
        self._finish(now, first, mark, scaler)
        return losses[0]

    def _kept(self, weights: Sequence[Tensor]) -> list[Tensor | None]:
        """A copy of the gradients at w, for who combines them with those at w + delta."""
        if self.combine is None and self.reuse is None:
            return []
        return [None if p.grad is None else p.grad.clone() for p in weights]

    @torch.no_grad()
    def _look(self, now: _Now) -> None:
        """LookSAM's gradient, in a step that is not of SAM but lies between two that are."""
        if self.reuse is not None and now.inside:
            grads = [p.grad for p in now.weights]
            grads = perturbation.looksam(grads, self._known("sam_part", now), self.reuse)
            for p, g in zip(now.weights, grads, strict=True):
                p.grad = g

    def _known(self, name: str, now: _Now) -> list[Tensor | None]:
        """What was learned in earlier steps, for each of the weights."""
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            raise ValueError("friendly and reuse change a memory, which no CUDA graph can record")
        return [self.state.get(p, {}).get(name) for p in now.weights]

    def _learn(self, name: str, now: _Now, values: perturbation.Tensors) -> None:
        self._learned += [(name, p, v) for p, v in zip(now.weights, values, strict=True)]

    def _keep(self) -> None:
        """Keeps what was learned, where the base optimizer keeps its own, once it has stepped."""
        for name, p, value in self._learned:
            if value is not None and p.grad is not None:
                self.state[p][name] = value
        self._learned = []

    @torch.no_grad()
    def _finish(
        self,
        now: _Now,
        first: Sequence[Tensor | None],
        mark: Tensor,
        scaler: GradScaler | None,
    ) -> None:
        """Combines the two gradients, and looks for inf and nan or leaves that to the scaler."""
        weights = now.weights
        second = [p.grad for p in weights]
        if self.reuse is not None:
            self._learn("sam_part", now, perturbation.orthogonal(second, first))
        if self.combine is not None:
            for p, g in zip(weights, self.combine(first, second), strict=True):
                p.grad = g
        grads = [p.grad for p in weights]
        recorded = mark.is_cuda and torch.cuda.is_current_stream_capturing()
        if recorded or (scaler is not None and scaler.is_enabled()):
            _spread(mark, grads)
        elif not passes.finite([mark, *grads]):
            self._clear(weights)
            raise NonFinite(
                "the gradient is inf or nan, in the first or the second pass. No step has been "
                "taken: lower the learning rate or rho, skip this batch, or pass your GradScaler "
                "as step(..., scaler=scaler)"
            )

    def _take(self, scaler: GradScaler | None) -> None:
        """The base optimizer's step."""
        if scaler is None:
            self.base.step()
        else:
            scaler.unscale_(self.base)  # so that hooks of a fused optimizer see what others see
            scaler.step(self.base)
            self._remember()

    @torch.no_grad()
    def first_step(self, zero_grad: bool = False, *, scaler: GradScaler | None = None) -> None:
        """Moves the weights to w + delta, by the gradients in p.grad, which it clears.

        For loops that do without a closure, as they are written for other SAMs::

            loss = loss_fn(model(x), y)
            loss.backward()
            opt.first_step()
            loss_fn(model(x), y).backward()
            opt.second_step()

        The two together are `step` with a closure that does what stands before each of them; under
        a GradScaler both get `scaler=scaler`. Backward may run over micro-batches. For the same
        dropout masks in both passes, and buffers that change once a step, SAM has to see the calls
        of the model: construct it as ``SAM(model.parameters(), torch.optim.SGD, lr=...,
        model=model)``, else a warning says what differs. `zero_grad` is there for other people's
        loops.

        Raises ValueError if no parameter has a gradient, for options that take more or fewer than
        two passes, or if `second_step` has not been called since the last time.
        """
        if self._away is not None:
            raise ValueError("call second_step between two calls of first_step")
        if self.direction != "gradient" or self.ascent_steps > 1 or self.random_start:
            raise ValueError("these options do not have two passes: call step(closure)")
        now = self._now()
        if self._calls is None and self._called is None:
            self._called = []
            _warn_of(now.weights)
        first, mark, around = self._kept(now.weights), torch.zeros(()), ExitStack()
        if self._calls is not None:
            around.callback(self._calls.second(now.weights))
        if now.active:
            delta, factor, mark = self._ascend(now, [], scaler)
            around.enter_context(self._moves(now.weights, delta, factor))
        self._in_place = False
        self._clear(now.weights)
        self._away = _Away(around, now, first, mark)

    @torch.no_grad()
    def second_step(self, zero_grad: bool = False, *, scaler: GradScaler | None = None) -> None:
        """The weights back to w, and there the base optimizer's step by the gradients in p.grad.

        `zero_grad` clears them afterwards. Raises ValueError if `first_step` has not been called,
        or if there are no gradients, and NonFinite as `step` does: the weights are w then.
        """
        away, self._away = self._away, None
        if away is None:
            raise ValueError("call first_step before second_step")
        away.around.close()
        if all(p.grad is None for p in away.now.weights):
            raise ValueError(
                "call backward on the loss once more between first_step and second_step"
            )
        if away.now.active:
            self._finish(away.now, away.first, away.mark, scaler)
        else:
            self._look(away.now)
        self._take(scaler)
        self.steps += 1
        if zero_grad:
            self.zero_grad()

    @contextmanager
    def _watched(self, weights: Sequence[Tensor]) -> Iterator[passes.State]:
        """The state, from before the pass inside, of the modules that take part in it."""
        if self._called is not None:
            yield passes.State(self._called)
            return
        with passes.modules_called(self.model) as state:
            yield state
        seen = {id(p) for root in state.roots for p in root.parameters()}
        for root in passes.owners(p for p in weights if id(p) not in seen):
            state.add(root)
        self._called = state.roots

    def _clear_stepped(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Clears gradients with which a step was taken; returns the weights that have others."""
        stepped = {id(g): version for ref, version in self._stepped if (g := ref()) is not None}
        left = []
        for p in weights:
            if p.grad is not None and stepped.get(id(p.grad)) != p.grad._version:
                left.append(p)
        if not left:
            self._clear(weights)
        return left

    @contextmanager
    def _noticed(self, weights: Sequence[Tensor]) -> Iterator[None]:
        """Notices how the closure inside clears p.grad: in its memory, or by None."""
        found = [None if p.grad is None else weakref.ref(p.grad) for p in weights]
        yield
        kept = [f is not None and p.grad is f() for p, f in zip(weights, found, strict=True)]
        self._in_place = any(kept)

    def _clear(self, weights: Sequence[Tensor]) -> None:
        """As the closure does it: p.grad is 0 in the same memory, or None."""
        for p in weights:
            if not self._in_place:
                p.grad = None
            elif p.grad is not None:
                p.grad.zero_()

    def _remember(self) -> None:
        """The gradients that the base optimizer has taken a step with."""
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        self._stepped = [(weakref.ref(g), g._version) for g in grads if g is not None]
        self._opt_called = True  # a scheduler asks for it, to see whether it comes after a step

    def _ascend(
        self, now: _Now, delta: list[Tensor | None], scaler: GradScaler | None
    ) -> tuple[list[Tensor | None], Tensor | float, Tensor]:
        """The next (delta, factor) from the gradients, and a number that is nan or inf if they are.

        The move is factor * delta: SAM's plain step is a factor on the gradients themselves, which
        saves a pass over memory.
        """
        grads = [p.grad for p in now.weights]
        if all(g is None for g in grads):
            raise ValueError(UNREACHED)
        if min(now.signs) < 0:
            grads = perturbation.times(grads, now.signs)
        scale = 1.0 if scaler is None else scaler.get_scale()  # which they are multiplied by
        if self.friendly is not None:
            grads, scale = perturbation.times(grads, 1.0 / scale), 1.0
            grads, mean = perturbation.friendly(grads, self._known("sam_mean", now), self.friendly)
            self._learn("sam_mean", now, mean)
        radii, single = now.radii, self.ascent_steps == 1 and not self.random_start
        if single and perturbation.one(radii):
            if self.normalize:
                factor = perturbation.sam_scale(grads, radii)
                return grads, factor, factor
            return grads, float(radii[0]) / scale, passes.total(grads)
        if self.normalize:
            move = perturbation.sam(grads, radii)
        else:
            move = perturbation.unnormalized(grads, radii, now.rho)
            move = perturbation.times(move, 1.0 / scale)
        if not single:
            move = perturbation.ascend(delta, perturbation.times(move, self.ascent_lr), radii)
        return move, 1.0, passes.total(move)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in torch. Between two steps it also says that a first pass begins."""
        super().zero_grad(set_to_none)
        if self._calls is not None and self._away is None:
            self._calls.first()

    def __getstate__(self) -> dict[str, Any]:
        """Everything, the base optimizer included (but not a scheduler's wrapper of `step`)."""
        kept = {k: v for k, v in self.__dict__.items() if k != "step"}
        return kept | {"_called": None, "_moves": passes.Moves(), "_stepped": [], "_learned": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._follow()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; a new group may belong to modules not seen before."""
        _check_radius(param_group.get("rho", 0.0))
        super().add_param_group(param_group)
        self._called = None

    def state_dict(self) -> dict[str, Any]:
        """The base optimizer's state_dict; what is SAM's own is in the groups."""
        if self.generator is not None:
            for group in self.param_groups:
                group["sam_generator"] = self.generator.get_state()
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resumes bit for bit what `state_dict` saved.

        A state_dict of the base optimizer without SAM will do: steps count from 0 then, and the
        groups keep their rho.
        """
        self.base.load_state_dict(state_dict)
        self.steps = state_dict["param_groups"][0].get("sam_steps", 0)
        state = state_dict["param_groups"][0].get("sam_generator")
        if self.generator is not None and state is not None:
            self.generator.set_state(state.cpu())  # wherever map_location has put it


SCALER = (
    "scaler.step(opt, ...) cannot carry out the passes of SAM: call "
    "opt.step(closure, scaler=scaler), then scaler.update()"
)
UNREACHED = (
    "no parameter of this optimizer has a gradient after the first pass: the closure must call "
    "loss.backward() on a loss of the model whose parameters SAM was given (not of a copy, nor of "
    "one that a framework has replaced by its own)"
)
LEFT = (
    "gradients of an earlier backward pass are still there when the closure calls backward, and "
    "would be in one of SAM's two passes alone. Call opt.zero_grad() in the closure. To accumulate "
    "micro-batches, also under a framework such as Lightning, let the closure go over all of them, "
    "with the framework's own accumulation off"
)
AGAIN = (
    "the closure did not compute the loss again: it must call the model and the loss function "
    "itself, and then backward, each time that it is called"
)
ACCELERATE = (
    "with the gradient accumulation of accelerate, or of the Trainer of transformers, SAM sees one "
    "micro-batch alone. Set gradient_accumulation_steps=1, and take larger batches, or let the "
    "closure go over all micro-batches"
)
SHARDED = (
    "FSDP1 keeps this parameter as a piece of a flat one, whose move SAM cannot see. Use "
    "torch.distributed.fsdp.fully_shard (FSDP2) or DistributedDataParallel"
)


def _evaluate(closure: Closure, losses: Sequence[Tensor], probe: Tensor | None) -> Tensor:
    """The loss that the closure returns; ValueError if it is the graph of an earlier pass.

    The probe is a weight that the earlier pass has reached. A backward that reaches it again, in a
    closure that adds nothing to any graph, goes through an old one.
    """
    reached: list[bool] = []
    begun = _next_node()
    handle = None if probe is None else probe.register_hook(lambda _: reached.append(True))
    try:
        loss = closure()
    except RuntimeError as error:
        if losses and "modified by an inplace operation" in str(error):
            raise ValueError(AGAIN) from error
        raise
    finally:
        if handle is not None:
            handle.remove()
    node = getattr(loss, "grad_fn", None)
    same = losses and node is not None and node is getattr(losses[-1], "grad_fn", None)
    if same or (reached and _next_node() == begun + 1):
        raise ValueError(AGAIN)
    return loss


def _next_node() -> int:
    """The number of a node that is added to a graph now; torch counts them, in each thread."""
    node = torch.zeros((), requires_grad=True).neg().grad_fn
    assert node is not None
    return node._sequence_nr()


@contextmanager
def _refused(left: Sequence[Tensor]) -> Iterator[None]:
    """ValueError, from within backward, if one of these is not cleared before it gets more."""

    def look(p: Tensor, _: Tensor) -> None:
        if p not in seen:
            seen.add(p)
            g = p.grad
            if g is not None and (g.coalesce().values() if g.is_sparse else g).any():
                raise ValueError(LEFT)

    seen: set[Tensor] = set()
    handles = [p.register_hook(partial(look, p)) for p in left]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_weights(weights: Sequence[Tensor]) -> None:
    """ValueError for weights that SAM cannot move as it must."""
    if any(getattr(p, "_fsdp_flattened", False) for p in weights):
        raise ValueError(SHARDED)
    accelerate = sys.modules.get("accelerate.state")
    if accelerate is not None:
        state = accelerate.GradientState()
        if state.num_steps > 1 or not state.sync_gradients:
            raise ValueError(ACCELERATE)


@dataclass
class _Now:
    """One step's weights, with an entry for each: rho, -1 where its objective is climbed, T.

    inside: whether the step is in the range of SAM, active: whether it is one of SAM's.
    """

    weights: list[Tensor]
    rho: list[float]
    signs: list[float]
    radii: perturbation.Radii
    inside: bool
    active: bool


@dataclass
class _Away:
    """What `second_step` has to know of `first_step`; `around` puts the weights back."""

    around: ExitStack
    now: _Now
    first: list[Tensor | None]
    mark: Tensor


class _Calls:
    """Makes the calls of a model after `first_step` like those before it.

    Each begins with the random state that its counterpart began with; the first one with the
    buffers and numbers in the modules that the first one began with.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.first()
        self._hook = model.register_forward_pre_hook(self._before)

    def first(self) -> None:
        """A first pass begins."""
        self.begun: list[passes.RandomState] = []
        self.state: passes.State | None = None
        self.again: int | None = None

    def second(self, weights: Sequence[Tensor]) -> Callable[[], None]:
        """A second pass begins; the function that is returned ends it."""
        self.again = 0
        after, random_state = passes.State([self.model]), passes.RandomState(weights)

        def end() -> None:
            after.restore()
            random_state.restore()
            self.first()

        return end

    def _before(self, model: nn.Module, _: object) -> None:
        if not torch.is_grad_enabled():  # an evaluation
            return
        if self.again is None:
            self.state = self.state or passes.State([model])
            self.begun.append(passes.RandomState(model.parameters()))
            return
        if self.again == 0 and self.state is not None:
            self.state.restore()
        if self.again < len(self.begun):
            self.begun[self.again].restore()
        self.again += 1


def _warn_of(weights: Sequence[Tensor]) -> None:
    """Warns if the modules of these weights have something that two passes would change twice."""
    inside = [m for root in passes.owners(weights, always=True) for m in root.modules()]
    names = sorted({type(m).__name__ for m in inside if _has_memory(m)})
    if names:
        warnings.warn(
            f"{', '.join(names)}: both passes change their buffers or draw dropout masks of their "
            "own. Construct SAM(model.parameters(), torch.optim.SGD, ..., model=model), or call "
            "step(closure)",
            stacklevel=3,
        )


def _has_memory(module: nn.Module) -> bool:
    drops = "drop" in type(module).__name__.lower() or bool(getattr(module, "dropout", False))
    return bool(module.training and (drops or len(module._buffers)))


def _constructed(base: Any, make: Any, options: dict[str, Any]) -> Optimizer:
    """The base optimizer; in the familiar signature it is made of parameters, class and options."""
    if make is not None:
        if isinstance(base, Optimizer) or not callable(make):
            raise ValueError(
                "pass either a constructed optimizer, SAM(torch.optim.SGD(...)), or the parameters "
                "and a class, SAM(model.parameters(), torch.optim.SGD, lr=0.1)"
            )
        base = make(base, **options)
    elif options:
        raise TypeError(
            f"SAM got an unexpected keyword argument {next(iter(options))!r}: options of the base "
            "optimizer go to it, SAM(torch.optim.SGD(model.parameters(), lr=0.1)), or come with "
            "its class, SAM(model.parameters(), torch.optim.SGD, lr=0.1)"
        )
    if not isinstance(base, Optimizer):
        raise ValueError("base must be an optimizer, such as torch.optim.SGD(...), not a class")
    if isinstance(base, SAM):
        raise ValueError("base is a SAM already: set its options, or pass the optimizer in it")
    if isinstance(base, LBFGS):
        raise ValueError("LBFGS evaluates the loss by itself, at other points than SAM's")
    if "rho" in base.defaults and "sam_steps" not in base.defaults:
        raise ValueError(
            f"{type(base).__name__} has a rho of its own in its groups, where SAM's has to be: "
            "use another base optimizer"
        )
    return base


def normalization_groups(model: nn.Module, rho: float) -> list[dict[str, Any]]:
    """Parameter groups for SAM on the normalization layers alone: those have rho, the others 0.

    Normalization layers are those whose class name has "Norm" in it. Source: Mueller et al. 2023,
    "Normalization layers are all that sharpness-aware minimization needs". Chapter: "Which
    optimizer do I call, and how?". Raises ValueError if the model has none.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    >>> [(len(g["params"]), g["rho"]) for g in normalization_groups(model, rho=0.5)]
    [(2, 0.5), (2, 0.0)]
    """
    norms = [m for m in model.modules() if "Norm" in type(m).__name__]
    inside = {id(p) for m in norms for p in m.parameters(recurse=False)}
    if not inside:
        raise ValueError("the model has no normalization layers with parameters")
    groups: dict[float, list[Tensor]] = {rho: [], 0.0: []}
    for p in model.parameters():
        groups[rho if id(p) in inside else 0.0].append(p)
    return [{"params": params, "rho": r} for r, params in groups.items() if params]


def _check_number(name: str, value: Any, fits: bool, where: str) -> None:
    """ValueError for an option that is not a finite number where it should be."""
    if not fits or value == float("inf"):
        raise ValueError(f"{name} must be a number {where}, not {value!r}")


def _check_radius(rho: Any) -> None:
    _check_number("rho", rho, isinstance(rho, Real) and float(rho) >= 0, ">= 0")


def _check_between(between: Any) -> None:
    """ValueError for what is no range of steps."""
    pair = isinstance(between, tuple | list) and len(between) == 2
    first, last = between if pair else (None, None)
    end = first if last is None else last
    if not (isinstance(first, int) and isinstance(end, int) and 0 <= first <= end):
        raise ValueError(
            "between must be (first, last), integers with 0 <= first <= last, or None as last, "
            f"not {between!r}"
        )


def _spread(mark: Tensor, grads: Sequence[Tensor | None]) -> None:
    """Puts nan into one of the gradients, where a scaler finds it, if the mark is inf or nan."""
    some = [g for g in grads if g is not None]
    if some:
        size = mark.abs()
        min(some, key=Tensor.numel).mul_(1 + (size - size))  # 1, or nan: nothing waits to see it
