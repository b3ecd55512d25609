"""Keep the table from operators to rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

from fxprune.rules.edit import Edit
from fxprune.rules.site import Site, Value

Shapes: TypeAlias = Callable[[str], tuple[int, ...]]  # operand name ("->" is the result) -> sizes
Couple: TypeAlias = Callable[[Site], Value]
Rewrite: TypeAlias = Callable[[Edit], None]
C = TypeVar("C", bound=Couple)
Macs: TypeAlias = Callable[[Shapes, dict[str, Any]], int]


@dataclass(frozen=True)
class Rule:
    """Say what an operator does to guards, to its own constants, and how much it multiplies.

    `constants` names the arguments that `rewrite` changes; a leaf module restored from the node
    must take them too.
    """

    couple: Couple
    rewrite: Rewrite | None = None
    macs: Macs | None = None


RULES: dict[Any, Rule] = {}


def register(operators: Sequence[Any], rule: Rule) -> None:
    """Give every one of `operators` the rule; each operator takes one rule only.

    An operator that another library registers is named by a string, `"torchvision.nms.default"`.
    """
    for operator in operators:
        if operator in RULES:
            raise ValueError(f"{operator} has a rule already")
        RULES[operator] = rule


def couples(*operators: Any, macs: Macs | None = None) -> Callable[[C], C]:
    """Register the decorated function as the coupling of `operators`."""

    def decorate(function: C) -> C:
        register(operators, Rule(function, macs=macs))
        return function

    return decorate


def rewrites(*operators: Any) -> Callable[[Rewrite], Rewrite]:
    """Register the decorated function as the rewrite of `operators` that couple already."""

    def decorate(function: Rewrite) -> Rewrite:
        for operator in operators:
            RULES[operator] = replace(RULES[operator], rewrite=function)
        return function

    return decorate
