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

import numpy as np

from fxprune.guards.conjunctions import (
    Ids,
    Mask,
    cancel,
    concat,
    crosswise,
    distinct,
    factors,
    joined,
    numbered,
    outer,
    pair_up,
    relate,
    true,
)
from fxprune.guards.variables import Reason, Variables

__all__ = ["Guards", "Ids", "Mask", "Reason", "concat", "distinct", "numbered", "outer", "true"]


class Guards(Variables):
    """Solve equalities between guards over variables."""

    # -- the three equations ---------------------------------------------------------------------

    def pin(self, g: Ids, reason: Reason) -> bool:
        """Pin every factor of `g`; return whether anything was free until now."""
        free = self.normal(g)
        if not free.any():
            return False
        if reason not in self._codes:
            self._codes[reason] = len(self.reasons)
            self.reasons.append(reason)
        self._changes += 1
        self._pinned[free], self._free[free] = self._codes[reason], False
        self._pinned[0], self._free[0] = 1, True
        return True

    def unify(self, a: Ids, b: Ids, reason: Reason) -> None:
        """Make the guards `a` and `b`, both of `n` rows, equal; pin with `reason` what resists.

        Raises ValueError where the row counts differ.
        """
        if len(a) != len(b):
            raise ValueError(f"{reason}: {len(a)} indices meet {len(b)}")
        a, b = self.normal(a), self.normal(b)
        if a is b or self._adopted(a, b) or self._adopted(b, a):
            return
        while True:
            a, b = cancel(a, b)
            if not len(a):
                return
            n_a, n_b = (a > 0).sum(axis=1), (b > 0).sum(axis=1)
            if (bare := (n_a == 0) | (n_b == 0)).any():
                self.pin(a[bare], reason)
                self.pin(b[bare], reason)
            elif (pair := (n_a == 1) & (n_b == 1)).any():
                if pair.all():
                    return self._union(a[:, 0], b[:, 0])
                self._union(a[pair, 0], b[pair, 0])
            elif (one := n_a == 1).any():
                self._define(a[one, 0], b[one])
            elif (one := n_b == 1).any():
                self._define(b[one, 0], a[one])
            else:
                self._match(a, b, n_a, n_b, reason)
            a, b = self._normalised(a), self._normalised(b)

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

    def _adopted(self, a: Ids, b: Ids) -> bool:
        """Let normal `a` stand for `b` where that is a run of fresh variables, none of them in `a`.

        The variables of a conjunction are all there is of it then: no row of `a` has padding.
        """
        start, end = self._runs.get(id(b), -1), self._runs.get(id(b), -1) + len(b)
        if start < 0 or not a.size or a.min() < 1:
            return False
        before = a.max() < start
        if a.shape[1] == 1 and before:  # the older variable represents a class
            self._parent[start:end] = a[:, 0]
        elif a.shape[1] > 1 and (before or a.min() >= end):
            self._defined[start:end] = self._add_definitions(a)
        else:
            return False
        self._changes += 1
        self._free[start:end] = False
        self._normals[id(b)] = b, a, self._changes
        return True

    def _union(self, x: Ids, y: Ids) -> None:
        self._changes += 1
        both, n = self.find(np.concatenate([x, y])), len(x)
        ids = distinct(both)
        if len(ids) == 2 * n:  # pairs that no other pair meets
            gone = np.maximum(both[:n], both[n:])
            self._parent[gone], self._free[gone] = np.minimum(both[:n], both[n:]), False
            return
        self._parent[ids] = root = joined(ids, both[:n], both[n:])
        self._free[ids] = root == ids

    def _define(self, x: Ids, rows: Ids) -> None:
        """Define each `x` by its row; what is repeated or circular waits for the next round."""
        self._changes += 1
        x, first = np.unique(x, return_index=True)
        rows = rows[first]
        ready: Mask = np.logical_not(np.isin(rows, x).any(axis=1))
        if not ready.any():
            ready[0] = True  # one definition over free variables is never circular
        x, rows = x[ready], rows[ready]
        self._defined[x], self._free[x] = self._add_definitions(rows), False

    def _add_definitions(self, rows: Ids) -> Ids:
        """Keep definitions, one a row, and return their places."""
        end = self._n_definitions + len(rows)
        height, width = self._definitions.shape
        if end > height or rows.shape[1] > width:
            grow = (max(end, 2 * height) - height if end > height else 0, rows.shape[1] - width)
            self._definitions = np.pad(self._definitions, ((0, grow[0]), (0, max(0, grow[1]))))
        new = np.arange(self._n_definitions, end)
        self._definitions[new, : rows.shape[1]] = rows
        self._n_definitions = end
        return new

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
        labels_a = [numbered(column)[1] for column in a.T]
        labels_b = [numbered(column)[1] for column in b.T]
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
