"""Which axes of the inputs a caller wants to be free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.export import Dim
from torch.utils import _pytree as pytree

from fxprune.errors import InputError, unknown
from fxprune.signature import Call, Signature, by_name

if TYPE_CHECKING:
    from fxprune.capture.free_axes import Axes

Dynamic = Literal["auto", "batch"] | Mapping[str, Any] | tuple[Any, ...] | list[Any]
Place = tuple[int, int]  # leaf and axis


@dataclass(frozen=True)
class Wanted:
    """Hold which axes may be free: all, the leading ones, or some; `named` must be."""

    form: str = "auto"
    chosen: frozenset[Place] = frozenset()
    named: frozenset[Place] = frozenset()
    before: frozenset[Place] | None = None  # those of a module that was captured before
    learned: list[Axes | None] = field(default_factory=list)  # by attempts that were given up

    @property
    def known(self) -> Mapping[Place, tuple[str, str]]:
        """Return the axes that are known to be fixed: why, and at which line."""
        last = self.learned[-1] if self.learned else None
        return last.fixed if last is not None else {}

    @classmethod
    def of(
        cls, dynamic: Dynamic, model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Wanted:
        """Read what the caller says; raises InputError for what is not understood."""
        if isinstance(dynamic, str):
            if dynamic not in ("auto", "batch"):
                raise InputError(f"dynamic: {unknown('form', dynamic, ('auto', 'batch'))}")
            return cls(dynamic)
        leaves = pytree.tree_leaves((args, kwargs))
        places = {id(leaf): k for k, leaf in enumerate(leaves) if torch.is_tensor(leaf)}
        bound = by_name(model, args, kwargs)
        tree: Any = bound if isinstance(dynamic, Mapping) else list(bound.values())
        chosen, named = set[Place](), set[Place]()
        _collect(tree, dynamic, "dynamic", places, chosen, named)
        return cls("chosen", frozenset(chosen), frozenset(named))

    def within(self, known: Signature) -> Wanted:
        """Return which of these axes a module leaves free that was captured before."""
        free = [(k, d) for k, names in enumerate(known.axes) for d, n in enumerate(names) if n]
        return replace(self, before=frozenset(free))

    def places(self, call: Call) -> list[Place]:
        """Return the axes that may be free."""
        leaves = pytree.tree_leaves(call)
        tensors = [(k, leaf) for k, leaf in enumerate(leaves) if torch.is_tensor(leaf)]
        found = [(k, d) for k, leaf in tensors for d in range(leaf.ndim)]
        if self.before is not None:
            found = [place for place in found if place in self.before]
        if self.form == "batch":
            size = next((leaves[k].shape[0] for k, _ in found), 0)
            return [(k, d) for k, d in found if d == 0 and leaves[k].shape[0] == size]
        return [place for place in found if self.form == "auto" or place in self.chosen]

    def granted(self, signature: Signature) -> None:
        """Raise InputError where an axis that is asked for by name could not be left free."""
        said = {(one.leaf, one.axis): one for one in signature.fixed}
        for k, d in sorted(self.named):
            if k < len(signature.axes) and signature.axes[k][d] is None:
                why = said[k, d].why if (k, d) in said else "the model computes with its value"
                line = f", {said[k, d].line}" if (k, d) in said and said[k, d].line else ""
                raise InputError(
                    f"dynamic: axis {d} of {signature.labels[k]} cannot vary ({why}{line}); leave "
                    'it out, or take "auto"'
                )


def _collect(
    tree: Any,
    spec: Any,
    place: str,
    leaves: Mapping[int, int],
    chosen: set[Place],
    named: set[Place],
) -> None:
    """Walk over inputs and what is said of them together."""
    if spec is None:
        return
    if torch.is_tensor(tree):
        axes = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
        for d, mark in axes:
            if not isinstance(d, int) or not -tree.ndim <= d < tree.ndim:
                raise InputError(f"{place}: axis {d!r} of a tensor with {tree.ndim} axes")
            if mark is None or isinstance(mark, int) or mark is Dim.STATIC:
                continue
            chosen.add((leaves[id(tree)], d % tree.ndim))
            if mark is not Dim.AUTO:
                named.add((leaves[id(tree)], d % tree.ndim))
        return
    entries = dict(tree) if isinstance(tree, Mapping) else dict(enumerate(tree or ()))
    parts = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
    for key, one in parts:
        if key not in entries:
            listed = ", ".join(map(str, entries)) or "none"
            raise InputError(f"{place}: there is no input {key!r}; there are {listed}")
        _collect(entries[key], one, f"{place}[{key!r}]", leaves, chosen, named)
