"""gate: multiply masked activations by their masks, in the graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.blocks import BlockTarget
from fxprune.calibration import detached
from fxprune.pipeline import register
from fxprune.program import Program
from fxprune.sites import impose


@register("gate")
@dataclass(frozen=True)
class Gate:
    """Put the masks of activations into the graph, as buffers and multiplications."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("planned", "shrunk")
    ensures: ClassVar[tuple[str, ...]] = ("gated",)

    def __call__(self, program: Program) -> Program:
        """Return the program with the masks, and its original with the whole ones for comparison.

        Without masked activations it is the program itself.
        """
        targets = [t for t in program.selected if isinstance(t, BlockTarget) and t.site]
        if not targets:
            return program
        assert program.plan is not None
        assert program.original is not None
        whole = detached(program.original, gradients=False)
        impose(whole, targets, {target.tensor: target.mask(program.alive) for target in targets})
        impose(program.module, targets, program.plan.masks)
        return program.with_(original=whole)
