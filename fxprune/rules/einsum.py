"""Products named by letters: einsum, tensordot, inner, kron."""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any

import torch

from fxprune.guards import Ids, outer, true
from fxprune.rules.contraction import contracted, letters_of
from fxprune.rules.registry import Shapes, couples
from fxprune.rules.site import Site, TensorGuard

aten = torch.ops.aten


def _terms(equation: str) -> tuple[list[str], str]:
    """Return the letters of every operand and of the result, `.` standing for leading axes.

    >>> _terms("b i d, b j d")
    (['bid', 'bjd'], 'ij')
    """
    left, arrow, right = equation.replace(" ", "").replace("...", ".").partition("->")
    if not arrow:
        letters = sorted({k for k in left if k not in ",."})
        right = ("." if "." in left else "") + "".join(k for k in letters if left.count(k) == 1)
    return left.split(","), right


@cache
def contractions(equation: str, path: tuple[int, ...] | None = None) -> tuple[str, ...]:
    """Return the letters over which each of the pairwise products goes that torch computes.

    Without a path it goes from left to right. A letter that one operand alone has and that nothing
    needs later is summed up before.

    >>> contractions("ab,bc,cd->ad")
    ('abc', 'acd')
    >>> contractions("ab,bc,cd->ad", (1, 2, 0, 1))
    ('bcd', 'abd')
    """
    terms, result = _terms(equation)
    found: list[str] = []
    for step in range(len(terms) - 1):
        i, j = sorted(path[2 * step : 2 * step + 2]) if path else (0, 1)
        b, a = terms.pop(j), terms.pop(i)
        later = {k for one in (*terms, result) for k in one}
        met = sorted(k for k in {*a, *b} if k in later or (k in a and k in b))
        found.append("".join(met))
        terms.insert(len(terms) if path else 0, "".join(k for k in met if k in later))
    return tuple(found)


def _einsum_macs(shape: Shapes, args: dict[str, Any]) -> int:
    sizes: dict[str, int] = {}
    for index, text in enumerate(_terms(args["equation"])[0]):
        actual = shape(f"tensors.{index}")
        lead, wild, tail = text.partition(".")
        end = len(actual) - len(tail)
        named = [*zip(lead, actual, strict=False), *zip(tail, actual[end:], strict=True)]
        for letter, size in named:
            sizes[letter] = max(size, sizes.get(letter, 1))
        if wild:
            sizes["."] = max(prod(actual[len(lead) : end]), sizes.get(".", 1))
    path = args["path"] and tuple(args["path"])
    steps = contractions(args["equation"], path)
    return sum(prod(sizes[letter] for letter in step) for step in steps)


@couples(aten.einsum.default, macs=_einsum_macs)
def einsum(site: Site) -> TensorGuard:
    """Couple the axes that an einsum equation gives one letter."""
    equation = str(site.args["equation"])
    texts, right = _terms(equation)
    if any(text.count(k) > 1 for text in texts for k in set(text)):
        site.pin_all(site.many("tensors"), f"einsum {equation!r} takes a diagonal")
        return site.fixed()
    operands = [(v, letters_of(text)) for v, text in zip(site.args["tensors"], texts, strict=True)]
    return contracted(site, operands, letters_of(right))


def _letters_macs(a: str, b: str, shape: Shapes) -> int:
    sizes = dict(zip(a + b, (*shape("self"), *shape("other")), strict=True))
    return prod(sizes.values())


def _tensordot_letters(args: dict[str, Any], ranks: tuple[int, int]) -> tuple[str, str, str]:
    """Return the letters of both operands and of the result."""
    a, b = (["" for _ in range(rank)] for rank in ranks)
    fresh = iter("abcdefghijklmnopqrstuvwxyz")
    for d, e in zip(args["dims_self"], args["dims_other"], strict=True):
        a[d] = b[e] = next(fresh)
    shared = {*a, *b}
    a, b = ([letter or next(fresh) for letter in side] for side in (a, b))
    return "".join(a), "".join(b), "".join(k for k in a + b if k not in shared)


def _tensordot_macs(shape: Shapes, args: dict[str, Any]) -> int:
    a, b, _ = _tensordot_letters(args, (len(shape("self")), len(shape("other"))))
    return _letters_macs(a, b, shape)


@couples(aten.tensordot.default, macs=_tensordot_macs)
def tensordot(site: Site) -> TensorGuard:
    """Sum over the pairs of axes that are named."""
    ranks = len(site.tensor("self").dims), len(site.tensor("other").dims)
    a, b, out = _tensordot_letters(site.args, ranks)
    operands = [(site.args["self"], letters_of(a)), (site.args["other"], letters_of(b))]
    return contracted(site, operands, letters_of(out))


@couples(aten.inner.default, macs=lambda shape, _: prod(shape("->")) * shape("self")[-1])
def inner(site: Site) -> TensorGuard:
    """Sum over the last axis of both."""
    ranks = len(site.tensor("self").dims), len(site.tensor("other").dims)
    if 0 in ranks:
        site.pin_all([site.tensor("self"), site.tensor("other")], "inner of a scalar")
        return site.fixed()
    a, b = "abcdefgh"[: ranks[0] - 1], "mnopqrst"[: ranks[1] - 1]
    operands = [(site.args["self"], letters_of(a + "z")), (site.args["other"], letters_of(b + "z"))]
    return contracted(site, operands, letters_of(a + b))


@couples(aten.linalg_vecdot.default)
def vecdot(site: Site) -> TensorGuard:
    """Sum the products along one axis."""
    x, y = site.tensor("x"), site.tensor("y")
    if len(x.dims) != len(y.dims) or any(map(_differ, x.dims, y.dims)):
        site.pin_all([x, y], "vecdot of tensors that broadcast")
        return site.fixed()
    dim = x.axis(site.args["dim"])
    joined = site.unify_all([x, y])
    if not (x.zero[dim] or y.zero[dim]):
        site.approximate(joined.dims[dim], f"{site.operator} sums over this axis, not zero there")
    zeros = tuple(a or b for a, b in zip(x.zero, y.zero, strict=True))
    return TensorGuard(joined.dims, zeros).without([dim])


def _differ(a: Ids, b: Ids) -> bool:
    return len(a) != len(b)


@couples(aten.kron.default)
def kron(site: Site) -> TensorGuard:
    """Make every axis the product of both tensors' axes."""
    a, b = site.tensor("self"), site.tensor("other")
    rank = max(len(a.dims), len(b.dims))
    sides = [
        TensorGuard(
            (true(1),) * (rank - len(v.dims)) + v.dims, (True,) * (rank - len(v.dims)) + v.zero
        )
        for v in (a, b)
    ]
    dims = tuple(outer(pair) for pair in zip(sides[0].dims, sides[1].dims, strict=True))
    zeros = tuple(all(pair) for pair in zip(sides[0].zero, sides[1].zero, strict=True))
    return TensorGuard(dims, zeros)
