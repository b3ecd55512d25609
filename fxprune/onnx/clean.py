"""Clean an ONNX graph without changing what it computes; onnx-graphsurgeon does the surgery."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

FOLD_LIMIT = 64 * 1024
"""Bytes: a folded constant above this size stays an operator, so that no `Expand` bloats the file.

ONNX Runtime folds what is left when it loads the model, so nothing is lost at run time."""

_FRESH_EVERY_RUN = frozenset(
    {
        *("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"),
        *("Bernoulli", "Multinomial", "Dropout"),
    }
)


def clean(model: onnx.ModelProto, inputs: Sequence[str] = ()) -> onnx.ModelProto:
    """Fold constants, share equal initializers, drop dead nodes and sort; return a new model.

    `inputs` names the graph's inputs in order, where the model's own names are not wanted.
    """
    graph = gs.import_onnx(model)
    if len(inputs) == len(graph.inputs):
        _name_inputs(graph, inputs)
    # Sound: the nodes of a valid graph form a DAG, so an order exists; folding relies on it.
    graph.toposort(recurse_subgraphs=True)
    _fold(graph)
    _share_equal_initializers(graph)
    # Sound: an ONNX operator has no effect but its outputs, so one that reaches no graph output
    # and an initializer that nobody reads can go. Graph inputs stay even if unused: the caller
    # feeds them by name.
    graph.cleanup(remove_unused_graph_inputs=False).toposort(recurse_subgraphs=True)
    cleaned: onnx.ModelProto = gs.export_onnx(graph)
    return cleaned


def _name_inputs(graph: gs.Graph, names: Sequence[str]) -> None:
    """Give the inputs their names back: torch renames an input that is also an output."""
    # Sound: tensors are linked by identity here, so a renaming reaches every reader.
    for tensor, name in zip(graph.inputs, names, strict=True):
        clash = graph.tensors().get(name)
        if clash is not None and clash is not tensor:
            clash.name = f"{name}_output"
        tensor.name = name


def _fold(graph: gs.Graph) -> None:
    """Replace nodes whose inputs are all constant by their value, computed by ONNX Runtime."""
    # Sound: the very runtime and kernels that would run the node compute its value. Not sound,
    # hence excluded: operators that draw random numbers. `fold_shapes` stays off because it also
    # elides float casts around integer arithmetic, and Mul by 0.5 would become Mul by 0.
    graph.fold_constants(
        fold_shapes=False,
        size_threshold=FOLD_LIMIT,
        should_exclude_node=lambda node: node.op in _FRESH_EVERY_RUN,
        partitioning="basic",
    )


def _share_equal_initializers(graph: gs.Graph) -> None:
    """Let nodes of the main graph read one initializer where several hold the same bytes."""
    # Sound: initializers are immutable, and only readers move; a graph output that *is* an
    # initializer keeps its own name.
    first: dict[tuple[str, tuple[int, ...], bytes], gs.Constant] = {}
    for tensor in graph.tensors().values():
        if not isinstance(tensor, gs.Constant) or not _is_plain(tensor):
            continue
        values = tensor.values
        digest = hashlib.sha256(values.tobytes()).digest()
        kept = first.setdefault((str(values.dtype), values.shape, digest), tensor)
        if kept is not tensor:
            _redirect(tensor, kept)


def _redirect(tensor: gs.Constant, kept: gs.Constant) -> None:
    """Make every reader of `tensor` read `kept`."""
    for node in list(tensor.outputs):
        node.inputs = [kept if read is tensor else read for read in node.inputs]


def _is_plain(tensor: gs.Constant) -> bool:
    """Tell whether numpy holds the dtype itself (bfloat16 and float8 stay as they are)."""
    return isinstance(tensor.dtype, (np.dtype, type)) and np.dtype(tensor.dtype).kind in "fiubc"
