"""couple: find out which slices of which tensors belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.pipeline import Facts, register
from fxprune.program import Captured, Program
from fxprune.targets import Discovery, Original, Selection, couple


@register("couple")
@dataclass(frozen=True)
class Couple:
    """Couple the guards of every tensor and discover the targets."""

    name: ClassVar[str]
    requires: ClassVar[Facts] = (Captured,)
    ensures: ClassVar[Facts] = (Discovery, Selection, Original)

    def __call__(self, program: Program) -> Program:
        """Return the program with its discovery, all targets selected."""
        discovery = Discovery(program.module, couple(program.module))
        notes = [
            f"{node}: no rule for {operator}; what it touches is pinned. "
            "Say what it does in a rule of your own: fxprune.extend, docs/plugins.md"
            for node, operator in discovery.coupling.unruled.items()
        ]
        notes += [
            f"{node}: the rule of {failure}; what it touches stays and is not counted. "
            "Report it, or give a rule of your own: fxprune.extend, docs/plugins.md"
            for node, failure in discovery.coupling.failed.items()
        ]
        selection = Selection.whole(discovery.targets)
        original = Original(program.module, discovery.coupling)
        return program.with_(discovery, selection, original).noted(*notes)
