"""Modules in a specification: `exclude` and `include` may name them by the modules themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fxprune.errors import SpecError

FIELDS = ("include", "exclude")


def with_names(given: Any, model: Any) -> Any:
    """Return a specification whose `include` and `exclude` say modules of a model by their names.

    Raises SpecError for a module that is no part of the model.
    """
    if not isinstance(given, Mapping) or "target" not in given:
        return given
    target = given["target"]
    listed = target if isinstance(target, (list, tuple)) else [target]
    tables = [_named(one, model) if isinstance(one, Mapping) else one for one in listed]
    return {**given, "target": tables if isinstance(target, (list, tuple)) else tables[0]}


def _named(table: Mapping[str, Any], model: Any) -> Mapping[str, Any]:
    found = dict(table)
    for field in (field for field in FIELDS if field in table):
        value = table[field]
        listed = value if isinstance(value, (list, tuple)) else [value]
        found[field] = [_name(one, model, field) for one in listed]
    return found


def _name(value: Any, model: Any, field: str) -> Any:
    """Return the path of a module; what is none is left as it is."""
    from torch import nn

    if not isinstance(value, nn.Module):
        return value
    paths = model.named_modules() if isinstance(model, nn.Module) else ()
    for path, module in paths:
        if module is value and path:
            return path
    raise SpecError(
        f"target.{field}: a {type(value).__name__} that is no part inside the model; "
        "give modules of the model that is pruned, or patterns of their names"
    )
