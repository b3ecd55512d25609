"""Which targets look alike: a picture of a hundred blocks shows one of each kind, and how many."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from fxprune.targets import Discovery

ROUNDS = 3  # how far a target looks around: to the neighbours of its neighbours' neighbours


def alike(discovery: Discovery) -> tuple[int, ...]:
    """Return for each target the number of its group: those that look alike have the same.

    Targets look alike where their structures and sizes are equal, and where their neighbours look
    alike, however many these are (colour refinement, after Weisfeiler and Leman 1968). Neighbours
    are targets that share a parameter.
    """
    around = neighbours(discovery)
    first: list[Any] = [(t.structure, len(t), t.exact) for t in discovery.targets]
    colours = _numbered(first)
    for _ in range(ROUNDS):
        seen = [
            (colours[k], tuple(sorted({(colours[j], ends) for j, ends in around[k]})))
            for k in range(len(colours))
        ]
        colours = _numbered(seen)
    return tuple(colours)


def neighbours(discovery: Discovery) -> list[set[tuple[int, tuple[int, int]]]]:
    """Return for each target the others that it shares a parameter with, and of which axes."""
    held: dict[str, list[tuple[int, int]]] = {}
    for number, target in enumerate(discovery.targets):
        for name, dim in target.footprint:
            held.setdefault(name, []).append((number, dim))
    around: list[set[tuple[int, tuple[int, int]]]] = [set() for _ in discovery.targets]
    for ends in held.values():
        for mine, dim in ends:
            around[mine] |= {(other, (dim, at)) for other, at in ends if other != mine}
    return around


def _numbered(values: Sequence[Hashable]) -> list[int]:
    known: dict[Hashable, int] = {}
    return [known.setdefault(value, len(known)) for value in values]
