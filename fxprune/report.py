"""The report of a pruning: what it cost before and after, what went, what stayed and why."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from fxprune.errors import PassError
from fxprune.plan import TargetPlan
from fxprune.program import Program
from fxprune.targets import Pinned


@dataclass(frozen=True)
class Report:
    """Hold counts of parameters, multiply-accumulates for one example, and bytes of all tensors."""

    parameters_before: int
    parameters_after: int
    macs_before: int
    macs_after: int
    bytes_before: int
    bytes_after: int
    coverage: float
    targets: tuple[TargetPlan, ...]
    pinned: tuple[Pinned, ...]
    notes: tuple[str, ...]
    seconds: dict[str, float]

    @classmethod
    def of(cls, program: Program) -> Report:
        """Read the report off a program that has been allocated."""
        if program.plan is None or program.discovery is None:
            raise PassError("report: needs a program that is planned; put allocate before it")
        plan, discovery = program.plan, program.discovery
        cut = [target for target in plan.targets if target.kept < target.units]
        loose = [target.name for target in cut if not target.exact]
        notes, costs = list(program.notes), dict(program.costs)
        if "shrunk" not in program.facts:
            after = {name: costs[name] for name in costs if name.endswith("_before")}
            costs |= {name.replace("_before", "_after"): cost for name, cost in after.items()}
            notes.append("nothing was removed: no shrink pass has run")
        if loose:
            some = ", ".join(loose[:3]) + (", …" if len(loose) > 3 else "")
            notes.append(
                f"{len(loose)} of {len(cut)} pruned targets are approximate ({some}): their "
                "removal differs from zeroing their weights; exact = true leaves them whole"
            )
        return cls(
            **costs,
            coverage=discovery.coverage,
            targets=plan.targets,
            pinned=discovery.pinned,
            notes=tuple(notes),
            seconds=dict(program.seconds),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Return the report that `to_json` wrote."""
        data = json.loads(text)
        data["targets"] = tuple(TargetPlan(**one) for one in data["targets"])
        data["pinned"] = tuple(Pinned(**one) for one in data["pinned"])
        data["notes"] = tuple(data["notes"])
        return cls(**data)

    def __str__(self) -> str:
        lines = [f"{'':<12}{'before':>16}{'after':>16}{'kept':>9}"]
        for name in ("parameters", "macs", "bytes"):
            before = getattr(self, f"{name}_before")
            after = getattr(self, f"{name}_after")
            share = after / before if before else 1.0
            lines.append(f"{name:<12}{before:>16,}{after:>16,}{share:>9.1%}")
        lines.append(f"{self.coverage:.1%} of the parameters lie in at least one prunable unit")
        lines.append("targets:")
        for target in self.targets:
            mark = "" if target.exact else "  (approximate)"
            lines.append(f"  {target.name}: {target.kept} of {target.units} kept{mark}")
        if self.pinned:
            lines.append("what stays, and why:")
            lines += [f"  {pinned}" for pinned in self.pinned]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)
