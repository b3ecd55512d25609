"""onnx_noop: operators that pass on what they read are removed, and pairs of them become one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from fxprune.onnx.program import GraphEdit
from fxprune.onnx.view import Array, View, values_of
from fxprune.pipeline import register


@register("onnx_noop")
@dataclass(frozen=True)
class Noop(GraphEdit):
    """Take out Identity, inference Dropout, and casts, reshapes, … that change nothing."""

    def edit(self, view: View) -> int:
        """Bypass operators that hand on their first input as it is."""
        changed = 0
        for node in view.nodes(*_RULES, "Transpose"):
            if not node.outputs or any(o.outputs or not view.free(o) for o in node.outputs[1:]):
                continue
            if node.op == "Transpose":
                changed += _compose(view, node)
            rule = _RULES.get(node.op)
            if rule is not None and rule(view, node):
                changed += view.bypass(node, node.inputs[0])
        return changed


def _compose(view: View, node: gs.Node) -> int:
    """Let a transpose of a transpose read what the first one read."""
    read = node.inputs[0]
    before = read.inputs[0] if read.inputs else None
    outer = _perm(view, node)
    if before is None or before.op != "Transpose" or outer is None or not view.private(read):
        return 0
    inner = before.attrs.get("perm") or list(reversed(range(len(outer))))
    node.attrs["perm"] = [int(inner[axis]) for axis in outer]
    node.inputs[0] = before.inputs[0]
    return 1


def _perm(view: View, node: gs.Node) -> list[int] | None:
    """Return the permutation; without one the axes are reversed, however many there are."""
    if node.attrs.get("perm") is not None:
        return list(node.attrs["perm"])
    dims = view.dims(node.inputs[0])
    return None if dims is None else list(reversed(range(len(dims))))


def _transpose(view: View, node: gs.Node) -> bool:
    perm = _perm(view, node)
    return perm is not None and perm == sorted(perm)


def _always(view: View, node: gs.Node) -> bool:
    return True


def _single(view: View, node: gs.Node) -> bool:
    return len(node.inputs) == 1


def _dropout(view: View, node: gs.Node) -> bool:
    # Until opset 12 the operator had no training mode, and in opset 6 and below an attribute.
    if view.opset < 7 or len(node.inputs) < 3 or node.inputs[2].is_empty():
        return view.opset >= 7
    training = values_of(node.inputs[2])
    return training is not None and not training.any()


def _cast(view: View, node: gs.Node) -> bool:
    kinds = [view.dtype(node.inputs[0]), view.dtype(node.outputs[0])]
    return kinds[0] == kinds[1] != 0


def _same_elements(view: View, node: gs.Node) -> bool:
    """Tell whether a reshape keeps the shape: all sizes but one are equal, and so is the count."""
    a, b = view.dims(node.inputs[0]), view.dims(node.outputs[0])
    if a is None or b is None or len(a) != len(b):
        return False
    # The remaining size follows from the rest unless the rest is empty.
    equal = [isinstance(x, int) and x > 0 and x == y for x, y in zip(a, b, strict=True)]
    others = [(x, y) for x, y, e in zip(a, b, equal, strict=True) if not e]
    return len(others) <= 1 or all(isinstance(x, str) and x == y for x, y in others)


def _same_shape(view: View, node: gs.Node) -> bool:
    a, b = view.dims(node.inputs[0]), view.dims(node.outputs[0])
    return a is not None and a == b and all(isinstance(dim, int) or _ours(dim) for dim in a)


def _ours(dim: Any) -> bool:
    """Tell a symbol of the file from one that inference made up, and from no symbol."""
    return isinstance(dim, str) and not dim.startswith("unk__")


def _neutral(number: int) -> Callable[[View, gs.Node], bool]:
    def rule(view: View, node: gs.Node) -> bool:
        values = values_of(node.inputs[1])
        # -0.0 + 0.0 is 0.0: equal numbers, as everything that follows sees but for 1/x.
        if values is None or not (values == number).all():
            return False
        return _kept(values, view.dims(node.inputs[0]))

    return rule


def _kept(values: Array, dims: tuple[Any, ...] | None) -> bool:
    """Tell whether a constant does not broadcast an operand of these sizes to another shape."""
    return values.ndim == 0 or (
        dims is not None and values.ndim <= len(dims) and all(size == 1 for size in values.shape)
    )


def _slice(view: View, node: gs.Node) -> bool:
    """Tell whether a slice takes everything: from 0, to the end, one by one."""
    given = [values_of(one) for one in node.inputs[1:]]
    if len(given) < 2 or any(one is None for one in given[:2]):
        return False
    starts, ends = (np.asarray(one).ravel() for one in given[:2])
    dims = view.dims(node.inputs[0])
    axes = np.asarray(given[2]).ravel() if len(given) > 2 and given[2] is not None else None
    if (len(given) > 2 and axes is None and not node.inputs[3].is_empty()) or dims is None:
        return False
    steps = values_of(node.inputs[4]) if len(node.inputs) > 4 else np.ones(1)
    if starts.any() or steps is None or not (steps == 1).all():
        return False
    every = axes if axes is not None else np.arange(len(ends))
    return all(_whole(dims[int(axis)], int(end)) for axis, end in zip(every, ends, strict=True))


def _whole(dim: Any, end: int) -> bool:
    return end >= 2**31 - 1 or (isinstance(dim, int) and end >= dim)


def _pad(view: View, node: gs.Node) -> bool:
    pads = values_of(node.inputs[1]) if len(node.inputs) > 1 else None
    return pads is not None and not pads.any()


_RULES: dict[str, Callable[[View, gs.Node], bool]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _same_elements,
    "Flatten": _same_elements,
    "Squeeze": _same_elements,
    "Unsqueeze": _same_elements,
    "Expand": _same_shape,
    "Slice": _slice,
    "Pad": _pad,
    "Concat": _single,
    "Sum": _single,
    "Max": _single,
    "Min": _single,
    "Mean": _single,
    "Add": _neutral(0),
    "Sub": _neutral(0),
    "Mul": _neutral(1),
    "Div": _neutral(1),
}
