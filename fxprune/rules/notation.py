"""How patterns are written: read into axes of letters, and refused where they say nothing.

`pattern.py` says what the letters mean.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from fxprune.errors import PluginError

WILD = ("...", "*", "_")
TOKEN = re.compile(r"\((?:\s*[a-z_]\s*)+\)|\.\.\.|[a-z*_]|\s+")
Axis = tuple[str, ...]  # the letters of one axis; ("*",), ("...",) and ("_",) are wild


@dataclass(frozen=True)
class Pattern:
    """Hold a parsed pattern: the axes of each operand and of the result."""

    operands: tuple[tuple[Axis, ...], ...]
    optional: tuple[bool, ...]
    result: tuple[Axis, ...]


@cache
def parse(text: str) -> Pattern:
    """Parse a pattern.

    >>> parse("... i, o i, o? -> ... o").optional
    (False, False, True)
    """
    left, right = text.split("->")
    operands = [part.strip() for part in left.split(",")]
    optional = tuple(part.endswith("?") for part in operands)
    return Pattern(tuple(_axes(part.rstrip("?")) for part in operands), optional, _axes(right))


@cache
def loosened(pattern: Pattern, counted: str) -> Pattern:
    """Return a pattern whose outputs `(g o)` are one axis `g o`, `g` being `counted`.

    >>> loosened(parse("n (g i), (g o) i, (g o)? -> n (g o)"), "g").result
    (('n',), ('g o',))
    """
    whole = {axis: (" ".join(axis),) for axis in pattern.result if counted in axis[:-1]}

    def one(axes: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(whole.get(axis, axis) for axis in axes)

    return Pattern(tuple(map(one, pattern.operands)), pattern.optional, one(pattern.result))


def _axes(text: str) -> tuple[Axis, ...]:
    tokens = re.findall(r"\(([^)]*)\)|(\.\.\.|\S)", text)
    return tuple(_factors(group) if group else (single,) for group, single in tokens)


def _factors(group: str) -> Axis:
    """Return the letters of a factored axis; one that keeps its size is named after the others.

    >>> _factors("_ c")
    ('_c', 'c')
    """
    letters = group.split()
    others = "".join(letter for letter in letters if letter != "_")
    return tuple("_" + others if letter == "_" else letter for letter in letters)


def check(text: str, operator: Any, operands: Sequence[str], counts: Collection[str]) -> list[str]:
    """Return the operands that a pattern speaks of.

    `operands` are the tensors that the operator takes. Raises PluginError where the text is no
    pattern, or is none of this operator.
    """
    said = f'rule of {operator}: "{text}"'
    if text.count("->") != 1:
        raise PluginError(f'{said}: is no pattern: operands -> result, as in "... c, c -> ... c"')
    for part in re.split(r",|->", text):
        left = TOKEN.sub("", part.strip().removesuffix("?"))
        if left:
            raise PluginError(
                f'{said}: "{left[:20]}" is not understood: axes are letters, (g o), ..., * and _'
            )
    pattern = parse(text)
    if len(pattern.operands) > len(operands):
        many = f"{len(pattern.operands)} operands, and the operator takes {len(operands)} tensors"
        raise PluginError(f"{said}: has {many}: {', '.join(operands)}")
    known = {letter for axes in pattern.operands for axis in axes for letter in axis}
    for letter in sorted({k for axis in pattern.result for k in axis} - known - set(WILD)):
        raise PluginError(f"{said}: the result has {letter}, and no operand does")
    for letter in sorted(set(counts) - known):
        raise PluginError(f"{said}: {letter}=… counts a letter that no operand has")
    return list(operands[: len(pattern.operands)])
