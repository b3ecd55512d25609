"""Rules written as einops-like strings: `"n (g i) *, (g o) i *, (g o)? -> n (g o) *"`.

Letters are axes, `(g o)` an axis that factors into two, `...` leading axes, `*` trailing (spatial)
axes that never shrink, `_` one axis, or factor of one, that never shrinks, `?` an operand that may
be absent. A letter that stands in several places is the same axis everywhere: that is the coupling.
Operands marked `?` are added to the result; the others are multiplied, so what is zero in one of
them is zero in the result, and a letter that the result lacks is summed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import fx

from fxprune.guards import Ids, outer, true
from fxprune.rules.edit import Edit
from fxprune.rules.notation import WILD, Axis, Pattern, check, loosened, parse
from fxprune.rules.registry import Macs, Rule, register
from fxprune.rules.site import Groups, Site, TensorGuard, shape_of, unbounded


@dataclass
class Bound:
    """Bind letters to guards while the operands of one site are read, left to right."""

    site: Site
    sizes: dict[str, int]
    fixed: frozenset[str] = frozenset()  # letters whose size the graph computes
    letters: dict[str, Ids] = field(default_factory=dict)
    leading: list[Ids] = field(default_factory=list)  # what `...` stands for, aligned right
    zero: dict[str, bool] = field(default_factory=dict)  # letter -> dropped slice is zero
    spatial: int | None = None  # how many axes `*` stands for, where `...` leaves it open

    def measure(self, axes: tuple[Axis, ...], value: TensorGuard) -> None:
        """Learn how many axes `*` stands for from an operand without `...`."""
        if ("*",) in axes and ("...",) not in axes:
            self.spatial = len(value.dims) - (len(axes) - 1)

    def learn(self, axes: tuple[Axis, ...], value: TensorGuard) -> None:
        """Learn the sizes of letters that are an axis by themselves, for `(k c)` before `c`."""
        wild, at = self._wild(axes, len(value.dims)), 0
        for axis in axes:
            if len(axis) == 1 and axis[0] not in WILD and len(value.dims[at]) > 1:
                self.sizes.setdefault(axis[0], len(value.dims[at]))
            at += wild.get(axis[0], 1)

    def _wild(self, axes: tuple[Axis, ...], rank: int) -> dict[str, int]:
        """Return how many axes `...` and `*` stand for in an operand or result of this rank."""
        wild = rank - sum(axis not in (("...",), ("*",)) for axis in axes)
        if ("...",) in axes and ("*",) in axes:
            return {"*": self.spatial or 0, "...": wild - (self.spatial or 0)}
        return {"*": wild, "...": wild}

    def read(self, axes: tuple[Axis, ...], value: TensorGuard, factor: bool) -> None:
        """Couple one operand; `factor` operands multiply, the others are added."""
        dims, zeros = list(value.dims), list(value.zero)
        wild = self._wild(axes, len(dims))
        zeros = [zero and g.shape[1] > 0 for zero, g in zip(zeros, dims, strict=True)]
        seen: dict[str, bool] = {}
        at = 0
        for axis in axes:
            n = wild.get(axis[0], 1)
            if axis == ("...",):
                self._lead(dims[at : at + n])
                seen |= {f"...{k - n}": zeros[at + k] for k in range(n)}
            elif axis == ("*",):
                for g in dims[at : at + n]:
                    self.site.pin(g, "a spatial or kernel axis keeps its size")
            else:
                self._take(axis, dims[at])
                seen |= dict.fromkeys(axis, zeros[at])
            at += n
        self._zeros(seen, factor)

    def _lead(self, dims: list[Ids]) -> None:
        short = len(dims) - len(self.leading)
        self.leading = dims[: max(0, short)] + self.leading
        for k in range(1, min(len(dims), len(self.leading)) + 1):
            ours, theirs = self.leading[-k], dims[-k]
            if len(ours) == 1 or not len(ours):
                self.leading[-k] = theirs
            elif len(theirs) != 1:
                self.leading[-k] = self.site.unify(ours, theirs)

    def _take(self, axis: Axis, g: Ids) -> None:
        if axis == ("_",):
            self.site.pin(g, "this axis keeps its size")
            return
        for letter, part in zip(axis, self._split(axis, g), strict=True):
            if letter.startswith("_"):
                self.site.pin(part, "this factor of an axis keeps its size")
            known = self.letters.get(letter)
            self.sizes[letter] = max(len(part), self.sizes.get(letter, 0))
            if known is None or len(known) == 1:
                self.letters[letter] = part
            elif len(part) != 1:
                self.letters[letter] = self.site.unify(known, part)

    def _split(self, axis: Axis, g: Ids) -> Sequence[Ids]:
        if len(axis) == 1:
            return [g]
        unknown = [letter for letter in axis if letter not in self.sizes]
        if len(unknown) > 1:
            raise ValueError(
                f"the sizes of {' and '.join(unknown)} in ({' '.join(axis)}) are unknown: name the "
                f'argument that holds one, as in {unknown[0]}="groups"'
            )
        rest = prod(self.sizes[letter] for letter in axis if letter in self.sizes)
        self.sizes |= {letter: len(g) // max(1, rest) for letter in unknown}
        sizes, fixed = [self.sizes[k] for k in axis], [k in self.fixed for k in axis]
        return self.site.split(g, sizes, fixed)

    def _zeros(self, seen: Mapping[str, bool], factor: bool) -> None:
        if factor:
            for key, zero in seen.items():
                self.zero[key] = self.zero.get(key, False) or zero
        else:
            self.zero = {key: zero and seen.get(key, False) for key, zero in self.zero.items()}

    def result(self, axes: tuple[Axis, ...], out: torch.Tensor) -> TensorGuard:
        """Return the guards of the result, shaped like `out`."""
        sizes, dims, zeros = shape_of(out), list[Ids](), list[bool]()
        wild = self._wild(axes, len(sizes))
        for axis in axes:
            n = wild.get(axis[0], 1)
            if axis == ("...",):
                dims += self.leading[len(self.leading) - n :] if n else []
                zeros += [self.zero.get(f"...{k - n}", False) for k in range(n)]
            elif axis == ("*",):
                dims += [true(size) for size in sizes[len(dims) : len(dims) + n]]
                zeros += [False] * n
            elif axis == ("_",):
                dims.append(true(sizes[len(dims)]))
                zeros.append(False)
            else:
                dims.append(outer([self.letters[letter] for letter in axis]))
                live = [self.zero.get(k, False) for k in axis if self.letters[k].shape[1]]
                zeros.append(all(live))
        for d, (size, fix) in enumerate(zip(sizes, unbounded(out), strict=True)):
            if fix or len(dims[d]) != size:
                self.site.pin(dims[d], "a size depends on the input")
                dims[d] = true(size)
        return TensorGuard(tuple(dims), tuple(zeros))


@dataclass(frozen=True)
class PatternRule:
    """Couple and rewrite by a pattern; `counts` maps letters to the arguments that hold their size.

    Groups of one input channel each are channels. A letter in `approximate` is one whose statistics
    the operator takes, so that dropping is not zeroing. `affine` operators end in a weight and a
    bias, and keep a zero only where both make one.
    """

    text: str
    operands: tuple[str, ...]
    counts: Mapping[str, str] = field(default_factory=dict)
    approximate: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    affine: bool = False

    def couple(self, site: Site, out: torch.Tensor | None = None) -> TensorGuard:
        """State the pattern's equalities and return the guards of the result, shaped like `out`."""
        pattern = parse(self.text)
        sizes = {letter: site.number(name) for letter, name in self.counts.items()}
        fixed = {k for k, name in self.counts.items() if isinstance(site.args[name], fx.Node)}
        if site.node.name in site.coupling.loose:
            pattern, fixed = loosened(pattern, *self.counts), {*self.counts}
        bound = Bound(site, sizes, frozenset(fixed))
        for name, axes in zip(self.operands, pattern.operands, strict=True):
            if (value := site.optional(name)) is not None:
                bound.measure(axes, value)
        for name, axes in zip(self.operands, pattern.operands, strict=True):
            if (value := site.optional(name)) is not None:
                bound.learn(axes, value)
        for added in (False, True):
            for name, axes, optional in zip(
                self.operands, pattern.operands, pattern.optional, strict=True
            ):
                value = site.optional(name) if optional is added else None
                if value is not None:
                    bound.read(axes, value, factor=not added)
            if not added:
                contract(site, bound, pattern.result, self.approximate)
        if self.affine:
            self._affine(site, bound)
        for letter, g in bound.letters.items():
            kind = self.roles.get(letter.split()[-1], "")
            alone = kind == "group" and len(bound.letters.get("i", ())) == 1
            if kind:
                site.role(g, "channel" if alone else kind)
        self._group(site, bound, pattern)
        return bound.result(pattern.result, site.out() if out is None else out)

    def _group(self, site: Site, bound: Bound, pattern: Pattern) -> None:
        """Note the axes in groups, and the outputs of which every group must keep as many."""
        whole = {axis[0]: bound.letters[axis[0]] for axis in pattern.result if " " in axis[0]}
        for rows in whole.values():
            count = bound.sizes[next(iter(self.counts))]
            site.coupling.balances[site.node.name] = Groups(rows, count)
        axes = {axis for one in pattern.operands for axis in one if axis[0] in self.counts}
        if all(len(bound.letters[k]) > 1 for axis in axes for k in axis):
            for axis in sorted(axes) if not whole else ():
                merged = outer([bound.letters[k] for k in axis])
                named = site.node.name, Groups(merged, bound.sizes[axis[0]])
                site.coupling.grouped.append(named)

    def _affine(self, site: Site, bound: Bound) -> None:
        weight, bias = site.optional("weight"), site.optional("bias")
        zero = weight is not None and all(weight.zero) and (bias is None or all(bias.zero))
        bound.zero = dict.fromkeys(bound.zero, False)
        if weight is not None:
            bound.zero |= dict.fromkeys((k for k in bound.letters if k != "n"), zero)

    def rewrite(self, edit: Edit) -> None:
        """Set the arguments that hold the size of a letter to what is kept of it."""
        pattern = parse(self.text)
        for letter, name in self.counts.items():
            if not isinstance(edit.args[name], fx.Node):
                edit.set(name, self._count(edit, pattern, letter))

    def _count(self, edit: Edit, pattern: Pattern, letter: str) -> int:
        """Count the kept indices of one letter, in an operand whose axes are all in place."""
        for operand, axes in zip(self.operands, pattern.operands, strict=True):
            for d, axis in enumerate(axes if ("...",) not in axes else ()):
                if letter in (axis[0], axis[-1]):
                    mask, size = edit.mask(operand, d), int(edit.args[self.counts[letter]])
                    first = axis[0] == letter
                    split = mask.reshape(size, -1) if first else mask.reshape(-1, size).T
                    return int(split.any(axis=1).sum())
        raise ValueError(f"{self.text}: no operand has an axis that begins or ends with {letter!r}")


def contract(site: Site, bound: Bound, result: tuple[Axis, ...], approximate: str) -> None:
    """Mark the letters that are summed over without a zero, and those declared approximate."""
    out = {letter for axis in result for letter in axis}
    for k, g in enumerate(bound.leading if ("...",) not in result else (), -len(bound.leading)):
        if not bound.zero.get(f"...{k}", False):
            site.approximate(g, f"{site.node.target} sums over this axis, and it is not zero there")
    for letter, g in bound.letters.items():
        if letter in approximate:
            site.approximate(g, f"{site.node.target} takes statistics over this axis")
        elif letter not in out and not bound.zero.get(letter, False):
            site.approximate(g, f"{site.node.target} sums over this axis, and it is not zero there")


def rule(
    operators: Any | Sequence[Any],
    text: str,
    *,
    approximate: str = "",
    roles: Mapping[str, str] | None = None,
    affine: bool = False,
    macs: Macs | None = None,
    replace: bool = False,
    **counts: str,
) -> None:
    """Register a pattern for one operator or several; `g="groups"` names what counts g.

    `macs(shape, arguments)` counts multiplications, `shape("weight")` being the sizes of an operand
    and `shape("->")` those of the result. `roles` says what a letter is called as a target. Raises
    PluginError where an operator has a rule already, unless it is to `replace` it, and where the
    text is no pattern or does not fit the operator.
    """
    listed: Sequence[Any] = operators if isinstance(operators, (list, tuple)) else [operators]
    for operator in listed:
        names = [a.name for a in operator._schema.arguments if "Tensor" in str(a.type)]
        names = check(text, operator, names, counts)
        made = PatternRule(text, tuple(names), counts, approximate, roles or {}, affine)
        register([operator], Rule(made.couple, made.rewrite if counts else None, macs), replace)
