"""The integers that a model holds: attributes of its modules, and of objects such as a config."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

OWN = frozenset(vars(nn.Module()))  # what every module has, its tensors and children among it
DEPTH = 3  # of objects in objects, such as the parts of a config
OPAQUE = ("torch", "builtins", "functools", "types", "numpy", "enum", "logging")


@dataclass(frozen=True, eq=False)
class Place:
    """Stand where a model holds an integer: an attribute of an object, or an entry inside of one.

    `path` is what `holder` is called in the model, and `inside` leads through tuples, lists and
    dicts from the attribute to the integer. `module` tells a module's own from a config's.
    """

    holder: Any
    path: str
    attribute: str
    inside: tuple[Any, ...]
    module: bool

    @property
    def name(self) -> str:
        """Return the dotted name that the place has in the model."""
        return ".".join([*filter(None, (self.path, self.attribute)), *map(str, self.inside)])

    @property
    def value(self) -> Any:
        """Return what stands there now."""
        found = vars(self.holder)[self.attribute]
        for key in self.inside:
            found = found[key]
        return found

    def put(self, value: Any) -> None:
        """Let another number stand there; what holds it is made anew where it cannot be changed."""
        held = vars(self.holder)
        held[self.attribute] = _with(held[self.attribute], self.inside, value)


def _with(container: Any, inside: tuple[Any, ...], value: Any) -> Any:
    """Return a container with an entry changed: a copy, so that the old one can be put back."""
    if not inside:
        return value
    key, *rest = inside
    changed = _with(container[key], tuple(rest), value)
    if isinstance(container, dict):
        copy = type(container)(container)
        copy[key] = changed
        return copy
    entries = [*container]
    entries[key] = changed
    return type(container)(*entries) if hasattr(container, "_fields") else type(container)(entries)


def places(model: nn.Module) -> list[Place]:
    """Return the places of all integers of 2 or more, each object looked at once."""
    return [one for holder in holders(model) for one in inside(*holder)]


def holders(model: nn.Module) -> Iterator[tuple[Any, str, bool]]:
    """Yield what holds attributes, its path and whether it is a module."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        yield module, path, True
    for path, module in model.named_modules():
        yield from _objects(module, path, seen, DEPTH)


def _objects(holder: Any, path: str, seen: set[int], depth: int) -> Iterator[tuple[Any, str, bool]]:
    for name, value in list(vars(holder).items()):
        if name in OWN or not depth or id(value) in seen or not plain(value):
            continue
        seen.add(id(value))
        label = f"{path}.{name}" if path else name
        yield value, label, False
        yield from _objects(value, label, seen, depth - 1)


def placed_at(model: nn.Module, name: str) -> Place | None:
    """Return the place of a dotted name outside of modules, whatever stands there now."""
    for holder, path, module in holders(model):
        if module or not name.startswith(f"{path}."):
            continue
        attribute, *rest = name[len(path) + 1 :].split(".")
        found, keys = vars(holder).get(attribute), []
        for label in rest:
            known = {str(key): key for key in found} if isinstance(found, dict) else None
            keys.append(int(label) if known is None else known[label])
            found = found[keys[-1]]
        if attribute in vars(holder) and not hasattr(found, "__dict__"):
            return Place(holder, path, attribute, tuple(keys), False)
    return None


def plain(value: Any) -> bool:
    """Tell objects that hold settings from tensors, modules, functions and what libraries bring."""
    kind = type(value)
    if isinstance(value, (nn.Module, torch.Tensor, type)) or callable(value):
        return False
    return hasattr(value, "__dict__") and kind.__module__.partition(".")[0] not in OPAQUE


def inside(holder: Any, path: str, module: bool) -> Iterator[Place]:
    """Yield the places of the integers of one object."""
    for name, value in vars(holder).items():
        if not (module and name in OWN):
            for keys in _integers(value):
                yield Place(holder, path, name, keys, module)


def _integers(value: Any, depth: int = 2) -> Iterator[tuple[Any, ...]]:
    if type(value) is int:
        if value >= 2:  # a unit leaves a target of two or more
            yield ()
    elif depth and type(value) in (tuple, list, dict):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            for rest in _integers(one, depth - 1):
                yield (key, *rest)
