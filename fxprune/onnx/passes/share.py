"""onnx_share: one initialiser where several hold the same values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from fxprune.onnx.program import GraphEdit
from fxprune.onnx.view import View, values_of
from fxprune.pipeline import register


@register("onnx_share")
@dataclass(frozen=True)
class Share(GraphEdit):
    """Let nodes read one initialiser where several are of the same type, shape and bytes."""

    def edit(self, view: View) -> int:
        """Keep each value once."""
        # Sound: initialisers are immutable, and only readers move; one that is itself a graph
        # output, or is read by name in a body, keeps its own name.
        first: dict[tuple[str, tuple[int, ...], bytes], gs.Constant] = {}
        changed = 0
        for tensor in list(view.graph.tensors().values()):
            values = values_of(tensor)
            if values is None:
                continue
            digest = hashlib.sha256(values.tobytes()).digest()
            kept = first.setdefault((str(values.dtype), values.shape, digest), tensor)
            changed += kept is not tensor and view.replace(tensor, kept)
        return changed
