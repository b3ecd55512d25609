"""Keep the table from operators to rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Any, TypeAlias, TypeVar

from fxprune.errors import PluginError
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


def register(operators: Sequence[Any], rule: Rule, replace: bool = False) -> None:
    """Give every one of `operators` the rule; each takes one, unless it is to `replace` it.

    An operator that another library registers is named by a string, `"torchvision.nms.default"`.
    What is said again in the same place, as when a cell of a notebook runs anew, replaces itself.
    Raises PluginError where an operator has a rule already.
    """
    for operator in operators:
        there = RULES.get(operator)
        if there is not None and not replace and not _same(there.couple, rule.couple):
            raise PluginError(
                f"{operator} has a rule already; give replace=True if yours is to take its place"
            )
        RULES[operator] = rule


def _same(there: Couple, now: Couple) -> bool:
    """Tell whether a rule says what another said, or stands where it stood."""
    ours, theirs = getattr(there, "__self__", None), getattr(now, "__self__", None)
    if ours is not None or theirs is not None:  # patterns
        return bool(ours == theirs)
    home = (there.__module__, there.__qualname__)
    return home == (now.__module__, now.__qualname__)


def couples(*operators: Any, macs: Macs | None = None, replace: bool = False) -> Callable[[C], C]:
    """Register the decorated function as the coupling of `operators`."""

    def decorate(function: C) -> C:
        register(operators, Rule(function, macs=macs), replace)
        return function

    return decorate


def rewrites(*operators: Any) -> Callable[[Rewrite], Rewrite]:
    """Register the decorated function as the rewrite of `operators` that couple already."""

    def decorate(function: Rewrite) -> Rewrite:
        for operator in operators:
            RULES[operator] = changed(RULES[operator], rewrite=function)
        return function

    return decorate
