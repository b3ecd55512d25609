"""Cleaning an exported graph: constants folded, equal initialisers shared, dead nodes dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from onnx import TensorProto, helper

from fxprune.onnx.check import open_session, run
from fxprune.onnx.clean import FOLD_LIMIT, clean


def graph_of(nodes: list[Any], weights: list[Any], outputs: int = 1) -> onnx.ModelProto:
    """Build a model from x [2, 2] to y0, y1, … of unknown shape."""
    value = helper.make_tensor_value_info
    results = [value(f"y{index}", TensorProto.FLOAT, None) for index in range(outputs)]
    entry = [value("x", TensorProto.FLOAT, [2, 2])]
    graph = helper.make_graph(nodes, "g", entry, results, initializer=weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def tensor(name: str, values: Any) -> Any:
    return onnx.numpy_helper.from_array(np.asarray(values, dtype=np.float32), name)


def test_clean_folds_shares_and_drops() -> None:
    node = helper.make_node
    model = graph_of(
        [
            node("Add", ["a", "b"], ["c"]),
            node("Add", ["x", "c"], ["d"]),
            node("Mul", ["x", "a"], ["dead"]),
            node("Mul", ["d", "same"], ["e"]),
            node("Mul", ["e", "again"], ["y0"]),
        ],
        [
            *(tensor("a", [1, 2]), tensor("b", [3, 4]), tensor("unused", [7])),
            *(tensor("same", [5, 6]), tensor("again", [5, 6])),
        ],
    )
    cleaned = clean(model)
    assert [node.op_type for node in cleaned.graph.node] == ["Add", "Mul", "Mul"]
    assert len(cleaned.graph.initializer) == 2
    feeds = {"x": np.ones((2, 2), np.float32)}
    old = run(open_session(model.SerializeToString()), feeds)
    new = run(open_session(cleaned.SerializeToString()), feeds)
    assert np.array_equal(old[0], new[0])


def test_clean_keeps_a_scalar_apart_from_a_vector_of_one() -> None:
    node = helper.make_node
    index = [
        onnx.numpy_helper.from_array(np.asarray(v, np.int64), n) for n, v in [("i", 0), ("j", [0])]
    ]
    nodes = [node("Gather", ["x", "i"], ["y0"]), node("Gather", ["x", "j"], ["y1"])]
    cleaned = clean(graph_of(nodes, index, outputs=2))
    session = open_session(cleaned.SerializeToString())
    shapes = [result.shape for result in run(session, {"x": np.ones((2, 2), np.float32)})]
    assert shapes == [(2,), (1, 2)]


def test_clean_folds_nothing_large_or_random() -> None:
    node = helper.make_node
    size = onnx.numpy_helper.from_array(np.asarray([FOLD_LIMIT, 2, 2], np.int64), "size")
    nodes = [
        node("Expand", ["one", "size"], ["big"]),
        node("RandomNormal", [], ["noise"], shape=[2, 2]),
        node("Add", ["x", "big"], ["y0"]),
        node("Add", ["x", "noise"], ["y1"]),
    ]
    cleaned = clean(graph_of(nodes, [tensor("one", [1]), size], outputs=2))
    assert {"Expand", "RandomNormal"} <= {node.op_type for node in cleaned.graph.node}
    assert cleaned.ByteSize() < FOLD_LIMIT


@pytest.mark.parametrize("readers", [1, 2])
def test_weights_that_are_laid_out_anew_are_folded_whatever_their_size(readers: int) -> None:
    """What the reshaping reads stays where another node reads it, too: the file would grow."""
    node, many = helper.make_node, FOLD_LIMIT
    weight = tensor("w", np.arange(2 * many).reshape(many, 2))
    shape = onnx.numpy_helper.from_array(np.asarray([2, many], np.int64), "shape")
    nodes = [
        node("Reshape", ["w", "shape"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[1, 0]),
        node("MatMul", ["t", "x"], ["y0"]),
    ]
    if readers == 2:
        nodes.append(node("MatMul", ["w", "x"], ["y1"]))
    model = graph_of(nodes, [weight, shape], outputs=readers)
    cleaned = clean(model)
    left = sorted(one.op_type for one in cleaned.graph.node)
    assert left == ["MatMul"] * readers + ["Reshape", "Transpose"] * (readers - 1)
    assert cleaned.ByteSize() < model.ByteSize() + 100
    feeds = {"x": np.eye(2, dtype=np.float32)}
    old = run(open_session(model.SerializeToString()), feeds)
    new = run(open_session(cleaned.SerializeToString()), feeds)
    assert all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))
