"""gate: multiply masked activations by their masks, in the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.allocators import Choice
from fxprune.metrics.calibration import detached
from fxprune.pipeline import Facts, register
from fxprune.plan import Plan
from fxprune.program import Gated, Program, Shrunk
from fxprune.targets import BlockTarget, Original, Selection
from fxprune.targets.activation_sites import impose


@register("gate")
@dataclass(frozen=True)
class Gate:
    """Put the masks of activations into the graph, as buffers and multiplications."""

    name: ClassVar[str]
    requires: ClassVar[Facts] = (Plan, Shrunk, Original, Selection, Choice)
    ensures: ClassVar[Facts] = (Gated,)

    def __call__(self, program: Program) -> Program:
        """Return the program with the masks, and its original with the whole ones to compare."""
        selected = program[Selection].targets
        targets = [t for t in selected if isinstance(t, BlockTarget) and t.site]
        if not targets:
            return program.with_(Gated())
        whole, alive = detached(program[Original].module, gradients=False), program[Choice].alive
        impose(whole, targets, {target.tensor: target.mask(alive) for target in targets})
        impose(program.module, targets, program[Plan].masks)
        return program.with_(Gated(whole))
