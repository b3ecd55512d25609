"""Small ONNX graphs, and what a pass leaves of each."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node
value = helper.make_tensor_value_info
RNG = np.random.default_rng(0)


def noise(*dims: int) -> Any:
    return RNG.standard_normal(dims).astype(np.float32)


def ints(*values: int) -> Any:
    return np.asarray(values, np.int64)


def graph_of(
    nodes: list[Any],
    weights: dict[str, Any] | None = None,
    dims: list[Any] | None = None,
    outputs: dict[str, int] | None = None,
    opset: int = 20,
    kind: int = FLOAT,
) -> onnx.ModelProto:
    """Build a model from x, of `dims`, to `outputs` (y, floats, if not said)."""
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", kind, dims or ["batch", 4, 6, 6])],
        [value(name, type_, None) for name, type_ in (outputs or {"y": FLOAT}).items()],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    shaped = onnx.shape_inference.infer_shapes(model)
    del shaped.graph.value_info[:]  # passes have to find out for themselves
    shaped.metadata_props.add(key="who", value="me")
    return shaped


def norm(channels: int) -> dict[str, Any]:
    return {
        **{"s": noise(channels), "b": noise(channels), "m": noise(channels)},
        "v": np.abs(noise(channels)) + 0.5,
    }


def bn(source: str = "h", out: str = "y", **attributes: Any) -> Any:
    return node("BatchNormalization", [source, "s", "b", "m", "v"], [out], **attributes)


CONV = node("Conv", ["x", "w"], ["h"])
Case = tuple[str, onnx.ModelProto, list[str]]
"""A pass, a model, and the operators that are left of it."""

FIRES: dict[str, Case] = {
    "constants": (
        "onnx_fold",
        graph_of(
            [
                node("Constant", [], ["c"], value_float=2.0),
                node("Mul", ["c", "w"], ["d"]),
                node("Add", ["x", "d"], ["y"]),
            ],
            {"w": noise(6)},
        ),
        ["Add"],
    ),
    "identity": (
        "onnx_noop",
        graph_of([node("Identity", ["x"], ["i"]), node("Relu", ["i"], ["y"])]),
        ["Relu"],
    ),
    "identity before an output": (
        "onnx_noop",
        graph_of([node("Relu", ["x"], ["r"]), node("Identity", ["r"], ["y"])]),
        ["Relu"],
    ),
    "inference dropout": (
        "onnx_noop",
        graph_of(
            [node("Dropout", ["x", "p"], ["d"]), node("Relu", ["d"], ["y"])], {"p": np.float32(0.5)}
        ),
        ["Relu"],
    ),
    "cast to the same": (
        "onnx_noop",
        graph_of([node("Cast", ["x"], ["d"], to=FLOAT), node("Relu", ["d"], ["y"])]),
        ["Relu"],
    ),
    "reshape to the same": (
        "onnx_noop",
        graph_of(
            [node("Reshape", ["x", "s"], ["d"]), node("Relu", ["d"], ["y"])],
            {"s": ints(-1, 4, 6, 6)},
        ),
        ["Relu"],
    ),
    "transpose of nothing": (
        "onnx_noop",
        graph_of([node("Transpose", ["x"], ["t"], perm=[0, 1, 2, 3]), node("Relu", ["t"], ["y"])]),
        ["Relu"],
    ),
    "transpose there and back": (
        "onnx_noop",
        graph_of(
            [
                node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
                node("Transpose", ["t"], ["u"], perm=[0, 3, 1, 2]),
                node("Relu", ["u"], ["y"]),
            ]
        ),
        ["Relu"],
    ),
    "transposes in a row": (
        "onnx_noop",
        graph_of(
            [
                node("Transpose", ["x"], ["t"], perm=[1, 2, 3, 0]),
                node("Transpose", ["t"], ["y"], perm=[2, 0, 3, 1]),
            ]
        ),
        ["Transpose"],
    ),
    "reversing transposes": (
        "onnx_noop",
        graph_of(
            [
                node("Transpose", ["x"], ["t"]),
                node("Transpose", ["t"], ["u"]),
                node("Relu", ["u"], ["y"]),
            ]
        ),
        ["Relu"],
    ),
    "neutral arithmetic, slices, pads": (
        "onnx_noop",
        graph_of(
            [
                node("Add", ["x", "zero"], ["a"]),
                node("Mul", ["a", "one"], ["b"]),
                node("Slice", ["b", "from", "to"], ["c"]),
                node("Pad", ["c", "pads"], ["d"]),
                node("Concat", ["d"], ["e"], axis=1),
                node("Relu", ["e"], ["y"]),
            ],
            {
                **{"zero": np.float32(0), "one": np.ones((1, 1), np.float32), "from": ints(0)},
                **{"to": ints(2**63 - 1), "pads": ints(0, 0, 0, 0, 0, 0, 0, 0)},
            },
        ),
        ["Relu"],
    ),
    "sizes that are known": (
        "onnx_shapes",
        graph_of(
            [
                node("Shape", ["x"], ["s"]),
                node("Gather", ["s", "one"], ["g"]),
                node("Gather", ["s", "two"], ["h"]),
                node("Unsqueeze", ["g", "zero"], ["u"]),
                node("Concat", ["batch", "u", "h"], ["to"], axis=0),
                node("Reshape", ["x", "to"], ["y"]),
            ],
            {"one": np.int64(1), "two": ints(2), "zero": ints(0), "batch": ints(-1)},
            dims=["batch", 4, 6],
        ),
        ["Reshape"],
    ),
    "one size that is not known": (
        "onnx_shapes",
        graph_of(
            [
                node("Shape", ["x"], ["s"], start=0, end=1),
                node("Concat", ["s", "rest"], ["to"], axis=0),
                node("Reshape", ["x", "to"], ["y"]),
            ],
            {"rest": ints(24, 6)},
        ),
        ["Reshape"],
    ),
    "reshapes in a row": (
        "onnx_shapes",
        graph_of(
            [node("Flatten", ["x"], ["f"]), node("Reshape", ["f", "s"], ["y"])],
            {"s": ints(-1, 12, 12)},
        ),
        ["Reshape"],
    ),
    "conv": (
        "onnx_batchnorm",
        graph_of([CONV, bn()], {"w": noise(8, 4, 3, 3)} | norm(8)),
        ["Conv"],
    ),
    "grouped conv with bias": (
        "onnx_batchnorm",
        graph_of(
            [node("Conv", ["x", "w", "c"], ["h"], group=2), bn(epsilon=0.1)],
            {"w": noise(8, 2, 3, 3), "c": noise(8)} | norm(8),
        ),
        ["Conv"],
    ),
    "grouped transposed conv": (
        "onnx_batchnorm",
        graph_of(
            [node("ConvTranspose", ["x", "w", "c"], ["h"], group=2), bn()],
            {"w": noise(4, 3, 3, 3), "c": noise(6)} | norm(6),
        ),
        ["ConvTranspose"],
    ),
    "gemm": (
        "onnx_batchnorm",
        graph_of(
            [node("Gemm", ["x", "w", "c"], ["h"], transB=1, alpha=0.5, beta=3.0), bn()],
            {"w": noise(7, 5), "c": noise(7)} | norm(7),
            dims=["batch", 5],
        ),
        ["Gemm"],
    ),
    "matmul": (
        "onnx_batchnorm",
        graph_of(
            [node("MatMul", ["x", "w"], ["h"]), bn(out="n"), node("Relu", ["n"], ["y"])],
            {"w": noise(5, 7)} | norm(7),
            dims=["batch", 5],
        ),
        ["Gemm", "Relu"],
    ),
    "equal initialisers": (
        "onnx_share",
        graph_of(
            [node("Add", ["x", "a"], ["h"]), node("Mul", ["h", "b"], ["y"])],
            {"a": np.arange(6.0, dtype=np.float32), "b": np.arange(6.0, dtype=np.float32)},
        ),
        ["Add", "Mul"],
    ),
    "what reaches no output": (
        "onnx_unused",
        graph_of(
            [node("Relu", ["x"], ["y"]), node("Mul", ["x", "w"], ["dead"])],
            {"w": noise(6), "never": noise(6)},
        ),
        ["Relu"],
    ),
    "outputs nobody reads": (
        "onnx_unused",
        graph_of([node("MaxPool", ["x"], ["y", "places"], kernel_shape=[2, 2])]),
        ["MaxPool"],
    ),
    "equal nodes": (
        "onnx_rewrite",
        graph_of(
            [node("Relu", ["x"], ["a"]), node("Relu", ["x"], ["b"]), node("Add", ["a", "b"], ["y"])]
        ),
        ["Relu", "Add"],
    ),
}
