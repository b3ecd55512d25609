"""onnx_fold: what is constant becomes a constant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from fxprune.onnx.program import OnnxPass, OnnxProgram
from fxprune.onnx.view import View, plain
from fxprune.pipeline import register

FOLD_LIMIT = 64 * 1024
"""Bytes: what is folded into a larger constant remains an operator, so that no `Expand` bloats the
file, unless the constant takes no more room than what it is made of.

ONNX Runtime folds the rest when it loads the model, so nothing is lost at run time."""

FRESH_EVERY_RUN = frozenset(
    {
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        *("Bernoulli", "Multinomial"),
    }
)
_EXCLUDED = FRESH_EVERY_RUN | {"Dropout", "If", "Loop", "Scan"}


_NUMBERS = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


@register("onnx_fold")
@dataclass(frozen=True)
class Fold(OnnxPass):
    """Replace nodes whose inputs are all constant by their value, computed by ONNX Runtime."""

    limit: int = FOLD_LIMIT

    def __call__(self, program: OnnxProgram) -> OnnxProgram:
        """Return the program with constants in place of constant expressions."""
        for limit in sorted({self.limit, min(self.limit, 1024)}, reverse=True):
            after = program.edited(partial(self._edit, limit))
            if after is program or after.model.ByteSize() <= program.model.ByteSize():
                return after
        return program

    def _edit(self, limit: int, view: View) -> int:
        # Sound: the very runtime and kernels that would run the node compute its value. Not sound,
        # hence excluded: operators that draw random numbers. `fold_shapes` is off because it
        # also elides float casts around integer arithmetic, and Mul by 0.5 would become Mul by 0.
        # Only where there is something to fold: ONNX Runtime is asked for it at a price.
        if not any(self._constant(node) for node in view.graph.nodes):
            return 0
        before = _computed(view.graph)
        _read_numbers(view)
        # Weights that are only reshaped or transposed are folded whatever their size: else the
        # number of nodes of a graph would depend on the width of a layer.
        if any(self._constant(node) and not _grows(view, node) for node in view.graph.nodes):
            _fold(view, None, lambda node: _excluded(node) or _grows(view, node))
        _fold(view, limit, _excluded)
        return before - _computed(view.graph)

    def _constant(self, node: gs.Node) -> bool:
        if node.op == "Constant":
            return True
        constant = all(isinstance(read, gs.Constant) or read.is_empty() for read in node.inputs)
        return constant and not _excluded(node)


def _fold(view: View, limit: int | None, excluded: Callable[[gs.Node], bool]) -> None:
    view.graph.fold_constants(
        fold_shapes=False,
        recurse_subgraphs=False,
        recurse_functions=False,
        flatten_subgraphs=False,
        size_threshold=limit,
        should_exclude_node=excluded,
        partitioning="recursive",  # basic tries what fails again, without end
    )


def _grows(view: View, node: gs.Node) -> bool:
    """Tell whether the value of a node may take more room than what is read for it alone."""
    room = sum(_bytes(view, read) or 0 for read in node.inputs if view.private(read))
    sizes = [_bytes(view, made) for made in node.outputs]
    return any(size is None for size in sizes) or sum(size or 0 for size in sizes) > room


def _bytes(view: View, tensor: Any) -> int | None:
    """Return the bytes of a tensor, None where its sizes are not known."""
    if isinstance(tensor, gs.Constant) and not plain(tensor):
        return None
    dims, kind = view.dims(tensor), view.dtype(tensor)
    if not kind or dims is None or not all(isinstance(size, int) for size in dims):
        return None
    width = onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize
    return int(width * np.prod(dims, dtype=np.int64))


def _read_numbers(view: View) -> None:
    """Make initialisers of Constant nodes of plain numbers: graph-surgeon reads them as double."""
    for node in view.nodes("Constant"):
        kind = next((k for k in node.attrs if k in _NUMBERS), None)
        if kind is not None:
            out = node.outputs[0]
            view.replace(out, view.constant(out.name, np.asarray(node.attrs[kind], _NUMBERS[kind])))


def _excluded(node: gs.Node) -> bool:
    # What could not be read above, being an output or read in a body, is not changed.
    return node.op in _EXCLUDED or any(kind in node.attrs for kind in _NUMBERS)


def _computed(graph: gs.Graph) -> int:
    """Return how many nodes have an output: folding takes those of the constant ones away."""
    return sum(bool(node.outputs) for node in graph.nodes)
