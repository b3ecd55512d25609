"""Read the entry points of installed distributions, and load them, naming whose fails."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fxprune.errors import FxpruneError, PluginError, root_cause

GROUPS = (
    "fxprune.rules",
    "fxprune.metrics",
    "fxprune.allocators",
    "fxprune.schedules",
    "fxprune.objectives",
    "fxprune.passes",
    "fxprune.devices",
    "fxprune.presets",
)


@cache
def advertised(group: str) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Return the entry points of a group by name; nothing is loaded."""
    found: dict[str, tuple[EntryPoint, ...]] = {}
    for entry in entry_points(group=group):
        alike = found.get(entry.name, ())
        if all((entry.value, named(entry)) != (one.value, named(one)) for one in alike):
            found[entry.name] = (*alike, entry)
    return found


def only(group: str, name: str, own_module: str | None = None) -> EntryPoint | None:
    """Return the entry point of a name, or None where no distribution brings one.

    `own_module` is where the thing that has this name already comes from. Raises PluginError where
    two distributions bring the name, or one that is not the one that has it.
    """
    entries = advertised(group).get(name, ())
    if len(entries) > 1:
        whose = " and ".join(named(one) for one in entries)
        raise PluginError(f"{group}: {whose} both bring {name!r}; uninstall one of them")
    entry = entries[0] if entries else None
    if entry is not None and own_module is not None and _top(own_module) != _top(entry.module):
        raise PluginError(
            f"{group}: {named(entry)} brings {name!r}, which {_top(own_module)} has already; "
            "uninstall it, or let it choose another name"
        )
    return entry


def load(entry: EntryPoint) -> Any:
    """Return what an entry point stands for; raises PluginError that names its distribution."""
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # it is somebody else's code
        said = str(error) if isinstance(error, FxpruneError) else root_cause(error, 200)
        raise PluginError(
            f"{entry.group}: {entry.name!r} of {named(entry)} cannot be loaded "
            f"({entry.value}): {said}; mend it, or uninstall it"
        ) from error


@cache
def load_all(group: str) -> None:
    """Load every entry point of a group, once; raises PluginError at the first that fails."""
    for entries in advertised(group).values():
        for entry in entries:
            load(entry)


def named(entry: EntryPoint) -> str:
    """Return the name and version of the distribution that brings an entry point."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "a distribution"


def _top(module: str) -> str:
    return module.partition(".")[0]
