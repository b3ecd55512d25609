"""Read specifications: presets by name, TOML, YAML and JSON files, presets with axes replaced."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from fxprune.errors import FileError, SpecError
from fxprune.spec import presets

FORMATS = {".toml": "TOML", ".json": "JSON", ".yaml": "YAML", ".yml": "YAML"}
BYTES = 1_000_000  # that a specification has at most
MOST = 10_000  # values that one in YAML has at most
STRATEGIES = (
    "metric",
    "allocation",
    "schedule",
    "repair",
)  # the axes that are a name and its options
TABLES = (*STRATEGIES, "fine_tune")  # of which a table without a name changes a preset's


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
        with path.open("rb") as file:
            data = file.read(BYTES + 1)  # and no more of a file without end
        text = data.decode() if len(data) <= BYTES else ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"{path}: the spec cannot be read: {reason}") from None
    if len(data) > BYTES:
        raise FileError(f"{path}: holds more than {BYTES:,} bytes, which no spec does")
    kind = FORMATS.get(path.suffix.lower(), "TOML")
    try:
        if kind == "JSON":
            return json.loads(text, object_pairs_hook=_once)
        return _yaml(text) if kind == "YAML" else tomllib.loads(text)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise SpecError(f"{path}: not {kind}: {line}") from None


def _yaml(text: str) -> Any:
    """Return the data of a YAML text whose aliases do not stand for more than they should."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > MOST:
            raise yaml.YAMLError(f"its aliases stand for more than {MOST:,} values")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a part of a YAML document has, each alias counted in full."""
    if id(node) in known:
        if known[id(node)] < 0:
            raise yaml.YAMLError("an alias stands for what it is a part of")
        return known[id(node)]
    known[id(node)] = -1  # while its parts are counted
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = node.value
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    known[id(node)] = count = 1 + sum(_values(part, known) for part in parts)
    return count


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a table of JSON whose keys all differ."""
    table = dict(pairs)
    if len(table) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice} is given twice")
    return table


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a specification of which a `preset` fills in what it does not say.

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
    for axis in TABLES:
        table = data.get(axis)
        if isinstance(table, Mapping) and "name" not in table and axis in base:
            chosen = base[axis]
            data[axis] = {**({"name": chosen} if isinstance(chosen, str) else chosen), **table}
    return {**base, **data}
