"""couple: find out which slices of which tensors belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.coupling import couple
from fxprune.pipeline import register
from fxprune.program import Program
from fxprune.targets import Discovery


@register("couple")
@dataclass(frozen=True)
class Couple:
    """Couple the guards of every tensor and discover the targets."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("captured",)
    ensures: ClassVar[tuple[str, ...]] = ("coupled",)

    def __call__(self, program: Program) -> Program:
        """Return the program with its discovery, all targets selected."""
        discovery = Discovery(program.module, couple(program.module))
        notes = [
            f"{node}: no rule for {operator}; what it touches stays. Add a rule in fxprune/rules/"
            for node, operator in discovery.coupling.unruled.items()
        ]
        program = program.with_(discovery=discovery, selected=discovery.targets)
        return program.with_(original=program.module).noted(*notes)
