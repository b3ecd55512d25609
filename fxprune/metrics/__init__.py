"""Metrics: the importance of each unit, one array of scores a target.

They read weights, activations or gradients of the captured graph, or learn during fine-tuning.
Every file here is imported, every `@metric` registers; the pass `score` makes them by name.
"""

from __future__ import annotations

from fxprune.metrics.calibration import Calibration, Loss
from fxprune.metrics.normalizing import Normalization
from fxprune.metrics.registry import (
    METRICS,
    Evidence,
    Function,
    Learner,
    Metric,
    Scores,
    label,
    make,
    metric,
)
from fxprune.registry import load

load(__name__)

__all__ = [
    "METRICS",
    "Calibration",
    "Evidence",
    "Function",
    "Learner",
    "Loss",
    "Metric",
    "Normalization",
    "Scores",
    "label",
    "make",
    "metric",
]
