"""A program: one captured model on its way through the passes, and what they have found out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from torch import fx

from fxprune.errors import PassError
from fxprune.signature import Signature

F = TypeVar("F")
Part = Callable[[str, int, int], None]  # told of what is counted: its name, how many, of how many


def unheard(text: str, done: int, total: int) -> None:
    """Tell nobody how far something is."""


class Captured:
    """The graph is as capture wrote it: operators only, its tensors read by name."""


class Shrunk:
    """What the plan does not keep is removed from the graph."""


class Masked:
    """What the plan does not keep is zero in the graph."""


@dataclass(frozen=True)
class Gated:
    """Masked activations are multiplied by their masks, in the graph, and in the `whole` one."""

    whole: fx.GraphModule | None = None


class Restored:
    """Leaf modules stand in the graph again: the module is used like the original."""


class Imposed:
    """The module holds the masks of its weights."""


class Repaired:
    """What is left was refitted to the original, as far as there was something to go by."""


class Folded:
    """Weights that were computed from parameters are parameters."""


@dataclass(frozen=True)
class Verified:
    """Hold the relative difference of the result and the zeroed original, and what is allowed.

    `gradients` is that of their gradients, where these were compared.
    """

    difference: float
    allowed: float
    gradients: float | None = None


@dataclass(frozen=True)
class Program:
    """Carry a graph and what the passes found out about it: facts, looked up by their type.

    `program[Plan]` is the plan, and `program.with_(plan)` the program that has it; what passes
    require and ensure are such types. `module` reads its tensors by `get_attr` until `restore` puts
    leaf modules back. Until a pass has copied them the tensors are the caller's (`owned` is False),
    and nothing may write to them.
    """

    module: fx.GraphModule
    signature: Signature
    owned: bool = False
    facts: Mapping[type[Any], Any] = field(default_factory=lambda: {Captured: Captured()})
    say: Callable[[str], None] = lambda text: None  # shows the user what happens
    stage: Callable[[str], None] = lambda name: None  # told which pass begins; nothing: it ends
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)

    def __contains__(self, kind: type[Any]) -> bool:
        return kind in self.facts

    def __getitem__(self, kind: type[F]) -> F:
        """Return the fact of a type; raises PassError where no pass has found it out."""
        found = self.get(kind)
        if found is None:
            raise PassError(f"program: it is not {state(kind)} yet")
        return found

    def get(self, kind: type[F]) -> F | None:
        """Return the fact of a type, or None where no pass has found it out."""
        return self.facts.get(kind)

    def with_(self, *facts: object) -> Program:
        """Return the program with more facts, each in place of an earlier one of its type."""
        return replace(self, facts={**self.facts, **{type(fact): fact for fact in facts}})

    def without(self, *kinds: type[Any]) -> Program:
        """Return the program without the facts of some types, which hold no more."""
        left = {kind: fact for kind, fact in self.facts.items() if kind not in kinds}
        return replace(self, facts=left)

    def on(self, module: fx.GraphModule, *, owned: bool = True) -> Program:
        """Return the program with a module that was made from this one."""
        return replace(self, module=module, owned=owned)

    def noted(self, *notes: str) -> Program:
        """Return the program with more notes for the report."""
        return replace(self, notes=(*self.notes, *(n for n in notes if n not in self.notes)))


def state(kind: type[Any]) -> str:
    """Return the word for a program that has a fact of a type: its `state`, else its own name.

    >>> state(Shrunk)
    'shrunk'
    """
    return str(getattr(kind, "state", kind.__name__.lower()))
