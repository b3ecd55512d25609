"""Where the graph is tapped to see a unit's activation.

A unit's activation is what a *consumer* is about to sum over: an operand of a contraction along an
axis that the result lacks. From there the walk goes back, over what only moves or
pools, to the last operator that computes: the pointwise operator or norm in front. So the channels
of conv, batch norm, ReLU, pool, conv are seen after the ReLU, and heads where attention gives them
an axis of their own. What no contraction reads is seen where it first appears.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np
import torch
from torch import fx

from fxprune.errors import CalibrationError
from fxprune.graphs import arguments
from fxprune.guards import Ids
from fxprune.metrics.footprint import Part, scored
from fxprune.metrics.registry import Evidence, Reduction, Scores
from fxprune.rules import TensorGuard, Value, is_pointwise, tensor_meta
from fxprune.targets import BlockTarget, rule_for

COMPUTES = ("norm", "softmax")  # by name: neither pointwise nor a mere movement
EVERY = -1  # in place of a dimension: every entry by itself, of each example
Place = tuple[fx.Node, int]


class Taps:
    """Find for every target the nodes and dimensions at which its units are seen.

    `places[node][dim]` are the variables seen there, in the order of the graph: the dimension's
    normalised guard, 0 where a variable is not of a target that is tapped there. Where entries are
    masked, `dim` is `EVERY`, and there is a variable for each of them, `[n, 1]`.
    """

    def __init__(self, evidence: Evidence) -> None:
        self._coupling = evidence.coupling
        self._guards: dict[fx.Node, tuple[Ids, ...]] = {}
        self._owner = np.full(evidence.coupling.guards.size, -1)
        for k, target in enumerate(evidence.targets):
            self._owner[target.units] = k
        self._active: set[fx.Node] = set()
        found: dict[fx.Node, dict[int, set[int]]] = {}
        done: set[int] = set()
        for node in evidence.module.graph.nodes:
            if node.op == "placeholder" or not self._active.isdisjoint(node.all_input_nodes):
                self._active.add(node)
            for operand, ids in self._consumed(node):
                for k in self._targets(ids):
                    self._tap(found, self._settled(operand, k), k)
                    done.add(k)
        self._rest(found, evidence, set(range(len(evidence.targets))) - done)
        sites = {one.site: one for one in evidence.targets if isinstance(one, BlockTarget)}
        self.places: dict[fx.Node, dict[int, Ids]] = {}
        for node in evidence.module.graph.nodes:
            for dim, ks in sorted(found.get(node, {}).items()):
                self._at(node)[dim] = self._only(self.guards(node)[dim], ks)
            if node.name in sites:
                self._at(node)[EVERY] = sites[node.name].owners()[:, None]

    def __iter__(self) -> Iterator[tuple[Place, Ids]]:
        """Yield every place with what is seen there."""
        for node, dims in self.places.items():
            for dim, g in dims.items():
                yield (node, dim), g

    def _at(self, node: fx.Node) -> dict[int, Ids]:
        return self.places.setdefault(node, {})

    def guards(self, node: fx.Node) -> tuple[Ids, ...]:
        """Return the normalised guards of a node's one tensor; of anything else, none."""
        if node not in self._guards:
            value = self._coupling.values.get(node)
            dims = value.dims if isinstance(value, TensorGuard) else ()
            self._guards[node] = tuple(self._coupling.guards.normal(g) for g in dims)
        return self._guards[node]

    def _only(self, g: Ids, targets: set[int]) -> Ids:
        return np.where(np.isin(self._owner[g], list(targets)), g, 0)

    def _targets(self, ids: Ids) -> list[int]:
        return [k for k in np.unique(self._owner[ids]).tolist() if k >= 0]

    def _dims(self, node: fx.Node, k: int, alone: bool) -> list[int]:
        """Return the dimensions in which target `k` appears, perhaps those with no other factor."""
        return [
            d
            for d, g in enumerate(self.guards(node))
            if (g.shape[1] == 1 or not alone) and g.size and (self._owner[g] == k).any()
        ]

    def _tap(self, found: dict[fx.Node, dict[int, set[int]]], node: fx.Node, k: int) -> None:
        for dim in self._dims(node, k, True) or self._dims(node, k, False):
            found.setdefault(node, {}).setdefault(dim, set()).add(k)

    def _settled(self, node: fx.Node, k: int) -> fx.Node:
        """Go back from a consumer's operand to the operator that computed it."""
        while (source := self._moved(node)) is not None and self._dims(source, k, False):
            if self._dims(node, k, True) and not self._dims(source, k, True):
                break
            node = source
        return node

    def _moved(self, node: fx.Node) -> fx.Node | None:
        """Return the one operand of a node that moves or pools it, else None."""
        rule = rule_for(node.target)
        if node.op != "call_function" or is_pointwise(node.target) or (rule and rule.macs):
            return None
        if any(word in str(node.target) for word in COMPUTES):
            return None
        active = [one for one in node.all_input_nodes if one in self._active and self.guards(one)]
        return active[0] if len(active) == 1 else None

    def _consumed(self, node: fx.Node) -> Iterator[tuple[fx.Node, Ids]]:
        """Yield the operands of a contraction with the variables over which it sums."""
        rule = rule_for(node.target) if node.op == "call_function" else None
        if rule is None or rule.macs is None:
            return
        named = arguments(node)
        if isinstance(named.get("weight"), fx.Node) and isinstance(named.get("input"), fx.Node):
            dim = _summed(node, named["input"], named["weight"])
            if dim is not None and self.guards(named["input"]):
                yield named["input"], self.guards(named["input"])[dim].ravel()
            if dim is not None or "conv" in str(node.target):
                return
        left = self._ids(self._coupling.values.get(node))
        for operand in node.all_input_nodes:
            whole = tensor_meta(operand)  # counts and numbers of indices are no activations
            counts = whole is not None and not (whole.is_floating_point() or whole.is_complex())
            if operand in self._active and self.guards(operand) and not counts:
                ids = self._ids(self._coupling.values[operand])
                yield operand, ids[~np.isin(ids, left)]

    def _ids(self, value: Value) -> Ids:
        values = value if isinstance(value, tuple) else (value,)
        flat = [
            self._coupling.guards.normal(g).ravel()
            for one in values
            if isinstance(one, TensorGuard)
            for g in one.dims
        ]
        return np.concatenate([np.zeros(0, dtype=np.int64), *flat])

    def _rest(
        self, found: dict[fx.Node, dict[int, set[int]]], evidence: Evidence, missing: set[int]
    ) -> None:
        """Tap targets that no contraction reads where they first appear.

        Best that is by themselves and where the inputs have a part; learned queries have none.
        """
        for active, alone in product((True, False), (True, False)):
            for node in evidence.module.graph.nodes if missing else ():
                meta = tensor_meta(node)
                if node.op != "call_function" or meta is None:
                    continue
                if active and node not in self._active:
                    continue
                ids = [g.ravel() for g in self.guards(node) if g.shape[1] == 1 or not alone]
                here = missing & set(self._targets(np.concatenate(ids))) if ids else set[int]()
                for k in here if meta.is_floating_point() else ():
                    self._tap(found, node, k)
                    missing = missing - {k}


def of_places(
    evidence: Evidence, seen: Mapping[Place, tuple[Ids, Scores]], reduction: Reduction
) -> list[Scores]:
    """Return numbers of the units seen at each place, reduced: one array `[units]` a target.

    Raises CalibrationError where a target's units are seen nowhere in the graph.
    """

    def lacking(target: str) -> CalibrationError:
        return CalibrationError(
            f"metric: no activation of {target} is seen in the graph; exclude it, or "
            "choose a metric of weights"
        )

    found = (Part(node.name, dim, False, *one) for (node, dim), one in seen.items())
    return scored(evidence, found, reduction, lacking)


def _summed(node: fx.Node, operand: fx.Node, weight: fx.Node) -> int | None:
    """Return the dimension over which a linear layer or convolution sums, None if depthwise."""
    x, w = tensor_meta(operand), tensor_meta(weight)
    assert isinstance(x, torch.Tensor)
    assert isinstance(w, torch.Tensor)
    if "linear" in str(node.target) and "bilinear" not in str(node.target):
        return x.ndim - 1
    if "conv" not in str(node.target):
        return None
    groups = int(arguments(node).get("groups") or 1)
    inside = w.shape[0] // groups if "transpose" in str(node.target) else w.shape[1]
    return None if groups > 1 and inside == 1 else x.ndim - w.ndim + 1
