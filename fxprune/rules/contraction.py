"""Operators that multiply and sum: linear layers, convolutions, matrix products, einsum."""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from fxprune.rules.edit import Edit
from fxprune.rules.notation import Axis
from fxprune.rules.pattern import Bound, PatternRule, contract, rule
from fxprune.rules.products import name_axes
from fxprune.rules.registry import Shapes, couples, rewrites
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
rule(aten.mv.default, "m k, k -> m", macs=_inner("self"))
rule([aten.dot.default, aten.vdot.default], "k, k ->", macs=_inner("self"))
rule(aten.outer.default, "m, n -> m n", macs=lambda shape, _: prod(shape("->")))
rule(
    aten.bilinear.default,
    "... i, ... j, o i j, o? -> ... o",
    macs=lambda shape, _: prod(shape("->")) * prod(shape("weight")[1:]),
)


def contracted(
    site: Site, operands: list[tuple[Any, tuple[Axis, ...]]], result: tuple[Axis, ...]
) -> TensorGuard:
    """Multiply and sum the operands (nodes), whose axes have the given letters."""
    bound = Bound(site, {})
    for arg, axes in operands:
        value = site.of(arg)
        if value is not None:
            bound.read(axes, value, factor=True)
    contract(site, bound, result, "")
    name_axes(site, operands, result, bound.letters, bound.leading)
    return bound.result(result, site.out())


def letters_of(text: str) -> tuple[Axis, ...]:
    """Return axes of one letter each, `.` standing for the leading ones."""
    return tuple(("...",) if token == "." else (token,) for token in text)


@couples(aten.matmul.default, aten.mm.default, aten.bmm.default, macs=_inner("self"))
def matmul(site: Site) -> TensorGuard:
    """Couple `... m k, ... k n -> ... m n`, and its forms with vectors."""
    first, second = list(site.args.values())[:2]
    left = "k" if len(site.tensor("self").dims) == 1 else ".mk"
    right = "k" if len(_value(site, second).dims) == 1 else ".kn"
    out = ("." if left != "k" or right != "k" else "") + (left + right).replace(".", "").replace(
        "k", ""
    )
    return contracted(
        site, [(first, letters_of(left)), (second, letters_of(right))], letters_of(out)
    )


def _value(site: Site, arg: Any) -> TensorGuard:
    value = site.of(arg)
    if value is None:
        raise TypeError(f"{site.node.name}: an operand is not a tensor")
    return value


# operator -> operands, their letters, and those of the result; `self` is added, from the right
ADDED = {
    aten.addmm.default: ("mat1 mat2", "mk kn", "mn"),
    aten.baddbmm.default: ("batch1 batch2", "bmk bkn", "bmn"),
    aten.addbmm.default: ("batch1 batch2", "bmk bkn", "mn"),
    aten.addmv.default: ("mat vec", "mk k", "m"),
    aten.addr.default: ("vec1 vec2", "m n", "mn"),
}


def _added(shape: Shapes, args: dict[str, Any]) -> int:
    given = [name for names, _, _ in ADDED.values() for name in names.split() if name in args]
    first, second = given[:2]
    return prod(shape(first)) * (shape(second)[-1] if len(shape(second)) > 1 else 1)


@couples(*ADDED, macs=_added)
def addmm(site: Site) -> TensorGuard:
    """Couple `self + m k, k n -> m n` and its kin; `self` broadcasts from the right."""
    names, texts, result = ADDED[site.operator]
    bound = Bound(site, {})
    operands = [
        (site.args[name], letters_of(axes))
        for name, axes in zip(names.split(), texts.split(), strict=True)
    ]
    for name, (_, axes) in zip(names.split(), operands, strict=True):
        bound.read(axes, site.tensor(name), factor=True)
    bias = site.tensor("self")
    contract(site, bound, letters_of(result), "")
    name_axes(site, operands, letters_of(result), bound.letters)
    bound.read(letters_of(result[len(result) - len(bias.dims) :]), bias, factor=False)
    return bound.result(letters_of(result), site.out())


CONVOLUTION = {False: "... (g i) *, (g o) i *, (g o)? -> ... (g o) *"}
CONVOLUTION[True] = "... (g i) *, (g i) o *, (g o)? -> ... (g o) *"
CONVOLUTIONS = {
    transposed: PatternRule(
        text,
        ("input", "weight", "bias"),
        {"g": "groups"},
        roles={"g": "group", "i": "channel", "o": "channel"},
    )
    for transposed, text in CONVOLUTION.items()
}


@couples(
    aten.convolution.default,
    macs=lambda shape, args: (_deconv if args["transposed"] else _conv)(shape, args),
)
def convolution(site: Site) -> TensorGuard:
    """Couple what a decomposed convolution is, transposed or not."""
    return CONVOLUTIONS[bool(site.args["transposed"])].couple(site)


@rewrites(aten.convolution.default)
def count_groups(edit: Edit) -> None:
    """Set the number of groups."""
    CONVOLUTIONS[bool(edit.args["transposed"])].rewrite(edit)
