"""A table of strategies by name: one for each axis that a specification chooses from."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from math import isfinite
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from fxprune.errors import SpecError, shown, unknown
from fxprune.plugins import Table

Made = TypeVar("Made")
LARGEST = 2**63 - 1  # number that an option can be
WIDEST = 2**31 - 1  # number of units that can be asked for


def load(package: str) -> None:
    """Import every module of a package, so that each registers what it has."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")


class Registry(Table[type[Any]]):
    """Hold the frozen dataclasses of one axis by name; their fields are their options.

    >>> SHAPES = Registry("shape")
    >>> from dataclasses import dataclass
    >>> @SHAPES.register("circle")
    ... @dataclass(frozen=True)
    ... class Circle:
    ...     radius: int = 1
    >>> SHAPES.make("circle", {"radius": 3})
    Circle(radius=3)

    Others are entry points of the group `group`. `methods` are what each has to have.
    """

    def __init__(self, axis: str, group: str = "", methods: Sequence[str] = ()) -> None:
        super().__init__(group, self._wrong)
        self.axis = axis
        self.methods = methods

    def _wrong(self, cls: Any) -> str:
        """Return what is wrong with a strategy that is to be registered."""
        if not (isinstance(cls, type) and is_dataclass(cls)):
            return f"{self.axis}: a frozen dataclass is needed, not {shown(cls)}"
        lacking = [name for name in self.methods if not hasattr(cls, name)]
        return f"{self.axis}: {cls.__name__} lacks {', '.join(lacking)}" if lacking else ""

    def make(
        self,
        name: str,
        options: Mapping[str, Any],
        where: str = "",
        beside: Sequence[str] = (),
    ) -> Any:
        """Return the strategy `name` with the options of a specification.

        `where` is the path inside the specification, where the keys `beside` may stand too. Raises
        SpecError with that path, the value and what is legal.
        """
        where = where or self.axis
        cls = self.get(name)
        if cls is None:
            raise SpecError(f"{where}: {unknown(self.axis, name, self)}")
        return made(cls, options, where, name, beside)


def made(
    cls: type[Made],
    options: Mapping[str, Any],
    where: str,
    name: str = "",
    beside: Sequence[str] = (),
) -> Made:
    """Return a frozen dataclass with the options of a specification, each checked by its type.

    `where` is their path in it, and `name` the strategy's, where it has one; keys `beside` may
    stand there too. Raises SpecError with the path, the value and what is legal.
    """
    described = fields(cls)  # type: ignore[arg-type]
    known = [field.name for field in described]
    key_of = f"option of {name}" if name else "option"
    for key in options:
        if key not in known:
            raise SpecError(f"{where}: {unknown(key_of, key, [*known, *beside])}")
    checked_fields(cls, options, where)
    for field in described:
        bare = field.default is MISSING and field.default_factory is MISSING
        if bare and field.name not in options:
            raise SpecError(f"{where}: {name or 'it'} needs {field.name}")
    try:
        return cls(**options)
    except ValueError as error:
        raise SpecError(f"{where}: {error}") from None


def checked_fields(cls: type[Any], values: Mapping[str, Any], where: str) -> None:
    """Raise SpecError unless values are of the types of the fields of a class."""
    types = get_type_hints(cls, include_extras=True)
    for key, value in values.items():
        checked(f"{where}.{key}", types[key], value)


def checked(place: str, wanted: Any, value: Any) -> None:
    """Raise SpecError unless a value is of the type that an option has."""
    choices = get_args(wanted)
    if isinstance(value, str) and choices and all(isinstance(one, str) for one in choices):
        if value not in choices:
            raise SpecError(f"{place}: {unknown('value', value, choices)}")
        return
    listed = tuple(value) if isinstance(value, list) else value
    if isinstance(value, float) and not isfinite(value):
        raise SpecError(f"{place}: {value}: a finite number is needed")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise SpecError(f"{place}: {shown(value)}: a whole number of at most {LARGEST} is needed")
    try:
        TypeAdapter(wanted).validate_python(listed, strict=True)
    except ValidationError as error:
        text = _furthest(error).removeprefix("Value error, ")
        raise SpecError(f"{place}: {shown(value)}: {text[:1].lower()}{text[1:]}") from None


def _furthest(error: ValidationError) -> str:
    """Return what is wrong with a value; of a choice of types, in the terms of the value's own."""
    errors = error.errors()
    other = ("_type", "_parsing")
    return next((e for e in errors if not e["type"].endswith(other)), errors[0])["msg"]
