"""The common case of fine-tuning: batches, epochs, an optimizer, and a teacher to follow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fxprune import distributed
from fxprune.capture import marks_of, put, put_training
from fxprune.errors import CalibrationError, CallbackError, SpecError
from fxprune.loop.caller_functions import called
from fxprune.loop.fine_tuning.averaging import Average
from fxprune.loop.fine_tuning.bar import Advance, bar
from fxprune.loop.fine_tuning.course import Course
from fxprune.loop.fine_tuning.distillation import Distillation, Losses
from fxprune.loop.fine_tuning.norms import norms_of, recalibrate
from fxprune.loop.fine_tuning.precision import Precision
from fxprune.loop.fine_tuning.rates import share
from fxprune.metrics import Calibration, Loss
from fxprune.metrics.calibration import taken
from fxprune.registry import checked_fields
from fxprune.report import Epoch, Tuning
from fxprune.signature import Signature
from fxprune.spec.training import Training
from fxprune.surgery import SlimModule

Optimizers = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True, kw_only=True)
class FineTune(Training):
    """Train a module in place; give it to `prune` as `fine_tune`, or call it with any module.

    `batches` are iterated over once an epoch, and `loss(module, batch)` returns a scalar tensor. It
    may be absent where a `teacher` is all that is followed (`distillation=1`): no labels are needed
    then. An `optimizer` makes or is another than `algorithm` says: one that exists already holds
    the parameters, as when `prune` carries it from step to step. `evaluate(module)` returns a
    number, higher is better; it is asked after each epoch, and `patience` needs it. A bar shows how
    far the training is, in a terminal only, if `progress`.

    A call returns a `Tuning`, the history of its epochs; `prune` puts it into `report.tunings`.
    Under `torch.distributed` the module is trained by DistributedDataParallel.

    Raises CalibrationError where there is no batch, CallbackError where an option is out of its
    range, or the loss or a score is not finite.
    """

    batches: Iterable[Any]
    loss: Loss | None = None
    optimizer: Optimizers | torch.optim.Optimizer | None = None
    teacher: nn.Module | None = None
    evaluate: Callable[[nn.Module], float] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        Calibration(self.batches, self.loss)  # which refuses what can be neither
        options = {one.name: getattr(self, one.name) for one in fields(Training)}
        try:
            checked_fields(Training, options, "fine_tune")
            super().__post_init__()
        except (SpecError, ValueError) as error:
            raise CallbackError(f"fine_tune: {str(error).removeprefix('fine_tune.')}") from None
        if isinstance(self.optimizer, str) or not (
            self.optimizer is None
            or callable(self.optimizer)
            or isinstance(self.optimizer, torch.optim.Optimizer)
        ):
            raise CallbackError(
                f"fine_tune: optimizer={self.optimizer!r}: an optimizer, or a function from "
                'parameters to one, is needed; algorithm="sgd" or "adamw" names one'
            )
        missing = {
            "a loss, or a teacher with distillation=1, is needed": self.loss is None
            and (self.teacher is None or self.distillation < 1),
            f"features={self.features:g}: a teacher is needed": self.features
            and self.teacher is None,
            f"patience={self.patience}: evaluate is needed, to tell what is better": self.patience
            and self.evaluate is None,
        }
        for said in (said for said, lacks in missing.items() if lacks):
            raise CallbackError(f"fine_tune: {said}")

    def __call__(self, module: nn.Module, step: int = 0) -> Tuning:
        """Train a module, put its mode back, and return the history."""
        modes, course = marks_of(module), self._course(module)
        course.batches = len(self.batches) if isinstance(self.batches, Sized) else 0
        total = self.epochs * course.batches or None
        shown = bar(f"fine-tuning {step}", total, self.progress)
        with course.rates_kept(), shown as advance:
            while len(course.history) < self.epochs and not self._idle(course):
                put_training(module, modes)
                self._epoch(course, advance)
        course.settle()
        if self.recalibrate and norms_of(module):
            recalibrate(module, self.batches, self._run)
        put(module, modes)
        return Tuning(step, self.epochs, tuple(course.history), course.best)

    def _course(self, module: nn.Module) -> Course:
        teacher = self.teacher
        return Course(
            module,
            DistributedDataParallel(module) if distributed.many() else module,
            self._made(module),
            Precision.of(module, self.amp),
            Distillation.of(self, module, teacher) if teacher is not None else None,
            Average(module, self.ema) if self.ema else None,
        )

    def _made(self, module: nn.Module) -> torch.optim.Optimizer:
        if isinstance(self.optimizer, torch.optim.Optimizer):
            return self.optimizer
        free = [one for one in module.parameters() if one.requires_grad]
        if self.optimizer is not None:
            return self.optimizer(free)
        decay = self.weight_decay
        if self.algorithm == "adamw":
            betas = (self.momentum, 0.999)
            return torch.optim.AdamW(free, self.lr, betas, weight_decay=decay)
        return torch.optim.SGD(free, self.lr, self.momentum, weight_decay=decay)

    def _idle(self, course: Course) -> bool:
        """Tell whether the last epochs were no better than the best, more of them than allowed."""
        return self.patience is not None and len(course.history) - course.best >= self.patience

    def _epoch(self, course: Course, advance: Advance) -> None:
        began, number, seen = time.perf_counter(), -1, list[tuple[float, Losses]]()
        for number, batch in enumerate(self.batches):
            batch_share = 1.0 / course.batches if course.batches else 0.0
            done = len(course.history) + number * batch_share
            rate = share(done, self.epochs, self.warmup, self.schedule, batch_share or 0.5)
            course.set_rate(rate)
            seen.append(self._batch(course, number, batch))
            advance(f"loss {seen[-1][0]:.4g}")
        if number < 0:
            raise CalibrationError(
                "fine_tune: there is no batch in batches; give a data loader (an iterator serves "
                "one epoch only)"
            )
        course.batches = number + 1
        score = self._score(course, self.evaluate) if self.evaluate is not None else None
        apart = _mean([one.apart for _, one in seen])
        features = _mean([one.features for _, one in seen])
        seconds, rate = time.perf_counter() - began, course.optimizer.param_groups[0]["lr"]
        loss = sum(loss for loss, _ in seen) / len(seen)
        epoch = Epoch(loss, rate, seconds, apart, features, score)
        course.note(epoch, choose=self.patience is not None)

    def _batch(self, course: Course, number: int, batch: Any) -> tuple[float, Losses]:
        """Take one step of the optimizer, and return the loss before it, and its parts."""
        course.optimizer.zero_grad()
        with course.precision.held():
            losses = self._losses(course, batch)
        loss = losses.loss
        if loss.numel() != 1 or not bool(loss.isfinite()):
            said = loss.item() if loss.numel() == 1 else f"of shape {tuple(loss.shape)}"
            raise CallbackError(
                f"fine_tune: epoch {len(course.history)}, batch {number}: the loss is {said}; a "
                "finite scalar is needed: lower lr, or look at the batch and the loss"
            )
        course.step(loss, self.clip)
        return float(loss.detach()), losses

    def _losses(self, course: Course, batch: Any) -> Losses:
        if course.distillation is None:
            return Losses(self._run(course.trained, batch))
        return course.distillation(course.module, lambda: self._own(course.trained, batch))

    def _own(self, module: nn.Module, batch: Any) -> torch.Tensor | None:
        """Run a module on a batch, and return its own loss, where there is one."""
        made = self._run(module, batch)
        return made if self.loss is not None else None

    def _run(self, module: nn.Module, batch: Any) -> Any:
        """Return the loss of a module, or without a loss only run it."""
        if self.loss is not None:
            return self.loss(module, batch)
        inner = module.module if isinstance(module, DistributedDataParallel) else module
        if not isinstance(inner, SlimModule) or not isinstance(inner.signature, Signature):
            raise CallbackError(
                "fine_tune: loss: what of a batch the module takes is known of one that fxprune "
                "pruned only; give a loss"
            )
        args, kwargs = taken(inner, inner.signature, batch, "fine_tune: batches")
        return module(*args, **kwargs)

    def _score(self, course: Course, evaluate: Callable[[nn.Module], float]) -> float:
        with course.averaged():
            put(course.module, {"": False})
            told = called("evaluate", lambda: float(evaluate(course.module)))
        value = distributed.mean(told)
        if not math.isfinite(value):
            raise CallbackError(f"evaluate: it returned {value}; a finite number is needed")
        return value


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of values, or None where there are none."""
    known = [one for one in values if one is not None]
    return sum(known) / len(known) if known else None
