"""shrink: remove what the plan does not keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.pipeline import register
from fxprune.program import Program
from fxprune.shrinking import shrink


@register("shrink")
@dataclass(frozen=True)
class Shrink:
    """Cut tensors to the kept indices and rewrite the graph's constants, in a new module."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("coupled", "planned")
    ensures: ClassVar[tuple[str, ...]] = ("shrunk",)

    def __call__(self, program: Program) -> Program:
        """Return the program with a smaller module that owns its tensors."""
        assert program.discovery is not None
        assert program.plan is not None
        coupling, kept = program.discovery.coupling, program.plan.kept
        smaller = shrink(program.module, coupling, program.alive, kept)
        return program.with_(module=smaller, owned=True, facts=program.facts - {"coupled"})
