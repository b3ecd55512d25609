"""Keep the table of schedules by name, and what a schedule says."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from fxprune.registry import Registry

MOST = 10_000  # steps, each of which prunes and trains: more is a slip of the pen


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """Say how far each step goes, always in terms of the original model.

    The model is fine-tuned `warmup` times before anything is removed, and once after every step.
    """

    warmup: int = 0
    rewinds: ClassVar[bool] = False  # whether weights are rewound after each step

    def __post_init__(self) -> None:
        if self.warmup < 0:
            raise ValueError(f"warmup={self.warmup}: 0 or more is needed")
        if self.count < 1:
            raise ValueError(f"steps={self.count}: 1 or more is needed")
        for name, value in (("warmup", self.warmup), ("steps", self.count)):
            if value > MOST:
                raise ValueError(f"{name}={value}: {MOST:,} or fewer are needed")

    @property
    @abstractmethod
    def count(self) -> int:
        """Return the number of steps."""

    @abstractmethod
    def sparsity(self, step: int, final: float) -> float:
        """Return the sparsity after `step` (1 to `count`), of the `final` one: both 0 to 1."""


SCHEDULES = Registry("schedule", "fxprune.schedules", ("count", "sparsity"))
schedule = SCHEDULES.register


def make(name: str, options: Mapping[str, Any]) -> Schedule:
    """Return the schedule `name` with the options of a specification.

    >>> [round(make("agp", {"steps": 4}).sparsity(k, 0.8), 3) for k in (1, 2, 3, 4)]
    [0.463, 0.7, 0.788, 0.8]
    """
    made: Schedule = SCHEDULES.make(name, options)
    return made
