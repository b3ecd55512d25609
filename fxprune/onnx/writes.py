"""Replace operators that write in place by those that return, where nobody can tell.

torch.onnx functionalises in-place operators itself, but takes them apart on the way, with symbolic
sizes: half of the time that a MobileNet takes to convert went into `hardtanh_`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxprune.graphs import aliased_by
from fxprune.rules import name_of

OWN_MEMORY = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d addmm avg_pool1d avg_pool2d avg_pool3d
batch_norm bmm cat conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
convolution group_norm instance_norm layer_norm linear matmul max_pool1d max_pool2d max_pool3d
scaled_dot_product_attention softmax stack
"""
FRESH = frozenset(OWN_MEMORY.split())
"""Operators that always return memory of their own, beside the element-wise ones. Of others that
are made of several, such as einsum, the schema does not say when they return a view."""


def without_writes(program: torch.export.ExportedProgram) -> int:
    """Rewrite a program in place; return how many operators became functional.

    Only where what is written is an operator's own result, which shares no memory with another
    value and is not read after the write but through the operator.
    """
    place = {node: number for number, node in enumerate(program.graph.nodes)}
    changed = 0
    for node in program.graph.nodes:
        functional = _functional(node)
        if functional is not None and _unseen(node, place):
            node.target = functional
            changed += 1
    if changed:
        program.graph_module.recompile()
    return changed


def with_views_told(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Return a program in which every view of written memory is known for one.

    `run_decompositions` and torch.onnx functionalise by schemas, and those of operators made of
    several, such as einsum, do not say when they return a view of what they read: a write through
    such a view would be lost. So where the program writes at all, they are taken apart first.
    """
    nodes = [node for node in program.graph.nodes if _overload(node) is not None]
    if not any(node.target._schema.is_mutable for node in nodes):
        return program
    known = torch.export.default_decompositions()
    opaque = {node.target for node in nodes if _perhaps_view(node)} & set(known)
    return program.run_decompositions({op: known[op] for op in opaque}) if opaque else program


def _overload(node: fx.Node) -> torch._ops.OpOverload | None:
    op = node.target
    return op if node.op == "call_function" and isinstance(op, torch._ops.OpOverload) else None


def _perhaps_view(node: fx.Node) -> bool:
    """Tell whether an operator that is made of several may return a view without saying so."""
    op = node.target
    assert isinstance(op, torch._ops.OpOverload)
    made = op.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd)
    return made and not op._schema.is_mutable and not aliased_by(op) and not _fresh(node)


def _unseen(node: fx.Node, place: dict[fx.Node, int]) -> bool:
    """Tell whether only `node` passes on what it writes."""
    written = node.args[0]
    if not isinstance(written, fx.Node) or not _fresh(written):
        return False
    others = [user for user in written.users if user is not node]
    return all(_fresh(user) and place[user] < place[node] for user in others)


def _fresh(node: fx.Node) -> bool:
    """Tell whether what a node returns shares no memory with what it reads."""
    op = node.target
    if node.op != "call_function" or not isinstance(op, torch._ops.OpOverload):
        return False
    return not aliased_by(op) and (torch.Tag.pointwise in op.tags or name_of(op) in FRESH)


def _functional(node: fx.Node) -> Any:
    """Return the operator that returns what an element-wise one writes, None where none does."""
    op = node.target
    if not isinstance(op, torch._ops.OpOverload) or op.namespace != "aten":
        return None
    if not op._schema.name.endswith("_") or torch.Tag.pointwise not in op.tags:
        return None
    packet = getattr(torch.ops.aten, name_of(op), None)
    if packet is None or op._overloadname not in packet.overloads():
        return None
    functional = getattr(packet, op._overloadname)
    # A write keeps the type and the sizes of what is written; a result has those of its operands.
    shapes = [_sizes(one) for one in (*node.args, *node.kwargs.values()) if _sizes(one)]
    kept = len(set(shapes)) == 1 and _type(functional, node) == node.meta["val"].dtype
    return functional if kept else None


def _sizes(value: Any) -> str:
    found = value.meta.get("val") if isinstance(value, fx.Node) else None
    return str(tuple(found.shape)) if isinstance(found, torch.Tensor) and found.dim() else ""


def _type(functional: Any, node: fx.Node) -> torch.dtype | None:
    """Return the element type of the result for such operands, told from small ones."""

    def small(value: Any) -> Any:
        found = value.meta.get("val") if isinstance(value, fx.Node) else value
        if not isinstance(found, torch.Tensor):
            return found
        return torch.ones((1,) * found.dim(), dtype=found.dtype)

    try:
        result = functional(*fx.map_arg(node.args, small), **fx.map_arg(node.kwargs, small))
    except Exception:  # operators raise what they like, at symbolic numbers among others
        return None
    return result.dtype if isinstance(result, torch.Tensor) else None
