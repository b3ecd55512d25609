"""mask: zero what the plan does not keep, and keep every size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.masking import masked
from fxprune.pipeline import register
from fxprune.program import Program


@register("mask")
@dataclass(frozen=True)
class Mask:
    """Zero the parameters of the dropped units instead of removing them."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("coupled", "planned")
    ensures: ClassVar[tuple[str, ...]] = ("masked",)

    def __call__(self, program: Program) -> Program:
        """Return the program with a module of its own whose dropped units are zero."""
        assert program.plan is not None
        module = masked(program.module, program.plan)
        return program.with_(module=module, owned=True, facts=program.facts - {"coupled"})
