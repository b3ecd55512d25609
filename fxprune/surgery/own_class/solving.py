"""Solve for the integers of a model: what each must be so that the graph's constants come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fxprune.surgery.own_class.places import Place
from fxprune.surgery.own_class.traced import Origin
from fxprune.surgery.own_class.wanted import Wanted


@dataclass
class Solution:
    """Hold the numbers that places must have, and what no choice of them fulfils.

    `free` is what nothing in the model is known to say: sizes of tensors, which change by
    themselves, or literals.
    """

    values: dict[int, int] = field(default_factory=dict)
    unmet: list[tuple[Wanted, str]] = field(default_factory=list)
    free: list[Wanted] = field(default_factory=list)


def solved(places: Sequence[Place], asked: Sequence[Wanted]) -> Solution:
    """Return the numbers that what is asked determines."""
    solution = Solution()
    first: dict[int, Wanted] = {}
    for one in asked:
        place = one.origin.single if one.origin is not None else None
        if place is None:
            continue
        if (known := first.setdefault(place, one)).value != one.value:
            solution.unmet.append((one, _contradiction(places[place], known, one)))
            continue
        if one.value != one.before:
            solution.values[place] = one.value
    for one in asked:
        if one.origin is None:
            solution.free.append(one)
        elif one.origin.single is None:
            _derive(solution, places, one, one.origin, set(first))
    return solution


def _derive(
    solution: Solution, places: Sequence[Place], one: Wanted, origin: Origin, known: set[int]
) -> None:
    """Choose the one place that is left of a computed integer, so that it becomes what it must."""
    values = {k: solution.values.get(k, places[k].value) for k in origin.places}
    if origin.of(values) == one.value:
        return
    if not origin.pure:
        solution.free.append(one)
        return
    open_ = [k for k in origin.places if k not in known and k not in solution.values]
    options = [
        (k, value)
        for k in open_
        for value in range(1, places[k].value)
        if _gives(origin, {**values, k: value}, one.value)
    ]
    if len(options) == 1:
        solution.values |= options
    else:
        names = ", ".join(sorted(places[k].name for k in origin.places))
        fact = f"{one.before} is computed of {names}, and {one.value} cannot be"
        solution.unmet.append((one, fact))


def _gives(origin: Origin, values: dict[int, int], wanted: int) -> bool:
    try:
        return origin.of(values) == wanted
    except ZeroDivisionError:
        return False


def _contradiction(place: Place, first: Wanted, second: Wanted) -> str:
    return (
        f"{place.name} = {place.value} would have to be {first.value} for {first.node.name} and "
        f"{second.value} for {second.node.name}"
    )
