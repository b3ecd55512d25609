"""Write a module as one ONNX file, checked against the module before the file appears."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
import torch
from torch import nn
from torch.utils import _pytree as pytree

from fxprune.capture.trial import trial
from fxprune.contexts import quiet
from fxprune.errors import ExportError, InputError, root_cause
from fxprune.files import atomic_write
from fxprune.graphs import tolerance
from fxprune.onnx.check import evaluation, feeds_for, relative_error, to_array
from fxprune.onnx.compaction import compact
from fxprune.onnx.conversion import Captured, captured, convert
from fxprune.onnx.feeds import Inputs, another_batch, batch_axes, batch_size, marks, resize
from fxprune.onnx.limits import RTOL
from fxprune.onnx.passes import compaction
from fxprune.onnx.passes.share import Share
from fxprune.onnx.program import OnnxProgram
from fxprune.onnx.sessions import Array, open_session, run


@dataclass(frozen=True)
class ExportSummary:
    """Say what was written: size in bytes, nodes, names, and the largest relative error seen.

    `notes` tell of passes of the compaction that were undone.
    """

    path: Path
    bytes: int
    nodes: int
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batches: tuple[int, ...]
    error: float
    notes: tuple[str, ...] = ()


def export(
    module: nn.Module,
    path: str | os.PathLike[str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
    batches: tuple[int, ...] | None = None,
    others: Sequence[Inputs] = (),
    axis_names: Sequence[Sequence[str | None]] = (),
    rtol: float = RTOL,
) -> ExportSummary:
    """Export a module in eval mode to one ONNX file, and return what was written.

    `dynamic_shapes` is what `torch.export.export` takes: a dict by argument name, or a tuple in
    argument order, of dicts axis -> `torch.export.Dim` (or `Dim.DYNAMIC`/`Dim.AUTO`). Best name
    the batch: `{"x": {0: Dim("batch")}}`; an unnamed dynamic axis 0 is called `batch` too. None
    exports static shapes. Inputs keep the names of forward's arguments; nested ones are joined by
    `_`. Outputs are the tensors of the flattened result: None and Python constants have no place
    in an ONNX file. `metadata` is stored under keys prefixed `fxprune.`.

    `axis_names` are names for the axes of each leaf of the inputs, where `dynamic_shapes` has none.

    The file is compared with the module in ONNX Runtime on `batches` (default: the example's
    batch and one more size) and on `others`, inputs of other sizes; it appears only if
    max|a-b|/max|a| <= `rtol` for every output, or what the digits of the module's coarsest tensor
    or grid allow, if that is more.

    Raises `FileError` (before any work) when `path` cannot be written, `ExportError` otherwise.
    """
    inputs: Inputs = (tuple(args), dict(kwargs or {}))
    rtol = tolerance(module, rtol)
    with atomic_write(path) as temporary:
        with quiet("stdout"), evaluation(module):
            marked = marks(module, inputs, dynamic_shapes)
            found = captured(module, inputs, dynamic_shapes)
            rtol = tolerance(found.program.graph_module, rtol)
            model = convert(found)
            _name_axes(model, found, inputs, marked, axis_names)
            inner = any(mark.axis for one in marked.values() for mark in one)
            shapes = {"inputs": _examples(found, inputs)} if inner else {}
            for key, value in {**metadata, **shapes}.items():
                model.metadata_props.add(key=f"fxprune.{key}", value=value)
            axes = batch_axes(marked)
            done = compact(
                model, _probes(model, found, inputs, axes), rtol=rtol, threads=_threads()
            )
            _save(done.model, temporary)
        sizes, error = _compare(module, temporary, found, inputs, axes, batches, others, rtol)
        size = temporary.stat().st_size
        return ExportSummary(Path(path), size, *_facts(done.model), sizes, error, done.notes)


def _examples(found: Captured, inputs: Inputs) -> str:
    """Return the shapes of the example inputs: a benchmark takes them where the file leaves any."""
    leaves = zip(found.inputs, pytree.tree_leaves(inputs), strict=True)
    shapes = {str(name): [*one.shape] for name, one in leaves if isinstance(one, torch.Tensor)}
    return json.dumps(shapes)


def draft(
    module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
) -> onnx.ModelProto:
    """Return the graph that `export` would write, compared with nothing, equal constants unshared.

    Raises `ExportError`.
    """
    inputs: Inputs = (tuple(args), dict(kwargs or {}))
    with quiet("stdout"), evaluation(module):
        program = OnnxProgram(convert(captured(module, inputs, dynamic_shapes), share=False))
        for one in (one for one in compaction() if not isinstance(one, Share)):
            program = one(program)
    return program.model


def _threads() -> int:
    return torch.get_num_threads()


def _probes(
    model: onnx.ModelProto, found: Captured, inputs: Inputs, axes: dict[int, Any]
) -> list[dict[str, Array]]:
    """Return inputs to compare passes on: two batch sizes, small ones where they fit."""
    probes: list[dict[str, Array]] = []
    for size in dict.fromkeys((1, 2, batch_size(inputs, axes), another_batch(inputs, axes))):
        try:
            feed = inputs if size is None else resize(inputs, axes, size)
        except InputError:  # a size that the model does not admit
            continue
        leaves = zip(found.inputs, pytree.tree_leaves(feed), strict=True)
        named = {str(name): leaf for name, leaf in leaves}
        probes.append({entry.name: to_array(named[entry.name]) for entry in model.graph.input})
        if len(probes) == 2 or size is None:
            break
    return probes


def _facts(model: onnx.ModelProto) -> tuple[int, int, tuple[str, ...], tuple[str, ...]]:
    """Return the nodes, the opset, and the names of inputs and outputs."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    inputs = tuple(entry.name for entry in model.graph.input)
    outputs = tuple(entry.name for entry in model.graph.output)
    return len(model.graph.node), opset, inputs, outputs


def _name_axes(
    model: onnx.ModelProto,
    found: Captured,
    inputs: Inputs,
    marked: dict[int, Any],
    axis_names: Sequence[Sequence[str | None]],
) -> None:
    """Give dynamic axes the names of `dynamic_shapes` instead of torch's symbols (`s77`)."""
    entries = {entry.name: entry.type.tensor_type.shape.dim for entry in model.graph.input}
    axes = batch_axes(marked)
    names: dict[str, str] = {}
    for k, (name, leaf) in enumerate(zip(found.inputs, pytree.tree_leaves(inputs), strict=True)):
        given = axis_names[k] if k < len(axis_names) else ()
        for mark in marked.get(id(leaf), ()) if name in entries else ():
            symbol = entries[str(name)][mark.axis].dim_param
            known = given[mark.axis] if mark.axis < len(given) else None
            wanted = mark.name or ("batch" if axes.get(id(leaf)) is mark else known)
            if wanted and wanted.isidentifier() and symbol.isidentifier():
                names.setdefault(symbol, wanted)
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    for dim in (dim for value in values for dim in value.type.tensor_type.shape.dim):
        if dim.dim_param:
            dim.dim_param = re.sub(r"\w+", lambda m: names.get(m[0], m[0]), dim.dim_param)


def _save(model: onnx.ModelProto, temporary: Path) -> None:
    """Write the model to a file and let onnx.checker read it back."""
    try:
        onnx.save_model(model, os.fspath(temporary), format="protobuf")
        onnx.checker.check_model(os.fspath(temporary), full_check=True)
    except OSError:
        raise
    except Exception as problem:  # The checker, protobuf and shape inference share no base class.
        raise ExportError(
            f"onnx.checker refuses the model: {root_cause(problem, 300)}"
        ) from problem


def _compare(
    module: nn.Module,
    path: Path,
    found: Captured,
    inputs: Inputs,
    axes: dict[int, Any],
    batches: tuple[int, ...] | None,
    others: Sequence[Inputs],
    rtol: float,
) -> tuple[tuple[int, ...], float]:
    """Run module and file on each batch size; return the sizes and the largest relative error."""
    session = open_session(path, _threads())
    own = batch_size(inputs, axes)
    if batches is None:
        batches = tuple(n for n in (own, another_batch(inputs, axes)) if n is not None)
    worst = 0.0
    feeds: list[tuple[Any, Inputs]] = [
        (size, inputs if size in (None, own) else resize(inputs, axes, int(size or 0)))
        for size in batches or (None,)
    ]
    feeds += [(batch_size(one, _same_axes(inputs, one, axes)), one) for one in others]
    for size, feed in feeds:
        ours = _run_module(module, feed, found.kept, size)
        theirs = run(session, feeds_for(session, found.inputs, feed))
        for mine, result, entry in zip(ours, theirs, session.get_outputs(), strict=True):
            error = relative_error(mine, result)
            worst = max(worst, error)
            if not error <= rtol:
                raise ExportError(
                    f"output {entry.name}: ONNX Runtime differs from the module by {error:.2g} "
                    f"(relative, at batch {size}), more than rtol={rtol:g}; nothing was written"
                )
    return tuple(batches), worst


def _same_axes(inputs: Inputs, others: Inputs, axes: dict[int, Any]) -> dict[int, Any]:
    """Return the batch axes of inputs that are laid out like those of which they are known."""
    pairs = zip(pytree.tree_leaves(inputs), pytree.tree_leaves(others), strict=True)
    return {id(one): axes[id(leaf)] for leaf, one in pairs if id(leaf) in axes}


def _run_module(
    module: nn.Module, feed: Inputs, kept: tuple[int, ...], size: int | None
) -> list[Array]:
    """Run the module in eval mode; return the outputs that the file has."""
    try:
        with trial(module, feed), evaluation(module):
            leaves = pytree.tree_leaves(module(*feed[0], **feed[1]))
            # Copy: a returned buffer is put back when the evaluation ends.
            return [to_array(leaves[index]).copy() for index in kept]
    except ExportError:
        raise
    except Exception as problem:  # A model raises what it likes.
        raise ExportError(
            f"the module fails at batch {size}: {root_cause(problem, 300)}"
        ) from problem
