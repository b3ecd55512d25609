"""Score a model as `prune` does, and hand the scores out by the names of targets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fxprune import pipeline
from fxprune.capture import capture
from fxprune.metrics import Calibration
from fxprune.metrics.registry import Lessons, Scored
from fxprune.passes import make
from fxprune.targets import Selection


def scores(
    model: nn.Module,
    metric: str,
    inputs: Any,
    *,
    exclude: tuple[str, ...] = (),
    calibrate: Any = None,
    loss: Any = None,
    learned: Any = None,
    normalize: str = "none",
    kind: str = "all",
    **options: Any,
) -> dict[str, NDArray[np.float64]]:
    """Return `[units]` scores a target, units in the order of their first index."""
    steps = [
        make("couple", {}),
        make("select", {"kind": kind, "exclude": exclude}),
        make("score", {"metric": metric, "options": options, "normalize": normalize}),
    ]
    data = Calibration(calibrate, loss)
    program = capture(model, inputs).with_(data, Lessons(learned or {}))
    program = pipeline.run(program, steps)
    return {
        target.name: score[np.argsort(target.units, kind="stable")]
        for target, score in zip(program[Selection].targets, program[Scored].scores, strict=True)
    }
