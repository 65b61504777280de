"""Training of any torch module by SGD with any member of the SAM family, as in the experiments."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD
from torch.optim.swa_utils import AveragedModel

from samkit import passes
from samkit.errors import Diverged, NonFinite, Unsupported
from samkit.measure.paths import estimate_statistics
from samkit.msam import msam_grad
from samkit.msam.batch import Batch, LossFn, per_example
from samkit.optim import SAM
from samkit.perturbation import ETA
from samkit.training import checkpoint as checkpoints
from samkit.training import evaluation
from samkit.training.cuda_graph import Examples, Gradient, Recorded, has_dropout, own_stream
from samkit.training.evaluation import EVALUATED, cross_entropy, forward_precision, in_mode, wrong
from samkit.training.ranks import Ranks
from samkit.training.recipe import Recipe

Augment = Callable[..., Tensor]
Progress = Callable[[int, Mapping[str, float]], object]


@dataclass
class Fit:
    """What came of a training: metrics by name, one number for each evaluated epoch.

    ``history["epoch"]`` counts finished epochs. "batch_loss" is the mean loss seen by the steps;
    "<set>_loss" and "<set>_error" were evaluated after the epoch, in eval mode. The error is the
    share of labels whose class has not the largest output, pixels or tokens counted one by one,
    those with a label that is no class (such as -100) left out. It is there where the targets are
    whole numbers and the outputs have one dimension more, of at least two classes: the second one,
    as for ``torch.nn.functional.cross_entropy``, or else the last.
    ``averaged`` is SWA's network, None without.
    """

    history: dict[str, list[float]] = field(default_factory=dict)
    averaged: AveragedModel | None = None

    def note(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.history.setdefault(name, []).append(value)


def fit(
    net: nn.Module,
    recipe: Recipe,
    train: Examples,
    *,
    evaluate: Mapping[str, Examples] | None = None,
    noisy: Tensor | None = None,
    loss_fn: LossFn = cross_entropy,
    augment: Augment | None = None,
    evaluate_every: int = 1,
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 10,
    progress: Progress | None = None,
) -> Fit:
    """Trains ``net`` in place, on the device that it is on.

    A module that is in eval mode within a network in train mode stays so, such as a frozen
    BatchNorm; a network that is in eval mode itself is trained in train mode. At the end all
    modules are in the modes they were in.

    Args:
        train: x (n, ...) and y (n,); moved to the network's device once.
        evaluate: more sets to evaluate, by name, such as {"test": (x, y)}. "train" always is.
        noisy: bool (n,), which training labels are wrong: then "train_clean_error" and
            "train_noisy_error" are noted as well (against the labels trained on). Targets must be
            classes then.
        loss_fn: loss_fn(net(x), y) -> one loss per example.
        augment: called as augment(inputs, generator=g) for each batch, on the device, with a
            torch.Generator of that device.
        evaluate_every: evaluate after every so many epochs, and after the last.
        checkpoint: file to resume from if it is there, written every ``checkpoint_every`` epochs
            and when ``progress`` raises. A resumed run ends bit for bit as an uninterrupted one.
            It belongs to the recipe, the training data and the network's shapes, and is refused
            for others.
        progress: called with (epochs done, the latest metrics) after each epoch; what it raises
            ends the training.

    On CUDA, images are channels_last and the forward passes run in bf16 autocast. Except for groups
    smaller than the batch, steps do not wait for the device: after a few of them
    their passes are recorded as a CUDA graph, which is played again in each step (unless the
    network has dropout, or several processes train it).

    Where torch.distributed is initialized (torchrun), its processes train one network together,
    called with the same arguments, and all return what one process would: a process takes
    ``batch_size`` / processes consecutive examples of every batch, so a group of m-SAM lies within
    one of them, with m a divisor of that number, or is the whole batch, with a perturbation common
    to all as in SAM and n-SAM. All of them evaluate; the first alone calls ``progress``, reads and
    writes the checkpoint. BatchNorm becomes SyncBatchNorm, for which torch needs CUDA. Dropout
    masks are not those of one process.

    Raises ValueError for a batch larger than the data, a loss that is not one per example, a
    checkpoint that is damaged or of another recipe, data or network, or a recipe or network that
    several processes cannot share;
    :class:`~samkit.errors.Diverged` that names the step when a loss or gradient is inf or nan: the
    checkpoint stays that of an epoch before; Undefined for groups under BatchNorm in train mode
    (``separate_groups`` allows it).
    Source: Sections 2 to 4 of the paper.
    """
    if not 1 <= recipe.batch_size <= len(train[1]) or len(train[0]) != len(train[1]):
        raise ValueError(
            f"batch_size={recipe.batch_size} with {len(train[0])} inputs and {len(train[1])} "
            "labels: pass one label per input and a batch no larger than the data"
        )
    device, ranks = next(net.parameters()).device, Ranks.here()
    if ranks.count > 1:
        _check_shares(net, recipe, ranks.count)
        nn.SyncBatchNorm.convert_sync_batchnorm(net)
    if device.type == "cuda" and train[0].dim() == 4:  # pragma: no cover, needs a GPU
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sets = {"train": train, **(evaluate or {})}
    sets = {name: (_put(x, device), y.to(device)) for name, (x, y) in sets.items()}
    noisy = None if noisy is None else noisy.to(device)
    x, y = sets["train"]

    with in_mode(net, training=True):
        run = _Run(net, recipe, loss_fn, augment, device, ranks)
        result, first = Fit(), 0
        if checkpoint is not None:
            checkpoint = Path(checkpoint)
            run.belongs = checkpoints.belongs(recipe, train, net)
            first = run.load(checkpoint, result)
        rng = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with rng, own_stream(device) if device.type == "cuda" else nullcontext():
            run.check_loss(x, y, noisy)
            for epoch in range(first, recipe.epochs):
                try:
                    batch_loss = run.epoch(epoch, x, y)
                    metrics = {"epoch": epoch + 1, "batch_loss": batch_loss}
                    if (epoch + 1) % evaluate_every == 0 or epoch + 1 == recipe.epochs:
                        metrics |= run.evaluate(sets, noisy, epoch)
                        result.note(metrics)
                except Diverged as error:
                    error.history = result.history
                    kept = checkpoint is not None and checkpoint.exists()
                    error.args = (f"{error}{f' ({checkpoint} holds an earlier epoch)' * kept}",)
                    raise
                due = (epoch + 1) % checkpoint_every == 0 or epoch + 1 == recipe.epochs
                if checkpoint is not None and due:
                    run.save(checkpoint, epoch + 1, result)
                if (raised := run.report(progress, epoch + 1, metrics)) is not None:
                    if checkpoint is not None and not due:
                        run.save(checkpoint, epoch + 1, result)
                    raise raised
            if run.averaged is not None:
                estimate_statistics(run.averaged, x.split(EVALUATED))
                result.averaged = run.averaged
    return result


def _check_shares(net: nn.Module, recipe: Recipe, processes: int) -> None:
    """ValueError unless that many processes can train the network by the recipe together."""
    share, rest = divmod(recipe.batch_size, processes)
    if rest:
        raise ValueError(
            f"batch_size={recipe.batch_size} over {processes} processes: pass a multiple of them"
        )
    if recipe.separate_groups:
        raise ValueError("separate_groups is for one process: each group has its own BatchNorm")
    for perturbation in recipe.perturbations:
        m = perturbation.group_size(recipe.batch_size)
        if share % m and m != recipe.batch_size:
            raise ValueError(
                f"m={m} over {processes} processes: pass a divisor of the {share} examples "
                f"that each has of a batch, or the batch size, {recipe.batch_size}"
            )
    normalized = any(isinstance(module, _BatchNorm) for module in net.modules())
    if normalized and next(net.parameters()).device.type != "cuda":
        raise ValueError("BatchNorm over several processes needs CUDA: take GroupNorm, or one")


class _Run:
    """The state of one training: the network, the optimizer, SWA's average."""

    def __init__(
        self,
        net: nn.Module,
        recipe: Recipe,
        loss_fn: LossFn,
        augment: Augment | None,
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.net, self.recipe, self.loss_fn, self.augment = net, recipe, loss_fn, augment
        self.device, self.generator, self.ranks = device, torch.Generator(device), ranks
        # what averages the gradients of a backward pass over the processes
        self.model = net if ranks.count == 1 else DistributedDataParallel(net)
        self.modes = [(module, module.training) for module in net.modules()]
        self.params = [p for p in net.parameters() if p.requires_grad]
        in_loss = recipe.weight_decay if recipe.decay_in_ascent else 0.0
        self.decay = in_loss
        self.sgd = SGD(
            self.params,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay - in_loss,
        )
        self.averaged = None if recipe.swa_from is None else AveragedModel(net)
        self.msam_method = "ghost"  # named, so that runs repeat bit for bit
        self.recorded: tuple[Recipe, Gradient] | None = None  # a rule, and its passes as a graph
        self.belongs: dict[str, str] = {}  # what a checkpoint is of

    @torch.no_grad()
    def check_loss(self, x: Tensor, y: Tensor, noisy: Tensor | None) -> None:
        """ValueError unless the loss is one per example, and the noisy labels are classes."""
        few = Batch(x[:2], y[:2])
        with in_mode(self.net, training=False), self._autocast():
            per_example(self.loss_fn, self.net, few)
            if noisy is not None and wrong(few.call(self.net), few.targets) is None:
                raise ValueError(
                    "noisy says which labels are wrong, but these targets are no classes of the "
                    "network's outputs: leave it out"
                )

    # one epoch

    def epoch(self, epoch: int, x: Tensor, y: Tensor) -> float:
        """All steps of an epoch; returns the mean loss that they saw."""
        rule = self.recipe.at(epoch)
        size, batches = rule.batch_size, len(y) // rule.batch_size
        own, other, noise, images = np.random.SeedSequence([rule.seed, epoch]).generate_state(4)
        torch.manual_seed(int(noise))  # dropout, random directions
        self.generator.manual_seed(int(images))
        order = _order(len(y), own, self.device).split(size)[:batches]
        others = order
        source = rule.perturbation.source
        if source == "independent":
            others = _order(len(y), other, self.device).split(size)[:batches]
        back = 1 if source == "previous" else 0

        gradient = self._gradient(rule)
        losses = torch.zeros(batches, device=self.device)
        for module, training in self.modes:  # progress may have changed them
            module.training = training
        for k in range(batches):
            for group in self.sgd.param_groups:
                group["lr"] = self.recipe.rate(epoch * batches + k, self.recipe.epochs * batches)
            batch = self._batch(x, y, order[k])
            ascent = None
            if source in ("previous", "independent"):
                ascent = self._batch(x, y, others[k - back])
            try:
                losses[k] = gradient(batch, ascent)
            except NonFinite as error:
                raise _diverged(epoch, epoch * batches + k, str(error)) from error
            self.sgd.step()
        self.ranks.average([losses])
        if not (finite := losses.isfinite()).all():
            lost = epoch * batches + int((~finite).nonzero()[0])
            raise _diverged(epoch, lost, "the loss is inf or nan")
        if self.averaged is not None and epoch >= (self.recipe.swa_from or 0):
            self.averaged.update_parameters(self.net)
        return float(losses.mean())

    def _batch(self, x: Tensor, y: Tensor, rows: Tensor) -> Examples:
        inputs = (
            x[rows] if self.augment is None else self.augment(x[rows], generator=self.generator)
        )
        share = self.ranks.share
        return _put(share(inputs), self.device), share(y[rows])

    def _gradient(self, rule: Recipe) -> Gradient:
        """The passes of a step: (batch, another batch for n-SAM) -> loss at w; fills p.grad."""
        if rule.grouped:
            return lambda batch, _: self._msam(rule, batch)
        if self.recorded is not None and self.recorded[0] == rule:  # pragma: no cover, needs a GPU
            return self.recorded[1]
        passes = self._sam(rule) if rule.perturbation.rho else self._erm()
        if not self._cuda or self.ranks.count > 1 or has_dropout(self.net):
            return passes
        self.recorded = rule, Recorded(passes)  # pragma: no cover, needs a GPU
        return self.recorded[1]  # pragma: no cover, needs a GPU

    def _erm(self) -> Gradient:
        return lambda batch, _: self._closure(batch)()

    def _sam(self, rule: Recipe) -> Gradient:
        how = rule.perturbation
        rho, direction = how.rho, "gradient"
        if how.source == "random":
            direction = "sphere" if how.normalize else "gaussian"
            rho = rho if how.normalize else rho / sum(p.numel() for p in self.params) ** 0.5
        for group in self.sgd.param_groups:
            group["rho"] = rho
        sam = SAM(
            self.sgd,
            rho,
            normalize=how.normalize or how.source == "random",
            adaptive=how.adaptive,
            eta=ETA,
            ascent_steps=how.steps,
            step_size_only=rule.step_size_only,
            direction=direction,
            model=self.net,
        )
        # A scaler that scales nothing: SAM then leaves it to us to find inf and nan, once an epoch,
        # instead of waiting for the device in every step.
        scaler = torch.amp.GradScaler("cuda", enabled=False) if self._cuda else None

        def gradient(batch: Examples, ascent: Examples | None) -> Tensor:
            other = None if ascent is None else self._closure(ascent)
            return sam.gradient(self._closure(batch), other, scaler=scaler)

        return gradient

    def _closure(self, batch: Examples) -> Callable[[], Tensor]:
        """Clears the gradients, backward, weight decay; returns the loss without weight decay."""

        def closure() -> Tensor:
            self.sgd.zero_grad()
            with self._autocast():
                loss = self.loss_fn(self.model(batch[0]), batch[1]).mean()
            loss.backward()
            if self.decay:
                pairs = [(p.grad, p.detach()) for p in self.params if p.grad is not None]
                if pairs:
                    grads, weights = map(list, zip(*pairs, strict=True))
                    torch._foreach_add_(grads, weights, alpha=self.decay)
            return loss.detach()

        return closure

    def _msam(self, rule: Recipe, batch: Examples) -> Tensor:
        self.sgd.zero_grad()
        if self.ranks.count == 1:
            return self._msam_grad(rule, batch)
        return self._averaged_msam_grad(rule, batch)

    def _averaged_msam_grad(self, rule: Recipe, batch: Examples) -> Tensor:
        """Each process has its groups; where one finds inf or nan, all raise NonFinite."""
        try:
            loss, missing = self._msam_grad(rule, batch), 0.0
        except NonFinite:
            loss, missing = torch.tensor(math.nan), math.nan
        grads = []
        for p in self.params:
            p.grad = torch.full_like(p, missing) if p.grad is None else p.grad
            grads.append(p.grad)
        self.ranks.average(grads)
        if not passes.finite(grads):
            raise NonFinite("the loss or its gradient is inf or nan in one of the processes")
        return loss

    def _msam_grad(self, rule: Recipe, batch: Examples) -> Tensor:
        x, y = batch
        how = rule.perturbation
        arguments: dict[str, Any] = {
            "rho": how.rho * (how.m / len(y) if how.share_of_batch and how.m else 1),
            "m": how.m,
            "normalize": how.normalize,
            "weight_decay": self.decay,
        }
        if rule.separate_groups:
            self.msam_method = "loop"
        with self._autocast():
            if self.msam_method == "ghost":
                try:
                    return msam_grad(self.net, self.loss_fn, x, y, **arguments, method="ghost")
                except Unsupported:
                    self.msam_method = "loop"
            return msam_grad(self.net, self.loss_fn, x, y, **arguments, method="loop")

    @property
    def _cuda(self) -> bool:
        return self.device.type == "cuda"

    def _autocast(self) -> AbstractContextManager:
        return forward_precision(self.device)

    def report(
        self, progress: Progress | None, epochs: int, metrics: Mapping[str, float]
    ) -> BaseException | None:
        """What ``progress``, called by the first process, raises: in all of them."""
        error = None
        if progress is not None and self.ranks.index == 0:
            try:
                progress(epochs, metrics)
            except BaseException as raised:
                error = raised
        return self.ranks.from_first(error)

    # evaluation

    def evaluate(
        self, sets: Mapping[str, Examples], noisy: Tensor | None, epoch: int
    ) -> dict[str, float]:
        """Mean loss of each set, and the share of errors where its targets are classes."""
        metrics = evaluation.evaluate(self.net, self.loss_fn, sets, noisy)
        if not math.isfinite(metrics["train_loss"]):
            last = (epoch + 1) * (len(sets["train"][1]) // self.recipe.batch_size) - 1
            raise _diverged(epoch, last, "the loss after the epoch is inf or nan")
        return metrics

    # checkpoints

    def save(self, path: Path, epochs: int, result: Fit) -> None:
        if self.ranks.index > 0:
            return
        state = {
            **self.belongs,
            "epochs": epochs,
            "net": self.net.state_dict(),
            "sgd": self.sgd.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "msam_method": self.msam_method,
            "history": result.history,
        }
        checkpoints.write(path, state)

    def load(self, path: Path, result: Fit) -> int:
        """Takes the state of a checkpoint if there is one; returns the epochs it has behind it."""
        state = None
        if self.ranks.index == 0 and path.exists():
            state = checkpoints.read(path)
        state = self.ranks.from_first(state)
        if state is None:
            return 0
        for what, own in self.belongs.items():
            if state.get(what) != own:
                raise ValueError(
                    f"{path} is the checkpoint of another {what}; remove it, or name another file"
                )
        self.net.load_state_dict(state["net"])
        self.sgd.load_state_dict(state["sgd"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.msam_method = state["msam_method"]
        result.history = state["history"]
        return state["epochs"]


def _diverged(epoch: int, step: int, reason: str) -> Diverged:
    return Diverged(
        f"training diverged in step {step} (epoch {epoch}, both from 0): {reason}. Lower rho or "
        "the learning rate",
        step,
    )


def _order(n: int, seed: np.integer, device: torch.device) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(int(seed))).to(device)


def _put(x: Tensor, device: torch.device) -> Tensor:
    """On the device; images on CUDA in channels_last."""
    x = x.to(device)
    images = device.type == "cuda" and x.dim() == 4
    return x.contiguous(memory_format=torch.channels_last) if images else x
