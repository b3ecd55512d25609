"""The call of a fine-tuning in a run: the caller's function, or what a specification asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from fxprune.capture import put, put_training
from fxprune.capture.modes import Marks
from fxprune.errors import SpecError
from fxprune.loop.caller_functions import Callbacks, FineTune, called, finite
from fxprune.loop.fine_tuning import fine_tune
from fxprune.report import Tuning
from fxprune.spec import Spec
from fxprune.spec.training import Training
from fxprune.surgery import masks


def trains(spec: Spec, calls: Callbacks) -> bool:
    """Tell whether anything trains; raises SpecError where what was given does not go together."""
    if spec.fine_tune is None:
        return calls.fine_tune is not None
    options, lacking = spec.fine_tune.made(), "fine_tune: {} is missing; call prune(…, {}=…)"
    if calls.fine_tune is not None:
        raise SpecError(
            "fine_tune: the specification says how to train, and a function was given too; leave "
            "one of the two out"
        )
    if calls.data.batches is None:
        raise SpecError(lacking.format("it trains on batches, and calibrate", "calibrate"))
    if calls.data.loss is None and options.distillation < 1:
        share = f"it follows a loss (distillation = {options.distillation:g}), which"
        raise SpecError(lacking.format(share, "loss") + ", or set distillation = 1")
    if options.patience is not None and calls.evaluate is None:
        raise SpecError(
            lacking.format("patience stops at the best score, and evaluate", "evaluate")
        )
    return True


def tuner(spec: Spec, calls: Callbacks, teacher: Callable[[], nn.Module]) -> FineTune | None:
    """Return what trains: the caller's function, or that of the specification; None for nothing."""
    if not trains(spec, calls) or spec.fine_tune is None:
        return calls.fine_tune
    options: Training = spec.fine_tune.made()
    taught = options.distillation > 0 or options.features > 0
    return fine_tune.FineTune(
        **vars(options),
        batches=calls.data.batches or (),
        loss=calls.data.loss,
        optimizer=calls.optimizer,
        teacher=teacher() if taught else None,
        evaluate=calls.evaluate,
        progress=calls.bars,
    )


def tuned(tune: FineTune, module: nn.Module, number: int, given: Marks) -> Tuning | None:
    """Train a module, put its modes back, and return the history, where it is told.

    Raises CallbackError where the function fails, or leaves what is not finite.
    """
    put_training(module, given)
    with finite(module, number):
        with torch.enable_grad():
            told = called("fine_tune", lambda: tune(module, number))
        put(module, given)
        masks.settle(module)
    return told if isinstance(told, Tuning) else None
