"""Check a rule that somebody has written against the law that every rule of fxprune obeys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from fxprune.capture import capture
from fxprune.errors import VerifyError
from fxprune.extend.law import Case, Sample, build
from fxprune.targets import rule_for


@dataclass(frozen=True)
class RuleCheck:
    """Say what a check tried: how many units can leave, how many removals, and what is approximate.

    `exact` is the share of the units whose removal equals zeroing.
    """

    units: int
    tried: int
    exact: float

    def __str__(self) -> str:
        if not self.units:
            return "nothing can leave: every axis is pinned, or there is nothing to remove"
        return f"{self.units} units can leave, {self.exact:.0%} exact; {self.tried} removals tried"


def check_rule(operator: Any, *args: Any, **kwargs: Any) -> RuleCheck:
    """Try a rule: dropping units must give what zeroing them gives, on the real operator.

    `operator` is an `OpOverload`, such as `torch.ops.aten.linear.default`, with the arguments of a
    call: tensors with a point stand for parameters, others for buffers, and `Input(tensor)` for an
    input of the model. Or it is a small module, with example inputs. Units are dropped one at a
    time, then some at random.

    Raises VerifyError where the operator has no rule, its rule fails, or the numbers differ.

    >>> import torch
    >>> linear = torch.ops.aten.linear.default
    >>> str(check_rule(linear, torch.randn(2, 4), torch.randn(3, 4), torch.randn(3)))
    '9 units can leave, 100% exact; 13 removals tried'
    """
    if isinstance(operator, nn.Module):
        program = capture(operator, (args, kwargs))
        given = program.signature
        case = Case(program.module, given.args, pin_outputs=True, keywords=dict(given.kwargs))
        name = type(operator).__name__
    else:
        name = str(operator)
        if not hasattr(operator, "_schema"):
            raise VerifyError(
                f"{name}: an operator such as torch.ops.aten.linear.default is needed, or a module"
            )
        if rule_for(operator) is None:
            raise VerifyError(f"{name}: it has no rule; register one with rule(…) or @couples(…)")
        case = build(Sample(operator, args, kwargs))
    return _checked(name, case)


def _checked(name: str, case: Case) -> RuleCheck:
    coupling = case.coupling
    for node, failure in coupling.failed.items():
        raise VerifyError(f"{node}: the rule of {failure}")
    for node, operator in coupling.unruled.items():
        raise VerifyError(
            f"{node}: {operator} has no rule; register one with rule(…) or @couples(…)"
        )
    tried = 0
    for dropped in case.draws():
        try:
            tried += case.check(dropped)
        except VerifyError as error:
            raise VerifyError(f"{name}: {error}; the rule couples what it should not") from None
        except Exception as error:  # what was shrunk cannot run, or a rewrite fails
            raise VerifyError(
                f"{name}: it cannot be run or written after units were dropped: {error}; an axis "
                "that must stay is not pinned, or a number of the node is not rewritten"
            ) from error
    units = case.units
    exact = sum(unit not in case.approximate for unit in units) / len(units) if units else 1.0
    return RuleCheck(len(units), tried, exact)
