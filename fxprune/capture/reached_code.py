"""What running code can change by name: globals of modules, attributes of classes, closures."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType, ModuleType
from typing import Any

from fxprune.capture.snapshots import MISSING, Put

LIBRARIES = frozenset([*sys.stdlib_module_names, "torch", "numpy", "fxprune"]) - {"__main__"}


def library(module: Any) -> bool:
    """Tell whether a module, by its name, is of Python, of torch, of NumPy or of fxprune."""
    return str(module).partition(".")[0] in LIBRARIES


class ReachedCode:
    """Collect the names that functions use, and the namespaces in which these names stand."""

    def __init__(self) -> None:
        self._names = {"forward"}
        self._spaces: dict[int, tuple[Any, Mapping[str, Any], dict[str, Any]]] = {}

    def function(self, one: FunctionType) -> Iterator[Any]:
        """Yield what a function names, and what earlier namespaces have of these names."""
        if library(one.__module__):
            return
        yield from (_content(cell) for cell in one.__closure__ or ())
        yield from (one.__defaults__, one.__kwdefaults__, vars(one))
        new = set(_names_of(one.__code__)) - self._names
        self._names |= new
        for _, _, was in self._spaces.values():
            yield from (was[name] for name in new & was.keys())
        yield from self._entered(one.__globals__, one.__globals__)

    def namespace(self, one: type | ModuleType) -> Iterator[Any]:
        """Yield what is named so far of a class or module."""
        if not library(one.__module__ if isinstance(one, type) else one.__name__):
            yield from self._entered(one, vars(one))

    def _entered(self, owner: Any, space: Mapping[str, Any]) -> Iterator[Any]:
        key = id(owner) if isinstance(owner, type) else id(space)
        if key in self._spaces:
            return
        self._spaces[key] = owner, space, (was := dict(space))
        implied = isinstance(owner, type)  # methods such as __getitem__ are called unnamed
        for name, value in was.items():
            if name in self._names or (implied and _special(name)):
                yield value

    def modules(self) -> list[dict[str, Any]]:
        """Return the namespaces of the modules whose functions were entered."""
        spaces = (space for owner, space, _ in self._spaces.values() if owner is space)
        return [space for space in spaces if isinstance(space, dict)]

    def puts(self) -> Iterator[tuple[Put, str]]:
        """Yield what puts the namespaces back, and what each is called."""
        for owner, space, was in self._spaces.values():
            name = owner.__qualname__ if isinstance(owner, type) else str(was.get("__name__"))
            yield partial(_put_names, owner, space, was, self._names), name


def cells(one: FunctionType) -> Iterator[tuple[Put, str]]:
    """Yield what puts the variables back that a function shares with the one around it."""
    for name, cell in zip(one.__code__.co_freevars, one.__closure__ or (), strict=True):
        yield partial(_put_cell, cell, _content(cell), name), name


def _special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and name != "__init__"


def _names_of(code: CodeType) -> Iterable[str]:
    yield from code.co_names
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _names_of(one)


def _put_names(owner: Any, space: Any, was: dict[str, Any], names: set[str]) -> list[Any]:
    """Bind names as they were bound: those that the code uses."""
    now = dict(space)
    changed = [n for n in names if now.get(n, MISSING) is not was.get(n, MISSING)]
    for name in changed:
        if isinstance(owner, type):
            type.__setattr__(owner, name, was[name]) if name in was else type.__delattr__(
                owner, name
            )
        elif name in was:
            space[name] = was[name]
        else:
            del space[name]
    return changed


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # nothing was assigned yet
        return MISSING


def _put_cell(cell: Any, was: Any, name: str) -> list[Any]:
    if _content(cell) is was:
        return []
    if was is MISSING:
        del cell.cell_contents
    else:
        cell.cell_contents = was
    return [name]
