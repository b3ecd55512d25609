"""Scaled dot-product attention: heads, head dims, grouped queries, masks."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from fxprune.guards import Ids, outer, true
from fxprune.rules.edit import Edit
from fxprune.rules.registry import Shapes, couples, rewrites
from fxprune.rules.site import Site, TensorGuard

aten = torch.ops.aten
SDPA = aten.scaled_dot_product_attention.default
FLASH = aten._scaled_dot_product_flash_attention_for_cpu.default


def _macs(shape: Shapes, _: dict[str, Any]) -> int:
    *batch, queries, inner = shape("query")
    return prod(batch) * queries * shape("key")[-2] * (inner + shape("value")[-1])


@couples(SDPA, macs=_macs)
def attention(site: Site) -> TensorGuard:
    """Couple `... (h r) q d, ... h k d, ... h k e -> ... (h r) q e`; r > 1 is grouped queries."""
    q, k, v = site.tensor("query"), site.tensor("key"), site.tensor("value")
    batch = _batch(site, q, k, v)
    inner = site.unify(q.dims[-1], k.dims[-1])
    site.unify(k.dims[-2], v.dims[-2])
    site.approximate(k.dims[-2], "softmax takes statistics over the keys")
    if not (q.zero[-1] or k.zero[-1]):
        site.approximate(inner, "the product sums over this axis, and it is not zero there")
    site.role(inner, "head_dim")
    site.role(v.dims[-1], "head_dim")
    if batch:
        site.role(batch[-1], "head")
    mask = site.optional("attn_mask")
    if mask is not None:
        _masked(site, mask, [*batch, q.dims[-2], k.dims[-2]])
    if site.args.get("is_causal"):
        for g in (q.dims[-2], k.dims[-2]):
            site.pin(g, "the causal mask compares positions along this axis")
    own = len(v.dims) > 2 and len(v.dims[-3]) == len(q.dims[-3] if len(q.dims) > 2 else ())
    heads = own and len(v.dims[-3]) != 1 and v.zero[-3]  # a query's own heads of values
    zeros = [False] * max(0, len(batch) - 1) + [heads] * bool(batch) + [False, v.zero[-1]]
    return TensorGuard((*batch, q.dims[-2], v.dims[-1]), tuple(zeros))


def _batch(site: Site, q: TensorGuard, k: TensorGuard, v: TensorGuard) -> list[Ids]:
    """Return the guards of the batch axes, the heads last."""
    dims: list[Ids] = []
    for d in range(max(len(x.dims) for x in (q, k, v)) - 2):
        back = d - (max(len(x.dims) for x in (q, k, v)) - 2)
        sides = [x.dims[back - 2] for x in (q, k, v) if len(x.dims) - 2 >= -back]
        sides = [g for g in sides if len(g) != 1]
        if not sides:
            dims.append(true(1))
        elif back == -1 and site.args.get("enable_gqa"):
            dims.append(_grouped(site, q.dims[-3], k.dims[-3], v.dims[-3]))
        else:
            g = sides[0]
            for other in sides[1:]:
                g = site.unify(g, other)
            dims.append(g)
    return dims


def _grouped(site: Site, q: Ids, k: Ids, v: Ids) -> Ids:
    head, repeat = site.split(q, [len(k), len(q) // len(k)])
    site.unify(site.unify(head, k), v)
    site.role(repeat, "head")
    return outer([head, repeat])


def _masked(site: Site, mask: TensorGuard, shape: list[Ids]) -> None:
    for back in range(-1, -len(mask.dims) - 1, -1):
        if len(mask.dims[back]) != 1 and len(shape[back]) != 1:
            site.unify(mask.dims[back], shape[back])


@couples(FLASH, macs=_macs)
def flash_attention(site: Site) -> tuple[TensorGuard, ...]:
    """Couple as above; the second result is the logarithm of the sums over the keys."""
    site.unify(site.tensor("query").dims[-1], site.tensor("value").dims[-1])  # it wants one size
    out = attention(site)
    return out, TensorGuard(out.dims[:-1], (False,) * (len(out.dims) - 1))


@rewrites(SDPA, FLASH)
def keep_scale(edit: Edit) -> None:
    """Write down the scale of the original head size: the default would change with it."""
    size = len(edit.value("query").dims[-1])
    if edit.args.get("scale") is None and edit.count(edit.value("query").dims[-1]) != size:
        edit.set("scale", size**-0.5)
