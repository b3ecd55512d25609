"""Guards: conjunctions of keep-variables, one for each index of each dimension, and their solver.

A guard array has shape `[n, factors]` and holds variable ids. Row `i` is a conjunction: index `i`
survives iff every variable in the row is kept. Id 0 is *true* and pads the rows; an array with no
columns is a dimension that never changes. Equalities between guard arrays are solved by
unification: union (x = y), define (x := a ∧ b ∧ …) and pin (x := true). Every step only adds
constraints, so the result is sound whatever order the equalities arrive in; what cannot be
matched is pinned, and the pin carries its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fxprune.conjunctions import (
    Ids,
    Mask,
    cancel,
    concat,
    crosswise,
    distinct,
    expanded,
    factors,
    grown,
    joined,
    outer,
    pack,
    pair_up,
    relate,
    true,
)

__all__ = ["Guards", "Ids", "Mask", "Reason", "concat", "distinct", "outer", "true"]


@dataclass(frozen=True)
class Reason:
    """Say why variables are pinned: the node of the graph, and the fact about it."""

    node: str
    text: str

    def __str__(self) -> str:
        return f"{self.node}: {self.text}"


class Guards:
    """Solve equalities between guards; hold the variables, their classes, definitions and pins."""

    def __init__(self) -> None:
        self.size = 1  # the id 0 is *true*
        self.reasons: list[Reason] = [Reason("", "free"), Reason("", "true")]
        self._codes: dict[Reason, int] = {}
        self._parent: Ids = np.zeros(1024, dtype=np.int64)
        self._pinned: Ids = np.zeros(1024, dtype=np.int64)
        self._pinned[0] = 1
        self._marked: Mask = self._pinned > 0  # those that are pinned or defined
        self._defined: Ids = np.full(1024, -1, dtype=np.int64)
        self._definitions: Ids = np.zeros((256, 2), dtype=np.int64)
        self._n_definitions = 0
        self._normals: dict[int, tuple[Ids, Ids]] = {}  # id -> the array, kept alive, and its form

    # -- variables -----------------------------------------------------------------------------

    def fresh(self, n: int) -> Ids:
        """Return `n` new variables as a guard array of shape `[n, 1]`."""
        start, self.size = self.size, self.size + n
        if self.size > len(self._parent):
            room = max(self.size, len(self._parent) * (8 if self.size < 1 << 20 else 3) // 2)
            self._parent = grown(self._parent, room, 0)
            self._pinned = grown(self._pinned, room, 0)
            self._defined = grown(self._defined, room, -1)
            self._marked = grown(self._marked, room, False)
        ids = np.arange(start, self.size, dtype=np.int64)
        self._parent[ids] = ids
        return ids[:, None]

    def find(self, ids: Ids) -> Ids:
        """Return the representative of each variable's class, shape of `ids`."""
        root = self._parent[ids]
        up = self._parent[root]
        if (up == root).all():
            return root
        while not (up == root).all():
            root, up = up, self._parent[up]
        self._parent[ids] = root
        return root

    def why(self, g: Ids) -> list[Reason]:
        """Return for each row of `g` a reason why it is pinned, following definitions."""
        if not g.shape[1]:
            return []
        g = self.find(g[:, 0])
        while ((rows := self._defined[g]) >= 0).any():
            g = self.find(np.where(rows >= 0, self._definitions[rows, 0], g))
        return [self.reasons[code] for code in self._pinned[g].tolist() if code]

    def blame(self, g: Ids) -> list[tuple[Reason, int, bool]]:
        """Return why variables that guard the rows of `g` are pinned.

        Each reason comes with a count: of rows that are pinned altogether (True), or of the pinned
        values of a factor whose rows still have a free one (False).
        """
        found: list[tuple[Reason, int, bool]] = []
        for part, whole in self._pinned_parts(g):
            codes = np.where(part > 0, self._pinned[part], 0)
            for code in np.unique(codes[codes > 0]).tolist():
                held = codes == code
                count = int(held.any(axis=1).sum()) if whole else len(np.unique(part[held]))
                found.append((self.reasons[code], count, whole))
        return found

    def _pinned_parts(self, g: Ids) -> list[tuple[Ids, bool]]:
        """Expand `g` down to variables without a definition: rows all pinned, and the others."""
        if not g.shape[1]:
            return []
        g = self.find(g)
        while ((rows := self._defined[g]) >= 0).any():
            g = self.find(expanded(g, rows, self._definitions))
        pinned = (self._pinned[g] > 0) & (g > 0)
        whole = np.asarray((pinned | (g == 0)).all(axis=1))
        first = np.where(pinned, g, 0)[whole]
        first = first[np.arange(len(first)), (first > 0).argmax(axis=1)][:, None]
        return [(first, True), (np.where(pinned, g, 0)[~whole], False)]

    def pinned(self, ids: Ids) -> Mask:
        """Return which variables are pinned, shape of `ids`."""
        return np.asarray(self._pinned[self.find(ids)] > 0)

    def normal(self, g: Ids) -> Ids:
        """Return `g` over free representatives only: definitions expanded, pins and repeats gone.

        Columns keep their order, and rows are packed to the left. Both arrays are for reading: the
        result is kept until an equation changes anything.
        """
        if not g.shape[1]:
            return g
        known = self._normals.get(id(g))
        if known is None:
            known = self._normals[id(g)] = g, self._normalised(g)
        return known[1]

    def _normalised(self, g: Ids) -> Ids:
        while True:
            g = self.find(g)
            if not self._marked[g].any():
                return pack(g)
            g = np.where(self._pinned[g] > 0, 0, g)
            if not g.any():
                return true(len(g))
            rows = self._defined[g]
            if not (rows >= 0).any():
                return pack(g)
            g = expanded(g, rows, self._definitions)

    def survivors(self, alive: Mask) -> Mask:
        """Return for every variable whether it survives where those of `alive` do."""
        root = self._parent[: self.size]
        while not np.array_equal(up := root[root], root):
            root[:] = up
        pinned = self._pinned[root] > 0
        survives: Mask = alive[root] | pinned
        defined = np.flatnonzero((self._defined[root] >= 0) & ~pinned)
        factors = root[self._definitions[self._defined[root[defined]]]]
        while len(defined):
            now = survives[factors].all(axis=1)
            if np.array_equal(now, survives[defined]):
                break
            survives[defined] = now
        return survives

    # -- the three equations ---------------------------------------------------------------------

    def pin(self, g: Ids, reason: Reason) -> bool:
        """Pin every factor of `g`; return whether anything was free until now."""
        free = distinct(self.normal(g))
        free = free[free > 0]
        if not len(free):
            return False
        if reason not in self._codes:
            self._codes[reason] = len(self.reasons)
            self.reasons.append(reason)
        self._pinned[free], self._marked[free] = self._codes[reason], True
        self._normals.clear()
        return True

    def unify(self, a: Ids, b: Ids, reason: Reason) -> None:
        """Make the guards `a` and `b`, both of `n` rows, equal; pin with `reason` what resists.

        Raises ValueError where the row counts differ.
        """
        if len(a) != len(b):
            raise ValueError(f"{reason}: {len(a)} indices meet {len(b)}")
        while True:
            a, b = cancel(self.normal(a), self.normal(b))
            if not len(a):
                return
            n_a, n_b = (a > 0).sum(axis=1), (b > 0).sum(axis=1)
            if (bare := (n_a == 0) | (n_b == 0)).any():
                self.pin(a[bare], reason)
                self.pin(b[bare], reason)
            elif (pair := (n_a == 1) & (n_b == 1)).any():
                self._union(a[pair, 0], b[pair, 0])
                if pair.all():
                    return
            elif (one := n_a == 1).any():
                self._define(a[one, 0], b[one])
            elif (one := n_b == 1).any():
                self._define(b[one, 0], a[one])
            else:
                self._match(a, b, n_a, n_b, reason)

    def split(
        self, g: Ids, sizes: Sequence[int], fixed: Sequence[bool], reason: Reason
    ) -> list[Ids]:
        """Factor the guard of a split axis: one guard array an axis of `sizes` (row-major).

        New factor variables are invented, and `g` is defined by their conjunction; an axis that is
        `fixed` (a symbolic size) or of size 1 gets none.
        """
        large = [i for i, size in enumerate(sizes) if size != 1]
        g = self.normal(g)
        if not g.shape[1]:
            return [true(size) for size in sizes]
        if len(large) == 1 and not fixed[large[0]]:
            return [g if i == large[0] else true(size) for i, size in enumerate(sizes)]
        if (found := factors(g, sizes, fixed)) is not None:
            return found  # it was merged of just these
        parts = [
            true(size) if size == 1 or fix else self.fresh(size)
            for size, fix in zip(sizes, fixed, strict=True)
        ]
        self.unify(g, outer(parts), reason)
        return [self.normal(part) for part in parts]

    def _union(self, x: Ids, y: Ids) -> None:
        self._normals.clear()
        both, n = self.find(np.concatenate([x, y])), len(x)
        ids = distinct(both)
        if len(ids) == 2 * n:  # pairs that no other pair meets
            self._parent[np.maximum(both[:n], both[n:])] = np.minimum(both[:n], both[n:])
            return
        self._parent[ids] = joined(ids, both[:n], both[n:])

    def _define(self, x: Ids, rows: Ids) -> None:
        """Define each `x` by its row; what is repeated or circular waits for the next round."""
        self._normals.clear()
        x, first = np.unique(x, return_index=True)
        rows = rows[first]
        ready: Mask = np.logical_not(np.isin(rows, x).any(axis=1))
        if not ready.any():
            ready[0] = True  # one definition over free variables is never circular
        x, rows = x[ready], rows[ready]
        end = self._n_definitions + len(x)
        height, width = self._definitions.shape
        if end > height or rows.shape[1] > width:
            grow = (max(end, 2 * height) - height if end > height else 0, rows.shape[1] - width)
            self._definitions = np.pad(self._definitions, ((0, grow[0]), (0, max(0, grow[1]))))
        new = np.arange(self._n_definitions, end)
        self._definitions[new, : rows.shape[1]] = rows
        self._defined[x], self._marked[x] = new, True
        self._n_definitions = end

    # -- matching conjunctions of several factors ------------------------------------------------

    def _match(self, a: Ids, b: Ids, n_a: Ids, n_b: Ids, reason: Reason) -> None:
        """Relate the columns of `a` and `b` by how they partition the rows, one group at a time.

        Equal partitions are united; two that refine each other crosswise (12×64 against 24×32) get
        their common refinement; a finer column absorbs the coarser ones that it meets; what is left
        is pinned.
        """
        shape = n_a * (int(n_b.max()) + 1) + n_b
        group = shape == shape[0]
        a, b = a[group][:, : n_a[0]], b[group][:, : n_b[0]]
        labels_a = [np.unique(column, return_inverse=True)[1] for column in a.T]
        labels_b = [np.unique(column, return_inverse=True)[1] for column in b.T]
        finer_a, finer_b = relate(labels_a, labels_b)
        equal = finer_a & finer_b
        if equal.any():
            for i, j in pair_up(equal):
                self._union(a[:, i], b[:, j])
            return
        if (found := crosswise(labels_a, labels_b, finer_a, finer_b)) is not None:
            (i, j), (k, m), rank = found  # both get the factor that neither has
            common = self.fresh(int(rank.max()) + 1)[rank]
            self._define(a[:, i], np.hstack([b[:, [j]], common]))
            return self._define(b[:, m], np.hstack([a[:, [k]], common]))
        classes = [int(label.max()) for label in (*labels_a, *labels_b)]
        for k in np.argsort(classes)[::-1]:  # the finest column absorbs first
            i, j = int(k), int(k) - len(labels_a)
            if j < 0 and finer_a[i].any():
                return self._define(a[:, i], b[:, finer_a[i]])
            if j >= 0 and finer_b[:, j].any():
                return self._define(b[:, j], a[:, finer_b[:, j]])
        self.pin(a, reason)
        self.pin(b, reason)
