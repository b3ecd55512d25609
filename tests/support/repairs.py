"""Cut a network and repair it, as the pass does, with all that lies between at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from fxprune.capture import capture
from fxprune.graphs import tensors_of
from fxprune.surgery import shrink
from fxprune.surgery.repair import Repaired, Terms, paired, repaired
from fxprune.targets import Discovery, couple


@dataclass(frozen=True)
class Cut:
    """Hold a graph, the smaller one that was cut of it, and which of its units are kept."""

    original: fx.GraphModule
    smaller: fx.GraphModule
    pairs: Mapping[fx.Node, Any]

    def repaired(
        self, batches: Sequence[Any], terms: Terms | None = None, spared: Mapping[str, str] = {}
    ) -> Repaired:
        """Return what repair makes of it; nothing is written down."""
        leaves = [pytree.tree_leaves(batch) for batch in batches]
        both = [(one, one) for one in leaves]
        terms = terms or Terms()
        return repaired(self.original, self.smaller, self.pairs, both, terms, spared)

    def write(self, found: Repaired) -> fx.GraphModule:
        """Write down what repair found, and return the smaller graph."""
        own = tensors_of(self.smaller)
        for name, tensor in found.tensors.items():
            own[name].data.copy_(tensor)
        return self.smaller


def cut(
    model: nn.Module,
    inputs: Any,
    ratio: float = 0.5,
    drop: Mapping[str, list[int]] = {},
    seed: int = 0,
) -> Cut:
    """Cut a network: chosen units of named targets, or else a share of all, at random."""
    program = capture(model.eval(), inputs)
    discovery = Discovery(program.module, couple(program.module))
    coupling, source = discovery.coupling, np.random.default_rng(seed)
    alive = np.ones(coupling.guards.size, dtype=bool)
    for target in discovery.targets:
        units = np.asarray(target.units)
        gone = source.permutation(len(units))[: round(ratio * len(units))]
        if drop:
            gone = np.asarray(drop.get(target.name, []), dtype=np.int64)
        alive[np.sort(units)[gone[: len(units) - 1]]] = False
    smaller = shrink(program.module, coupling, alive)
    return Cut(program.module, smaller, paired(program.module, coupling, smaller, alive))


def apart(wanted: Any, found: Any) -> float:
    """Return the largest difference of outputs, relative to the largest of these."""
    pairs = zip(pytree.tree_leaves(wanted), pytree.tree_leaves(found), strict=True)
    return max(
        float((a - b).detach().abs().max() / a.detach().abs().max().clamp(min=1e-12))
        for a, b in pairs
        if isinstance(a, Tensor)
    )
