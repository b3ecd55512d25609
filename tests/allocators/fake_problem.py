"""A problem without a model: targets of a known price and importance, whose optimum is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxprune.allocators import Bounds, Choice
from fxprune.allocators.budget import Budget
from fxprune.objectives import Objective
from fxprune.targets import Target

Shares = NDArray[np.float64]


class Nothing:
    """Stand for the cost of a model that there is none of."""

    tensors: tuple[Any, ...] = ()

    def __init__(self, size: int) -> None:
        self._size = size

    def whole(self) -> NDArray[np.bool_]:
        return np.ones(self._size + 1, dtype=bool)

    def every_axis(self) -> list[Any]:
        return []

    def choices(self) -> list[Any]:
        return []


@dataclass(frozen=True)
class Priced(Objective):
    """Keep the share `goal` of the summed prices of units."""

    prices: tuple[float, ...] = ()

    def count(self, cost: Any, alive: Any) -> float:
        return float(np.dot(self.prices, alive[1:]))


@dataclass
class Fake:
    """Make a `Budget` of targets of `sizes`, whose units have `prices`, and count evaluations."""

    sizes: Sequence[int]
    prices: Sequence[float]
    value: Callable[[Shares], float]
    goal: float = 0.5
    bounds: Bounds = field(default_factory=Bounds)
    asked: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        ends = np.cumsum([0, *self.sizes])
        self.units = [np.arange(a, b) + 1 for a, b in pairwise(ends)]
        self._known: dict[bytes, float] = {}

    def gone(self, choice: Choice) -> Shares:
        """Return the share of each target that is gone."""
        return np.array([1.0 - choice.alive[units].mean() for units in self.units])

    def spent(self, choice: Choice) -> float:
        """Return the share of all prices that is kept."""
        kept = 1.0 - self.gone(choice)
        whole = np.multiply(self.prices, self.sizes)
        return float((whole * kept).sum() / whole.sum())

    def _evaluate(self, choice: Choice) -> float:
        key = choice.alive.tobytes()
        if key not in self._known:
            self._known[key] = self.value(self.gone(choice))
            self.asked.append(self._known[key])
        return self._known[key]

    def problem(self) -> Budget:
        random = np.random.default_rng(0)
        targets = [Target(f"t{k}", "channel", u, (), True) for k, u in enumerate(self.units)]
        prices = tuple(np.repeat(self.prices, self.sizes).tolist())
        objective = Priced(self.goal, prices)
        return Budget(
            Nothing(sum(self.sizes)),  # type: ignore[arg-type]
            targets,
            [random.random(size) for size in self.sizes],
            [self.bounds] * len(targets),
            [*self.sizes],
            objective,
            "priced",
            float(sum(prices)),
            evaluator=self._evaluate,
            say=self.said.append,
        )


WEIGHTS = np.array([1.0, 30.0, 1.0, 0.5])
PRICES = (1.0, 1.5, 1.0, 0.5)
SIZES = (64, 64, 64, 64)
GOAL = 0.7


def quadratic(gone: Shares) -> float:
    """Return what is left of a score of which each target's part falls by w·share²."""
    return float(-(WEIGHTS * gone**2).sum())


def optimum() -> float:
    """Return the best score at the goal: by Lagrange, shares are as price over weight."""
    price = np.array(PRICES)
    asked = (1.0 - GOAL) * price.sum()
    shares = asked * (price / WEIGHTS) / (price**2 / WEIGHTS).sum()
    assert shares.max() < 1.0
    return quadratic(shares)


def precious(**changes: Any) -> Fake:
    """Return four targets, of which the second is precious."""
    return Fake(**({"sizes": SIZES, "prices": PRICES, "value": quadratic, "goal": GOAL} | changes))
