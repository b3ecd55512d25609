"""A main graph under surgery: what is known of its tensors, and the moves that are sound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from fxprune.onnx.shapes import Known, inferred

Array = NDArray[Any]


class View:
    """Hold a graph-surgeon graph of a model, sorted, with what inference knows of its values.

    What lies in the bodies of If, Loop and Scan is never touched, nor is what those read.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Import a model; large weights are not loaded until they are read."""
        self.graph = gs.import_onnx(model)
        self.graph.toposort(recurse_subgraphs=False, recurse_functions=False, mode="nodes")
        self.known: dict[str, Known] = inferred(model)
        self.opset = int(self.graph.opset)
        self._held = {id(one) for one in (*self.graph.outputs, *_captured(self.graph))}
        self._names = set(self.graph.tensors())
        self._kept: list[Any] = []  # ids of tensors are theirs only as long as these live

    def nodes(self, *ops: str) -> Iterator[gs.Node]:
        """Yield the standard operators of these types, in order, as they stand at the start."""
        for node in list(self.graph.nodes):
            if node.domain in (None, "", "ai.onnx") and (not ops or node.op in ops):
                yield node

    def dims(self, tensor: Any) -> tuple[Any, ...] | None:
        """Return the sizes of a tensor: numbers, symbols or None; None where nothing is known."""
        found = self.known.get(tensor.name)
        return None if found is None else found.dims

    def dtype(self, tensor: Any) -> int:
        """Return the number of the element type of a tensor, 0 where it is not known."""
        found = self.known.get(tensor.name)
        return 0 if found is None else found.dtype

    def private(self, tensor: Any) -> bool:
        """Tell whether one node reads a tensor, once, and nothing else does."""
        return len(tensor.outputs) == 1 and id(tensor) not in self._held

    def free(self, tensor: Any) -> bool:
        """Tell whether a tensor is neither a graph output nor read inside If, Loop or Scan."""
        return id(tensor) not in self._held

    def constant(self, name: str, values: Array) -> gs.Constant:
        """Make an initialiser with a name of its own."""
        unique, count = name, 0
        while unique in self._names:
            count += 1
            unique = f"{name}_{count}"
        self._names.add(unique)
        self.known[unique] = Known(
            onnx.helper.np_dtype_to_tensor_dtype(values.dtype), tuple(values.shape)
        )
        return gs.Constant(unique, np.ascontiguousarray(values).reshape(values.shape))

    def renewed(self, old: Any, values: Array) -> gs.Constant:
        """Make an initialiser in the place of another, under its name if nothing else reads it."""
        if not self.private(old):
            return self.constant(old.name, values)
        return gs.Constant(old.name, np.ascontiguousarray(values).reshape(values.shape))

    def swept(self) -> None:
        """Drop nodes that reach no output, and sort the rest; graph inputs are kept."""
        self.graph.cleanup(
            remove_unused_node_outputs=False,
            recurse_subgraphs=False,
            remove_unused_graph_inputs=False,
            recurse_functions=False,
        )
        self.graph.toposort(recurse_subgraphs=False, recurse_functions=False, mode="nodes")

    def replace(self, old: Any, new: Any) -> bool:
        """Let all that reads `old` read `new`; refused where `old` is held by name."""
        if not self.free(old):
            return False
        for node in list(old.outputs):
            node.inputs = [new if read is old else read for read in node.inputs]
        self._drop(old)
        return True

    def bypass(self, node: gs.Node, source: Any) -> bool:
        """Take a node out whose first output equals `source`; return whether that can be done."""
        out = node.outputs[0]
        if self.free(out):
            return self.replace(out, source)
        # A graph output keeps its name: whatever makes the source makes it directly.
        held = out not in self.graph.outputs or not self.free(source) or not source.inputs
        if held or id(out) in {id(one) for one in _captured(self.graph)}:
            return False
        maker = source.inputs[0]
        for reader in [one for one in source.outputs if one is not node]:
            reader.inputs = [out if read is source else read for read in reader.inputs]
        node.inputs.clear()
        node.outputs.clear()
        maker.outputs = [out if made is source else made for made in maker.outputs]
        self._kept.append(source)
        return True

    def _drop(self, tensor: Any) -> None:
        self._kept.append(tensor)
        for node in list(tensor.inputs):
            if len(node.outputs) == 1:
                node.inputs.clear()
                node.outputs.clear()


def values_of(tensor: Any) -> Array | None:
    """Return the values of an initialiser that numpy holds itself (not bfloat16 or float8)."""
    if not isinstance(tensor, gs.Constant) or not plain(tensor):
        return None
    values: Array = np.asarray(tensor.values)
    return values


def plain(tensor: Any) -> bool:
    """Tell whether numpy holds the dtype of an initialiser itself."""
    kind = tensor.dtype
    return isinstance(kind, (np.dtype, type)) and np.dtype(kind).kind in "fiubc"


def _captured(graph: gs.Graph) -> list[Any]:
    """Return all that the bodies of control flow read, from inside or outside."""
    found: list[Any] = []
    for body in graph.subgraphs(recursive=True):
        found += body.outputs
        found += [tensor for node in body.nodes for tensor in node.inputs]
    return found
