"""The terms of a cost: each a function of the sizes of a few axes, to be tabulated over widths.

Parameters, bytes and MACs are sums over tensors and products. An allocator that weighs widths
against each other reads the terms instead of computing the whole sum at every choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fxprune.cost.cost import Cost, Product

Sizes = Sequence[Any]  # of some axes: whole numbers, or arrays of them that broadcast
Table = NDArray[np.float64]


@dataclass(frozen=True)
class Term:
    """Hold one addend of a cost: `count` of the sizes of `axes`, which are places in `Cost.axes`.

    `count` is asked elementwise: its sizes may be arrays, of which it may refuse to take any by
    raising TypeError or ValueError; it is then asked once for every element.
    """

    axes: tuple[int, ...]
    count: Callable[[Sizes], Any]

    def table(self, sizes: Sizes) -> Table:
        """Return the addend for arrays of sizes, of the shape that they broadcast to."""
        shape = np.broadcast_shapes(*(np.shape(size) for size in sizes))
        try:
            found = np.asarray(self.count(sizes), dtype=np.float64)
        except (TypeError, ValueError):
            wide = [np.broadcast_to(size, shape).ravel().tolist() for size in sizes]
            each = [float(self.count(one)) for one in zip(*wide, strict=True)]
            found = np.array(each or [float(self.count(()))]).reshape(shape)
        return np.broadcast_to(found, shape)


def constant(value: float) -> Term:
    """Return a term that depends on nothing."""
    return Term((), lambda sizes: value)


def of_params(cost: Cost) -> list[Term]:
    """Return the terms that make up `Cost.params`."""
    return [Term(axes, prod) for _, axes, _, owned in cost.tensors if owned]


def of_bytes(cost: Cost) -> list[Term]:
    """Return the terms that make up `Cost.bytes`."""
    terms = [Term(axes, _scaled(prod, size)) for _, axes, size, _ in cost.tensors]
    return [*terms, constant(cost.beside_bytes)]


def of_macs(cost: Cost, share: float = 1.0) -> list[Term]:
    """Return the terms that make up `Cost.macs`, times a factor."""
    return [_of_product(product, share / cost.batch) for product in cost.products]


def _scaled(count: Callable[[Sizes], Any], factor: float) -> Callable[[Sizes], Any]:
    return lambda sizes: factor * count(sizes)


def _of_product(product: Product, factor: float) -> Term:
    """Return the term of a node: its function of shapes as one of the sizes of distinct axes."""
    axes = tuple(dict.fromkeys(axis for shape in product.shapes.values() for axis in shape))
    place = {axis: k for k, axis in enumerate(axes)}

    def count(sizes: Sizes) -> Any:
        def shape(name: str) -> tuple[Any, ...]:
            return tuple(sizes[place[axis]] for axis in product.shapes[name])

        return factor * product.macs(shape, product.args)

    return Term(axes, count)
