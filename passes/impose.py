"""impose: put the masks of the plan on the restored module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.pipeline import Facts, register
from fxprune.plan import Plan
from fxprune.program import Imposed, Program, Restored
from fxprune.surgery import Masks, attach


@register("impose")
@dataclass(frozen=True)
class Impose:
    """Keep the masked entries of tensors at zero, in every forward and under every optimizer."""

    name: ClassVar[str]
    requires: ClassVar[Facts] = (Restored,)
    ensures: ClassVar[Facts] = (Imposed,)

    def __call__(self, program: Program) -> Program:
        """Return the program, whose module carries the masks."""
        plan, masks = program.get(Plan), program.get(Masks) or Masks()
        own = dict(program.module.named_parameters(remove_duplicate=False))
        wanted = plan.masks.items() if plan is not None else ()
        if weights := {name: mask for name, mask in wanted if name in own}:
            attach(program.module, weights, masks.straight_through)
        return program.with_(Imposed())
