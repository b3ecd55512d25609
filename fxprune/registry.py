"""A table of strategies by name: one for each axis that a specification chooses from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from fxprune.errors import SpecError
from fxprune.pipeline import unknown

T = TypeVar("T", bound=type[Any])


class Registry(dict[str, type[Any]]):
    """Hold the frozen dataclasses of one axis by name; their fields are their options.

    >>> SHAPES = Registry("shape")
    >>> from dataclasses import dataclass
    >>> @SHAPES.register("circle")
    ... @dataclass(frozen=True)
    ... class Circle:
    ...     radius: int = 1
    >>> SHAPES.make("circle", {"radius": 3})
    Circle(radius=3)
    """

    def __init__(self, axis: str) -> None:
        super().__init__()
        self.axis = axis

    def register(self, name: str) -> Callable[[T], T]:
        """Register a frozen dataclass as `name`."""

        def decorate(cls: T) -> T:
            self[name] = cls
            return cls

        return decorate

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
        known = [field.name for field in fields(cls)]
        types = get_type_hints(cls, include_extras=True)
        for key, value in options.items():
            if key not in known:
                raise SpecError(f"{where}: {unknown(f'option of {name}', key, [*known, *beside])}")
            checked(f"{where}.{key}", types[key], value)
        for field in fields(cls):
            bare = field.default is MISSING and field.default_factory is MISSING
            if bare and field.name not in options:
                raise SpecError(f"{where}: {name} needs {field.name}")
        try:
            return cls(**options)
        except ValueError as error:
            raise SpecError(f"{where}: {error}") from None


def checked(place: str, wanted: Any, value: Any) -> None:
    """Raise SpecError unless a value is of the type that an option has."""
    choices = get_args(wanted)
    if isinstance(value, str) and choices and all(isinstance(one, str) for one in choices):
        if value not in choices:
            raise SpecError(f"{place}: {unknown('value', value, choices)}")
        return
    listed = tuple(value) if isinstance(value, list) else value
    try:
        TypeAdapter(wanted).validate_python(listed, strict=True)
    except ValidationError as error:
        text = _furthest(error).removeprefix("Value error, ")
        raise SpecError(f"{place}: {value!r}: {text[:1].lower()}{text[1:]}") from None


def _furthest(error: ValidationError) -> str:
    """Return what is wrong with a value; of a choice of types, in the terms of the value's own."""
    errors = error.errors()
    other = ("_type", "_parsing")
    return next((e for e in errors if not e["type"].endswith(other)), errors[0])["msg"]
