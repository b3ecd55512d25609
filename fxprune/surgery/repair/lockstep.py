"""Run a graph node by node over many batches, so that another can be run beside it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from fxprune.errors import CalibrationError, first_line
from fxprune.graphs import alias_of, attribute, written_later
from fxprune.surgery.repair.activations import Memory, Values


class Side:
    """Run one graph over all batches, as far as it is told to.

    A value is freed when the last node has read it; what of weights is computed is computed once.
    `kept` are nodes whose values are read by others: they are freed by `read`.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        batches: Sequence[Sequence[Any]],
        memory: Memory,
        kept: Collection[fx.Node] = (),
    ) -> None:
        self.module, self.nodes = module, list(module.graph.nodes)
        self.at = 0
        self._runner, self._memory = _Runner(module), memory
        self._written = written_later(module.graph)
        aliases = {node for node in self.nodes if alias_of(node)[0] is not None}
        self._shared = aliases | self._written
        self._weights = dict.fromkeys(_constant(self.nodes))
        self._left = {node: len(node.users) + (node in kept) for node in self.nodes}
        self.places = {node: k for k, node in enumerate(self.nodes)}
        values: dict[fx.Node, Any] = {}
        for node in self._weights:
            values[node] = self._runner.of(node, Values(values))
        self._constants = values
        self.values = [Values(values) for _ in batches]
        for one, leaves in zip(self.values, batches, strict=True):
            given = pytree.tree_map_only(Tensor, torch.clone, list(leaves))
            inputs = (node for node in self.nodes if node.op == "placeholder")
            for node, leaf in zip(inputs, given, strict=True):
                self._keep(one, node, leaf)

    def fork(self) -> Side:
        """Return a side that goes on from here by itself; what is written to is copied."""
        twin = copy.copy(self)
        twin._left, twin.values = dict(self._left), []
        for one in self.values:
            own = Values(self._constants)
            written = {node: value for node, value in one.own.items() if node in self._written}
            own.own = dict(one.own) | copy.deepcopy(written)
            twin.values.append(own)
        twin._memory = self._memory.fork()
        return twin

    def advance(self, node: fx.Node, *, inclusive: bool = True) -> None:
        """Run all that comes before a node, and the node itself."""
        end = self.places[node] + inclusive
        while self.at < end:
            self._step(self.nodes[self.at])

    def finish(self) -> None:
        """Run all that is left but the output, whose operands stay."""
        while self.at < len(self.nodes) and self.nodes[self.at].op != "output":
            self._step(self.nodes[self.at])

    def outputs(self) -> Iterator[list[Any]]:
        """Yield what the graph returns, batch by batch."""
        last = self.nodes[-1]
        for one in self.values:
            found = fx.map_arg(last.args, one.__getitem__)
            yield [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, Tensor)]

    def computed(self, node: fx.Node, batch: int) -> Any:
        """Return what a node gives on a batch, without keeping it."""
        return self._ran(node, self.values[batch], batch)

    def read(self, node: fx.Node) -> None:
        """Count one reading of a node's value."""
        self._left[node] -= 1
        if not self._left[node]:
            for one in self.values:
                self._free(one, node)

    def refresh(self, names: Collection[str]) -> None:
        """Compute anew what was computed from parameters that have changed."""
        changed = [attribute(self.module, name) for name in names]
        stale: set[fx.Node] = set()
        for node in self._weights:
            if node.op == "get_attr":
                if any(attribute(self.module, str(node.target)) is one for one in changed):
                    stale.add(node)
            elif any(one in stale for one in node.all_input_nodes):
                stale.add(node)
                self._constants[node] = self._runner.of(node, Values(self._constants))

    def _step(self, node: fx.Node) -> None:
        self.at += 1
        if node in self._weights or node.op == "placeholder":
            return
        for batch, one in enumerate(self.values):
            self._keep(one, node, self._ran(node, one, batch))
        for before in node.all_input_nodes:
            if before not in self._weights:
                self.read(before)
        if not self._left[node]:
            for one in self.values:
                self._free(one, node)

    def _ran(self, node: fx.Node, values: Values, batch: int) -> Any:
        try:
            return self._runner.of(node, values)
        except Exception as error:  # the operators raise what they like
            raise CalibrationError(
                f"calibrate: batch {batch}: {node.name} refuses it: {first_line(error)}"
            ) from error

    def _keep(self, values: Values, node: fx.Node, value: Any) -> None:
        values[node] = self._memory.kept(value, shared=node in self._shared)

    def _free(self, values: Values, node: fx.Node) -> None:
        if node in values.own:
            self._memory.freed(values.own[node], shared=node in self._shared)
            del values[node]


class _Runner(fx.Interpreter):
    """Run single nodes on values that somebody else keeps."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)

    def of(self, node: fx.Node, values: Values) -> Any:
        """Return what a node gives."""
        self.env = values  # type: ignore[assignment]
        with torch.no_grad():
            return self.run_node(node)


def _constant(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Return the nodes whose values do not depend on the inputs, in order."""
    found: dict[fx.Node, None] = {}
    for node in nodes:
        reads = node.all_input_nodes
        if node.op == "get_attr" or (
            node.op == "call_function" and reads and all(one in found for one in reads)
        ):
            found[node] = None
    return list(found)
