"""Where a rule meets a node of a graph again: while the graph shrinks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import fx

from fxprune.graphs import arguments
from fxprune.guards import Ids, Mask
from fxprune.rules.kept import Kept
from fxprune.rules.site import Coupling, TensorGuard, Value


class Edit:
    """Offer a rule one node of a shrinking graph: what is kept, and the node's own constants."""

    def __init__(self, node: fx.Node, coupling: Coupling, kept: Kept, source: fx.Node) -> None:
        self.node = node
        self.source = source
        self.args = arguments(node)
        self.shuffle = coupling.shuffled.get(source)  # which ends at the node
        self.written = source in coupling.written  # whether a view must stay one
        self._values = coupling.values
        self._kept = kept
        self._source_args = arguments(source)

    @property
    def operator(self) -> Any:
        """Return the operator that the node calls."""
        return self.node.target

    def loses(self) -> bool:
        """Tell whether an operand or a result of the node loses anything."""
        touched = [self._values.get(one) for one in (self.source, *self.source.all_input_nodes)]
        return any(not self._kept.mask(g).all() for value in touched for g in _axes(value))

    def value(self, name: str) -> TensorGuard:
        """Return the guards of the tensor operand `name`."""
        return self.guards(self._source_args[name])

    def guards(self, source: Any) -> TensorGuard:
        """Return the guards of a node of the original graph."""
        value = self._values.get(source)
        if not isinstance(value, TensorGuard):
            raise TypeError(f"{self.node.name}: {source} is not a tensor")
        return value

    def mask(self, name: str, dim: int) -> Mask:
        """Return which indices of dimension `dim` of operand `name` are kept."""
        return self._kept.mask(self.value(name).dims[dim])

    def count(self, g: Ids) -> int:
        """Return how many indices of a guard are kept."""
        return int(self._kept.mask(g).sum())

    def kept(self, g: Ids) -> Mask:
        """Return which indices of a guard are kept."""
        return self._kept.mask(g)

    def result(self, index: int | None = None) -> TensorGuard:
        """Return the guards of this node's result, or of its `index`-th tensor."""
        value = self._values[self.source]
        chosen = value if index is None or not isinstance(value, tuple) else value[index]
        if not isinstance(chosen, TensorGuard):
            raise TypeError(f"{self.node.name}: the result is not a tensor")
        return chosen

    def sizes(self) -> list[int]:
        """Return the kept size of every dimension of the result."""
        return [self.count(g) for g in self.result().dims]

    def set(self, name: str, value: Any) -> None:
        """Change one argument, by its name in the operator's schema."""
        target = self.node.target
        if not isinstance(target, torch._ops.OpOverload):
            raise TypeError(f"{self.node.name}: {target} has no schema")
        names = [a.name for a in target._schema.arguments if not a.kwarg_only]
        if name in names and names.index(name) < len(self.node.args):
            self.node.update_arg(names.index(name), value)
        else:
            self.node.update_kwarg(name, value)

    def constant(self, value: torch.Tensor, name: str) -> fx.Node:
        """Put a constant tensor before this node and return the node that reads it."""
        graph = self.node.graph
        owner: Any = graph.owning_module
        label = f"_{self.node.name}_{name}"
        made = self.source.meta.get("val")
        if isinstance(made, torch.Tensor) and not made.is_meta:  # there numbers would be lost
            value = value.to(made.device)
        owner.register_buffer(label, value, persistent=False)
        with graph.inserting_before(self.node):
            read = graph.get_attr(label)
        read.meta["val"] = value
        return read


def _axes(value: Value) -> Iterator[Ids]:
    if isinstance(value, tuple):
        for one in value:
            yield from _axes(one)
    elif value is not None:
        yield from value.dims
