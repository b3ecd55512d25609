"""A pass for `fxprune run`: it may look at the program, or return another."""

from dataclasses import dataclass
from typing import ClassVar

from fxprune.extend import Program
from fxprune.targets import Discovery


@dataclass(frozen=True)
class Widest:
    """Note which target has the most units."""

    at_least: int = 1

    name: ClassVar[str]  # the one of the entry point
    requires: ClassVar[tuple[type, ...]] = (Discovery,)
    ensures: ClassVar[tuple[type, ...]] = ()

    def __call__(self, program: Program) -> Program:
        """Return the program with a note for the report."""
        targets = [one for one in program[Discovery].targets if len(one.units) >= self.at_least]
        widest = max(targets, key=lambda one: len(one.units), default=None)
        return program if widest is None else program.noted(f"{widest.name} is the widest target")
