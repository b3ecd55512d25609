"""What a model costs, as a function of which variables are alive: parameters, bytes, MACs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.cost.peak_activations import PeakActivations
from fxprune.graphs import arguments, attribute, tensors_of, used
from fxprune.guards import Ids, Mask
from fxprune.rules import Coupling, TensorGuard, hint, operands_of, tensor_meta
from fxprune.rules.registry import Macs
from fxprune.targets import BlockTarget, rule_for


@dataclass(frozen=True)
class Product:
    """Hold a node that multiplies: its cost function and the guards it is a function of."""

    macs: Macs
    args: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]  # operand name -> indices into Cost.axes
    node: fx.Node

    def count(self, counts: list[int]) -> int:
        """Return the multiply-accumulates of the node, `counts` being the size of every axis."""

        def shape(name: str) -> tuple[int, ...]:
            return tuple(counts[axis] for axis in self.shapes[name])

        return self.macs(shape, self.args)


class Cost:
    """Count what is kept. Every distinct guard array is normalised and counted once a query."""

    def __init__(self, module: fx.GraphModule, coupling: Coupling, batch: int | None) -> None:
        self._coupling = coupling
        self._module = module
        self._batch = batch or examples(module)
        self.blocks: tuple[BlockTarget, ...] = ()  # of which some may be masked
        self._index: dict[int, int] = {}
        self._alike: dict[tuple[tuple[int, ...], bytes], int] = {}
        self.axes: list[Ids] = []
        self._hold: list[Ids] = []  # keeps the arrays whose id() is a key alive
        self.tensors: list[tuple[str, tuple[int, ...], int, bool]] = []
        self.dropped_params = self.dropped_bytes = self.beside_bytes = 0
        self.products: list[Product] = []
        seen: set[int] = set()
        for node in module.graph.nodes:
            if node.op == "get_attr":
                self._tensor(module, node, seen)
            elif node.op == "call_function":
                self._product(node)
        self._unread(module)

    def _axis(self, g: Ids) -> int:
        normal = self._coupling.guards.normal(g)
        key = id(normal)
        if key not in self._index:
            self._hold.append(normal)
            self._index[key] = self.place(normal)
        return self._index[key]

    def place(self, normal: Ids) -> int:
        """Return the place of an axis among `axes`, given its normal guards; add it if need be."""
        place = self._alike.setdefault((normal.shape, normal.tobytes()), len(self.axes))
        if place == len(self.axes):
            self.axes.append(normal)
            self.__dict__.pop("_stacked", None)
        return place

    def _tensor(self, module: fx.GraphModule, node: fx.Node, seen: set[int]) -> None:
        tensor, value = attribute(module, str(node.target)), self._coupling.values[node]
        if not isinstance(value, TensorGuard) or id(tensor) in seen:
            return
        seen.add(id(tensor))
        owned = isinstance(tensor, torch.nn.Parameter)
        axes = tuple(self._axis(g) for g in value.dims)
        self.tensors.append((str(node.target), axes, tensor.element_size(), owned))

    def _unread(self, module: fx.GraphModule) -> None:
        """Count the tensors that the graph does not read: apart those kept and those dropped."""
        tensors = tensors_of(module)
        named = {name for name, *_ in self.tensors}
        read = {id(tensors[name]) for name in named if name in tensors}
        staying = {id(tensor) for tensor in used(module, named).values()}
        for key, tensor in {id(tensor): tensor for tensor in tensors.values()}.items():
            size = tensor.numel() * tensor.element_size()
            if key not in read and key in staying:
                self.beside_bytes += size
            elif key not in read:
                self.dropped_bytes += size
                self.dropped_params += tensor.numel() * isinstance(tensor, torch.nn.Parameter)

    def _product(self, node: fx.Node) -> None:
        rule = rule_for(node.target)
        if rule is None or rule.macs is None or node.name in self._coupling.failed:
            return
        result = self._coupling.values[node]
        shapes = {
            name: tuple(self._axis(g) for g in value.dims)
            for name, value in operands_of(node, self._coupling, result).items()
        }
        args = arguments(node)
        self.products.append(Product(rule.macs, args, shapes, node))

    def counts(self, alive: Mask) -> list[int]:
        """Return how many indices of every axis are kept."""
        counts = np.array([len(g) for g in self.axes], dtype=np.int64)
        for places, rows, starts in self._stacked:
            counts[places] = np.add.reduceat(alive[rows].all(axis=1), starts, dtype=np.int64)
        listed: list[int] = counts.tolist()
        return listed

    @cached_property
    def _stacked(self) -> list[tuple[Ids, Ids, Ids]]:
        """Stack the axes of equally many factors: their places, their rows, where each starts."""
        stacked: list[tuple[Ids, Ids, Ids]] = []
        for width in sorted({g.shape[1] for g in self.axes if g.size}):
            places = np.array(
                [k for k, g in enumerate(self.axes) if g.size and g.shape[1] == width]
            )
            ends = np.cumsum([len(self.axes[k]) for k in places])
            starts = np.concatenate([[0], ends[:-1]])
            stacked.append((places, np.vstack([self.axes[k] for k in places]), starts))
        return stacked

    def choices(self) -> list[tuple[Ids, int]]:
        """Return the axes of which several indices are chosen at once, and how many are."""
        normal, found = self._coupling.guards.normal, self._coupling.rankings
        axes = [(normal(one.guard), one.least) for one in found if one.chosen and one.least > 1]
        return [(g, least) for g, least in axes if g.shape[1]]

    @property
    def batch(self) -> int:
        """Return how many examples the model was captured with."""
        return self._batch

    def macs(self, alive: Mask) -> int:
        """Return multiply-accumulates for one example."""
        counts = self.counts(alive)
        total = sum(product.count(counts) for product in self.products)
        return total // self._batch

    def macs_by_node(self, alive: Mask) -> dict[fx.Node, int]:
        """Return multiply-accumulates for one example, of each operator that has some."""
        counts = self.counts(alive)
        return {one.node: one.count(counts) // self._batch for one in self.products}

    def params(self, alive: Mask) -> int:
        """Return the number of parameters that the graph reads."""
        counts = self.counts(alive)
        return sum(prod(counts[a] for a in axes) for _, axes, _, owned in self.tensors if owned)

    def masked(self, alive: Mask) -> int:
        """Return how many of those parameters masks keep at zero."""
        return sum(self._masked(target, alive) for target in self.blocks)

    def _masked(self, target: BlockTarget, alive: Mask) -> int:
        """Return how many entries a mask zeroes of those that are kept of its tensor."""
        axes = next((axes for name, axes, *_ in self.tensors if name == target.tensor), ())
        kept = [alive[self.axes[a]].all(axis=1) for a in axes]
        if all(one.all() for one in kept):
            return prod(target.grid.shape) - target.entries(alive)
        mask = target.mask(alive).numpy()
        return int((~mask[np.ix_(*kept)]).sum())

    def bytes(self, alive: Mask) -> int:
        """Return the bytes of the tensors that the graph reads and of the buffers beside them."""
        counts = self.counts(alive)
        read = sum(prod(counts[a] for a in axes) * size for _, axes, size, _ in self.tensors)
        return read + self.beside_bytes

    def peak_activations(self, alive: Mask) -> int:
        """Return the peak bytes of activations that are alive at once, for one example."""
        return self._peak.bytes(alive)

    @cached_property
    def _peak(self) -> PeakActivations:
        return PeakActivations(self._module, self._coupling, self._batch)

    def every_param(self) -> int:
        """Return the number of parameters of the model, those that nothing reads too."""
        return self.params(self.whole()) + self.dropped_params

    def every_byte(self) -> int:
        """Return the bytes of all tensors of the model, those that nothing reads too."""
        return self.bytes(self.whole()) + self.dropped_bytes

    def whole(self) -> Mask:
        """Return the choice that keeps every variable."""
        return np.ones(self._coupling.guards.size, dtype=bool)

    def every_axis(self) -> list[Ids]:
        """Return the normalised guards of every axis of every tensor in the graph, each once."""
        if not hasattr(self, "_every"):
            guards, values = self._coupling.guards, self._coupling.values.values()
            forms = {
                id(n): n for value in values for g in _dims(value) if (n := guards.normal(g)).size
            }
            found: dict[bytes, Ids] = {}
            for normal in forms.values():
                found.setdefault(normal.tobytes(), normal)
            self._every = list(found.values())
        return self._every


def examples(module: fx.GraphModule) -> int:
    """Return the batch that a graph of fixed sizes was captured with.

    It is the size that leads every input and every result; where they differ, there is no batch
    that all of the graph shares, and what it computes is taken for one example.
    """
    ends = [node for node in module.graph.nodes if node.op in ("placeholder", "output")]
    tensors = [
        value
        for end in ends
        for node in (end.all_input_nodes if end.op == "output" else [end])
        if (value := tensor_meta(node)) is not None
    ]
    sizes = {hint(value.shape[0]) if value.ndim else 0 for value in tensors}
    return max(1, sizes.pop()) if len(sizes) == 1 else 1


def _dims(value: Any) -> list[Ids]:
    if isinstance(value, TensorGuard):
        return list(value.dims)
    if isinstance(value, tuple):
        return [g for one in value for g in _dims(one)]
    return []
