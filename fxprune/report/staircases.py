"""How long each family of kernels takes over its widths: the staircases that a latency climbs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # what makes these has loaded ONNX; a picture without a latency does not
    from fxprune.latency import KernelModel
    from fxprune.latency.kernels.tables import Table

MOST = 40  # families shown: those that take the most time
POINTS = 96  # of a staircase


@dataclass(frozen=True)
class Staircase:
    """Hold the microseconds of a kernel over one of its widths, the others being as they were.

    `before` and `after` are that width, and `times` says how often the family stands in the graph.
    """

    kernel: str
    axis: int
    widths: tuple[int, ...]
    microseconds: tuple[float, ...]
    step: int
    before: int
    after: int
    times: int


def staircases(model: KernelModel, alive: Any) -> tuple[Staircase, ...]:
    """Return the staircases of the families that take the most time, the longest first."""
    before = [len(guard) for guard in model.axes]
    after = [int(alive[guard].all(axis=1).sum()) for guard in model.axes]
    families: dict[str, list[Table]] = {}
    for table in model.tables:
        if table.grid and table.group.axes:
            families.setdefault(table.group.family, []).append(table)

    def spent(tables: list[Table]) -> float:
        return sum(float(t.at([before[a] for a in t.group.axes])) for t in tables)

    longest = sorted(families.values(), key=spent, reverse=True)[:MOST]
    found = []
    for tables in longest:
        widest = max(tables, key=lambda t: [before[a] for a in t.group.axes])
        found += [
            _staircase(widest, place, before, after, len(tables))
            for place in range(len(widest.group.axes))
        ]
    return tuple(found)


def _staircase(
    table: Table, place: int, before: list[int], after: list[int], times: int
) -> Staircase:
    axes = table.group.axes
    top = before[axes[place]]
    step = max(1, -(-top // POINTS))
    widths = sorted({*range(step, top + 1, step), after[axes[place]] or 1, top})
    given: list[Any] = [np.full(len(widths), before[axis]) for axis in axes]
    given[place] = np.array(widths)
    spent = tuple(float(f"{float(us):.4g}") for us in table.at(given))
    ends = top, after[axes[place]]
    stairs = table.stairs[place].step if place < len(table.stairs) else 1
    return Staircase(table.group.about, place, tuple(widths), spent, stairs, *ends, times)
