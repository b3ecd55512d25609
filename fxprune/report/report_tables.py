"""What a report says, as tables: of targets as text, and of everything for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fxprune.files.tables import as_html, as_notes, as_text, bar
from fxprune.plan import TargetPlan
from fxprune.targets import Pinned

HEADINGS = ("target", "kind", "units", "kept", "", "")
NUMBERS = ("units", "kept")
NAMED = 3  # axes that are named of those pinned for one reason
COSTS = ("parameters", "macs", "bytes", "activation_bytes")


class Reported(Protocol):
    """Hold what the tables show of a report."""

    @property
    def targets(self) -> tuple[TargetPlan, ...]: ...
    @property
    def pinned(self) -> tuple[Pinned, ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...


def pinned_lines(pinned: Sequence[Pinned]) -> list[str]:
    """Return a line for each reason, at the first axis that it holds; some axes are named."""
    by_reason: dict[str, list[str]] = {}
    for one in pinned:
        by_reason.setdefault(one.why, []).append(one.unit)
    lines = []
    for why, units in by_reason.items():
        named, more = ", ".join(units[:NAMED]), len(units) - NAMED
        listed = f"{named} and {more} more" if more > 0 else named
        lines.append(f"{listed} {'is' if len(units) == 1 else 'are'} pinned: {why}")
    return lines


def target_rows(targets: Sequence[TargetPlan]) -> list[tuple[str, ...]]:
    """Return a row for each target: how many of its units were kept, as a number and a bar."""
    return [
        (
            one.name,
            one.kind,
            str(one.units),
            str(one.kept),
            bar(one.kept / one.units if one.units else 1.0),
            "" if one.exact else "approximate",
        )
        for one in targets
    ]


def targets_text(targets: Sequence[TargetPlan]) -> str:
    """Return the table of targets as text."""
    return as_text(HEADINGS, target_rows(targets), NUMBERS)


def report_html(report: Reported, text: str) -> str:
    """Return a report for a notebook: costs, targets, and the rest of its text folded."""
    rows = []
    for name in COSTS:
        before, after = getattr(report, f"{name}_before"), getattr(report, f"{name}_after")
        share = after / before if before else 1.0
        cells = (f"{before:,}", f"{after:,}", f"{share:.1%}", bar(share))
        rows.append((name.replace("_", " "), *cells))
    costs = as_html(("", "before", "after", "kept", ""), rows, ("before", "after", "kept"))
    targets = as_html(HEADINGS, target_rows(report.targets), NUMBERS)
    pinned = as_notes(pinned_lines(report.pinned))
    folded = f"<details><summary>{len(report.pinned)} pinned axes</summary>{pinned}</details>"
    listed = f"<details><summary>{len(report.targets)} targets</summary>{targets}</details>"
    return costs + listed + folded + as_notes(f"note: {note}" for note in report.notes)
