"""shrink: remove what the plan does not keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.allocators import Choice
from fxprune.pipeline import Facts, register
from fxprune.plan import Plan
from fxprune.program import Program, Shrunk, Verified
from fxprune.surgery import shrink
from fxprune.targets import Discovery


@register("shrink")
@dataclass(frozen=True)
class Shrink:
    """Cut tensors to the kept indices and rewrite the graph's constants, in a new module."""

    name: ClassVar[str]
    requires: ClassVar[Facts] = (Discovery, Plan, Choice)
    ensures: ClassVar[Facts] = (Shrunk,)

    def __call__(self, program: Program) -> Program:
        """Return the program with a smaller module that owns its tensors."""
        coupling, kept = program[Discovery].coupling, program[Plan].kept
        smaller = shrink(program.module, coupling, program[Choice].alive, kept)
        return program.on(smaller).without(Discovery, Verified).with_(Shrunk())
