"""Numbers of indices on their way: moved with the tensors that hold them, else told as of before.

What only moves elements passes on which axis they number. Any other operator that has no word for
it, such as a comparison with the number of an expert, gets the numbers of before anything was
removed: a look-up is put before it when the graph shrinks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from fxprune.guards import Ids
from fxprune.rules.kept import Kept
from fxprune.rules.pointwise import name_of
from fxprune.rules.site import Coupling, Site, TensorGuard, Value

aten = torch.ops.aten

MOVED = """
_reshape_copy _to_copy _unsafe_view alias chunk clone contiguous detach expand expand_as flatten
gather index index_select lift_fresh movedim narrow permute repeat reshape reshape_as select slice
split split_with_sizes squeeze swapaxes t to transpose unbind unflatten unsafe_chunk unsafe_split
unsqueeze view view_as
"""
MOVES = frozenset(MOVED.split())
JOINS = frozenset({"cat", "concat", "concatenate", "stack"})


def with_numbers(site: Site, value: Value) -> Value:
    """Return the guards of a result with the axis that its values number; note who computes."""
    held = dict(_numbered(site))
    if not held:
        return value
    name = name_of(site.operator) if isinstance(site.operator, torch._ops.OpOverload) else ""
    first = site.args.get("self")
    if name in MOVES and first in held and _whole(site.node):
        site.followed.add(first)
        value = _given(value, held[first])
    elif name in JOINS and len(held) == len(set(site.node.all_input_nodes)):
        site.followed.update(held)
        numbers, *others = held.values()
        for other in others if all(len(one) == len(numbers) for one in others) else ():
            site.unify(numbers, other)
        if all(len(one) == len(numbers) for one in others):
            value = _given(value, numbers)
        else:
            site.followed.difference_update(held)
    told = tuple(one for one in held if one not in site.followed)
    if told and _writes(site.node):
        for one in told:
            site.pin(held[one], "numbers of this axis are changed in place")
    elif told:
        site.coupling.recalled[site.node] = told
    return value


def _numbered(site: Site) -> Iterator[tuple[fx.Node, Ids]]:
    for operand in site.node.all_input_nodes:
        value = site.coupling.values.get(operand)
        if isinstance(value, TensorGuard) and value.numbers is not None:
            yield operand, value.numbers


def _whole(node: fx.Node) -> bool:
    """Tell whether the results hold every number exactly: as integers, or floating point."""
    made = node.meta.get("val")
    results = made if isinstance(made, (tuple, list)) else (made,)
    return all(isinstance(one, torch.Tensor) and one.dtype in EXACT for one in results)


EXACT = {torch.int16, torch.int32, torch.int64, torch.float32, torch.float64}


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _given(value: Value, numbers: Ids) -> Value:
    if isinstance(value, tuple):
        return tuple(_given(one, numbers) for one in value)
    return value if value is None else replace(value, numbers=numbers)


def recall(old: fx.Node, new: fx.Node, coupling: Coupling, kept: Kept, twins: Any) -> None:
    """Give the twin of a node that computes with numbers those of before, by a look-up."""
    for operand in coupling.recalled.get(old, ()):
        value = coupling.values[operand]
        numbers = value.numbers if isinstance(value, TensorGuard) else None
        if numbers is None or bool(kept.mask(numbers).all()):
            continue
        given, made = twins[operand], operand.meta["val"]
        graph, owner = new.graph, new.graph.owning_module
        label = f"_{new.name}_numbers_{given.name}"
        table = kept.indices(numbers).to(made.device if not made.is_meta else "cpu")
        owner.register_buffer(label, table.clone(), persistent=False)  # type: ignore[union-attr]
        with graph.inserting_before(new):
            read = graph.get_attr(label)
            whole = given
            if made.dtype != torch.int64:
                whole = graph.call_function(aten.to.dtype, (given, torch.int64))
            before = graph.call_function(aten.index.Tensor, (read, [whole]))
            if made.dtype != torch.int64:
                before = graph.call_function(aten.to.dtype, (before, made.dtype))
        read.meta["val"] = table
        for made_here in (whole, before):
            made_here.meta.setdefault("val", made)
        new.replace_input_with(given, before)
