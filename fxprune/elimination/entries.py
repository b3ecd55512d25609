"""Rows of guards and entries of tensors: which rows are kept, and which of them are marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fxprune.guards import Ids, Mask
from fxprune.rules import Coupling, TensorGuard, Value


@dataclass(frozen=True, eq=False)
class Need:
    """Hold the rows of a normalised guard that must be kept.

    With a `refusal` what is read of them is constant, and only cannot be added back.
    """

    guard: Ids
    rows: Mask
    refusal: str = ""


def survives(alive: Mask, g: Ids, n: int | None = None) -> Mask:
    """Return which rows of a normalised guard are kept, all `n` of one without columns."""
    if not g.shape[1]:
        return np.ones(len(g) if n is None else n, dtype=bool)
    return np.asarray(alive[g].all(axis=1))


def guards_of(coupling: Coupling, value: Value) -> list[Ids]:
    """Return the normalised guards of one tensor, of anything else none."""
    dims = value.dims if isinstance(value, TensorGuard) else ()
    return [coupling.guards.normal(g) for g in dims]


def fitted(guards: list[Ids], shape: Sequence[int]) -> list[Ids]:
    """Return guards of the example for values of `shape`, which may be of fewer examples.

    Where an axis merges the batch with another, what is merged repeats with every example.
    """
    return [
        g[:n] if n < len(g) and np.array_equal(g, g[np.arange(len(g)) % n]) else g
        for g, n in zip(guards, shape, strict=True)
    ]


def rows_of(guards: list[Ids], entries: Tensor, alive: Mask, refusal: str) -> Iterator[Need]:
    """Yield for every axis the dropped rows that hold one of the entries."""
    for dim, g in enumerate(guards):
        gone = ~survives(alive, g)
        if gone.any():
            yield Need(g, gone & marked(entries, dim, g), refusal)


def marked(entries: Tensor, dim: int, g: Ids) -> Mask:
    """Return the rows of an axis that hold a marked entry: all, where rows do not tell which."""
    rows = entries.movedim(dim, 0).flatten(1) if entries.ndim > 1 else entries[:, None]
    marked = np.asarray(rows.any(dim=1).numpy())
    return marked if len(marked) == len(g) else np.full(len(g), marked.any())
