"""Hold and call the caller's functions, and say in one line what went wrong with them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from fxprune.capture import Dynamic, Outputs, checked
from fxprune.errors import CallbackError, FxpruneError, InputError, first_line
from fxprune.graphs import tensors_of
from fxprune.loop.progress import Progress, Say, Wanted
from fxprune.metrics import Calibration, Loss
from fxprune.spec import Spec

Evaluate = Callable[[nn.Module], float]
FineTune = Callable[[nn.Module, int], Any]  # what it returns may be a history, a `Tuning`
T = TypeVar("T")


@dataclass(frozen=True)
class Callbacks:
    """Hold what the caller gives beside model and specification; each may be absent."""

    data: Calibration = field(default_factory=Calibration)
    evaluate: Evaluate | None = None
    fine_tune: FineTune | None = None
    optimizer: torch.optim.Optimizer | None = None
    checkpoint: Path | None = None
    say: Say = field(default=lambda text: None)
    bars: bool = False  # whether progress within a fine-tuning is shown
    watch: Progress = field(default_factory=lambda: Progress(False))
    dynamic: Dynamic = "auto"
    outputs: Outputs = None

    @classmethod
    def of(
        cls,
        calibrate: Iterable[Any] | None = None,
        loss: Loss | None = None,
        evaluate: Evaluate | None = None,
        fine_tune: FineTune | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: Wanted = None,
        dynamic: Dynamic = "auto",
        outputs: Outputs = None,
    ) -> Callbacks:
        """Return the arguments of a call, checked; raises CallbackError or CalibrationError."""
        for name, given in (("evaluate", evaluate), ("fine_tune", fine_tune)):
            if given is not None and not callable(given):
                raise CallbackError(f"{name}: a function is needed, not {type(given).__name__}")
        folder = Path(checkpoint) if checkpoint is not None else None
        watch, data = Progress(progress), Calibration(calibrate, loss)
        bars = progress is not False and not callable(progress)
        say, named = watch.say, checked(outputs)
        return cls(data, evaluate, fine_tune, optimizer, folder, say, bars, watch, dynamic, named)

    def axes(self, spec: Spec) -> Dynamic:
        """Return which axes may be free: masks of activations are of the example's sizes."""
        masks = any(one.tensor in ("input", "output") for one in spec.target)
        return "batch" if masks and self.dynamic == "auto" else self.dynamic


def called(name: str, call: Callable[[], T]) -> T:
    """Return what a call gives; what it raises becomes a CallbackError that names the callback."""
    try:
        return call()
    except FxpruneError:
        raise
    except Exception as error:
        raise CallbackError(
            f"{name}: it raised {type(error).__name__}: {first_line(error)}"
        ) from error


@contextmanager
def finite(module: nn.Module, number: int) -> Iterator[None]:
    """Raise CallbackError where a fine-tuning leaves a tensor that is no more finite.

    Buffers that came so, such as masks of −∞, may stay so; a parameter that did is an InputError.
    """
    before = _infinite(module)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name in (name for name in before if name in parameters):
        raise InputError(
            f"fine_tune: before call {number} {name} holds values that are not finite; repair them"
        )
    yield
    for name in (name for name in _infinite(module) if name not in before):
        raise CallbackError(
            f"fine_tune: after call {number} {name} holds values that are not finite; lower "
            "the learning rate, or look at the loss"
        )


def _infinite(module: nn.Module) -> list[str]:
    return [
        name
        for name, tensor in tensors_of(module).items()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
