"""Plot a family: the value of each member against its cost, and the Pareto front."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from fxprune.errors import FileError
from fxprune.loop import Family
from fxprune.loop.family_table import Row

FORMATS = (".svg", ".png")
MISSING = "matplotlib is not installed, so no plot is drawn; pip install fxprune[plot]"
ON, OFF, WHOLE = "#1f6f8b", "#b0b7bd", "#333333"


def can_plot() -> bool:
    """Tell whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def check_format(path: str | os.PathLike[str]) -> None:
    """Raise FileError where a plot cannot be of the format that a name says."""
    if Path(path).suffix not in FORMATS:
        raise FileError(f"{path}: a plot's name must end in {' or '.join(FORMATS)}")


def plot(family: Family, path: str | os.PathLike[str]) -> None:
    """Draw a family as SVG or PNG, by the name's suffix; raises FileError without matplotlib."""
    check_format(path)
    if not can_plot():
        raise FileError(f"{path}: {MISSING}")
    from matplotlib.figure import Figure  # late: an extra, and no window is ever opened

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    front = sorted((one.row for one in family.pareto), key=lambda row: row.spent)
    axes.plot([r.spent for r in front], [r.worth for r in front], color=ON, lw=1, label="front")
    for row in family.table:
        color = WHOLE if row.goal is None else (ON if row.pareto else OFF)
        left, right = _spread(row)
        axes.errorbar(
            row.spent, row.worth, xerr=[[left], [right]], fmt="o", color=color, ms=6, capsize=2
        )
        name = "original" if row.goal is None else f"{row.goal:g}"
        axes.annotate(name, (row.spent, row.worth), (6, -11), textcoords="offset points")
    cost, worth = family.axes
    axes.set(xlabel=cost, ylabel=worth, title=f"members by {family.objective}")
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    figure.savefig(path, format=Path(path).suffix[1:], metadata=_undated(path))


def _spread(row: Row) -> tuple[float, float]:
    """Return how far the middle half of the ratios goes to the left and to the right."""
    if row.ratio is None or row.ratio_low is None or row.ratio_high is None:
        return 0.0, 0.0
    return max(0.0, row.ratio - row.ratio_low), max(0.0, row.ratio_high - row.ratio)


def _undated(path: str | os.PathLike[str]) -> dict[str, str | None]:
    """Return metadata without which the same plot would be another file tomorrow."""
    return {"Date": None} if Path(path).suffix == ".svg" else {}
