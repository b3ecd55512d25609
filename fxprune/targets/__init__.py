"""Targets: units grouped by footprint, what is pinned and why, blocks of tensors, activation sites.

Coupling walks a captured graph once; discovery groups what it states.
Metrics, costs and passes read it.
"""

from fxprune.targets.blocks import BlockTarget, Grid, block_of
from fxprune.targets.coupling import couple, rule_for
from fxprune.targets.discovery import SELECTABLE, Discovery, Pinned, Target
from fxprune.targets.selection import Original, Selection, Terms

__all__ = [
    "SELECTABLE",
    "BlockTarget",
    "Discovery",
    "Grid",
    "Original",
    "Pinned",
    "Selection",
    "Target",
    "Terms",
    "block_of",
    "couple",
    "rule_for",
]
