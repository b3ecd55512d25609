"""What is known of the values of an ONNX graph: element types and sizes, by ONNX's inference."""

from __future__ import annotations

import ast
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

Dim = int | str | None
"""A size: a number, a symbol such as `batch`, or unknown."""

_SMALL = 1024  # elements: whatever inference reads the values of is a list of sizes
_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@dataclass(frozen=True)
class Known:
    """Hold the element type (`onnx.TensorProto.FLOAT`, …; 0: unknown) and sizes of a value."""

    dtype: int
    dims: tuple[Dim, ...] | None

    @property
    def static(self) -> tuple[int, ...] | None:
        """Return the sizes where every one is a number."""
        numbers = tuple(dim for dim in self.dims or () if isinstance(dim, int))
        return numbers if self.dims is not None and len(numbers) == len(self.dims) else None


def known(value: onnx.ValueInfoProto) -> Known:
    """Read what an entry of a graph says of a tensor."""
    kind = value.type.tensor_type
    if not kind.HasField("shape"):
        return Known(kind.elem_type, None)
    return Known(kind.elem_type, tuple(_dim(dim) for dim in kind.shape.dim))


def inferred(
    model: onnx.ModelProto, inputs: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, Known]:
    """Return what ONNX infers of every value of the main graph, by name.

    With `inputs`, the sizes of the graph's inputs, sizes are numbers wherever they follow from
    them: by inference, or by evaluating what the file says, such as `12*batch`.
    """
    bare = skeleton(model)
    bound: dict[str, int] = {}
    for entry in bare.graph.input:
        if inputs is not None and entry.name in inputs:
            _fix(entry, inputs[entry.name], bound)
    said = {entry.name: known(entry) for entry in (*bare.graph.value_info, *bare.graph.output)}
    if inputs is not None:
        del bare.graph.value_info[:]  # symbols would stand where numbers can be had
        for entry in bare.graph.output:
            entry.type.tensor_type.ClearField("shape")
    found = onnx.shape_inference.infer_shapes(bare, data_prop=True).graph
    values = {entry.name: known(entry) for entry in (*found.value_info, *found.output)}
    for name, one in said.items():
        values[name] = _better(values.get(name), _evaluated(one, bound) if bound else one)
    values |= {entry.name: known(entry) for entry in found.input}
    for weight in model.graph.initializer:
        values[weight.name] = Known(weight.data_type, tuple(weight.dims))
    return values


def skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model without the contents of its large weights."""
    copy = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name == "graph":
            continue
        if hasattr(value, "extend") or hasattr(value, "add"):
            getattr(copy, field.name).extend(value)
        elif hasattr(value, "CopyFrom"):
            getattr(copy, field.name).CopyFrom(value)
        else:
            setattr(copy, field.name, value)
    graph = model.graph
    copy.graph.name = graph.name
    for name in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(copy.graph, name).extend(getattr(graph, name))
    for weight in graph.initializer:
        if _elements(weight.dims) <= _SMALL and not weight.external_data:
            copy.graph.initializer.append(weight)
        else:
            copy.graph.initializer.add(
                name=weight.name, dims=weight.dims, data_type=weight.data_type
            )
    return copy


def _elements(dims: Any) -> int:
    count = 1
    for dim in dims:
        count *= dim
    return count


def _dim(dim: Any) -> Dim:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    return str(dim.dim_param) or None


def _fix(entry: onnx.ValueInfoProto, sizes: tuple[int, ...], bound: dict[str, int]) -> None:
    """Give an input its sizes, and note what its symbols stand for."""
    dims = entry.type.tensor_type.shape.dim
    for dim, size in zip(dims, sizes, strict=False):
        if dim.dim_param:
            bound.setdefault(dim.dim_param, size)
        dim.dim_value = size
    for size in sizes[len(dims) :]:
        dims.add(dim_value=size)


def _better(first: Known | None, second: Known) -> Known:
    """Merge two accounts of one value: the first wins but where it does not know."""
    if first is None or first.dims is None or second.dims is None:
        return first if first is not None and first.dims is not None else second
    if len(first.dims) != len(second.dims):
        return first
    pairs = zip(first.dims, second.dims, strict=True)
    # an int says more than a symbol, and a symbol of the file more than one that inference made up
    dims = tuple(a if isinstance(a, int) else (b if b is not None else a) for a, b in pairs)
    return Known(first.dtype or second.dtype, dims)


def _evaluated(one: Known, bound: Mapping[str, int]) -> Known:
    if one.dims is None:
        return one
    dims = tuple(_value(dim, bound) if isinstance(dim, str) else dim for dim in one.dims)
    return Known(one.dtype, dims)


def _value(text: str, bound: Mapping[str, int]) -> Dim:
    """Evaluate sums, products and quotients of symbols; return None for anything else."""

    def at(tree: ast.expr) -> int:
        if isinstance(tree, ast.Constant) and isinstance(tree.value, int):
            return tree.value
        if isinstance(tree, ast.Name):
            return bound[tree.id]
        if isinstance(tree, ast.BinOp):
            return int(_ARITHMETIC[type(tree.op)](at(tree.left), at(tree.right)))
        raise KeyError(text)

    try:
        return at(ast.parse(text, mode="eval").body)
    except (SyntaxError, KeyError, ZeroDivisionError, RecursionError, MemoryError, ValueError):
        return None
