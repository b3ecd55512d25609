"""Operators of torchvision, by name: they need not be installed."""

from __future__ import annotations

from fxprune.guards import true
from fxprune.rules.edit import Edit
from fxprune.rules.pattern import PatternRule
from fxprune.rules.registry import couples, rewrites
from fxprune.rules.site import Site, TensorGuard, shape_of

POOLS = ["torchvision.roi_align.default", "torchvision.roi_pool.default"]
DEFORM = "torchvision.deform_conv2d.default"
CONV = PatternRule(
    "n (g i) *, (g o) i *, (g o)? -> n (g o) *",
    ("input", "weight", "bias"),
    {"g": "groups"},
    roles={"g": "group", "i": "channel", "o": "channel"},
)


@couples(*POOLS)
def pool_regions(site: Site) -> TensorGuard | tuple[TensorGuard, ...]:
    """Pool `n c h w` over regions: channels pass, all other axes are pinned."""
    x = site.tensor("input")
    site.pin_all([x.without([1]), site.optional("rois")], "regions address these axes")
    value = site.node.meta["val"]
    several = isinstance(value, (tuple, list))
    sizes = shape_of(value[0] if several else value)
    dims = (true(sizes[0]), x.dims[1], true(sizes[2]), true(sizes[3]))
    result = TensorGuard(dims, (False, x.zero[1], False, False))
    places = TensorGuard(dims, (False,) * 4)
    return (result, places) if several else result


@couples(DEFORM)
def deform_conv(site: Site) -> TensorGuard:
    """Couple a convolution whose offsets are pinned; groups of offsets keep the input channels."""
    site.pin_all([site.optional("offset"), site.optional("mask")], "offsets address positions")
    site.pin(site.tensor("input").dims[0], "offsets address positions")
    if int(site.args["offset_groups"]) > 1:
        site.pin(site.tensor("input").dims[1], "each group of offsets moves its own channels")
    return CONV.couple(site)


@rewrites(DEFORM)
def count_groups(edit: Edit) -> None:
    """Set the number of groups."""
    CONV.rewrite(edit)
