"""Allocators: how much of each target goes. Every file here is imported."""

from __future__ import annotations

import importlib
import pkgutil

from fxprune.allocators.registry import (
    ALLOCATORS,
    Allocator,
    Bounds,
    Choice,
    Key,
    Moves,
    Problem,
    Progress,
    Ranked,
    allocator,
    make,
    moves_of,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "ALLOCATORS",
    "Allocator",
    "Bounds",
    "Choice",
    "Key",
    "Moves",
    "Problem",
    "Progress",
    "Ranked",
    "allocator",
    "make",
    "moves_of",
]
