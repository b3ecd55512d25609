"""The consumers of dropped units, and what each needs so that its result is right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, fx

from fxprune.elimination.constant_products import PRODUCTS, computed, factors
from fxprune.elimination.constant_propagation import AVERAGES, LARGEST
from fxprune.elimination.constant_values import ConstantValue, ConstantValues, called
from fxprune.elimination.entries import Need, fitted, guards_of, marked, rows_of, survives
from fxprune.elimination.weighted_consumers import weighted_consumer
from fxprune.graphs import arguments
from fxprune.guards import Ids, Mask
from fxprune.rules import Coupling, is_pointwise, name_of
from fxprune.rules.movements import MOVES
from fxprune.rules.reduction import NEUTRAL_ZERO
from fxprune.targets import rule_for

NOWHERE = "the operator has nothing to which their constant could be added"
# operators that treat each index of an axis that they hand on alone, unless they are marked there
ALONE = (
    AVERAGES
    | LARGEST
    | frozenset(
        [
            "batch_norm",
            "native_batch_norm",
            "_native_batch_norm_legit_no_training",
            "instance_norm",
            "layer_norm",
            "native_layer_norm",
            "rms_norm",
            "_fused_rms_norm",
            "group_norm",
            "native_group_norm",
            "softmax",
            "_softmax",
            "log_softmax",
            "_log_softmax",
            "_safe_softmax",
            "amin",
            "max",
            "min",
            "upsample_bicubic2d",
            "_upsample_bilinear2d_aa",
            "_upsample_bicubic2d_aa",
            "embedding",
            "prelu",
            "glu",
            "linalg_vector_norm",
            "norm",
            "var",
            "std",
            "var_mean",
            "std_mean",
            "logsumexp",
        ]
    )
)


class Consumer(Protocol):
    """Know what one node reads."""

    @property
    def node(self) -> fx.Node:
        """Return the node."""

    def needs(self, alive: Mask) -> Iterator[Need]:
        """Yield what must be kept for the kept part of the node's result to be the same."""


def consumers(coupling: Coupling, facts: ConstantValues) -> list[Consumer]:
    """Return all nodes that may read a slice without passing it on, in the order of the graph."""
    marks: dict[str, list[tuple[Ids, str]]] = {}
    for mark in coupling.approximate:
        marks.setdefault(mark.node, []).append((mark.guard, mark.text))
    found: list[Consumer] = []
    for node in coupling.values:
        if node.op == "call_function" and rule_for(node.target) is not None:
            reader = _reader(node, coupling, facts, marks.get(node.name, []))
            found += [reader] if reader else []
    return found


def _reader(
    node: fx.Node, coupling: Coupling, facts: ConstantValues, marks: list[tuple[Ids, str]]
) -> Consumer | None:
    target: Any = node.target
    if is_pointwise(target) or name_of(target) in MOVES:
        return None
    if target in PRODUCTS:
        return weighted_consumer(node, coupling, facts) or Product(node, coupling, facts)
    if "scaled_dot_product" in name_of(target):
        return Attention(node, coupling, facts)
    order = arguments(node).get("ord", arguments(node).get("p"))
    neutral = target in NEUTRAL_ZERO and (order is None or order > 0)
    return Strict(node, coupling, facts, [] if neutral else marks, name_of(target) in ALONE)


# ---- products of two tensors, neither of them weights --------------------------------------------


class Product:
    """Read factors that are multiplied with each other: a term is nothing if a factor is zero."""

    def __init__(self, node: fx.Node, coupling: Coupling, facts: ConstantValues) -> None:
        self.node = node
        self._call = called(node, facts)
        given, names = arguments(node), PRODUCTS[node.target][0]
        nodes = list(given["tensors"]) if names == ("tensors",) else [given[n] for n in names]
        self._out = guards_of(coupling, coupling.values.get(node))
        self._in = [
            fitted(guards_of(coupling, coupling.values.get(one)), part.value.shape)
            for one, part in zip(nodes, factors(self._call), strict=True)
        ]

    def needs(self, alive: Mask) -> Iterator[Need]:
        """Yield the entries of factors that are multiplied with something other than zero."""
        if all(survives(alive, g).all() for gs in self._in for g in gs):
            return
        parts = factors(self._call)
        for k, part in enumerate(parts):
            others = [one.nonzero for one in parts]
            others[k] = torch.ones(part.value.shape, dtype=torch.bool)
            read = self._read(k, others, alive)
            yield from rows_of(self._in[k], read & part.varies, alive, "")
            yield from rows_of(self._in[k], read & part.nonzero, alive, NOWHERE)

    def _read(self, k: int, ones: list[Tensor], alive: Mask) -> Tensor:
        """Return which entries of factor `k` are multiplied into something that is kept."""
        values = [one.float() for one in ones]
        values[k].requires_grad_()
        with torch.enable_grad():
            result = computed(self._call, values)
        out = fitted(self._out, result.shape)
        live = _outer([survives(alive, g) for g in out], result.shape)
        (gradient,) = torch.autograd.grad(result, values[k], live.float())
        return gradient > 0


def _outer(masks: list[Mask], shape: torch.Size) -> Tensor:
    """Return the entries all of whose indices are kept."""
    live = torch.ones(shape, dtype=torch.bool)
    for dim, mask in enumerate(masks):
        if len(mask) == shape[dim]:
            sizes = [-1 if d == dim else 1 for d in range(len(shape))]
            live &= torch.from_numpy(mask).view(sizes)
    return live


class Attention:
    """Read queries and keys along the head dim, and every key."""

    def __init__(self, node: fx.Node, coupling: Coupling, facts: ConstantValues) -> None:
        self.node = node
        args, named = called(node, facts).args, arguments(node)
        self._query, self._key = args["query"], args["key"]
        self._gqa = bool(args.get("enable_gqa"))
        values = [guards_of(coupling, coupling.values.get(named[k])) for k in ("query", "key")]
        out = coupling.values[node]
        self._out = guards_of(coupling, out[0] if isinstance(out, tuple) else out)
        self._inner, self._keys = values[0][-1], values[1][-2]

    def needs(self, alive: Mask) -> Iterator[Need]:
        """Yield the head dims whose product is not zero in a living head, and all keys."""
        keys = ~survives(alive, self._keys)
        if keys.any():
            yield Need(self._keys, keys)
        gone = ~survives(alive, self._inner)
        if not gone.any():
            return
        meets = self._products(self._query.nonzero, self._key.nonzero, alive)
        varies = self._products(self._query.varies, self._key.nonzero, alive)
        varies |= self._products(self._query.nonzero, self._key.varies, alive)
        yield Need(self._inner, gone & varies)
        yield Need(self._inner, gone & meets, NOWHERE)

    def _products(self, query: Tensor, key: Tensor, alive: Mask) -> Mask:
        """Return the head dims at which both are marked in some living head."""
        query, key = query.any(dim=-2), key.any(dim=-2)
        if self._gqa:
            key = key.repeat_interleave(query.shape[-2] // key.shape[-2], -2)
        both = query & key
        if both.ndim > 1 and len(self._out) == both.ndim + 1:
            heads = survives(alive, self._out[-3])
            both = both & torch.from_numpy(heads)[:, None] if len(heads) == both.shape[-2] else both
        return np.asarray(both.flatten(0, -2).any(dim=0).numpy())


# ---- everything else -----------------------------------------------------------------------------


class Strict:
    """Pass on what an operator passes on alone; require of the rest that it is zero.

    By the law of a rule dropping what does not reach the result is zeroing it, unless it is marked.
    """

    def __init__(
        self,
        node: fx.Node,
        coupling: Coupling,
        facts: ConstantValues,
        marks: list[tuple[Ids, str]],
        alone: bool,
    ) -> None:
        self.node = node
        self._size = coupling.guards.size
        self._coupling, self._facts = coupling, facts
        ins = [one for one in node.all_input_nodes if guards_of(coupling, coupling.values.get(one))]
        read = self._consumed(ins) if alone else self._seen(ins)
        nonzero, varies = self._entries(ins, "nonzero"), self._entries([node, *ins], "varies")
        wanted = [(read & nonzero, f"{node.target} needs them to be zero")]
        for guard, text in marks:
            ids = coupling.guards.normal(guard)
            wanted.append((np.isin(np.arange(self._size), ids), text))
        self._needs: list[tuple[Ids, str]] = []
        for needed, text in wanted:
            needed[0] = False
            self._needs.append((np.flatnonzero(needed & varies), ""))
            self._needs.append((np.flatnonzero(needed & ~varies), text))

    def needs(self, alive: Mask) -> Iterator[Need]:
        """Yield what is needed in any case."""
        for ids, text in self._needs:
            gone = ~alive[ids]
            if gone.any():
                yield Need(ids[:, None], gone, text)

    def _counted(self, node: fx.Node) -> Ids:
        """Return in how many axes of a node's (first) tensor each variable stands."""
        value = self._coupling.values.get(node)
        counts = np.zeros(self._size, dtype=np.int64)
        for g in guards_of(self._coupling, value[0] if isinstance(value, tuple) else value):
            counts[np.unique(g)] += 1
        return counts

    def _consumed(self, ins: list[fx.Node]) -> Mask:
        out, read = self._counted(self.node), np.zeros(self._size, dtype=bool)
        for one in ins:
            read |= self._counted(one) > out
        return read

    def _seen(self, ins: list[fx.Node]) -> Mask:
        seen = np.zeros(self._size, dtype=bool)
        for one in ins:
            seen |= self._counted(one) > 0
        return seen

    def _entries(self, nodes: list[fx.Node], what: str) -> Mask:
        """Return the variables with a slice in which anything varies, or is not zero."""
        found = np.zeros(self._size, dtype=bool)
        for node in nodes:
            value, fact = self._coupling.values.get(node), self._facts.get(node)
            value, fact = (v[0] if isinstance(v, tuple) else v for v in (value, fact))
            marks = getattr(fact, what) if isinstance(fact, ConstantValue) else None
            guards = guards_of(self._coupling, value)
            if marks is not None and marks.ndim == len(guards):
                for dim, g in enumerate(fitted(guards, marks.shape)):
                    found[g[marked(marks, dim, g)]] = True
            else:
                for g in guards:
                    found[g] = True
        return found
