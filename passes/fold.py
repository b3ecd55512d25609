"""fold: make computed weights plain parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.folding import folded
from fxprune.pipeline import register
from fxprune.program import Program


@register("fold")
@dataclass(frozen=True)
class Fold:
    """Fold weights and biases that are computed from parameters, such as masked ones."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("captured",)
    ensures: ClassVar[tuple[str, ...]] = ("folded",)

    def __call__(self, program: Program) -> Program:
        """Return the program with a module that computes them no more; the values are shared."""
        module, names = folded(program.module)
        if not names:
            return program
        some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        facts = program.facts - {"coupled"}
        return program.with_(module=module, facts=facts).noted(
            f"{len(names)} weights that were computed from parameters are plain parameters now "
            f"({some}), as they are in evaluation mode"
        )
