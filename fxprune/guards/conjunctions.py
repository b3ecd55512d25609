"""Arrays of conjunctions, without a solver: put together, packed, compared by how they partition.

`Ids` has shape `[n, factors]`: row `i` is a conjunction of variables, 0 is *true* and pads.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Ids: TypeAlias = NDArray[np.int64]
Mask: TypeAlias = NDArray[np.bool_]


def true(n: int) -> Ids:
    """Return the guard of a dimension of `n` indices that never change, shape `[n, 0]`."""
    return np.empty((n, 0), dtype=np.int64)


def outer(parts: Sequence[Ids]) -> Ids:
    """Return the guard of a merged (row-major flattened) axis: `[Πn, Σfactors]`.

    >>> outer([np.array([[1], [2]]), np.array([[3], [4], [5]])]).tolist()
    [[1, 3], [1, 4], [1, 5], [2, 3], [2, 4], [2, 5]]
    """
    if len(parts) > 1:
        parts = [part for part in parts if len(part) != 1 or part.shape[1]] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    sizes = [len(part) for part in parts]
    total = prod(sizes)
    columns: list[Ids] = []
    inner = total
    for part, size in zip(parts, sizes, strict=True):
        inner = inner // size if size else 0
        if part.shape[1]:
            spread = np.repeat(part, inner, axis=0)
            columns.append(np.tile(spread, (total // max(1, len(spread)), 1)))
    return np.hstack(columns) if columns else true(total)


def distinct(ids: Ids) -> Ids:
    """Return the distinct values in order.

    Ids come in runs, which a stable sort is quick to merge; `np.unique` hashes or sorts them.

    >>> distinct(np.array([[3, 1], [1, 2]])).tolist()
    [1, 2, 3]
    """
    ids = np.sort(ids, axis=None, kind="stable")
    return ids[_firsts(ids)]


def numbered(ids: Ids) -> tuple[Ids, Ids]:
    """Return the distinct values in order, and of each of `ids`, `[n]`, its place among them.

    >>> [one.tolist() for one in numbered(np.array([7, 3, 7]))]
    [[3, 7], [1, 0, 1]]
    """
    order = np.argsort(ids, kind="stable")
    first = _firsts(ids[order])
    place = np.empty(len(ids), dtype=np.int64)
    place[order] = np.cumsum(first) - 1
    return ids[order[first]], place


def _firsts(ids: Ids) -> Mask:
    """Return which of some sorted values differ from the one before."""
    first = np.ones(len(ids), dtype=bool)
    np.not_equal(ids[1:], ids[:-1], out=first[1:])
    return first


def concat(parts: Sequence[Ids]) -> Ids:
    """Return the guard of a concatenated axis: rows one after another, padded with *true*."""
    width = max((part.shape[1] for part in parts), default=0)
    padded = [np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts]
    return np.vstack(padded) if padded else true(0)


def pack(g: Ids) -> Ids:
    """Drop repeats within a row, move the rest of each row to the left, drop empty columns."""
    if g.shape[1] == 1:
        return g
    g = g.copy()
    for j in range(1, g.shape[1]):
        g[(g[:, :j] == g[:, [j]]).any(axis=1), j] = 0
    if (g == 0).any():
        order = np.argsort(g == 0, axis=1, kind="stable")
        g = np.take_along_axis(g, order, axis=1)
    return g[:, g.any(axis=0)]


def expanded(g: Ids, rows: Ids, definitions: Ids) -> Ids:
    """Return `g` with its variables replaced by their definitions, `rows` of those, or 0."""
    columns: list[Ids] = []
    for column, row in zip(g.T, rows.T, strict=True):
        block = np.zeros((len(g), definitions.shape[1]), dtype=np.int64)
        block[:, 0] = column
        has = row > 0
        block[has] = definitions[row[has]]
        columns.append(block[:, block.any(axis=0)])
    return np.hstack(columns)


def grown(array: Any, size: int) -> Any:
    """Return an array with room for more, zero."""
    larger = np.zeros(size, array.dtype)
    larger[: len(array)] = array
    return larger


def joined(ids: Ids, x: Ids, y: Ids) -> Ids:
    """Return for each of the sorted `ids` the least of those that the pairs of x and y join it to.

    >>> joined(np.array([1, 3, 4, 7]), np.array([7, 4]), np.array([3, 4])).tolist()
    [1, 3, 4, 3]
    """
    places, n = (np.searchsorted(ids, x), np.searchsorted(ids, y)), len(ids)
    edges = coo_array((np.ones(len(x), dtype=bool), places), (n, n))
    _, label = connected_components(edges, directed=False)
    _, first = np.unique(label, return_index=True)
    return np.asarray(ids[first][label])


def alike(a: Ids, b: Ids) -> bool:
    """Tell whether two arrays of one shape are equal: comparing bytes is quick for so few."""
    return a.tobytes() == b.tobytes()


def cancel(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    """Drop the rows that are equal as sets, and from the others the factors of both sides."""
    if a.shape == b.shape and alike(a, b):
        return a[:0], b[:0]
    if a.shape[1] == b.shape[1] == 1:
        unequal = a[:, 0] != b[:, 0]
        return a[unequal], b[unequal]
    both_a = (a[:, :, None] == b[:, None, :]).any(axis=2)
    both_b = (b[:, :, None] == a[:, None, :]).any(axis=2)
    a, b = np.where(both_a, 0, a), np.where(both_b, 0, b)
    open_ = a.any(axis=1) | b.any(axis=1)
    return _packed(a[open_]), _packed(b[open_])


def _packed(g: Ids) -> Ids:
    return pack(g) if g.shape[1] else g


def factors(g: Ids, sizes: Sequence[int], fixed: Sequence[bool]) -> list[Ids] | None:
    """Return the axes whose outer product `g` is: None where a column is not along just one.

    An axis that is `fixed` has no column, and every other one has some, but for those of size 1.

    >>> merged = np.array([[1, 3], [1, 4], [2, 3], [2, 4]])
    >>> [part.tolist() for part in factors(merged, (2, 2), (False, False))]
    [[[1], [2]], [[3], [4]]]
    """
    along: list[list[Ids]] = [[] for _ in sizes]
    for column in g.T:
        block = column.reshape(tuple(sizes))
        axes = [d for d, n in enumerate(sizes) if n > 1 and (block != block.take([0], d)).any()]
        if len(axes) != 1:
            return None
        along[axes[0]].append(np.moveaxis(block, axes[0], 0).reshape(sizes[axes[0]], -1)[:, 0])
    bare = [n == 1 or fix for n, fix in zip(sizes, fixed, strict=True)]
    if any(bool(columns) is none for columns, none in zip(along, bare, strict=True)):
        return None
    return [pack(np.stack(c, axis=1)) if c else true(n) for c, n in zip(along, sizes, strict=True)]


def relate(labels_a: list[Ids], labels_b: list[Ids]) -> tuple[Mask, Mask]:
    """Return `[A, B]` masks: column i of a is as fine as j of b or finer; and the other way."""
    finer_a = np.zeros((len(labels_a), len(labels_b)), dtype=bool)
    finer_b = np.zeros_like(finer_a)
    for i, la in enumerate(labels_a):
        for j, lb in enumerate(labels_b):
            n_a, n_b = int(la.max()) + 1, int(lb.max()) + 1
            pairs = len(distinct(la * n_b + lb))
            finer_a[i, j], finer_b[i, j] = pairs == n_a, pairs == n_b
    return finer_a, finer_b


def pair_up(equal: Mask) -> list[tuple[int, int]]:
    """Choose pairs of columns with equal partitions, the same place first, each column once."""
    pairs: list[tuple[int, int]] = []
    places = sorted(map(tuple, np.argwhere(equal).tolist()), key=lambda p: (p[0] != p[1], p))
    for i, j in places:
        if all(i != p and j != q for p, q in pairs):
            pairs.append((i, j))
    return pairs


def rank_within(fine: Ids, coarse: Ids) -> Ids:
    """Return for each row the rank of its fine class among those of its coarse class."""
    key, inverse = numbered(coarse * (int(fine.max()) + 1) + fine)
    owner = key // (int(fine.max()) + 1)
    start = np.searchsorted(owner, owner)
    return np.asarray(np.arange(len(key)) - start)[inverse]


def same(x: Ids, y: Ids) -> bool:
    """Return whether two label arrays partition the rows alike."""
    return len(distinct(x)) == len(distinct(y)) == len(distinct(x * (int(y.max()) + 1) + y))


def crosswise(
    labels_a: list[Ids], labels_b: list[Ids], finer_a: Mask, finer_b: Mask
) -> tuple[tuple[int, int], tuple[int, int], Ids] | None:
    """Find columns finer than one another crosswise by the same factor, and its rank in each row.

    The pairs are (i, j), column i of a finer than j of b, and (k, m), column m of b than k of a.
    """
    for i, j in np.argwhere(finer_a).tolist():
        for k, m in np.argwhere(finer_b).tolist():
            if i == k or j == m:
                continue
            rank = rank_within(labels_a[i], labels_b[j])
            if rank.max() > 0 and same(rank, rank_within(labels_b[m], labels_a[k])):
                return (i, j), (k, m), rank
    return None
