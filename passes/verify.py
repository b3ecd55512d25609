"""verify: compare the result with the original whose dropped units are zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fxprune.errors import VerifyError
from fxprune.pipeline import register
from fxprune.program import Program, tolerance
from fxprune.verification import difference


@register("verify")
@dataclass(frozen=True)
class Verify:
    """Run both on the example inputs; where every removal is exact the numbers must agree."""

    rtol: float = 1e-4

    name: ClassVar[str]
    requires: ClassVar[tuple[str, ...]] = ("shrunk",)
    ensures: ClassVar[tuple[str, ...]] = ("verified",)

    def __call__(self, program: Program) -> Program:
        """Return the program; raises VerifyError where shapes, or exact numbers, differ."""
        assert program.plan is not None
        assert program.original is not None
        cut = [target for target in program.plan.targets if target.kept < target.units]
        exact = all(target.exact for target in cut)
        error = difference(program.original, program.module, program.plan, program.signature)
        allowed = tolerance(program.original, self.rtol)
        if exact and not error <= allowed:
            raise VerifyError(
                f"verify: the shrunk model differs from the zeroed original by {error:.1e} "
                f"(relative; {allowed:g} is allowed). This is a bug in a rule: please report it"
            )
        return program
