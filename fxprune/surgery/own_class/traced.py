"""Integers that remember where they come from, through the arithmetic of a forward."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from fxprune.surgery.own_class.places import Place

Values = Mapping[int, int]  # the number of a place -> what stands there


@dataclass(frozen=True, eq=False)
class Origin:
    """Hold the numbers of the places that an integer was computed of, and how.

    It is `pure` if nothing else went into it: other integers may be sizes, which change.
    """

    places: frozenset[int]
    of: Callable[[Values], int]
    pure: bool = True
    single: int | None = None  # the place whose very integer it is


class Traced(int):
    """Be an integer, with an origin."""

    origin: Origin

    @classmethod
    def made(cls, value: int, origin: Origin) -> Traced:
        """Return an integer with an origin."""
        traced = cls(value)
        traced.origin = origin
        return traced

    def __reduce__(self) -> Any:
        return int, (int(self),)

    def __deepcopy__(self, memo: Any) -> int:
        return int(self)

    def __copy__(self) -> int:
        return int(self)


def _of(value: int, values: Values) -> int:
    return value.origin.of(values) if isinstance(value, Traced) else int(value)


def _combined(compute: Any, left: Any, right: Any) -> Any:
    """Compute with plain numbers; where they are integers the result remembers both."""
    plain = compute(
        int(left) if isinstance(left, Traced) else left,
        int(right) if isinstance(right, Traced) else right,
    )
    if type(plain) is not int or type(left) is float or type(right) is float:
        return plain
    origins = [one.origin for one in (left, right) if isinstance(one, Traced)]
    return Traced.made(
        plain,
        Origin(
            frozenset().union(*(one.places for one in origins)),
            lambda values: int(compute(_of(left, values), _of(right, values))),
            len(origins) == 2 and all(one.pure for one in origins),
        ),
    )


def _arithmetic(name: str, compute: Any) -> None:
    def forward(self: Traced, other: Any) -> Any:
        return _combined(compute, self, other)

    def reflected(self: Traced, other: Any) -> Any:
        return _combined(compute, other, self)

    setattr(Traced, f"__{name}__", forward)
    setattr(Traced, f"__r{name}__", reflected)


for _name, _compute in (
    ("add", operator.add),
    ("sub", operator.sub),
    ("mul", operator.mul),
    ("floordiv", operator.floordiv),
    ("mod", operator.mod),
):
    _arithmetic(_name, _compute)


@contextmanager
def planted(found: Sequence[Place]) -> Iterator[None]:
    """Let every place hold an integer that remembers it; afterwards they hold what they held."""
    before = [(vars(one.holder), one.attribute, vars(one.holder)[one.attribute]) for one in found]
    try:
        for number, place in enumerate(found):
            origin = Origin(frozenset({number}), itemgetter(number), single=number)
            place.put(Traced.made(place.value, origin))
        yield
    finally:
        for held, name, value in reversed(before):
            held[name] = value


def numbers(value: Any) -> list[Any]:
    """Return the numbers and other leaves of arguments in order, containers opened."""
    if isinstance(value, (tuple, list)):
        return [leaf for one in value for leaf in numbers(one)]
    if isinstance(value, slice):
        return numbers((value.start, value.stop, value.step))
    if isinstance(value, dict):
        return [leaf for one in value.values() for leaf in numbers(one)]
    return [value]
