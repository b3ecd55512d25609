"""Consumers with weights: linear layers, convolutions and matrix products with a parameter.

What they read of a dropped index that is constant is a constant too, and can be added back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from fxprune.elimination.constant_products import PRODUCTS
from fxprune.elimination.constant_values import ConstantValue, ConstantValues
from fxprune.elimination.entries import Need, survives
from fxprune.graphs import arguments
from fxprune.guards import Ids, Mask
from fxprune.rules import Coupling, TensorGuard, name_of

BORDER = "zero padding meets their constant, which is not zero"
PLACES = "their constants are not the same at every position"
SAME = 1e-9  # relative: what averaging rounds


@dataclass(frozen=True, eq=False)
class WeightedConsumer:
    """Read a tensor along one axis with weights.

    `matrix` are the weights `[groups, outputs, inputs, kernel]`. `constant` `[groups × inputs]`
    holds each input's constant, NaN where it varies, and `why` why it cannot be added back, empty
    where it can. `inputs` and `outputs` are guards, `axis` that of the outputs, from the right.
    """

    node: fx.Node
    matrix: Tensor
    axis: int
    constant: NDArray[np.float64]
    why: NDArray[np.str_]
    inputs: Ids
    outputs: Ids

    @cached_property
    def reads(self) -> Mask:
        """Return which weights are not all zero, `[groups, outputs, inputs]`."""
        return np.asarray((self.matrix != 0).any(dim=-1).numpy())

    def needs(self, alive: Mask) -> Iterator[Need]:
        """Yield the inputs that vary, or cannot be added back, and that a living output reads."""
        if not self.inputs.shape[1]:
            return
        gone = ~survives(alive, self.inputs)
        read = gone & self._read(alive) if gone.any() else gone
        if not read.any():
            return
        varies = read & np.isnan(self.constant)
        if varies.any():
            yield Need(self.inputs, varies)
        for text in np.unique(self.why[read & ~varies]):
            if text:
                yield Need(self.inputs, read & (self.why == text), str(text))

    def _read(self, alive: Mask) -> Mask:
        groups, outputs, _ = self.reads.shape
        live = survives(alive, self.outputs, groups * outputs).reshape(groups, outputs, 1)
        return np.asarray((self.reads & live).any(axis=1).ravel())

    def lost(self, alive: Mask) -> Tensor | None:
        """Return what the dropped inputs add to each living output, None where it is nothing."""
        gone = ~survives(alive, self.inputs, len(self.constant))
        gone &= np.nan_to_num(self.constant) != 0
        if not gone.any() or not (gone & self._read(alive)).any():
            return None
        groups, outputs, inputs, _ = self.matrix.shape
        values = torch.from_numpy(np.where(gone, self.constant, 0.0)).view(groups, inputs)
        total = torch.einsum("goik,gi->go", self.matrix, values).flatten()
        live = survives(alive, self.outputs, groups * outputs)
        return total[torch.from_numpy(live)]


def weighted_consumer(
    node: fx.Node, coupling: Coupling, facts: ConstantValues
) -> WeightedConsumer | None:
    """Return a consumer with known weights, or nothing where no factor is a matrix of them."""
    args = arguments(node)
    names = PRODUCTS[node.target][0]
    if len(names) != 2 or not all(isinstance(args.get(name), fx.Node) for name in names):
        return None
    x, weight = (facts.get(args[name]) for name in names)
    value, out = coupling.values.get(args[names[0]]), coupling.values.get(node)
    if (
        not isinstance(x, ConstantValue)
        or not isinstance(weight, ConstantValue)
        or not weight.whole
    ):
        return None
    if not isinstance(value, TensorGuard) or not isinstance(out, TensorGuard):
        return None
    layout = _layout(node, args, weight.value)
    if layout is None or x.value.ndim + layout[1] < 0:
        return None
    matrix, axis, border = layout
    constant, why = _constants(x, x.value.ndim + axis, border)
    normal = coupling.guards.normal
    guards = normal(value.dims[axis]), normal(out.dims[axis])
    return WeightedConsumer(node, matrix, axis, constant, why, *guards)


def _layout(
    node: fx.Node, args: Mapping[str, Any], weight: Tensor
) -> tuple[Tensor, int, bool] | None:
    """Return the weights, the axis that they sum over, and whether places differ.

    They do where a constant input does not make a constant output: padded zeros at the border, or
    only a part of the kernel at each place.
    """
    name = name_of(node.target)
    if "conv" not in name:
        if weight.ndim != 2:
            return None
        rows = weight if name == "linear" else weight.t()
        return rows[None, :, :, None], -1, False
    groups, axis, kernel = int(args["groups"]), 1 - weight.ndim, weight.flatten(2)
    alone, padding = kernel.shape[-1] == 1, args["padding"]
    if isinstance(padding, str):
        border = padding == "same" and not alone
    else:
        border = any(int(size) for size in padding)
    if "transpose" in name or args.get("transposed"):
        matrix = kernel.unflatten(0, (groups, -1)).transpose(1, 2)
        steps = any(int(s) != 1 for s in args["stride"]) or any(map(int, args["output_padding"]))
        return matrix, axis, border or steps or not alone
    return kernel.unflatten(0, (groups, -1)), axis, border


def _constants(
    x: ConstantValue, dim: int, border: bool
) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """Return each index's constant, NaN where it varies, and why it cannot be added back."""
    n = x.value.shape[dim]
    constant, why = np.full(n, np.nan), np.full(n, "", dtype="<U64")
    if x.unknown or not x.value.numel():
        return constant, why
    value, varies = (t.movedim(dim, 0).reshape(n, -1) for t in (x.value, x.varies))
    whole = ~varies.any(dim=1)
    low, high = value.amin(dim=1).double(), value.amax(dim=1).double()
    same = (high - low) <= SAME * torch.maximum(high.abs(), low.abs())
    constant[whole.numpy()] = value[:, 0].double()[whole].numpy()
    if x.whole:  # made of parameters alone: that they differ from place to place is no wonder
        constant[~same.numpy()] = np.nan
    else:
        why[(whole & ~same).numpy()] = PLACES
    if border:
        why[(whole & same & (high != 0)).numpy()] = BORDER
    return constant, why
