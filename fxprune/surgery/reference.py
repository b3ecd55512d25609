"""The reference that a removal must equal, and the first operator at which it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from fxprune.graphs import source_line
from fxprune.guards import Mask
from fxprune.plan import Plan
from fxprune.rules import Coupling, Kept, TensorGuard
from fxprune.signature import Signature
from fxprune.surgery.masking import masked
from fxprune.surgery.reads import zeroed_reads
from fxprune.surgery.shrinking import kept_indices, shrink
from fxprune.surgery.verification import relative
from fxprune.targets import Original, Target
from fxprune.targets.activation_sites import impose, kept_sites
from fxprune.targets.blocks import BlockTarget, masks_of

NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Reference:
    """Hold the original with its approximate targets cut, and the plan of the rest to be removed.

    Zeroing what the plan drops must give the numbers of the smaller model: whatever removing an
    approximate target changes is changed alike in both. `alive` `[variables]` is what it keeps.
    """

    module: fx.GraphModule
    plan: Plan
    alive: Mask

    @classmethod
    def of(
        cls, original: Original, selected: Sequence[Target], alive: Mask, plan: Plan
    ) -> Reference:
        """Return the reference of a choice; it is the original itself if all of it is exact."""
        loose = [t for t in selected if not t.exact and not alive[t.units].all()]
        kept_alive = np.ones_like(alive)
        if not loose:
            return cls(original.module, plan, kept_alive)
        for target in loose:
            kept_alive[target.units] = alive[target.units]
        module, coupling = original.module, original.coupling
        kept = kept_indices(module, coupling, kept_alive)
        smaller = shrink(module, coupling, kept_alive, kept)
        sites = [t for t in selected if isinstance(t, BlockTarget) and t.site]
        if sites:
            places = kept_sites(module, coupling, sites, kept_alive)
            impose(smaller, sites, masks_of(sites, alive, places))
        return cls(smaller, Plan(_within(plan.kept, kept), masks=plan.masks), kept_alive)


def _within(
    kept: Mapping[str, tuple[torch.Tensor, ...]], among: Mapping[str, tuple[torch.Tensor, ...]]
) -> dict[str, tuple[torch.Tensor, ...]]:
    """Return where kept indices stand among those of a larger choice."""
    return {
        name: tuple(torch.searchsorted(a, k) for k, a in zip(axes, among[name], strict=True))
        for name, axes in kept.items()
        if name in among
    }


def culprit(
    reference: Reference,
    original: Original,
    selected: Sequence[Target],
    alive: Mask,
    signature: Signature,
    allowed: float,
) -> str:
    """Name the first operator whose result differs where the numbers should agree, and its targets.

    Both graphs run node by node on the examples. A slow walk, for a removal that was found wrong.
    """
    coupling = original.coupling
    graph, spared = zeroed_reads(reference.module, coupling, alive, reference.alive)
    zeros = _recorded(masked(graph, reference.plan, spared), signature)
    smaller = shrink(original.module, coupling, alive)
    ours = _recorded(smaller, signature)
    before, after = Kept(coupling.guards, reference.alive), Kept(coupling.guards, alive)
    for node in original.module.graph.nodes:
        guard = coupling.values.get(node)
        if node.op != "call_function" or not isinstance(guard, TensorGuard):
            continue
        if node in coupling.arithmetic and node not in coupling.effective:
            continue  # such as a norm, of which something is added where the weight is read
        whole = zeros.values.get(node.name)
        if not isinstance(whole, torch.Tensor):
            continue
        found = ours.values.get(node.name)
        expected = _narrowed(whole, guard, before, after)
        if not isinstance(found, torch.Tensor):
            return _named(node, selected, alive, coupling, ours.problem)
        if found.shape != expected.shape:
            sizes = f"{tuple(expected.shape)} became {tuple(found.shape)}"
            return _named(node, selected, alive, coupling, sizes)
        if not relative(expected, found) <= allowed:
            return _named(node, selected, alive, coupling, "its numbers differ")
    return "every operator of the smaller graph gives the right numbers: what came after differs"


def _narrowed(value: torch.Tensor, guard: TensorGuard, before: Kept, after: Kept) -> torch.Tensor:
    """Return the entries of a result that the smaller graph still has."""
    for dim, g in enumerate(guard.dims):
        if g.shape[1] and value.shape[dim] == int(before.mask(g).sum()):
            places = torch.searchsorted(before.indices(g), after.indices(g))
            value = value.index_select(dim, places.to(value.device))
    return value


def _named(
    node: fx.Node, selected: Sequence[Target], alive: Mask, coupling: Coupling, fact: str
) -> str:
    """Return the operator, its line, and the targets that lose units there, in one line."""
    here = [coupling.values.get(one) for one in (node, *node.all_input_nodes)]
    dims = [g for value in here if isinstance(value, TensorGuard) for g in value.dims]
    ids = np.concatenate(
        [np.unique(coupling.guards.normal(g)) for g in dims] or [np.zeros(0, dtype=np.int64)]
    )
    gone = [t.name for t in selected if np.isin(t.units[~alive[t.units]], ids).any()]
    line = source_line(node)
    place = f"{node.name}{f' at {line}' if line else ''}"
    cause = f" where units of {', '.join(gone[:3])} are removed" if gone else ""
    return f"the rule of {node.target} is wrong{cause}: {fact} ({place})"


class _Values(fx.Interpreter):
    """Run a graph and keep a copy of every tensor that it computes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.values: dict[str, torch.Tensor] = {}
        self.problem = ""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.values[n.name] = result.clone()
        return result


def _recorded(module: fx.GraphModule, signature: Signature) -> _Values:
    """Return the values of a run on the examples, as far as it comes."""
    run = _Values(module)
    flat, _ = torch.utils._pytree.tree_flatten((signature.args, signature.kwargs))
    given = torch.utils._pytree.tree_map_only(torch.Tensor, torch.clone, flat)
    try:
        with torch.no_grad():
            run.run(*given, enable_io_processing=False)
    except Exception as error:  # a wrong size raises whatever its operator raises
        run.problem = f"it raises {type(error).__name__}: {str(error).splitlines()[0]}"
    return run
