"""The JSON schema: editors accept what the library does, and refuse what they can see wrong."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fxprune.allocators import ALLOCATORS
from fxprune.metrics import METRICS
from fxprune.objectives import OBJECTIVES
from fxprune.schedules import SCHEDULES
from fxprune.spec import Spec, presets
from tests.spec.test_spec import FORMS, HALF, WRONG

SCHEMA = Spec.json_schema()
SEEN_ONLY_BY_THE_LIBRARY = {  # they relate two values, or the spec to a model or to callbacks
    *("a kind it has not", "an include", "an exclude", "everything out", "a type it has not"),
    *("a size that none has", "bounds crossed", "bounds of all crossed", "no number"),
    *("an evaluator", "no step", "a start above", "less than no training", "nothing but cooling"),
    "a longer warm-up",
}


def accepts(given: Any) -> bool:
    return bool(Draft202012Validator(SCHEMA).is_valid(json.loads(json.dumps(given))))


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    json.dumps(SCHEMA)


@pytest.mark.parametrize("name", presets.names())
def test_it_accepts_every_preset(name: str) -> None:
    assert accepts(tomllib.loads(presets.text(name)))
    assert accepts(Spec.of(name).to_dict())


@pytest.mark.parametrize("name", FORMS)
def test_it_accepts_every_form(name: str) -> None:
    given = {**HALF, **FORMS[name][0]}
    assert accepts(given)
    assert accepts(Spec.of(given).to_dict())


@pytest.mark.parametrize("name", sorted(set(WRONG) - SEEN_ONLY_BY_THE_LIBRARY))
def test_it_refuses_what_is_wrong(name: str) -> None:
    assert not accepts(WRONG[name][0])


def test_it_knows_every_strategy_with_its_options() -> None:
    registries = {"metric": METRICS, "allocation": ALLOCATORS, "schedule": SCHEDULES}
    for axis, registry in registries.items():
        names, *tables = SCHEMA["$defs"][axis]["anyOf"]
        assert [one["const"] for one in names["oneOf"]] == [*registry]
        assert all(one["description"] for one in names["oneOf"])
        for cls, table in zip(registry.values(), tables, strict=True):
            assert {field.name for field in fields(cls)} <= {*table["properties"]}
    goals = SCHEMA["properties"]["objective"]["oneOf"]
    assert [one["required"][0] for one in goals] == [*OBJECTIVES]
    agp = next(one for one in SCHEMA["$defs"]["schedule"]["anyOf"][1:] if "agp" in str(one))
    assert agp["properties"]["initial"]["description"] == "`initial` is s₀."
    assert agp["properties"]["steps"] == {"type": "integer", "default": 5}
