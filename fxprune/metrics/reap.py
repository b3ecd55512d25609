"""Experts by what they add where a router chooses them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from torch import fx

from fxprune.errors import CalibrationError
from fxprune.graphs import arguments
from fxprune.guards import Ids, true
from fxprune.metrics.activations import refused
from fxprune.metrics.calibration import detached, leaves_of, streamed
from fxprune.metrics.footprint import Part, scattered, scored
from fxprune.metrics.registry import Evidence, Needs, Reduction, Scores, metric
from fxprune.rules import TensorGuard, is_pointwise, shape_of, tensor_meta
from fxprune.rules.products import MOVED, stacked
from fxprune.targets import rule_for

aten = torch.ops.aten
How: TypeAlias = Literal["ends", "numbers", "axis", "mixed"]
LOOKS_UP = {aten.index.Tensor, aten.index_select.default}
NOTHING = true(0)
RESHAPES = {aten.view.default, aten.reshape.default, aten.unsqueeze.default, aten.squeeze.dim}


@metric("reap")
@dataclass(frozen=True)
class Reap:
    """Take the mean of g·‖f(x)‖ over the tokens x that a router sends to the expert f.

    g is the weight that the router gives it (Router-weighted Expert Activation Pruning, Lasby et
    al., arXiv:2510.13999): what leaves with the expert, a token that it had. An expert that no
    token goes to scores 0. Of groups of experts the mean is over the tokens of all of a group.
    """

    reduction: Reduction = "mean"
    needs: ClassVar[Needs] = "batches"
    grain: ClassVar[tuple[str, ...]] = ("units",)

    def score(self, evidence: Evidence) -> list[Scores]:
        """Run the batches and return the mean of every expert, one array `[units]` a target.

        Raises CalibrationError where there is no batch, the model refuses one, or the outputs of
        units are not seen by themselves: reap scores experts alone.
        """
        reader = _Reader(evidence, [*outputs(evidence)])
        with torch.no_grad():
            sums, _ = streamed(evidence.calibration.each(), reader.read, reader.sums)
        found = [
            Part(one.end.name, 0, False, *_mean(one.guard, *total))
            for one, total in zip(reader.seen, sums, strict=True)
        ]

        def lacking(target: str) -> CalibrationError:
            return CalibrationError(
                f"metric: reap scores experts that a router chooses, and sees none of {target} by "
                'themselves; ask for target = "expert", or choose another metric'
            )

        return scored(evidence, found, self.reduction, lacking)


def _mean(g: Ids, sums: Scores, counts: Scores) -> tuple[Ids, Scores]:
    units, total = scattered(g, sums)
    return units, total / np.maximum(scattered(g, counts)[1], 1.0)


@dataclass(frozen=True, eq=False)
class Output:
    """Hold where the outputs of experts are seen, in rows, and what tells whose each row is.

    That are the `ends` of runs of rows, the `numbers` of the experts, or an `axis` of the product,
    which is `dim`; where outputs are `mixed`, nothing does. `guard` `[experts, factors]` says which
    units the experts are.
    """

    product: fx.Node
    end: fx.Node
    how: How
    source: fx.Node
    guard: Ids
    dim: int = 0


def outputs(evidence: Evidence) -> Iterator[Output]:
    """Yield where the last products with the matrices of experts are seen, weighed by routers."""
    wanted = np.zeros(evidence.coupling.guards.size, dtype=bool)
    for target in evidence.targets:
        wanted[target.units] = True
    found = [
        one
        for node in evidence.module.graph.nodes
        if node.op == "call_function"
        for one in _product(node, evidence)
        if wanted[one.guard].any()
    ]
    for one in found:
        shared = {other.product for other in found if _alike(other, one)}
        if one.how != "mixed" and not _after(one.product) & shared:
            yield one


def _alike(one: Output, other: Output) -> bool:
    """Tell whether two products are of some of the same experts."""
    return bool(np.isin(one.guard, other.guard[other.guard > 0]).any())


def _after(node: fx.Node) -> set[fx.Node]:
    open_, seen = [node], set[fx.Node]()
    while open_:
        new = [user for user in open_.pop().users if user not in seen]
        seen.update(new)
        open_ += new
    return seen


def _product(node: fx.Node, evidence: Evidence) -> Iterator[Output]:
    """Yield what a product says of experts, if it is one with a matrix for each of them."""
    rule = rule_for(node.target)
    if rule is None or rule.macs is None:
        return
    named, values = arguments(node), evidence.coupling.values
    normal = evidence.coupling.guards.normal
    result = values.get(node)
    for arg in list(named.values())[:2] + list(named.get("tensors") or ()):
        taken = _looked_up(arg)
        value = values.get(arg) if isinstance(arg, fx.Node) else None
        if taken is not None:
            stack, number = taken
            held = values.get(stack)
            g = normal(held.dims[0]) if isinstance(held, TensorGuard) else NOTHING
            if g.shape[1]:
                apart = _rows(node) == prod(shape_of(number.meta["val"]))
                yield Output(node, _end(node), "numbers" if apart else "mixed", number, g)
        elif isinstance(value, TensorGuard) and value.dims and stacked(arg):
            g = normal(value.dims[0])
            ends = named.get("offs")
            if g.shape[1] and isinstance(ends, fx.Node):
                yield Output(node, _end(node), "ends", ends, g)
            elif g.shape[1] and isinstance(result, TensorGuard):
                axes = [
                    d for d, one in enumerate(result.dims[:-1]) if np.array_equal(normal(one), g)
                ]
                how: How = "axis" if axes else "mixed"
                yield Output(node, _end(node, views=False), how, node, g, *axes[:1])


def _rows(node: fx.Node) -> int:
    """Return how many rows a product has."""
    made = tensor_meta(node)
    return prod(shape_of(made)[:-1]) if made is not None else 0


def _looked_up(arg: Any) -> tuple[fx.Node, fx.Node] | None:
    """Return the stack that matrices are taken of, moved or not, and the numbers that say which."""
    while isinstance(arg, fx.Node) and arg.target in MOVED:
        arg = arg.args[0]
    if not isinstance(arg, fx.Node) or arg.target not in LOOKS_UP or not stacked(arg.args[0]):
        return None
    named = arguments(arg)
    listed = named["indices"] if "indices" in named else [named["index"]]
    stack = named["self"]
    alone = len(listed) == 1 and isinstance(listed[0], fx.Node) and named.get("dim", 0) == 0
    return (stack, listed[0]) if alone and isinstance(stack, fx.Node) else None


def _end(node: fx.Node, views: bool = True) -> fx.Node:
    """Go on from a product over biases and weights of its rows, to before rows are added up."""
    while len(node.users) == 1:
        (user,) = node.users
        before, after = tensor_meta(node), tensor_meta(user)
        if before is None or after is None or not after.ndim:
            return node
        sizes = shape_of(before), shape_of(after)
        same = sizes[0] == sizes[1] if is_pointwise(user.target) else views
        if not same or not (is_pointwise(user.target) or user.target in RESHAPES):
            return node
        if sizes[0][-1] != sizes[1][-1]:
            return node
        node = user
    return node


class _Reader(fx.Interpreter):
    """Run the graph; add up g·‖f(x)‖ and tokens of every expert at each place, `[2, n]`."""

    def __init__(self, evidence: Evidence, seen: list[Output]) -> None:
        module = detached(evidence.module, gradients=False)
        super().__init__(module, graph=evidence.module.graph)
        self._evidence, self.seen = evidence, seen
        self.sums = [np.zeros((2, len(one.guard))) for one in seen]
        self._sources = {one.source for one in seen}
        self._values: dict[fx.Node, torch.Tensor] = {}

    def read(self, numbered: tuple[int, Any]) -> None:
        """Run one batch, given with its number."""
        number, batch = numbered
        leaves = leaves_of(self._evidence.module, self._evidence.signature, number, batch)
        with refused(number, leaves):
            self.run(*leaves, enable_io_processing=False)
        self._values.clear()

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and look at its result where experts are seen."""
        result = super().run_node(n)
        if n in self._sources:
            self._values[n] = result.detach().clone()
        for one, total in zip(self.seen, self.sums, strict=True):
            if one.end is n:
                total += self._sums(one, result.detach().double())
        return result

    def _sums(self, one: Output, result: torch.Tensor) -> Scores:
        size = len(one.guard)
        if one.how == "axis":
            norms = result.movedim(one.dim, 0).norm(dim=-1).reshape(size, -1)
            both = torch.stack([norms.sum(1), (norms > 0).sum(1).double()])
            return np.asarray(both.cpu().numpy())
        norms = result.norm(dim=-1).flatten()
        numbers = self._values[one.source].flatten()
        if one.how == "ends":
            places = torch.arange(len(norms), device=norms.device)
            numbers = torch.searchsorted(numbers.to(places), places, right=True)
        inside = numbers < size
        found = torch.zeros(2, size, dtype=torch.float64, device=norms.device)
        found[0].index_add_(0, numbers[inside].long(), norms[inside])
        found[1].index_add_(0, numbers[inside].long(), torch.ones_like(norms[inside]))
        return np.asarray(found.cpu().numpy())
