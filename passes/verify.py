"""verify: compare the result with the original whose dropped units are zero."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import inf
from typing import ClassVar

from torch import fx

from fxprune.allocators import Choice
from fxprune.capture import Modes
from fxprune.errors import InputError, SpecError, VerifyError, first_line
from fxprune.graphs import tolerance
from fxprune.pipeline import Facts, register
from fxprune.plan import Plan
from fxprune.program import Gated, Program, Restored, Shrunk, Verified
from fxprune.surgery import difference, zeroed_reads
from fxprune.surgery.gradient_verification import Gradients, gradient_difference, worth_comparing
from fxprune.surgery.reference import Reference, culprit
from fxprune.targets import Original, Selection


@register("verify")
@dataclass(frozen=True)
class Verify:
    """Run both on the example inputs: where removing equals zeroing the numbers must agree.

    Approximate targets are cut alike in both, so that everything else is compared whatever they do.
    With `gradients`, so are gradients, in the modes the modules came in: where any of these is that
    of training, or something in the graph has a backward of its own, or stops gradients.
    """

    rtol: float = 1e-4
    gradients: bool = True

    name: ClassVar[str]
    requires: ClassVar[Facts] = (Plan, Shrunk, Original, Selection, Choice)
    ensures: ClassVar[Facts] = (Verified,)

    def __post_init__(self) -> None:
        if not 0.0 <= self.rtol < inf:
            raise SpecError(f"passes.verify.rtol: {self.rtol}: a number of 0 or more is needed")

    def __call__(self, program: Program) -> Program:
        """Return the program; raises VerifyError, which names the operator, where they differ."""
        original, alive = program[Original], program[Choice].alive
        selected = program[Selection].targets
        reference = Reference.of(original, selected, alive, program[Plan])
        allowed = tolerance(original.module, self.rtol)
        gated = program.get(Gated)
        whole = reference.module
        if whole is original.module and gated is not None and gated.whole is not None:
            whole = gated.whole
        whole, spared = zeroed_reads(whole, original.coupling, alive, reference.alive)
        plan, signature = reference.plan, program.signature
        try:
            error = difference(whole, program.module, plan, signature, spared)
        except InputError:
            raise
        except Exception as problem:  # a module of wrong sizes raises whatever its operators raise
            fact = first_line(problem).removeprefix("verify: ")
        else:
            if error <= allowed:
                marks = program[Modes].given if Modes in program and Restored in program else {}
                if not self.gradients or not worth_comparing(whole, marks):
                    return program.with_(Verified(error, allowed))
                found = _gradients(program, whole, plan, spared, marks, allowed)
                said = f"gradients were not compared: {found.note}"
                program = program.noted(*([said] if found.note else []))
                return program.with_(Verified(error, allowed, found.difference))
            fact = (
                f"the shrunk model differs from the zeroed original by {error:.1e} "
                f"(relative; {allowed:g} is allowed)"
            )
        where = culprit(reference, original, selected, alive, program.signature, allowed)
        raise VerifyError(f"verify: {fact}. {where}. This is a bug of fxprune: please report it")


def _gradients(
    program: Program,
    whole: fx.GraphModule,
    plan: Plan,
    spared: Collection[str],
    marks: Mapping[str, bool],
    allowed: float,
) -> Gradients:
    """Compare gradients; raises VerifyError, which names the tensor, where they differ."""
    found = gradient_difference(
        whole, program.module, plan, program.signature, spared, marks, allowed
    )
    if found.difference is not None and not found.difference <= allowed:
        raise VerifyError(
            f"verify: the gradients of the shrunk model differ from those of the zeroed original "
            f"by {found.difference:.1e} at {found.where} (relative; {allowed:g} is allowed). "
            "This is a bug of fxprune: please report it, and leave the comparison out of "
            "`fxprune run` with verify{gradients=false}"
        )
    return found
