"""Keep the table of allocators, what an allocator is given, and the moves it chooses among."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import ceil
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fxprune.cost import Cost
from fxprune.guards import Ids, Mask, distinct
from fxprune.metrics import Scores
from fxprune.objectives import Objective
from fxprune.program import Program
from fxprune.registry import Registry
from fxprune.targets import BlockTarget, Target

Needs = Literal["nothing", "evaluate"]
Progress = Literal["units", "largest share"]  # how much a choice removes, where a ratio is asked


@dataclass(frozen=True)
class Bounds:
    """Bound what may be removed of a target; shares and `min_keep` are of the original target.

    At least `min_keep` units are kept (never fewer than one), the share removed lies between
    `min_ratio` and `max_ratio`, and the kept width of a pruned target is a multiple of `round_to`.
    """

    min_keep: int = 1
    max_ratio: float = 1.0
    round_to: int | Literal["auto"] = "auto"
    min_ratio: float = 0.0


@dataclass(frozen=True, eq=False)
class Moves:
    """Hold the moves of one target in their order: each the least step that its bounds allow.

    `units` are all that may be removed, in their order, and `ends[i]` says how many are removed
    after move `i`. `share` is the share of the *original* target removed after each move, `score`
    the highest score removed, both `[moves]`; the first `due` are asked for by the bounds.
    """

    target: int
    units: Ids
    ends: Ids
    share: NDArray[np.float64]
    score: NDArray[np.float64]
    due: int = 0

    def __len__(self) -> int:
        return len(self.ends)

    def first(self, count: int) -> Moves:
        """Return the first moves."""
        share, score = self.share[:count], self.score[:count]
        return Moves(self.target, self.units, self.ends[:count], share, score, self.due)

    @property
    def gone(self) -> Ids:
        """Return the units that all the moves remove."""
        return self.units[: self.ends[-1]] if len(self.ends) else NOWHERE


@dataclass(frozen=True)
class Choice:
    """Hold which variables are kept (`alive`, `[variables]`) and the share of the objective kept.

    `counts[k]` are the moves made of target `k`, where it was moves that made the choice. `note`
    says what an allocator that does not aim at the objective did instead. `curves` are what was
    measured of some targets: shares removed, and what is lost with them.
    """

    alive: Mask
    achieved: float
    counts: tuple[int, ...] = ()
    note: str = ""
    curves: Mapping[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class Evaluator:
    """Hold what scores a program of which only a choice is kept: a number, higher is better."""

    score: Callable[[Program, Choice], float]


Values = NDArray[np.float64]
# a number for each move of a target; moves are made in ascending order, a target's own in place
Key = Callable[[Moves], Values]


class Problem(Protocol):
    """What an allocator is given: targets with their scores, a goal to meet, and an evaluator."""

    @property
    def targets(self) -> Sequence[Target]:
        """Return the targets that may lose units."""

    @property
    def scores(self) -> Sequence[Scores]:
        """Return one array `[units]` for each target, higher for what matters more."""

    @property
    def sizes(self) -> Sequence[int]:
        """Return how many units each target had in the original model."""

    @property
    def objective(self) -> Objective:
        """Return the goal of this step; `1 - objective.sparsity` is the share to keep."""

    @property
    def cost(self) -> Cost:
        """Return what the objective counts with: axes, tensors and products."""

    @property
    def additive(self) -> bool:
        """Tell whether scores are changes of one loss, so that they add up over all targets."""

    @property
    def losses(self) -> Sequence[Scores]:
        """Return what is lost of each target with its first 1, 2, … units, or nothing."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Return the roundings to try, the coarsest first: (8, 4, 2, 1), or one."""

    def meet(self, key: Key, progress: Progress = "units") -> Choice:
        """Make moves in the order of `key` until the goal is met, at the coarsest rounding."""

    def moves(self, step: int) -> list[Moves]:
        """Return the moves of each target in their order, at a rounding."""

    def below(self, threshold: float) -> Choice:
        """Return the choice of all units whose score is at most a threshold, within the bounds."""

    def choice(self, moves: Sequence[Moves]) -> Choice:
        """Return the choice that some moves amount to, with the share of the objective kept."""

    def near(self, choice: Choice) -> bool:
        """Tell whether a choice meets the goal within the tolerance of one per cent."""

    def evaluate(self, choice: Choice) -> float:
        """Return what the user's `evaluate` says of the pruned model; it is asked only once."""

    def say(self, text: str) -> None:
        """Show the user the progress of the search."""


class Allocator(Protocol):
    """Choose how much of each target is removed, so that the objective is met."""

    needs: ClassVar[Needs]

    def choose(self, problem: Problem) -> Choice:
        """Return the choice; raises ObjectiveError where the goal is out of reach."""


# units that a kernel goes through one after the other: how many there are need be no multiple
OUTER = frozenset({"head", "group", "expert"})
MANY = 512  # moves of a target beyond which they are made larger, and refined where it matters
NOWHERE = np.zeros(0, dtype=np.int64)
TRIALS = 100_000  # of a search at most: each evaluates the model
ALLOCATORS = Registry("allocation", "fxprune.allocators", ("choose", "needs"))
allocator = ALLOCATORS.register


def make(name: str, options: Mapping[str, Any]) -> Allocator:
    """Return the allocator `name` with the options of a specification."""
    bounds = [field.name for field in fields(Bounds)]
    made: Allocator = ALLOCATORS.make(name, options, beside=bounds)
    return made


@dataclass(frozen=True, eq=False)
class Ranked:
    """Hold the units of a target as they may be removed: the first `many`, `least` at once.

    `highest` is the highest score removed with each unit, `[units]`.
    """

    units: Ids
    highest: Scores
    least: int
    many: int

    @classmethod
    def of(cls, target: Target, score: Scores) -> Ranked:
        """Rank the units of a target by their scores."""
        if isinstance(target, BlockTarget):
            order, least, many = target.order(score)
        else:
            order, least, many = np.argsort(score, kind="stable"), 1, len(target)
        ordered = score[order]
        return cls(target.units[order], np.maximum.accumulate(ordered), least, many)


def moves_of(
    targets: Sequence[Target],
    ranked: Sequence[Ranked],
    bounds: Sequence[Bounds],
    sizes: Sequence[int],
    step: int,
    finer: Mapping[int, Ids] = MappingProxyType({}),
    known: Sequence[Moves] = (),
) -> list[Moves]:
    """Cut every target into moves, least important units first; `step` is what "auto" stands for.

    `sizes` are the units that each target had in the original model. Targets of very many units,
    such as the elements of a weight, are cut into `MANY` larger moves, and at the places `finer`.
    What nothing cuts finer is as it is `known`, where that is given.
    """
    return [
        known[k]
        if known and k not in finer
        else _moves(
            k,
            target,
            order,
            bound,
            size,
            _step(target, bound, step),
            finer.get(k, NOWHERE),
        )
        for k, (target, order, bound, size) in enumerate(
            zip(targets, ranked, bounds, sizes, strict=True)
        )
    ]


def _step(target: Target, bound: Bounds, auto: int) -> int:
    if bound.round_to != "auto":
        return bound.round_to
    return 1 if target.kind in OUTER else auto


def _moves(
    k: int, target: Target, ranked: Ranked, bound: Bounds, size: int, step: int, finer: Ids
) -> Moves:
    n, before = len(target), max(size, len(target)) - len(target)
    first = n % step or step
    whole = n + before
    if isinstance(target, BlockTarget):
        step = bound.round_to if bound.round_to != "auto" else 1
        first = step = max(step, ranked.least) // ranked.least * ranked.least
    floor = max(1, bound.min_keep, ceil(whole * (1.0 - bound.max_ratio) - 1e-9))
    ends = places(min(ranked.many, n - floor), first, step, finer)
    share, score = (ends + before) / whole, ranked.highest[ends - 1]
    due = np.searchsorted(np.concatenate([[before / whole], share[:-1]]), bound.min_ratio - 1e-9)
    return Moves(k, ranked.units, ends, share, score, min(len(ends), int(due)))


def places(most: int, first: int, step: int, finer: Ids) -> Ids:
    """Return after how many units moves end: every `step` from `first` on, if those are not many.

    >>> places(10, 2, 4, NOWHERE).tolist()
    [2, 6, 10]
    """
    count = max(0, (most - first) // step + 1)
    if count <= MANY:
        return first + step * np.arange(count, dtype=np.int64)
    chosen = np.linspace(0, count - 1, MANY).astype(np.int64)
    cuts = first + np.maximum(finer[finer <= most] - first, 0) // step * step
    return distinct(np.concatenate([first + step * chosen, cuts]))
