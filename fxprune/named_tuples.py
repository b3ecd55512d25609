"""Give named tuples, which models may take and return, the names that files know them by.

torch writes and reads only those that somebody has registered; others are found by the name of
their module, which is imported only if the file is trusted.
"""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Iterator
from functools import reduce
from importlib import import_module
from typing import Any

from torch.utils import _pytree as pytree

KIND = "collections.namedtuple"
SPECS = ("in_spec", "out_spec")


def register(*specs: pytree.TreeSpec | None) -> None:
    """Register every named tuple in some trees that has no name in files yet."""
    for spec in specs:
        if spec is None or spec.is_leaf():
            continue
        if spec.type is namedtuple and spec.context not in pytree.SUPPORTED_SERIALIZED_TYPES:
            cls = spec.context
            name = f"{cls.__module__}:{cls.__qualname__}"
            pytree._register_namedtuple(cls, serialized_type_name=name)
        register(*spec.children())


def missing(program: Any) -> list[str]:
    """Return the names of named tuples in the parsed model.json that nobody has registered."""
    found = [name for tree in _trees(program) for name in _names(tree)]
    return [n for n in dict.fromkeys(found) if n not in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE]


def imported(name: str) -> None:
    """Import the module of a named tuple, which runs its code, and register it.

    Raises ImportError or AttributeError where it is not there.
    """
    module, _, path = name.partition(":")
    cls: Any = reduce(getattr, path.split("."), import_module(module))
    if name not in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE:
        pytree._register_namedtuple(cls, serialized_type_name=name)


def _trees(value: Any) -> Iterator[Any]:
    """Yield the trees of inputs and outputs that stand as texts in a program."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in SPECS and isinstance(inner, str) and inner:
                yield json.loads(inner)[1]
            else:
                yield from _trees(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _trees(inner)


def _names(tree: Any) -> Iterator[str]:
    if tree["type"] == KIND and isinstance(tree["context"], str):
        yield json.loads(tree["context"]) if tree["context"][:1] == '"' else tree["context"]
    for child in tree["children_spec"]:
        yield from _names(child)
