"""The JSON schema of a specification, built from its model and the registries."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from pydantic import BaseModel, TypeAdapter

from fxprune.allocators import ALLOCATORS
from fxprune.metrics import METRICS
from fxprune.objectives import OBJECTIVES
from fxprune.registry import Registry
from fxprune.schedules import SCHEDULES
from fxprune.spec import presets
from fxprune.spec.errors import model_of
from fxprune.spec.training import Training
from fxprune.surgery.repair import REPAIRS
from fxprune.targets import SELECTABLE

Json = dict[str, Any]
AXES = {
    "metric": METRICS,
    "allocation": ALLOCATORS,
    "schedule": SCHEDULES,
    "repair": REPAIRS,
}
TEXTS: Json = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
FIXES: Json = {"type": "object", "anyOf": [{"required": ["ratio"]}, {"required": ["width"]}]}
FIXED: Json = {  # a specification whose selections say how much by themselves
    "required": ["target"],
    "properties": {"target": {"anyOf": [FIXES, {"type": "array", "contains": FIXES}]}},
}
STEP: Json = {"anyOf": [{"type": "integer", "minimum": 1}, {"const": "auto"}]}


def schema(spec: type[BaseModel]) -> Json:
    """Return the schema of a specification; a strategy that is registered is in it."""
    annotated = {name: field.annotation for name, field in spec.model_fields.items()}
    models = {name: found for name, one in annotated.items() if (found := model_of(one))}
    defs: Json = {"selection": _selection(models["target"])}
    for axis, registry in AXES.items():
        defs[axis] = _strategies(registry, models[axis])
        defs[f"{axis}-of-preset"] = _change(defs[axis])
    kinds: Json = {"enum": [*SELECTABLE]}
    selection = {"$ref": "#/$defs/selection"}
    target = [kinds, _listed(kinds), selection, _listed(selection)]
    strict = {axis: {"$ref": f"#/$defs/{axis}"} for axis in AXES}
    loose = {a: {"anyOf": [strict[a], {"$ref": f"#/$defs/{a}-of-preset"}]} for a in AXES}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fxprune specification",
        "description": _first_line(spec),
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "preset": {"enum": presets.names(), "description": "Fill in what is not given."},
            "target": {"description": "What may be pruned.", "anyOf": target},
            **loose,
            "objective": {"description": "How much.", "oneOf": _objectives()},
            "fine_tune": _table(_options(Training)[0], [], _first_line(Training)),
        },
        "if": {"required": ["preset"]},
        "else": {"properties": strict, "anyOf": [{"required": ["objective"]}, FIXED]},
        "$defs": defs,
    }


def _selection(model: type[BaseModel]) -> Json:
    """Return the schema of one selection of targets."""
    kinds: Json = {"enum": [*SELECTABLE]}
    own = {
        "kind": {"anyOf": [kinds, _listed(kinds)]},
        **dict.fromkeys(("include", "exclude", "type"), TEXTS),
        "metric": {"$ref": "#/$defs/metric"},
        "round_to": STEP,
    }
    properties = _properties(model)
    properties = {name: _stated(properties[name], own.get(name)) for name in properties}
    return _table(properties, [], _first_line(model))


def _strategies(registry: Registry, model: type[BaseModel]) -> Json:
    """Return the schema of an axis: a name, or a table of a name and the options of that name."""
    beside = _properties(model)
    default = beside.pop("name", {}).get("default")
    if "round_to" in beside:
        beside["round_to"] = _stated(beside["round_to"], STEP)
    names = [{"const": name, "description": _first_line(cls)} for name, cls in registry.items()]
    tables = []
    for name, cls in registry.items():
        options, needed = _options(cls)
        required = [*([] if name == default else ["name"]), *needed]
        tables.append(
            _table({"name": {"const": name}, **beside, **options}, required, _first_line(cls))
        )
    return {"anyOf": [{"oneOf": names}, *tables]}


def _change(strategies: Json) -> Json:
    """Return the schema of a table without a name: it changes options of a preset's strategy."""
    tables = [one["properties"] for one in strategies["anyOf"] if "properties" in one]
    return _table({key: True for one in tables for key in one if key != "name"}, [], "")


def _objectives() -> list[Json]:
    """Return one table for each objective: its goal under its name, and its options."""
    tables = []
    for name, cls in OBJECTIVES.items():
        options, needed = _options(cls)
        goal = _stated(options.pop("goal"), None) | {"description": _first_line(cls)}
        required = [name, *(one for one in needed if one != "goal")]
        tables.append(_table({name: goal, **options}, required, _first_line(cls)))
    return tables


def _options(cls: type[Any]) -> tuple[Json, list[str]]:
    """Return the options of a strategy, and the names of those that must be given."""
    types = get_type_hints(cls, include_extras=True)
    options: Json = {}
    needed: list[str] = []
    for field in fields(cls):
        options[field.name] = TypeAdapter(types[field.name]).json_schema()
        if said := _said(cls, field.name):
            options[field.name]["description"] = said
        if field.default is not MISSING:
            options[field.name]["default"] = field.default
        elif field.default_factory is MISSING:
            needed.append(field.name)
    return options, needed


def _properties(model: type[BaseModel]) -> Json:
    """Return what pydantic knows of the keys of a table, with what the docstring says of them."""
    made: Json = model.model_json_schema()["properties"]
    for name, one in made.items():
        one.pop("title", None)
        if said := _said(model, name):
            one["description"] = said
    return made


def _stated(found: Json, own: Json | None) -> Json:
    """Return a schema of ours in the place of pydantic's, with its default and description."""
    if own is None:
        return found
    kept = {key: found[key] for key in ("default", "description") if found.get(key) is not None}
    return own | kept


def _table(properties: Json, required: list[str], description: str) -> Json:
    table: Json = {"type": "object", "additionalProperties": False, "properties": properties}
    return table | ({"required": required} if required else {}) | {"description": description}


def _listed(items: Json) -> Json:
    return {"type": "array", "items": items, "minItems": 1}


def _first_line(cls: type[Any]) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _said(cls: type[Any], option: str) -> str:
    """Return the sentences about an option in the docstrings of a class and those above it.

    >>> class Ball:
    ...     '''A ball. It has the radius `r`. It bounces.'''
    >>> _said(Ball, "r")
    'It has the radius `r`.'
    """
    for one in cls.__mro__:
        text = " ".join((one.__dict__.get("__doc__") or "").split())
        found = [s for s in re.split(r"(?<=[.:]) (?=[A-Z`])", text) if f"`{option}`" in s]
        if found:
            return " ".join(found)
    return ""
