"""Write a family as files: a model for each goal, the table as JSON, and a plot; all or none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from fxprune.cli.family_plot import MISSING, can_plot, check_format, plot
from fxprune.cli.models import put, tell, written
from fxprune.errors import SpecError
from fxprune.files import atomic_write, check_writable
from fxprune.loop import Callbacks, Family
from fxprune.loop.family import goals_of, swept
from fxprune.spec import Spec


def goals(text: str) -> list[float]:
    """Read `0.8,0.6,0.4`; raises SpecError for what is no list of numbers."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(
            f'--sweep "{text}": not a list of numbers; write goals as 0.8,0.6,0.4'
        ) from None


def beside(output: Path, goal: float) -> Path:
    """Return the name of the file of one member.

    >>> beside(Path("slim.onnx"), 0.8).name
    'slim-0.8.onnx'
    """
    return output.with_name(f"{output.stem}-{goal:g}{output.suffix}")


def sweep(
    spec: Spec,
    text: str,
    output: Path,
    picture: Path | None,
    load: Callable[[], tuple[Any, Any]],
    given: Mapping[str, Any],
    as_json: bool = False,
) -> Family:
    """Prune to every goal of a sweep, write what came out, and print the table.

    What can be refused is refused before the model is loaded. An ONNX file is timed in ONNX
    Runtime, whatever the objective is; a latency is timed on its own device.
    """
    wanted = goals_of(spec, goals(text))
    picture = picture or output.with_suffix(".svg")
    check_format(picture)
    places = [beside(output, goal) for goal, _ in wanted]
    if len({*places}) < len(places):
        raise SpecError(f'--sweep "{text}": two goals are the same to six digits')
    for place in (*places, output.with_suffix(".json"), picture):
        check_writable(place)
    files = output.suffix == ".onnx" and spec.objective.chosen[0] != "latency"
    model, inputs = load()
    calls = Callbacks.of(**given)
    family = swept(model, spec, inputs, calls, wanted, "ort-cpu" if files else None)
    family = write(family, output, picture)
    wrote = [*(beside(output, one.goal) for one in family.members), output.with_suffix(".json")]
    wrote += [picture] if can_plot() else []
    if as_json:
        print(json.dumps(family.to_dict() | {"wrote": [*map(written, wrote)]}, indent=1))
        return family
    for place in wrote:
        tell(place)
    if not can_plot():
        print(f"note: {MISSING}")
    print(family)
    return family


def write(family: Family, output: Path, picture: Path) -> Family:
    """Write all files of a family, or none; return it with the names of its files."""
    members = tuple(
        replace(one, row=replace(one.row, file=beside(output, one.goal).name))
        for one in family.members
    )
    family = replace(family, members=members)
    table, places = output.with_suffix(".json"), [beside(output, one.goal) for one in members]
    with ExitStack() as stack:  # all move to their places when the last has been written
        for one, place in zip(members, places, strict=True):
            put(one.module, stack.enter_context(atomic_write(place)))
        text = family.to_json() + "\n"
        stack.enter_context(atomic_write(table)).write_text(text, encoding="utf-8")
        if can_plot():
            plot(family, stack.enter_context(atomic_write(picture)))
    return family
