"""Say why a model cannot be narrowed, at which line, and which targets to leave out."""

from __future__ import annotations

import numpy as np
from torch import fx

from fxprune.errors import WriteBackError
from fxprune.graphs import source_line
from fxprune.guards import Ids, Mask
from fxprune.rules import Coupling, TensorGuard
from fxprune.surgery.own_class.proof import Fault
from fxprune.surgery.own_class.solving import Solution
from fxprune.targets import Discovery

SHOWN = 8  # targets that an error names


def refusal(
    module: fx.GraphModule, coupling: Coupling, alive: Mask, fault: Fault, solution: Solution
) -> WriteBackError:
    """Return the error that names the first places, the facts, and which targets to leave out.

    Whatever else the lines compute is blamed as well: other blocks run through them too.
    """
    nodes = [one.node for one, _ in solution.unmet]
    facts = [_placed(one.node, fact) for one, fact in solution.unmet]
    if not facts:
        nodes = [fault.node] if fault.node is not None else []
        facts = [_placed(fault.node, fault.fact)]
    losing = [t for t in Discovery(module, coupling).targets if not alive[t.units].all()]
    error_at = {source_line(node) or node.name for node in nodes}
    again = [n for n in module.graph.nodes if (source_line(n) or n.name) in error_at]
    touched = [ids for node in again for ids in _ids(coupling, node)]
    blamed = [t.name for t in losing if any(np.isin(t.units, ids).any() for ids in touched)]
    names = tuple(blamed or [t.name for t in losing])
    more = ", …" if len(names) > SHOWN else ""
    error = WriteBackError(
        f"write_back: {'; '.join(facts[:3])}; the model was left as it was. Leave out "
        f"{', '.join(names[:SHOWN])}{more} (target.exclude), or use the pruned module itself"
    )
    error.targets, error.place = names, min(error_at, default="")
    return error


def _ids(coupling: Coupling, node: fx.Node) -> list[Ids]:
    """Return the variables of every axis of a node and of what it reads."""
    return [
        np.unique(coupling.guards.normal(g))
        for one in (node, *node.all_input_nodes)
        if isinstance(value := coupling.values.get(one), TensorGuard)
        for g in value.dims
    ]


def _placed(node: fx.Node | None, fact: str) -> str:
    if node is None:
        return fact
    line = source_line(node)
    return f"{node.name}{f' at {line}' if line else ''}: {fact}"
