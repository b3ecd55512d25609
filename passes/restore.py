"""restore: put leaf modules back, so that the graph is used like the original model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.masking import owned
from fxprune.pipeline import register
from fxprune.program import Program
from fxprune.restoration import restore


@register("restore")
@dataclass(frozen=True)
class Restore:
    """Rebuild Conv2d, BatchNorm2d, Linear, … from the graph, under their old names."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("captured",)
    ensures: ClassVar[tuple[str, ...]] = ("restored",)

    def __call__(self, program: Program) -> Program:
        """Return the program with a module to train, save and export, in the model's own mode."""
        module = program.module if program.owned else owned(program.module)
        slim = restore(module, training=program.signature.training)
        facts = program.facts - {"captured", "coupled"}
        return program.with_(module=slim, owned=True, facts=facts)
