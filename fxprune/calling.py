"""Hold and call what the caller gave, and say in one line what went wrong with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxprune import ranks
from fxprune.calibration import Calibration, Loss
from fxprune.errors import CallbackError, FxpruneError, first_line
from fxprune.program import tensors_of

Evaluate = Callable[[nn.Module], float]
FineTune = Callable[[nn.Module, int], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Callbacks:
    """Hold what the caller gives beside model and specification; each may be absent."""

    data: Calibration = field(default_factory=Calibration)
    evaluate: Evaluate | None = None
    fine_tune: FineTune | None = None
    optimizer: torch.optim.Optimizer | None = None
    checkpoint: Path | None = None
    say: Say = field(default=lambda text: None)

    @classmethod
    def of(
        cls,
        calibrate: Iterable[Any] | None = None,
        loss: Loss | None = None,
        evaluate: Evaluate | None = None,
        fine_tune: FineTune | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | Say = False,
    ) -> Callbacks:
        """Return what the arguments of a call amount to; raises what says why they cannot be."""
        for name, given in (("evaluate", evaluate), ("fine_tune", fine_tune)):
            if given is not None and not callable(given):
                raise CallbackError(f"{name}: a function is needed, not {type(given).__name__}")
        folder = Path(checkpoint) if checkpoint is not None else None
        say = progress if callable(progress) else (shown if progress else lambda text: None)
        data = Calibration(calibrate, loss)
        return cls(data, evaluate, fine_tune, optimizer, folder, say)


def shown(text: str) -> None:
    """Print a line of progress on standard error, from one process of a job only."""
    if ranks.first():
        print(f"fxprune: {text}", file=sys.stderr, flush=True)


def called(name: str, call: Callable[[], None]) -> None:
    """Make a call; what it raises becomes a CallbackError that names the callback."""
    try:
        call()
    except FxpruneError:
        raise
    except Exception as error:
        raise CallbackError(
            f"{name}: it raised {type(error).__name__}: {first_line(error)}"
        ) from error


def check_finite(module: nn.Module, number: int) -> None:
    """Raise CallbackError where a tensor of a module is not finite after a fine-tuning."""
    for name, tensor in tensors_of(module).items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise CallbackError(
                f"fine_tune: after call {number} {name} holds values that are not finite; lower "
                "the learning rate, or look at the loss"
            )
