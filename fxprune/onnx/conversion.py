"""Convert a module to ONNX: captured by torch.export, written by torch.onnx, cleaned."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from ..errors import ExportError, root_cause
from .clean import clean
from .feeds import Inputs
from .writes import without_writes

LIMIT = 2**31 - 1
"""Bytes: protobuf refuses larger messages, and so does an ONNX file with its weights inside."""


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
        program = torch.export.export(module, *inputs, dynamic_shapes=dynamic_shapes, strict=False)
    except Exception as problem:  # torch.export raises whatever the model or the tracer raises.
        raise ExportError(
            f"torch.export refuses the model: {root_cause(problem, 300)}"
        ) from problem
    # The converter traces the program anew and trips over guards on *args; they only assert sizes.
    program._guards_code = []
    without_writes(program)
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
    assert converted is not None
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


def _converted(program: torch.export.ExportedProgram) -> torch.onnx.ONNXProgram | None:
    """Convert; without the converter's optimizer where that fails, as it does on RAFT's splits."""
    try:
        return torch.onnx.export(program, dynamo=True, verbose=False)
    except Exception:  # a second failure is told
        return torch.onnx.export(program, dynamo=True, verbose=False, optimize=False)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the converters' progress lines, log records and warnings from the caller's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
