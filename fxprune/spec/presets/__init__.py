"""Presets: published algorithms as specifications, one TOML file each, named after the file.

Comments in the file say what it does, its paper, what to give, and how it differs from the paper.
A specification names a preset and may replace parts of it.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

from fxprune.errors import PluginError, SpecError, unknown
from fxprune.plugins import advertised, load_entry, only

GROUP = "fxprune.presets"  # an entry point is the package in which NAME.toml lies


def names() -> list[str]:
    """Return the names of all presets."""
    return sorted({*_own(), *advertised(GROUP)})


def _own() -> list[str]:
    files = resources.files(__name__).iterdir()
    return [one.name.removesuffix(".toml") for one in files if one.name.endswith(".toml")]


def text(name: str, where: str = "spec") -> str:
    """Return the file of a preset: its paper in comments, and the specification.

    Raises SpecError, with the path inside the spec, where there is none of that name.
    """
    if name not in names():
        raise SpecError(
            f"{where}: {unknown('preset', name, names())}. "
            "A file's name ends in .toml, .yaml or .json"
        )
    entry = only(GROUP, name, __name__ if name in _own() else None)
    folder = __name__ if entry is None else load_entry(entry).__name__
    try:
        return resources.files(folder).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    except OSError:
        raise PluginError(f"{GROUP}: {folder} holds no {name}.toml; mend or uninstall it") from None


def line(name: str) -> str:
    """Return what a preset does, in one line.

    >>> line("agp")
    'automated gradual pruning, ...'
    """
    return text(name).partition("\n")[0].removeprefix(f"# {name}: ")


def read(name: str, where: str = "spec") -> dict[str, Any]:
    """Return the specification of a preset as plain data.

    >>> read("l2")["metric"]
    'l2'
    """
    return tomllib.loads(text(name, where))
