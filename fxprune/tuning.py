"""The common case of fine-tuning: optimizer, falling rate, distillation, statistics of norms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree as pytree

from fxprune import ranks
from fxprune.calibration import Calibration, Loss
from fxprune.errors import CalibrationError, CallbackError

Optimizers = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Norm = nn.modules.batchnorm._NormBase


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Train a module in place; give it to `prune` as `fine_tune`, or call it with any module.

    `batches` are iterated over once an epoch, and `loss(module, batch)` returns a scalar tensor.
    The optimizer is SGD with momentum at rate `lr`, unless `optimizer` makes or is another: one
    that exists already holds the parameters, as when `prune` carries it from step to step. The rate
    falls along a cosine to zero over the epochs of a call, unless `schedule` is "constant".

    With a `teacher`, such as the original model, the loss is mixed with how far the outputs are
    from the teacher's: (1 − d)·loss + d·T²·KL(teacher ‖ module) at temperature T, over the classes
    in dimension 1, or their squared distance (Hinton et al. 2015, arXiv:1503.02531).

    `recalibrate` re-estimates the statistics of batch norms at last, as averages over the batches.
    Under `torch.distributed` the module is trained by DistributedDataParallel.

    Raises CalibrationError where there is no batch, CallbackError where the loss is not finite.
    """

    batches: Iterable[Any]
    loss: Loss
    epochs: int = 1
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    optimizer: Optimizers | torch.optim.Optimizer | None = None
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float | None = None  # largest norm of all gradients together
    teacher: nn.Module | None = None
    distillation: float = 0.5
    temperature: float = 2.0
    distance: Literal["kl", "mse"] = "kl"
    recalibrate: bool = True

    def __post_init__(self) -> None:
        Calibration(self.batches, self.loss)  # which refuses what can be neither
        if self.epochs < 0 or self.lr <= 0 or not 0 <= self.distillation <= 1:
            raise CallbackError(
                f"fine_tune: epochs={self.epochs} (0 or more), lr={self.lr:g} (above 0), "
                f"distillation={self.distillation:g} (0 to 1): one is out of its range"
            )

    def __call__(self, module: nn.Module, step: int = 0) -> None:
        """Train a module; the mode it is in stays."""
        training = module.training
        trained = DistributedDataParallel(module) if ranks.many() else module
        optimizer = self._made(module)
        rates = [group["lr"] for group in optimizer.param_groups]
        try:
            for epoch in range(self.epochs):
                self._epoch(trained, module, optimizer, rates, epoch)
        finally:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        if self.recalibrate and any(isinstance(one, Norm) for one in module.modules()):
            recalibrate(module, self.batches, self.loss)
        module.train(training)

    def _made(self, module: nn.Module) -> torch.optim.Optimizer:
        if isinstance(self.optimizer, torch.optim.Optimizer):
            return self.optimizer
        free = [one for one in module.parameters() if one.requires_grad]
        if self.optimizer is not None:
            return self.optimizer(free)
        decay = self.weight_decay
        return torch.optim.SGD(free, self.lr, self.momentum, weight_decay=decay)

    def _epoch(
        self,
        trained: nn.Module,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        rates: list[float],
        epoch: int,
    ) -> None:
        trained.train()
        batches = self.batches
        many = len(batches) if isinstance(batches, Sized) else 0
        number = -1
        for number, batch in enumerate(batches):
            if self.schedule == "cosine":
                done = (epoch + (number / many if many else 0.0)) / self.epochs
                falling = 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * done))))
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * falling
            optimizer.zero_grad()
            loss = self._loss(trained, module, batch)
            if loss.numel() != 1 or not bool(loss.isfinite()):
                said = loss.item() if loss.numel() == 1 else f"of shape {tuple(loss.shape)}"
                raise CallbackError(
                    f"fine_tune: epoch {epoch}, batch {number}: the loss is {said}; a finite "
                    "scalar is needed: lower lr, or look at the batch and the loss"
                )
            loss.backward()
            if self.clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), self.clip)
            optimizer.step()
        if number < 0:
            raise CalibrationError(
                "fine_tune: there is no batch in batches; give a data loader (an iterator serves "
                "one epoch only)"
            )

    def _loss(self, trained: nn.Module, module: nn.Module, batch: Any) -> torch.Tensor:
        if self.teacher is None:
            return self.loss(trained, batch)
        with watched(module) as calls:
            loss = self.loss(trained, batch)
        modes = [(one, one.training) for one in self.teacher.modules()]
        try:
            self.teacher.eval()
            apart = [self._apart(args, kwargs, made) for args, kwargs, made in calls]
        finally:
            for one, mode in modes:
                one.training = mode
        d = self.distillation
        return (1.0 - d) * loss + d * torch.stack(apart).sum()

    def _apart(self, args: Any, kwargs: Any, made: Any) -> torch.Tensor:
        """Return how far the module's outputs are from the teacher's, on the same inputs."""
        assert self.teacher is not None
        with torch.no_grad():
            wanted = pytree.tree_leaves(self.teacher(*args, **kwargs))
        pairs = zip(pytree.tree_leaves(made), wanted, strict=True)
        floating = [(a, b) for a, b in pairs if isinstance(a, torch.Tensor) and a.ndim > 1]
        if self.distance == "mse":
            return torch.stack([F.mse_loss(a, b) for a, b in floating]).sum()
        t = self.temperature
        kl = [
            F.kl_div(
                (a / t).log_softmax(1),
                (b / t).log_softmax(1),
                reduction="batchmean",
                log_target=True,
            )
            for a, b in floating
        ]
        return torch.stack(kl).sum() * t * t


def recalibrate(module: nn.Module, batches: Iterable[Any], loss: Loss) -> None:
    """Re-estimate the statistics of all batch norms as averages over the batches.

    What is pruned has other statistics, and these alone often bring most of the accuracy back.
    `loss(module, batch)` is only called to run the module. The modes of all modules stay.
    """
    norms = [one for one in module.modules() if isinstance(one, Norm) and one.track_running_stats]
    modes = [(one, one.training) for one in module.modules()]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    try:
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
            norm.momentum = None  # a plain average
        with torch.no_grad():
            for _, batch in Calibration(batches).each():
                loss(module, batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for one, mode in modes:
            one.training = mode


@contextmanager
def watched(module: nn.Module) -> Iterator[list[tuple[Any, Any, Any]]]:
    """Yield a list to which every call of a module adds its arguments and result."""
    calls: list[tuple[Any, Any, Any]] = []

    def note(_: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
        calls.append((args, kwargs, result))

    handle = module.register_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()
