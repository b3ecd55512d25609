"""Clean what a converter wrote, before anything is compared with it."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx_graphsurgeon as gs

from fxprune.onnx.passes.fold import FOLD_LIMIT, Fold
from fxprune.onnx.passes.share import Share
from fxprune.onnx.passes.unused import Unused
from fxprune.onnx.program import OnnxPass, OnnxProgram

__all__ = ["FOLD_LIMIT", "clean"]


def clean(
    model: onnx.ModelProto, inputs: Sequence[str] = (), *, share: bool = True
) -> onnx.ModelProto:
    """Fold constants, share equal initializers, drop dead nodes and sort; return a new model.

    `inputs` names the graph's inputs in order, where the model's own names are not wanted. These
    passes are needed before ONNX Runtime can be asked: it lacks kernels for some constants.
    """
    graph = gs.import_onnx(model)
    if len(inputs) == len(graph.inputs):
        _name_inputs(graph, inputs)
    # Sound: the nodes of a valid graph form a DAG, so an order exists; folding relies on it.
    graph.toposort(recurse_subgraphs=True)
    # The converter's own metadata is dropped here: it names files of the machine that exports.
    program = OnnxProgram(gs.export_onnx(graph))
    passes: list[OnnxPass] = [Fold(), Share(), Unused()] if share else [Fold(), Unused()]
    for one in passes:
        program = one(program)
    return program.model


def _name_inputs(graph: gs.Graph, names: Sequence[str]) -> None:
    """Give the inputs their names back: torch renames an input that is also an output."""
    # Sound: tensors are linked by identity here, so a renaming reaches every reader.
    for tensor, name in zip(graph.inputs, names, strict=True):
        clash = graph.tensors().get(name)
        if clash is not None and clash is not tensor:
            clash.name = f"{name}_output"
        tensor.name = name
