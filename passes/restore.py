"""restore: put leaf modules back, so that the graph is used like the original model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.capture import Modes, put
from fxprune.pipeline import Facts, register
from fxprune.program import Captured, Program, Restored
from fxprune.surgery import owned, restore
from fxprune.targets import Discovery


@register("restore")
@dataclass(frozen=True)
class Restore:
    """Rebuild Conv2d, BatchNorm2d, Linear, … from the graph, under their old names."""

    name: ClassVar[str]
    requires: ClassVar[Facts] = (Captured,)
    ensures: ClassVar[Facts] = (Restored,)

    def __call__(self, program: Program) -> Program:
        """Return the program with a module to train, save and export, in the model's own mode."""
        module = program.module if program.owned else owned(program.module)
        modes = program.get(Modes) or Modes()
        slim = restore(module, training=program.signature.training)
        slim.modes_after = modes.after
        put(slim, modes.given)
        return program.on(slim).without(Captured, Discovery).with_(Restored())
