"""Objectives: how far to prune, as the share of a cost of the original that is kept.

Each counts that cost, of a model or of what a choice keeps of it.
Every file here is imported, every `@objective` registers; allocators meet the goal.
"""

from __future__ import annotations

from fxprune.objectives.registry import OBJECTIVES, Objective, goal_type, make, objective
from fxprune.registry import load

load(__name__)

__all__ = ["OBJECTIVES", "Objective", "goal_type", "make", "objective"]
