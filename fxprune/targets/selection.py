"""Which targets may lose units, on which terms; and the graph that they were found in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import fx

from fxprune.rules import Coupling
from fxprune.targets.discovery import Target


@dataclass(frozen=True)
class Terms:
    """Hold what a selection asks of its targets by itself: a metric, and bounds by name.

    What it does not say is as the specification says for all.
    """

    metric: tuple[str, Mapping[str, Any]] | None = None
    bounds: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Original:
    """Hold a graph before anything is removed, and what its operators state."""

    module: fx.GraphModule
    coupling: Coupling

    state: ClassVar[str] = "coupled"


@dataclass(frozen=True)
class Selection:
    """Hold the targets that may lose units, and the terms of each."""

    targets: tuple[Target, ...]
    terms: tuple[Terms, ...]

    state: ClassVar[str] = "selected"

    @classmethod
    def whole(cls, targets: tuple[Target, ...]) -> Selection:
        """Return the selection of targets without terms of their own."""
        return cls(targets, (Terms(),) * len(targets))
