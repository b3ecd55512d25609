"""What is kept of an effective weight keeps its values, whatever leaves it.

A norm over an axis that shrinks is another number afterwards, and the weight that is divided by it
would grow. Where the weight is proportional to another tensor, as that of a weight norm is to its
`g` and that of a spectral norm to 1/`u`, that tensor is scaled. Elsewhere the sums over what has
left keep, as a constant, what that gave to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxprune.graphs import arguments, attribute, free_name, set_tensor, tensors_of
from fxprune.guards import Ids, Mask
from fxprune.rules import Coupling, Kept, TensorGuard
from fxprune.targets import effective

Twins = dict[fx.Node, fx.Node]  # of each node of a graph, the one in the graph that shrinks
aten = torch.ops.aten


def keep_weights(
    module: fx.GraphModule, smaller: fx.GraphModule, twins: Twins, coupling: Coupling, alive: Mask
) -> None:
    """Give the effective weights of `smaller`, which owns its tensors, the values they had."""
    changing = changed_weights(coupling, alive)
    if not changing:
        return
    work = _Preservation(module, smaller, twins, coupling, Kept(coupling.guards, alive))
    for node in work.reads:  # in the order of the graph
        read = any(user not in coupling.arithmetic for user in node.users)
        if node in coupling.arithmetic and read and changing & effective.leading(node):
            work.keep(node, changing)


def changed_weights(coupling: Coupling, alive: Mask) -> set[fx.Node]:
    """Return the nodes that compute effective weights whose values removal would change."""
    return {node for node in coupling.arithmetic if _changes(coupling, node, alive)}


def _changes(coupling: Coupling, node: fx.Node, alive: Mask) -> bool:
    """Tell a single result that depends on entries which it loses itself, or never had."""
    if not isinstance(coupling.values.get(node), TensorGuard):
        return False
    if node.target in effective.NORMED:
        return not alive[effective.units(coupling, coupling.values[node])].all()
    source = node.args[0] if effective.chosen(node) else node  # one of several results
    return isinstance(source, fx.Node) and not alive[effective.lost(coupling, source)].all()


class _Preservation:
    """Compare the arithmetic of a graph with that of the smaller one, and mend the latter."""

    def __init__(
        self,
        module: fx.GraphModule,
        smaller: fx.GraphModule,
        twins: Twins,
        coupling: Coupling,
        kept: Kept,
    ) -> None:
        self._module, self._smaller, self._twins = module, smaller, twins
        self._coupling, self._kept = coupling, kept
        self.reads = effective.computed(module.graph)

    def keep(self, node: fx.Node, changing: set[fx.Node]) -> None:
        """Mend a weight: by scales of tensors that it is proportional to, or else by constants."""
        if not self._whole(node) or self._right(node) or self._rescaled(node):
            return
        inside = effective.leading(node)
        ahead = [one for one in self.reads if one in inside]
        tensors = [attribute(self._smaller, str(one.target)).data for one in self.reads[node]]
        before = [tensor.clone() for tensor in tensors]
        for one in ahead:
            if self._whole(one) and not self._right(one):
                self._rescaled(one)
        if self._right(node):
            return
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)  # a scale that mended a part of the way spoilt another
        for one in ahead:
            if one in changing and not self._right(one):
                if one.target in effective.NORMED:
                    self._multiply(one)
                else:
                    self._add(one)

    def _whole(self, node: fx.Node) -> bool:
        return effective.whole(self._coupling, node, self.reads[node])

    # ---- what it was, and what it is -------------------------------------------------------------

    def _was(self, node: fx.Node) -> Tensor:
        value = effective.evaluated(self._module, [node])[node]
        for dim, g in enumerate(self._dims(node)):
            index = self._kept.indices(g).to(value.device)
            value = value if len(index) == value.shape[dim] else value.index_select(dim, index)
        return value

    def _is(self, node: fx.Node) -> Tensor:
        twin = self._twins[node]
        return effective.evaluated(self._smaller, [twin])[twin]

    def _right(self, node: fx.Node) -> bool:
        was, now = self._was(node), self._is(node)
        if not was.is_floating_point() or not was.numel():
            return True
        allowed = min(64 * torch.finfo(was.dtype).eps, 2**-6)
        return bool((now - was).abs().max() <= allowed * was.abs().max())

    def _dims(self, node: fx.Node) -> tuple[Ids, ...]:
        value = self._coupling.values[node]
        return value.dims if isinstance(value, TensorGuard) else ()

    def _ratio(self, node: fx.Node, of: fx.Node) -> Tensor:
        """Return by what a weight must be multiplied, along the axes of one of its operands."""
        was, now = self._was(node).double(), self._is(node).double()
        axes = self._alike(self._dims(node), self._dims(of))
        shared = [dim for dim in axes if dim >= 0]
        rest = [dim for dim in range(was.ndim) if dim not in shared]
        product, square = (was * now), now.square()
        if rest:
            product, square = product.sum(rest), square.sum(rest)
        ratio = torch.where(square > 0, product / square, torch.ones_like(square))
        ratio = ratio.permute([sorted(shared).index(dim) for dim in shared])
        return ratio.reshape([1 if dim < 0 else was.shape[dim] for dim in axes])

    def _alike(self, dims: Sequence[Ids], others: Sequence[Ids]) -> list[int]:
        """Return for each of some axes that of a weight with the same guard, or -1 for none."""
        normal, axes = self._coupling.guards.normal, list[int]()
        for place, g in enumerate(others):
            ways = sorted(range(len(dims)), key=lambda dim: dim != place)  # its own place first
            same = (
                dim
                for dim in ways
                if len(g) > 1 and dim not in axes and np.array_equal(normal(dims[dim]), normal(g))
            )
            axes.append(next(same, -1))
        return axes

    # ---- mending ---------------------------------------------------------------------------------

    def _factors(self, node: fx.Node) -> list[fx.Node]:
        """Return the tensors that a weight is made of and that serve nothing else, small first."""
        found: list[tuple[int, fx.Node]] = []
        for read in self.reads[node]:
            tensor = attribute(self._smaller, str(read.target))
            readers = {
                user
                for one in self._module.graph.find_nodes(op="get_attr")
                if attribute(self._module, str(one.target))
                is attribute(self._module, str(read.target))
                for user in one.users
            }
            if tensor.is_floating_point() and readers <= self._coupling.arithmetic:
                found.append((tensor.numel(), read))
        return [read for _, read in sorted(found)]

    def _rescaled(self, node: fx.Node) -> bool:
        """Scale a tensor so that a weight is what it was, and return whether there is one."""
        return any(self._scaled(node, read) for read in self._factors(node))

    def _scaled(self, node: fx.Node, read: fx.Node) -> bool:
        """Scale a tensor so that a weight is what it was, and all that is right stays so."""
        tensor = attribute(self._smaller, str(read.target)).data
        before, ratio = tensor.clone(), self._ratio(node, read)
        others = (one for one in self._coupling.effective if read in self.reads[one])
        made = [node, *filter(self._right, others)]
        for factor in (ratio, 1.0 / ratio):
            tensor.copy_(before.double() * factor)
            if all(map(self._right, made)):
                return True
        tensor.copy_(before)
        return False

    def _add(self, node: fx.Node) -> None:
        """Add to a sum what the entries that are gone gave to it."""
        twin = self._twins[node]
        self._twins[node] = self._after(twin, self._was(node) - self._is(node), aten.add.Tensor)
        twin.replace_all_uses_with(self._twins[node], lambda user: user is not self._twins[node])

    def _multiply(self, node: fx.Node) -> None:
        """Multiply the lengths that a norm gives, where they are computed themselves."""
        given, twin = arguments(node)["g"], self._twins[node]
        length = arguments(twin)["g"]
        scaled = self._after(length, self._ratio(node, given).to(self._is(given)), aten.mul.Tensor)
        twin.replace_input_with(length, scaled)

    def _after(self, twin: fx.Node, value: Tensor, operation: Any) -> fx.Node:
        """Put an operation with a constant, kept as a buffer, after a node."""
        graph = self._smaller.graph
        name = free_name(f"{twin.name}_constant", set(tensors_of(self._smaller)))
        set_tensor(self._smaller, name, value)
        with graph.inserting_after(twin):
            read = graph.get_attr(name)
        with graph.inserting_after(read):
            made = graph.call_function(operation, (twin, read))
        read.meta |= {"val": value}
        made.meta = dict(twin.meta)
        return made
