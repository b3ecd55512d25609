"""Quick words: a specification said on the command line, alone or on top of a file or a preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

import fxprune
from fxprune.errors import SpecError

OBJECTIVES = ("ratio", "params", "macs", "bytes", "activations", "latency")
BESIDE = ("device", "threads")  # options of a latency
STRATEGIES = ("metric", "allocation", "schedule")
WORDS = (*OBJECTIVES, *BESIDE, *STRATEGIES, "steps", "round_to", "target", "include", "exclude")


def spec_of(given: str | None, words: Mapping[str, Any]) -> Any:
    """Return the specification that a file or preset and quick words amount to.

    A word replaces what the file says on its axis. Raises SpecError; with neither a file nor a
    goal it is a wrong use of the command.
    """
    said = {name: value for name, value in words.items() if value not in (None, [], ())}
    goals = [name for name in OBJECTIVES if name in said]
    if not said and given is not None:
        return fxprune.Spec.of(given)
    if given is None and not goals:
        raise typer.BadParameter("give --spec, or a goal such as --macs 0.5")
    if len(goals) > 1:
        raise SpecError(f"--{goals[0]}, --{goals[1]}: give one goal")
    if given is None:
        return fxprune.Spec.of(_replaced({}, said, goals))
    from fxprune.spec.files import read, with_preset

    base = read(given)
    if not isinstance(base, Mapping):
        return fxprune.Spec.of(given)  # which says what is wrong with it
    return fxprune.Spec.of(_replaced(with_preset(base), said, goals))


def _replaced(base: Mapping[str, Any], said: Mapping[str, Any], goals: list[str]) -> dict[str, Any]:
    """Return a specification with what was said in place of its own."""
    spec = dict(base)
    if goals:
        beside = {name: said[name] for name in BESIDE if name in said}
        if beside and goals != ["latency"]:
            raise SpecError(f"--{', --'.join(beside)}: goes with --latency, not with --{goals[0]}")
        spec["objective"] = {goals[0]: _goal(goals[0], said[goals[0]]), **beside}
    elif alone := [name for name in BESIDE if name in said]:
        raise SpecError(f"--{alone[0]}: goes with --latency")
    for axis in STRATEGIES:
        if axis in said:
            spec[axis] = {**_table(spec.get(axis), said[axis]), "name": said[axis]}
    if "steps" in said:
        spec["schedule"] = {**_table(spec.get("schedule")), "steps": said["steps"]}
    if "round_to" in said:
        spec["allocation"] = {**_table(spec.get("allocation")), "round_to": said["round_to"]}
    selection = {name: said[name] for name in ("include", "exclude") if name in said}
    if "target" in said or selection:
        spec["target"] = _selected(spec.get("target"), said.get("target"), selection)
    return spec


def _table(value: Any, name: str | None = None) -> dict[str, Any]:
    """Return what is said of an axis as a table; with another `name`, its options are no more."""
    table = dict(value) if isinstance(value, Mapping) else {"name": value} if value else {}
    return table if name in (None, table.get("name")) else {}


def _selected(base: Any, kind: Any, selection: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(base, (list, tuple)) and any(isinstance(one, Mapping) for one in base):
        raise SpecError(
            "--target, --include, --exclude: the spec has several selections of its own"
        )
    table = dict(base) if isinstance(base, Mapping) else {"kind": base} if base else {}
    return {**table, **({"kind": kind} if kind else {}), **selection}


def _goal(name: str, value: Any) -> Any:
    """Return a goal as a number, where it is one: a latency may be a time as well."""
    try:
        return float(value)
    except ValueError:
        return value
