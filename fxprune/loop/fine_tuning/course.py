"""The state of one fine-tuning: module, optimizer, averages, the history and the best so far."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

from fxprune.loop.fine_tuning.averaging import Average
from fxprune.loop.fine_tuning.distillation import Distillation
from fxprune.loop.fine_tuning.precision import Precision
from fxprune.report import Epoch


@dataclass(eq=False)
class Course:
    """Hold a fine-tuning under way; `trained` is the module, or what trains it in parallel.

    `best` is the epoch whose weights will be the result, counted from 1.
    """

    module: nn.Module
    trained: nn.Module
    optimizer: torch.optim.Optimizer
    precision: Precision
    distillation: Distillation | None = None
    average: Average | None = None
    batches: int = 0  # in an epoch, 0 while that is unknown
    history: list[Epoch] = field(default_factory=list)
    best: int = 0

    def __post_init__(self) -> None:
        self._rates = [group["lr"] for group in self.optimizer.param_groups]
        self._scaler = self.precision.scaler()
        self._weights: dict[str, torch.Tensor] | None = None

    def set_rate(self, share: float) -> None:
        """Set the rates of the optimizer to a share of those it came with."""
        for group, rate in zip(self.optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * share

    @contextmanager
    def rates_kept(self) -> Iterator[None]:
        """Put the rates of the optimizer back in the end."""
        try:
            yield
        finally:
            self.set_rate(1.0)

    def step(self, loss: torch.Tensor, clip: float | None) -> None:
        """Follow a loss down by one step, the norm of the gradients cut to `clip`."""
        self._scaler.scale(loss).backward()
        if clip is not None:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), clip)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        if self.average is not None:
            self.average.update()

    def averaged(self) -> AbstractContextManager[None]:
        """Hold the averaged weights in the module for a while, where there are any."""
        return nullcontext() if self.average is None else self.average.held()

    def note(self, epoch: Epoch, *, choose: bool) -> None:
        """Write an epoch down; where the best is to be chosen, keep the weights that it made."""
        self.history.append(epoch)
        scores = [one.score for one in self.history if one.score is not None]
        if not choose:
            self.best = len(self.history)
        elif scores[-1] > max(scores[:-1], default=float("-inf")):
            self.best = len(self.history)
            with self.averaged():
                self._weights = {k: v.clone() for k, v in self.module.state_dict().items()}

    def settle(self) -> None:
        """Leave the best weights in the module, or the averaged ones."""
        if self._weights is not None:
            self.module.load_state_dict(self._weights)
        elif self.average is not None:
            self.average.swap()
