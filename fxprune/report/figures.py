"""Figures for papers: what a report shows, as SVG, PNG or PDF with labelled axes.

matplotlib draws them (`pip install fxprune[plot]`). A title names the model, the metric and the
objective.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from fxprune.errors import FileError, SpecError, unknown
from fxprune.files import atomic_write
from fxprune.report.html_page import asked
from fxprune.report.picture import Picture
from fxprune.surgery.repair import RepairReport

FORMATS = (".svg", ".png", ".pdf")
MISSING = "matplotlib is not installed; pip install fxprune[plot]"
BEFORE, AFTER, WARM = "#b9c2cb", "#1f6f8b", "#c8553d"
MOST = 12  # curves and histograms in one figure


class Reported(Protocol):
    """Hold what figures show of a report."""

    @property
    def picture(self) -> Picture | None: ...
    @property
    def repair(self) -> RepairReport | None: ...
    @property
    def latency(self) -> Any: ...
    @property
    def seconds(self) -> dict[str, float]: ...


class Absent(Exception):
    """Say that a report has nothing that a figure could show."""


def check(path: Path, figure: str) -> None:
    """Raise FileError or SpecError for a format or a figure that there is not."""
    if path.suffix not in FORMATS:
        raise FileError(f"{path}: a figure's name must end in {', '.join(FORMATS)}")
    if figure not in FIGURES:
        raise SpecError(f"figure: {unknown('figure', figure, FIGURES)}")
    if find_spec("matplotlib") is None:
        raise FileError(f"{path}: {MISSING}")


def draw(report: Reported, figure: str, path: str | os.PathLike[str]) -> None:
    """Draw a figure of a report: widths, scores, curves, repair, latency or time.

    Raises FileError where the report has nothing to show in it, or it cannot be written.
    """
    place = Path(path)
    check(place, figure)
    from matplotlib import rc_context
    from matplotlib.figure import Figure  # late: an extra, and no window is ever opened

    picture = report.picture if report.picture is not None else Picture("model")
    made = Figure(figsize=(6.4, 4.2), layout="constrained")
    try:
        FIGURES[figure](made, report, picture)
    except Absent as nothing:
        raise FileError(f"{place}: {nothing}") from nothing
    made.suptitle(f"{picture.model}: {asked(picture.spec) or 'pruned'}", fontsize=9)
    kind = place.suffix[1:]
    undated: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    with atomic_write(place) as temporary, rc_context({"svg.hashsalt": "fxprune"}):
        made.savefig(temporary, format=kind, metadata=undated, dpi=200)


def _widths(figure: Any, report: Reported, picture: Picture) -> None:
    listed = [(t.name, t.units, t.kept) for t in picture.targets if t.units > 1]
    if not listed:
        raise Absent("the report knows of no targets")
    _bars(figure, [name for name, *_ in listed], [n for _, n, _ in listed], [k for *_, k in listed])
    figure.axes[0].set_xlabel("units of the target")


def _bars(
    figure: Any,
    names: list[str],
    before: list[float],
    after: list[float],
    kind: str = "target",
) -> None:
    """Draw horizontal bars, those after in front of those before; the first at the top."""
    figure.set_size_inches(6.4, max(2.2, 0.9 + 0.19 * len(names)))
    axes = figure.add_subplot()
    places = range(len(names))
    axes.barh(places, before, color=BEFORE, height=0.8, label="before")
    axes.barh(places, after, color=AFTER, height=0.5, label="after")
    axes.set_yticks(list(places), [name[-40:] for name in names], fontsize=6)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.grid(axis="x", alpha=0.3)
    axes.set_ylabel(kind)
    axes.legend(fontsize=7)


def _scores(figure: Any, report: Reported, picture: Picture) -> None:
    if not picture.scores:
        raise Absent("nothing was scored")
    shown = picture.scores[:MOST]
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure.set_size_inches(2.4 * columns, 1.7 * lines + 0.4)
    grid = figure.subplots(lines, columns, squeeze=False)
    for number, axes in enumerate(grid.ravel()):
        if number >= len(shown):
            axes.axis("off")
            continue
        one = shown[number]
        left = one.edges[:-1]
        sizes = [b - a for a, b in zip(one.edges[:-1], one.edges[1:], strict=True)]
        axes.bar(left, one.removed, sizes, align="edge", color=WARM, label="removed")
        axes.bar(left, one.kept, sizes, one.removed, align="edge", color=AFTER, label="kept")
        axes.set_title(one.target[-28:], fontsize=6)
        axes.tick_params(labelsize=6)
        if one.edges[0] > 0 and one.edges[-1] / one.edges[0] > 1e3:
            axes.set_xscale("log")
        else:
            axes.locator_params(axis="x", nbins=4)
    grid[0][0].legend(fontsize=6)
    figure.supxlabel("score of a unit", fontsize=8)
    figure.supylabel("units", fontsize=8)


def _curves(figure: Any, report: Reported, picture: Picture) -> None:
    if not picture.curves:
        raise Absent(
            "no curve of what is lost is known: the metric obs and the allocation sensitivity "
            "make them"
        )
    axes = figure.add_subplot()
    for one in picture.curves[:MOST]:
        axes.plot([100 * share for share in one.shares], one.losses, lw=1, label=one.target[-28:])
    axes.set(xlabel="% of the target's units removed", ylabel=f"lost ({picture.curves[0].lost})")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6)


def _repair(figure: Any, report: Reported, picture: Picture) -> None:
    if report.repair is None or not report.repair.operators:
        raise Absent("nothing was repaired; give calibrate")
    operators = report.repair.operators
    names = [one.tensor or one.operator for one in operators]
    _bars(
        figure, names, [one.before for one in operators], [one.after for one in operators], "weight"
    )
    figure.axes[0].set_xlabel("squared error, relative to the original's results")


def _latency(figure: Any, report: Reported, picture: Picture) -> None:
    if report.latency is None:
        raise Absent("no latency was asked for")
    one = report.latency
    axes = figure.add_subplot()
    times = [one.original, one.requested, one.predicted, one.measured]
    axes.bar(
        ["original", "requested", "predicted", "measured"],
        times,
        color=[BEFORE, "#b7791f", "#cfe5ee", AFTER],
    )
    spread = [[max(0.0, one.measured - one.low)], [max(0.0, one.high - one.measured)]]
    axes.errorbar([3], [one.measured], yerr=spread, color="black", capsize=3)
    where = f"{one.device}, {one.threads} thread{'s' * (one.threads != 1)}, batch {one.batch}"
    axes.set(ylabel="milliseconds of one batch", xlabel=where)
    axes.grid(axis="y", alpha=0.3)


def _time(figure: Any, report: Reported, picture: Picture) -> None:
    spent = sorted(report.seconds.items(), key=lambda one: one[1])
    if not spent:
        raise Absent("the report knows no seconds")
    axes = figure.add_subplot()
    axes.barh([name for name, _ in spent], [seconds for _, seconds in spent], color=AFTER)
    axes.set(xlabel="seconds", ylabel="stage")
    axes.grid(axis="x", alpha=0.3)


FIGURES: dict[str, Callable[[Any, Reported, Picture], None]] = {
    "widths": _widths,
    "scores": _scores,
    "curves": _curves,
    "repair": _repair,
    "latency": _latency,
    "time": _time,
}
