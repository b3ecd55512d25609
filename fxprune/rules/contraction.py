"""Operators that multiply and sum: linear layers, convolutions, matrix products, einsum."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from fxprune.rules.pattern import Axis, Bound, contract, rule
from fxprune.rules.registry import Shapes, couples
from fxprune.rules.site import Site, TensorGuard

aten = torch.ops.aten


def _linear(shape: Shapes, _: dict[str, Any]) -> int:
    return prod(shape("->")) * shape("weight")[-1]


def _conv(shape: Shapes, _: dict[str, Any]) -> int:
    return prod(shape("->")) * prod(shape("weight")[1:])


def _deconv(shape: Shapes, _: dict[str, Any]) -> int:
    return prod(shape("input")) * prod(shape("weight")[1:])


def _inner(name: str) -> Any:
    return lambda shape, _: prod(shape("->")) * shape(name)[-1]


rule(
    aten.linear.default,
    "... i, o i, o? -> ... o",
    macs=_linear,
    roles={"i": "feature", "o": "feature"},
)
rule(
    [
        aten.conv1d.default,
        aten.conv2d.default,
        aten.conv3d.default,
        aten.conv1d.padding,
        aten.conv2d.padding,
        aten.conv3d.padding,
    ],
    "... (g i) *, (g o) i *, (g o)? -> ... (g o) *",
    g="groups",
    macs=_conv,
    roles={"g": "group", "i": "channel", "o": "channel"},
)
rule(
    [
        aten.conv_transpose1d.default,
        aten.conv_transpose2d.input,
        aten.conv_transpose3d.input,
    ],
    "... (g i) *, (g i) o *, (g o)? -> ... (g o) *",
    g="groups",
    macs=_deconv,
    roles={"g": "group", "i": "channel", "o": "channel"},
)
rule(aten.mm.default, "m k, k n -> m n", macs=_inner("self"))
rule(aten.bmm.default, "b m k, b k n -> b m n", macs=_inner("self"), roles={"k": "inner"})
rule(aten.mv.default, "m k, k -> m", macs=_inner("self"))
rule(aten.dot.default, "k, k ->", macs=_inner("self"))
rule(aten.outer.default, "m, n -> m n", macs=lambda shape, _: prod(shape("->")))
rule(
    aten.bilinear.default,
    "... i, ... j, o i j, o? -> ... o",
    macs=lambda shape, _: prod(shape("->")) * prod(shape("weight")[1:]),
)


def _couple(
    site: Site, operands: list[tuple[TensorGuard, tuple[Axis, ...]]], result: tuple[Axis, ...]
) -> TensorGuard:
    bound = Bound(site, {})
    for value, axes in operands:
        bound.read(axes, value, factor=True)
    contract(site, bound, result, "")
    inner = {k for _, axes in operands for axis in axes for k in axis}
    inner -= {k for axis in result for k in axis}
    for letter in inner & set(bound.letters):
        site.role(bound.letters[letter], "inner")
    return bound.result(result, site.out())


def _letters(text: str) -> tuple[Axis, ...]:
    return tuple(("...",) if token == "." else (token,) for token in text)


@couples(aten.matmul.default, macs=_inner("self"))
def matmul(site: Site) -> TensorGuard:
    """Couple `... m k, ... k n -> ... m n`, and its forms with vectors."""
    a, b = site.tensor("self"), site.tensor("other")
    left = "k" if len(a.dims) == 1 else ".mk"
    right = "k" if len(b.dims) == 1 else ".kn"
    out = ("." if len(a.dims) > 1 or len(b.dims) > 1 else "") + (
        left.strip(".").replace("k", "") + right.strip(".").replace("k", "")
    )
    return _couple(site, [(a, _letters(left)), (b, _letters(right))], _letters(out))


def _added(shape: Shapes, _: dict[str, Any]) -> int:
    names = "batch1" if "batch1" in _ else "mat1"
    return prod(shape("->")) * shape(names)[-1]


@couples(aten.addmm.default, aten.baddbmm.default, macs=_added)
def addmm(site: Site) -> TensorGuard:
    """Couple `bias + m k, k n -> m n`; the bias broadcasts from the right."""
    batched = "batch1" in site.args
    names = ("batch1", "batch2") if batched else ("mat1", "mat2")
    text = ("bmk", "bkn", "bmn") if batched else ("mk", "kn", "mn")
    bound = Bound(site, {})
    for name, axes in zip(names, text, strict=False):
        bound.read(_letters(axes), site.tensor(name), factor=True)
    bias = site.tensor("self")
    contract(site, bound, _letters(text[2]), "")
    bound.read(_letters(text[2][len(text[2]) - len(bias.dims) :]), bias, factor=False)
    return bound.result(_letters(text[2]), site.out())


def _einsum_macs(shape: Shapes, args: dict[str, Any]) -> int:
    equation = args["equation"].replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for index, text in enumerate(equation):
        actual = shape(f"tensors.{index}")
        lead, _, tail = text.partition("...")
        for letter, size in [*zip(lead, actual, strict=False)]:
            sizes[letter] = max(size, sizes.get(letter, 1))
        for letter, size in [*zip(reversed(tail), reversed(actual), strict=False)]:
            sizes[letter] = max(size, sizes.get(letter, 1))
        if "..." in text:
            wild = actual[len(lead) : len(actual) - len(tail)]
            sizes["..."] = max(prod(wild), sizes.get("...", 1))
    return prod(sizes.values())


@couples(aten.einsum.default, macs=_einsum_macs)
def einsum(site: Site) -> TensorGuard:
    """Couple the axes that an einsum equation gives one letter."""
    equation = str(site.args["equation"]).replace(" ", "").replace("...", ".")
    left, arrow, right = equation.partition("->")
    texts = left.split(",")
    if not arrow:
        letters = sorted({k for k in left if k not in ",."})
        right = ("." if "." in left else "") + "".join(k for k in letters if left.count(k) == 1)
    if any(text.count(k) > 1 for text in texts for k in set(text)):
        site.pin_all(site.many("tensors"), f"einsum {equation!r} takes a diagonal")
        return site.fixed()
    values = site.many("tensors")
    operands = [(v, _letters(text)) for v, text in zip(values, texts, strict=True)]
    return _couple(site, operands, _letters(right))
