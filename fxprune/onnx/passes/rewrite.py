"""onnx_rewrite: the optimiser of onnxscript."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx

from fxprune.onnx.passes.fold import FRESH_EVERY_RUN
from fxprune.onnx.program import OnnxPass, OnnxProgram
from fxprune.pipeline import register


@register("onnx_rewrite")
@dataclass(frozen=True)
class Rewrite(OnnxPass):
    """Apply onnxscript's optimiser: its rewrite rules, folding, and one node for equal nodes."""

    limit: int = 4096
    """Elements: what is folded into a larger constant remains an operator."""

    def __call__(self, program: OnnxProgram) -> OnnxProgram:
        """Return the optimised program; one with control flow or functions is not changed.

        Sound but for those: the optimiser moves initialisers out of bodies and inlines functions,
        which this pass does not promise. Nodes that draw random numbers must not be merged either.
        """
        nodes = program.model.graph.node
        bodies = any(a.type in (a.GRAPH, a.GRAPHS) for node in nodes for a in node.attribute)
        if bodies or program.model.functions or any(n.op_type in FRESH_EVERY_RUN for n in nodes):
            return program
        from onnxscript import optimizer  # late: it takes half a second to load

        copy = onnx.ModelProto()
        copy.CopyFrom(program.model)
        better = optimizer.optimize(copy, input_size_limit=self.limit, output_size_limit=self.limit)
        if _counts(better) == _counts(program.model):
            return program
        return OnnxProgram(_plain(better, program.model), program.facts)


def _plain(model: onnx.ModelProto, before: onnx.ModelProto) -> onnx.ModelProto:
    """Take away what the optimiser writes beside the graph: sizes of values and notes on nodes."""
    known = {entry.name for entry in before.graph.value_info}
    kept = [entry for entry in model.graph.value_info if entry.name in known]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    for node in model.graph.node:
        own = [entry for entry in node.metadata_props if not entry.key.startswith("pkg.")]
        del node.metadata_props[:]
        node.metadata_props.extend(own)
    return model


def _counts(model: onnx.ModelProto) -> tuple[Counter[str], int]:
    return Counter(node.op_type for node in model.graph.node), len(model.graph.initializer)
