"""Hold things by name: those that are registered here, and those that plug-ins bring."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, TypeVar

from fxprune.errors import PluginError
from fxprune.plugins.entry_points import advertised, load, named, only

V = TypeVar("V")
R = TypeVar("R")


class Table(MutableMapping[str, V]):
    """Map names to things; a name of a plug-in is loaded when it is looked up.

    `group` is that of the entry points, none where plug-ins have no place. `refused` says what is
    wrong with a thing that a plug-in brings, in words, or returns "".
    """

    def __init__(self, group: str = "", refused: Callable[[Any], str] = lambda _: "") -> None:
        self.group = group
        self.own: dict[str, V] = {}
        self._refused = refused

    def register(self, name: str) -> Callable[[R], R]:
        """Register a thing as `name`; raises PluginError where another thing has that name."""

        def decorate(thing: R) -> R:
            there = self.own.get(name)
            if there is not None and _home(there) != _home(thing):
                raise PluginError(
                    f"{name!r} is the name of {'.'.join(_home(there))} already; choose another"
                )
            if why := self._refused(thing):
                raise PluginError(f"{name!r}: {why}")
            self[name] = thing  # type: ignore[assignment]
            return thing

        return decorate

    def __getitem__(self, name: str) -> V:
        there = self.own.get(name)
        entry = only(self.group, name, None if there is None else _home(there)[0])
        if there is not None or entry is None:
            return self.own[name]
        loaded = load(entry)
        if name not in self.own:  # it did not register itself
            if why := self._refused(loaded):
                place = f"{self.group}: {name!r} of {named(entry)} ({entry.value})"
                raise PluginError(f"{place}: {why}")
            self[name] = loaded
        return self.own[name]

    def __setitem__(self, name: str, thing: V) -> None:
        self.own[name] = thing

    def __delitem__(self, name: str) -> None:
        del self.own[name]

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in advertised(self.group)

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from (name for name in sorted(advertised(self.group)) if name not in self.own)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _home(thing: Any) -> tuple[str, str]:
    """Return the module and the name of a class or a function."""
    named_thing = thing if hasattr(thing, "__qualname__") else type(thing)
    return str(named_thing.__module__), str(named_thing.__qualname__)
