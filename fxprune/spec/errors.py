"""Say in one line what is wrong with a specification: the path inside it, the value, what is legal.

The words are ours where pydantic would name its own types instead of what a user may write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from fxprune.errors import shown, unknown

TYPES = {  # pydantic's name of an error → what is needed instead, for people to read
    "string_type": "a text is needed",
    "bool_type": "true or false is needed",
    "bool_parsing": "true or false is needed",
    "int_type": "a whole number is needed",
    "float_type": "a number is needed",
    "tuple_type": "a text or a list of texts is needed",
    "model_type": "a name or a table is needed",
}


def every_one(error: ValidationError, cls: type[BaseModel], given: Mapping[str, Any]) -> list[str]:
    """Return a line for each place where validating `given` as `cls` found an error."""
    return [_line(one, cls, given) for one in _nearest(error)]


def _line(first: Any, cls: type[BaseModel], given: Mapping[str, Any]) -> str:
    """Return the line for an error."""
    path = [str(part) for part in first["loc"] if not _inner(part)]
    listed = isinstance(given.get("target"), (list, tuple))
    if path[:2] == ["target", "0"] and not listed:
        path[1:2] = []  # a single selection is given without a number
    place, kind = ".".join(path), first["type"]
    if kind == "extra_forbidden":
        known = [*_keys(cls, path[:-1]), *(["preset"] if len(path) == 1 else [])]
        inside = ".".join(path[:-1])
        return f"{inside + ': ' if inside else ''}{unknown('key', path[-1], known)}"
    if kind == "missing":
        example = ', as in {"objective": {"macs": 0.5}}' if path == ["objective"] else ""
        return f"{place}: is needed{example}"
    if kind == "literal_error":
        legal = re.findall(r"'([^']*)'", str(first["ctx"]["expected"]))
        return f"{place}: {unknown('value', first['input'], legal)}"
    text = TYPES.get(kind) or first["msg"].removeprefix("Value error, ")
    if path == ["objective"]:
        text = 'a table is needed, as in {"macs": 0.5}'
    if path == ["fine_tune"]:
        text = "a table is needed"
    if path == ["target"] and kind == "tuple_type":
        text = "a name or a table is needed"
    value = "" if isinstance(first["input"], (dict, BaseModel)) else f"{shown(first['input'])}: "
    return f"{place}: {value}{text[:1].lower()}{text[1:]}"


def _nearest(error: ValidationError) -> list[Any]:
    """Return an error for each place; of a choice of types the last, which takes the most forms."""
    places: dict[tuple[Any, ...], Any] = {}
    for one in error.errors():
        places[tuple(part for part in one["loc"] if not _inner(part))] = one
    return [*places.values()]


def _inner(part: Any) -> bool:
    """Tell whether a part of a path is pydantic's, for one type of a choice, and not the user's."""
    return isinstance(part, str) and (
        part in ("str", "int", "float", "bool", "constrained-str") or part.endswith("]")
    )


def _keys(cls: type[BaseModel], path: list[str]) -> list[str]:
    """Return the keys that a table inside a specification may have."""
    for part in path:
        field = cls.model_fields.get(part)
        inner = model_of(field.annotation) if field is not None else None
        cls = inner or cls
    return list(cls.model_fields)


def model_of(annotation: Any) -> type[BaseModel] | None:
    """Return the model in an annotation such as `tuple[TargetSpec, ...]` or `MetricSpec | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (model_of(one) for one in get_args(annotation))
    return next((one for one in found if one is not None), None)
