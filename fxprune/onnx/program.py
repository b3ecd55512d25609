"""An ONNX program: one model on its way through the passes that compact it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx
import onnx_graphsurgeon as gs

from fxprune.onnx.view import View

FACT = "an ONNX graph, as in fxprune export and fxprune compact"
"""What every pass here requires, and no program of the other passes is."""


@dataclass(frozen=True)
class OnnxProgram:
    """Carry a model; `facts` is what `fxprune.pipeline.Program` calls so."""

    model: onnx.ModelProto
    facts: frozenset[str] = frozenset({FACT})

    def edited(self, edit: Callable[[View], int]) -> OnnxProgram:
        """Return the program with its main graph edited, or itself where nothing was found.

        `edit` changes a graph-surgeon graph and returns how many places it changed. Nodes and
        initialisers that nothing reads any more are removed with them.
        """
        view = View(self.model)
        if not edit(view):
            return self
        view.swept()
        return replace(self, model=rebuilt(self.model, view.graph))


def rebuilt(model: onnx.ModelProto, graph: gs.Graph) -> onnx.ModelProto:
    """Return the model with another main graph; graph-surgeon itself drops metadata and more."""
    new = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if isinstance(value, (int, str, bytes)):
            setattr(new, field.name, value)
        elif hasattr(value, "CopyFrom"):
            getattr(new, field.name).CopyFrom(value)
        else:
            getattr(new, field.name).extend(value)
    exported = gs.export_onnx(graph, do_type_check=False)
    new.graph.CopyFrom(exported.graph)
    new.graph.doc_string = model.graph.doc_string
    new.graph.metadata_props.extend(model.graph.metadata_props)
    return new


class OnnxPass(ABC):
    """Turn an ONNX program into one that gives the same numbers; a `Pass` of another program."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = (FACT,)
    ensures: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def __call__(self, program: OnnxProgram) -> OnnxProgram:
        """Return the program made smaller, or the very same where there is nothing to do."""


class GraphEdit(OnnxPass):
    """Edit the main graph: all that such a pass says is its `edit`."""

    def __call__(self, program: OnnxProgram) -> OnnxProgram:
        """Return the program with its main graph edited, or itself where nothing was found."""
        return program.edited(self.edit)

    @abstractmethod
    def edit(self, view: View) -> int:
        """Change a graph, and return in how many places."""
