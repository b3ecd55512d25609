"""Schedules: in how many steps, and how far with each. Every file here is imported."""

from __future__ import annotations

import importlib
import pkgutil

from fxprune.schedules.registry import SCHEDULES, Schedule, make, schedule

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["SCHEDULES", "Schedule", "make", "schedule"]
