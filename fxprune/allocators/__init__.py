"""Allocators: how many units of each target are kept.

Each is given a problem (targets, importances, costs, a goal) and returns a choice.
Every file here is imported, every `@allocator` registers; the pass `allocate` makes them by name.
"""

from __future__ import annotations

from fxprune.allocators.registry import (
    ALLOCATORS,
    Allocator,
    Bounds,
    Choice,
    Evaluator,
    Key,
    Moves,
    Problem,
    Progress,
    Ranked,
    allocator,
    make,
    moves_of,
)
from fxprune.registry import load

load(__name__)

__all__ = [
    "ALLOCATORS",
    "Allocator",
    "Bounds",
    "Choice",
    "Evaluator",
    "Key",
    "Moves",
    "Problem",
    "Progress",
    "Ranked",
    "allocator",
    "make",
    "moves_of",
]
