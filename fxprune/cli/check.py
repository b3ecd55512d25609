"""The command for continuous integration: is what a specification makes of a model in budget."""

from __future__ import annotations

import json as json_
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import fxprune
from fxprune.cli import options
from fxprune.cli.help import under
from fxprune.cli.models import load
from fxprune.errors import FileError, SpecError, SpecErrors, shown, unknown
from fxprune.files.tables import as_text

if TYPE_CHECKING:
    from fxprune.report import Report

app = typer.Typer()

MOST = {  # key of a budget → what of the report must not be more
    "parameters": "parameters_after",
    "macs": "macs_after",
    "bytes": "bytes_after",
    "activation_bytes": "activation_bytes_after",
}
LEAST = ("coverage",)
KEYS = (*MOST, *LEAST, "latency")  # milliseconds, measured
PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
Against = Annotated[
    Path, typer.Option("--against", help="A budget: parameters, macs, bytes, … in a .toml file.")
]


@dataclass(frozen=True)
class Verdict:
    """Say of one thing what is allowed, what was found, and whether that is within it."""

    key: str
    allowed: float
    found: float
    met: bool


@app.command(epilog=under("check"))
def check(
    model: options.Model,
    spec: options.SpecName,
    against: Against,
    trust: options.Trust = False,
    input_shape: options.InputShape = None,
    example: options.Example = None,
    functions: options.Functions = None,
    plugin: options.Plugin = None,
    json: options.Json = False,
) -> None:
    """Prune in memory and compare with a budget; end with status 3 where it is exceeded."""
    budget = read_budget(against)
    wanted = fxprune.Spec.of(spec)
    from fxprune.cli import callback_files

    given = callback_files.given(functions, None, 1)
    loaded, inputs = load(model, trust, input_shape, example)
    found = verdicts(budget, fxprune.prune(loaded, wanted, inputs, **given).report)
    if json:
        print(json_.dumps([asdict(one) for one in found], indent=1))
    else:
        print(as_text(("", "allowed", "found", ""), [*map(_row, found)], ("allowed", "found")))
    if not all(one.met for one in found):
        raise typer.Exit(3)


def read_budget(path: Path) -> dict[str, float]:
    """Return the numbers of a budget by their keys.

    Raises FileError where it cannot be read, SpecError where it is none.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise FileError(f"{path}: the budget cannot be read: {said}") from None
    if not data:
        raise SpecError(f"{path}: the budget is empty; it may have {', '.join(KEYS)}")
    found, wrong = dict[str, float](), list[str]()
    for key, value in data.items():
        try:
            found[key] = number(f"{path}: {key}", value)
            if key not in KEYS:
                raise SpecError(f"{path}: {unknown('key', key, KEYS)}")
        except SpecError as error:
            wrong.append(str(error))
    if wrong:
        raise SpecErrors(wrong)
    return found


def number(place: str, value: Any) -> float:
    """Return a number that may be written with a prefix and a unit.

    >>> number("bytes", "2.5 MB"), number("macs", "4 G"), number("latency", 8)
    (2500000.0, 4000000000.0, 8.0)
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    match = re.fullmatch(r"\s*([\d.]+)\s*([kKMGT]?)(B|MACs|ms)?\s*", str(value))
    try:
        return float(match[1]) * PREFIXES[match[2].lower()] if match else float("")
    except ValueError:
        raise SpecError(
            f'{place}: {shown(value)}: write a number, such as 2.5e6 or "2.5 M"'
        ) from None


def verdicts(budget: Mapping[str, float], report: Report) -> list[Verdict]:
    """Compare a report with a budget; raises SpecError for a latency that nothing measured."""
    found: list[Verdict] = []
    for key, allowed in budget.items():
        if key == "latency" and report.latency is None:
            raise SpecError("latency: it is measured where the spec's objective is a latency")
        if key == "latency" and report.latency is not None:
            value = report.latency.measured
        else:
            value = float(getattr(report, MOST.get(key, key)))
        met = value >= allowed if key in LEAST else value <= allowed
        found.append(Verdict(key, allowed, value, met))
    return found


def _row(one: Verdict) -> tuple[str, ...]:
    return one.key, _shown(one.allowed), _shown(one.found), "ok" if one.met else "EXCEEDED"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"
