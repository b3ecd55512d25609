"""Keep-variables: their classes, definitions and pins, and what an array of them amounts to."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxprune.guards.conjunctions import Ids, Mask, alike, expanded, grown, pack, true


class Reason(NamedTuple):
    """Say why variables are pinned: the node of the graph, and the fact about it."""

    node: str
    text: str

    def __str__(self) -> str:
        return f"{self.node}: {self.text}"


class Variables:
    """Hold variables: which represents which, which are defined by others, which are pinned.

    A normal form is kept with the array that it is of, and is true until one of its variables stops
    being a free representative. So after a change it is checked and updated, not computed again,
    and arrays that share one form share the next.
    """

    def __init__(self) -> None:
        self.size = 1  # the id 0 is *true*
        self.reasons: list[Reason] = [Reason("", "free"), Reason("", "true")]
        self._codes: dict[Reason, int] = {}
        self._parent: Ids = np.zeros(1024, dtype=np.int64)
        self._pinned: Ids = np.zeros(1024, dtype=np.int64)
        self._pinned[0] = 1
        self._free: Mask = self._pinned > 0  # what a normal form holds: free roots, and *true*
        self._defined: Ids = np.zeros(1024, dtype=np.int64)  # the row of a definition, or 0
        self._definitions: Ids = np.zeros((256, 2), dtype=np.int64)
        self._n_definitions = 1
        self._changes = 0  # how often an equation changed anything
        # id -> the array, kept alive, its form, and the number of changes when that was true
        self._normals: dict[int, tuple[Ids, Ids, int]] = {}
        self._runs: dict[int, int] = {}  # id of an array of fresh variables -> the first of them

    def fresh(self, n: int) -> Ids:
        """Return `n` new variables as a guard array of shape `[n, 1]`."""
        start, self.size = self.size, self.size + n
        if self.size > len(self._parent):
            room = max(self.size, len(self._parent) * (8 if self.size < 1 << 20 else 3) // 2)
            self._parent = grown(self._parent, room)
            self._pinned = grown(self._pinned, room)
            self._defined = grown(self._defined, room)
            self._free = grown(self._free, room)
        ids = np.arange(start, self.size, dtype=np.int64)
        self._parent[start : self.size], self._free[start : self.size] = ids, True
        g = ids[:, None]
        self._normals[id(g)], self._runs[id(g)] = (g, g, self._changes), start
        return g

    def find(self, ids: Ids) -> Ids:
        """Return the representative of each variable's class, shape of `ids`."""
        root = self._parent[ids]
        up = self._parent[root]
        if alike(up, root):
            return root
        while not alike(up, root):
            root, up = up, self._parent[up]
        self._parent[ids] = root
        return root

    def why(self, g: Ids) -> list[Reason]:
        """Return for each row of `g` a reason why it is pinned, following definitions."""
        if not g.shape[1]:
            return []
        g = self.find(g[:, 0])
        while (rows := self._defined[g]).any():
            g = self.find(np.where(rows > 0, self._definitions[rows, 0], g))
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
        while (rows := self._defined[g]).any():
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
        """Return `g` over free representatives: definitions expanded, pins and repeats removed.

        Columns keep their order, and rows are packed to the left. Both arrays are for reading: the
        result is kept until an equation changes anything.
        """
        if not g.shape[1]:
            return g
        known = self._normals.get(id(g))
        if known is None:
            form = self._normalised(g)
        elif known[2] == self._changes:
            return known[1]
        elif known[1] is not g:
            form = self.normal(known[1])  # that of all arrays that had it
        else:
            form = g if self._free[g].all() else self._normalised(g)
        self._normals[id(g)] = g, form, self._changes
        return form

    def _normalised(self, g: Ids) -> Ids:
        while True:
            g = self.find(g)
            if self._free[g].all():
                return pack(g)
            g = np.where(self._pinned[g] > 0, 0, g)
            if not g.any():
                return true(len(g))
            rows = self._defined[g]
            if not rows.any():
                return pack(g)
            g = expanded(g, rows, self._definitions)
