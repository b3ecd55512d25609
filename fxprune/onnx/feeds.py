"""Find the batch in example inputs, resize it, and name inputs as the exported program does."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxprune.errors import InputError

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call."""


@dataclass(frozen=True)
class Mark:
    """Say that one axis of one input tensor is dynamic, under a name or none, within bounds."""

    axis: int
    name: str | None
    low: int = 1
    high: float = float("inf")


def marks(module: nn.Module, inputs: Inputs, dynamic_shapes: Any) -> dict[int, list[Mark]]:
    """Map `id(tensor)` to the axes that `dynamic_shapes` marks on that input tensor.

    Raises `InputError` when the inputs do not fit the module's forward.
    """
    found: dict[int, list[Mark]] = {}
    if dynamic_shapes is None:
        return found
    try:
        bound = inspect.signature(module.forward).bind(*inputs[0], **inputs[1]).arguments
    except TypeError as problem:
        raise InputError(f"the example inputs do not fit forward: {problem}") from problem
    tree: Any = bound if isinstance(dynamic_shapes, Mapping) else list(bound.values())
    if isinstance(dynamic_shapes, Mapping) and set(dynamic_shapes) - set(bound):
        # torch.export also takes the names inside **kwargs without the level above them.
        tree = {**bound, **inputs[1]}
    _collect(tree, dynamic_shapes, found)
    return found


def _collect(value: Any, spec: Any, found: dict[int, list[Mark]]) -> None:
    if spec is None:
        return
    if isinstance(value, torch.Tensor):
        pairs = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
        named = [_mark(axis % value.dim(), dim) for axis, dim in pairs]
        found.setdefault(id(value), []).extend(mark for mark in named if mark)
    elif isinstance(value, Mapping) and isinstance(spec, Mapping):
        for key in value.keys() & spec.keys():
            _collect(value[key], spec[key], found)
    elif isinstance(value, Sequence) and isinstance(spec, Sequence):
        for item, part in zip(value, spec, strict=False):
            _collect(item, part, found)


def _mark(axis: int, dim: Any) -> Mark | None:
    """Read one entry of a dynamic-shapes tree; None where the axis is static."""
    if dim is None or isinstance(dim, int) or dim == torch.export.Dim.STATIC:
        return None
    if isinstance(dim, str):
        return Mark(axis, dim)
    name = getattr(dim, "__name__", None)
    low, high = getattr(dim, "min", None), getattr(dim, "max", None)
    return Mark(axis, name, low or 1, float("inf") if high is None else high)


def batch_axes(marked: dict[int, list[Mark]]) -> dict[int, Mark]:
    """Choose each input's batch axis: the one named `batch` or `2*batch`, else a dynamic axis 0."""
    every = [mark for found in marked.values() for mark in found]
    by_name = any("batch" in (mark.name or "") for mark in every)
    return {
        tensor: mark
        for tensor, found in marked.items()
        for mark in found
        if ("batch" in (mark.name or "") if by_name else mark.axis == 0)
    }


def batch_size(inputs: Inputs, axes: Mapping[int, Mark]) -> int | None:
    """Return the batch of the example: the smallest marked size; None when nothing is marked."""
    leaves = pytree.tree_leaves(inputs)
    sizes = [leaf.shape[axes[id(leaf)].axis] for leaf in leaves if id(leaf) in axes]
    return min(sizes) if sizes else None


def another_batch(inputs: Inputs, axes: Mapping[int, Mark]) -> int | None:
    """Pick a second batch size that every marked axis admits; None when there is none."""
    size = batch_size(inputs, axes)
    if not size:
        return None
    for wanted in (size + 1, 2 * size, size - 1, 1):
        if wanted != size and wanted > 0 and _admits(inputs, axes, size, wanted):
            return wanted
    return None


def _admits(inputs: Inputs, axes: Mapping[int, Mark], size: int, wanted: int) -> bool:
    for leaf in pytree.tree_leaves(inputs):
        if mark := axes.get(id(leaf)):
            scaled, rest = divmod(leaf.shape[mark.axis] * wanted, size)
            if rest or not mark.low <= scaled <= mark.high:
                return False
    return True


def resize(inputs: Inputs, axes: Mapping[int, Mark], wanted: int) -> Inputs:
    """Return the inputs with every batch axis scaled so that the batch is `wanted`.

    Rows are taken from the example in reverse and repeated, so integers stay in their range.
    Raises `InputError` when an axis that is a multiple of the batch does not scale evenly.
    """
    size = batch_size(inputs, axes)
    if size is None or not _admits(inputs, axes, size, wanted):
        raise InputError(f"the example inputs cannot be resized from batch {size} to {wanted}")

    def scaled(leaf: Any) -> Any:
        mark = axes.get(id(leaf))
        if mark is None:
            return leaf
        rows = leaf.shape[mark.axis]
        order = (rows - 1 - torch.arange(rows * wanted // size)) % rows
        return leaf.index_select(mark.axis, order.to(leaf.device))

    resized: Inputs = pytree.tree_map(scaled, inputs)
    return resized
