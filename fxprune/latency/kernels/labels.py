"""Which number in an ONNX graph is the width of what: told by exporting the model at other widths.

The graph of a model is exported twice or more, each time with other widths, all different from
each other. A number of the graph (a size, an entry of a shape, a group count) that changes from one
export to the next as an axis of the model does *is* the size of that axis, or a multiple of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Sizes = Sequence[int]  # of every axis of a cost, at some widths
Shape = tuple[int, ...]


class Unlabelled(Exception):
    """Say which number of a graph follows no axis, so that nothing can be predicted from widths."""


@dataclass(frozen=True)
class Label:
    """Say what a number is: a constant (`axis` is None), or `times` the size of an axis."""

    axis: int | None
    times: int

    def at(self, sizes: Sizes) -> int:
        """Return the number at some widths."""
        return self.times if self.axis is None else self.times * sizes[self.axis]


class Labels:
    """Label the numbers of a graph, given the sizes of all axes at each of its exports.

    >>> labels = Labels([(64, 12), (60, 11)])
    >>> labels.of((64, 60)), labels.of((36, 33)), labels.of((3, 3))
    (Label(axis=0, times=1), Label(axis=1, times=3), Label(axis=None, times=3))
    """

    def __init__(self, exports: Sequence[Sizes]) -> None:
        self._axes: dict[tuple[int, ...], int] = {}
        for axis, column in enumerate(zip(*exports, strict=True)):
            if len(set(column)) > 1:
                self._axes.setdefault(tuple(column), axis)
        self._known: dict[tuple[int, ...], Label] = {}

    def of(self, numbers: tuple[int, ...]) -> Label:
        """Return the label of a number that is so much at each export; raises Unlabelled."""
        if len(set(numbers)) == 1:
            return Label(None, numbers[0])
        if numbers not in self._known:
            self._known[numbers] = self._multiple(numbers)
        return self._known[numbers]

    def _multiple(self, numbers: tuple[int, ...]) -> Label:
        if numbers in self._axes:
            return Label(self._axes[numbers], 1)
        divisor = int(np.gcd.reduce(numbers))
        for times in range(2, divisor + 1):
            if divisor % times == 0:
                axis = self._axes.get(tuple(number // times for number in numbers))
                if axis is not None:
                    return Label(axis, times)
        raise Unlabelled(f"a size that is {' and '.join(map(str, numbers))} follows no axis")

    def all_of(self, columns: Sequence[Sequence[int]]) -> tuple[Label, ...]:
        """Return the labels of numbers that stand together; raises Unlabelled."""
        if len({len(column) for column in columns}) != 1:
            raise Unlabelled("a value has another rank at other widths")
        return tuple(self.of(tuple(row)) for row in zip(*columns, strict=True))
