"""Keep the table of allocators, and cut targets into the steps that an allocator orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Protocol, TypeVar

import numpy as np

from fxprune.guards import Ids
from fxprune.metrics.registry import Scores
from fxprune.targets import Target


@dataclass(frozen=True)
class Bounds:
    """Bound what may leave a target.

    `min_keep` units stay at least (never fewer than one), at most the share `max_ratio` leaves, and
    what stays of a pruned target is a multiple of `round_to`.
    """

    min_keep: int = 1
    max_ratio: float = 1.0
    round_to: int = 1


@dataclass(frozen=True, slots=True)
class Move:
    """Remove some units of one target at once: the least step that its bounds allow.

    `share` is the share of the target gone after the move, `score` the highest score that leaves.
    """

    target: int
    units: Ids
    share: float
    score: float


class Allocator(Protocol):
    """Order moves: those that leave first come first."""

    def order(self, moves: Sequence[Move], scores: Sequence[Scores]) -> list[Move]:
        """Return the moves in the order in which they are made, each target's own in place."""

    def progress(self, made: Sequence[Move], units: int) -> float:
        """Return the sparsity ratio that the moves made so far amount to, of `units` in all."""


ALLOCATORS: dict[str, type[Allocator]] = {}
A = TypeVar("A", bound=type[Allocator])


def allocator(name: str) -> Callable[[A], A]:
    """Register a frozen dataclass as the allocator `name`."""

    def decorate(cls: A) -> A:
        ALLOCATORS[name] = cls
        return cls

    return decorate


def moves_of(targets: Sequence[Target], scores: Sequence[Scores], bounds: Bounds) -> list[Move]:
    """Cut every target into moves, least important units first."""
    moves: list[Move] = []
    for k, (target, score) in enumerate(zip(targets, scores, strict=True)):
        n = len(target)
        order = np.argsort(score, kind="stable")
        units, ranked = target.units[order], score[order].tolist()
        floor = max(1, bounds.min_keep, ceil(n * (1.0 - bounds.max_ratio) - 1e-9))
        step = bounds.round_to
        first = n % step or step
        gone = 0
        while n - gone - (size := first if gone == 0 else step) >= floor:
            gone += size
            moves.append(Move(k, units[gone - size : gone], gone / n, ranked[gone - 1]))
    return moves
