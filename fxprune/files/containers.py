"""Give the containers that models may take and return the names that files know them by.

Data classes, named tuples and whatever else is registered as a pytree. A file gives only names:
the types are those that this process has already, and a module is imported for one of them only if
the file is trusted.
"""

from __future__ import annotations

import json
import sys
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import EnumMeta
from functools import reduce
from importlib import import_module
from types import ModuleType
from typing import Any

from torch.utils import _pytree as pytree

NAMED_TUPLE = "collections.namedtuple"
NAMELESS = pytree.NO_SERIALIZED_TYPE_NAME_FOUND
SPECS = ("in_spec", "out_spec")


def register(*specs: pytree.TreeSpec | None) -> None:
    """Name every container in some trees that has no name in files yet."""
    for spec in specs:
        if spec is None or spec.is_leaf():
            continue
        _name(spec.context if spec.type is namedtuple else spec.type)
        register(*spec.children())


def _name(cls: type[Any]) -> None:
    """Name a container after its place, unless whoever registered it gave it a name."""
    held = pytree.SUPPORTED_SERIALIZED_TYPES.get(cls)
    if held is not None and held.serialized_type_name != NAMELESS:
        return
    name = place(cls)
    if held is None:
        pytree._register_namedtuple(cls, serialized_type_name=name)
        return
    pytree.SUPPORTED_SERIALIZED_TYPES[cls] = held._replace(serialized_type_name=name)
    pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE[name] = cls


def place(cls: type[Any]) -> str:
    """Return where a type is defined."""
    return f"{cls.__module__}:{cls.__qualname__}"


def known(name: Any) -> type[Any] | None:
    """Return the container of a name if this process has it already; nothing is imported."""
    if not isinstance(name, str) or name == NAMELESS:
        return None
    cls = pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE.get(name)
    if cls is None:
        cls = next((one for one in pytree.SUPPORTED_NODES if place(one) == name), None)
    if cls is None:
        found = here(name)
        cls = found if isinstance(found, type) and pytree.is_namedtuple_class(found) else None
    if cls is not None:
        _name(cls)
        pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE[name] = cls
    return cls


def known_tuple(context: Any) -> bool:
    """Tell whether this process has the named tuple that a tree names."""
    cls = known(tuple_name(context))
    return cls is not None and pytree.is_namedtuple_class(cls)


def tuple_name(context: Any) -> Any:
    """Return the name of a named tuple, which stands in the context of a tree."""
    quoted = isinstance(context, str) and context[:1] == '"'
    return json.loads(context) if quoted else context


def known_enum(name: Any) -> bool:
    """Tell whether `module:Class` is an enumeration of a module that is imported."""
    return isinstance(name, str) and isinstance(here(name), EnumMeta)


def here(name: str) -> Any:
    """Return what `module:Path.Of.Names` is in an imported module, without running any code."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in path.split("."):
        found = vars(found).get(part) if isinstance(found, (ModuleType, type)) else None
    return found


def missing(program: Any) -> list[str]:
    """Return the names in the parsed model.json of containers that this process has not."""
    found = [name for tree in _trees(program) for name in _names(tree)]
    return [name for name in dict.fromkeys(found) if known(name) is None]


def imported(name: str) -> None:
    """Import the module of a container, which runs its code and may register it.

    A data class or a named tuple that it leaves unregistered is registered here. Raises what
    importing raises, and LookupError for what is neither.
    """
    module, colon, path = name.partition(":")
    if not colon:
        module, _, path = name.rpartition(".")
    if not module:
        raise LookupError("nothing here has registered it")
    cls: Any = reduce(getattr, path.split("."), import_module(module))
    if known(name) is not None:
        return
    if not is_dataclass(cls) or not isinstance(cls, type):
        raise LookupError("it is registered nowhere")
    pytree.register_dataclass(cls, serialized_type_name=name)


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
    if tree["type"] is not None:
        yield tuple_name(tree["context"]) if tree["type"] == NAMED_TUPLE else tree["type"]
    for child in tree["children_spec"]:
        yield from _names(child)
