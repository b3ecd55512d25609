"""Metrics: how much each unit matters. Every file here is imported, every `@metric` registers."""

from __future__ import annotations

import importlib
import pkgutil

from fxprune.metrics.registry import METRICS, Evidence, Learner, Metric, make, metric

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["METRICS", "Evidence", "Learner", "Metric", "make", "metric"]
