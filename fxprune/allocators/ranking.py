"""Uniform and global allocation: the same share of every target, or one ranking over all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from fxprune.allocators.registry import Move, allocator
from fxprune.metrics.registry import Scores

SHARE = attrgetter("share")


@allocator("uniform")
@dataclass(frozen=True)
class Uniform:
    """Take the same share of every target."""

    def order(self, moves: Sequence[Move], scores: Sequence[Scores]) -> list[Move]:
        """Order by the share of its target that is gone after the move."""
        return sorted(moves, key=SHARE)

    def progress(self, made: Sequence[Move], units: int) -> float:
        """Return the share that is gone of the target that lost most."""
        return max(map(SHARE, made), default=0.0)


@allocator("global")
@dataclass(frozen=True)
class Global:
    """Rank all units together, each target's scores divided by their mean (or as they are)."""

    normalize: Literal["mean", "none"] = "mean"

    def order(self, moves: Sequence[Move], scores: Sequence[Scores]) -> list[Move]:
        """Order by score."""
        mean = self.normalize == "mean"
        scale = [float(s.mean()) or 1.0 if mean else 1.0 for s in scores]
        return sorted(moves, key=lambda move: move.score / scale[move.target])

    def progress(self, made: Sequence[Move], units: int) -> float:
        """Return the share of all units that is gone."""
        return sum(len(move.units) for move in made) / max(1, units)
