"""Conditions on sizes, as text that is read and never run."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max}
N = TypeVar("N")
LONGEST = 2000  # characters of a condition
LARGEST = 2**53  # of a number in one


@dataclass(frozen=True)
class Condition:
    """Hold what must be so of the sizes of a call: `text` in the names of free axes.

    `line` is the source line that asked, where it is known.

    >>> Condition("x_2 % 2 == 0").holds({"x_2": 6})
    True
    """

    text: str
    line: str = ""

    @property
    def names(self) -> frozenset[str]:
        """Return the names of the axes that it is about."""
        return parsed(self.text)[1]

    def renamed(self, names: Mapping[str, str]) -> Condition:
        """Return the condition with other names for its axes."""
        return Condition(
            re.sub(r"[A-Za-z_]\w*", lambda m: names.get(m[0], m[0]), self.text), self.line
        )

    def holds(self, sizes: Mapping[str, Any]) -> bool:
        """Tell whether it is so for these sizes, which may be symbols of a tracer."""
        return bool(parsed(self.text)[0](sizes))


def related(names: Iterable[N], relations: Iterable[Set[N]]) -> list[set[N]]:
    """Return names in groups: those that some relation is about, or several with one in common.

    >>> [sorted(group) for group in related("abc", [{"a", "c"}])]
    [['b'], ['a', 'c']]
    """
    groups = [{name} for name in names]
    for one in relations:
        mine = [group for group in groups if group & one]
        groups = [group for group in groups if not group & one]
        groups += [set[N]().union(*mine)] if mine else []
    return groups


Value = Callable[[Mapping[str, Any]], Any]


@cache
def parsed(text: str) -> tuple[Value, frozenset[str]]:
    """Return a condition as a function of the sizes, and the names that it reads.

    Raises ValueError for what is no arithmetic and no comparison.
    """
    if len(text) > LONGEST:
        raise ValueError(f"a condition of {len(text)} characters; at most {LONGEST} are read")
    names: set[str] = set()
    try:
        return _value(ast.parse(text, mode="eval").body, names), frozenset(names)
    except (SyntaxError, RecursionError) as error:
        raise ValueError(f"{text!r} is no condition") from error


def _value(node: ast.expr, names: set[str]) -> Value:
    if isinstance(node, ast.Name):
        names.add(name := node.id)
        return lambda sizes: sizes[name]
    if isinstance(node, ast.Constant) and _small(number := node.value):
        return lambda sizes: number
    if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
        one, unary = _value(node.operand, names), OPERATORS[type(node.op)]
        return lambda sizes: unary(one(sizes))
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _value(node.left, names), _value(node.right, names)
        binary = OPERATORS[type(node.op)]
        return lambda sizes: binary(left(sizes), right(sizes))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPERATORS:
        left, right = _value(node.left, names), _value(node.comparators[0], names)
        compare = OPERATORS[type(node.ops[0])]
        return lambda sizes: compare(left(sizes), right(sizes))
    if isinstance(node, ast.BoolOp):
        parts = [_value(one, names) for one in node.values]
        joined = all if isinstance(node.op, ast.And) else any
        return lambda sizes: joined(part(sizes) for part in parts)
    function = getattr(node.func, "id", "") if isinstance(node, ast.Call) else ""
    if isinstance(node, ast.Call) and function in FUNCTIONS and not node.keywords:
        called, given = FUNCTIONS[function], [_value(one, names) for one in node.args]
        return lambda sizes: called(*(one(sizes) for one in given))
    raise ValueError(f"{ast.unparse(node)!r} may not stand in a condition on sizes")


def _small(value: Any) -> bool:
    return type(value) in (int, float, bool) and abs(value) <= LARGEST
