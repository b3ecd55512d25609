"""Cut a graph into the groups of nodes that ONNX Runtime may run as one kernel, and tell families.

Two groups are of one family where they are equal in all but widths: one table over widths serves
both, and any other model that has such a group.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fxprune.latency.kernels.graphs import Constant, Graph, Node, wrapped
from fxprune.latency.kernels.labels import Label
from fxprune.latency.kernels.shapes import random_array

Array = NDArray[Any]
Widths = tuple[int, ...]
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# they move no data, or hardly any: ONNX Runtime spends microseconds on them
VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Constant"})
POINTWISE = frozenset(
    {
        *("Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Softplus", "Gelu", "Erf"),
        *("Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Tanh", "Sqrt", "Neg", "Exp", "Abs"),
        *("Reciprocal", "Add", "Sub", "Mul", "Div", "BatchNormalization"),
    }
)
TINY = 256  # elements: what makes no more is no work


@dataclass(frozen=True, eq=False)
class Group:
    """Hold a few nodes that run together, and the sizes of what they read and make by label."""

    nodes: Sequence[Node]
    reads: Mapping[str, tuple[Label, ...]]  # values from outside
    makes: Mapping[str, tuple[Label, ...]]  # values for the outside
    types: Mapping[str, int]  # of those values: onnx types
    like: onnx.ModelProto

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """Return the axes of the model whose sizes are widths of the group, in order."""
        found: dict[int, None] = {}
        for label in self._labels():
            if label.axis is not None:
                found[label.axis] = None
        return tuple(found)

    def _labels(self) -> list[Label]:
        listed = [
            label for shape in (*self.reads.values(), *self.makes.values()) for label in shape
        ]
        for node in self.nodes:
            for constant in node.constants.values():
                listed += [*constant.shape, *(constant.numbers or ())]
            listed += [label for labels in node.attributes.values() for label in labels]
        return listed

    @property
    def multiplies(self) -> bool:
        """Tell whether it is a product: its cost grows with widths multiplied."""
        return self.nodes[0].proto.op_type in PRODUCTS

    @cached_property
    def family(self) -> str:
        """Return what is equal for groups that differ in widths only, as a short key."""
        text = json.dumps(self._structure(), sort_keys=True, default=str)
        return sha256(text.encode()).hexdigest()[:20]

    @property
    def about(self) -> str:
        """Say for a person what the family is."""
        ops = "+".join(node.proto.op_type for node in self.nodes)
        shape = next(iter(self.reads.values()), ())
        first = self.nodes[0].constants.get(1)
        weight = f" by {self._say(first.shape)}" if first is not None else ""
        return f"{ops} of {self._say(shape)}{weight}"

    def _say(self, shape: Sequence[Label]) -> str:
        return "x".join(str(self._plain(label)) for label in shape)

    def _plain(self, label: Label) -> str:
        if label.axis is None:
            return str(label.times)
        name = "abcdefghijklmnopqrstuvwxyz"[self.axes.index(label.axis) % 26]
        return name if label.times == 1 else f"{label.times}{name}"

    def _structure(self) -> list[Any]:
        names: dict[str, str] = {name: f"r{k}" for k, name in enumerate(self.reads)}
        listed: list[Any] = [[self._say(s), self.types[n]] for n, s in self.reads.items()]
        for number, node in enumerate(self.nodes):
            inputs = [
                self._constant(node.constants[place])
                if place in node.constants
                else names.get(name, "-")
                for place, name in enumerate(node.proto.input)
            ]
            names |= {name: f"n{number}.{k}" for k, name in enumerate(node.proto.output)}
            attributes = {
                entry.name: [self._plain(label) for label in node.attributes[entry.name]]
                if entry.name in node.attributes
                else str(helper.get_attribute_value(entry))
                for entry in node.proto.attribute
            }
            listed.append([node.proto.domain, node.proto.op_type, inputs, attributes])
        return [*listed, [names.get(name) for name in self.makes]]

    def _constant(self, constant: Constant) -> list[Any]:
        numbers = [self._plain(label) for label in constant.numbers or ()]
        scalar = constant.scalar.ravel().tolist() if constant.scalar is not None else []
        return [str(np.dtype(constant.dtype)), self._say(constant.shape), numbers, scalar]

    def sizes(self, widths: Widths) -> dict[int, int]:
        """Return the sizes of the model's axes at some widths."""
        return dict(zip(self.axes, widths, strict=True))

    def elements(self, sizes: Any) -> Any:
        """Return how many elements are read and made, weights too; sizes may be arrays."""
        shapes = [*self.reads.values(), *self.makes.values()]
        shapes += [c.shape for node in self.nodes for c in node.constants.values()]
        return sum(prod(label.at(sizes) for label in shape) for shape in shapes)

    def at(self, widths: Widths) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """Return a model of the group alone at some widths, with inputs for it."""
        sizes: Any = self.sizes(widths)
        graph = onnx.GraphProto(name="group")
        held: dict[str, onnx.TensorProto] = {}
        for node in self.nodes:
            graph.node.append(node.at(sizes))
            for constant in node.constants.values():
                held[constant.key] = numpy_helper.from_array(constant.at(sizes), constant.key)
        graph.initializer.extend(held.values())
        feeds: dict[str, Array] = {}
        for name, shape in self.reads.items():
            found = tuple(label.at(sizes) for label in shape)
            graph.input.append(helper.make_tensor_value_info(name, self.types[name], found))
            feeds[name] = random_array(found, helper.tensor_dtype_to_np_dtype(self.types[name]))
        for name in self.makes:
            graph.output.append(helper.make_tensor_value_info(name, self.types[name], None))
        return wrapped(graph, self.like), feeds


def grouped(graph: Graph) -> tuple[list[Group], int]:
    """Return the groups of a graph, and how many nodes are in none: their sizes are unknown."""
    readers: dict[str, list[int]] = {}
    for number, node in enumerate(graph.nodes):
        for place, name in enumerate(node.proto.input):
            if name and place not in node.constants:
                readers.setdefault(name, []).append(number)
    ends = {entry.name for entry in graph.model.graph.output}
    taken: set[int] = set()
    groups: list[Group] = []
    unknown = 0
    for number, node in enumerate(graph.nodes):
        if number in taken or node.proto.op_type in VIEWS or _tiny(graph, node):
            continue
        chain = _chain(graph, number, readers, ends, taken)
        taken.update(chain)
        group = _group(graph, [graph.nodes[k] for k in chain], readers, ends, set(chain))
        groups += [group] if group is not None else []
        unknown += len(chain) if group is None else 0
    return groups, unknown


def _tiny(graph: Graph, node: Node) -> bool:
    shapes = [graph.values.get(name) for name in (*node.proto.output, *node.proto.input)]
    known = [shape for shape in shapes if shape is not None]
    return all(
        all(label.axis is None for label in shape) and prod(label.times for label in shape) <= TINY
        for shape in known
    )


def _chain(
    graph: Graph,
    start: int,
    readers: Mapping[str, Sequence[int]],
    ends: set[str],
    taken: set[int],
) -> list[int]:
    """Return a node and the pointwise ones that alone read what it makes."""
    chain = [start]
    while True:
        made = graph.nodes[chain[-1]].proto.output
        if len(made) != 1 or made[0] in ends:
            return chain
        more = _following(graph, made[0], readers, ends)
        if not more or taken & set(more):
            return chain
        chain += more


def _following(
    graph: Graph, value: str, readers: Mapping[str, Sequence[int]], ends: set[str]
) -> list[int]:
    """Return the pointwise node that reads a value, or two that do and end as one: x·σ(x)."""

    def pointwise(number: int) -> bool:
        return graph.nodes[number].proto.op_type in POINTWISE

    reading = list(dict.fromkeys(readers.get(value, ())))
    if not all(map(pointwise, reading)):
        return []
    if len(reading) == 1:
        return reading
    if len(reading) == 2:
        first, last = sorted(reading)
        made = graph.nodes[first].proto.output
        if len(made) == 1 and made[0] not in ends and readers.get(made[0]) == [last]:
            return [first, last]
    return []


def _group(
    graph: Graph,
    nodes: Sequence[Node],
    readers: Mapping[str, Sequence[int]],
    ends: set[str],
    inside: set[int],
) -> Group | None:
    made = {name for node in nodes for name in node.proto.output if name}
    read = {
        name: None
        for node in nodes
        for place, name in enumerate(node.proto.input)
        if name and place not in node.constants and name not in made
    }
    outside = {
        name: None
        for name in made
        if name in ends or any(number not in inside for number in readers.get(name, ()))
    }
    if not all(name in graph.values for name in (*read, *outside)) or not read or not outside:
        return None
    kept = {name: graph.values[name] for name in outside}
    types = {name: graph.types[name] for name in (*read, *kept)}
    return Group(nodes, {name: graph.values[name] for name in read}, kept, types, graph.model)
