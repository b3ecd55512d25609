"""Repair a smaller graph, and keep what brings its outputs closer to the original's."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxprune import distributed
from fxprune.graphs import attribute, set_tensor, tensors_of
from fxprune.guards import Mask
from fxprune.rules import Coupling, Kept, TensorGuard
from fxprune.surgery.masking import owned
from fxprune.surgery.repair import convolutions, products
from fxprune.surgery.repair.activations import Memory
from fxprune.surgery.repair.lockstep import Side
from fxprune.surgery.repair.logits import mixed
from fxprune.surgery.repair.refitting import Refit, Refitting
from fxprune.surgery.repair.walk import Pair, Terms

PAIRED = ("call_function", "get_attr")
FORMS = (convolutions, products)  # loaded: they register what they read

Batches = Sequence[tuple[Sequence[Any], Sequence[Any]]]


@dataclass(frozen=True)
class RepairReport:
    """Say what repair did to each operator that gave other results than the original's.

    `before` and `after` are the squared distances of the outputs from the original's, relative to
    these, without and with the refitted weights; where they would not have come closer, nothing was
    changed. `bytes` are the most that activations took in memory.
    """

    operators: tuple[Refit, ...]
    before: float
    after: float
    seconds: float
    bytes: int

    def __str__(self) -> str:
        done = [one for one in self.operators if one.damping is not None]
        left = [one for one in self.operators if one.why]
        text = (
            f"repair: {len(done)} of {len(self.operators)} operators refitted; the squared error "
            f"of the outputs, relative to the original's outputs, went from {self.before:.2g} to "
            f"{self.after:.2g} ({self.seconds:.1f} s, {self.bytes / 1e6:.0f} MB)"
        )
        reasons = "; ".join(f"{one.operator}: {one.why}" for one in left[:3])
        more = ", …" if len(left) > 3 else ""
        return text + (f"; left as they are: {reasons}{more}" if left else "")


@dataclass(frozen=True, eq=False)
class Repaired:
    """Hold the tensors that repair changed, and what it did."""

    tensors: Mapping[str, Tensor]
    report: RepairReport


def paired(
    original: fx.GraphModule, coupling: Coupling, smaller: fx.GraphModule, alive: Mask
) -> dict[fx.Node, Pair]:
    """Return for each call and tensor of a smaller graph that of the same name in the original."""
    kept = Kept(coupling.guards, alive)
    twins = {node.name: node for node in original.graph.nodes if node.op in PAIRED}
    found: dict[fx.Node, Pair] = {}
    for node in smaller.graph.nodes:
        source = twins.get(node.name) if node.op in PAIRED else None
        value = coupling.values.get(source) if source is not None else None
        if source is None or source.target != node.target or source.op != node.op:
            continue
        if isinstance(value, tuple):  # of several results the first
            value = value[0]
        if isinstance(value, TensorGuard):
            axes = (None if kept.mask(g).all() else kept.indices(g) for g in value.dims)
            found[node] = Pair(source, tuple(axes))
    return found


def repaired(
    original: fx.GraphModule,
    smaller: fx.GraphModule,
    pairs: Mapping[fx.Node, Pair],
    batches: Batches,
    terms: Terms,
    spared: Mapping[str, str],
) -> Repaired:
    """Refit a copy of a smaller graph, and return the tensors that it changed.

    `batches` hold the inputs of both graphs, leaf by leaf. Raises CalibrationError where they, or
    what comes of them, cannot be computed with.
    """
    began = time.perf_counter()
    whole, ours = _twin(original), _twin(smaller)
    sources = dict(zip(original.graph.nodes, whole.graph.nodes, strict=True))
    copies = dict(zip(smaller.graph.nodes, ours.graph.nodes, strict=True))
    met = {copies[n]: Pair(sources[pair.node], pair.kept) for n, pair in pairs.items()}
    with torch.no_grad():
        met, refits = _mixed(whole, ours, met, batches, terms, spared)
        work = Refitting(whole, ours, met, batches, terms, spared)
        try:
            work.run()
            wanted = list(work.walk.whole.outputs())
            after = _apart(wanted, work.walk.ours.outputs())
        finally:
            work.memory.close()
        before = _apart(wanted, _plainly(smaller, [given for _, given in batches]))
    mine, theirs = tensors_of(ours), tensors_of(smaller)
    changed = {n: t.detach() for n, t in mine.items() if not torch.equal(t, theirs[n])}
    if not after < before:
        changed, after = {}, before
    seconds = time.perf_counter() - began
    return Repaired(
        changed, RepairReport((*refits, *work.refits), before, after, seconds, work.memory.most)
    )


def _mixed(
    whole: fx.GraphModule,
    ours: fx.GraphModule,
    pairs: dict[fx.Node, Pair],
    batches: Batches,
    terms: Terms,
    spared: Mapping[str, str],
) -> tuple[dict[fx.Node, Pair], list[Refit]]:
    """Mix queries and keys, by one more run of the original as far as the last of them."""
    memory = Memory(terms.memory)
    try:
        return mixed(whole, ours, pairs, [given for given, _ in batches], memory, spared)
    finally:
        memory.close()


def _twin(module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy with its own tensors, and with what else the graph reads."""
    copy = owned(module)
    for node in module.graph.find_nodes(op="get_attr"):
        if attribute(copy, str(node.target)) is None:
            set_tensor(copy, str(node.target), attribute(module, str(node.target)))
    return copy


def _plainly(module: fx.GraphModule, batches: Sequence[Sequence[Any]]) -> Iterator[list[Tensor]]:
    """Yield the outputs of a graph, of which each batch is run by itself."""
    for given in batches:
        side = Side(_twin(module), [given], Memory(sys.maxsize))
        side.finish()
        yield from side.outputs()


def _apart(wanted: Iterable[list[Tensor]], found: Iterable[list[Tensor]]) -> float:
    """Return the squared distances of outputs, relative, averaged over the outputs of a call."""
    sums: list[list[float]] = []
    for mine, yours in zip(wanted, found, strict=True):
        pairs = [(a, b) for a, b in zip(mine, yours, strict=True) if a.is_floating_point()]
        for place, (a, b) in enumerate(pairs):
            there = a.isfinite()
            size = a[there].double().square().sum()
            apart = (a[there].double() - b[there].double()).square().sum()
            sums.append([place, float(apart), float(size)])
    total = np.zeros((1 + max((int(one[0]) for one in sums), default=0), 2))
    for number, *both in sums:
        total[int(number)] += both
    total = distributed.total(total)
    return float((total[:, 0] / np.maximum(total[:, 1], 1e-300)).mean())
