"""Convert a module to ONNX: captured by torch.export, written by torch.onnx, cleaned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from fxprune.capture.untouched import untouched
from fxprune.contexts import unsolved
from fxprune.errors import ExportError, root_cause
from fxprune.onnx.clean import clean
from fxprune.onnx.feeds import Inputs
from fxprune.onnx.limits import LIMIT
from fxprune.onnx.quantizers import with_known_grids
from fxprune.onnx.translations import translations
from fxprune.onnx.writes import with_views_told, without_writes


@dataclass(frozen=True)
class Captured:
    """Hold an exported program, the names of its input leaves, and which output leaves it keeps."""

    program: torch.export.ExportedProgram
    inputs: tuple[object, ...]
    tensors: tuple[str, ...]
    kept: tuple[int, ...]


def captured(module: nn.Module, inputs: Inputs, dynamic_shapes: Any) -> Captured:
    """Capture the module with torch.export; blank the outputs that are no tensors."""
    try:
        with untouched(module, inputs), unsolved():
            program = torch.export.export(
                module, *inputs, dynamic_shapes=dynamic_shapes, strict=False
            )
        # The converter traces it again and fails on guards on *args; they only assert sizes.
        program._guards_code = []
        with_known_grids(program)
        without_writes(program)
        program = with_views_told(program)
    except Exception as problem:  # torch.export raises whatever the model or the tracer raises.
        raise ExportError(
            f"torch.export refuses the model: {root_cause(problem, 300)}"
        ) from problem
    node = program.graph.output_node()
    results = node.args[0]
    assert isinstance(results, (tuple, list))
    users = len(program.graph_signature.user_outputs)
    own = results[len(results) - users :]
    # The converter skips None but fails on any other constant.
    node.args = (tuple(item if isinstance(item, fx.Node) else None for item in results),)
    kept = tuple(index for index, item in enumerate(own) if isinstance(item, fx.Node))
    if not kept:
        raise ExportError("the model returns no tensor, so there is nothing to write")
    names = tuple(program.graph_signature.user_inputs)
    leaves = zip(names, pytree.tree_leaves(inputs), strict=True)
    tensors = tuple(str(name) for name, leaf in leaves if isinstance(leaf, torch.Tensor))
    return Captured(program, names, tensors, kept)


def convert(found: Captured, *, share: bool = True) -> onnx.ModelProto:
    """Convert to ONNX with all weights inside, cleaned and checked."""
    try:
        converted = _converted(found.program)
    except Exception as problem:  # The converter wraps failures of many types of its own.
        raise ExportError(
            f"torch.onnx.export refuses the model: {root_cause(problem, 300)}"
        ) from problem
    weights = converted.model.graph.initializers.values()
    size = sum(weight.const_value.nbytes for weight in weights if weight.const_value is not None)
    if size > LIMIT:
        raise ExportError(
            f"the weights take {size:,} bytes, and an ONNX file with its weights inside holds at "
            f"most {LIMIT:,} (2 GiB); prune more, convert to half precision, or save as .pt2"
        )
    model = converted.model_proto
    # A buffer that the model writes comes out as well, before the user's outputs.
    del model.graph.output[: max(0, len(model.graph.output) - len(found.kept))]
    return clean(model, found.tensors, share=share)


def _converted(program: torch.export.ExportedProgram) -> torch.onnx.ONNXProgram:
    """Convert; without the converter's optimizer where that fails, as it does on RAFT's splits."""
    write = partial(
        torch.onnx.export,
        program,
        dynamo=True,
        verbose=False,
        custom_translation_table=translations(),
    )
    try:
        made = write()
    except Exception:  # a second failure is told
        made = write(optimize=False)
    if made is None:
        raise TypeError("it returned no program")
    return made
