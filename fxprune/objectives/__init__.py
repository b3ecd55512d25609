"""Objectives: how much must go. Every file here is imported."""

from __future__ import annotations

import importlib
import pkgutil

from fxprune.objectives.registry import OBJECTIVES, Objective, goal_type, make, objective

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["OBJECTIVES", "Objective", "goal_type", "make", "objective"]
