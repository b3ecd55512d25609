"""An ONNX graph whose sizes are functions of widths, and the same graph at other widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fxprune.latency.kernels.labels import Label, Labels, Sizes, Unlabelled
from fxprune.latency.kernels.shapes import random_array, shapes_of

Array = NDArray[Any]
SMALL = 64  # elements: constants of so many whole numbers are compared number by number


@dataclass(frozen=True, eq=False)
class Constant:
    """Hold a constant that a node reads: its sizes by label, and its numbers where few and whole.

    Where `numbers` is None the values say nothing of time, and others are made up.
    """

    key: str  # equal for constants that are one tensor
    shape: tuple[Label, ...]
    dtype: Any
    numbers: tuple[Label, ...] | None
    scalar: Array | None = None  # a float of one element, which may be an exponent or a bound

    def at(self, sizes: Sizes) -> Array:
        """Return the constant at some widths, the weights made up."""
        shape = tuple(label.at(sizes) for label in self.shape)
        if self.numbers is not None:
            return np.array([n.at(sizes) for n in self.numbers], self.dtype).reshape(shape)
        return self.scalar if self.scalar is not None else random_array(shape, self.dtype)


@dataclass(frozen=True, eq=False)
class Node:
    """Hold a node: what it is, which of its inputs are constants, which attributes are sizes."""

    proto: onnx.NodeProto
    constants: Mapping[int, Constant]  # by place among the inputs
    attributes: Mapping[str, tuple[Label, ...]]  # those that change with widths

    def at(self, sizes: Sizes) -> onnx.NodeProto:
        """Return the node at some widths, its constants named by their keys."""
        node = onnx.NodeProto()
        node.CopyFrom(self.proto)
        for place, constant in self.constants.items():
            node.input[place] = constant.key
        for entry in node.attribute:
            if entry.name in self.attributes:
                found = [label.at(sizes) for label in self.attributes[entry.name]]
                if entry.type == entry.INT:
                    entry.i = found[0]
                else:
                    entry.ints[:] = found
        return node


@dataclass(frozen=True, eq=False)
class Graph:
    """Hold a graph by label: nodes in order, and the sizes of every value."""

    model: onnx.ModelProto
    nodes: Sequence[Node]
    values: Mapping[str, tuple[Label, ...]]
    types: Mapping[str, int]  # of every value: onnx types

    def at(self, sizes: Sizes) -> onnx.ModelProto:
        """Return the whole graph at some widths, with weights that are made up."""
        graph = onnx.GraphProto(name="resized")
        held: dict[str, onnx.TensorProto] = {}
        for node in self.nodes:
            made = node.at(sizes)
            for place, constant in node.constants.items():
                name = made.input[place]
                if name not in held:
                    held[name] = numpy_helper.from_array(constant.at(sizes), name)
            graph.node.append(made)
        graph.initializer.extend(held.values())
        graph.input.extend(self.model.graph.input)
        for entry in self.model.graph.output:
            graph.output.append(helper.make_empty_tensor_value_info(entry.name))
            graph.output[-1].type.tensor_type.elem_type = entry.type.tensor_type.elem_type
        return wrapped(graph, self.model)


def wrapped(graph: onnx.GraphProto, like: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of a graph, of the versions of another."""
    model = onnx.ModelProto(ir_version=like.ir_version, graph=graph)
    model.opset_import.extend(like.opset_import)
    return model


def labelled(
    models: Sequence[onnx.ModelProto],
    feeds: Sequence[Mapping[str, Array]],
    exports: Sequence[Sizes],
) -> Graph:
    """Label the first of several exports of one model at different widths.

    `exports` are the sizes of all axes at each. Raises Unlabelled where they differ in more than
    numbers, or where a number follows no axis.
    """
    labels, graphs = Labels(exports), [model.graph for model in models]
    counts = {len(graph.node) for graph in graphs}
    if len(counts) > 1:
        raise Unlabelled(f"the graph has {' or '.join(map(str, sorted(counts)))} nodes")
    held = [{entry.name: entry for entry in graph.initializer} for graph in graphs]
    nodes = [
        _node(labels, protos, held)
        for protos in zip(*(graph.node for graph in graphs), strict=True)
    ]
    seen = [shapes_of(model, feed) for model, feed in zip(models, feeds, strict=True)]
    shapes, types = [one for one, _ in seen], seen[0][1]
    values: dict[str, tuple[Label, ...]] = {}
    for row in zip(*(_names(graph) for graph in graphs), strict=True):
        if all(name in known for name, known in zip(row, shapes, strict=True)):
            columns = [known[name] for name, known in zip(row, shapes, strict=True)]
            values[row[0]] = labels.all_of(columns)
    return Graph(models[0], nodes, values, types)


def _names(graph: onnx.GraphProto) -> list[str]:
    """Return the names of all values that are no constants, in order."""
    return [e.name for e in graph.input] + [name for node in graph.node for name in node.output]


def _node(
    labels: Labels,
    protos: Sequence[onnx.NodeProto],
    held: Sequence[Mapping[str, onnx.TensorProto]],
) -> Node:
    first = protos[0]
    if any(entry.type in (entry.GRAPH, entry.GRAPHS) for entry in first.attribute):
        raise Unlabelled(f"{first.op_type}: control flow")
    if len({(p.op_type, len(p.input), len(p.output)) for p in protos}) > 1:
        raise Unlabelled(f"{first.op_type} of {first.output[0]} is another at other widths")
    constants: dict[int, Constant] = {}
    for place, names in enumerate(zip(*(p.input for p in protos), strict=True)):
        fixed = [name in known for name, known in zip(names, held, strict=True)]
        if any(fixed) != all(fixed):
            raise Unlabelled(f"{first.op_type}: an input is a constant only at some widths")
        if all(fixed):
            entries = [known[name] for name, known in zip(names, held, strict=True)]
            constants[place] = _constant(labels, entries)
    return Node(first, constants, dict(_attributes(labels, protos)))


def _constant(labels: Labels, entries: Sequence[onnx.TensorProto]) -> Constant:
    first = entries[0]
    shape = labels.all_of([tuple(entry.dims) for entry in entries])
    key = f"{first.name}:{'x'.join(map(str, map(_said, shape)))}"
    dtype = helper.tensor_dtype_to_np_dtype(first.data_type)
    size = int(np.prod(first.dims))
    if np.dtype(dtype).kind in "iu" and size <= SMALL:
        columns = [numpy_helper.to_array(entry).ravel().tolist() for entry in entries]
        if len({len(column) for column in columns}) == 1:
            numbers = labels.all_of(columns)
            return Constant(f"{key}={' '.join(map(_said, numbers))}", shape, dtype, numbers)
    fixed = all(label.axis is None for label in shape)
    known = fixed and (size <= 1 or np.dtype(dtype).kind != "f")
    # indices of an axis that changes are made up, too: the first one is always there
    scalar = numpy_helper.to_array(first) if known else None
    return Constant(key, shape, dtype, None, scalar)


def _said(label: Label) -> str:
    return str(label.times) if label.axis is None else f"{label.times}a{label.axis}"


def _attributes(
    labels: Labels, protos: Sequence[onnx.NodeProto]
) -> list[tuple[str, tuple[Label, ...]]]:
    found: list[tuple[str, tuple[Label, ...]]] = []
    by_name = [{entry.name: entry for entry in proto.attribute} for proto in protos]
    for name, entry in by_name[0].items():
        if entry.type not in (entry.INT, entry.INTS):
            continue
        entries = [known[name] for known in by_name if name in known]
        columns = [[e.i] if e.type == e.INT else list(e.ints) for e in entries]
        if len(columns) == len(protos) and len({tuple(column) for column in columns}) > 1:
            found.append((name, labels.all_of(columns)))
    return found
