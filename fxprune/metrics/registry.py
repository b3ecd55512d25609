"""Keep the table of metrics by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import fx

from fxprune.rules.site import Coupling
from fxprune.targets import Target

Scores = NDArray[np.float64]


class Metric(Protocol):
    """Score the units of targets: higher is more important."""

    def score(
        self, module: fx.GraphModule, coupling: Coupling, targets: Sequence[Target]
    ) -> list[Scores]:
        """Return one array of shape `[units]` for each target."""


METRICS: dict[str, type[Metric]] = {}
M = TypeVar("M", bound=type[Metric])


def metric(name: str) -> Callable[[M], M]:
    """Register a frozen dataclass as the metric `name`."""

    def decorate(cls: M) -> M:
        METRICS[name] = cls
        return cls

    return decorate
