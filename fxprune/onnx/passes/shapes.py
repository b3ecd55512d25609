"""onnx_shapes: sizes that are known are constants, and reshapes in a row are one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from fxprune.onnx.program import GraphEdit
from fxprune.onnx.view import View, values_of
from fxprune.pipeline import register

_MOVING = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that keep the order of elements and change their arrangement only."""


@register("onnx_shapes")
@dataclass(frozen=True)
class Shapes(GraphEdit):
    """Replace computed sizes by constants where they are known, and merge reshapes in a row."""

    def edit(self, view: View) -> int:
        """Leave fewer operators that compute with sizes."""
        sizes = _Sizes(view)
        changed = sum(_constant_sizes(view, node, sizes) for node in view.nodes(*_FOLLOWED))
        for node in view.nodes("Reshape"):
            changed += _constant_shape(view, node) + _merged(view, node)
        return changed


def _constant_sizes(view: View, node: gs.Node, sizes: _Sizes) -> bool:
    """Replace a list of sizes by a constant where each of them is a number."""
    if not node.outputs:
        return False
    out = node.outputs[0]
    found = sizes.of(out)
    if found is None or not all(isinstance(one, int) for one in found.ravel().tolist()):
        return False
    return view.free(out) and view.replace(
        out, view.constant(out.name, np.asarray(found.tolist(), np.int64))
    )


def _constant_shape(view: View, node: gs.Node) -> bool:
    """Give a reshape a constant shape where all sizes but one are known."""
    if len(node.inputs) < 2 or isinstance(node.inputs[1], gs.Constant):
        return False
    dims = view.dims(node.outputs[0])
    # A size of 0 would be read as "as before", and beside it -1 would say nothing.
    if dims is None or any(dim == 0 for dim in dims):
        return False
    if sum(not isinstance(dim, int) for dim in dims) > 1:
        return False
    wanted = [dim if isinstance(dim, int) else -1 for dim in dims]
    node.inputs[1] = view.constant(f"{node.outputs[0].name}_shape", np.asarray(wanted, np.int64))
    return True


def _merged(view: View, node: gs.Node) -> bool:
    """Let a reshape to absolute sizes read what a reshape before it read."""
    read, shape = node.inputs[0], values_of(node.inputs[1]) if len(node.inputs) > 1 else None
    maker = read.inputs[0] if read.inputs else None
    if maker is None or maker.op not in _MOVING or shape is None or (shape == 0).any():
        return False
    if not view.private(read):
        return False
    node.inputs[0] = maker.inputs[0]
    return True


class _Sizes:
    """Follow lists of sizes through the operators that writers of ONNX files build them with."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._found: dict[int, Any] = {}

    def of(self, tensor: Any) -> Any:
        """Return an object array of ints and, for what is unknown, None; or None altogether."""
        values = values_of(tensor)
        if values is not None:
            small = values.dtype == np.int64 and values.size <= 64
            return values.astype(object) if small else None
        if id(tensor) not in self._found:
            maker = tensor.inputs[0] if tensor.inputs else None
            rule = _FOLLOWED.get(maker.op) if maker is not None and not maker.domain else None
            self._found[id(tensor)] = None  # whatever fails below is not known
            if rule is not None:
                self._found[id(tensor)] = rule(self, maker)
        return self._found[id(tensor)]

    def shape(self, node: gs.Node) -> Any:
        dims = self._view.dims(node.inputs[0])
        if dims is None:
            return None
        listed = [dim if isinstance(dim, int) else None for dim in dims]
        start, end = node.attrs.get("start", 0), node.attrs.get("end", len(listed))
        return np.asarray(listed[start:end], dtype=object)

    def gather(self, node: gs.Node) -> Any:
        data, place = self.of(node.inputs[0]), values_of(node.inputs[1])
        if data is None or data.ndim != 1 or place is None or node.attrs.get("axis", 0):
            return None
        return np.asarray(data[place.astype(np.int64)], dtype=object)

    def slice(self, node: gs.Node) -> Any:
        data = self.of(node.inputs[0])
        given = [values_of(one) for one in node.inputs[1:]]
        if data is None or data.ndim != 1 or len(given) < 2 or any(g is None for g in given):
            return None
        if any(np.asarray(g).size != 1 for g in given):
            return None
        start, end, *rest = (int(np.asarray(g).item()) for g in given)
        return data[start : end : rest[1] if len(rest) > 1 else 1]

    def concat(self, node: gs.Node) -> Any:
        parts = [self.of(one) for one in node.inputs]
        if any(part is None or part.ndim != 1 for part in parts):
            return None
        return np.concatenate(parts)

    def squeeze(self, node: gs.Node) -> Any:
        data = self.of(node.inputs[0])
        return None if data is None or data.size != 1 else data.reshape(())

    def unsqueeze(self, node: gs.Node) -> Any:
        data = self.of(node.inputs[0])
        dims = self._view.dims(node.outputs[0])
        return data.reshape(1) if data is not None and data.ndim == 0 and dims == (1,) else None


_FOLLOWED = {
    "Shape": _Sizes.shape,
    "Gather": _Sizes.gather,
    "Slice": _Sizes.slice,
    "Concat": _Sizes.concat,
    "Squeeze": _Sizes.squeeze,
    "Unsqueeze": _Sizes.unsqueeze,
}
