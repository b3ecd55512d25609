"""fold: make computed weights plain parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.elimination import folded
from fxprune.pipeline import Facts, register
from fxprune.program import Captured, Folded, Program
from fxprune.targets import Discovery


@register("fold")
@dataclass(frozen=True)
class Fold:
    """Fold weights and biases that are computed from parameters, such as masked ones."""

    name: ClassVar[str]
    requires: ClassVar[Facts] = (Captured,)
    ensures: ClassVar[Facts] = (Folded,)

    def __call__(self, program: Program) -> Program:
        """Return the program with a module that computes them no more; the values are shared."""
        module, names = folded(program.module)
        if not names:
            return program.with_(Folded())
        some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        program = program.on(module, owned=program.owned).without(Discovery).with_(Folded())
        return program.noted(
            f"{len(names)} weights that were computed from parameters are plain parameters now "
            f"({some}), as they are in evaluation mode"
        )
