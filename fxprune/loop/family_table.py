"""A family: its members, a row of numbers each, and which of them are on the Pareto front."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from fxprune.files import atomic_write
from fxprune.files.tables import as_html, as_notes
from fxprune.report import LatencyReport
from fxprune.report.html_page import page_of_family
from fxprune.surgery import SlimModule


@dataclass(frozen=True)
class Row:
    """Hold the goal, result, cost and value of a member; `goal` is None of the original.

    `achieved` is in the terms of the goal, `cost` the share of the objective that is kept, and
    `importance` the share of the scores. `ratio` is to the original's time in the same round, with
    the middle half of such ratios. `requested` and `predicted` milliseconds, and whether they were
    `met` when the member was made, are of a latency as the objective.
    """

    goal: float | None
    achieved: float | None
    cost: float
    parameters: int
    macs: int
    bytes: int
    importance: float
    score: float | None = None
    milliseconds: float | None = None
    low: float | None = None
    high: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    requested: float | None = None
    predicted: float | None = None
    met: bool | None = None
    pareto: bool = False
    file: str | None = None

    @property
    def spent(self) -> float:
        """Return the cost: the ratio of times where they were taken, else the objective's."""
        return self.cost if self.ratio is None else self.ratio

    @property
    def worth(self) -> float:
        """Return the value: the evaluator's score where there is one, else the importance kept."""
        return self.importance if self.score is None else self.score

    def beats(self, other: Row) -> bool:
        """Tell whether its cost is no higher and its value no lower, and one of them better."""
        mine, theirs = (self.spent, -self.worth), (other.spent, -other.worth)
        return mine != theirs and mine[0] <= theirs[0] and mine[1] <= theirs[1]


@dataclass(frozen=True, eq=False)
class Member:
    """Hold the model made for one goal, with its row of the table."""

    goal: float
    module: SlimModule
    row: Row


@dataclass(frozen=True, eq=False)
class Family:
    """Hold the members of a sweep, in its order, and the original's row.

    `timed_on` says where times were taken, or nothing.
    """

    objective: str
    original: Row
    members: tuple[Member, ...]
    timed_on: str = ""

    @property
    def table(self) -> tuple[Row, ...]:
        """Return the rows: the original's, then one a member."""
        return (self.original, *(one.row for one in self.members))

    @property
    def pareto(self) -> tuple[Member, ...]:
        """Return the members that no other row beats."""
        return tuple(one for one in self.members if one.row.pareto)

    @property
    def latencies(self) -> tuple[LatencyReport | None, ...]:
        """Return what each member's report says of the latency that was asked, if one was."""
        return tuple(one.module.report.latency for one in self.members)

    def to_dict(self) -> dict[str, Any]:
        """Return the table and what its columns mean, as plain data."""
        return {
            "format": "fxprune-family-1",
            "objective": self.objective,
            "timed_on": self.timed_on or None,
            "front": {"cost": self.axes[0], "worth": self.axes[1]},
            "original": asdict(self.original),
            "members": [asdict(one.row) for one in self.members],
        }

    def to_json(self) -> str:
        """Return the table as JSON."""
        return json.dumps(self.to_dict(), indent=1)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the members and their Pareto front as a page that needs nothing else.

        It is written where asked; raises FileError where it cannot be.
        """
        spec = dict(self.members[0].module.plan.spec) if self.members else {}
        goals = ", ".join(f"{one.goal:g}" for one in self.members)
        page = page_of_family(self.to_dict(), f"{self.objective} {goals}", spec)
        if path is not None:
            with atomic_write(Path(path)) as place:
                place.write_text(page, encoding="utf-8")
        return page

    @property
    def axes(self) -> tuple[str, str]:
        """Return what the front counts as cost and as value."""
        first = self.original
        cost = f"{self.objective} kept" if first.ratio is None else "latency / original"
        return cost, "importance kept" if first.score is None else "score"

    def _repr_html_(self) -> str:
        headings = _headings(self)
        rows = [_cells(self, row) for row in self.table]
        cost, worth = self.axes
        return as_html(headings, rows, headings) + as_notes(
            [f"*: on the Pareto front of {cost} and {worth}"]
        )

    def __str__(self) -> str:
        headings, *lines = [_headings(self), *(_cells(self, row) for row in self.table)]
        widths = [max(map(len, column)) for column in zip(headings, *lines, strict=True)]
        shown = [
            "  ".join(c.rjust(w) for c, w in zip(line, widths, strict=True))
            for line in (headings, *lines)
        ]
        cost, worth = self.axes
        shown.append(f"*: on the Pareto front of {cost} and {worth}")
        if self.timed_on:
            shown.append(f"times on {self.timed_on}, all in turn; the middle half of the ratios")
        return "\n".join(shown)


def marked(family: Family) -> Family:
    """Return the family with those members marked that no other row beats."""
    rows = family.table
    members = tuple(
        replace(one, row=replace(one.row, pareto=not any(o.beats(one.row) for o in rows)))
        for one in family.members
    )
    return replace(family, members=members)


def _headings(family: Family) -> list[str]:
    first = family.original
    names = [family.objective, "achieved", "parameters", "MACs", "bytes", "importance"]
    if first.ratio is not None:
        names += ["ms", "ratio", "middle half"]
    if family.members[0].row.met is not None:
        names += ["asked ms", "met"]
    if first.score is not None:
        names += ["score"]
    return [*names, "front"]


def _cells(family: Family, row: Row) -> list[str]:
    cells = ["original" if row.goal is None else f"{row.goal:g}"]
    cells += ["" if row.achieved is None else f"{row.achieved:.4f}"]
    cells += [f"{count:,}" for count in (row.parameters, row.macs, row.bytes)]
    cells += [f"{row.importance:.4f}"]
    if row.ratio is not None:
        cells += [f"{row.milliseconds:.3f}", f"{row.ratio:.3f}"]
        cells += [f"{row.ratio_low:.3f} … {row.ratio_high:.3f}"]
    if family.members[0].row.met is not None:
        asked = "" if row.requested is None else f"{row.requested:.3f}"
        cells += [asked, {None: "", True: "yes", False: "NO"}[row.met]]
    if family.original.score is not None:
        cells += [f"{row.score:.4g}"]
    return [*cells, "*" if row.pareto else ""]
