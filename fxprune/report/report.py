"""The report of a pruning: what it cost before and after, what was removed, what is pinned, why."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fxprune.cost import Costs, Counts, OriginalWidths
from fxprune.errors import FileError, PassError
from fxprune.files import atomic_write
from fxprune.plan import Plan, TargetPlan
from fxprune.program import Program, Shrunk
from fxprune.report.html_page import page_of
from fxprune.report.picture import Picture
from fxprune.report.report_tables import pinned_lines, report_html, targets_text
from fxprune.report.tuning import Tuning
from fxprune.surgery.repair import RepairReport
from fxprune.targets import Pinned


@dataclass(frozen=True)
class Step:
    """Hold one step of a schedule: the share of the objective asked and achieved, of the original.

    `score` is what the caller's evaluator said after fine-tuning, where there is one.
    """

    step: int
    goal: float
    achieved: float
    score: float | None = None

    def __str__(self) -> str:
        said = "" if self.score is None else f", score {self.score:.4g}"
        return f"{self.step}: asked {self.goal:.4f}, achieved {self.achieved:.4f}{said}"


@dataclass(frozen=True)
class LatencyReport:
    """Hold what was requested, predicted and measured on a device, in milliseconds of one batch.

    `ratio` is measured over original, timed in turn in one process; `low` and `high` are the middle
    half of the measured times, and `met` says that the ratio is within 3 % of what was asked.
    """

    requested: float
    predicted: float
    measured: float
    original: float
    ratio: float
    low: float
    high: float
    met: bool
    device: str
    threads: int
    batch: int

    def __str__(self) -> str:
        said = "met" if self.met else "NOT MET"
        return (
            f"latency on {self.device}, {self.threads} thread{'s' * (self.threads != 1)}, batch "
            f"{self.batch}: requested {self.requested:.3g} ms, predicted {self.predicted:.3g}, "
            f"measured {self.measured:.3g} ({self.low:.3g} to {self.high:.3g}), {self.ratio:.3f} "
            f"of the original: {said}"
        )


@dataclass(frozen=True)
class Report(Counts):
    """Hold counts of parameters, multiply-accumulates for one example, and bytes of all tensors.

    `masked` of the parameters are kept at zero by masks. `activation_bytes` are the peak of
    activations that are alive at once, for one example.
    """

    coverage: float
    targets: tuple[TargetPlan, ...]
    pinned: tuple[Pinned, ...]
    notes: tuple[str, ...]
    seconds: dict[str, float]
    steps: tuple[Step, ...] = ()
    zeros_before: int = 0  # parameters that were zero, where zeros were turned into speed
    zeros_after: int = 0  # those that are left, which save neither time nor memory
    latency: LatencyReport | None = None
    repair: RepairReport | None = None  # of the last step
    axes: tuple[str, ...] = ()  # which axes of the inputs are free, and why others are fixed
    tunings: tuple[Tuning, ...] = ()  # by `fxprune.FineTune`, in the order of the calls
    picture: Picture | None = field(default=None, repr=False, compare=False)  # for `to_html`

    @classmethod
    def of(
        cls,
        program: Program,
        steps: Sequence[Step] = (),
        latency: LatencyReport | None = None,
        tunings: Sequence[Tuning] = (),
    ) -> Report:
        """Read the report off a program that has been allocated."""
        if Plan not in program:
            raise PassError("report: needs a program that is planned; put allocate before it")
        plan, costs = program[Plan], program[Costs]
        # what is true of the original, not of the model after a step
        discovery = program[OriginalWidths].discovery
        cut = [target for target in plan.targets if target.kept < target.units]
        loose = [target.name for target in cut if not target.exact]
        notes = list(program.notes)
        if Shrunk not in program:
            costs = costs.unchanged()
            notes.append("nothing was removed: no shrink pass has run")
        if costs.masked:
            notes.append(
                "masked weights are zeros in a dense tensor: they make neither the file nor a run "
                "on a CPU smaller; fxprune.speedup removes the units that they leave dead"
            )
        if loose:
            some = ", ".join(loose[:3]) + (", …" if len(loose) > 3 else "")
            notes.append(
                f"{len(loose)} of {len(cut)} pruned targets are approximate ({some}): their "
                "removal differs from zeroing their weights; exact = true does not prune them"
            )
        return cls(
            **asdict(costs),
            coverage=discovery.coverage,
            targets=plan.targets,
            pinned=discovery.pinned,
            notes=tuple(notes),
            seconds=dict(program.seconds),
            steps=tuple(steps),
            latency=latency,
            repair=program.get(RepairReport),
            tunings=tuple(tunings),
            axes=tuple(program.signature.lines()),
            picture=Picture.of(program, timed=latency is not None),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, without what only `to_html` shows."""
        data = asdict(replace(self, picture=None))
        del data["picture"]
        return data

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Return the report that `to_json` wrote; raises FileError for another text."""
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            raise FileError(f"report: not one that fxprune wrote: {_first(error)}") from error

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the report as a page of HTML that needs nothing else; write it where asked.

        Raises FileError where it cannot be written.
        """
        page = page_of(self.to_dict(), self.picture)
        if path is not None:
            with atomic_write(Path(path)) as place:
                place.write_text(page, encoding="utf-8")
        return page

    def plot(self, figure: str, path: str | os.PathLike[str]) -> None:
        """Draw a figure for a paper: widths, scores, curves, repair, latency or time.

        It is SVG, PNG or PDF, as the name says. Raises SpecError for another figure, and FileError
        where there is nothing to show in it, or without matplotlib.
        """
        from fxprune.report.figures import draw

        draw(self, figure, path)

    def _repr_html_(self) -> str:
        return report_html(self, str(self))

    def _zeros(self) -> str:
        """Say how many zeros were removed with dead units, and how many are left."""
        gone = max(0, self.zeros_before - self.zeros_after)
        return (
            f"{self.zeros_before:,} parameters were zero: {gone:,} "
            f"({gone / self.zeros_before:.1%}) were removed with dead units, and "
            f"{self.zeros_after:,} are left in dense tensors, where they save no time and no memory"
        )

    def __str__(self) -> str:
        lines = [f"{'':<18}{'before':>16}{'after':>16}{'kept':>9}"]
        for name in ("parameters", "macs", "bytes", "activation_bytes"):
            before = getattr(self, f"{name}_before")
            after = getattr(self, f"{name}_after")
            share = after / before if before else 1.0
            lines.append(f"{name.replace('_', ' '):<18}{before:>16,}{after:>16,}{share:>9.1%}")
        lines.append(f"{self.coverage:.1%} of the parameters lie in at least one prunable unit")
        if self.latency is not None:
            lines.append(str(self.latency))
        if self.masked:
            share = self.masked / (self.parameters_after or 1)
            lines.append(f"{self.masked:,} of the parameters left are masked ({share:.1%})")
        if self.zeros_before:
            lines.append(self._zeros())
        if len(self.steps) > 1:
            lines.append("steps, of the original:")
            lines += [f"  {step}" for step in self.steps]
        if self.repair is not None:
            lines.append(str(self.repair))
        lines += map(str, self.tunings)
        if self.targets:
            lines += ["", targets_text(self.targets), ""]
        if self.pinned:
            lines.append("what is pinned, and why:")
            lines += [f"  {line}" for line in pinned_lines(self.pinned)]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


def _first(error: ValidationError) -> str:
    """Say where the first fault is, and what it is."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the text'}: {first['msg']}"
