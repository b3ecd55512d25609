"""Read specifications: presets by name, TOML, YAML and JSON files, presets with axes replaced."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fxprune import presets
from fxprune.errors import FileError, SpecError

FORMATS = {".toml": "TOML", ".json": "JSON", ".yaml": "YAML", ".yml": "YAML"}
STRATEGIES = ("metric", "allocation", "schedule")  # the axes that are a name and its options


class _Loader(yaml.SafeLoader):
    """Refuse a key that stands twice in a table, as TOML does; YAML itself takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a table whose keys all differ."""
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                problem = f"{key.value} is given twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(given: str | Path) -> Any:
    """Return the data of a preset, or of a TOML, YAML or JSON file.

    A text that ends in none of their suffixes is the name of a preset. Raises FileError where the
    file cannot be read, SpecError where it cannot be parsed.
    """
    if isinstance(given, str) and Path(given).suffix.lower() not in FORMATS:
        return presets.read(given)
    path = Path(given)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"{path}: the spec cannot be read: {reason}") from None
    kind = FORMATS.get(path.suffix.lower(), "TOML")
    try:
        if kind == "JSON":
            return json.loads(text, object_pairs_hook=_once)
        return yaml.load(text, _Loader) if kind == "YAML" else tomllib.loads(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise SpecError(f"{path}: not {kind}: {line}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a table of JSON whose keys all differ."""
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} is given twice")
    return table


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a specification of which a `preset` fills in what it leaves open.

    An axis that is given replaces the preset's. A table without a name changes options of the
    strategy that the preset chose.

    >>> with_preset({"preset": "agp", "schedule": {"steps": 3}})["schedule"]
    {'name': 'agp', 'steps': 3}
    """
    data = dict(given)
    name = data.pop("preset", None)
    if name is None:
        return data
    if not isinstance(name, str):
        raise SpecError(f"preset: {name!r}: the name of a preset is needed")
    base = presets.read(name, "preset")
    for axis in STRATEGIES:
        table = data.get(axis)
        if isinstance(table, Mapping) and "name" not in table and axis in base:
            chosen = base[axis]
            data[axis] = {**({"name": chosen} if isinstance(chosen, str) else chosen), **table}
    return {**base, **data}
