"""Schedules: in how many steps to prune, and how far with each.

The sparsity of every step is that of the original model.
Every file here is imported, every `@schedule` registers; the loop takes the steps.
"""

from __future__ import annotations

from fxprune.registry import load
from fxprune.schedules.registry import SCHEDULES, Schedule, make, schedule

load(__name__)

__all__ = ["SCHEDULES", "Schedule", "make", "schedule"]
