"""Small ONNX graphs that a pass has to leave as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from fxprune.onnx.passes import ORDER
from tests.onnx.fires import CONV, FLOAT, INT, bn, graph_of, ints, node, noise, norm, value


def branch(*, reads: str) -> Any:
    """Let both bodies of an If hand on (twice) a value from outside."""

    def body(name: str) -> Any:
        inner = [node("Identity", [reads], [f"{name}1"]), node("Identity", [f"{name}1"], [name])]
        return helper.make_graph(inner, name, [], [value(name, FLOAT, None)])

    return node("If", ["c"], ["y"], then_branch=body("t"), else_branch=body("e"))


SPARED: dict[str, tuple[str, onnx.ModelProto]] = {
    "a constant too large": (
        "onnx_fold",
        graph_of(
            [node("Expand", ["w", "s"], ["d"]), node("Add", ["x", "d"], ["y"])],
            {"w": noise(1), "s": ints(2**15)},
            dims=["batch", 1],
        ),
    ),
    "random numbers": (
        "onnx_fold",
        graph_of([node("RandomNormal", [], ["r"], shape=[6]), node("Add", ["x", "r"], ["y"])]),
    ),
    "dropout in training": (
        "onnx_noop",
        graph_of(
            [node("Dropout", ["x", "p", "t"], ["y"])], {"p": np.float32(0), "t": np.asarray(True)}
        ),
    ),
    "dropout whose mask is read": (
        "onnx_noop",
        graph_of(
            [node("Dropout", ["x"], ["d", "mask"]), node("Relu", ["d"], ["y"])],
            outputs={"y": FLOAT, "mask": TensorProto.BOOL},
        ),
    ),
    "an input that is an output": ("onnx_noop", graph_of([node("Identity", ["x"], ["y"])])),
    "two outputs of one value": (
        "onnx_noop",
        graph_of(
            [node("Relu", ["x"], ["y"]), node("Identity", ["y"], ["z"])],
            outputs={"y": FLOAT, "z": FLOAT},
        ),
    ),
    "a weight that is an output": (
        "onnx_noop",
        graph_of(
            [node("Identity", ["w"], ["z"]), node("Add", ["x", "w"], ["y"])],
            {"w": noise(6)},
            outputs={"y": FLOAT, "z": FLOAT},
        ),
    ),
    "a one that broadcasts": (
        "onnx_noop",
        graph_of([node("Mul", ["x", "one"], ["y"])], {"one": np.ones((2, 1, 1, 1, 1), np.float32)}),
    ),
    "a slice of a part": (
        "onnx_noop",
        graph_of(
            [node("Slice", ["x", "a", "b", "c"], ["y"])], {"a": ints(0), "b": ints(3), "c": ints(1)}
        ),
    ),
    "a slice backwards": (
        "onnx_noop",
        graph_of(
            [node("Slice", ["x", "a", "b", "c", "d"], ["y"])],
            {"a": ints(-1), "b": ints(-(2**62)), "c": ints(1), "d": ints(-1)},
        ),
    ),
    "a reshape that moves sizes": (
        "onnx_noop",
        graph_of([node("Reshape", ["x", "s"], ["y"])], {"s": ints(4, -1, 6, 6)}),
    ),
    "a transpose that is read twice": (
        "onnx_noop",
        graph_of(
            [
                node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]),
                node("Transpose", ["t"], ["y"], perm=[0, 2, 1, 3]),
                node("Relu", ["t"], ["z"]),
            ],
            outputs={"y": FLOAT, "z": FLOAT},
        ),
    ),
    "a cast to another": (
        "onnx_noop",
        graph_of([node("Cast", ["x"], ["i"], to=INT), node("Cast", ["i"], ["y"], to=FLOAT)]),
    ),
    "two sizes that are not known": (
        "onnx_shapes",
        graph_of(
            [
                node("Shape", ["x"], ["s"]),
                node("Gather", ["s", "order"], ["to"]),
                node("Reshape", ["x", "to"], ["y"]),
            ],
            {"order": ints(1, 0, 2)},
            dims=["batch", "length", 6],
        ),
    ),
    "a size that is an output": (
        "onnx_shapes",
        graph_of([node("Shape", ["x"], ["y"], start=1)], outputs={"y": INT}),
    ),
    "a reshape that copies sizes": (
        "onnx_shapes",
        graph_of(
            [node("Flatten", ["x"], ["f"]), node("Reshape", ["f", "s"], ["y"])],
            {"s": ints(0, -1, 12)},
        ),
    ),
    "a norm in training": (
        "onnx_batchnorm",
        graph_of(
            [
                CONV,
                node(
                    "BatchNormalization",
                    ["h", "s", "b", "m", "v"],
                    ["y", "rm", "rv"],
                    training_mode=1,
                ),
            ],
            {"w": noise(8, 4, 3, 3)} | norm(8),
        ),
    ),
    "a weight that two read": (
        "onnx_batchnorm",
        graph_of(
            [CONV, bn(), node("Conv", ["x", "w"], ["z"])],
            {"w": noise(8, 4, 3, 3)} | norm(8),
            outputs={"y": FLOAT, "z": FLOAT},
        ),
    ),
    "a conv that two read": (
        "onnx_batchnorm",
        graph_of(
            [CONV, bn(), node("Relu", ["h"], ["z"])],
            {"w": noise(8, 4, 3, 3)} | norm(8),
            outputs={"y": FLOAT, "z": FLOAT},
        ),
    ),
    "a conv that is an output": (
        "onnx_batchnorm",
        graph_of(
            [CONV, bn()], {"w": noise(8, 4, 3, 3)} | norm(8), outputs={"y": FLOAT, "h": FLOAT}
        ),
    ),
    "a weight that is computed": (
        "onnx_batchnorm",
        graph_of([node("Relu", ["v0"], ["w"]), CONV, bn()], {"v0": noise(8, 4, 3, 3)} | norm(8)),
    ),
    "an activation between": (
        "onnx_batchnorm",
        graph_of([CONV, node("Relu", ["h"], ["r"]), bn("r")], {"w": noise(8, 4, 3, 3)} | norm(8)),
    ),
    "a matmul of three axes": (
        "onnx_batchnorm",
        graph_of(
            [node("MatMul", ["x", "w"], ["h"]), bn()],
            {"w": noise(6, 4)} | norm(4),
            dims=["batch", 4, 6],
        ),
    ),
    "a gemm with a bias for each row": (
        "onnx_batchnorm",
        graph_of(
            [node("Gemm", ["x", "w", "c"], ["h"]), bn()],
            {"w": noise(5, 3), "c": noise(2, 3)} | norm(3),
            dims=[2, 5],
        ),
    ),
    "initialisers of other types": (
        "onnx_share",
        graph_of(
            [node("Gather", ["x", "i"], ["y"]), node("Gather", ["x", "j"], ["z"])],
            {"i": np.int64(0), "j": ints(0)},
            outputs={"y": FLOAT, "z": FLOAT},
        ),
    ),
    "optional outputs that are read": (
        "onnx_unused",
        graph_of(
            [node("MaxPool", ["x"], ["y", "places"], kernel_shape=[2, 2])],
            outputs={"y": FLOAT, "places": INT},
        ),
    ),
    **{
        f"{name}: what a body reads": (
            name,
            graph_of(
                [node("Relu", ["x"], ["r"]), node("Identity", ["r"], ["i"]), branch(reads="i")],
                {"c": np.asarray(True)},
            ),
        )
        for name in ORDER
    },
    **{
        f"{name}: a weight that a body reads": (
            name,
            graph_of(
                [node("Mul", ["a", "b"], ["i"]), node("Relu", ["x"], ["z"]), branch(reads="b")],
                {"c": np.asarray(True), "a": np.ones(6, np.float32), "b": np.ones(6, np.float32)},
                outputs={"y": FLOAT, "z": FLOAT, "i": FLOAT},
            ),
        )
        for name in ("onnx_noop", "onnx_share", "onnx_unused")
    },
}
