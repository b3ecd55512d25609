"""Empty tensors in a graph: what a cache starts with, before anything is put into it."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

aten = torch.ops.aten
LIFTED = (aten.lift_fresh_copy.default, aten.lift_fresh.default)
JOINED = (aten.cat.default, aten.concat.default, aten.concatenate.default)


def empty_call(
    op: Any, args: tuple[Any, ...]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]] | None:
    """Return the operator that makes what a forward made of no numbers, if it made just that.

    `torch.tensor([])` is no constant made of data: there is none.
    """
    if op not in LIFTED or not isinstance(args[0], torch.Tensor) or args[0].numel():
        return None
    given = args[0]
    return aten.zeros.default, (list(given.shape),), {"dtype": given.dtype, "device": given.device}


def joined_without(graph: fx.Graph) -> None:
    """Leave out of concatenations what torch itself skips there: tensors of shape [0]."""
    for node in list(graph.nodes):
        if node.target not in JOINED or not isinstance(node.args[0], (list, tuple)):
            continue
        every = list(node.args[0])
        some = [one for one in every if not _skipped(one)]
        if not some or len(some) == len(every):
            continue
        (first, *others) = some
        if others or not _same(first, node) or _written(first) or _written(node):
            node.args = (some, *node.args[1:])
        else:  # of one tensor it is a copy
            node.replace_all_uses_with(first)
            graph.erase_node(node)


def _skipped(node: Any) -> bool:
    made = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(made, torch.Tensor) and made.ndim == 1 and made.shape[0] == 0


def _same(one: fx.Node, other: fx.Node) -> bool:
    a, b = one.meta.get("val"), other.meta.get("val")
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return False
    return a.dtype == b.dtype and one.op == "call_function"


def _written(node: fx.Node) -> bool:
    schemas = (getattr(user.target, "_schema", None) for user in node.users)
    return any(one is not None and one.is_mutable for one in schemas)
