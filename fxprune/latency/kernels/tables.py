"""What a family of kernels takes as a function of its widths: measured, stepped, interpolated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator
from scipy.optimize import nnls

from fxprune.latency.kernels.groups import Group

Array = NDArray[np.float64]
Widths = tuple[int, ...]
Time = Callable[[Group, Widths], float]  # microseconds
STEPS = (32, 16, 8, 4, 2)  # multiples of which a staircase may be made, the coarsest first
PROBED = (1, 2, 4, 8, 12, 16, 24)  # how far below a width the staircase is looked at
FLAT = 0.985  # what takes more than this share of the time is no gain


def levels(width: int) -> list[int]:
    """Return the widths at which a kernel of at most `width` is timed.

    >>> levels(64), levels(100), levels(3)
    ([8, 16, 32, 48, 64], [16, 32, 64, 96, 100], [1, 2, 3])
    """
    powers = [2**k for k in range(20)]
    found = {w for w in powers if width / 8 <= w < width}
    found |= {3 * w // 2 for w in powers if width / 2 < 3 * w // 2 < width}
    return sorted({*found, width})


@dataclass(frozen=True)
class Stairs:
    """Say at which multiples a width gains anything, and what a width between them costs."""

    step: int = 1
    penalty: float = 1.0

    def up(self, width: Any) -> Any:
        """Return the width whose time another takes."""
        return np.ceil(np.asarray(width) / self.step) * self.step

    def factor(self, width: Any) -> Any:
        """Return what a width costs in terms of the multiple above it."""
        return np.where(np.asarray(width) % self.step == 0, 1.0, self.penalty)


def stairs_of(times: dict[int, float], top: int) -> Stairs:
    """Return the staircase that times at widths `top`, `top` - 1, … show.

    >>> stairs_of({64: 100, 63: 100, 62: 100, 60: 101, 56: 90, 52: 90, 48: 80, 40: 70}, 64).step
    8
    """
    best = times[top]
    for step in STEPS:
        below = [us for width, us in times.items() if top - step < width < top]
        end = times.get(top - step)
        if end is None and step == STEPS[0]:
            end = min(times.values())
        if below and end is not None and min(below) >= FLAT * best and end < min(below):
            return Stairs(step, float(max(1.0, np.median(below) / best)))
    return Stairs()


@dataclass(frozen=True, eq=False)
class Table:
    """Predict the microseconds of a family, of up to two widths on a grid, else by elements."""

    group: Group
    grid: Sequence[Sequence[int]] = ()
    values: Array = field(default_factory=lambda: np.zeros(()))
    stairs: Sequence[Stairs] = ()
    affine: tuple[float, float] = (0.0, 0.0)  # microseconds, and more for each element

    def at(self, widths: Sequence[Any]) -> Any:
        """Return the microseconds at some widths, which may be arrays that broadcast."""
        if not self.grid:
            sizes = dict(zip(self.group.axes, widths, strict=True))
            return self.affine[0] + self.affine[1] * self.group.elements(sizes)
        arrays = np.broadcast_arrays(*(np.asarray(w, dtype=np.float64) for w in widths))
        factor = np.ones(arrays[0].shape)
        points = []
        for stair, one, known in zip(self.stairs, arrays, self.grid, strict=True):
            factor = factor * stair.factor(one)
            points.append(np.minimum(stair.up(one), max(known[-1], 1)))
        found = self._interpolated(np.stack([p.ravel() for p in points], axis=1))
        return factor * np.maximum(found, 0.0).reshape(arrays[0].shape)

    def _interpolated(self, points: Array) -> Array:
        found: Array = RegularGridInterpolator(
            [np.asarray(one, dtype=np.float64) for one in self.grid],
            self.values,
            bounds_error=False,
            fill_value=None,
        )(points)
        return found

    def smooth(self, widths: Sequence[Any]) -> Any:
        """Return about the same as a sum of products of widths, for a solver of linear programs."""
        if not self.grid:
            return self.at(widths)
        total: Any = 0.0
        for coefficient, powers in zip(self._coefficients(), _powers(len(self.grid)), strict=True):
            term: Any = coefficient
            for width, power in zip(widths, powers, strict=True):
                term = term * width if power else term
            total = total + term
        return total

    def _coefficients(self) -> Array:
        points = list(product(*self.grid))
        features = np.array(
            [
                [np.prod([w**p for w, p in zip(one, powers, strict=True)]) for one in points]
                for powers in _powers(len(self.grid))
            ],
            dtype=np.float64,
        ).T
        wanted = np.maximum(self.values.ravel(), 1e-3)
        scale = np.maximum(features.max(axis=0), 1e-12)
        found, _ = nnls(features / scale / wanted[:, None], np.ones(len(points)))
        coefficients: Array = found / scale
        return coefficients


def _powers(rank: int) -> list[tuple[int, ...]]:
    return list(product((0, 1), repeat=rank))


def wanted(group: Group, most: Widths, samples: Sequence[Widths]) -> list[Widths]:
    """Return the widths at which a family must be timed: a grid, and a walk down each axis.

    What is predicted by elements is timed at `samples`: widths that a model can have.
    """
    if not on_grid(group):
        return list(dict.fromkeys(samples))
    points = list(product(*(levels(width) for width in most)))
    for axis in range(len(most)):
        points += _walk(most, axis)
    return list(dict.fromkeys(points))


def on_grid(group: Group) -> bool:
    """Tell whether a family gets a grid: a product of one or two widths."""
    return group.multiplies and 1 <= len(group.axes) <= 2


def _middle(most: Widths) -> Widths:
    return tuple(max(one for one in levels(w) if one <= max(w / 2, 1)) for w in most)


def _walk(most: Widths, axis: int) -> list[Widths]:
    """Return widths just below the middle of the grid along one axis."""
    middle = _middle(most)
    top = middle[axis] // 32 * 32
    if top < 32:
        return []
    widths = [top - less for less in (0, *PROBED) if top - less > 0]
    return [(*middle[:axis], width, *middle[axis + 1 :]) for width in widths]


def tabulated(group: Group, most: Widths, samples: Sequence[Widths], time: Time) -> Table:
    """Return the table of a family up to some widths, asking `time` for what it needs."""
    if not on_grid(group):
        points = wanted(group, most, samples)
        elements = [group.elements(group.sizes(one)) for one in points]
        features = np.stack([np.ones(len(points)), np.array(elements, dtype=np.float64)], axis=1)
        scale = features.max(axis=0)
        found, _ = nnls(features / scale, np.array([time(group, one) for one in points]))
        fixed, each = (found / scale).tolist()
        return Table(group, affine=(fixed, each))
    grid = [levels(width) for width in most]
    values = np.array([time(group, one) for one in product(*grid)])
    stairs = []
    for axis in range(len(most)):
        walked = {one[axis]: time(group, one) for one in _walk(most, axis)}
        stairs.append(stairs_of(walked, max(walked)) if walked else Stairs())
    return Table(group, grid, values.reshape([len(one) for one in grid]), stairs)
