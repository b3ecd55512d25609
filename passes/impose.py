"""impose: put the masks of the plan on the restored module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.masks import attach
from fxprune.pipeline import register
from fxprune.program import Program


@register("impose")
@dataclass(frozen=True)
class Impose:
    """Keep the masked entries of tensors at zero, in every forward and under every optimizer."""

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("restored",)
    ensures: ClassVar[tuple[str, ...]] = ("imposed",)

    def __call__(self, program: Program) -> Program:
        """Return the program, whose module carries the masks."""
        masks = program.plan.masks if program.plan is not None else {}
        own = dict(program.module.named_parameters(remove_duplicate=False))
        if weights := {name: mask for name, mask in masks.items() if name in own}:
            attach(program.module, weights, program.dense)
        return program
