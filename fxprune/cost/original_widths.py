"""What a program was before anything was removed: schedules and bounds are stated in its terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from fxprune.cost.cost import Cost
from fxprune.guards import Mask
from fxprune.plan import TargetPlan
from fxprune.targets import BlockTarget, Discovery, Target
from fxprune.targets.blocks import blocks_left

Kept = Mapping[str, tuple[torch.Tensor, ...]]


@dataclass(frozen=True, eq=False)
class OriginalWidths:
    """Hold the original discovery, the targets selected of it, and its cost."""

    discovery: Discovery
    selected: tuple[Target, ...]
    cost: Cost

    def of(self, target: Target) -> Target:
        """Return the original of a target of the smaller model.

        It is found by footprint and kind, else by name; a target without an original is its own.
        """
        found = self._known.get(_place(target)) or self._known.get(target.name)
        return found if found is not None and len(found) >= len(target) else target

    @cached_property
    def _known(self) -> dict[object, Target]:
        known: dict[object, Target] = {}
        for target in (*self.discovery.targets, *self.selected):
            known.setdefault(_place(target), target)
            known.setdefault(target.name, target)
        return known

    def gone(self, selected: Sequence[Target]) -> int:
        """Return the units lost by selected targets that have a single unit left, and no choice.

        Such targets are no longer among those that the smaller model offers.
        """
        here = {id(self.of(target)) for target in selected}
        return sum(len(target) - 1 for target in self.selected if id(target) not in here)

    def alive(self, kept: Kept) -> Mask:
        """Return which variables some kept index of some parameter still needs, `[variables]`."""
        alive = np.zeros(self.discovery.coupling.guards.size, dtype=bool)
        for axis in self.discovery.axes:
            if axis.name in kept:
                alive[axis.guard[kept[axis.name][axis.dim].numpy()]] = True
        return alive

    def plans(self, kept: Kept, masks: Mapping[str, torch.Tensor]) -> tuple[TargetPlan, ...]:
        """Return what was kept of every selected target."""
        alive = self.alive(kept)

        def left(target: Target) -> int:
            if isinstance(target, BlockTarget):
                return blocks_left(target, masks[target.tensor])
            return int(alive[target.units].sum())

        return tuple(
            TargetPlan(t.name, t.kind, len(t), left(t), t.exact, t.why) for t in self.selected
        )


def _place(target: Target) -> object:
    return frozenset(target.footprint), target.kind


def after(earlier: Kept | None, later: Kept) -> Kept:
    """Return kept indices of the original: `later` are indices of what `earlier` kept."""
    if earlier is None:
        return later
    return {
        name: tuple(old[new] for old, new in zip(earlier[name], axes, strict=True))
        for name, axes in later.items()
        if name in earlier
    }
