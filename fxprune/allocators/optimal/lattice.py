"""The widths that `optimal` chooses among, and the sizes of axes at them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from fxprune.allocators.optimal.values import Importance
from fxprune.allocators.registry import Moves, Problem
from fxprune.cost import Table
from fxprune.guards import Ids, Mask

Counts = tuple[int, ...]  # how many moves of each target are made
TOGETHER = 3  # targets whose units one index may depend on, beyond which some are held


@dataclass(frozen=True, eq=False)
class Listed:
    """Hold the moves of every target at one rounding, with the importance of every unit."""

    problem: Problem
    moves: Sequence[Moves]
    importance: Importance

    @cached_property
    def least(self) -> Counts:
        """Return the moves that are due."""
        return tuple(moves.due for moves in self.moves)

    @cached_property
    def lost(self) -> list[NDArray[np.float64]]:
        """Return for every target what is lost with 0, 1, 2, … moves."""
        return [self.importance.lost(k, moves) for k, moves in enumerate(self.moves)]

    @cached_property
    def ends(self) -> list[Ids]:
        """Return for every target how many units are removed with 0, 1, 2, … moves."""
        return [np.concatenate([[0], moves.ends]) for moves in self.moves]

    def made(self, counts: Counts) -> list[Moves]:
        """Return the moves of a choice."""
        return [moves.first(n) for moves, n in zip(self.moves, counts, strict=True)]

    def nearest(self, alive: Mask) -> Counts:
        """Return the moves that amount to about the same choice."""
        gone = [int((~alive[target.units]).sum()) for target in self.problem.targets]
        places = (int(abs(ends - n).argmin()) for ends, n in zip(self.ends, gone, strict=True))
        return tuple(map(max, places, self.least))


@dataclass(frozen=True, eq=False)
class Lattice:
    """Hold some numbers of moves for each target, among which one is chosen: its options.

    `options[k]` ascends and holds the anchor; `thinned` says that some between them are left out,
    and `narrowed` that some beyond them are.
    """

    listed: Listed
    options: Sequence[Ids]
    anchor: Ids  # the place of the anchor among the options of each target
    thinned: bool
    narrowed: bool  # some are out of the window

    def counts(self, places: Ids) -> Counts:
        """Return the moves at some places."""
        return tuple(int(o[k]) for o, k in zip(self.options, places.tolist(), strict=True))

    def values(self, k: int) -> Table:
        """Return what is lost of a target's importance at each of its options, negated."""
        lost: Table = -self.listed.lost[k][self.options[k]]
        return lost


def lattice(listed: Listed, anchor: Counts, window: float, many: int) -> Lattice:
    """Return about `many` options a target within `window` of its moves around the anchor."""
    options: list[Ids] = []
    thinned = narrowed = False
    for moves, least, at in zip(listed.moves, listed.least, anchor, strict=True):
        reach = max(many // 2, round(window * len(moves)))
        low, high = max(least, at - reach), min(len(moves), at + reach)
        few = min(many + 1, high - low + 1)
        found = np.unique([*np.linspace(low, high, few).astype(np.int64), at])
        options.append(found)
        thinned |= high - low + 1 > len(found)
        narrowed |= low > least or high < len(moves)
    places = [int(np.searchsorted(o, at)) for o, at in zip(options, anchor, strict=True)]
    return Lattice(listed, options, np.array(places, dtype=np.int64), thinned, narrowed)


@dataclass(frozen=True, eq=False)
class Part:
    """Hold how many indices of an axis are kept, of those that depend on the same targets."""

    targets: tuple[int, ...]
    table: Table  # a dimension a target, over its options


class Axes:
    """Tabulate the sizes of axes over the options of one or two targets, the others anchored.

    An index whose conjunction holds units u₁, u₂, … is kept under the options o iff each unit
    is. As the units of a target are removed in one order, uₖ is kept iff oₖ < dₖ for a number dₖ,
    and the size is |{index : oₖ < dₖ for all k}|: a histogram of d, summed from its end.
    """

    def __init__(self, lattice: Lattice, axes: Sequence[Ids], size: int) -> None:
        self._lattice, self._axes = lattice, axes
        self._owner: Ids = np.full(size, -1)
        self._until: Ids = np.zeros(size, dtype=np.int64)  # the first option without the unit
        for k, (moves, options) in enumerate(
            zip(lattice.listed.moves, lattice.options, strict=True)
        ):
            units = lattice.listed.problem.targets[k].units
            self._owner[units], self._until[units] = k, len(options)
            until = np.searchsorted(options, np.arange(len(moves)), side="right")
            self._until[moves.gone] = np.repeat(until, np.diff(moves.ends, prepend=0))
        self.parts = cache(self._parts)
        self.base = cache(self._base)
        self.single = cache(self._single)

    def _parts(self, axis: int) -> list[Part]:
        g = self._axes[axis]
        if not g.shape[1]:
            return [Part((), np.array(float(len(g))))]
        owners = self._owner[g]
        order = np.argsort(owners, axis=1, kind="stable")
        owners, until = (
            np.take_along_axis(owners, order, 1),
            np.take_along_axis(self._until[g], order, 1),
        )
        kinds, which = np.unique(owners, axis=0, return_inverse=True)
        which = which.ravel()
        return [self._part(kind, until[which == n]) for n, kind in enumerate(kinds)]

    def _part(self, kind: Ids, until: Ids) -> Part:
        found = [k for k in dict.fromkeys(kind.tolist()) if k >= 0]
        ends = {k: until[:, kind == k].min(axis=1) for k in found}
        targets, held = tuple(found[:TOGETHER]), found[TOGETHER:]
        rows = np.ones(len(until), dtype=bool)
        for k in held:
            rows &= ends[k] > self._lattice.anchor[k]
        if not targets:
            return Part((), np.array(float(rows.sum())))
        shape = tuple(len(self._lattice.options[k]) + 1 for k in targets)
        table = np.zeros(shape)
        np.add.at(table, tuple(ends[k][rows] for k in targets), 1.0)
        for dim in range(len(targets)):
            table = np.flip(np.cumsum(np.flip(table, dim), dim), dim)
            table = np.take(table, range(1, shape[dim]), dim)
        return Part(targets, table)

    def targets(self, axis: int) -> set[int]:
        """Return the targets that an axis depends on."""
        return {k for part in self.parts(axis) for k in part.targets}

    def _at(self, part: Part, free: tuple[int, ...]) -> Table:
        """Return a part over the options of free targets, in their order; a 1 where it has none."""
        anchor = self._lattice.anchor
        found = part.table[tuple(slice(None) if k in free else anchor[k] for k in part.targets)]
        mine = [k for k in part.targets if k in free]
        found = np.transpose(found, [mine.index(k) for k in free if k in mine])
        return found.reshape([len(self._lattice.options[k]) if k in mine else 1 for k in free])

    def _base(self, axis: int) -> float:
        return float(sum(float(self._at(part, ())) for part in self.parts(axis)))

    def _single(self, axis: int, k: int) -> Table:
        return self._summed(axis, (k,))

    def pair(self, axis: int, j: int, k: int) -> Table:
        """Return the sizes of an axis over the options of two targets, `[options, options]`."""
        both = self.targets(axis)
        if j not in both and k not in both:
            return np.array(self.base(axis))
        if j not in both:
            return self.single(axis, k)[None, :]
        if k not in both:
            return self.single(axis, j)[:, None]
        if not any(j in part.targets and k in part.targets for part in self.parts(axis)):
            return self.single(axis, j)[:, None] + self.single(axis, k)[None, :] - self.base(axis)
        return self._summed(axis, (j, k))

    def _summed(self, axis: int, free: tuple[int, ...]) -> Table:
        shape = [len(self._lattice.options[k]) for k in free]
        total = np.zeros(shape)
        for part in self.parts(axis):
            total = total + self._at(part, free)
        return total
