"""Matrix products in groups of rows, each group with a matrix of its own: a mixture of experts."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import fx

from fxprune.guards import Ids
from fxprune.rules.contraction import contracted, letters_of
from fxprune.rules.indexing import ADDRESSED
from fxprune.rules.pattern import Bound, contract
from fxprune.rules.products import name_axes
from fxprune.rules.registry import Shapes, couples
from fxprune.rules.site import Site, TensorGuard, tensor_meta

aten = torch.ops.aten

COPIED = {aten.to.dtype, aten._to_copy.default, aten.clone.default, aten.detach.default}
ROW_BYTES = 16  # the kernels of `_grouped_mm` read rows of whole multiples of it
# ranks of both operands -> their letters and those of the result; s is cut into the groups e
FORMS = {
    (2, 3): ("sk", "ekn", "sn"),
    (3, 2): ("emk", "ks", "ms"),
    (2, 2): ("ms", "sn", "_mn"),
    (3, 3): ("emk", "ekn", "emn"),
}


def _macs(shape: Shapes, args: dict[str, Any]) -> int:
    first, second, *_ = args
    if len(shape(first)) == len(shape(second)) == 2:  # every column belongs to one group
        return prod(shape(first)) * shape(second)[-1]
    return prod(shape("->")) * shape(first)[-1]


@couples(aten._grouped_mm.default, "transformers.grouped_mm_fallback.default", macs=_macs)
def grouped_mm(site: Site) -> Any:
    """Couple `s k, e k n -> s n` and its kin: offsets address the rows s and the groups e."""
    names = list(site.args)[:2]
    values = [site.tensor(name) for name in names]
    *texts, result = FORMS[len(values[0].dims), len(values[1].dims)]
    bias, offsets = site.optional("bias"), site.optional("offs")
    counted = offsets is not None and texts == ["sk", "ekn"] and ends_of_counts(site, "offs")
    site.pin_all([bias, None if counted else offsets], "offsets address the groups")
    if offsets is not None and counted:  # a group that leaves has no rows
        site.role(site.unify(offsets.dims[0], values[1].dims[0]), "expert")
    for name, text, value in zip(names, texts, values, strict=True):
        for letter, g in zip(text, value.dims, strict=True):
            if offsets is not None and letter in ("s" if counted else "se"):
                site.pin(g, "offsets address this axis")
        if site.operator is aten._grouped_mm.default:
            _hold_rows(site, name, value.dims)
    operands = [(site.args[k], letters_of(t)) for k, t in zip(names, texts, strict=True)]
    if not counted:
        return contracted(site, operands, letters_of(result))
    bound = Bound(site, {})  # every row meets one matrix of the stack alone
    bound.read(letters_of("sk"), values[0], factor=True)
    bound.read(letters_of("kn"), values[1].without([0]), factor=True)
    contract(site, bound, letters_of(result), "")
    name_axes(site, operands, letters_of(result), bound.letters)
    return bound.result(letters_of(result), site.out())


@couples(aten.searchsorted.Tensor, aten.bucketize.Tensor)
def searched(site: Site) -> TensorGuard:
    """Search places among sorted values: among the ends of groups, they number the groups."""
    bounds = "boundaries" if site.operator is aten.bucketize.Tensor else "sorted_sequence"
    ends, values = site.tensor(bounds), site.tensor("self")
    site.pin_all([site.optional("sorter")], ADDRESSED)
    result = TensorGuard(values.dims, (False,) * len(values.dims))
    within = bool(site.args["right"]) or site.args.get("side") == "right"
    if within and len(ends.dims) == 1 and ends_of_counts(site, bounds):
        return replace(result, numbers=ends.dims[0])
    site.pin_all([ends] if len(ends.dims) == 1 else [ends, values], "its order is searched")
    return result if len(ends.dims) == 1 else site.fixed()


def ends_of_counts(site: Site, name: str) -> bool:
    """Tell whether an operand is running sums of counts that are zero for what is removed."""
    arg = site.args[name]
    while isinstance(arg, fx.Node) and arg.target in COPIED:
        arg = arg.args[0]
    if not isinstance(arg, fx.Node) or arg.target is not aten.cumsum.default:
        return False
    counts = site.of(arg.args[0])
    return counts is not None and counts.zero == (True,)


def _hold_rows(site: Site, name: str, dims: tuple[Ids, ...]) -> None:
    """Let features leave in blocks that keep the rows in memory whole multiples of what is read."""
    value = tensor_meta(site.args[name])
    if value is None:
        return
    block = max(1, ROW_BYTES // value.element_size())
    for d, g in enumerate(dims):
        if value.stride(d) == 1 and len(g) % block == 0:
            inner = site.split(g, [len(g) // block, block])[1]
            site.pin(inner, f"the kernel reads rows of whole multiples of {ROW_BYTES} bytes")
