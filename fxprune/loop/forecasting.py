"""A forecast: what each of several specifications leaves of the accuracy, before anybody trains."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fxprune.files.tables import as_html, as_text
from fxprune.loop.caller_functions import Callbacks, Evaluate
from fxprune.loop.family import goals_of, swept
from fxprune.loop.family_table import Family, Row
from fxprune.loop.progress import Wanted
from fxprune.metrics import Loss
from fxprune.spec import Spec
from fxprune.spec.spec import RepairSpec, ScheduleSpec

HEADINGS = ("specification", "goal", "achieved", "parameters", "MACs", "error", "score")
NUMBERS = HEADINGS[1:]


@dataclass(frozen=True)
class Outlook:
    """Hold what a specification leaves at one goal, repaired and not trained.

    `error` is the squared error of the outputs on the calibration batches, relative to the
    original's outputs, where there are batches; `score` is the evaluator's, where there is one.
    """

    spec: str
    goal: float
    achieved: float
    parameters: int
    macs: int
    error: float | None = None
    score: float | None = None


@dataclass(frozen=True)
class Forecast:
    """Hold the outlooks of all specifications and goals, in their order, and what was before."""

    outlooks: tuple[Outlook, ...]
    parameters: int
    macs: int
    score: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as plain data."""
        return {"format": "fxprune-forecast-1"} | asdict(self)

    def to_json(self) -> str:
        """Return the forecast as JSON."""
        return json.dumps(self.to_dict(), indent=1)

    def _rows(self) -> list[tuple[str, ...]]:
        first = (
            "original",
            "",
            "",
            f"{self.parameters:,}",
            f"{self.macs:,}",
            "",
            _said(self.score),
        )
        return [
            first,
            *(
                (
                    *(one.spec, f"{one.goal:g}", f"{one.achieved:.4f}", f"{one.parameters:,}"),
                    *(f"{one.macs:,}", _said(one.error), _said(one.score)),
                )
                for one in self.outlooks
            ),
        ]

    def _repr_html_(self) -> str:
        return as_html(HEADINGS, self._rows(), NUMBERS)

    def __str__(self) -> str:
        return as_text(HEADINGS, self._rows(), NUMBERS)


def _said(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def forecast(
    model: Any,
    specs: Any,
    inputs: Any = None,
    *,
    sweep: Sequence[float],
    calibrate: Iterable[Any] | None = None,
    loss: Loss | None = None,
    evaluate: Evaluate | None = None,
    progress: Wanted = None,
) -> Forecast:
    """Tell what one specification or several leave at each goal of a sweep, without any training.

    Each is what `prune_family` makes in one step, repaired: by `calibrate`'s batches, or without
    any by what batch norms know. Where a specification says `repair = "none"`, as papers do, it is
    repaired all the same, and its schedule and training are left out. The better a forecast, the
    less is left for training to do; after training, ranks may change where scores are close.

    Raises what `prune_family` raises, such as SpecError for a metric that learns in training.
    """
    given = [specs] if _single(specs) else [*specs]
    calls = Callbacks.of(calibrate, loss, evaluate, progress=progress)
    read = [(_name(one, number), Spec.of(one)) for number, one in enumerate(given, start=1)]
    wanted = [(name, untrained(spec, calls)) for name, spec in read]
    goals = [goals_of(spec, sweep) for _, spec in wanted]
    outlooks: list[Outlook] = []
    family: Family | None = None
    for (name, spec), asked in zip(wanted, goals, strict=True):
        family = swept(model, spec, inputs, calls, asked, None)
        outlooks += [_outlook(name, one.row, one.module.report) for one in family.members]
    first = family.original if family is not None else Row(None, None, 1.0, 0, 0, 0, 1.0)
    return Forecast(tuple(outlooks), first.parameters, first.macs, first.score)


def untrained(spec: Spec, calls: Callbacks) -> Spec:
    """Return a specification that removes in one step, repairs, and does not train."""
    repair = spec.repair
    if repair.name in ("auto", "none"):
        repair = RepairSpec(name="auto" if calls.data.batches is not None else "means")
    changed = {"schedule": ScheduleSpec(), "repair": repair, "fine_tune": None}
    return spec.model_copy(update=changed)


def _outlook(name: str, row: Row, report: Any) -> Outlook:
    error = report.repair.after if report.repair is not None else None
    goal, achieved = float(row.goal or 0.0), float(row.achieved or 0.0)
    return Outlook(name, goal, achieved, row.parameters, row.macs, error, row.score)


def _single(specs: Any) -> bool:
    return isinstance(specs, (str, os.PathLike, Spec)) or hasattr(specs, "keys")


def _name(spec: Any, number: int) -> str:
    """Return what a specification is called: the name of its preset or file, else its number."""
    if isinstance(spec, (str, os.PathLike)):
        return Path(spec).name
    named = spec.get("preset") if hasattr(spec, "keys") else None
    return f"{number}: {named}" if named else str(number)
