"""Presets: published algorithms as specifications, one TOML file each, named after the file.

Comments in the file say what it does, its paper, what to give, and how it differs from the paper.
A specification names a preset and may replace parts of it.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

from fxprune.errors import SpecError, unknown


def names() -> list[str]:
    """Return the names of all presets."""
    files = resources.files(__name__).iterdir()
    return sorted(one.name.removesuffix(".toml") for one in files if one.name.endswith(".toml"))


def text(name: str, where: str = "spec") -> str:
    """Return the file of a preset: its paper in comments, and the specification.

    Raises SpecError, with the path inside the spec, where there is none of that name.
    """
    if name not in names():
        raise SpecError(
            f"{where}: {unknown('preset', name, names())}. "
            "A file's name ends in .toml, .yaml or .json"
        )
    return resources.files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")


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
