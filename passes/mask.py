"""mask: zero what the plan does not keep, and keep every size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.allocators import Choice
from fxprune.pipeline import Facts, register
from fxprune.plan import Plan
from fxprune.program import Masked, Program
from fxprune.surgery import masked, zeroed_reads
from fxprune.targets import Discovery


@register("mask")
@dataclass(frozen=True)
class Mask:
    """Zero the parameters of the dropped units instead of removing them."""

    name: ClassVar[str]
    requires: ClassVar[Facts] = (Discovery, Plan)
    ensures: ClassVar[Facts] = (Masked,)

    def __call__(self, program: Program) -> Program:
        """Return the program with a module of its own whose dropped units are zero."""
        coupling, alive = program[Discovery].coupling, program[Choice].alive
        module, spared = zeroed_reads(program.module, coupling, alive)
        module = masked(module, program[Plan], spared)
        return program.on(module).without(Discovery).with_(Masked())
