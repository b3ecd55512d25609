"""onnx_unused: what reaches no output is removed."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from fxprune.onnx.program import GraphEdit
from fxprune.onnx.view import View
from fxprune.pipeline import register

_OPTIONAL = {
    "Dropout": 1,
    "GRU": 0,
    "LSTM": 0,
    "LayerNormalization": 1,
    "MaxPool": 1,
    "RNN": 0,
}
"""From which output on an operator need not give one; others want a name for each."""


@register("onnx_unused")
@dataclass(frozen=True)
class Unused(GraphEdit):
    """Drop nodes and initialisers that reach no output, and optional outputs that nothing reads."""

    def edit(self, view: View) -> int:
        """Leave them out; graph inputs are kept, since callers feed them by name."""
        # Sound: an ONNX operator has no effect but its outputs.
        graph = view.graph
        before = len(graph.nodes) + len(graph.tensors())
        view.swept()
        changed = before - len(graph.nodes) - len(graph.tensors())
        for node in view.nodes(*_OPTIONAL):
            changed += _drop_outputs(view, node)
        return changed


def _drop_outputs(view: View, node: gs.Node) -> int:
    dropped = 0
    last = True  # only while nothing behind is needed can an output be dropped without a gap
    for place in reversed(range(_OPTIONAL[node.op], len(node.outputs))):
        out = node.outputs[place]
        if out.is_empty() or out.outputs or not view.free(out):
            last = last and out.is_empty()
            continue
        if last and place:
            del node.outputs[place]
        else:
            node.outputs[place] = gs.Variable.empty()
        dropped += 1
    return dropped
