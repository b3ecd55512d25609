"""onnx_share: one initialiser where several hold the same values."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from fxprune.pipeline import register

from ..program import FACT, OnnxProgram
from ..view import View, values_of


@register("onnx_share")
@dataclass(frozen=True)
class Share:
    """Let nodes read one initialiser where several are of the same type, shape and bytes."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = (FACT,)
    ensures: ClassVar[tuple[str, ...]] = ()

    def __call__(self, program: OnnxProgram) -> OnnxProgram:
        """Return the program with each value once."""
        return program.edited(_edit)


def _edit(view: View) -> int:
    # Sound: initialisers are immutable, and only readers move; one that is itself a graph output,
    # or is read by name in a body, keeps its own name.
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
