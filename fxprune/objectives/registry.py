"""Keep the table of objectives by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from fxprune.cost import Cost
from fxprune.guards import Mask


@dataclass(frozen=True)
class Objective(ABC):
    """Measure a choice of units against the share `goal` that is to be kept: 1 is the whole."""

    goal: float

    @abstractmethod
    def measure(self, cost: Cost, alive: Mask, gone: float) -> float:
        """Return the share that is left; `gone` is the sparsity ratio of the choice."""


OBJECTIVES: dict[str, type[Objective]] = {}
T = TypeVar("T", bound=type[Objective])


def objective(name: str) -> Callable[[T], T]:
    """Register a frozen dataclass as the objective `name`."""

    def decorate(cls: T) -> T:
        OBJECTIVES[name] = cls
        return cls

    return decorate
