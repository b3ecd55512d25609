"""Count the parameters and multiply-accumulates of an ONNX graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from fxprune.onnx.shapes import Known, inferred

Sizes = tuple[int, ...] | None
"""The sizes of one value; None where they are not known."""
Count = Callable[[onnx.NodeProto, list[Sizes], Sizes], int | None]


@dataclass(frozen=True)
class Costs:
    """Hold parameters and MACs; `unknown` counts operators whose MACs cannot be told."""

    parameters: int
    macs: int
    unknown: int = 0


def costs(model: onnx.ModelProto, inputs: Mapping[str, tuple[int, ...]]) -> Costs:
    """Count what a graph holds and does for inputs of these sizes.

    Parameters are the elements of floating-point and quantised initialisers, not lists of sizes.
    Multiplications are counted in convolutions, Gemm, MatMul and Einsum of the main graph.
    """
    values = inferred(model, inputs)
    macs = unknown = 0
    for node in model.graph.node:
        count = _COUNTS.get(node.op_type)
        if count is None:
            unknown += any(a.type == a.GRAPH for a in node.attribute)
            continue
        read = [_sizes(values.get(name)) for name in node.input]
        found = count(node, read, _sizes(values.get(node.output[0])))
        macs, unknown = macs + (found or 0), unknown + (found is None)
    return Costs(_parameters(model), macs, unknown)


def _parameters(model: onnx.ModelProto) -> int:
    counting = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)
    dense = [w for w in model.graph.initializer if w.data_type not in counting]
    sparse = [w.values for w in model.graph.sparse_initializer]
    held = [
        a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute
    ]  # weights of files whose writer knows no initialisers
    held = [w for w in held if w.data_type not in counting]
    return sum(math.prod(w.dims) for w in (*dense, *sparse, *held) if w.data_type)


def _sizes(value: Known | None) -> Sizes:
    return value.static if value is not None else None


def _attribute(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _conv(place: int) -> Count:
    def count(node: onnx.NodeProto, read: list[Sizes], out: Sizes) -> int | None:
        weight = read[place] if len(read) > place else None
        return None if weight is None or out is None else math.prod(out) * math.prod(weight[1:])

    return count


def _conv_transpose(node: onnx.NodeProto, read: list[Sizes], out: Sizes) -> int | None:
    if read[0] is None or read[1] is None:
        return None
    return math.prod(read[0]) * math.prod(read[1][1:])


def _gemm(node: onnx.NodeProto, read: list[Sizes], out: Sizes) -> int | None:
    if read[0] is None or out is None:
        return None
    return math.prod(out) * read[0][0 if _attribute(node, "transA") else 1]


def _matmul(node: onnx.NodeProto, read: list[Sizes], out: Sizes) -> int | None:
    return None if not read[0] or out is None else math.prod(out) * read[0][-1]


def _einsum(node: onnx.NodeProto, read: list[Sizes], out: Sizes) -> int | None:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
    letters = equation.replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    for names, one in zip(letters, read, strict=True):
        if one is None or len(names) != len(one):  # an ellipsis stands for any number of axes
            return None
        sizes.update({n: max(size, sizes.get(n, 1)) for n, size in zip(names, one, strict=True)})
    return math.prod(sizes.values()) * (len(letters) - 1)


_COUNTS: dict[str, Count] = {
    "Conv": _conv(1),
    "FusedConv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "MatMul": _matmul,
    "FusedMatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "Einsum": _einsum,
}
