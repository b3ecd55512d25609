"""The difference of two plans: which targets lose other units, and which tensors other indices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from fxprune.files.tables import as_html, as_text
from fxprune.plan import Plan


@dataclass(frozen=True)
class TargetDifference:
    """Say how many units of a target each plan keeps; None where a plan does not know it."""

    target: str
    units: int
    first: int | None
    second: int | None


@dataclass(frozen=True)
class AxisDifference:
    """Say how many indices of an axis each plan keeps, and how many both keep."""

    axis: str
    first: int
    second: int
    both: int


HEADINGS = ("target", "units", "first keeps", "second keeps", "more")
AXIS_HEADINGS = ("axis", "first keeps", "second keeps", "both keep", "in common")


@dataclass(frozen=True)
class Difference:
    """Hold the targets and the axes of tensors that two plans treat differently."""

    targets: tuple[TargetDifference, ...]
    axes: tuple[AxisDifference, ...]
    missing: tuple[str, ...]

    @classmethod
    def of(cls, first: Plan, second: Plan) -> Difference:
        """Compare two plans."""
        before = {one.name: one for one in first.targets}
        after = {one.name: one for one in second.targets}
        targets = [
            TargetDifference(
                name,
                (before.get(name) or after[name]).units,
                before[name].kept if name in before else None,
                after[name].kept if name in after else None,
            )
            for name in dict.fromkeys([*before, *after])
        ]
        changed = tuple(one for one in targets if one.first != one.second)
        missing = tuple(sorted({*first.kept} ^ {*second.kept}))
        return cls(changed, tuple(_axes(first.kept, second.kept)), missing)

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as plain data."""
        return asdict(self)

    def __bool__(self) -> bool:
        return bool(self.targets or self.axes or self.missing)

    def __str__(self) -> str:
        if not self:
            return "the plans keep the same"
        parts: list[str] = []
        if self.targets:
            parts.append(as_text(HEADINGS, self._target_rows(), HEADINGS[1:]))
        if self.axes:
            parts.append(as_text(AXIS_HEADINGS, self._axis_rows(), AXIS_HEADINGS[1:]))
        if self.missing:
            parts.append(f"in one of the plans only: {', '.join(self.missing)}")
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        if not self:
            return str(self)
        axes = as_html(AXIS_HEADINGS, self._axis_rows(), AXIS_HEADINGS[1:])
        return as_html(HEADINGS, self._target_rows(), HEADINGS[1:]) + axes

    def _target_rows(self) -> list[tuple[str, ...]]:
        return [
            (
                one.target,
                str(one.units),
                _said(one.first),
                _said(one.second),
                f"{(one.second or 0) - (one.first or 0):+d}",
            )
            for one in self.targets
        ]

    def _axis_rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for one in self.axes:
            every = one.first + one.second - one.both
            share = f"{one.both / every:.0%}" if every else ""
            rows.append((one.axis, str(one.first), str(one.second), str(one.both), share))
        return rows


def _said(kept: int | None) -> str:
    return "–" if kept is None else str(kept)


def _axes(
    first: Mapping[str, tuple[torch.Tensor, ...]], second: Mapping[str, tuple[torch.Tensor, ...]]
) -> list[AxisDifference]:
    """Return the axes of which not the same indices are kept."""
    found: list[AxisDifference] = []
    for name in (name for name in first if name in second):
        for dim, (mine, other) in enumerate(zip(first[name], second[name], strict=False)):
            if not torch.equal(mine, other):
                both = int(torch.isin(mine, other).sum())
                found.append(AxisDifference(f"{name}:{dim}", len(mine), len(other), both))
    return found
